//! The engine as a Linux process without a C library: a GGUF image on standard input, one line for each kernel set out.
//!
//! A line is `KERNELS: FORMATS LOGITS IDS`: the name of the kernel set, a hash over what each weight format makes of rows of
//! its own, a hash over every bit of every logit, and the tokens that greedy choice adds to a fixed prompt. What follows
//! the name must be the same on every machine; `cargo xtask ports` sees to that.
#![no_std]
#![no_main]
#![cfg_attr(any(target_arch = "mips", target_arch = "sparc64"), feature(asm_experimental_arch))]

mod formats;
mod system;

use core::fmt::{self, Write};
use formats::Scratch;
use smidgen_core::engine::Engine;
use smidgen_core::gguf::Gguf;
use smidgen_core::kv::CacheType;
use smidgen_core::model::{Layer, Model};
use smidgen_core::plan::{Limits, Plan};
use smidgen_core::quant::Type;
use smidgen_core::simd::Isa;
use smidgen_core::workers::Single;
use system::{Stdout, exit, read_all};

const MODEL_BYTES: usize = 4 << 20;
const ARENA_BYTES: usize = 2 << 20;
const N_LAYERS: usize = 16;
/// The prompt, each taken modulo the size of the vocabulary.
const PROMPT: [u32; 9] = [1, 2, 3, 5, 8, 13, 21, 34, 55];
const N_NEW: usize = 16;
/// A batch of 4 divides neither the prompt nor what follows, so whole and partial batches are both run.
const LIMITS: Limits = Limits {
    context_tokens: PROMPT.len() + N_NEW,
    batch_tokens: 4,
    n_threads: 1,
    cache_k: CacheType::F32,
    cache_v: CacheType::F16,
    keeps_all: false,
};

static mut MODEL: [u8; MODEL_BYTES] = [0; MODEL_BYTES];
static mut ARENA: [u8; ARENA_BYTES] = [0; ARENA_BYTES];
static mut SCRATCH: Scratch = Scratch::EMPTY;

/// Why there is nothing to print.
enum Error {
    Input,
    Gguf(smidgen_core::gguf::Error),
    Model(smidgen_core::model::Error),
    Layers(usize),
    Plan(smidgen_core::plan::Error),
    Engine(smidgen_core::engine::Error),
    Format(Type),
    Output,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Input => write!(f, "standard input holds no model of at most {MODEL_BYTES} bytes"),
            Error::Gguf(error) => error.fmt(f),
            Error::Model(error) => error.fmt(f),
            Error::Layers(n) => write!(f, "{n} layers; this program has room for {N_LAYERS}"),
            Error::Plan(error) => error.fmt(f),
            Error::Engine(error) => error.fmt(f),
            Error::Format(kind) => write!(f, "{} does not do here what it promises", kind.name()),
            Error::Output => write!(f, "standard output is closed"),
        }
    }
}

/// FNV-1a over the bits of floats, the least significant byte of each first.
struct Hash(u64);

impl Hash {
    const START: Hash = Hash(0xcbf2_9ce4_8422_2325);

    fn add(&mut self, values: &[f32]) {
        values.iter().for_each(|value| self.add_bytes(&value.to_bits().to_le_bytes()));
    }

    fn add_bytes(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let _ = writeln!(Stdout, "{info}");
    exit(101)
}

#[unsafe(no_mangle)]
extern "C" fn smidgen_start() -> ! {
    system::set_float_precision();
    let (model, arena, scratch) = (&raw mut MODEL, &raw mut ARENA, &raw mut SCRATCH);
    // SAFETY: the kernel enters here once, on the only thread, so each of the three is borrowed once.
    let (model, arena, scratch) = unsafe { (&mut *model, &mut *arena, &mut *scratch) };
    match run(model, arena, scratch) {
        Ok(()) => exit(0),
        Err(error) => {
            let _ = writeln!(Stdout, "{error}");
            exit(1)
        }
    }
}

/// Runs the model once with each kernel set of this CPU.
fn run(model: &mut [u8], arena: &mut [u8], scratch: &mut Scratch) -> Result<(), Error> {
    let bytes = read_all(model).filter(|bytes| !bytes.is_empty()).ok_or(Error::Input)?;
    let gguf = Gguf::parse(bytes, bytes.len() as u64).map_err(Error::Gguf)?;
    let n_layers = Model::n_layers(&gguf).map_err(Error::Model)?;
    let mut layers = [Layer::EMPTY; N_LAYERS];
    let layers = layers.get_mut(..n_layers).ok_or(Error::Layers(n_layers))?;
    let model = Model::new(&gguf, layers).map_err(Error::Model)?;
    let plan = Plan::new(&model, &LIMITS).map_err(Error::Plan)?;
    for isa in Isa::available() {
        let mut formats = Hash::START;
        scratch.run(isa, &mut formats).map_err(Error::Format)?;
        let (logits, ids) = generate(&model, &plan, isa, arena)?;
        write!(Stdout, "{}: {:016x} {:016x}", isa.name(), formats.0, logits.0).map_err(|_| Error::Output)?;
        for id in ids {
            write!(Stdout, " {id}").map_err(|_| Error::Output)?;
        }
        writeln!(Stdout).map_err(|_| Error::Output)?;
    }
    Ok(())
}

/// The hash of all logits, and the tokens that follow the prompt.
fn generate(model: &Model<'_>, plan: &Plan, isa: Isa, arena: &mut [u8]) -> Result<(Hash, [u32; N_NEW]), Error> {
    let mut engine = Engine::new(model, plan, isa, &Single, arena).map_err(Error::Engine)?;
    let n_vocab = model.hparams().n_vocab as u32;
    let mut hash = Hash::START;
    let mut next = 0;
    engine
        .forward_each(&PROMPT.map(|id| id % n_vocab), |_, logits| {
            hash.add(logits);
            next = best(logits);
        })
        .map_err(Error::Engine)?;
    let mut ids = [0; N_NEW];
    for id in &mut ids {
        *id = next;
        let logits = engine.forward(&[next]).map_err(Error::Engine)?;
        hash.add(logits);
        next = best(logits);
    }
    Ok((hash, ids))
}

/// The first of the largest logits.
fn best(logits: &[f32]) -> u32 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter().position(|&logit| logit == largest).unwrap_or(0) as u32
}
