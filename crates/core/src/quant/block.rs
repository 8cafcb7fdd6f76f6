//! What the formats of 32-value blocks share: the order in which a row's blocks are added.

use super::{Activation, TILE};
use crate::simd::Simd;

/// A format of blocks of 32 integers with a half-float scale and perhaps a half-float minimum; `N` bytes to a block.
pub(super) trait Block<const N: usize> {
    /// What the stored integers lie above the ones meant.
    const BIAS: i32;
    /// Byte offset of the scale.
    const SCALE_AT: usize;
    /// Byte offset of the minimum, for formats that have one.
    const MIN_AT: Option<usize>;
    /// The partial sums of the stored integers times `a`.
    fn dot<S: Simd>(s: S, block: &[u8; N], a: S::B) -> S::P;
}

/// The dot products of [`TILE`] rows with `T` activations.
///
/// Definition, for each pair, blocks in order: the exact integer sum, as a float, times (weight scale times activation
/// scale) is added; then, for a format with a minimum, the activations' integer sum times (minimum times activation scale).
#[inline(always)]
pub(super) fn tile<F: Block<N>, S: Simd, const N: usize, const T: usize>(
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
        let half_at = |at: usize| {
            s.rows_f16(core::array::from_fn(|r| u16::from_le_bytes([rows[r][block][at], rows[r][block][at + 1]])))
        };
        let weight_scale = half_at(F::SCALE_AT);
        for t in 0..T {
            let a = s.bytes(&q[t][block].map(|q| q as u8));
            let products = core::array::from_fn(|r| F::dot(s, &rows[r][block], a));
            let sum = s.rows(products, F::BIAS * sums[t][block]);
            let scale = s.rows_splat(scales[t][block]);
            totals[t] = s.rows_add(totals[t], s.rows_mul(sum, s.rows_mul(weight_scale, scale)));
            if let Some(at) = F::MIN_AT {
                let min = s.rows_mul(half_at(at), scale);
                totals[t] = s.rows_add(totals[t], s.rows_mul(s.rows_splat(sums[t][block] as f32), min));
            }
        }
    }
    for t in 0..T {
        s.rows_store(totals[t], &mut out[t]);
    }
}

/// Reverses the bytes of the half float at byte `at` of every `N`-byte block.
pub(super) fn swap_half<const N: usize>(blocks: &mut [u8], at: usize) {
    for block in blocks.as_chunks_mut::<N>().0 {
        block.swap(at, at + 1);
    }
}
