//! The products of rows of floats with one token or a batch.
//!
//! A batch meets weights that were made floats before and lie column by column, those of a tile's rows beside each other: a lane of
//! a row's sum is then a vector, and what widening and transposing cost is shared by many tokens.
// The same number indexes the arrays of every token.
#![allow(clippy::needless_range_loop)]

use super::matmul::{Part, tile_rows};
use super::products::IN_BATCHES;
pub use super::products::TOKENS;
use crate::quant::{CHUNKS, Chunk, FloatRows, Lanes};
use crate::simd::{Isa, Kernel, LANES, Simd, TILE, padded};
use crate::workers::Columns;
use core::marker::PhantomData;
use core::ops::Range;

/// Tokens that meet weights while these are floats.
const MANY: usize = 16;

/// Writes the products of the rows of `part` with every token's values, `x`, as [`FloatRows::product`] defines them.
pub(super) fn multiply<F: FloatRows>(isa: Isa, part: &Part<'_>, x: &[f32], columns: &mut Columns<'_>) {
    let n_tokens = columns.n_rows();
    let together = if IN_BATCHES { n_tokens / TOKENS * TOKENS } else { 0 };
    if together > 0 {
        isa.run(Batch { part, x, columns: &mut *columns, n_tokens: together, format: PhantomData::<F> });
    }
    if together < n_tokens {
        isa.run(OneByOne { part, x, columns, tokens: together..n_tokens, format: PhantomData::<F> });
    }
}

/// The products of a matrix with tokens one by one.
struct OneByOne<'a, 'b, F> {
    part: &'a Part<'a>,
    x: &'a [f32],
    columns: &'a mut Columns<'b>,
    tokens: Range<usize>,
    format: PhantomData<F>,
}

impl<F: FloatRows> Kernel for OneByOne<'_, '_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let matrix = &self.part.matrix;
        for first in (0..matrix.rows).step_by(TILE) {
            for token in self.tokens.clone() {
                let x = &self.x[token * matrix.columns..][..matrix.columns];
                let mut products = [0.0; TILE];
                // The first token asks for what comes, for all of them.
                let ahead = if token == 0 { self.part.ahead(first) } else { &[] };
                match matrix.tile(first) {
                    Some(tile) if TILE == LANES => F::product_together(s, tile, ahead, x, &mut products),
                    _ => F::product(s, &tile_rows(matrix, first), ahead, x, &mut products),
                }
                let width = TILE.min(matrix.rows - first);
                let out = &mut self.columns.row(token)[first..first + width];
                match out.as_mut_array() {
                    Some(out) => *out = products,
                    None => out.copy_from_slice(&products[..width]),
                }
            }
        }
    }
}

/// The sums of the lanes of each row of a tile with one token.
type Sums = [[f32; TILE]; LANES];

/// What a batch is computed in, from the beginning of a cache line on: vectors that lie in two are slow.
#[repr(align(64))]
struct Room {
    weights: Lanes,
    /// Of each token.
    sums: [Sums; MANY],
}

/// Bytes of its stack that a thread needs for batches of [`TOKENS`] and more.
pub const ROOM_BYTES: usize = size_of::<Room>();

impl Room {
    const EMPTY: Room = Room { weights: [[[0.0; TILE]; CHUNKS + 1]; LANES], sums: [[[0.0; TILE]; LANES]; MANY] };
}

/// The products of a matrix with a batch of tokens, some times [`TOKENS`].
struct Batch<'a, 'b, F> {
    part: &'a Part<'a>,
    x: &'a [f32],
    columns: &'a mut Columns<'b>,
    n_tokens: usize,
    format: PhantomData<F>,
}

impl<F: FloatRows> Kernel for Batch<'_, '_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let mut room = Room::EMPTY;
        for first in (0..self.part.matrix.rows).step_by(TILE) {
            for token in (0..self.n_tokens).step_by(MANY) {
                let sums = &mut room.sums[..MANY.min(self.n_tokens - token)];
                self.add_tile(s, (first, token), &mut room.weights, sums);
                self.write(s, (first, token), sums);
            }
        }
    }
}

impl<F: FloatRows> Batch<'_, '_, F> {
    /// Fills in the sums of the lanes of the tile from row `first` on, for tokens from `token` on, with room for weights.
    #[inline(always)]
    fn add_tile<S: Simd>(&self, s: S, (first, token): (usize, usize), room: &mut Lanes, sums: &mut [Sums]) {
        let matrix = &self.part.matrix;
        let n_chunks = matrix.columns.div_ceil(LANES);
        let xs = &Xs { x: &self.x[token * matrix.columns..], n: matrix.columns };
        let tile = matrix.tile(first).filter(|_| TILE == LANES);
        let mut start = 0;
        if let Some(chunks) = tile.and_then(F::chunks) {
            start = matrix.columns / LANES;
            xs.add(s, &chunks[..start], 0, sums);
        }
        // The first tokens ask for what comes, for all of them.
        let ahead = if token == 0 { self.part.ahead(first) } else { &[] };
        // Parts of about as many chunks each.
        let n_parts = (n_chunks - start).div_ceil(CHUNKS).max(1);
        let part_len = (n_chunks - start).div_ceil(n_parts).max(1);
        for start in (start..n_chunks).step_by(part_len) {
            let chunks = start..n_chunks.min(start + part_len);
            let n_chunks = chunks.len();
            match tile {
                Some(tile) => F::widen_together(s, tile, ahead, chunks, room),
                None => F::widen(s, &tile_rows(matrix, first), ahead, chunks, room),
            }
            xs.add(s, &Widened { lanes: room, n_chunks }, start, sums);
        }
    }

    /// Writes the products of the tile from row `first` on with tokens from `token` on, of which `sums` has the lanes.
    #[inline(always)]
    fn write<S: Simd>(&mut self, s: S, (first, token): (usize, usize), sums: &[Sums]) {
        let width = TILE.min(self.part.matrix.rows - first);
        for (token, lanes) in (token..).zip(sums) {
            let mut rows = [s.rows_splat(0.0); LANES];
            for lane in 0..LANES {
                rows[lane] = s.rows_load(&lanes[lane]);
            }
            let mut half = LANES / 2;
            while half > 0 {
                for lane in 0..half {
                    rows[lane] = s.rows_add(rows[lane], rows[lane + half]);
                }
                half /= 2;
            }
            s.rows_store_part(rows[0], &mut self.columns.row(token)[first..first + width]);
        }
    }
}

/// Chunks of weights, of which each column is a float for each row.
trait Weights {
    fn n_chunks(&self) -> usize;
    /// Column `lane` of chunk `index`.
    fn column<S: Simd>(&self, s: S, index: usize, lane: usize) -> S::R;
}

impl Weights for [Chunk] {
    #[inline(always)]
    fn n_chunks(&self) -> usize {
        self.len()
    }
    #[inline(always)]
    fn column<S: Simd>(&self, s: S, index: usize, lane: usize) -> S::R {
        s.rows_load_f32(&self[index][lane])
    }
}

/// Weights that were made floats.
struct Widened<'a> {
    lanes: &'a Lanes,
    n_chunks: usize,
}

impl Weights for Widened<'_> {
    #[inline(always)]
    fn n_chunks(&self) -> usize {
        self.n_chunks
    }
    #[inline(always)]
    fn column<S: Simd>(&self, s: S, index: usize, lane: usize) -> S::R {
        s.rows_load(&self.lanes[lane][index])
    }
}

/// The values of some tokens, (tokens, `n`).
struct Xs<'a> {
    x: &'a [f32],
    n: usize,
}

impl Xs<'_> {
    /// Adds the products of chunks from number `start` on with every token's values to the sums of its lanes, which begin with the first
    /// chunk.
    #[inline(always)]
    fn add<S: Simd>(&self, s: S, weights: &(impl Weights + ?Sized), start: usize, sums: &mut [Sums]) {
        // Whole chunks, and the one of which there is only a part.
        let n_whole = weights.n_chunks().min(self.n / LANES - start);
        for (x, sums) in self.x.chunks_exact(self.n * TOKENS).zip(sums.as_chunks_mut::<TOKENS>().0) {
            let mut xs: [&[[f32; LANES]]; TOKENS] = [&[]; TOKENS];
            for t in 0..TOKENS {
                xs[t] = &x[t * self.n..][..self.n].as_chunks().0[start..][..n_whole];
            }
            add_chunks(s, weights, 0, &xs, sums, start == 0);
            if n_whole < weights.n_chunks() {
                let mut last = [[[0.0; LANES]; 1]; TOKENS];
                for t in 0..TOKENS {
                    last[t] = [padded(&x[t * self.n..][..self.n][(start + n_whole) * LANES..])];
                }
                for t in 0..TOKENS {
                    xs[t] = &last[t];
                }
                add_chunks(s, weights, n_whole, &xs, sums, false);
            }
        }
    }
}

/// Adds the products of as many chunks as `xs` has, from number `first` on, to the lanes' sums, which begin with zero where `are_new`.
#[inline(always)]
fn add_chunks<S: Simd>(
    s: S,
    weights: &(impl Weights + ?Sized),
    first: usize,
    xs: &[&[[f32; LANES]]; TOKENS],
    sums: &mut [Sums; TOKENS],
    are_new: bool,
) {
    // As many lanes at once as registers hold the sums of.
    match S::VECTORS > LANES {
        true => add_lanes::<S, 4>(s, weights, first, xs, sums, are_new),
        false => add_lanes::<S, 1>(s, weights, first, xs, sums, are_new),
    }
}

/// The same, `GROUP` lanes after the other.
#[inline(always)]
fn add_lanes<S: Simd, const GROUP: usize>(
    s: S,
    weights: &(impl Weights + ?Sized),
    first: usize,
    xs: &[&[[f32; LANES]]; TOKENS],
    all: &mut [Sums; TOKENS],
    are_new: bool,
) {
    let n_chunks = xs[0].len();
    for group in 0..LANES / GROUP {
        let mut sums = [[s.rows_splat(0.0); GROUP]; TOKENS];
        if !are_new {
            for t in 0..TOKENS {
                for i in 0..GROUP {
                    sums[t][i] = s.rows_load(&all[t][group * GROUP + i]);
                }
            }
        }
        for index in 0..n_chunks {
            for i in 0..GROUP {
                let w = weights.column(s, first + index, group * GROUP + i);
                for t in 0..TOKENS {
                    let x = s.rows_splat(xs[t][..n_chunks][index][group * GROUP + i]);
                    sums[t][i] = s.rows_add(sums[t][i], s.rows_mul(w, x));
                }
            }
        }
        for t in 0..TOKENS {
            for i in 0..GROUP {
                s.rows_store(sums[t][i], &mut all[t][group * GROUP + i]);
            }
        }
    }
}
