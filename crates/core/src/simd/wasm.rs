//! The vectors of WebAssembly, simd128: four registers to a vector. A module that has them runs only where they are, so that
//! there is nothing to ask at run time.

use super::{LANES, Simd, TILE, rows_are_lanes, transposed, windows_of_bytes};
use crate::half::E5M3_OFFSET;
use core::arch::wasm32::*;

/// Stands for simd128, which the whole module is compiled for.
#[derive(Clone, Copy)]
pub(super) struct Simd128;

/// Register by register.
macro_rules! each {
    ($f:expr, $a:expr) => {{
        let a = $a;
        [$f(a[0]), $f(a[1]), $f(a[2]), $f(a[3])]
    }};
    ($f:expr, $a:expr, $b:expr) => {{
        let (a, b) = ($a, $b);
        [$f(a[0], b[0]), $f(a[1], b[1]), $f(a[2], b[2]), $f(a[3], b[3])]
    }};
}

/// The sixteen bytes of number `i`, at any address.
#[inline(always)]
fn load<const N: usize>(x: &[u8; N], i: usize) -> v128 {
    let bytes: &[u8; 16] = &x.as_chunks().0[i];
    // SAFETY: 16 bytes may be read.
    unsafe { v128_load(bytes.as_ptr().cast()) }
}

/// Of four numbers of 32 bits, the first two of `a` and of `b` in turn.
#[inline(always)]
fn low(a: v128, b: v128) -> v128 {
    u32x4_shuffle::<0, 4, 1, 5>(a, b)
}

/// Of four numbers of 32 bits, the last two of `a` and of `b` in turn.
#[inline(always)]
fn high(a: v128, b: v128) -> v128 {
    u32x4_shuffle::<2, 6, 3, 7>(a, b)
}

/// The first halves of `a` and of `b`.
#[inline(always)]
fn low_pair(a: v128, b: v128) -> v128 {
    u64x2_shuffle::<0, 2>(a, b)
}

/// The second halves of `a` and of `b`.
#[inline(always)]
fn high_pair(a: v128, b: v128) -> v128 {
    u64x2_shuffle::<1, 3>(a, b)
}

/// The four lanes that [`Simd::sum`] adds next.
#[inline(always)]
fn quarter(v: [v128; 4]) -> v128 {
    f32x4_add(f32x4_add(v[0], v[2]), f32x4_add(v[1], v[3]))
}

/// The even bytes as numbers of 16 bits.
#[inline(always)]
fn even(x: v128) -> v128 {
    odd(i16x8_shl(x, 8))
}

/// The odd bytes as numbers of 16 bits.
#[inline(always)]
fn odd(x: v128) -> v128 {
    i16x8_shr(x, 8)
}

impl Simd for Simd128 {
    type F = [v128; 4];
    type C = [v128; 4];

    const OFFSET: i32 = 0;
    const VECTORS: usize = 4;

    rows_are_lanes!();

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        [f32x4_splat(x); 4]
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::F {
        let p = x.as_ptr();
        // SAFETY: 64 bytes may be read.
        let four = |i: usize| unsafe { v128_load(p.add(4 * i).cast()) };
        [four(0), four(1), four(2), four(3)]
    }
    #[inline(always)]
    fn load_f32(self, x: &[u8; 64]) -> Self::F {
        [load(x, 0), load(x, 1), load(x, 2), load(x, 3)]
    }
    #[inline(always)]
    fn load_f16(self, x: &[u8; 32]) -> Self::F {
        let (a, b) = (load(x, 0), load(x, 1));
        self.halves([
            u32x4_extend_low_u16x8(a),
            u32x4_extend_high_u16x8(a),
            u32x4_extend_low_u16x8(b),
            u32x4_extend_high_u16x8(b),
        ])
    }
    /// A bfloat16 is the upper half of a float.
    #[inline(always)]
    fn load_bf16(self, x: &[u8; 32]) -> Self::F {
        let (a, b, none) = (load(x, 0), load(x, 1), u32x4_splat(0));
        [
            u16x8_shuffle::<0, 8, 1, 9, 2, 10, 3, 11>(none, a),
            u16x8_shuffle::<4, 12, 5, 13, 6, 14, 7, 15>(none, a),
            u16x8_shuffle::<0, 8, 1, 9, 2, 10, 3, 11>(none, b),
            u16x8_shuffle::<4, 12, 5, 13, 6, 14, 7, 15>(none, b),
        ]
    }
    #[inline(always)]
    fn load_i8(self, x: &[i8; LANES]) -> Self::F {
        // SAFETY: 16 bytes may be read.
        let bytes = unsafe { v128_load(x.as_ptr().cast()) };
        let (a, b) = (i16x8_extend_low_i8x16(bytes), i16x8_extend_high_i8x16(bytes));
        self.floats([
            i32x4_extend_low_i16x8(a),
            i32x4_extend_high_i16x8(a),
            i32x4_extend_low_i16x8(b),
            i32x4_extend_high_i16x8(b),
        ])
    }
    #[inline(always)]
    fn store(self, v: Self::F, out: &mut [f32; LANES]) {
        for (out, v) in out.as_chunks_mut::<4>().0.iter_mut().zip(v) {
            // SAFETY: 16 bytes may be written.
            unsafe { v128_store(out.as_mut_ptr().cast(), v) }
        }
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        each!(f32x4_add, a, b)
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        each!(f32x4_sub, a, b)
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        each!(f32x4_mul, a, b)
    }
    #[inline(always)]
    fn sum(self, v: Self::F) -> f32 {
        let four = quarter(v);
        let two = f32x4_add(four, high_pair(four, four));
        f32x4_extract_lane::<0>(two) + f32x4_extract_lane::<1>(two)
    }

    #[inline(always)]
    fn columns(self, rows: &[&[u8; 16]; TILE]) -> [Self::C; 4] {
        let four = |first: usize| {
            let row = |i: usize| load(rows[first + i], 0);
            transposed!(row(0), row(1), row(2), row(3), low, high, low_pair, high_pair)
        };
        let quarters = [four(0), four(4), four(8), four(12)];
        crate::simd::each!(4, i => [quarters[0][i], quarters[1][i], quarters[2][i], quarters[3][i]])
    }
    #[inline(always)]
    fn lanes(self, x: &[u32; TILE]) -> Self::C {
        let p = x.as_ptr();
        // SAFETY: 64 bytes may be read.
        let four = |i: usize| unsafe { v128_load(p.add(4 * i).cast()) };
        [four(0), four(1), four(2), four(3)]
    }
    #[inline(always)]
    fn put(self, x: Self::C, out: &mut [u32; TILE]) {
        for (out, x) in out.as_chunks_mut::<4>().0.iter_mut().zip(x) {
            // SAFETY: 16 bytes may be written.
            unsafe { v128_store(out.as_mut_ptr().cast(), x) }
        }
    }
    #[inline(always)]
    fn all(self, x: u32) -> Self::C {
        [u32x4_splat(x); 4]
    }
    #[inline(always)]
    fn and(self, a: Self::C, b: Self::C) -> Self::C {
        each!(v128_and, a, b)
    }
    #[inline(always)]
    fn or(self, a: Self::C, b: Self::C) -> Self::C {
        each!(v128_or, a, b)
    }
    #[inline(always)]
    fn xor(self, a: Self::C, b: Self::C) -> Self::C {
        each!(v128_xor, a, b)
    }
    #[inline(always)]
    fn up(self, x: Self::C, n: usize) -> Self::C {
        each!(|x| u32x4_shl(x, n as u32), x)
    }
    #[inline(always)]
    fn down(self, x: Self::C, n: usize) -> Self::C {
        each!(|x| u32x4_shr(x, n as u32), x)
    }
    #[inline(always)]
    fn less(self, a: Self::C, b: Self::C) -> Self::C {
        each!(u8x16_sub, a, b)
    }
    #[inline(always)]
    fn times_16(self, a: Self::C, b: Self::C) -> Self::C {
        each!(i16x8_mul, a, b)
    }
    #[inline(always)]
    fn lookup(self, x: Self::C, table: &[i8; 16]) -> Self::C {
        // SAFETY: 16 bytes may be read.
        let table = unsafe { v128_load(table.as_ptr().cast()) };
        each!(|x| u8x16_swizzle(table, x), x)
    }
    /// An index beyond the sixteen of a table gives zero, so that what the four quarters give is put together as it is.
    #[inline(always)]
    fn lookup64(self, x: Self::C, table: &[i8; 64]) -> Self::C {
        let p = table.as_ptr();
        // SAFETY: 64 bytes may be read.
        let quarters = crate::simd::each!(4, i => unsafe { v128_load(p.add(16 * i).cast()) });
        let entry = |x: v128| {
            let x = v128_and(x, u8x16_splat(63));
            let four = crate::simd::each!(4, i => u8x16_swizzle(quarters[i], u8x16_sub(x, u8x16_splat(16 * i as u8))));
            v128_or(v128_or(four[0], four[1]), v128_or(four[2], four[3]))
        };
        each!(entry, x)
    }
    /// The byte that holds the four bits goes everywhere in its lane.
    #[inline(always)]
    fn spread(self, x: Self::C, first: usize) -> Self::C {
        let here = u8x16_add(u32x4(0, 0x0404_0404, 0x0808_0808, 0x0c0c_0c0c), u8x16_splat((first / 8) as u8));
        let bits = u32x4_splat(0x0804_0201 << (first % 8));
        each!(|x| u8x16_eq(v128_and(u8x16_swizzle(x, here), bits), bits), x)
    }
    #[inline(always)]
    fn windows<const STEP: usize>(self, x: Self::C, at: usize) -> Self::C {
        windows_of_bytes::<Self, STEP>(self, x, at)
    }
    #[inline(always)]
    fn floats(self, x: Self::C) -> Self::F {
        each!(f32x4_convert_i32x4, x)
    }
    /// Exponent and mantissa moved to their places are the number times 2^-112, subnormal or not; what was infinite or NaN
    /// gets its exponent back.
    #[inline(always)]
    fn halves(self, x: Self::C) -> Self::F {
        let wide = |x| {
            let magnitude = u32x4_shl(v128_and(x, u32x4_splat(0x7fff)), 13);
            let scaled = f32x4_mul(magnitude, u32x4_splat(0x7780_0000));
            let top = i32x4_gt(magnitude, i32x4_splat(0x0f7f_ffff));
            let exponent = v128_and(top, u32x4_splat(0x7f80_0000));
            let sign = u32x4_shl(v128_and(x, u32x4_splat(0x8000)), 16);
            v128_or(scaled, v128_or(exponent, sign))
        };
        each!(wide, x)
    }
    #[inline(always)]
    fn e5m3(self, x: Self::C) -> Self::F {
        let wide = |x| {
            let byte = v128_and(x, u32x4_splat(255));
            let bits = u32x4_add(u32x4_shl(byte, 20), u32x4_splat(E5M3_OFFSET));
            v128_andnot(bits, u32x4_eq(byte, u32x4_splat(0)))
        };
        each!(wide, x)
    }
    #[inline(always)]
    fn signed(self, w: Self::C) -> Self::C {
        w
    }
    /// Even bytes and odd ones apart, so that pairs of products fall into the lane that they belong to.
    #[inline(always)]
    fn dot_signed(self, sums: Self::C, w: Self::C, a: [u8; 4]) -> Self::C {
        let a = i32x4_splat(i32::from_le_bytes(a));
        let (a_even, a_odd) = (even(a), odd(a));
        let add = |sums, w| {
            let sums = i32x4_add(sums, i32x4_dot_i16x8(even(w), a_even));
            i32x4_add(sums, i32x4_dot_i16x8(odd(w), a_odd))
        };
        each!(add, sums, w)
    }
    /// Weights that are not negative need not be taken apart: two bytes are `256 * odd + even`, which times `a_even` is too much
    /// by `256 * odd * a_even`, and the second product takes that away. It fits: no activation is beyond 127 or below -127.
    #[inline(always)]
    fn dot_unsigned(self, sums: Self::C, w: Self::C, a: [u8; 4]) -> Self::C {
        let a = i32x4_splat(i32::from_le_bytes(a));
        let (a_even, a_odd) = (even(a), i16x8_sub(odd(a), i16x8_shl(a, 8)));
        let add = |sums, w| {
            let sums = i32x4_add(sums, i32x4_dot_i16x8(w, a_even));
            i32x4_add(sums, i32x4_dot_i16x8(odd(w), a_odd))
        };
        each!(add, sums, w)
    }
}
