//! An index over an array of strings that stay in the file: which string has these bytes?
//!
//! Two tables in the arena. `offsets` says where every [`STRIDE`]th string begins, so that a string is found by walking
//! over a few. `slots` is a hash table with open addressing; a slot is zero, or eight bits of the hash above the
//! 24 bits of the string's number plus one, so that a look-up rarely touches a string that is not the one sought.
//! Both are little-endian `u32`. A vocabulary of 49,152 tokens costs 310 KiB.

use super::Error;
use super::form::Form;
use crate::bytes::Cursor;
use crate::gguf::{Array, ValueType};

/// Every how many strings the offset is kept.
const STRIDE: usize = 4;
/// The most strings that a slot can number.
const MAX_STRINGS: usize = (1 << 24) - 2;
/// The longest string that is still a token: the longest known has 1,024 characters of two bytes.
pub(super) const MAX_STRING_BYTES: usize = 1 << 14;
/// A run of occupied slots that long does not happen by chance.
const MAX_PROBES: usize = 1024;

/// A hash that grows byte by byte (FNV-1a), so that all prefixes of a text cost one pass.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hash(u32);

impl Hash {
    /// The hash of nothing.
    pub(super) const EMPTY: Self = Self(0x811c_9dc5);

    /// The hash of what was hashed so far and `byte` behind it.
    #[inline]
    pub(super) fn then(self, byte: u8) -> Self {
        Self((self.0 ^ u32::from(byte)).wrapping_mul(0x0100_0193))
    }

    /// The hash of what was hashed so far and `text`, spelled in `form`, behind it.
    #[inline]
    pub(super) fn then_text(mut self, form: Form, text: &[u8]) -> Self {
        for &byte in text {
            let (bytes, n) = form.spell(byte);
            for &byte in &bytes[..n] {
                self = self.then(byte);
            }
        }
        self
    }

    /// The hash of a string that is cut in two after `len` bytes.
    pub(super) fn cut_at(self, len: usize) -> Self {
        Self(self.0 ^ (len as u32).wrapping_mul(0x9e37_79b9))
    }

    /// Spreads every bit over all (the finalizer of MurmurHash3): the slot comes from the high bits, the tag from the low.
    fn mixed(self) -> u32 {
        let mut h = self.0;
        h = (h ^ (h >> 16)).wrapping_mul(0x85eb_ca6b);
        h = (h ^ (h >> 13)).wrapping_mul(0xc2b2_ae35);
        h ^ (h >> 16)
    }
}

/// The strings where they lie in the file.
#[derive(Clone, Copy, Debug)]
struct InFile<'a> {
    array: Array<'a>,
    /// Bytes of the length field in front of each (GGUF version 1 has shorter ones).
    len_bytes: usize,
}

impl<'a> InFile<'a> {
    fn new(array: Array<'a>) -> Self {
        let mut strings = array.string_offsets();
        let first_bytes = strings.next().map_or(0, |(_, string)| string.len());
        let first_end = strings.next().map_or(array.raw().len(), |(at, _)| at);
        let len_bytes = first_end.saturating_sub(first_bytes);
        Self { array, len_bytes }
    }

    /// String `index`: walks on from the last one whose offset is kept.
    fn get(&self, offsets: &[[u8; 4]], index: usize) -> Option<&'a [u8]> {
        if index >= self.array.len() {
            return None;
        }
        let at = u32::from_le_bytes(*offsets.get(index / STRIDE)?) as usize;
        let mut cursor = Cursor::at(self.array.raw(), at, self.array.endian());
        for _ in 0..index % STRIDE {
            self.next(&mut cursor)?;
        }
        self.next(&mut cursor)
    }

    /// The string at `cursor`, which moves past it.
    #[inline]
    fn next(&self, cursor: &mut Cursor<'a>) -> Option<&'a [u8]> {
        let len = if self.len_bytes == 4 { cursor.u32()?.into() } else { cursor.u64()? };
        cursor.take(usize::try_from(len).ok()?)
    }
}

/// The index, in an arena that the caller owns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Strings<'a> {
    file: InFile<'a>,
    /// (ceil(len / STRIDE)) offsets
    offsets: &'a [[u8; 4]],
    /// (4/3 len) slots
    slots: &'a [[u8; 4]],
}

fn n_offsets(len: usize) -> usize {
    len.div_ceil(STRIDE)
}

/// One slot in four stays free, and at least one, so that every search ends.
fn n_slots(len: usize) -> usize {
    len + len / 3 + 1
}

impl<'a> Strings<'a> {
    /// Bytes of arena for an index over `len` strings.
    pub(super) fn arena_bytes(len: usize) -> usize {
        (n_offsets(len) + n_slots(len)) * 4
    }

    /// Fills `arena` with the offsets of the strings of `array` and a hash table that is still empty.
    pub(super) fn begin(key: &'static str, array: Array<'a>, arena: &'a mut [u8]) -> Result<Builder<'a>, Error> {
        if !array.is_empty() && array.element() != ValueType::Str {
            return Err(Error::WrongType(key, "an array of strings"));
        }
        let len = array.len();
        if len > MAX_STRINGS {
            return Err(Error::TooMany(key, len));
        }
        let got = arena.len();
        let (cells, _) = arena.as_chunks_mut::<4>();
        let need = n_offsets(len) + n_slots(len);
        let cells = cells.get_mut(..need).ok_or(Error::Arena(need * 4, got))?;
        let (offsets, slots) = cells.split_at_mut(n_offsets(len));
        slots.fill([0; 4]);
        for (index, (at, string)) in array.string_offsets().enumerate() {
            if string.len() > MAX_STRING_BYTES {
                return Err(Error::TooLong(key, index, string.len()));
            }
            if index.is_multiple_of(STRIDE) {
                let at = u32::try_from(at).map_err(|_| Error::TooMany(key, len))?;
                offsets[index / STRIDE] = at.to_le_bytes();
            }
        }
        Ok(Builder { key, file: InFile::new(array), offsets, slots })
    }

    /// How many strings.
    pub(super) fn len(&self) -> usize {
        self.file.array.len()
    }

    /// String `index`.
    pub(super) fn get(&self, index: usize) -> Option<&'a [u8]> {
        self.file.get(self.offsets, index)
    }

    /// Every string in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.file.array.string_offsets().map(|(_, string)| string)
    }

    /// The string with this hash that `is_it` accepts.
    #[inline]
    pub(super) fn find(&self, hash: Hash, is_it: impl FnMut(&'a [u8]) -> bool) -> Option<usize> {
        let mut probe = Probe::new(hash, self.slots.len());
        search(&self.file, self.offsets, self.slots, &mut probe, is_it).ok().flatten()
    }

    /// The string that is `text` in the spelling `form`.
    #[inline]
    pub(super) fn find_text(&self, form: Form, text: &[u8]) -> Option<usize> {
        self.find(Hash::EMPTY.then_text(form, text), |string| form.equal(text, string))
    }
}

/// An index that is being filled.
pub(super) struct Builder<'a> {
    key: &'static str,
    file: InFile<'a>,
    offsets: &'a mut [[u8; 4]],
    slots: &'a mut [[u8; 4]],
}

impl<'a> Builder<'a> {
    /// Enters string `index` under `hash`; gives the string entered before that `is_same` says is the same, if there is one,
    /// and enters nothing then.
    pub(super) fn insert(
        &mut self,
        index: usize,
        hash: Hash,
        is_same: impl FnMut(&'a [u8]) -> bool,
    ) -> Result<Option<usize>, Error> {
        let mut probe = Probe::new(hash, self.slots.len());
        match search(&self.file, self.offsets, self.slots, &mut probe, is_same) {
            Ok(Some(other)) => Ok(Some(other)),
            Ok(None) => {
                self.slots[probe.slot] = (probe.tag | (index as u32 + 1)).to_le_bytes();
                Ok(None)
            }
            Err(TooManyProbes) => Err(Error::Collisions(self.key)),
        }
    }

    /// The strings in order, with their numbers.
    pub(super) fn strings(&self) -> impl Iterator<Item = (usize, &'a [u8])> + use<'a> {
        self.file.array.string_offsets().map(|(_, string)| string).enumerate()
    }

    /// The finished index.
    pub(super) fn finish(self) -> Strings<'a> {
        Strings { file: self.file, offsets: self.offsets, slots: self.slots }
    }
}

struct TooManyProbes;

/// A walk through the slots that a hash may be in.
struct Probe {
    slot: usize,
    tag: u32,
}

impl Probe {
    fn new(hash: Hash, n_slots: usize) -> Self {
        let mixed = hash.mixed();
        let slot = ((u64::from(mixed) * n_slots as u64) >> 32) as usize;
        Self { slot, tag: mixed << 24 }
    }
}

/// Moves `probe` to the string that `is_it` accepts, or to the free slot where it would be.
#[inline]
fn search<'a>(
    file: &InFile<'a>,
    offsets: &[[u8; 4]],
    slots: &[[u8; 4]],
    probe: &mut Probe,
    mut is_it: impl FnMut(&'a [u8]) -> bool,
) -> Result<Option<usize>, TooManyProbes> {
    for _ in 0..MAX_PROBES {
        let Some(&slot) = slots.get(probe.slot) else { return Err(TooManyProbes) };
        let entry = u32::from_le_bytes(slot);
        if entry == 0 {
            return Ok(None);
        }
        if entry & 0xff00_0000 == probe.tag {
            let index = (entry & 0x00ff_ffff) as usize - 1;
            if file.get(offsets, index).is_some_and(&mut is_it) {
                return Ok(Some(index));
            }
        }
        probe.slot = if probe.slot + 1 == slots.len() { 0 } else { probe.slot + 1 };
    }
    Err(TooManyProbes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::Gguf;

    /// A GGUF with `strings` under the key `k`; the older version has shorter lengths.
    fn file(version: u32, strings: &[String]) -> Vec<u8> {
        let len =
            |n: usize| if version == 1 { (n as u32).to_le_bytes().to_vec() } else { (n as u64).to_le_bytes().to_vec() };
        let mut bytes =
            [b"GGUF".to_vec(), version.to_le_bytes().to_vec(), len(0), len(1), len(1), b"k".to_vec()].concat();
        bytes.extend([9u32.to_le_bytes(), 8u32.to_le_bytes()].concat());
        bytes.extend(len(strings.len()));
        strings.iter().for_each(|string| bytes.extend([len(string.len()), string.clone().into_bytes()].concat()));
        bytes
    }

    /// Enters all of `strings` and gives the index to `body`.
    fn indexed(version: u32, strings: &[String], body: impl FnOnce(&Strings<'_>)) -> Result<(), Error> {
        let bytes = file(version, strings);
        let gguf = Gguf::parse(&bytes, bytes.len() as u64).expect("a GGUF");
        let array = gguf.get("k").and_then(|value| value.as_array()).expect("an array");
        let mut arena = vec![0; Strings::arena_bytes(array.len())];
        let mut builder = Strings::begin("k", array, &mut arena)?;
        for (index, string) in builder.strings() {
            builder.insert(index, Hash::EMPTY.then_text(Form::Raw, string), |other| other == string)?;
        }
        body(&builder.finish());
        Ok(())
    }

    #[test]
    fn every_string_is_found_in_every_version() {
        for version in 1..=3 {
            for n_strings in [0, 1, 2, 3, 4, 5, 1000] {
                let strings: Vec<String> = (0..n_strings).map(|n| "x".repeat(n % 7) + &n.to_string()).collect();
                let done = indexed(version, &strings, |index| {
                    assert_eq!(index.len(), n_strings);
                    for (number, string) in strings.iter().enumerate() {
                        assert_eq!(index.get(number), Some(string.as_bytes()));
                        assert_eq!(index.find_text(Form::Raw, string.as_bytes()), Some(number));
                    }
                    assert_eq!(index.get(n_strings), None);
                    assert_eq!(index.find_text(Form::Raw, b"not there"), None);
                });
                assert_eq!(done, Ok(()));
            }
        }
    }

    #[test]
    fn strings_made_to_collide_are_refused() {
        const N_STRINGS: usize = MAX_PROBES + 100;
        let slot =
            |string: &String| Probe::new(Hash::EMPTY.then_text(Form::Raw, string.as_bytes()), n_slots(N_STRINGS)).slot;
        let strings: Vec<String> =
            (0..).map(|n: u32| n.to_string()).filter(|string| slot(string) == 7).take(N_STRINGS).collect();
        assert_eq!(indexed(3, &strings, |_| ()), Err(Error::Collisions("k")));
    }

    #[test]
    fn a_large_vocabulary_does_not_collide_by_chance() {
        let strings: Vec<String> = (0..300_000).map(|n: u32| n.to_string()).collect();
        assert_eq!(
            indexed(3, &strings, |index| assert_eq!(index.find_text(Form::Raw, b"299999"), Some(299_999))),
            Ok(())
        );
    }
}
