//! The forward pass: tokens in, logits out, every buffer the caller's.

mod observer;
mod steps;

use crate::arena::Arena;
use crate::kv::{Cache, CacheType, PAGE, Place};
use crate::model::{FeedForward, Hparams, Layer, Linear, Model};
use crate::ops::attention::{Attention, Old};
use crate::ops::hadamard::{spread, spread_inverse};
use crate::ops::linear::{multiply_each, read_row};
use crate::ops::math::sqrt;
use crate::ops::matmul::{Activations, Crew};
use crate::ops::norm::{Add, Vector};
use crate::ops::rope::{Layout, Rope};
use crate::plan::Plan;
use crate::simd::Isa;
use crate::store::{Fault, Head, Lost, Nowhere, Spill, Store};
use crate::workers::Workers;
use core::fmt;
use observer::Somebody;
pub use observer::{Input, Observer, Op};
use steps::{activate, add_normed, normalise, normalise_in_place, project, turn};

/// Why a pass could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The arena is smaller than planned: given, needed.
    Arena(usize, usize),
    /// More workers than planned: given, planned.
    Workers(usize, usize),
    /// No tokens were given.
    Nothing,
    /// A token that the vocabulary does not have: the token, the vocabulary's size.
    Token(u32, usize),
    /// More tokens than the context has room for: wanted in all, room.
    Context(usize, usize),
    /// A logit that is no number or infinite: a weight must be so too.
    NotFinite,
    /// Weights that are not in memory and could not be had: their offset in the file.
    Storage(u64),
    /// Older rows of a layer's cache that are not in memory and could not be had or kept: the layer.
    Cache(usize),
}

impl From<Fault> for Error {
    fn from(Fault(at): Fault) -> Self {
        Error::Storage(at)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Arena(given, needed) => write!(f, "the arena has {given} bytes but {needed} were planned"),
            Error::Workers(given, planned) => write!(f, "{given} workers but {planned} were planned"),
            Error::Nothing => write!(f, "no tokens to run"),
            Error::Token(token, n_vocab) => write!(f, "token {token} is not in the vocabulary of {n_vocab}"),
            Error::Context(wanted, room) => write!(f, "{wanted} tokens do not fit a context of {room}"),
            Error::NotFinite => {
                write!(f, "the model computed a logit that is not finite: its weights hold a NaN or infinity")
            }
            Error::Storage(at) => write!(f, "the weights at offset {at} of the file could not be read"),
            Error::Cache(layer) => write!(f, "the cache of layer {layer} could not be kept outside of memory"),
        }
    }
}

impl core::error::Error for Error {}

/// The buffers of a pass, as [`Plan`] names them.
struct Buffers<'a> {
    hidden: &'a mut [f32],
    normed: &'a mut [f32],
    work: &'a mut [f32],
    activations: Activations<'a>,
    frequencies: &'a mut [u64],
    angles: &'a mut [f32],
    scores: &'a mut [f32],
    logits: &'a mut [f32],
    keys: Cache<'a>,
    values: Cache<'a>,
}

/// A model being run.
pub struct Engine<'a> {
    model: &'a Model<'a>,
    crew: Crew<'a>,
    store: &'a dyn Store,
    spill: &'a dyn Spill,
    plan: Plan,
    buffers: Buffers<'a>,
    batch_tokens: usize,
    context_tokens: usize,
    position: usize,
    /// The least number of positions that can be gone back to, beside none.
    oldest: usize,
    /// Positions whose rows have been spilled, of the layers that have no room for all; whole pages.
    n_spilled: usize,
    magnitude: f32,
    layout: Option<Layout>,
}

impl<'a> Engine<'a> {
    /// Carves the buffers of `plan` from `arena`.
    ///
    /// # Errors
    /// An arena smaller than [`Plan::arena_bytes`], or more workers than were planned.
    pub fn new(
        model: &'a Model<'a>,
        plan: &Plan,
        isa: Isa,
        workers: &'a dyn Workers,
        arena: &'a mut [u8],
    ) -> Result<Self, Error> {
        let limits = plan.limits();
        if workers.n_workers() > limits.n_threads {
            return Err(Error::Workers(workers.n_workers(), limits.n_threads));
        }
        let small = Error::Arena(arena.len(), plan.arena_bytes());
        let buffers = carve(model, plan, arena).ok_or(small)?;
        let mut engine = Engine {
            model,
            crew: Crew { isa, workers },
            store: &Nowhere,
            spill: &Nowhere,
            plan: *plan,
            buffers,
            batch_tokens: limits.batch_tokens,
            context_tokens: limits.context_tokens,
            position: 0,
            oldest: 0,
            n_spilled: 0,
            magnitude: 1.0,
            layout: None,
        };
        if let Some([full, windowed]) = model.ropes() {
            let (first, second) = engine.buffers.frequencies.split_at_mut(full.n_rot / 2);
            full.frequencies(first);
            windowed.frequencies(second);
            engine.magnitude = full.magnitude();
            engine.layout = Some(full.layout);
        }
        Ok(engine)
    }

    /// Takes the weights that are not in memory from `store`.
    pub fn with_store(self, store: &'a dyn Store) -> Self {
        Self { store, ..self }
    }

    /// Lets `spill` keep the cached rows that the plan has no room for.
    pub fn with_spill(self, spill: &'a dyn Spill) -> Self {
        Self { spill, ..self }
    }

    /// Runs `tokens` at the next positions and returns the logits, (n_vocab), after the last of them.
    ///
    /// # Errors
    /// No tokens, an unknown token, too many for the context (nothing is run then), a result that is not finite, or weights
    /// that could not be read.
    pub fn forward(&mut self, tokens: &[u32]) -> Result<&mut [f32], Error> {
        self.check(tokens)?;
        for batch in tokens.chunks(self.batch_tokens) {
            self.pass_unseen(batch)?;
        }
        self.logits((tokens.len() - 1) % self.batch_tokens)?;
        Ok(self.buffers.logits)
    }

    /// Runs `tokens` at the next positions, shows `observer` what every matrix is multiplied with, and computes no logits.
    ///
    /// # Errors
    /// As [`Engine::forward`]; what reaches the output matrix must be finite.
    pub fn forward_observed(&mut self, tokens: &[u32], observer: &mut dyn Observer) -> Result<(), Error> {
        self.check(tokens)?;
        let observer = &mut Somebody(observer);
        let n_embd = self.model.hparams().n_embd;
        for batch in tokens.chunks(self.batch_tokens) {
            self.pass(batch, observer)?;
            for token in 0..batch.len() {
                let normed = self.output_input(token);
                if !normed.iter().all(|x| x.is_finite()) {
                    return Err(Error::NotFinite);
                }
                observer.observe(Input::Output, normed, n_embd);
            }
        }
        Ok(())
    }

    /// Runs `tokens` at the next positions as [`Engine::forward`] does, and tells `observer` of every part of it.
    ///
    /// # Errors
    /// As [`Engine::forward`].
    pub fn forward_timed(&mut self, tokens: &[u32], observer: &mut dyn Observer) -> Result<(), Error> {
        self.check(tokens)?;
        let observer = &mut Somebody(observer);
        for batch in tokens.chunks(self.batch_tokens) {
            self.pass(batch, observer)?;
        }
        observer.begin(Op::Logits);
        self.logits((tokens.len() - 1) % self.batch_tokens)
    }

    /// Runs `tokens` at the next positions and calls `each(index, logits)` for every one of them.
    ///
    /// # Errors
    /// As [`Engine::forward`].
    pub fn forward_each(&mut self, tokens: &[u32], mut each: impl FnMut(usize, &mut [f32])) -> Result<(), Error> {
        self.forward_while(tokens, |index, logits| {
            each(index, logits);
            true
        })
    }

    /// Runs `tokens` at the next positions and calls `wanted(index, logits)` for one after the other until it says no; the
    /// positions behind that one are forgotten again.
    ///
    /// # Errors
    /// As [`Engine::forward`].
    pub fn forward_while(
        &mut self,
        tokens: &[u32],
        mut wanted: impl FnMut(usize, &mut [f32]) -> bool,
    ) -> Result<(), Error> {
        self.check(tokens)?;
        let first = self.position;
        for (index, batch) in tokens.chunks(self.batch_tokens).enumerate() {
            self.pass_unseen(batch)?;
            for token in 0..batch.len() {
                self.logits(token)?;
                let index = index * self.batch_tokens + token;
                if !wanted(index, self.buffers.logits) {
                    self.truncate(first + index + 1);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// How many positions have been run.
    pub fn position(&self) -> usize {
        self.position
    }

    /// How many positions there is room for in all.
    pub fn context_tokens(&self) -> usize {
        self.context_tokens
    }

    /// Forgets all but the first `n` positions, and gives how many are left: whole pages of them where rows were spilled that come
    /// behind; and none when layers with a window have no longer what the next position would see, which they have for as many
    /// positions back as a batch has tokens.
    pub fn truncate(&mut self, n: usize) -> usize {
        self.position = self.position.min(n);
        if self.position < self.n_spilled {
            self.n_spilled = self.position / PAGE * PAGE;
            self.position = self.n_spilled;
        }
        if self.position < self.oldest {
            (self.position, self.oldest, self.n_spilled) = (0, 0, 0);
        }
        self.position
    }

    /// The cached keys of the first `n` positions, a piece for each head of each layer, and then the values.
    ///
    /// # Panics
    /// When there are fewer positions, or not every layer keeps them ([`Limits::keeps_all`](crate::plan::Limits::keeps_all)).
    pub fn cached(&self, n: usize) -> impl Iterator<Item = &[u8]> {
        assert!(n <= self.position && self.plan.limits().keeps_all && self.plan.spilled_rows() == 0);
        self.buffers.keys.pieces(n, self.context_tokens).chain(self.buffers.values.pieces(n, self.context_tokens))
    }

    /// Fills in the first `n` positions as [`Engine::cached`] gave them, and stands behind them: `fill(piece, row_bytes)` writes
    /// every piece. No position has been run when it fails.
    ///
    /// # Errors
    /// Those of `fill`.
    ///
    /// # Panics
    /// When the context has no room for them, or not every layer would keep them.
    pub fn restore<E>(&mut self, n: usize, mut fill: impl FnMut(&mut [u8], usize) -> Result<(), E>) -> Result<(), E> {
        assert!(n <= self.context_tokens && self.plan.limits().keeps_all && self.plan.spilled_rows() == 0);
        self.position = 0;
        self.store.caches_grow(n);
        for cache in [&mut self.buffers.keys, &mut self.buffers.values] {
            let row_bytes = cache.row_bytes();
            cache.pieces_mut(n, self.context_tokens).try_for_each(|piece| fill(piece, row_bytes))?;
        }
        self.position = n;
        Ok(())
    }

    fn check(&self, tokens: &[u32]) -> Result<(), Error> {
        let n_vocab = self.model.hparams().n_vocab;
        if tokens.is_empty() {
            return Err(Error::Nothing);
        }
        if let Some(&token) = tokens.iter().find(|&&token| token as usize >= n_vocab) {
            return Err(Error::Token(token, n_vocab));
        }
        let wanted = self.position.saturating_add(tokens.len());
        if wanted > self.context_tokens { Err(Error::Context(wanted, self.context_tokens)) } else { Ok(()) }
    }

    /// As [`Engine::pass`], which nobody watches. It is compiled here, for speed, and not again where a generic function is used
    /// in a package that is compiled for size.
    #[inline(never)]
    fn pass_unseen(&mut self, tokens: &[u32]) -> Result<(), Error> {
        self.pass(tokens, &mut ())
    }

    /// Runs one batch through every layer, leaving its hidden states.
    fn pass(&mut self, tokens: &[u32], observer: &mut impl Observer) -> Result<(), Error> {
        self.oldest = self.oldest.max(self.least_left(self.position + tokens.len()));
        self.spill_until(self.position + tokens.len())?;
        self.store.caches_grow(self.position + tokens.len());
        observer.begin(Op::Embed);
        self.embed(tokens)?;
        self.rotate_angles(tokens.len());
        for (index, layer) in self.model.layers().iter().enumerate() {
            self.attention(index, layer, tokens.len(), observer)?;
            self.feed_forward(index, layer, tokens.len(), observer)?;
        }
        self.position += tokens.len();
        Ok(())
    }

    /// The least number of positions whose next one finds in every layer what it sees, once all before `end` have been stored.
    fn least_left(&self, end: usize) -> usize {
        let h = self.model.hparams();
        let least = |layer| {
            let n_rows = self.plan.limits().layer_rows(h, layer);
            let is_short = end > n_rows && !self.plan.is_spilled(h, layer);
            h.window(layer).filter(|_| is_short).map(|window| end + window - 1 - n_rows)
        };
        (0..h.n_layers).filter_map(least).max().unwrap_or(0)
    }

    /// Moves out as many pages that there is room for all rows up to position `end`.
    fn spill_until(&mut self, end: usize) -> Result<(), Error> {
        let h = self.model.hparams();
        let (keys, values) = (&self.buffers.keys, &self.buffers.values);
        while self.plan.spilled_rows() > 0 && end - self.n_spilled > self.plan.cached_rows() {
            let page = (self.n_spilled, self.n_spilled + PAGE);
            for layer in (0..h.n_layers).filter(|&layer| self.plan.is_spilled(h, layer)) {
                let place = self.plan.cache_place(h, layer);
                for head in 0..h.n_kv_heads {
                    // The arena has whole pages, so none begins at its end and goes on at its beginning.
                    let [[keys, _], [values, _]] = [keys, values].map(|cache| cache.positions(place, head, page));
                    let kept = self.spill.keep(Head { layer, head }, self.n_spilled, keys, values);
                    kept.map_err(|Lost| Error::Cache(layer))?;
                }
            }
            self.n_spilled += PAGE;
        }
        Ok(())
    }

    /// hidden = embedding rows, scaled, plus learned positions.
    fn embed(&mut self, tokens: &[u32]) -> Result<(), Error> {
        let h = self.model.hparams();
        let scale = if h.family.scaled_embeddings { sqrt(h.n_embd as f32) } else { 1.0 };
        for (index, (&token, hidden)) in tokens.iter().zip(self.buffers.hidden.chunks_exact_mut(h.n_embd)).enumerate() {
            read_row(self.store, self.model.embedding(), token as usize, hidden)?;
            if h.family.scaled_embeddings {
                hidden.iter_mut().for_each(|x| *x *= scale);
            }
            if self.layout.is_none() {
                let learned = &mut self.buffers.normed[..h.n_embd];
                read_row(self.store, self.model.positions(), self.position + index, learned)?;
                self.crew.isa.run(Add { sum: hidden, x: learned });
            }
        }
        Ok(())
    }

    /// Fills in cosine and sine of every frequency for the positions of a batch.
    fn rotate_angles(&mut self, n_tokens: usize) {
        let n_rot = self.model.hparams().n_rot;
        if self.layout.is_none() {
            return;
        }
        let (full, windowed) = self.buffers.angles.split_at_mut(self.batch_tokens * n_rot);
        let (full_turns, windowed_turns) = self.buffers.frequencies.split_at(n_rot / 2);
        for token in 0..n_tokens {
            let row = token * n_rot..(token + 1) * n_rot;
            Rope::angles(full_turns, self.position + token, self.magnitude, &mut full[row.clone()]);
            Rope::angles(windowed_turns, self.position + token, self.magnitude, &mut windowed[row]);
        }
    }

    /// hidden += attention(norm(hidden)).
    fn attention(
        &mut self,
        index: usize,
        layer: &Layer<'_>,
        n_tokens: usize,
        observer: &mut impl Observer,
    ) -> Result<(), Error> {
        let h = self.model.hparams();
        let (crew, store) = (self.crew, self.store);
        let b = &mut self.buffers;
        let hidden = &mut b.hidden[..n_tokens * h.n_embd];
        let normed = &mut b.normed[..n_tokens * h.n_embd];
        let (work, rest) = b.work.split_at_mut(n_tokens * (h.query_width() + 2 * h.kv_width()));
        let mixed = &mut rest[..n_tokens * h.query_width()];

        observer.begin(Op::Norm);
        normalise(crew, h, layer.attention_norm(), hidden, normed);
        observer.observe(Input::Attention(index), normed, h.n_embd);
        let (q, k, v) = (layer.query(), layer.key(), layer.value());
        b.activations.quantize(crew, normed, h.n_embd, &[&q.matrix, &k.matrix, &v.matrix]);
        observer.begin(Op::Qkv);
        let linears = [(&q.matrix, q.bias), (&k.matrix, k.bias), (&v.matrix, v.bias)];
        multiply_each((crew, store), &linears, normed, &b.activations, work)?;
        let (query, rest) = work.split_at_mut(n_tokens * h.query_width());
        let (key, value) = rest.split_at_mut(n_tokens * h.kv_width());
        observer.begin(Op::Rope);
        let (query_norm, key_norm) = layer.head_norms();
        for (weight, x) in [(query_norm, &mut *query), (key_norm, &mut *key)] {
            normalise_in_place(crew, h, weight, x);
        }
        let window = h.window(index);
        if let Some(layout) = self.layout {
            let first = if window.is_some() { self.batch_tokens * h.n_rot } else { 0 };
            let angles = &b.angles[first..first + n_tokens * h.n_rot];
            for heads in [&mut *query, &mut *key] {
                turn(crew, h, (layout, angles), heads);
            }
        }
        if b.keys.kind() == CacheType::Q4_0 {
            spread(query, h.head_dim);
            spread_inverse(key, h.head_dim);
        }
        observer.begin(Op::Attention);
        let place = self.plan.cache_place(h, index);
        for token in 0..n_tokens {
            let row = token * h.kv_width()..(token + 1) * h.kv_width();
            b.keys.store(place, self.position + token, &key[row.clone()]);
            b.values.store(place, self.position + token, &value[row]);
        }
        let newest = (&*query, self.position, window);
        let attention = attention_of(h, (place, &b.keys, &b.values), newest);
        let n_spilled = if self.plan.is_spilled(h, index) { self.n_spilled } else { 0 };
        let scores = (&mut *b.scores, self.plan.limits().n_together());
        match n_spilled {
            0 => attention.run(crew, scores.0, scores.1, mixed),
            _ => attention
                .run_spilled((crew, self.spill), (index, n_spilled), scores, mixed)
                .map_err(|Lost| Error::Cache(index))?,
        }
        observer.begin(Op::AttentionOutput);
        observer.observe(Input::AttentionOutput(index), mixed, h.query_width());
        project((crew, store), layer.output(), mixed, &mut b.activations, normed)?;
        add_normed(crew, h, layer.post_attention_norm(), normed, hidden);
        Ok(())
    }

    /// hidden += feed_forward(norm(hidden)).
    fn feed_forward(
        &mut self,
        index: usize,
        layer: &Layer<'_>,
        n_tokens: usize,
        observer: &mut impl Observer,
    ) -> Result<(), Error> {
        let h = self.model.hparams();
        let (crew, store) = (self.crew, self.store);
        let b = &mut self.buffers;
        let hidden = &mut b.hidden[..n_tokens * h.n_embd];
        let normed = &mut b.normed[..n_tokens * h.n_embd];
        let n_matrices = if h.family.feed_forward == FeedForward::Gelu { 1 } else { 2 };
        let work = &mut b.work[..n_matrices * n_tokens * h.n_ff];

        observer.begin(Op::Norm);
        normalise(crew, h, layer.feed_forward_norm(), hidden, normed);
        observer.observe(Input::FeedForward(index), normed, h.n_embd);
        let (gate_linear, up_linear) = (layer.gate(), layer.up());
        b.activations.quantize(crew, normed, h.n_embd, &[&gate_linear.matrix, &up_linear.matrix]);
        observer.begin(Op::FeedForward);
        let linears = [(&up_linear.matrix, up_linear.bias), (&gate_linear.matrix, gate_linear.bias)];
        multiply_each((crew, store), &linears[..n_matrices], normed, &b.activations, work)?;
        let (up, gate) = work.split_at_mut(n_tokens * h.n_ff);
        observer.begin(Op::Activation);
        let activated = activate(crew, h, up, gate);
        observer.begin(Op::Down);
        observer.observe(Input::Down(index), activated, h.n_ff);
        project((crew, store), layer.down(), activated, &mut b.activations, normed)?;
        add_normed(crew, h, layer.post_feed_forward_norm(), normed, hidden);
        Ok(())
    }

    /// What the output matrix is multiplied with, (n_embd), for token `token` of the last batch.
    fn output_input(&mut self, token: usize) -> &[f32] {
        let h = self.model.hparams();
        let b = &mut self.buffers;
        let x = &b.hidden[token * h.n_embd..(token + 1) * h.n_embd];
        let normed = &mut b.normed[..h.n_embd];
        normalise(self.crew, h, self.model.output_norm(), x, normed);
        normed
    }

    /// Computes the logits of token `token` of the last batch.
    fn logits(&mut self, token: usize) -> Result<(), Error> {
        self.output_input(token);
        let n_embd = self.model.hparams().n_embd;
        let b = &mut self.buffers;
        let output = Linear { matrix: *self.model.output(), bias: Vector::EMPTY };
        project((self.crew, self.store), output, &b.normed[..n_embd], &mut b.activations, b.logits)?;
        if b.logits.iter().all(|logit| logit.is_finite()) { Ok(()) } else { Err(Error::NotFinite) }
    }
}

/// The attention of the newest positions, from the first on, of a layer at `place`; nothing of it is elsewhere.
fn attention_of<'a>(
    h: &Hparams<'_>,
    (place, keys, values): (Place, &'a Cache<'a>, &'a Cache<'a>),
    (query, position, window): (&'a [f32], usize, Option<usize>),
) -> Attention<'a> {
    let (n_heads, n_kv_heads, head_dim, scale) = (h.n_heads, h.n_kv_heads, h.head_dim, h.attention_scale);
    let (old, kv_heads) = (Old::default(), (0, n_kv_heads));
    Attention { place, old, kv_heads, keys, values, query, position, n_heads, n_kv_heads, head_dim, scale, window }
}

/// Takes every buffer from the arena, in the plan's order.
fn carve<'a>(model: &Model<'a>, plan: &Plan, arena: &'a mut [u8]) -> Option<Buffers<'a>> {
    if arena.len() < plan.arena_bytes() {
        return None;
    }
    let h = model.hparams();
    let (counts, limits) = (plan.counts(), plan.limits());
    let mut arena = Arena::new(arena);
    Some(Buffers {
        hidden: arena.take(counts.hidden)?,
        normed: arena.take(counts.normed)?,
        work: arena.take(counts.work)?,
        activations: Activations { blocks: arena.take(counts.blocks)?, rest: arena.take(counts.rests)? },
        frequencies: arena.take(counts.frequencies)?,
        angles: arena.take(counts.angles)?,
        scores: arena.take(counts.scores)?,
        logits: arena.take(counts.logits)?,
        keys: Cache::new(arena.take(counts.keys)?, limits.cache_k, h.n_kv_heads, h.head_dim),
        values: Cache::new(arena.take(counts.values)?, limits.cache_v, h.n_kv_heads, h.head_dim),
    })
}
