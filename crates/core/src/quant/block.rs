//! What the formats of 32-value blocks share: the order in which a row's blocks are added.

use super::{Activation, Parts, TILE, Tile};
use crate::half::f32_to_f16;
use crate::simd::{BLOCK, Simd};

/// A format of blocks of 32 integers with a scale and perhaps a half-float minimum; `N` bytes to a block.
pub(super) trait Block<const N: usize> {
    /// What the stored integers lie above the ones meant.
    const BIAS: i32;
    /// Byte offset of the minimum, for formats that have one.
    const MIN_AT: Option<usize>;
    /// The blocks' scales; most formats begin with a half float.
    #[inline(always)]
    fn scales<S: Simd>(s: S, blocks: &[&[u8; N]; TILE]) -> S::R {
        halves_at(s, blocks, 0)
    }
    /// The partial sums of the stored integers times `a`.
    fn dot<S: Simd>(s: S, block: &[u8; N], a: S::B) -> S::P;
}

/// The half floats at byte `at` of eight blocks.
#[inline(always)]
fn halves_at<S: Simd, const N: usize>(s: S, blocks: &[&[u8; N]; TILE], at: usize) -> S::R {
    s.rows_f16(blocks.map(|block| u16::from_le_bytes([block[at], block[at + 1]])))
}

/// The dot products of [`TILE`] rows with `T` activations.
///
/// Definition, for each pair, blocks in order: the exact integer sum, as a float, times (weight scale times activation
/// scale) is added; then, for a format with a minimum, the activations' integer sum times (minimum times activation scale).
pub(crate) struct Rows<const N: usize>;

impl<F: Block<N>, const N: usize> Tile<F> for Rows<N> {
    #[inline(always)]
    fn tile<S: Simd, const T: usize>(
        s: S,
        rows: &[&[u8]; TILE],
        activations: &[Activation<'_>; T],
        out: &mut [[f32; TILE]; T],
    ) {
        let n_blocks = rows[0].len() / N;
        let rows: [&[[u8; N]]; TILE] = rows.map(|row| &row.as_chunks::<N>().0[..n_blocks]);
        let q = activations.map(|a| &a.q[..n_blocks]);
        let scales = activations.map(|a| &a.scale[..n_blocks]);
        let sums = activations.map(|a| &a.sum[..n_blocks]);
        let mut totals = [s.rows_splat(0.0); T];
        for block in 0..n_blocks {
            let blocks: [&[u8; N]; TILE] = core::array::from_fn(|r| &rows[r][block]);
            let weight_scale = F::scales(s, &blocks);
            for t in 0..T {
                let a = s.bytes(&q[t][block].map(|q| q as u8));
                let products = core::array::from_fn(|r| F::dot(s, blocks[r], a));
                let sum = s.rows(products, F::BIAS * sums[t][block]);
                let scale = s.rows_splat(scales[t][block]);
                totals[t] = s.rows_add(totals[t], s.rows_mul(sum, s.rows_mul(weight_scale, scale)));
                if let Some(at) = F::MIN_AT {
                    let min = s.rows_mul(halves_at(s, &blocks, at), scale);
                    totals[t] = s.rows_add(totals[t], s.rows_mul(s.rows_splat(sums[t][block] as f32), min));
                }
            }
        }
        for t in 0..T {
            s.rows_store(totals[t], &mut out[t]);
        }
    }
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
