//! IQ3_S: 256 values, one half-float scale, four-bit ones for each 32, points of a grid for each 4 (ggml
//! `block_iq3_s`).
//!
//! Byte map, 110 bytes: scale `d` as f16 (0..2), for each 4 values the low 8 bits of a point's number (2..66), for each
//! block a byte with the ninth bits of its eight points, the first lowest (66..74), for each 8 values a byte of signs
//! (74..106), for each two blocks a byte with the scale of the first below that of the second (106..110). A value is `d
//! * (2 * scale + 1) * coordinate`.

use super::block::{self, bytes_at};
use super::grid::{self, ONES};
use super::superblock::{self, HALVES, Superblock, for_both_halves};
use super::{Format, Pack, Parts, Type, grids};
use crate::simd::BLOCK;

/// Bytes of a superblock.
const BYTES: usize = 110;

/// The format.
pub(crate) struct IQ3_S;

impl Pack for IQ3_S {
    /// Eight odd scales of 1 to 31; for each 4 values the number of a point, for each 8 signs.
    fn pack(parts: &Parts, out: &mut [u8]) {
        block::put_half(out, 0, parts.d);
        for (i, code) in parts.codes.iter().step_by(4).enumerate() {
            out[2 + i] = *code as u8;
            out[66 + i / 8] |= ((code >> 8 & 1) << (i % 8)) as u8;
        }
        out[74..106].copy_from_slice(&parts.signs);
        grid::pack_odd_scales(parts, &mut out[106..]);
    }
}

impl Format for IQ3_S {
    const TYPE: Type = Type::IQ3_S;
    const INTEGER: bool = true;
    type Rows = superblock::Rows<BYTES>;

    fn dequantize(row: &[u8], out: &mut [f32]) {
        superblock::dequantize::<Self, BYTES>(row, out);
    }

    fn swap_endian(blocks: &mut [u8]) {
        block::swap_half::<BYTES>(blocks, 0);
    }
}

impl Superblock<BYTES> for IQ3_S {
    const SCALES_PER_BLOCK: usize = 1;
    #[inline(always)]
    fn scales(superblock: &[u8; BYTES]) -> [i8; HALVES] {
        let packed: &[u8; 4] = bytes_at(superblock, 106);
        for_both_halves(core::array::from_fn(|block| (packed[block / 2] >> (block % 2 * 4) & 15) as i8 * 2 + 1))
    }

    #[inline(always)]
    fn weights(superblock: &[u8; BYTES], block: usize) -> [u8; BLOCK] {
        let low: &[u8; 8] = bytes_at(superblock, 2 + 8 * block);
        let high = usize::from(superblock[66 + block]);
        let signs: &[u8; 4] = bytes_at(superblock, 74 + 4 * block);
        grid::block_of(|i| {
            let point = |i: usize| grids::IQ3_S[usize::from(low[i]) | (high >> i & 1) << 8];
            let codes = grid::codes_of_three_bits(point(2 * i), point(2 * i + 1));
            grid::with_signs(coordinates(codes), signs[i])
        })
    }
}

/// The odd numbers 1 to 15 for the codes 0 to 7.
#[inline(always)]
pub(super) fn coordinates(codes: u64) -> u64 {
    2 * codes + ONES
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
        superblock[..2].copy_from_slice(&[0x00, 0x3c]); // 1
        superblock[2 + 8 * 5 + 2] = 0x00; // The third point of block 5 is
        superblock[66 + 5] = 0x04; // number 256: codes 3, 2, 4, 2.
        superblock[74 + 4 * 5 + 1] = 0x02; // Its second value is negative.
        superblock[106 + 2] = 0x30; // Scale 3.
        let mut values = [9.0; SUPERBLOCK];
        IQ3_S::dequantize(&superblock, &mut values);
        assert_eq!(values[5 * BLOCK + 8..][..8], [7.0, -5.0, 9.0, 5.0, 1.0, 1.0, 1.0, 1.0].map(|x| x * 7.0));
        assert_eq!(values[0], 1.0);
    }
}
