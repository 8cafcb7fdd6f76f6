//! A GGUF file of which not everything is in memory.
//!
//! [`Outline`] is what a plan needs: the header and the vectors. [`Residency`] says which rows a budget has room for, [`Kept`]
//! holds them, and [`Stream`] brings the others to the engine.

mod ahead;
mod eviction;
mod parts;
mod residency;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
mod ring;
mod room;
mod storage;
mod stream;
mod window;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use smidgen_core::bytes::Endian;
use smidgen_core::gguf::{Gguf, Tensor};

pub use ahead::Sources;
pub(crate) use residency::READER_BYTES;
pub use residency::{Range, Residency, Windows};
pub use room::Caches;
use storage::read_all;
pub use storage::{DirectFile, SECTOR, Stamp, Storage, read_into, window_bytes};
pub(crate) use storage::{drop_cached, open_direct, read_at, write_at};
pub(crate) use stream::PATIENCE;
pub use stream::Stream;
pub(crate) use window::windows;
pub use window::{Window, window};

use crate::error::{Error, Flaw};
use crate::image::Image;
use crate::packed::{self, Index, PackedFile};

/// The part of a file that is read first to look for its header; it is enlarged by half until the header is in it.
const HEADER_BYTES: u64 = 64 << 10;

/// The header and the vectors of a GGUF file.
#[derive(Debug)]
pub struct Outline {
    path: PathBuf,
    header: Image,
    /// What the file looked like when its header was read; its length is that of the plain file.
    stamp: Stamp,
    /// What a packed file says of itself.
    index: Option<Arc<Index>>,
    /// The vectors' bytes, in the order of their offsets.
    vectors: Vec<(u64, Vec<u8>)>,
}

impl Outline {
    /// Reads the header, of at most `most` bytes, and the vectors of the file at `path`; `None` when it is not a little-endian GGUF
    /// file, which must become one before it can be read in parts. A packed file is read as the plain one.
    ///
    /// # Errors
    /// The first field that is wrong, or a file that cannot be read.
    pub fn open(path: &Path, most: u64) -> Result<Option<Self>, Error> {
        let (mut storage, index) = packed::open(path, most)?;
        let storage = storage.as_mut();
        let stamp = storage.stamp().map_err(|error| Error::reading(path, &error))?;
        let mut room = window(HEADER_BYTES as usize).map_err(|error| Error::reading(path, &error))?;
        let header = read_header(storage, path, &stamp, most, &mut room)?;
        let Some(header) = header else { return Ok(None) };
        let mut outline = Outline { path: path.to_path_buf(), header, stamp, index, vectors: Vec::new() };
        let mut wanted: Vec<(u64, u64)> = {
            let gguf = outline.gguf()?;
            gguf.tensors().filter(is_vector).map(|tensor| (tensor.offset, tensor.n_bytes)).collect()
        };
        wanted.sort_unstable();
        for (at, n_bytes) in wanted {
            let mut bytes = vec![0; usize::try_from(n_bytes).map_err(|_| too_large(path, n_bytes))?];
            copy(storage, path, at, &mut bytes, &mut room, &stamp)?;
            outline.vectors.push((at, bytes));
        }
        Ok(Some(outline))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the file says of itself when it is packed.
    pub fn index(&self) -> Option<&Arc<Index>> {
        self.index.as_ref()
    }

    /// The file once more; one that is packed is read through a window of `room` bytes.
    fn open_again(&self, room: usize) -> Result<Box<dyn Storage>, Error> {
        let file = Box::new(DirectFile::open(&self.path)?);
        let Some(index) = &self.index else { return Ok(file) };
        let file = PackedFile::new(file, Arc::clone(index), room).map_err(|error| Error::failed(&self.path, error))?;
        Ok(Box::new(file))
    }

    /// Bytes of the whole file, unpacked.
    pub fn file_bytes(&self) -> u64 {
        self.stamp.len
    }

    /// What the file looked like when its header was read.
    pub fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// The header.
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// Bytes of all vectors.
    pub fn vector_bytes(&self) -> u64 {
        self.vectors.iter().map(|(_, bytes)| bytes.len() as u64).sum()
    }

    /// The checked header.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn gguf(&self) -> Result<Gguf<'_>, Error> {
        Gguf::parse(&self.header, self.stamp.len).map_err(|error| Flaw::new(error).in_file(&self.path))
    }

    /// What of `tensor` is in memory before anything is kept: a vector as a whole, no row of a matrix.
    pub fn held(&self, tensor: &Tensor<'_>) -> Option<&[u8]> {
        if !is_vector(tensor) {
            return Some(&[]);
        }
        let index = self.vectors.binary_search_by_key(&tensor.offset, |&(at, _)| at).ok()?;
        Some(&self.vectors[index].1)
    }

    /// Begins to stream what `residency` leaves out.
    ///
    /// # Errors
    /// A file that cannot be opened, or no memory or thread for it.
    pub fn stream(&self, residency: &Residency) -> Result<Stream, Error> {
        let windows = residency.windows();
        let room = self.index.as_deref().map_or(0, |index| windows.packed_bytes(index));
        let ahead = (0..windows.n_readers()).map(|_| self.open_again(room)).collect::<Result<Vec<_>, Error>>()?;
        Stream::new(
            &self.path,
            Sources { ahead, aside: self.open_again(0)?, tries_ring: ahead::prefers_ring(), expected: self.stamp },
            residency.streamed(),
            windows,
            residency.fetched_row_bytes(),
        )
    }
}

/// The rows that a [`Residency`] keeps.
#[derive(Debug)]
pub struct Kept {
    pages: Image,
    /// The offset in the file of each tensor that is kept in part or as a whole, where in the pages it begins, and its bytes there.
    places: Vec<(u64, usize, usize)>,
}

impl Kept {
    /// Reads what `residency` keeps of the file of `outline`, in memory that will be the stream's, and `spare` bytes that somebody else
    /// will have.
    ///
    /// # Errors
    /// A file that cannot be read, or no memory for it.
    pub fn read(outline: &Outline, residency: &Residency, spare: usize) -> Result<Self, Error> {
        let path = outline.path();
        let mut storage = outline.open_again(residency::UNPACK_BYTES)?;
        let stamp = outline.stamp;
        let gguf = outline.gguf()?;
        let mut places = Vec::new();
        let mut end = 0;
        for tensor in gguf.tensors().filter(|tensor| !is_vector(tensor)) {
            let row_bytes = tensor.n_bytes / tensor.dims[1];
            let len = usize::try_from(residency.held_rows(&tensor) * row_bytes);
            let len = len.map_err(|_| too_large(path, tensor.n_bytes))?;
            if len > 0 {
                places.push((tensor.offset, end, len));
                end += len;
            }
        }
        places.sort_unstable();
        // At least a byte: there is no map of nothing.
        let mut pages = Image::pages(end.max(1) as u64).map_err(|error| error(path))?;
        // Through one large page where there is room for it.
        let room = residency.windows().total().saturating_add(spare as u64);
        let room = room.clamp(2 * SECTOR as u64, Windows::LARGE.total());
        let mut room = window(room as usize).map_err(|error| Error::reading(path, &error))?;
        for &(at, start, len) in &places {
            copy(storage.as_mut(), path, at, &mut pages[start..start + len], &mut room, &stamp)?;
        }
        Ok(Kept { pages: Image::Owned(pages), places })
    }

    /// The rows of the matrix `tensor` that are in memory, if some are.
    pub fn held(&self, tensor: &Tensor<'_>) -> Option<&[u8]> {
        let index = self.places.binary_search_by_key(&tensor.offset, |&(at, ..)| at).ok()?;
        let (_, start, len) = self.places[index];
        Some(&self.pages[start..start + len])
    }

    /// Keeps the system from moving these pages out of memory.
    ///
    /// # Errors
    /// When the system's limit for such pages is lower.
    pub fn lock(&self) -> std::io::Result<()> {
        self.pages.lock()
    }
}

fn is_vector(tensor: &Tensor<'_>) -> bool {
    tensor.dims[1] == 1
}

fn too_large(path: &Path, n_bytes: u64) -> Error {
    Error::failed(path, format!("{n_bytes} bytes do not fit in memory"))
}

/// Fills `out` with the bytes from offset `at` on, through `room`, past the system's cache.
fn copy(
    storage: &mut dyn Storage,
    path: &Path,
    at: u64,
    out: &mut [u8],
    room: &mut [u8],
    stamp: &Stamp,
) -> Result<(), Error> {
    if storage.unit() == 1 {
        let len = out.len();
        return read_all(storage, at, out, len, stamp).map_err(|error| Error::reading(path, &error));
    }
    let step = room.len() - SECTOR;
    for (index, out) in out.chunks_mut(step).enumerate() {
        let begins = read_into(storage, (at + (index * step) as u64, out.len()), room, stamp);
        let begins = begins.map_err(|error| Error::reading(path, &error))?;
        out.copy_from_slice(&room[begins..begins + out.len()]);
    }
    Ok(())
}

/// Reads the header of a little-endian GGUF file and no more, when it has at most `most` bytes.
///
/// It is read, not mapped: the system reads far ahead of a map, and in a small cgroup there may be no room for that.
fn read_header(
    storage: &mut dyn Storage,
    path: &Path,
    stamp: &Stamp,
    most: u64,
    room: &mut [u8],
) -> Result<Option<Image>, Error> {
    let most = most.min(stamp.len);
    let mut read = |n: u64| {
        let mut pages = Image::pages(n).map_err(|error| error(path))?;
        copy(storage, path, 0, &mut pages, room, stamp)?;
        Ok(pages)
    };
    let mut n = HEADER_BYTES.min(most);
    loop {
        let pages = read(n)?;
        if !pages.starts_with(b"GGUF") {
            return Ok(None);
        }
        let end = match Gguf::parse(&pages, stamp.len) {
            Ok(gguf) if gguf.endian() == Endian::Big => return Ok(None),
            Ok(gguf) => gguf.data_offset().min(stamp.len),
            // The header may go on behind what was read.
            Err(_) if n < most => {
                n = (n + n / 2).min(most);
                continue;
            }
            Err(error) if n == stamp.len => return Err(Flaw::new(error).in_file(path)),
            Err(_) => {
                return Err(Error::too_large(path, format!("its header has more than {most} bytes, or is broken")));
            }
        };
        drop(pages);
        return read(end).map(|pages| Some(Image::Owned(pages)));
    }
}
