//! Which pre-tokenizer of llama.cpp a `tokenizer.json` asks for, told by its structure and its regular expressions.
//!
//! llama.cpp hashes what the tokenizer makes of a test text; the structure says the same without running it. The
//! expressions are those that the models' own files have; what is not in the table is an error that shows it.

use serde_json::Value;

use crate::error::Flaw;
use crate::hf::config::shorten;

/// One step of cutting text into words, as `tokenizer.json` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step<'a> {
    /// Matches of the expression stand alone.
    Split(&'a str),
    /// Digits stand apart from the rest, each alone when `true`.
    Digits(bool),
    /// Runs of punctuation stand alone.
    Punctuation,
    /// Bytes become characters, after GPT-2's expression has cut the text.
    Gpt2Bytes,
    /// Bytes become characters.
    Bytes,
}

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;
const CHINESE: &str = "[一-龥ࠀ-一가-퟿]+";
const CHINESE_OR_KANA: &str = "[一-龥぀-ゟ゠-ヿ]+";
const WIDE_PUNCTUATION: &str = r"\s?[!-/:-~！-／：-～‘-‟　-。]+";
const BLOOM: &str = r" ?[^(\s|[.,!?…。，、।۔،])]+";
/// The beginning of DeepSeek's list of every cased letter, which no other tokenizer has.
const CASED_LETTERS: &str = r"\s?[A-Za-zµÀ-ÖØ-öø-";

use Step::{Bytes, Digits, Gpt2Bytes, Punctuation, Split};

/// llama.cpp's name, the steps, and whether a whole word that is a token is never cut (`ignore_merges`).
type Known = (&'static str, &'static [Step<'static>], bool);

const KNOWN: &[Known] = &[
    ("gpt-2", &[Gpt2Bytes], false),
    ("smollm", &[Digits(true), Gpt2Bytes], false),
    ("llama-bpe", &[Split(LLAMA3), Bytes], true),
    ("dbrx", &[Split(LLAMA3), Bytes], false),
    ("qwen2", &[Split(QWEN2), Bytes], false),
    ("qwen35", &[Split(QWEN35), Bytes], false),
    ("gpt-4o", &[Split(GPT4O), Bytes], false),
    ("tekken", &[Split(TEKKEN), Bytes], true),
    ("falcon", &[Punctuation, Gpt2Bytes, Digits(false), Split("[0-9][0-9][0-9]")], false),
    ("bloom", &[Split(BLOOM), Bytes], false),
    ("deepseek-v3", &[Split(r"\p{N}{1,3}"), Split(CHINESE_OR_KANA), Split(DEEPSEEK3), Bytes], false),
    (
        "deepseek-coder",
        &[Split(r"[\r\n]"), Split(r"\s?\p{L}+"), Split(r"\s?\p{P}+"), Split(CHINESE), Digits(true), Bytes],
        false,
    ),
    (
        "deepseek-llm",
        &[
            Split(r"[\r\n]"),
            Split(CASED_LETTERS),
            Split(WIDE_PUNCTUATION),
            Split(r"\s+$"),
            Split(CHINESE),
            Digits(true),
            Bytes,
        ],
        false,
    ),
];

/// llama.cpp's name for the byte-level pre-tokenizer `value`, in a model with this `ignore_merges`.
///
/// # Errors
/// What is not known, with the regular expression or the JSON that says so.
pub(super) fn recognise(value: &Value, ignore_merges: bool) -> Result<&'static str, Flaw> {
    let mut found = Vec::new();
    steps(value, &mut found)?;
    for step in &mut found {
        if let Split(expression) = step
            && expression.starts_with(CASED_LETTERS)
        {
            *expression = CASED_LETTERS;
        }
    }
    let same_steps = |known: &&Known| known.1 == found;
    let known = KNOWN.iter().find(|known| same_steps(known) && known.2 == ignore_merges);
    if let Some(&(name, _, _)) = known {
        return Ok(name);
    }
    if KNOWN.iter().any(|known| same_steps(&known)) {
        return Err(Flaw::new(format!("model.ignore_merges: {ignore_merges} is not known with this pre_tokenizer")));
    }
    let unknown = found.iter().find_map(|step| match step {
        Split(expression) if !KNOWN.iter().any(|known| known.1.contains(step)) => Some(*expression),
        _ => None,
    });
    Err(Flaw::new(match unknown {
        Some(expression) => format!("pre_tokenizer: the expression {expression} is not known"),
        None => format!("pre_tokenizer: {value} is not known"),
    }))
}

/// Whether `value` has a step that turns bytes into characters.
pub(super) fn is_byte_level(value: &Value) -> bool {
    match value["type"].as_str() {
        Some("Sequence") => value["pretokenizers"].as_array().is_some_and(|list| list.iter().any(is_byte_level)),
        kind => kind == Some("ByteLevel"),
    }
}

/// Adds the steps of `value`, those of sequences one by one.
fn steps<'a>(value: &'a Value, found: &mut Vec<Step<'a>>) -> Result<(), Flaw> {
    let unknown = || Flaw::new(format!("pre_tokenizer: {} is not known", shorten(value)));
    let flag = |key: &str, default: bool| value[key].as_bool().unwrap_or(default);
    match value["type"].as_str().ok_or_else(unknown)? {
        "Sequence" => {
            for step in value["pretokenizers"].as_array().ok_or_else(unknown)? {
                steps(step, found)?;
            }
        }
        "ByteLevel" if flag("add_prefix_space", true) => {
            return Err(Flaw::new("pre_tokenizer: ByteLevel with add_prefix_space is not supported"));
        }
        "ByteLevel" => found.push(if flag("use_regex", true) { Gpt2Bytes } else { Bytes }),
        "Digits" => found.push(Digits(flag("individual_digits", false))),
        "Punctuation" if value["behavior"] == "Contiguous" => found.push(Punctuation),
        "Split" => {
            let expression = value["pattern"]["Regex"].as_str().ok_or_else(unknown)?;
            let isolated = value["behavior"] == "Isolated" && !flag("invert", false);
            // Keeping only the matches is the same when the expression matches everything, which its last branch says.
            let kept = value["behavior"] == "Removed" && flag("invert", false) && expression.ends_with(r"|\s+");
            if !isolated && !kept {
                return Err(unknown());
            }
            found.push(Split(expression));
        }
        _ => return Err(unknown()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn bytes(use_regex: bool) -> Value {
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
    }

    fn split(expression: &str) -> Value {
        json!({"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": false})
    }

    fn as_json(step: &Step<'_>) -> Value {
        match step {
            Split(expression) => split(expression),
            Digits(each) => json!({"type": "Digits", "individual_digits": each}),
            Punctuation => json!({"type": "Punctuation", "behavior": "Contiguous"}),
            Gpt2Bytes => bytes(true),
            Bytes => bytes(false),
        }
    }

    #[test]
    fn every_known_structure_is_found_by_its_json() {
        for (name, steps, ignore_merges) in KNOWN {
            let sequence = json!({"type": "Sequence", "pretokenizers": steps.iter().map(as_json).collect::<Vec<_>>()});
            assert_eq!(recognise(&sequence, *ignore_merges), Ok(*name));
        }
        assert_eq!(recognise(&bytes(true), false), Ok("gpt-2"), "a single step needs no sequence");
    }

    #[test]
    fn what_is_not_known_is_shown() {
        let odd = json!({"type": "Sequence", "pretokenizers": [split(r"\w+odd"), bytes(false)]});
        assert!(recognise(&odd, false).unwrap_err().to_string().contains(r"\w+odd"));
        let removed = json!({"type": "Split", "pattern": {"Regex": r"\p{N}"}, "behavior": "Removed", "invert": false});
        assert!(recognise(&removed, false).is_err());
        let prefixed = json!({"type": "ByteLevel", "add_prefix_space": true});
        assert!(recognise(&prefixed, false).unwrap_err().to_string().contains("add_prefix_space"));
        let swapped =
            json!({"type": "Sequence", "pretokenizers": [bytes(true), {"type": "Digits", "individual_digits": true}]});
        assert!(recognise(&swapped, false).is_err(), "the order matters");
        assert!(recognise(&bytes(true), true).unwrap_err().to_string().contains("ignore_merges"));
        assert!(recognise(&Value::Null, false).is_err());
    }

    #[test]
    fn keeping_matches_that_cover_everything_is_splitting() {
        let kept = json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": LLAMA3}, "behavior": "Removed", "invert": true}, bytes(false)]});
        assert_eq!(recognise(&kept, false), Ok("dbrx"));
    }
}
