//! The definition of every vector operation, in plain Rust.

use super::{LANES, Simd, TILE, padded};
use crate::half::{bf16_to_f32, e5m3_to_f32, f16_to_f32};

/// The instruction set that every CPU has.
#[derive(Clone, Copy, Debug)]
pub struct Scalar;

/// Element `i` of the result is `f(i)`; `from_fn` with a name that reads well in the operations below.
#[inline(always)]
fn each<T, const N: usize>(f: impl FnMut(usize) -> T) -> [T; N] {
    core::array::from_fn(f)
}

/// Runs `kernel` as it is defined; where others run instead, in a function of its own, whose stack they need not have.
#[cfg(any(test, not(all(target_arch = "wasm32", target_feature = "simd128"))))]
#[cfg_attr(any(target_arch = "x86_64", target_arch = "aarch64"), inline(never))]
pub(super) fn run_scalar<K: super::Kernel>(kernel: K) -> K::Output {
    kernel.run(Scalar)
}

impl Simd for Scalar {
    type F = [f32; LANES];
    type C = [u32; TILE];
    type R = [f32; TILE];

    const OFFSET: i32 = 0;

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
    fn rows_splat(self, x: f32) -> Self::R {
        [x; TILE]
    }
    #[inline(always)]
    fn rows_load(self, x: &[f32; TILE]) -> Self::R {
        *x
    }
    #[inline(always)]
    fn rows_load_part(self, x: &[f32]) -> Self::R {
        padded(x)
    }
    #[inline(always)]
    fn rows_store(self, v: Self::R, out: &mut [f32; TILE]) {
        *out = v;
    }
    #[inline(always)]
    fn rows_add(self, a: Self::R, b: Self::R) -> Self::R {
        each(|row| a[row] + b[row])
    }
    #[inline(always)]
    fn rows_sub(self, a: Self::R, b: Self::R) -> Self::R {
        each(|row| a[row] - b[row])
    }
    #[inline(always)]
    fn rows_mul(self, a: Self::R, b: Self::R) -> Self::R {
        each(|row| a[row] * b[row])
    }
    #[inline(always)]
    fn rows_sums(self, v: &[Self::F; TILE]) -> Self::R {
        each(|row| self.sum(v[row]))
    }

    #[inline(always)]
    fn columns(self, rows: &[&[u8; 16]; TILE]) -> [Self::C; 4] {
        each(|column| each(|row| u32::from_le_bytes(rows[row].as_chunks().0[column])))
    }
    #[inline(always)]
    fn lanes(self, x: &[u32; TILE]) -> Self::C {
        *x
    }
    #[inline(always)]
    fn put(self, x: Self::C, out: &mut [u32; TILE]) {
        *out = x;
    }
    #[inline(always)]
    fn all(self, x: u32) -> Self::C {
        [x; TILE]
    }
    #[inline(always)]
    fn and(self, a: Self::C, b: Self::C) -> Self::C {
        each(|i| a[i] & b[i])
    }
    #[inline(always)]
    fn or(self, a: Self::C, b: Self::C) -> Self::C {
        each(|i| a[i] | b[i])
    }
    #[inline(always)]
    fn xor(self, a: Self::C, b: Self::C) -> Self::C {
        each(|i| a[i] ^ b[i])
    }
    #[inline(always)]
    fn up(self, x: Self::C, n: usize) -> Self::C {
        x.map(|x| x << n)
    }
    #[inline(always)]
    fn down(self, x: Self::C, n: usize) -> Self::C {
        x.map(|x| x >> n)
    }
    #[inline(always)]
    fn less(self, a: Self::C, b: Self::C) -> Self::C {
        each(|row| bytes(|i| a[row].to_le_bytes()[i].wrapping_sub(b[row].to_le_bytes()[i])))
    }
    #[inline(always)]
    fn times_16(self, a: Self::C, b: Self::C) -> Self::C {
        each(|row| a[row].wrapping_mul(b[row]) & 0xffff | (a[row] >> 16).wrapping_mul(b[row] >> 16) << 16)
    }
    #[inline(always)]
    fn lookup(self, x: Self::C, table: &[i8; 16]) -> Self::C {
        each(|row| bytes(|i| table[usize::from(x[row].to_le_bytes()[i] & 15)] as u8))
    }
    #[inline(always)]
    fn lookup64(self, x: Self::C, table: &[i8; 64]) -> Self::C {
        each(|row| bytes(|i| table[usize::from(x[row].to_le_bytes()[i] & 63)] as u8))
    }
    #[inline(always)]
    fn spread(self, x: Self::C, first: usize) -> Self::C {
        each(|row| bytes(|i| if x[row] >> (first + i) & 1 == 1 { 0xff } else { 0 }))
    }
    #[inline(always)]
    fn windows<const STEP: usize>(self, x: Self::C, at: usize) -> Self::C {
        each(|row| bytes(|i| (x[row] >> (at + i * STEP)) as u8 & 63))
    }
    #[inline(always)]
    fn floats(self, x: Self::C) -> Self::R {
        x.map(|x| x as i32 as f32)
    }
    #[inline(always)]
    fn halves(self, x: Self::C) -> Self::R {
        x.map(|x| f16_to_f32(x as u16))
    }
    #[inline(always)]
    fn e5m3(self, x: Self::C) -> Self::R {
        x.map(|x| e5m3_to_f32(x as u8))
    }
    #[inline(always)]
    fn signed(self, w: Self::C) -> Self::C {
        w
    }
    #[inline(always)]
    fn dot_signed(self, sums: Self::C, w: Self::C, a: [u8; 4]) -> Self::C {
        let product = |w: u8, a: u8| i32::from(w as i8) * i32::from(a as i8);
        each(|row| {
            let products = w[row].to_le_bytes().into_iter().zip(a).map(|(w, a)| product(w, a));
            (sums[row] as i32 + products.sum::<i32>()) as u32
        })
    }
    #[inline(always)]
    fn dot_unsigned(self, sums: Self::C, w: Self::C, a: [u8; 4]) -> Self::C {
        self.dot_signed(sums, w, a)
    }
}

/// The lane whose byte `i` is `f(i)`.
#[inline(always)]
fn bytes(f: impl FnMut(usize) -> u8) -> u32 {
    u32::from_le_bytes(each(f))
}
