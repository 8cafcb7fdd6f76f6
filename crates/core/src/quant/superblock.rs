//! What the formats of 256-value superblocks share: eight blocks of 32 integers, whose own scales are small integers too.
//!
//! A weight is `(d * scale) * weight`, and in formats with minimums `(d * scale) * weight - dmin * min`, where `d` and
//! `dmin` are half floats that the superblock shares, `scale` and `min` integers for each half of a block, and `weight` an
//! integer of its own.

use super::{Activation, TILE};
use crate::half::f16_to_f32;
use crate::simd::{BLOCK, Simd};

/// Values in a superblock.
pub(super) const SUPERBLOCK: usize = 256;
/// Blocks in a superblock.
pub(super) const BLOCKS: usize = SUPERBLOCK / BLOCK;

/// One block of a superblock, unpacked.
pub(super) struct Unpacked {
    /// The integers that stand for the weights.
    pub weights: [i8; BLOCK],
    /// What those of each half are multiplied with.
    pub scales: [i8; 2],
    /// How many of `dmin` those of each half lie above the weights; zeros in a format without minimums.
    pub mins: [u8; 2],
}

/// A format of superblocks; `N` bytes to each.
pub(super) trait Superblock<const N: usize> {
    /// A power of two that makes `d`, times the stored scale, what the integers are multiplied with.
    const FACTOR: f32 = 1.0;
    /// Whether all weights are 0 to 127.
    const UNSIGNED: bool = false;
    /// Byte offset of `dmin`, for formats that have minimums.
    const MIN_AT: Option<usize> = None;
    /// The bits of the stored scale.
    fn scale(superblock: &[u8; N]) -> u16;
    /// Block number `block`. A `weight` times a `scale`, summed over 32 with activations of 127, stays below 2^24.
    fn unpack(superblock: &[u8; N], block: usize) -> Unpacked;
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

/// Reads whole superblocks, with the float operations of ggml in their order.
pub(super) fn dequantize<F: Superblock<N>, const N: usize>(row: &[u8], out: &mut [f32]) {
    for (superblock, values) in row.as_chunks::<N>().0.iter().zip(out.as_chunks_mut::<SUPERBLOCK>().0) {
        let d = f16_to_f32(F::scale(superblock)) * F::FACTOR;
        let dmin = F::MIN_AT.map(|at| f16_to_f32(half_at(superblock, at)));
        for (block, values) in values.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
            let Unpacked { weights, scales, mins } = F::unpack(superblock, block);
            for (i, value) in values.iter_mut().enumerate() {
                let half = i / (BLOCK / 2);
                *value = d * f32::from(scales[half]) * f32::from(weights[i]);
                if let Some(dmin) = dmin {
                    *value -= dmin * f32::from(mins[half]);
                }
            }
        }
    }
}

/// The dot products of [`TILE`] rows with `T` activations.
///
/// Definition, for each pair, blocks in order: the exact integer sum of `scale * weight * q`, as a float, times ((`d` times
/// [`Superblock::FACTOR`]) times activation scale) is added; then, for a format with minimums, the exact integer sum of
/// `-min * q`, as a float, times (`dmin` times activation scale).
///
/// Both sums stay below 2^24, where every integer is a float: the largest, of Q6_K, is 128 * 32 * 127 * 32.
#[inline(always)]
pub(super) fn tile<F: Superblock<N>, S: Simd, const N: usize, const T: usize>(
    s: S,
    rows: &[&[u8]; TILE],
    activations: &[Activation<'_>; T],
    out: &mut [[f32; TILE]; T],
) {
    let n_superblocks = rows[0].len() / N;
    let rows: [&[[u8; N]]; TILE] = rows.map(|row| &row.as_chunks::<N>().0[..n_superblocks]);
    let q = activations.map(|a| &a.q.as_chunks::<BLOCKS>().0[..n_superblocks]);
    let activation_scales = activations.map(|a| &a.scale.as_chunks::<BLOCKS>().0[..n_superblocks]);
    let mut totals = [s.rows_splat(0.0); T];
    for index in 0..n_superblocks {
        let superblocks: [&[u8; N]; TILE] = core::array::from_fn(|r| &rows[r][index]);
        let d = s.rows_mul(s.rows_f16(superblocks.map(F::scale)), s.rows_splat(F::FACTOR));
        let dmin = F::MIN_AT.map(|at| s.rows_f16(superblocks.map(|superblock| half_at(superblock, at))));
        for block in 0..BLOCKS {
            let unpacked = superblocks.map(|superblock| F::unpack(superblock, block));
            let weights: [S::B; TILE] = core::array::from_fn(|r| s.bytes(&unpacked[r].weights.map(|w| w as u8)));
            for t in 0..T {
                let q = &q[t][index][block];
                let a = s.bytes(&q.map(|q| q as u8));
                let products = core::array::from_fn(|r| {
                    let scales = unpacked[r].scales.map(i16::from);
                    if F::UNSIGNED {
                        s.dot_u7_scaled(weights[r], a, scales)
                    } else {
                        s.dot_i8_scaled(weights[r], a, scales)
                    }
                });
                let scale = s.rows_splat(activation_scales[t][index][block]);
                totals[t] = s.rows_add(totals[t], s.rows_mul(s.rows(products, 0), s.rows_mul(d, scale)));
                if let Some(dmin) = dmin {
                    let sums = q.as_chunks::<{ BLOCK / 2 }>().0;
                    let sum = |half: usize| sums[half].iter().map(|&q| i32::from(q)).sum::<i32>();
                    let (first, second) = (sum(0), sum(1));
                    let below =
                        unpacked.each_ref().map(|u| -(i32::from(u.mins[0]) * first + i32::from(u.mins[1]) * second));
                    let below = s.rows_load(&below.map(|below| below as f32));
                    totals[t] = s.rows_add(totals[t], s.rows_mul(below, s.rows_mul(dmin, scale)));
                }
            }
        }
    }
    for t in 0..T {
        s.rows_store(totals[t], &mut out[t]);
    }
}
