//! The engine on foreign machines: `ports/user`, built for each instruction set, must print what it prints here.
//!
//! The program reads a model and prints token ids and a hash over every bit of every logit, one line for each kernel
//! set that the CPU has. On x86-64 it runs natively; everywhere else in QEMU's user mode, whose CPU models refuse what
//! the real ones lack.

use super::{Extent, command, toolchain};
use crate::install;
use crate::step::{self, Beside, Counts, Report, Stop, output, program, run};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One machine: its target, what the compiler may assume of its CPU, and the emulators that stand for it.
struct Machine {
    target: &'static str,
    cpu: &'static str,
    emulators: &'static [&'static [&'static str]],
    /// Whether every change has to pass it.
    sample: bool,
}

const MACHINES: &[Machine] = &[
    Machine { target: toolchain::NATIVE, cpu: "x86-64", emulators: &[], sample: true },
    // The Power Macintosh G3: 32 bits, big-endian.
    Machine {
        target: "powerpc-unknown-linux-gnu",
        cpu: "750",
        emulators: &[&["qemu-ppc", "-cpu", "750"]],
        sample: true,
    },
    Machine {
        target: "aarch64-unknown-linux-gnu",
        cpu: "generic",
        emulators: &[&["qemu-aarch64", "-cpu", "max"], &["qemu-aarch64", "-cpu", "cortex-a53"]],
        sample: true,
    },
    // The Raspberry Pi Zero.
    Machine {
        target: "arm-unknown-linux-gnueabihf",
        cpu: "arm1176jzf-s",
        emulators: &[&["qemu-arm", "-cpu", "arm1176"]],
        sample: true,
    },
    // The first Pentium: floats in the x87, no SSE.
    Machine {
        target: "i586-unknown-linux-gnu",
        cpu: "pentium",
        emulators: &[&["qemu-i386", "-cpu", "pentium"]],
        sample: true,
    },
    // 64 bits, big-endian.
    Machine { target: "s390x-unknown-linux-gnu", cpu: "z10", emulators: &[&["qemu-s390x"]], sample: false },
    // The same, and nothing may lie at an odd address.
    Machine { target: "sparc64-unknown-linux-gnu", cpu: "v9", emulators: &[&["qemu-sparc64"]], sample: false },
    // 32 bits, big-endian, nothing at an odd address.
    Machine { target: "mips-unknown-linux-gnu", cpu: "mips32", emulators: &[&["qemu-mips"]], sample: false },
    Machine {
        target: "riscv64gc-unknown-linux-gnu",
        cpu: "generic-rv64",
        emulators: &[&["qemu-riscv64"]],
        sample: false,
    },
    // A 486 without a floating-point unit, which Rust has no target for.
    Machine {
        target: "ports/user/i486-soft.json",
        cpu: "i486",
        emulators: &[&["qemu-i386", "-cpu", "486"]],
        sample: false,
    },
];

/// The kernel sets that an emulated CPU must be found to have, where there are more than the definition.
const KERNEL_SETS: &[(&[&str], &[&str])] = &[
    (&["qemu-aarch64", "-cpu", "max"], &["scalar", "neon", "neon-dotprod"]),
    (&["qemu-aarch64", "-cpu", "cortex-a53"], &["scalar", "neon"]),
];

/// Where the checkpoints lie, and what each weight type is tried on.
const CHECKPOINTS: &str = "testdata/hf";
const OUTTYPES: &[&str] = &["f32", "f16", "bf16", "q8_0"];

/// The model inside the program: the one with Q8_0 in every matrix.
const EMBEDDED: &str = "models/tales.gguf";

/// A model to run: its name, its file, and what the program must print of it.
#[derive(Clone)]
pub(super) struct Model {
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) expected: String,
}

/// Builds, converts and compares; gives the models and what every machine must print of them.
pub(super) fn all(report: &mut Report, extent: Extent) -> Vec<Model> {
    let mut models = Vec::new();
    if !report.step("ports: build", |_| build(extent)) {
        return models;
    }
    let here = if extent == Extent::All { "every kernel set" } else { "the definition" };
    report.step(&format!("ports: x86_64, {here}"), |_| {
        models = convert()?;
        for model in &mut models {
            model.expected = native(&model.path)?;
        }
        Ok(Counts { passed: models.len(), failed: 0 })
    });
    let pairs = machines(extent).flat_map(|machine| machine.emulators.iter().map(move |emulator| (machine, *emulator)));
    let models_of = &models;
    let tries = pairs.map(|(machine, emulator)| -> Beside<'_> {
        (format!("ports: {}", emulator.join(" ")), Box::new(move || emulate(machine, emulator, models_of)))
    });
    report.steps(tries.collect());
    models
}

/// The machines to try.
fn machines(extent: Extent) -> impl Iterator<Item = &'static Machine> {
    MACHINES.iter().filter(move |machine| machine.sample || extent == Extent::All)
}

/// Builds the program for every machine at once: no C library, no start files, one static program each.
pub(super) fn build(extent: Extent) -> Result<Counts, Stop> {
    let mut command = toolchain::of(extent, toolchain::with_source()?);
    command.args(["--release", "--locked", "--quiet", "--manifest-path", "ports/user/Cargo.toml"]);
    for machine in machines(extent) {
        toolchain::add_target(&mut command, machine.target, machine.cpu)?;
    }
    run(&mut command)
}

/// The program of `machine`.
fn binary(target: &str) -> PathBuf {
    crate::root().join("ports/user/target").join(toolchain::name(target)).join("release/smidgen-user")
}

/// Every checkpoint as GGUF in every weight type, through the command that a user would type.
pub(super) fn convert() -> Result<Vec<Model>, Stop> {
    let root = crate::root();
    let folder = root.join("target/ports");
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut models = vec![Model { name: EMBEDDED.into(), path: root.join(EMBEDDED), expected: String::new() }];
    for checkpoint in step::listing(&root.join(CHECKPOINTS))?.iter().filter(|path| path.is_dir()) {
        let checkpoint_name = checkpoint.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for outtype in OUTTYPES {
            let name = format!("{checkpoint_name} {outtype}");
            let path = folder.join(format!("{checkpoint_name}-{outtype}.gguf"));
            // Most of these widths are no whole blocks; rows that are become Q8_0, and both kinds meet in one model.
            let fallback = ["--fallback", "f16"];
            let words = ["convert", &checkpoint.to_string_lossy(), &path.to_string_lossy(), "--outtype", outtype];
            let n_fallback = if *outtype == "q8_0" { 2 } else { 0 };
            output(program(&command(), &words).args(&fallback[..n_fallback]))?;
            models.push(Model { name, path, expected: String::new() });
        }
    }
    Ok(models)
}

/// What the program prints here, once it is sure that every kernel set prints the same.
fn native(model: &Path) -> Result<String, Stop> {
    let text = output(Command::new(binary(toolchain::NATIVE)).stdin(open(model)?))?;
    agreed(&text).ok_or(Stop::Failed(format!("{}: the kernel sets differ:\n{text}", model.display())))
}

/// The kernel sets that `emulator` must be found to have.
fn kernel_sets(emulator: &[&str]) -> &'static [&'static str] {
    KERNEL_SETS.iter().find(|(words, _)| *words == emulator).map_or(&["scalar"], |(_, sets)| sets)
}

/// Whether each line of `text` is of the kernel set that stands at its place in `sets`.
fn is_of(text: &str, sets: &[&str]) -> bool {
    text.lines().map(|line| line.split_once(':').map_or(line, |(set, _)| set)).eq(sets.iter().copied())
}

/// What stands after the kernel set on every line, when it is the same on all of them.
fn agreed(text: &str) -> Option<String> {
    let mut results = text.lines().map(|line| line.split_once(": ").map(|(_, result)| result.to_string()));
    let first = results.next()??;
    results.all(|result| result.as_ref() == Some(&first)).then_some(first)
}

/// Runs every model in `emulator` and compares.
fn emulate(machine: &Machine, emulator: &[&str], models: &[Model]) -> Result<Counts, Stop> {
    if !install::is_on_path(emulator[0]) {
        return Err(Stop::Skipped(format!("there is no {}", emulator[0])));
    }
    if models.is_empty() {
        return Err(Stop::Failed("there is nothing to compare with".into()));
    }
    let mut counts = Counts::default();
    for model in models {
        let mut command = program(emulator[0], &emulator[1..]);
        let outcome = output(command.arg(binary(machine.target)).stdin(open(&model.path)?));
        match outcome {
            Ok(text) if !is_of(&text, kernel_sets(emulator)) => {
                counts.failed += 1;
                step::say(&format!("{}: not by {:?}:\n{text}", model.name, kernel_sets(emulator)));
            }
            Ok(text) if agreed(&text).as_ref() == Some(&model.expected) => counts.passed += 1,
            Ok(text) => {
                counts.failed += 1;
                step::say(&format!("{}: not what x86-64 gives:\n{text}wanted: {}", model.name, model.expected));
            }
            Err(Stop::Failed(reason) | Stop::Skipped(reason)) => {
                counts.failed += 1;
                step::say(&format!("{}: {reason}", model.name));
            }
        }
    }
    Ok(counts)
}

fn open(path: &Path) -> Result<File, Stop> {
    File::open(path).map_err(|error| Stop::Failed(format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_sets_must_agree() {
        assert_eq!(agreed("scalar: 1 2 ff\navx2: 1 2 ff\n"), Some("1 2 ff".into()));
        assert_eq!(agreed("scalar: 1 2 ff\navx2: 1 2 fe\n"), None);
        assert_eq!(agreed("a panic, in one line\n"), None);
        assert_eq!(agreed(""), None);
    }

    #[test]
    fn every_kernel_set_must_be_there() {
        let text = "scalar: 1 2 ff\nneon: 1 2 ff\n";
        assert!(is_of(text, kernel_sets(&["qemu-aarch64", "-cpu", "cortex-a53"])));
        assert!(!is_of(text, kernel_sets(&["qemu-aarch64", "-cpu", "max"])));
        assert!(!is_of(text, kernel_sets(&["qemu-mips"])));
    }
}
