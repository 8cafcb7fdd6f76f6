//! How a command ends: the exit status of DESIGN.md and the one line that explains it.

use std::fmt;
use std::io;
use std::path::Path;

/// How a command that printed its result ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Done (0).
    Done,
    /// What was asked does not fit the budget, as the report says (3).
    DoesNotFit,
    /// A target that was set is missed, as the report says (4).
    MissedTarget,
    /// Stopped by Ctrl-C after the report (130, as a shell reports that signal).
    Interrupted,
}

impl Status {
    /// The exit status of the process.
    pub fn code(self) -> u8 {
        match self {
            Status::Done => 0,
            Status::DoesNotFit => 3,
            Status::MissedTarget => 4,
            Status::Interrupted => 130,
        }
    }
}

/// Why a command did not do its work.
#[derive(Debug)]
pub enum Failure {
    /// Something outside went wrong: a full disk, a closed connection (1).
    Failed(String),
    /// Wrong usage or bad input (2).
    Input(String),
    /// It does not fit the budget (3).
    Budget(String),
    /// Ctrl-C, before there was anything to show (130).
    Interrupted,
    /// Whoever read our output has gone; nobody is left to tell (0).
    Closed,
}

impl Failure {
    /// The exit status of the process.
    pub fn code(&self) -> u8 {
        match self {
            Failure::Failed(_) => 1,
            Failure::Input(_) => 2,
            Failure::Budget(_) => 3,
            Failure::Interrupted => 130,
            Failure::Closed => 0,
        }
    }

    /// The failure to read the input file `path`: a file that is not there is bad input, a broken disk is not.
    pub fn reading(path: &Path, error: &io::Error) -> Self {
        let path = path.display();
        match error.kind() {
            io::ErrorKind::IsADirectory => Failure::Input(format!("{path}: is a directory, not a file")),
            io::ErrorKind::NotFound => Failure::Input(format!("{path}: no such file")),
            io::ErrorKind::PermissionDenied => Failure::Input(format!("{path}: permission denied")),
            _ => Failure::Failed(format!("{path}: {error}")),
        }
    }

    /// The failure to write the text that the command makes.
    pub fn writing(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::Closed,
            _ => Failure::Failed(format!("standard output: {error}")),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Failed(message) | Failure::Input(message) | Failure::Budget(message) => f.write_str(message),
            Failure::Interrupted => f.write_str("interrupted"),
            Failure::Closed => f.write_str("the reader of the output has gone"),
        }
    }
}

impl std::error::Error for Failure {}
