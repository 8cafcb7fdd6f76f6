//! Character classes for the pre-tokenizers: the general categories of Unicode, grouped as the patterns ask for them.

use super::unicode_table::{OFFSETS, RUNS, STARTS};

/// What kind of character it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Capital and title-case letters (`Lu`, `Lt`).
    Upper,
    /// Small letters (`Ll`).
    Lower,
    /// Letters without case (`Lm`, `Lo`).
    Letter,
    /// Combining marks (`M`).
    Mark,
    /// Digits and other numbers (`N`).
    Number,
    /// Punctuation (`P`).
    Punctuation,
    /// Symbols (`S`).
    Symbol,
    /// White space (the property `White_Space`, which is `\s`).
    Space,
    /// Controls, format characters, private use and what is not assigned.
    Other,
}

/// Indexed by the class numbers of `tools/unicode_classes.py`.
const CLASSES: [Class; 9] = [
    Class::Upper,
    Class::Lower,
    Class::Letter,
    Class::Mark,
    Class::Number,
    Class::Punctuation,
    Class::Symbol,
    Class::Space,
    Class::Other,
];
/// The number that stands for capital and small letters in turn, the capital first.
const PAIRS: u8 = 9;

impl Class {
    /// The class of `c`.
    pub(super) fn of(c: char) -> Self {
        match c {
            'a'..='z' => Class::Lower,
            'A'..='Z' => Class::Upper,
            '0'..='9' => Class::Number,
            ' ' | '\t'..='\r' => Class::Space,
            _ => Self::look_up(c as u32),
        }
    }

    /// Walks the runs from the last indexed one that begins at or before `code`.
    fn look_up(code: u32) -> Self {
        let block = STARTS.partition_point(|&start| start <= code).saturating_sub(1);
        let mut start = STARTS[block];
        let mut at = usize::from(OFFSETS[block]);
        while let Some(&head) = RUNS.get(at) {
            let byte = |index: usize| u32::from(RUNS.get(at + index).copied().unwrap_or(0));
            let (len, bytes) = match head & 15 {
                14 => (byte(1) + 1, 2),
                15 => ((byte(1) | byte(2) << 8 | byte(3) << 16) + 1, 4),
                short => (u32::from(short) + 1, 1),
            };
            if code < start + len {
                return match head >> 4 {
                    PAIRS if (code - start).is_multiple_of(2) => Class::Upper,
                    PAIRS => Class::Lower,
                    kind => CLASSES[usize::from(kind).min(CLASSES.len() - 1)],
                };
            }
            start += len;
            at += bytes;
        }
        Class::Other
    }

    /// `\p{L}`
    pub(super) fn is_letter(self) -> bool {
        matches!(self, Class::Upper | Class::Lower | Class::Letter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_each_class() {
        for (c, class) in [
            ('A', Class::Upper),
            ('ǅ', Class::Upper),
            ('Ā', Class::Upper),
            ('ā', Class::Lower),
            ('ß', Class::Lower),
            ('ʰ', Class::Letter),
            ('中', Class::Letter),
            ('\u{301}', Class::Mark),
            ('½', Class::Number),
            ('٣', Class::Number),
            ('“', Class::Punctuation),
            ('$', Class::Symbol),
            ('😀', Class::Symbol),
            ('\u{3000}', Class::Space),
            ('\u{85}', Class::Space),
            ('\0', Class::Other),
            ('\u{200d}', Class::Other),
            ('\u{10ffff}', Class::Other),
        ] {
            assert_eq!(Class::of(c), class, "{c:?}");
        }
    }

    /// The standard library knows three of the classes for itself (its Unicode may be a version older: new letters).
    #[test]
    fn agrees_with_the_standard_library() {
        for c in '\0'..=char::MAX {
            assert_eq!(Class::of(c) == Class::Space, c.is_whitespace(), "{c:?}");
            assert!(!c.is_numeric() || Class::of(c) == Class::Number, "{c:?}");
            if c.is_ascii() {
                assert_eq!(Class::of(c).is_letter(), c.is_alphabetic(), "{c:?}");
            }
        }
    }
}
