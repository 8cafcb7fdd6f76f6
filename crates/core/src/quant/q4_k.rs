//! Q4_K: 256 values, one half-float scale and minimum, six-bit ones for each 32, four bits each (ggml `block_q4_K`).
//!
//! Byte map, 144 bytes: scale `d` as f16 (0..2), minimum `dmin` as f16 (2..4), the six-bit scales and minimums of the eight
//! blocks (4..16, see [`scale_and_min`]), then for each pair of blocks 32 bytes (16..144) of which byte `i` holds value `i` of
//! the first in its low half and value `i` of the second in its high half. A value is `d * scale * q - dmin * min`.

use super::block;
use super::superblock::{self, Superblock, Unpacked, bytes_at, half_at};
use super::{Activation, Format, TILE, Type};
use crate::simd::{BLOCK, Simd};

/// Bytes of a superblock.
const BYTES: usize = 144;

/// The format.
pub(crate) struct Q4_K;

impl Format for Q4_K {
    const TYPE: Type = Type::Q4_K;
    const INTEGER: bool = true;

    fn dequantize(row: &[u8], out: &mut [f32]) {
        superblock::dequantize::<Self, BYTES>(row, out);
    }

    fn swap_endian(blocks: &mut [u8]) {
        block::swap_half::<BYTES>(blocks, 0);
        block::swap_half::<BYTES>(blocks, 2);
    }

    #[inline(always)]
    fn tile<S: Simd, const T: usize>(
        s: S,
        rows: &[&[u8]; TILE],
        activations: &[Activation<'_>; T],
        out: &mut [[f32; TILE]; T],
    ) {
        superblock::tile::<Self, S, BYTES, T>(s, rows, activations, out);
    }
}

impl Superblock<BYTES> for Q4_K {
    const UNSIGNED: bool = true;
    const MIN_AT: Option<usize> = Some(2);

    #[inline(always)]
    fn scale(superblock: &[u8; BYTES]) -> u16 {
        half_at(superblock, 0)
    }

    #[inline(always)]
    fn unpack(superblock: &[u8; BYTES], block: usize) -> Unpacked {
        let (scale, min) = scale_and_min(bytes_at(superblock, 4), block);
        let quants: &[u8; BLOCK] = bytes_at(superblock, 16 + block / 2 * BLOCK);
        let weights = quants.map(|q| (q >> (block % 2 * 4) & 15) as i8);
        Unpacked { weights, scales: [scale as i8; 2], mins: [min; 2] }
    }
}

/// The scale and the minimum of block `block`, six bits each.
///
/// Byte `i` of the first four holds the scale of block `i`, of the next four its minimum; their two upper bits belong to
/// block `i + 4`, whose lower bits are the halves of byte `i` of the last four: scale, then minimum.
#[inline(always)]
pub(super) fn scale_and_min(packed: &[u8; 12], block: usize) -> (u8, u8) {
    let i = block % 4;
    if block < 4 {
        (packed[i] & 63, packed[4 + i] & 63)
    } else {
        (packed[8 + i] & 15 | packed[i] >> 6 << 4, packed[8 + i] >> 4 | packed[4 + i] >> 6 << 4)
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
        superblock[4] = 0x80 | 3; // Block 0: scale 3. Block 4: scale 0x20 and more.
        superblock[8] = 0x40 | 4; // Block 0: minimum 4. Block 4: minimum 0x10 and more.
        superblock[12] = 0x21; // Block 4: scale 0x21, minimum 0x12.
        superblock[16] = 0x9f; // Value 0 of block 0 is 15, of block 1 (whose scales are zero) 9.
        superblock[16 + 2 * BLOCK + 31] = 0x07; // Value 31 of block 4.
        let mut values = [9.0; SUPERBLOCK];
        Q4_K::dequantize(&superblock, &mut values);
        assert_eq!(values[..2], [3.0 * 15.0 - 2.0, -2.0]);
        assert_eq!(values[BLOCK], 0.0);
        assert_eq!(values[4 * BLOCK + 31], 33.0 * 7.0 - 9.0);
    }
}
