//! Documents that cannot drift: links that resolve, decisions that are listed, commands that the checks really run.

use super::{Finding, Source};

/// The README's command that runs the main job; `cargo xtask test` runs it too.
pub(crate) const RUN: &str = "cargo run --release -- run -p \"Once upon a time\"";
/// The README's command that installs what the tests need and passes them all; `.ci/run` calls it.
pub(crate) const TEST: &str = "cargo xtask test";

/// What a decision record must say.
const ADR_PARTS: &[&str] = &["## Context", "## Decision", "## Consequences"];
/// Documents that must be there.
const REQUIRED: &[&str] = &["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/adr/README.md"];

/// Everything wrong in the documents among `files`; `exists` says whether a path relative to the root is there.
pub(super) fn check(files: &[Source], exists: &dyn Fn(&str) -> bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    for path in REQUIRED.iter().filter(|path| find(files, path).is_none()) {
        findings.push(Finding { path: (*path).into(), line: 0, message: "this document is missing".into() });
    }
    for file in files.iter().filter(|file| file.path.ends_with(".md")) {
        findings.extend(links(file, exists));
    }
    findings.extend(decisions(files));
    findings.extend(commands(files));
    if let Some(file) = find(files, "CHANGELOG.md").filter(|file| !file.text.contains("\n## [Unreleased]")) {
        findings.push(file.finding(0, "no section `## [Unreleased]`"));
    }
    findings
}

fn find<'a>(files: &'a [Source], path: &str) -> Option<&'a Source> {
    files.iter().find(|file| file.path == path)
}

/// Links to files that are not there; links to other sites are not followed.
fn links(file: &Source, exists: &dyn Fn(&str) -> bool) -> Vec<Finding> {
    let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut findings = Vec::new();
    let mut is_code = false;
    for (number, line) in file.lines() {
        is_code ^= line.trim_start().starts_with("```");
        for target in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = target.split(['#', ' ']).next().unwrap_or(target);
            if is_code || path.is_empty() || path.contains("://") || path.starts_with("mailto:") {
                continue;
            }
            if resolve(folder, path).is_none_or(|path| !exists(&path)) {
                findings.push(file.finding(number, format!("the link to {path} leads nowhere")));
            }
        }
    }
    findings
}

/// `path` as seen from `folder`, relative to the root; `None` when it leaves the repository.
fn resolve(folder: &str, path: &str) -> Option<String> {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// Decision records that are not listed, not complete, or that share a number.
fn decisions(files: &[Source]) -> Vec<Finding> {
    let records = |path: &str| {
        let name = path.strip_prefix("docs/adr/")?.strip_suffix(".md")?;
        (name != "README" && !name.contains('/')).then(|| name.to_string())
    };
    let listing = find(files, "docs/adr/README.md").map_or("", |file| file.text.as_str());
    let mut findings = Vec::new();
    let mut numbers: Vec<String> = Vec::new();
    for (file, name) in files.iter().filter_map(|file| Some((file, records(&file.path)?))) {
        let number = name.split('-').next().unwrap_or_default().to_string();
        if number.len() != 4 || number.parse::<u32>().is_err() {
            findings.push(file.finding(0, "a decision is called NNNN-title.md"));
        }
        if numbers.contains(&number) {
            findings.push(file.finding(0, format!("another decision has the number {number}")));
        }
        numbers.push(number);
        if !listing.contains(&format!("({name}.md)")) {
            findings.push(file.finding(0, "docs/adr/README.md does not list this decision"));
        }
        for part in ADR_PARTS.iter().filter(|part| !file.text.contains(*part)) {
            findings.push(file.finding(0, format!("no section `{part}`")));
        }
    }
    findings
}

/// The README without its two commands, or a `.ci/run` that calls something else.
fn commands(files: &[Source]) -> Vec<Finding> {
    let has_line = |file: &Source, wanted: &str| file.lines().any(|(_, line)| line.trim() == wanted);
    let mut findings = Vec::new();
    for (path, wanted) in [("README.md", RUN), ("README.md", TEST), (".ci/run", &format!("exec {TEST}"))] {
        let Some(file) = find(files, path) else { continue };
        if !has_line(file, wanted) {
            findings.push(file.finding(0, format!("no line `{wanted}`")));
        }
    }
    if find(files, ".ci/run").is_none() {
        findings.push(Finding { path: ".ci/run".into(), line: 0, message: "this script is missing".into() });
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> Source {
        Source::new(path, text).unwrap_or_else(|finding| panic!("{finding}"))
    }

    fn messages(files: &[Source]) -> Vec<String> {
        let exists = |path: &str| files.iter().any(|file| file.path == path);
        check(files, &exists).iter().map(Finding::to_string).collect()
    }

    /// A repository whose documents are in order, with the text of `path` replaced.
    fn repository(path: &str, text: &str) -> Vec<Source> {
        let readme = format!("{RUN}\n{TEST}\n");
        let ci = format!("exec {TEST}\n");
        let mut files = vec![
            file("README.md", &readme),
            file("ARCHITECTURE.md", "see [the decisions](docs/adr/README.md#list)"),
            file("CONTRIBUTING.md", "[site](https://example.org/a)"),
            file("CHANGELOG.md", "# Changelog\n\n## [Unreleased]\n"),
            file("docs/adr/README.md", "- [first](0001-first.md)\n- [up](../../README.md)"),
            file("docs/adr/0001-first.md", "## Context\n## Decision\n## Consequences\n"),
            file(".ci/run", &ci),
        ];
        files.retain(|file| file.path != path);
        if !text.is_empty() {
            files.push(file(path, text));
        }
        files
    }

    #[test]
    fn documents_in_order_have_no_findings() {
        assert_eq!(messages(&repository("src/a.rs", "")), [""; 0]);
    }

    #[test]
    fn each_way_to_drift_is_refused() {
        for (path, text, expected) in [
            ("CONTRIBUTING.md", "", "CONTRIBUTING.md: this document is missing"),
            ("CONTRIBUTING.md", "\n[a](gone.md)", "CONTRIBUTING.md:2: the link to gone.md leads nowhere"),
            ("docs/a.md", "[a](../../README.md)", "docs/a.md:1: the link to ../../README.md leads nowhere"),
            ("CHANGELOG.md", "# Changelog", "CHANGELOG.md: no section `## [Unreleased]`"),
            (".ci/run", "cargo test", ".ci/run: no line `exec cargo xtask test`"),
            (".ci/run", "", ".ci/run: this script is missing"),
            ("README.md", RUN, "README.md: no line `cargo xtask test`"),
            (
                "docs/adr/0001-first.md",
                "## Context\n## Decision\n",
                "docs/adr/0001-first.md: no section `## Consequences`",
            ),
        ] {
            assert_eq!(messages(&repository(path, text)), [expected]);
        }
        let whole = "## Context\n## Decision\n## Consequences\n";
        assert_eq!(messages(&repository("docs/adr/0002-second.md", whole)).len(), 1, "not listed");
        assert_eq!(messages(&repository("docs/adr/0001-again.md", whole)).len(), 2, "not listed, number taken");
        assert_eq!(messages(&repository("docs/adr/second.md", whole)).len(), 2, "not listed, no number");
    }

    #[test]
    fn a_link_inside_code_is_text() {
        assert!(messages(&repository("CONTRIBUTING.md", "```\n[a](gone.md)\n```")).is_empty());
    }
}
