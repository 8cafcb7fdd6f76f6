//! What a run needs, to the byte, before anything is loaded: one named span for each consumer.
//!
//! [`Plan::new`] is arithmetic only, and the engine carves its buffers by the same list, so "will it fit" and "run it"
//! cannot disagree.

use crate::arena::{ALIGN, Plain, span_bytes};
use crate::kv::{CacheType, PAGE, Place};
use crate::model::{Hparams, Model, Positions};
use crate::ops::attention::QUERIES;
use crate::quant::{IS_FOR_ONE_MODEL, Quantized, Rest, Type, n_blocks};
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
    /// u8, (n_kv_heads, rows of all layers that are in the arena) rows of keys.
    pub(crate) keys: usize,
    /// u8, the same of values.
    pub(crate) values: usize,
}

/// The memory of one run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    limits: Limits,
    counts: Counts,
    cached_rows: usize,
    spans: [Span; 12],
    arena_bytes: usize,
}

fn product(factors: &[usize]) -> Result<usize, Error> {
    factors.iter().try_fold(1usize, |product, &factor| product.checked_mul(factor)).ok_or(Error::Overflow)
}

fn span<T: Plain>(name: &'static str, n: usize) -> Result<Span, Error> {
    Ok(Span { name, bytes: span_bytes::<T>(n).ok_or(Error::Overflow)? })
}

/// What activations take in their 8-bit form: (batch, blocks of the widest input) of `n`.
fn activation_span(n: usize) -> Result<Span, Error> {
    span::<Quantized>("activations, 8-bit", n)
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
    Ok(activation_span(input_blocks(model, batch_tokens)?)?.bytes)
}

impl Plan {
    /// Plans a run of `model` within `limits`.
    ///
    /// # Errors
    /// A limit of zero, a context longer than learned positions, or a sum that overflows.
    pub fn new(model: &Model<'_>, limits: &Limits) -> Result<Plan, Error> {
        Self::with_cached_rows(model, limits, usize::MAX)
    }

    /// As [`Plan::new`], with room for the newest `n_rows` rows of each head only, in whole pages and as many as a batch cannot do
    /// without; older ones are kept by the [`Spill`](crate::store::Spill) that the engine is given. Layers that have no more rows are
    /// in the arena as a whole.
    ///
    /// # Errors
    /// Those of [`Plan::new`].
    pub fn with_cached_rows(model: &Model<'_>, limits: &Limits, n_rows: usize) -> Result<Plan, Error> {
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
        let cached_rows = cached_rows(model.hparams(), &limits, n_rows);
        let counts = counts(model, &limits, cached_rows)?;
        let spans = [
            span::<f32>("hidden", counts.hidden)?,
            span::<f32>("normed", counts.normed)?,
            span::<f32>("query, key, value or gate, up", counts.work)?,
            activation_span(counts.blocks)?,
            span::<Rest>("activations, 8 bits more", counts.rests)?,
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
        Ok(Plan { limits, counts, cached_rows, spans, arena_bytes })
    }

    /// The limits that were planned for; a batch longer than the context has been cut to it.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The place in the arena of the cache of `layer` of a model with the dimensions `h`, or of its newest rows.
    pub fn cache_place(&self, h: &Hparams<'_>, layer: usize) -> Place {
        let rows = |layer| self.limits.layer_rows(h, layer).min(self.cached_rows);
        Place { start: (0..layer).map(rows).sum(), n_rows: rows(layer) }
    }

    /// Rows that the arena has room for of each head, at most; as many as the context has positions when nothing is spilled.
    pub fn cached_rows(&self) -> usize {
        self.cached_rows
    }

    /// Whether the older rows of `layer` are spilled. A build for one model is for a machine that has nowhere to spill them to, and has
    /// no code for it.
    pub fn is_spilled(&self, h: &Hparams<'_>, layer: usize) -> bool {
        !IS_FOR_ONE_MODEL && self.limits.layer_rows(h, layer) > self.cached_rows
    }

    /// Positions whose rows are spilled when the context is full, of layers that have no room for all.
    pub fn spilled_rows(&self) -> usize {
        if IS_FOR_ONE_MODEL {
            0
        } else {
            self.limits.context_tokens.saturating_sub(self.cached_rows).next_multiple_of(PAGE)
        }
    }

    /// Rows of each head of `layer` that are lent at once, at most: all that are spilled, or those of its window, in whole pages.
    pub fn lent_rows(&self, h: &Hparams<'_>, layer: usize) -> usize {
        match self.limits.layer_rows(h, layer).checked_sub(self.cached_rows) {
            None | Some(0) => 0,
            Some(older) => self.spilled_rows().min(older.next_multiple_of(PAGE) + 2 * PAGE),
        }
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

/// Rows that each head has in the arena at most, when `n_rows` are wanted: whole pages, all where no layer has more.
fn cached_rows(h: &Hparams<'_>, limits: &Limits, n_rows: usize) -> usize {
    let pages = |n: usize| n.saturating_add(PAGE - 1) / PAGE * PAGE;
    // What is moved out to make room for a batch is whole pages of what was there before it.
    let cached = (n_rows / PAGE * PAGE).max(pages(limits.batch_tokens.saturating_add(PAGE - 1)));
    let most = (0..h.n_layers).map(|layer| limits.layer_rows(h, layer)).max().unwrap_or(0);
    if most > cached && !IS_FOR_ONE_MODEL { cached } else { pages(limits.context_tokens) }
}

fn counts(model: &Model<'_>, limits: &Limits, cached_rows: usize) -> Result<Counts, Error> {
    let h = model.hparams();
    let batch = limits.batch_tokens;
    let (query, kv) = (h.query_width(), h.kv_width());
    let any =
        |is: fn(Type) -> bool| is(model.output().kind) || model.layers().iter().any(|layer| layer.has_weights(is));
    let blocks = input_blocks(model, batch)?;
    let rotary = matches!(h.family.positions, Positions::Rotary(_));
    let n_rot = if rotary { h.n_rot } else { 0 };
    let rows = (0..h.n_layers)
        .map(|layer| limits.layer_rows(h, layer).min(cached_rows))
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
