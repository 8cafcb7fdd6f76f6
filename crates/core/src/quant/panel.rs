//! What integer formats become on the way to a product: a tile of rows, up to eight blocks wide, of bytes and scales.
//!
//! A format only says how its bytes are unpacked; products are taken once for all of them. Rows lie in lanes, so a
//! product needs no sums across lanes, an unpacked tile meets as many tokens as there are, and formats and instruction sets
//! add up instead of multiplying. A panel is 7 KiB: it stays in the nearest cache.

use super::activation::Activation;
use super::tile::Cut;
use crate::simd::{BLOCK, Simd, TILE};

/// Blocks that a panel has room for.
pub(crate) const BLOCKS: usize = 8;
/// Lanes of four columns in a block.
pub(crate) const COLUMNS: usize = BLOCK / 4;

/// One number for each row of a tile.
pub(crate) type Row = [f32; TILE];

/// How the blocks of a format become products; [`multiply`](crate::ops::products::multiply) has the definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Whether weights are signed; otherwise they are 0 to 127.
    pub(crate) signed: bool,
    /// What unsigned weights lie above the ones meant.
    pub(crate) bias: i32,
    /// Integers that the sums of a block are multiplied with: none, one for both halves, or one for each.
    pub(crate) n_factors: usize,
    /// Minimums of a block: none, one for both halves, or one for each.
    pub(crate) n_mins: usize,
    /// Whether products are taken with [`Activation::rest`](super::Activation::rest) too.
    pub(crate) rest: bool,
}

impl Shape {
    /// Signed weights and one scale.
    pub(crate) const PLAIN: Shape = Shape { signed: true, bias: 0, n_factors: 0, n_mins: 0, rest: false };

    /// Whether these blocks and `other` are multiplied by one kernel: the bias is no part of it.
    pub(crate) const fn has_kernel_of(self, other: Shape) -> bool {
        self.signed == other.signed
            && self.n_factors == other.n_factors
            && self.n_mins == other.n_mins
            && self.rest == other.rest
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
    /// (block, four columns, row): the weights, signed ones as [`Simd::signed`] makes them.
    pub(crate) weights: [[[u32; TILE]; COLUMNS]; BLOCKS],
    /// (block, row): what the sums of a block are multiplied with.
    pub(crate) scale: [Row; BLOCKS],
    /// (block, half, row): what the sums of its halves are multiplied with before.
    pub(crate) factors: [[Row; 2]; BLOCKS],
    /// (block, row): what minimums are multiplied with.
    pub(crate) min_scale: [Row; BLOCKS],
    /// (block, half, row): minimums, to be taken away.
    pub(crate) mins: [[Row; 2]; BLOCKS],
    /// How many blocks are filled in.
    pub(crate) n_blocks: usize,
}

impl Panel {
    /// A panel without blocks.
    pub(crate) const EMPTY: Panel = Panel {
        weights: [[[0; TILE]; COLUMNS]; BLOCKS],
        scale: [[0.0; TILE]; BLOCKS],
        factors: [[[0.0; TILE]; 2]; BLOCKS],
        min_scale: [[0.0; TILE]; BLOCKS],
        mins: [[[0.0; TILE]; 2]; BLOCKS],
        n_blocks: 0,
    };

    /// Fills in the signed weights of a block.
    #[inline(always)]
    pub(crate) fn put_signed<S: Simd>(&mut self, s: S, block: usize, weights: [S::C; COLUMNS]) {
        for (weights, out) in weights.into_iter().zip(&mut self.weights[block]) {
            s.put(s.signed(weights), out);
        }
    }

    /// Fills in the weights of a block, all of them 0 to 127.
    #[inline(always)]
    pub(crate) fn put_unsigned<S: Simd>(&mut self, s: S, block: usize, weights: [S::C; COLUMNS]) {
        for (weights, out) in weights.into_iter().zip(&mut self.weights[block]) {
            s.put(weights, out);
        }
    }
}
