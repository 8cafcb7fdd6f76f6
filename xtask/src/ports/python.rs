//! The wheel: made by maturin, installed into an environment of its own, and tried there.

use super::{command, folder};
use crate::install;
use crate::step::{Counts, ONE, Report, Stop, cargo, listing, output, program, run};
use std::path::{Path, PathBuf};

const FOLDER: &str = "ports/python";
const MODEL: &str = "models/tales.gguf";
/// What makes the wheel and what tries it.
const PACKAGES: &[&str] = &["maturin==1.16.0", "numpy==2.4.6", "pytest==9.2.0", "mypy==2.4.1"];

/// Makes the wheel and tries it.
pub(super) fn all(report: &mut Report) {
    let mut programs = None;
    report.step("ports: wheel, environment", |_| {
        programs = Some(install::environment("python", PACKAGES)?);
        Ok(ONE)
    });
    let Some(programs) = programs else { return };
    if !report.step("ports: wheel", |_| make(&programs)) {
        return;
    }
    report.step("ports: wheel, clippy", |_| {
        let words = ["clippy", "--release", "--locked", "--quiet", "--manifest-path", "ports/python/Cargo.toml"];
        run(cargo(&words).args(["--", "-D", "warnings"]))
    });
    let root = crate::root();
    let folder = root.join(FOLDER);
    report.step("ports: wheel, pytest", |_| {
        let words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"];
        let mut tests = program(&python(&programs), &words);
        // Away from the sources, so that what is imported is what was installed.
        tests.current_dir(&folder).env("SMIDGEN", command()).env("SMIDGEN_MODEL", root.join(MODEL));
        let said = output(&mut tests)?;
        let passed = said.lines().last().and_then(|line| line.split_whitespace().next()?.parse().ok());
        Ok(Counts { passed: passed.ok_or(Stop::Failed(format!("pytest said {said:?}")))?, failed: 0 })
    });
    report.step("ports: wheel, types", |_| {
        let mut tests = program(&python(&programs), &["-m", "mypy", "--strict", "--cache-dir=/dev/null", "tests"]);
        run(tests.current_dir(&folder))?;
        // Whether the description is that of the module.
        let stubs = ["-m", "mypy.stubtest", "smidgen", "--mypy-config-file", "pyproject.toml", "--allowlist"];
        run(program(&python(&programs), &stubs).arg("tests/stubtest-allowed.txt").current_dir(&folder))?;
        Ok(Counts { passed: 2, failed: 0 })
    });
}

fn python(programs: &Path) -> String {
    programs.join("python").to_string_lossy().into_owned()
}

/// Builds the wheel and installs it.
fn make(programs: &Path) -> Result<Counts, Stop> {
    let wheels = folder()?.join("wheels");
    // Only the wheel of this build may be found there.
    let _ = std::fs::remove_dir_all(&wheels);
    let mut maturin =
        program(&programs.join("maturin").to_string_lossy(), &["build", "--release", "--locked", "--quiet"]);
    maturin.args(["--interpreter"]).arg(python(programs)).arg("--out").arg(&wheels);
    run(maturin.current_dir(crate::root().join(FOLDER)))?;
    let is_wheel = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "whl");
    let wheel = listing(&wheels)?.into_iter().find(is_wheel).ok_or(Stop::Failed("maturin made no wheel".into()))?;
    let words = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--force-reinstall", "--no-deps"];
    run(program(&python(programs), &words).arg(&wheel))
}
