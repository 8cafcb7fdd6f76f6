//! What a packed file says of itself: where the blocks of each packed tensor lie, and how they are coded.

use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use smidgen_core::bytes::{Cursor, Endian};
use smidgen_core::packed::{Layout, STATES_BYTES, Table};

use super::{FOOTER_BYTES, LARGEST_RATIO, LONGEST_ROW, MAGIC, SMALLEST_RATIO};
use crate::error::{Error, Flaw};
use crate::image::open_file;
use crate::weights::{SECTOR, Stamp, Storage, read_into, window, window_bytes};

/// The most bytes of a block of a type, and the most planes that it can have; both are far above those of any.
const MOST_BLOCK_BYTES: usize = 4096;
const MOST_PLANES: usize = 64;
/// The index is read in pieces of this size.
const STEP_BYTES: usize = 64 << 10;

/// What a packed file says of itself.
#[derive(Debug)]
pub struct Index {
    /// What the file looked like when this was read.
    pub(super) stamp: Stamp,
    /// Bytes of the plain file.
    pub(super) plain_bytes: u64,
    /// Offsets of the bytes of the header that have the mark.
    pub(super) marks: Vec<u64>,
    pub(super) codes: Vec<Code>,
    /// In the order of their offsets.
    pub(super) tensors: Vec<Stored>,
    /// The most bytes of a block before and after packing.
    most: (usize, usize),
}

/// How the blocks of a type are coded.
#[derive(Debug)]
pub(super) struct Code {
    block_bytes: usize,
    planes: Vec<(usize, Option<usize>)>,
    tables: Vec<Table>,
}

/// A packed tensor.
#[derive(Debug)]
pub(super) struct Stored {
    /// Where it begins in the plain file.
    pub(super) plain_at: u64,
    /// Where it begins in this one.
    pub(super) at: u64,
    row_bytes: usize,
    n_rows: u64,
    /// Rows in every block but the last.
    rows: u64,
    pub(super) code: usize,
    /// Where each block ends, from `at` on.
    pub(super) ends: Vec<u64>,
}

impl Stored {
    /// Bytes before packing.
    pub(super) fn plain_bytes(&self) -> u64 {
        self.row_bytes as u64 * self.n_rows
    }

    /// Bytes after packing.
    pub(super) fn packed_bytes(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Bytes before packing of every block but the last.
    pub(super) fn block_bytes(&self) -> u64 {
        self.row_bytes as u64 * self.rows
    }

    /// Where block `block` begins after `at`.
    pub(super) fn start(&self, block: usize) -> u64 {
        block.checked_sub(1).map_or(0, |before| self.ends[before])
    }

    /// Bytes before packing of block `block`.
    pub(super) fn len(&self, block: usize) -> usize {
        let begins = block as u64 * self.block_bytes();
        self.block_bytes().min(self.plain_bytes() - begins) as usize
    }

    pub(super) fn layout<'a>(&self, codes: &'a [Code]) -> Layout<'a> {
        let Code { block_bytes, planes, tables } = &codes[self.code];
        Layout { block_bytes: *block_bytes, row_bytes: self.row_bytes, planes, tables }
    }
}

/// Whether the file at `path` ends as a packed file does. Read as files are: a disk is slow to bring past its cache what it holds.
///
/// # Errors
/// A file that cannot be read.
pub fn is_packed(path: &Path) -> Result<bool, Error> {
    let (mut file, len) = open_file(path)?;
    let mut bytes = [0; FOOTER_BYTES];
    let Some(at) = len.checked_sub(FOOTER_BYTES as u64) else { return Ok(false) };
    let done = file.seek(SeekFrom::Start(at)).and_then(|_| file.read_exact(&mut bytes));
    done.map_err(|error| Error::reading(path, &error))?;
    Ok(footer(&bytes).is_some())
}

/// Where the index begins, and the bytes of the plain file, from the last bytes of a file; `None` when it is not a packed one.
fn footer(bytes: &[u8]) -> Option<(u64, u64)> {
    let mut cursor = Cursor::new(bytes, Endian::Little);
    let found = cursor.u64().zip(cursor.u64());
    found.filter(|_| cursor.take(MAGIC.len()) == Some(MAGIC))
}

/// The `len` bytes at offset `at`, past the system's cache.
fn read(storage: &mut dyn Storage, path: &Path, (at, len): (u64, usize), stamp: &Stamp) -> Result<Vec<u8>, Error> {
    let failed = |error: io::Error| Error::reading(path, &error);
    let mut room = window(window_bytes(len.min(STEP_BYTES))).map_err(failed)?;
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let n = (len - bytes.len()).min(STEP_BYTES);
        let begins = read_into(storage, (at + bytes.len() as u64, n), &mut room, stamp).map_err(failed)?;
        bytes.extend(&room[begins..begins + n]);
    }
    Ok(bytes)
}

impl Index {
    /// Reads the index, of at most `most` bytes, of the file in `storage`, called `path` in messages; `None` when it is not a
    /// packed file.
    ///
    /// # Errors
    /// The first field that is wrong, or a file that cannot be read.
    pub fn read(storage: &mut dyn Storage, path: &Path, most: u64) -> Result<Option<Self>, Error> {
        let stamp = storage.stamp().map_err(|error| Error::reading(path, &error))?;
        let Some(end) = stamp.len.checked_sub(FOOTER_BYTES as u64) else { return Ok(None) };
        let last = read(storage, path, (end, FOOTER_BYTES), &stamp)?;
        let Some((at, plain_bytes)) = footer(&last) else { return Ok(None) };
        let Some(len) = end.checked_sub(at).and_then(|len| usize::try_from(len).ok()) else {
            return Err(Error::bad(
                path,
                format!("the index of its packed weights begins at byte {at}, behind its end"),
            ));
        };
        if len as u64 > most {
            return Err(Error::too_large(path, format!("the index of its packed weights has more than {most} bytes")));
        }
        let bytes = read(storage, path, (at, len), &stamp)?;
        Self::parse(&bytes, (at, plain_bytes), stamp).map(Some).map_err(|flaw| flaw.in_file(path))
    }

    /// The index in `bytes`, which begins at byte `at` of a file that looks like `stamp`.
    ///
    /// # Errors
    /// The first field that is wrong, with its offset.
    pub fn parse(bytes: &[u8], (at, plain_bytes): (u64, u64), stamp: Stamp) -> Result<Self, Flaw> {
        let mut parser = Parser { cursor: Cursor::new(bytes, Endian::Little), at };
        if plain_bytes > stamp.len.saturating_mul(SMALLEST_RATIO) {
            return Err(parser.flaw(0, format!("{plain_bytes} bytes cannot have been packed in {}", stamp.len)));
        }
        let n_marks = parser.count("marked types", 8)?;
        let marks = (0..n_marks).map(|_| parser.u64("marked type")).collect::<Result<Vec<u64>, Flaw>>()?;
        let n_codes = parser.count("codes", 8)?;
        let codes = (0..n_codes).map(|_| parser.code()).collect::<Result<Vec<Code>, Flaw>>()?;
        let n_tensors = parser.count("packed tensors", 24)?;
        let mut tensors: Vec<Stored> = Vec::with_capacity(n_tensors);
        // Where the plain file and this one have come to.
        let mut places = (0, 0);
        for _ in 0..n_tensors {
            let tensor = parser.tensor(&codes, places, plain_bytes)?;
            places = (tensor.plain_at + tensor.plain_bytes(), tensor.at + tensor.packed_bytes());
            tensors.push(tensor);
        }
        let here = parser.cursor.offset();
        if parser.cursor.remaining() > 0 || places.1.checked_add(plain_bytes - places.0) != Some(at) {
            return Err(parser.flaw(here, "what is packed does not end where the index begins".to_owned()));
        }
        let header_bytes = tensors.first().map_or(plain_bytes, |tensor| tensor.plain_at);
        if let Some(mark) = marks.iter().find(|&&mark| mark >= header_bytes) {
            return Err(parser.flaw(0, format!("byte {mark} does not belong to the header")));
        }
        let blocks = || tensors.iter().flat_map(|tensor| (0..tensor.ends.len()).map(move |block| (tensor, block)));
        let plain = blocks().map(|(tensor, block)| tensor.len(block)).max().unwrap_or(0);
        let packed =
            blocks().map(|(tensor, block)| (tensor.ends[block] - tensor.start(block)) as usize).max().unwrap_or(0);
        Ok(Index { stamp, plain_bytes, marks, codes, tensors, most: (plain, packed) })
    }

    /// Bytes of the plain file.
    pub fn plain_bytes(&self) -> u64 {
        self.plain_bytes
    }

    /// Bytes that this takes in memory.
    pub fn memory_bytes(&self) -> u64 {
        let tables: usize = self.codes.iter().map(|code| code.tables.capacity() * size_of::<Table>()).sum();
        let ends: usize = self.tensors.iter().map(|tensor| tensor.ends.capacity() * 8).sum();
        (tables + ends + self.tensors.capacity() * size_of::<Stored>() + self.marks.capacity() * 8) as u64
    }

    /// The most bytes of a block before packing, and after.
    pub(crate) fn largest_block(&self) -> (usize, usize) {
        self.most
    }

    /// Bytes of this file that must be read for the `len` bytes from offset `at` of the plain one on.
    pub fn packed_bytes(&self, at: u64, len: u64) -> u64 {
        let end = at + len;
        let mut bytes = len;
        for tensor in &self.tensors {
            let (first, last) = (at.max(tensor.plain_at), end.min(tensor.plain_at + tensor.plain_bytes()));
            if first < last {
                let blocks = (first - tensor.plain_at) / tensor.block_bytes()
                    ..=(last - 1 - tensor.plain_at) / tensor.block_bytes();
                let packed = tensor.ends[*blocks.end() as usize] - tensor.start(*blocks.start() as usize);
                bytes = bytes - (last - first) + packed;
            }
        }
        bytes
    }

    /// Of the `len` bytes from offset `at` of the plain file on, those that are coded, and those of packed tensors that are not.
    pub fn coded_bytes(&self, at: u64, len: u64) -> [u64; 2] {
        let mut sum = [0, 0];
        for tensor in &self.tensors {
            let n = (at + len).min(tensor.plain_at + tensor.plain_bytes()).saturating_sub(at.max(tensor.plain_at));
            let Code { block_bytes, planes, .. } = &self.codes[tensor.code];
            let in_block: usize = planes.iter().filter(|(_, table)| table.is_some()).map(|(n_bytes, _)| n_bytes).sum();
            let coded = (u128::from(n) * in_block as u128 / (*block_bytes).max(1) as u128) as u64;
            sum = [sum[0] + coded, sum[1] + n - coded];
        }
        sum
    }

    /// About how many bytes `len` of the packed tensors become.
    pub(crate) fn packed_share(&self, len: usize) -> usize {
        let plain: u64 = self.tensors.iter().map(Stored::plain_bytes).sum();
        let packed: u64 = self.tensors.iter().map(Stored::packed_bytes).sum();
        (len as u128 * u128::from(packed) / u128::from(plain.max(1))) as usize + self.most.1
    }

    /// How many rows are packed together, of the tensor at offset `at` of the plain file, if it is packed.
    pub(crate) fn rows_of_block(&self, at: u64) -> Option<usize> {
        let index = self.tensors.binary_search_by_key(&at, |tensor| tensor.plain_at).ok()?;
        usize::try_from(self.tensors[index].rows).ok()
    }

    /// The packed bytes of the tensor at offset `at` of the plain file, if it is packed.
    pub fn packed_tensor(&self, at: u64) -> Option<u64> {
        let index = self.tensors.binary_search_by_key(&at, |tensor| tensor.plain_at).ok()?;
        Some(self.tensors[index].packed_bytes())
    }
}

/// Reads the index field by field.
struct Parser<'a> {
    cursor: Cursor<'a>,
    /// Where the index begins in the file.
    at: u64,
}

impl<'a> Parser<'a> {
    fn flaw(&self, offset: usize, what: String) -> Flaw {
        Flaw::new(format!("index of packed weights, at byte {}: {what}", self.at + offset as u64))
    }

    fn field<T>(&mut self, name: &str, read: impl FnOnce(&mut Cursor<'a>) -> Option<T>) -> Result<T, Flaw> {
        let at = self.cursor.offset();
        read(&mut self.cursor).ok_or_else(|| self.flaw(at, format!("it ends inside the {name}")))
    }

    fn u32(&mut self, name: &str) -> Result<u32, Flaw> {
        self.field(name, Cursor::u32)
    }

    fn u64(&mut self, name: &str) -> Result<u64, Flaw> {
        self.field(name, Cursor::u64)
    }

    /// How many things of at least `least` bytes follow.
    fn count(&mut self, name: &str, least: usize) -> Result<usize, Flaw> {
        let at = self.cursor.offset();
        let n = self.u32(name)? as usize;
        if n > self.cursor.remaining() / least {
            return Err(self.flaw(at, format!("{n} {name} are more than it can hold")));
        }
        Ok(n)
    }

    fn code(&mut self) -> Result<Code, Flaw> {
        let at = self.cursor.offset();
        let (block_bytes, n_planes) = (self.u32("block bytes")? as usize, self.count("planes", 8)?);
        if !(1..=MOST_BLOCK_BYTES).contains(&block_bytes) || n_planes > MOST_PLANES {
            return Err(self.flaw(at, format!("no type has blocks of {block_bytes} bytes in {n_planes} planes")));
        }
        let (mut planes, mut tables) = (Vec::with_capacity(n_planes), Vec::new());
        for _ in 0..n_planes {
            let at = self.cursor.offset();
            let (n_bytes, is_coded) = (self.u32("plane")? as usize, self.u32("kind of plane")?);
            let table = match is_coded {
                0 => None,
                1 => {
                    let mut frequencies = [0; 256];
                    for frequency in &mut frequencies {
                        *frequency = self.field("frequencies", Cursor::u16)?;
                    }
                    let table = Table::new(&frequencies);
                    tables.push(table.map_err(|_| self.flaw(at, "frequencies of another sum".to_owned()))?);
                    Some(tables.len() - 1)
                }
                kind => return Err(self.flaw(at, format!("there is no plane of kind {kind}"))),
            };
            planes.push((n_bytes, table));
        }
        if planes.iter().try_fold(0usize, |sum, (n_bytes, _)| sum.checked_add(*n_bytes)) != Some(block_bytes) {
            return Err(self.flaw(at, format!("its planes are not blocks of {block_bytes} bytes")));
        }
        tables.shrink_to_fit();
        Ok(Code { block_bytes, planes, tables })
    }

    /// A tensor behind `places` in the plain file, of `plain_bytes`, and in this one.
    fn tensor(&mut self, codes: &[Code], places: (u64, u64), plain_bytes: u64) -> Result<Stored, Flaw> {
        let here = self.cursor.offset();
        let (plain_at, n_rows) = (self.u64("tensor offset")?, self.u64("rows")?);
        let (row_bytes, rows, code) =
            (self.u32("row bytes")?, self.u32("rows of a block")?, self.u32("code")? as usize);
        let end = n_rows.checked_mul(u64::from(row_bytes)).and_then(|bytes| plain_at.checked_add(bytes));
        let block_bytes = u64::from(rows) * u64::from(row_bytes);
        let fits = plain_at >= places.0
            && end.is_some_and(|end| end <= plain_bytes)
            && (1..=LONGEST_ROW.max(super::BLOCK_BYTES)).contains(&block_bytes)
            && n_rows > 0
            && code < codes.len();
        let n_blocks = n_rows.div_ceil(u64::from(rows.max(1)));
        if !fits || n_blocks > self.cursor.remaining() as u64 / 4 {
            return Err(
                self.flaw(here, format!("{n_rows} rows of {row_bytes} bytes at byte {plain_at} cannot be packed here"))
            );
        }
        let at = places.1 + (plain_at - places.0);
        let mut ends = Vec::with_capacity(n_blocks as usize);
        let mut end = 0;
        for _ in 0..n_blocks {
            let here = self.cursor.offset();
            let len = u64::from(self.u32("block")?);
            if len > block_bytes * LARGEST_RATIO + STATES_BYTES as u64 {
                return Err(self.flaw(here, format!("a block of {len} bytes for {block_bytes}")));
            }
            end += len;
            ends.push(end);
        }
        Ok(Stored { plain_at, at, row_bytes: row_bytes as usize, n_rows, rows: u64::from(rows), code, ends })
    }
}

/// Bytes of the window through which blocks of at most `packed` bytes are read, of `len` bytes where there is room.
pub(super) fn room_bytes(packed: usize, len: usize) -> usize {
    window_bytes(packed).max(len.next_multiple_of(SECTOR))
}
