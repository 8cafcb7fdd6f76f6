//! IQ2_XXS: 256 values, one half-float scale, four-bit ones for each 32, points of a grid for each 8 (ggml
//! `block_iq2_xxs`).
//!
//! Byte map, 66 bytes: scale as f16 (0..2), then 8 bytes for each block (2..66): the numbers of its four points, and a
//! u32 with the signs of each in 7 bits, the first lowest, and the block's scale in the upper four. A value is `d *
//! (scale + 1/2) / 4 * coordinate`, taken as an eighth of `d` times an odd integer.

use super::block::{self, bytes_at};
use super::panel::{Halves, Weights};
use super::superblock::{self, BLOCKS, HALVES, Superblock, for_both_halves};
use super::tile::Lanes;
use super::{Format, Pack, Parts, Type, grid, grids};
use crate::simd::{BLOCK, Simd, each};

/// Bytes of a superblock.
const BYTES: usize = 66;

/// The first and the last four coordinates of every point.
pub(super) static POINTS: [[u32; 256]; 2] = grid::two_bit_points(&grids::IQ2_XXS);

/// Their codes, for machines that look up bytes.
static CODES: [[u8; 256]; 2] = grid::planes(&grids::IQ2_XXS);

/// The coordinates of [`grid::two_bit_coordinates`] for the lower two bits of a number.
static COORDINATES: [i8; 64] = {
    let mut coordinates = [0; 64];
    let mut number = 0;
    while number < 64 {
        coordinates[number] = [8, 25, 43, 60][number % 4];
        number += 1;
    }
    coordinates
};

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
    const BY_WORDS: bool = true;
    const HEAD: usize = 2;
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
            let point = grid::two_bit_point(&POINTS, usize::from(points[i]));
            grid::with_signs(point, grid::even_signs(signs >> (7 * i)))
        })
    }

    #[inline(always)]
    fn unpack_scales<S: Simd>(s: S, rows: impl Lanes<BYTES>, halves: &mut Halves) {
        for block in 0..BLOCKS {
            grid::put_odd(s, s.down(rows.word(s, 6 + 8 * block), 28), &mut halves.factors[block][0]);
        }
    }

    #[inline(always)]
    fn unpack_weights<S: Simd>(s: S, rows: impl Lanes<BYTES>, out: &mut impl Weights<S>) {
        for block in 0..BLOCKS {
            let points = rows.word(s, 2 + 8 * block);
            let signs = grid::even_signs_of_four(s, grid::sevens(s, rows.word(s, 6 + 8 * block)));
            let coordinates = match S::LOOKS_UP_BYTES {
                true => {
                    let codes = [s.lookup256(points, &CODES[0]), s.lookup256(points, &CODES[1])];
                    each!(8, i => s.lookup64(s.windows::<2>(codes[i % 2], i / 2 * 8), &COORDINATES))
                }
                false => each!(8, i => s.entries(s.down(points, i / 2 * 8), &POINTS[i % 2])),
            };
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
        superblock[2 + 8 * 5 + 1] = 1; // Point 1 of block 5: code 2, then zeros.
        superblock[6 + 8 * 5 + 1] = 0x01; // Its second value and, to make two, its last are negative.
        superblock[6 + 8 * 5 + 3] = 0x30; // Scale 3.
        let mut values = [9.0; SUPERBLOCK];
        IQ2_XXS::dequantize(&superblock, &mut values);
        assert_eq!(values[5 * BLOCK + 8..][..8], [43.0, -8.0, 8.0, 8.0, 8.0, 8.0, 8.0, -8.0].map(|x| x * 7.0));
        assert_eq!(values[0], 8.0);
    }
}
