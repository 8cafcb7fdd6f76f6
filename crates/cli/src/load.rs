//! From a model's name to an engine that is ready: every buffer belongs to a function of this file.

use crate::args::{EngineArgs, ImportArgs, ModelArgs, SamplingArgs};
use crate::failure::Failure;
use crate::progress::Bar;
use crate::report;
use crate::sampling;
use smidgen_core::engine::Engine;
use smidgen_core::gguf::Gguf;
use smidgen_core::model::{Layer, Model};
use smidgen_core::plan::{Limits, Plan};
use smidgen_core::sample::{Candidate, SampleParams, Sampler};
use smidgen_core::simd::Isa;
use smidgen_core::tokenizer::Tokenizer;
use smidgen_core::workers::{Single, Workers};
use smidgen_host::threads::Pool;
use smidgen_host::{ModelFile, OpenOptions};
use std::fmt::Display;
use std::path::Path;
use std::time::{Duration, Instant};

/// What the process takes beside the plan: its code, its stack, the C library and this program's own small buffers.
/// `tests/memory.rs` measures that it is no more.
pub const PROCESS_BYTES: u64 = 3 << 19;
/// The context when `-c` does not say: what the model was trained with, up to this.
const DEFAULT_CONTEXT: usize = 2048;
/// Weights that one thread reads at a pace nobody waits for; beyond it the default is one thread for each such part.
const BYTES_PER_THREAD: usize = 16 << 20;

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
}

#[derive(Debug)]
enum Image {
    Embedded,
    /// A GGUF file in the byte order it was written in.
    Stored(smidgen_host::image::Image),
    File(ModelFile),
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
            return Ok(Self { name: EMBEDDED_NAME.to_owned(), image: Image::Embedded });
        };
        Self::open_named(name, &args.import, !args.no_mmap)
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
                return Ok(Self { name: name.to_owned(), image: Image::Stored(image) });
            }
        }
        Self::open(args)
    }

    /// The model called `name` as `image` will have it, of which nobody has written more than the header.
    pub fn planned(name: &str, image: smidgen_host::image::Image) -> Self {
        Self { name: name.to_owned(), image: Image::Stored(image) }
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
        Ok(Self { name: name.to_owned(), image: Image::File(file) })
    }

    /// The whole GGUF image, little-endian.
    pub fn bytes(&self) -> &[u8] {
        match &self.image {
            Image::Embedded => &EMBEDDED.0,
            Image::Stored(image) => image,
            Image::File(file) => file.bytes(),
        }
    }

    /// Where the weights lie, in the words of the plan.
    pub fn place(&self) -> &'static str {
        match &self.image {
            Image::Embedded => "weights (in the program)",
            Image::Stored(_) => "weights (file, mapped)",
            Image::File(file) if file.is_mapped() => "weights (file, mapped)",
            Image::File(_) => "weights (in memory)",
        }
    }

    /// The checked header.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn gguf(&self) -> Result<Gguf<'_>, Failure> {
        Gguf::parse(self.bytes(), self.bytes().len() as u64).map_err(|error| self.refused(error))
    }

    /// The context that the model was trained with, in tokens, and the size of its vocabulary.
    ///
    /// # Errors
    /// A model that is not in order.
    pub fn context_and_vocabulary(&self) -> Result<(usize, usize), Failure> {
        let gguf = self.gguf()?;
        let mut layers = vec![Layer::EMPTY; Model::n_layers(&gguf).map_err(|error| self.refused(error))?];
        let model = Model::new(&gguf, &mut layers).map_err(|error| self.refused(error))?;
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

    /// The failure that this file is to blame for.
    pub fn refused(&self, error: impl Display) -> Failure {
        Failure::Input(format!("{}: {error}", self.name))
    }
}

/// The failure that `host` reports.
pub fn host_failure(error: smidgen_host::Error) -> Failure {
    match error.exit_code() {
        1 => Failure::Failed(error.to_string()),
        _ => Failure::Input(error.to_string()),
    }
}

/// One consumer of memory.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Line {
    /// What it is.
    pub name: String,
    /// How much it takes.
    pub bytes: u64,
}

/// Every consumer of memory that the program knows before it begins.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Budget {
    /// One line per consumer.
    pub lines: Vec<Line>,
}

impl Budget {
    /// The sum for `model` in `source` under `plan`.
    ///
    /// # Errors
    /// A vocabulary that cannot be read.
    pub fn new(
        source: &Source,
        gguf: &Gguf<'_>,
        model: &Model<'_>,
        plan: &Plan,
        params: &SampleParams,
    ) -> Result<Self, Failure> {
        let index = Tokenizer::arena_bytes(gguf).map_err(|error| source.refused(error))?;
        let mut lines = Vec::with_capacity(plan.spans().len() + 5);
        let mut add = |name: &str, bytes: usize| lines.push(Line { name: name.to_owned(), bytes: bytes as u64 });
        add(source.place(), source.bytes().len());
        add("table of layers", model.hparams().n_layers * size_of::<Layer<'_>>());
        add("tokenizer index", index);
        for span in plan.spans() {
            add(span.name, span.bytes);
        }
        add("token ids", (plan.limits().context_tokens + 1) * size_of::<u32>());
        add("sampler", Sampler::scratch_len(params, model.hparams().n_vocab) * size_of::<Candidate>());
        Ok(Self { lines })
    }

    /// The sum for the model in `source` as these flags would load it; nothing is loaded.
    ///
    /// # Errors
    /// A model that is not in order, or that cannot be run with these flags.
    pub fn of(source: &Source, args: &EngineArgs, sampling: &SamplingArgs) -> Result<Self, Failure> {
        let gguf = source.gguf()?;
        let mut layers = vec![Layer::EMPTY; Model::n_layers(&gguf).map_err(|error| source.refused(error))?];
        let model = Model::new(&gguf, &mut layers).map_err(|error| source.refused(error))?;
        let settings = Settings::new(args, sampling, source, &gguf, &model)?;
        let plan = Plan::new(&model, &settings.limits).map_err(|error| source.refused(error))?;
        Self::new(source, &gguf, &model, &plan, &settings.params)
    }

    /// The sum of all lines: the planned bytes.
    pub fn total(&self) -> u64 {
        self.lines.iter().map(|line| line.bytes).sum()
    }

    /// What the process needs in all.
    pub fn with_process(&self) -> u64 {
        self.total() + PROCESS_BYTES
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
        Ok(Self { limits, isa: choose_isa(args.isa.as_deref())?, params })
    }
}

/// The sizes of the buffers for `model` in `source`: the flags, and our choice where they say nothing.
pub fn limits(args: &EngineArgs, source: &Source, model: &Model<'_>) -> Limits {
    let trained = model.hparams().context_train;
    let context_tokens = match args.context {
        Some(0) => trained,
        Some(n) => n,
        None => trained.min(DEFAULT_CONTEXT),
    };
    let n_threads = args.threads.unwrap_or_else(|| {
        let parts = source.bytes().len().div_ceil(BYTES_PER_THREAD);
        parts.clamp(1, smidgen_host::machine::n_cores())
    });
    Limits { context_tokens, batch_tokens: args.batch, n_threads, cache_k: args.ctk, cache_v: args.ctv }
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
    let mut layers = vec![Layer::EMPTY; Model::n_layers(&gguf).map_err(|error| source.refused(error))?];
    let model = Model::new(&gguf, &mut layers).map_err(|error| source.refused(error))?;
    let settings = Settings::new(args, sampling, source, &gguf, &model)?;
    let plan = Plan::new(&model, &settings.limits).map_err(|error| source.refused(error))?;
    let budget = Budget::new(source, &gguf, &model, &plan, &settings.params)?;
    check_ram(args.ram, &budget)?;

    let mut index = vec![0; Tokenizer::arena_bytes(&gguf).map_err(|error| source.refused(error))?];
    let tokenizer = Tokenizer::new(&gguf, &mut index).map_err(|error| source.refused(error))?;
    let pool;
    let workers: &dyn Workers = match settings.limits.n_threads {
        1 => &Single,
        n => {
            pool = Pool::new(n);
            if pool.n_workers() < n {
                return Err(Failure::Failed(format!(
                    "the system allows {} of {n} threads; give a smaller -t",
                    pool.n_workers()
                )));
            }
            &pool
        }
    };
    let mut arena = vec![0; plan.arena_bytes()];
    let engine =
        Engine::new(&model, &plan, settings.isa, workers, &mut arena).map_err(|error| source.refused(error))?;
    // What loads a model is not needed to run it.
    smidgen_host::pages::release_program();
    let mut session = Session {
        name: &source.name,
        gguf: &gguf,
        model: &model,
        tokenizer: &tokenizer,
        engine,
        workers,
        settings,
        budget,
        load: began.elapsed(),
    };
    work(&mut session)
}

/// Refuses to load what would not stay within the memory it may take.
///
/// # Errors
/// A budget that is larger than `ram`.
pub fn check_ram(ram: Option<u64>, budget: &Budget) -> Result<(), Failure> {
    match ram {
        Some(ram) if budget.with_process() > ram => Err(Failure::Budget(format!(
            "needs {} ({} planned, {} for the process), more than --ram {}; 'smidgen plan' with the same flags says what would fit",
            report::bytes(budget.with_process()),
            report::bytes(budget.total()),
            report::bytes(PROCESS_BYTES),
            report::bytes(ram),
        ))),
        _ => Ok(()),
    }
}
