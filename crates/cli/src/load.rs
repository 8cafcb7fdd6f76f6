//! From a model to an engine that is ready: every buffer belongs to a function of this file.

use crate::advice::{NOTHING, Question};
use crate::args::{EngineArgs, SamplingArgs};
use crate::budget::{Budget, Work, check_ram};
use crate::failure::Failure;
use crate::import;
use crate::sampling;
use crate::source::Source;
use smidgen_core::engine::{self, Engine};
use smidgen_core::gguf::{Gguf, Tensor};
use smidgen_core::model::{Layer, Model};
use smidgen_core::ops::matmul::Tiles;
use smidgen_core::plan::{Limits, Plan};
use smidgen_core::sample::SampleParams;
use smidgen_core::simd::Isa;
use smidgen_core::tokenizer::Tokenizer;
use smidgen_core::workers::{Single, Workers};
use smidgen_host::spill::SpillFile;
use smidgen_host::threads::Pool;
use smidgen_host::weights::{Kept, Stream};
use std::fmt::Display;
use std::path::Path;
use std::time::{Duration, Instant};

/// The context when `-c` does not say: what the model was trained with, up to this.
const DEFAULT_CONTEXT: usize = 2048;
/// Weights that one thread reads at a pace nobody waits for; beyond it the default is one thread for each such part.
const BYTES_PER_THREAD: u64 = 16 << 20;

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
    let planned = |model: &Model<'_>| planned(source, args, sampling, &gguf, model);
    let kept: Option<Kept>;
    let mut layers = vec![Layer::EMPTY; n_layers];
    let (model, (settings, plan, budget)) = match source.outline() {
        Some(outline) => {
            let planned = planned(&source.model(&gguf, &mut vec![Layer::EMPTY; n_layers])?)?;
            // What opens a model and plans for it is not needed to load it.
            smidgen_host::pages::release_program();
            // The engine's memory comes later.
            let (residency, spare) = (planned.2.residency.as_ref(), planned.1.arena_bytes());
            kept = residency.map(|parts| Kept::read(outline, parts, spare)).transpose().map_err(host_failure)?;
            let kept = |tensor: &Tensor<'_>| kept.as_ref().and_then(|kept| kept.held(tensor));
            let held = |tensor: &Tensor<'_>| kept(tensor).or_else(|| outline.held(tensor));
            (Model::partly_held(&gguf, &mut layers, &held).map_err(|error| source.refused(error))?, planned)
        }
        None => {
            kept = None;
            let model = source.model(&gguf, &mut layers)?;
            let planned = planned(&model)?;
            (model, planned)
        }
    };
    if args.mlock {
        lock(source, kept.as_ref())?;
    }
    let mut index = vec![0; Tokenizer::arena_bytes(&gguf).map_err(|error| source.refused(error))?];
    let tokenizer = Tokenizer::new(&gguf, &mut index).map_err(|error| source.refused(error))?;
    let n_threads = settings.limits.n_threads;
    let pool = (n_threads > 1).then(|| all_of(n_threads)).transpose()?;
    let workers: &dyn Workers = pool.as_ref().map_or(&Single, |pool| pool);
    let arena = smidgen_host::image::zeroed(plan.arena_bytes() as u64);
    let mut arena = arena.map_err(|error| host_failure(error(Path::new(&source.name))))?;
    let mut engine =
        Engine::new(&model, &plan, settings.isa, workers, &mut arena).map_err(|error| source.refused(error))?;
    let stream = stream(source, &budget)?;
    if let Some(stream) = &stream {
        engine = engine.with_store(stream);
    }
    let spill = spill_file(args, &budget)?;
    if let Some(spill) = &spill {
        engine = engine.with_spill(spill);
    }
    let together: Vec<Tiles> = if source.is_together() { model.tiles().collect() } else { Vec::new() };
    // What loads a model is not needed to run it. A run makes tokens of its prompt before it gives all of that back at once.
    if settings.work != Work::Run {
        smidgen_host::pages::release_program();
    }
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
    model: &Model<'_>,
) -> Result<(Settings, Plan, Budget), Failure> {
    let settings = Settings::new(args, sampling, source, gguf, model)?;
    let (plan, budget) = Budget::within(source, gguf, model, &settings, args.ram)?;
    check_ram(args.ram, &budget).map_err(|failure| {
        let advice = args.ram.and_then(|ram| Question::new(source, gguf, model, settings).cheapest(ram));
        Failure::Budget(format!("{failure}; {}", advice.unwrap_or(NOTHING.to_owned())))
    })?;
    Ok((settings, plan, budget))
}

/// Who brings the weights that `budget` has no room for, if there are some.
fn stream(source: &Source, budget: &Budget) -> Result<Option<Stream>, Failure> {
    let parts = source.outline().zip(budget.residency.as_ref()).filter(|(_, residency)| residency.is_partial());
    let stream = parts.map(|(outline, residency)| outline.stream(residency)).transpose().map_err(host_failure)?;
    Ok(stream.map(|stream| stream.with_room(budget.lender.clone())))
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
