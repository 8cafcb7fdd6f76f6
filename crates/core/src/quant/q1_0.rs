//! Q1_0: 128 values, one half-float scale, a sign each (ggml `block_q1_0`).
//!
//! Byte map, 18 bytes: scale `d` as f16 (0..2), 16 bytes (2..18) of which bit `b` of byte `i` is set where value `8 * i + b`
//! is `d`; where it is not, the value is `-d`.

use super::block::{self, bytes_at};
use super::grid::{self, ONES};
use super::superblock::{self, Superblock};
use super::{Format, Pack, Parts, Type};
use crate::simd::BLOCK;

/// Bytes of a superblock.
const BYTES: usize = 18;

/// The format.
pub(crate) struct Q1_0;

impl Pack for Q1_0 {
    /// Codes are 0 and 1, under `d`.
    fn pack(parts: &Parts, out: &mut [u8]) {
        block::put_half(out, 0, parts.d);
        for (byte, codes) in out[2..].iter_mut().zip(parts.codes.as_chunks::<8>().0) {
            *byte = codes.iter().rev().fold(0, |byte, code| byte << 1 | (*code as u8 & 1));
        }
    }
}

impl Format for Q1_0 {
    const TYPE: Type = Type::Q1_0;
    const INTEGER: bool = true;
    type Rows = superblock::Rows<BYTES>;

    fn dequantize(row: &[u8], out: &mut [f32]) {
        superblock::dequantize::<Self, BYTES>(row, out);
    }

    fn swap_endian(blocks: &mut [u8]) {
        block::swap_half::<BYTES>(blocks, 0);
    }
}

impl Superblock<BYTES> for Q1_0 {
    const SCALES_PER_BLOCK: usize = 0;
    const N_BLOCKS: usize = 4;

    #[inline(always)]
    fn weights(superblock: &[u8; BYTES], block: usize) -> [u8; BLOCK] {
        let bits: &[u8; 4] = bytes_at(superblock, 2 + 4 * block);
        grid::block_of(|i| grid::with_signs(ONES, !bits[i]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Worked out by hand from the byte map.
    #[test]
    fn golden_bytes() {
        let mut superblock = [0; BYTES];
        superblock[..2].copy_from_slice(&[0x00, 0x40]); // 2
        superblock[2 + 9] = 0x04; // Value 74.
        let mut values = [9.0; 128];
        Q1_0::dequantize(&superblock, &mut values);
        assert_eq!(values[73..76], [-2.0, 2.0, -2.0]);
        let mut parts = Parts { d: 2.0, ..Parts::ZERO };
        parts.codes[74] = 1;
        let mut packed = [0; BYTES];
        Q1_0::pack(&parts, &mut packed);
        assert_eq!(packed, superblock);
    }
}
