//! Where spilled rows lie: a file without a name on a disk, past the system's cache where the file system has such reads and writes.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::Error;
use crate::weights::{SECTOR, drop_cached, open_direct, read_at, write_at};

/// Somewhere that rows are written to and read from again, by whole sectors.
pub trait SpillStorage: Send {
    /// Reads some bytes from offset `at` on into the beginning of `out` and says how many.
    ///
    /// # Errors
    /// What the system says.
    fn read_at(&mut self, at: u64, out: &mut [u8]) -> io::Result<usize>;

    /// Writes some bytes from the beginning of `bytes` at offset `at` and says how many.
    ///
    /// # Errors
    /// What the system says.
    fn write_at(&mut self, at: u64, bytes: &[u8]) -> io::Result<usize>;

    /// Called when some writes are done and nothing is written for a while.
    ///
    /// # Errors
    /// What was written and could not be kept.
    fn settle(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file of the system.
#[derive(Debug)]
pub struct SpillDisk {
    /// `None` where the file system has no reads and writes past the cache, or has refused one.
    direct: Option<File>,
    /// The same file through the system's cache.
    plain: File,
    /// What of the cache holds bytes that were just written.
    dirty: Option<(u64, u64)>,
}

impl SpillDisk {
    /// A new file of `len` bytes in `directory` that nobody else will open, with the name it had: on Unix it has none any more.
    ///
    /// # Errors
    /// When there cannot be one.
    pub fn create(directory: &Path, len: u64) -> Result<(PathBuf, Self), Error> {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let name = format!("smidgen-cache-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let path = directory.join(name);
        let mut options = File::options();
        options.read(true).write(true).create_new(true);
        let made = std::fs::create_dir_all(directory).and_then(|()| options.open(&path));
        let plain = made.map_err(|error| Error::writing(&path, &error))?;
        let mut again = File::options();
        again.read(true).write(true);
        let direct = open_direct(&path, &mut again).ok();
        #[cfg(unix)]
        std::fs::remove_file(&path).map_err(|error| Error::writing(&path, &error))?;
        reserve(&plain, len).map_err(|error| Error::failed(&path, format!("cannot hold the cache: {error}")))?;
        Ok((path, SpillDisk { direct, plain, dirty: None }))
    }

    /// The same as if the file system had no reads and writes past the cache.
    #[must_use]
    pub fn cached(self) -> Self {
        Self { direct: None, ..self }
    }

    /// What `job` does with the file past the cache, unless there is no such thing or the file system allows the flag and refuses
    /// the work.
    fn directly(&mut self, job: impl FnOnce(&File) -> io::Result<usize>) -> Option<io::Result<usize>> {
        match job(self.direct.as_ref()?) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                self.direct = None;
                None
            }
            done => Some(done),
        }
    }
}

impl SpillStorage for SpillDisk {
    fn read_at(&mut self, at: u64, out: &mut [u8]) -> io::Result<usize> {
        if let Some(done) = self.directly(|direct| read_at(direct, at, out)) {
            return done;
        }
        let n = read_at(&self.plain, at, out)?;
        drop_cached(&self.plain, at, n);
        Ok(n)
    }

    fn write_at(&mut self, at: u64, bytes: &[u8]) -> io::Result<usize> {
        if let Some(done) = self.directly(|direct| write_at(direct, at, bytes)) {
            return done;
        }
        let n = write_at(&self.plain, at, bytes)?;
        let (start, end) = self.dirty.unwrap_or((at, at));
        self.dirty = Some((start.min(at), end.max(at + n as u64)));
        Ok(n)
    }

    fn settle(&mut self) -> io::Result<()> {
        // The system's cache gives back only what is on the disk.
        if let Some((start, end)) = self.dirty.take() {
            self.plain.sync_data()?;
            drop_cached(&self.plain, start, (end - start) as usize);
        }
        Ok(())
    }
}

/// Sets `len` bytes of the disk aside, so that one that is full is noticed before anything is computed, where the system can.
fn reserve(file: &File, len: u64) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, len) {
        // A file system that sets nothing aside gives what it has when it is written to.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS | rustix::io::Errno::INVAL) => {}
        done => return done.map_err(io::Error::from),
    }
    file.set_len(len)
}

pub(super) fn read_exact_at(storage: &mut dyn SpillStorage, at: u64, out: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while done < out.len() {
        match storage.read_at(at + done as u64, &mut out[done..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => done += whole(n, out.len() - done),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

pub(super) fn write_all_at(storage: &mut dyn SpillStorage, at: u64, bytes: &[u8]) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        match storage.write_at(at + done as u64, &bytes[done..]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => done += whole(n, bytes.len() - done),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Of `n` bytes, with `left` to do, those of whole sectors: what follows must begin with one. Less than one is taken as it is.
fn whole(n: usize, left: usize) -> usize {
    if n >= left || n < SECTOR { n } else { n - n % SECTOR }
}

/// The first of `directories` whose files are not kept in memory (Linux's tmpfs and ramfs).
pub fn first_on_disk(directories: impl IntoIterator<Item = PathBuf>) -> Option<PathBuf> {
    directories.into_iter().find(|directory| !is_in_memory(directory))
}

/// Whether files in `directory`, or in the nearest folder above it that exists, are kept in memory.
fn is_in_memory(directory: &Path) -> bool {
    #[cfg(target_os = "linux")]
    {
        /// Of `statfs(2)`: tmpfs and ramfs.
        const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];
        let there = directory.ancestors().find(|folder| folder.is_dir());
        let kind = there.and_then(|folder| rustix::fs::statfs(folder).ok()).map(|found| found.f_type as u64);
        kind.is_some_and(|kind| IN_MEMORY.contains(&kind))
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = directory;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that begin anywhere in memory are what a direct read or write refuses.
    #[test]
    fn what_is_refused_past_the_cache_goes_through_it() {
        let directory = tempfile::tempdir().unwrap();
        let (_, mut disk) = SpillDisk::create(directory.path(), 3 * SECTOR as u64).unwrap();
        let bytes: Vec<u8> = (0..=2 * SECTOR).map(|i| i as u8).collect();
        write_all_at(&mut disk, SECTOR as u64, &bytes[1..]).unwrap();
        disk.settle().unwrap();
        let mut back = vec![0; 2 * SECTOR + 3];
        read_exact_at(&mut disk, SECTOR as u64, &mut back[3..]).unwrap();
        assert_eq!(back[3..], bytes[1..]);
        assert!(read_exact_at(&mut disk, 3 * SECTOR as u64, &mut back[..1]).is_err(), "the end");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "it has no name");
    }
}
