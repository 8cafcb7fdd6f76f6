//! Steps that are timed, counted and reported: each passes, fails, or says why it was skipped.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::time::Instant;

/// How a step ended, when it did not simply pass.
pub(crate) enum Stop {
    /// What went wrong, in one line.
    Failed(String),
    /// What is missing on this machine, in one line.
    Skipped(String),
}

impl From<String> for Stop {
    fn from(message: String) -> Self {
        Stop::Failed(message)
    }
}

/// How many tests of a step passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
}

/// A step that is one test, which passed.
pub(crate) const ONE: Counts = Counts { passed: 1, failed: 0 };

/// Work that may go on beside other work, and its name.
pub(crate) type Beside<'a> = (String, Box<dyn FnOnce() -> Result<Counts, Stop> + Send + 'a>);

/// What came of one: its name, how many seconds it took, and its outcome.
type Done = (String, f64, Result<Counts, Stop>);

/// Does `works` in order, as many at the same time as there are processors: an emulator has one thread, and most builds end with one
/// that has the whole engine to itself. Each is `told` of as soon as it is done.
fn side_by_side(works: Vec<Beside<'_>>, told: impl Fn(&Done) + Sync) -> Vec<Done> {
    let n_cpus = std::thread::available_parallelism().map_or(1, |n| n.get());
    let n_works = works.len();
    let left = Mutex::new(works.into_iter().enumerate().collect::<VecDeque<_>>());
    let next = || left.lock().ok().and_then(|mut left| left.pop_front());
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..n_cpus.min(n_works) {
            scope.spawn(|| {
                while let Some((index, (name, work))) = next() {
                    let start = Instant::now();
                    let outcome = work();
                    let one = (name, start.elapsed().as_secs_f64(), outcome);
                    told(&one);
                    if let Ok(mut done) = done.lock() {
                        done.push((index, one));
                    }
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_default();
    done.sort_by_key(|&(index, _)| index);
    done.into_iter().map(|(_, done)| done).collect()
}

/// What all steps came to.
#[derive(Default)]
pub(crate) struct Report {
    counts: Counts,
    lines: Vec<String>,
    skipped: Vec<String>,
    /// The first lines of steps that failed, once more: who reads the end of a long output wants to see them there.
    failed: Vec<String>,
}

impl Report {
    /// Runs one step; its outcome goes into the report, and whether it passed comes back.
    pub(crate) fn step(&mut self, name: &str, work: impl FnOnce(&mut Vec<String>) -> Result<Counts, Stop>) -> bool {
        say(&format!("==> {name}"));
        let start = Instant::now();
        let outcome = work(&mut self.skipped);
        self.count((name.to_string(), start.elapsed().as_secs_f64(), outcome))
    }

    /// Runs steps that need nothing of each other, some at the same time; gives whether all passed.
    pub(crate) fn steps(&mut self, works: Vec<Beside<'_>>) -> bool {
        let names: Vec<&str> = works.iter().map(|(name, _)| name.as_str()).collect();
        say(&format!("==> {}", names.join(" | ")));
        let mut passed = true;
        for done in side_by_side(works, |_| ()) {
            passed &= self.count(done);
        }
        passed
    }

    /// Builds ahead what steps will need, some at the same time. What does not build is for the step to say that needs it.
    pub(crate) fn build_ahead(&mut self, builds: Vec<Beside<'_>>) {
        self.step("builds, side by side", |_| {
            side_by_side(builds, |(name, seconds, outcome)| {
                let word = if outcome.is_ok() { "built" } else { "not built" };
                say(&format!("{seconds:8.1} s  {name}: {word}"));
            });
            Ok(ONE)
        });
    }

    /// Adds what came of a step; gives whether it passed.
    fn count(&mut self, (name, seconds, outcome): Done) -> bool {
        let (word, counts) = match outcome {
            Ok(counts) if counts.failed == 0 => ("ok".to_string(), counts),
            Ok(counts) => (format!("FAILED: {} of its tests", counts.failed), counts),
            Err(Stop::Failed(reason)) => (format!("FAILED: {reason}"), Counts { passed: 0, failed: 1 }),
            Err(Stop::Skipped(reason)) => {
                self.skipped.push(format!("skipped: {name}, {reason}"));
                ("skipped".to_string(), Counts::default())
            }
        };
        self.counts.passed += counts.passed;
        self.counts.failed += counts.failed;
        let line = format!("{seconds:8.1} s  {name}: {word}");
        say(&line);
        if counts.failed > 0 {
            self.failed.extend(line.lines().next().map(str::to_owned));
        }
        self.lines.push(line);
        counts.failed == 0
    }

    /// Adds a line to what is printed at the end.
    pub(crate) fn note(&mut self, line: String) {
        self.lines.push(line);
    }

    /// Prints what each step took, what was skipped, what failed and, as the last line, how many tests passed and failed.
    pub(crate) fn close(&self) -> ExitCode {
        say("\n==> summary");
        self.lines.iter().chain(&self.skipped).chain(&self.failed).for_each(|line| say(line));
        say(&format!("{} passed, {} failed", self.counts.passed, self.counts.failed));
        ExitCode::from(u8::from(self.counts.failed > 0))
    }
}

/// Prints one line, in order with what the steps' programs print.
pub(crate) fn say(line: &str) {
    if cfg!(test) {
        return; // What a test makes fail on purpose would read as a failure of the test.
    }
    let mut stdout = std::io::stdout().lock();
    // When nobody listens any more there is nobody to tell.
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}

/// What cargo and rustup tell the programs that they run. A build that saw it would differ from one that a developer
/// starts, and everything would be built twice.
const INHERITED: &[&str] =
    &["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO=", "RUSTC=", "RUSTUP_TOOLCHAIN=", "RUST_RECURSION_"];

/// A program to be run in the root of the workspace without an input.
pub(crate) fn program(name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(name);
    for (variable, _) in std::env::vars_os() {
        let named = format!("{}=", variable.to_string_lossy());
        if INHERITED.iter().any(|start| named.starts_with(start)) {
            command.env_remove(variable);
        }
    }
    command.args(arguments).current_dir(crate::root()).stdin(Stdio::null());
    command
}

/// `cargo` of the toolchain in use, or of the toolchain that `+name` as the first argument asks for.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    program("cargo", arguments)
}

/// Runs `command` with its output where ours goes.
///
/// # Errors
/// When it cannot start or does not end with 0.
pub(crate) fn run(command: &mut Command) -> Result<Counts, Stop> {
    let status = command.status().map_err(|error| cannot_start(command, &error))?;
    match status.success() {
        true => Ok(ONE),
        false => Err(Stop::Failed(format!("{} ended with {status}", shown(command)))),
    }
}

/// Runs `command` quietly and gives what it printed to stdout.
///
/// # Errors
/// When it cannot start or does not end with 0; then the end of what it said is in the message.
pub(crate) fn output(command: &mut Command) -> Result<String, Stop> {
    let output = command.output().map_err(|error| cannot_start(command, &error))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.trim_end().lines().last().unwrap_or_default().to_string();
        return Err(Stop::Failed(format!("{} ended with {}: {last}", shown(command), output.status)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether `command` starts and ends with 0; what it prints is dropped.
pub(crate) fn works(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Runs a `cargo test`, counts its tests and keeps the lines in which tests say what they skipped.
///
/// # Errors
/// When it cannot start, or fails without a failing test (then it did not build).
pub(crate) fn run_tests(command: &mut Command, skipped: &mut Vec<String>) -> Result<Counts, Stop> {
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(|error| cannot_start(command, &error))?;
    let mut counts = Counts::default();
    let output = child.stdout.take().map(BufReader::new);
    for line in output.into_iter().flat_map(|output| output.split(b'\n')) {
        let line = line.map_err(|error| format!("{}: {error}", shown(command)))?;
        let line = String::from_utf8_lossy(&line);
        say(&line);
        if let Some(more) = closing_line(&line) {
            counts.passed += more.passed;
            counts.failed += more.failed;
        }
        if line.starts_with("skipped: ") && !skipped.iter().any(|other| *other == line) {
            skipped.push(line.into_owned());
        }
    }
    let status = child.wait().map_err(|error| format!("{}: {error}", shown(command)))?;
    if !status.success() && counts.failed == 0 {
        return Err(Stop::Failed(format!("{} ended with {status}", shown(command))));
    }
    Ok(counts)
}

/// Reads `test result: ok. 24 passed; 1 failed; ...`.
fn closing_line(line: &str) -> Option<Counts> {
    let rest = line.strip_prefix("test result: ")?;
    let count = |word: &str| {
        let before = rest.split(word).next().filter(|before| before.len() < rest.len())?;
        before.trim_end().rsplit(' ').next()?.parse().ok()
    };
    Some(Counts { passed: count(" passed;")?, failed: count(" failed;")? })
}

fn cannot_start(command: &Command, error: &std::io::Error) -> Stop {
    Stop::Failed(format!("{} did not start: {error}", shown(command)))
}

/// The command as one would type it.
fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// What lies in `folder`, sorted by name.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn listing(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = std::fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closing_line_of_a_test_run_is_read() {
        let line = "test result: FAILED. 23 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.24s";
        assert_eq!(closing_line(line), Some(Counts { passed: 23, failed: 1 }));
        assert_eq!(closing_line("running 3 tests"), None);
        assert_eq!(closing_line("test result: none"), None);
    }

    #[test]
    fn a_step_that_fails_makes_the_report_fail() {
        let mut report = Report::default();
        assert!(report.step("a", |_| Ok(Counts { passed: 3, failed: 0 })));
        assert!(report.step("b", |_| Err(Stop::Skipped("no emulator".into()))));
        assert_eq!(format!("{:?}", report.close()), format!("{:?}", ExitCode::SUCCESS));
        assert!(!report.step("c", |_| Ok(Counts { passed: 1, failed: 1 })));
        assert!(!report.step("d", |_| Err(Stop::Failed("it broke\nin two lines".into()))));
        let failed: Vec<&str> = report.failed.iter().filter_map(|line| line.split("s  ").nth(1)).collect();
        assert_eq!(failed, ["c: FAILED: 1 of its tests", "d: FAILED: it broke"]);
        assert_eq!(report.counts, Counts { passed: 4, failed: 2 });
        assert_eq!(report.skipped, ["skipped: b, no emulator"]);
        assert_eq!(format!("{:?}", report.close()), format!("{:?}", ExitCode::FAILURE));
    }

    #[test]
    fn what_is_done_side_by_side_is_all_done() {
        let work = |n: usize| -> Beside<'_> {
            let outcome =
                if n == 3 { Err(Stop::Failed("it broke".into())) } else { Ok(Counts { passed: n, failed: 0 }) };
            (n.to_string(), Box::new(move || outcome))
        };
        let mut report = Report::default();
        assert!(report.steps(vec![]) && report.steps(vec![work(1), work(2)]));
        assert!(!report.steps((0..9).map(work).collect()));
        assert_eq!(report.counts, Counts { passed: 3 + 33, failed: 1 });
        let order: Vec<char> = report.lines.iter().filter_map(|line| line.split("  ").last()?.chars().next()).collect();
        assert_eq!(String::from_iter(order), "12012345678");
        report.build_ahead(vec![work(3), work(4)]);
        assert_eq!(report.counts, Counts { passed: 37, failed: 1 });
    }

    #[test]
    fn tests_that_do_not_build_are_a_failure() {
        let mut skipped = Vec::new();
        let outcome =
            run_tests(&mut program("sh", &["-c", "echo 'skipped: a, no shared data'; exit 101"]), &mut skipped);
        assert!(matches!(outcome, Err(Stop::Failed(_))));
        assert_eq!(skipped, ["skipped: a, no shared data"]);
        assert!(matches!(run(&mut program("false", &[])), Err(Stop::Failed(_))));
        assert!(matches!(output(&mut program("no-such-program", &[])), Err(Stop::Failed(_))));
    }
}
