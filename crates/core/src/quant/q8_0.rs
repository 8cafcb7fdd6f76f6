//! Q8_0: 32 values, one half-float scale, eight bits each (ggml `block_q8_0`).
//!
//! Byte map, 34 bytes: scale `d` as f16 (0..2), 32 signed bytes `q` (2..34). A value is `d * q`.

use super::block::{self, Block};
use super::panel::COLUMNS;
use super::tile::{self, Lanes};
use super::{Format, Pack, Parts, Quantize, Type};
use crate::half::{f16_to_f32, f32_to_f16};
use crate::simd::{BLOCK, Simd};

/// Bytes of a block.
const BYTES: usize = 34;

/// The format.
pub(crate) struct Q8_0;

/// Rounds to the nearest integer, ties away from zero, as ggml's quantizers do (C `roundf`).
fn round_away(x: f32) -> i8 {
    let magnitude = f32::from_bits(x.to_bits() & 0x7fff_ffff);
    let floor = magnitude as i32;
    let rounded = if magnitude - floor as f32 >= 0.5 { floor + 1 } else { floor };
    (if x < 0.0 { -rounded } else { rounded }) as i8
}

impl Quantize for Q8_0 {
    /// ggml's `quantize_row_q8_0_ref`: the scale is the largest magnitude over 127.
    fn quantize(row: &[f32], out: &mut [u8]) {
        for (values, block) in row.as_chunks::<BLOCK>().0.iter().zip(out.as_chunks_mut::<BYTES>().0) {
            let largest = values.iter().fold(0.0f32, |largest, v| largest.max(v.abs()));
            let scale = largest / 127.0;
            let inverse = if scale != 0.0 { 1.0 / scale } else { 0.0 };
            let (head, quants) = block.split_at_mut(2);
            head.copy_from_slice(&f32_to_f16(scale).to_le_bytes());
            for (q, v) in quants.iter_mut().zip(values) {
                *q = round_away(v * inverse) as u8;
            }
        }
    }
}

impl Pack for Q8_0 {
    /// The low byte of a code is the signed `q`, under `d`.
    fn pack(parts: &Parts, block: &mut [u8]) {
        block::put_half(block, 0, parts.d);
        block[2..].copy_from_slice(&block::code_bytes(parts, 0));
    }
}

impl Format for Q8_0 {
    const TYPE: Type = Type::Q8_0;
    const INTEGER: bool = true;
    type Rows = block::Rows<BYTES>;

    fn dequantize(row: &[u8], out: &mut [f32]) {
        for (block, values) in row.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<BLOCK>().0) {
            let scale = f16_to_f32(u16::from_le_bytes([block[0], block[1]]));
            for (q, v) in block[2..].iter().zip(values) {
                *v = scale * f32::from(*q as i8);
            }
        }
    }

    fn swap_endian(blocks: &mut [u8]) {
        block::swap_half::<BYTES>(blocks, 0);
    }
}

impl Block<BYTES> for Q8_0 {
    const BIAS: Option<i32> = None;
    const MIN_AT: Option<usize> = None;

    #[inline(always)]
    fn weights<S: Simd>(s: S, blocks: impl Lanes<BYTES>) -> [S::C; COLUMNS] {
        tile::block_at(s, blocks, 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Worked out by hand from the byte map.
    #[test]
    fn golden_bytes() {
        let mut row = [0.0; BLOCK];
        row[..4].copy_from_slice(&[127.0, -127.0, 0.5, -1.5]);
        let mut block = [0; BYTES];
        Q8_0::quantize(&row, &mut block);
        assert_eq!(block[..6], [0x00, 0x3c, 127, 129, 1, 254]);
        let mut back = [9.0; BLOCK];
        Q8_0::dequantize(&block, &mut back);
        assert_eq!(back[..5], [127.0, -127.0, 1.0, -2.0, 0.0]);
    }

    #[test]
    fn rounding_ties() {
        let away: Vec<i8> = [0.5, 1.5, 2.5, -0.5, -1.5, 126.5, 0.499].iter().map(|&x| round_away(x)).collect();
        assert_eq!(away, [1, 2, 3, -1, -2, 127, 0]);
    }
}
