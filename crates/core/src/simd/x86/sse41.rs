//! SSE4.1, which x86-64 CPUs have since 2008: four registers to a vector.

use crate::half::E5M3_OFFSET;
use crate::simd::{LANES, Scalar, Simd, TILE, rows_are_lanes, transposed, windows_of_bytes};
use core::arch::x86_64::*;

/// Proof of SSE4.1 and SSSE3, made only inside [`run_sse41`](super::run_sse41).
#[derive(Clone, Copy)]
pub(super) struct Sse41(pub(super) ());

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

impl Simd for Sse41 {
    type F = [__m128; 4];
    type C = [__m128i; 4];

    const OFFSET: i32 = 0;

    rows_are_lanes!();

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        // SAFETY: the token proves the instructions.
        unsafe { [_mm_set1_ps(x); 4] }
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::F {
        let p = x.as_ptr();
        // SAFETY: 64 bytes may be read; the token proves the instructions.
        unsafe { [_mm_loadu_ps(p), _mm_loadu_ps(p.add(4)), _mm_loadu_ps(p.add(8)), _mm_loadu_ps(p.add(12))] }
    }
    #[inline(always)]
    fn load_f32(self, x: &[u8; 64]) -> Self::F {
        let p = x.as_ptr().cast::<f32>();
        // SAFETY: 64 bytes may be read; the token proves the instructions.
        unsafe { [_mm_loadu_ps(p), _mm_loadu_ps(p.add(4)), _mm_loadu_ps(p.add(8)), _mm_loadu_ps(p.add(12))] }
    }
    #[inline(always)]
    fn load_f16(self, x: &[u8; 32]) -> Self::F {
        let p = x.as_ptr();
        // SAFETY: 32 bytes may be read; the token proves the instructions.
        let four = |i: usize| unsafe { _mm_cvtepu16_epi32(_mm_loadl_epi64(p.add(8 * i).cast())) };
        self.halves([four(0), four(1), four(2), four(3)])
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u8; 32]) -> Self::F {
        self.load(&Scalar.load_bf16(x))
    }
    #[inline(always)]
    fn load_i8(self, x: &[i8; LANES]) -> Self::F {
        // SAFETY: 16 bytes may be read; the token proves the instructions.
        unsafe {
            let bytes = _mm_loadu_si128(x.as_ptr().cast());
            let four = |bytes| _mm_cvtepi32_ps(_mm_cvtepi8_epi32(bytes));
            [
                four(bytes),
                four(_mm_srli_si128::<4>(bytes)),
                four(_mm_srli_si128::<8>(bytes)),
                four(_mm_srli_si128::<12>(bytes)),
            ]
        }
    }
    #[inline(always)]
    fn store(self, v: Self::F, out: &mut [f32; LANES]) {
        let p = out.as_mut_ptr();
        // SAFETY: 64 bytes may be written; the token proves the instructions.
        unsafe {
            _mm_storeu_ps(p, v[0]);
            _mm_storeu_ps(p.add(4), v[1]);
            _mm_storeu_ps(p.add(8), v[2]);
            _mm_storeu_ps(p.add(12), v[3]);
        }
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        each!(_mm_add_ps, a, b)
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        each!(_mm_sub_ps, a, b)
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        each!(_mm_mul_ps, a, b)
    }
    #[inline(always)]
    fn sum(self, v: Self::F) -> f32 {
        // SAFETY: the token proves the instructions.
        unsafe {
            let four = _mm_add_ps(_mm_add_ps(v[0], v[2]), _mm_add_ps(v[1], v[3]));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }

    #[inline(always)]
    fn columns(self, rows: &[&[u8; 16]; TILE]) -> [Self::C; 4] {
        let four = |first: usize| {
            // SAFETY: 16 bytes may be read at each row; the token proves the instructions.
            unsafe {
                let row = |i: usize| _mm_loadu_si128(rows[first + i].as_ptr().cast());
                transposed!(
                    row(0),
                    row(1),
                    row(2),
                    row(3),
                    _mm_unpacklo_epi32,
                    _mm_unpackhi_epi32,
                    _mm_unpacklo_epi64,
                    _mm_unpackhi_epi64
                )
            }
        };
        let quarters = [four(0), four(4), four(8), four(12)];
        crate::simd::each!(4, i => [quarters[0][i], quarters[1][i], quarters[2][i], quarters[3][i]])
    }
    #[inline(always)]
    fn lanes(self, x: &[u32; TILE]) -> Self::C {
        let p = x.as_ptr();
        // SAFETY: 64 bytes may be read; the token proves the instructions.
        let four = |i: usize| unsafe { _mm_loadu_si128(p.add(4 * i).cast()) };
        [four(0), four(1), four(2), four(3)]
    }
    #[inline(always)]
    fn put(self, x: Self::C, out: &mut [u32; TILE]) {
        for (out, x) in out.as_chunks_mut::<4>().0.iter_mut().zip(x) {
            // SAFETY: 16 bytes may be written; the token proves the instructions.
            unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), x) }
        }
    }
    #[inline(always)]
    fn all(self, x: u32) -> Self::C {
        // SAFETY: the token proves the instructions.
        unsafe { [_mm_set1_epi32(x as i32); 4] }
    }
    #[inline(always)]
    fn and(self, a: Self::C, b: Self::C) -> Self::C {
        each!(_mm_and_si128, a, b)
    }
    #[inline(always)]
    fn or(self, a: Self::C, b: Self::C) -> Self::C {
        each!(_mm_or_si128, a, b)
    }
    #[inline(always)]
    fn xor(self, a: Self::C, b: Self::C) -> Self::C {
        each!(_mm_xor_si128, a, b)
    }
    #[inline(always)]
    fn up(self, x: Self::C, n: usize) -> Self::C {
        each!(|x| _mm_sll_epi32(x, _mm_cvtsi32_si128(n as i32)), x)
    }
    #[inline(always)]
    fn down(self, x: Self::C, n: usize) -> Self::C {
        each!(|x| _mm_srl_epi32(x, _mm_cvtsi32_si128(n as i32)), x)
    }
    #[inline(always)]
    fn less(self, a: Self::C, b: Self::C) -> Self::C {
        each!(_mm_sub_epi8, a, b)
    }
    #[inline(always)]
    fn times_16(self, a: Self::C, b: Self::C) -> Self::C {
        each!(_mm_mullo_epi16, a, b)
    }
    #[inline(always)]
    fn lookup(self, x: Self::C, table: &[i8; 16]) -> Self::C {
        // SAFETY: 16 bytes may be read; the token proves the instructions.
        let table = unsafe { _mm_loadu_si128(table.as_ptr().cast()) };
        each!(|x| _mm_shuffle_epi8(table, x), x)
    }
    /// Bits 4 and 5 choose among four lookups.
    #[inline(always)]
    fn lookup64(self, x: Self::C, table: &[i8; 64]) -> Self::C {
        let quarters = table.as_chunks::<16>().0;
        let low = self.bits(x, 0, 15);
        let four = crate::simd::each!(4, i => self.lookup(low, &quarters[i]));
        // SAFETY: the token proves the instructions.
        let choose = |i: usize| unsafe {
            let (bit4, bit5) = (_mm_slli_epi16::<3>(x[i]), _mm_slli_epi16::<2>(x[i]));
            let pair = |j: usize| _mm_blendv_epi8(four[j][i], four[j + 1][i], bit4);
            _mm_blendv_epi8(pair(0), pair(2), bit5)
        };
        [choose(0), choose(1), choose(2), choose(3)]
    }
    /// The byte that holds the four bits goes everywhere in its lane.
    #[inline(always)]
    fn spread(self, x: Self::C, first: usize) -> Self::C {
        // SAFETY: the token proves the instructions.
        let set = |x| unsafe {
            let lanes = _mm_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12);
            let here = _mm_add_epi8(lanes, _mm_set1_epi8((first / 8) as i8));
            let bits = _mm_set1_epi32((0x0804_0201u32 << (first % 8)) as i32);
            _mm_cmpeq_epi8(_mm_and_si128(_mm_shuffle_epi8(x, here), bits), bits)
        };
        crate::simd::each!(4, i => set(x[i]))
    }
    #[inline(always)]
    fn windows<const STEP: usize>(self, x: Self::C, at: usize) -> Self::C {
        windows_of_bytes::<Self, STEP>(self, x, at)
    }
    #[inline(always)]
    fn floats(self, x: Self::C) -> Self::F {
        each!(_mm_cvtepi32_ps, x)
    }
    /// Exponent and mantissa moved to their places are the number times 2^-112, subnormal or not; what was infinite or NaN
    /// gets its exponent back.
    #[inline(always)]
    fn halves(self, x: Self::C) -> Self::F {
        // SAFETY: the token proves the instructions.
        let wide = |x| unsafe {
            let magnitude = _mm_slli_epi32::<13>(_mm_and_si128(x, _mm_set1_epi32(0x7fff)));
            let scaled = _mm_mul_ps(_mm_castsi128_ps(magnitude), _mm_castsi128_ps(_mm_set1_epi32(0x7780_0000)));
            let top = _mm_cmpgt_epi32(magnitude, _mm_set1_epi32(0x0f7f_ffff));
            let exponent = _mm_and_si128(top, _mm_set1_epi32(0x7f80_0000));
            let sign = _mm_slli_epi32::<16>(_mm_and_si128(x, _mm_set1_epi32(0x8000)));
            _mm_or_ps(scaled, _mm_castsi128_ps(_mm_or_si128(exponent, sign)))
        };
        crate::simd::each!(4, i => wide(x[i]))
    }
    #[inline(always)]
    fn e5m3(self, x: Self::C) -> Self::F {
        // SAFETY: the token proves the instructions.
        let wide = |x| unsafe {
            let byte = _mm_and_si128(x, _mm_set1_epi32(255));
            let zero = _mm_cmpeq_epi32(byte, _mm_setzero_si128());
            let bits = _mm_add_epi32(_mm_slli_epi32::<20>(byte), _mm_set1_epi32(E5M3_OFFSET as i32));
            _mm_castsi128_ps(_mm_andnot_si128(zero, bits))
        };
        crate::simd::each!(4, i => wide(x[i]))
    }
    #[inline(always)]
    fn signed(self, w: Self::C) -> Self::C {
        w
    }
    /// `maddubs` wants one unsigned side: |w| times a with w's sign. Two products stay below 2^15.
    #[inline(always)]
    fn dot_signed(self, sums: Self::C, w: Self::C, a: [u8; 4]) -> Self::C {
        // SAFETY: the token proves the instructions.
        let add = |sums, w| unsafe {
            let a = _mm_set1_epi32(i32::from_le_bytes(a));
            let pairs = _mm_maddubs_epi16(_mm_abs_epi8(w), _mm_sign_epi8(a, w));
            _mm_add_epi32(sums, _mm_madd_epi16(pairs, _mm_set1_epi16(1)))
        };
        crate::simd::each!(4, i => add(sums[i], w[i]))
    }
    #[inline(always)]
    fn dot_unsigned(self, sums: Self::C, w: Self::C, a: [u8; 4]) -> Self::C {
        // SAFETY: the token proves the instructions.
        let add = |sums, w| unsafe {
            let pairs = _mm_maddubs_epi16(w, _mm_set1_epi32(i32::from_le_bytes(a)));
            _mm_add_epi32(sums, _mm_madd_epi16(pairs, _mm_set1_epi16(1)))
        };
        crate::simd::each!(4, i => add(sums[i], w[i]))
    }
}
