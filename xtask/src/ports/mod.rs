//! The engine on foreign machines, under emulation: each must print what it prints here, bit for bit.

mod boards;
mod c;
mod cli;
mod page;
pub(crate) mod pico;
pub(crate) mod powermac;
mod python;
mod story;
mod toolchain;
mod user;
mod web;
mod weights;

use crate::bench;
use crate::command::path as command;
use crate::install;
use crate::step::{Beside, Counts, ONE, Report, Stop};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Instant;

/// How much is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// One machine of each kind: what every change has to pass.
    Sample,
    /// Every machine.
    All,
}

/// The parts that are wanted, and how long each took.
struct Parts<'a> {
    only: Option<&'a str>,
    seconds: Vec<(&'static str, f64)>,
}

impl Parts<'_> {
    fn wants(&self, name: &str) -> bool {
        self.only.is_none_or(|only| only.split(',').any(|part| part == name))
    }

    /// Does `work`, when the part called `name` is wanted.
    fn part(&mut self, name: &'static str, work: impl FnOnce()) {
        if self.wants(name) {
            self.always(name, work);
        }
    }

    fn always(&mut self, name: &'static str, work: impl FnOnce()) {
        let start = Instant::now();
        work();
        self.seconds.push((name, start.elapsed().as_secs_f64()));
    }

    /// What each part took, in one line.
    fn line(&self) -> String {
        let parts: Vec<String> = self.seconds.iter().map(|(name, seconds)| format!("{name} {seconds:.0}")).collect();
        let sum: f64 = self.seconds.iter().map(|(_, seconds)| seconds).sum();
        format!("{sum:8.1} s  ports, in seconds: {}", parts.join(", "))
    }
}

/// Rows of the record that works put down which go on side by side, by their numbers.
#[derive(Default)]
struct Rows(Mutex<BTreeMap<usize, Value>>);

impl Rows {
    fn put(&self, index: usize, row: Value) -> Result<Counts, Stop> {
        self.0.lock().map_err(|_| "another thread panicked".to_string())?.insert(index, row);
        Ok(ONE)
    }

    fn take(self) -> BTreeMap<usize, Value> {
        self.0.into_inner().unwrap_or_default()
    }
}

/// What takes long to build and may be built before it is needed, beside other things.
pub(crate) fn builds(extent: Extent) -> Vec<Beside<'static>> {
    vec![
        ("the engine for foreign machines".into(), Box::new(move || user::build(extent))),
        ("libsmidgen".into(), Box::new(move || web::library(extent).map(|_| ONE))),
        ("libsmidgen for WebAssembly".into(), Box::new(move || web::modules(extent))),
    ]
}

/// Builds, runs and compares what `only` names, or everything; `record` is where what the boards take is written to, if
/// anywhere.
pub(crate) fn all(report: &mut Report, extent: Extent, only: Option<&str>, record: Option<&std::path::Path>) {
    let whole = extent == Extent::All;
    if whole {
        install::further(report);
    }
    let mut parts = Parts { only, seconds: Vec::new() };
    let (mut models, mut desktop, mut rows) = (Vec::new(), None, Vec::new());
    parts.always("builds here", || {
        report.step("ports: the command", |_| crate::command::build());
        desktop = story::Desktop::build(report);
    });
    parts.part("user", || models = user::all(report, extent));
    if !parts.wants("user") && ["cli", "web"].iter().any(|name| parts.wants(name)) {
        report.step("ports: models", |_| {
            models = user::convert()?;
            Ok(Counts { passed: models.len(), failed: 0 })
        });
    }
    let Some(desktop) = desktop else { return };
    parts.part("boards", || {
        rows.extend(boards::all(report, &desktop, extent));
        if whole {
            pico::all(report);
        }
    });
    parts.part("powermac", || rows.extend(powermac::all(report, &desktop, extent)));
    parts.part("c", || rows.extend(c::all(report, &desktop, &models, extent)));
    parts.part("web", || web::all(report, &desktop, &models, extent));
    if whole {
        parts.part("cli", || rows.extend(cli::all(report, &models)));
        parts.part("python", || python::all(report));
    }
    report.note(parts.line());
    if let Some(path) = record {
        report.step("ports: record", |_| {
            boards::write_record(path, &rows)?;
            bench::write_tables(path)
        });
    }
}

/// Where this task keeps what it makes.
fn folder() -> Result<PathBuf, String> {
    let folder = crate::root().join("target/ports");
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_wanted_is_not_done() {
        let mut parts = Parts { only: Some("boards,c"), seconds: Vec::new() };
        let mut done = Vec::new();
        for name in ["user", "boards", "powermac", "c"] {
            parts.part(name, || done.push(name));
        }
        assert_eq!(done, ["boards", "c"]);
        assert!(parts.line().ends_with("s  ports, in seconds: boards 0, c 0"), "{}", parts.line());
    }
}
