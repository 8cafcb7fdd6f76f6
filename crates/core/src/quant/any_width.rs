//! The any-width family, ours: 2, 3, 4, 5, 6 and 8 bits for rows of any length (`docs/any-width.md`).
//!
//! Byte map of a block of `n` weights (64, fewer in the last block of a row) with `BITS` bits each: its scale (byte 0), then
//! the codes, least significant bit first, in as many bytes as they need. A block is read as one stream of bits, so that
//! the code of weight `i` ends before bit `8 + (i + 1) * BITS`.
//!
//! In the formats of 2 to 6 bits a weight is `scale * TABLE[w]`, where `w` is the last six bits of the stream up to the end
//! of its code: its own bits on top, below them those of the weights before it, and at the head of the block bits of the
//! scale. The same code stands for several levels, and whoever writes the block chooses a path through them (trellis coded
//! quantization; Marcellin and Fischer, 1990). In the format of 8 bits a weight is `scale * code`, the code a signed byte.
//!
//! The scale `e << 3 | m` stands for `(1 + m / 8) * 2^(e - 30)`, but 0 for zero: five bits of exponent, three of mantissa.
//! A weight is then the product of a four-bit and an eight-bit integer and a power of two, so the float is exact.
//!
//! In [`Parts`]: `scales[0]` the byte of the scale, `codes[i]` the code of weight `i`.

use super::{Activation, Format, Pack, Parts, Tile, Type};
use crate::half::e5m3_to_f32;
use crate::simd::{BLOCK, Scalar, Simd, TILE};

/// Weights in a block: two of the activations' blocks.
pub const WEIGHTS: usize = 2 * BLOCK;

/// Bits of the stream that choose a level.
pub const WINDOW: usize = 6;

/// The levels of the windows, for 2 to 6 bits: `TABLES[bits - 2]`. Made by `tools/any_width_study.py`, as the centroids of
/// the weights and Gaussian numbers that an encoder gives to each window.
#[rustfmt::skip]
pub static TABLES: [[i8; 1 << WINDOW]; 5] = [
    [
         -22,  -52, -101,  -22,   14,   -6,   39,  111,   70,   11,  -18,   31,   12,  -45,   85,   49,
          53,   52,  -49,  -78,  -20,   81,   17,  -66,   20,  -11,   58,  -24,  -19,   18,   34,   -8,
           9,   15,  -23,   43,   52,  -54,   89,   27,  -20,  -40,  -60,    6,  -40,   -8,    3,  -44,
         -68,  -16,    8,   15,  -53, -107,   -8,  -28,  -78,   45,   13,   72,   50,   36,  -38,    4,
    ],
    [
        -110,  -76, -112,  -79, -123,  -85, -115,  -91,  -66,  -43,  -61,  -39,  -66,  -47,  -69,  -51,
         -38,  -18,  -37,  -16,  -44,  -23,  -43,  -24,  -15,    1,  -17,    4,  -23,   -3,  -22,   -2,
           5,   20,    2,   24,   -3,   16,   -2,   19,   27,   42,   22,   44,   17,   36,   19,   41,
          54,   68,   47,   67,   42,   61,   43,   69,   95,  118,   87,  127,   79,  110,   78,  115,
    ],
    [
         -92, -105,  -88, -115,  -26,  -34,  -27,  -36,    9,    0,    7,   -1,   46,   36,   45,   35,
         -65,  -76,  -64,  -77,  -17,  -25,  -17,  -26,   17,    9,   16,    8,   58,   49,   57,   47,
         -48,  -57,  -48,  -58,   -8,  -16,   -9,  -17,   26,   18,   25,   16,   77,   65,   76,   65,
         -36,  -45,  -37,  -47,    1,   -8,   -1,   -9,   36,   27,   34,   25,  113,   89,  104,   89,
    ],
    [
        -119, -103,  -76,  -70,  -57,  -53,  -45,  -41,  -34,  -30,  -25,  -21,  -16,  -12,   -8,   -4,
           0,    4,    8,   12,   16,   20,   25,   30,   35,   39,   46,   51,   61,   66,   83,   92,
         -92,  -83,  -66,  -60,  -51,  -46,  -39,  -35,  -29,  -25,  -20,  -16,  -12,   -8,   -4,    0,
           4,    8,   12,   16,   21,   25,   30,   34,   40,   45,   53,   58,   70,   76,  104,  119,
    ],
    [
        -115,  -97,  -88,  -79,  -73,  -67,  -62,  -58,  -54,  -51,  -48,  -45,  -42,  -39,  -37,  -34,
         -32,  -29,  -27,  -25,  -23,  -21,  -19,  -17,  -15,  -13,  -11,   -9,   -7,   -5,   -3,   -1,
           1,    3,    5,    7,    9,   11,   13,   15,   17,   19,   21,   23,   25,   27,   29,   32,
          34,   37,   39,   42,   45,   48,   51,   55,   58,   63,   67,   73,   79,   86,  100,  112,
    ],
];

/// A format of the family: `BYTES` are those of a whole block, `HALF` those of half of its codes and the byte before them.
pub(crate) struct AnyWidth<const BITS: usize, const BYTES: usize, const HALF: usize>;

/// Two bits, 2.125 with the scale.
pub(crate) type Q2_W = AnyWidth<2, 17, 9>;
/// Three bits, 3.125 with the scale.
pub(crate) type Q3_W = AnyWidth<3, 25, 13>;
/// Four bits, 4.125 with the scale.
pub(crate) type Q4_W = AnyWidth<4, 33, 17>;
/// Five bits, 5.125 with the scale.
pub(crate) type Q5_W = AnyWidth<5, 41, 21>;
/// Six bits, 6.125 with the scale.
pub(crate) type Q6_W = AnyWidth<6, 49, 25>;
/// Eight bits, 8.125 with the scale.
pub(crate) type Q8_W = AnyWidth<8, 65, 33>;

impl<const BITS: usize, const BYTES: usize, const HALF: usize> AnyWidth<BITS, BYTES, HALF> {
    /// The integers, as signed bytes, that the weights of the first or the second half of a block are.
    #[inline(always)]
    fn levels<S: Simd>(s: S, block: &[u8; BYTES], half: usize) -> S::B {
        // The second half begins inside the stream: what stands before it is the end of the first.
        let Some(stream) = block[half * 4 * BITS..].first_chunk::<HALF>() else { unreachable!() };
        if BITS == 8 {
            let Some(codes) = stream.last_chunk() else { unreachable!() };
            return s.bytes(codes);
        }
        s.lookup64(s.fields::<HALF, BITS, WINDOW>(stream), &TABLES[BITS - 2])
    }

    /// A block of which only the beginning is stored.
    #[inline(always)]
    fn padded(stored: &[u8]) -> [u8; BYTES] {
        let mut block = [0; BYTES];
        block[..stored.len()].copy_from_slice(stored);
        block
    }
}

impl<const BITS: usize, const BYTES: usize, const HALF: usize> Format for AnyWidth<BITS, BYTES, HALF> {
    const TYPE: Type = match BITS {
        2 => Type::Q2_W,
        3 => Type::Q3_W,
        4 => Type::Q4_W,
        5 => Type::Q5_W,
        6 => Type::Q6_W,
        _ => Type::Q8_W,
    };
    const INTEGER: bool = true;
    type Rows = Rows;

    /// Reads one row; its last block may be a part of one.
    fn dequantize(row: &[u8], out: &mut [f32]) {
        for (stored, values) in row.chunks(BYTES).zip(out.chunks_mut(WEIGHTS)) {
            let block = Self::padded(stored);
            let scale = e5m3_to_f32(block[0]);
            for (half, values) in values.chunks_mut(BLOCK).enumerate() {
                let levels = Self::levels(Scalar, &block, half);
                values.iter_mut().zip(levels).for_each(|(value, level)| *value = scale * f32::from(level as i8));
            }
        }
    }

    fn swap_endian(_: &mut [u8]) {}
}

/// The dot products of [`TILE`] rows with `T` activations.
///
/// Definition, for each pair, halves of blocks in order: the exact integer sum, as a float, times (weight scale times
/// activation scale) is added.
pub(crate) struct Rows;

impl<const BITS: usize, const BYTES: usize, const HALF: usize> Tile<AnyWidth<BITS, BYTES, HALF>> for Rows {
    #[inline(always)]
    fn tile<S: Simd, const T: usize>(
        s: S,
        rows: &[&[u8]; TILE],
        activations: &[Activation<'_>; T],
        out: &mut [[f32; TILE]; T],
    ) {
        let (n_blocks, rest) = (rows[0].len() / BYTES, rows[0].len() % BYTES);
        let whole: [&[[u8; BYTES]]; TILE] = rows.map(|row| &row.as_chunks::<BYTES>().0[..n_blocks]);
        let mut totals = [s.rows_splat(0.0); T];
        for index in 0..n_blocks {
            let blocks: [&[u8; BYTES]; TILE] = core::array::from_fn(|r| &whole[r][index]);
            add_block::<S, BITS, BYTES, HALF, T>(s, &blocks, activations, 2 * index, &mut totals);
        }
        if rest > 0 {
            // What is missing of the last block meets activations of zero, or none.
            let padded = rows.map(|row| AnyWidth::<BITS, BYTES, HALF>::padded(&row[n_blocks * BYTES..]));
            add_block::<S, BITS, BYTES, HALF, T>(s, &padded.each_ref(), activations, 2 * n_blocks, &mut totals);
        }
        for t in 0..T {
            s.rows_store(totals[t], &mut out[t]);
        }
    }
}

/// Adds the products of a block of each row with the activations' blocks from `first` on.
#[inline(always)]
fn add_block<S: Simd, const BITS: usize, const BYTES: usize, const HALF: usize, const T: usize>(
    s: S,
    blocks: &[&[u8; BYTES]; TILE],
    activations: &[Activation<'_>; T],
    first: usize,
    totals: &mut [S::R; T],
) {
    let weight_scale = s.rows_e5m3(&blocks.map(|block| block[0]));
    for half in 0..2.min(activations[0].q.len() - first) {
        let levels = blocks.map(|block| AnyWidth::<BITS, BYTES, HALF>::levels(s, block, half));
        for (activation, total) in activations.iter().zip(&mut *totals) {
            let a = s.bytes(&activation.q[first + half].map(|q| q as u8));
            let sum = s.rows(levels.map(|levels| s.dot_i8(levels, a)), 0);
            let scale = s.rows_splat(activation.scale[first + half]);
            *total = s.rows_add(*total, s.rows_mul(sum, s.rows_mul(weight_scale, scale)));
        }
    }
}

impl<const BITS: usize, const BYTES: usize, const HALF: usize> Pack for AnyWidth<BITS, BYTES, HALF> {
    /// The codes of weights that are not there are zero.
    fn pack(parts: &Parts, block: &mut [u8]) {
        block[0] = parts.scales[0] as u8;
        let n = ((block.len() - 1) * 8 / BITS).min(WEIGHTS);
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
        // Half of it, and codes that cross bytes: 00101|1, 11110|0.
        parts.scales[0] = 0xe8;
        parts.codes[..3].copy_from_slice(&[5, 30, 0]);
        let mut block = [0; 3];
        Q5_W::pack(&parts, &mut block);
        assert_eq!(block, [0xe8, 0xc5, 0x03]);
        Q5_W::dequantize(&block, &mut values[..2]);
        assert_eq!(values[..2], [0b00101_1, 0b11110_0].map(|window| f32::from(TABLES[3][window]) / 2.0));
        parts.codes[..1].copy_from_slice(&[0x81]);
        let mut block = [0; 2];
        Q8_W::pack(&parts, &mut block);
        Q8_W::dequantize(&block, &mut values[..1]);
        assert_eq!(values[0], -63.5);
    }

    #[test]
    fn rows_end_with_a_part_of_a_block() {
        for (kind, bytes) in [(Type::Q2_W, 17 + 5), (Type::Q3_W, 25 + 6), (Type::Q5_W, 41 + 10), (Type::Q8_W, 65 + 14)]
        {
            assert_eq!(kind.row_bytes(64 + 13), Some(bytes), "{}", kind.name());
        }
        assert_eq!(Type::Q4_W.row_bytes(172), Some(2 * 33 + 23));
    }
}
