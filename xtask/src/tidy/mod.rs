//! House rules as a program: a command (`cargo xtask tidy`) and a `#[test]` at once.
//!
//! Each check is a function from files to findings, with a test that shows a file it refuses: a check that cannot
//! fail holds nothing.

mod deps;
pub(crate) mod documents;
mod figures;
mod floats;
mod names;
mod order;
mod sizes;
mod tokens;
mod unsafety;
mod words;

use std::fmt;
use std::path::Path;
use std::process::Command;

/// A rule broken, and where.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    path: String,
    /// Counted from 1; 0 when the whole file is meant.
    line: usize,
    message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.message),
            line => write!(f, "{}:{line}: {}", self.path, self.message),
        }
    }
}

/// One text file of the repository.
pub(crate) struct Source {
    /// Relative to the root, with `/` between its parts.
    path: String,
    text: String,
    /// What the text means, when it is Rust.
    syntax: Option<syn::File>,
}

impl Source {
    /// A file with `text` at `path`.
    ///
    /// # Errors
    /// A finding when it is a Rust file that does not parse.
    fn new(path: &str, text: &str) -> Result<Self, Finding> {
        let syntax = match path.ends_with(".rs") {
            true => Some(syn::parse_file(text).map_err(|error| Finding {
                path: path.into(),
                line: error.span().start().line,
                message: format!("this Rust does not parse: {error}"),
            })?),
            false => None,
        };
        Ok(Self { path: path.into(), text: text.into(), syntax })
    }

    fn finding(&self, line: usize, message: impl Into<String>) -> Finding {
        Finding { path: self.path.clone(), line, message: message.into() }
    }

    /// The lines with their numbers, counted from 1.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }

    /// Whether the file lies in `folder`, such as `crates/core/src/`.
    fn is_in(&self, folder: &str) -> bool {
        self.path.starts_with(folder)
    }
}

/// Every rule over the repository at `root`, sorted by file.
///
/// # Errors
/// What could not be read or run, in one line.
pub(crate) fn findings(root: &Path) -> Result<Vec<Finding>, String> {
    let (files, mut findings) = read(root)?;
    for file in &files {
        findings.extend(sizes::check(file));
        findings.extend(words::check(file));
        findings.extend(names::check(file));
        findings.extend(unsafety::check(file));
        findings.extend(order::check(file));
        findings.extend(floats::check(file));
    }
    findings.extend(documents::check(&files, &|path| root.join(path).exists()));
    findings.extend(figures::check(&files));
    findings.extend(deps::check(&metadata(root)?));
    findings.sort();
    findings.dedup();
    Ok(findings)
}

/// The text files that git tracks, or would once they are added; what does not parse comes back as findings.
fn read(root: &Path) -> Result<(Vec<Source>, Vec<Finding>), String> {
    let listing = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .map_err(|error| format!("git ls-files: {error}"))?;
    if !listing.status.success() {
        return Err(format!("git ls-files: {}", String::from_utf8_lossy(&listing.stderr).trim()));
    }
    let listing = String::from_utf8(listing.stdout).map_err(|_| "a file name is not UTF-8".to_string())?;
    let (mut files, mut findings) = (Vec::new(), Vec::new());
    for path in listing.split_terminator('\0') {
        let Ok(bytes) = std::fs::read(root.join(path)) else { continue }; // Deleted, but not yet from the index.
        let Ok(text) = String::from_utf8(bytes) else { continue }; // A model, a picture: not text.
        match Source::new(path, &text) {
            Ok(file) => files.push(file),
            Err(finding) => findings.push(finding),
        }
    }
    Ok((files, findings))
}

/// What `cargo metadata` says of the workspace.
fn metadata(root: &Path) -> Result<serde_json::Value, String> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(root)
        .output()
        .map_err(|error| format!("cargo metadata: {error}"))?;
    if !output.status.success() {
        return Err(format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| format!("cargo metadata: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The messages that `check` has for one file.
    pub(super) fn messages(check: fn(&Source) -> Vec<Finding>, path: &str, text: &str) -> Vec<String> {
        let file = Source::new(path, text).unwrap_or_else(|finding| panic!("{finding}"));
        check(&file).iter().map(Finding::to_string).collect()
    }

    #[test]
    fn the_repository_is_tidy() {
        let findings = findings(&crate::root()).unwrap_or_else(|error| panic!("{error}"));
        let listing: Vec<String> = findings.iter().map(Finding::to_string).collect();
        assert!(listing.is_empty(), "{} findings:\n{}", listing.len(), listing.join("\n"));
    }

    #[test]
    fn rust_that_does_not_parse_is_a_finding() {
        let finding = Source::new("a.rs", "\nfn a( {}").err().map(|finding| (finding.line, finding.path));
        assert_eq!(finding, Some((2, "a.rs".into())));
    }
}
