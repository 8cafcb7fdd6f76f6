//! What a run needs, to the byte, before anything is loaded: one named span for each consumer.
//!
//! [`Plan::new`] is arithmetic only, and the engine carves its buffers by the same list, so "will it fit" and "run it"
//! cannot disagree.

use crate::arena::{ALIGN, Plain, span_bytes};
use crate::kv::CacheType;
use crate::model::{Model, Positions};
use crate::quant::n_blocks;
use crate::simd::BLOCK;
use core::fmt;

/// What the caller wants from a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Positions kept: prompt and continuation together.
    pub context_tokens: usize,
    /// Prompt tokens that share one pass over the weights; no more than `context_tokens` are used.
    pub batch_tokens: usize,
    /// Threads that will work.
    pub n_threads: usize,
    /// How cached keys are stored.
    pub cache_k: CacheType,
    /// How cached values are stored.
    pub cache_v: CacheType,
}

/// One consumer of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// What it holds.
    pub name: &'static str,
    /// Bytes it takes, its alignment included.
    pub bytes: usize,
}

/// Why there is no plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// A limit of zero: which one.
    Zero(&'static str),
    /// The model has learned vectors for fewer positions than asked for: asked, learned.
    Positions(usize, usize),
    /// More bytes than this machine can address.
    Overflow,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Zero(what) => write!(f, "{what} must be at least 1"),
            Error::Positions(asked, learned) => {
                write!(f, "a context of {asked} was asked for, but this model knows only {learned} positions")
            }
            Error::Overflow => write!(f, "the buffers are larger than this machine can address"),
        }
    }
}

impl core::error::Error for Error {}

/// How many values each buffer of the engine holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counts {
    /// f32, (batch, n_embd).
    pub(crate) hidden: usize,
    /// f32, (batch, n_embd).
    pub(crate) normed: usize,
    /// f32: query, key, value and mixed values of a batch; later gate and up.
    pub(crate) work: usize,
    /// Blocks, (batch, blocks of the widest input); none for a model without integer weights.
    pub(crate) blocks: usize,
    /// u64, (2, n_rot / 2); none for learned positions.
    pub(crate) frequencies: usize,
    /// f32, (2, batch, n_rot).
    pub(crate) angles: usize,
    /// f32, (threads, context).
    pub(crate) scores: usize,
    /// f32, (n_vocab).
    pub(crate) logits: usize,
    /// u8, (n_layers, n_kv_heads, context) rows of keys.
    pub(crate) keys: usize,
    /// u8, the same of values.
    pub(crate) values: usize,
}

/// The memory of one run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    limits: Limits,
    counts: Counts,
    spans: [Span; 13],
    arena_bytes: usize,
}

fn product(factors: &[usize]) -> Result<usize, Error> {
    factors.iter().try_fold(1usize, |product, &factor| product.checked_mul(factor)).ok_or(Error::Overflow)
}

fn span<T: Plain>(name: &'static str, n: usize) -> Result<Span, Error> {
    Ok(Span { name, bytes: span_bytes::<T>(n).ok_or(Error::Overflow)? })
}

impl Plan {
    /// Plans a run of `model` within `limits`.
    ///
    /// # Errors
    /// A limit of zero, a context longer than learned positions, or a sum that overflows.
    pub fn new(model: &Model<'_>, limits: &Limits) -> Result<Plan, Error> {
        let mut limits = *limits;
        for (what, value) in [
            ("the context", limits.context_tokens),
            ("the batch", limits.batch_tokens),
            ("the number of threads", limits.n_threads),
        ] {
            if value == 0 {
                return Err(Error::Zero(what));
            }
        }
        let learned = model.positions().rows;
        if learned > 0 && limits.context_tokens > learned {
            return Err(Error::Positions(limits.context_tokens, learned));
        }
        limits.batch_tokens = limits.batch_tokens.min(limits.context_tokens);
        let counts = counts(model, &limits)?;
        let spans = [
            span::<f32>("hidden", counts.hidden)?,
            span::<f32>("normed", counts.normed)?,
            span::<f32>("query, key, value or gate, up", counts.work)?,
            span::<[i8; BLOCK]>("activations, 8-bit", counts.blocks)?,
            span::<f32>("activation scales", counts.blocks)?,
            span::<i32>("activation sums", counts.blocks)?,
            span::<u64>("rope frequencies", counts.frequencies)?,
            span::<f32>("rope angles", counts.angles)?,
            span::<f32>("scores", counts.scores)?,
            span::<f32>("logits", counts.logits)?,
            span::<u8>("keys", counts.keys)?,
            span::<u8>("values", counts.values)?,
            Span { name: "alignment", bytes: ALIGN },
        ];
        let arena_bytes =
            spans.iter().try_fold(0usize, |sum, span| sum.checked_add(span.bytes)).ok_or(Error::Overflow)?;
        // A slice can be no longer than this, so no caller could bring more.
        if arena_bytes > isize::MAX as usize {
            return Err(Error::Overflow);
        }
        Ok(Plan { limits, counts, spans, arena_bytes })
    }

    /// The limits that were planned for; a batch longer than the context has been cut to it.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Every consumer of the arena.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// Bytes of the arena: the sum of the spans.
    pub fn arena_bytes(&self) -> usize {
        self.arena_bytes
    }

    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }
}

fn counts(model: &Model<'_>, limits: &Limits) -> Result<Counts, Error> {
    let h = model.hparams();
    let batch = limits.batch_tokens;
    let (query, kv) = (h.query_width(), h.kv_width());
    let widest = h.n_embd.max(query).max(h.n_ff);
    let integer = model.output().kind.is_integer() || model.layers().iter().any(|layer| layer.has_integer_weights());
    let rotary = matches!(h.family.positions, Positions::Rotary(_));
    let n_rot = if rotary { h.n_rot } else { 0 };
    let cache =
        |kind: CacheType| product(&[h.n_layers, h.n_kv_heads, limits.context_tokens, kind.row_bytes(h.head_dim)]);
    Ok(Counts {
        hidden: product(&[batch, h.n_embd])?,
        normed: product(&[batch, h.n_embd])?,
        work: product(&[batch, 2 * (query + kv).max(h.n_ff)])?,
        blocks: if integer { product(&[batch, n_blocks(widest)])? } else { 0 },
        frequencies: n_rot,
        angles: product(&[2, batch, n_rot])?,
        scores: product(&[limits.n_threads, limits.context_tokens])?,
        logits: h.n_vocab,
        keys: cache(limits.cache_k)?,
        values: cache(limits.cache_v)?,
    })
}
