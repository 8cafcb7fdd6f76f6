//! Rotary position embeddings (Su et al. 2021) with angles that are exact on every machine.
//!
//! A frequency is stored as the fraction of a turn per position, in units of 2^-64. Position times frequency then wraps
//! round by itself: range reduction costs nothing, needs no f64, and position 100,000 is as accurate as position 1.

use super::math::{exp2_neg_fixed, log2_fixed, sin_cos_turn};
use super::norm::Vector;
use crate::simd::{Kernel, Simd};

/// Which two values of a head turn together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Values `2i` and `2i + 1` (GGUF's `llama`, llama2.c).
    Interleaved,
    /// Values `i` and `i + n_rot / 2` (GPT-NeoX, Hugging Face).
    Split,
}

/// How frequencies are stretched for contexts longer than those of training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scaling {
    /// Not at all.
    None,
    /// Divided by a factor (Chen et al. 2023).
    Linear {
        /// The factor.
        factor: f32,
    },
    /// YaRN (Peng et al. 2023): low frequencies divided, high ones kept, those between blended.
    Yarn {
        /// The factor for low frequencies.
        factor: f32,
        /// The context length of training.
        original_context: u32,
        /// Frequencies that turn more often than this within the original context are kept.
        beta_fast: f32,
        /// Frequencies that turn less often than this are divided.
        beta_slow: f32,
        /// What sine and cosine are multiplied with, on top of `0.1 ln(factor) + 1`.
        attention_factor: f32,
    },
}

/// The rotation of one kind of layer.
#[derive(Clone, Copy, Debug)]
pub struct Rope<'a> {
    /// Which values turn together.
    pub layout: Layout,
    /// How many values of each head turn; even.
    pub n_rot: usize,
    /// The base of the frequencies, at least 1.
    pub theta: f32,
    /// How frequencies are stretched.
    pub scaling: Scaling,
    /// Divisors, one for each frequency (llama3's scaling), or none.
    pub factors: Vector<'a>,
}

/// `log2(2 pi)`, in units of 2^-48.
const LOG2_TAU: i64 = 746_329_811_291_615;
/// `1 / (2 pi)` as a fraction of 2^64.
const TURN_PER_RADIAN: u128 = 0x28be_60db_9391_054a;
/// The natural logarithm of 2.
const LN_2: f32 = core::f32::consts::LN_2;
/// A logarithm in units of 2^-48, as a float.
const FIXED_ONE: f32 = 281_474_976_710_656.0;

impl Rope<'_> {
    /// Writes the turns per position of each of the `n_rot / 2` frequencies.
    pub fn frequencies(&self, out: &mut [u64]) {
        let log_theta = log2_fixed(self.theta);
        for (i, out) in out.iter_mut().enumerate() {
            let exponent = (u128::from(log_theta) * (2 * i as u128) / self.n_rot as u128) as u64;
            let radians = exp2_neg_fixed(exponent);
            let turns = ((u128::from(radians) * TURN_PER_RADIAN) >> 64) as u64;
            let stretched = scale(turns, self.stretch(i, log_theta));
            *out = self.factors.iter().nth(i).map_or(stretched, |factor| scale(stretched, 1.0 / factor));
        }
    }

    /// What frequency `i` is multiplied with.
    fn stretch(&self, i: usize, log_theta: u64) -> f32 {
        match self.scaling {
            Scaling::None => 1.0,
            Scaling::Linear { factor } => 1.0 / factor,
            Scaling::Yarn { factor, original_context, beta_fast, beta_slow, .. } => {
                let last = self.n_rot as f32 - 1.0;
                let dimension = |beta| self.dimension_of(beta, original_context, log_theta);
                let low = floor(dimension(beta_fast)).max(0.0);
                let high = (-floor(-dimension(beta_slow))).min(last);
                let ramp = ((i as f32 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
                (1.0 - ramp) + ramp / factor
            }
        }
    }

    /// The frequency that turns `beta` times within `context` positions, as a fractional index.
    fn dimension_of(&self, beta: f32, context: u32, log_theta: u64) -> f32 {
        // ln(context / (beta 2 pi)) / ln(theta): a quotient of logarithms of any base.
        let log = log2_fixed(context.max(1) as f32) as i64 - log2_of(beta) - LOG2_TAU;
        self.n_rot as f32 * (log as f32 / FIXED_ONE) / (2.0 * (log_theta as f32 / FIXED_ONE))
    }

    /// What sine and cosine are multiplied with.
    pub fn magnitude(&self) -> f32 {
        match self.scaling {
            Scaling::Yarn { factor, attention_factor, .. } => {
                attention_factor * (0.1 * (log2_of(factor) as f32 / FIXED_ONE * LN_2) + 1.0)
            }
            _ => 1.0,
        }
    }

    /// Writes (cosine, sine) for every frequency at `position`, one after the other, times `magnitude`.
    pub fn angles(frequencies: &[u64], position: usize, magnitude: f32, out: &mut [f32]) {
        for (frequency, out) in frequencies.iter().zip(out.as_chunks_mut::<2>().0) {
            let turns = frequency.wrapping_mul(position as u64);
            // Rounded to 2^-32 of a turn: a billionth of a radian.
            let (sin, cos) = sin_cos_turn((turns >> 32) as u32);
            *out = [cos * magnitude, sin * magnitude];
        }
    }

    /// Turns one head by the `angles` of its position.
    #[inline(always)]
    pub fn turn(layout: Layout, angles: &[f32], head: &mut [f32]) {
        let (angles, _) = angles.as_chunks::<2>();
        match layout {
            Layout::Interleaved => {
                for ([cos, sin], pair) in angles.iter().zip(head.as_chunks_mut::<2>().0) {
                    let [a, b] = *pair;
                    *pair = [a * cos - b * sin, a * sin + b * cos];
                }
            }
            Layout::Split => {
                let (first, second) = head.split_at_mut(angles.len());
                for (([cos, sin], a), b) in angles.iter().zip(first).zip(second) {
                    (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
                }
            }
        }
    }
}

/// Turns every head of every token where it lies.
pub struct Turn<'a> {
    /// Which values turn together.
    pub layout: Layout,
    /// (tokens, n_rot): cosine and sine of every frequency.
    pub angles: &'a [f32],
    /// Values of a head that turn; the rest stay.
    pub n_rot: usize,
    /// Values of a head.
    pub head_dim: usize,
    /// (tokens, heads, head_dim).
    pub heads: &'a mut [f32],
}

impl Kernel for Turn<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let n_tokens = self.angles.len() / self.n_rot;
        let width = self.heads.len() / n_tokens;
        for (angles, heads) in self.angles.chunks_exact(self.n_rot).zip(self.heads.chunks_exact_mut(width)) {
            for head in heads.chunks_exact_mut(self.head_dim) {
                Rope::turn(self.layout, angles, &mut head[..self.n_rot]);
            }
        }
    }
}

/// The base-2 logarithm of `x` in units of 2^-48, for `x` from 2^-16.
fn log2_of(x: f32) -> i64 {
    log2_fixed((x * 65_536.0).max(1.0)) as i64 - (16 << 48)
}

/// The largest integer that is not above `x`, for |x| below 2^31.
fn floor(x: f32) -> f32 {
    let whole = x as i32 as f32;
    if whole > x { whole - 1.0 } else { whole }
}

/// A fraction of 2^64 times a positive factor, exact but for the last bit.
fn scale(turns: u64, factor: f32) -> u64 {
    if factor == 1.0 {
        return turns;
    }
    let bits = factor.to_bits();
    let mantissa = u128::from(bits & 0x7f_ffff | 0x80_0000);
    let product = u128::from(turns) * mantissa;
    // factor = mantissa * 2^(exponent - 150); a product of 88 bits leaves 40 for factors above one.
    match (bits >> 23) as i32 - 150 {
        shift if shift >= 0 => (product << shift.min(40)) as u64,
        shift => (product >> (-shift).min(127)) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(n_rot: usize, theta: f32, scaling: Scaling) -> Rope<'static> {
        Rope { layout: Layout::Split, n_rot, theta, scaling, factors: Vector::EMPTY }
    }

    fn radians(rope: &Rope<'_>) -> Vec<f64> {
        let mut turns = vec![0; rope.n_rot / 2];
        rope.frequencies(&mut turns);
        turns.iter().map(|&t| t as f64 / 2f64.powi(64) * core::f64::consts::TAU).collect()
    }

    #[test]
    fn frequencies_are_powers_of_theta() {
        for theta in [10_000.0f32, 500_000.0, 1_000_000.0] {
            for (i, got) in radians(&rope(64, theta, Scaling::None)).into_iter().enumerate() {
                let want = f64::from(theta).powf(-2.0 * i as f64 / 64.0);
                assert!((got - want).abs() < 1e-14, "theta {theta}, frequency {i}: {got}, not {want}");
            }
        }
    }

    #[test]
    fn linear_scaling_divides() {
        let plain = radians(&rope(8, 10_000.0, Scaling::None));
        let scaled = radians(&rope(8, 10_000.0, Scaling::Linear { factor: 3.0 }));
        for (plain, scaled) in plain.iter().zip(scaled) {
            assert!((plain / 3.0 - scaled).abs() < 1e-7 * plain);
        }
    }

    /// The definition in f64, as in the paper's code: `low` and `high` are whole indices.
    #[test]
    fn yarn_blends_between_its_betas() {
        let scaling = Scaling::Yarn {
            factor: 4.0,
            original_context: 4096,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor: 1.0,
        };
        let rope = rope(64, 10_000.0, scaling);
        let index = |beta: f64| 64.0 * (4096.0 / (beta * core::f64::consts::TAU)).ln() / (2.0 * 10_000f64.ln());
        let (low, high) = (index(32.0).floor(), index(1.0).ceil());
        for (i, got) in radians(&rope).into_iter().enumerate() {
            let plain = 10_000f64.powf(-2.0 * i as f64 / 64.0);
            let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
            let want = plain * (1.0 - ramp) + plain / 4.0 * ramp;
            assert!((got - want).abs() < 1e-6 * want, "frequency {i}: {got}, not {want}");
        }
        assert!((rope.magnitude() - (0.1 * 4f32.ln() + 1.0)).abs() < 1e-6);
    }

    #[test]
    fn a_distant_position_is_as_exact_as_a_near_one() {
        let mut turns = [0; 4];
        rope(8, 10_000.0, Scaling::None).frequencies(&mut turns);
        let mut angles = [0.0; 8];
        Rope::angles(&turns, 1_000_003, 1.0, &mut angles);
        for i in 0..4 {
            let angle = 1_000_003.0 * 10_000f64.powf(-2.0 * i as f64 / 8.0);
            assert!((f64::from(angles[2 * i]) - angle.cos()).abs() < 1e-6);
            assert!((f64::from(angles[2 * i + 1]) - angle.sin()).abs() < 1e-6);
        }
    }

    #[test]
    fn both_layouts_turn_the_same_pairs() {
        let angles = [0.6, 0.8, 0.8, -0.6];
        let mut interleaved = [1.0, 2.0, 3.0, 4.0];
        let mut split = [1.0, 3.0, 2.0, 4.0];
        Rope::turn(Layout::Interleaved, &angles, &mut interleaved);
        Rope::turn(Layout::Split, &angles, &mut split);
        assert_eq!(interleaved, [split[0], split[2], split[1], split[3]]);
        assert!((interleaved[0] - (0.6 - 1.6)).abs() < 1e-6);
    }
}
