//! Any model that people have, written to a GGUF file: as it is, in one type, or in types that the caller chooses.

use std::fs;
use std::path::{Path, PathBuf};

use smidgen_core::bytes::Endian;
use smidgen_core::quant::Type;
use smidgen_core::workers::{Single, Workers};

use crate::atomic;
use crate::emit::{Emission, Means, Target};
use crate::encode::Plain;
use crate::error::Error;
use crate::gguf_source;
use crate::image::{Image, Pages};
use crate::open::{Format, detect, locate, open_source};
use crate::packed;
use crate::progress::{Progress, Silent};
use crate::source::{Source, TensorInfo};
use crate::uniform;

/// A model that is open to be written anew.
pub struct Import(Box<dyn Source>);

impl Import {
    /// Opens the model called `name` (see [`crate::open`]); `tokenizer` is that of a llama2.c model, when it does not lie beside
    /// it, and `outtype` the type that its weights will have, if that is known already.
    ///
    /// # Errors
    /// What is wrong with the model's files.
    pub fn open(
        name: &str,
        tokenizer: Option<&Path>,
        outtype: Option<Type>,
        progress: &dyn Progress,
    ) -> Result<Self, Error> {
        let path = locate(name, progress)?;
        let format = detect(&path)?;
        Ok(Import(open_source(&path, format, tokenizer, outtype)?))
    }

    /// The model as a source of rows.
    pub fn source(&self) -> &dyn Source {
        self.0.as_ref()
    }

    /// Its tensors, in the order of the file that will be written.
    pub fn tensors(&self) -> &[TensorInfo] {
        self.0.tensors()
    }

    /// A GGUF image in which only the header and tensors of a single row have been filled in; the others are zeros that take no
    /// memory. It is what a plan of the file's memory is made from before the file is.
    ///
    /// # Errors
    /// A source that cannot be read.
    pub fn skeleton(&mut self, emission: &Emission) -> Result<Image, Error> {
        let subject = self.0.files()[0].clone();
        let mut pages = Image::unreserved(emission.file_bytes()).map_err(|error| error(&subject))?;
        let mut start: &mut [u8] = &mut pages;
        emission.header().write(&mut start).map_err(|error| Error::failed(&subject, error))?;
        let mut at = emission.header().header_bytes();
        for (index, &kind) in emission.types().iter().enumerate() {
            let tensor = &self.0.tensors()[index];
            let n_bytes = kind.row_bytes(tensor.n_columns()).unwrap_or(0) * tensor.n_rows();
            if tensor.n_rows() == 1 && tensor.kind == kind {
                self.0.read_rows(index, 0, &mut pages[at as usize..][..n_bytes as usize])?;
            }
            at = (at + n_bytes).next_multiple_of(emission.header().alignment_bytes());
        }
        Ok(Image::Owned(pages))
    }

    /// The file that was planned, in memory.
    ///
    /// # Errors
    /// As [`Emission::to_pages`].
    pub fn to_pages(&mut self, emission: &Emission, means: &Means<'_>) -> Result<(Pages, Vec<f64>), Error> {
        emission.to_pages(self.0.as_mut(), means)
    }

    /// Writes the file that was planned to `out`, which appears whole or not at all.
    ///
    /// Weights pass through memory a few rows at a time; only a tensor that must be transposed is held whole.
    ///
    /// # Errors
    /// An output that is an input, weights that cannot be written, or the failure to write.
    pub fn write(&mut self, emission: &Emission, out: &Path, means: &Means<'_>) -> Result<Summary, Error> {
        self.write_in_steps(emission, out, means, u64::MAX)
    }

    fn write_in_steps(
        &mut self,
        emission: &Emission,
        out: &Path,
        means: &Means<'_>,
        step_bytes: u64,
    ) -> Result<Summary, Error> {
        self.check_output(out)?;
        let failed = |error| Error::writing(out, &error);
        let errors =
            atomic::write_in_steps(out, step_bytes, |writer| emission.write(self.0.as_mut(), writer, &failed, means))?;
        Ok(self.summary(emission.file_bytes(), emission.types().iter().copied(), errors))
    }

    /// Writes the bytes of the file that was packed to `out`, which appears whole or not at all.
    fn write_plain(&self, plain: &[u8], out: &Path) -> Result<Summary, Error> {
        atomic::write_bytes(out, plain)?;
        let types = self.tensors().iter().map(|tensor| tensor.kind);
        Ok(self.summary(plain.len() as u64, types, vec![0.0; self.tensors().len()]))
    }

    fn summary(&self, file_bytes: u64, kinds: impl Iterator<Item = Type>, errors: Vec<f64>) -> Summary {
        let mut types: Vec<(Type, usize)> = Vec::new();
        for kind in kinds {
            match types.iter_mut().find(|(known, _)| *known == kind) {
                Some((_, count)) => *count += 1,
                None => types.push((kind, 1)),
            }
        }
        let n_weights = self.tensors().iter().map(|tensor| tensor.n_rows() * tensor.n_columns()).sum();
        Summary { file_bytes, n_tensors: self.tensors().len(), n_weights, types, errors }
    }

    /// Refuses an output that is one of the files of the model.
    ///
    /// # Errors
    /// When it is.
    pub fn check_output(&self, out: &Path) -> Result<(), Error> {
        match self.0.files().iter().find(|input| is_same_file(input, out)) {
            Some(input) => Err(Error::bad(out, format!("is an input ({}); write to another file", input.display()))),
            None => Ok(()),
        }
    }
}

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
    /// Bytes that may wait in memory for the disk, beside [`atomic::BUFFER_BYTES`].
    pub step_bytes: u64,
    /// Who rounds the weights.
    pub workers: &'a dyn Workers,
    /// Told how far the work has come.
    pub progress: &'a dyn Progress,
}

impl Default for ConvertOptions<'_> {
    fn default() -> Self {
        ConvertOptions {
            outtype: None,
            fallback: None,
            big_endian: false,
            tokenizer: None,
            step_bytes: u64::MAX,
            workers: &Single,
            progress: &Silent,
        }
    }
}

/// What was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Tensors in the file.
    pub n_tensors: usize,
    /// Weights in all tensors.
    pub n_weights: u64,
    /// The types used, with how many tensors have each, in the order of their first use.
    pub types: Vec<(Type, usize)>,
    /// What rounding did to each tensor: the root mean square of the differences over that of the weights.
    pub errors: Vec<f64>,
}

/// Writes the model called `name` (see [`crate::open`]) as a GGUF file to `out`, which appears whole or not at all. A packed file
/// becomes the plain one again, byte for byte, unless another type or byte order is asked for.
///
/// # Errors
/// What is wrong with the model's files, a type that some rows cannot have, or the failure to write.
pub fn convert(name: &str, out: &Path, options: &ConvertOptions<'_>) -> Result<Summary, Error> {
    let mut import = Import::open(name, options.tokenizer.as_deref(), options.outtype, options.progress)?;
    import.check_output(out)?;
    let endian = if options.big_endian { Endian::Big } else { Endian::Little };
    if let (None, Some(plain)) = (options.outtype, unpacked(name, endian, options.progress)?) {
        return import.write_plain(&plain, out);
    }
    let target: Target = uniform::target(import.source(), options.outtype, options.fallback, endian)?;
    let emission = Emission::new(import.source(), &target)?;
    let means = Means { encode: &Plain, workers: options.workers, progress: options.progress };
    import.write_in_steps(&emission, out, &means, options.step_bytes)
}

/// The plain file, when the model called `name` is a packed one in the byte order that is asked for.
fn unpacked(name: &str, endian: Endian, progress: &dyn Progress) -> Result<Option<Image>, Error> {
    let path = locate(name, progress)?;
    if detect(&path)? != Format::Gguf || !packed::is_packed(&path)? {
        return Ok(None);
    }
    let image = Image::map(&path)?;
    let is_in_order = gguf_source::parse(&path, &image)?.endian() == endian;
    Ok(Some(image).filter(|_| is_in_order))
}

/// Whether both names lead to one file, through links or not.
pub(crate) fn is_same_file(one: &Path, other: &Path) -> bool {
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
