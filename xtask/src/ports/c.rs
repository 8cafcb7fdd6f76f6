//! What `smidgen export c` writes: compiled without a warning, small, and with the engine's bits on every machine.

mod macos;
mod prompts;
mod strict;

use super::story::{self, Desktop, PROMPT, Story};
use super::user::Model;
use super::weights::Weights;
use super::{Extent, command, folder, toolchain};
use crate::install;
use crate::step::{Counts, ONE, Report, Stop, output, program};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The strictest that C89 compilers can be.
const STRICT: &[&str] = &["-std=c89", "-pedantic", "-Wall", "-Wextra", "-Werror"];
const COMPILERS: &[&str] = &["gcc", "clang"];
/// Debian's cross compilers find no `bits/` of a C library that is not there, and need none.
const NO_LIBRARY: &str = "-D_LIBC_LIMITS_H_";

const MODEL: &str = "models/tales.gguf";
const CONTEXT_TOKENS: usize = 64;
const N_NEW: usize = 40;
/// A machine that clang compiles for and QEMU's user mode, or this machine itself, runs.
struct Machine {
    target: &'static str,
    flags: &'static [&'static str],
    emulator: &'static [&'static str],
    /// Whether every change has to pass it.
    sample: bool,
}

#[rustfmt::skip]
const MACHINES: &[Machine] = &[
    // The first Pentium, whose x87 keeps more bits than a float has; the kernel under us runs it.
    Machine { target: "i586-linux-gnu", flags: &["-march=pentium", "-mno-sse"], emulator: &["qemu-i386", "-cpu", "pentium"], sample: true },
    Machine { target: "powerpc-linux-gnu", flags: &["-mcpu=750"], emulator: &["qemu-ppc", "-cpu", "750"], sample: true },
    Machine { target: "i686-linux-gnu", flags: &["-msse2", "-mfpmath=sse"], emulator: &["qemu-i386"], sample: false },
    Machine { target: "armv6-linux-gnueabihf", flags: &["-mcpu=arm1176jzf-s", "-marm"], emulator: &["qemu-arm", "-cpu", "arm1176"], sample: false },
    Machine { target: "aarch64-linux-gnu", flags: &[], emulator: &["qemu-aarch64"], sample: false },
    Machine { target: "mips-linux-gnu", flags: &["-mips32", "-mno-abicalls", "-G0"], emulator: &["qemu-mips"], sample: false },
    Machine { target: "s390x-linux-gnu", flags: &[], emulator: &["qemu-s390x"], sample: false },
    Machine { target: "riscv64-linux-gnu", flags: &["-march=rv64gc", "-mabi=lp64d", "-mno-relax"], emulator: &["qemu-riscv64"], sample: false },
];

/// Exports, compiles, runs and compares; `models` are those of `ports/user` with what it prints. Gives a row of the record for
/// each board.
pub(super) fn all(report: &mut Report, desktop: &Desktop, models: &[Model], extent: Extent) -> Vec<Value> {
    let mut rows = Vec::new();
    let model = crate::root().join(MODEL);
    let story = Story { model: &model, context_tokens: CONTEXT_TOKENS, n_new: N_NEW, cache: "f32" };
    let mut expected = String::new();
    let exported = report.step("ports: C89, export", |_| {
        expected = desktop.tell(&story)?;
        let (context, n_new) = (CONTEXT_TOKENS.to_string(), N_NEW.to_string());
        export(&model, &tales()?, &["-c", &context, "-n", &n_new, "-p", PROMPT])
    });
    if !exported {
        return rows;
    }
    for compiler in COMPILERS {
        report.step(&format!("ports: C89, {compiler}"), |_| strict::native(compiler, &expected));
    }
    report.step("ports: C89, families and types", |_| strict::families(models, extent));
    prompts::all(report, extent);
    if extent == Extent::All {
        report.step("ports: C89, Xtensa, compiled", |_| strict::xtensa());
    }
    for machine in MACHINES.iter().filter(|machine| machine.sample || extent == Extent::All) {
        report.step(&format!("ports: C89, {}", machine.target), |_| cross(machine, &expected));
    }
    report.step("ports: C89, Quadra 800", |_| quadra(&expected));
    report.step("ports: C89, micro:bit", |_| {
        let (counts, row) = microbit(desktop)?;
        rows.push(row);
        Ok(counts)
    });
    if extent == Extent::All {
        report.step("ports: C, ATmega1284P", |_| {
            let (counts, row) = avr(desktop)?;
            rows.push(row);
            Ok(counts)
        });
    }
    macos::all(report, &expected, extent);
    rows
}

/// Where the exported model lies.
fn tales() -> Result<PathBuf, String> {
    Ok(folder()?.join("c-tales"))
}

fn export(model: &Path, to: &Path, more: &[&str]) -> Result<Counts, Stop> {
    let (from, to) = (model.to_string_lossy(), to.to_string_lossy());
    output(program(&command(), &["export", "c", &from, "-o", &to]).args(more))?;
    Ok(ONE)
}

fn compiler(name: &str, arguments: &[&str]) -> Result<Command, Stop> {
    match install::is_on_path(name) {
        true => Ok(program(name, arguments)),
        false => Err(Stop::Skipped(format!("there is no {name}"))),
    }
}

/// Compiles for another machine without a C library, and runs it there.
fn cross(machine: &Machine, expected: &str) -> Result<Counts, Stop> {
    if !install::is_on_path(machine.emulator[0]) {
        return Err(Stop::Skipped(format!("there is no {}", machine.emulator[0])));
    }
    let folder = tales()?;
    let target = format!("--target={}", machine.target);
    let sources = crate::root().join("ports/c");
    let flags = ["-std=c89", "-Wall", "-Werror", "-O2", "-ffreestanding", "-fno-pic", "-fno-stack-protector", "-I."];
    let linux = sources.join("linux.c");
    for (source, object) in [(&linux, "linux.o"), (&sources.join("data.S"), "data.o")] {
        let mut build = compiler("clang", &[&target])?;
        if source == &linux {
            build.args(flags);
        }
        output(build.args(machine.flags).arg("-c").arg(source).args(["-o", object]).current_dir(&folder))?;
    }
    let program_path = folder.join(format!("story-{}", machine.target));
    let mut link = program(&toolchain::linker()?.to_string_lossy(), &["-flavor", "gnu", "-static", "-e", "_start"]);
    output(link.args(["linux.o", "data.o", "-o"]).arg(&program_path).current_dir(&folder))?;
    let printed = output(program(machine.emulator[0], &machine.emulator[1..]).arg(&program_path))?;
    story::compare(machine.target, &printed, expected)
}

/// The emulated Macintosh Quadra 800 with 8 MB, without an operating system.
fn quadra(expected: &str) -> Result<Counts, Stop> {
    const EMULATOR: &str = "qemu-system-m68k";
    if !install::is_on_path(EMULATOR) {
        return Err(Stop::Skipped(format!("there is no {EMULATOR}")));
    }
    let folder = tales()?;
    let sources = crate::root().join("ports/q800");
    let mut build = compiler("m68k-linux-gnu-gcc", &["-std=c89", "-pedantic", "-Wall", "-Werror", "-Os", "-m68040"])?;
    build.args([NO_LIBRARY, "-ffreestanding", "-fno-pic", "-fno-stack-protector", "-nostdlib", "-static", "-I."]);
    build.args(["-Wl,--build-id=none", "-T"]).arg(sources.join("link.ld"));
    build.arg(sources.join("start.S")).arg(sources.join("main.c")).args(["-lgcc", "-o", "q800.elf"]);
    output(build.current_dir(&folder))?;
    let words = [
        "60",
        EMULATOR,
        "-M",
        "q800",
        "-m",
        "8",
        "-net",
        "none",
        "-nographic",
        "-monitor",
        "none",
        "-serial",
        "stdio",
        "-kernel",
    ];
    let printed = output(program("timeout", &words).arg(folder.join("q800.elf")))?;
    story::compare("Quadra 800", &printed, expected)
}

/// The emulated micro:bit, whose 16 KB of RAM are enough when no table of the engine lies in them.
fn microbit(desktop: &Desktop) -> Result<(Counts, Value), Stop> {
    const EMULATOR: &str = "qemu-system-arm";
    const TARGET: &str = "thumbv6m-none-eabi";
    if !install::is_on_path(EMULATOR) {
        return Err(Stop::Skipped(format!("there is no {EMULATOR}")));
    }
    let model = Weights::Stories260K("q6_w").model()?;
    let story = Story { model: &model, context_tokens: 40, n_new: 30, cache: "q4_0" };
    let expected = desktop.tell(&story)?;
    let folder = folder()?.join("c-microbit");
    export(&model, &folder, &["-c", "40", "-n", "30", "-p", PROMPT, "--ctk", "q4_0", "--ctv", "q4_0"])?;
    let sources = crate::root().join("ports");
    let target = format!("--target={TARGET}");
    let flags = [
        "-std=c89",
        "-Wall",
        "-Werror",
        "-Os",
        "-ffreestanding",
        "-ffunction-sections",
        "-fdata-sections",
        "-I.",
        "-c",
    ];
    let mut build = compiler("clang", &[&target])?;
    output(build.args(flags).arg(sources.join("microbit/main.c")).args(["-o", "main.o"]).current_dir(&folder))?;
    let mut assemble = compiler("clang", &[&target, "-c"])?;
    output(assemble.arg(sources.join("c/data.S")).args(["-o", "data.o"]).current_dir(&folder))?;
    let mut link = program(&toolchain::linker()?.to_string_lossy(), &["-flavor", "gnu", "--gc-sections", "-T"]);
    link.arg(sources.join("microbit/link.ld")).args(["main.o", "data.o"]).arg(toolchain::soft_floats(TARGET)?);
    output(link.args(["-o", "story.elf"]).current_dir(&folder))?;
    let words = [
        "-M",
        "microbit",
        "-nographic",
        "-semihosting-config",
        "enable=on,target=native",
        "-icount",
        "shift=0,sleep=off",
        "-kernel",
    ];
    let printed = output(program(EMULATOR, &words).arg(folder.join("story.elf")))?;
    let counts = story::compare("micro:bit", &printed, &expected)?;
    let mut row = story::row("microbit", &story, &printed);
    row["flash_bytes"] = json!(strict::Sizes::of(&folder.join("story.elf"))?.text);
    Ok((counts, row))
}

/// The emulated ATmega1284P: a processor of 8 bits with 16 KB of RAM, whose data stays in 128 KB of flash.
fn avr(desktop: &Desktop) -> Result<(Counts, Value), Stop> {
    const CHIP: &str = "atmega1284p";
    if !install::is_on_path("simavr") {
        return Err(Stop::Skipped("there is no simavr".into()));
    }
    let model = Weights::Stories260K("q3_w").model()?;
    let story = Story { model: &model, context_tokens: 16, n_new: 8, cache: "q4_0" };
    let expected = desktop.tell(&story)?;
    let folder = folder()?.join("c-avr");
    export(&model, &folder, &["-c", "16", "-n", "8", "-p", PROMPT, "--ctk", "q4_0", "--ctv", "q4_0"])?;
    let sources = crate::root().join("ports/avr");
    let flags = ["-std=gnu99", "-ffp-contract=off", "-Os", "-fno-ivopts", "-Wall", "-Wno-unused-function", "-I."];
    let mut build = compiler("avr-gcc", &flags)?;
    build.arg(format!("-mmcu={CHIP}")).arg(sources.join("main.c")).arg(sources.join("data.S"));
    output(build.args(["-o", "story.elf"]).current_dir(&folder))?;
    // It shows what comes over the serial line where it complains.
    let line = format!("exec timeout 300 simavr -v -v -m {CHIP} -f 16000000 story.elf 2>&1");
    let printed = received(&output(program("sh", &["-c", &line]).current_dir(&folder))?);
    let counts = story::compare(CHIP, &printed, &expected)?;
    let mut row = story::row(CHIP, &story, &printed);
    // The values of statics lie in flash too, from where they are copied.
    output(compiler("avr-objcopy", &["-O", "binary", "story.elf", "story.bin"])?.current_dir(&folder))?;
    let image = folder.join("story.bin");
    row["flash_bytes"] =
        json!(std::fs::metadata(&image).map_err(|error| format!("{}: {error}", image.display()))?.len());
    Ok((counts, row))
}

/// What came over the serial line: simavr shows each line in a colour, and a dot for what ends it.
fn received(printed: &str) -> String {
    let lines = printed.lines().filter_map(|line| line.split_once("\u{1b}[32m"));
    let text = lines.map(|(_, line)| line.split('\u{1b}').next().unwrap_or_default());
    text.map(|line| line.strip_suffix('.').unwrap_or(line).to_string() + "\n").collect()
}
