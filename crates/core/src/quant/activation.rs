//! Activations: what a weight row is multiplied with, in floats and, for integer formats, in 8-bit blocks.

use super::q8_0::round_to_i8;
use crate::simd::{BLOCK, padded};

/// The activations of one token, as integers.
#[derive(Clone, Copy)]
pub struct Activation<'a> {
    /// The values divided by their block's scale and rounded, -127 to 127, whole blocks padded with zero.
    pub q: &'a [[i8; BLOCK]],
    /// The scale of each block.
    pub scale: &'a [f32],
    /// The sums of the halves of each block of `q`.
    pub sum: &'a [[i32; 2]],
    /// What rounding to `q` took away, in parts of [`REST`] of the scale; empty when no format of 16-bit activations reads
    /// this activation.
    pub rest: &'a [[i8; BLOCK]],
}

impl Activation<'_> {
    /// Of no values.
    pub const EMPTY: Activation<'static> = Activation { q: &[], scale: &[], sum: &[], rest: &[] };
}

/// How many steps of [`Activation::rest`] are one of [`Activation::q`]: a half of it, rounded, is at most 127.
pub const REST: f32 = 254.0;

/// How many blocks hold `columns` values.
pub fn n_blocks(columns: usize) -> usize {
    columns.div_ceil(BLOCK)
}

/// Quantizes `x` by blocks: `scale` is the largest magnitude over 127, `q` the nearest integers, ties to even.
///
/// A NaN or an infinity in a block makes its scale NaN or infinite, so that it reaches the logits and is noticed there.
// Loops with a number, for what iterators call is compiled for another instruction set where it is not inlined.
#[allow(clippy::needless_range_loop)]
#[inline(always)]
pub fn quantize(x: &[f32], q: &mut [[i8; BLOCK]], scale: &mut [f32], sum: &mut [[i32; 2]]) {
    for (block, values) in x.chunks(BLOCK).enumerate() {
        let values = &whole(values);
        // The bits of magnitudes order as the magnitudes do, with NaN above all: `f32::max` would lose a NaN.
        let mut largest = 0;
        for i in 0..BLOCK {
            let magnitude = values[i].to_bits() & 0x7fff_ffff;
            largest = if magnitude > largest { magnitude } else { largest };
        }
        let largest = f32::from_bits(largest);
        scale[block] = largest / 127.0;
        let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
        let (q, sum) = (&mut q[block], &mut sum[block]);
        *sum = [0; 2];
        for i in 0..BLOCK / 2 {
            q[i] = round_to_i8(values[i] * inverse);
            sum[0] += i32::from(q[i]);
        }
        for i in BLOCK / 2..BLOCK {
            q[i] = round_to_i8(values[i] * inverse);
            sum[1] += i32::from(q[i]);
        }
    }
}

/// Fills in `rest` for values `x` that are already quantized to `q`.
#[allow(clippy::needless_range_loop)]
#[inline(always)]
pub fn quantize_rest(x: &[f32], q: &[[i8; BLOCK]], scale: &[f32], rest: &mut [[i8; BLOCK]]) {
    for (block, values) in x.chunks(BLOCK).enumerate() {
        let (values, q, rest) = (&whole(values), &q[block], &mut rest[block]);
        // A scale that lost bits to underflow has no exact inverse.
        let inverse = if scale[block].is_normal() { 1.0 / scale[block] } else { 0.0 };
        for i in 0..BLOCK {
            rest[i] = if inverse > 0.0 { round_to_i8((values[i] * inverse - f32::from(q[i])) * REST) } else { 0 };
        }
    }
}

/// The values of a block, and zeros where the last one has fewer.
#[inline(always)]
fn whole(values: &[f32]) -> [f32; BLOCK] {
    match values.as_array() {
        Some(values) => *values,
        None => padded(values),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_last_block_is_padded_with_zero() {
        let x: Vec<f32> = (0..40).map(|i| i as f32 - 20.0).collect();
        let (mut q, mut scale, mut sum) = ([[1; BLOCK]; 2], [0.0; 2], [[0; 2]; 2]);
        quantize(&x, &mut q, &mut scale, &mut sum);
        assert_eq!(q[0][0], -127);
        assert_eq!(q[1][7], 127);
        assert_eq!(q[1][8..], [0; 24]);
        assert_eq!(sum[1], [q[1].iter().map(|&q| i32::from(q)).sum(), 0]);
        assert_eq!(scale[1], 19.0 / 127.0);
    }

    #[test]
    fn what_rounding_took_is_kept() {
        let x: [f32; 40] = core::array::from_fn(|i| (i as f32 * 0.37).sin() * if i < BLOCK { 1.0 } else { 1e-3 });
        let (mut q, mut scale, mut sum, mut rest) = ([[0; BLOCK]; 2], [0.0; 2], [[0; 2]; 2], [[1; BLOCK]; 2]);
        quantize(&x, &mut q, &mut scale, &mut sum);
        quantize_rest(&x, &q, &scale, &mut rest);
        for (i, x) in x.iter().enumerate() {
            let (block, at) = (i / BLOCK, i % BLOCK);
            let value = scale[block] * (f32::from(q[block][at]) + f32::from(rest[block][at]) / REST);
            assert!((value - x).abs() <= scale[block] * 0.51 / REST, "{i}: {value} for {x}");
        }
        assert_eq!(rest[1][8..], [0; 24]);
        for x in [0.0, 1e-42, f32::NAN, f32::INFINITY] {
            quantize(&[x; BLOCK], &mut q, &mut scale, &mut sum);
            quantize_rest(&[x; BLOCK], &q, &scale, &mut rest);
            assert_eq!(rest[0], [0; BLOCK]);
        }
    }

    #[test]
    fn not_a_number_is_not_lost() {
        let mut x = [1.0; BLOCK];
        x[7] = f32::NAN;
        let (mut q, mut scale, mut sum) = ([[0; BLOCK]; 1], [0.0; 1], [[0; 2]; 1]);
        quantize(&x, &mut q, &mut scale, &mut sum);
        assert!(scale[0].is_nan());
        x[7] = f32::INFINITY;
        quantize(&x, &mut q, &mut scale, &mut sum);
        assert!(!scale[0].is_finite());
    }

    #[test]
    fn zeros_stay_zeros() {
        let (mut q, mut scale, mut sum) = ([[9; BLOCK]; 1], [9.0; 1], [[9; 2]; 1]);
        quantize(&[0.0; BLOCK], &mut q, &mut scale, &mut sum);
        assert_eq!((q[0], scale[0], sum[0]), ([0; BLOCK], 0.0, [0; 2]));
    }
}
