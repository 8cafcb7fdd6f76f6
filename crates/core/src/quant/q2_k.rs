//! Q2_K: 256 values, one half-float scale and minimum, four-bit ones for each 16, two bits each (ggml `block_q2_K`).
//!
//! Byte map, 84 bytes: a byte for each 16 values (0..16), scale in its low half, minimum in its high half; for each
//! four blocks 32 bytes (16..80), of which byte `i` holds value `i` of the four, the first lowest; scale `d` as f16
//! (80..82), minimum `dmin` as f16 (82..84). A value is `d * scale * q - dmin * min`.

use super::block::{self, bytes_at};
use super::panel::{Halves, Weights};
use super::superblock::{self, BLOCKS, HALVES, Superblock};
use super::tile::{Lanes, block_at};
use super::{Format, Pack, Parts, Type};
use crate::simd::{BLOCK, Simd, each};

/// Bytes of a superblock.
const BYTES: usize = 84;

/// The format.
pub(crate) struct Q2_K;

impl Pack for Q2_K {
    /// Sixteen scales and minimums of 0 to 15, codes of 0 to 3.
    fn pack(parts: &Parts, block: &mut [u8]) {
        for (half, both) in block[..HALVES].iter_mut().enumerate() {
            *both = parts.scales[half] as u8 & 15 | (parts.mins[half] as u8) << 4;
        }
        superblock::pack_planes(&parts.codes, 0, 2, &mut block[16..80]);
        block::put_half(block, 80, parts.d);
        block::put_half(block, 82, parts.dmin);
    }
}

impl Format for Q2_K {
    const TYPE: Type = Type::Q2_K;
    const INTEGER: bool = true;
    type Rows = superblock::Rows<BYTES>;

    fn dequantize(row: &[u8], out: &mut [f32]) {
        superblock::dequantize::<Self, BYTES>(row, out);
    }

    fn swap_endian(blocks: &mut [u8]) {
        block::swap_half::<BYTES>(blocks, 80);
        block::swap_half::<BYTES>(blocks, 82);
    }
}

impl Superblock<BYTES> for Q2_K {
    const BY_WORDS: bool = true;
    const SCALE_AT: usize = 80;
    const SCALES_PER_BLOCK: usize = 2;
    const UNSIGNED: bool = true;
    const MIN_AT: Option<usize> = Some(82);
    const MINS_PER_BLOCK: usize = 2;
    /// 0 to 3 times 0 to 15.
    const HAS_SMALL_PRODUCTS: bool = true;

    #[inline(always)]
    fn scales(superblock: &[u8; BYTES]) -> [i8; HALVES] {
        let both: &[u8; HALVES] = bytes_at(superblock, 0);
        both.map(|both| (both & 15) as i8)
    }

    #[inline(always)]
    fn mins(superblock: &[u8; BYTES]) -> [u8; HALVES] {
        let both: &[u8; HALVES] = bytes_at(superblock, 0);
        both.map(|both| both >> 4)
    }

    #[inline(always)]
    fn weights(superblock: &[u8; BYTES], block: usize) -> [u8; BLOCK] {
        bytes_at(superblock, 16 + block / 4 * BLOCK).map(|quants: u8| quants >> (block % 4 * 2) & 3)
    }

    #[inline(always)]
    fn unpack_scales<S: Simd>(s: S, rows: impl Lanes<BYTES>, halves: &mut Halves) {
        superblock::put_halves(s, Self::scale_bytes(s, rows), 0.0, &mut halves.factors);
        Self::unpack_mins(s, rows, halves);
    }

    #[inline(always)]
    fn unpack_mins<S: Simd>(s: S, rows: impl Lanes<BYTES>, halves: &mut Halves) {
        let both = rows.words(s, 0);
        superblock::put_halves(s, each!(4, i => s.bits(both[i], 4, 15)), 0.0, &mut halves.mins);
    }

    #[inline(always)]
    fn scale_bytes<S: Simd>(s: S, rows: impl Lanes<BYTES>) -> [S::C; HALVES / 4] {
        let both = rows.words(s, 0);
        each!(4, i => s.bits(both[i], 0, 15))
    }

    #[inline(always)]
    fn unpack_weights<S: Simd>(s: S, rows: impl Lanes<BYTES>, out: &mut impl Weights<S>) {
        for four in 0..BLOCKS / 4 {
            let quants = block_at(s, rows, 16 + four * BLOCK);
            each!(4, block => out.put_unsigned(s, 4 * four + block, each!(8, i => s.bits(quants[i], 2 * block, 3))));
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
        superblock[80..].copy_from_slice(&[0x00, 0x3c, 0x00, 0x38]); // 1 and 1/2
        superblock[11] = 0x43; // The second half of block 5: scale 3, minimum 4.
        superblock[16 + BLOCK + 17] = 0x08; // Its value 17 is 2.
        let mut values = [9.0; SUPERBLOCK];
        Q2_K::dequantize(&superblock, &mut values);
        assert_eq!(values[5 * BLOCK + 15..][..4], [0.0, -2.0, 4.0, -2.0]);
    }
}
