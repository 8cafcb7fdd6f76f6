//! Any model that people have, as one little-endian GGUF image in memory.

use std::io;
use std::path::{Path, PathBuf};

use smidgen_core::bytes::Endian;
use smidgen_core::gguf::Gguf;
use smidgen_core::model::{Layer, Model};
use smidgen_core::ops::matmul::Tiles;
use smidgen_core::quant::Type;
use smidgen_core::simd::Isa;
use smidgen_core::workers::Single;

use crate::emit::{Emission, Means};
use crate::encode::Plain;
use crate::error::Error;
use crate::gguf_source::{self, GgufSource};
use crate::hf::HfSource;
use crate::image::{Image, open_file};
use crate::llama2c::Llama2cSource;
use crate::progress::{Progress, Silent};
use crate::source::Source;
use crate::uniform;

/// How to open a model.
#[derive(Clone)]
pub struct OpenOptions<'a> {
    /// Map a GGUF file that can be used as it is; otherwise it is read into memory.
    pub mmap: bool,
    /// Bytes of a GGUF file that is read into memory though it could be mapped: no more than these.
    pub at_once: u64,
    /// The `tokenizer.bin` of a llama2.c model, when it does not lie beside it.
    pub tokenizer: Option<PathBuf>,
    /// The type that weights shall have in memory; as stored when not given.
    pub outtype: Option<Type>,
    /// The type for rows that `outtype` cannot take; without it such a row is an error.
    pub fallback: Option<Type>,
    /// Told how far the work has come.
    pub progress: &'a dyn Progress,
}

impl Default for OpenOptions<'_> {
    fn default() -> Self {
        OpenOptions { mmap: true, at_once: 0, tokenizer: None, outtype: None, fallback: None, progress: &Silent }
    }
}

/// What a model was before it became a GGUF image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Gguf,
    HuggingFace,
    Llama2c,
}

/// A model in memory.
#[derive(Debug)]
pub struct ModelFile {
    image: Image,
    path: PathBuf,
    format: Format,
    is_together: bool,
}

impl ModelFile {
    /// A whole little-endian GGUF file whose header has been checked.
    pub fn bytes(&self) -> &[u8] {
        &self.image
    }

    /// Whether the bytes are mapped from the model's own file.
    pub fn is_mapped(&self) -> bool {
        self.image.is_mapped()
    }

    /// Whether the rows of its matrices lie together, as [`Model::laid_together`] takes them.
    pub fn is_together(&self) -> bool {
        self.is_together
    }

    /// The same model in memory of our own, in which rows lie together as products want them: a mapped file is read for that. One
    /// that cannot be run stays as it is.
    ///
    /// # Errors
    /// A mapped file that cannot be read again.
    pub fn laid_together(mut self, isa: Isa, progress: &dyn Progress) -> Result<Self, Error> {
        if self.image.is_mapped() {
            self.image = read_unmapped(self.image, &self.path, progress)?;
        }
        let tiles = tiles_of(&self.image);
        if let Image::Owned(pages) = &mut self.image {
            let mut scratch = vec![0; tiles.iter().map(|tiles| tiles.tile_bytes).max().unwrap_or(0)];
            for tiles in &tiles {
                tiles.lay_together(isa, &mut pages[tiles.offset as usize..][..tiles.n_bytes], &mut scratch);
            }
            self.is_together = !tiles.is_empty();
        }
        Ok(self)
    }

    /// Keeps the system from moving these bytes out of memory.
    ///
    /// # Errors
    /// When the system's limit for such bytes is lower.
    pub fn lock(&self) -> io::Result<()> {
        self.image.lock()
    }

    /// The file or directory that the model was read from.
    pub fn origin(&self) -> &Path {
        &self.path
    }

    /// What the model was stored as: `GGUF`, `Hugging Face` or `llama2.c`.
    pub fn format(&self) -> &'static str {
        match self.format {
            Format::Gguf => "GGUF",
            Format::HuggingFace => "Hugging Face",
            Format::Llama2c => "llama2.c",
        }
    }
}

/// Opens the model called `name`: the path of a GGUF file, of a Hugging Face directory or of a llama2.c `.bin`, or
/// `hf:owner/name[/file]` on the Hugging Face Hub.
///
/// A little-endian GGUF file is mapped or read as it is. Anything else is imported into memory, as [`crate::convert`]
/// would write it.
///
/// # Errors
/// What is wrong with the model's files, naming file and field.
pub fn open(name: &str, options: &OpenOptions<'_>) -> Result<ModelFile, Error> {
    open_path(&locate(name, options.progress)?, options)
}

/// As [`open`], for the model at `path`.
///
/// # Errors
/// What is wrong with the model's files, naming file and field.
pub fn open_path(path: &Path, options: &OpenOptions<'_>) -> Result<ModelFile, Error> {
    let format = detect(path)?;
    if format == Format::Gguf && options.outtype.is_none() {
        // The header is checked before memory is taken for the whole of a large file.
        let image = Image::map_or_read(path, options.at_once, options.progress)?;
        if gguf_source::parse(path, &image)?.endian() == Endian::Little {
            // One that is not mapped was packed, or is small.
            let is_done = options.mmap || !image.is_mapped();
            let image = if is_done { image } else { read_unmapped(image, path, options.progress)? };
            return Ok(ModelFile { image, path: path.to_path_buf(), format, is_together: false });
        }
    }
    let mut source = open_source(path, format, options.tokenizer.as_deref(), options.outtype)?;
    let target = uniform::target(source.as_ref(), options.outtype, options.fallback, Endian::Little)?;
    let emission = Emission::new(source.as_ref(), &target)?;
    let means = Means { encode: &Plain, workers: &Single, progress: options.progress };
    let image = Image::Owned(emission.to_pages(source.as_mut(), &means)?.0);
    gguf_source::parse(path, &image)?;
    Ok(ModelFile { image, path: path.to_path_buf(), format, is_together: false })
}

/// The rows of the model in `image` that can lie together; none when it is no model that can be run.
fn tiles_of(image: &[u8]) -> Vec<Tiles> {
    let tiles = || {
        let gguf = Gguf::parse(image, image.len() as u64).ok()?;
        let mut layers = vec![Layer::EMPTY; Model::n_layers(&gguf).ok()?];
        let model = Model::new(&gguf, &mut layers).ok()?;
        Some(model.tiles().collect())
    };
    tiles().unwrap_or_default()
}

/// Gives the map back before its file is read, so that the file is never in memory twice.
fn read_unmapped(map: Image, path: &Path, progress: &dyn Progress) -> Result<Image, Error> {
    drop(map);
    let image = Image::read(path, progress)?;
    // The file may have changed since its header was checked.
    gguf_source::parse(path, &image)?;
    Ok(image)
}

/// Where the model called `name` lies; one of the Hub is brought there.
///
/// # Errors
/// One that the Hub does not have, or that cannot be brought.
pub fn locate(name: &str, progress: &dyn Progress) -> Result<PathBuf, Error> {
    if !name.starts_with("hf:") {
        return Ok(PathBuf::from(name));
    }
    #[cfg(feature = "hub")]
    {
        crate::hub::fetch(name, &crate::hub::Settings::from_env()?, progress)
    }
    #[cfg(not(feature = "hub"))]
    {
        let _ = progress;
        Err(Error::bad(name, "this program was built without the Hub; download the model and give its path"))
    }
}

/// What lies at `path`.
pub(crate) fn detect(path: &Path) -> Result<Format, Error> {
    if path.is_dir() {
        return Ok(Format::HuggingFace);
    }
    let (mut file, _) = open_file(path)?;
    let mut magic = [0; 4];
    let n = io::Read::read(&mut file, &mut magic).map_err(|error| Error::reading(path, &error))?;
    let ends_with = |extension: &str| path.extension().is_some_and(|found| found.eq_ignore_ascii_case(extension));
    if magic[..n] == *b"GGUF" || ends_with("gguf") {
        return Ok(Format::Gguf);
    }
    if ends_with("safetensors") || ends_with("json") {
        let message = "is one file of a Hugging Face model; give the directory that also has its config.json";
        return Err(Error::bad(path, message));
    }
    if Llama2cSource::is_magic(magic) || ends_with("bin") {
        return Ok(Format::Llama2c);
    }
    Err(Error::bad(path, "is neither a GGUF file, nor a Hugging Face directory, nor a llama2.c .bin"))
}

/// The importer for what lies at `path`.
pub(crate) fn open_source(
    path: &Path,
    format: Format,
    tokenizer: Option<&Path>,
    outtype: Option<Type>,
) -> Result<Box<dyn Source>, Error> {
    if let Some(tokenizer) = tokenizer.filter(|_| format != Format::Llama2c) {
        return Err(Error::bad(tokenizer, "a tokenizer file is only for llama2.c models; this model has its own"));
    }
    Ok(match format {
        Format::Gguf => Box::new(GgufSource::open(path)?),
        Format::HuggingFace => Box::new(HfSource::open(path)?),
        Format::Llama2c => Box::new(Llama2cSource::open(path, tokenizer, outtype)?),
    })
}
