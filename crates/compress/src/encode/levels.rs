//! Formats of sixteen uneven levels: IQ4_NL and IQ4_XS, under scales like any other, and MXFP4, whose scales are powers
//! of two.

use super::Encoder;
use super::scaled::{Codebook, Measure, Scaled, Scales, targets};
use super::weights::{Importance, LANES, inverse, largest, sum};
use smidgen_core::quant::{Parts, Type};
use std::sync::LazyLock;

/// The levels of a type, in order.
pub(super) struct Levels {
    /// The lowest.
    lowest: f32,
    /// Halfway between each level and the next, and how far that is from it. A type with fewer has infinite ones.
    steps: [(f32, f32); 15],
    /// The code of each level.
    codes: [u16; 16],
}

impl Levels {
    fn new(kind: Type) -> Levels {
        let mut levels: Vec<(i8, u16)> = (0..).map_while(|code| Some((kind.point(code)?[0], code))).collect();
        levels.sort_unstable();
        // MXFP4 has two zeros.
        levels.dedup_by_key(|(level, _)| *level);
        let mut steps = [(f32::INFINITY, 0.0); 15];
        for (step, pair) in steps.iter_mut().zip(levels.windows(2)) {
            let (from, to) = (f32::from(pair[0].0), f32::from(pair[1].0));
            *step = ((from + to) / 2.0, to - from);
        }
        let mut codes = [0; 16];
        for (code, level) in codes.iter_mut().zip(&levels) {
            *code = level.1;
        }
        Levels { lowest: f32::from(levels[0].0), steps, codes }
    }

    /// The nearest level.
    #[inline(always)]
    fn nearest(&self, x: f32) -> f32 {
        // Without branches: a vector goes up all steps at once.
        self.steps.iter().fold(self.lowest, |level, (middle, step)| level + if x > *middle { *step } else { 0.0 })
    }

    fn measure(&self, scale: f32, values: &[f32], importance: &[f32]) -> Measure {
        let inverse = inverse(scale);
        let (mut error, mut slope, mut curve) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        for (x, w) in values.as_chunks::<LANES>().0.iter().zip(importance.as_chunks::<LANES>().0) {
            for i in 0..LANES {
                let q = self.nearest(x[i] * inverse);
                let miss = x[i] - scale * q;
                error[i] += w[i] * miss * miss;
                slope[i] += w[i] * q * miss;
                curve[i] += w[i] * q * q;
            }
        }
        Measure { error: sum(error), slope: sum(slope), curve: sum(curve) }
    }

    /// The code and the level of `value` under `scale`.
    fn choose(&self, scale: f32, value: f32) -> (u16, f32) {
        let x = value * inverse(scale);
        let number = self.steps.iter().filter(|(middle, _)| x > *middle).count();
        (self.codes[number], self.nearest(x))
    }
}

static NON_LINEAR: LazyLock<Levels> = LazyLock::new(|| Levels::new(Type::IQ4_NL));
static FLOATS: LazyLock<Levels> = LazyLock::new(|| Levels::new(Type::MXFP4));

/// The levels of IQ4_NL and IQ4_XS.
pub(super) struct NonLinear;

impl Codebook for NonLinear {
    fn group(&self) -> usize {
        1
    }

    fn targets(&self) -> &[f32] {
        static TARGETS: [f32; 15] = targets(127.0, 96.0, 150.0);
        &TARGETS
    }

    fn both_signs(&self) -> bool {
        true
    }

    fn measure(&self, _: usize, scale: f32, values: &[f32], importance: &[f32]) -> Measure {
        NON_LINEAR.measure(scale, values, importance)
    }

    fn choose(&self, scale: f32, block: &mut Parts, at: usize, values: &mut [f32], _: &[f32]) {
        (block.codes[at], values[0]) = NON_LINEAR.choose(scale, values[0]);
    }
}

pub(super) static IQ4_NL: Scaled<NonLinear> =
    Scaled { book: NonLinear, len: 32, part: 32, scales: Scales::One, factor: 1.0 };
pub(super) static IQ4_XS: Scaled<NonLinear> =
    Scaled { book: NonLinear, len: 256, part: 32, scales: Scales::Signed(32), factor: 1.0 };

/// MXFP4.
pub(super) struct PowersOfTwo;

pub(super) static MXFP4: PowersOfTwo = PowersOfTwo;

/// `2^(exponent - 128)`, of exponents from 2.
fn power(exponent: i16) -> f32 {
    f32::from_bits((exponent as u32 - 1) << 23)
}

impl Encoder for PowersOfTwo {
    fn group(&self) -> usize {
        1
    }

    /// Measures every power of two that may be the best: from one under which the largest weight is a little more than
    /// half of the largest level, to one under which it is cut to a quarter.
    fn fit(&self, values: &[f32], importance: &[f32], block: &mut Parts) {
        let importance = Importance::new(importance);
        let largest = largest(values);
        // The exponent of the largest weight over 8: levels go to 12.
        let middle = (largest.to_bits() >> 23) as i16 - 127 - 3 + 128;
        let mut best = f32::INFINITY;
        for exponent in middle - 2..=middle + 1 {
            let exponent = exponent.clamp(2, 254);
            let error = FLOATS.measure(power(exponent), values, importance.of(values)).error;
            if error < best {
                best = error;
                block.scales[0] = exponent;
            }
        }
    }

    fn round(&self, block: &mut Parts, at: usize, values: &mut [f32], _: &[f32]) {
        let scale = power(block.scales[0]);
        let (code, level) = FLOATS.choose(scale, values[0]);
        block.codes[at] = code;
        values[0] = scale * level;
    }
}
