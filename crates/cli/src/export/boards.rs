//! Boards and processors that firmware is written for.

/// Which of the two templates a target takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// `ports/cortex-m`.
    CortexM,
    /// `ports/riscv`.
    RiscV,
}

/// What a boot ROM wants of a program beside its vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Boot {
    /// Nothing.
    Vectors,
    /// A second stage in the 256 bytes before what is given as flash.
    SecondStage,
    /// An image definition behind the vectors.
    ImageDefinition,
}

impl Boot {
    /// The feature of `ports/cortex-m` that brings it.
    pub(super) fn feature(self) -> Option<&'static str> {
        match self {
            Boot::Vectors => None,
            Boot::SecondStage => Some("rp2040"),
            Boot::ImageDefinition => Some("rp2350"),
        }
    }

    /// What stands in `memory.x` for it, behind the regions.
    pub(super) fn sections(self) -> &'static str {
        match self {
            Boot::Vectors => "",
            Boot::SecondStage => {
                "\nMEMORY { BOOT2 : ORIGIN = 0x10000000, LENGTH = 256 }\n\
                 SECTIONS { .boot2 ORIGIN(BOOT2) : { KEEP(*(.boot2)); } > BOOT2 } INSERT BEFORE .text;\n"
            }
            Boot::ImageDefinition => {
                "\nSECTIONS { .start_block : ALIGN(4) { KEEP(*(.start_block)); } > FLASH } INSERT AFTER .vector_table;\n\
                 _stext = ADDR(.start_block) + SIZEOF(.start_block);\n"
            }
        }
    }
}

/// Something that a model can run on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Board {
    /// What `--board` calls it.
    pub name: &'static str,
    /// What it is.
    pub about: &'static str,
    /// The Rust target.
    pub target: &'static str,
    /// Where flash begins, and its bytes.
    pub flash: (u64, u64),
    /// Where RAM begins, and its bytes.
    pub ram: (u64, u64),
    /// Ticks of the clock that tokens are timed with, in a second.
    pub clock_hz: u64,
    /// How QEMU is told to be it; empty for one that it cannot be.
    pub emulator: &'static str,
    /// What it starts from.
    pub boot: Boot,
}

const K: u64 = 1 << 10;
const M: u64 = 1 << 20;
const M0: &str = "thumbv6m-none-eabi";
const M3: &str = "thumbv7m-none-eabi";
const M4F: &str = "thumbv7em-none-eabihf";
const M33: &str = "thumbv8m.main-none-eabihf";
const IMC: &str = "riscv32imc-unknown-none-elf";
const IMAC: &str = "riscv32imac-unknown-none-elf";

/// Every board. The last rows, without an emulator, are written by what their makers' documents say and not run on hardware.
#[rustfmt::skip]
pub(super) const BOARDS: &[Board] = &[
    Board { name: "microbit", about: "BBC micro:bit, nRF51822, Cortex-M0", target: M0, flash: (0, 256 * K), ram: (0x2000_0000, 16 * K),
        clock_hz: 16_000_000, emulator: "qemu-system-arm -M microbit", boot: Boot::Vectors },
    Board { name: "lm3s6965", about: "Stellaris LM3S6965, Cortex-M3", target: M3, flash: (0, 256 * K), ram: (0x2000_0000, 64 * K),
        clock_hz: 12_500_000, emulator: "qemu-system-arm -M lm3s6965evb", boot: Boot::Vectors },
    Board { name: "stm32f405", about: "STM32F405, Cortex-M4F", target: M4F, flash: (0x0800_0000, M), ram: (0x2000_0000, 128 * K),
        clock_hz: 168_000_000, emulator: "qemu-system-arm -M netduinoplus2", boot: Boot::Vectors },
    Board { name: "an385", about: "Arm MPS2 with Cortex-M3 (AN385)", target: M3, flash: (0, 4 * M), ram: (0x2000_0000, 4 * M),
        clock_hz: 25_000_000, emulator: "qemu-system-arm -M mps2-an385", boot: Boot::Vectors },
    Board { name: "an386", about: "Arm MPS2 with Cortex-M4F (AN386)", target: M4F, flash: (0, 4 * M), ram: (0x2000_0000, 4 * M),
        clock_hz: 25_000_000, emulator: "qemu-system-arm -M mps2-an386", boot: Boot::Vectors },
    Board { name: "an500", about: "Arm MPS2 with Cortex-M7 (AN500)", target: M4F, flash: (0, 4 * M), ram: (0x2000_0000, 4 * M),
        clock_hz: 25_000_000, emulator: "qemu-system-arm -M mps2-an500", boot: Boot::Vectors },
    Board { name: "an505", about: "Arm MPS2 with Cortex-M33 (AN505)", target: M33, flash: (0x1000_0000, 4 * M), ram: (0x3800_0000, 4 * M),
        clock_hz: 20_000_000, emulator: "qemu-system-arm -M mps2-an505", boot: Boot::Vectors },
    Board { name: "virt-imc", about: "QEMU's RISC-V machine as an RV32IMC, like the ESP32-C3", target: IMC, flash: (0x8000_0000, 4 * M),
        ram: (0x8040_0000, 2 * M), clock_hz: 10_000_000, emulator: "qemu-system-riscv32 -M virt -cpu rv32,a=false,f=false,d=false", boot: Boot::Vectors },
    Board { name: "virt-imac", about: "QEMU's RISC-V machine as an RV32IMAC, like the ESP32-C6", target: IMAC, flash: (0x8000_0000, 4 * M),
        ram: (0x8040_0000, 2 * M), clock_hz: 10_000_000, emulator: "qemu-system-riscv32 -M virt -cpu rv32,f=false,d=false", boot: Boot::Vectors },
    Board { name: "rp2350", about: "Raspberry Pi RP2350, Cortex-M33", target: M33, flash: (0x1000_0000, 4 * M), ram: (0x2000_0000, 512 * K),
        clock_hz: 11_000_000, emulator: "", boot: Boot::ImageDefinition },
    Board { name: "rp2040", about: "Raspberry Pi RP2040, Cortex-M0+", target: M0, flash: (0x1000_0100, 2 * M - 256), ram: (0x2000_0000, 264 * K),
        clock_hz: 6_500_000, emulator: "", boot: Boot::SecondStage },
];

/// The Rust targets by the first part of their name, as `--target` also takes it, and the template of each.
pub(super) const TARGETS: &[(&str, &str, Family)] = &[
    ("thumbv6m", M0, Family::CortexM),
    ("thumbv7m", M3, Family::CortexM),
    ("thumbv7em", M4F, Family::CortexM),
    ("thumbv8m", M33, Family::CortexM),
    ("riscv32imc", IMC, Family::RiscV),
    ("riscv32imac", IMAC, Family::RiscV),
];
