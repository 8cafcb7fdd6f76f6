//! What the searches share: lanes, rounding, and importance that can be divided by.

/// Floats that are added side by side, so that the compiler may use vectors of them.
pub(super) const LANES: usize = 8;

/// The most weights in a block.
pub(super) const MAX_BLOCK: usize = 256;

/// The nearest integer, ties to even, of a number between -2^22 and 2^22.
///
/// Adding 1.5 * 2^23 leaves no room for a fraction; vectors have no rounding of their own before SSE4.1.
#[inline(always)]
pub(super) fn round(x: f32) -> f32 {
    const UNITS: f32 = 12_582_912.0;
    (x + UNITS) - UNITS
}

/// `x`, or the end of the range that it lies beyond. A NaN becomes `low`.
#[inline(always)]
pub(super) fn clamp(x: f32, low: f32, high: f32) -> f32 {
    let x = if x > low { x } else { low };
    if x < high { x } else { high }
}

/// One over `scale`, and zero where there is none.
#[inline(always)]
pub(super) fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// The largest magnitude of `values`.
#[inline(always)]
pub(super) fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |largest, value| largest.max(value.abs()))
}

/// The sum of `lanes`.
#[inline(always)]
pub(super) fn sum(lanes: [f32; LANES]) -> f32 {
    lanes.iter().sum()
}

/// Importances of a block, on average one and never zero: weights that nothing depends on are still rounded sensibly,
/// and sums of other scales neither vanish nor overflow.
pub(super) struct Importance([f32; MAX_BLOCK]);

impl Importance {
    /// Least importance, beside an average of one.
    const LEAST: f32 = 1e-6;

    /// From the importances of at most [`MAX_BLOCK`] weights.
    pub(super) fn new(importance: &[f32]) -> Importance {
        let mean = importance.iter().sum::<f32>() / importance.len() as f32;
        let mut even = [1.0; MAX_BLOCK];
        if mean > 0.0 && mean.is_finite() {
            for (even, given) in even.iter_mut().zip(importance) {
                *even = given / mean + Self::LEAST;
            }
        }
        Importance(even)
    }

    /// One for each of `values`.
    pub(super) fn of(&self, values: &[f32]) -> &[f32] {
        &self.0[..values.len()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_and_ranges() {
        assert_eq!([0.5, 1.5, -0.5, -2.6, 1e6].map(round), [0.0, 2.0, 0.0, -3.0, 1e6]);
        assert_eq!([-9.0, 2.0, 9.0, f32::NAN].map(|x| clamp(x, -1.0, 3.0)), [-1.0, 2.0, 3.0, -1.0]);
    }

    #[test]
    fn importance_has_a_mean_of_one() {
        let importance = Importance::new(&[0.0, 3e-30, 1e-30, 0.0]);
        let want = [0.0, 3.0, 1.0, 0.0];
        assert!(importance.of(&[0.0; 4]).iter().zip(want).all(|(got, want)| (got - want).abs() < 1e-5 && *got > 0.0));
        assert_eq!(Importance::new(&[0.0; 4]).of(&[0.0; 4]), [1.0; 4]);
        assert_eq!(Importance::new(&[f32::INFINITY; 4]).of(&[0.0; 4]), [1.0; 4]);
    }
}
