//! AVX2 (with F16C) and AVX-512 (with BW, DQ, VL and VNNI) for x86-64.

use super::{BLOCK, Kernel, LANES, Simd, TILE, padded};
use crate::half::E5M3_OFFSET;
use core::arch::x86_64::*;

/// Whether the CPU and the operating system have AVX2 and F16C.
pub(super) fn has_avx2() -> bool {
    // Miri interprets the vector instructions, but not those that ask the CPU for them.
    if cfg!(miri) {
        return cfg!(all(target_feature = "avx2", target_feature = "f16c"));
    }
    let one = __cpuid(1).ecx;
    let (osxsave, avx, f16c) = (one >> 27 & 1, one >> 28 & 1, one >> 29 & 1);
    osxsave & avx & f16c == 1
        && __cpuid(0).eax >= 7
        && __cpuid_count(7, 0).ebx >> 5 & 1 == 1
        // SAFETY: OSXSAVE says that XGETBV may be used.
        && unsafe { saved_state() } & 0b110 == 0b110
}

/// Whether the CPU and the operating system have AVX-512 F, BW, DQ, VL and VNNI.
pub(super) fn has_avx512() -> bool {
    if !has_avx2() || cfg!(miri) {
        return false;
    }
    let seven = __cpuid_count(7, 0);
    let (f, dq, bw, vl) = (seven.ebx >> 16, seven.ebx >> 17, seven.ebx >> 30, seven.ebx >> 31);
    let vnni = seven.ecx >> 11;
    // SAFETY: AVX2 was found, so XGETBV may be used.
    f & dq & bw & vl & vnni & 1 == 1 && unsafe { saved_state() } & 0b1110_0110 == 0b1110_0110
}

/// Which register files the operating system saves (XCR0).
#[target_feature(enable = "xsave")]
fn saved_state() -> u64 {
    // SAFETY: the caller of this feature function knows that the CPU has XGETBV.
    unsafe { _xgetbv(0) }
}

/// Compiles `kernel` for AVX2.
#[target_feature(enable = "avx,avx2,f16c")]
pub(super) fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx2(()))
}

/// Compiles `kernel` for AVX-512.
#[target_feature(enable = "avx,avx2,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx512(()))
}

/// Proof of AVX2 and F16C, made only inside [`run_avx2`].
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

/// Proof of AVX-512, made only inside [`run_avx512`].
#[derive(Clone, Copy)]
pub(super) struct Avx512(());

/// Operations on [`TILE`] rows and [`BLOCK`] bytes, which are 256 bits wide in both instruction sets.
macro_rules! tile_operations {
    () => {
        type B = __m256i;
        type W = __m256i;
        type P = __m256i;
        type R = __m256;

        #[inline(always)]
        fn bytes(self, x: &[u8; BLOCK]) -> Self::B {
            // SAFETY: 32 bytes may be read; the token proves the instructions.
            unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
        }
        #[inline(always)]
        fn nibbles(self, x: &[u8; 16]) -> Self::B {
            // SAFETY: 16 bytes may be read; the token proves the instructions.
            unsafe {
                let both = _mm_loadu_si128(x.as_ptr().cast());
                let halves = _mm256_set_m128i(_mm_srli_epi16::<4>(both), both);
                _mm256_and_si256(halves, _mm256_set1_epi8(15))
            }
        }
        /// Every byte gets the byte of fifth bits that holds its own, and 16 where that bit is set.
        #[inline(always)]
        fn fives(self, x: &[u8; 20]) -> Self::B {
            let (fifth, low) = x.split_at(4);
            let (Ok(fifth), Ok(low)) = (fifth.try_into(), low.try_into()) else { unreachable!() };
            let low = self.nibbles(low);
            // SAFETY: the token proves the instructions.
            unsafe {
                let all = _mm256_set1_epi32(i32::from_le_bytes(fifth));
                let spread = _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
                let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201u64 as i64);
                let set = _mm256_cmpeq_epi8(_mm256_and_si256(_mm256_shuffle_epi8(all, spread), bit), bit);
                _mm256_or_si256(low, _mm256_and_si256(set, _mm256_set1_epi8(16)))
            }
        }
        /// What a 16-bit shift brings from the other byte of a pair, the mask takes away.
        #[inline(always)]
        fn bits(self, x: Self::B, shift: usize, mask: u8) -> Self::B {
            // SAFETY: the token proves the instructions.
            unsafe {
                let shifted = _mm256_srl_epi16(x, _mm_cvtsi64_si128(shift as i64));
                _mm256_and_si256(shifted, _mm256_set1_epi8((mask & (0xff >> shift)) as i8))
            }
        }
        #[inline(always)]
        fn join(self, low: Self::B, high: Self::B, shift: usize) -> Self::B {
            // SAFETY: the token proves the instructions.
            unsafe { _mm256_or_si256(low, _mm256_sll_epi16(high, _mm_cvtsi64_si128(shift as i64))) }
        }
        #[inline(always)]
        fn less(self, x: Self::B, by: u8) -> Self::B {
            // SAFETY: the token proves the instructions.
            unsafe { _mm256_sub_epi8(x, _mm256_set1_epi8(by as i8)) }
        }
        #[inline(always)]
        fn lookup(self, x: Self::B, table: &[i8; 16]) -> Self::B {
            // SAFETY: 16 bytes may be read; the token proves the instructions.
            unsafe { _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast())), x) }
        }
        /// Bits 4 and 5 choose among four lookups.
        #[inline(always)]
        fn lookup64(self, x: Self::B, table: &[i8; 64]) -> Self::B {
            let (quarters, _) = table.as_chunks::<16>();
            let low = self.bits(x, 0, 15);
            // SAFETY: the token proves the instructions.
            unsafe {
                let (four, five) = (_mm256_slli_epi16::<3>(x), _mm256_slli_epi16::<2>(x));
                let pair =
                    |i| _mm256_blendv_epi8(self.lookup(low, &quarters[i]), self.lookup(low, &quarters[i + 1]), four);
                _mm256_blendv_epi8(pair(0), pair(2), five)
            }
        }
        /// Eight numbers begin at a whole byte, so that every group of eight is cut out alike: two bytes that hold the
        /// number go to a 16-bit lane, a multiplication brings the number to its upper byte.
        #[inline(always)]
        fn fields<const N: usize, const STEP: usize, const WIDTH: usize>(self, x: &[u8; N]) -> Self::B {
            const { assert!(N == 1 + 4 * STEP && N >= 9 && N <= 33 && WIDTH <= 8) }
            let cut = const { &Cut::new(N, STEP, WIDTH) };
            // SAFETY: 16 bytes may be read at the start of `x` and at `upper`, or where `x` is shorter, 8 at each; the
            // token proves the instructions.
            unsafe {
                let p = x.as_ptr();
                let both = if N >= 16 {
                    _mm256_set_m128i(_mm_loadu_si128(p.add(cut.upper).cast()), _mm_loadu_si128(p.cast()))
                } else {
                    let words = [p.cast::<i64>().read_unaligned(), p.add(cut.upper).cast::<i64>().read_unaligned()];
                    _mm256_broadcastsi128_si256(_mm_set_epi64x(words[1], words[0]))
                };
                let lift = _mm256_broadcastsi128_si256(_mm_loadu_si128(cut.lift.as_ptr().cast()));
                let group = |from: &[u8; 32]| {
                    let pairs = _mm256_shuffle_epi8(both, _mm256_loadu_si256(from.as_ptr().cast()));
                    _mm256_srli_epi16::<8>(_mm256_mullo_epi16(pairs, lift))
                };
                let all = _mm256_packus_epi16(group(&cut.from[0]), group(&cut.from[1]));
                _mm256_and_si256(all, _mm256_set1_epi8((0xffu8 >> (8 - WIDTH)) as i8))
            }
        }
        /// As 16-bit integers, those of the first halves in the lower 128 bits, of the second halves in the upper.
        #[inline(always)]
        fn scales(self, x: &[i8; 16]) -> Self::W {
            // SAFETY: 16 bytes may be read; the token proves the instructions.
            unsafe {
                let halves = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
                _mm256_cvtepi8_epi16(_mm_shuffle_epi8(_mm_loadu_si128(x.as_ptr().cast()), halves))
            }
        }
        /// As in AVX2's `dot_i8`: |w| times a with w's sign.
        #[inline(always)]
        fn dot_i8_scaled(self, w: Self::B, a: Self::B, scales: Self::W, block: usize) -> Self::P {
            // SAFETY: the token proves the instructions.
            unsafe { self.dot_u7_scaled(_mm256_sign_epi8(w, w), _mm256_sign_epi8(a, w), scales, block) }
        }
        /// The step that adds pairs of 16-bit sums, which stay below 2^15, multiplies them too.
        #[inline(always)]
        fn dot_u7_scaled(self, w: Self::B, a: Self::B, scales: Self::W, block: usize) -> Self::P {
            // SAFETY: the token proves the instructions.
            unsafe {
                // The two bytes of number `block` in each half, everywhere.
                let here = _mm256_set1_epi16(0x0100 + 0x0202 * block as i16);
                _mm256_madd_epi16(_mm256_maddubs_epi16(w, a), _mm256_shuffle_epi8(scales, here))
            }
        }
        /// Three levels of pairwise adds leave one sum for each row.
        #[inline(always)]
        fn rows(self, sums: [Self::P; TILE], bias: i32) -> Self::R {
            let [p0, p1, p2, p3, p4, p5, p6, p7] = sums;
            // SAFETY: the token proves the instructions.
            unsafe {
                let low = _mm256_hadd_epi32(_mm256_hadd_epi32(p0, p1), _mm256_hadd_epi32(p2, p3));
                let high = _mm256_hadd_epi32(_mm256_hadd_epi32(p4, p5), _mm256_hadd_epi32(p6, p7));
                let first = _mm256_permute2x128_si256::<0x20>(low, high);
                let second = _mm256_permute2x128_si256::<0x31>(low, high);
                let sums = _mm256_add_epi32(first, second);
                _mm256_cvtepi32_ps(_mm256_sub_epi32(sums, _mm256_set1_epi32(bias)))
            }
        }
        #[inline(always)]
        fn rows_f16(self, bits: [u16; TILE]) -> Self::R {
            // SAFETY: 16 bytes may be read; the token proves the instructions.
            unsafe { _mm256_cvtph_ps(_mm_loadu_si128(bits.as_ptr().cast())) }
        }
        #[inline(always)]
        fn rows_e5m3(self, x: &[u8; TILE]) -> Self::R {
            // SAFETY: 8 bytes may be read; the token proves the instructions.
            unsafe {
                let wide = _mm256_cvtepu8_epi32(_mm_loadl_epi64(x.as_ptr().cast()));
                let zero = _mm256_cmpeq_epi32(wide, _mm256_setzero_si256());
                let floats = _mm256_add_epi32(_mm256_slli_epi32::<20>(wide), _mm256_set1_epi32(E5M3_OFFSET as i32));
                _mm256_castsi256_ps(_mm256_andnot_si256(zero, floats))
            }
        }
        #[inline(always)]
        fn rows_u8(self, x: &[u8; TILE]) -> Self::R {
            // SAFETY: 8 bytes may be read; the token proves the instructions.
            unsafe { _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(x.as_ptr().cast()))) }
        }
        #[inline(always)]
        fn rows_load(self, x: &[f32; TILE]) -> Self::R {
            // SAFETY: 32 bytes may be read; the token proves the instructions.
            unsafe { _mm256_loadu_ps(x.as_ptr()) }
        }
        #[inline(always)]
        fn rows_splat(self, x: f32) -> Self::R {
            // SAFETY: the token proves the instructions.
            unsafe { _mm256_set1_ps(x) }
        }
        #[inline(always)]
        fn rows_add(self, a: Self::R, b: Self::R) -> Self::R {
            // SAFETY: the token proves the instructions.
            unsafe { _mm256_add_ps(a, b) }
        }
        #[inline(always)]
        fn rows_mul(self, a: Self::R, b: Self::R) -> Self::R {
            // SAFETY: the token proves the instructions.
            unsafe { _mm256_mul_ps(a, b) }
        }
        #[inline(always)]
        fn rows_store(self, v: Self::R, out: &mut [f32; TILE]) {
            // SAFETY: 32 bytes may be written; the token proves the instructions.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr(), v) }
        }
    };
}

/// How [`Simd::fields`] finds its numbers.
struct Cut {
    /// Where the second load begins.
    upper: usize,
    /// For the groups of eight numbers 0 and 2, then 1 and 3: which loaded bytes each 16-bit lane gets.
    from: [[u8; 32]; 2],
    /// What a lane is multiplied with, the same for every group.
    lift: [u16; 8],
}

impl Cut {
    const fn new(n: usize, step: usize, width: usize) -> Cut {
        let mut cut = Cut { upper: if n >= 16 { n - 16 } else { n - 8 }, from: [[0; 32]; 2], lift: [0; 8] };
        let mut i = 0;
        while i < 32 {
            let (group, lane) = (i / 8, i % 8);
            let bit = 8 + (i + 1) * step - width;
            cut.lift[lane] = 1 << (8 - bit % 8);
            let mut half = 0;
            while half < 2 {
                // The byte above the last is not there; a number of the last byte alone has no bits in it.
                let byte = if bit / 8 + half < n { bit / 8 + half } else { n - 1 };
                let at = if n >= 16 {
                    byte - group / 2 * cut.upper
                } else if byte < 8 {
                    byte
                } else {
                    byte - cut.upper + 8
                };
                cut.from[group % 2][group / 2 * 16 + lane * 2 + half] = at as u8;
                half += 1;
            }
            i += 1;
        }
        cut
    }
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

/// Eight lanes to one, by [`Simd::sum`]'s tree.
#[inline(always)]
unsafe fn sum_eight(v: __m256) -> f32 {
    // SAFETY: the caller has AVX.
    unsafe {
        let four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
    }
}

impl Simd for Avx2 {
    type F = (__m256, __m256);
    tile_operations!();

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
    #[inline(always)]
    fn sum(self, v: Self::F) -> f32 {
        // SAFETY: the token proves the instructions.
        unsafe { sum_eight(_mm256_add_ps(v.0, v.1)) }
    }
    /// `maddubs` wants one unsigned side: |w| times a with w's sign. Two products stay below 2^15.
    #[inline(always)]
    fn dot_i8(self, w: Self::B, a: Self::B) -> Self::P {
        // SAFETY: the token proves the instructions.
        unsafe { self.dot_u7(_mm256_sign_epi8(w, w), _mm256_sign_epi8(a, w)) }
    }
    #[inline(always)]
    fn dot_u7(self, w: Self::B, a: Self::B) -> Self::P {
        // SAFETY: the token proves the instructions.
        unsafe { _mm256_madd_epi16(_mm256_maddubs_epi16(w, a), _mm256_set1_epi16(1)) }
    }
}

impl Simd for Avx512 {
    type F = __m512;
    tile_operations!();

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
    #[inline(always)]
    fn sum(self, v: Self::F) -> f32 {
        // SAFETY: the token proves the instructions.
        unsafe { sum_eight(_mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v))) }
    }
    /// VNNI wants one unsigned side: (w + 128) times a, less 128 times a, which all rows of a tile share.
    #[inline(always)]
    fn dot_i8(self, w: Self::B, a: Self::B) -> Self::P {
        // SAFETY: the token proves the instructions.
        unsafe {
            let offset = _mm256_set1_epi8(-128);
            let zero = _mm256_setzero_si256();
            let excess = _mm256_dpbusd_epi32(zero, offset, a);
            _mm256_dpbusd_epi32(_mm256_sub_epi32(zero, excess), _mm256_xor_si256(w, offset), a)
        }
    }
    #[inline(always)]
    fn dot_u7(self, w: Self::B, a: Self::B) -> Self::P {
        // SAFETY: the token proves the instructions.
        unsafe { _mm256_dpbusd_epi32(_mm256_setzero_si256(), w, a) }
    }
}
