//! IQ1_M: 256 values, one half-float scale in four pieces, three-bit ones for each 16, points of a grid and a shift for
//! each 8 (ggml `block_iq1_m`).
//!
//! Byte map, 56 bytes: for each 8 values the low 8 bits of a point's number (0..32), and half a byte, the low one
//! first, with its upper three bits and one that is set where the shift is -1/8, not 1/8 (32..48); four u16 (48..56),
//! each with the scales of four halves of blocks, the first lowest, and four bits of the f16 `d`, the first lowest. A
//! value is `d * (2 * scale + 1) * (coordinate + shift)`, taken as an eighth of `d` times an odd integer times an
//! integer.

use super::block::{self, bytes_at};
use super::iq1_s::shifted_coordinates;
use super::superblock::{self, HALVES, Superblock, half_at};
use super::{Format, Pack, Parts, Type, grid, grids};
use crate::half::f32_to_f16;
use crate::simd::BLOCK;

/// Bytes of a superblock.
const BYTES: usize = 56;

/// The format.
pub(crate) struct IQ1_M;

impl Pack for IQ1_M {
    /// Sixteen odd scales of 1 to 15; for each 8 values the number of a point, and 2048 more where the shift is -1/8.
    fn pack(parts: &Parts, out: &mut [u8]) {
        for (i, code) in parts.codes.iter().step_by(8).enumerate() {
            out[i] = *code as u8;
            out[32 + i / 2] |= ((code >> 8 & 15) << (i % 2 * 4)) as u8;
        }
        let d = f32_to_f16(parts.d);
        let word = |i: usize| {
            let scale = |n: usize| (parts.scales[4 * i + n] as u16 >> 1 & 7) << (3 * n);
            (0..4).fold((d >> (4 * i) & 15) << 12, |word, n| word | scale(n))
        };
        superblock::put_words((0..4).map(word), &mut out[48..]);
    }
}

impl Format for IQ1_M {
    const TYPE: Type = Type::IQ1_M;
    const INTEGER: bool = true;
    type Rows = superblock::Rows<BYTES>;

    fn dequantize(row: &[u8], out: &mut [f32]) {
        superblock::dequantize::<Self, BYTES>(row, out);
    }

    fn swap_endian(blocks: &mut [u8]) {
        for piece in 0..4 {
            block::swap_half::<BYTES>(blocks, 48 + 2 * piece);
        }
    }
}

impl Superblock<BYTES> for IQ1_M {
    const SCALES_PER_BLOCK: usize = 2;
    const FACTOR: f32 = 0.125;

    #[inline(always)]
    fn scale(superblock: &[u8; BYTES]) -> u16 {
        (0..4).fold(0, |bits, i| bits | (half_at(superblock, 48 + 2 * i) >> 12) << (4 * i))
    }

    #[inline(always)]
    fn scales(superblock: &[u8; BYTES]) -> [i8; HALVES] {
        core::array::from_fn(|half| (half_at(superblock, 48 + half / 4 * 2) >> (half % 4 * 3) & 7) as i8 * 2 + 1)
    }

    #[inline(always)]
    fn weights(superblock: &[u8; BYTES], block: usize) -> [u8; BLOCK] {
        let low: &[u8; 4] = bytes_at(superblock, 4 * block);
        let high = usize::from(half_at(superblock, 32 + 2 * block));
        grid::block_of(|i| {
            let number = usize::from(low[i]) | (high >> (4 * i) & 7) << 8;
            shifted_coordinates(grids::IQ1_S[number], high >> (4 * i) & 8 != 0)
        })
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
        superblock[48..].copy_from_slice(&[0x00, 0x00, 0x00, 0x00, 0xc0, 0x80, 0x00, 0x40]); // 8; scale 3 for half 10.
        superblock[4 * 5 + 1] = 0xff; // The second point of block 5 is the last of 2048, all codes 2,
        superblock[32 + 2 * 5] = 0xf0; // and its shift -1/8.
        let mut values = [9.0; SUPERBLOCK];
        IQ1_M::dequantize(&superblock, &mut values);
        assert_eq!(values[5 * BLOCK + 8..][..8], [7.0 * 7.0; 8]);
        assert_eq!(values[5 * BLOCK], 7.0 * -7.0);
        assert_eq!(values[0], -7.0);
    }
}
