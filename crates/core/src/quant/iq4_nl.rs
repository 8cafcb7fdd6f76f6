//! IQ4_NL: 32 values, one half-float scale, one of sixteen uneven levels each (ggml `block_iq4_nl`).
//!
//! Byte map, 18 bytes: scale `d` as f16 (0..2), 16 bytes (2..18) of which byte `i` holds value `i` in its low half and
//! value `i + 16` in its high half. A value is `d * level`.

use super::block::{self, Block};
use super::panel::COLUMNS;
use super::tile::{self, Lanes};
use super::{Format, Pack, Parts, Type};
use crate::half::f16_to_f32;
use crate::simd::{BLOCK, Simd, each};

/// Bytes of a block.
const BYTES: usize = 18;

/// What the four bits of a value stand for: closer together near zero, where most weights are (ggml `kvalues_iq4nl`).
pub(super) const LEVELS: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// The format.
pub(crate) struct IQ4_NL;

impl Pack for IQ4_NL {
    /// A code is the number of a level, under `d`.
    fn pack(parts: &Parts, block: &mut [u8]) {
        block::put_half(block, 0, parts.d);
        block::pack_four(&block::code_bytes(parts, 0), &mut block[2..]);
    }
}

impl Format for IQ4_NL {
    const TYPE: Type = Type::IQ4_NL;
    const INTEGER: bool = true;
    type Rows = block::Rows<BYTES>;

    fn dequantize(row: &[u8], out: &mut [f32]) {
        for (block, values) in row.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<BLOCK>().0) {
            let scale = f16_to_f32(u16::from_le_bytes([block[0], block[1]]));
            let level = |code: u8| f32::from(LEVELS[usize::from(code)]);
            let (low, high) = values.split_at_mut(BLOCK / 2);
            for ((q, low), high) in block[2..].iter().zip(low).zip(high) {
                *low = scale * level(q & 15);
                *high = scale * level(q >> 4);
            }
        }
    }

    fn swap_endian(blocks: &mut [u8]) {
        block::swap_half::<BYTES>(blocks, 0);
    }
}

impl Block<BYTES> for IQ4_NL {
    const BIAS: Option<i32> = None;
    const MIN_AT: Option<usize> = None;

    #[inline(always)]
    fn weights<S: Simd>(s: S, blocks: impl Lanes<BYTES>) -> [S::C; COLUMNS] {
        let codes = tile::nibbles_at(s, blocks, 2);
        each!(8, i => s.lookup(codes[i], &LEVELS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Worked out by hand from the byte map.
    #[test]
    fn golden_bytes() {
        let mut block = [0x88; BYTES];
        block[..4].copy_from_slice(&[0x00, 0x38, 0xf0, 0x79]); // 1/2
        let mut values = [9.0; BLOCK];
        IQ4_NL::dequantize(&block, &mut values);
        assert_eq!((values[0], values[1], values[16], values[17], values[2]), (-63.5, 6.5, 56.5, -5.0, 0.5));
    }
}
