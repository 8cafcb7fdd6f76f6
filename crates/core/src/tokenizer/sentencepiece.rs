//! SentencePiece BPE: of all pairs of neighbours that make a token, the one with the best score is joined first.
//!
//! As in SentencePiece's `bpe_model.cc` and llama.cpp. A control, unknown or byte token never comes of joining, as in
//! SentencePiece; llama.cpp lets a text spell them.

use super::merge::{self, NO_PAIR, Symbols};
use super::out::Out;
use super::vocab::{Kind, Vocab};
use super::{Error, split_scratch};

/// The bytes of the character that begins with `byte`.
pub(super) fn char_bytes(byte: u8) -> usize {
    match byte {
        0..=0xbf => 1,
        0xc0..=0xdf => 2,
        0xe0..=0xef => 3,
        _ => 4,
    }
}

/// Scratch bytes for a text of `text_bytes`.
pub(super) fn scratch_bytes(text_bytes: usize) -> usize {
    let spaced = text_bytes.saturating_add(1);
    spaced.saturating_add(merge::scratch_bytes(spaced))
}

/// Encodes a text without special tokens; `adds_space` when it begins as if after a space.
pub(super) fn encode(
    vocab: &Vocab<'_>,
    text: &str,
    adds_space: bool,
    scratch: &mut [u8],
    out: &mut Out<'_>,
) -> Result<(), Error> {
    let need = scratch_bytes(text.len());
    let (spaced, scratch) = split_scratch(scratch, text.len() + 1, need)?;
    let n_bytes = write_spaced(text, adds_space, vocab.merges_spaces, spaced);
    let text = &spaced[..n_bytes];
    let got = scratch.len();
    let symbols = Symbols::new(text.len(), scratch, |at| char_bytes(text[at]));
    let mut symbols = symbols.ok_or(Error::Scratch(need, got + spaced.len()))?;
    let token = |start: usize, end: usize| {
        let span = text.get(start..end).filter(|span| span.len() <= vocab.max_bytes)?;
        vocab.find_text(span).filter(|&id| matches!(vocab.kind(id), Kind::Normal | Kind::UserDefined))
    };
    symbols.merge(|start, _, end| token(start, end).map_or(NO_PAIR, |id| key_of(vocab.score(id))));
    let mut start = 0;
    while start < text.len() {
        let end = symbols.end_of(start);
        match token(start, end) {
            Some(id) => out.push(id)?,
            None => out.push_unknown(vocab, &text[start..end])?,
        }
        start = end;
    }
    Ok(())
}

/// The score as a number that is the smaller the better the score, and never [`NO_PAIR`].
fn key_of(score: f32) -> u32 {
    // Adding zero makes of -0.0 the 0.0 that it equals.
    let bits = (score + 0.0).to_bits();
    let ascending = if bits >> 31 == 0 { bits | 0x8000_0000 } else { !bits };
    !ascending
}

/// Writes `text` into `spaced`, after a space if one is added; when `merges_spaces`, without spaces at its ends and with one in
/// place of several. Returns the bytes written.
fn write_spaced(text: &str, adds_space: bool, merges_spaces: bool, spaced: &mut [u8]) -> usize {
    let text = if merges_spaces { text.trim_matches(' ') } else { text };
    let mut n_bytes = 0;
    let mut before = 0;
    for byte in adds_space.then_some(b' ').into_iter().filter(|_| !text.is_empty()).chain(text.bytes()) {
        if merges_spaces && (before, byte) == (b' ', b' ') {
            continue;
        }
        if let Some(place) = spaced.get_mut(n_bytes) {
            *place = byte;
            n_bytes += 1;
        }
        before = byte;
    }
    n_bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn better_scores_have_smaller_keys() {
        let scores = [f32::INFINITY, 3.5, 1.0, f32::MIN_POSITIVE, 0.0, -1e-30, -1.0, -2.5e9, f32::NEG_INFINITY];
        assert!(scores.windows(2).all(|pair| key_of(pair[0]) < key_of(pair[1])));
        assert_eq!(key_of(0.0), key_of(-0.0));
        assert_ne!(key_of(f32::NEG_INFINITY), NO_PAIR);
    }

    #[test]
    fn spaces_are_added_and_merged() {
        let write = |text: &str, adds, merges| {
            let mut spaced = vec![0; text.len() + 1];
            let n_bytes = write_spaced(text, adds, merges, &mut spaced);
            String::from_utf8(spaced[..n_bytes].to_vec()).expect("text")
        };
        assert_eq!(write(" a  b ", true, false), "  a  b ");
        assert_eq!(write(" a  b ", true, true), " a b");
        assert_eq!(write(" a  b ", false, true), "a b");
        assert_eq!(write("   ", true, true), "");
    }
}
