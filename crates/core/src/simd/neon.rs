//! Advanced SIMD of AArch64, without the optional dot-product extension.

use super::{BLOCK, Kernel, LANES, Scalar, Simd, TILE};
use core::arch::aarch64::*;

/// Compiles `kernel` for NEON.
#[target_feature(enable = "neon")]
pub(super) fn run_neon<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Neon(()))
}

/// Proof of NEON, made only inside [`run_neon`].
#[derive(Clone, Copy)]
pub(super) struct Neon(());

/// Element by element over the four registers of a vector.
macro_rules! each {
    ($f:ident, $a:expr, $b:expr) => {{
        let (a, b) = ($a, $b);
        // SAFETY: the token proves the instructions.
        unsafe { [$f(a[0], b[0]), $f(a[1], b[1]), $f(a[2], b[2]), $f(a[3], b[3])] }
    }};
}

impl Simd for Neon {
    type F = [float32x4_t; 4];
    type B = [int8x16_t; 2];
    type W = [i8; 16];
    type P = int32x4_t;
    type R = [float32x4_t; 2];

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        // SAFETY: the token proves the instructions.
        unsafe { [vdupq_n_f32(x); 4] }
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::F {
        let p = x.as_ptr();
        // SAFETY: 64 bytes may be read; the token proves the instructions.
        unsafe { [vld1q_f32(p), vld1q_f32(p.add(4)), vld1q_f32(p.add(8)), vld1q_f32(p.add(12))] }
    }
    #[inline(always)]
    fn load_f32(self, x: &[u8; 64]) -> Self::F {
        self.load(&Scalar.load_f32(x))
    }
    #[inline(always)]
    fn load_f16(self, x: &[u8; 32]) -> Self::F {
        self.load(&Scalar.load_f16(x))
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u8; 32]) -> Self::F {
        self.load(&Scalar.load_bf16(x))
    }
    #[inline(always)]
    fn load_i8(self, x: &[i8; LANES]) -> Self::F {
        self.load(&Scalar.load_i8(x))
    }
    #[inline(always)]
    fn store(self, v: Self::F, out: &mut [f32; LANES]) {
        let p = out.as_mut_ptr();
        // SAFETY: 64 bytes may be written; the token proves the instructions.
        unsafe {
            vst1q_f32(p, v[0]);
            vst1q_f32(p.add(4), v[1]);
            vst1q_f32(p.add(8), v[2]);
            vst1q_f32(p.add(12), v[3]);
        }
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        each!(vaddq_f32, a, b)
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        each!(vsubq_f32, a, b)
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        each!(vmulq_f32, a, b)
    }
    #[inline(always)]
    fn sum(self, v: Self::F) -> f32 {
        // SAFETY: the token proves the instructions.
        unsafe {
            let four = vaddq_f32(vaddq_f32(v[0], v[2]), vaddq_f32(v[1], v[3]));
            let two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
            vget_lane_f32::<0>(two) + vget_lane_f32::<1>(two)
        }
    }

    #[inline(always)]
    fn bytes(self, x: &[u8; BLOCK]) -> Self::B {
        let p = x.as_ptr().cast::<i8>();
        // SAFETY: 32 bytes may be read; the token proves the instructions.
        unsafe { [vld1q_s8(p), vld1q_s8(p.add(16))] }
    }
    #[inline(always)]
    fn nibbles(self, x: &[u8; 16]) -> Self::B {
        // SAFETY: 16 bytes may be read; the token proves the instructions.
        unsafe {
            let both = vld1q_u8(x.as_ptr());
            let low = vandq_u8(both, vdupq_n_u8(15));
            [vreinterpretq_s8_u8(low), vreinterpretq_s8_u8(vshrq_n_u8::<4>(both))]
        }
    }
    #[inline(always)]
    fn fives(self, x: &[u8; 20]) -> Self::B {
        self.bytes(&Scalar.fives(x))
    }
    #[inline(always)]
    fn bits(self, x: Self::B, shift: usize, mask: u8) -> Self::B {
        // SAFETY: the token proves the instructions.
        unsafe {
            let (down, mask) = (vdupq_n_s8(-(shift as i8)), vdupq_n_u8(mask));
            x.map(|x| vreinterpretq_s8_u8(vandq_u8(vshlq_u8(vreinterpretq_u8_s8(x), down), mask)))
        }
    }
    #[inline(always)]
    fn join(self, low: Self::B, high: Self::B, shift: usize) -> Self::B {
        // SAFETY: the token proves the instructions.
        unsafe {
            let up = vdupq_n_s8(shift as i8);
            [vorrq_s8(low[0], vshlq_s8(high[0], up)), vorrq_s8(low[1], vshlq_s8(high[1], up))]
        }
    }
    #[inline(always)]
    fn less(self, x: Self::B, by: u8) -> Self::B {
        // SAFETY: the token proves the instructions.
        unsafe { x.map(|x| vsubq_s8(x, vdupq_n_s8(by as i8))) }
    }
    #[inline(always)]
    fn lookup(self, x: Self::B, table: &[i8; 16]) -> Self::B {
        // SAFETY: 16 bytes may be read; the token proves the instructions.
        unsafe {
            let table = vld1q_s8(table.as_ptr());
            x.map(|x| vqtbl1q_s8(table, vreinterpretq_u8_s8(x)))
        }
    }
    #[inline(always)]
    fn lookup64(self, x: Self::B, table: &[i8; 64]) -> Self::B {
        let p = table.as_ptr();
        // SAFETY: 64 bytes may be read; the token proves the instructions.
        unsafe {
            let table = int8x16x4_t(vld1q_s8(p), vld1q_s8(p.add(16)), vld1q_s8(p.add(32)), vld1q_s8(p.add(48)));
            x.map(|x| vqtbl4q_s8(table, vreinterpretq_u8_s8(x)))
        }
    }
    #[inline(always)]
    fn fields<const N: usize, const STEP: usize, const WIDTH: usize>(self, x: &[u8; N]) -> Self::B {
        self.bytes(&Scalar.fields::<N, STEP, WIDTH>(x))
    }
    #[inline(always)]
    fn dot_i8(self, w: Self::B, a: Self::B) -> Self::P {
        // SAFETY: the token proves the instructions.
        unsafe {
            let mut sums = vpaddlq_s16(vmull_s8(vget_low_s8(w[0]), vget_low_s8(a[0])));
            sums = vpadalq_s16(sums, vmull_s8(vget_high_s8(w[0]), vget_high_s8(a[0])));
            sums = vpadalq_s16(sums, vmull_s8(vget_low_s8(w[1]), vget_low_s8(a[1])));
            vpadalq_s16(sums, vmull_s8(vget_high_s8(w[1]), vget_high_s8(a[1])))
        }
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
        // SAFETY: the token proves the instructions.
        unsafe {
            let first = vpaddlq_s16(vmull_s8(vget_low_s8(w[0]), vget_low_s8(a[0])));
            let first = vpadalq_s16(first, vmull_s8(vget_high_s8(w[0]), vget_high_s8(a[0])));
            let second = vpaddlq_s16(vmull_s8(vget_low_s8(w[1]), vget_low_s8(a[1])));
            let second = vpadalq_s16(second, vmull_s8(vget_high_s8(w[1]), vget_high_s8(a[1])));
            let first = vmulq_n_s32(first, i32::from(scales[2 * block]));
            vmlaq_n_s32(first, second, i32::from(scales[2 * block + 1]))
        }
    }
    #[inline(always)]
    fn dot_u7_scaled(self, w: Self::B, a: Self::B, scales: Self::W, block: usize) -> Self::P {
        self.dot_i8_scaled(w, a, scales, block)
    }
    #[inline(always)]
    fn rows(self, sums: [Self::P; TILE], bias: i32) -> Self::R {
        let [p0, p1, p2, p3, p4, p5, p6, p7] = sums;
        // SAFETY: the token proves the instructions.
        unsafe {
            let bias = vdupq_n_s32(bias);
            let low = vpaddq_s32(vpaddq_s32(p0, p1), vpaddq_s32(p2, p3));
            let high = vpaddq_s32(vpaddq_s32(p4, p5), vpaddq_s32(p6, p7));
            [vcvtq_f32_s32(vsubq_s32(low, bias)), vcvtq_f32_s32(vsubq_s32(high, bias))]
        }
    }
    #[inline(always)]
    fn rows_f16(self, bits: [u16; TILE]) -> Self::R {
        let wide = Scalar.rows_f16(bits);
        // SAFETY: 32 bytes may be read; the token proves the instructions.
        unsafe { [vld1q_f32(wide.as_ptr()), vld1q_f32(wide.as_ptr().add(4))] }
    }
    #[inline(always)]
    fn rows_e5m3(self, x: &[u8; TILE]) -> Self::R {
        self.rows_load(&Scalar.rows_e5m3(x))
    }
    #[inline(always)]
    fn rows_u8(self, x: &[u8; TILE]) -> Self::R {
        self.rows_load(&Scalar.rows_u8(x))
    }
    #[inline(always)]
    fn rows_load(self, x: &[f32; TILE]) -> Self::R {
        // SAFETY: 32 bytes may be read; the token proves the instructions.
        unsafe { [vld1q_f32(x.as_ptr()), vld1q_f32(x.as_ptr().add(4))] }
    }
    #[inline(always)]
    fn rows_splat(self, x: f32) -> Self::R {
        // SAFETY: the token proves the instructions.
        unsafe { [vdupq_n_f32(x); 2] }
    }
    #[inline(always)]
    fn rows_add(self, a: Self::R, b: Self::R) -> Self::R {
        // SAFETY: the token proves the instructions.
        unsafe { [vaddq_f32(a[0], b[0]), vaddq_f32(a[1], b[1])] }
    }
    #[inline(always)]
    fn rows_mul(self, a: Self::R, b: Self::R) -> Self::R {
        // SAFETY: the token proves the instructions.
        unsafe { [vmulq_f32(a[0], b[0]), vmulq_f32(a[1], b[1])] }
    }
    #[inline(always)]
    fn rows_store(self, v: Self::R, out: &mut [f32; TILE]) {
        // SAFETY: 32 bytes may be written; the token proves the instructions.
        unsafe {
            vst1q_f32(out.as_mut_ptr(), v[0]);
            vst1q_f32(out.as_mut_ptr().add(4), v[1]);
        }
    }
}
