//! Q5_1: 32 values, one half-float scale and minimum, five bits each (ggml `block_q5_1`).
//!
//! Byte map, 24 bytes: scale `d` as f16 (0..2), minimum `m` as f16 (2..4), the fifth bits of all values as one u32, value
//! `i` in bit `i` (4..8), 16 bytes (8..24) of which byte `i` holds the low four bits of value `i`, and of `i + 16` in its
//! high half. A value is `d * q + m`.

use super::block::{self, Block};
use super::panel::COLUMNS;
use super::tile::Lanes;
use super::{Format, Pack, Parts, Quantize, Type};
use crate::half::{f16_to_f32, f32_to_f16};
use crate::simd::{BLOCK, Simd};

/// Bytes of a block.
const BYTES: usize = 24;

/// The format.
pub(crate) struct Q5_1;

impl Quantize for Q5_1 {
    /// ggml's `quantize_row_q5_1_ref`: from the smallest value in 31 equal steps to the largest.
    fn quantize(row: &[f32], out: &mut [u8]) {
        for (values, block) in row.as_chunks::<BLOCK>().0.iter().zip(out.as_chunks_mut::<BYTES>().0) {
            let (min, scale) = block::range(values, 31.0);
            let inverse = if scale != 0.0 { 1.0 / scale } else { 0.0 };
            let (head, quants) = block.split_at_mut(4);
            head[..2].copy_from_slice(&f32_to_f16(scale).to_le_bytes());
            head[2..].copy_from_slice(&f32_to_f16(min).to_le_bytes());
            block::pack_five(&values.map(|v| (((v - min) * inverse + 0.5) as u8).min(31)), quants);
        }
    }
}

impl Pack for Q5_1 {
    /// Codes are 0 to 31, under `d`; `dmin` is added to every value.
    fn pack(parts: &Parts, block: &mut [u8]) {
        block::put_half(block, 0, parts.d);
        block::put_half(block, 2, parts.dmin);
        block::pack_five(&block::code_bytes(parts, 0), &mut block[4..]);
    }
}

impl Format for Q5_1 {
    const TYPE: Type = Type::Q5_1;
    const INTEGER: bool = true;
    type Rows = block::Rows<BYTES>;

    fn dequantize(row: &[u8], out: &mut [f32]) {
        for (block, values) in row.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<BLOCK>().0) {
            let half = |at: usize| f16_to_f32(u16::from_le_bytes([block[at], block[at + 1]]));
            let (scale, min) = (half(0), half(2));
            block::unpack_five(&block[4..], values, |q| scale * f32::from(q) + min);
        }
    }

    fn swap_endian(blocks: &mut [u8]) {
        block::swap_half::<BYTES>(blocks, 0);
        block::swap_half::<BYTES>(blocks, 2);
        block::swap_word::<BYTES>(blocks, 4);
    }
}

impl Block<BYTES> for Q5_1 {
    const BIAS: Option<i32> = Some(0);
    const MIN_AT: Option<usize> = Some(2);

    #[inline(always)]
    fn weights<S: Simd>(s: S, blocks: impl Lanes<BYTES>) -> [S::C; COLUMNS] {
        block::fives(s, blocks, 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Worked out by hand from the byte map.
    #[test]
    fn golden_bytes() {
        let mut row = [1.0; BLOCK];
        row[0] = 32.0;
        row[17] = 18.4;
        let mut block = [0; BYTES];
        Q5_1::quantize(&row, &mut block);
        assert_eq!(block[..10], [0x00, 0x3c, 0x00, 0x3c, 0x01, 0x00, 0x02, 0x00, 0x0f, 0x10]);
        let mut back = [9.0; BLOCK];
        Q5_1::dequantize(&block, &mut back);
        assert_eq!((back[0], back[1], back[17]), (32.0, 1.0, 18.0));
    }
}
