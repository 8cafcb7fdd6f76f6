//! Unigram: of all ways to cut a text into tokens, the one with the best sum of scores.
//!
//! Viterbi's algorithm over the places between characters (Kudo 2018, arXiv 1804.10959; `unigram_model.cc` of
//! SentencePiece). A character that no token begins and ends with counts as unknown, at the worst score less ten. Sums are
//! `f64`, as in `tokenizers` and llama.cpp.

use super::charsmap::Charsmap;
use super::form::Form;
use super::out::Out;
use super::sentencepiece::char_bytes;
use super::strings::Hash;
use super::vocab::{Kind, Vocab};
use super::{Error, split_scratch};

/// How much worse than the worst token an unknown character is.
const UNKNOWN_PENALTY: f32 = 10.0;
/// How many times its bytes a text may have after normalisation for [`scratch_bytes`] to be enough. Few characters grow
/// more (U+FDFA grows elevenfold); a text of those is told how much it needs.
pub(super) const GROWTH: usize = 3;
/// A cell for each place: a score, the token that ends there and where it begins.
const CELL_BYTES: usize = 16;

/// Scratch bytes for a text of `text_bytes`.
pub(super) fn scratch_bytes(text_bytes: usize, has_charsmap: bool) -> usize {
    let growth = if has_charsmap { GROWTH } else { 1 };
    needed(text_bytes.saturating_mul(growth).saturating_add(1))
}

fn needed(normal_bytes: usize) -> usize {
    normal_bytes.saturating_mul(1 + CELL_BYTES).saturating_add(CELL_BYTES)
}

/// Encodes a text without special tokens; `adds_space` when it begins as if after a space.
pub(super) fn encode(
    vocab: &Vocab<'_>,
    charsmap: Option<&Charsmap<'_>>,
    text: &str,
    adds_space: bool,
    scratch: &mut [u8],
    out: &mut Out<'_>,
) -> Result<(), Error> {
    let mut counted = Normal::new(&mut [], vocab, adds_space);
    counted.push_text(charsmap, text);
    let need = needed(counted.len);
    let (bytes, cells) = split_scratch(scratch, counted.len, need)?;
    Normal::new(bytes, vocab, adds_space).push_text(charsmap, text);
    let text = &bytes[..];
    let got = cells.len();
    let (cells, _) = cells.as_chunks_mut::<CELL_BYTES>();
    let cells = cells.get_mut(..text.len() + 1).ok_or(Error::Scratch(need, got + text.len()))?;
    search(vocab, text, cells);
    trace_back(vocab, text, cells, out)
}

/// The best way to one place of the text.
#[derive(Clone, Copy)]
struct Way {
    score: f64,
    /// The token that leads there; [`Way::UNKNOWN`] for a character without one.
    id: u32,
    /// Where that token begins.
    start: u32,
}

impl Way {
    const UNKNOWN: u32 = u32::MAX;

    fn read(cell: &[u8; CELL_BYTES]) -> Self {
        let [a, b, c, d, e, f, g, h, id @ .., i, j, k, l] = *cell;
        Self {
            score: f64::from_ne_bytes([a, b, c, d, e, f, g, h]),
            id: u32::from_ne_bytes(id),
            start: u32::from_ne_bytes([i, j, k, l]),
        }
    }

    /// Writes this way into the cell of the place it leads to, if it is better than the one there.
    fn offer(self, cell: Option<&mut [u8; CELL_BYTES]>) {
        let Some(cell) = cell else { return };
        if self.score > Self::read(cell).score {
            cell[..8].copy_from_slice(&self.score.to_ne_bytes());
            cell[8..12].copy_from_slice(&self.id.to_ne_bytes());
            cell[12..].copy_from_slice(&self.start.to_ne_bytes());
        }
    }
}

/// Fills `cells`, one for each place of `text` and one for its end.
fn search(vocab: &Vocab<'_>, text: &[u8], cells: &mut [[u8; CELL_BYTES]]) {
    for cell in cells.iter_mut() {
        *cell = [0; CELL_BYTES];
        cell[..8].copy_from_slice(&f64::NEG_INFINITY.to_ne_bytes());
    }
    Way { score: 0.0, id: Way::UNKNOWN, start: 0 }.offer(cells.first_mut());
    let unknown_score = f64::from(vocab.min_score - UNKNOWN_PENALTY);
    let mut start = 0;
    while start < text.len() {
        let before = Way::read(&cells[start]).score;
        let first_end = (start + char_bytes(text[start])).min(text.len());
        let mut has_character = false;
        let mut hash = Hash::EMPTY;
        let mut n_spelled = 0;
        let mut end = start;
        while end < text.len() && n_spelled < vocab.max_bytes {
            let next = (end + char_bytes(text[end])).min(text.len());
            let character = &text[end..next];
            hash = hash.then_text(Form::Spaces, character);
            n_spelled += character.iter().map(|&byte| Form::Spaces.spell(byte).1).sum::<usize>();
            end = next;
            let wanted = &text[start..end];
            let Some(id) = vocab.tokens.find(hash, |token| Form::Spaces.equal(wanted, token)) else { continue };
            let id = id as u32;
            let score = match vocab.kind(id) {
                Kind::Normal => f64::from(vocab.score(id)),
                Kind::UserDefined => 0.0,
                Kind::Control | Kind::Unknown | Kind::Byte => continue,
            };
            has_character |= end == first_end;
            Way { score: before + score, id, start: start as u32 }.offer(cells.get_mut(end));
        }
        if !has_character {
            let way = Way { score: before + unknown_score, id: Way::UNKNOWN, start: start as u32 };
            way.offer(cells.get_mut(first_end));
        }
        start = first_end;
    }
}

/// Follows the best ways from the end of the text, then puts the tokens in order.
fn trace_back(vocab: &Vocab<'_>, text: &[u8], cells: &mut [[u8; CELL_BYTES]], out: &mut Out<'_>) -> Result<(), Error> {
    // Turns the links around: each place on the best path learns where the token that begins there ends.
    let mut end = text.len();
    let mut way = Way::read(&cells[end]);
    while end > 0 {
        let start = way.start as usize;
        let before = Way::read(&cells[start]);
        cells[start][8..12].copy_from_slice(&way.id.to_ne_bytes());
        cells[start][12..].copy_from_slice(&(end as u32).to_ne_bytes());
        end = start;
        way = before;
    }
    let mut start = 0;
    while start < text.len() {
        let way = Way::read(&cells[start]);
        let end = way.start as usize;
        match way.id {
            Way::UNKNOWN => out.push_unknown(vocab, &text[start..end])?,
            id => out.push(id)?,
        }
        start = end;
    }
    Ok(())
}

/// A text after normalisation, written as far as there is room for it, and counted.
struct Normal<'n> {
    bytes: &'n mut [u8],
    len: usize,
    merges_spaces: bool,
    /// Whether the next word has a space before it: the one added to the text, or one that stands for all before.
    owes_space: bool,
}

impl<'n> Normal<'n> {
    fn new(bytes: &'n mut [u8], vocab: &Vocab<'_>, adds_space: bool) -> Self {
        let mut normal = Self { bytes, len: 0, merges_spaces: vocab.merges_spaces, owes_space: adds_space };
        if !normal.merges_spaces && core::mem::take(&mut normal.owes_space) {
            normal.write(b' ');
        }
        normal
    }

    fn write(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.len) {
            *place = byte;
        }
        self.len += 1;
    }

    fn push(&mut self, byte: u8) {
        if self.merges_spaces && byte == b' ' {
            self.owes_space |= self.len > 0;
            return;
        }
        if core::mem::take(&mut self.owes_space) {
            self.write(b' ');
        }
        self.write(byte);
    }

    /// Adds `text`, its characters replaced by the charsmap.
    fn push_text(&mut self, charsmap: Option<&Charsmap<'_>>, text: &str) {
        let mut rest = text.as_bytes();
        while let Some(&byte) = rest.first() {
            let replaced = charsmap.and_then(|charsmap| charsmap.longest(rest));
            let n_bytes = char_bytes(byte).min(rest.len());
            let (n_bytes, normalised) = replaced.unwrap_or((n_bytes, &rest[..n_bytes]));
            normalised.iter().for_each(|&byte| self.push(byte));
            rest = &rest[n_bytes..];
        }
    }
}
