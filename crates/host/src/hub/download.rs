//! One file from the Hub into the cache: goes on after a cut, and is checked before it counts.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::cache::Cache;
use super::http::{Client, Failure, FileInfo, Rest};
use super::name::Name;
use crate::error::Error;
use crate::progress::{Progress, Work};

/// Attempts in a row that bring nothing before a download is given up.
const ATTEMPTS: u32 = 5;
/// The wait after the first of them; it doubles.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const BUFFER_BYTES: usize = 64 << 10;

/// Makes a request again when it failed for a reason that may pass.
pub(super) fn with_patience<T>(mut request: impl FnMut() -> Result<T, Failure>) -> Result<T, Error> {
    let mut wait = FIRST_WAIT;
    for _ in 1..ATTEMPTS {
        match request() {
            Err(failure) if failure.is_passing => std::thread::sleep(wait),
            other => return other.map_err(|failure| failure.error),
        }
        wait *= 2;
    }
    request().map_err(|failure| failure.error)
}

/// Brings `file` of `commit` into the cache, unless it is there.
pub(super) fn file(
    client: &Client,
    cache: &Cache,
    name: &Name,
    commit: &str,
    file: &str,
    progress: &dyn Progress,
) -> Result<(), Error> {
    if cache.file(commit, file).is_file() {
        return Ok(());
    }
    let info = with_patience(|| client.info(name, commit, file))?;
    let blob = cache.blob(&info.etag)?;
    if !blob.is_file() {
        let request = |start| client.rest(name, commit, file, start);
        let mut download = Download::begin(&blob, file, client, info)?;
        // Another process may have finished the same file while this one waited for its turn.
        if blob.is_file() {
            download.give_up();
        } else {
            download.run(request, progress)?;
            download.finish(&blob)?;
        }
    }
    cache.link(commit, file, &blob)
}

/// A file on its way.
struct Download<'a> {
    client: &'a Client,
    name: &'a str,
    path: PathBuf,
    out: File,
    n_bytes: u64,
    info: FileInfo,
}

impl<'a> Download<'a> {
    /// Opens what is there of the file; waits while another process is at it.
    fn begin(blob: &Path, name: &'a str, client: &'a Client, info: FileInfo) -> Result<Self, Error> {
        let mut path = blob.as_os_str().to_owned();
        path.push(".incomplete");
        let path = PathBuf::from(path);
        let failed = |error: std::io::Error| Error::writing(&path, &error);
        let out = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        out.lock().map_err(failed)?;
        let n_bytes = out.metadata().map_err(failed)?.len();
        Ok(Download { client, name, path, out, n_bytes, info })
    }

    /// Downloads what is missing, with a new connection whenever one is cut.
    fn run(&mut self, request: impl Fn(u64) -> Result<Rest, Failure>, progress: &dyn Progress) -> Result<(), Error> {
        if self.info.n_bytes.is_some_and(|total| self.n_bytes > total) {
            self.restart()?;
        }
        let work = Work::begin(progress, self.name, self.info.n_bytes.unwrap_or(0));
        work.advance(self.n_bytes);
        let mut fruitless = 0;
        let mut wait = FIRST_WAIT;
        loop {
            if self.info.n_bytes == Some(self.n_bytes) {
                return Ok(());
            }
            let before = self.n_bytes;
            let failure = match request(self.n_bytes) {
                Ok(rest) => match self.receive(rest, &work)? {
                    None => return Ok(()),
                    Some(failure) => failure,
                },
                Err(failure) => failure,
            };
            fruitless = if self.n_bytes > before { 0 } else { fruitless + 1 };
            if !failure.is_passing || fruitless >= ATTEMPTS {
                return Err(failure.error);
            }
            if fruitless == 0 {
                wait = FIRST_WAIT;
            }
            std::thread::sleep(wait);
            wait *= 2;
        }
    }

    /// Writes what the server sends; `None` when that was all of it.
    fn receive(&mut self, rest: Rest, work: &Work<'_>) -> Result<Option<Failure>, Error> {
        if rest.start != self.n_bytes {
            self.restart()?;
        }
        self.seek(self.n_bytes)?;
        let mut reader = rest.body.into_reader();
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let n = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(error) => {
                    return Ok(Some(self.client.passing(format!("{}: the download was cut: {error}", self.name))));
                }
            };
            if self.info.n_bytes.is_some_and(|total| self.n_bytes + n as u64 > total) {
                self.restart()?;
                return Err(Error::failed(self.name, "the server sent more bytes than it had announced"));
            }
            self.out.write_all(&buffer[..n]).map_err(|error| Error::writing(&self.path, &error))?;
            self.n_bytes += n as u64;
            work.advance(n as u64);
        }
        let is_whole = self.info.n_bytes.is_none_or(|total| self.n_bytes == total);
        Ok((!is_whole)
            .then(|| self.client.passing(format!("{}: the download was cut at byte {}", self.name, self.n_bytes))))
    }

    fn seek(&mut self, at: u64) -> Result<(), Error> {
        self.out.seek(SeekFrom::Start(at)).map(|_| ()).map_err(|error| Error::writing(&self.path, &error))
    }

    /// Removes the file that was opened for a content that is there after all.
    fn give_up(self) {
        let _ = fs::remove_file(&self.path);
    }

    /// Throws away what is there.
    fn restart(&mut self) -> Result<(), Error> {
        self.n_bytes = 0;
        self.out.set_len(0).map_err(|error| Error::writing(&self.path, &error))?;
        self.seek(0)
    }

    /// Checks the whole file and gives it its name.
    fn finish(mut self, blob: &Path) -> Result<(), Error> {
        self.seek(0)?;
        let found = match self.info.etag.len() {
            64 => self.digest(Sha256::new())?,
            _ => {
                // Git hashes a file with its kind and size before it.
                let mut digest = Sha1::new();
                digest.update(format!("blob {}\0", self.n_bytes));
                self.digest(digest)?
            }
        };
        if found != self.info.etag {
            let _ = fs::remove_file(&self.path);
            let message =
                format!("{}: checksum {found} is not {}, as the server says; try again", self.name, self.info.etag);
            return Err(Error::failed(&self.path, message));
        }
        self.out.sync_all().map_err(|error| Error::writing(&self.path, &error))?;
        fs::rename(&self.path, blob).map_err(|error| Error::writing(blob, &error))
    }

    /// The checksum of the file in hexadecimal digits.
    fn digest(&mut self, mut digest: impl Digest) -> Result<String, Error> {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let n = self.out.read(&mut buffer).map_err(|error| Error::reading(&self.path, &error))?;
            if n == 0 {
                return Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
            }
            digest.update(&buffer[..n]);
        }
    }
}
