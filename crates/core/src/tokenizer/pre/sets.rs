//! The character sets that patterns name.

use crate::tokenizer::unicode::Class;

/// `\p{L}`
pub(super) fn is_letter(c: char) -> bool {
    Class::of(c).is_letter()
}

/// `\p{N}`
pub(super) fn is_number(c: char) -> bool {
    Class::of(c) == Class::Number
}

/// `[0-9]`
pub(super) fn is_digit(c: char) -> bool {
    c.is_ascii_digit()
}

/// `\p{P}`
pub(super) fn is_punctuation(c: char) -> bool {
    Class::of(c) == Class::Punctuation
}

/// `` [\p{P}$+<=>^~|`] ``: Unicode's punctuation and ASCII's
pub(super) fn is_falcon_punctuation(c: char) -> bool {
    c.is_ascii_punctuation() || is_punctuation(c)
}

/// `[\p{P}$+<=>^~|]`: as Falcon's, without the backtick
pub(super) fn is_old_punctuation(c: char) -> bool {
    c != '`' && is_falcon_punctuation(c)
}

/// `[\r\n]`
pub(super) fn is_break(c: char) -> bool {
    matches!(c, '\r' | '\n')
}

/// `[^\n]`; what lies between the runs are the runs of `\n`
pub(super) fn is_line(c: char) -> bool {
    c != '\n'
}

/// `[^(\s|.,!?…。，、।۔،)]` (the parentheses and the bar are in the set)
pub(super) fn is_bloom_word(c: char) -> bool {
    !c.is_whitespace()
        && !matches!(c, '(' | ')' | '|' | '.' | ',' | '!' | '?' | '…' | '。' | '，' | '、' | '।' | '۔' | '،')
}

/// `[一-龥ࠀ-一가-퟿]`: DeepSeek's idea of Chinese, Japanese and Korean, which begins with the Samaritan letters
pub(super) fn is_chinese(c: char) -> bool {
    matches!(c, '\u{800}'..='\u{9fa5}' | '\u{ac00}'..='\u{d7ff}')
}

/// `[一-龥぀-ゟ゠-ヿ]`
pub(super) fn is_chinese_or_kana(c: char) -> bool {
    matches!(c, '\u{4e00}'..='\u{9fa5}' | '\u{3040}'..='\u{30ff}')
}

/// `[!-/:-~！-／：-～‘-‟　-。]`: the ASCII range has the letters in it
pub(super) fn is_wide_punctuation(c: char) -> bool {
    matches!(c, '!'..='/' | ':'..='~' | '！'..='／' | '：'..='～' | '\u{2018}'..='\u{201f}' | '\u{3000}'..='\u{3002}')
}

/// First and last of the ranges of DeepSeek LLM's letters beyond ASCII: those with case in a Unicode of some years ago.
#[rustfmt::skip]
static CASED: [(u32, u32); 85] = [
    (0xb5, 0xb5), (0xc0, 0xd6), (0xd8, 0xf6), (0xf8, 0x1ba), (0x1bc, 0x1bf), (0x1c4, 0x293),
    (0x295, 0x2af), (0x370, 0x373), (0x376, 0x376), (0x377, 0x377), (0x37b, 0x37d), (0x37f, 0x37f),
    (0x386, 0x386), (0x388, 0x38a), (0x38c, 0x38c), (0x38e, 0x3a1), (0x3a3, 0x3f5), (0x3f7, 0x481),
    (0x48a, 0x52f), (0x531, 0x556), (0x10a0, 0x10c5), (0x13a0, 0x13f5), (0x13f8, 0x13fd), (0x1c90, 0x1cba),
    (0x1cbd, 0x1cbf), (0x1d00, 0x1d2b), (0x1d6b, 0x1d77), (0x1d79, 0x1d9a), (0x1e00, 0x1f15), (0x1f18, 0x1f1d),
    (0x1f20, 0x1f45), (0x1f48, 0x1f4d), (0x1f50, 0x1f57), (0x1f59, 0x1f59), (0x1f5b, 0x1f5b), (0x1f5d, 0x1f5d),
    (0x1f5f, 0x1f7d), (0x1f80, 0x1fb4), (0x1fb6, 0x1fbc), (0x1fbe, 0x1fbe), (0x1fc2, 0x1fc4), (0x1fc6, 0x1fcc),
    (0x1fd0, 0x1fd3), (0x1fd6, 0x1fdb), (0x1fe0, 0x1fec), (0x1ff2, 0x1ff4), (0x1ff6, 0x1ffc), (0x2102, 0x2102),
    (0x2107, 0x2107), (0x210a, 0x2113), (0x2115, 0x2115), (0x2119, 0x211d), (0x2124, 0x2124), (0x2126, 0x2126),
    (0x2128, 0x2128), (0x212a, 0x212d), (0x212f, 0x2134), (0x2139, 0x2139), (0x213c, 0x213f), (0x2145, 0x2149),
    (0x214e, 0x214e), (0x2183, 0x2183), (0x2184, 0x2184), (0x2c00, 0x2c7b), (0x2c7e, 0x2ce4), (0x2ceb, 0x2cee),
    (0x2cf2, 0x2cf2), (0x2cf3, 0x2cf3), (0xa640, 0xa66d), (0xa680, 0xa69b), (0xa722, 0xa76f), (0xa771, 0xa787),
    (0xa78b, 0xa78e), (0xab70, 0xabbf), (0xfb00, 0xfb06), (0xfb13, 0xfb17), (0xff21, 0xff3a), (0xff41, 0xff5a),
    (0x10400, 0x1044f), (0x104b0, 0x104d3), (0x104d8, 0x104fb), (0x10c80, 0x10cb2), (0x10cc0, 0x10cf2), (0x118a0, 0x118df),
    (0x1e900, 0x1e943),
];

/// `[A-Za-zµÀ-Ö...]`
pub(super) fn is_cased_letter(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_alphabetic();
    }
    let next = CASED.partition_point(|&(first, _)| first <= c as u32);
    next.checked_sub(1).is_some_and(|range| c as u32 <= CASED[range].1)
}
