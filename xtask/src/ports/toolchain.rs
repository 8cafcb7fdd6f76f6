//! Compilers for foreign machines: one that builds `core` from its source, or one that rustup brought `core` for.

use super::Extent;
use crate::install;
use crate::step::{Stop, cargo, program, works};
use std::path::PathBuf;
use std::process::Command;

/// The machine that we are on.
pub(super) const NATIVE: &str = "x86_64-unknown-linux-gnu";

/// `cargo build` with a compiler that comes with the source of its own standard library, and `core` built from it.
pub(super) fn with_source() -> Result<Command, Stop> {
    let mut command = from_source("build", "core")?;
    command.arg("-Zbuild-std-features=compiler-builtins-mem");
    Ok(command)
}

/// The kernel sets of a sample: those that only emulators run. Core's own tests hold those of x86-64 against the definition.
const SAMPLE_KERNELS: &str = "scalar neon neon-dotprod";

/// `build` with the kernel sets that `extent` wants.
pub(super) fn with_kernels(extent: Extent, mut build: Command) -> Command {
    if extent == Extent::Sample {
        build.env("SMIDGEN_ISA", SAMPLE_KERNELS);
    }
    build
}

/// The same of a program that is no part of a release: for a sample it is not optimized once more when it is linked.
pub(super) fn of(extent: Extent, mut build: Command) -> Command {
    if extent == Extent::Sample {
        build.env("CARGO_PROFILE_RELEASE_LTO", "off");
    }
    with_kernels(extent, build)
}

/// `cargo verb` with a compiler that comes with the source of its own standard library, and `parts` of that built from it.
fn from_source(verb: &str, parts: &str) -> Result<Command, Stop> {
    let mut command = if install::has_nightly_source() {
        cargo(&["+nightly", verb])
    } else if install::has_debian_source() {
        let mut command = cargo(&[verb]);
        command.env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "1");
        command
    } else {
        return Err(Stop::Skipped("no compiler here has the source of its standard library".into()));
    };
    command.arg(format!("-Zbuild-std={parts}"));
    Ok(command)
}

/// `cargo verb` for `target`, a machine with an operating system: with the standard library that rustup brings, or else with
/// one built from source. The target is not among the arguments yet.
pub(super) fn hosted(target: &str, verb: &str) -> Result<Command, Stop> {
    match is_brought(target) {
        true => Ok(cargo(&[verb])),
        false => from_source(verb, "std,panic_abort"),
    }
}

/// Whether rustup has the standard library for `target`, or gets it.
pub(super) fn is_brought(target: &str) -> bool {
    install::is_on_path("rustup") && works(&mut program("rustup", &["target", "add", target]))
}

/// The linker that comes with the stable toolchain.
pub(super) fn linker() -> Result<PathBuf, Stop> {
    install::sysroot("stable")
        .map(|root| root.join("lib/rustlib").join(NATIVE).join("bin/rust-lld"))
        .filter(|path| path.is_file())
        .ok_or(Stop::Skipped("the stable toolchain brings no rust-lld".into()))
}

/// The name of a target, which may be described in a file.
pub(super) fn name(target: &str) -> &str {
    let file = target.rsplit('/').next().unwrap_or(target);
    file.strip_suffix(".json").unwrap_or(file)
}

/// The name of an environment variable by which cargo is told `what` about `target`.
pub(super) fn variable(target: &str, what: &str) -> String {
    format!("CARGO_TARGET_{}_{what}", name(target).to_uppercase().replace('-', "_"))
}

/// Has `command` build for `target`, a Linux without its C library, as a static program whose compiler may assume `cpu`.
pub(super) fn add_target(command: &mut Command, target: &str, cpu: &str) -> Result<(), Stop> {
    let flags = [
        &format!("-Clinker={}", linker()?.display()),
        "-Clinker-flavor=ld.lld",
        "-Crelocation-model=static",
        "-Ctarget-feature=+crt-static",
        "-Clink-args=-static",
        "-Clink-args=-e_start",
        &format!("-Ctarget-cpu={cpu}"),
    ];
    if target.ends_with(".json") {
        command.arg("-Zjson-target-spec");
    }
    command.args(["--target", target]).env(variable(target, "RUSTFLAGS"), flags.join(" "));
    Ok(())
}

/// `cargo build` for `target`, a machine without an operating system: with the `core` that rustup brings, or else with one built
/// from source.
pub(super) fn bare(target: &str) -> Result<Command, Stop> {
    let mut command = if is_brought(target) { cargo(&["build"]) } else { with_source()? };
    command.args(["--target", target]).env(variable(target, "LINKER"), linker()?);
    Ok(command)
}

/// The compiler's own functions for `target`, floats in software among them, as an archive that any linker takes.
pub(super) fn soft_floats(target: &str) -> Result<PathBuf, Stop> {
    let missing = || Stop::Skipped(format!("rustup has not brought {target}"));
    bare(target)?;
    let folder = install::sysroot("stable").ok_or_else(missing)?.join("lib/rustlib").join(target).join("lib");
    let archives = crate::step::listing(&folder).map_err(|_| missing())?;
    let is_it = |path: &PathBuf| path.to_string_lossy().contains("/libcompiler_builtins-");
    archives.into_iter().find(is_it).ok_or_else(missing)
}
