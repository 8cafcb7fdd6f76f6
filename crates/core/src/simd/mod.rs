//! The small vector vocabulary that every kernel is written in, and the choice of instruction set.
//!
//! A kernel is written once, generic over [`Simd`]; [`Isa::run`] compiles it for each instruction set. `scalar.rs` is the
//! definition of every operation, and the others give the same bits: float lanes are only added, multiplied and compared
//! one by one, never fused, and whatever is summed across lanes is either an integer or follows [`Simd::sum`]'s fixed tree.
//!
//! Holding an [`Isa`] proves that the CPU has it, because [`Isa::detect`] and [`Isa::from_name`] are the only makers.
#![allow(unsafe_code)]

#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use scalar::Scalar;

/// Float lanes of a vector: dot products, norms and softmax sums are defined as this many interleaved sums.
pub const LANES: usize = 16;
/// Values in one integer block.
pub const BLOCK: usize = 32;
/// Rows of a weight matrix that one integer tile takes, one row to a lane.
pub const TILE: usize = 8;

/// The operations that kernels are written in.
pub trait Simd: Copy {
    /// [`LANES`] floats.
    type F: Copy;
    /// [`BLOCK`] bytes.
    type B: Copy;
    /// Sixteen integer scales.
    type W: Copy;
    /// Partial integer sums of one block product.
    type P: Copy;
    /// [`TILE`] floats, one for each row of a tile.
    type R: Copy;

    /// The same float in every lane.
    fn splat(self, x: f32) -> Self::F;
    /// Sixteen floats.
    fn load(self, x: &[f32; LANES]) -> Self::F;
    /// Sixteen little-endian floats at any address.
    fn load_f32(self, x: &[u8; 64]) -> Self::F;
    /// Sixteen little-endian half floats, widened exactly.
    fn load_f16(self, x: &[u8; 32]) -> Self::F;
    /// Sixteen little-endian bfloat16s, widened exactly.
    fn load_bf16(self, x: &[u8; 32]) -> Self::F;
    /// Sixteen signed bytes, converted.
    fn load_i8(self, x: &[i8; LANES]) -> Self::F;
    /// Writes the lanes.
    fn store(self, v: Self::F, out: &mut [f32; LANES]);
    /// Lane by lane `a + b`.
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    /// Lane by lane `a - b`.
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    /// Lane by lane `a * b`.
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// All lanes: lane `i` plus lane `i + 8`, of these eight `i` plus `i + 4`, then `i + 2`, then `i + 1`.
    fn sum(self, v: Self::F) -> f32;

    /// Thirty-two bytes.
    fn bytes(self, x: &[u8; BLOCK]) -> Self::B;
    /// Thirty-two four-bit numbers: the low halves of sixteen bytes, then the high halves.
    fn nibbles(self, x: &[u8; 16]) -> Self::B;
    /// Thirty-two five-bit numbers: four bytes of fifth bits, first value lowest, then the rest as [`Simd::nibbles`].
    fn fives(self, x: &[u8; 20]) -> Self::B;
    /// Each byte shifted right by `shift`, and then those bits of it that `mask` has.
    fn bits(self, x: Self::B, shift: usize, mask: u8) -> Self::B;
    /// Each byte of `low`, and above its `shift` bits that of `high`, which loses none.
    fn join(self, low: Self::B, high: Self::B, shift: usize) -> Self::B;
    /// Each byte less `by`.
    fn less(self, x: Self::B, by: u8) -> Self::B;
    /// For each byte, which is below sixteen, the entry of `table`.
    fn lookup(self, x: Self::B, table: &[i8; 16]) -> Self::B;
    /// For each byte, which is below sixty-four, the entry of `table`.
    fn lookup64(self, x: Self::B, table: &[i8; 64]) -> Self::B;
    /// Thirty-two numbers of `WIDTH` bits, eight at most, from the bits of `x`, least significant first: number `i` ends
    /// before bit `8 + (i + 1) * STEP`. `N` is `1 + 4 * STEP`.
    fn fields<const N: usize, const STEP: usize, const WIDTH: usize>(self, x: &[u8; N]) -> Self::B;
    /// The sums of `w * a`, both signed; `a` never holds -128.
    fn dot_i8(self, w: Self::B, a: Self::B) -> Self::P;
    /// The sums of `w * a`, where `w` holds 0 to 127 and `a` signed bytes, never -128.
    fn dot_u7(self, w: Self::B, a: Self::B) -> Self::P;
    /// The scales of the halves of eight blocks.
    fn scales(self, x: &[i8; 16]) -> Self::W;
    /// The sums of `w * a`, both signed, those of the first sixteen times scale `2 * block`, of the others times scale
    /// `2 * block + 1`; `a` never holds -128.
    fn dot_i8_scaled(self, w: Self::B, a: Self::B, scales: Self::W, block: usize) -> Self::P;
    /// As [`Simd::dot_i8_scaled`], where `w` holds 0 to 127.
    fn dot_u7_scaled(self, w: Self::B, a: Self::B, scales: Self::W, block: usize) -> Self::P;
    /// Each row's partial sums added up, less `bias`, as floats (exact: below 2^24).
    fn rows(self, sums: [Self::P; TILE], bias: i32) -> Self::R;
    /// Eight half floats, given as their bits, widened exactly.
    fn rows_f16(self, bits: [u16; TILE]) -> Self::R;
    /// Eight scales of one byte, widened as [`e5m3_to_f32`](crate::half::e5m3_to_f32) does.
    fn rows_e5m3(self, x: &[u8; TILE]) -> Self::R;
    /// One small integer for each row, as a float.
    fn rows_u8(self, x: &[u8; TILE]) -> Self::R;
    /// One float for each row.
    fn rows_load(self, x: &[f32; TILE]) -> Self::R;
    /// The same float for every row.
    fn rows_splat(self, x: f32) -> Self::R;
    /// Row by row `a + b`.
    fn rows_add(self, a: Self::R, b: Self::R) -> Self::R;
    /// Row by row `a * b`.
    fn rows_mul(self, a: Self::R, b: Self::R) -> Self::R;
    /// Writes one float for each row.
    fn rows_store(self, v: Self::R, out: &mut [f32; TILE]);

    /// Up to sixteen floats, the missing ones zero.
    #[inline(always)]
    fn load_part(self, x: &[f32]) -> Self::F {
        self.load(&padded(x))
    }
    /// Up to sixteen little-endian floats, the missing ones zero.
    #[inline(always)]
    fn load_f32_part(self, x: &[u8]) -> Self::F {
        self.load_f32(&padded(x))
    }
    /// Up to sixteen little-endian half floats, the missing ones zero.
    #[inline(always)]
    fn load_f16_part(self, x: &[u8]) -> Self::F {
        self.load_f16(&padded(x))
    }
}

/// `x` and zeros up to `N` elements. `N` is a power of two, and `x` is copied in pieces of half of it, a quarter, and so
/// on: each has a fixed size, so that the copy is a move and not a call.
#[inline(always)]
pub(crate) fn padded<T: Copy + Default, const N: usize>(x: &[T]) -> [T; N] {
    let mut all = [T::default(); N];
    let mut done = 0;
    let mut piece = N;
    while piece > 0 {
        if x.len() & piece != 0 {
            all[done..done + piece].copy_from_slice(&x[done..done + piece]);
            done += piece;
        }
        piece /= 2;
    }
    all
}

/// A piece of work that can be compiled for any instruction set.
pub trait Kernel {
    /// What the work gives back.
    type Output;
    /// Does the work with the operations of `s`; must be `#[inline(always)]` to be compiled for each instruction set.
    fn run<S: Simd>(self, s: S) -> Self::Output;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "aarch64")]
    Neon,
}

/// An instruction set that this CPU has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(Kind);

/// Every kernel set of this build, best last.
#[cfg(target_arch = "x86_64")]
const KINDS: &[(&str, Kind)] = &[("scalar", Kind::Scalar), ("avx2", Kind::Avx2), ("avx512", Kind::Avx512)];
/// Every kernel set of this build, best last.
#[cfg(target_arch = "aarch64")]
const KINDS: &[(&str, Kind)] = &[("scalar", Kind::Scalar), ("neon", Kind::Neon)];
/// Every kernel set of this build, best last.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const KINDS: &[(&str, Kind)] = &[("scalar", Kind::Scalar)];

impl Isa {
    /// Plain Rust, the definition; every CPU has it.
    pub const SCALAR: Isa = Isa(Kind::Scalar);

    /// The fastest instruction set of this CPU.
    pub fn detect() -> Isa {
        Isa::available().last().unwrap_or(Isa::SCALAR)
    }

    /// The instruction set called `name` (`scalar`, `avx2`, `avx512`, `neon`), if this CPU has it.
    pub fn from_name(name: &str) -> Option<Isa> {
        Isa::available().find(|isa| isa.name() == name)
    }

    /// Every instruction set that this CPU has, slowest first.
    pub fn available() -> impl Iterator<Item = Isa> {
        KINDS.iter().map(|&(_, kind)| kind).filter(|&kind| has(kind)).map(Isa)
    }

    /// The name, as [`Isa::from_name`] takes it.
    pub fn name(self) -> &'static str {
        KINDS.iter().find(|(_, kind)| *kind == self.0).map_or("scalar", |(name, _)| name)
    }

    /// Runs `kernel` compiled for this instruction set.
    #[inline]
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            Kind::Scalar => kernel.run(Scalar),
            // SAFETY: this Isa exists only because `has` found the CPU's features.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => unsafe { x86::run_avx2(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => unsafe { x86::run_avx512(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => unsafe { neon::run_neon(kernel) },
        }
    }
}

fn has(kind: Kind) -> bool {
    match kind {
        Kind::Scalar => true,
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => x86::has_avx2(),
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => x86::has_avx512(),
        // Advanced SIMD is part of every AArch64 target that Rust builds floats for.
        #[cfg(target_arch = "aarch64")]
        Kind::Neon => cfg!(target_feature = "neon"),
    }
}

#[cfg(test)]
mod tests;
