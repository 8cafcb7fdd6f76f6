//! What can go wrong outside of core: one line that names the file, the field and what to do.

use std::fmt;
use std::io;
use std::path::Path;

/// Something wrong inside a file, before it is known which file: parsers of byte slices return it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw(String);

impl Flaw {
    /// A flaw described by `message`, which names the field and where it lies.
    pub fn new(message: impl fmt::Display) -> Self {
        Flaw(message.to_string())
    }

    /// The same flaw with the file that has it.
    pub fn in_file(self, path: impl AsRef<Path>) -> Error {
        Error::bad(path, self.0)
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_line(f, &self.0)
    }
}

impl std::error::Error for Flaw {}

/// Whose fault an [`Error`] is, which decides the exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The input or the request is wrong.
    BadInput,
    /// The input may be right but the work could not be done: a full disk, a server that does not answer.
    Failed,
    /// It would need more memory than it may take.
    TooLarge,
}

/// A failure to read, import, convert or download a model.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    subject: String,
    message: String,
}

impl Error {
    /// The file (or name) `subject` is not usable input, for the reason in `message`.
    pub fn bad(subject: impl AsRef<Path>, message: impl fmt::Display) -> Self {
        Error { kind: Kind::BadInput, subject: subject.as_ref().display().to_string(), message: message.to_string() }
    }

    /// Work on `subject` failed for a reason that lies outside of it.
    pub fn failed(subject: impl AsRef<Path>, message: impl fmt::Display) -> Self {
        Error { kind: Kind::Failed, ..Error::bad(subject, message) }
    }

    /// Work on `subject` would need more memory than it may take.
    pub fn too_large(subject: impl AsRef<Path>, message: impl fmt::Display) -> Self {
        Error { kind: Kind::TooLarge, ..Error::bad(subject, message) }
    }

    /// An input file could not be opened: its name or its permissions are wrong, which is for the caller to mend.
    pub fn opening(path: impl AsRef<Path>, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Error::bad(path, "no such file or directory"),
            _ => Error::bad(path, format!("cannot be opened: {error}")),
        }
    }

    /// An input file that was open could not be read further.
    pub fn reading(path: impl AsRef<Path>, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Error::bad(path, "the file became shorter while it was read"),
            _ => Error::failed(path, format!("cannot be read: {error}")),
        }
    }

    /// An output file could not be written.
    pub fn writing(path: impl AsRef<Path>, error: &io::Error) -> Self {
        Error::failed(path, format!("cannot be written: {error}"))
    }

    /// The exit status for this error: 2 for bad input, 1 for work that failed, 3 for what does not fit.
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            Kind::BadInput => 2,
            Kind::Failed => 1,
            Kind::TooLarge => 3,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_line(f, &self.subject)?;
        f.write_str(": ")?;
        write_line(f, &self.message)
    }
}

impl std::error::Error for Error {}

/// Writes `text` on one line: a name taken from a file must not write control codes on a terminal.
fn write_line(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    for character in text.chars() {
        let shown = if character.is_control() { '?' } else { character };
        fmt::Write::write_char(f, shown)?;
    }
    Ok(())
}

/// For a message: the first `n_shown` of `names`, and how many more there are.
pub fn listed(names: &[String], n_shown: usize) -> String {
    let shown = names[..names.len().min(n_shown)].join(", ");
    match names.len().saturating_sub(n_shown) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_whatever_the_file_says() {
        let error = Flaw::new("tensor 'a\nb\x1b[2J' is missing").in_file("some\nfile");
        assert_eq!(error.to_string(), "some?file: tensor 'a?b?[2J' is missing");
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn a_wrong_name_is_bad_input_and_a_broken_disk_is_not() {
        assert_eq!(Error::opening("x", &io::ErrorKind::NotFound.into()).exit_code(), 2);
        assert_eq!(Error::reading("x", &io::Error::other("disk on fire")).exit_code(), 1);
        assert_eq!(Error::writing("x", &io::ErrorKind::StorageFull.into()).exit_code(), 1);
    }
}
