//! What a run needs, to the byte, before anything is loaded: one named span for each consumer.
//!
//! [`Plan::new`] is arithmetic only, and the engine carves its buffers by the same list, so "will it fit" and "run it"
//! cannot disagree.

use crate::arena::{ALIGN, Plain, span_bytes};
use crate::kv::{CacheType, Place};
use crate::model::{Hparams, Model, Positions};
use crate::ops::attention::QUERIES;
use crate::quant::{Type, n_blocks};
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
    /// Whether layers that see a window keep all positions all the same; otherwise those of the window and of a batch, and
    /// [`Engine::truncate`](crate::engine::Engine::truncate) cannot go back further than that.
    pub keeps_all: bool,
}

impl Limits {
    /// Rows of the cache of `layer` that each head has.
    pub fn layer_rows(&self, h: &Hparams<'_>, layer: usize) -> usize {
        let window = h.window(layer).filter(|_| !self.keeps_all);
        window.map_or(self.context_tokens, |window| window.saturating_add(self.batch_tokens).min(self.context_tokens))
    }

    /// Queries that walk through a cache together; one where no batch was asked for, which costs the least memory.
    pub(crate) fn n_together(&self) -> usize {
        QUERIES.min(self.batch_tokens)
    }
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
    /// A type of cache that this build does not have.
    Cache(CacheType),
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
            Error::Cache(kind) => {
                write!(f, "this program was built without caches in {}: SMIDGEN_CACHES names others", kind.name())
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
    /// Blocks again, for a model with weights that are multiplied with 16-bit activations, or none.
    pub(crate) rests: usize,
    /// u64, (2, n_rot / 2); none for learned positions.
    pub(crate) frequencies: usize,
    /// f32, (2, batch, n_rot).
    pub(crate) angles: usize,
    /// f32, (threads, queries that go together, context).
    pub(crate) scores: usize,
    /// f32, (n_vocab).
    pub(crate) logits: usize,
    /// u8, (n_kv_heads, rows of all layers whose cache is in the arena) rows of keys.
    pub(crate) keys: usize,
    /// u8, the same of values.
    pub(crate) values: usize,
}

/// The memory of one run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    limits: Limits,
    counts: Counts,
    n_layers: usize,
    n_cached: usize,
    spans: [Span; 14],
    arena_bytes: usize,
}

fn product(factors: &[usize]) -> Result<usize, Error> {
    factors.iter().try_fold(1usize, |product, &factor| product.checked_mul(factor)).ok_or(Error::Overflow)
}

fn span<T: Plain>(name: &'static str, n: usize) -> Result<Span, Error> {
    Ok(Span { name, bytes: span_bytes::<T>(n).ok_or(Error::Overflow)? })
}

/// What activations take in their 8-bit form: (batch, blocks of the widest input) of `n`.
fn activation_spans(n: usize) -> Result<[Span; 3], Error> {
    Ok([
        span::<[i8; BLOCK]>("activations, 8-bit", n)?,
        span::<f32>("activation scales", n)?,
        span::<[i32; 2]>("activation sums", n)?,
    ])
}

/// Blocks of the widest input of a batch.
fn input_blocks(model: &Model<'_>, batch_tokens: usize) -> Result<usize, Error> {
    let h = model.hparams();
    product(&[batch_tokens, n_blocks(h.n_embd.max(h.query_width()).max(h.n_ff))])
}

/// Bytes that a run of `model` with 8-bit weights takes and one with float weights does not.
///
/// # Errors
/// More bytes than this machine can address.
pub fn activation_bytes(model: &Model<'_>, batch_tokens: usize) -> Result<usize, Error> {
    let spans = activation_spans(input_blocks(model, batch_tokens)?)?;
    spans.iter().try_fold(0usize, |sum, span| sum.checked_add(span.bytes)).ok_or(Error::Overflow)
}

impl Plan {
    /// Plans a run of `model` within `limits`.
    ///
    /// # Errors
    /// A limit of zero, a context longer than learned positions, or a sum that overflows.
    pub fn new(model: &Model<'_>, limits: &Limits) -> Result<Plan, Error> {
        Self::with_cached_layers(model, limits, model.hparams().n_layers)
    }

    /// As [`Plan::new`], with room for the caches of `n_cached` layers only, evenly spread over all; those of the others are kept by
    /// the [`Spill`](crate::store::Spill) that the engine is given.
    ///
    /// # Errors
    /// Those of [`Plan::new`].
    pub fn with_cached_layers(model: &Model<'_>, limits: &Limits, n_cached: usize) -> Result<Plan, Error> {
        let n_layers = model.hparams().n_layers;
        let n_cached = n_cached.min(n_layers);
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
        if let Some(kind) = [limits.cache_k, limits.cache_v].into_iter().find(|kind| !kind.is_built()) {
            return Err(Error::Cache(kind));
        }
        limits.batch_tokens = limits.batch_tokens.min(limits.context_tokens);
        let counts = counts(model, &limits, n_cached)?;
        let [activations, activation_scales, activation_sums] = activation_spans(counts.blocks)?;
        let spans = [
            span::<f32>("hidden", counts.hidden)?,
            span::<f32>("normed", counts.normed)?,
            span::<f32>("query, key, value or gate, up", counts.work)?,
            activations,
            activation_scales,
            activation_sums,
            span::<[i8; BLOCK]>("activations, 8 bits more", counts.rests)?,
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
        Ok(Plan { limits, counts, n_layers, n_cached, spans, arena_bytes })
    }

    /// The limits that were planned for; a batch longer than the context has been cut to it.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The place in the arena of the cache of `layer` of a model with the dimensions `h`; `None` when it is spilled.
    pub fn cache_place(&self, h: &Hparams<'_>, layer: usize) -> Option<Place> {
        let rows = |layer| self.limits.layer_rows(h, layer);
        let is_cached = |&layer: &usize| is_cached(layer, self.n_cached, self.n_layers);
        is_cached(&layer).then(|| Place { start: (0..layer).filter(is_cached).map(rows).sum(), n_rows: rows(layer) })
    }

    /// Bytes of the caches in the arena.
    pub fn cache_bytes(&self) -> usize {
        self.counts.keys + self.counts.values
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

/// Whether the cache of `layer` is one of the `n_cached` that the arena has room for; those are evenly spread (Bresenham's line).
fn is_cached(layer: usize, n_cached: usize, n_layers: usize) -> bool {
    let before = |layer: usize| layer * n_cached / n_layers.max(1);
    before(layer + 1) > before(layer)
}

fn counts(model: &Model<'_>, limits: &Limits, n_cached: usize) -> Result<Counts, Error> {
    let h = model.hparams();
    let batch = limits.batch_tokens;
    let (query, kv) = (h.query_width(), h.kv_width());
    let any =
        |is: fn(Type) -> bool| is(model.output().kind) || model.layers().iter().any(|layer| layer.has_weights(is));
    let blocks = input_blocks(model, batch)?;
    let rotary = matches!(h.family.positions, Positions::Rotary(_));
    let n_rot = if rotary { h.n_rot } else { 0 };
    let cached = (0..h.n_layers).filter(|&layer| is_cached(layer, n_cached, h.n_layers));
    let rows = cached
        .map(|layer| limits.layer_rows(h, layer))
        .try_fold(0usize, |sum, rows| sum.checked_add(rows))
        .ok_or(Error::Overflow)?;
    let cache = |kind: CacheType| product(&[h.n_kv_heads, rows, kind.row_bytes(h.head_dim)]);
    Ok(Counts {
        hidden: product(&[batch, h.n_embd])?,
        normed: product(&[batch, h.n_embd])?,
        work: product(&[batch, 2 * (query + kv).max(h.n_ff)])?,
        blocks: if any(Type::is_integer) { blocks } else { 0 },
        rests: if any(Type::is_fine) { blocks } else { 0 },
        frequencies: n_rot,
        angles: product(&[2, batch, n_rot])?,
        scores: product(&[limits.n_threads, limits.n_together(), limits.context_tokens])?,
        logits: h.n_vocab,
        keys: cache(limits.cache_k)?,
        values: cache(limits.cache_v)?,
    })
}
