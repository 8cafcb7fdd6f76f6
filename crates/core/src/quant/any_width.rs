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
// The same number indexes the arrays of every row or token; `each!` hides that from the lint.
#![allow(clippy::needless_range_loop)]

use super::activation::{Activation, REST};
use super::panel::{BLOCKS, COLUMNS, Panel, Shape, Unpack, exact_sum};
use super::tile::{Apart, Cut, Lanes, Together};
use super::{Format, Pack, Parts, Type};
use crate::half::e5m3_to_f32;
use crate::simd::{BLOCK, Simd, TILE, each, each_row, prefetch_apart, prefetch_block};
use core::ops::Range;

/// Weights in a block: two of the activations' blocks.
pub const WEIGHTS: usize = 2 * BLOCK;

/// Words of four bytes that the longest codes take, those of eight bits.
const MAX_WORDS: usize = 2 * COLUMNS;

/// Bits of the stream that choose a level.
pub const WINDOW: usize = 6;

/// The levels of the windows, for 2 to 6 bits: `TABLES[bits - 2]`. Made by `tools/any_width_study.py`, as the centroids of
/// the weights and Gaussian numbers that an encoder gives to each window.
#[rustfmt::skip]
pub static TABLES: [[i8; 1 << WINDOW]; 5] = [
    [
         -68,   16,   23,  -24,  -53,   65,   32,  -13,  -98,   31,    1,  -33,   -6,   43, -115,  -43,
           9,  -23,  -48,  -73,   14,  -21,  -30,  -74,   98,  -49,   40,   48,   79,  -17,   48,    4,
         -26,  -84,   64,    6,  -18,  -69,  -74,   25,   27,   -6,  -39, -117,  -47,    9,  -44,   40,
          56,   66,  -12,   32,   48,   12,   -3,   74,  -21,   81,  123,    8,   30,  -48,   -2,  105,
    ],
    [
         -86, -115,  -80, -110,  -64,  -88, -119,  -84,  -48,  -66,  -42,  -61,  -34,  -49,  -69,  -46,
         -23,  -45,  -21,  -41,  -12,  -27,  -45,  -21,   -2,  -23,   -2,  -21,    6,  -10,  -24,   -1,
          18,   -4,   17,   -6,   27,    7,   -6,   20,   39,   14,   37,    9,   45,   24,   12,   41,
          65,   37,   55,   28,   68,   47,   32,   69,  104,   70,  102,   70,  119,   87,   58,  108,
    ],
    [
        -104, -123, -103,  -85,  -32,  -40,  -30,  -22,    4,   -5,    4,   13,   41,   32,   42,   51,
         -73,  -87,  -73,  -61,  -22,  -31,  -21,  -12,   12,    3,   13,   22,   53,   44,   54,   64,
         -55,  -65,  -54,  -45,  -13,  -22,  -12,   -4,   21,   12,   22,   31,   72,   60,   72,   86,
         -42,  -51,  -41,  -32,   -4,  -13,   -4,    5,   30,   21,   31,   41,   99,   83,  106,  123,
    ],
    [
        -111,  -97,  -74,  -68,  -55,  -51,  -43,  -39,  -33,  -29,  -24,  -20,  -16,  -12,   -8,   -4,
           0,    4,    8,   12,   16,   20,   24,   29,   34,   38,   45,   49,   58,   63,   80,   89,
         -89,  -80,  -63,  -58,  -49,  -45,  -38,  -33,  -28,  -24,  -20,  -16,  -12,   -8,   -4,    0,
           4,    8,   12,   16,   20,   24,   29,   33,   39,   43,   51,   55,   68,   74,   98,  108,
    ],
    [
        -119, -104,  -93,  -84,  -77,  -71,  -66,  -61,  -57,  -54,  -50,  -47,  -44,  -41,  -38,  -36,
         -33,  -31,  -28,  -26,  -24,  -22,  -19,  -17,  -15,  -13,  -11,   -9,   -7,   -5,   -3,   -1,
           1,    3,    5,    7,    9,   11,   13,   15,   17,   19,   22,   24,   26,   28,   31,   33,
          36,   38,   41,   44,   47,   50,   54,   57,   62,   66,   71,   77,   84,   92,  104,  113,
    ],
];

/// A format of the family: `BYTES` are those of a whole block.
pub(crate) struct AnyWidth<const BITS: usize, const BYTES: usize>;

/// Two bits, 2.125 with the scale.
pub(crate) type Q2_W = AnyWidth<2, 17>;
/// Three bits, 3.125 with the scale.
pub(crate) type Q3_W = AnyWidth<3, 25>;
/// Four bits, 4.125 with the scale.
pub(crate) type Q4_W = AnyWidth<4, 33>;
/// Five bits, 5.125 with the scale.
pub(crate) type Q5_W = AnyWidth<5, 41>;
/// Six bits, 6.125 with the scale.
pub(crate) type Q6_W = AnyWidth<6, 49>;
/// Eight bits, 8.125 with the scale.
pub(crate) type Q8_W = AnyWidth<8, 65>;

impl<const BITS: usize, const BYTES: usize> AnyWidth<BITS, BYTES> {
    /// Words of the stream of bits.
    const WORDS: usize = BYTES.div_ceil(4);

    /// The integer that weight `i` of a block is, as a signed byte.
    #[inline(always)]
    fn level(block: &[u8; BYTES], i: usize) -> u8 {
        if BITS == 8 {
            return block[1 + i];
        }
        let bit = 8 + (i + 1) * BITS - WINDOW;
        let above = block.get(bit / 8 + 1).copied().unwrap_or(0);
        let window = u16::from_le_bytes([block[bit / 8], above]) >> (bit % 8) & 63;
        TABLES[BITS - 2][usize::from(window)] as u8
    }

    /// The integers of half `half` of a block of each row, of which `words` are the codes, as [`Simd::signed`] makes them.
    #[inline(always)]
    fn levels<S: Simd>(s: S, words: &[S::C; MAX_WORDS], half: usize) -> [S::C; COLUMNS] {
        if BITS == 8 {
            return each!(8, i => s.signed(words[half * COLUMNS + i]));
        }
        each!(8, column => {
            let bit = 8 + (half * BLOCK + 4 * column + 1) * BITS - WINDOW;
            let (word, at) = (bit / 32, bit % 32);
            // Four windows end three steps after the first.
            let windows = if at + 3 * BITS + WINDOW <= 32 {
                s.windows::<BITS>(words[word], at)
            } else {
                let whole = at / 8 * 8;
                s.windows::<BITS>(s.joined(words[word], words[word + 1], whole), at % 8)
            };
            s.signed_lookup64(windows, &TABLES[BITS - 2])
        })
    }

    /// How rows are cut that lie together: bytes that are codes stand in words, apart from the scale.
    const CUT: Cut = Cut { block_bytes: BYTES, head: if BITS == 8 { 1 } else { 0 }, unit: 4 };

    /// The scale of a block of each row, and the words of its codes: signed bytes, or the stream of bits, scale included, which ends one
    /// byte behind a word.
    #[inline(always)]
    fn scale_and_words<S: Simd>(s: S, blocks: impl Lanes<BYTES>) -> (S::R, [S::C; MAX_WORDS]) {
        let (begin, n_fours) = (usize::from(BITS == 8), BYTES / 16);
        let fours = each!(4, i => if i < n_fours { blocks.words(s, begin + 16 * i) } else { [s.all(0); 4] });
        if BITS == 8 {
            return (Self::scale(s, &each_row!(r => blocks.byte(r))), each!(16, i => fours[i / 4][i % 4]));
        }
        let last = blocks.last_words(s);
        // Written out, for in a loop they would not stay in registers.
        let words = each!(16, i => match i {
            _ if i < 4 * n_fours => fours[i / 4][i % 4],
            _ if i < Self::WORDS => last[i + 4 - Self::WORDS],
            _ => s.all(0),
        });
        (s.e5m3(words[0]), words)
    }

    /// The same of a block of which the rows have only the beginning, together: what is missing meets activations of zero.
    #[inline(always)]
    fn scale_and_words_of_part<S: Simd>(s: S, bytes: &[u8]) -> (S::R, [S::C; MAX_WORDS]) {
        let lanes = Self::CUT.part::<MAX_WORDS>(bytes);
        let words = each!(16, i => s.lanes(&lanes[i]));
        let scale = if BITS == 8 { Self::scale(s, &each_row!(r => bytes[r])) } else { s.e5m3(words[0]) };
        (scale, words)
    }

    /// The scales that are `bytes`.
    #[inline(always)]
    fn scale<S: Simd>(s: S, bytes: &[u8; TILE]) -> S::R {
        s.e5m3(s.lanes(&each_row!(r => u32::from(bytes[r]))))
    }

    /// A block of which only the beginning is stored.
    #[inline(always)]
    fn padded(stored: &[u8]) -> [u8; BYTES] {
        let mut block = [0; BYTES];
        block[..stored.len()].copy_from_slice(stored);
        block
    }
}

impl<const BITS: usize, const BYTES: usize> Format for AnyWidth<BITS, BYTES> {
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
                for (i, value) in values.iter_mut().enumerate() {
                    *value = scale * f32::from(Self::level(&block, half * BLOCK + i) as i8);
                }
            }
        }
    }

    fn swap_endian(_: &mut [u8]) {}
}

/// The formats of this family: panels of four blocks.
///
/// In the format of 8 bits products are taken with the activations' rests too: the rounding of activations to 8 bits would
/// lose more than that of its weights.
pub(crate) struct Rows;

impl<const BITS: usize, const BYTES: usize> Unpack<AnyWidth<BITS, BYTES>> for Rows {
    const SHAPE: Shape = Shape { rest: BITS == 8, ..Shape::PLAIN };
    const N_BLOCKS: usize = BLOCKS;
    const CUT: Option<Cut> = Some(AnyWidth::<BITS, BYTES>::CUT);
    const HAS_PRODUCT: bool = true;

    #[inline(always)]
    fn unpack<S: Simd>(s: S, rows: &[&[u8]; TILE], ahead: &[u8], index: usize, panel: &mut Panel) {
        let (bytes, row_bytes) = (BLOCKS / 2 * BYTES, rows[0].len());
        let end = row_bytes.min((index + 1) * bytes);
        let rows = each_row!(r => &rows[r][index * bytes..end]);
        let (n_whole, rest) = (rows[0].len() / BYTES, rows[0].len() % BYTES);
        let all = each_row!(r => &rows[r].as_chunks::<BYTES>().0[..n_whole]);
        for block in 0..n_whole {
            prefetch_apart(ahead, row_bytes, index * BLOCKS / 2 + block, TILE * BYTES);
            let codes = AnyWidth::<BITS, BYTES>::scale_and_words(s, Apart(&each_row!(r => &all[r][block])));
            fill::<S, BITS, BYTES>(s, codes, block, panel);
        }
        if rest > 0 {
            let padded = each_row!(r => AnyWidth::<BITS, BYTES>::padded(&rows[r][n_whole * BYTES..]));
            let codes = AnyWidth::<BITS, BYTES>::scale_and_words(s, Apart(&each_row!(r => &padded[r])));
            fill::<S, BITS, BYTES>(s, codes, n_whole, panel);
        }
        panel.n_blocks = n_halves(BITS, BYTES, rows[0].len());
    }

    #[inline(always)]
    fn unpack_together<S: Simd>(s: S, tile: &[u8], index: usize, panel: &mut Panel) {
        let cut = AnyWidth::<BITS, BYTES>::CUT;
        let tile = &tile[index * BLOCKS / 2 * TILE * BYTES..];
        let tile = &tile[..tile.len().min(BLOCKS / 2 * TILE * BYTES)];
        let (n_whole, rest) = (tile.len() / (TILE * BYTES), tile.len() % (TILE * BYTES));
        for (block, bytes) in tile.chunks_exact(TILE * BYTES).enumerate() {
            let codes = AnyWidth::<BITS, BYTES>::scale_and_words(s, Together(bytes, cut));
            fill::<S, BITS, BYTES>(s, codes, block, panel);
        }
        if rest > 0 {
            let codes = AnyWidth::<BITS, BYTES>::scale_and_words_of_part(s, &tile[tile.len() - rest..]);
            fill::<S, BITS, BYTES>(s, codes, n_whole, panel);
        }
        panel.n_blocks = n_halves(BITS, BYTES, tile.len() / TILE);
    }

    #[inline(always)]
    fn product<S: Simd>(s: S, tile: &[u8], ahead: &[u8], activation: &Activation<'_>) -> S::R {
        let cut = AnyWidth::<BITS, BYTES>::CUT;
        let mut total = s.rows_splat(0.0);
        let (n_whole, rest) = (tile.len() / (TILE * BYTES), tile.len() % (TILE * BYTES));
        for (block, bytes) in tile.chunks_exact(TILE * BYTES).enumerate() {
            prefetch_block(ahead, block, TILE * BYTES);
            let codes = AnyWidth::<BITS, BYTES>::scale_and_words(s, Together(bytes, cut));
            total = add_block::<S, BITS, BYTES>(s, total, codes, 2 * block..2 * block + 2, activation);
        }
        if rest > 0 {
            let codes = AnyWidth::<BITS, BYTES>::scale_and_words_of_part(s, &tile[tile.len() - rest..]);
            let halves = 2 * n_whole..n_halves(BITS, BYTES, tile.len() / TILE);
            total = add_block::<S, BITS, BYTES>(s, total, codes, halves, activation);
        }
        total
    }

    #[inline(always)]
    fn product_apart<S: Simd>(s: S, rows: &[&[u8]; TILE], ahead: &[u8], activation: &Activation<'_>) -> S::R {
        let (n_whole, rest) = (rows[0].len() / BYTES, rows[0].len() % BYTES);
        let all = each_row!(r => &rows[r].as_chunks::<BYTES>().0[..n_whole]);
        let mut total = s.rows_splat(0.0);
        for block in 0..n_whole {
            prefetch_apart(ahead, rows[0].len(), block, TILE * BYTES);
            let codes = AnyWidth::<BITS, BYTES>::scale_and_words(s, Apart(&each_row!(r => &all[r][block])));
            total = add_block::<S, BITS, BYTES>(s, total, codes, 2 * block..2 * block + 2, activation);
        }
        if rest > 0 {
            let padded = each_row!(r => AnyWidth::<BITS, BYTES>::padded(&rows[r][n_whole * BYTES..]));
            let codes = AnyWidth::<BITS, BYTES>::scale_and_words(s, Apart(&each_row!(r => &padded[r])));
            let halves = 2 * n_whole..n_halves(BITS, BYTES, rows[0].len());
            total = add_block::<S, BITS, BYTES>(s, total, codes, halves, activation);
        }
        total
    }
}

/// `total` and the products of a block of these codes, whose halves meet the activations' blocks `halves`: the definition's steps in
/// its order, for weights that were never stored.
#[inline(always)]
fn add_block<S: Simd, const BITS: usize, const BYTES: usize>(
    s: S,
    mut total: S::R,
    (scale, words): (S::R, [S::C; MAX_WORDS]),
    halves: Range<usize>,
    activation: &Activation<'_>,
) -> S::R {
    for half in 0..2 {
        let at = halves.start + half;
        if at < halves.end {
            let levels = AnyWidth::<BITS, BYTES>::levels(s, &words, half);
            let shape = <Rows as Unpack<AnyWidth<BITS, BYTES>>>::SHAPE;
            let sum = block_sum(s, shape, levels, activation, at);
            let scale = s.rows_mul(scale, s.rows_splat(activation.blocks[at].scale));
            total = s.rows_add(total, s.rows_mul(sum, scale));
        }
    }
    total
}

/// How many halves of blocks with weights, and so activations, a row of `row_bytes` has.
#[inline(always)]
const fn n_halves(bits: usize, block_bytes: usize, row_bytes: usize) -> usize {
    let whole = 2 * (row_bytes / block_bytes);
    match row_bytes % block_bytes {
        0 => whole,
        rest if (rest - 1) * 8 / bits <= BLOCK => whole + 1,
        _ => whole + 2,
    }
}

/// The sums of the weights of a half block, as [`AnyWidth::levels`] gives them, with the activations' block `at`, their rests included
/// where they count.
#[inline(always)]
fn block_sum<S: Simd>(s: S, shape: Shape, w: [S::C; COLUMNS], activation: &Activation<'_>, at: usize) -> S::R {
    let a = &activation.blocks[at];
    let sum = exact_sum(s, shape, &w, &a.q, (0, COLUMNS, shape.start(a)));
    if !shape.rest {
        return sum;
    }
    let rest = &activation.rest[at];
    let rests = exact_sum(s, shape, &w, &rest.q, (0, COLUMNS, rest.start));
    s.rows_add(sum, s.rows_mul(rests, s.rows_splat(1.0 / REST)))
}

/// Fills in block `block` of a panel's four with what these codes mean.
#[inline(always)]
fn fill<S: Simd, const BITS: usize, const BYTES: usize>(
    s: S,
    (scale, words): (S::R, [S::C; MAX_WORDS]),
    block: usize,
    panel: &mut Panel,
) {
    for half in 0..2 {
        let levels = AnyWidth::<BITS, BYTES>::levels(s, &words, half);
        s.rows_store(scale, &mut panel.scale[2 * block + half]);
        panel.put(s, 2 * block + half, levels);
    }
}

impl<const BITS: usize, const BYTES: usize> Pack for AnyWidth<BITS, BYTES> {
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
        assert_eq!(values[..2], [0b001011, 0b111100].map(|window| f32::from(TABLES[3][window]) / 2.0));
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
