//! A GGUF file as a [`Source`]: to change its types, its byte order or its version.

use std::path::{Path, PathBuf};

use smidgen_core::bytes::Endian;
use smidgen_core::gguf::{Gguf, Tensor};
use smidgen_core::quant::Type;

use crate::emit::{FileType, write_types};
use crate::error::{Error, Flaw};
use crate::gguf_write::Header;
use crate::image::Image;
use crate::source::{DataFile, Source, TensorInfo};

/// A GGUF file whose header is mapped and whose tensors are read when asked for; one that was packed is in memory.
pub struct GgufSource {
    files: [PathBuf; 1],
    header: Image,
    data: DataFile,
    endian: Endian,
    tensors: Vec<TensorInfo>,
    offsets: Vec<u64>,
}

/// Reads and checks the header of the GGUF file at `path`.
///
/// # Errors
/// The first field that is wrong, with its offset.
pub fn parse<'a>(path: &Path, bytes: &'a [u8]) -> Result<Gguf<'a>, Error> {
    Gguf::parse(bytes, bytes.len() as u64).map_err(|error| Flaw::new(error).in_file(path))
}

/// Whether `tensor` keeps its type: llama.cpp keeps one-dimensional tensors, positions and anything of integers.
fn is_pinned(tensor: &Tensor<'_>) -> bool {
    let kept = [&b"position_embd.weight"[..], b"token_types.weight", b"rope_freqs.weight"];
    let integers = matches!(tensor.kind, Type::I8 | Type::I16 | Type::I32 | Type::I64);
    tensor.dims[1..].iter().all(|&dim| dim == 1) || kept.contains(&tensor.name) || integers
}

/// Whether the entry `key` describes the types that weights have, and so is not true of other types.
fn is_about_types(key: &[u8]) -> bool {
    let named = [&b"general.file_type"[..], b"general.quantization_version"];
    named.contains(&key) || key.starts_with(b"quantize.imatrix.")
}

impl GgufSource {
    /// Opens the GGUF file at `path`.
    ///
    /// # Errors
    /// The first field that is wrong, with its offset.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let header = Image::map(path)?;
        let gguf = parse(path, &header)?;
        let endian = gguf.endian();
        let mut tensors = Vec::with_capacity(gguf.n_tensors());
        let mut offsets = Vec::with_capacity(gguf.n_tensors());
        for tensor in gguf.tensors() {
            tensors.push(TensorInfo {
                name: tensor.name.to_vec(),
                dims: tensor.dims[..tensor.n_dims as usize].to_vec(),
                kind: tensor.kind,
                pinned: is_pinned(&tensor),
            });
            offsets.push(tensor.offset);
        }
        let data = DataFile::open(path)?;
        Ok(GgufSource { files: [path.to_path_buf()], header, data, endian, tensors, offsets })
    }
}

impl Source for GgufSource {
    fn files(&self) -> &[PathBuf] {
        &self.files
    }

    fn metadata(&self, header: &mut Header, file_type: FileType) -> Result<(), Error> {
        let gguf = parse(&self.files[0], &self.header)?;
        for (key, value) in gguf.keys() {
            match (key, value.as_u64()) {
                // The parser has checked that it is at most 65536.
                (b"general.alignment", Some(bytes)) => header.alignment(bytes as u32),
                _ if file_type != FileType::AsStored && is_about_types(key) => {}
                _ => header.value(key, value),
            }
        }
        if file_type != FileType::AsStored {
            write_types(file_type, 0, header);
        }
        Ok(())
    }

    fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    fn read_rows(&mut self, tensor: usize, first_row: u64, out: &mut [u8]) -> Result<(), Error> {
        let info = &self.tensors[tensor];
        let row_bytes = info.kind.row_bytes(info.n_columns()).unwrap_or(0);
        let at = self.offsets[tensor] + first_row * row_bytes;
        match &self.header {
            Image::Mapped(_) => self.data.read_at(at, out)?,
            // The file was packed, and its bytes are here. The parser has checked that every tensor lies within them.
            Image::Owned(pages) => out.copy_from_slice(&pages[at as usize..][..out.len()]),
        }
        if self.endian == Endian::Little {
            return Ok(());
        }
        info.kind.swap_endian(out).map_err(|_| {
            let message =
                format!("tensor '{}': {} cannot be read from a big-endian file", info.shown(), info.kind.name());
            Error::bad(&self.files[0], message)
        })
    }
}
