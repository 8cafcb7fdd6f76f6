//! The normalisation that SentencePiece models bring along: `tokenizer.ggml.precompiled_charsmap`.
//!
//! The array is a 32-bit length, a double array (a trie packed into 32-bit units, always little-endian) of that many bytes,
//! and replacement strings that each end with a zero byte. The longest key that a text begins with is replaced. The
//! layout is that of SentencePiece's `normalizer.cc` and of its Darts-clone (`darts.h`): a unit has the byte that
//! leads to it in bits 0 to 7, "a key ends here" in bit 8, and the offset to its children in bits 10 to 30, times 256 where bit 9 is
//! set; the child under byte 0 holds where the key's replacement begins.

use super::Error;
use crate::bytes::{Cursor, Endian};
use crate::gguf::{Gguf, ValueType};

const KEY: &str = "tokenizer.ggml.precompiled_charsmap";

/// A checked view of the array.
#[derive(Clone, Copy, Debug)]
pub(super) struct Charsmap<'a> {
    units: &'a [[u8; 4]],
    replacements: &'a [u8],
}

impl<'a> Charsmap<'a> {
    /// The map of `gguf`, when it has one.
    pub(super) fn new(gguf: &Gguf<'a>) -> Result<Option<Self>, Error> {
        let Some(array) = super::vocab::array(gguf, KEY)? else { return Ok(None) };
        if array.is_empty() {
            return Ok(None);
        }
        if !matches!(array.element(), ValueType::U8 | ValueType::I8) {
            return Err(Error::WrongType(KEY, "an array of bytes"));
        }
        let mut cursor = Cursor::new(array.raw(), Endian::Little);
        let trie_bytes = cursor.u32().ok_or(Error::Charsmap(0))?;
        let trie = cursor.take(trie_bytes as usize).ok_or(Error::Charsmap(0))?;
        let (units, rest) = trie.as_chunks::<4>();
        if units.is_empty() || !rest.is_empty() {
            return Err(Error::Charsmap(0));
        }
        let replacements = array.raw().get(cursor.offset()..).unwrap_or(&[]);
        if replacements.last() != Some(&0) {
            return Err(Error::Charsmap(array.raw().len()));
        }
        Ok(Some(Self { units, replacements }))
    }

    /// The longest key that `text` begins with: its bytes, and what stands in its place. `None` also where the map is damaged.
    pub(super) fn longest(&self, text: &[u8]) -> Option<(usize, &'a [u8])> {
        let unit = |index: usize| self.units.get(index).map(|&unit| u32::from_le_bytes(unit));
        let children = |unit: u32| ((unit >> 10) << ((unit & 1 << 9) >> 6)) as usize;
        let mut longest = None;
        let mut index = children(unit(0)?);
        for (n_before, &byte) in text.iter().enumerate() {
            index ^= usize::from(byte);
            let Some(here) = unit(index).filter(|&here| here & 0x8000_00ff == u32::from(byte) && byte != 0) else {
                break;
            };
            index ^= children(here);
            if here >> 8 & 1 != 0 {
                let Some(leaf) = unit(index) else { break };
                longest = Some((n_before + 1, (leaf & 0x7fff_ffff) as usize));
            }
        }
        let (n_bytes, at) = longest?;
        let rest = self.replacements.get(at..)?;
        let end = rest.iter().position(|&byte| byte == 0)?;
        Some((n_bytes, &rest[..end]))
    }
}
