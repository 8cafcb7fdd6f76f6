//! Activations: what a weight row is multiplied with, in floats and, for integer formats, in 8-bit blocks.

use super::q8_0::round_to_i8;
use crate::simd::BLOCK;

/// The activations of one token.
#[derive(Clone, Copy)]
pub struct Activation<'a> {
    /// The values, (columns).
    pub x: &'a [f32],
    /// The values divided by their block's scale and rounded, -127 to 127, whole blocks padded with zero; empty when
    /// no integer format reads this activation.
    pub q: &'a [[i8; BLOCK]],
    /// The scale of each block.
    pub scale: &'a [f32],
    /// The sum of each block of `q`.
    pub sum: &'a [i32],
}

/// How many blocks hold `columns` values.
pub fn n_blocks(columns: usize) -> usize {
    columns.div_ceil(BLOCK)
}

/// Quantizes `x` by blocks: `scale` is the largest magnitude over 127, `q` the nearest integers, ties to even.
///
/// A NaN or an infinity in a block makes its scale NaN or infinite, so that it reaches the logits and is noticed there.
#[inline(always)]
pub fn quantize(x: &[f32], q: &mut [[i8; BLOCK]], scale: &mut [f32], sum: &mut [i32]) {
    for (block, values) in x.chunks(BLOCK).enumerate() {
        let mut padded = [0.0; BLOCK];
        padded[..values.len()].copy_from_slice(values);
        // The bits of magnitudes order as the magnitudes do, with NaN above all: `f32::max` would lose a NaN.
        let largest = padded.iter().fold(0, |largest, v| largest.max(v.to_bits() & 0x7fff_ffff));
        let largest = f32::from_bits(largest);
        scale[block] = largest / 127.0;
        let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
        let mut total = 0;
        for (q, v) in q[block].iter_mut().zip(padded) {
            *q = round_to_i8(v * inverse);
            total += i32::from(*q);
        }
        sum[block] = total;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_last_block_is_padded_with_zero() {
        let x: Vec<f32> = (0..40).map(|i| i as f32 - 20.0).collect();
        let (mut q, mut scale, mut sum) = ([[1; BLOCK]; 2], [0.0; 2], [0; 2]);
        quantize(&x, &mut q, &mut scale, &mut sum);
        assert_eq!(q[0][0], -127);
        assert_eq!(q[1][7], 127);
        assert_eq!(q[1][8..], [0; 24]);
        assert_eq!(sum[1], q[1].iter().map(|&q| i32::from(q)).sum());
        assert_eq!(scale[1], 19.0 / 127.0);
    }

    #[test]
    fn not_a_number_is_not_lost() {
        let mut x = [1.0; BLOCK];
        x[7] = f32::NAN;
        let (mut q, mut scale, mut sum) = ([[0; BLOCK]; 1], [0.0; 1], [0; 1]);
        quantize(&x, &mut q, &mut scale, &mut sum);
        assert!(scale[0].is_nan());
        x[7] = f32::INFINITY;
        quantize(&x, &mut q, &mut scale, &mut sum);
        assert!(!scale[0].is_finite());
    }

    #[test]
    fn zeros_stay_zeros() {
        let (mut q, mut scale, mut sum) = ([[9; BLOCK]; 1], [9.0; 1], [9; 1]);
        quantize(&[0.0; BLOCK], &mut q, &mut scale, &mut sum);
        assert_eq!((q[0], scale[0], sum[0]), ([0; BLOCK], 0.0, 0));
    }
}
