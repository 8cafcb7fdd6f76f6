//! IQ1_S: 256 values, one half-float scale, three-bit ones and a shift for each 32, points of a grid for each 8 (ggml
//! `block_iq1_s`).
//!
//! Byte map, 50 bytes: scale as f16 (0..2), for each 8 values the low 8 bits of a point's number (2..34), for each
//! block a u16 (34..50) with the upper three bits of its four points, the first lowest, three bits of scale, and one
//! that is set where the shift is -1/8, not 1/8. A value is `d * (2 * scale + 1) * (coordinate + shift)`, taken as an
//! eighth of `d` times an odd integer times an integer.

use super::block::{self, bytes_at};
use super::grid::{self, ONES};
use super::superblock::{self, BLOCKS, HALVES, Superblock, for_both_halves, half_at};
use super::{Format, Pack, Parts, Type, grids};
use crate::simd::BLOCK;

/// Bytes of a superblock.
const BYTES: usize = 50;

/// The format.
pub(crate) struct IQ1_S;

impl Pack for IQ1_S {
    /// Eight odd scales of 1 to 15; `mins` is 1 for a block whose shift is -1/8, and 0 for one whose shift is 1/8; for
    /// each 8 values the number of a point.
    fn pack(parts: &Parts, out: &mut [u8]) {
        block::put_half(out, 0, parts.d);
        for (i, code) in parts.codes.iter().step_by(8).enumerate() {
            out[2 + i] = *code as u8;
        }
        let word = |block: usize| {
            let upper = |i: usize| (parts.codes[block * BLOCK + 8 * i] >> 8 & 7) << (3 * i);
            let scale_and_shift = (parts.scales[block] as u16 >> 1 & 7) << 12 | (parts.mins[block] as u16) << 15;
            (0..4).fold(scale_and_shift, |word, i| word | upper(i))
        };
        superblock::put_words((0..BLOCKS).map(word), &mut out[34..]);
    }
}

impl Format for IQ1_S {
    const TYPE: Type = Type::IQ1_S;
    const INTEGER: bool = true;
    type Rows = superblock::Rows<BYTES>;

    fn dequantize(row: &[u8], out: &mut [f32]) {
        superblock::dequantize::<Self, BYTES>(row, out);
    }

    fn swap_endian(blocks: &mut [u8]) {
        block::swap_half::<BYTES>(blocks, 0);
        for block in 0..BLOCKS {
            block::swap_half::<BYTES>(blocks, 34 + 2 * block);
        }
    }
}

impl Superblock<BYTES> for IQ1_S {
    const SCALES_PER_BLOCK: usize = 1;
    const FACTOR: f32 = 0.125;

    #[inline(always)]
    fn scales(superblock: &[u8; BYTES]) -> [i8; HALVES] {
        for_both_halves(core::array::from_fn(|block| (half_at(superblock, 34 + 2 * block) >> 12 & 7) as i8 * 2 + 1))
    }

    #[inline(always)]
    fn weights(superblock: &[u8; BYTES], block: usize) -> [u8; BLOCK] {
        let low: &[u8; 4] = bytes_at(superblock, 2 + 4 * block);
        let high = half_at(superblock, 34 + 2 * block);
        grid::block_of(|i| {
            let number = usize::from(low[i]) | usize::from(high >> (3 * i) & 7) << 8;
            shifted_coordinates(grids::IQ1_S[number], high >> 15 != 0)
        })
    }
}

/// Eight times (the coordinates -1, 0 and 1 for the codes 0, 1 and 2, and 1/8 or, where `down`, -1/8), as signed bytes.
#[inline(always)]
pub(super) fn shifted_coordinates(point: u16, down: bool) -> u64 {
    // Kept 128 above what is meant, so that no byte borrows from the next; flipping the top bits takes that away.
    let shift = if down { 119 * ONES } else { 121 * ONES };
    (8 * grid::codes_of_two_bits(point) + shift) ^ (128 * ONES)
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
        superblock[2 + 4 * 5 + 1] = 0xff; // The second point of block 5 is the last of 2048, all codes 2.
        superblock[34 + 2 * 5..][..2].copy_from_slice(&[0x38, 0xb0]); // Scale 3, shift -1/8.
        let mut values = [9.0; SUPERBLOCK];
        IQ1_S::dequantize(&superblock, &mut values);
        assert_eq!(values[5 * BLOCK + 8..][..8], [7.0 * 7.0; 8]);
        assert_eq!(values[5 * BLOCK], 7.0 * -9.0);
        assert_eq!(values[0], -7.0);
    }
}
