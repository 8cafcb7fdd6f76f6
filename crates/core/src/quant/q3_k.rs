//! Q3_K: 256 values, one half-float scale, six-bit ones for each 16, three bits each (ggml `block_q3_K`).
//!
//! Byte map, 110 bytes: 32 bytes (0..32) of which bit `b` of byte `i` is the third bit of value `i` of block `b`; for
//! each four blocks 32 bytes (32..96), of which byte `i` holds the other two bits of value `i` of the four, the first
//! lowest; sixteen six-bit scales (96..108, see [`unpack_scales`]); scale `d` as f16 (108..110). A value is `d * (scale
//! - 32) * (q - 4)`.

use super::block::{self, bytes_at};
use super::panel::{Halves, Weights};
use super::superblock::{self, BLOCKS, HALVES, Superblock};
use super::tile::{Lanes, block_at};
use super::{Format, Pack, Parts, Type};
use crate::simd::{BLOCK, Simd, each};

/// Bytes of a superblock.
const BYTES: usize = 110;

/// The format.
pub(crate) struct Q3_K;

impl Pack for Q3_K {
    /// Sixteen scales of -32 to 31, codes of 0 to 7.
    fn pack(parts: &Parts, block: &mut [u8]) {
        superblock::pack_planes(&parts.codes, 2, 1, &mut block[..32]);
        superblock::pack_planes(&parts.codes, 0, 2, &mut block[32..96]);
        let packed = &mut block[96..108];
        for (i, scale) in parts.scales[..HALVES].iter().enumerate() {
            let scale = (scale + 32) as u8;
            packed[i % 8] |= (scale & 15) << (i / 8 * 4);
            packed[8 + i % 4] |= (scale >> 4 & 3) << (i / 4 * 2);
        }
        block::put_half(block, 108, parts.d);
    }
}

impl Format for Q3_K {
    const TYPE: Type = Type::Q3_K;
    const INTEGER: bool = true;
    type Rows = superblock::Rows<BYTES>;

    fn dequantize(row: &[u8], out: &mut [f32]) {
        superblock::dequantize::<Self, BYTES>(row, out);
    }

    fn swap_endian(blocks: &mut [u8]) {
        block::swap_half::<BYTES>(blocks, 108);
    }
}

impl Superblock<BYTES> for Q3_K {
    const BY_WORDS: bool = true;
    const SCALE_AT: usize = 108;
    const SCALES_PER_BLOCK: usize = 2;
    /// -4 to 3 times -32 to 31: 128 with its sign turned is a byte.
    const HAS_SMALL_PRODUCTS: bool = true;

    #[inline(always)]
    fn scales(superblock: &[u8; BYTES]) -> [i8; HALVES] {
        unpack_scales(bytes_at(superblock, 96))
    }

    #[inline(always)]
    fn weights(superblock: &[u8; BYTES], block: usize) -> [u8; BLOCK] {
        let low: &[u8; BLOCK] = bytes_at(superblock, 32 + block / 4 * BLOCK);
        core::array::from_fn(|i| {
            let third = superblock[i] >> block & 1;
            (low[i] >> (block % 4 * 2) & 3 | third << 2).wrapping_sub(4)
        })
    }

    #[inline(always)]
    fn unpack_scales<S: Simd>(s: S, rows: impl Lanes<BYTES>, halves: &mut Halves) {
        superblock::put_halves(s, scales_of_tile(s, rows), 32.0, &mut halves.factors);
    }

    #[inline(always)]
    fn scale_bytes<S: Simd>(s: S, rows: impl Lanes<BYTES>) -> [S::C; HALVES / 4] {
        let scales = scales_of_tile(s, rows);
        each!(4, i => s.less(s.all(0x2020_2020), scales[i]))
    }

    #[inline(always)]
    fn unpack_weights<S: Simd>(s: S, rows: impl Lanes<BYTES>, out: &mut impl Weights<S>) {
        for four in 0..BLOCKS / 4 {
            let (thirds, low) = (block_at(s, rows, 0), block_at(s, rows, 32 + four * BLOCK));
            let thirds = each!(8, i => s.down(thirds[i], 4 * four));
            each!(4, block => {
                let third = each!(8, i => s.up(s.bits(thirds[i], block, 1), 2));
                out.put_above(s, 4 * four + block, 4, each!(8, i => s.or(s.bits(low[i], 2 * block, 3), third[i])));
            });
        }
    }
}

/// The sixteen scales. The halves of the first eight bytes hold their lower four bits, those of scale `i` below those
/// of `i + 8`; the last four bytes hold the upper two, those of `i`, `i + 4`, `i + 8` and `i + 12` in one byte.
#[inline(always)]
fn unpack_scales(packed: &[u8; 12]) -> [i8; HALVES] {
    core::array::from_fn(|i| {
        let low = packed[i % 8] >> (i / 8 * 4) & 15;
        let high = packed[8 + i % 4] >> (i / 4 * 2) & 3;
        (low | high << 4) as i8 - 32
    })
}

/// The scales of a tile as they are stored: 32 more than they are.
#[inline(always)]
fn scales_of_tile<S: Simd>(s: S, rows: impl Lanes<BYTES>) -> [S::C; HALVES / 4] {
    let (low, high) = ([rows.word(s, 96), rows.word(s, 100)], rows.word(s, 104));
    each!(4, i => s.or(s.bits(low[i % 2], i / 2 * 4, 15), s.up(s.bits(high, 2 * i, 3), 4)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::superblock::SUPERBLOCK;

    /// Worked out by hand from the byte map.
    #[test]
    fn golden_bytes() {
        let mut superblock = [0; BYTES];
        superblock[108..].copy_from_slice(&[0x00, 0x3c]); // 1
        superblock[96 + 2] = 0x41; // The lower bits of scales 2 and 10.
        superblock[96 + 8 + 2] = 0x22; // Of scales 2, 6, 10 and 14 the upper ones: 2, 0, 2, 0.
        superblock[5] = 0x02; // Value 5 of block 1: 4 and more.
        superblock[32 + 5] = 0x08; // And 2.
        superblock[64 + 6] = 0x0c; // Value 6 of block 5.
        let mut values = [9.0; SUPERBLOCK];
        Q3_K::dequantize(&superblock, &mut values);
        assert_eq!(values[BLOCK + 4..][..3], [-4.0, 2.0, -4.0]);
        assert_eq!(values[5 * BLOCK + 5..][..2], [-16.0, -4.0]);
        assert_eq!(values[0], 128.0);
    }
}
