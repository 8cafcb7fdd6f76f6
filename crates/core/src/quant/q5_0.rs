//! Q5_0: 32 values, one half-float scale, five bits each (ggml `block_q5_0`).
//!
//! Byte map, 22 bytes: scale `d` as f16 (0..2), the fifth bits of all values as one u32, value `i` in bit `i` (2..6), 16
//! bytes (6..22) of which byte `i` holds the low four bits of value `i`, and of `i + 16` in its high half. A value is
//! `d * (q - 16)`.

use super::block::{self, Block};
use super::panel::COLUMNS;
use super::tile::Lanes;
use super::{Format, Pack, Parts, Quantize, Type};
use crate::half::{f16_to_f32, f32_to_f16};
use crate::simd::{BLOCK, Simd};

/// Bytes of a block.
const BYTES: usize = 22;

/// The format.
pub(crate) struct Q5_0;

impl Quantize for Q5_0 {
    /// ggml's `quantize_row_q5_0_ref`: the value of largest magnitude, sign kept, becomes -16.
    fn quantize(row: &[f32], out: &mut [u8]) {
        for (values, block) in row.as_chunks::<BLOCK>().0.iter().zip(out.as_chunks_mut::<BYTES>().0) {
            let largest = values.iter().fold(0.0f32, |largest, &v| if v.abs() > largest.abs() { v } else { largest });
            let scale = largest / -16.0;
            let inverse = if scale != 0.0 { 1.0 / scale } else { 0.0 };
            let (head, quants) = block.split_at_mut(2);
            head.copy_from_slice(&f32_to_f16(scale).to_le_bytes());
            block::pack_five(&values.map(|v| ((v * inverse + 16.5) as u8).min(31)), quants);
        }
    }
}

impl Pack for Q5_0 {
    /// Codes are 0 to 31, under `d`.
    fn pack(parts: &Parts, block: &mut [u8]) {
        block::put_half(block, 0, parts.d);
        block::pack_five(&block::code_bytes(parts, 0), &mut block[2..]);
    }
}

impl Format for Q5_0 {
    const TYPE: Type = Type::Q5_0;
    const INTEGER: bool = true;
    type Rows = block::Rows<BYTES>;

    fn dequantize(row: &[u8], out: &mut [f32]) {
        for (block, values) in row.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<BLOCK>().0) {
            let scale = f16_to_f32(u16::from_le_bytes([block[0], block[1]]));
            block::unpack_five(&block[2..], values, |q| scale * (f32::from(q) - 16.0));
        }
    }

    fn swap_endian(blocks: &mut [u8]) {
        block::swap_half::<BYTES>(blocks, 0);
        block::swap_word::<BYTES>(blocks, 2);
    }
}

impl Block<BYTES> for Q5_0 {
    const BIAS: Option<i32> = Some(16);
    const MIN_AT: Option<usize> = None;

    #[inline(always)]
    fn weights<S: Simd>(s: S, blocks: impl Lanes<BYTES>) -> [S::C; COLUMNS] {
        block::fives(s, blocks, 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Worked out by hand from the byte map.
    #[test]
    fn golden_bytes() {
        let mut row = [0.0; BLOCK];
        row[0] = -16.0;
        row[1] = 15.0;
        row[16] = -3.0;
        let mut block = [0; BYTES];
        Q5_0::quantize(&row, &mut block);
        assert_eq!(block[..9], [0x00, 0x3c, 0xfe, 0xff, 0xfe, 0xff, 0xd0, 0x0f, 0x00]);
        let mut back = [9.0; BLOCK];
        Q5_0::dequantize(&block, &mut back);
        assert_eq!((back[0], back[1], back[16], back[2]), (-16.0, 15.0, -3.0, 0.0));
    }
}
