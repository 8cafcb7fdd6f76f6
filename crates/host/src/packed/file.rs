//! A packed file, read as if it were the plain one.

use std::io;
use std::path::Path;
use std::sync::Arc;

use memmap2::MmapMut;
use smidgen_core::packed::unpack;

use super::MARK;
use super::index::{Index, Stored, is_packed, room_bytes};
use crate::error::Error;
use crate::image::Image;
use crate::weights::{DirectFile, SECTOR, Stamp, Storage, Window, read_into, window};

/// Packed bytes that are read together when a whole file is unpacked.
const LOAD_BYTES: usize = 256 << 10;

/// A packed file in some storage, read as if it were the plain one.
pub struct PackedFile {
    storage: Box<dyn Storage>,
    index: Arc<Index>,
    /// What is read from the storage at once.
    input: Window,
    /// A block of which a part was asked for, and which one it is: tensor and block.
    block: Vec<u8>,
    held: Option<(usize, usize)>,
    scratch: Vec<u8>,
}

/// A file's plain bytes, and what it says of itself when it is packed.
pub type Opened = (Box<dyn Storage>, Option<Arc<Index>>);

/// The file at `path` in parts: as it is, or unpacked, of which the index may have `most` bytes.
///
/// # Errors
/// A file that cannot be read, or an index that is broken.
pub fn open(path: &Path, most: u64) -> Result<Opened, Error> {
    let mut file = DirectFile::open(path)?;
    match Index::read(&mut file, path, most)?.map(Arc::new) {
        None => Ok((Box::new(file), None)),
        Some(index) => {
            let file = PackedFile::new(Box::new(file), Arc::clone(&index), 0);
            let file = file.map_err(|error| Error::failed(path, error))?;
            Ok((Box::new(file), Some(index)))
        }
    }
}

/// The plain file's bytes, of a packed file at `path`; `None` when it is not packed.
pub(crate) fn open_whole(path: &Path) -> Result<Option<Image>, Error> {
    if !is_packed(path)? {
        return Ok(None);
    }
    let mut storage = DirectFile::open(path)?;
    let Some(index) = Index::read(&mut storage, path, u64::MAX)? else { return Ok(None) };
    let mut pages = Image::pages(index.plain_bytes).map_err(|error| error(path))?;
    let file = PackedFile::new(Box::new(storage), Arc::new(index), LOAD_BYTES);
    let mut file = file.map_err(|error| Error::failed(path, error))?;
    file.read_all(&mut pages).map_err(|error| Error::reading(path, &error))?;
    Ok(Some(Image::Owned(pages)))
}

impl PackedFile {
    /// The plain file of the packed one in `storage`, whose index is `index`, read through a window of about `room` bytes and at
    /// least as many as a block needs.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn new(storage: Box<dyn Storage>, index: Arc<Index>, room: usize) -> io::Result<Self> {
        let (plain, packed) = index.largest_block();
        let input = window(room_bytes(packed, room))?;
        Ok(PackedFile { storage, index, input, block: vec![0; plain], held: None, scratch: vec![0; plain] })
    }

    /// Bytes that one takes that reads what `index` describes, through a window of `room` bytes.
    pub fn memory_bytes(index: &Index, room: usize) -> u64 {
        let (plain, packed) = index.largest_block();
        (room_bytes(packed, room) + 2 * plain) as u64
    }

    fn read_all(&mut self, pages: &mut MmapMut) -> io::Result<()> {
        let mut at = 0;
        while at < pages.len() {
            at += self.read_at(at as u64, &mut pages[at..])?;
        }
        Ok(())
    }

    /// Reads `len` bytes at offset `at` of the packed file; where they begin in the input.
    fn fill(&mut self, at: u64, len: usize) -> io::Result<usize> {
        read_into(self.storage.as_mut(), (at, len), &mut self.input, &self.index.stamp)
    }

    /// Copies some of the bytes that lie as they were, from `plain_at` of the plain file and `at` of this one on; says how many.
    fn copy(&mut self, plain_at: u64, at: u64, out: &mut [u8]) -> io::Result<usize> {
        let n = out.len().min(self.input.len() - SECTOR);
        let begins = self.fill(at, n)?;
        out[..n].copy_from_slice(&self.input[begins..begins + n]);
        for mark in self.index.marks.iter().filter_map(|mark| usize::try_from(mark.checked_sub(plain_at)?).ok()) {
            if let Some(byte) = out[..n].get_mut(mark) {
                *byte &= !MARK;
            }
        }
        Ok(n)
    }

    /// Unpacks some of the bytes of tensor number `number`, from its byte `from` on; says how many.
    fn unpack(&mut self, number: usize, from: u64, out: &mut [u8]) -> io::Result<usize> {
        let index = Arc::clone(&self.index);
        let tensor = &index.tensors[number];
        let first = (from / tensor.block_bytes()) as usize;
        let skipped = (from % tensor.block_bytes()) as usize;
        if self.held == Some((number, first)) {
            return Ok(copy_part(&self.block[skipped..tensor.len(first)], out));
        }
        // As many blocks as there is room for, and as were asked for.
        let end = from + out.len() as u64;
        let wanted = |&block: &usize| block == first || (block as u64 * tensor.block_bytes()) < end;
        let room = (self.input.len() - SECTOR) as u64;
        let fits = |&block: &usize| block == first || tensor.ends[block] - tensor.start(first) <= room;
        let last = (first..tensor.ends.len()).take_while(wanted).take_while(fits).last().unwrap_or(first);
        let len = (tensor.ends[last] - tensor.start(first)) as usize;
        let begins = self.fill(tensor.at + tensor.start(first), len)?;
        let mut done = 0;
        for block in first..=last {
            let at = begins + (tensor.start(block) - tensor.start(first)) as usize;
            let packed = at..at + (tensor.ends[block] - tensor.start(block)) as usize;
            let n = tensor.len(block);
            let skipped = if block == first { skipped } else { 0 };
            let whole = (skipped == 0).then(|| out[done..].get_mut(..n)).flatten();
            done += match whole {
                Some(whole) => {
                    self.unpack_block(&index, tensor, packed, block, whole)?;
                    n
                }
                None => {
                    let mut room = std::mem::take(&mut self.block);
                    let unpacked = self.unpack_block(&index, tensor, packed, block, &mut room[..n]);
                    self.block = room;
                    self.held = unpacked.is_ok().then_some((number, block));
                    unpacked?;
                    copy_part(&self.block[skipped..n], &mut out[done..])
                }
            };
        }
        Ok(done)
    }

    /// Unpacks the block that lies at `packed` of the input.
    fn unpack_block(
        &mut self,
        index: &Index,
        tensor: &Stored,
        packed: std::ops::Range<usize>,
        block: usize,
        out: &mut [u8],
    ) -> io::Result<()> {
        let layout = tensor.layout(&index.codes);
        unpack(&layout, &self.input[packed], &mut self.scratch, out).map_err(|_| {
            let at = tensor.at + tensor.start(block);
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the packed rows at byte {at} are broken; get the file again"),
            )
        })
    }
}

/// As many bytes as both have.
fn copy_part(bytes: &[u8], out: &mut [u8]) -> usize {
    let n = bytes.len().min(out.len());
    out[..n].copy_from_slice(&bytes[..n]);
    n
}

impl Storage for PackedFile {
    fn read_at(&mut self, at: u64, out: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.index.plain_bytes.saturating_sub(at)).unwrap_or(usize::MAX);
        let n = left.min(out.len());
        let out = &mut out[..n];
        if out.is_empty() {
            return Ok(0);
        }
        // The last packed tensor that begins at or before `at`.
        let next = self.index.tensors.partition_point(|tensor| tensor.plain_at <= at);
        let (mut plain_end, mut end) = (0, 0);
        if let Some(number) = next.checked_sub(1) {
            let tensor = &self.index.tensors[number];
            let from = at - tensor.plain_at;
            (plain_end, end) = (tensor.plain_at + tensor.plain_bytes(), tensor.at + tensor.packed_bytes());
            if at < plain_end {
                let n = usize::try_from(plain_end - at).map_or(out.len(), |left| left.min(out.len()));
                return self.unpack(number, from, &mut out[..n]);
            }
        }
        let gap_end = self.index.tensors.get(next).map_or(self.index.plain_bytes, |tensor| tensor.plain_at);
        let n = usize::try_from(gap_end - at).map_or(out.len(), |left| left.min(out.len()));
        self.copy(at, end + (at - plain_end), &mut out[..n])
    }

    /// The plain file's length, and the change that its own file has seen.
    fn stamp(&self) -> io::Result<Stamp> {
        let found = self.storage.stamp()?;
        let len = self.index.plain_bytes.saturating_add(found.len).saturating_sub(self.index.stamp.len);
        Ok(Stamp { len, ..found })
    }

    fn unit(&self) -> usize {
        1
    }
}
