//! A model's bytes, wherever they lie: in the program, mapped, read, or to be read in parts.

use crate::args::{EngineArgs, ImportArgs, ModelArgs, SamplingArgs};
use crate::budget::{Budget, Line, OF_READING};
use crate::failure::Failure;
use crate::import::{self, Imported};
use crate::load::{choose_isa, host_failure};
use crate::progress::Bar;
use smidgen_core::gguf::Gguf;
use smidgen_core::model::{Layer, Model};
use smidgen_host::packed::Index;
use smidgen_host::weights::Outline;
use smidgen_host::{ModelFile, OpenOptions};
use std::fmt::Display;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Bytes of a file that is read rather than mapped: what that takes is made up for by the first few tokens.
const READ_AT_ONCE: u64 = 64 << 20;

/// Bytes of a file that a run reads rather than maps: none within `--ram`, so that the system can have its pages back.
fn at_once(engine: &EngineArgs) -> u64 {
    if engine.ram.is_some() { 0 } else { READ_AT_ONCE }
}

/// The model that is part of the program, aligned as a mapped file would be.
static EMBEDDED: &Aligned<[u8]> = &Aligned(*include_bytes!("../../../models/tales.gguf"));
/// How messages call it.
const EMBEDDED_NAME: &str = "embedded model";

#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);

/// A model's bytes, wherever they lie.
#[derive(Debug)]
pub struct Source {
    /// The name that messages begin with.
    pub name: String,
    image: Image,
    /// The file that the image is of, when it was made for that.
    _imported: Option<Imported>,
    /// Whether it is mapped only because nobody has run it yet.
    will_be_read: bool,
}

#[derive(Debug)]
enum Image {
    Embedded,
    /// A GGUF file in the byte order it was written in.
    Stored(smidgen_host::image::Image),
    File(ModelFile),
    /// A GGUF file of which the weights will be read in parts.
    Outline(Outline),
}

impl Source {
    /// Opens the model that the flags name; its header has not been looked at yet.
    ///
    /// # Errors
    /// A file that cannot be read or imported.
    pub fn open(args: &ModelArgs) -> Result<Self, Failure> {
        Self::open_whole(args, 0)
    }

    /// The same, of which a GGUF file of at most `at_once` bytes is read.
    fn open_whole(args: &ModelArgs, at_once: u64) -> Result<Self, Failure> {
        let Some(name) = args.name() else {
            if args.import.outtype.is_some() || args.import.tokenizer.is_some() {
                return Err(Failure::Input(
                    "--outtype and --tokenizer need a MODEL; the embedded one has its own".into(),
                ));
            }
            let (name, image) = (EMBEDDED_NAME.to_owned(), Image::Embedded);
            return Ok(Self { name, image, _imported: None, will_be_read: false });
        };
        let bar = Bar::new();
        let ImportArgs { ref tokenizer, outtype, fallback, .. } = args.import;
        let (mmap, tokenizer) = (!args.no_mmap, tokenizer.clone());
        let options = OpenOptions { mmap, at_once, tokenizer, outtype, fallback, progress: &bar };
        let file = smidgen_host::open(name, &options).map_err(host_failure)?;
        Ok(Self { name: name.to_owned(), image: Image::File(file), _imported: None, will_be_read: false })
    }

    /// Opens the model that the flags name for a run within `--ram`: a GGUF file that does not fit as a whole, or is packed, is
    /// opened to be read in parts.
    ///
    /// # Errors
    /// As [`Source::open`], and a model that cannot be run with these flags.
    pub fn open_within(args: &ModelArgs, engine: &EngineArgs, sampling: &SamplingArgs) -> Result<Self, Failure> {
        match engine.ram {
            Some(ram) => Self::open_capped(args, engine, ram, sampling),
            None => Self::open(args),
        }
    }

    /// [`Source::open_within`] and [`Source::to_run`].
    ///
    /// # Errors
    /// Those of both.
    pub fn open_to_run(args: &ModelArgs, engine: &EngineArgs, sampling: &SamplingArgs) -> Result<Self, Failure> {
        match engine.ram {
            Some(ram) => Self::open_capped(args, engine, ram, sampling)?.to_run(engine),
            None => Self::open_whole_to_run(args, engine),
        }
    }

    /// [`Source::open`] and [`Source::to_run`], of which a file that the latter would read is not mapped first.
    ///
    /// # Errors
    /// Those of both.
    pub fn open_whole_to_run(args: &ModelArgs, engine: &EngineArgs) -> Result<Self, Failure> {
        Self::open_whole(args, at_once(engine))?.to_run(engine)
    }

    fn open_capped(args: &ModelArgs, engine: &EngineArgs, ram: u64, sampling: &SamplingArgs) -> Result<Self, Failure> {
        let Some(source) = Self::open_in_parts(args, engine, ram)? else { return Self::open(args) };
        let beside = Budget::of(&source, &EngineArgs { ram: None, ..engine.clone() }, sampling)?;
        let reading = if args.no_mmap { OF_READING.bytes() } else { 0 };
        let fits = beside.with(source.bytes_in_parts() + reading) <= ram;
        // What is packed cannot be mapped, so it is read by parts in any case.
        if fits && source.index().is_none() { source.whole(args) } else { Ok(source) }
    }

    /// The same model for a run of many tokens: the rows of one that is in memory of our own, or small enough to be read at once, are
    /// laid together. Within `--ram` one stays mapped, so that the system can have its pages back.
    ///
    /// # Errors
    /// A file that cannot be read again, or kernels that this processor does not have.
    pub fn to_run(self, engine: &EngineArgs) -> Result<Self, Failure> {
        let isa = choose_isa(engine.isa.as_deref())?;
        let is_laid = self.is_laid_to_run(engine);
        match self.image {
            Image::File(file) if is_laid => {
                let file = file.laid_together(isa, &Bar::new()).map_err(host_failure)?;
                Ok(Self { image: Image::File(file), ..self })
            }
            image => Ok(Self { image, ..self }),
        }
    }

    /// The same model to be planned: it says of its memory what it will have once [`Source::to_run`] was called.
    pub fn to_plan(self, engine: &EngineArgs) -> Self {
        Self { will_be_read: self.is_laid_to_run(engine), ..self }
    }

    /// Whether [`Source::to_run`] lays rows together.
    fn is_laid_to_run(&self, engine: &EngineArgs) -> bool {
        let Image::File(file) = &self.image else { return false };
        !file.is_mapped() || file.bytes().len() as u64 <= at_once(engine)
    }

    /// Opens the model that the flags name to be read in parts within `ram`; `None` when they name none. One that is no little-endian
    /// GGUF file, or not of the types wanted, is made one first.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn open_in_parts(args: &ModelArgs, engine: &EngineArgs, ram: u64) -> Result<Option<Self>, Failure> {
        let opened = import::open_in_parts(args, engine, ram)?;
        let source = |(outline, imported)| Self {
            name: args.name().unwrap_or_default().to_owned(),
            image: Image::Outline(outline),
            _imported: imported,
            will_be_read: false,
        };
        Ok(opened.map(source))
    }

    /// The same model, which is read in parts, as a whole.
    fn whole(self, args: &ModelArgs) -> Result<Self, Failure> {
        let Image::Outline(outline) = &self.image else { return Ok(self) };
        let options = OpenOptions { mmap: !args.no_mmap, progress: &Bar::new(), ..OpenOptions::default() };
        let file = smidgen_host::open_path(outline.path(), &options).map_err(host_failure)?;
        Ok(Self { image: Image::File(file), ..self })
    }

    /// Opens the model only to look at it: a GGUF file stays in the byte order it was written in.
    ///
    /// # Errors
    /// As [`Source::open`].
    pub fn open_as_stored(args: &ModelArgs) -> Result<Self, Failure> {
        let is_file = |name: &&str| args.import.outtype.is_none() && Path::new(name).is_file();
        if let Some(name) = args.name().filter(is_file) {
            let image = smidgen_host::image::Image::map(Path::new(name)).map_err(host_failure)?;
            if image.starts_with(b"GGUF") {
                return Ok(Self::planned(name, image));
            }
        }
        Self::open(args)
    }

    /// The model called `name` as `image` will have it, of which nobody has written more than the header.
    pub fn planned(name: &str, image: smidgen_host::image::Image) -> Self {
        let will_be_read = image.len() as u64 <= READ_AT_ONCE;
        Self { name: name.to_owned(), image: Image::Stored(image), _imported: None, will_be_read }
    }

    /// The GGUF image, little-endian: the whole of it, or the header of one whose weights will be read in parts.
    pub fn bytes(&self) -> &[u8] {
        match &self.image {
            Image::Embedded => &EMBEDDED.0,
            Image::Stored(image) => image,
            Image::File(file) => file.bytes(),
            Image::Outline(outline) => outline.header(),
        }
    }

    /// Bytes of the whole image.
    pub fn file_bytes(&self) -> u64 {
        match &self.image {
            Image::Outline(outline) => outline.file_bytes(),
            _ => self.bytes().len() as u64,
        }
    }

    /// Whether it is the model that is part of the program.
    pub fn is_embedded(&self) -> bool {
        matches!(self.image, Image::Embedded)
    }

    /// Bytes of the matrices that will be read in parts.
    pub fn bytes_in_parts(&self) -> u64 {
        self.outline().map_or(0, |outline| {
            outline.file_bytes().saturating_sub(outline.header().len() as u64 + outline.vector_bytes())
        })
    }

    /// What the file says of itself when it is packed and will be read in parts.
    pub fn index(&self) -> Option<&Arc<Index>> {
        self.outline()?.index()
    }

    /// The file whose weights will be read in parts, if they will.
    pub fn outline(&self) -> Option<&Outline> {
        match &self.image {
            Image::Outline(outline) => Some(outline),
            _ => None,
        }
    }

    /// Whether the whole file is, or will be, in memory of our own.
    pub fn is_read(&self) -> bool {
        self.will_be_read || matches!(&self.image, Image::File(file) if !file.is_mapped())
    }

    /// What of the model is in memory once it is open.
    pub fn lines(&self) -> Vec<Line> {
        let line = |name: &str, bytes: u64| Line { name: name.to_owned(), bytes };
        match &self.image {
            Image::Embedded => vec![line("weights (in the program)", self.file_bytes())],
            Image::Stored(_) | Image::File(_) if self.is_read() => vec![line("weights (in memory)", self.file_bytes())],
            Image::Stored(_) | Image::File(_) => vec![line("weights (file, mapped)", self.file_bytes())],
            Image::Outline(outline) => {
                let header = outline.header().len() as u64;
                vec![line("header (in memory)", header), line("vectors", outline.vector_bytes())]
            }
        }
    }

    /// What of the model is in memory while only its header is read.
    pub fn lines_of_header(&self, gguf: &Gguf<'_>) -> Vec<Line> {
        match &self.image {
            Image::File(file) if !file.is_mapped() => self.lines(),
            Image::Outline(_) => self.lines(),
            _ => vec![Line { name: "header".to_owned(), bytes: gguf.data_offset() }],
        }
    }

    /// The model in `gguf`, this source's header, with the weights that are in memory once it is open.
    ///
    /// # Errors
    /// A model that is not in order.
    pub fn model<'a>(&'a self, gguf: &Gguf<'a>, layers: &'a mut [Layer<'a>]) -> Result<Model<'a>, Failure> {
        let model = match self.outline() {
            Some(outline) => Model::partly_held(gguf, layers, &|tensor| outline.held(tensor)),
            None if self.is_together() => Model::laid_together(gguf, layers),
            None => Model::new(gguf, layers),
        };
        model.map_err(|error| self.refused(error))
    }

    /// Whether the rows of its matrices lie together.
    pub(crate) fn is_together(&self) -> bool {
        matches!(&self.image, Image::File(file) if file.is_together())
    }

    /// Keeps the system from moving the weights that are in memory out of it.
    pub(crate) fn lock(&self) -> io::Result<()> {
        match &self.image {
            Image::Embedded | Image::Outline(_) => Ok(()),
            Image::Stored(image) => image.lock(),
            Image::File(file) => file.lock(),
        }
    }

    /// The checked header.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn gguf(&self) -> Result<Gguf<'_>, Failure> {
        Gguf::parse(self.bytes(), self.file_bytes()).map_err(|error| self.refused(error))
    }

    /// The context that the model was trained with, in tokens, and the size of its vocabulary.
    ///
    /// # Errors
    /// A model that is not in order.
    pub fn context_and_vocabulary(&self) -> Result<(usize, usize), Failure> {
        let gguf = self.gguf()?;
        let mut layers = vec![Layer::EMPTY; Model::n_layers(&gguf).map_err(|error| self.refused(error))?];
        let model = self.model(&gguf, &mut layers)?;
        Ok((model.hparams().context_train, model.hparams().n_vocab))
    }

    /// Bits that a weight takes on average, the scales of its block included.
    ///
    /// # Errors
    /// A header that is not in order.
    pub fn bits_per_weight(&self) -> Result<f64, Failure> {
        let gguf = self.gguf()?;
        let sums = gguf.tensors().fold((0, 0), |(n_bytes, n), t| (n_bytes + t.n_bytes, n + t.n_weights()));
        Ok(sums.0 as f64 * 8.0 / sums.1 as f64)
    }

    /// What the file says of itself when it is packed, of a model that was opened to be looked at.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn read_index(&self) -> Result<Option<Arc<Index>>, Failure> {
        match &self.image {
            Image::Stored(image) if !image.is_mapped() => smidgen_host::packed::open(Path::new(&self.name), u64::MAX)
                .map(|(_, index)| index)
                .map_err(host_failure),
            _ => Ok(None),
        }
    }

    /// The failure that this file is to blame for.
    pub fn refused(&self, error: impl Display) -> Failure {
        Failure::Input(format!("{}: {error}", self.name))
    }
}
