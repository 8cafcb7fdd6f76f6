//! Floats to integers by one addition.

/// 1.5 * 2^23: added to a float below 2^22 it leaves no room for a fraction, so the addition itself rounds, ties to even, the same on
/// every machine. The integer is what the sum's bits are more than [`ROUND_BITS`].
pub(crate) const ROUND: f32 = 12_582_912.0;
/// The bits of [`ROUND`].
pub(crate) const ROUND_BITS: i32 = ROUND.to_bits() as i32;

/// The integer nearest to `x`, a number below 2^22, ties to even; a cast would also see to what does not fit or is no number.
#[inline(always)]
pub(crate) fn nearest(x: f32) -> i32 {
    ((x + ROUND).to_bits() as i32).wrapping_sub(ROUND_BITS)
}

/// Rounds a float from -127.5 to 127.5 to the nearest integer, ties to even; what is infinite or no number becomes 0.
#[inline(always)]
pub(crate) fn round_to_i8(x: f32) -> i8 {
    nearest(x) as i8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_ties() {
        let even: Vec<i8> = [0.5, 1.5, 2.5, -0.5, -1.5, 126.5, -127.0].iter().map(|&x| round_to_i8(x)).collect();
        assert_eq!(even, [0, 2, 2, 0, -2, 126, -127]);
        for x in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
            assert_eq!(round_to_i8(x), 0);
        }
        assert_eq!([0.0, -2032.0, 4_194_303.0].map(nearest), [0, -2032, 4_194_303]);
    }
}
