//! Attention of the newest positions over the cached ones, a head at a time.
//!
//! Definition: a score is the dot product of query and key in the lane order of float rows, times a scale; the largest
//! score is taken away, [`exp`] applied, the sum taken in lane order; the output adds the values, positions in order, each
//! times its weight over the sum.

use super::math::{exp, sum};
use super::matmul::Crew;
use crate::kv::{Cache, CacheF16, CacheF32, CacheFormat, CacheQ4, CacheQ8, CacheType, Place};
use crate::simd::{Kernel, LANES, Simd, TILE};
use crate::workers::split;

/// One layer's attention.
pub struct Attention<'a> {
    /// The layer's place in the caches.
    pub place: Place,
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
        split(crew.workers, out, (width, 0..width), self.head_dim, (scores, context_tokens), &|scores, mut columns| {
            let head = columns.range().start / self.head_dim;
            let kv_head = head / (self.n_heads / self.n_kv_heads);
            for token in 0..columns.n_rows() {
                let end = self.position + token + 1;
                let start = self.window.map_or(0, |window| end.saturating_sub(window));
                let scores = &mut scores[..end - start];
                let query = &self.query[token * width + head * self.head_dim..][..self.head_dim];
                let [keys, values] =
                    [self.keys, self.values].map(|cache| cache.positions(self.place, kv_head, (start, end)));
                let row_bytes = self.keys.row_bytes();
                let (first, second) = scores.split_at_mut(keys[0].len() / row_bytes);
                for (keys, scores) in keys.into_iter().zip([first, second]).filter(|(keys, _)| !keys.is_empty()) {
                    let score = Score { query, keys, row_bytes, scale: self.scale, scores };
                    run_cached(crew, self.keys.kind(), score);
                }
                crew.isa.run(Softmax { scores });
                let out = columns.row(token);
                let mix = Mix { weights: scores, values, row_bytes: self.values.row_bytes(), out };
                run_cached(crew, self.values.kind(), mix);
            }
        });
    }
}

/// A kernel over cached rows, for any way of storing them.
trait CacheKernel {
    fn run<S: Simd, C: CacheFormat>(self, s: S);
}

fn run_cached<K: CacheKernel>(crew: Crew<'_>, kind: CacheType, kernel: K) {
    macro_rules! with {
        ($($kind:ident $format:ident)+) => {
            match kind {
                $(CacheType::$kind if const { CacheType::$kind.is_built() } => {
                    crew.isa.run(With::<_, $format>(kernel, core::marker::PhantomData));
                })+
                _ => unreachable!("the plan refuses caches that are not built"),
            }
        };
    }
    with!(F32 CacheF32 F16 CacheF16 Q8_0 CacheQ8 Q4_0 CacheQ4)
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
        // Sixteen positions share the steps of adding up their lanes.
        let (groups, scores) = match TILE {
            LANES => self.scores.as_chunks_mut::<LANES>(),
            // Where there are no vectors, they share nothing.
            _ => (&mut [][..], self.scores),
        };
        let mut keys = self.keys.chunks_exact(self.row_bytes);
        let mut sums = [s.splat(0.0); LANES];
        for group in groups {
            for (sums, key) in sums.iter_mut().zip(&mut keys) {
                *sums = products::<S, C>(s, chunks, (last, rest.len()), key);
            }
            s.store(s.mul(s.sums(&sums), s.splat(self.scale)), group);
        }
        if TILE == LANES && !scores.is_empty() {
            // So do fewer than sixteen, beside which sums of before are added up once more for nobody.
            for (sums, key) in sums.iter_mut().zip(keys) {
                *sums = products::<S, C>(s, chunks, (last, rest.len()), key);
            }
            let mut group = [0.0; LANES];
            s.store(s.mul(s.sums(&sums), s.splat(self.scale)), &mut group);
            scores.copy_from_slice(&group[..scores.len()]);
            return;
        }
        for (score, key) in scores.iter_mut().zip(keys) {
            *score = s.sum(products::<S, C>(s, chunks, (last, rest.len()), key)) * self.scale;
        }
    }
}

/// The products of a query, in whole vectors and a `last` one of `n_last` values, with a key, lane by lane.
#[inline(always)]
fn products<S: Simd, C: CacheFormat>(s: S, query: &[[f32; LANES]], (last, n_last): (S::F, usize), key: &[u8]) -> S::F {
    let mut sums = s.splat(0.0);
    for (i, chunk) in query.iter().enumerate() {
        sums = s.add(sums, s.mul(s.load(chunk), C::load(s, key, i * LANES, LANES)));
    }
    if n_last > 0 {
        sums = s.add(sums, s.mul(last, C::load(s, key, query.len() * LANES, n_last)));
    }
    sums
}

/// Turns scores into weights that sum to one.
struct Softmax<'a> {
    scores: &'a mut [f32],
}

impl Kernel for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let largest = largest(self.scores);
        each_lane(s, self.scores, |score| exp(score - largest));
        let inverse = 1.0 / sum(s, self.scores);
        each_lane(s, self.scores, |score| score * inverse);
    }
}

/// Replaces every value by `f` of it. Where there are vectors, fewer values than make one are made up for with zeros, which are
/// computed too: that is faster than one after the other.
#[inline(always)]
fn each_lane<S: Simd>(s: S, x: &mut [f32], f: impl Fn(f32) -> f32) {
    let (chunks, rest) = x.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for x in chunk {
            *x = f(*x);
        }
    }
    if TILE != LANES {
        rest.iter_mut().for_each(|x| *x = f(*x));
    } else if !rest.is_empty() {
        let mut last = [0.0; LANES];
        s.store(s.load_part(rest), &mut last);
        for x in &mut last {
            *x = f(*x);
        }
        rest.copy_from_slice(&last[..rest.len()]);
    }
}

/// The largest of `x`, whatever is no number left out.
#[inline(always)]
fn largest(x: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (groups, rest) = x.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for group in groups {
        for (lane, &x) in lanes.iter_mut().zip(group) {
            *lane = larger(*lane, x);
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |largest, &x| larger(largest, x))
}

struct Mix<'a> {
    weights: &'a [f32],
    /// The rows of the first weights, and those of the others.
    values: [&'a [u8]; 2],
    row_bytes: usize,
    out: &'a mut [f32],
}

impl CacheKernel for Mix<'_> {
    /// Vectors are mixed side by side where a head has several: the adds of one wait for each other, those of another do not.
    #[inline(always)]
    fn run<S: Simd, C: CacheFormat>(mut self, s: S) {
        let mut column = 0;
        while column < self.out.len() {
            let n = match (self.out.len() - column) / LANES {
                0 => self.last::<S, C>(s, column),
                1 => self.columns::<S, C, 1>(s, column),
                2 => self.columns::<S, C, 2>(s, column),
                3 => self.columns::<S, C, 3>(s, column),
                _ => self.columns::<S, C, 4>(s, column),
            };
            column += n;
        }
    }
}

impl Mix<'_> {
    /// The weights with the rows that they belong to, in one piece or two.
    #[inline(always)]
    fn pieces(&self) -> [(&[f32], &[u8]); 2] {
        let (weights, more) = self.weights.split_at(self.values[0].len() / self.row_bytes);
        [(weights, self.values[0]), (more, self.values[1])]
    }

    /// `N` vectors from column `first` on; gives how many columns that are.
    #[inline(always)]
    fn columns<S: Simd, C: CacheFormat, const N: usize>(&mut self, s: S, first: usize) -> usize {
        let mut sums = [s.splat(0.0); N];
        for (weights, values) in self.pieces() {
            for (&weight, value) in weights.iter().zip(values.chunks_exact(self.row_bytes)) {
                let weight = s.splat(weight);
                for (i, sums) in sums.iter_mut().enumerate() {
                    *sums = s.add(*sums, s.mul(weight, C::load(s, value, first + i * LANES, LANES)));
                }
            }
        }
        for (sums, out) in sums.into_iter().zip(self.out[first..].as_chunks_mut::<LANES>().0) {
            s.store(sums, out);
        }
        N * LANES
    }

    /// The last columns, which are no whole vector; gives how many they are.
    #[inline(always)]
    fn last<S: Simd, C: CacheFormat>(&mut self, s: S, first: usize) -> usize {
        let n = self.out.len() - first;
        let mut sums = s.splat(0.0);
        for (weights, values) in self.pieces() {
            for (&weight, value) in weights.iter().zip(values.chunks_exact(self.row_bytes)) {
                sums = s.add(sums, s.mul(s.splat(weight), C::load(s, value, first, n)));
            }
        }
        let mut lanes = [0.0; LANES];
        s.store(sums, &mut lanes);
        self.out[first..].copy_from_slice(&lanes[..n]);
        n
    }
}
