//! A model that tells a story on a Power Macintosh G3 or an iMac, without an operating system.
//!
//! Open Firmware starts the program and says where things are; the model is an unchanged little-endian GGUF file, beside the
//! program in memory or read from a disc; text goes to the serial port, whose registers this program writes itself. What
//! is wanted stands in the boot arguments ([`arguments`]), or the prompt is typed at the other end of the serial line.
#![no_std]
#![no_main]

mod arguments;
mod firmware;
mod serial;

use arguments::{Arguments, ModelAt};
use core::fmt::Write;
use core::ptr::addr_of_mut;
use firmware::Firmware;
use serial::Serial;
use smidgen_teller::{Board, Layer, Limits, Lines, Request, perform};

/// Bytes that the engine and the tokenizer may work in: beside it 32 MB hold the firmware, the program, and a model of
/// [`MODEL_BYTES`].
const MEMORY_BYTES: usize = 10 << 20;
/// The most layers that this program has room for.
const N_LAYERS: usize = 64;
/// The longest prompt.
const PROMPT_BYTES: usize = 1024;
/// Where a model is read to from a disc, and how long it may be: up to where the program begins.
const MODEL_ADDRESS: usize = 0x0010_0000;
const MODEL_BYTES: usize = 0x0100_0000 - MODEL_ADDRESS;

static mut MEMORY: [u8; MEMORY_BYTES] = [0; MEMORY_BYTES];
static mut LAYERS: [Layer<'static>; N_LAYERS] = [Layer::EMPTY; N_LAYERS];
static mut PROMPT: [u8; PROMPT_BYTES] = [0; PROMPT_BYTES];
static mut ARGUMENTS: [u8; 512] = [0; 512];

core::arch::global_asm!(
    ".section .text.start, \"ax\"",
    ".globl _start, smidgen_firmware_call",
    // Floats on, a stack of our own, zeros where zeros are meant to be; r3 to r5 hold what the firmware says.
    "_start: mfmsr 0",
    "ori 0, 0, 0x2000",
    "mtmsr 0",
    "isync",
    "lis 1, stack_top@ha",
    "addi 1, 1, stack_top@l",
    "li 0, 0",
    "stwu 0, -32(1)",
    "lis 9, bss_start@ha",
    "addi 9, 9, bss_start@l",
    "lis 10, bss_end@ha",
    "addi 10, 10, bss_end@l",
    "1: cmplw 9, 10",
    "bge 2f",
    "stw 0, 0(9)",
    "addi 9, 9, 4",
    "b 1b",
    "2: bl smidgen_start",
    "3: b 3b",
    // r3 the arguments, r4 the firmware's entry.
    "smidgen_firmware_call: mflr 0",
    "stw 0, 4(1)",
    "stwu 1, -32(1)",
    "mtctr 4",
    "bctrl",
    "addi 1, 1, 32",
    "lwz 0, 4(1)",
    "mtlr 0",
    "blr",
    ".section .stack, \"aw\", @nobits",
    ".balign 16",
    ".space 65536",
    ".globl stack_top",
    "stack_top: .space 64",
    ".text",
);

/// The serial port, and the processor's time base.
struct PowerMac {
    serial: Serial,
    ticks_per_second: u64,
}

impl Board for PowerMac {
    fn write(&mut self, text: &[u8]) {
        for &byte in text {
            if byte == b'\n' {
                self.serial.put(b'\r');
            }
            self.serial.put(byte);
        }
    }

    fn nanoseconds(&mut self) -> u64 {
        let ticks = ticks();
        let seconds = ticks / self.ticks_per_second;
        seconds * 1_000_000_000 + ticks % self.ticks_per_second * 1_000_000_000 / self.ticks_per_second
    }
}

/// The time base: it counts a quarter of the bus clock.
fn ticks() -> u64 {
    loop {
        let (high, low, again): (u32, u32, u32);
        // SAFETY: reading the time base changes nothing; the upper word is read twice, lest the lower one carry between.
        unsafe { core::arch::asm!("mftbu {0}", "mftb {1}", "mftbu {2}", out(reg) high, out(reg) low, out(reg) again) };
        if high == again {
            return u64::from(high) << 32 | u64::from(low);
        }
    }
}

#[unsafe(no_mangle)]
extern "C" fn smidgen_start(_r3: usize, _r4: usize, entry: u32) -> ! {
    // SAFETY: `_start` passes on what the firmware put into r5: where it is called.
    let firmware = unsafe { Firmware::new(entry) };
    if let Err(reason) = tell(&firmware) {
        firmware.say("[smidgen] ");
        firmware.say(reason);
        firmware.say("\r\n");
    }
    firmware.restart()
}

fn tell(firmware: &Firmware) -> Result<(), &'static str> {
    let port = firmware.serial_port().ok_or("no serial port: Open Firmware knows no mac-io")?;
    // SAFETY: that is where the firmware says the port's registers are.
    let serial = unsafe { Serial::new(port) };
    let ticks_per_second = firmware.ticks_per_second().ok_or("the processor has no timebase-frequency")?;
    let mut board = PowerMac { serial, ticks_per_second: ticks_per_second.into() };
    // SAFETY: this function runs once, on the only processor, so this is borrowed once.
    let arguments = Arguments::read(firmware.arguments(unsafe { &mut *addr_of_mut!(ARGUMENTS) }))?;
    let model = match arguments.model {
        ModelAt::Memory { address, n_bytes } if n_bytes > 0 && address.checked_add(n_bytes).is_some() => {
            // SAFETY: whoever started us put the model there, below the program, where nothing else writes.
            unsafe { core::slice::from_raw_parts(address as *const u8, n_bytes) }
        }
        ModelAt::Memory { .. } => return Err("model=@ADDRESS,LENGTH: no such memory"),
        ModelAt::Disc(path) => firmware.load(path, MODEL_ADDRESS, MODEL_BYTES)?,
    };
    // SAFETY: as above, each of the three.
    let (layers, memory, typed) =
        unsafe { (&mut *addr_of_mut!(LAYERS), &mut *addr_of_mut!(MEMORY), &mut *addr_of_mut!(PROMPT)) };
    let prompt = match arguments.prompt {
        Some(prompt) => prompt,
        None => {
            board.write(b"[smidgen] prompt> ");
            board.serial.line(typed).ok_or("the prompt is longer than 1024 bytes, or not UTF-8")?
        }
    };
    let limits = Limits {
        context_tokens: arguments.context_tokens,
        batch_tokens: 1,
        n_threads: 1,
        cache_k: arguments.cache,
        cache_v: arguments.cache,
        keeps_all: false,
    };
    let request = Request { model, prompt, limits, n_new: arguments.n_new };
    let n_bytes = model.len();
    writeln!(Lines(&mut board), "[smidgen] a model of {n_bytes} bytes").map_err(|_| "the serial port is gone")?;
    perform(&request, &mut board, layers, memory);
    Ok(())
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    if let Some(mut board) = serial::last_resort() {
        // Nobody is left to be told when this fails.
        let _ = writeln!(board, "[smidgen] {info}");
    }
    loop {
        core::hint::spin_loop();
    }
}
