//! The types of so few codes that the best scale there is can be computed: -1, 0 and 1 in TQ1_0 and TQ2_0, -1 and 1 in
//! Q1_0.

use super::weights::{Importance, MAX_BLOCK, clamp, inverse, round};
use super::{Encoder, half};
use smidgen_core::quant::Parts;

/// Both ternary types: they differ in how codes are packed.
pub(super) struct Ternary;

/// Q1_0.
pub(super) struct Signs;

pub(super) static TERNARY: Ternary = Ternary;
pub(super) static Q1_0: Signs = Signs;

impl Encoder for Ternary {
    fn group(&self) -> usize {
        1
    }

    /// Whatever the best scale is, the weights that do not become zero are the largest ones, and the best scale for the
    /// largest `k` is their mean. So every `k` is tried.
    fn fit(&self, values: &[f32], importance: &[f32], block: &mut Parts) {
        let importance = Importance::new(importance);
        let mut sorted = [(0.0, 0.0); MAX_BLOCK];
        let sorted = &mut sorted[..values.len()];
        for ((pair, x), w) in sorted.iter_mut().zip(values).zip(importance.of(values)) {
            *pair = (x.abs(), *w);
        }
        sorted.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
        let (mut sum, mut weight, mut best) = (0.0, 0.0, 0.0);
        for (x, w) in sorted {
            sum += *x * *w;
            weight += *w;
            // What the error falls by.
            if sum * sum / weight > best {
                best = sum * sum / weight;
                block.d = half(sum / weight);
            }
        }
    }

    fn round(&self, block: &mut Parts, at: usize, values: &mut [f32], _: &[f32]) {
        let q = round(clamp(values[0] * inverse(block.d), -1.0, 1.0));
        block.codes[at] = (q + 1.0) as u16;
        values[0] = block.d * q;
    }
}

impl Encoder for Signs {
    fn group(&self) -> usize {
        1
    }

    /// The mean magnitude.
    fn fit(&self, values: &[f32], importance: &[f32], block: &mut Parts) {
        let importance = Importance::new(importance);
        let (mut sum, mut weight) = (0.0, 0.0);
        for (x, w) in values.iter().zip(importance.of(values)) {
            sum += x.abs() * w;
            weight += w;
        }
        block.d = half(sum / weight);
    }

    fn round(&self, block: &mut Parts, at: usize, values: &mut [f32], _: &[f32]) {
        let up = values[0] >= 0.0;
        block.codes[at] = u16::from(up);
        values[0] = if up { block.d } else { -block.d };
    }
}
