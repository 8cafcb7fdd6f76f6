//! A file that is read past the system's cache: what is read once for every token would only push out what is kept.
//!
//! Linux: `O_DIRECT`, and where a file system refuses it (some networks, FUSE), ordinary reads whose pages are given back at
//! once. macOS: `F_NOCACHE`. Windows: `FILE_FLAG_NO_BUFFERING`. Elsewhere ordinary reads.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;
use std::time::SystemTime;

use crate::error::Error;
use crate::image::open_file;

/// What offsets, lengths and addresses of direct reads are multiples of: a sector of every disk, and a page of most machines.
pub const SECTOR: usize = 4096;

/// What a file looked like: a file that looks different is not the model that was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Bytes in the file.
    pub len: u64,
    /// When it was last written, where the system says.
    pub modified: Option<SystemTime>,
    /// Which file it is, by the numbers of its disk and of itself, where the system has such: another one may take its name.
    pub identity: Option<(u64, u64)>,
}

impl Stamp {
    /// What `file` looks like now.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        #[cfg(unix)]
        let identity = {
            use std::os::unix::fs::MetadataExt;
            Some((metadata.dev(), metadata.ino()))
        };
        #[cfg(not(unix))]
        let identity = None;
        Ok(Stamp { len: metadata.len(), modified: metadata.modified().ok(), identity })
    }
}

/// Somewhere that bytes are read from.
pub trait Storage: Send {
    /// Reads some bytes from offset `at` on into the beginning of `out` and says how many; none at the end of the file.
    ///
    /// # Errors
    /// What the system says.
    fn read_at(&mut self, at: u64, out: &mut [u8]) -> io::Result<usize>;

    /// What the file looks like now.
    ///
    /// # Errors
    /// What the system says.
    fn stamp(&self) -> io::Result<Stamp>;

    /// The file itself, opened once more, where whole sectors can be read from it past the system's cache: for who can have several
    /// reads under way.
    fn direct_file(&self) -> Option<File> {
        None
    }

    /// What offsets and lengths are best multiples of; a divisor of [`SECTOR`].
    fn unit(&self) -> usize {
        SECTOR
    }
}

/// A file of the system.
#[derive(Debug)]
pub struct DirectFile {
    /// For reads of whole sectors; `None` where the file system has no such reads.
    direct: Option<File>,
    /// For all other reads.
    plain: File,
}

impl DirectFile {
    /// Opens the ordinary, not empty file at `path`.
    ///
    /// # Errors
    /// When it is not such a file or cannot be opened.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let (plain, _) = open_file(path)?;
        Ok(DirectFile { direct: open_direct(path, File::options().read(true)).ok(), plain })
    }

    /// As [`DirectFile::open`], as if the file system had no direct reads.
    ///
    /// # Errors
    /// Those of [`DirectFile::open`].
    pub fn open_cached(path: &Path) -> Result<Self, Error> {
        Ok(DirectFile { direct: None, plain: open_file(path)?.0 })
    }
}

impl Storage for DirectFile {
    fn read_at(&mut self, at: u64, out: &mut [u8]) -> io::Result<usize> {
        let is_whole = at.is_multiple_of(SECTOR as u64) && out.len().is_multiple_of(SECTOR);
        if let Some(direct) = self.direct.as_ref().filter(|_| is_whole) {
            match read_at(direct, at, out) {
                // A file system may allow the flag and refuse the read.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => self.direct = None,
                done => return done,
            }
        }
        let n = read_at(&self.plain, at, out)?;
        drop_cached(&self.plain, at, n);
        Ok(n)
    }

    fn stamp(&self) -> io::Result<Stamp> {
        Stamp::of(&self.plain)
    }

    fn direct_file(&self) -> Option<File> {
        self.direct.as_ref()?.try_clone().ok()
    }
}

/// Gives back the pages of the system's cache that a read has filled.
pub(crate) fn drop_cached(file: &File, at: u64, n: usize) {
    #[cfg(target_os = "linux")]
    {
        // The pages at the ends are given back too: a sector is read again sooner than a page is missed.
        let start = at - at % SECTOR as u64;
        let len = (at + n as u64).next_multiple_of(SECTOR as u64) - start;
        // An advice: where it is refused, the cache is only larger, and the system takes it back when it must.
        let _ = rustix::fs::fadvise(file, start, std::num::NonZeroU64::new(len), rustix::fs::Advice::DontNeed);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (file, at, n);
}

/// Opens the file at `path` with `options`, past the system's cache.
#[cfg(target_os = "linux")]
pub(crate) fn open_direct(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = rustix::fs::OFlags::DIRECT.bits() as i32;
    options.custom_flags(flags).open(path)
}

/// Opens the file at `path` with `options`, past the system's cache.
#[cfg(target_os = "macos")]
pub(crate) fn open_direct(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let file = options.open(path)?;
    rustix::fs::fcntl_nocache(&file, true)?;
    Ok(file)
}

/// Opens the file at `path` with `options`, past the system's cache.
#[cfg(windows)]
pub(crate) fn open_direct(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    use std::os::windows::fs::OpenOptionsExt;
    /// `FILE_FLAG_NO_BUFFERING` of `CreateFileW`.
    const NO_BUFFERING: u32 = 0x2000_0000;
    options.custom_flags(NO_BUFFERING).open(path)
}

/// There is no way past the cache that we know.
#[cfg(not(any(target_os = "linux", target_os = "macos", windows)))]
pub(crate) fn open_direct(_: &Path, _: &mut OpenOptions) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Reads some bytes at an offset and says how many.
#[cfg(unix)]
pub(crate) fn read_at(file: &File, at: u64, out: &mut [u8]) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, out, at)
}

/// Writes some bytes at an offset and says how many.
#[cfg(unix)]
pub(crate) fn write_at(file: &File, at: u64, bytes: &[u8]) -> io::Result<usize> {
    std::os::unix::fs::FileExt::write_at(file, bytes, at)
}

/// Reads some bytes at an offset and says how many.
#[cfg(windows)]
pub(crate) fn read_at(file: &File, at: u64, out: &mut [u8]) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, out, at)
}

/// Writes some bytes at an offset and says how many.
#[cfg(windows)]
pub(crate) fn write_at(file: &File, at: u64, bytes: &[u8]) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_write(file, bytes, at)
}

/// Reads some bytes at an offset and says how many.
#[cfg(not(any(unix, windows)))]
pub(crate) fn read_at(mut file: &File, at: u64, out: &mut [u8]) -> io::Result<usize> {
    use std::io::{Read, Seek, SeekFrom};
    file.seek(SeekFrom::Start(at))?;
    file.read(out)
}

/// Writes some bytes at an offset and says how many.
#[cfg(not(any(unix, windows)))]
pub(crate) fn write_at(mut file: &File, at: u64, bytes: &[u8]) -> io::Result<usize> {
    use std::io::{Seek, SeekFrom, Write};
    file.seek(SeekFrom::Start(at))?;
    file.write(bytes)
}

/// Bytes of a window that has room for any `len` bytes of a file, wherever they begin in a sector.
pub fn window_bytes(len: usize) -> usize {
    len.next_multiple_of(SECTOR) + SECTOR
}

/// Reads the `len` bytes at offset `at`, and returns where in `window` they begin; `expected` is what the file must look like.
///
/// # Errors
/// A file that cannot be read, has become shorter (`UnexpectedEof`) or has changed (`InvalidData`).
///
/// # Panics
/// When the window has less than [`window_bytes`] for them.
pub fn read_into(
    storage: &mut dyn Storage,
    (at, len): (u64, usize),
    window: &mut [u8],
    expected: &Stamp,
) -> io::Result<usize> {
    let skipped = (at % storage.unit() as u64) as usize;
    let needed = skipped + len;
    let units = &mut window[..needed.next_multiple_of(storage.unit())];
    read_all(storage, at - skipped as u64, units, needed, expected)?;
    Ok(skipped)
}

/// Fills at least the first `needed` bytes of `out` with the bytes from offset `at` on.
///
/// # Errors
/// Those of [`read_into`].
pub(super) fn read_all(
    storage: &mut dyn Storage,
    at: u64,
    out: &mut [u8],
    needed: usize,
    expected: &Stamp,
) -> io::Result<()> {
    let mut done = 0;
    while done < needed {
        match storage.read_at(at + done as u64, &mut out[done..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    // Asked after the read: what was read before a change is not what the rest of the file belongs to now.
    same_file(storage, expected)
}

/// Holds what the file looks like now against what it must look like.
///
/// # Errors
/// A file that has become shorter (`UnexpectedEof`) or has changed (`InvalidData`).
pub(super) fn same_file(storage: &dyn Storage, expected: &Stamp) -> io::Result<()> {
    let found = storage.stamp()?;
    if found.len < expected.len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if found != *expected {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the file was changed while the model was running"));
    }
    Ok(())
}
