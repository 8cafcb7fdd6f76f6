//! Byte-level BPE: a text is cut into words, and in each word the bytes are joined in the order of the merges.
//!
//! As in GPT-2's `encoder.py`. The merges stay in the file, as `left right`; their index is keyed by the joined text and
//! the length of its left part, both as the vocabulary spells them.

use super::form::Form;
use super::merge::{self, NO_PAIR, Symbols};
use super::out::Out;
use super::pre::Pre;
use super::strings::{Hash, Strings};
use super::vocab::{Algorithm, Kind, MERGES, Vocab, array};
use super::{Error, split_scratch};
use crate::gguf::{Array, Gguf};

/// The merges of a vocabulary, in order of rank.
#[derive(Clone, Debug)]
pub(super) struct Merges<'a> {
    strings: Strings<'a>,
}

impl<'a> Merges<'a> {
    /// Bytes of arena for `n_merges`.
    pub(super) fn arena_bytes(n_merges: usize) -> usize {
        Strings::arena_bytes(n_merges)
    }

    /// Enters the merges of `list` and checks that each is two tokens which make a third. Of two merges of the same tokens the
    /// first counts.
    pub(super) fn new(vocab: &Vocab<'a>, list: Array<'a>, arena: &'a mut [u8]) -> Result<Self, Error> {
        let mut builder = Strings::begin(MERGES, list, arena)?;
        for (index, merge) in builder.strings() {
            let (left, right) = halves(merge).ok_or(Error::Merge(index))?;
            let has = |hash: Hash, is_it: &dyn Fn(&[u8]) -> bool| vocab.tokens.find(hash, is_it).is_some();
            let left_hash = Hash::EMPTY.then_text(Form::Raw, left);
            let joined = left_hash.then_text(Form::Raw, right);
            let is_known = has(left_hash, &|token| token == left)
                && has(Hash::EMPTY.then_text(Form::Raw, right), &|token| token == right)
                && has(joined, &|token| token.strip_prefix(left) == Some(right));
            if !is_known {
                return Err(Error::Merge(index));
            }
            builder.insert(index, joined.cut_at(left.len()), |other| other == merge)?;
        }
        Ok(Self { strings: builder.finish() })
    }

    /// The rank of joining `left` and `right`, or [`NO_PAIR`].
    fn rank(&self, left: &[u8], right: &[u8]) -> u32 {
        let spell = |hash: Hash, text| hash.then_text(Form::Bytes, text);
        let left_bytes: usize = left.iter().map(|&byte| Form::Bytes.spell(byte).1).sum();
        let hash = spell(spell(Hash::EMPTY, left), right).cut_at(left_bytes);
        let found = self.strings.find(hash, |merge| {
            let rest = Form::Bytes.strip(left, merge).and_then(|rest| rest.strip_prefix(b" "));
            rest.is_some_and(|rest| Form::Bytes.equal(right, rest))
        });
        found.map_or(NO_PAIR, |index| index as u32)
    }
}

/// The merges of `gguf`; only byte-level BPE needs them, and other kinds none.
pub(super) fn merges<'a>(gguf: &Gguf<'a>, algorithm: Algorithm) -> Result<Array<'a>, Error> {
    match algorithm {
        Algorithm::ByteLevel(_) => array(gguf, MERGES)?.ok_or(Error::Missing(MERGES)),
        Algorithm::SentencePiece | Algorithm::Unigram | Algorithm::Absent => Ok(Array::EMPTY),
    }
}

/// The two tokens of a merge. The first may be a space, as in llama.cpp.
fn halves(merge: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = merge.iter().skip(1).position(|&byte| byte == b' ')? + 1;
    Some((&merge[..space], &merge[space + 1..])).filter(|(_, right)| !right.is_empty())
}

/// Scratch bytes for a text of `text_bytes`.
pub(super) fn scratch_bytes(text_bytes: usize) -> usize {
    let spaced = text_bytes.saturating_add(1);
    spaced.saturating_add(merge::scratch_bytes(spaced))
}

/// Encodes a text without special tokens. Where the vocabulary wants it, a text that does not begin with a space gets one.
pub(super) fn encode(
    vocab: &Vocab<'_>,
    merges: &Merges<'_>,
    pre: &Pre,
    text: &str,
    scratch: &mut [u8],
    out: &mut Out<'_>,
) -> Result<(), Error> {
    let mut encode_word = |word: &str, scratch: &mut [u8]| encode_word(vocab, merges, pre, word, scratch, out);
    if !vocab.adds_space || text.starts_with(' ') {
        return pre.split(text, &mut |word| encode_word(word, scratch));
    }
    let (spaced, scratch) = split_scratch(scratch, text.len() + 1, scratch_bytes(text.len()))?;
    spaced[0] = b' ';
    spaced[1..].copy_from_slice(text.as_bytes());
    let spaced = core::str::from_utf8(spaced).unwrap_or(text);
    pre.split(spaced, &mut |word| encode_word(word, scratch))
}

fn encode_word(
    vocab: &Vocab<'_>,
    merges: &Merges<'_>,
    pre: &Pre,
    word: &str,
    scratch: &mut [u8],
    out: &mut Out<'_>,
) -> Result<(), Error> {
    let bytes = word.as_bytes();
    if pre.ignore_merges
        && let Some(id) = vocab.find_text(bytes).filter(|&id| vocab.kind(id) == Kind::Normal)
    {
        return out.push(id);
    }
    let got = scratch.len();
    let symbols = Symbols::new(bytes.len(), scratch, |_| 1);
    let mut symbols = symbols.ok_or(Error::Scratch(merge::scratch_bytes(bytes.len()), got))?;
    symbols.merge(|start, middle, end| {
        if end - start > vocab.max_bytes {
            return NO_PAIR;
        }
        merges.rank(&bytes[start..middle], &bytes[middle..end])
    });
    let mut start = 0;
    while start < bytes.len() {
        let end = symbols.end_of(start);
        let id = if end - start == 1 { vocab.byte_id(bytes[start]) } else { vocab.find_text(&bytes[start..end]) };
        match id {
            Some(id) => out.push(id)?,
            None => {
                let from = (0..=start).rfind(|&at| word.is_char_boundary(at)).unwrap_or(0);
                let to = (end..=word.len()).find(|&at| word.is_char_boundary(at)).unwrap_or(word.len());
                out.push_unknown(vocab, &bytes[from..to])?;
            }
        }
        start = end;
    }
    Ok(())
}
