//! MXFP4: 32 values, an exponent, a four-bit float each (ggml `block_mxfp4`; OCP Microscaling Formats 1.0, E2M1 with
//! E8M0).
//!
//! Byte map, 17 bytes: exponent `e` (0..1), 16 bytes (1..17) of which byte `i` holds value `i` in its low half and
//! value `i + 16` in its high half. A value is `2^(e - 128)` times twice the four-bit float, which is an integer.

use super::block::{self, Block};
use super::panel::COLUMNS;
use super::tile::{self, Lanes};
use super::{Format, Pack, Parts, Type};
use crate::simd::{BLOCK, Simd, each, each_row};

/// Bytes of a block.
const BYTES: usize = 17;

/// Twice the four-bit floats: one bit of sign, two of exponent, one of mantissa.
pub(super) const DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// The format.
pub(crate) struct MXFP4;

/// `2^(exponent - 128)`; the two smallest are subnormal floats.
#[inline(always)]
fn power(exponent: u8) -> f32 {
    f32::from_bits(match exponent {
        0 => 1 << 21,
        1 => 1 << 22,
        _ => (u32::from(exponent) - 1) << 23,
    })
}

impl Pack for MXFP4 {
    /// The first of the scales is the exponent; codes are 0 to 15.
    fn pack(parts: &Parts, block: &mut [u8]) {
        block[0] = parts.scales[0] as u8;
        block::pack_four(&block::code_bytes(parts, 0), &mut block[1..]);
    }
}

impl Format for MXFP4 {
    const TYPE: Type = Type::MXFP4;
    const INTEGER: bool = true;
    type Rows = block::Rows<BYTES>;

    fn dequantize(row: &[u8], out: &mut [f32]) {
        for (block, values) in row.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<BLOCK>().0) {
            let scale = power(block[0]);
            let doubled = |code: u8| f32::from(DOUBLED[usize::from(code)]);
            let (low, high) = values.split_at_mut(BLOCK / 2);
            for ((q, low), high) in block[1..].iter().zip(low).zip(high) {
                *low = scale * doubled(q & 15);
                *high = scale * doubled(q >> 4);
            }
        }
    }

    /// Nothing to do: every number is a byte.
    fn swap_endian(_: &mut [u8]) {}
}

impl Block<BYTES> for MXFP4 {
    const BIAS: Option<i32> = None;
    const MIN_AT: Option<usize> = None;

    #[inline(always)]
    fn scales<S: Simd>(s: S, blocks: impl Lanes<BYTES>) -> S::R {
        s.rows_load(&each_row!(r => power(blocks.byte(r))))
    }

    #[inline(always)]
    fn weights<S: Simd>(s: S, blocks: impl Lanes<BYTES>) -> [S::C; COLUMNS] {
        let codes = tile::nibbles_at(s, blocks, 1);
        each!(8, i => s.lookup(codes[i], &DOUBLED))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Worked out by hand from the byte map.
    #[test]
    fn golden_bytes() {
        let mut block = [0; BYTES];
        block[..3].copy_from_slice(&[128, 0xf1, 0x5a]); // 2^0
        let mut values = [9.0; BLOCK];
        MXFP4::dequantize(&block, &mut values);
        assert_eq!((values[0], values[1], values[16], values[17], values[2]), (1.0, -2.0, -12.0, 6.0, 0.0));
    }

    #[test]
    fn powers_of_two() {
        let exact = |exponent: u8| 2f64.powi(i32::from(exponent) - 128);
        assert!((0..=255).all(|exponent| f64::from(power(exponent)) == exact(exponent)));
    }
}
