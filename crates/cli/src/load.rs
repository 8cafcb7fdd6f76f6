//! From a model's name to an engine that is ready: every buffer belongs to a function of this file.

use crate::advice::{NOTHING, Question};
use crate::args::{EngineArgs, ImportArgs, ModelArgs, SamplingArgs};
use crate::budget::{Budget, Line, OF_READING, Work, check_ram};
use crate::failure::Failure;
use crate::import::{self, Imported};
use crate::progress::Bar;
use crate::sampling;
use smidgen_core::engine::{self, Engine};
use smidgen_core::gguf::{Gguf, Tensor};
use smidgen_core::model::{Layer, Model};
use smidgen_core::ops::matmul::Tiles;
use smidgen_core::plan::{Limits, Plan};
use smidgen_core::sample::SampleParams;
use smidgen_core::simd::Isa;
use smidgen_core::tokenizer::Tokenizer;
use smidgen_core::workers::{Single, Workers};
use smidgen_host::packed::Index;
use smidgen_host::spill::SpillFile;
use smidgen_host::threads::Pool;
use smidgen_host::weights::{Kept, Outline, Stream};
use smidgen_host::{ModelFile, OpenOptions};
use std::fmt::Display;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The context when `-c` does not say: what the model was trained with, up to this.
const DEFAULT_CONTEXT: usize = 2048;
/// Weights that one thread reads at a pace nobody waits for; beyond it the default is one thread for each such part.
const BYTES_PER_THREAD: u64 = 16 << 20;

/// Bytes of a file that is read rather than mapped: what that takes is made up for by the first few tokens.
const READ_AT_ONCE: usize = 64 << 20;

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
        let Some(name) = args.name() else {
            if args.import.outtype.is_some() || args.import.tokenizer.is_some() {
                return Err(Failure::Input(
                    "--outtype and --tokenizer need a MODEL; the embedded one has its own".into(),
                ));
            }
            let (name, image) = (EMBEDDED_NAME.to_owned(), Image::Embedded);
            return Ok(Self { name, image, _imported: None, will_be_read: false });
        };
        Self::open_named(name, &args.import, !args.no_mmap)
    }

    /// Opens the model that the flags name for a run within `--ram`: a GGUF file that does not fit as a whole, or is packed, is
    /// opened to be read in parts.
    ///
    /// # Errors
    /// As [`Source::open`], and a model that cannot be run with these flags.
    pub fn open_within(args: &ModelArgs, engine: &EngineArgs, sampling: &SamplingArgs) -> Result<Self, Failure> {
        let Some(ram) = engine.ram else { return Self::open(args) };
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
        !file.is_mapped() || engine.ram.is_none() && file.bytes().len() <= READ_AT_ONCE
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
        let will_be_read = image.len() <= READ_AT_ONCE;
        Self { name: name.to_owned(), image: Image::Stored(image), _imported: None, will_be_read }
    }

    fn open_named(name: &str, import: &ImportArgs, mmap: bool) -> Result<Self, Failure> {
        let bar = Bar::new();
        let options = OpenOptions {
            mmap,
            tokenizer: import.tokenizer.clone(),
            outtype: import.outtype,
            fallback: import.fallback,
            progress: &bar,
        };
        let file = smidgen_host::open(name, &options).map_err(host_failure)?;
        Ok(Self { name: name.to_owned(), image: Image::File(file), _imported: None, will_be_read: false })
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
    fn is_together(&self) -> bool {
        matches!(&self.image, Image::File(file) if file.is_together())
    }

    /// Keeps the system from moving the weights that are in memory out of it.
    fn lock(&self) -> io::Result<()> {
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

/// The failure that `host` reports.
pub fn host_failure(error: smidgen_host::Error) -> Failure {
    match error.exit_code() {
        1 => Failure::Failed(error.to_string()),
        3 => Failure::Budget(error.to_string()),
        _ => Failure::Input(error.to_string()),
    }
}

/// What the flags ask of the engine, in the engine's own terms.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Sizes of the buffers.
    pub limits: Limits,
    /// Kernels.
    pub isa: Isa,
    /// How tokens are chosen.
    pub params: SampleParams,
    /// Whether the logits of every position are read.
    pub reads_each: bool,
    /// What is done with the model.
    pub work: Work,
    /// Connections that a server has at a time.
    pub connections: usize,
}

impl Settings {
    /// The settings for `model`: the flags, and our choice where they say nothing.
    ///
    /// # Errors
    /// Kernels that this processor does not have.
    pub fn new(
        args: &EngineArgs,
        sampling: &SamplingArgs,
        source: &Source,
        gguf: &Gguf<'_>,
        model: &Model<'_>,
    ) -> Result<Self, Failure> {
        let limits = limits(args, source, model);
        let params = sampling::params(sampling, gguf, limits.context_tokens);
        let isa = choose_isa(args.isa.as_deref())?;
        let EngineArgs { reads_each, work, connections, .. } = *args;
        Ok(Self { limits, isa, params, reads_each, work, connections })
    }
}

fn context_of(args: &EngineArgs, trained: usize) -> usize {
    match args.context {
        Some(0) => trained,
        Some(n) => n,
        None => trained.min(DEFAULT_CONTEXT),
    }
}

/// The sizes of the buffers for `model` in `source`: the flags, and our choice where they say nothing.
pub fn limits(args: &EngineArgs, source: &Source, model: &Model<'_>) -> Limits {
    let context_tokens = context_of(args, model.hparams().context_train);
    let n_threads = args.threads.unwrap_or_else(|| {
        let parts = usize::try_from(source.file_bytes().div_ceil(BYTES_PER_THREAD)).unwrap_or(usize::MAX);
        parts.clamp(1, smidgen_host::machine::n_cores())
    });
    Limits {
        context_tokens,
        batch_tokens: args.batch,
        n_threads,
        cache_k: args.ctk,
        cache_v: args.ctv,
        keeps_all: args.keeps_all,
    }
}

/// The kernels called `name`, or the best that this processor has.
///
/// # Errors
/// Kernels that it does not have.
pub fn choose_isa(name: Option<&str>) -> Result<Isa, Failure> {
    let Some(name) = name else { return Ok(Isa::detect()) };
    Isa::from_name(name).ok_or_else(|| {
        let names: Vec<&str> = Isa::available().map(Isa::name).collect();
        Failure::Input(format!("--isa {}: this processor has {}", name.escape_default(), names.join(", ")))
    })
}

/// Who brings the weights, and who keeps the caches, that are not in memory, if some are not; and what lies elsewhere in it.
#[derive(Clone, Copy, Default)]
pub struct Elsewhere<'a> {
    /// The weights' reader.
    pub stream: Option<&'a Stream>,
    /// The caches' file.
    pub spill: Option<&'a SpillFile>,
    /// The rows that lie together, and so elsewhere than in the file.
    pub together: &'a [Tiles],
}

impl Elsewhere<'_> {
    /// Bytes of weights that were streamed so far, as they are once unpacked.
    pub fn n_streamed(&self) -> u64 {
        self.stream.map_or(0, Stream::n_streamed)
    }

    /// What the system said when the engine could not go on for `error`.
    pub fn take_error(&self, error: engine::Error) -> Option<smidgen_host::Error> {
        match error {
            engine::Error::Storage(_) => self.stream?.take_error(),
            engine::Error::Cache(_) => self.spill?.take_error(),
            _ => None,
        }
    }
}

/// A model that is ready to run.
pub struct Session<'a> {
    /// The name that messages begin with.
    pub name: &'a str,
    /// The metadata.
    pub gguf: &'a Gguf<'a>,
    /// The checked weights.
    pub model: &'a Model<'a>,
    /// Text to ids and back.
    pub tokenizer: &'a Tokenizer<'a>,
    /// Who has what is not in memory.
    pub elsewhere: Elsewhere<'a>,
    /// The forward pass.
    pub engine: Engine<'a>,
    /// The threads that it shares its work with; they are idle between two passes.
    pub workers: &'a dyn Workers,
    /// What was asked of the engine.
    pub settings: Settings,
    /// What was planned.
    pub budget: Budget,
    /// How long it took to be ready.
    pub load: Duration,
}

impl Session<'_> {
    /// The failure that this model is to blame for.
    pub fn refused(&self, error: impl Display) -> Failure {
        Failure::Input(format!("{}: {error}", self.name))
    }
}

/// Loads the model in `source` and hands it to `work`; every buffer lives as long as this call.
///
/// # Errors
/// A model that is not in order, a budget that it exceeds, and those of `work`.
pub fn with_session<R>(
    source: &Source,
    args: &EngineArgs,
    sampling: &SamplingArgs,
    began: Instant,
    work: impl FnOnce(&mut Session<'_>) -> Result<R, Failure>,
) -> Result<R, Failure> {
    let gguf = source.gguf()?;
    let n_layers = Model::n_layers(&gguf).map_err(|error| source.refused(error))?;
    let (settings, plan, budget) = planned(source, args, sampling, &gguf)?;
    // What opens a model and plans for it is not needed to load it.
    smidgen_host::pages::release_program();
    let parts = source.outline().zip(budget.residency.as_ref());
    let kept = parts.map(|(outline, residency)| Kept::read(outline, residency)).transpose().map_err(host_failure)?;
    let mut layers = vec![Layer::EMPTY; n_layers];
    let model = match (parts, &kept) {
        (Some((outline, _)), Some(kept)) => {
            let held = |tensor: &Tensor<'_>| kept.held(tensor).or_else(|| outline.held(tensor));
            Model::partly_held(&gguf, &mut layers, &held).map_err(|error| source.refused(error))?
        }
        _ => source.model(&gguf, &mut layers)?,
    };
    if args.mlock {
        lock(source, kept.as_ref())?;
    }
    let mut index = vec![0; Tokenizer::arena_bytes(&gguf).map_err(|error| source.refused(error))?];
    let tokenizer = Tokenizer::new(&gguf, &mut index).map_err(|error| source.refused(error))?;
    let pool;
    let workers: &dyn Workers = match settings.limits.n_threads {
        1 => &Single,
        n => {
            pool = all_of(n)?;
            &pool
        }
    };
    let arena = smidgen_host::image::zeroed(plan.arena_bytes() as u64);
    let mut arena = arena.map_err(|error| host_failure(error(Path::new(&source.name))))?;
    let mut engine =
        Engine::new(&model, &plan, settings.isa, workers, &mut arena).map_err(|error| source.refused(error))?;
    let parts = parts.filter(|(_, residency)| residency.is_partial());
    let stream = parts.map(|(outline, residency)| outline.stream(residency)).transpose().map_err(host_failure)?;
    let stream = stream.map(|stream| stream.with_room(budget.lender.clone()));
    if let Some(stream) = &stream {
        engine = engine.with_store(stream);
    }
    let spill = spill_file(args, &budget)?;
    if let Some(spill) = &spill {
        engine = engine.with_spill(spill);
    }
    let together: Vec<Tiles> = if source.is_together() { model.tiles().collect() } else { Vec::new() };
    // What loads a model is not needed to run it.
    smidgen_host::pages::release_program();
    let mut session = Session {
        name: &source.name,
        gguf: &gguf,
        model: &model,
        tokenizer: &tokenizer,
        elsewhere: Elsewhere { stream: stream.as_ref(), spill: spill.as_ref(), together: &together },
        engine,
        workers,
        settings,
        budget,
        load: began.elapsed(),
    };
    work(&mut session)
}

/// What the flags ask for the model in `source`, and how it is done within `--ram`.
///
/// # Errors
/// A model that is not in order, or what cannot fit, with the cheapest change that would.
fn planned(
    source: &Source,
    args: &EngineArgs,
    sampling: &SamplingArgs,
    gguf: &Gguf<'_>,
) -> Result<(Settings, Plan, Budget), Failure> {
    let mut layers = vec![Layer::EMPTY; Model::n_layers(gguf).map_err(|error| source.refused(error))?];
    let model = source.model(gguf, &mut layers)?;
    let settings = Settings::new(args, sampling, source, gguf, &model)?;
    let (plan, budget) = Budget::within(source, gguf, &model, &settings, args.ram)?;
    check_ram(args.ram, &budget).map_err(|failure| {
        let advice = args.ram.and_then(|ram| Question::new(source, gguf, &model, settings).cheapest(ram));
        Failure::Budget(format!("{failure}; {}", advice.unwrap_or(NOTHING.to_owned())))
    })?;
    Ok((settings, plan, budget))
}

/// The file for the caches that `budget` has no room for, in the directory of the flags or else the first that is on a disk.
fn spill_file(args: &EngineArgs, budget: &Budget) -> Result<Option<SpillFile>, Failure> {
    let Some(shape) = &budget.spilled else { return Ok(None) };
    let directory = import::scratch_directory(args)?;
    SpillFile::new(&directory, shape).map(Some).map_err(host_failure)
}

/// A pool of `n` threads, not of fewer; says so when that is more than there are cores.
///
/// # Errors
/// A system that does not allow them.
fn all_of(n: usize) -> Result<Pool, Failure> {
    let n_cores = smidgen_host::machine::n_cores();
    if n > n_cores {
        eprintln!("smidgen: {n} threads share {n_cores} cores, which is slower than -t {n_cores}");
    }
    let pool = Pool::new(n);
    match pool.n_workers() {
        allowed if allowed < n => {
            Err(Failure::Failed(format!("the system allows {allowed} of {n} threads; give a smaller -t")))
        }
        _ => Ok(pool),
    }
}

/// Keeps the weights that are in memory there.
///
/// # Errors
/// More than this process may lock.
fn lock(source: &Source, kept: Option<&Kept>) -> Result<(), Failure> {
    source.lock().and_then(|()| kept.map_or(Ok(()), Kept::lock)).map_err(|error| {
        let message = "the weights cannot be locked in memory; raise the limit ('ulimit -l') or leave out --mlock";
        Failure::Failed(format!("{}: {message}: {error}", source.name))
    })
}
