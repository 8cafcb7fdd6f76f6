//! What the formats of superblocks share: eight blocks of 32 integers, in two formats fewer, whose own scales are small
//! integers too.
//!
//! A weight is `(d * scale) * weight`, and in formats with minimums `(d * scale) * weight - dmin * min`, where `d` and
//! `dmin` are half floats that the superblock shares, `scale` and `min` integers for each half of a block, and `weight`
//! an integer of its own.

use super::{Activation, TILE, Tile};
use crate::half::f16_to_f32;
use crate::simd::{BLOCK, Scalar, Simd};

/// Values in a superblock of eight blocks.
pub(super) const SUPERBLOCK: usize = 256;
/// Blocks in a superblock of most formats.
pub(super) const BLOCKS: usize = SUPERBLOCK / BLOCK;

/// Halves of blocks in a superblock, each with a scale of its own.
pub(super) const HALVES: usize = 2 * BLOCKS;

/// A format of superblocks; `N` bytes to each.
pub(super) trait Superblock<const N: usize> {
    /// Blocks in a superblock, at most [`BLOCKS`].
    const N_BLOCKS: usize = BLOCKS;
    /// A power of two: `d` is the stored scale times it.
    const FACTOR: f32 = 1.0;
    /// Whether all weights are 0 to 127.
    const UNSIGNED: bool = false;
    /// Byte offset of `dmin`, for formats that have minimums.
    const MIN_AT: Option<usize> = None;
    /// How many minimums a block has, one or two.
    const MINS_PER_BLOCK: usize = 1;

    /// The bits of the stored scale; most formats begin with it.
    #[inline(always)]
    fn scale(superblock: &[u8; N]) -> u16 {
        half_at(superblock, 0)
    }
    /// The integers that the weights of each half of a block are multiplied with; formats with one scale have none.
    #[inline(always)]
    fn scales(_: &[u8; N]) -> [i8; HALVES] {
        [1; HALVES]
    }
    /// The integers that `dmin` is multiplied with, for each block or each half of one.
    fn mins(_: &[u8; N]) -> [u8; HALVES] {
        [0; HALVES]
    }
    /// The integer weights of block `block`.
    fn weights<S: Simd>(s: S, superblock: &[u8; N], block: usize) -> S::B;
}

/// The bits of the half float at byte `at`.
#[inline(always)]
pub(super) fn half_at<const N: usize>(superblock: &[u8; N], at: usize) -> u16 {
    u16::from_le_bytes([superblock[at], superblock[at + 1]])
}

/// `M` bytes from byte `at`.
#[inline(always)]
pub(super) fn bytes_at<const M: usize>(superblock: &[u8], at: usize) -> &[u8; M] {
    let Some(bytes) = superblock[at..].first_chunk() else { unreachable!() };
    bytes
}

/// Each of eight scales twice, for formats in which both halves of a block share one.
#[inline(always)]
pub(super) fn for_both_halves(scales: [i8; BLOCKS]) -> [i8; HALVES] {
    core::array::from_fn(|half| scales[half / 2])
}

/// Writes `bits` bits of every code, from bit `from` of it: each 32 bytes hold those of `8 / bits` blocks, byte `i` of
/// value `i` of each, the first block lowest. `out` is zero before.
pub(super) fn pack_planes(codes: &[u16; SUPERBLOCK], from: usize, bits: usize, out: &mut [u8]) {
    let per_byte = 8 / bits;
    for (block, codes) in codes.as_chunks::<BLOCK>().0.iter().enumerate() {
        let shift = block % per_byte * bits;
        for (byte, code) in out[block / per_byte * BLOCK..].iter_mut().zip(codes) {
            *byte |= ((code >> from) as u8 & ((1 << bits) - 1)) << shift;
        }
    }
}

/// Writes the bytes of 16-bit numbers one after the other.
pub(super) fn put_words(words: impl Iterator<Item = u16>, out: &mut [u8]) {
    for (bytes, word) in out.as_chunks_mut::<2>().0.iter_mut().zip(words) {
        *bytes = word.to_le_bytes();
    }
}

/// Reads whole superblocks, with the float operations of ggml in their order.
pub(super) fn dequantize<F: Superblock<N>, const N: usize>(row: &[u8], out: &mut [f32]) {
    for (superblock, values) in row.as_chunks::<N>().0.iter().zip(out.chunks_exact_mut(F::N_BLOCKS * BLOCK)) {
        let d = f16_to_f32(F::scale(superblock)) * F::FACTOR;
        let dmin = F::MIN_AT.map(|at| f16_to_f32(half_at(superblock, at)));
        let (scales, mins) = (F::scales(superblock), F::mins(superblock));
        for (block, values) in values.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
            let weights = F::weights(Scalar, superblock, block);
            for (i, value) in values.iter_mut().enumerate() {
                let half = i / (BLOCK / 2);
                *value = d * f32::from(scales[2 * block + half]) * f32::from(weights[i] as i8);
                if let Some(dmin) = dmin {
                    let min = mins[block * F::MINS_PER_BLOCK + half * (F::MINS_PER_BLOCK - 1)];
                    *value -= dmin * f32::from(min);
                }
            }
        }
    }
}

/// The dot products of [`TILE`] rows with `T` activations.
///
/// Definition, for each pair, blocks in order: the exact integer sum of `scale * weight * q`, as a float, times (`d`
/// times activation scale) is added; then, for a format with minimums, the exact integer sum of `-min * q`, as a float,
/// times (`dmin` times activation scale).
///
/// Both sums stay below 2^24, where every integer is a float: the largest, of Q6_K, is 128 * 32 * 127 * 32.
pub(crate) struct Rows<const N: usize>;

impl<F: Superblock<N>, const N: usize> Tile<F> for Rows<N> {
    #[inline(always)]
    fn tile<S: Simd, const T: usize>(
        s: S,
        rows: &[&[u8]; TILE],
        activations: &[Activation<'_>; T],
        out: &mut [[f32; TILE]; T],
    ) {
        let n_superblocks = rows[0].len() / N;
        let rows: [&[[u8; N]]; TILE] = rows.map(|row| &row.as_chunks::<N>().0[..n_superblocks]);
        let n_blocks = n_superblocks * F::N_BLOCKS;
        let q = activations.map(|a| &a.q[..n_blocks]);
        let activation_scales = activations.map(|a| &a.scale[..n_blocks]);
        let sums = activations.map(|a| &a.sum[..n_blocks]);
        let superblocks_at = |index: usize| -> [&[u8; N]; TILE] { core::array::from_fn(|r| &rows[r][index]) };
        let mut totals = [s.rows_splat(0.0); T];
        for index in 0..n_superblocks {
            let superblocks = superblocks_at(index);
            let d = s.rows_mul(s.rows_f16(superblocks.map(F::scale)), s.rows_splat(F::FACTOR));
            let dmin = F::MIN_AT.map(|at| s.rows_f16(superblocks.map(|superblock| half_at(superblock, at))));
            let scales = superblocks.map(|superblock| s.scales(&F::scales(superblock)));
            let mins = superblocks.map(F::mins);
            for block in 0..F::N_BLOCKS {
                let at = index * F::N_BLOCKS + block;
                let weights = superblocks.map(|superblock| F::weights(s, superblock, block));
                let min = |i: usize| s.rows_u8(&mins.each_ref().map(|mins| mins[block * F::MINS_PER_BLOCK + i]));
                for t in 0..T {
                    let q = &q[t][at];
                    let a = s.bytes(&q.map(|q| q as u8));
                    let products = core::array::from_fn(|r| match F::UNSIGNED {
                        true => s.dot_u7_scaled(weights[r], a, scales[r], block),
                        false => s.dot_i8_scaled(weights[r], a, scales[r], block),
                    });
                    let scale = s.rows_splat(activation_scales[t][at]);
                    totals[t] = s.rows_add(totals[t], s.rows_mul(s.rows(products, 0), s.rows_mul(d, scale)));
                    if let Some(dmin) = dmin {
                        let sum = sums[t][at];
                        let below = if F::MINS_PER_BLOCK == 1 {
                            s.rows_mul(min(0), s.rows_splat(-sum as f32))
                        } else {
                            let first: i32 = q[..BLOCK / 2].iter().map(|&q| i32::from(q)).sum();
                            let first_below = s.rows_mul(min(0), s.rows_splat(-first as f32));
                            s.rows_add(first_below, s.rows_mul(min(1), s.rows_splat((first - sum) as f32)))
                        };
                        totals[t] = s.rows_add(totals[t], s.rows_mul(below, s.rows_mul(dmin, scale)));
                    }
                }
            }
        }
        for t in 0..T {
            s.rows_store(totals[t], &mut out[t]);
        }
    }
}
