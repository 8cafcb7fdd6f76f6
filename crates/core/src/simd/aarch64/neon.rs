//! Advanced SIMD of AArch64: four registers to a vector.

use crate::half::E5M3_OFFSET;
use crate::simd::{LANES, Scalar, Simd, TILE, rows_are_lanes, windows_of_bytes};
use core::arch::aarch64::*;
use core::arch::asm;

/// Proof of NEON and, where `DOT`, of its dot products; made only inside [`run_neon`](super::run_neon) and
/// [`run_dotprod`](super::run_dotprod).
#[derive(Clone, Copy)]
pub(super) struct Neon<const DOT: bool>(pub(super) ());

/// To each 32-bit lane of `sums` adds the products of its four bytes of `w` with those of `a`, all of them signed: the
/// instruction that `vdotq_s32` stands for, which Rust has not made stable yet.
///
/// # Safety
/// The CPU has the dot products of NEON.
#[inline(always)]
unsafe fn sdot(mut sums: int32x4_t, w: int8x16_t, a: int8x16_t) -> int32x4_t {
    // SAFETY: the caller has the instruction; it reads and writes these registers and nothing else.
    unsafe {
        asm!("sdot {0:v}.4s, {1:v}.16b, {2:v}.16b", inout(vreg) sums, in(vreg) w, in(vreg) a, options(pure, nomem, nostack, preserves_flags));
    }
    sums
}

/// Register by register.
macro_rules! each {
    ($f:expr, $a:expr) => {{
        let a = $a;
        // SAFETY: the token proves the instructions.
        unsafe { [$f(a[0]), $f(a[1]), $f(a[2]), $f(a[3])] }
    }};
    ($f:expr, $a:expr, $b:expr) => {{
        let (a, b) = ($a, $b);
        // SAFETY: the token proves the instructions.
        unsafe { [$f(a[0], b[0]), $f(a[1], b[1]), $f(a[2], b[2]), $f(a[3], b[3])] }
    }};
}

impl<const DOT: bool> Simd for Neon<DOT> {
    type F = [float32x4_t; 4];
    type C = [uint32x4_t; 4];

    const OFFSET: i32 = 0;

    rows_are_lanes!();

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
        let p = x.as_ptr().cast::<u16>();
        // SAFETY: 32 bytes may be read; the token proves the instructions.
        let four = |i: usize| unsafe { vmovl_u16(vld1_u16(p.add(4 * i))) };
        self.halves([four(0), four(1), four(2), four(3)])
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
    fn columns(self, rows: &[&[u8; 16]; TILE]) -> [Self::C; 4] {
        let four = |first: usize| {
            // SAFETY: 16 bytes may be read at each row; the token proves the instructions.
            unsafe {
                let row = |i: usize| vreinterpretq_u32_u8(vld1q_u8(rows[first + i].as_ptr()));
                let (a, b, c, d) = (row(0), row(1), row(2), row(3));
                let wide = |x| vreinterpretq_u64_u32(x);
                let (ab, ab_odd) = (wide(vtrn1q_u32(a, b)), wide(vtrn2q_u32(a, b)));
                let (cd, cd_odd) = (wide(vtrn1q_u32(c, d)), wide(vtrn2q_u32(c, d)));
                [vtrn1q_u64(ab, cd), vtrn1q_u64(ab_odd, cd_odd), vtrn2q_u64(ab, cd), vtrn2q_u64(ab_odd, cd_odd)]
                    .map(|x| vreinterpretq_u32_u64(x))
            }
        };
        let quarters = [four(0), four(4), four(8), four(12)];
        crate::simd::each!(4, i => [quarters[0][i], quarters[1][i], quarters[2][i], quarters[3][i]])
    }
    #[inline(always)]
    fn lanes(self, x: &[u32; TILE]) -> Self::C {
        let p = x.as_ptr();
        // SAFETY: 64 bytes may be read; the token proves the instructions.
        unsafe { [vld1q_u32(p), vld1q_u32(p.add(4)), vld1q_u32(p.add(8)), vld1q_u32(p.add(12))] }
    }
    #[inline(always)]
    fn put(self, x: Self::C, out: &mut [u32; TILE]) {
        for (out, x) in out.as_chunks_mut::<4>().0.iter_mut().zip(x) {
            // SAFETY: 16 bytes may be written; the token proves the instructions.
            unsafe { vst1q_u32(out.as_mut_ptr(), x) }
        }
    }
    #[inline(always)]
    fn all(self, x: u32) -> Self::C {
        // SAFETY: the token proves the instructions.
        unsafe { [vdupq_n_u32(x); 4] }
    }
    #[inline(always)]
    fn and(self, a: Self::C, b: Self::C) -> Self::C {
        each!(vandq_u32, a, b)
    }
    #[inline(always)]
    fn or(self, a: Self::C, b: Self::C) -> Self::C {
        each!(vorrq_u32, a, b)
    }
    #[inline(always)]
    fn xor(self, a: Self::C, b: Self::C) -> Self::C {
        each!(veorq_u32, a, b)
    }
    #[inline(always)]
    fn up(self, x: Self::C, n: usize) -> Self::C {
        each!(|x| vshlq_u32(x, vdupq_n_s32(n as i32)), x)
    }
    #[inline(always)]
    fn down(self, x: Self::C, n: usize) -> Self::C {
        each!(|x| vshlq_u32(x, vdupq_n_s32(-(n as i32))), x)
    }
    #[inline(always)]
    fn less(self, a: Self::C, b: Self::C) -> Self::C {
        each!(|a, b| vreinterpretq_u32_u8(vsubq_u8(vreinterpretq_u8_u32(a), vreinterpretq_u8_u32(b))), a, b)
    }
    #[inline(always)]
    fn times_16(self, a: Self::C, b: Self::C) -> Self::C {
        each!(|a, b| vreinterpretq_u32_u16(vmulq_u16(vreinterpretq_u16_u32(a), vreinterpretq_u16_u32(b))), a, b)
    }
    #[inline(always)]
    fn lookup(self, x: Self::C, table: &[i8; 16]) -> Self::C {
        // SAFETY: 16 bytes may be read; the token proves the instructions.
        let table = unsafe { vld1q_u8(table.as_ptr().cast()) };
        each!(|x| vreinterpretq_u32_u8(vqtbl1q_u8(table, vreinterpretq_u8_u32(x))), x)
    }
    #[inline(always)]
    fn lookup64(self, x: Self::C, table: &[i8; 64]) -> Self::C {
        let p = table.as_ptr().cast::<u8>();
        // SAFETY: 64 bytes may be read; the token proves the instructions.
        unsafe {
            let table = uint8x16x4_t(vld1q_u8(p), vld1q_u8(p.add(16)), vld1q_u8(p.add(32)), vld1q_u8(p.add(48)));
            let entry = |x| vreinterpretq_u32_u8(vqtbl4q_u8(table, vandq_u8(vreinterpretq_u8_u32(x), vdupq_n_u8(63))));
            crate::simd::each!(4, i => entry(x[i]))
        }
    }
    /// The byte that holds the four bits goes everywhere in its lane.
    #[inline(always)]
    fn spread(self, x: Self::C, first: usize) -> Self::C {
        // SAFETY: the token proves the instructions.
        unsafe {
            let lanes = vreinterpretq_u8_u32(vld1q_u32([0, 0x0404_0404, 0x0808_0808, 0x0c0c_0c0c].as_ptr()));
            let here = vaddq_u8(lanes, vdupq_n_u8((first / 8) as u8));
            let bits = vreinterpretq_u8_u32(vdupq_n_u32(0x0804_0201 << (first % 8)));
            let set = |x| vreinterpretq_u32_u8(vtstq_u8(vqtbl1q_u8(vreinterpretq_u8_u32(x), here), bits));
            crate::simd::each!(4, i => set(x[i]))
        }
    }
    #[inline(always)]
    fn windows<const STEP: usize>(self, x: Self::C, at: usize) -> Self::C {
        windows_of_bytes::<Self, STEP>(self, x, at)
    }
    #[inline(always)]
    fn floats(self, x: Self::C) -> Self::F {
        each!(|x| vcvtq_f32_s32(vreinterpretq_s32_u32(x)), x)
    }
    /// Exponent and mantissa moved to their places are the number times 2^-112, subnormal or not; what was infinite or NaN
    /// gets its exponent back.
    #[inline(always)]
    fn halves(self, x: Self::C) -> Self::F {
        // SAFETY: the token proves the instructions.
        let wide = |x| unsafe {
            let magnitude = vshlq_n_u32::<13>(vandq_u32(x, vdupq_n_u32(0x7fff)));
            let power = vreinterpretq_f32_u32(vdupq_n_u32(0x7780_0000));
            let scaled = vreinterpretq_u32_f32(vmulq_f32(vreinterpretq_f32_u32(magnitude), power));
            let exponent = vandq_u32(vcgtq_u32(magnitude, vdupq_n_u32(0x0f7f_ffff)), vdupq_n_u32(0x7f80_0000));
            let sign = vshlq_n_u32::<16>(vandq_u32(x, vdupq_n_u32(0x8000)));
            vreinterpretq_f32_u32(vorrq_u32(scaled, vorrq_u32(exponent, sign)))
        };
        crate::simd::each!(4, i => wide(x[i]))
    }
    #[inline(always)]
    fn e5m3(self, x: Self::C) -> Self::F {
        // SAFETY: the token proves the instructions.
        let wide = |x| unsafe {
            let byte = vandq_u32(x, vdupq_n_u32(255));
            let bits = vaddq_u32(vshlq_n_u32::<20>(byte), vdupq_n_u32(E5M3_OFFSET));
            vreinterpretq_f32_u32(vandq_u32(bits, vtstq_u32(byte, byte)))
        };
        crate::simd::each!(4, i => wide(x[i]))
    }
    #[inline(always)]
    fn signed(self, w: Self::C) -> Self::C {
        w
    }
    #[inline(always)]
    fn dot_signed(self, sums: Self::C, w: Self::C, a: [u8; 4]) -> Self::C {
        // SAFETY: the token proves the instructions.
        let add = |sums, w| unsafe {
            let a = vreinterpretq_s8_s32(vdupq_n_s32(i32::from_le_bytes(a)));
            let (w, sums) = (vreinterpretq_s8_u32(w), vreinterpretq_s32_u32(sums));
            if DOT {
                return vreinterpretq_u32_s32(sdot(sums, w, a));
            }
            let (low, high) = (vmull_s8(vget_low_s8(w), vget_low_s8(a)), vmull_high_s8(w, a));
            // Pairs of 16-bit products, then pairs of their sums: one sum for each lane of four bytes.
            let pairs = vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high));
            vreinterpretq_u32_s32(vaddq_s32(sums, pairs))
        };
        crate::simd::each!(4, i => add(sums[i], w[i]))
    }
    #[inline(always)]
    fn dot_unsigned(self, sums: Self::C, w: Self::C, a: [u8; 4]) -> Self::C {
        self.dot_signed(sums, w, a)
    }
}
