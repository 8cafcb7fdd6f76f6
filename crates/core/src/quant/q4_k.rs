//! Q4_K: 256 values, one half-float scale and minimum, six-bit ones for each 32, four bits each (ggml `block_q4_K`).
//!
//! Byte map, 144 bytes: scale `d` as f16 (0..2), minimum `dmin` as f16 (2..4), the six-bit scales and minimums of the
//! eight blocks (4..16, see [`scales_and_mins`]), then for each pair of blocks 32 bytes (16..144) of which byte `i`
//! holds value `i` of the first in its low half and value `i` of the second in its high half. A value is `d * scale * q
//! - dmin * min`.

use super::block::{self, bytes_at};
use super::panel::{Halves, Weights};
use super::superblock::{self, BLOCKS, HALVES, Superblock, for_both_halves};
use super::tile::{Lanes, block_at};
use super::{Format, Pack, Parts, Type};
use crate::simd::{BLOCK, Simd, each, padded};

/// Bytes of a superblock.
const BYTES: usize = 144;

/// The format.
pub(crate) struct Q4_K;

impl Pack for Q4_K {
    /// Eight scales and minimums of 0 to 63, codes of 0 to 15.
    fn pack(parts: &Parts, block: &mut [u8]) {
        block::put_half(block, 0, parts.d);
        block::put_half(block, 2, parts.dmin);
        pack_scales_and_mins(parts, &mut block[4..16]);
        superblock::pack_planes(&parts.codes, 0, 4, &mut block[16..]);
    }
}

impl Format for Q4_K {
    const TYPE: Type = Type::Q4_K;
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

impl Superblock<BYTES> for Q4_K {
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
        bytes_at(superblock, 16 + block / 2 * BLOCK).map(|quants: u8| quants >> (block % 2 * 4) & 15)
    }

    #[inline(always)]
    fn unpack_scales<S: Simd>(s: S, rows: impl Lanes<BYTES>, halves: &mut Halves) {
        unpack_scales_and_mins(s, rows.words(s, 0), halves);
    }

    #[inline(always)]
    fn unpack_weights<S: Simd>(s: S, rows: impl Lanes<BYTES>, out: &mut impl Weights<S>) {
        for pair in 0..BLOCKS / 2 {
            let quants = block_at(s, rows, 16 + pair * BLOCK);
            out.put_unsigned(s, 2 * pair, each!(8, i => s.bits(quants[i], 0, 15)));
            out.put_unsigned(s, 2 * pair + 1, each!(8, i => s.bits(quants[i], 4, 15)));
        }
    }
}

/// The scales and the minimums of the eight blocks, six bits each.
///
/// Byte `i` of the first four holds the scale of block `i`, of the next four its minimum; their two upper bits belong
/// to block `i + 4`, whose lower bits are the halves of byte `i` of the last four: scale, then minimum.
#[inline(always)]
pub(super) fn scales_and_mins(packed: &[u8; 12]) -> ([u8; BLOCKS], [u8; BLOCKS]) {
    let word = |at: usize| u32::from_le_bytes(*bytes_at(packed, at));
    let (scales, mins, last) = (word(0), word(4), word(8));
    let eight = |first: u32, low: u32| {
        let second = low & 0x0f0f_0f0f | first >> 2 & 0x3030_3030;
        (u64::from(first & 0x3f3f_3f3f) | u64::from(second) << 32).to_le_bytes()
    };
    (eight(scales, last), eight(mins, last >> 4))
}

/// Fills in what [`scales_and_mins`] gives of a tile; the packed numbers end the sixteen bytes that a superblock begins with.
#[inline(always)]
pub(super) fn unpack_scales_and_mins<S: Simd>(s: S, start: [S::C; 4], halves: &mut Halves) {
    let [_, scales, mins, last] = start;
    let (scales, mins) = (eight(s, scales, last), eight(s, mins, s.down(last, 4)));
    for block in 0..BLOCKS {
        let (scale, min) = (scales[block / 4], mins[block / 4]);
        s.rows_store(s.floats(superblock::byte(s, scale, block % 4)), &mut halves.factors[block][0]);
        s.rows_store(s.floats(superblock::byte(s, min, block % 4)), &mut halves.mins[block][0]);
    }
}

/// Eight numbers of six bits: those of the first four, with two bits of the others above them, and the others' low bits.
#[inline(always)]
fn eight<S: Simd>(s: S, first: S::C, low: S::C) -> [S::C; 2] {
    let upper = s.and(s.down(first, 2), s.all(0x3030_3030));
    [s.bits(first, 0, 63), s.or(s.bits(low, 0, 15), upper)]
}

/// The inverse of [`scales_and_mins`]; `packed` is zero before.
pub(super) fn pack_scales_and_mins(parts: &Parts, packed: &mut [u8]) {
    for i in 0..BLOCKS / 2 {
        let (scale, min) = (parts.scales[i] as u8, parts.mins[i] as u8);
        let (last_scale, last_min) = (parts.scales[i + 4] as u8, parts.mins[i + 4] as u8);
        packed[i] = scale & 63 | last_scale >> 4 << 6;
        packed[i + 4] = min & 63 | last_min >> 4 << 6;
        packed[i + 8] = last_scale & 15 | last_min << 4;
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
