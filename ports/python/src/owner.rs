//! The thread that owns a model: engine, tokenizer and buffers borrow from each other, and on one stack they may.
//!
//! Whoever wants something of the model sends work to that thread and waits for what it gives back. Python's lock is not
//! needed for that, so other Python threads run meanwhile.

use smidgen_core::engine::{self, Engine};
use smidgen_core::gguf::Gguf;
use smidgen_core::kv::CacheType;
use smidgen_core::model::{Layer, Model};
use smidgen_core::plan::{Limits, Plan};
use smidgen_core::sample::{Candidate, SampleParams, Sampler};
use smidgen_core::simd::Isa;
use smidgen_core::tokenizer::{Encode, Tokenizer};
use smidgen_host::threads::Pool;
use smidgen_host::{OpenOptions, machine};
use std::fmt::Display;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{Builder, JoinHandle};

/// The context when nobody says how long: what the model was trained with, up to this.
const DEFAULT_CONTEXT: usize = 2048;
/// Weights that one thread reads at a pace nobody waits for.
const BYTES_PER_THREAD: usize = 16 << 20;
/// Prompt tokens that pass through the model together.
const BATCH_TOKENS: usize = 16;

/// Why something was not done.
#[derive(Debug)]
pub enum Failure {
    /// What was given is wrong: a file, a token, a number.
    Input(String),
    /// It may be right, and could not be done.
    Failed(String),
}

/// What the buffers are made for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Positions; none is [`DEFAULT_CONTEXT`], and 0 as many as the model was trained with.
    pub context_tokens: Option<usize>,
    /// Threads; none is one for each [`BYTES_PER_THREAD`] of weights, and at most one for each core.
    pub n_threads: Option<usize>,
    /// How keys and values are kept.
    pub cache: CacheType,
}

/// What is known of a model that is open.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Tokens of the vocabulary.
    pub n_vocab: usize,
    /// Positions that there is room for.
    pub context_tokens: usize,
    /// Bytes of the buffers, as planned.
    pub arena_bytes: usize,
    /// Bytes of the weights.
    pub file_bytes: usize,
}

/// A model being run, on its own thread.
pub struct Session<'a> {
    engine: Engine<'a>,
    tokenizer: &'a Tokenizer<'a>,
    facts: Facts,
}

type Job = Box<dyn FnOnce(&mut Session<'_>) + Send>;

/// The other side of the thread.
pub struct Owner {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    /// What the model is.
    pub facts: Facts,
}

impl Owner {
    /// Opens the model at `path` on a thread of its own.
    pub fn open(path: String, wanted: Wanted) -> Result<Self, Failure> {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (opened, answer) = mpsc::channel();
        let serve = move || {
            if let Err(failure) = own(&path, wanted, &inbox, &opened) {
                // Nobody waits for it when the model was open already.
                let _ = opened.send(Err(failure));
            }
        };
        let thread = Builder::new().name("smidgen".into()).spawn(serve);
        let thread = thread.map_err(|error| Failure::Failed(format!("no thread for the model: {error}")))?;
        let facts = answer.recv().map_err(|_| gone())??;
        Ok(Owner { jobs: Some(jobs), thread: Some(thread), facts })
    }

    /// Has the model's thread do `work`, after all that was sent to it before, and waits for what that gives.
    pub fn ask<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Session<'_>) -> Result<R, Failure> + Send + 'static,
    ) -> Result<R, Failure> {
        let (sender, answer) = mpsc::channel();
        self.send(Box::new(move |session| {
            // Who asked may be gone.
            let _ = sender.send(work(session));
        }))?;
        answer.recv().map_err(|_| gone())?
    }

    /// Begins to write; the pieces of the text come as they are made. Nobody listening any more ends it.
    pub fn write(&self, request: Request) -> Result<Receiver<Result<String, Failure>>, Failure> {
        let (sender, pieces) = mpsc::channel();
        self.send(Box::new(move |session| {
            if let Err(failure) = session.write(&request, &mut |piece| sender.send(Ok(piece)).is_ok()) {
                let _ = sender.send(Err(failure));
            }
        }))?;
        Ok(pieces)
    }

    fn send(&self, job: Job) -> Result<(), Failure> {
        self.jobs.as_ref().and_then(|jobs| jobs.send(job).ok()).ok_or_else(gone)
    }
}

impl Drop for Owner {
    /// The memory is given back before this returns.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed there.
            let _ = thread.join();
        }
    }
}

fn gone() -> Failure {
    Failure::Failed("the model's thread has ended".into())
}

/// Opens the model, says what it is, and does what comes in until nobody can send any more.
fn own(
    path: &str,
    wanted: Wanted,
    inbox: &Receiver<Job>,
    opened: &Sender<Result<Facts, Failure>>,
) -> Result<(), Failure> {
    let refused = |error: &dyn Display| Failure::Input(format!("{path}: {error}"));
    let file = smidgen_host::open(path, &OpenOptions::default()).map_err(|error| match error.exit_code() {
        2 => Failure::Input(error.to_string()),
        _ => Failure::Failed(error.to_string()),
    })?;
    let bytes = file.bytes();
    let gguf = Gguf::parse(bytes, bytes.len() as u64).map_err(|error| refused(&error))?;
    let mut layers = vec![Layer::EMPTY; Model::n_layers(&gguf).map_err(|error| refused(&error))?];
    let model = Model::new(&gguf, &mut layers).map_err(|error| refused(&error))?;
    let plan = Plan::new(&model, &limits(wanted, &model, bytes.len())).map_err(|error| refused(&error))?;
    let mut index = vec![0; Tokenizer::arena_bytes(&gguf).map_err(|error| refused(&error))?];
    let tokenizer = Tokenizer::new(&gguf, &mut index).map_err(|error| refused(&error))?;
    let pool = Pool::new(plan.limits().n_threads);
    let mut arena = Vec::new();
    arena.try_reserve_exact(plan.arena_bytes()).map_err(|error| refused(&error))?;
    arena.resize(plan.arena_bytes(), 0);
    let engine = Engine::new(&model, &plan, Isa::detect(), &pool, &mut arena).map_err(|error| refused(&error))?;
    let facts = Facts {
        n_vocab: model.hparams().n_vocab,
        context_tokens: plan.limits().context_tokens,
        arena_bytes: plan.arena_bytes(),
        file_bytes: bytes.len(),
    };
    let mut session = Session { engine, tokenizer: &tokenizer, facts };
    if opened.send(Ok(facts)).is_ok() {
        inbox.iter().for_each(|job| job(&mut session));
    }
    Ok(())
}

fn limits(wanted: Wanted, model: &Model<'_>, file_bytes: usize) -> Limits {
    let trained = model.hparams().context_train;
    let context_tokens = match wanted.context_tokens {
        Some(0) => trained,
        Some(n) => n,
        None => trained.min(DEFAULT_CONTEXT),
    };
    let n_threads =
        wanted.n_threads.unwrap_or_else(|| file_bytes.div_ceil(BYTES_PER_THREAD).clamp(1, machine::n_cores()));
    Limits {
        context_tokens,
        batch_tokens: BATCH_TOKENS,
        n_threads,
        cache_k: wanted.cache,
        cache_v: wanted.cache,
        // `truncate` may go back to any position.
        keeps_all: true,
    }
}

/// A text, or the tokens of one.
#[derive(Debug)]
pub enum Prompt {
    /// Encoded, with what begins a text before it.
    Text(String),
    /// Taken as they are.
    Ids(Vec<u32>),
}

/// What is to be written.
#[derive(Debug)]
pub struct Request {
    /// What it continues.
    pub prompt: Prompt,
    /// New tokens at most.
    pub n_new: usize,
    /// Whether it goes on where the model would end.
    pub ignore_end: bool,
    /// How tokens are chosen.
    pub params: SampleParams,
}

impl Session<'_> {
    /// The tokens of `text`.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, Failure> {
        let mut scratch = vec![0; self.tokenizer.scratch_bytes(text.len())];
        let mut ids = vec![0; self.tokenizer.max_tokens(text.len())];
        let options = Encode { add_special, parse_special: true };
        let n = self.tokenizer.encode(text, options, &mut scratch, &mut ids);
        ids.truncate(n.map_err(|error| Failure::Input(error.to_string()))?);
        Ok(ids)
    }

    /// The text of `ids`.
    pub fn decode(&self, ids: &[u32]) -> Result<String, Failure> {
        self.check(ids)?;
        let mut piece = vec![0; self.tokenizer.max_piece_bytes()];
        let (mut decoder, mut text) = (self.tokenizer.decoder(), Vec::new());
        for &id in ids {
            let n = decoder.push(id, &mut piece);
            text.extend_from_slice(&piece[..n]);
        }
        let n = decoder.finish(&mut piece);
        text.extend_from_slice(&piece[..n]);
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    fn check(&self, ids: &[u32]) -> Result<(), Failure> {
        let n_vocab = self.facts.n_vocab;
        match ids.iter().find(|&&id| id as usize >= n_vocab) {
            Some(&id) => Err(refused(engine::Error::Token(id, n_vocab))),
            None => Ok(()),
        }
    }

    /// The logits after each of `ids`, run at the next positions: (ids, n_vocab).
    pub fn logits(&mut self, ids: &[u32]) -> Result<Vec<f32>, Failure> {
        self.check(ids)?;
        let room = self.facts.context_tokens - self.engine.position();
        if ids.len() > room {
            return Err(refused(engine::Error::Context(self.engine.position() + ids.len(), self.facts.context_tokens)));
        }
        let mut all = Vec::with_capacity(ids.len() * self.facts.n_vocab);
        self.engine.forward_each(ids, |_, logits| all.extend_from_slice(logits)).map_err(refused)?;
        Ok(all)
    }

    /// How many positions have been run.
    pub fn position(&self) -> usize {
        self.engine.position()
    }

    /// Forgets all but the first `n` positions.
    pub fn truncate(&mut self, n: usize) {
        self.engine.truncate(n);
    }

    /// Writes the continuation of a prompt, from the first position on; `emit` gets it in whole characters and says whether more
    /// is wanted.
    fn write(&mut self, request: &Request, emit: &mut dyn FnMut(String) -> bool) -> Result<(), Failure> {
        let mut ids = match &request.prompt {
            Prompt::Text(text) => self.encode(text, true)?,
            Prompt::Ids(ids) => ids.clone(),
        };
        let tokenizer = self.tokenizer;
        let mut piece = vec![0; tokenizer.max_piece_bytes()];
        let mut decoder = tokenizer.decoder();
        self.check(&ids)?;
        for &id in &ids {
            // The text of the prompt is known; the decoder only has to stand where it ends.
            decoder.push(id, &mut piece);
        }
        let mut candidates = vec![Candidate::default(); Sampler::scratch_len(&request.params, self.facts.n_vocab)];
        let mut sampler = Sampler::new(request.params, &mut candidates);
        self.engine.truncate(0);
        let n_prompt = ids.len();
        let mut next = sampler.sample(self.engine.forward(&ids).map_err(refused)?, &ids);
        while ids.len() - n_prompt < request.n_new && (request.ignore_end || !tokenizer.is_end(next)) {
            ids.push(next);
            let n = decoder.push(next, &mut piece);
            if !emit(String::from_utf8_lossy(&piece[..n]).into_owned()) {
                return Ok(());
            }
            if self.engine.position() == self.facts.context_tokens || ids.len() - n_prompt == request.n_new {
                break;
            }
            next = sampler.sample(self.engine.forward(&[next]).map_err(refused)?, &ids);
        }
        let n = decoder.finish(&mut piece);
        emit(String::from_utf8_lossy(&piece[..n]).into_owned());
        Ok(())
    }
}

/// What the engine does not take.
fn refused(error: engine::Error) -> Failure {
    Failure::Input(error.to_string())
}
