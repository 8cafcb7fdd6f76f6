//! Q4_0: 32 values, one half-float scale, four bits each (ggml `block_q4_0`).
//!
//! Byte map, 18 bytes: scale `d` as f16 (0..2), 16 bytes (2..18) of which byte `i` holds value `i` in its low half and
//! value `i + 16` in its high half. A value is `d * (q - 8)`.

use super::block::{self, Block};
use super::panel::COLUMNS;
use super::tile::{self, Lanes};
use super::{Format, Pack, Parts, Quantize, Type};
use crate::half::{f16_to_f32, f32_to_f16};
use crate::simd::{BLOCK, Simd};

/// Bytes of a block.
const BYTES: usize = 18;

/// The format.
pub(crate) struct Q4_0;

impl Quantize for Q4_0 {
    /// ggml's `quantize_row_q4_0_ref`: the value of largest magnitude, sign kept, becomes -8.
    fn quantize(row: &[f32], out: &mut [u8]) {
        for (values, block) in row.as_chunks::<BLOCK>().0.iter().zip(out.as_chunks_mut::<BYTES>().0) {
            let largest = values.iter().fold(0.0f32, |largest, &v| if v.abs() > largest.abs() { v } else { largest });
            let scale = largest / -8.0;
            let inverse = if scale != 0.0 { 1.0 / scale } else { 0.0 };
            let nearest = |v: f32| ((v * inverse + 8.5) as u8).min(15);
            let (head, quants) = block.split_at_mut(2);
            head.copy_from_slice(&f32_to_f16(scale).to_le_bytes());
            let (low, high) = values.split_at(BLOCK / 2);
            for ((q, &low), &high) in quants.iter_mut().zip(low).zip(high) {
                *q = nearest(low) | nearest(high) << 4;
            }
        }
    }
}

impl Pack for Q4_0 {
    /// Codes are 0 to 15, under `d`.
    fn pack(parts: &Parts, block: &mut [u8]) {
        block::put_half(block, 0, parts.d);
        block::pack_four(&block::code_bytes(parts, 0), &mut block[2..]);
    }
}

impl Format for Q4_0 {
    const TYPE: Type = Type::Q4_0;
    const INTEGER: bool = true;
    type Rows = block::Rows<BYTES>;

    fn dequantize(row: &[u8], out: &mut [f32]) {
        for (block, values) in row.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<BLOCK>().0) {
            let scale = f16_to_f32(u16::from_le_bytes([block[0], block[1]]));
            let (low, high) = values.split_at_mut(BLOCK / 2);
            for ((q, low), high) in block[2..].iter().zip(low).zip(high) {
                *low = scale * (f32::from(q & 15) - 8.0);
                *high = scale * (f32::from(q >> 4) - 8.0);
            }
        }
    }

    fn swap_endian(blocks: &mut [u8]) {
        block::swap_half::<BYTES>(blocks, 0);
    }
}

impl Block<BYTES> for Q4_0 {
    const BIAS: Option<i32> = Some(8);
    const MIN_AT: Option<usize> = None;

    #[inline(always)]
    fn weights<S: Simd>(s: S, blocks: impl Lanes<BYTES>) -> [S::C; COLUMNS] {
        tile::nibbles_at(s, blocks, 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Worked out by hand from the byte map.
    #[test]
    fn golden_bytes() {
        let mut row = [0.0; BLOCK];
        row[0] = -8.0;
        row[1] = 7.0;
        row[16] = 3.0;
        row[17] = -4.4;
        let mut block = [0; BYTES];
        Q4_0::quantize(&row, &mut block);
        assert_eq!(block[..5], [0x00, 0x3c, 0xb0, 0x4f, 0x88]);
        let mut back = [9.0; BLOCK];
        Q4_0::dequantize(&block, &mut back);
        assert_eq!((back[0], back[1], back[16], back[17], back[2]), (-8.0, 7.0, 3.0, -4.0, 0.0));
    }
}
