//! A file's bytes in memory: mapped from the file, or in pages of our own.

use std::fs::File;
use std::io::Read;
use std::ops::Deref;
use std::path::Path;

use memmap2::{Mmap, MmapMut, MmapOptions};

use crate::error::Error;
use crate::packed;
use crate::progress::{Progress, Silent, Work};
use crate::weights::Stamp;

/// Bytes read between two steps of a progress bar.
const READ_BYTES: usize = 4 << 20;

/// Whole anonymous pages, to be written and read.
pub type Pages = MmapMut;

/// Bytes that begin on a page: a mapped file, or exactly as many anonymous pages as they need.
///
/// Anonymous pages, not a `Vec`: they are aligned for every kernel, are never copied by growing, and go back to the
/// system when dropped.
#[derive(Debug)]
pub enum Image {
    /// A file, mapped to be read.
    Mapped(Mmap),
    /// Pages of our own.
    Owned(MmapMut),
}

impl Image {
    /// Maps the file at `path`; one that is packed is unpacked into pages of our own.
    ///
    /// # Errors
    /// When it is not a file, is empty, cannot be mapped, or is packed and broken.
    pub fn map(path: &Path) -> Result<Self, Error> {
        Self::map_or_read(path, 0, &Silent)
    }

    /// As [`Image::map`], but a file of at most `at_once` bytes is read as by [`Image::read`].
    ///
    /// # Errors
    /// Those of both.
    pub(crate) fn map_or_read(path: &Path, at_once: u64, progress: &dyn Progress) -> Result<Self, Error> {
        let (file, len) = open_file(path)?;
        if let Some(image) = packed::open_whole(path)? {
            return Ok(image);
        }
        if len <= at_once {
            return Self::read_all(file, len, path, progress);
        }
        // SAFETY: the map is only read. Another process that shortens the file while we use it would make a read fault;
        // that stops this process and corrupts nothing, and `--no-mmap` is there for files that change.
        let map = unsafe { Mmap::map(&file) };
        map.map(Image::Mapped).map_err(|error| Error::reading(path, &error))
    }

    /// Reads the whole file at `path` into pages of our own.
    ///
    /// # Errors
    /// When it is not a file, is empty, cannot be read, or does not fit in memory.
    pub fn read(path: &Path, progress: &dyn Progress) -> Result<Self, Error> {
        let (file, len) = open_file(path)?;
        Self::read_all(file, len, path, progress)
    }

    fn read_all(mut file: File, len: u64, path: &Path, progress: &dyn Progress) -> Result<Self, Error> {
        let stamp = |file: &File| Stamp::of(file).map_err(|error| Error::reading(path, &error));
        let before = stamp(&file)?;
        let mut pages = Self::pages(len).map_err(|error| error(path))?;
        let work = Work::begin(progress, "reading", len);
        for start in (0..pages.len()).step_by(READ_BYTES) {
            let n_bytes = READ_BYTES.min(pages.len() - start);
            populate(&pages, start, n_bytes);
            let chunk = &mut pages[start..][..n_bytes];
            file.read_exact(chunk).map_err(|error| Error::reading(path, &error))?;
            work.advance(chunk.len() as u64);
        }
        if stamp(&file)? != before {
            return Err(Error::bad(path, "the file was changed while it was read"));
        }
        Ok(Image::Owned(pages))
    }

    /// `len` zeroed bytes of whole pages, all of which will be written; the error still wants to know for which file they were.
    pub(crate) fn pages(len: u64) -> Result<MmapMut, impl Fn(&Path) -> Error> {
        let pages = anonymous(len);
        // Fewer, larger pages are found faster; a system that has none goes on with small ones.
        #[cfg(target_os = "linux")]
        let pages = pages.inspect(|pages| drop(pages.advise(memmap2::Advice::HugePage)));
        pages
    }

    /// As [`Image::pages`], for bytes of which only a few will be written: the others take no memory, and none is set aside.
    pub(crate) fn unreserved(len: u64) -> Result<MmapMut, impl Fn(&Path) -> Error> {
        let map = |len| MmapOptions::new().len(len).no_reserve_swap().map_anon().ok();
        usize::try_from(len).ok().and_then(map).ok_or(move |path: &Path| {
            Error::failed(path, format!("{len} bytes are more than this machine can address"))
        })
    }

    /// Keeps the system from moving these bytes out of memory.
    ///
    /// # Errors
    /// When the system's limit for such bytes is lower, or it has no such promise.
    pub fn lock(&self) -> std::io::Result<()> {
        #[cfg(unix)]
        match self {
            Image::Mapped(map) => map.lock(),
            Image::Owned(pages) => pages.lock(),
        }
        #[cfg(not(unix))]
        Err(std::io::ErrorKind::Unsupported.into())
    }

    /// Whether the bytes are mapped from a file.
    pub fn is_mapped(&self) -> bool {
        matches!(self, Image::Mapped(_))
    }
}

impl Deref for Image {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Image::Mapped(map) => map,
            Image::Owned(pages) => pages,
        }
    }
}

/// `len` zeroed bytes that take memory page by page, when they are first written to.
///
/// # Errors
/// When there is no room for them; the error still wants to know for which file they were.
pub fn zeroed(len: u64) -> Result<Pages, impl Fn(&Path) -> Error> {
    let pages = anonymous(len);
    // A system that gave two megabytes for the first byte would break the promise.
    #[cfg(target_os = "linux")]
    let pages = pages.inspect(|pages| drop(pages.advise(memmap2::Advice::NoHugePage)));
    pages
}

/// `len` zeroed bytes of whole pages.
fn anonymous(len: u64) -> Result<MmapMut, impl Fn(&Path) -> Error> {
    let pages = usize::try_from(len).ok().and_then(|len| MmapMut::map_anon(len).ok());
    pages.ok_or(move |path: &Path| Error::failed(path, format!("{len} bytes do not fit in memory")))
}

/// Takes memory for `n_bytes` from `start` on, which are about to be written, all at once rather than page by page; a system that
/// cannot (Linux before 5.14) does so when they are.
fn populate(pages: &Pages, start: usize, n_bytes: usize) {
    #[cfg(target_os = "linux")]
    drop(pages.advise_range(memmap2::Advice::PopulateWrite, start, n_bytes));
    #[cfg(not(target_os = "linux"))]
    let _ = (pages, start, n_bytes);
}

/// Opens `path` when it is an ordinary file that is not empty; with its length.
pub(crate) fn open_file(path: &Path) -> Result<(File, u64), Error> {
    // The type is asked before the file is opened: opening a pipe would wait for its other end.
    let metadata = std::fs::metadata(path).map_err(|error| Error::opening(path, &error))?;
    if metadata.is_dir() {
        return Err(Error::bad(path, "is a directory where a file should be"));
    }
    if !metadata.is_file() {
        return Err(Error::bad(path, "is not an ordinary file"));
    }
    let file = File::open(path).map_err(|error| Error::opening(path, &error))?;
    let len = file.metadata().map_err(|error| Error::reading(path, &error))?.len();
    if len == 0 {
        return Err(Error::bad(path, "the file is empty"));
    }
    Ok((file, len))
}

/// Reads a whole small file such as `config.json`, of at most `limit` bytes.
pub(crate) fn read_small(path: &Path, limit: u64) -> Result<Vec<u8>, Error> {
    let (file, len) = open_file(path)?;
    if len > limit {
        return Err(Error::bad(path, format!("{len} bytes are more than such a file may have ({limit})")));
    }
    let mut bytes = Vec::with_capacity(len as usize);
    file.take(limit).read_to_end(&mut bytes).map_err(|error| Error::reading(path, &error))?;
    Ok(bytes)
}
