//! IQ2_XS: 256 values, one half-float scale, four-bit ones for each 16, points of a grid for each 8 (ggml
//! `block_iq2_xs`).
//!
//! Byte map, 74 bytes: scale as f16 (0..2), a u16 for each 8 values (2..66), the number of a point in its low 9 bits,
//! seven signs above; a byte for each block (66..74), the scale of its first half below that of its second. A value is
//! `d * (scale + 1/2) / 4 * coordinate`, taken as an eighth of `d` times an odd integer.

use super::block::{self, bytes_at};
use super::panel::{Halves, Weights};
use super::superblock::{self, BLOCKS, HALVES, SUPERBLOCK, Superblock, half_at};
use super::tile::Lanes;
use super::{Format, Pack, Parts, Type, grid, grids};
use crate::simd::{BLOCK, Simd, each};

/// Bytes of a superblock.
const BYTES: usize = 74;

/// The first and the last four coordinates of every point.
pub(super) static POINTS: [[u32; 512]; 2] = grid::two_bit_points(&grids::IQ2_XS);

/// The format.
pub(crate) struct IQ2_XS;

impl Pack for IQ2_XS {
    /// Sixteen odd scales of 1 to 31; for each 8 values the number of a point and signs, an even number of them negative.
    fn pack(parts: &Parts, out: &mut [u8]) {
        block::put_half(out, 0, parts.d);
        let word = |i: usize| parts.codes[8 * i] & 511 | u16::from(parts.signs[i]) << 9;
        superblock::put_words((0..SUPERBLOCK / 8).map(word), &mut out[2..66]);
        grid::pack_odd_scales(parts, &mut out[66..]);
    }
}

impl Format for IQ2_XS {
    const TYPE: Type = Type::IQ2_XS;
    const INTEGER: bool = true;
    type Rows = superblock::Rows<BYTES>;

    fn dequantize(row: &[u8], out: &mut [f32]) {
        superblock::dequantize::<Self, BYTES>(row, out);
    }

    fn swap_endian(blocks: &mut [u8]) {
        block::swap_half::<BYTES>(blocks, 0);
        for group in 0..SUPERBLOCK / 8 {
            block::swap_half::<BYTES>(blocks, 2 + 2 * group);
        }
    }
}

impl Superblock<BYTES> for IQ2_XS {
    const BY_WORDS: bool = true;
    const HEAD: usize = 2;
    const SCALES_PER_BLOCK: usize = 2;
    const FACTOR: f32 = 0.125;

    #[inline(always)]
    fn scales(superblock: &[u8; BYTES]) -> [i8; HALVES] {
        grid::odd_scales(bytes_at(superblock, 66))
    }

    #[inline(always)]
    fn weights(superblock: &[u8; BYTES], block: usize) -> [u8; BLOCK] {
        grid::block_of(|i| {
            let packed = half_at(superblock, 2 + 8 * block + 2 * i);
            let point = grid::two_bit_point(&POINTS, usize::from(packed & 511));
            grid::with_signs(point, grid::even_signs(u32::from(packed >> 9)))
        })
    }

    #[inline(always)]
    fn unpack_scales<S: Simd>(s: S, rows: impl Lanes<BYTES>, halves: &mut Halves) {
        grid::unpack_odd_scales(s, rows, 66, halves);
    }

    #[inline(always)]
    fn unpack_weights<S: Simd>(s: S, rows: impl Lanes<BYTES>, out: &mut impl Weights<S>) {
        for block in 0..BLOCKS {
            // Two points and their signs in each.
            let (first, second) = (rows.word(s, 2 + 8 * block), rows.word(s, 6 + 8 * block));
            let pair = |word: S::C| s.or(s.and(s.down(word, 9), s.all(127)), s.and(s.down(word, 17), s.all(127 << 8)));
            let signs = grid::even_signs_of_four(s, s.or(pair(first), s.up(pair(second), 16)));
            let number = |i: usize| s.down(if i < 2 { first } else { second }, i % 2 * 16);
            let coordinates = each!(8, i => s.entries(number(i / 2), &POINTS[i % 2]));
            out.put_signed(s, block, each!(8, i => s.with_signs(coordinates[i], signs, 4 * i)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Worked out by hand from the byte map.
    #[test]
    fn golden_bytes() {
        let mut superblock = [0; BYTES];
        superblock[..2].copy_from_slice(&[0x00, 0x48]); // 8
        superblock[2 + 2 * 22..][..2].copy_from_slice(&[0x01, 0x04]); // Point 1; the second value is negative.
        superblock[66 + 5] = 0x30; // Scale 3 for the second half of block 5.
        let mut values = [9.0; SUPERBLOCK];
        IQ2_XS::dequantize(&superblock, &mut values);
        assert_eq!(values[22 * 8..][..8], [43.0, -8.0, 8.0, 8.0, 8.0, 8.0, 8.0, -8.0].map(|x| x * 7.0));
        assert_eq!(values[0], 8.0);
    }
}
