//! Output files that appear whole or not at all: written beside, synced, renamed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::error::Error;

/// Bytes gathered before they go to the file.
pub const BUFFER_BYTES: usize = 256 << 10;

/// Writes the file `path` with what `fill` writes; `path` is untouched unless everything succeeded.
///
/// The bytes go to a new file in the same directory, which is synced and then renamed over `path`. When anything fails,
/// that file is removed.
///
/// # Errors
/// What `fill` returns, or the failure to create, write, sync or rename the file.
pub fn write<T>(path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<T, Error>) -> Result<T, Error> {
    write_in_steps(path, u64::MAX, fill)
}

/// Writes the file `path` with `bytes`, whole or not at all.
///
/// # Errors
/// As [`fn@write`].
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    write(path, |file| file.write_all(bytes).map_err(|error| Error::writing(path, &error)))
}

/// As [`fn@write`]; no more than `step_bytes` wait in memory for the disk at a time, beside [`BUFFER_BYTES`].
///
/// # Errors
/// As [`fn@write`].
pub fn write_in_steps<T>(
    path: &Path,
    step_bytes: u64,
    fill: impl FnOnce(&mut dyn Write) -> Result<T, Error>,
) -> Result<T, Error> {
    let path = &target(path)?;
    let (file, beside) = create_beside(path).map_err(|error| Error::writing(path, &error))?;
    let file = InSteps { file, step_bytes, waiting: 0 };
    let done = fill_and_sync(file, path, fill).and_then(|value| {
        fs::rename(&beside, path).map_err(|error| Error::writing(path, &error))?;
        sync_directory(path);
        Ok(value)
    });
    if done.is_err() {
        // Nothing better can be done about a file that cannot be removed than to report the first error.
        let _ = fs::remove_file(&beside);
    }
    done
}

/// The file that writing to `path` means: what a link leads to, and never a device or a directory.
fn target(path: &Path) -> Result<PathBuf, Error> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Err(Error::bad(path, "is a directory where a file should be written")),
        // A rename would put a file in the place of the device.
        Ok(metadata) if !metadata.is_file() => Err(Error::bad(path, "is not an ordinary file")),
        Ok(_) => fs::canonicalize(path).map_err(|error| Error::writing(path, &error)),
        Err(_) => Ok(path.to_path_buf()),
    }
}

/// A file that is synced again and again while it is written, so that a system with little memory need not hold all of it.
struct InSteps {
    file: File,
    step_bytes: u64,
    waiting: u64,
}

impl Write for InSteps {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.waiting += n as u64;
        if self.waiting >= self.step_bytes {
            self.file.sync_data()?;
            self.waiting = 0;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn fill_and_sync<T>(
    file: InSteps,
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> Result<T, Error>,
) -> Result<T, Error> {
    let mut writer = BufWriter::with_capacity(BUFFER_BYTES, file);
    let value = fill(&mut writer)?;
    let flushed = writer.into_inner().map_err(io::IntoInnerError::into_error);
    flushed.and_then(|out| out.file.sync_all()).map_err(|error| Error::writing(path, &error))?;
    Ok(value)
}

/// Creates a file that did not exist, in the directory of `path`.
fn create_beside(path: &Path) -> io::Result<(File, PathBuf)> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
    for attempt in 0..64 {
        let mut beside_name = std::ffi::OsString::from(".");
        beside_name.push(name);
        beside_name.push(format!(".{}-{attempt}.part", std::process::id()));
        let beside = path.with_file_name(beside_name);
        match OpenOptions::new().write(true).create_new(true).open(&beside) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            opened => return opened.map(|file| (file, beside)),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Makes the rename itself durable; not every file system can, and the file is whole either way.
fn sync_directory(path: &Path) {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if let Ok(directory) = File::open(parent) {
        let _ = directory.sync_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_text(path: &Path, text: &str) -> Result<(), Error> {
        write(path, |out| out.write_all(text.as_bytes()).map_err(|error| Error::writing(path, &error)))
    }

    #[test]
    fn a_file_is_replaced_whole_or_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        write_text(&path, "one").unwrap();
        write_in_steps(&path, 3, |out| out.write_all(b"another").map_err(|error| Error::writing(&path, &error)))
            .unwrap();
        let failed: Result<(), Error> = write(&path, |out| {
            out.write_all(b"half").map_err(|error| Error::writing(&path, &error))?;
            Err(Error::failed(&path, "it went wrong"))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "another");
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_stays_a_link_and_a_device_a_device() {
        let directory = tempfile::tempdir().unwrap();
        let (path, link) = (directory.path().join("file"), directory.path().join("link"));
        write_text(&path, "one").unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        write_text(&link, "another").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&path).unwrap(), "another");
        assert_eq!(write_text(Path::new("/dev/null"), "x").unwrap_err().exit_code(), 2);
        assert_eq!(write_text(directory.path(), "x").unwrap_err().exit_code(), 2);
    }
}
