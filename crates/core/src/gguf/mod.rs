//! GGUF files (versions 1 to 3, either byte order), viewed where they lie: nothing is copied.
//!
//! [`Gguf::parse`] walks the whole header once and checks every count, length, offset and overlap, so that what
//! follows may trust them. Format: the `gguf.md` document of the ggml project.

mod error;
mod value;

pub use error::{Error, Name, Problem};
pub use value::{Array, ArrayIter, Value, ValueType};

use crate::bytes::{Cursor, Endian};
use crate::quant::Type;
use value::{read_len, read_scalar, read_str};

/// Keys beyond this many are found by walking the file; no known model has so many.
const INDEXED_KEYS: usize = 96;
/// Files of more tensors than this must list them in the order of their data.
const PAIRWISE_TENSORS: u64 = 2048;

/// Set in the number of a tensor's type when its data is packed (`docs/packed.md`): no number of a type has it.
const PACKED: u32 = 1 << 31;
/// Bytes of a tensor's description from the number of its type on: the number and the offset.
const TYPE_AND_OFFSET: usize = 12;

/// A checked GGUF header over bytes that the caller owns.
#[derive(Clone)]
pub struct Gguf<'a> {
    bytes: &'a [u8],
    endian: Endian,
    version: u32,
    n_tensors: u64,
    n_keys: u64,
    /// Offsets of the first keys, so that a look-up does not walk over the vocabulary.
    key_offsets: [u32; INDEXED_KEYS],
    /// Where the first tensor description begins.
    tensors_at: usize,
    /// Where tensor data begins.
    data_at: u64,
    alignment: u64,
}

/// Names that were seen so far, by a bit of their hash: most new ones are known to be new without a look at the others.
struct Seen([u64; Self::N_WORDS]);

impl Seen {
    const N_WORDS: usize = 64;
    /// No name yet.
    const NONE: Self = Self([0; Self::N_WORDS]);

    /// Whether `name`, which counts as seen from now on, may have been seen before.
    fn may_have(&mut self, name: &[u8]) -> bool {
        // FNV-1a, folded.
        let hash = name.iter().fold(0x811c_9dc5_u32, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        let bit = (hash ^ hash >> 16) as usize % (64 * Self::N_WORDS);
        let (word, mask) = (&mut self.0[bit / 64], 1 << (bit % 64));
        core::mem::replace(word, *word | mask) & mask != 0
    }
}

/// The description of one tensor.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    /// The tensor's name.
    pub name: &'a [u8],
    /// Dimensions, the contiguous one (columns of a row) first; unused ones are 1.
    pub dims: [u64; 4],
    /// How many dimensions the file names.
    pub n_dims: u32,
    /// What the bytes mean.
    pub kind: Type,
    /// Byte offset of the data in the file.
    pub offset: u64,
    /// Bytes of data.
    pub n_bytes: u64,
}

impl Tensor<'_> {
    /// The number of weights.
    pub fn n_weights(&self) -> u64 {
        self.dims.iter().product()
    }
}

impl<'a> Gguf<'a> {
    /// Reads and checks the header of a GGUF file of `file_bytes` bytes, of which `bytes` is at least the header.
    ///
    /// # Errors
    /// The first field that is wrong, with its offset.
    pub fn parse(bytes: &'a [u8], file_bytes: u64) -> Result<Self, Error> {
        let fail = |offset: usize, problem| Error { offset: offset as u64, name: Name::new(b""), problem };
        let magic = bytes.get(..4).ok_or(fail(0, Problem::NotGguf))?;
        if magic != b"GGUF" {
            return Err(fail(0, Problem::NotGguf));
        }
        let mut cursor = Cursor::at(bytes, 4, Endian::Little);
        let mut version = cursor.u32().ok_or(fail(4, Problem::Truncated("version")))?;
        let mut endian = Endian::Little;
        if version & 0xffff == 0 && version != 0 {
            endian = Endian::Big;
            version = version.swap_bytes();
        }
        if !(1..=3).contains(&version) {
            return Err(fail(4, Problem::Version(version)));
        }
        let mut cursor = Cursor::at(bytes, 8, endian);
        let n_tensors = read_len(&mut cursor, version).ok_or(fail(8, Problem::Truncated("tensor count")))?;
        let keys_count_at = cursor.offset();
        let n_keys = read_len(&mut cursor, version).ok_or(fail(keys_count_at, Problem::Truncated("key count")))?;
        // The smallest key is 13 bytes (9 in version 1), the smallest tensor description 24 (20).
        if n_tensors > bytes.len() as u64 / 20 {
            return Err(fail(8, Problem::Count("tensor count", n_tensors)));
        }
        if n_keys > bytes.len() as u64 / 9 {
            return Err(fail(keys_count_at, Problem::Count("key count", n_keys)));
        }
        let mut gguf = Gguf {
            bytes,
            endian,
            version,
            n_tensors,
            n_keys,
            key_offsets: [0; INDEXED_KEYS],
            tensors_at: 0,
            data_at: 0,
            alignment: 32,
        };
        gguf.check_keys(&mut cursor)?;
        gguf.tensors_at = cursor.offset();
        gguf.check_tensors(&mut cursor, file_bytes)?;
        Ok(gguf)
    }

    /// Walks the metadata, remembers where keys begin, and leaves `cursor` behind it.
    fn check_keys(&mut self, cursor: &mut Cursor<'a>) -> Result<(), Error> {
        for index in 0..self.n_keys {
            let at = cursor.offset();
            if let Some(slot) = usize::try_from(index).ok().and_then(|index| self.key_offsets.get_mut(index)) {
                *slot = u32::try_from(at).map_err(|_| Error {
                    offset: at as u64,
                    name: Name::new(b""),
                    problem: Problem::Count("metadata bytes", at as u64),
                })?;
            }
            self.read_key(cursor, None)?;
        }
        self.check_duplicate_keys()?;
        if let Some(value) = self.get("general.alignment") {
            let alignment = value.as_u64().unwrap_or(0);
            if !alignment.is_power_of_two() || alignment > 65536 {
                return Err(Error {
                    offset: 0,
                    name: Name::new(b"general.alignment"),
                    problem: Problem::Alignment(alignment),
                });
            }
            self.alignment = alignment;
        }
        Ok(())
    }

    fn check_duplicate_keys(&self) -> Result<(), Error> {
        for index in 0..self.n_indexed() {
            let (_, key) = self.indexed(index);
            if (0..index).any(|other| self.indexed(other).1 == key) {
                return Err(Error {
                    offset: self.key_offsets[index].into(),
                    name: Name::new(key),
                    problem: Problem::DuplicateKey,
                });
            }
        }
        Ok(())
    }

    /// How many keys [`Gguf::key_offsets`] knows.
    fn n_indexed(&self) -> usize {
        (self.n_keys as usize).min(INDEXED_KEYS)
    }

    /// Where key `index` begins, and the key itself.
    fn indexed(&self, index: usize) -> (Cursor<'a>, &'a [u8]) {
        let at = Cursor::at(self.bytes, self.key_offsets[index] as usize, self.endian);
        (at, read_str(&mut { at }, self.version).unwrap_or(b""))
    }

    /// Where the value of key `index` ends, when that is known: where the next key begins, or the tensors.
    fn value_end(&self, index: usize) -> Option<usize> {
        let next = index + 1;
        if next == self.n_keys as usize {
            return Some(self.tensors_at).filter(|&at| at > 0);
        }
        self.key_offsets.get(next).map(|&at| at as usize)
    }

    /// Reads one key and its value, moving past both; where it is known that they end at `end`, strings are not walked again.
    fn read_key(&self, cursor: &mut Cursor<'a>, end: Option<usize>) -> Result<(&'a [u8], Value<'a>), Error> {
        let at = cursor.offset();
        let truncated = |name: &[u8], offset: usize, field| Error {
            offset: offset as u64,
            name: Name::new(name),
            problem: Problem::Truncated(field),
        };
        let key = read_str(cursor, self.version).ok_or_else(|| truncated(b"", at, "key"))?;
        let type_at = cursor.offset();
        let id = cursor.u32().ok_or_else(|| truncated(key, type_at, "value type"))?;
        let kind = self.value_type(key, type_at, id)?;
        let value_at = cursor.offset();
        if kind != ValueType::Array {
            let value = read_scalar(cursor, self.version, kind).ok_or_else(|| truncated(key, value_at, "value"))?;
            return Ok((key, value));
        }
        let id = cursor.u32().ok_or_else(|| truncated(key, value_at, "array type"))?;
        let element = self.value_type(key, value_at, id)?;
        let len_at = cursor.offset();
        let len = read_len(cursor, self.version).ok_or_else(|| truncated(key, len_at, "array length"))?;
        let start = cursor.offset();
        let too_long =
            || Error { offset: len_at as u64, name: Name::new(key), problem: Problem::Count("array length", len) };
        match element.fixed_bytes() {
            Some(size) => {
                let total = len.checked_mul(size as u64).and_then(|n| usize::try_from(n).ok()).ok_or_else(too_long)?;
                cursor.take(total).ok_or_else(too_long)?;
            }
            None if element == ValueType::Array => {
                return Err(Error { offset: value_at as u64, name: Name::new(key), problem: Problem::NestedArray });
            }
            None if let Some(end) = end => *cursor = Cursor::at(self.bytes, end, self.endian),
            None => {
                // A string is at least its length field, so a count that lies ends here and not in a long walk.
                if len > cursor.remaining() as u64 / 4 {
                    return Err(too_long());
                }
                for _ in 0..len {
                    let at = cursor.offset();
                    read_str(cursor, self.version).ok_or_else(|| truncated(key, at, "string of the array"))?;
                }
            }
        }
        let bytes = &self.bytes[start..cursor.offset()];
        Ok((key, Value::Array(Array { element, len, bytes, endian: self.endian, version: self.version })))
    }

    fn value_type(&self, key: &[u8], at: usize, id: u32) -> Result<ValueType, Error> {
        let unknown = || Error { offset: at as u64, name: Name::new(key), problem: Problem::ValueType(id) };
        ValueType::from_id(id).ok_or_else(unknown)
    }

    /// Walks the tensor descriptions and checks each against the others and the file.
    fn check_tensors(&mut self, cursor: &mut Cursor<'a>, file_bytes: u64) -> Result<(), Error> {
        for _ in 0..self.n_tensors {
            self.read_tensor(cursor)?;
        }
        let end = cursor.offset() as u64;
        // A file of metadata only may end with its header.
        self.data_at = end.next_multiple_of(self.alignment);
        let mut sorted_until = self.data_at;
        let mut sorted = true;
        let mut cursor = Cursor::at(self.bytes, self.tensors_at, self.endian);
        for _ in 0..self.n_tensors {
            let at = cursor.offset() as u64;
            let tensor = self.read_tensor(&mut cursor)?;
            let fail = |problem| Error { offset: at, name: Name::new(tensor.name), problem };
            if !(tensor.offset - self.data_at).is_multiple_of(self.alignment) {
                return Err(fail(Problem::Unaligned(tensor.offset - self.data_at)));
            }
            let end = tensor.offset.checked_add(tensor.n_bytes).ok_or(fail(Problem::Shape))?;
            if end > file_bytes {
                return Err(fail(Problem::PastEnd(end, file_bytes)));
            }
            sorted &= tensor.offset >= sorted_until;
            sorted_until = end;
        }
        self.check_pairs(sorted)
    }

    /// Refuses overlapping data and repeated names; data that is `sorted` does not overlap.
    fn check_pairs(&self, sorted: bool) -> Result<(), Error> {
        if self.n_tensors > PAIRWISE_TENSORS {
            return match sorted {
                true => Ok(()),
                false => {
                    Err(Error { offset: 8, name: Name::new(b""), problem: Problem::TooManyTensors(self.n_tensors) })
                }
            };
        }
        let mut seen = Seen::NONE;
        for (index, tensor) in self.tensors().enumerate() {
            if !seen.may_have(tensor.name) && sorted {
                continue;
            }
            let fail = |problem| Error { offset: tensor.offset, name: Name::new(tensor.name), problem };
            for other in self.tensors().take(index) {
                if other.name == tensor.name {
                    return Err(fail(Problem::DuplicateTensor));
                }
                let apart =
                    other.offset + other.n_bytes <= tensor.offset || tensor.offset + tensor.n_bytes <= other.offset;
                if !apart {
                    return Err(fail(Problem::Overlap(Name::new(other.name))));
                }
            }
        }
        Ok(())
    }

    /// Reads one tensor description, moving past it; its offset is relative to the file when `data_at` is known.
    fn read_tensor(&self, cursor: &mut Cursor<'a>) -> Result<Tensor<'a>, Error> {
        let at = cursor.offset();
        let fail =
            |name: &[u8], offset: usize, problem| Error { offset: offset as u64, name: Name::new(name), problem };
        let name = read_str(cursor, self.version).ok_or_else(|| fail(b"", at, Problem::Truncated("tensor name")))?;
        let here = cursor.offset();
        let truncated = |field| fail(name, here, Problem::Truncated(field));
        let n_dims = cursor.u32().ok_or_else(|| truncated("dimension count"))?;
        if !(1..=4).contains(&n_dims) {
            return Err(fail(name, here, Problem::Dimensions(n_dims)));
        }
        let mut dims = [1; 4];
        for dim in &mut dims[..n_dims as usize] {
            *dim = read_len(cursor, self.version).ok_or_else(|| truncated("dimensions"))?;
        }
        let id = cursor.u32().ok_or_else(|| truncated("tensor type"))?;
        let kind = Type::from_id(id).ok_or_else(|| {
            let is_packed = Type::from_id(id & !PACKED).is_some();
            fail(name, here, if is_packed { Problem::Packed } else { Problem::TensorType(id) })
        })?;
        let relative = cursor.u64().ok_or_else(|| truncated("tensor offset"))?;
        let n_rows = dims[1..].iter().try_fold(1u64, |product, &dim| product.checked_mul(dim));
        let shape = || fail(name, here, Problem::Shape);
        let n_rows = n_rows.filter(|&n| n > 0 && dims[0] > 0).ok_or_else(shape)?;
        n_rows.checked_mul(dims[0]).ok_or_else(shape)?;
        let row_bytes =
            kind.row_bytes(dims[0]).ok_or_else(|| fail(name, here, Problem::RowLength(dims[0], kind.name())))?;
        let n_bytes = row_bytes.checked_mul(n_rows).ok_or_else(shape)?;
        let offset = relative.checked_add(self.data_at).ok_or_else(shape)?;
        Ok(Tensor { name, dims, n_dims, kind, offset, n_bytes })
    }

    /// The format version: 1, 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The byte order of every number in the file.
    pub fn endian(&self) -> Endian {
        self.endian
    }

    /// The alignment of tensor data in bytes.
    pub fn alignment(&self) -> u64 {
        self.alignment
    }

    /// Where tensor data begins in the file; the header is what lies before.
    pub fn data_offset(&self) -> u64 {
        self.data_at
    }

    /// How many tensors the file describes.
    pub fn n_tensors(&self) -> usize {
        self.n_tensors as usize
    }

    /// Every metadata entry in file order.
    pub fn keys(&self) -> impl Iterator<Item = (&'a [u8], Value<'a>)> + use<'_, 'a> {
        let mut walk = Cursor::new(self.bytes, self.endian);
        (0..self.n_keys as usize).map_while(move |index| {
            if let Some(&at) = self.key_offsets.get(index) {
                walk = Cursor::at(self.bytes, at as usize, self.endian);
            }
            self.read_key(&mut walk, self.value_end(index)).ok()
        })
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<Value<'a>> {
        self.get_parts(&[key])
    }

    /// The value of the key that the `parts` make when joined, such as `["llama", ".block_count"]`.
    pub fn get_parts(&self, parts: &[&str]) -> Option<Value<'a>> {
        for index in 0..self.n_indexed() {
            let (mut at, key) = self.indexed(index);
            if is_joined(key, parts) {
                return self.read_key(&mut at, self.value_end(index)).ok().map(|(_, value)| value);
            }
        }
        self.keys().skip(INDEXED_KEYS).find(|(key, _)| is_joined(key, parts)).map(|(_, value)| value)
    }

    /// Every tensor description in file order.
    pub fn tensors(&self) -> impl Iterator<Item = Tensor<'a>> + use<'_, 'a> {
        let mut cursor = Cursor::at(self.bytes, self.tensors_at, self.endian);
        (0..self.n_tensors).map_while(move |_| self.read_tensor(&mut cursor).ok())
    }

    /// Where the number of each tensor's type lies in the file, in file order.
    pub fn type_offsets(&self) -> impl Iterator<Item = u64> + use<'_, 'a> {
        let mut cursor = Cursor::at(self.bytes, self.tensors_at, self.endian);
        (0..self.n_tensors)
            .map_while(move |_| self.read_tensor(&mut cursor).ok().map(|_| (cursor.offset() - TYPE_AND_OFFSET) as u64))
    }

    /// The tensor whose name the `parts` make when joined.
    pub fn tensor(&self, parts: &[&str]) -> Option<Tensor<'a>> {
        self.tensors().find(|tensor| is_joined(tensor.name, parts))
    }

    /// The data of `tensor`, when the bytes given to [`Gguf::parse`] reach that far.
    pub fn data(&self, tensor: &Tensor<'_>) -> Option<&'a [u8]> {
        let start = usize::try_from(tensor.offset).ok()?;
        let len = usize::try_from(tensor.n_bytes).ok()?;
        self.bytes.get(start..start.checked_add(len)?)
    }
}

/// Whether `name` is what the `parts` make when joined.
fn is_joined(name: &[u8], parts: &[&str]) -> bool {
    let mut rest = name;
    for part in parts {
        match rest.strip_prefix(part.as_bytes()) {
            Some(after) => rest = after,
            None => return false,
        }
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests;
