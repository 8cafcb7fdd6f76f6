//! Pre-tokenizers: where byte-level BPE must not merge across.
//!
//! A pre-tokenizer is a row of stages; each cuts the pieces of the one before into what its pattern matches and what lies
//! between. The patterns are those of llama.cpp (`llama-vocab.cpp`) and the models' own `tokenizer.json`, written
//! out by hand: there is no regular-expression engine here. Each comment gives the pattern that its code matches.

mod sets;
mod words;

use super::unicode::Class;

/// What `tokenizer.ggml.pre` stands for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pre {
    names: &'static [&'static str],
    stages: &'static [Stage],
    /// A whole piece that is a token is not split by merges (tokenizers made from tiktoken's).
    pub(super) ignore_merges: bool,
    /// Whether a file that does not say so has its texts begin with BOS.
    pub(super) adds_bos: bool,
}

/// One pass over a piece.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// GPT-2's pattern.
    Gpt2,
    /// The pattern of tiktoken's `cl100k_base` and its relatives.
    Cl100k(words::Cl100k),
    /// The pattern of tiktoken's `o200k_base` and its relatives.
    O200k(words::O200k),
    /// The main pattern of DeepSeek V3.
    DeepSeek3,
    /// `[set]+`
    Run(fn(char) -> bool),
    /// `[set]`
    Each(fn(char) -> bool),
    /// `[set]{1,3}`
    UpToThree(fn(char) -> bool),
    /// `[set]{3}`
    Three(fn(char) -> bool),
    /// `\s?[set]+`
    SpaceAndRun(fn(char) -> bool),
    /// ` ?[set]+`
    BlankAndRun(fn(char) -> bool),
    /// `\s+$`
    TrailingSpace,
}

use Stage::{BlankAndRun, Each, Gpt2, Run, SpaceAndRun, Three, TrailingSpace, UpToThree};
use sets::{
    is_bloom_word, is_break, is_cased_letter, is_chinese, is_chinese_or_kana, is_digit, is_falcon_punctuation,
    is_letter, is_line, is_number, is_old_punctuation, is_punctuation, is_wide_punctuation,
};

const LLAMA3: Stage = Stage::Cl100k(words::Cl100k { max_digits: 3, ..words::Cl100k::QWEN2 });
const QWEN2: Stage = Stage::Cl100k(words::Cl100k::QWEN2);

/// A row without its names: not `ignore_merges`, no BOS.
const fn plain(names: &'static [&'static str], stages: &'static [Stage]) -> Pre {
    Pre { names, stages, ignore_merges: false, adds_bos: false }
}

/// Every pre-tokenizer that we know, by the names llama.cpp gives them.
static PRES: &[Pre] = &[
    plain(&["default"], &[Run(is_old_punctuation), Gpt2, Run(is_number), Three(is_digit)]),
    plain(
        &[
            "gpt-2",
            "phi-2",
            "mpt",
            "olmo",
            "jais",
            "jina-es",
            "jina-de",
            "jina-v2-es",
            "jina-v2-de",
            "gigachat",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "trillion",
            "granite-docling",
            "exaone4",
        ],
        &[Gpt2],
    ),
    plain(
        &["starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"],
        &[Each(is_number), Gpt2],
    ),
    plain(&["falcon"], &[Run(is_falcon_punctuation), Gpt2, Three(is_digit)]),
    Pre {
        ignore_merges: true,
        adds_bos: true,
        ..plain(
            &["llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"],
            &[LLAMA3],
        )
    },
    plain(&["dbrx", "smaug-bpe", "glm4", "chatglm-bpe"], &[LLAMA3]),
    plain(
        &[
            "qwen2",
            "deepseek-r1-qwen",
            "kormo",
            "f2llmv2",
            "megrez",
            "stablelm2",
            "hunyuan",
            "solar-open",
            "grok-2",
            "bailingmoe",
            "bailingmoe2",
            "llada-moe",
        ],
        &[QWEN2],
    ),
    plain(&["qwen35"], &[Stage::Cl100k(words::Cl100k { marks: true, ..words::Cl100k::QWEN2 })]),
    plain(&["seed-coder"], &[Stage::Cl100k(words::Cl100k { line_ends: false, ..words::Cl100k::QWEN2 })]),
    plain(&["ufakzeka"], &[Stage::Cl100k(words::Cl100k { contractions: false, ..words::Cl100k::QWEN2 })]),
    plain(&["laguna"], &[Run(is_line), QWEN2]),
    Pre {
        ignore_merges: true,
        ..plain(
            &["minicpm5"],
            &[UpToThree(is_number), Stage::Cl100k(words::Cl100k { max_digits: usize::MAX, ..words::Cl100k::QWEN2 })],
        )
    },
    plain(
        &["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"],
        &[Stage::O200k(words::O200k { max_digits: 3, contractions: true })],
    ),
    Pre {
        ignore_merges: true,
        adds_bos: true,
        ..plain(&["tekken"], &[Stage::O200k(words::O200k { max_digits: 1, contractions: false })])
    },
    plain(
        &["deepseek-llm"],
        &[
            Each(is_break),
            SpaceAndRun(is_cased_letter),
            SpaceAndRun(is_wide_punctuation),
            TrailingSpace,
            Run(is_chinese),
            Run(is_number),
        ],
    ),
    plain(
        &["deepseek-coder"],
        &[Each(is_break), SpaceAndRun(is_letter), SpaceAndRun(is_punctuation), Run(is_chinese), Each(is_number)],
    ),
    plain(
        &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"],
        &[UpToThree(is_number), Run(is_chinese_or_kana), Stage::DeepSeek3],
    ),
    plain(&["bloom", "poro-chat", "gpt3-finnish"], &[BlankAndRun(is_bloom_word)]),
    plain(&["viking"], &[BlankAndRun(is_bloom_word), Each(is_number)]),
];

impl Pre {
    /// The pre-tokenizer of this name.
    pub(super) fn named(name: &[u8]) -> Option<&'static Self> {
        PRES.iter().find(|pre| pre.names.iter().any(|known| known.as_bytes() == name))
    }

    /// Gives `word` every piece of `text` in order; stops at the first error.
    pub(super) fn split<E>(&self, text: &str, word: &mut impl FnMut(&str) -> Result<(), E>) -> Result<(), E> {
        split(self.stages, text, word)
    }
}

/// Cuts `text` by the first stage and each piece by the rest.
fn split<E>(stages: &[Stage], text: &str, word: &mut impl FnMut(&str) -> Result<(), E>) -> Result<(), E> {
    let Some((stage, rest)) = stages.split_first() else {
        return if text.is_empty() { Ok(()) } else { word(text) };
    };
    let mut done = 0;
    while let Some((start, end)) = stage.find(text, done) {
        split(rest, &text[done..start], word)?;
        split(rest, &text[start..end], word)?;
        done = end;
    }
    split(rest, &text[done..], word)
}

impl Stage {
    /// Where the first match at or after `from` begins and ends; it is never empty.
    fn find(self, text: &str, from: usize) -> Option<(usize, usize)> {
        match self {
            Gpt2 => words::gpt2(text, from).map(|end| (from, end)),
            Stage::Cl100k(pattern) => pattern.end(text, from).map(|end| (from, end)),
            Stage::O200k(pattern) => pattern.end(text, from).map(|end| (from, end)),
            Stage::DeepSeek3 => first(text, from, |at, _| words::deepseek3(text, at)),
            Run(set) => first(text, from, |at, c| set(c).then(|| run_end(text, at, set))),
            Each(set) => first(text, from, |at, c| set(c).then(|| at + c.len_utf8())),
            UpToThree(set) => first(text, from, |at, c| set(c).then(|| at + leading(text, at, set, 3).1)),
            Three(set) => first(text, from, |at, c| {
                let (n, bytes) = if set(c) { leading(text, at, set, 3) } else { (0, 0) };
                (n == 3).then_some(at + bytes)
            }),
            SpaceAndRun(set) => first(text, from, |at, c| space_and_run(text, at, c, c.is_whitespace(), set)),
            BlankAndRun(set) => first(text, from, |at, c| space_and_run(text, at, c, c == ' ', set)),
            TrailingSpace => {
                let start = text.trim_end().len().max(from);
                (start < text.len()).then_some((start, text.len()))
            }
        }
    }
}

/// The first position at or after `from` where `end_at` matches.
fn first(text: &str, from: usize, end_at: impl Fn(usize, char) -> Option<usize>) -> Option<(usize, usize)> {
    let mut chars = text[from..].char_indices();
    chars.find_map(|(at, c)| end_at(from + at, c).map(|end| (from + at, end)))
}

/// The character at byte `at`.
fn char_at(text: &str, at: usize) -> Option<char> {
    text.get(at..)?.chars().next()
}

/// The class of the character at byte `at`; `None` at the end.
fn class_at(text: &str, at: usize) -> Option<Class> {
    char_at(text, at).map(Class::of)
}

/// Where the characters of `set` from byte `at` on end.
fn run_end(text: &str, at: usize, set: impl Fn(char) -> bool) -> usize {
    at + text[at..].find(|c| !set(c)).unwrap_or(text.len() - at)
}

/// How many characters of `set` begin at byte `at`, no more than `max`, and their bytes.
fn leading(text: &str, at: usize, set: impl Fn(char) -> bool, max: usize) -> (usize, usize) {
    let chars = text[at..].chars().take(max).take_while(|&c| set(c));
    chars.fold((0, 0), |(n, bytes), c| (n + 1, bytes + c.len_utf8()))
}

/// An optional space, which `c` at byte `at` may be, and a run of `set`.
fn space_and_run(text: &str, at: usize, c: char, is_space: bool, set: fn(char) -> bool) -> Option<usize> {
    let after = at + c.len_utf8();
    if is_space && char_at(text, after).is_some_and(set) {
        return Some(run_end(text, after, set));
    }
    set(c).then(|| run_end(text, at, set))
}

#[cfg(test)]
mod tests;
