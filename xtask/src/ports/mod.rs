//! The engine on foreign machines, under emulation: each must print what it prints here, bit for bit.

mod boards;
mod c;
mod cli;
mod page;
pub(crate) mod powermac;
mod python;
mod story;
mod toolchain;
mod user;
mod web;
mod weights;

use crate::install;
use crate::step::{Counts, Report, cargo, run};
use std::path::PathBuf;

/// How much is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// One machine of each kind: what every change has to pass.
    Sample,
    /// Every machine.
    All,
}

/// Builds, runs and compares what `only` names, or everything; `record` is where what the boards take is written to, if
/// anywhere.
pub(crate) fn all(report: &mut Report, extent: Extent, only: Option<&str>, record: Option<&std::path::Path>) {
    if extent == Extent::All {
        install::further(report);
    }
    let wanted = |name: &str| only.is_none_or(|only| only.split(',').any(|part| part == name));
    report.step("ports: the command", |_| run(&mut cargo(&["build", "--release", "--locked", "--quiet"])));
    let mut models = Vec::new();
    if wanted("user") {
        models = user::all(report, extent);
    } else if wanted("cli") || wanted("web") {
        report.step("ports: models", |_| {
            models = user::convert()?;
            Ok(Counts { passed: models.len(), failed: 0 })
        });
    }
    let Some(desktop) = story::Desktop::build(report) else { return };
    let mut rows = Vec::new();
    if wanted("boards") {
        rows.extend(boards::all(report, &desktop, extent));
    }
    if wanted("powermac") {
        rows.extend(powermac::all(report, &desktop, extent));
    }
    if wanted("c") {
        rows.extend(c::all(report, &desktop, &models, extent));
    }
    if wanted("web") {
        web::all(report, &desktop, &models, extent);
    }
    if wanted("cli") && extent == Extent::All {
        rows.extend(cli::all(report, &models));
    }
    if wanted("python") && extent == Extent::All {
        python::all(report);
    }
    if let Some(path) = record {
        report.step("ports: record", |_| boards::write_record(path, &rows));
    }
}

/// The command that a user types, which makes the models and the projects.
fn command() -> String {
    crate::root().join("target/release/smidgen").to_string_lossy().into_owned()
}

/// Where this task keeps what it makes.
fn folder() -> Result<PathBuf, String> {
    let folder = crate::root().join("target/ports");
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(folder)
}
