//! Elementary functions of our own: additions and multiplications in one fixed order, so that every machine gets the same
//! bits (a platform's `expf` differs in the last one).

use crate::round::{ROUND, ROUND_BITS};
use crate::simd::{Kernel, LANES, Simd};

/// `e^x` to about one unit in the last place; 0 below -87, infinite above 88, NaN for NaN.
///
/// Range reduction by multiples of ln 2 in two parts (Cody and Waite), then the degree-5 polynomial of Cephes' `expf`.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let value = exp_to_88(x);
    if x > 88.0 { f32::INFINITY } else { value }
}

/// [`exp`] where `x` is at most 88, or NaN.
#[inline(always)]
pub(crate) fn exp_to_88(x: f32) -> f32 {
    let shifted = x * core::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * 0.693_359_4) - n * -2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let e = (p * (r * r) + r) + 1.0;
    // n is at most 127 here; outside the range its bits mean nothing and the result is replaced.
    let power = (shifted.to_bits() as i32).wrapping_sub(ROUND_BITS).wrapping_add(127) as u32;
    let value = e * f32::from_bits(power << 23);
    if x < -87.0 { 0.0 } else { value }
}

/// `x` times the logistic function of `x` (SiLU, also called swish).
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// GELU in its tanh form, `0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))` (Hendrycks and Gimpel 2016), written with the
/// logistic function: `(1 + tanh u) / 2 = 1 / (1 + e^(-2u))`.
#[inline(always)]
pub fn gelu_tanh(x: f32) -> f32 {
    let u = 0.797_884_6 * (x + 0.044_715 * x * x * x);
    x / (1.0 + exp(-2.0 * u))
}

/// Sine and cosine of `turn` / 2^32 full turns.
///
/// The nearest eighth decides the quadrant; the rest, at most pi/4, goes through the polynomials of Cephes' `sinf` and `cosf`.
#[inline(always)]
pub fn sin_cos_turn(turn: u32) -> (f32, f32) {
    let quadrant = turn.wrapping_add(1 << 29) >> 30;
    let rest = turn.wrapping_sub(quadrant << 30) as i32;
    // Rounded to 24 bits first: an x87 does not round when it converts an integer, so the conversion must be exact.
    // The factor is 2 pi / 2^32.
    let x = ((rest + 32) & !63) as f32 * 1.462_918e-9;
    let z = x * x;
    let sin = ((-1.951_529_6e-4 * z + 8.332_161e-3) * z - 1.666_665_5e-1) * z * x + x;
    let cos = ((2.443_315_7e-5 * z - 1.388_731_6e-3) * z + 4.166_664_6e-2) * z * z - 0.5 * z + 1.0;
    match quadrant {
        0 => (sin, cos),
        1 => (cos, -sin),
        2 => (-sin, -cos),
        _ => (-cos, sin),
    }
}

/// The square root, correctly rounded (IEEE 754 asks for it, so every machine agrees).
#[inline(always)]
pub fn sqrt(x: f32) -> f32 {
    libm::sqrtf(x)
}

/// The base-2 logarithm of `x`, in units of 2^-48; `x` is finite, normal and at least 1.
///
/// Bit by bit: squaring a number doubles its logarithm.
pub fn log2_fixed(x: f32) -> u64 {
    let bits = x.to_bits();
    let exponent = u64::from(bits >> 23) - 127;
    let mut mantissa = u64::from(bits & 0x7f_ffff | 0x80_0000) << 40;
    let mut fraction = 0;
    for _ in 0..48 {
        // The square of a number from 1 to 2 (63 bits behind the point) needs 2 bits before it.
        let square = (u128::from(mantissa) * u128::from(mantissa)) >> 63;
        let carry = (square >> 64) as u64 & 1;
        fraction = fraction << 1 | carry;
        mantissa = (square >> carry) as u64;
    }
    exponent << 48 | fraction
}

/// `2^-y` as a fraction of 2^64, for `y` in units of 2^-48; 2^64 - 1 for `y` = 0.
///
/// The whole part is a shift, the rest the Taylor series of `e^(-y ln 2)`.
pub fn exp2_neg_fixed(y: u64) -> u64 {
    /// ln 2 as a fraction of 2^64.
    const LN_2: u128 = 0xb172_17f7_d1cf_79ac;
    let whole = y >> 48;
    let z = (u128::from(y & 0xffff_ffff_ffff) * LN_2) >> 48;
    let one = 1u128 << 64;
    // Horner's rule from the 21st term: 1 - z/1 (1 - z/2 (1 - z/3 ...)); every bracket lies between 0 and 1.
    let mut sum = one;
    for k in (1..=21).rev() {
        sum = one - ((z * sum) >> 64) / k;
    }
    let shifted = sum >> whole.min(127);
    shifted.min(u128::from(u64::MAX)) as u64
}

/// Applies an activation function of one argument to every value.
pub struct Map<'a, F: Fn(f32) -> f32> {
    /// The values, replaced.
    pub x: &'a mut [f32],
    /// The function.
    pub f: F,
}

impl<F: Fn(f32) -> f32> Kernel for Map<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for x in self.x {
            *x = (self.f)(*x);
        }
    }
}

/// Replaces every gate by `f(gate) * up`.
pub struct Gate<'a, F: Fn(f32) -> f32> {
    /// The gates, replaced.
    pub gate: &'a mut [f32],
    /// What they let through.
    pub up: &'a [f32],
    /// The activation function.
    pub f: F,
}

impl<F: Fn(f32) -> f32> Kernel for Gate<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for (gate, up) in self.gate.iter_mut().zip(self.up) {
            *gate = (self.f)(*gate) * up;
        }
    }
}

/// The dot product of two float slices of one length, in the lane order of float rows (see [`LANES`]).
#[inline(always)]
pub fn dot<S: Simd>(s: S, a: &[f32], b: &[f32]) -> f32 {
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    let mut sums = s.splat(0.0);
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        sums = s.add(sums, s.mul(s.load(a), s.load(b)));
    }
    if !a_rest.is_empty() {
        sums = s.add(sums, s.mul(s.load_part(a_rest), s.load_part(b_rest)));
    }
    s.sum(sums)
}

/// The sum of a slice in the lane order of float rows.
#[inline(always)]
pub fn sum<S: Simd>(s: S, x: &[f32]) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut sums = s.splat(0.0);
    for chunk in chunks {
        sums = s.add(sums, s.load(chunk));
    }
    if !rest.is_empty() {
        sums = s.add(sums, s.load_part(rest));
    }
    s.sum(sums)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units_of_the_exact_value() {
        let mut x = -87.0f32;
        while x < 88.0 {
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 1.5e-7, "exp({x}) is off by {error:e}");
            x += 0.001_7;
        }
    }

    #[test]
    fn exp_at_the_edges() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-87.1), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(88.1), f32::INFINITY);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(-87.0) > 0.0 && exp(88.0).is_finite());
    }

    #[test]
    fn activations_match_their_definitions() {
        for i in -800..800 {
            let x = i as f32 * 0.0125;
            let wide = f64::from(x);
            let silu_exact = wide / (1.0 + (-wide).exp());
            let u = (2.0 / core::f64::consts::PI).sqrt() * (wide + 0.044715 * wide.powi(3));
            let gelu_exact = 0.5 * wide * (1.0 + u.tanh());
            assert!((f64::from(silu(x)) - silu_exact).abs() < 1e-6 * (1.0 + wide.abs()));
            assert!((f64::from(gelu_tanh(x)) - gelu_exact).abs() < 1e-6 * (1.0 + wide.abs()));
        }
        assert_eq!(silu(-1000.0), 0.0);
        assert_eq!(gelu_tanh(-1000.0), 0.0);
        assert_eq!(gelu_tanh(1000.0), 1000.0);
    }

    #[test]
    fn a_turn_has_its_sine_and_cosine() {
        for i in 0..100_000u32 {
            let turn = i.wrapping_mul(42_949_673);
            let angle = f64::from(turn) / 4_294_967_296.0 * core::f64::consts::TAU;
            let (sin, cos) = sin_cos_turn(turn);
            assert!((f64::from(sin) - angle.sin()).abs() < 1.2e-7, "sin {turn}");
            assert!((f64::from(cos) - angle.cos()).abs() < 1.2e-7, "cos {turn}");
        }
        assert_eq!(sin_cos_turn(0), (0.0, 1.0));
        assert_eq!(sin_cos_turn(1 << 30), (1.0, 0.0));
        assert_eq!(sin_cos_turn(1 << 31), (0.0, -1.0));
    }

    #[test]
    fn fixed_point_logarithm_and_power() {
        for x in [1.0f32, 1.5, 2.0, 10_000.0, 500_000.0, 1e6, 3.0e8] {
            let log = log2_fixed(x) as f64 / 2f64.powi(48);
            assert!((log - f64::from(x).log2()).abs() < 1e-12, "log2({x}) = {log}");
        }
        for y in [0.0, 0.25, 0.999, 1.0, 3.7, 13.287_712, 31.5] {
            let power = exp2_neg_fixed((y * 2f64.powi(48)) as u64) as f64 / 2f64.powi(64);
            assert!((power - (-y).exp2()).abs() < 1e-15, "2^-{y} = {power}");
        }
    }
}
