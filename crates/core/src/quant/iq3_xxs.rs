//! IQ3_XXS: 256 values, one half-float scale, four-bit ones for each 32, points of a grid for each 4 (ggml
//! `block_iq3_xxs`).
//!
//! Byte map, 98 bytes: scale as f16 (0..2), for each 4 values the number of a point (2..66), for each block a u32
//! (66..98) with the signs of each 8 values in 7 bits, the first lowest, and the block's scale in the upper four. A
//! value is `d * (scale + 1/2) / 2 * coordinate`, taken as a quarter of `d` times an odd integer.

use super::block::{self, bytes_at};
use super::panel::{Halves, Weights};
use super::superblock::{self, BLOCKS, HALVES, Superblock, for_both_halves};
use super::tile::Lanes;
use super::{Format, Pack, Parts, Type, grid, grids};
use crate::simd::{BLOCK, Simd, each};

/// Bytes of a superblock.
const BYTES: usize = 98;

/// The coordinates of every point.
pub(super) static POINTS: [u32; 256] = grid::three_bit_points(&grids::IQ3_XXS, [4, 12, 20, 28, 36, 44, 52, 62]);

/// The format.
pub(crate) struct IQ3_XXS;

impl Pack for IQ3_XXS {
    /// Eight odd scales of 1 to 31; for each 4 values the number of a point, for each 8 signs, an even number of them
    /// negative.
    fn pack(parts: &Parts, out: &mut [u8]) {
        block::put_half(out, 0, parts.d);
        for (point, code) in out[2..66].iter_mut().zip(parts.codes.iter().step_by(4)) {
            *point = *code as u8;
        }
        for (block, word) in out[66..].as_chunks_mut::<4>().0.iter_mut().enumerate() {
            *word = grid::signs_and_scale(parts, block).to_le_bytes();
        }
    }
}

impl Format for IQ3_XXS {
    const TYPE: Type = Type::IQ3_XXS;
    const INTEGER: bool = true;
    type Rows = superblock::Rows<BYTES>;

    fn dequantize(row: &[u8], out: &mut [f32]) {
        superblock::dequantize::<Self, BYTES>(row, out);
    }

    fn swap_endian(blocks: &mut [u8]) {
        block::swap_half::<BYTES>(blocks, 0);
        for block in 0..BLOCKS {
            block::swap_word::<BYTES>(blocks, 66 + 4 * block);
        }
    }
}

impl Superblock<BYTES> for IQ3_XXS {
    const BY_WORDS: bool = true;
    const HEAD: usize = 2;
    const SCALES_PER_BLOCK: usize = 1;
    const FACTOR: f32 = 0.25;

    #[inline(always)]
    fn scales(superblock: &[u8; BYTES]) -> [i8; HALVES] {
        for_both_halves(core::array::from_fn(|block| {
            let word = u32::from_le_bytes(*bytes_at(superblock, 66 + 4 * block));
            (word >> 28) as i8 * 2 + 1
        }))
    }

    #[inline(always)]
    fn weights(superblock: &[u8; BYTES], block: usize) -> [u8; BLOCK] {
        let points: &[u8; 8] = bytes_at(superblock, 2 + 8 * block);
        let signs = u32::from_le_bytes(*bytes_at(superblock, 66 + 4 * block));
        grid::block_of(|i| {
            let point = |i: usize| u64::from(POINTS[usize::from(points[i])]);
            grid::with_signs(point(2 * i) | point(2 * i + 1) << 32, grid::even_signs(signs >> (7 * i)))
        })
    }

    #[inline(always)]
    fn unpack_scales<S: Simd>(s: S, rows: impl Lanes<BYTES>, halves: &mut Halves) {
        for block in 0..BLOCKS {
            grid::put_odd(s, s.down(rows.word(s, 66 + 4 * block), 28), &mut halves.factors[block][0]);
        }
    }

    #[inline(always)]
    fn unpack_weights<S: Simd>(s: S, rows: impl Lanes<BYTES>, out: &mut impl Weights<S>) {
        for block in 0..BLOCKS {
            let points = [rows.word(s, 2 + 8 * block), rows.word(s, 6 + 8 * block)];
            let signs = grid::even_signs_of_four(s, grid::sevens(s, rows.word(s, 66 + 4 * block)));
            let coordinates = each!(8, i => s.entries(s.down(points[i / 4], i % 4 * 8), &POINTS));
            out.put_signed(s, block, each!(8, i => s.with_signs(coordinates[i], signs, 4 * i)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::superblock::SUPERBLOCK;
    use crate::simd::BLOCK;

    /// Worked out by hand from the byte map.
    #[test]
    fn golden_bytes() {
        let mut superblock = [0; BYTES];
        superblock[..2].copy_from_slice(&[0x00, 0x44]); // 4
        superblock[2 + 8 * 5 + 2] = 5; // The third point of block 5: codes 7, 1, 0, 0.
        superblock[66 + 4 * 5..][..4].copy_from_slice(&[0x00, 0x01, 0x00, 0x30]); // Its second value negative; scale 3.
        let mut values = [9.0; SUPERBLOCK];
        IQ3_XXS::dequantize(&superblock, &mut values);
        assert_eq!(values[5 * BLOCK + 8..][..8], [62.0, -12.0, 4.0, 4.0, 4.0, 4.0, 4.0, -4.0].map(|x| x * 7.0));
        assert_eq!(values[0], 4.0);
    }
}
