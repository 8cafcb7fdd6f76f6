//! What every port without an operating system does: a model's bytes and a prompt in, a story out, and a proof.
//!
//! A board brings a [`Board`] (where text goes, and a clock), the model's bytes and one piece of memory. The proof is a hash
//! over every bit of every logit; a board that prints the desktop's hash has computed what the desktop computes.
#![no_std]

mod layout;

pub use layout::{Layout, Taken};
pub use smidgen_core::kv::CacheType;
pub use smidgen_core::model::Layer;
pub use smidgen_core::plan::Limits;

use core::fmt::{self, Write};
use smidgen_core::arena::{Arena, span_bytes};
use smidgen_core::engine::{self, Engine};
use smidgen_core::gguf::{self, Gguf};
use smidgen_core::model::{self, Model};
use smidgen_core::plan::{self, Plan};
use smidgen_core::simd::Isa;
use smidgen_core::tokenizer::{self, Encode, Tokenizer};
use smidgen_core::workers::Single;

/// What a machine must be able to do.
pub trait Board {
    /// Shows bytes of UTF-8 text; a character may come in two pieces.
    fn write(&mut self, text: &[u8]);
    /// Nanoseconds since any fixed moment. Called at least once for each token.
    fn nanoseconds(&mut self) -> u64;
}

/// What is to be told.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// A little-endian GGUF image with its tokenizer.
    pub model: &'a [u8],
    /// How the story begins.
    pub prompt: &'a str,
    /// The sizes of the buffers.
    pub limits: Limits,
    /// The most tokens that are added; each is the likeliest.
    pub n_new: usize,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// Tokens of the prompt.
    pub n_prompt: usize,
    /// Tokens that were added.
    pub n_new: usize,
    /// FNV-1a over the bits of all logits, the least significant byte of each first.
    pub logits: u64,
    /// Bytes of memory that [`memory_bytes`] asks for.
    pub planned_bytes: usize,
    /// Bytes of these that were written to, in whole groups of [`LINE`].
    pub used_bytes: usize,
    /// Nanoseconds for each token, those of the prompt included.
    pub token_nanoseconds: u64,
}

/// Why there is no story.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)] // Each names the part of the engine whose error it holds.
pub enum Error {
    Gguf(gguf::Error),
    Model(model::Error),
    /// The port has room for another number of layers: of the model, of the port.
    Layers(usize, usize),
    Plan(plan::Error),
    Tokenizer(tokenizer::Error),
    Engine(engine::Error),
    /// The memory is smaller than asked for: given, asked.
    Memory(usize, usize),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Gguf(error) => error.fmt(f),
            Error::Model(error) => error.fmt(f),
            Error::Layers(n, room) => write!(f, "the model has {n} layers, this program has room for {room}"),
            Error::Plan(error) => error.fmt(f),
            Error::Tokenizer(error) => error.fmt(f),
            Error::Engine(error) => error.fmt(f),
            Error::Memory(given, asked) => write!(f, "{given} bytes of memory were given, {asked} are needed"),
        }
    }
}

impl core::error::Error for Error {}

/// Bytes that are looked at together when used memory is counted.
pub const LINE: usize = 64;
/// What memory holds before anything is written to it.
const PAINT: u8 = 0xa5;
/// Bytes of scratch that any tokenizer takes for a byte of text ([`Tokenizer::scratch_bytes`]).
const SCRATCH_PER_BYTE: usize = 51;
/// FNV-1a of 64 bits: where it starts, and what it multiplies with.
const HASH_START: u64 = 0xcbf2_9ce4_8422_2325;
const HASH_PRIME: u64 = 0x0000_0100_0000_01b3;
/// The longest piece of text that one token is shown as; of a longer one the rest is left out.
const PIECE_BYTES: usize = 256;

/// The three parts of the memory: the tokenizer's index, the ids, and what first the tokenizer and then the engine work in.
struct Parts {
    index: usize,
    ids: usize,
    work: usize,
}

impl Parts {
    fn new(request: &Request<'_>, gguf: &Gguf<'_>, plan: &Plan) -> Result<Parts, Error> {
        let ids = span_bytes::<u32>(plan.limits().context_tokens + 1).ok_or(Error::Plan(plan::Error::Overflow))?;
        Ok(Parts {
            index: Tokenizer::arena_bytes(gguf).map_err(Error::Tokenizer)?,
            ids: ids + LINE,
            work: plan.arena_bytes().max(SCRATCH_PER_BYTE * request.prompt.len()),
        })
    }

    fn sum(&self) -> Result<usize, Error> {
        let sum = self.index.checked_add(self.ids).and_then(|sum| sum.checked_add(self.work));
        sum.ok_or(Error::Plan(plan::Error::Overflow))
    }
}

/// Bytes of memory that [`tell`] needs for `request`: the plan's arena, the tokenizer's index and the ids. The same number on
/// every machine. `layers` is as long as the model has layers.
///
/// # Errors
/// A model that cannot be run.
pub fn memory_bytes<'a>(request: &Request<'a>, layers: &'a mut [Layer<'a>]) -> Result<usize, Error> {
    let gguf = open(request)?;
    let model = Model::new(&gguf, layers).map_err(Error::Model)?;
    let plan = Plan::new(&model, &request.limits).map_err(Error::Plan)?;
    Parts::new(request, &gguf, &plan)?.sum()
}

/// How many layers the model of `request` has.
///
/// # Errors
/// A file that is no model.
pub fn n_layers(request: &Request<'_>) -> Result<usize, Error> {
    Model::n_layers(&open(request)?).map_err(Error::Model)
}

#[inline(never)]
fn open<'a>(request: &Request<'a>) -> Result<Gguf<'a>, Error> {
    Gguf::parse(request.model, request.model.len() as u64).map_err(Error::Gguf)
}

#[inline(never)]
fn load<'a>(gguf: &Gguf<'a>, layers: &'a mut [Layer<'a>]) -> Result<Model<'a>, Error> {
    let (n_layers, room) = (Model::n_layers(gguf).map_err(Error::Model)?, layers.len());
    let layers = layers.get_mut(..n_layers).ok_or(Error::Layers(n_layers, room))?;
    Model::new(gguf, layers).map_err(Error::Model)
}

/// Tells the story of `request` on `board`, in `memory` of [`memory_bytes`] bytes and a table of [`n_layers`] layers.
///
/// # Errors
/// A model that cannot be run, a prompt that does not fit the context, or too little memory.
pub fn tell<'a>(
    request: &Request<'a>,
    board: &mut impl Board,
    layers: &'a mut [Layer<'a>],
    memory: &mut [u8],
) -> Result<Told, Error> {
    memory.fill(PAINT);
    let gguf = open(request)?;
    let model = load(&gguf, layers)?;
    let plan = Plan::new(&model, &request.limits).map_err(Error::Plan)?;
    let parts = Parts::new(request, &gguf, &plan)?;
    let (planned_bytes, given) = (parts.sum()?, memory.len());
    let memory = memory.get_mut(..planned_bytes).ok_or(Error::Memory(given, planned_bytes))?;
    let start = board.nanoseconds();
    let story = {
        let (index, rest) = memory.split_at_mut(parts.index);
        let (ids, work) = rest.split_at_mut(parts.ids);
        let ids = Arena::new(ids).take::<u32>(plan.limits().context_tokens + 1);
        let ids = ids.ok_or(Error::Memory(parts.ids, parts.ids + LINE))?;
        let tokenizer = Tokenizer::new(&gguf, index).map_err(Error::Tokenizer)?;
        let n_prompt = encode(&tokenizer, request.prompt, work, ids)?;
        let engine = Engine::new(&model, &plan, Isa::detect(), &Single, work).map_err(Error::Engine)?;
        run(request, &tokenizer, engine, &ids[..n_prompt], board)?
    };
    let n_tokens = (story.n_prompt + story.n_new).max(1) as u64;
    Ok(Told {
        n_prompt: story.n_prompt,
        n_new: story.n_new,
        logits: story.logits,
        planned_bytes,
        used_bytes: memory.chunks(LINE).filter(|line| line.iter().any(|&byte| byte != PAINT)).map(<[u8]>::len).sum(),
        token_nanoseconds: (board.nanoseconds() - start) / n_tokens,
    })
}

// What loads, encodes and runs stays in functions of their own, so that their frames are never on the stack together.

#[inline(never)]
fn encode(tokenizer: &Tokenizer<'_>, prompt: &str, scratch: &mut [u8], ids: &mut [u32]) -> Result<usize, Error> {
    let options = Encode { add_special: true, parse_special: false };
    tokenizer.encode(prompt, options, scratch, ids).map_err(Error::Tokenizer)
}

/// What [`run`] counts.
struct Story {
    n_prompt: usize,
    n_new: usize,
    logits: u64,
}

#[inline(never)]
fn run(
    request: &Request<'_>,
    tokenizer: &Tokenizer<'_>,
    mut engine: Engine<'_>,
    prompt: &[u32],
    board: &mut impl Board,
) -> Result<Story, Error> {
    let mut decoder = tokenizer.decoder();
    let mut piece = [0; PIECE_BYTES];
    let mut story = Story { n_prompt: prompt.len(), n_new: 0, logits: HASH_START };
    let mut next = 0;
    for &id in prompt {
        let n = decoder.push(id, &mut piece);
        board.write(&piece[..n]);
        next = step(&mut engine, id, &mut story.logits)?;
        board.nanoseconds();
    }
    let room = engine.context_tokens();
    while !prompt.is_empty() && story.n_new < request.n_new && engine.position() < room && !tokenizer.is_end(next) {
        let n = decoder.push(next, &mut piece);
        board.write(&piece[..n]);
        next = step(&mut engine, next, &mut story.logits)?;
        story.n_new += 1;
        board.nanoseconds();
    }
    Ok(story)
}

/// Runs one token, adds its logits to `hash` and gives the likeliest token after it, the first of several.
fn step(engine: &mut Engine<'_>, id: u32, hash: &mut u64) -> Result<u32, Error> {
    let logits = engine.forward(&[id]).map_err(Error::Engine)?;
    let mut best = 0;
    for (id, logit) in logits.iter().enumerate() {
        for byte in logit.to_bits().to_le_bytes() {
            *hash = (*hash ^ u64::from(byte)).wrapping_mul(HASH_PRIME);
        }
        if *logit > logits[best] {
            best = id;
        }
    }
    Ok(best as u32)
}

/// The text that a board prints when the story is over: the same on every machine but for `used` and the time.
impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n[smidgen] tokens {} + {}, logits {:016x}", self.n_prompt, self.n_new, self.logits)?;
        writeln!(f, "[smidgen] planned {} bytes, used {} bytes", self.planned_bytes, self.used_bytes)?;
        write!(f, "[smidgen] {} ns for each token", self.token_nanoseconds)
    }
}

/// [`fmt::Write`] on a board, for what is not part of the story.
pub struct Lines<'a, B: Board>(pub &'a mut B);

impl<B: Board> fmt::Write for Lines<'_, B> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

/// Tells the story and prints what came of it; whether it was told comes back. What a port's `main` calls.
pub fn perform<'a>(
    request: &Request<'a>,
    board: &mut impl Board,
    layers: &'a mut [Layer<'a>],
    memory: &mut [u8],
) -> bool {
    let told = tell(request, board, layers, memory);
    let mut lines = Lines(board);
    // A console that does not take the line has nobody else to be told to.
    let _ = match &told {
        Ok(told) => writeln!(lines, "{told}"),
        Err(error) => writeln!(lines, "[smidgen] {error}"),
    };
    told.is_ok()
}
