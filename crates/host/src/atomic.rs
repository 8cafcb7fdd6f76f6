//! Output files that appear whole or not at all: written beside, synced, renamed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::error::Error;

/// Bytes gathered before they go to the file.
const BUFFER_BYTES: usize = 256 << 10;

/// Writes the file `path` with what `fill` writes; `path` is untouched unless everything succeeded.
///
/// The bytes go to a new file in the same directory, which is synced and then renamed over `path`. When anything fails,
/// that file is removed.
///
/// # Errors
/// What `fill` returns, or the failure to create, write, sync or rename the file.
pub fn write<T>(path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<T, Error>) -> Result<T, Error> {
    if path.is_dir() {
        return Err(Error::bad(path, "is a directory where a file should be written"));
    }
    let (file, beside) = create_beside(path).map_err(|error| Error::writing(path, &error))?;
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

fn fill_and_sync<T>(
    file: File,
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> Result<T, Error>,
) -> Result<T, Error> {
    let mut writer = BufWriter::with_capacity(BUFFER_BYTES, file);
    let value = fill(&mut writer)?;
    let flushed = writer.into_inner().map_err(io::IntoInnerError::into_error);
    flushed.and_then(|file| file.sync_all()).map_err(|error| Error::writing(path, &error))?;
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
