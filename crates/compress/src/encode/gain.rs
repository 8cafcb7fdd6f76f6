//! What rounding takes from the size of weights, and how it is given back.
//!
//! Levels that lie where the error is least are nearer to zero than the weights they stand for: what is left of a weight,
//! `<w, q> / <w, w>`, is less than one, and that loss goes through every layer in the same direction while the rest of the
//! error does not. So weights are made larger before they are rounded, by most of what rounding will take.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use smidgen_core::quant::{Parts, Type};

use super::{Encoder, weights::MAX_BLOCK};

/// The share of the loss that is given back: the rest would cost more in error than it brings.
const GIVEN_BACK: f32 = 0.75;

/// What gives back most of the loss, when of a size of `whole` so much is `kept`.
pub(super) fn give_back(whole: f32, kept: f32) -> f32 {
    1.0 + GIVEN_BACK * (whole / kept - 1.0)
}

/// Blocks of random numbers that the loss is measured on.
const BLOCKS: usize = 16;

/// What weights are multiplied with before `encoder` rounds them to `kind`: measured on normally distributed numbers.
pub(crate) fn gain(kind: Type, encoder: &dyn Encoder) -> f32 {
    static KNOWN: Mutex<BTreeMap<u32, f32>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    *known.entry(kind.id()).or_insert_with(|| measure(kind.block_len(), encoder))
}

fn measure(block_len: usize, encoder: &dyn Encoder) -> f32 {
    let mut state = 1u32;
    let mut uniform = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    let (mut kept, mut whole) = (0.0, 0.0);
    for _ in 0..BLOCKS {
        // The sum of twelve uniform numbers is nearly normal, with a variance of one.
        let mut weights = [0.0; MAX_BLOCK];
        weights[..block_len].iter_mut().for_each(|weight| *weight = (0..12).map(|_| uniform()).sum());
        let (weights, mut rounded, mut parts) = (&weights[..block_len], weights, Parts::ZERO);
        let (rounded, importance) = (&mut rounded[..block_len], &[1.0; MAX_BLOCK][..block_len]);
        encoder.fit(weights, importance, &mut parts);
        encoder.round_block(&mut parts, rounded, importance, None);
        kept += weights.iter().zip(rounded).map(|(weight, rounded)| weight * *rounded).sum::<f32>();
        whole += weights.iter().map(|weight| weight * weight).sum::<f32>();
    }
    give_back(whole, kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::encoder;

    /// The fewer bits, the more is lost; the centroids of a quantizer keep one less its relative error.
    #[test]
    fn fewer_bits_need_more_gain() {
        let of = |kind: Type| gain(kind, encoder(kind).unwrap());
        let gains = [Type::Q2_W, Type::Q3_W, Type::Q4_W, Type::Q6_W].map(of);
        assert!(gains.is_sorted_by(|more, less| more > less), "{gains:?}");
        assert!((1.04..1.09).contains(&gains[0]) && (0.999..1.005).contains(&gains[3]), "{gains:?}");
    }
}
