//! The patterns that cut a text into words: alternatives tried in order at one position, each as long as it gets.

use super::super::unicode::Class;
use super::{char_at, class_at, leading, run_end};

/// The byte length of an English contraction (`'s 't 're 've 'm 'll 'd`) at byte `at`.
fn contraction(text: &str, at: usize, any_case: bool) -> Option<usize> {
    let rest = text.as_bytes().get(at..)?.strip_prefix(b"'")?;
    let letter = |index: usize| {
        let byte = rest.get(index).copied().unwrap_or(0);
        if any_case { byte.to_ascii_lowercase() } else { byte }
    };
    match (letter(0), letter(1)) {
        (b's' | b't' | b'm' | b'd', _) => Some(2),
        (b'r' | b'v', b'e') | (b'l', b'l') => Some(3),
        _ => None,
    }
}

/// `\s+(?!\S)|\s+` from byte `at` on: space before a word leaves one character to it. With `lines`, `\s*[\r\n]+` goes first.
fn spaces(text: &str, at: usize, lines: bool) -> usize {
    let end = run_end(text, at, char::is_whitespace);
    let run = &text[at..end];
    if let (true, Some(last)) = (lines, run.rfind(['\r', '\n'])) {
        return at + last + 1;
    }
    let last = run.chars().next_back().map_or(0, char::len_utf8);
    if end == text.len() || run.len() == last { end } else { end - last }
}

/// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+` at byte `at`.
pub(super) fn gpt2(text: &str, at: usize) -> Option<usize> {
    let c = char_at(text, at)?;
    if let Some(bytes) = contraction(text, at, false) {
        return Some(at + bytes);
    }
    let word = at + usize::from(c == ' ');
    let is_other = |class| !matches!(class, Class::Space | Class::Number) && !Class::is_letter(class);
    Some(match class_at(text, word) {
        Some(class) if class.is_letter() => run_end(text, word, |c| Class::of(c).is_letter()),
        Some(Class::Number) => run_end(text, word, |c| Class::of(c) == Class::Number),
        Some(class) if is_other(class) => run_end(text, word, |c| is_other(Class::of(c))),
        _ => spaces(text, at, false),
    })
}

/// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,max}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
#[derive(Clone, Copy, Debug)]
pub(super) struct Cl100k {
    /// The most digits in one piece.
    pub(super) max_digits: usize,
    /// Whether the first alternative is there.
    pub(super) contractions: bool,
    /// Whether combining marks count as letters: `[\p{L}\p{M}]+`.
    pub(super) marks: bool,
    /// Whether line ends stay with the punctuation before them: `[\r\n]*`.
    pub(super) line_ends: bool,
}

impl Cl100k {
    pub(super) const QWEN2: Self = Self { max_digits: 1, contractions: true, marks: false, line_ends: true };

    /// Where the match at byte `at` ends.
    pub(super) fn end(self, text: &str, at: usize) -> Option<usize> {
        let c = char_at(text, at)?;
        if let (true, Some(bytes)) = (self.contractions, contraction(text, at, true)) {
            return Some(at + bytes);
        }
        let class = Class::of(c);
        let is_letter = |class: Class| class.is_letter() || (self.marks && class == Class::Mark);
        if class == Class::Number {
            return Some(at + leading(text, at, |c| Class::of(c) == Class::Number, self.max_digits).1);
        }
        let after = at + c.len_utf8();
        if is_letter(class) || (!matches!(c, '\r' | '\n') && class_at(text, after).is_some_and(is_letter)) {
            return Some(run_end(text, after, |c| is_letter(Class::of(c))));
        }
        let is_other = |class| !matches!(class, Class::Space | Class::Number) && !is_letter(class);
        let tail = |c| self.line_ends && matches!(c, '\r' | '\n');
        Some(punctuation(text, at, c, is_other, tail).unwrap_or_else(|| spaces(text, at, true)))
    }
}

/// ` ?[set]+[tail]*` at byte `at`, where `c` is.
fn punctuation(
    text: &str,
    at: usize,
    c: char,
    set: impl Fn(Class) -> bool,
    tail: impl Fn(char) -> bool,
) -> Option<usize> {
    let start = at + usize::from(c == ' ');
    class_at(text, start).filter(|&class| set(class))?;
    let end = run_end(text, start, |c| set(Class::of(c)));
    Some(run_end(text, end, tail))
}

/// With `U` for `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]` and `L` for `[\p{Ll}\p{Lm}\p{Lo}\p{M}]`:
/// `[^\r\n\p{L}\p{N}]?U*L+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?U+L*(?i:...)?|\p{N}{1,max}`
/// `| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`
///
/// This is the pattern of the models' own files; llama.cpp has an approximation of it in which marks are no letters and only
/// ASCII has case.
#[derive(Clone, Copy, Debug)]
pub(super) struct O200k {
    /// The most digits in one piece.
    pub(super) max_digits: usize,
    /// Whether contractions stay with the word.
    pub(super) contractions: bool,
}

impl O200k {
    /// Where the match at byte `at` ends.
    pub(super) fn end(self, text: &str, at: usize) -> Option<usize> {
        let c = char_at(text, at)?;
        if let Some(end) = word(text, at, c) {
            let tail = if self.contractions { contraction(text, end, true) } else { None };
            return Some(end + tail.unwrap_or(0));
        }
        if Class::of(c) == Class::Number {
            return Some(at + leading(text, at, |c| Class::of(c) == Class::Number, self.max_digits).1);
        }
        let is_other = |class| !matches!(class, Class::Space | Class::Number) && !Class::is_letter(class);
        let tail = |c| matches!(c, '\r' | '\n' | '/');
        Some(punctuation(text, at, c, is_other, tail).unwrap_or_else(|| spaces(text, at, true)))
    }
}

/// The two word alternatives of [`O200k`], each with and then without a character before the word.
fn word(text: &str, at: usize, c: char) -> Option<usize> {
    let class = Class::of(c);
    let after = at + c.len_utf8();
    let may_lead = !matches!(c, '\r' | '\n') && class != Class::Number && !class.is_letter();
    let starts = [may_lead.then_some(after), Some(at)];
    let matched = |body: fn(&str, usize) -> Option<usize>| starts.iter().flatten().find_map(|&at| body(text, at));
    matched(small_word).or_else(|| matched(capital_word))
}

fn is_capital(c: char) -> bool {
    matches!(Class::of(c), Class::Upper | Class::Letter | Class::Mark)
}

fn is_small(c: char) -> bool {
    matches!(Class::of(c), Class::Lower | Class::Letter | Class::Mark)
}

/// `U*L+`: when no small letter follows the capitals, the last of them that may be either is given back to `L+`.
fn small_word(text: &str, at: usize) -> Option<usize> {
    let middle = run_end(text, at, is_capital);
    if char_at(text, middle).is_some_and(is_small) {
        return Some(run_end(text, middle, is_small));
    }
    let last = text[at..middle].char_indices().rfind(|&(_, c)| is_small(c));
    last.map(|(start, c)| at + start + c.len_utf8())
}

/// `U+L*`
fn capital_word(text: &str, at: usize) -> Option<usize> {
    let middle = run_end(text, at, is_capital);
    (middle > at).then(|| run_end(text, middle, is_small))
}

/// ``[!-/:-@\[-`{-~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`` at
/// byte `at`; digits and controls match nothing.
pub(super) fn deepseek3(text: &str, at: usize) -> Option<usize> {
    let c = char_at(text, at)?;
    let class = Class::of(c);
    let after = at + c.len_utf8();
    let next = char_at(text, after);
    if c.is_ascii_punctuation() && next.is_some_and(|c| c.is_ascii_alphabetic()) {
        return Some(run_end(text, after, |c| c.is_ascii_alphabetic()));
    }
    let is_letter = |class: Class| class.is_letter() || class == Class::Mark;
    let is_sign = |class| matches!(class, Class::Punctuation | Class::Symbol);
    let may_lead = !matches!(c, '\r' | '\n') && !is_sign(class);
    if is_letter(class) || (may_lead && next.map(Class::of).is_some_and(is_letter)) {
        return Some(run_end(text, after, |c| is_letter(Class::of(c))));
    }
    if let Some(end) = punctuation(text, at, c, is_sign, |c| matches!(c, '\r' | '\n')) {
        return Some(end);
    }
    (class == Class::Space).then(|| spaces(text, at, true))
}
