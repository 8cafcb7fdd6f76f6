//! The cache of the Hub's tools: `models--owner--name` with `blobs`, `refs` and `snapshots`.

use std::fs;
use std::path::{Path, PathBuf};

use super::name::{Choice, Name, is_safe};
use crate::atomic;
use crate::error::Error;
use crate::image::read_small;

/// The branch that a name without a revision means.
pub(super) const REVISION: &str = "main";
/// An index of shards is not larger.
const SMALL_LIMIT_BYTES: u64 = 4 << 20;
/// Directories within directories that a repository may have.
const MOST_LEVELS: usize = 8;

/// What the cache has of one repository.
pub(super) struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The part of the cache in `directory` that is about `name`.
    pub(super) fn new(directory: &Path, name: &Name) -> Self {
        Cache { root: directory.join(format!("models--{}--{}", name.owner, name.repository)) }
    }

    /// The commit that the branch had when it was last asked for.
    pub(super) fn commit(&self) -> Option<String> {
        let text = fs::read_to_string(self.root.join("refs").join(REVISION)).ok()?;
        let commit = text.trim().to_string();
        is_commit(&commit).then_some(commit)
    }

    /// Remembers the commit that the branch has.
    pub(super) fn set_commit(&self, commit: &str) -> Result<(), Error> {
        if self.commit().as_deref() == Some(commit) {
            return Ok(());
        }
        let refs = self.root.join("refs");
        create(&refs)?;
        let path = refs.join(REVISION);
        atomic::write_bytes(&path, commit.as_bytes())
    }

    fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    /// The path of the model that `choice` is.
    pub(super) fn path_of(&self, commit: &str, choice: &Choice) -> PathBuf {
        match choice {
            Choice::File { file, .. } => self.file(commit, file),
            Choice::Directory(_) => self.snapshot(commit),
        }
    }

    /// The path of a file of the repository.
    pub(super) fn file(&self, commit: &str, file: &str) -> PathBuf {
        self.snapshot(commit).join(file)
    }

    /// The content of a small file.
    pub(super) fn read(&self, commit: &str, file: &str) -> Result<Vec<u8>, Error> {
        read_small(&self.file(commit, file), SMALL_LIMIT_BYTES)
    }

    /// The files that are whole in the cache, by their paths in the repository.
    pub(super) fn files(&self, commit: &str) -> Result<Vec<String>, Error> {
        let mut files = Vec::new();
        list(&self.snapshot(commit), "", 0, &mut files)?;
        files.sort_unstable();
        Ok(files)
    }

    /// Where the content called `etag` is kept.
    pub(super) fn blob(&self, etag: &str) -> Result<PathBuf, Error> {
        let blobs = self.root.join("blobs");
        create(&blobs)?;
        Ok(blobs.join(etag))
    }

    /// Makes `file` of `commit` a link to its content.
    pub(super) fn link(&self, commit: &str, file: &str, blob: &Path) -> Result<(), Error> {
        let path = self.file(commit, file);
        create(path.parent().unwrap_or(&self.root))?;
        let failed = |error: std::io::Error| Error::writing(&path, &error);
        match link_or_copy(&path, file, blob) {
            // Another process may have been first; a link that leads nowhere is replaced.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && !path.is_file() => {
                fs::remove_file(&path).and_then(|()| link_or_copy(&path, file, blob)).map_err(failed)
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            linked => linked.map_err(failed),
        }
    }
}

/// A link that still leads right when the whole cache is moved.
#[cfg(unix)]
fn link_or_copy(path: &Path, file: &str, blob: &Path) -> std::io::Result<()> {
    let up = "../".repeat(file.split('/').count() + 1);
    let target = Path::new(&up).join("blobs").join(blob.file_name().unwrap_or_default());
    std::os::unix::fs::symlink(target, path)
}

/// Where links need rights that users do not have, the file has two names instead.
#[cfg(not(unix))]
fn link_or_copy(path: &Path, _file: &str, blob: &Path) -> std::io::Result<()> {
    fs::hard_link(blob, path).or_else(|_| fs::copy(blob, path).map(|_| ()))
}

/// Whether `text` can name a commit, and so a directory.
pub(super) fn is_commit(text: &str) -> bool {
    (7..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn create(directory: &Path) -> Result<(), Error> {
    fs::create_dir_all(directory).map_err(|error| Error::writing(directory, &error))
}

fn list(directory: &Path, prefix: &str, level: usize, files: &mut Vec<String>) -> Result<(), Error> {
    let entries = fs::read_dir(directory).map_err(|error| Error::opening(directory, &error))?;
    for entry in entries {
        let entry = entry.map_err(|error| Error::reading(directory, &error))?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let relative = format!("{prefix}{name}");
        let path = entry.path();
        if path.is_file() && is_safe(&relative) {
            files.push(relative);
        } else if path.is_dir() && level < MOST_LEVELS {
            list(&path, &format!("{relative}/"), level + 1, files)?;
        }
    }
    Ok(())
}
