//! Q6_K: 256 values, one half-float scale, eight-bit ones for each 16, six bits each (ggml `block_q6_K`).
//!
//! Byte map, 210 bytes: for each four blocks 64 bytes (0..128), of which byte `i` holds the low four bits of value `i %
//! 32` of the first or second block in its low half, of the third or fourth in its high half; for each four blocks 32
//! bytes (128..192), of which byte `i` holds the two upper bits of value `i` of the four, the first lowest; a signed
//! byte for each 16 values, its scale (192..208); scale `d` as f16 (208..210). A value is `d * scale * (q - 32)`.

use super::block::{self, bytes_at};
use super::panel::{Halves, Weights};
use super::superblock::{self, BLOCKS, HALVES, Superblock};
use super::tile::{Lanes, block_at};
use super::{Format, Pack, Parts, Type};
use crate::simd::{BLOCK, Simd, each};

/// Bytes of a superblock.
const BYTES: usize = 210;

/// The format.
pub(crate) struct Q6_K;

impl Pack for Q6_K {
    /// Sixteen scales of -128 to 127, codes of 0 to 63.
    fn pack(parts: &Parts, block: &mut [u8]) {
        for (i, code) in parts.codes.iter().enumerate() {
            let (four, number) = (i / (4 * BLOCK), i / BLOCK % 4);
            let at = four * 2 * BLOCK + number % 2 * BLOCK + i % BLOCK;
            block[at] |= (*code as u8 & 15) << (number / 2 * 4);
        }
        superblock::pack_planes(&parts.codes, 4, 2, &mut block[128..192]);
        for (half, scale) in block[192..208].iter_mut().enumerate() {
            *scale = parts.scales[half] as u8;
        }
        block::put_half(block, 208, parts.d);
    }
}

impl Format for Q6_K {
    const TYPE: Type = Type::Q6_K;
    const INTEGER: bool = true;
    type Rows = superblock::Rows<BYTES>;

    fn dequantize(row: &[u8], out: &mut [f32]) {
        superblock::dequantize::<Self, BYTES>(row, out);
    }

    fn swap_endian(blocks: &mut [u8]) {
        block::swap_half::<BYTES>(blocks, 208);
    }
}

impl Superblock<BYTES> for Q6_K {
    const BY_WORDS: bool = true;
    const SCALE_AT: usize = 208;
    const SCALES_PER_BLOCK: usize = 2;
    #[inline(always)]
    fn scales(superblock: &[u8; BYTES]) -> [i8; HALVES] {
        let scales: &[u8; HALVES] = bytes_at(superblock, 192);
        scales.map(|scale| scale as i8)
    }

    #[inline(always)]
    fn weights(superblock: &[u8; BYTES], block: usize) -> [u8; BLOCK] {
        let (four, block) = (block / 4, block % 4);
        let low: &[u8; BLOCK] = bytes_at(superblock, four * 2 * BLOCK + block % 2 * BLOCK);
        let high: &[u8; BLOCK] = bytes_at(superblock, 128 + four * BLOCK);
        core::array::from_fn(|i| (low[i] >> (block / 2 * 4) & 15 | (high[i] >> (2 * block) & 3) << 4).wrapping_sub(32))
    }

    #[inline(always)]
    fn unpack_scales<S: Simd>(s: S, rows: impl Lanes<BYTES>, halves: &mut Halves) {
        // A signed byte with its upper bit turned is the number plus 128.
        let scales = rows.words(s, 192);
        let turned = each!(4, i => s.xor(scales[i], s.all(0x8080_8080)));
        superblock::put_halves(s, turned, 128.0, &mut halves.factors);
    }

    #[inline(always)]
    fn unpack_weights<S: Simd>(s: S, rows: impl Lanes<BYTES>, out: &mut impl Weights<S>) {
        for four in 0..BLOCKS / 4 {
            let high = block_at(s, rows, 128 + four * BLOCK);
            each!(4, block => {
                let low = block_at(s, rows, (2 * four + block % 2) * BLOCK);
                let high = each!(8, i => s.up(s.bits(high[i], 2 * block, 3), 4));
                out.put_above(s, 4 * four + block, 32, each!(8, i => s.or(s.bits(low[i], block / 2 * 4, 15), high[i])));
            });
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
        superblock[208..].copy_from_slice(&[0x00, 0x3c]); // 1
        superblock[192 + 8..].copy_from_slice(&[2, 0, 0, 0, 0, 0xff, 0, 0, 0x00, 0x3c]);
        superblock[64 + 1] = 0x05; // Value 1 of block 4.
        superblock[128 + 32 + 1] = 0x03; // And 48.
        superblock[64 + 16] = 0x70; // Value 16 of block 6, whose second scale is -1.
        let mut values = [9.0; SUPERBLOCK];
        Q6_K::dequantize(&superblock, &mut values);
        assert_eq!(values[4 * BLOCK..][..3], [-64.0, 2.0 * 21.0, -64.0]);
        assert_eq!(values[6 * BLOCK + 16..][..2], [25.0, 32.0]);
        assert_eq!(values[0], 0.0);
    }
}
