//! Activations: what a weight row is multiplied with, in floats and, for integer formats, in 8-bit blocks.

use crate::simd::{BLOCK, LANES, Simd};

/// A block of activations as integers, and what products with it need to know of them.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct Quantized {
    /// The values divided by the scale and rounded, -127 to 127; zero where there are fewer values.
    pub q: [i8; BLOCK],
    /// What the integers are to be multiplied with.
    pub scale: f32,
    /// The sum of `q` times the scale, with its sign turned, for minimums are taken away.
    pub below: f32,
    /// The sum of `q` times what [`Simd::signed`](crate::simd::Simd::signed) adds to every weight, with its sign turned: sums of products
    /// begin with it.
    pub start: i32,
    /// [`Quantized::below`] of each half.
    pub below_halves: [f32; 2],
    /// [`Quantized::start`] of each half.
    pub start_halves: [i32; 2],
    /// The sum of each half of `q`. With it a block has 64 bytes.
    pub sums: [i16; 2],
}

impl Quantized {
    /// A block of zeros.
    pub const ZERO: Quantized = Quantized {
        q: [0; BLOCK],
        scale: 0.0,
        below: 0.0,
        start: 0,
        below_halves: [0.0; 2],
        start_halves: [0; 2],
        sums: [0; 2],
    };
}

/// What rounding to [`Quantized::q`] took away from a block.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct Rest {
    /// In parts of [`REST`] of the scale.
    pub q: [i8; BLOCK],
    /// As [`Quantized::start`].
    pub start: i32,
}

impl Rest {
    /// A block that rounding took nothing from.
    pub const ZERO: Rest = Rest { q: [0; BLOCK], start: 0 };
}

/// The activations of one token, as integers.
#[derive(Clone, Copy)]
pub struct Activation<'a> {
    /// The blocks.
    pub blocks: &'a [Quantized],
    /// What rounding took away; empty when no format of 16-bit activations reads this activation.
    pub rest: &'a [Rest],
}

impl Activation<'_> {
    /// Of no values.
    pub const EMPTY: Activation<'static> = Activation { blocks: &[], rest: &[] };
}

/// How many steps of [`Rest::q`] are one of [`Quantized::q`]: a half of it, rounded, is at most 127.
pub const REST: f32 = 254.0;

/// How many blocks hold `columns` values.
pub fn n_blocks(columns: usize) -> usize {
    columns.div_ceil(BLOCK)
}

/// Quantizes `x` by blocks: the scale is the largest magnitude over 127, `q` the nearest integers, ties to even. `offset` is what every
/// signed weight will count more than it is.
///
/// A NaN or an infinity in a block makes its scale NaN or infinite, so that it reaches the logits and is noticed there.
#[inline(always)]
pub(crate) fn quantize<S: Simd>(s: S, x: &[f32], offset: i32, blocks: &mut [Quantized]) {
    for (block, values) in x.chunks(BLOCK).enumerate() {
        let values = vectors(s, values);
        let (first, second) = (s.largest(values[0]), s.largest(values[1]));
        let largest = f32::from_bits(if first > second { first } else { second });
        let inverse = s.splat(if largest > 0.0 { 127.0 / largest } else { 0.0 });
        let out = &mut blocks[block];
        let q = out.q.as_chunks_mut::<LANES>().0;
        let first = s.round(s.mul(values[0], inverse), &mut q[0]);
        let second = s.round(s.mul(values[1], inverse), &mut q[1]);
        out.scale = largest / 127.0;
        out.below = -(first + second) as f32 * out.scale;
        out.start = -offset * (first + second);
        out.below_halves = [-first as f32 * out.scale, -second as f32 * out.scale];
        out.start_halves = [-offset * first, -offset * second];
        out.sums = [first as i16, second as i16];
    }
}

/// Fills in `rest` for values `x` that are already quantized to `blocks`; `offset` as for them.
#[inline(always)]
pub(crate) fn quantize_rest<S: Simd>(s: S, x: &[f32], offset: i32, blocks: &[Quantized], rest: &mut [Rest]) {
    for (block, values) in x.chunks(BLOCK).enumerate() {
        let (values, Quantized { q, scale, .. }, out) = (vectors(s, values), &blocks[block], &mut rest[block]);
        // A scale that lost bits to underflow has no exact inverse.
        if !scale.is_normal() {
            *out = Rest::ZERO;
            continue;
        }
        let (inverse, steps) = (s.splat(1.0 / scale), s.splat(REST));
        let mut total = 0;
        let (q, rests) = (q.as_chunks::<LANES>().0, out.q.as_chunks_mut::<LANES>().0);
        for half in 0..BLOCK / LANES {
            let rest = s.sub(s.mul(values[half], inverse), s.load_i8(&q[half]));
            total += s.round(s.mul(rest, steps), &mut rests[half]);
        }
        out.start = -offset * total;
    }
}

/// The values of a block, and zeros where the last one has fewer.
#[inline(always)]
fn vectors<S: Simd>(s: S, values: &[f32]) -> [S::F; BLOCK / LANES] {
    let n = if values.len() < LANES { values.len() } else { LANES };
    let (first, second) = values.split_at(n);
    match (first.as_array(), second.as_array()) {
        (Some(first), Some(second)) => [s.load(first), s.load(second)],
        _ => [s.load_part(first), s.load_part(second)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Scalar;

    #[test]
    fn a_short_last_block_is_padded_with_zero() {
        let x: Vec<f32> = (0..40).map(|i| i as f32 - 20.0).collect();
        let mut blocks = [Quantized { q: [1; BLOCK], ..Quantized::ZERO }; 2];
        quantize(Scalar, &x, 128, &mut blocks);
        assert_eq!(blocks[0].q[0], -127);
        let Quantized { q, scale, below, start, below_halves, start_halves, sums } = blocks[1];
        assert_eq!(q[7], 127);
        assert_eq!(q[8..], [0; 24]);
        let total: i16 = q.iter().map(|&q| i16::from(q)).sum();
        let (want_below, want_start) = (f32::from(-total) * scale, -128 * i32::from(total));
        assert_eq!((below, below_halves), (want_below, [want_below, 0.0]));
        assert_eq!((start, start_halves), (want_start, [want_start, 0]));
        assert_eq!(sums, [total, 0]);
        assert_eq!(scale, 19.0 / 127.0);
    }

    #[test]
    fn what_rounding_took_is_kept() {
        let x: [f32; 40] = core::array::from_fn(|i| (i as f32 * 0.37).sin() * if i < BLOCK { 1.0 } else { 1e-3 });
        let (mut blocks, mut rest) = ([Quantized::ZERO; 2], [Rest { q: [1; BLOCK], start: 0 }; 2]);
        quantize(Scalar, &x, 128, &mut blocks);
        quantize_rest(Scalar, &x, 128, &blocks, &mut rest);
        for (i, x) in x.iter().enumerate() {
            let Quantized { q, scale, .. } = blocks[i / BLOCK];
            let value = scale * (f32::from(q[i % BLOCK]) + f32::from(rest[i / BLOCK].q[i % BLOCK]) / REST);
            assert!((value - x).abs() <= scale * 0.51 / REST, "{i}: {value} for {x}");
        }
        assert_eq!(rest[1].q[8..], [0; 24]);
        assert_eq!(rest[1].start, rest[1].q.iter().map(|&q| -128 * i32::from(q)).sum());
        for x in [0.0, 1e-42, f32::NAN, f32::INFINITY] {
            quantize(Scalar, &[x; BLOCK], 0, &mut blocks);
            quantize_rest(Scalar, &[x; BLOCK], 128, &blocks, &mut rest);
            assert_eq!(rest[0], Rest::ZERO);
        }
    }

    #[test]
    fn not_a_number_is_not_lost() {
        let mut x = [1.0; BLOCK];
        x[7] = f32::NAN;
        let mut blocks = [Quantized::ZERO; 1];
        quantize(Scalar, &x, 0, &mut blocks);
        assert!(blocks[0].scale.is_nan());
        x[7] = f32::INFINITY;
        quantize(Scalar, &x, 0, &mut blocks);
        assert!(!blocks[0].scale.is_finite());
    }

    #[test]
    fn zeros_stay_zeros() {
        let mut blocks = [Quantized::ZERO];
        quantize(Scalar, &[9.0; BLOCK], 128, &mut blocks);
        assert_ne!(blocks[0], Quantized::ZERO);
        quantize(Scalar, &[0.0; BLOCK], 128, &mut blocks);
        assert_eq!(blocks[0], Quantized::ZERO);
    }
}
