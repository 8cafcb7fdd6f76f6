//! Everything that must pass, in the order that fails soonest.

use crate::step::{Beside, ONE, Report, Stop, cargo, output, program, run, run_tests, works};
use crate::{check, fuzz, install, ports, tidy};

/// Seconds for each fuzz target inside the tests; `cargo xtask fuzz 600` is the long run.
const FUZZ_SECONDS: u32 = 20;
/// What Miri runs: for each crate the tests of its modules with `unsafe` that need no system call.
const MIRI: &[(&str, &[&str])] =
    &[("smidgen-core", &["arena::", "workers::", "simd::"]), ("smidgen-host", &["threads::"])];
/// The widest vector instructions that Miri knows.
const MIRI_CPU: &str = "-Ctarget-feature=+avx2,+f16c";

/// Installs what is missing, then checks, tests, interprets, fuzzes and emulates.
pub(crate) fn all(report: &mut Report) {
    if crate::shared_data().is_none() {
        report.step("shared data", |_| Err(Stop::Skipped("there is no ../shared/data and no SMIDGEN_DATA".into())));
    }
    install::all(report);
    check::all(report);
    let workspace = || run(&mut cargo(&["test", "--no-run", "--locked", "--quiet", "--workspace"]));
    let mut builds: Vec<Beside<'_>> = vec![
        ("the workspace and its tests".into(), Box::new(workspace)),
        ("fuzz targets".into(), Box::new(fuzz::build)),
        ("the static build".into(), Box::new(static_build)),
    ];
    builds.extend(ports::builds(ports::Extent::Sample));
    report.build_ahead(builds);
    report.step("the static build", |_| static_build());
    report.step("cargo test", |skipped| {
        let tests = ["test", "--locked", "--workspace", "--no-fail-fast", "--quiet", "--", "--show-output"];
        let mut command = cargo(&tests);
        if let Some(python) = install::python() {
            command.env("SMIDGEN_PYTHON", python);
        }
        run_tests(&mut command, skipped)
    });
    for (package, modules) in MIRI {
        report.step(&format!("miri: {package}"), |skipped| {
            if !works(&mut cargo(&["+nightly", "miri", "--version"])) {
                return Err(Stop::Skipped("the nightly toolchain has no Miri".into()));
            }
            let tests = ["+nightly", "miri", "test", "--locked", "--quiet", "--lib", "-p", package, "--"];
            match run_tests(cargo(&[&tests, *modules].concat()).env("RUSTFLAGS", MIRI_CPU), skipped)? {
                counts if counts.passed < modules.len() => Err(Stop::Failed("a module has no tests any more".into())),
                counts => Ok(counts),
            }
        });
    }
    report.step("cargo test with constraints", |skipped| {
        let tests = ["test", "--locked", "--quiet", "-p", "smidgen", "--features", "constrain", "--test", "command"];
        run_tests(&mut cargo(&[&tests[..], &["constraint", "--", "--show-output"]].concat()), skipped)
    });
    report.step("the first command of the README", |_| {
        let text = output(&mut program("sh", &["-c", tidy::documents::RUN]))?;
        let prompt = "Once upon a time";
        match text.strip_prefix(prompt).is_some_and(|rest| rest.split_whitespace().count() >= 8) {
            true => Ok(ONE),
            false => Err(Stop::Failed(format!("its text does not go on after the prompt: {text:?}"))),
        }
    });
    ports::all(report, ports::Extent::Sample, None, None);
    fuzz::all(report, FUZZ_SECONDS, None);
}

/// The build whose peak memory `crates/smidgen/tests/memory.rs` measures.
fn static_build() -> Result<crate::step::Counts, Stop> {
    const TARGET: &str = "x86_64-unknown-linux-musl";
    if !cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        return Err(Stop::Skipped("it is for x86-64 Linux".into()));
    }
    if !works(&mut program("rustup", &["target", "add", TARGET])) {
        return Err(Stop::Skipped(format!("rustup cannot add {TARGET}")));
    }
    output(&mut cargo(&["build", "--locked", "--quiet", "--release", "--target", TARGET, "-p", "smidgen"]))?;
    Ok(ONE)
}
