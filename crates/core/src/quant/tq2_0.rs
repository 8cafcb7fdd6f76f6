//! TQ2_0: 256 values, one half-float scale, -1, 0 or 1 in two bits each (ggml `block_tq2_0`).
//!
//! Byte map, 66 bytes: for each four blocks 32 bytes (0..64), of which byte `i` holds value `i` of the four, the first
//! lowest; scale `d` as f16 (64..66). A value is `d * (q - 1)`.

use super::block::{self, bytes_at};
use super::panel::Weights;
use super::superblock::{self, BLOCKS, Superblock};
use super::tile::{Lanes, block_at};
use super::{Format, Pack, Parts, Type};
use crate::simd::{BLOCK, Simd, each};

/// Bytes of a superblock.
const BYTES: usize = 66;

/// The format.
pub(crate) struct TQ2_0;

impl Pack for TQ2_0 {
    /// Codes are 0 to 2, under `d`.
    fn pack(parts: &Parts, out: &mut [u8]) {
        superblock::pack_planes(&parts.codes, 0, 2, &mut out[..64]);
        block::put_half(out, 64, parts.d);
    }
}

impl Format for TQ2_0 {
    const TYPE: Type = Type::TQ2_0;
    const INTEGER: bool = true;
    type Rows = superblock::Rows<BYTES>;

    fn dequantize(row: &[u8], out: &mut [f32]) {
        superblock::dequantize::<Self, BYTES>(row, out);
    }

    fn swap_endian(blocks: &mut [u8]) {
        block::swap_half::<BYTES>(blocks, 64);
    }
}

impl Superblock<BYTES> for TQ2_0 {
    const BY_WORDS: bool = true;
    const SCALE_AT: usize = 64;
    const SCALES_PER_BLOCK: usize = 0;
    #[inline(always)]
    fn weights(superblock: &[u8; BYTES], block: usize) -> [u8; BLOCK] {
        bytes_at(superblock, block / 4 * BLOCK).map(|quants: u8| (quants >> (block % 4 * 2) & 3).wrapping_sub(1))
    }

    #[inline(always)]
    fn unpack_weights<S: Simd>(s: S, rows: impl Lanes<BYTES>, out: &mut impl Weights<S>) {
        let one = s.all(0x0101_0101);
        for four in 0..BLOCKS / 4 {
            let quants = block_at(s, rows, four * BLOCK);
            for block in 0..4 {
                let weights = each!(8, i => s.less(s.bits(quants[i], 2 * block, 3), one));
                out.put_signed(s, 4 * four + block, weights);
            }
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
        superblock[64..].copy_from_slice(&[0x00, 0x40]); // 2
        superblock[32 + 7] = 0x24; // Value 7 of blocks 4 to 7: 0, 1, 2, 0.
        let mut values = [9.0; SUPERBLOCK];
        TQ2_0::dequantize(&superblock, &mut values);
        assert_eq!([4, 5, 6, 7].map(|block| values[block * BLOCK + 7]), [-2.0, 0.0, 2.0, -2.0]);
        assert_eq!(values[7], -2.0);
    }
}
