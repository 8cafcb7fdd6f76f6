//! The forward pass: tokens in, logits out, every buffer the caller's.

use crate::arena::Arena;
use crate::kv::Cache;
use crate::model::{FeedForward, Layer, Linear, Model};
use crate::ops::attention::Attention;
use crate::ops::math::{Gate, Map, gelu_tanh, silu, sqrt};
use crate::ops::matmul::{Activations, Crew, matmul};
use crate::ops::norm::{Add, Norm, RmsInPlace, Vector};
use crate::ops::rope::{Layout, Rope, Turn};
use crate::plan::Plan;
use crate::simd::Isa;
use crate::workers::Workers;
use core::fmt;

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
        }
    }
}

impl core::error::Error for Error {}

/// What matrices of a model are multiplied with: matrices that read the same values share one input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Input {
    /// Query, key and value of a layer: (n_embd).
    Attention(usize),
    /// The projection of a layer's attention: (n_heads * head_dim).
    AttentionOutput(usize),
    /// Gate and up of a layer: (n_embd).
    FeedForward(usize),
    /// Down of a layer: (n_ff).
    Down(usize),
    /// The output matrix: (n_embd).
    Output,
}

/// Somebody who is shown what matrices are multiplied with, before it is rounded to 8 bits.
pub trait Observer {
    /// `x`, (tokens, `columns`), is about to be multiplied with the matrices of `input`.
    fn observe(&mut self, input: Input, x: &[f32], columns: usize);
}

/// Nobody.
impl Observer for () {
    fn observe(&mut self, _: Input, _: &[f32], _: usize) {}
}

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
    buffers: Buffers<'a>,
    batch_tokens: usize,
    context_tokens: usize,
    position: usize,
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
            buffers,
            batch_tokens: limits.batch_tokens,
            context_tokens: limits.context_tokens,
            position: 0,
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

    /// Runs `tokens` at the next positions and returns the logits, (n_vocab), after the last of them.
    ///
    /// # Errors
    /// No tokens, an unknown token, too many for the context (nothing is run then), or a result that is not finite.
    pub fn forward(&mut self, tokens: &[u32]) -> Result<&mut [f32], Error> {
        self.check(tokens)?;
        for batch in tokens.chunks(self.batch_tokens) {
            self.pass(batch, &mut ());
        }
        self.logits((tokens.len() - 1) % self.batch_tokens)?;
        Ok(self.buffers.logits)
    }

    /// Runs `tokens` at the next positions, shows `observer` what every matrix is multiplied with, and computes no logits.
    ///
    /// # Errors
    /// As [`Engine::forward`]; what reaches the output matrix must be finite.
    pub fn forward_observed(&mut self, tokens: &[u32], observer: &mut impl Observer) -> Result<(), Error> {
        self.check(tokens)?;
        let n_embd = self.model.hparams().n_embd;
        for batch in tokens.chunks(self.batch_tokens) {
            self.pass(batch, observer);
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

    /// Runs `tokens` at the next positions and calls `each(index, logits)` for every one of them.
    ///
    /// # Errors
    /// As [`Engine::forward`].
    pub fn forward_each(&mut self, tokens: &[u32], mut each: impl FnMut(usize, &mut [f32])) -> Result<(), Error> {
        self.check(tokens)?;
        for (index, batch) in tokens.chunks(self.batch_tokens).enumerate() {
            self.pass(batch, &mut ());
            for token in 0..batch.len() {
                self.logits(token)?;
                each(index * self.batch_tokens + token, self.buffers.logits);
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

    /// Forgets all but the first `n` positions.
    pub fn truncate(&mut self, n: usize) {
        self.position = self.position.min(n);
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

    /// Runs one batch through every layer, leaving its hidden states.
    fn pass(&mut self, tokens: &[u32], observer: &mut impl Observer) {
        self.embed(tokens);
        self.rotate_angles(tokens.len());
        for (index, layer) in self.model.layers().iter().enumerate() {
            self.attention(index, layer, tokens.len(), observer);
            self.feed_forward(index, layer, tokens.len(), observer);
        }
        self.position += tokens.len();
    }

    /// hidden = embedding rows, scaled, plus learned positions.
    fn embed(&mut self, tokens: &[u32]) {
        let h = self.model.hparams();
        let scale = if h.family.scaled_embeddings { sqrt(h.n_embd as f32) } else { 1.0 };
        for (index, (&token, hidden)) in tokens.iter().zip(self.buffers.hidden.chunks_exact_mut(h.n_embd)).enumerate() {
            read_row(self.model.embedding(), token as usize, hidden);
            if h.family.scaled_embeddings {
                hidden.iter_mut().for_each(|x| *x *= scale);
            }
            if self.layout.is_none() {
                let learned = &mut self.buffers.normed[..h.n_embd];
                read_row(self.model.positions(), self.position + index, learned);
                self.crew.isa.run(Add { sum: hidden, x: learned });
            }
        }
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
    fn attention(&mut self, index: usize, layer: &Layer<'_>, n_tokens: usize, observer: &mut impl Observer) {
        let h = self.model.hparams();
        let crew = self.crew;
        let b = &mut self.buffers;
        let hidden = &mut b.hidden[..n_tokens * h.n_embd];
        let normed = &mut b.normed[..n_tokens * h.n_embd];
        let (query, rest) = b.work.split_at_mut(n_tokens * h.query_width());
        let (key, rest) = rest.split_at_mut(n_tokens * h.kv_width());
        let (value, rest) = rest.split_at_mut(n_tokens * h.kv_width());
        let mixed = &mut rest[..n_tokens * h.query_width()];

        let (weight, bias) = layer.attention_norm();
        crew.isa.run(Norm { kind: h.family.norm, weight, bias, epsilon: h.norm_epsilon, x: hidden, out: normed });
        observer.observe(Input::Attention(index), normed, h.n_embd);
        let (q, k, v) = (layer.query(), layer.key(), layer.value());
        b.activations.quantize(crew.isa, normed, h.n_embd, &[&q.matrix, &k.matrix, &v.matrix]);
        for (linear, out) in [(q, &mut *query), (k, &mut *key), (v, &mut *value)] {
            matmul(crew, &linear.matrix, linear.bias, normed, &b.activations, out);
        }
        let (query_norm, key_norm) = layer.head_norms();
        for (weight, x) in [(query_norm, &mut *query), (key_norm, &mut *key)] {
            if !weight.is_empty() {
                crew.isa.run(RmsInPlace { weight, epsilon: h.norm_epsilon, x });
            }
        }
        let window = h.window(index);
        if let Some(layout) = self.layout {
            let first = if window.is_some() { self.batch_tokens * h.n_rot } else { 0 };
            let angles = &b.angles[first..first + n_tokens * h.n_rot];
            for heads in [&mut *query, &mut *key] {
                crew.isa.run(Turn { layout, angles, n_rot: h.n_rot, head_dim: h.head_dim, heads });
            }
        }
        for (token, (key, value)) in key.chunks_exact(h.kv_width()).zip(value.chunks_exact(h.kv_width())).enumerate() {
            b.keys.store(index, self.position + token, key);
            b.values.store(index, self.position + token, value);
        }
        let attention = Attention {
            layer: index,
            keys: &b.keys,
            values: &b.values,
            query,
            position: self.position,
            n_heads: h.n_heads,
            n_kv_heads: h.n_kv_heads,
            head_dim: h.head_dim,
            scale: h.attention_scale,
            window,
        };
        attention.run(crew, b.scores, self.context_tokens, mixed);
        observer.observe(Input::AttentionOutput(index), mixed, h.query_width());
        project(crew, layer.output(), mixed, &mut b.activations, normed);
        add_normed(crew, layer.post_attention_norm(), h.norm_epsilon, normed, hidden);
    }

    /// hidden += feed_forward(norm(hidden)).
    fn feed_forward(&mut self, index: usize, layer: &Layer<'_>, n_tokens: usize, observer: &mut impl Observer) {
        let h = self.model.hparams();
        let crew = self.crew;
        let b = &mut self.buffers;
        let hidden = &mut b.hidden[..n_tokens * h.n_embd];
        let normed = &mut b.normed[..n_tokens * h.n_embd];
        let (gate, up) = b.work[..2 * n_tokens * h.n_ff].split_at_mut(n_tokens * h.n_ff);

        let (weight, bias) = layer.feed_forward_norm();
        crew.isa.run(Norm { kind: h.family.norm, weight, bias, epsilon: h.norm_epsilon, x: hidden, out: normed });
        observer.observe(Input::FeedForward(index), normed, h.n_embd);
        let (gate_linear, up_linear) = (layer.gate(), layer.up());
        b.activations.quantize(crew.isa, normed, h.n_embd, &[&gate_linear.matrix, &up_linear.matrix]);
        matmul(crew, &up_linear.matrix, up_linear.bias, normed, &b.activations, up);
        if h.family.feed_forward != FeedForward::Gelu {
            matmul(crew, &gate_linear.matrix, gate_linear.bias, normed, &b.activations, gate);
        }
        let activated = match h.family.feed_forward {
            FeedForward::SiluGate => {
                crew.isa.run(Gate { gate, up, f: silu });
                gate
            }
            FeedForward::GeluGate => {
                crew.isa.run(Gate { gate, up, f: gelu_tanh });
                gate
            }
            FeedForward::Gelu => {
                crew.isa.run(Map { x: up, f: gelu_tanh });
                up
            }
        };
        observer.observe(Input::Down(index), activated, h.n_ff);
        project(crew, layer.down(), activated, &mut b.activations, normed);
        add_normed(crew, layer.post_feed_forward_norm(), h.norm_epsilon, normed, hidden);
    }

    /// What the output matrix is multiplied with, (n_embd), for token `token` of the last batch.
    fn output_input(&mut self, token: usize) -> &[f32] {
        let h = self.model.hparams();
        let b = &mut self.buffers;
        let (weight, bias) = self.model.output_norm();
        let x = &b.hidden[token * h.n_embd..(token + 1) * h.n_embd];
        let normed = &mut b.normed[..h.n_embd];
        self.crew.isa.run(Norm { kind: h.family.norm, weight, bias, epsilon: h.norm_epsilon, x, out: normed });
        normed
    }

    /// Computes the logits of token `token` of the last batch.
    fn logits(&mut self, token: usize) -> Result<(), Error> {
        self.output_input(token);
        let n_embd = self.model.hparams().n_embd;
        let b = &mut self.buffers;
        let output = Linear { matrix: *self.model.output(), bias: Vector::EMPTY };
        project(self.crew, output, &b.normed[..n_embd], &mut b.activations, b.logits);
        if b.logits.iter().all(|logit| logit.is_finite()) { Ok(()) } else { Err(Error::NotFinite) }
    }
}

/// out = linear(x).
fn project(crew: Crew<'_>, linear: Linear<'_>, x: &[f32], activations: &mut Activations<'_>, out: &mut [f32]) {
    activations.quantize(crew.isa, x, linear.matrix.columns, &[&linear.matrix]);
    matmul(crew, &linear.matrix, linear.bias, x, activations, out);
}

/// hidden += norm(x), or x where there is no norm.
fn add_normed(crew: Crew<'_>, weight: Vector<'_>, epsilon: f32, x: &mut [f32], hidden: &mut [f32]) {
    if !weight.is_empty() {
        crew.isa.run(RmsInPlace { weight, epsilon, x });
    }
    crew.isa.run(Add { sum: hidden, x });
}

/// Dequantizes one row of a matrix.
fn read_row(matrix: &crate::ops::matmul::Matrix<'_>, row: usize, out: &mut [f32]) {
    matrix
        .kind
        .dequantize(matrix.row(row), out)
        .unwrap_or_else(|_| unreachable!("the model was checked to hold supported types only"));
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
        activations: Activations {
            q: arena.take(counts.blocks)?,
            scale: arena.take(counts.blocks)?,
            sum: arena.take(counts.blocks)?,
        },
        frequencies: arena.take(counts.frequencies)?,
        angles: arena.take(counts.angles)?,
        scores: arena.take(counts.scores)?,
        logits: arena.take(counts.logits)?,
        keys: Cache::new(arena.take(counts.keys)?, limits.cache_k, h.n_kv_heads, limits.context_tokens, h.head_dim),
        values: Cache::new(arena.take(counts.values)?, limits.cache_v, h.n_kv_heads, limits.context_tokens, h.head_dim),
    })
}
