//! Stories: what a board must print, and what it printed.

use super::command;
use crate::step::{self, Counts, ONE, Report, Stop, cargo, output, program, run};
use crate::test::IN_TESTS;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// How every story begins.
pub(super) const PROMPT: &str = "Once upon a time";

/// A story: its model, and how much of it is told in which cache.
#[derive(Clone, Copy, Debug)]
pub(super) struct Story<'a> {
    pub(super) model: &'a Path,
    pub(super) context_tokens: usize,
    pub(super) n_new: usize,
    pub(super) cache: &'a str,
}

/// The desktop's teller, `crates/cli/examples/teller.rs`: with the engine that the tests are built with, so that it is not built again.
pub(super) struct Desktop {
    program: PathBuf,
}

impl Desktop {
    /// Builds it with the tests: alone it would get other features of what it depends on, and be built once more.
    pub(super) fn build(report: &mut Report) -> Option<Desktop> {
        let words = ["test", "--no-run", "--locked", "--quiet"];
        let built = report.step("ports: the desktop's teller", |_| run(cargo(&words).args(IN_TESTS)));
        built.then(|| Desktop { program: crate::root().join("target/debug/examples/teller") })
    }

    /// What a board must print of `story`: the text and the hash of the logits. The text is also what `smidgen run` prints.
    pub(super) fn tell(&self, story: &Story<'_>) -> Result<String, Stop> {
        let (context, n_new) = (story.context_tokens.to_string(), story.n_new.to_string());
        let path = story.model.to_string_lossy();
        let told =
            output(&mut program(&self.program.to_string_lossy(), &[&path, &context, &n_new, story.cache, PROMPT]))?;
        let expected = proof(&told).ok_or(Stop::Failed(format!("{path}: the teller told nothing: {told:?}")))?;
        let words = [
            "run",
            &path,
            "-p",
            PROMPT,
            "--temp",
            "0",
            "-c",
            &context,
            "-n",
            &n_new,
            "--ctk",
            story.cache,
            "--ctv",
            story.cache,
        ];
        let text = output(&mut program(&command(), &words))?;
        match proof_text(&expected) == text.trim_end() {
            true => Ok(expected),
            false => Err(Stop::Failed(format!("{path}: 'smidgen run' tells another story: {text:?}"))),
        }
    }
}

/// What of `printed` is the same on every machine: from the prompt to the hash of the logits.
pub(super) fn proof(printed: &str) -> Option<String> {
    let printed = printed.replace('\r', "");
    let hash = printed.find("[smidgen] tokens ")?;
    // A firmware may show the prompt too, but the story begins a line.
    let begins_line = |at: &usize| *at == 0 || printed.as_bytes()[at - 1] == b'\n';
    let start = printed[..hash].match_indices(PROMPT).map(|(at, _)| at).filter(begins_line).last()?;
    let end = printed[hash..].find('\n').map_or(printed.len(), |length| hash + length);
    Some(printed[start..end].to_string())
}

/// The story of a proof.
fn proof_text(proof: &str) -> &str {
    proof.rsplit_once("\n[smidgen]").map_or(proof, |(text, _)| text.trim_end())
}

/// Whether `printed` is the story that was `expected`; what differs is said.
pub(super) fn compare(name: &str, printed: &str, expected: &str) -> Result<Counts, Stop> {
    if proof(printed).as_deref() == Some(expected) {
        return Ok(ONE);
    }
    step::say(&format!("{name} printed:\n{printed}\nwanted:\n{expected}"));
    Err(Stop::Failed("not what the desktop prints".into()))
}

/// The number that follows `before` in `printed`.
fn number(printed: &str, before: &str) -> Value {
    let printed = printed.replace('\r', "");
    let digits =
        printed.split(before).nth(1).map(|rest| rest.chars().take_while(char::is_ascii_digit).collect::<String>());
    digits.and_then(|digits| digits.parse::<u64>().ok()).map_or(Value::Null, Value::from)
}

/// What a board says of itself, as a row of a record. Under `-icount shift=0` an instruction takes a nanosecond.
pub(super) fn row(board: &str, story: &Story<'_>, printed: &str) -> Value {
    json!({
        "board": board,
        "model": story.model.file_name().map(|name| name.to_string_lossy().into_owned()),
        "context_tokens": story.context_tokens,
        "cache": story.cache,
        "planned_bytes": number(printed, "planned "),
        "used_bytes": number(printed, "used "),
        "flash_bytes": number(printed, "flash "),
        "static_bytes": number(printed, "statics "),
        "stack_bytes": number(printed, "stack "),
        "instructions_per_token": number(printed, " bytes\n[smidgen] "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = ">> firmware\r\nOnce upon a time, there\r\n[smidgen] tokens 5 + 2, logits 00ff\r\n\
                           [smidgen] planned 100 bytes, used 90 bytes\n[smidgen] 1234 ns for each token\n";

    #[test]
    fn the_proof_is_the_story_and_the_hash() {
        let expected = "Once upon a time, there\n[smidgen] tokens 5 + 2, logits 00ff";
        assert_eq!(proof(PRINTED).as_deref(), Some(expected));
        assert_eq!(proof("Once upon a time, there"), None);
        assert!(compare("board", PRINTED, expected).is_ok());
        assert!(compare("board", &PRINTED.replace("ff", "fe"), expected).is_err());
    }

    #[test]
    fn figures_are_read() {
        let story = Story { model: Path::new("a/b.gguf"), context_tokens: 7, n_new: 2, cache: "f32" };
        let row = row("board", &story, PRINTED);
        assert_eq!(row["planned_bytes"], 100);
        assert_eq!(row["instructions_per_token"], 1234);
        assert_eq!(row["flash_bytes"], Value::Null);
        assert_eq!(row["model"], "b.gguf");
    }
}
