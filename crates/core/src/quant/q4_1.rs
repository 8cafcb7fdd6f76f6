//! Q4_1: 32 values, one half-float scale and minimum, four bits each (ggml `block_q4_1`).
//!
//! Byte map, 20 bytes: scale `d` as f16 (0..2), minimum `m` as f16 (2..4), 16 bytes (4..20) of which byte `i` holds value
//! `i` in its low half and value `i + 16` in its high half. A value is `d * q + m`.

use super::block::{self, Block};
use super::panel::COLUMNS;
use super::tile::{self, Lanes};
use super::{Format, Pack, Parts, Quantize, Type};
use crate::half::{f16_to_f32, f32_to_f16};
use crate::simd::{BLOCK, Simd};

/// Bytes of a block.
const BYTES: usize = 20;

/// The format.
pub(crate) struct Q4_1;

impl Quantize for Q4_1 {
    /// ggml's `quantize_row_q4_1_ref`: from the smallest value in 15 equal steps to the largest.
    fn quantize(row: &[f32], out: &mut [u8]) {
        for (values, block) in row.as_chunks::<BLOCK>().0.iter().zip(out.as_chunks_mut::<BYTES>().0) {
            let (min, scale) = block::range(values, 15.0);
            let inverse = if scale != 0.0 { 1.0 / scale } else { 0.0 };
            let nearest = |v: f32| (((v - min) * inverse + 0.5) as u8).min(15);
            let (head, quants) = block.split_at_mut(4);
            head[..2].copy_from_slice(&f32_to_f16(scale).to_le_bytes());
            head[2..].copy_from_slice(&f32_to_f16(min).to_le_bytes());
            let (low, high) = values.split_at(BLOCK / 2);
            for ((q, &low), &high) in quants.iter_mut().zip(low).zip(high) {
                *q = nearest(low) | nearest(high) << 4;
            }
        }
    }
}

impl Pack for Q4_1 {
    /// Codes are 0 to 15, under `d`; `dmin` is added to every value.
    fn pack(parts: &Parts, block: &mut [u8]) {
        block::put_half(block, 0, parts.d);
        block::put_half(block, 2, parts.dmin);
        block::pack_four(&block::code_bytes(parts, 0), &mut block[4..]);
    }
}

impl Format for Q4_1 {
    const TYPE: Type = Type::Q4_1;
    const INTEGER: bool = true;
    type Rows = block::Rows<BYTES>;

    fn dequantize(row: &[u8], out: &mut [f32]) {
        for (block, values) in row.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<BLOCK>().0) {
            let half = |at: usize| f16_to_f32(u16::from_le_bytes([block[at], block[at + 1]]));
            let (scale, min) = (half(0), half(2));
            let (low, high) = values.split_at_mut(BLOCK / 2);
            for ((q, low), high) in block[4..].iter().zip(low).zip(high) {
                *low = scale * f32::from(q & 15) + min;
                *high = scale * f32::from(q >> 4) + min;
            }
        }
    }

    fn swap_endian(blocks: &mut [u8]) {
        block::swap_half::<BYTES>(blocks, 0);
        block::swap_half::<BYTES>(blocks, 2);
    }
}

impl Block<BYTES> for Q4_1 {
    const BIAS: Option<i32> = Some(0);
    const MIN_AT: Option<usize> = Some(2);

    #[inline(always)]
    fn weights<S: Simd>(s: S, blocks: impl Lanes<BYTES>) -> [S::C; COLUMNS] {
        tile::nibbles_at(s, blocks, 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Worked out by hand from the byte map.
    #[test]
    fn golden_bytes() {
        let mut row = [1.0; BLOCK];
        row[0] = 16.0;
        row[17] = 4.4;
        let mut block = [0; BYTES];
        Q4_1::quantize(&row, &mut block);
        assert_eq!(block[..6], [0x00, 0x3c, 0x00, 0x3c, 0x0f, 0x30]);
        let mut back = [9.0; BLOCK];
        Q4_1::dequantize(&block, &mut back);
        assert_eq!((back[0], back[1], back[17]), (16.0, 1.0, 4.0));
    }
}
