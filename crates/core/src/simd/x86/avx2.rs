//! AVX2 with F16C: two registers to a vector.

use super::{square_root, sum_bytes, sum_eight};
use crate::half::E5M3_OFFSET;
use crate::simd::{LANES, Simd, TILE, each, padded, rows_are_lanes, transposed, windows_of_bytes};
use core::arch::x86_64::*;

/// Proof of AVX2 and F16C, made only inside [`run_avx2`](super::run_avx2).
#[derive(Clone, Copy)]
pub(super) struct Avx2(pub(super) ());

/// Register by register.
macro_rules! both {
    ($f:expr, $a:expr) => {{
        let a = $a;
        // SAFETY: the token proves the instructions.
        unsafe { [$f(a[0]), $f(a[1])] }
    }};
    ($f:expr, $a:expr, $b:expr) => {{
        let (a, b) = ($a, $b);
        // SAFETY: the token proves the instructions.
        unsafe { [$f(a[0], b[0]), $f(a[1], b[1])] }
    }};
}

/// The lanes of the first `n` of eight values, for a masked load.
#[inline(always)]
unsafe fn first(n: usize) -> __m256i {
    // SAFETY: the caller has AVX2.
    unsafe {
        let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), lanes)
    }
}

/// Up to sixteen floats at `x`, the missing ones zero.
///
/// # Safety
/// `n` floats may be read at `x`, and the caller has AVX2.
#[inline(always)]
unsafe fn load_first(x: *const f32, n: usize) -> (__m256, __m256) {
    // SAFETY: masked-out lanes are not read, and the second half is looked at only where it begins inside the slice.
    unsafe {
        let low = _mm256_maskload_ps(x, first(n.min(8)));
        let high = if n > 8 { _mm256_maskload_ps(x.add(8), first(n - 8)) } else { _mm256_setzero_ps() };
        (low, high)
    }
}

/// Sixteen bfloat16s in a 256-bit register, as two registers of eight floats.
#[inline(always)]
unsafe fn widen_bf16(x: __m128i) -> __m256 {
    // SAFETY: the caller has AVX2.
    unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(x))) }
}

/// Lanes `i` and `i + 4` of `a` and then of `b`, added.
#[inline(always)]
unsafe fn add_halves(a: __m256, b: __m256) -> __m256 {
    // SAFETY: the caller has AVX2.
    unsafe { _mm256_add_ps(_mm256_blend_ps::<0b1111_0000>(a, b), _mm256_permute2f128_ps::<0x21>(a, b)) }
}

/// Of every four lanes, the first and the third, and the second and the fourth, of `a` and then of `b`, added.
#[inline(always)]
unsafe fn add_pairs(a: __m256, b: __m256) -> __m256 {
    // SAFETY: the caller has AVX2.
    unsafe { _mm256_add_ps(_mm256_blend_ps::<0b1100_1100>(a, b), _mm256_shuffle_ps::<0b01_00_11_10>(a, b)) }
}

/// The sum of each of eight vectors, one to a lane, by [`Simd::sum`]'s tree: every step brings together what one add needs of two
/// vectors. What comes out stands four lanes apart, so that the vectors go in that way.
#[inline(always)]
unsafe fn sums_of_eight(v: &[__m256; 8]) -> __m256 {
    // SAFETY: the caller has AVX2.
    unsafe {
        let first = add_pairs(add_halves(v[0], v[4]), add_halves(v[1], v[5]));
        let second = add_pairs(add_halves(v[2], v[6]), add_halves(v[3], v[7]));
        _mm256_add_ps(
            _mm256_shuffle_ps::<0b10_00_10_00>(first, second),
            _mm256_shuffle_ps::<0b11_01_11_01>(first, second),
        )
    }
}

/// Columns of eight rows from row `first` on.
#[inline(always)]
unsafe fn eight_rows(rows: &[&[u8; 16]; TILE], first: usize) -> [__m256i; 4] {
    // SAFETY: 16 bytes may be read at each row; the caller has AVX2.
    unsafe {
        let pairs = each!(4, i => _mm256_set_m128i(
            _mm_loadu_si128(rows[first + i + 4].as_ptr().cast()),
            _mm_loadu_si128(rows[first + i].as_ptr().cast())
        ));
        transposed!(
            pairs[0],
            pairs[1],
            pairs[2],
            pairs[3],
            _mm256_unpacklo_epi32,
            _mm256_unpackhi_epi32,
            _mm256_unpacklo_epi64,
            _mm256_unpackhi_epi64
        )
    }
}

impl Simd for Avx2 {
    type F = (__m256, __m256);
    type C = [__m256i; 2];

    const OFFSET: i32 = 0;
    const VECTORS: usize = 8;
    const SUMS_HALVES: bool = true;
    const ADDS_PAIRS: bool = true;

    rows_are_lanes!();

    #[inline(always)]
    fn load_part(self, x: &[f32]) -> Self::F {
        // SAFETY: as many floats as the slice has are read, sixteen at most; the token proves the instructions.
        unsafe { load_first(x.as_ptr(), x.len().min(LANES)) }
    }
    #[inline(always)]
    fn load_f16_part(self, x: &[u8]) -> Self::F {
        match x.first_chunk::<16>() {
            // Heads of eight values, as small models have them.
            // SAFETY: 16 bytes may be read; the token proves the instructions.
            Some(half) if x.len() == 16 => unsafe {
                (_mm256_cvtph_ps(_mm_loadu_si128(half.as_ptr().cast())), _mm256_setzero_ps())
            },
            _ => self.load_f16(&padded(x)),
        }
    }
    #[inline(always)]
    fn load_f32_part(self, x: &[u8]) -> Self::F {
        // SAFETY: as many floats as the slice has are read, sixteen at most; the token proves the instructions.
        unsafe { load_first(x.as_ptr().cast(), (x.len() / 4).min(LANES)) }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        // SAFETY: the token proves the instructions.
        unsafe { (_mm256_set1_ps(x), _mm256_set1_ps(x)) }
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::F {
        // SAFETY: 64 bytes may be read; the token proves the instructions.
        unsafe { (_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))) }
    }
    #[inline(always)]
    fn load_f32(self, x: &[u8; 64]) -> Self::F {
        // SAFETY: 64 bytes may be read; the token proves the instructions.
        unsafe { (_mm256_loadu_ps(x.as_ptr().cast()), _mm256_loadu_ps(x.as_ptr().add(32).cast())) }
    }
    #[inline(always)]
    fn load_f16(self, x: &[u8; 32]) -> Self::F {
        // SAFETY: 32 bytes may be read; the token proves the instructions.
        unsafe {
            let low = _mm_loadu_si128(x.as_ptr().cast());
            let high = _mm_loadu_si128(x.as_ptr().add(16).cast());
            (_mm256_cvtph_ps(low), _mm256_cvtph_ps(high))
        }
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u8; 32]) -> Self::F {
        // SAFETY: 32 bytes may be read; the token proves the instructions.
        unsafe {
            let low = _mm_loadu_si128(x.as_ptr().cast());
            let high = _mm_loadu_si128(x.as_ptr().add(16).cast());
            (widen_bf16(low), widen_bf16(high))
        }
    }
    #[inline(always)]
    fn load_i8(self, x: &[i8; LANES]) -> Self::F {
        // SAFETY: 16 bytes may be read; the token proves the instructions.
        unsafe {
            let bytes = _mm_loadu_si128(x.as_ptr().cast());
            let low = _mm256_cvtepi8_epi32(bytes);
            let high = _mm256_cvtepi8_epi32(_mm_srli_si128::<8>(bytes));
            (_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high))
        }
    }
    #[inline(always)]
    fn store(self, v: Self::F, out: &mut [f32; LANES]) {
        // SAFETY: 64 bytes may be written; the token proves the instructions.
        unsafe {
            _mm256_storeu_ps(out.as_mut_ptr(), v.0);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), v.1);
        }
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the token proves the instructions.
        unsafe { (_mm256_add_ps(a.0, b.0), _mm256_add_ps(a.1, b.1)) }
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the token proves the instructions.
        unsafe { (_mm256_sub_ps(a.0, b.0), _mm256_sub_ps(a.1, b.1)) }
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the token proves the instructions.
        unsafe { (_mm256_mul_ps(a.0, b.0), _mm256_mul_ps(a.1, b.1)) }
    }
    /// `libm` has an instruction of SSE for it, encoded without the prefix of AVX: between vectors it costs as much as a norm.
    #[inline(always)]
    fn sqrt(self, x: f32) -> f32 {
        // SAFETY: the token proves the instructions.
        unsafe { square_root(x) }
    }
    #[inline(always)]
    fn largest(self, x: Self::F) -> u32 {
        // SAFETY: the token proves the instructions.
        unsafe {
            let magnitude = |x| _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(i32::MAX));
            let eight = _mm256_max_epu32(magnitude(x.0), magnitude(x.1));
            let four = _mm_max_epu32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256::<1>(eight));
            let two = _mm_max_epu32(four, _mm_unpackhi_epi64(four, four));
            _mm_cvtsi128_si32(_mm_max_epu32(two, _mm_shuffle_epi32::<1>(two))) as u32
        }
    }
    #[inline(always)]
    fn round(self, x: Self::F, out: &mut [i8; LANES]) -> i32 {
        // SAFETY: 16 bytes may be written; the token proves the instructions.
        unsafe {
            let low = |x| _mm256_and_si256(_mm256_cvtps_epi32(x), _mm256_set1_epi32(255));
            let words = _mm256_packus_epi32(low(x.0), low(x.1));
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
            let bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(out.as_mut_ptr().cast(), bytes);
            sum_bytes(bytes)
        }
    }
    #[inline(always)]
    fn sum(self, v: Self::F) -> f32 {
        // SAFETY: the token proves the instructions.
        unsafe { sum_eight(_mm256_add_ps(v.0, v.1)) }
    }
    #[inline(always)]
    fn sums(self, v: &[Self::F; LANES]) -> Self::F {
        // SAFETY: the token proves the instructions.
        unsafe {
            let [first, second] =
                [each!(8, i => _mm256_add_ps(v[i].0, v[i].1)), each!(8, i => _mm256_add_ps(v[8 + i].0, v[8 + i].1))];
            (sums_of_eight(&first), sums_of_eight(&second))
        }
    }
    #[inline(always)]
    fn half_sums(self, v: &[Self::F; LANES / 2]) -> Self::F {
        // SAFETY: the token proves the instructions.
        unsafe {
            (
                sums_of_eight(&[v[0].0, v[0].1, v[1].0, v[1].1, v[2].0, v[2].1, v[3].0, v[3].1]),
                sums_of_eight(&[v[4].0, v[4].1, v[5].0, v[5].1, v[6].0, v[6].1, v[7].0, v[7].1]),
            )
        }
    }

    #[inline(always)]
    fn columns(self, rows: &[&[u8; 16]; TILE]) -> [Self::C; 4] {
        // SAFETY: the token proves the instructions.
        let (first, second) = unsafe { (eight_rows(rows, 0), eight_rows(rows, 8)) };
        each!(4, i => [first[i], second[i]])
    }
    #[inline(always)]
    fn lanes(self, x: &[u32; TILE]) -> Self::C {
        // SAFETY: 64 bytes may be read; the token proves the instructions.
        unsafe { [_mm256_loadu_si256(x.as_ptr().cast()), _mm256_loadu_si256(x.as_ptr().add(8).cast())] }
    }
    #[inline(always)]
    fn put(self, x: Self::C, out: &mut [u32; TILE]) {
        // SAFETY: 64 bytes may be written; the token proves the instructions.
        unsafe {
            _mm256_storeu_si256(out.as_mut_ptr().cast(), x[0]);
            _mm256_storeu_si256(out.as_mut_ptr().add(8).cast(), x[1]);
        }
    }
    #[inline(always)]
    fn all(self, x: u32) -> Self::C {
        // SAFETY: the token proves the instructions.
        unsafe { [_mm256_set1_epi32(x as i32); 2] }
    }
    #[inline(always)]
    fn and(self, a: Self::C, b: Self::C) -> Self::C {
        both!(_mm256_and_si256, a, b)
    }
    #[inline(always)]
    fn or(self, a: Self::C, b: Self::C) -> Self::C {
        both!(_mm256_or_si256, a, b)
    }
    #[inline(always)]
    fn xor(self, a: Self::C, b: Self::C) -> Self::C {
        both!(_mm256_xor_si256, a, b)
    }
    #[inline(always)]
    fn up(self, x: Self::C, n: usize) -> Self::C {
        both!(|x| _mm256_sll_epi32(x, _mm_cvtsi32_si128(n as i32)), x)
    }
    #[inline(always)]
    fn down(self, x: Self::C, n: usize) -> Self::C {
        both!(|x| _mm256_srl_epi32(x, _mm_cvtsi32_si128(n as i32)), x)
    }
    #[inline(always)]
    fn less(self, a: Self::C, b: Self::C) -> Self::C {
        both!(_mm256_sub_epi8, a, b)
    }
    #[inline(always)]
    fn times_16(self, a: Self::C, b: Self::C) -> Self::C {
        both!(_mm256_mullo_epi16, a, b)
    }
    #[inline(always)]
    fn lookup(self, x: Self::C, table: &[i8; 16]) -> Self::C {
        // SAFETY: 16 bytes may be read; the token proves the instructions.
        let table = unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast())) };
        both!(|x| _mm256_shuffle_epi8(table, x), x)
    }
    /// Bits 4 and 5 choose among four lookups.
    #[inline(always)]
    fn lookup64(self, x: Self::C, table: &[i8; 64]) -> Self::C {
        let quarters = table.as_chunks::<16>().0;
        let low = self.bits(x, 0, 15);
        let four = [self.lookup(low, &quarters[0]), self.lookup(low, &quarters[1])];
        let more = [self.lookup(low, &quarters[2]), self.lookup(low, &quarters[3])];
        // SAFETY: the token proves the instructions.
        unsafe {
            let bits = [
                (_mm256_slli_epi16::<3>(x[0]), _mm256_slli_epi16::<2>(x[0])),
                (_mm256_slli_epi16::<3>(x[1]), _mm256_slli_epi16::<2>(x[1])),
            ];
            let mut out = x;
            for (i, (bit4, bit5)) in bits.into_iter().enumerate() {
                let first = _mm256_blendv_epi8(four[0][i], four[1][i], bit4);
                out[i] = _mm256_blendv_epi8(first, _mm256_blendv_epi8(more[0][i], more[1][i], bit4), bit5);
            }
            out
        }
    }
    /// The byte that holds the four bits goes everywhere in its lane.
    #[inline(always)]
    fn spread(self, x: Self::C, first: usize) -> Self::C {
        // SAFETY: the token proves the instructions.
        let set = |x| unsafe {
            let lanes = _mm_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12);
            let here = _mm256_add_epi8(_mm256_broadcastsi128_si256(lanes), _mm256_set1_epi8((first / 8) as i8));
            let bits = _mm256_set1_epi32((0x0804_0201u32 << (first % 8)) as i32);
            _mm256_cmpeq_epi8(_mm256_and_si256(_mm256_shuffle_epi8(x, here), bits), bits)
        };
        [set(x[0]), set(x[1])]
    }
    #[inline(always)]
    fn windows<const STEP: usize>(self, x: Self::C, at: usize) -> Self::C {
        windows_of_bytes::<Self, STEP>(self, x, at)
    }
    #[inline(always)]
    fn floats(self, x: Self::C) -> Self::F {
        // SAFETY: the token proves the instructions.
        unsafe { (_mm256_cvtepi32_ps(x[0]), _mm256_cvtepi32_ps(x[1])) }
    }
    #[inline(always)]
    fn halves(self, x: Self::C) -> Self::F {
        // SAFETY: the token proves the instructions.
        unsafe {
            let low = |x| _mm256_and_si256(x, _mm256_set1_epi32(0xffff));
            let packed = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(low(x[0]), low(x[1])));
            (_mm256_cvtph_ps(_mm256_castsi256_si128(packed)), _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(packed)))
        }
    }
    #[inline(always)]
    fn e5m3(self, x: Self::C) -> Self::F {
        // SAFETY: the token proves the instructions.
        let wide = |x| unsafe {
            let byte = _mm256_and_si256(x, _mm256_set1_epi32(255));
            let zero = _mm256_cmpeq_epi32(byte, _mm256_setzero_si256());
            let bits = _mm256_add_epi32(_mm256_slli_epi32::<20>(byte), _mm256_set1_epi32(E5M3_OFFSET as i32));
            _mm256_castsi256_ps(_mm256_andnot_si256(zero, bits))
        };
        (wide(x[0]), wide(x[1]))
    }
    #[inline(always)]
    fn signed(self, w: Self::C) -> Self::C {
        w
    }
    /// `maddubs` wants one unsigned side: |w| times a with w's sign. Two products stay below 2^15.
    #[inline(always)]
    fn dot_signed(self, sums: Self::C, w: Self::C, a: [u8; 4]) -> Self::C {
        // SAFETY: the token proves the instructions.
        unsafe {
            let (a, ones) = (_mm256_set1_epi32(i32::from_le_bytes(a)), _mm256_set1_epi16(1));
            let add = |sums, w| {
                let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(a, w));
                _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, ones))
            };
            [add(sums[0], w[0]), add(sums[1], w[1])]
        }
    }
    #[inline(always)]
    fn dot_unsigned(self, sums: Self::C, w: Self::C, a: [u8; 4]) -> Self::C {
        // SAFETY: the token proves the instructions.
        unsafe {
            let (a, ones) = (_mm256_set1_epi32(i32::from_le_bytes(a)), _mm256_set1_epi16(1));
            let add = |sums, w| _mm256_add_epi32(sums, _mm256_madd_epi16(_mm256_maddubs_epi16(w, a), ones));
            [add(sums[0], w[0]), add(sums[1], w[1])]
        }
    }
    #[inline(always)]
    fn dot_pairs(self, sums: Self::C, w: Self::C, a: [u8; 4]) -> Self::C {
        // SAFETY: the token proves the instructions.
        unsafe {
            let a = _mm256_set1_epi32(i32::from_le_bytes(a));
            [
                _mm256_add_epi16(sums[0], _mm256_maddubs_epi16(w[0], a)),
                _mm256_add_epi16(sums[1], _mm256_maddubs_epi16(w[1], a)),
            ]
        }
    }
    #[inline(always)]
    fn add_pairs(self, sums: Self::C, pairs: Self::C) -> Self::C {
        both!(|sums, pairs| _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))), sums, pairs)
    }
    #[inline(always)]
    fn entries<const N: usize>(self, x: Self::C, table: &[u32; N]) -> Self::C {
        const { assert!(N.is_power_of_two()) };
        // SAFETY: a number of so few bits is that of an entry; the token proves the instructions.
        unsafe {
            let bits = _mm256_set1_epi32((N - 1) as i32);
            let (first, second) = (_mm256_and_si256(x[0], bits), _mm256_and_si256(x[1], bits));
            let table = table.as_ptr().cast();
            [_mm256_i32gather_epi32::<4>(table, first), _mm256_i32gather_epi32::<4>(table, second)]
        }
    }
}
