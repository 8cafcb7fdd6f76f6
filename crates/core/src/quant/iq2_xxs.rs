//! IQ2_XXS: 256 values, one half-float scale, four-bit ones for each 32, points of a grid for each 8 (ggml
//! `block_iq2_xxs`).
//!
//! Byte map, 66 bytes: scale as f16 (0..2), then 8 bytes for each block (2..66): the numbers of its four points, and a
//! u32 with the signs of each in 7 bits, the first lowest, and the block's scale in the upper four. A value is `d *
//! (scale + 1/2) / 4 * coordinate`, taken as an eighth of `d` times an odd integer.

use super::block::{self, bytes_at};
use super::superblock::{self, BLOCKS, HALVES, Superblock, for_both_halves};
use super::{Format, Pack, Parts, Type, grid, grids};
use crate::simd::BLOCK;

/// Bytes of a superblock.
const BYTES: usize = 66;

/// The format.
pub(crate) struct IQ2_XXS;

impl Pack for IQ2_XXS {
    /// Eight odd scales of 1 to 31; for each 8 values the number of a point and signs, an even number of them negative.
    fn pack(parts: &Parts, out: &mut [u8]) {
        block::put_half(out, 0, parts.d);
        for (block, bytes) in out[2..].as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let (points, word) = bytes.split_at_mut(4);
            for (i, point) in points.iter_mut().enumerate() {
                *point = parts.codes[block * BLOCK + 8 * i] as u8;
            }
            word.copy_from_slice(&grid::signs_and_scale(parts, block).to_le_bytes());
        }
    }
}

impl Format for IQ2_XXS {
    const TYPE: Type = Type::IQ2_XXS;
    const INTEGER: bool = true;
    type Rows = superblock::Rows<BYTES>;

    fn dequantize(row: &[u8], out: &mut [f32]) {
        superblock::dequantize::<Self, BYTES>(row, out);
    }

    fn swap_endian(blocks: &mut [u8]) {
        block::swap_half::<BYTES>(blocks, 0);
        for block in 0..BLOCKS {
            block::swap_word::<BYTES>(blocks, 6 + 8 * block);
        }
    }
}

impl Superblock<BYTES> for IQ2_XXS {
    const SCALES_PER_BLOCK: usize = 1;
    const FACTOR: f32 = 0.125;

    #[inline(always)]
    fn scales(superblock: &[u8; BYTES]) -> [i8; HALVES] {
        for_both_halves(core::array::from_fn(|block| {
            let word = u32::from_le_bytes(*bytes_at(superblock, 6 + 8 * block));
            (word >> 28) as i8 * 2 + 1
        }))
    }

    #[inline(always)]
    fn weights(superblock: &[u8; BYTES], block: usize) -> [u8; BLOCK] {
        let points: &[u8; 4] = bytes_at(superblock, 2 + 8 * block);
        let signs = u32::from_le_bytes(*bytes_at(superblock, 6 + 8 * block));
        grid::block_of(|i| {
            let point = grid::two_bit_coordinates(grids::IQ2_XXS[usize::from(points[i])]);
            grid::with_signs(point, grid::even_signs(signs >> (7 * i)))
        })
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
        superblock[2 + 8 * 5 + 1] = 1; // Point 1 of block 5: code 2, then zeros.
        superblock[6 + 8 * 5 + 1] = 0x01; // Its second value and, to make two, its last are negative.
        superblock[6 + 8 * 5 + 3] = 0x30; // Scale 3.
        let mut values = [9.0; SUPERBLOCK];
        IQ2_XXS::dequantize(&superblock, &mut values);
        assert_eq!(values[5 * BLOCK + 8..][..8], [43.0, -8.0, 8.0, 8.0, 8.0, 8.0, 8.0, -8.0].map(|x| x * 7.0));
        assert_eq!(values[0], 8.0);
    }
}
