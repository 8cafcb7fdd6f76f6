//! What the formats of 32-value blocks share: a scale, perhaps a minimum, and how they are unpacked.
// The same number indexes the arrays of every row or token; `each!` hides that from the lint.
#![allow(clippy::needless_range_loop)]

use super::Parts;
use super::activation::Activation;
use super::panel::{BLOCKS, COLUMNS, Panel, Shape, Unpack, Weights as _, exact_sum};
use super::tile::{Apart, Cut, Lanes, Together, nibbles_at};
use crate::half::f32_to_f16;
use crate::simd::{BLOCK, Simd, TILE, each, each_row, prefetch_apart, prefetch_block};

/// A format of blocks of 32 integers with a scale and perhaps a half-float minimum; `N` bytes to a block.
pub(super) trait Block<const N: usize> {
    /// What the stored integers, 0 to 31, lie above the ones meant; `None` where they are signed and need nothing taken away.
    const BIAS: Option<i32>;
    /// Byte offset of the minimum, for formats that have one.
    const MIN_AT: Option<usize>;
    /// The blocks' scales; most formats begin with a half float.
    #[inline(always)]
    fn scales<S: Simd>(s: S, blocks: impl Lanes<N>) -> S::R {
        s.halves(blocks.half(s, 0))
    }
    /// The stored integers.
    fn weights<S: Simd>(s: S, blocks: impl Lanes<N>) -> [S::C; COLUMNS];
}

/// Formats of [`Block`]s: panels of eight of them.
pub(crate) struct Rows<const N: usize>;

impl<const N: usize> Rows<N> {
    /// The scale stands alone where the integers do not make whole words with it.
    const WORDS: Cut = Cut { block_bytes: N, head: N % 4, unit: 4 };

    /// Fills in block `block` of a panel.
    ///
    /// A minimum is one to be added, so its sign is turned.
    #[inline(always)]
    fn fill<S: Simd, F: Block<N>>(s: S, blocks: impl Lanes<N>, block: usize, panel: &mut Panel) {
        s.rows_store(F::scales(s, blocks), &mut panel.scale[block]);
        let weights = F::weights(s, blocks);
        match F::BIAS {
            None => panel.put_signed(s, block, weights),
            Some(bias) if <Self as Unpack<F>>::SHAPE.is_signed_in_panels(s) => {
                let bias = s.all(u32::from_le_bytes([bias as u8; 4]));
                panel.put_signed(s, block, each!(8, i => s.less(weights[i], bias)));
            }
            Some(_) => panel.put_unsigned(s, block, weights),
        }
        if let Some(at) = F::MIN_AT {
            s.rows_store(Self::min(s, blocks, at), &mut panel.halves.mins[block][0]);
        }
    }
}

impl<const N: usize> Rows<N> {
    /// `total` and the products of block `block`: the definition's steps in its order, for weights that were never stored.
    #[inline(always)]
    fn add_block<S: Simd, F: Block<N>>(
        s: S,
        total: S::R,
        blocks: impl Lanes<N>,
        block: usize,
        activation: &Activation<'_>,
    ) -> S::R {
        let shape = <Self as Unpack<F>>::SHAPE;
        let (scale, mut weights) = (F::scales(s, blocks), F::weights(s, blocks));
        if shape.signed {
            weights = each!(8, i => s.signed(weights[i]));
        }
        let a = &activation.blocks[block];
        let activation_scale = s.rows_splat(a.scale);
        let sum = exact_sum(s, shape, &weights, &a.q, (0, COLUMNS, shape.start(a)));
        let total = s.rows_add(total, s.rows_mul(sum, s.rows_mul(scale, activation_scale)));
        let Some(at) = F::MIN_AT else { return total };
        s.rows_add(total, s.rows_mul(Self::min(s, blocks, at), s.rows_splat(a.below)))
    }

    /// The minimum at byte `at`, to be taken away.
    #[inline(always)]
    fn min<S: Simd>(s: S, blocks: impl Lanes<N>, at: usize) -> S::R {
        s.rows_mul(s.rows_splat(-1.0), s.halves(blocks.half(s, at)))
    }
}

impl<F: Block<N>, const N: usize> Unpack<F> for Rows<N> {
    const SHAPE: Shape = Shape {
        signed: F::BIAS.is_none(),
        bias: match F::BIAS {
            Some(bias) => bias,
            None => 0,
        },
        n_mins: F::MIN_AT.is_some() as usize,
        is_few: F::BIAS.is_some(),
        ..Shape::PLAIN
    };
    const N_BLOCKS: usize = BLOCKS;
    const CUT: Option<Cut> = Some(Self::WORDS);
    const HAS_PRODUCT: bool = true;

    #[inline(always)]
    fn unpack<S: Simd>(s: S, rows: &[&[u8]; TILE], ahead: &[u8], index: usize, panel: &mut Panel) {
        let (first, row_bytes) = (index * BLOCKS, rows[0].len());
        panel.n_blocks = (row_bytes / N - first).min(BLOCKS);
        let end = first + panel.n_blocks;
        let rows: [&[[u8; N]]; TILE] = each_row!(r => &rows[r].as_chunks::<N>().0[first..end]);
        for block in 0..panel.n_blocks {
            prefetch_apart(ahead, row_bytes, first + block, TILE * N);
            let blocks: [&[u8; N]; TILE] = each_row!(r => &rows[r][block]);
            Self::fill::<S, F>(s, Apart(&blocks), block, panel);
        }
    }

    #[inline(always)]
    fn unpack_together<S: Simd>(s: S, tile: &[u8], index: usize, panel: &mut Panel) {
        let blocks = tile.chunks_exact(TILE * N).skip(index * BLOCKS).take(BLOCKS);
        panel.n_blocks = blocks.len();
        for (block, bytes) in blocks.enumerate() {
            Self::fill::<S, F>(s, Together(bytes, Self::WORDS), block, panel);
        }
    }

    #[inline(always)]
    fn product<S: Simd>(s: S, tile: &[u8], ahead: &[u8], activation: &Activation<'_>) -> S::R {
        let mut total = s.rows_splat(0.0);
        for (block, bytes) in tile.chunks_exact(TILE * N).enumerate() {
            prefetch_block(ahead, block, TILE * N);
            total = Self::add_block::<S, F>(s, total, Together(bytes, Self::WORDS), block, activation);
        }
        total
    }

    #[inline(always)]
    fn product_apart<S: Simd>(s: S, rows: &[&[u8]; TILE], ahead: &[u8], activation: &Activation<'_>) -> S::R {
        let row_bytes = rows[0].len();
        let n_blocks = row_bytes / N;
        let rows: [&[[u8; N]]; TILE] = each_row!(r => &rows[r].as_chunks::<N>().0[..n_blocks]);
        let mut total = s.rows_splat(0.0);
        for block in 0..n_blocks {
            prefetch_apart(ahead, row_bytes, block, TILE * N);
            let blocks: [&[u8; N]; TILE] = each_row!(r => &rows[r][block]);
            total = Self::add_block::<S, F>(s, total, Apart(&blocks), block, activation);
        }
        total
    }
}

/// Thirty-two five-bit numbers of each row: at byte `at` four bytes of fifth bits, first value lowest, then the rest as
/// [`nibbles_at`] reads them.
#[inline(always)]
pub(super) fn fives<S: Simd, const N: usize>(s: S, rows: impl Lanes<N>, at: usize) -> [S::C; COLUMNS] {
    let fifths = rows.word(s, at);
    let low = nibbles_at(s, rows, at + 4);
    let sixteen = s.all(0x1010_1010);
    each!(8, i => s.or(low[i], s.and(s.spread(fifths, 4 * i), sixteen)))
}

/// `M` bytes from byte `at`.
#[inline(always)]
pub(super) fn bytes_at<const M: usize>(bytes: &[u8], at: usize) -> &[u8; M] {
    let Some(bytes) = bytes[at..].first_chunk() else { unreachable!() };
    bytes
}

/// Reverses the bytes of the half float at byte `at` of every `N`-byte block.
pub(super) fn swap_half<const N: usize>(blocks: &mut [u8], at: usize) {
    for block in blocks.as_chunks_mut::<N>().0 {
        block.swap(at, at + 1);
    }
}

/// Reverses the bytes of the 32-bit number at byte `at` of every `N`-byte block.
pub(super) fn swap_word<const N: usize>(blocks: &mut [u8], at: usize) {
    for block in blocks.as_chunks_mut::<N>().0 {
        block[at..at + 4].reverse();
    }
}

/// The smallest of `values`, and the size of the steps that lead from it to the largest in `n_steps`.
pub(super) fn range(values: &[f32; BLOCK], n_steps: f32) -> (f32, f32) {
    let min = values.iter().copied().fold(f32::INFINITY, f32::min);
    let max = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    (min, (max - min) / n_steps)
}

/// Writes `value` as a half float at byte `at`.
pub(super) fn put_half(block: &mut [u8], at: usize, value: f32) {
    block[at..at + 2].copy_from_slice(&f32_to_f16(value).to_le_bytes());
}

/// The codes of the 32 values from `at` as bytes.
pub(super) fn code_bytes(parts: &Parts, at: usize) -> [u8; BLOCK] {
    core::array::from_fn(|i| parts.codes[at + i] as u8)
}

/// Packs four-bit numbers into 16 bytes, value `i + 16` above value `i`.
pub(super) fn pack_four(q: &[u8; BLOCK], out: &mut [u8]) {
    for (i, byte) in out.iter_mut().enumerate() {
        *byte = q[i] & 15 | q[i + BLOCK / 2] << 4;
    }
}

/// Packs five-bit numbers: 4 bytes of fifth bits, then 16 bytes of the other four, value `i + 16` above value `i`.
pub(super) fn pack_five(q: &[u8; BLOCK], out: &mut [u8]) {
    let fifth = q.iter().enumerate().fold(0u32, |bits, (i, q)| bits | u32::from(q >> 4 & 1) << i);
    let (head, quants) = out.split_at_mut(4);
    head.copy_from_slice(&fifth.to_le_bytes());
    pack_four(q, quants);
}

/// The inverse of [`pack_five`].
pub(super) fn unpack_five(packed: &[u8], values: &mut [f32; BLOCK], value: impl Fn(u8) -> f32) {
    let fifth = u32::from_le_bytes([packed[0], packed[1], packed[2], packed[3]]);
    for (i, v) in values.iter_mut().enumerate() {
        let byte = packed[4 + i % (BLOCK / 2)];
        let low = if i < BLOCK / 2 { byte & 15 } else { byte >> 4 };
        *v = value(low | ((fifth >> i & 1) as u8) << 4);
    }
}
