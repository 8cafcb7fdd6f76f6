//! Q5_K: 256 values, one half-float scale and minimum, six-bit ones for each 32, five bits each (ggml `block_q5_K`).
//!
//! Byte map, 176 bytes: scale `d` as f16 (0..2), minimum `dmin` as f16 (2..4), the six-bit scales and minimums of the
//! eight blocks as in Q4_K (4..16), 32 bytes (16..48) of which bit `b` of byte `i` is the fifth bit of value `i` of
//! block `b`, then for each pair of blocks 32 bytes (48..176) of which byte `i` holds the other bits of value `i` of
//! the first in its low half, of the second in its high half. A value is `d * scale * q - dmin * min`.

use super::block::{self, bytes_at};
use super::panel::{Halves, Weights};
use super::q4_k::{pack_scales_and_mins, scales_and_mins, unpack_scales_and_mins};
use super::superblock::{self, HALVES, Superblock, for_both_halves};
use super::tile::{Lanes, block_at};
use super::{Format, Pack, Parts, Type};
use crate::simd::{BLOCK, Simd, each, padded};

/// Bytes of a superblock.
const BYTES: usize = 176;

/// The format.
pub(crate) struct Q5_K;

impl Pack for Q5_K {
    /// Eight scales and minimums of 0 to 63, codes of 0 to 31.
    fn pack(parts: &Parts, block: &mut [u8]) {
        block::put_half(block, 0, parts.d);
        block::put_half(block, 2, parts.dmin);
        pack_scales_and_mins(parts, &mut block[4..16]);
        superblock::pack_planes(&parts.codes, 4, 1, &mut block[16..48]);
        superblock::pack_planes(&parts.codes, 0, 4, &mut block[48..]);
    }
}

impl Format for Q5_K {
    const TYPE: Type = Type::Q5_K;
    const INTEGER: bool = true;
    type Rows = superblock::Rows<BYTES>;

    fn dequantize(row: &[u8], out: &mut [f32]) {
        superblock::dequantize::<Self, BYTES>(row, out);
    }

    fn swap_endian(blocks: &mut [u8]) {
        block::swap_half::<BYTES>(blocks, 0);
        block::swap_half::<BYTES>(blocks, 2);
    }
}

impl Superblock<BYTES> for Q5_K {
    const BY_WORDS: bool = true;
    const SCALES_PER_BLOCK: usize = 1;
    const UNSIGNED: bool = true;
    const MIN_AT: Option<usize> = Some(2);

    #[inline(always)]
    fn scales(superblock: &[u8; BYTES]) -> [i8; HALVES] {
        let (scales, _) = scales_and_mins(bytes_at(superblock, 4));
        for_both_halves(scales.map(|scale| scale as i8))
    }

    #[inline(always)]
    fn mins(superblock: &[u8; BYTES]) -> [u8; HALVES] {
        let (_, mins) = scales_and_mins(bytes_at(superblock, 4));
        padded(&mins)
    }

    #[inline(always)]
    fn weights(superblock: &[u8; BYTES], block: usize) -> [u8; BLOCK] {
        let low: &[u8; BLOCK] = bytes_at(superblock, 48 + block / 2 * BLOCK);
        let fifths: &[u8; BLOCK] = bytes_at(superblock, 16);
        core::array::from_fn(|i| low[i] >> (block % 2 * 4) & 15 | (fifths[i] >> block & 1) << 4)
    }

    #[inline(always)]
    fn unpack_scales<S: Simd>(s: S, rows: impl Lanes<BYTES>, halves: &mut Halves) {
        unpack_scales_and_mins(s, rows.words(s, 0), halves);
    }

    #[inline(always)]
    fn unpack_weights<S: Simd>(s: S, rows: impl Lanes<BYTES>, out: &mut impl Weights<S>) {
        let fifths = block_at(s, rows, 16);
        each!(8, block => {
            let low = block_at(s, rows, 48 + block / 2 * BLOCK);
            let fifth = each!(8, i => s.up(s.bits(fifths[i], block, 1), 4));
            out.put_unsigned(s, block, each!(8, i => s.or(s.bits(low[i], block % 2 * 4, 15), fifth[i])));
        });
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
        superblock[..4].copy_from_slice(&[0x00, 0x3c, 0x00, 0x38]); // 1 and 1/2
        superblock[7] = 3; // Block 3: scale 3.
        superblock[11] = 4; // Block 3: minimum 4.
        superblock[16 + 2] = 0x08; // Value 2 of block 3: 16 and more.
        superblock[48 + BLOCK + 2] = 0x9f; // And 9; value 2 of block 2, whose scales are zero, is 15.
        let mut values = [9.0; SUPERBLOCK];
        Q5_K::dequantize(&superblock, &mut values);
        assert_eq!(values[3 * BLOCK..][..3], [-2.0, -2.0, 3.0 * 25.0 - 2.0]);
        assert_eq!(values[2 * BLOCK + 2], 0.0);
    }
}
