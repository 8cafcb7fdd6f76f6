//! Attention of the newest positions over the cached ones, a head at a time.
//!
//! Definition: a score is the dot product of query and key in the lane order of float rows, times a scale; the largest
//! score is taken away, [`exp`] applied, the sum taken in lane order; the output adds the values, positions in order, each
//! times its weight over the sum.

use super::math::{exp, sum};
use super::matmul::Crew;
use crate::kv::{Cache, CacheF16, CacheF32, CacheFormat, CacheQ4, CacheQ8, CacheType};
use crate::simd::{Kernel, LANES, Simd};
use crate::workers::split;

/// One layer's attention.
pub struct Attention<'a> {
    /// Which layer of the caches.
    pub layer: usize,
    /// The cached keys, the newest included.
    pub keys: &'a Cache<'a>,
    /// The cached values, the newest included.
    pub values: &'a Cache<'a>,
    /// (tokens, n_heads, head_dim).
    pub query: &'a [f32],
    /// The position of the first token.
    pub position: usize,
    /// How many query heads.
    pub n_heads: usize,
    /// How many key and value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Values of a head.
    pub head_dim: usize,
    /// What scores are multiplied with.
    pub scale: f32,
    /// How many positions a token sees, itself included; all of them when `None`.
    pub window: Option<usize>,
}

impl Attention<'_> {
    /// Writes the output of every token and head to `out`, (tokens, n_heads, head_dim); `scores` holds `context_tokens`
    /// floats for each worker.
    pub fn run(&self, crew: Crew<'_>, scores: &mut [f32], context_tokens: usize, out: &mut [f32]) {
        let width = self.n_heads * self.head_dim;
        split(crew.workers, out, width, self.head_dim, (scores, context_tokens), &|scores, mut columns| {
            let head = columns.range().start / self.head_dim;
            let kv_head = head / (self.n_heads / self.n_kv_heads);
            for token in 0..columns.n_rows() {
                let end = self.position + token + 1;
                let start = self.window.map_or(0, |window| end.saturating_sub(window));
                let scores = &mut scores[..end - start];
                let query = &self.query[token * width + head * self.head_dim..][..self.head_dim];
                let rows = |cache: &'_ Cache<'_>| start * cache.row_bytes()..end * cache.row_bytes();
                let keys = &self.keys.head(self.layer, kv_head)[rows(self.keys)];
                let values = &self.values.head(self.layer, kv_head)[rows(self.values)];
                let score = Score { query, keys, row_bytes: self.keys.row_bytes(), scale: self.scale, scores };
                run_cached(crew, self.keys.kind(), score);
                crew.isa.run(Softmax { scores });
                let out = columns.row(token);
                run_cached(
                    crew,
                    self.values.kind(),
                    Mix { weights: scores, values, row_bytes: self.values.row_bytes(), out },
                );
            }
        });
    }
}

/// A kernel over cached rows, for any way of storing them.
trait CacheKernel {
    fn run<S: Simd, C: CacheFormat>(self, s: S);
}

fn run_cached<K: CacheKernel>(crew: Crew<'_>, kind: CacheType, kernel: K) {
    match kind {
        CacheType::F32 => crew.isa.run(With::<_, CacheF32>(kernel, core::marker::PhantomData)),
        CacheType::F16 => crew.isa.run(With::<_, CacheF16>(kernel, core::marker::PhantomData)),
        CacheType::Q8_0 => crew.isa.run(With::<_, CacheQ8>(kernel, core::marker::PhantomData)),
        CacheType::Q4_0 => crew.isa.run(With::<_, CacheQ4>(kernel, core::marker::PhantomData)),
    }
}

/// A kernel with its way of reading rows decided.
struct With<K, C>(K, core::marker::PhantomData<C>);

impl<K: CacheKernel, C: CacheFormat> Kernel for With<K, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        self.0.run::<S, C>(s);
    }
}

struct Score<'a> {
    query: &'a [f32],
    keys: &'a [u8],
    row_bytes: usize,
    scale: f32,
    scores: &'a mut [f32],
}

impl CacheKernel for Score<'_> {
    #[inline(always)]
    fn run<S: Simd, C: CacheFormat>(self, s: S) {
        let (chunks, rest) = self.query.as_chunks::<LANES>();
        let last = s.load_part(rest);
        for (score, key) in self.scores.iter_mut().zip(self.keys.chunks_exact(self.row_bytes)) {
            let mut sums = s.splat(0.0);
            for (i, chunk) in chunks.iter().enumerate() {
                sums = s.add(sums, s.mul(s.load(chunk), C::load(s, key, i * LANES, LANES)));
            }
            if !rest.is_empty() {
                sums = s.add(sums, s.mul(last, C::load(s, key, chunks.len() * LANES, rest.len())));
            }
            *score = s.sum(sums) * self.scale;
        }
    }
}

/// Turns scores into weights that sum to one.
struct Softmax<'a> {
    scores: &'a mut [f32],
}

impl Kernel for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let largest = self.scores.iter().fold(f32::NEG_INFINITY, |largest, &x| if x > largest { x } else { largest });
        for score in self.scores.iter_mut() {
            *score = exp(*score - largest);
        }
        let inverse = 1.0 / sum(s, self.scores);
        for score in self.scores.iter_mut() {
            *score *= inverse;
        }
    }
}

struct Mix<'a> {
    weights: &'a [f32],
    values: &'a [u8],
    row_bytes: usize,
    out: &'a mut [f32],
}

impl CacheKernel for Mix<'_> {
    #[inline(always)]
    fn run<S: Simd, C: CacheFormat>(self, s: S) {
        for (i, out) in self.out.chunks_mut(LANES).enumerate() {
            let mut sums = s.splat(0.0);
            for (&weight, value) in self.weights.iter().zip(self.values.chunks_exact(self.row_bytes)) {
                sums = s.add(sums, s.mul(s.splat(weight), C::load(s, value, i * LANES, out.len())));
            }
            let mut lanes = [0.0; LANES];
            s.store(sums, &mut lanes);
            out.copy_from_slice(&lanes[..out.len()]);
        }
    }
}
