//! IQ3_S: 256 values, one half-float scale, four-bit ones for each 32, points of a grid for each 4 (ggml
//! `block_iq3_s`).
//!
//! Byte map, 110 bytes: scale `d` as f16 (0..2), for each 4 values the low 8 bits of a point's number (2..66), for each
//! block a byte with the ninth bits of its eight points, the first lowest (66..74), for each 8 values a byte of signs
//! (74..106), for each two blocks a byte with the scale of the first below that of the second (106..110). A value is `d
//! * (2 * scale + 1) * coordinate`.

use super::block::{self, bytes_at};
use super::panel::{Halves, Weights};
use super::superblock::{self, BLOCKS, HALVES, Superblock, for_both_halves};
use super::tile::Lanes;
use super::{Format, Pack, Parts, Type, grid, grids};
use crate::simd::{BLOCK, Simd, each};

/// Bytes of a superblock.
const BYTES: usize = 110;

/// The coordinates of every point.
pub(super) static POINTS: [u32; 512] = grid::three_bit_points(&grids::IQ3_S, [1, 3, 5, 7, 9, 11, 13, 15]);

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
    const BY_WORDS: bool = true;
    const HEAD: usize = 2;
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
            let point = |i: usize| u64::from(POINTS[usize::from(low[i]) | (high >> i & 1) << 8]);
            grid::with_signs(point(2 * i) | point(2 * i + 1) << 32, signs[i])
        })
    }

    #[inline(always)]
    fn unpack_scales<S: Simd>(s: S, rows: impl Lanes<BYTES>, halves: &mut Halves) {
        let scales = rows.word(s, 106);
        for block in 0..BLOCKS {
            let scale = s.and(s.down(scales, 4 * block), s.all(15));
            grid::put_odd(s, scale, &mut halves.factors[block][0]);
        }
    }

    #[inline(always)]
    fn unpack_weights<S: Simd>(s: S, rows: impl Lanes<BYTES>, out: &mut impl Weights<S>) {
        for block in 0..BLOCKS {
            let low = [rows.word(s, 2 + 8 * block), rows.word(s, 6 + 8 * block)];
            let high = superblock::byte(s, rows.word(s, 66 + block / 4 * 4), block % 4);
            let signs = rows.word(s, 74 + 4 * block);
            let ninth = |i: usize| s.and(s.up(high, 8 - i), s.all(1 << 8));
            let number = |i: usize| s.or(superblock::byte(s, low[i / 4], i % 4), ninth(i));
            let coordinates = each!(8, i => s.entries(number(i), &POINTS));
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
