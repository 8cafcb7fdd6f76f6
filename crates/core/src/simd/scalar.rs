//! The definition of every vector operation, in plain Rust.

use super::{BLOCK, LANES, Simd, TILE};
use crate::half::{bf16_to_f32, e5m3_to_f32, f16_to_f32};

/// The instruction set that every CPU has.
#[derive(Clone, Copy, Debug)]
pub struct Scalar;

/// Element `i` of the result is `f(i)`; `from_fn` with a name that reads well in the operations below.
#[inline(always)]
fn each<T, const N: usize>(f: impl FnMut(usize) -> T) -> [T; N] {
    core::array::from_fn(f)
}

impl Simd for Scalar {
    type F = [f32; LANES];
    type B = [u8; BLOCK];
    type W = [i8; 16];
    type P = i32;
    type R = [f32; TILE];

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        [x; LANES]
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::F {
        *x
    }
    #[inline(always)]
    fn load_f32(self, x: &[u8; 64]) -> Self::F {
        each(|i| f32::from_le_bytes([x[4 * i], x[4 * i + 1], x[4 * i + 2], x[4 * i + 3]]))
    }
    #[inline(always)]
    fn load_f16(self, x: &[u8; 32]) -> Self::F {
        each(|i| f16_to_f32(u16::from_le_bytes([x[2 * i], x[2 * i + 1]])))
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u8; 32]) -> Self::F {
        each(|i| bf16_to_f32(u16::from_le_bytes([x[2 * i], x[2 * i + 1]])))
    }
    #[inline(always)]
    fn load_i8(self, x: &[i8; LANES]) -> Self::F {
        each(|i| f32::from(x[i]))
    }
    #[inline(always)]
    fn store(self, v: Self::F, out: &mut [f32; LANES]) {
        *out = v;
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        each(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        each(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        each(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn sum(self, v: Self::F) -> f32 {
        let eight: [f32; 8] = each(|i| v[i] + v[i + 8]);
        let four: [f32; 4] = each(|i| eight[i] + eight[i + 4]);
        (four[0] + four[2]) + (four[1] + four[3])
    }

    #[inline(always)]
    fn bytes(self, x: &[u8; BLOCK]) -> Self::B {
        *x
    }
    #[inline(always)]
    fn nibbles(self, x: &[u8; 16]) -> Self::B {
        each(|i| if i < 16 { x[i] & 15 } else { x[i - 16] >> 4 })
    }
    #[inline(always)]
    fn fives(self, x: &[u8; 20]) -> Self::B {
        let fifth = u32::from_le_bytes([x[0], x[1], x[2], x[3]]);
        each(|i| (x[4 + i % 16] >> (i / 16 * 4) & 15) | ((fifth >> i & 1) as u8) << 4)
    }
    #[inline(always)]
    fn bits(self, x: Self::B, shift: usize, mask: u8) -> Self::B {
        each(|i| x[i] >> shift & mask)
    }
    #[inline(always)]
    fn join(self, low: Self::B, high: Self::B, shift: usize) -> Self::B {
        each(|i| low[i] | high[i] << shift)
    }
    #[inline(always)]
    fn less(self, x: Self::B, by: u8) -> Self::B {
        each(|i| x[i].wrapping_sub(by))
    }
    #[inline(always)]
    fn lookup(self, x: Self::B, table: &[i8; 16]) -> Self::B {
        each(|i| table[usize::from(x[i] & 15)] as u8)
    }
    #[inline(always)]
    fn lookup64(self, x: Self::B, table: &[i8; 64]) -> Self::B {
        each(|i| table[usize::from(x[i] & 63)] as u8)
    }
    #[inline(always)]
    fn fields<const N: usize, const STEP: usize, const WIDTH: usize>(self, x: &[u8; N]) -> Self::B {
        each(|i| {
            let bit = 8 + (i + 1) * STEP - WIDTH;
            let above = if bit / 8 + 1 < N { x[bit / 8 + 1] } else { 0 };
            let pair = u16::from_le_bytes([x[bit / 8], above]);
            (pair >> (bit % 8)) as u8 & (0xff >> (8 - WIDTH))
        })
    }
    #[inline(always)]
    fn dot_i8(self, w: Self::B, a: Self::B) -> Self::P {
        w.iter().zip(&a).map(|(&w, &a)| i32::from(w as i8) * i32::from(a as i8)).sum()
    }
    #[inline(always)]
    fn dot_u7(self, w: Self::B, a: Self::B) -> Self::P {
        self.dot_i8(w, a)
    }
    #[inline(always)]
    fn scales(self, x: &[i8; 16]) -> Self::W {
        *x
    }
    #[inline(always)]
    fn dot_i8_scaled(self, w: Self::B, a: Self::B, scales: Self::W, block: usize) -> Self::P {
        let product = |i: usize| i32::from(w[i] as i8) * i32::from(a[i] as i8);
        let sums: [i32; 2] = each(|half| (half * BLOCK / 2..(half + 1) * BLOCK / 2).map(product).sum());
        i32::from(scales[2 * block]) * sums[0] + i32::from(scales[2 * block + 1]) * sums[1]
    }
    #[inline(always)]
    fn dot_u7_scaled(self, w: Self::B, a: Self::B, scales: Self::W, block: usize) -> Self::P {
        self.dot_i8_scaled(w, a, scales, block)
    }
    #[inline(always)]
    fn rows(self, sums: [Self::P; TILE], bias: i32) -> Self::R {
        each(|i| (sums[i] - bias) as f32)
    }
    #[inline(always)]
    fn rows_f16(self, bits: [u16; TILE]) -> Self::R {
        each(|i| f16_to_f32(bits[i]))
    }
    #[inline(always)]
    fn rows_e5m3(self, x: &[u8; TILE]) -> Self::R {
        each(|i| e5m3_to_f32(x[i]))
    }
    #[inline(always)]
    fn rows_u8(self, x: &[u8; TILE]) -> Self::R {
        each(|i| f32::from(x[i]))
    }
    #[inline(always)]
    fn rows_load(self, x: &[f32; TILE]) -> Self::R {
        *x
    }
    #[inline(always)]
    fn rows_splat(self, x: f32) -> Self::R {
        [x; TILE]
    }
    #[inline(always)]
    fn rows_add(self, a: Self::R, b: Self::R) -> Self::R {
        each(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn rows_mul(self, a: Self::R, b: Self::R) -> Self::R {
        each(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn rows_store(self, v: Self::R, out: &mut [f32; TILE]) {
        *out = v;
    }
}
