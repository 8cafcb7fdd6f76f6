//! The any-width family, ours: 2, 3, 4, 5, 6 and 8 bits for rows of any length (`docs/any-width.md`).
//!
//! Byte map of a block of `n` weights (32, fewer in the last block of a row) with `BITS` bits each: its scale (byte 0), then
//! the codes, least significant bit first, in as many bytes as they need. A block is read as one stream of bits, so that
//! the code of weight `i` ends before bit `8 + (i + 1) * BITS`.
//!
//! In the formats of 2, 3 and 4 bits a weight is `scale * TABLE[w]`, where `w` is the last six bits of the stream up to the
//! end of its code: its own bits on top, below them those of the weights before it, and at the head of the block bits of
//! the scale. The same code stands for several levels, and whoever writes the block chooses a path through them (trellis
//! coded quantization; Marcellin and Fischer, 1990). In the formats of 5 and 6 bits a weight is `scale * (code - 2^(BITS - 1))`, in
//! that of 8 bits `scale * code`, the code a signed byte.
//!
//! The scale `e << 3 | m` stands for `(1 + m / 8) * 2^(e - 30)`, but 0 for zero: five bits of exponent, three of mantissa.
//! A weight is then the product of a four-bit and an eight-bit integer and a power of two, so the float is exact.
//!
//! In [`Parts`]: `scales[0]` the byte of the scale, `codes[i]` the code of weight `i`.

use super::block::{self, Block};
use super::{Format, Pack, Parts, Type};
use crate::half::e5m3_to_f32;
use crate::simd::{BLOCK, Scalar, Simd, TILE};

/// Bits of the stream that choose a level.
pub const WINDOW: usize = 6;

/// The levels of the windows, for 2, 3 and 4 bits: `TABLES[bits - 2]`. Made by `tools/any_width_study.py`, as the centroids
/// of the weights and Gaussian numbers that an encoder gives to each window.
#[rustfmt::skip]
pub static TABLES: [[i8; 1 << WINDOW]; 3] = [
    [-21, -59, -110, -25, 14, -8, 45, 127, 77, 11, -24, 35, 14, -47, 96, 60, 58, 55, -54, -78, -23, 86, 20, -77, 23, -14, 67, -25, -24, 24, 41, -1, 14, 14, -24, 52, 56, -68, 97, 32, -25, -46, -71, 7, -47, -5, 8, -51, -69, -18, 11, 16, -51, -124, -9, -32, -89, 50, 16, 83, 54, 43, -42, -2],
    [-36, 70, -58, 8, -127, -12, -34, 39, 16, 42, 60, -28, -63, 61, -49, -18, -4, -53, 7, -44, -26, -72, 31, 23, -56, -90, -15, 45, -12, 8, 9, 85, 36, 13, -36, -15, 53, 80, 125, 60, -19, -4, 98, 19, 28, 43, -76, 8, 72, -28, -79, -4, 98, 23, 51, -49, -88, 29, -108, 27, 7, -40, -18, -5],
    [-94, -127, -103, -79, -27, -37, -29, -21, 5, -4, 3, 12, 39, 30, 37, 47, -66, -80, -67, -55, -19, -28, -20, -11, 13, 4, 11, 20, 51, 41, 49, 59, -49, -60, -50, -41, -11, -20, -12, -4, 21, 12, 19, 29, 68, 55, 67, 82, -38, -47, -39, -30, -3, -12, -5, 4, 30, 20, 27, 38, 105, 78, 94, 127],
];

/// A format of the family: `BYTES` are those of a whole block, and `WIDTH` bits of the stream choose a level.
pub(crate) struct AnyWidth<const BITS: usize, const WIDTH: usize, const BYTES: usize>;

/// Two bits, 2.25 with the scale.
pub(crate) type Q2_W = AnyWidth<2, WINDOW, 9>;
/// Three bits, 3.25 with the scale.
pub(crate) type Q3_W = AnyWidth<3, WINDOW, 13>;
/// Four bits, 4.25 with the scale.
pub(crate) type Q4_W = AnyWidth<4, WINDOW, 17>;
/// Five bits, 5.25 with the scale.
pub(crate) type Q5_W = AnyWidth<5, 5, 21>;
/// Six bits, 6.25 with the scale.
pub(crate) type Q6_W = AnyWidth<6, 6, 25>;
/// Eight bits, 8.25 with the scale.
pub(crate) type Q8_W = AnyWidth<8, 8, 33>;

impl<const BITS: usize, const WIDTH: usize, const BYTES: usize> AnyWidth<BITS, WIDTH, BYTES> {
    /// Whether levels come from a table.
    const HAS_TABLE: bool = BITS <= 4;

    /// The integers that the weights of a block are, as signed bytes, plus [`Block::BIAS`].
    #[inline(always)]
    fn levels<S: Simd>(s: S, block: &[u8; BYTES]) -> S::B {
        if BITS == 8 {
            let Some(codes) = block.last_chunk() else { unreachable!() };
            return s.bytes(codes);
        }
        let windows = s.fields::<BYTES, BITS, WIDTH>(block);
        if Self::HAS_TABLE { s.lookup64(windows, &TABLES[BITS - 2]) } else { windows }
    }
}

impl<const BITS: usize, const WIDTH: usize, const BYTES: usize> Format for AnyWidth<BITS, WIDTH, BYTES> {
    const TYPE: Type = match BITS {
        2 => Type::Q2_W,
        3 => Type::Q3_W,
        4 => Type::Q4_W,
        5 => Type::Q5_W,
        6 => Type::Q6_W,
        _ => Type::Q8_W,
    };
    const INTEGER: bool = true;
    type Rows = block::Rows<BYTES>;

    /// Reads one row; its last block may be a part of one.
    fn dequantize(row: &[u8], out: &mut [f32]) {
        for (stored, values) in row.chunks(BYTES).zip(out.chunks_mut(BLOCK)) {
            let mut whole = [0; BYTES];
            whole[..stored.len()].copy_from_slice(stored);
            let levels = Self::levels(Scalar, &whole);
            let scale = e5m3_to_f32(whole[0]);
            for (value, level) in values.iter_mut().zip(levels) {
                *value = scale * (i32::from(level as i8) - Self::BIAS) as f32;
            }
        }
    }

    fn swap_endian(_: &mut [u8]) {}
}

impl<const BITS: usize, const WIDTH: usize, const BYTES: usize> Block<BYTES> for AnyWidth<BITS, WIDTH, BYTES> {
    const BIAS: i32 = if matches!(BITS, 5 | 6) { 1 << (BITS - 1) } else { 0 };
    const MIN_AT: Option<usize> = None;

    #[inline(always)]
    fn scales<S: Simd>(s: S, blocks: &[&[u8; BYTES]; TILE]) -> S::R {
        s.rows_e5m3(&blocks.map(|block| block[0]))
    }

    #[inline(always)]
    fn dot<S: Simd>(s: S, block: &[u8; BYTES], a: S::B) -> S::P {
        let levels = Self::levels(s, block);
        match BITS {
            5 | 6 => s.dot_u7(levels, a),
            _ => s.dot_i8(levels, a),
        }
    }
}

impl<const BITS: usize, const WIDTH: usize, const BYTES: usize> Pack for AnyWidth<BITS, WIDTH, BYTES> {
    /// The codes of weights that are not there are zero.
    fn pack(parts: &Parts, block: &mut [u8]) {
        block[0] = parts.scales[0] as u8;
        let n = ((block.len() - 1) * 8 / BITS).min(BLOCK);
        for (i, &code) in parts.codes[..n].iter().enumerate() {
            let bit = 8 + i * BITS;
            let shifted = code << (bit % 8);
            block[bit / 8] |= shifted as u8;
            if shifted > 0xff {
                block[bit / 8 + 1] |= (shifted >> 8) as u8;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Worked out by hand from the byte map: 0xf0 is a scale of 1, and the windows of two-bit codes 1, 2, 3 behind it are
    /// 01|1111, 10|01|11 and 11|10|01.
    #[test]
    fn golden_bytes() {
        let mut parts = Parts::ZERO;
        parts.scales[0] = 0xf0;
        parts.codes[..3].copy_from_slice(&[1, 2, 3]);
        let mut block = [0; 2];
        Q2_W::pack(&parts, &mut block);
        assert_eq!(block, [0xf0, 0b11_10_01]);
        let mut values = [9.0; 3];
        Q2_W::dequantize(&block, &mut values);
        assert_eq!(values, [0b01_1111, 0b10_01_11, 0b11_10_01].map(|window| f32::from(TABLES[0][window])));
        // Half of it, and codes that cross bytes: 5 - 16, 30 - 16.
        parts.scales[0] = 0xe8;
        parts.codes[..3].copy_from_slice(&[5, 30, 0]);
        let mut block = [0; 3];
        Q5_W::pack(&parts, &mut block);
        assert_eq!(block, [0xe8, 0xc5, 0x03]);
        Q5_W::dequantize(&block, &mut values[..2]);
        assert_eq!(values[..2], [-5.5, 7.0]);
        parts.codes[..1].copy_from_slice(&[0x81]);
        let mut block = [0; 2];
        Q8_W::pack(&parts, &mut block);
        Q8_W::dequantize(&block, &mut values[..1]);
        assert_eq!(values[0], -63.5);
    }

    #[test]
    fn rows_end_with_a_part_of_a_block() {
        for (kind, bytes) in [(Type::Q2_W, 9 + 5), (Type::Q3_W, 13 + 6), (Type::Q5_W, 21 + 10), (Type::Q8_W, 33 + 14)] {
            assert_eq!(kind.row_bytes(45), Some(bytes), "{}", kind.name());
        }
        assert_eq!(Type::Q4_W.row_bytes(172), Some(5 * 17 + 7));
    }
}
