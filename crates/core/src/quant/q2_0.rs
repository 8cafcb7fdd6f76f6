//! Q2_0: 64 values, one half-float scale, two bits each (ggml `block_q2_0`).
//!
//! Byte map, 18 bytes: scale `d` as f16 (0..2), 16 bytes (2..18) of which byte `i` holds the values `4 * i` to `4 * i + 3`,
//! the first lowest. A value is `d * (q - 1)`.

use super::block;
use super::grid;
use super::superblock::{self, Superblock, half_at};
use super::{Format, Pack, Parts, Type};
use crate::simd::BLOCK;

/// Bytes of a superblock.
const BYTES: usize = 18;

/// The format.
pub(crate) struct Q2_0;

impl Pack for Q2_0 {
    /// Codes are 0 to 3, under `d`.
    fn pack(parts: &Parts, out: &mut [u8]) {
        block::put_half(out, 0, parts.d);
        for (byte, codes) in out[2..].iter_mut().zip(parts.codes.as_chunks::<4>().0) {
            *byte = codes.iter().rev().fold(0, |byte, code| byte << 2 | (*code as u8 & 3));
        }
    }
}

impl Format for Q2_0 {
    const TYPE: Type = Type::Q2_0;
    const INTEGER: bool = true;
    type Rows = superblock::Rows<BYTES>;

    fn dequantize(row: &[u8], out: &mut [f32]) {
        superblock::dequantize::<Self, BYTES>(row, out);
    }

    fn swap_endian(blocks: &mut [u8]) {
        block::swap_half::<BYTES>(blocks, 0);
    }
}

impl Superblock<BYTES> for Q2_0 {
    const SCALES_PER_BLOCK: usize = 0;
    const N_BLOCKS: usize = 2;

    #[inline(always)]
    fn weights(superblock: &[u8; BYTES], block: usize) -> [u8; BLOCK] {
        let eight = |i: usize| grid::codes_of_two_bits(half_at(superblock, 2 + 8 * block + 2 * i));
        grid::block_of(eight).map(|code| code.wrapping_sub(1))
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
        superblock[2 + 9] = 0x34; // Values 36 to 39: 0, 1, 3, 0.
        let mut values = [9.0; 64];
        Q2_0::dequantize(&superblock, &mut values);
        assert_eq!(values[35..41], [-2.0, -2.0, 0.0, 4.0, -2.0, -2.0]);
        let mut parts = Parts { d: 2.0, ..Parts::ZERO };
        parts.codes[36..39].copy_from_slice(&[0, 1, 3]);
        let mut packed = [0; BYTES];
        Q2_0::pack(&parts, &mut packed);
        assert_eq!(packed, superblock);
    }
}
