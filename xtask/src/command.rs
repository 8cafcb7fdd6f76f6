//! The command as a release has it, for all that needs one: it ends with minutes of one thread, so it is built once.
//!
//! Where rustup brings musl it is the static build, whose peak of memory `crates/smidgen/tests/memory.rs` holds; elsewhere it is what this
//! machine links.

use crate::step::{Counts, Stop, cargo, program, run, works};
use std::process::Command;
use std::sync::OnceLock;

/// What a static build is for.
const TARGET: &str = "x86_64-unknown-linux-musl";

/// Builds it.
pub(crate) fn build() -> Result<Counts, Stop> {
    run(as_built(&mut cargo(&["build", "--locked", "--quiet", "--release", "-p", "smidgen"])))
}

/// Tells a cargo `command` to build what [`build`] does.
pub(crate) fn as_built(command: &mut Command) -> &mut Command {
    match is_static() {
        true => command.env("CARGO_BUILD_TARGET", TARGET),
        false => command,
    }
}

/// Where it is.
pub(crate) fn path() -> String {
    crate::root().join(place()).to_string_lossy().into_owned()
}

/// Where it is in the project.
pub(crate) fn place() -> String {
    if is_static() { format!("target/{TARGET}/release/smidgen") } else { "target/release/smidgen".into() }
}

fn is_static() -> bool {
    static IS_STATIC: OnceLock<bool> = OnceLock::new();
    let is_for_it = cfg!(all(target_arch = "x86_64", target_os = "linux"));
    *IS_STATIC.get_or_init(|| is_for_it && works(&mut program("rustup", &["target", "add", TARGET])))
}
