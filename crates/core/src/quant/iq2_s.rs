//! IQ2_S: 256 values, one half-float scale, four-bit ones for each 16, points of a grid for each 8 (ggml
//! `block_iq2_s`).
//!
//! Byte map, 82 bytes: scale as f16 (0..2), for each 8 values a byte with the low 8 bits of a point's number (2..34)
//! and a byte of signs (34..66), for each block a byte with the upper two bits of its four points, the first lowest
//! (66..74), and a byte with the scale of its first half below that of its second (74..82). A value is `d * (scale +
//! 1/2) / 4 * coordinate`, taken as an eighth of `d` times an odd integer.

use super::block::{self, bytes_at};
use super::panel::{Halves, Weights};
use super::superblock::{self, BLOCKS, HALVES, Superblock};
use super::tile::Lanes;
use super::{Format, Pack, Parts, Type, grid, grids};
use crate::simd::{BLOCK, Simd, each};

/// Bytes of a superblock.
const BYTES: usize = 82;

/// The first and the last four coordinates of every point.
pub(super) static POINTS: [[u32; 1024]; 2] = grid::two_bit_points(&grids::IQ2_S);

/// The format.
pub(crate) struct IQ2_S;

impl Pack for IQ2_S {
    /// Sixteen odd scales of 1 to 31; for each 8 values the number of a point and signs.
    fn pack(parts: &Parts, out: &mut [u8]) {
        block::put_half(out, 0, parts.d);
        for (i, code) in parts.codes.iter().step_by(8).enumerate() {
            out[2 + i] = *code as u8;
            out[66 + i / 4] |= ((code >> 8 & 3) << (i % 4 * 2)) as u8;
        }
        out[34..66].copy_from_slice(&parts.signs);
        grid::pack_odd_scales(parts, &mut out[74..]);
    }
}

impl Format for IQ2_S {
    const TYPE: Type = Type::IQ2_S;
    const INTEGER: bool = true;
    type Rows = superblock::Rows<BYTES>;

    fn dequantize(row: &[u8], out: &mut [f32]) {
        superblock::dequantize::<Self, BYTES>(row, out);
    }

    fn swap_endian(blocks: &mut [u8]) {
        block::swap_half::<BYTES>(blocks, 0);
    }
}

impl Superblock<BYTES> for IQ2_S {
    const BY_WORDS: bool = true;
    const HEAD: usize = 2;
    const SCALES_PER_BLOCK: usize = 2;
    const FACTOR: f32 = 0.125;

    #[inline(always)]
    fn scales(superblock: &[u8; BYTES]) -> [i8; HALVES] {
        grid::odd_scales(bytes_at(superblock, 74))
    }

    #[inline(always)]
    fn weights(superblock: &[u8; BYTES], block: usize) -> [u8; BLOCK] {
        let low: &[u8; 4] = bytes_at(superblock, 2 + 4 * block);
        let signs: &[u8; 4] = bytes_at(superblock, 34 + 4 * block);
        let high = usize::from(superblock[66 + block]);
        grid::block_of(|i| {
            let number = usize::from(low[i]) | (high >> (2 * i) & 3) << 8;
            grid::with_signs(grid::two_bit_point(&POINTS, number), signs[i])
        })
    }

    #[inline(always)]
    fn unpack_scales<S: Simd>(s: S, rows: impl Lanes<BYTES>, halves: &mut Halves) {
        grid::unpack_odd_scales(s, rows, 74, halves);
    }

    #[inline(always)]
    fn unpack_weights<S: Simd>(s: S, rows: impl Lanes<BYTES>, out: &mut impl Weights<S>) {
        for block in 0..BLOCKS {
            let (low, signs) = (rows.word(s, 2 + 4 * block), rows.word(s, 34 + 4 * block));
            let high = superblock::byte(s, rows.word(s, 66 + block / 4 * 4), block % 4);
            let upper = |i: usize| s.and(s.up(high, 8 - 2 * i), s.all(3 << 8));
            let number = |i: usize| s.or(superblock::byte(s, low, i), upper(i));
            let coordinates = each!(8, i => s.entries(number(i / 2), &POINTS[i % 2]));
            out.put_signed(s, block, each!(8, i => s.with_signs(coordinates[i], signs, 4 * i)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::superblock::SUPERBLOCK;

    /// Worked out by hand from the byte map.
    #[test]
    fn golden_bytes() {
        let mut superblock = [0; BYTES];
        superblock[..2].copy_from_slice(&[0x00, 0x48]); // 8
        superblock[2 + 22] = 0xff; // The third point of block 5 is
        superblock[66 + 5] = 0x30; // number 1023, all codes 2.
        superblock[34 + 22] = 0x02; // Its second value is negative.
        superblock[74 + 5] = 0x30; // Scale 3 for the second half of block 5.
        let mut values = [9.0; SUPERBLOCK];
        IQ2_S::dequantize(&superblock, &mut values);
        assert_eq!(values[22 * 8..][..8], [43.0, -43.0, 43.0, 43.0, 43.0, 43.0, 43.0, 43.0].map(|x| x * 7.0));
        assert_eq!(values[0], 8.0);
    }
}
