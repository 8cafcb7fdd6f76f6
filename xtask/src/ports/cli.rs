//! The command itself on foreign machines: one static file for each, without a library beside it, and a program for Windows.
//!
//! Each runs every small checkpoint in every weight type and tells a story in two threads; what it prints and every bit of the
//! logits of the prompt must be what the command prints here.

use super::story::PROMPT;
use super::user::Model;
use super::{Rows, command, folder, toolchain};
use crate::install;
use crate::step::{self, Beside, Counts, ONE, Report, Stop, output, program};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Who brings the C library, the linker, and a C compiler for what `ring` has in C.
#[derive(Clone, Copy)]
enum Linker {
    /// musl, compiled by zig for the very processor.
    Zig,
    /// glibc and the cross compiler of this name, both Debian's: zig has no musl under the name that Rust calls for.
    Gcc(&'static str),
}

/// A machine: its target, and what runs its programs here.
struct Machine {
    target: &'static str,
    /// What the compiler may assume of its CPU, that the linker has its own files for the beginning of a program, and that the
    /// program is static where that is not what a target does anyway.
    flags: &'static str,
    linker: Linker,
    emulators: &'static [&'static [&'static str]],
    /// Bytes that the file may have. One that has a limit is made small in all but the engine, also when it is linked: an ARMv6 has no
    /// vectors to lose by that, and nobody unwinds its stack.
    max_bytes: Option<u64>,
}

/// What makes a file smaller that has a limit.
const SMALL: [&str; 6] = [
    "--config",
    "profile.release.package.smidgen-compress.opt-level=\"z\"",
    "--config",
    "profile.release.package.smidgen-host.opt-level=\"z\"",
    "--config",
    "profile.release.package.smidgen.opt-level=\"z\"",
];

#[rustfmt::skip]
const MACHINES: &[Machine] = &[
    // The Raspberry Pi Zero.
    Machine { target: "arm-unknown-linux-musleabihf",
        flags: "-Ctarget-cpu=arm1176jzf-s -Clink-self-contained=no -Cforce-unwind-tables=no",
        linker: Linker::Zig, max_bytes: Some(6 << 20),
        emulators: &[&["qemu-arm", "-cpu", "arm1176"]] },
    Machine { target: "armv7-unknown-linux-musleabihf", flags: "-Ctarget-cpu=cortex-a7 -Clink-self-contained=no",
        linker: Linker::Zig, max_bytes: None,
        emulators: &[&["qemu-arm", "-cpu", "cortex-a7"]] },
    Machine { target: "aarch64-unknown-linux-musl", flags: "-Ctarget-cpu=generic -Clink-self-contained=no",
        linker: Linker::Zig, max_bytes: None,
        emulators: &[&["qemu-aarch64", "-cpu", "cortex-a53"], &["qemu-aarch64", "-cpu", "max"]] },
    // From the Pentium 4 on: Rust's i686 has SSE2.
    Machine { target: "i686-unknown-linux-musl", flags: "-Ctarget-cpu=pentium4 -Clink-self-contained=no",
        linker: Linker::Zig, max_bytes: None,
        emulators: &[&["qemu-i386", "-cpu", "n270"]] },
    Machine { target: "riscv64gc-unknown-linux-musl", flags: "-Clink-self-contained=no -Ctarget-feature=+crt-static",
        linker: Linker::Zig, max_bytes: None,
        emulators: &[&["qemu-riscv64"]] },
    // The Power Macintosh G3 and its kin under Linux.
    Machine { target: "powerpc-unknown-linux-gnu", flags: "-Ctarget-cpu=750 -Ctarget-feature=+crt-static",
        linker: Linker::Gcc("powerpc-linux-gnu-gcc"), max_bytes: None,
        emulators: &[&["qemu-ppc", "-cpu", "750"]] },
    Machine { target: "s390x-unknown-linux-gnu", flags: "-Ctarget-cpu=z10 -Ctarget-feature=+crt-static",
        linker: Linker::Gcc("s390x-linux-gnu-gcc"), max_bytes: None,
        emulators: &[&["qemu-s390x"]] },
];

const WINDOWS: &str = "x86_64-pc-windows-gnu";
const MODEL: &str = "models/tales.gguf";
/// The prompt by ids, each below the size of every vocabulary, and what is added to it.
const IDS: &str = "1 2 3 5 8 13 21 34 55";
const N_NEW: &str = "16";

/// What the command is asked for, and what it answered here.
struct Question {
    name: String,
    words: Vec<String>,
    text: String,
    logits: Vec<u8>,
}

/// Builds, runs and compares; `models` are those of `ports/user`. Gives a row of the record for each file.
pub(super) fn all(report: &mut Report, models: &[Model]) -> Vec<Value> {
    let mut questions = Vec::new();
    let asked = report.step("ports: what the command says here", |_| {
        let native = [command()];
        for (name, words) in words(models) {
            let (text, logits) = answer(&native, &words, "native")?;
            questions.push(Question { name, words, text, logits });
        }
        Ok(Counts { passed: questions.len(), failed: 0 })
    });
    if !asked {
        return Vec::new();
    }
    let rows = build_all(report);
    // The last question is for Windows, whose files are read by calls of its own; Linux's are tried without an emulator.
    let of_linux = &questions[..questions.len().saturating_sub(1)];
    let mut tries: Vec<Beside<'_>> = Vec::new();
    for (_, machine) in MACHINES.iter().enumerate().filter(|(index, _)| rows.contains_key(index)) {
        for emulator in machine.emulators {
            let work = move || emulate(emulator, &kept(machine.target)?, of_linux);
            tries.push((format!("ports: smidgen in {}", emulator.join(" ")), Box::new(work)));
        }
    }
    if rows.contains_key(&MACHINES.len()) {
        let work = || emulate(&["wine"], &built(WINDOWS, "smidgen.exe")?, &questions);
        tries.push(("ports: smidgen.exe in wine".into(), Box::new(work)));
    }
    report.steps(tries);
    rows.into_values().collect()
}

/// Builds every file, two at a time; gives the rows of those that were built, that for Windows behind all of `MACHINES`.
fn build_all(report: &mut Report) -> BTreeMap<usize, Value> {
    // What makes most of them is there before two of them want it; one that does not get it says so.
    report.step("ports: zig", |_| zig().map(|_| ONE));
    let rows = Rows::default();
    let (of, rows_of) = (|target| format!("ports: smidgen for {target}"), &rows);
    let mut builds: Vec<Beside<'_>> = Vec::new();
    for (index, machine) in MACHINES.iter().enumerate() {
        builds.push((of(machine.target), Box::new(move || rows_of.put(index, build(machine)?))));
    }
    builds.push((of(WINDOWS), Box::new(|| rows_of.put(MACHINES.len(), windows()?))));
    report.steps(builds);
    rows.take()
}

/// For each model the name and the words of a run by ids, and two stories at the end.
fn words(models: &[Model]) -> Vec<(String, Vec<String>)> {
    let own = |words: &[&str]| words.iter().map(|word| word.to_string()).collect::<Vec<_>>();
    let by_ids = |model: &Model| {
        let path = model.path.to_string_lossy();
        let words = own(&["run", &path, "--ids", IDS, "-n", N_NEW, "--ignore-eos", "--temp", "0", "-t", "1"]);
        (model.name.clone(), words)
    };
    let story = own(&["run", MODEL, "-p", PROMPT, "-n", "40", "--temp", "0", "-t", "2"]);
    let in_parts = own(&["run", MODEL, "-p", PROMPT, "-n", "40", "--temp", "0", "-c", "64", "--ram", "2400K"]);
    let stories = [("a story in two threads".to_string(), story), ("a story in parts".to_string(), in_parts)];
    models.iter().map(by_ids).chain(stories).collect()
}

/// What `runner` prints when it is asked `words`, and the file of logits that it writes.
fn answer(runner: &[String], words: &[String], name: &str) -> Result<(String, Vec<u8>), Stop> {
    // A path that means the same to a program for Windows.
    let file = format!("target/ports/cli/{name}.npy");
    let path = target_folder()?.join(format!("{name}.npy"));
    let _ = std::fs::remove_file(&path);
    let mut run = program(&runner[0], &[]);
    let printed = output(run.args(&runner[1..]).args(words).args(["--logits", &file]).env("WINEDEBUG", "-all"))?;
    let logits = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok((printed.replace("\r\n", "\n"), logits))
}

fn target_folder() -> Result<PathBuf, String> {
    let folder = folder()?.join("cli");
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(folder)
}

/// Where the file called `name` is built for `target`: apart from the others, for cargo builds one at a time in a folder.
fn built(target: &str, name: &str) -> Result<PathBuf, String> {
    Ok(folder()?.join("cli-builds").join(target).join(target).join("release").join(name))
}

/// Where the static file for `target` is kept, for whoever wants it.
fn kept(target: &str) -> Result<PathBuf, String> {
    Ok(target_folder()?.join(format!("smidgen-{target}")))
}

/// The arguments that all builds of the command share.
fn release(build: &mut Command, target: &str) -> Result<(), Stop> {
    build.args(["--release", "--locked", "--quiet", "-p", "smidgen", "--target", target, "--target-dir"]);
    build.arg(folder()?.join("cli-builds").join(target));
    Ok(())
}

/// The folder of zig and its cargo command.
fn zig() -> Result<PathBuf, Stop> {
    install::environment("zig", &["ziglang==0.17.0", "cargo-zigbuild==0.24.0"])
}

/// `cargo` with zig as the linker and the C compiler.
fn with_zig(target: &str) -> Result<Command, Stop> {
    let mut build = toolchain::hosted(target, "zigbuild")?;
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths([zig()?].into_iter().chain(std::env::split_paths(&folders)));
    build.env("PATH", path.map_err(|error| error.to_string())?);
    Ok(build)
}

/// One static file; gives its row of the record.
fn build(machine: &Machine) -> Result<Value, Stop> {
    let Machine { target, flags, linker, .. } = machine;
    let mut build = match linker {
        Linker::Zig => with_zig(target)?,
        Linker::Gcc(gcc) if !install::is_on_path(gcc) => return Err(Stop::Skipped(format!("there is no {gcc}"))),
        Linker::Gcc(gcc) => {
            let mut build = toolchain::hosted(target, "build")?;
            build.env(toolchain::variable(target, "LINKER"), gcc);
            build
        }
    };
    build.env(toolchain::variable(target, "RUSTFLAGS"), flags);
    if machine.max_bytes.is_some() {
        build.args(SMALL);
    }
    release(&mut build, target)?;
    output(&mut build)?;
    let file = built(target, "smidgen")?;
    let n_bytes = std::fs::metadata(&file).map_err(|error| format!("{}: {error}", file.display()))?.len();
    if let Some(max) = machine.max_bytes.filter(|&max| n_bytes > max) {
        return Err(Stop::Failed(format!("{n_bytes} bytes are more than the {max} that it may have")));
    }
    // A file that asks for an interpreter is none that runs alone.
    if output(program("readelf", &["-l", "-W"]).arg(&file))?.contains("INTERP") {
        return Err(Stop::Failed(format!("{}: asks for a loader, so it is not static", file.display())));
    }
    keep(target, &file, &kept(target)?)
}

/// Puts `file`, which is in order, where whoever wants it finds it; gives its row of the record.
fn keep(target: &str, file: &Path, kept: &Path) -> Result<Value, Stop> {
    let n_bytes = std::fs::copy(file, kept).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(json!({ "target": target, "file_bytes": n_bytes }))
}

/// The program for Windows, linked by mingw-w64; gives its row of the record.
fn windows() -> Result<Value, Stop> {
    if !install::is_on_path("x86_64-w64-mingw32-gcc") {
        return Err(Stop::Skipped("there is no x86_64-w64-mingw32-gcc (package gcc-mingw-w64-x86-64)".into()));
    }
    let mut build = toolchain::hosted(WINDOWS, "build")?;
    release(&mut build, WINDOWS)?;
    output(&mut build)?;
    // Wine 8 lacks a library that Rust's random numbers come from, and finds it beside the program.
    let words = ["-shared", "-O1", "-Wall", "-Werror", "ports/windows/bcryptprimitives.c", "-ladvapi32", "-o"];
    output(program("x86_64-w64-mingw32-gcc", &words).arg(built(WINDOWS, "bcryptprimitives.dll")?))?;
    keep(WINDOWS, &built(WINDOWS, "smidgen.exe")?, &kept(&format!("{WINDOWS}.exe"))?)
}

/// Asks `file` every question and compares.
fn emulate(emulator: &[&str], file: &Path, questions: &[Question]) -> Result<Counts, Stop> {
    if !install::is_on_path(emulator[0]) {
        return Err(Stop::Skipped(format!("there is no {}", emulator[0])));
    }
    let file = file.to_string_lossy().into_owned();
    let runner: Vec<String> = emulator.iter().map(|word| word.to_string()).chain([file]).collect();
    let mut counts = Counts::default();
    for Question { name, words, text, logits } in questions {
        match answer(&runner, words, &emulator.join("")) {
            Ok((printed, bits)) if printed == *text && bits == *logits => counts.passed += 1,
            Ok((printed, bits)) => {
                counts.failed += 1;
                let same = if bits == *logits { "the same" } else { "other" };
                step::say(&format!("{name}: {same} logits; printed:\n{printed}\nwanted:\n{text}"));
            }
            Err(Stop::Failed(reason) | Stop::Skipped(reason)) => {
                counts.failed += 1;
                step::say(&format!("{name}: {reason}"));
            }
        }
    }
    Ok(counts)
}
