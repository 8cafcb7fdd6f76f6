//! TQ1_0: 256 values, one half-float scale, -1, 0 or 1, five to a byte (ggml `block_tq1_0`).
//!
//! Byte map, 54 bytes: 32 bytes (0..32) with digits of the blocks 0 to 4, 16 bytes (32..48) with digits of both halves
//! of the blocks 5 and 6 and of the first of block 7, 4 bytes (48..52) with four digits each for the rest, scale `d` as
//! f16 (52..54). A byte is a fraction of 256, and its digits are those after the point in base 3: digit `n` is the
//! whole part of 3 times the fraction that is left of 3^n times the byte. A value is `d * (digit - 1)`.

use super::block::{self, bytes_at};
use super::superblock::{self, SUPERBLOCK, Superblock};
use super::{Format, Pack, Parts, Type};
use crate::simd::BLOCK;

/// Bytes of a superblock.
const BYTES: usize = 54;

/// The format.
pub(crate) struct TQ1_0;

impl Pack for TQ1_0 {
    /// Codes are 0 to 2, under `d`.
    fn pack(parts: &Parts, out: &mut [u8]) {
        // Where the digits of a byte stand among the codes: the first, and how far apart.
        let digits = |i: usize| match i {
            0..32 => (i, BLOCK),
            32..48 => (5 * BLOCK + i - 32, BLOCK / 2),
            _ => (15 * BLOCK / 2 + i - 48, 4),
        };
        for (i, byte) in out[..52].iter_mut().enumerate() {
            let (first, step) = digits(i);
            let digit = |n: usize| if first + n * step < SUPERBLOCK { parts.codes[first + n * step] } else { 0 };
            let number = (0..5).fold(0, |number, n| 3 * number + digit(n));
            // As a fraction of 256, rounded up, so that taking digits off it never comes out below.
            *byte = (number * 256).div_ceil(243) as u8;
        }
        block::put_half(out, 52, parts.d);
    }
}

impl Format for TQ1_0 {
    const TYPE: Type = Type::TQ1_0;
    const INTEGER: bool = true;
    type Rows = superblock::Rows<BYTES>;

    fn dequantize(row: &[u8], out: &mut [f32]) {
        superblock::dequantize::<Self, BYTES>(row, out);
    }

    fn swap_endian(blocks: &mut [u8]) {
        block::swap_half::<BYTES>(blocks, 52);
    }
}

impl Superblock<BYTES> for TQ1_0 {
    const SCALE_AT: usize = 52;
    const SCALES_PER_BLOCK: usize = 0;
    #[inline(always)]
    fn weights(superblock: &[u8; BYTES], block: usize) -> [u8; BLOCK] {
        let mut all = [0; BLOCK];
        let (first, second) = all.split_at_mut(BLOCK / 2);
        let sixteen: &[u8; BLOCK / 2] = bytes_at(superblock, 32);
        match block {
            0..5 => all = digits(bytes_at(superblock, 0), block),
            5 | 6 => {
                first.copy_from_slice(&digits(sixteen, 2 * (block - 5)));
                second.copy_from_slice(&digits(sixteen, 2 * (block - 5) + 1));
            }
            _ => {
                first.copy_from_slice(&digits(sixteen, 4));
                for (n, four) in second.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                    *four = digits(bytes_at(superblock, 48), n);
                }
            }
        }
        all.map(|digit| digit.wrapping_sub(1))
    }
}

/// Digit `n` of every byte.
#[inline(always)]
fn digits<const M: usize>(bytes: &[u8; M], n: usize) -> [u8; M] {
    const POWERS: [u8; 5] = [1, 3, 9, 27, 81];
    bytes.map(|byte| ((u16::from(byte.wrapping_mul(POWERS[n])) * 3) >> 8) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Worked out by hand from the byte map.
    #[test]
    fn golden_bytes() {
        let mut superblock = [0; BYTES];
        superblock[52..].copy_from_slice(&[0x00, 0x40]); // 2
        superblock[3] = 190; // 0.20200 in base 3 is 180/243, and 256 of that, rounded up, 190.
        superblock[32 + 15] = 190;
        superblock[48 + 1] = 190;
        let mut values = [9.0; SUPERBLOCK];
        TQ1_0::dequantize(&superblock, &mut values);
        assert_eq!([0, 1, 2, 3, 4].map(|block| values[block * BLOCK + 3]), [2.0, -2.0, 2.0, -2.0, -2.0]);
        assert_eq!([0, 1, 2, 3, 4].map(|half| values[5 * BLOCK + half * 16 + 15]), [2.0, -2.0, 2.0, -2.0, -2.0]);
        assert_eq!([0, 1, 2, 3].map(|n| values[240 + 4 * n + 1]), [2.0, -2.0, 2.0, -2.0]);
    }
}
