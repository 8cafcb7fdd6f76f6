//! What can be said about the code without running it.

use crate::install;
use crate::step::{self, Counts, ONE, Report, Stop, cargo, run};

/// The manifests of the workspaces beside this one.
const APART: &[&str] =
    &["fuzz/Cargo.toml", "ports/user/Cargo.toml", "ports/teller/Cargo.toml", "ports/libsmidgen/Cargo.toml"];
/// Those of programs that only a foreign compiler takes, and of the Python module: they are formatted, and their tests build them.
const FOREIGN: &[&str] =
    &["ports/cortex-m/Cargo.toml", "ports/riscv/Cargo.toml", "ports/powermac/Cargo.toml", "ports/python/Cargo.toml"];

/// Systems that no test runs on, but for which the code must at least compile.
const ELSEWHERE: &[&str] = &["aarch64-apple-darwin", "x86_64-pc-windows-gnu"];

/// Formatting, clippy, documentation, dependencies and the house rules.
pub(crate) fn all(report: &mut Report) {
    report.step("fmt", |_| {
        for manifest in APART.iter().chain(FOREIGN) {
            run(&mut cargo(&["fmt", "--check", "--manifest-path", manifest]))?;
        }
        run(&mut cargo(&["fmt", "--all", "--check"]))
    });
    report.step("clippy", |_| {
        for manifest in APART {
            // In one folder, for what they share.
            let words = ["clippy", "--locked", "--quiet", "--target-dir", "target/apart", "--manifest-path", manifest];
            run(cargo(&words).args(["--", "-D", "warnings"]))?;
        }
        run(&mut cargo(&["clippy", "--locked", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]))
    });
    for target in ELSEWHERE {
        report.step(&format!("check for {target}"), |_| elsewhere(target));
    }
    report.step("doc", |_| {
        run(cargo(&["doc", "--locked", "--workspace", "--no-deps", "--quiet"]).env("RUSTDOCFLAGS", "-D warnings"))
    });
    report.step("deny", |_| {
        let deny = install::tool("cargo-deny").ok_or(Stop::Skipped("cargo-deny is not installed".into()))?;
        // Advisories live in a git repository that not every machine reaches; what needs no network is checked here.
        run(&mut step::program(&deny, &["--locked", "--offline", "check", "bans", "licenses", "sources"]))
    });
    tidy(report);
}

/// What reads files and spills caches has calls of its own on each of these systems. Without the hub, whose TLS wants a foreign C
/// compiler.
fn elsewhere(target: &str) -> Result<Counts, Stop> {
    let installed = step::output(&mut step::program("rustup", &["target", "list", "--installed"]));
    if !installed.is_ok_and(|list| list.lines().any(|line| line == target)) {
        return Err(Stop::Skipped(format!("'rustup target add {target}' was not called")));
    }
    let own = ["check", "--locked", "--quiet", "-p", "smidgen-host", "--no-default-features", "--target", target];
    run(&mut cargo(&own))
}

/// The house rules.
pub(crate) fn tidy(report: &mut Report) {
    report.step("tidy", |_| {
        let findings = crate::tidy::findings(&crate::root())?;
        findings.iter().for_each(|finding| step::say(&finding.to_string()));
        match findings.len() {
            0 => Ok(ONE),
            n => Err(Stop::Failed(format!("{n} findings"))),
        }
    });
}
