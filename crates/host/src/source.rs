//! What every importer offers: metadata, and tensors that are read row by row, so that no model has to fit in memory.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use smidgen_core::quant::Type;

use crate::emit::FileType;
use crate::error::Error;
use crate::gguf_write::Header;
use crate::image;

/// A tensor as a [`Source`] gives it.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    /// Its name in GGUF.
    pub name: Vec<u8>,
    /// Dimensions, the contiguous one (columns of a row) first.
    pub dims: Vec<u64>,
    /// The type of the bytes that [`Source::read_rows`] gives.
    pub kind: Type,
    /// Whether it keeps this type whatever type is asked for, as norms, biases and positions do in llama.cpp.
    pub pinned: bool,
}

impl TensorInfo {
    /// The number of rows.
    pub fn n_rows(&self) -> u64 {
        self.dims[1..].iter().product()
    }

    /// The number of weights in a row.
    pub fn n_columns(&self) -> u64 {
        self.dims[0]
    }

    /// The name for a message.
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.name).into_owned()
    }
}

/// A model in some format, seen as the GGUF file that it would make.
pub trait Source {
    /// The files it is read from, the one that names the model first.
    fn files(&self) -> &[PathBuf];

    /// Writes every metadata entry; `file_type` says what `general.file_type` must be.
    ///
    /// # Errors
    /// An entry that cannot be made from what the files hold.
    fn metadata(&self, header: &mut Header, file_type: FileType) -> Result<(), Error>;

    /// Its tensors, in the order they should be written.
    fn tensors(&self) -> &[TensorInfo];

    /// Reads whole rows of tensor number `tensor`, beginning with `first_row`, as little-endian blocks that fill `out`.
    ///
    /// # Errors
    /// When the file cannot be read.
    fn read_rows(&mut self, tensor: usize, first_row: u64, out: &mut [u8]) -> Result<(), Error>;
}

/// A file that is read here and there, with its name for errors.
#[derive(Debug)]
pub struct DataFile {
    path: PathBuf,
    file: File,
    len: u64,
}

impl DataFile {
    /// Opens the ordinary, not empty file at `path`.
    ///
    /// # Errors
    /// When it is not such a file or cannot be opened.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let (file, len) = image::open_file(path)?;
        Ok(DataFile { path: path.to_path_buf(), file, len })
    }

    /// The file's name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes in the file when it was opened.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the file has no bytes; [`DataFile::open`] refuses such a file.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Fills `out` with the bytes from offset `at` on.
    ///
    /// # Errors
    /// When the file ends before or cannot be read.
    pub fn read_at(&mut self, at: u64, out: &mut [u8]) -> Result<(), Error> {
        let read = self.file.seek(SeekFrom::Start(at)).and_then(|_| self.file.read_exact(out));
        read.map_err(|error| Error::reading(&self.path, &error))
    }
}
