//! Everything that must pass, in the order that fails soonest.

use crate::step::{Beside, ONE, Report, Stop, cargo, output, program, run, run_tests, works};
use crate::{check, command, fuzz, install, ports, tidy};

/// Seconds for each fuzz target inside the tests; `cargo xtask fuzz 600` is the long run.
const FUZZ_SECONDS: u32 = 20;
/// What Miri runs beside each other: for each crate the tests of its modules with `unsafe` that need no system call. The longest go apart.
const MIRI: &[(&str, &[&str])] = &[
    ("smidgen-core", &["simd::tests::rows"]),
    ("smidgen-core", &["simd::tests::other"]),
    (
        "smidgen-core",
        &["arena::", "workers::", "simd::", "--skip", "simd::tests::rows", "--skip", "simd::tests::other"],
    ),
    ("smidgen-host", &["heap::", "threads::", "weights::window::"]),
];
/// The widest vector instructions that Miri knows.
const MIRI_CPU: &str = "-Ctarget-feature=+avx2,+f16c";

/// What is built for the tests, whatever else is built then: of the command also what most builds of it leave out.
pub(crate) const IN_TESTS: [&str; 3] = ["--workspace", "--features", "smidgen/constrain"];

/// Installs what is missing, then checks, tests, interprets, fuzzes and emulates.
pub(crate) fn all(report: &mut Report) {
    if crate::shared_data().is_none() {
        report.step("shared data", |_| Err(Stop::Skipped("there is no ../shared/data and no SMIDGEN_DATA".into())));
    }
    install::all(report);
    check::all(report);
    let workspace = || run(cargo(&["test", "--no-run", "--locked", "--quiet"]).args(IN_TESTS));
    let mut builds: Vec<Beside<'_>> = vec![
        ("the workspace and its tests".into(), Box::new(workspace)),
        ("fuzz targets".into(), Box::new(fuzz::build)),
        ("the command".into(), Box::new(command::build)),
    ];
    builds.extend(ports::builds(ports::Extent::Sample));
    report.build_ahead(builds);
    report.step("the command", |_| command::build());
    report.step("cargo test", |skipped| {
        let mut command = cargo(&["test", "--locked", "--no-fail-fast", "--quiet"]);
        command.args(IN_TESTS).args(["--", "--show-output"]);
        if let Some(python) = install::python() {
            command.env("SMIDGEN_PYTHON", python);
        }
        run_tests(&mut command, skipped)
    });
    report.steps(MIRI.iter().map(|&(package, modules)| miri(package, modules)).collect());
    report.step("the first command of the README", |_| {
        let text = output(command::as_built(&mut program("sh", &["-c", tidy::documents::RUN])))?;
        let prompt = "Once upon a time";
        match text.strip_prefix(prompt).is_some_and(|rest| rest.split_whitespace().count() >= 8) {
            true => Ok(ONE),
            false => Err(Stop::Failed(format!("its text does not go on after the prompt: {text:?}"))),
        }
    });
    ports::all(report, ports::Extent::Sample, None, None);
    fuzz::all(report, FUZZ_SECONDS, None);
}

/// Miri over `modules` of `package`, in each of which it must find a test; what is skipped stands behind them.
fn miri(package: &'static str, modules: &'static [&'static str]) -> Beside<'static> {
    let work = move || {
        if !works(&mut cargo(&["+nightly", "miri", "--version"])) {
            return Err(Stop::Skipped("the nightly toolchain has no Miri".into()));
        }
        let tests =
            ["+nightly", "miri", "test", "--locked", "--quiet", "--lib", "--no-default-features", "-p", package, "--"];
        let mut command = cargo(&[&tests, modules].concat());
        let n_modules = modules.iter().take_while(|word| !word.starts_with("--")).count();
        match run_tests(command.env("RUSTFLAGS", MIRI_CPU), &mut Vec::new())? {
            counts if counts.passed < n_modules => Err(Stop::Failed("a module has no tests any more".into())),
            counts => Ok(counts),
        }
    };
    (format!("miri: {package} {}", modules.join(" ")), Box::new(work))
}
