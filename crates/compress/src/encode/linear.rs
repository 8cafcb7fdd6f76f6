//! Formats whose integers lie evenly: Q2_0, Q4_0, Q5_0 and Q8_0, with one scale to a block, and Q3_K and Q6_K, with one to
//! each 16 weights.

use super::scaled::{Codebook, Measure, Scaled, Scales, targets};
use super::weights::{LANES, clamp, inverse, round, sum};
use smidgen_core::quant::Parts;

/// The integers from `low` to `high`.
pub(super) struct Linear {
    low: f32,
    high: f32,
    /// The code of the integer zero; codes are taken modulo 256.
    zero: i32,
    targets: &'static [f32],
}

impl Linear {
    /// `bits` bits, half of the codes below zero.
    const fn signed(bits: u32, targets: &'static [f32]) -> Linear {
        let half = 1 << (bits - 1);
        Linear { low: -half as f32, high: (half - 1) as f32, zero: half, targets }
    }
}

impl Codebook for Linear {
    fn group(&self) -> usize {
        1
    }

    fn targets(&self) -> &[f32] {
        self.targets
    }

    fn both_signs(&self) -> bool {
        true
    }

    fn measure(&self, _: usize, scale: f32, values: &[f32], importance: &[f32]) -> Measure {
        let inverse = inverse(scale);
        let (mut error, mut slope, mut curve) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        for (x, w) in values.as_chunks::<LANES>().0.iter().zip(importance.as_chunks::<LANES>().0) {
            for i in 0..LANES {
                let q = round(clamp(x[i] * inverse, self.low, self.high));
                let miss = x[i] - scale * q;
                error[i] += w[i] * miss * miss;
                slope[i] += w[i] * q * miss;
                curve[i] += w[i] * q * q;
            }
        }
        Measure { error: sum(error), slope: sum(slope), curve: sum(curve) }
    }

    fn choose(&self, scale: f32, block: &mut Parts, at: usize, values: &mut [f32], _: &[f32]) {
        let q = round(clamp(values[0] * inverse(scale), self.low, self.high));
        block.codes[at] = (q as i32 + self.zero) as u8 as u16;
        values[0] = q;
    }
}

/// A block of 32 under one scale.
const fn block(book: Linear) -> Scaled<Linear> {
    Scaled { book, len: 32, part: 32, scales: Scales::One, factor: 1.0 }
}

/// A superblock of 256 with a scale for each 16.
const fn superblock(book: Linear, scales: Scales) -> Scaled<Linear> {
    Scaled { book, len: 256, part: 16, scales, factor: 1.0 }
}

static THREE_BITS: [f32; 17] = targets(4.0, 2.4, 4.8);
static FOUR_BITS: [f32; 17] = targets(8.0, 6.5, 8.7);
static FIVE_BITS: [f32; 17] = targets(16.0, 13.9, 16.6);
static SIX_BITS: [f32; 13] = targets(32.0, 30.4, 32.6);
static EIGHT_BITS: [f32; 9] = targets(128.0, 126.4, 128.6);

static TWO_BITS: [f32; 25] = targets(1.0, 1.1, 4.5);

/// The integers -1, 0, 1 and 2.
pub(super) static Q2_0: Scaled<Linear> =
    Scaled { len: 64, part: 64, ..block(Linear { low: -1.0, high: 2.0, zero: 1, targets: &TWO_BITS }) };
pub(super) static Q4_0: Scaled<Linear> = block(Linear::signed(4, &FOUR_BITS));
pub(super) static Q5_0: Scaled<Linear> = block(Linear::signed(5, &FIVE_BITS));
pub(super) static Q8_0: Scaled<Linear> = block(Linear { zero: 0, ..Linear::signed(8, &EIGHT_BITS) });
pub(super) static Q3_K: Scaled<Linear> = superblock(Linear::signed(3, &THREE_BITS), Scales::Signed(32));
pub(super) static Q6_K: Scaled<Linear> = superblock(Linear::signed(6, &SIX_BITS), Scales::Signed(128));
