//! AVX-512: one register to a vector.

use super::{square_root, sum_bytes, sum_eight};
use crate::half::E5M3_OFFSET;
use crate::simd::{LANES, Simd, TILE, each, lookup_bytes, rows_are_lanes, transposed, windows_of_bytes};
use core::arch::x86_64::*;

/// Proof of AVX-512 with BW, DQ and VL and, where `LATER`, with VNNI, VBMI and VBMI2; made only inside
/// [`run_avx512`](super::run_avx512) and [`run_vnni`](super::run_vnni).
#[derive(Clone, Copy)]
pub(super) struct Avx512<const LATER: bool>(pub(super) ());

/// Lanes `i` and `i + 8` of `a` and of `b`, added.
#[inline(always)]
unsafe fn add_halves(a: __m512, b: __m512) -> __m512 {
    // SAFETY: the caller has AVX-512.
    unsafe { _mm512_add_ps(_mm512_shuffle_f32x4::<0b01_00_01_00>(a, b), _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b)) }
}

/// The four sums of lanes that are left of each of four vectors, from number `i` on in steps of four.
#[inline(always)]
unsafe fn quarter(v: &[__m512; LANES], i: usize) -> __m512 {
    // SAFETY: the caller has AVX-512.
    unsafe {
        let (a, b) = (add_halves(v[i], v[i + 4]), add_halves(v[i + 8], v[i + 12]));
        _mm512_add_ps(_mm512_shuffle_f32x4::<0b10_00_10_00>(a, b), _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b))
    }
}

/// Of every four lanes, the first and the third, and the second and the fourth, of `a` and of `b`, added.
#[inline(always)]
unsafe fn add_pairs(a: __m512, b: __m512) -> __m512 {
    // SAFETY: the caller has AVX-512.
    unsafe {
        let (a, b) = (_mm512_castps_pd(a), _mm512_castps_pd(b));
        let (low, high) = (_mm512_unpacklo_pd(a, b), _mm512_unpackhi_pd(a, b));
        _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high))
    }
}

/// Rows `i`, `i + 4`, `i + 8` and `i + 12` in one register.
#[inline(always)]
unsafe fn four_rows(rows: &[&[u8; 16]; TILE], i: usize) -> __m512i {
    // SAFETY: 16 bytes may be read at each row; the caller has AVX-512.
    unsafe {
        let (a, b) = (_mm_loadu_si128(rows[i].as_ptr().cast()), _mm_loadu_si128(rows[i + 4].as_ptr().cast()));
        let (c, d) = (_mm_loadu_si128(rows[i + 8].as_ptr().cast()), _mm_loadu_si128(rows[i + 12].as_ptr().cast()));
        _mm512_inserti64x4::<1>(_mm512_castsi256_si512(_mm256_set_m128i(b, a)), _mm256_set_m128i(d, c))
    }
}

/// Four bits of each lane, from bit `first` on: the byte that holds them goes everywhere in its lane.
#[inline(always)]
unsafe fn four_bits(x: __m512i, first: usize) -> __mmask64 {
    // SAFETY: the caller has AVX-512.
    unsafe {
        let lanes = _mm_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12);
        let here = _mm512_add_epi8(_mm512_broadcast_i32x4(lanes), _mm512_set1_epi8((first / 8) as i8));
        let bits = _mm512_set1_epi32((0x0804_0201u32 << (first % 8)) as i32);
        _mm512_test_epi8_mask(_mm512_shuffle_epi8(x, here), bits)
    }
}

impl<const LATER: bool> Simd for Avx512<LATER> {
    type F = __m512;
    type C = __m512i;

    /// VNNI multiplies unsigned weights with signed activations.
    const OFFSET: i32 = if LATER { 128 } else { 0 };
    const VECTORS: usize = 32;
    const SUMS_HALVES: bool = true;
    /// VBMI looks up bytes.
    const LOOKS_UP_BYTES: bool = LATER;

    rows_are_lanes!();

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        // SAFETY: the token proves the instructions.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::F {
        // SAFETY: 64 bytes may be read; the token proves the instructions.
        unsafe { _mm512_loadu_ps(x.as_ptr()) }
    }
    #[inline(always)]
    fn load_part(self, x: &[f32]) -> Self::F {
        let mask = ((1u32 << x.len().min(LANES)) - 1) as u16;
        // SAFETY: only the lanes of the mask, which lie in the slice, are read; the token proves the instructions.
        unsafe { _mm512_maskz_loadu_ps(mask, x.as_ptr()) }
    }
    #[inline(always)]
    fn store_part(self, v: Self::F, out: &mut [f32]) {
        let mask = ((1u32 << out.len().min(LANES)) - 1) as u16;
        // SAFETY: only the lanes of the mask, which lie in the slice, are written; the token proves the instructions.
        unsafe { _mm512_mask_storeu_ps(out.as_mut_ptr(), mask, v) }
    }
    #[inline(always)]
    fn load_f32_part(self, x: &[u8]) -> Self::F {
        let mask = ((1u32 << (x.len() / 4).min(LANES)) - 1) as u16;
        // SAFETY: only the lanes of the mask, which lie in the slice, are read; the token proves the instructions.
        unsafe { _mm512_maskz_loadu_ps(mask, x.as_ptr().cast()) }
    }
    #[inline(always)]
    fn load_f16_part(self, x: &[u8]) -> Self::F {
        let mask = ((1u32 << (x.len() / 2).min(LANES)) - 1) as u16;
        // SAFETY: only the lanes of the mask, which lie in the slice, are read; the token proves the instructions.
        unsafe { _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, x.as_ptr().cast())) }
    }
    #[inline(always)]
    fn load_f32(self, x: &[u8; 64]) -> Self::F {
        // SAFETY: 64 bytes may be read; the token proves the instructions.
        unsafe { _mm512_loadu_ps(x.as_ptr().cast()) }
    }
    #[inline(always)]
    fn load_f16(self, x: &[u8; 32]) -> Self::F {
        // SAFETY: 32 bytes may be read; the token proves the instructions.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())) }
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u8; 32]) -> Self::F {
        // SAFETY: 32 bytes may be read; the token proves the instructions.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(x.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    fn load_i8(self, x: &[i8; LANES]) -> Self::F {
        // SAFETY: 16 bytes may be read; the token proves the instructions.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(x.as_ptr().cast()))) }
    }
    #[inline(always)]
    fn store(self, v: Self::F, out: &mut [f32; LANES]) {
        // SAFETY: 64 bytes may be written; the token proves the instructions.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), v) }
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the token proves the instructions.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the token proves the instructions.
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the token proves the instructions.
        unsafe { _mm512_mul_ps(a, b) }
    }
    /// `libm` has an instruction of SSE for it, encoded without the prefix of AVX: between vectors it costs as much as a norm.
    #[inline(always)]
    fn sqrt(self, x: f32) -> f32 {
        // SAFETY: the token proves the instructions.
        unsafe { square_root(x) }
    }
    #[inline(always)]
    fn sum(self, v: Self::F) -> f32 {
        // SAFETY: the token proves the instructions.
        unsafe { sum_eight(_mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v))) }
    }

    #[inline(always)]
    fn largest(self, x: Self::F) -> u32 {
        // SAFETY: the token proves the instructions.
        unsafe { _mm512_reduce_max_epu32(_mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(i32::MAX))) }
    }
    #[inline(always)]
    fn round(self, x: Self::F, out: &mut [i8; LANES]) -> i32 {
        // SAFETY: 16 bytes may be written; the token proves the instructions.
        unsafe {
            let bytes = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x));
            _mm_storeu_si128(out.as_mut_ptr().cast(), bytes);
            sum_bytes(bytes)
        }
    }

    /// The same tree for all sixteen at once: every step brings together what one add needs of two vectors. What comes out
    /// stands four lanes apart, so that the vectors go in that way.
    #[inline(always)]
    fn sums(self, v: &[Self::F; LANES]) -> Self::F {
        // SAFETY: the token proves the instructions.
        unsafe {
            let first = add_pairs(quarter(v, 0), quarter(v, 1));
            let second = add_pairs(quarter(v, 2), quarter(v, 3));
            _mm512_add_ps(
                _mm512_shuffle_ps::<0b10_00_10_00>(first, second),
                _mm512_shuffle_ps::<0b11_01_11_01>(first, second),
            )
        }
    }

    /// Every step adds halves of what two vectors have left. Quarter `k` of the last one has number `k` of each four halves, in order.
    #[inline(always)]
    fn half_sums(self, v: &[Self::F; LANES / 2]) -> Self::F {
        // SAFETY: the token proves the instructions.
        unsafe {
            let four = |i: usize| {
                let (a, b) = (v[i], v[i + 1]);
                _mm512_add_ps(_mm512_shuffle_f32x4::<0b10_00_10_00>(a, b), _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b))
            };
            let (first, second) = (add_pairs(four(0), four(2)), add_pairs(four(4), four(6)));
            let sums = _mm512_add_ps(
                _mm512_shuffle_ps::<0b10_00_10_00>(first, second),
                _mm512_shuffle_ps::<0b11_01_11_01>(first, second),
            );
            let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            _mm512_permutexvar_ps(order, sums)
        }
    }

    #[inline(always)]
    fn columns(self, rows: &[&[u8; 16]; TILE]) -> [Self::C; 4] {
        // SAFETY: 16 bytes may be read at each row; the token proves the instructions.
        unsafe {
            transposed!(
                four_rows(rows, 0),
                four_rows(rows, 1),
                four_rows(rows, 2),
                four_rows(rows, 3),
                _mm512_unpacklo_epi32,
                _mm512_unpackhi_epi32,
                _mm512_unpacklo_epi64,
                _mm512_unpackhi_epi64
            )
        }
    }
    #[inline(always)]
    fn lanes(self, x: &[u32; TILE]) -> Self::C {
        // SAFETY: 64 bytes may be read; the token proves the instructions.
        unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
    }
    #[inline(always)]
    fn put(self, x: Self::C, out: &mut [u32; TILE]) {
        // SAFETY: 64 bytes may be written; the token proves the instructions.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), x) }
    }
    #[inline(always)]
    fn all(self, x: u32) -> Self::C {
        // SAFETY: the token proves the instructions.
        unsafe { _mm512_set1_epi32(x as i32) }
    }
    #[inline(always)]
    fn and(self, a: Self::C, b: Self::C) -> Self::C {
        // SAFETY: the token proves the instructions.
        unsafe { _mm512_and_si512(a, b) }
    }
    #[inline(always)]
    fn or(self, a: Self::C, b: Self::C) -> Self::C {
        // SAFETY: the token proves the instructions.
        unsafe { _mm512_or_si512(a, b) }
    }
    #[inline(always)]
    fn xor(self, a: Self::C, b: Self::C) -> Self::C {
        // SAFETY: the token proves the instructions.
        unsafe { _mm512_xor_si512(a, b) }
    }
    #[inline(always)]
    fn up(self, x: Self::C, n: usize) -> Self::C {
        // SAFETY: the token proves the instructions.
        unsafe { _mm512_sll_epi32(x, _mm_cvtsi32_si128(n as i32)) }
    }
    #[inline(always)]
    fn down(self, x: Self::C, n: usize) -> Self::C {
        // SAFETY: the token proves the instructions.
        unsafe { _mm512_srl_epi32(x, _mm_cvtsi32_si128(n as i32)) }
    }
    #[inline(always)]
    fn less(self, a: Self::C, b: Self::C) -> Self::C {
        // SAFETY: the token proves the instructions.
        unsafe { _mm512_sub_epi8(a, b) }
    }
    #[inline(always)]
    fn times_16(self, a: Self::C, b: Self::C) -> Self::C {
        // SAFETY: the token proves the instructions.
        unsafe { _mm512_mullo_epi16(a, b) }
    }
    #[inline(always)]
    fn lookup(self, x: Self::C, table: &[i8; 16]) -> Self::C {
        // SAFETY: 16 bytes may be read; the token proves the instructions.
        unsafe { _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast())), x) }
    }
    /// Without VBMI, bits 4 and 5 choose among four lookups.
    #[inline(always)]
    fn lookup64(self, x: Self::C, table: &[i8; 64]) -> Self::C {
        // SAFETY: 64 bytes may be read; the token proves the instructions.
        unsafe {
            if LATER {
                return _mm512_permutexvar_epi8(x, _mm512_loadu_si512(table.as_ptr().cast()));
            }
            let quarters = table.as_chunks::<16>().0;
            let low = self.bits(x, 0, 15);
            let (bit4, bit5) =
                (_mm512_movepi8_mask(_mm512_slli_epi16::<3>(x)), _mm512_movepi8_mask(_mm512_slli_epi16::<2>(x)));
            let four = each!(4, i => self.lookup(low, &quarters[i]));
            let (first, second) =
                (_mm512_mask_blend_epi8(bit4, four[0], four[1]), _mm512_mask_blend_epi8(bit4, four[2], four[3]));
            _mm512_mask_blend_epi8(bit5, first, second)
        }
    }
    /// The offset is added to the table, once, and not to what is looked up.
    #[inline(always)]
    fn signed_lookup64(self, x: Self::C, table: &[i8; 64]) -> Self::C {
        if !LATER {
            return self.signed(self.lookup64(x, table));
        }
        // SAFETY: 64 bytes may be read; the token proves the instructions.
        unsafe { _mm512_permutexvar_epi8(x, self.signed(_mm512_loadu_si512(table.as_ptr().cast()))) }
    }
    #[inline(always)]
    fn joined(self, low: Self::C, high: Self::C, at: usize) -> Self::C {
        if !LATER {
            return self.or(self.down(low, at), self.up(high, 32 - at));
        }
        // SAFETY: the token proves the instructions.
        unsafe { _mm512_shrdv_epi32(low, high, _mm512_set1_epi32(at as i32)) }
    }
    #[inline(always)]
    fn entries<const N: usize>(self, x: Self::C, table: &[u32; N]) -> Self::C {
        const { assert!(N.is_power_of_two()) };
        // SAFETY: a number of so few bits is that of an entry; the token proves the instructions.
        unsafe {
            let number = _mm512_and_si512(x, _mm512_set1_epi32((N - 1) as i32));
            _mm512_i32gather_epi32::<4>(number, table.as_ptr().cast())
        }
    }
    /// Bit 7 chooses between two lookups of half the table.
    #[inline(always)]
    fn lookup256(self, x: Self::C, table: &[u8; 256]) -> Self::C {
        if !LATER {
            return lookup_bytes(self, x, table);
        }
        let quarters = table.as_chunks::<64>().0;
        // SAFETY: 64 bytes may be read at each; the token proves the instructions.
        unsafe {
            let quarter = |i: usize| _mm512_loadu_si512(quarters[i].as_ptr().cast());
            let low = _mm512_permutex2var_epi8(quarter(0), x, quarter(1));
            let high = _mm512_permutex2var_epi8(quarter(2), x, quarter(3));
            _mm512_mask_blend_epi8(_mm512_movepi8_mask(x), low, high)
        }
    }
    #[inline(always)]
    fn spread(self, x: Self::C, first: usize) -> Self::C {
        // SAFETY: the token proves the instructions.
        unsafe { _mm512_movm_epi8(four_bits(x, first)) }
    }
    #[inline(always)]
    fn with_signs(self, x: Self::C, signs: Self::C, first: usize) -> Self::C {
        // SAFETY: the token proves the instructions.
        unsafe { _mm512_mask_sub_epi8(x, four_bits(signs, first), _mm512_setzero_si512(), x) }
    }
    #[inline(always)]
    fn windows<const STEP: usize>(self, x: Self::C, at: usize) -> Self::C {
        if !LATER {
            return windows_of_bytes::<Self, STEP>(self, x, at);
        }
        let step = STEP as i64;
        let lane = step << 8 | (2 * step) << 16 | (3 * step) << 24;
        // SAFETY: the token proves the instructions.
        unsafe {
            // Two lanes share a register of 64 bits; the second begins at bit 32.
            let from = _mm512_set1_epi64(lane | (lane + 0x2020_2020) << 32);
            _mm512_multishift_epi64_epi8(_mm512_add_epi8(from, _mm512_set1_epi8(at as i8)), x)
        }
    }
    #[inline(always)]
    fn floats(self, x: Self::C) -> Self::F {
        // SAFETY: the token proves the instructions.
        unsafe { _mm512_cvtepi32_ps(x) }
    }
    #[inline(always)]
    fn halves(self, x: Self::C) -> Self::F {
        // SAFETY: the token proves the instructions.
        unsafe { _mm512_cvtph_ps(_mm512_cvtepi32_epi16(x)) }
    }
    #[inline(always)]
    fn e5m3(self, x: Self::C) -> Self::F {
        // SAFETY: the token proves the instructions.
        unsafe {
            let byte = _mm512_and_si512(x, _mm512_set1_epi32(255));
            let bits = _mm512_add_epi32(_mm512_slli_epi32::<20>(byte), _mm512_set1_epi32(E5M3_OFFSET as i32));
            _mm512_castsi512_ps(_mm512_maskz_mov_epi32(_mm512_test_epi32_mask(byte, byte), bits))
        }
    }
    #[inline(always)]
    fn signed(self, w: Self::C) -> Self::C {
        // SAFETY: the token proves the instructions.
        if LATER { unsafe { _mm512_xor_si512(w, _mm512_set1_epi8(-128)) } } else { w }
    }
    /// Without VNNI: |w| times a with w's sign, as in AVX2.
    #[inline(always)]
    fn dot_signed(self, sums: Self::C, w: Self::C, a: [u8; 4]) -> Self::C {
        // SAFETY: the token proves the instructions.
        unsafe {
            let a = _mm512_set1_epi32(i32::from_le_bytes(a));
            if LATER {
                return _mm512_dpbusd_epi32(sums, w, a);
            }
            let a = _mm512_mask_sub_epi8(a, _mm512_movepi8_mask(w), _mm512_setzero_si512(), a);
            let pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(w), a);
            _mm512_add_epi32(sums, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))
        }
    }
    #[inline(always)]
    fn dot_unsigned(self, sums: Self::C, w: Self::C, a: [u8; 4]) -> Self::C {
        // SAFETY: the token proves the instructions.
        unsafe {
            let a = _mm512_set1_epi32(i32::from_le_bytes(a));
            if LATER {
                return _mm512_dpbusd_epi32(sums, w, a);
            }
            let pairs = _mm512_maddubs_epi16(w, a);
            _mm512_add_epi32(sums, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))
        }
    }
}
