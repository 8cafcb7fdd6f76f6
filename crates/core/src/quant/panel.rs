//! What integer formats become on the way to a product: a tile of rows, up to eight blocks wide, of bytes and scales.
//!
//! A format only says how its bytes are unpacked; products are taken once for all of them. Rows lie in lanes, so a
//! product needs no sums across lanes, an unpacked tile meets as many tokens as there are, and formats and instruction sets
//! add up instead of multiplying. A panel is 7 KiB: it stays in the nearest cache.

use super::activation::{Activation, Quantized};
use super::tile::Cut;
use crate::simd::{BLOCK, Simd, TILE, each};

/// Blocks that a panel has room for.
pub(crate) const BLOCKS: usize = 8;
/// Lanes of four columns in a block.
pub(crate) const COLUMNS: usize = BLOCK / 4;

/// Columns whose products are summed up in pairs, where a format has [few](Shape::is_few) weights.
pub(crate) const PAIRED: usize = 4;

/// One number for each row of a tile.
pub(crate) type Row = [f32; TILE];

/// How the blocks of a format become products; [`multiply`](crate::ops::products::multiply) has the definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Whether weights are signed; otherwise they are 0 to 127.
    pub(crate) signed: bool,
    /// What unsigned weights lie above the ones meant.
    pub(crate) bias: i32,
    /// Integers that the sums of a block are multiplied with: none, or one for each half. One for both is part of the scale.
    pub(crate) n_factors: usize,
    /// Minimums of a block: none, one for both halves, or one for each.
    pub(crate) n_mins: usize,
    /// Whether products are taken with [`Activation::rest`](super::Activation::rest) too.
    pub(crate) rest: bool,
    /// Whether weights are unsigned and below 32, so that sixteen bits hold the sums of two products of [`PAIRED`] columns each.
    pub(crate) is_few: bool,
}

impl Shape {
    /// Signed weights and one scale.
    pub(crate) const PLAIN: Shape =
        Shape { signed: true, bias: 0, n_factors: 0, n_mins: 0, rest: false, is_few: false };

    /// Whether a panel has these weights as signed ones: also those with a bias, where signed ones cost no more. What their sums begin
    /// with then comes with the activations.
    #[inline(always)]
    pub(crate) fn is_signed_in_panels<S: Simd>(self, _: S) -> bool {
        self.signed || (self.n_mins == 0 && S::OFFSET != 0)
    }

    /// What the sums of a block's products with `a` begin with, so that what stored weights lie above those meant does not count.
    #[inline(always)]
    pub(crate) fn start(self, a: &Quantized) -> i32 {
        if self.signed { a.start } else { -self.bias * i32::from(a.sums[0] + a.sums[1]) }
    }

    /// The same for each half.
    #[inline(always)]
    pub(crate) fn start_halves(self, a: &Quantized) -> [i32; 2] {
        if self.signed { a.start_halves } else { a.sums.map(|sum| -self.bias * i32::from(sum)) }
    }

    /// Whether these blocks and `other` are multiplied by one kernel: the bias is no part of it.
    pub(crate) const fn has_kernel_of(self, other: Shape) -> bool {
        self.signed == other.signed
            && self.n_factors == other.n_factors
            && self.n_mins == other.n_mins
            && self.rest == other.rest
            && self.is_few == other.is_few
    }
}

/// How rows of the format `F` become panels.
pub(crate) trait Unpack<F> {
    /// What the blocks are.
    const SHAPE: Shape;
    /// Blocks in every panel but the last of a row.
    const N_BLOCKS: usize;
    /// How rows are cut that lie together; `None` where they never do.
    const CUT: Option<Cut> = None;
    /// Whether there is a [`Unpack::product`].
    const HAS_PRODUCT: bool = false;
    /// Fills in panel `index` of a tile of rows; asks for a like part of `ahead` meanwhile.
    fn unpack<S: Simd>(s: S, rows: &[&[u8]; TILE], ahead: &[u8], index: usize, panel: &mut Panel);
    /// The same, of rows that lie together.
    #[inline(always)]
    fn unpack_together<S: Simd>(_: S, _: &[u8], _: usize, _: &mut Panel) {
        unreachable!("rows without a cut lie apart")
    }
    /// The products of rows that lie together with one token, which meets every weight once: without a panel between. What lies in
    /// `ahead` is asked for meanwhile, block by block.
    #[inline(always)]
    fn product<S: Simd>(_: S, _: &[u8], _: &[u8], _: &Activation<'_>) -> S::R {
        unreachable!("products of this format are taken from panels")
    }
    /// The same, of rows as a file has them.
    #[inline(always)]
    fn product_apart<S: Simd>(_: S, _: &[&[u8]; TILE], _: &[u8], _: &Activation<'_>) -> S::R {
        unreachable!("products of this format are taken from panels")
    }
}

/// Some blocks of a tile of rows.
#[repr(align(64))]
pub(crate) struct Panel {
    /// (block, four columns, row): the weights, or their products with what a format multiplies them with; signed ones
    /// ([`Shape::is_signed_in_panels`]) as [`Simd::signed`] makes them.
    pub(crate) weights: [[[u32; TILE]; COLUMNS]; BLOCKS],
    /// (block, row): what the sums of a block are multiplied with.
    pub(crate) scale: [Row; BLOCKS],
    /// What the halves of blocks have of their own.
    pub(crate) halves: Halves,
    /// How many blocks are filled in.
    pub(crate) n_blocks: usize,
}

impl Panel {
    /// A panel without blocks.
    pub(crate) const EMPTY: Panel = Panel {
        weights: [[[0; TILE]; COLUMNS]; BLOCKS],
        scale: [[0.0; TILE]; BLOCKS],
        halves: Halves::EMPTY,
        n_blocks: 0,
    };

    /// Keeps the weights of a block, signed ones as [`Simd::signed`] makes them.
    #[inline(always)]
    pub(super) fn put<S: Simd>(&mut self, s: S, block: usize, weights: [S::C; COLUMNS]) {
        for (weights, out) in weights.into_iter().zip(&mut self.weights[block]) {
            s.put(weights, out);
        }
    }
}

/// Numbers for each half of a block, or for both in the place of the first.
#[repr(align(64))]
pub(crate) struct Halves {
    /// (block, half, row): integers that the sums of a half, or the scale, are multiplied with first.
    pub(crate) factors: [[Row; 2]; BLOCKS],
    /// (block, half, row): minimums, to be taken away; integers until they are multiplied with their scale, as they are in panels.
    pub(crate) mins: [[Row; 2]; BLOCKS],
}

impl Halves {
    /// None yet.
    pub(crate) const EMPTY: Halves = Halves { factors: [[[0.0; TILE]; 2]; BLOCKS], mins: [[[0.0; TILE]; 2]; BLOCKS] };

    /// The sums of the halves of a block with its factors; where it has none, the first is that of both.
    #[inline(always)]
    pub(crate) fn product<S: Simd>(&self, s: S, block: usize, n_factors: usize, [first, second]: [S::R; 2]) -> S::R {
        if n_factors == 0 {
            return first;
        }
        let factors = &self.factors[block];
        let first = s.rows_mul(s.rows_load(&factors[0]), first);
        s.rows_add(first, s.rows_mul(s.rows_load(&factors[1]), second))
    }

    /// The scale `d` of a superblock with the one factor of a block.
    #[inline(always)]
    pub(super) fn scale<S: Simd>(&self, s: S, block: usize, d: S::R) -> S::R {
        s.rows_mul(d, s.rows_load(&self.factors[block][0]))
    }

    /// Multiplies the minimums of a block with their scale.
    #[inline(always)]
    pub(super) fn scale_mins<S: Simd>(&mut self, s: S, block: usize, n_mins: usize, dmin: S::R) {
        for min in &mut self.mins[block][..n_mins] {
            s.rows_store(s.rows_mul(dmin, s.rows_load(min)), min);
        }
    }

    /// The minimums of a block, times their scale `dmin` if they are still integers, times the sums of its activations `a`, with the
    /// sign turned.
    #[inline(always)]
    pub(crate) fn below<S: Simd>(&self, s: S, block: usize, n_mins: usize, dmin: Option<S::R>, a: &Quantized) -> S::R {
        let min = |half: usize| {
            let min = s.rows_load(&self.mins[block][half]);
            if let Some(dmin) = dmin { s.rows_mul(dmin, min) } else { min }
        };
        if n_mins == 1 {
            return s.rows_mul(min(0), s.rows_splat(a.below));
        }
        let [first, second] = a.below_halves;
        s.rows_add(s.rows_mul(min(0), s.rows_splat(first)), s.rows_mul(min(1), s.rows_splat(second)))
    }
}

/// What takes the weights of a tile, block by block.
pub(crate) trait Weights<S: Simd> {
    /// Takes the signed weights of a block.
    fn put_signed(&mut self, s: S, block: usize, weights: [S::C; COLUMNS]);
    /// Takes the weights of a block, all of them 0 to 31.
    fn put_unsigned(&mut self, s: S, block: usize, weights: [S::C; COLUMNS]);
    /// Takes the signed weights of a block, each as the number from 0 to 127 that is `above` more.
    #[inline(always)]
    fn put_above(&mut self, s: S, block: usize, above: u8, weights: [S::C; COLUMNS]) {
        let above = s.all(u32::from_ne_bytes([above; 4]));
        self.put_signed(s, block, each!(8, i => s.less(weights[i], above)));
    }
}

/// They are kept.
impl<S: Simd> Weights<S> for Panel {
    #[inline(always)]
    fn put_signed(&mut self, s: S, block: usize, weights: [S::C; COLUMNS]) {
        self.put(s, block, each!(8, i => s.signed(weights[i])));
    }
    #[inline(always)]
    fn put_unsigned(&mut self, s: S, block: usize, weights: [S::C; COLUMNS]) {
        self.put(s, block, weights);
    }
}

/// They meet one token's activations and are not kept.
pub(crate) struct Dots<'a, S: Simd> {
    /// The token's blocks.
    pub(crate) activations: &'a [Quantized],
    /// Whether each half has a sum of its own.
    pub(crate) by_halves: bool,
    /// The exact sums of every block, or of its halves.
    pub(crate) sums: [[S::R; 2]; BLOCKS],
}

impl<S: Simd> Dots<'_, S> {
    #[inline(always)]
    fn put(&mut self, s: S, block: usize, shape: Shape, weights: [S::C; COLUMNS]) {
        let a = &self.activations[block];
        self.sums[block] = if self.by_halves {
            let [first, second] = shape.start_halves(a);
            let (half, whole) = (COLUMNS / 2, COLUMNS);
            [
                exact_sum(s, shape, &weights, &a.q, (0, half, first)),
                exact_sum(s, shape, &weights, &a.q, (half, whole, second)),
            ]
        } else {
            [exact_sum(s, shape, &weights, &a.q, (0, COLUMNS, shape.start(a))), s.rows_splat(0.0)]
        };
    }
}

impl<S: Simd> Weights<S> for Dots<'_, S> {
    #[inline(always)]
    fn put_signed(&mut self, s: S, block: usize, weights: [S::C; COLUMNS]) {
        self.put(s, block, Shape::PLAIN, each!(8, i => s.signed(weights[i])));
    }
    #[inline(always)]
    fn put_unsigned(&mut self, s: S, block: usize, weights: [S::C; COLUMNS]) {
        self.put(s, block, Shape { signed: false, is_few: true, ..Shape::PLAIN }, weights);
    }
    /// They stay as they are: what they are more is what their sums begin with.
    #[inline(always)]
    fn put_above(&mut self, s: S, block: usize, above: u8, weights: [S::C; COLUMNS]) {
        self.put(s, block, Shape { signed: false, bias: i32::from(above), ..Shape::PLAIN }, weights);
    }
}

/// The exact sums of the weights of some columns of a block, signed ones as [`Simd::signed`] makes them, with the activations `q`,
/// beginning with `start`.
#[allow(clippy::needless_range_loop)] // The same number indexes weights and activations.
#[inline(always)]
pub(super) fn exact_sum<S: Simd>(
    s: S,
    shape: Shape,
    weights: &[S::C; COLUMNS],
    q: &[i8; BLOCK],
    (from, to, start): (usize, usize, i32),
) -> S::R {
    let mut sums = s.all(start as u32);
    if S::ADDS_PAIRS && shape.is_few {
        for first in (from..to).step_by(PAIRED) {
            let mut pairs = s.all(0);
            for column in first..first + PAIRED {
                pairs = s.dot_pairs(pairs, weights[column], activations(q, column));
            }
            sums = s.add_pairs(sums, pairs);
        }
        return s.floats(sums);
    }
    for column in from..to {
        let a = activations(q, column);
        sums = match shape.signed {
            true => s.dot_signed(sums, weights[column], a),
            false => s.dot_unsigned(sums, weights[column], a),
        };
    }
    s.floats(sums)
}

/// The activations that meet column `column`.
#[inline(always)]
pub(crate) fn activations(q: &[i8; BLOCK], column: usize) -> [u8; 4] {
    let [a, b, c, d] = q.as_chunks::<4>().0[column];
    [a as u8, b as u8, c as u8, d as u8]
}
