//! The instruction sets of x86-64: SSE4.1, AVX2 (with F16C) and AVX-512 (with BW, DQ and VL), alone or with VNNI, VBMI and VBMI2.

mod avx2;
mod avx512;
mod sse41;

use super::Kernel;
use core::arch::x86_64::*;
use core::sync::atomic::{AtomicU8, Ordering};

/// Whether the CPU has SSE4.1 and what came before it.
pub(super) fn has_sse41() -> bool {
    known().n_sets >= 1
}

/// Whether the CPU and the operating system have AVX2 and F16C.
pub(super) fn has_avx2() -> bool {
    known().n_sets >= 2
}

/// Whether the CPU and the operating system have AVX-512 F, BW, DQ and VL.
pub(super) fn has_avx512() -> bool {
    known().n_sets >= 3
}

/// Whether they have VNNI, VBMI and VBMI2 too.
pub(super) fn has_vnni() -> bool {
    known().n_sets >= 4
}

/// Whether the CPU is one of AMD's that has AVX.
pub(super) fn is_amd() -> bool {
    known().is_amd
}

/// What a CPU and its operating system said.
#[derive(Clone, Copy)]
struct Known {
    /// How many of the sets above they have; whoever has one has those before it.
    n_sets: u8,
    /// As [`is_amd`] says.
    is_amd: bool,
}

/// They are asked once: a virtual machine waits long for each answer.
fn known() -> Known {
    /// Twice one more than the number of sets, and whether it is AMD's; when it is known.
    static KNOWN: AtomicU8 = AtomicU8::new(0);
    let mut said = KNOWN.load(Ordering::Relaxed);
    if said == 0 {
        let Known { n_sets, is_amd } = ask();
        said = 2 * (n_sets + 1) + u8::from(is_amd);
        KNOWN.store(said, Ordering::Relaxed);
    }
    Known { n_sets: said / 2 - 1, is_amd: said % 2 == 1 }
}

fn ask() -> Known {
    let said = |n_sets, is_amd| Known { n_sets, is_amd };
    // Miri interprets the vector instructions, but not those that ask the CPU for them.
    if cfg!(miri) {
        let has_avx2 = cfg!(all(target_feature = "avx2", target_feature = "f16c"));
        return said(if has_avx2 { 2 } else { cfg!(target_feature = "sse4.1").into() }, false);
    }
    let one = __cpuid(1).ecx;
    if one >> 9 & one >> 19 & 1 == 0 {
        return said(0, false);
    }
    let (osxsave, avx, f16c) = (one >> 27 & 1, one >> 28 & 1, one >> 29 & 1);
    if osxsave & avx & f16c == 0 {
        return said(1, false);
    }
    let zero = __cpuid(0);
    let is_amd = [zero.ebx, zero.edx, zero.ecx].map(u32::to_le_bytes).as_flattened() == b"AuthenticAMD";
    if zero.eax < 7 {
        return said(1, is_amd);
    }
    let seven = __cpuid_count(7, 0);
    // SAFETY: OSXSAVE says that XGETBV may be used.
    let saved = unsafe { saved_state() };
    if seven.ebx >> 5 & 1 == 0 || saved & 0b110 != 0b110 {
        return said(1, is_amd);
    }
    let (f, dq, bw, vl) = (seven.ebx >> 16, seven.ebx >> 17, seven.ebx >> 30, seven.ebx >> 31);
    if f & dq & bw & vl & 1 == 0 || saved & 0b1110_0110 != 0b1110_0110 {
        return said(2, is_amd);
    }
    let (vbmi, vbmi2, vnni) = (seven.ecx >> 1, seven.ecx >> 6, seven.ecx >> 11);
    said(if vbmi & vbmi2 & vnni & 1 == 0 { 3 } else { 4 }, is_amd)
}

/// Which register files the operating system saves (XCR0).
#[target_feature(enable = "xsave")]
fn saved_state() -> u64 {
    // SAFETY: the caller of this feature function knows that the CPU has XGETBV.
    unsafe { _xgetbv(0) }
}

/// Compiles `kernel` for SSE4.1.
#[target_feature(enable = "ssse3,sse4.1")]
pub(super) fn run_sse41<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(sse41::Sse41(()))
}

/// Compiles `kernel` for AVX2.
#[target_feature(enable = "avx,avx2,f16c")]
pub(super) fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(avx2::Avx2(()))
}

/// Compiles `kernel` for AVX-512 without its later parts.
#[target_feature(enable = "avx,avx2,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(avx512::Avx512::<false>(()))
}

/// Compiles `kernel` for AVX-512 with VNNI, VBMI and VBMI2.
#[target_feature(enable = "avx,avx2,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512vbmi2")]
pub(super) fn run_vnni<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(avx512::Avx512::<true>(()))
}

/// Brings the cache line at `byte` into the nearest cache, or else the second-nearest; every x86-64 CPU can.
#[inline(always)]
pub(super) fn prefetch(byte: &u8, is_nearest: bool) {
    // Miri has no caches, and refuses to be asked for one.
    if cfg!(miri) {
        return;
    }
    let byte = core::ptr::from_ref(byte).cast();
    // SAFETY: SSE is part of x86-64.
    unsafe { if is_nearest { _mm_prefetch::<_MM_HINT_T0>(byte) } else { _mm_prefetch::<_MM_HINT_T1>(byte) } }
}

/// The square root, in the encoding of the caller's instruction set.
#[inline(always)]
unsafe fn square_root(x: f32) -> f32 {
    // SAFETY: SSE is part of x86-64.
    unsafe { _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x))) }
}

/// The sum of sixteen signed bytes: with the sign bit turned a byte is the number plus 128.
#[inline(always)]
fn sum_bytes(bytes: __m128i) -> i32 {
    // SAFETY: SSE2 is part of x86-64.
    unsafe {
        let halves = _mm_sad_epu8(_mm_xor_si128(bytes, _mm_set1_epi8(-128)), _mm_setzero_si128());
        _mm_cvtsi128_si32(_mm_add_epi64(halves, _mm_unpackhi_epi64(halves, halves))) - 16 * 128
    }
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
