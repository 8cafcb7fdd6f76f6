//! Points and signs of the i-quants: eight small integers at a time, one to each byte of a `u64`, the first lowest.

use super::panel::{Halves, Row};
use super::superblock::{BLOCKS, HALVES};
use super::tile::Lanes;
use super::{Parts, Type, grids, iq1_s, iq2_s, iq2_xs, iq2_xxs, iq3_s, iq3_xxs, iq4_nl, mxfp4};
use crate::simd::{BLOCK, Simd};

/// One in every byte.
pub(super) const ONES: u64 = 0x0101_0101_0101_0101;

/// The eight two-bit codes of a point.
#[inline(always)]
pub(super) const fn codes_of_two_bits(point: u16) -> u64 {
    let x = point as u64;
    let x = (x | x << 24) & 0x0000_00ff_0000_00ff;
    let x = (x | x << 12) & 0x000f_000f_000f_000f;
    (x | x << 6) & 0x0303_0303_0303_0303
}

/// The coordinates of a point of the two-bit i-quants: 8, 25 and 43 for the codes 0, 1 and 2.
#[inline(always)]
pub(super) const fn two_bit_coordinates(point: u16) -> u64 {
    let codes = codes_of_two_bits(point);
    8 * ONES + 17 * codes + (codes >> 1 & ONES)
}

/// Bytes from 1 to 127, byte `i` negated where bit `i` of `signs` is set.
#[inline(always)]
pub(super) fn with_signs(values: u64, signs: u8) -> u64 {
    let bits = (u64::from(signs) * ONES) & 0x8040_2010_0804_0201;
    // Each byte is zero or one bit; adding 127 carries that bit, whichever it is, to the top.
    let negative = (bits + 127 * ONES) >> 7 & ONES;
    (values ^ (negative * 255)) + negative
}

/// Eight signs of which seven are stored: their number of negative ones is even.
#[inline(always)]
pub(super) fn even_signs(seven: u32) -> u8 {
    let seven = seven & 127;
    let folded = seven ^ seven >> 4;
    // Bit `i` of the constant says whether `i` has an odd number of ones.
    let odd = 0x6996 >> (folded & 15) & 1;
    (seven | odd << 7) as u8
}

/// Four groups of seven bits, one after the other in each lane, as bytes.
#[inline(always)]
pub(super) fn sevens<S: Simd>(s: S, word: S::C) -> S::C {
    let group = |i: usize| s.and(s.up(word, i), s.all(127 << (8 * i)));
    s.or(s.or(group(0), group(1)), s.or(group(2), group(3)))
}

/// [`even_signs`] of each byte.
#[inline(always)]
pub(super) fn even_signs_of_four<S: Simd>(s: S, seven: S::C) -> S::C {
    /// The top bit where the number has an odd number of ones.
    static ODD: [i8; 16] = [0, -128, -128, 0, -128, 0, 0, -128, -128, 0, 0, -128, 0, -128, -128, 0];
    let folded = s.and(s.xor(seven, s.down(seven, 4)), s.all(0x0f0f_0f0f));
    s.or(seven, s.lookup(folded, &ODD))
}

/// The low and the high bytes of the entries of a grid.
pub(super) const fn planes(grid: &[u16; 256]) -> [[u8; 256]; 2] {
    let mut planes = [[0; 256]; 2];
    let mut number = 0;
    while number < 256 {
        [planes[0][number], planes[1][number]] = grid[number].to_le_bytes();
        number += 1;
    }
    planes
}

/// The coordinates of the points of a two-bit grid: the first four of each, and the last four.
pub(super) const fn two_bit_points<const N: usize>(grid: &[u16; N]) -> [[u32; N]; 2] {
    let mut points = [[0; N]; 2];
    let mut number = 0;
    while number < N {
        let coordinates = two_bit_coordinates(grid[number]);
        points[0][number] = coordinates as u32;
        points[1][number] = (coordinates >> 32) as u32;
        number += 1;
    }
    points
}

/// The coordinates of the points of a three-bit grid, by those of the codes 0 to 7.
pub(super) const fn three_bit_points<const N: usize>(grid: &[u16; N], coordinates: [u8; 8]) -> [u32; N] {
    let mut points = [0; N];
    let mut number = 0;
    while number < N {
        let mut i = 0;
        while i < 4 {
            let code = grid[number] >> (4 * i) & 7;
            points[number] |= (coordinates[code as usize] as u32) << (8 * i);
            i += 1;
        }
        number += 1;
    }
    points
}

/// Point `number` of a two-bit grid.
#[inline(always)]
pub(super) fn two_bit_point<const N: usize>(points: &[[u32; N]; 2], number: usize) -> u64 {
    u64::from(points[0][number]) | u64::from(points[1][number]) << 32
}

/// Fills in the factors of every half from the eight bytes at byte `at`, as [`odd_scales`] reads them.
#[inline(always)]
pub(super) fn unpack_odd_scales<S: Simd, const N: usize>(s: S, rows: impl Lanes<N>, at: usize, halves: &mut Halves) {
    for half in 0..HALVES {
        let scale = s.and(s.down(rows.word(s, at + half / 8 * 4), half % 8 * 4), s.all(15));
        put_odd(s, scale, &mut halves.factors[half / 2][half % 2]);
    }
}

/// Writes twice a scale and one.
#[inline(always)]
pub(super) fn put_odd<S: Simd>(s: S, scale: S::C, out: &mut Row) {
    s.rows_store(s.floats(s.or(s.up(scale, 1), s.all(1))), out);
}

/// The scales of the sixteen halves of blocks, four bits each, the first in the low half of a byte: twice each and one.
#[inline(always)]
pub(super) fn odd_scales(packed: &[u8; BLOCKS]) -> [i8; HALVES] {
    core::array::from_fn(|half| (packed[half / 2] >> (half % 2 * 4) & 15) as i8 * 2 + 1)
}

/// What `number` stands for in the codebook of `kind`: see [`Type::point`].
pub(super) fn point(kind: Type, number: usize) -> Option<[i8; 8]> {
    fn eight<const N: usize>(points: &[[u32; N]; 2], number: usize) -> Option<u64> {
        (number < N).then(|| two_bit_point(points, number))
    }
    let four = |points: &[u32]| points.get(number).map(|&point| u64::from(point));
    let level = |levels: &[i8; 16]| levels.get(number).map(|&level| u64::from(level as u8));
    let bytes = match kind {
        Type::IQ2_XXS => eight(&iq2_xxs::POINTS, number),
        Type::IQ2_XS => eight(&iq2_xs::POINTS, number),
        Type::IQ2_S => eight(&iq2_s::POINTS, number),
        Type::IQ3_XXS => four(&iq3_xxs::POINTS),
        Type::IQ3_S => four(&iq3_s::POINTS),
        Type::IQ1_S | Type::IQ1_M => grids::IQ1_S.get(number).map(|&point| iq1_s::shifted_coordinates(point, false)),
        Type::IQ4_NL | Type::IQ4_XS => level(&iq4_nl::LEVELS),
        Type::MXFP4 => level(&mxfp4::DOUBLED),
        _ => None,
    };
    bytes.map(|bytes| bytes.to_le_bytes().map(|byte| byte as i8))
}

/// The inverse of [`odd_scales`], for as many scales as `packed` has halves.
pub(super) fn pack_odd_scales(parts: &Parts, packed: &mut [u8]) {
    for (i, both) in packed.iter_mut().enumerate() {
        let four = |at: usize| (parts.scales[at] >> 1 & 15) as u8;
        *both = four(2 * i) | four(2 * i + 1) << 4;
    }
}

/// Seven of the eight signs of each of four groups, and the block's odd scale above them.
pub(super) fn signs_and_scale(parts: &Parts, block: usize) -> u32 {
    let signs = |i: usize| u32::from(parts.signs[4 * block + i] & 127) << (7 * i);
    (0..4).fold((parts.scales[block] as u32 >> 1) << 28, |word, i| word | signs(i))
}

/// The bytes of a block, of which `eight(i)` gives those from `8 * i`.
#[inline(always)]
pub(super) fn block_of(eight: impl Fn(usize) -> u64) -> [u8; BLOCK] {
    let mut bytes = [0; BLOCK];
    for (i, group) in bytes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        *group = eight(i).to_le_bytes();
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_come_in_order() {
        assert_eq!(codes_of_two_bits(0b10_01_00_10_01_00_10_01).to_le_bytes(), [1, 2, 0, 1, 2, 0, 1, 2]);
        let doubled = three_bit_points(&[0x7210], [0, 2, 4, 6, 8, 10, 12, 14]);
        assert_eq!(doubled[0].to_le_bytes(), [0, 2, 4, 14]);
        assert_eq!(two_bit_coordinates(0b00_00_00_00_00_10_01_00).to_le_bytes(), [8, 25, 43, 8, 8, 8, 8, 8]);
    }

    #[test]
    fn every_pattern_of_signs() {
        for signs in 0..=255u8 {
            let values = with_signs(u64::from_le_bytes([1, 2, 3, 62, 43, 25, 8, 127]), signs).to_le_bytes();
            for (i, value) in [1i8, 2, 3, 62, 43, 25, 8, 127].into_iter().enumerate() {
                let want = if signs >> i & 1 == 1 { -value } else { value };
                assert_eq!(values[i] as i8, want, "signs {signs:08b}, value {i}");
            }
        }
    }

    #[test]
    fn signs_are_even() {
        assert_eq!([0, 1, 3, 127].map(even_signs), [0, 0x81, 3, 0xff]);
        assert!((0..128).all(|seven| even_signs(seven).count_ones().is_multiple_of(2)));
    }
}
