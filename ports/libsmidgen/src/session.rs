//! A model being run, with everything that it needs, in memory that the caller owns.

use crate::{SmidgenLimits, SmidgenStatus};
use core::mem::align_of;
use core::ptr::addr_of_mut;
use core::slice;
use smidgen_core::engine::{self, Engine};
use smidgen_core::gguf::Gguf;
use smidgen_core::model::{Layer, Model};
use smidgen_core::plan::{Limits, Plan, Span};
use smidgen_core::sample::{Candidate, SampleParams, Sampler};
use smidgen_core::simd::Isa;
use smidgen_core::tokenizer::{Decoder, Tokenizer};
use smidgen_core::workers::Single;

/// What every part of the memory begins on a multiple of.
const ALIGN: usize = 64;
/// The most layers of a model whose memory is asked for: the table of it lies on the stack meanwhile.
const MAX_LAYERS: usize = 128;
/// Bytes of scratch that any tokenizer takes for a byte of text.
const SCRATCH_PER_BYTE: usize = 51;

/// A model being run. `'static` stands for "as long as the caller leaves model and memory alone".
pub struct Session {
    model: Model<'static>,
    pub(crate) tokenizer: Tokenizer<'static>,
    pub(crate) engine: Engine<'static>,
    pub(crate) decoder: Decoder<'static>,
    sampler: Sampler<'static>,
    candidates: (*mut Candidate, usize),
    logits: (*mut f32, usize),
    /// (context_tokens): the token at each position that has been run, for the penalties.
    ids: &'static mut [u32],
    pub(crate) scratch: &'static mut [u8],
}

/// Bytes of each part of the memory, in its order.
pub struct Parts {
    session: usize,
    layers: usize,
    index: usize,
    ids: usize,
    candidates: usize,
    scratch: usize,
    plan: Plan,
}

impl Parts {
    /// What a session of `model` needs.
    pub fn new(model: &[u8], limits: &Limits, wanted: &SmidgenLimits) -> Result<Parts, SmidgenStatus> {
        let gguf = Gguf::parse(model, model.len() as u64).map_err(|_| SmidgenStatus::Model)?;
        let n_layers = Model::n_layers(&gguf).map_err(|_| SmidgenStatus::Model)?;
        let mut layers = [Layer::EMPTY; MAX_LAYERS];
        let layers = layers.get_mut(..n_layers).ok_or(SmidgenStatus::Model)?;
        let model = Model::new(&gguf, layers).map_err(|_| SmidgenStatus::Model)?;
        let plan = Plan::new(&model, limits).map_err(|_| SmidgenStatus::Argument)?;
        let n_candidates = (wanted.candidates as usize).min(model.hparams().n_vocab);
        Ok(Parts {
            session: size_of::<Session>(),
            layers: n_layers * size_of::<Layer<'static>>(),
            index: Tokenizer::arena_bytes(&gguf).map_err(|_| SmidgenStatus::Tokenizer)?,
            ids: limits.context_tokens.saturating_mul(size_of::<u32>()),
            candidates: n_candidates * size_of::<Candidate>(),
            scratch: (wanted.text_bytes as usize).saturating_mul(SCRATCH_PER_BYTE),
            plan,
        })
    }

    /// Every consumer of the memory: what is around the engine first, then the engine's own buffers.
    pub fn spans(&self) -> impl Iterator<Item = Span> {
        let around = [
            ("session", self.session),
            ("table of layers", self.layers),
            ("tokenizer index", self.index),
            ("token ids", self.ids),
            ("sampler", self.candidates),
            ("encoding of a text", self.scratch),
        ];
        // Each of these parts and the arena may begin a little later than the part before it ends, as the memory itself may.
        let between = Span { name: "alignment of the parts", bytes: (around.len() + 2) * ALIGN };
        let around = around.map(|(name, bytes)| Span { name, bytes });
        around.into_iter().chain(self.plan.spans().iter().copied()).chain([between])
    }

    /// Bytes of memory, whatever address it begins at: the sum of the spans.
    pub fn sum(&self) -> usize {
        self.spans().fold(0, |sum, span| sum.saturating_add(span.bytes))
    }
}

/// Takes the next `n_bytes` of memory, which begin on a multiple of [`ALIGN`].
fn take(memory: &mut &'static mut [u8], n_bytes: usize) -> Result<&'static mut [u8], SmidgenStatus> {
    let all = core::mem::take(memory);
    let skipped = all.as_ptr().align_offset(ALIGN);
    let (_, all) = all.split_at_mut_checked(skipped).ok_or(SmidgenStatus::Memory)?;
    let (part, rest) = all.split_at_mut_checked(n_bytes).ok_or(SmidgenStatus::Memory)?;
    *memory = rest;
    Ok(part)
}

/// The `n` values of `T` in `bytes`, each set to `value`.
fn filled<T: Copy>(bytes: &'static mut [u8], n: usize, value: T) -> &'static mut [T] {
    assert!(n * size_of::<T>() <= bytes.len() && align_of::<T>() <= ALIGN, "the part was measured for them");
    let first = bytes.as_mut_ptr().cast::<T>();
    for i in 0..n {
        // SAFETY: value `i` lies within `bytes`, which begin on a multiple of ALIGN.
        unsafe { first.add(i).write(value) };
    }
    // SAFETY: the values have just been written, and `bytes` is exclusively ours.
    unsafe { slice::from_raw_parts_mut(first, n) }
}

impl Session {
    /// Makes a session at the beginning of `memory`.
    pub fn open(
        bytes: &'static [u8],
        limits: &Limits,
        wanted: &SmidgenLimits,
        mut memory: &'static mut [u8],
    ) -> Result<*mut Session, SmidgenStatus> {
        let parts = Parts::new(bytes, limits, wanted)?;
        let session = take(&mut memory, parts.session)?.as_mut_ptr().cast::<Session>();
        let layers = take(&mut memory, parts.layers)?;
        let index = take(&mut memory, parts.index)?;
        let ids = take(&mut memory, parts.ids)?;
        let candidates = take(&mut memory, parts.candidates)?;
        let scratch = take(&mut memory, parts.scratch)?;
        let arena = take(&mut memory, parts.plan.arena_bytes())?;
        let gguf = Gguf::parse(bytes, bytes.len() as u64).map_err(|_| SmidgenStatus::Model)?;
        let n_layers = parts.layers / size_of::<Layer<'static>>();
        let layers = filled(layers, n_layers, Layer::EMPTY);
        let ids = filled(ids, parts.ids / size_of::<u32>(), 0u32);
        let n_candidates = parts.candidates / size_of::<Candidate>();
        let candidates = filled(candidates, n_candidates, Candidate::default());
        let model = Model::new(&gguf, layers).map_err(|_| SmidgenStatus::Model)?;
        let tokenizer = Tokenizer::new(&gguf, index).map_err(|_| SmidgenStatus::Tokenizer)?;
        // SAFETY: the part is as large as a session and begins on a multiple of ALIGN, which its own alignment divides. Each field
        // is written once, before anything borrows it; model and tokenizer stay where they are, so what borrows them may.
        unsafe {
            addr_of_mut!((*session).model).write(model);
            addr_of_mut!((*session).tokenizer).write(tokenizer);
            let (model, tokenizer) = (&(*session).model, &(*session).tokenizer);
            let engine =
                Engine::new(model, &parts.plan, Isa::detect(), &Single, arena).map_err(|_| SmidgenStatus::Memory)?;
            addr_of_mut!((*session).engine).write(engine);
            addr_of_mut!((*session).decoder).write(tokenizer.decoder());
            let first = candidates.as_mut_ptr();
            addr_of_mut!((*session).candidates).write((first, n_candidates));
            addr_of_mut!((*session).sampler).write(Sampler::new(GREEDY, candidates));
            addr_of_mut!((*session).logits).write((core::ptr::null_mut(), 0));
            addr_of_mut!((*session).ids).write(ids);
            addr_of_mut!((*session).scratch).write(scratch);
        }
        Ok(session)
    }

    /// Tokens of the vocabulary.
    pub fn n_vocab(&self) -> u32 {
        self.model.hparams().n_vocab as u32
    }

    /// Forgets all but the first `n` positions.
    pub fn truncate(&mut self, n: usize) {
        self.engine.truncate(n);
        self.logits = (core::ptr::null_mut(), 0);
        if n == 0 {
            // SAFETY: the tokenizer stays where it is as long as the session does.
            let tokenizer: &'static Tokenizer<'static> = unsafe { &*core::ptr::addr_of!(self.tokenizer) };
            self.decoder = tokenizer.decoder();
        }
    }

    /// Runs tokens; gives where their logits are.
    pub fn forward(&mut self, ids: &[u32]) -> Result<*const f32, SmidgenStatus> {
        self.logits = (core::ptr::null_mut(), 0);
        let first = self.engine.position();
        match self.engine.forward(ids) {
            Ok(logits) => {
                self.logits = (logits.as_mut_ptr(), logits.len());
                if let Some(run) = self.ids.get_mut(first..first + ids.len()) {
                    run.copy_from_slice(ids);
                }
                Ok(logits.as_ptr())
            }
            Err(engine::Error::NotFinite) => Err(SmidgenStatus::NotFinite),
            Err(_) => Err(SmidgenStatus::Tokens),
        }
    }

    /// Chooses as `params` say from here on.
    pub fn set_sampling(&mut self, params: SampleParams) {
        let (first, n) = self.candidates;
        let n = if params.top_k == 0 { n } else { n.min(params.top_k) };
        // SAFETY: the candidates lie in the session's memory; the sampler that had them is replaced in the same statement.
        self.sampler = Sampler::new(params, unsafe { slice::from_raw_parts_mut(first, n) });
    }

    /// Chooses a token by the last logits.
    pub fn sample(&mut self) -> u32 {
        let (first, n) = self.logits;
        if first.is_null() {
            return 0;
        }
        // SAFETY: these are the engine's logits, and the engine has not run since.
        let logits = unsafe { slice::from_raw_parts_mut(first, n) };
        let recent = self.ids.get(..self.engine.position()).unwrap_or_default();
        self.sampler.sample(logits, recent)
    }
}

/// The likeliest token always.
const GREEDY: SampleParams = SampleParams {
    temperature: 0.0,
    top_k: 0,
    top_p: 1.0,
    min_p: 0.0,
    repeat_penalty: 1.0,
    repeat_last_n: 0,
    presence_penalty: 0.0,
    frequency_penalty: 0.0,
    seed: 0,
};
