//! Tokens that are found in a text as they are, before anything else: control tokens where the caller asks for them,
//! and user-defined tokens always.

use super::Error;
use super::strings::Hash;
use super::vocab::{Kind, TOKENS, Vocab};

/// The longest special token that we take: looking for one costs its length at each place of a text.
const MAX_BYTES: usize = 1023;

/// What special tokens look like from outside, so that few places of a text have to be looked up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Special {
    /// A bit for each byte that one begins with.
    first: [u32; 8],
    /// A bit for each length that one has.
    lens: [u32; (MAX_BYTES + 1) / 32],
    min_bytes: usize,
    max_bytes: usize,
}

/// A special token in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) id: u32,
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Special {
    /// No special tokens.
    pub(super) const NONE: Self = Self { first: [0; 8], lens: [0; 32], min_bytes: usize::MAX, max_bytes: 0 };

    /// Counts token `id` among the special ones.
    pub(super) fn add(&mut self, id: usize, text: &[u8]) -> Result<(), Error> {
        let Some(&first) = text.first() else { return Ok(()) };
        if text.len() > MAX_BYTES {
            return Err(Error::TooLong(TOKENS, id, text.len()));
        }
        self.first[usize::from(first) / 32] |= 1 << (first % 32);
        self.lens[text.len() / 32] |= 1 << (text.len() % 32);
        self.min_bytes = self.min_bytes.min(text.len());
        self.max_bytes = self.max_bytes.max(text.len());
        Ok(())
    }

    /// How many special tokens `text_bytes` bytes have at most.
    pub(super) fn max_in(&self, text_bytes: usize) -> usize {
        text_bytes / self.min_bytes.max(1)
    }

    fn may_begin_with(&self, byte: u8) -> bool {
        self.first[usize::from(byte) / 32] >> (byte % 32) & 1 != 0
    }

    fn may_have(&self, len: usize) -> bool {
        self.lens[len / 32] >> (len % 32) & 1 != 0
    }

    /// The first special token at or after byte `from`, of those that begin there the longest.
    pub(super) fn find(&self, vocab: &Vocab<'_>, text: &str, from: usize, parse_special: bool) -> Option<Found> {
        if self.max_bytes == 0 {
            return None;
        }
        let bytes = text.as_bytes();
        (from..bytes.len())
            .filter(|&start| self.may_begin_with(bytes[start]) && text.is_char_boundary(start))
            .find_map(|start| self.longest_at(vocab, text, start, parse_special))
    }

    fn longest_at(&self, vocab: &Vocab<'_>, text: &str, start: usize, parse_special: bool) -> Option<Found> {
        let mut hash = Hash::EMPTY;
        let mut longest = None;
        for (index, &byte) in text.as_bytes()[start..].iter().take(self.max_bytes).enumerate() {
            hash = hash.then(byte);
            let end = start + index + 1;
            if !self.may_have(index + 1) || !text.is_char_boundary(end) {
                continue;
            }
            let wanted = &text.as_bytes()[start..end];
            let Some(id) = vocab.tokens.find(hash, |token| token == wanted) else { continue };
            let is_special = match vocab.kind(id as u32) {
                Kind::UserDefined => true,
                Kind::Control | Kind::Unknown => parse_special,
                Kind::Normal | Kind::Byte => false,
            };
            if is_special {
                longest = Some(Found { id: id as u32, start, end });
            }
        }
        longest
    }
}
