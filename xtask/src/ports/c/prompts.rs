//! The encoders in exported C: the same tokens as the command's, from a text that the program is given.

use super::strict;
use crate::ports::weights::Weights;
use crate::ports::{Extent, command, folder};
use crate::step::{self, Counts, Report, Stop, output, program};

/// Texts with what encoders differ in: nothing, blanks at either end, lines, digits and contractions; letters of other scripts; a
/// character that no small vocabulary has; bytes that are controls.
const TEXTS: &[&str] = &[
    "Once upon a time",
    "",
    " ",
    "  two blanks before, three behind   ",
    "A tab\tand two lines:\n\n\"Don't!\" she'll say; it's 1234 o'clock.",
    "Zo\u{eb} et le gar\u{e7}on, \u{43a}\u{43e}\u{448}\u{43a}\u{430}, \u{732b}.",
    "A cat \u{1f408} and \u{e000}\u{e001}, once",
    "\u{1}\u{7f}",
];
/// Longer than the programs take.
const LONG_BYTES: usize = 600;
const CONTEXT_TOKENS: &str = "256";

/// Encodes all texts with models of each kind of tokenizer.
pub(super) fn all(report: &mut Report, extent: Extent) {
    for (name, weights, is_ascii) in [
        ("SentencePiece", Weights::Stories260K("f32"), false),
        ("SentencePiece without bytes", Weights::Babyllama("q4_w"), false),
        ("byte-level BPE", Weights::Tales("q8_0"), true),
    ] {
        if extent == Extent::All || !matches!(weights, Weights::Babyllama(_)) {
            report.step(&format!("ports: C89, {name}"), |_| encode(weights, is_ascii));
        }
    }
}

/// Encodes every text in C and by the command; an encoder that `is_ascii` refuses all other texts.
fn encode(weights: Weights, is_ascii: bool) -> Result<Counts, Stop> {
    let model = weights.model()?;
    let folder = folder()?.join("c-prompts");
    super::export(&model, &folder, &["-c", CONTEXT_TOKENS])?;
    let loaded = strict::loaded("gcc", &folder)?;
    let long = "a ".repeat(LONG_BYTES / 2);
    let texts: Vec<&str> = TEXTS.iter().copied().chain([long.as_str()]).collect();
    let printed = output(program(&loaded, &["model.bin"]).args(&texts).current_dir(&folder))?;
    let lines: Vec<&str> = printed.lines().collect();
    if lines.len() != texts.len() {
        return Err(Stop::Failed(format!("{} lines for {} texts:\n{printed}", lines.len(), texts.len())));
    }
    let mut counts = Counts::default();
    for (text, line) in texts.iter().zip(lines) {
        let is_taken = text.len() < LONG_BYTES && !(is_ascii && text.bytes().any(|byte| byte > 126));
        let words = ["tokenize", &model.to_string_lossy(), "--no-parse-special", "-p", text];
        let wanted = if is_taken { output(&mut program(&command(), &words))? } else { "refused".into() };
        if line == wanted.trim_end() {
            counts.passed += 1;
        } else {
            counts.failed += 1;
            step::say(&format!("{text:?} in C: {line}\nwanted: {}", wanted.trim_end()));
        }
    }
    Ok(counts)
}
