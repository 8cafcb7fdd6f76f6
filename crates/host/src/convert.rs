//! Any model that people have, written to a GGUF file.

use std::fs;
use std::path::{Path, PathBuf};

use smidgen_core::bytes::Endian;
use smidgen_core::quant::Type;

use crate::atomic;
use crate::emit::Emission;
use crate::error::Error;
use crate::open::{detect, locate, open_source};
use crate::progress::{Progress, Silent};

/// How to convert a model.
#[derive(Clone)]
pub struct ConvertOptions<'a> {
    /// The type that weights shall have; as stored when not given. One-dimensional tensors stay F32.
    pub outtype: Option<Type>,
    /// The type for rows that `outtype` cannot take; without it such a row is an error.
    pub fallback: Option<Type>,
    /// Write every number, weights included, most significant byte first.
    pub big_endian: bool,
    /// The `tokenizer.bin` of a llama2.c model, when it does not lie beside it.
    pub tokenizer: Option<PathBuf>,
    /// Told how far the work has come.
    pub progress: &'a dyn Progress,
}

impl Default for ConvertOptions<'_> {
    fn default() -> Self {
        ConvertOptions { outtype: None, fallback: None, big_endian: false, tokenizer: None, progress: &Silent }
    }
}

/// What [`convert`] wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Tensors in the file.
    pub n_tensors: usize,
    /// Weights in all tensors.
    pub n_weights: u64,
    /// The types used, with how many tensors have each, in the order of their first use.
    pub types: Vec<(Type, usize)>,
}

/// Writes the model called `name` (see [`crate::open`]) as a GGUF file to `out`, which appears whole or not at all.
///
/// Weights pass through memory a few rows at a time; only a tensor that must be transposed is held whole.
///
/// # Errors
/// What is wrong with the model's files, a type that some rows cannot have, or the failure to write.
pub fn convert(name: &str, out: &Path, options: &ConvertOptions<'_>) -> Result<Summary, Error> {
    let path = locate(name, options.progress)?;
    let format = detect(&path)?;
    let mut source = open_source(&path, format, options.tokenizer.as_deref(), options.outtype)?;
    if let Some(input) = source.files().iter().find(|input| is_same_file(input, out)) {
        return Err(Error::bad(out, format!("is an input ({}); write to another file", input.display())));
    }
    let endian = if options.big_endian { Endian::Big } else { Endian::Little };
    let emission = Emission::new(source.as_ref(), options.outtype, options.fallback, endian)?;
    atomic::write(out, |writer| {
        let failed = |error| Error::writing(out, &error);
        emission.write(source.as_mut(), writer, &failed, options.progress)
    })?;
    let mut types: Vec<(Type, usize)> = Vec::new();
    for &kind in emission.types() {
        match types.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, count)) => *count += 1,
            None => types.push((kind, 1)),
        }
    }
    Ok(Summary {
        file_bytes: emission.file_bytes(),
        n_tensors: source.tensors().len(),
        n_weights: source.tensors().iter().map(|tensor| tensor.n_rows() * tensor.n_columns()).sum(),
        types,
    })
}

/// Whether both names lead to one file, through links or not.
fn is_same_file(one: &Path, other: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let identity = |path: &Path| fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino())).ok();
        identity(one).is_some_and(|one| identity(other) == Some(one))
    }
    #[cfg(not(unix))]
    {
        let real = |path: &Path| fs::canonicalize(path).ok();
        real(one).is_some_and(|one| real(other) == Some(one))
    }
}
