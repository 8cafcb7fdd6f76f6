//! The small vector vocabulary that every kernel is written in, and the choice of instruction set.
//!
//! A kernel is written once, generic over [`Simd`]; [`Isa::run`] compiles it for each instruction set. `scalar.rs` is the
//! definition of every operation, and the others give the same bits: float lanes are only added, multiplied and compared
//! one by one, never fused, and whatever is summed across lanes is either an integer or follows [`Simd::sum`]'s fixed tree.
//!
//! Holding an [`Isa`] proves that the CPU has it, because [`Isa::detect`] and [`Isa::from_name`] are the only makers.
#![allow(unsafe_code)]

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod ahead;
mod scalar;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod wasm;
#[cfg(target_arch = "x86_64")]
mod x86;

use crate::built::is_among;
use crate::round::round_to_i8;

pub(crate) use ahead::{foresees_pages, prefetch_apart, prefetch_block};
pub use scalar::Scalar;

/// Float lanes of a vector: dot products, norms and softmax sums are defined as this many interleaved sums.
pub const LANES: usize = 16;
/// Values in one integer block.
pub const BLOCK: usize = 32;

/// The array of what an expression is for each number below 1, 4, 8 or 16.
///
/// `map` and `from_fn` call their closure from a function of their own, which is not compiled for the instruction set unless
/// it happens to be inlined.
macro_rules! each {
    (1, $i:ident => $value:expr) => { $crate::simd::each!(@ $i, $value, 0) };
    (4, $i:ident => $value:expr) => { $crate::simd::each!(@ $i, $value, 0 1 2 3) };
    (8, $i:ident => $value:expr) => { $crate::simd::each!(@ $i, $value, 0 1 2 3 4 5 6 7) };
    (16, $i:ident => $value:expr) => { $crate::simd::each!(@ $i, $value, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15) };
    (@ $i:ident, $value:expr, $($number:literal)+) => { [$({ let $i: usize = $number; $value }),+] };
}
pub(crate) use each;

/// The array of what an expression is for each row of a tile.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_feature = "simd128"))]
macro_rules! each_row {
    ($row:ident => $value:expr) => { $crate::simd::each!(16, $row => $value) };
}
/// The array of what an expression is for each row of a tile. Without vectors a lane is a register, of which there are few.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_feature = "simd128", target_os = "none")))]
macro_rules! each_row {
    ($row:ident => $value:expr) => { $crate::simd::each!(4, $row => $value) };
}
/// The array of what an expression is for each row of a tile. A board has fewer registers still, and code for it is made small.
#[cfg(all(target_os = "none", not(any(target_arch = "x86_64", target_arch = "aarch64", target_feature = "simd128"))))]
macro_rules! each_row {
    ($row:ident => $value:expr) => { $crate::simd::each!(1, $row => $value) };
}
pub(crate) use each_row;

/// Rows of a weight matrix that one tile takes, one row to a lane: as many as a vector has lanes, and fewer where there are no
/// vectors. A row's bits do not depend on how many others are beside it.
pub const TILE: usize = each_row!(_row => ()).len();

/// The operations on [`Simd::R`] where that is [`Simd::F`].
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", all(target_arch = "wasm32", target_feature = "simd128")))]
macro_rules! rows_are_lanes {
    () => {
        type R = Self::F;

        #[inline(always)]
        fn rows_splat(self, x: f32) -> Self::R {
            self.splat(x)
        }
        #[inline(always)]
        fn rows_load(self, x: &[f32; TILE]) -> Self::R {
            self.load(x)
        }
        #[inline(always)]
        fn rows_load_f32(self, x: &[u8; 4 * TILE]) -> Self::R {
            self.load_f32(x)
        }
        #[inline(always)]
        fn rows_load_part(self, x: &[f32]) -> Self::R {
            self.load_part(x)
        }
        #[inline(always)]
        fn rows_store(self, v: Self::R, out: &mut [f32; TILE]) {
            self.store(v, out);
        }
        #[inline(always)]
        fn rows_add(self, a: Self::R, b: Self::R) -> Self::R {
            self.add(a, b)
        }
        #[inline(always)]
        fn rows_sub(self, a: Self::R, b: Self::R) -> Self::R {
            self.sub(a, b)
        }
        #[inline(always)]
        fn rows_mul(self, a: Self::R, b: Self::R) -> Self::R {
            self.mul(a, b)
        }
        #[inline(always)]
        fn rows_sums(self, v: &[Self::F; TILE]) -> Self::R {
            self.sums(v)
        }
    };
}
#[cfg(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    all(target_arch = "wasm32", target_feature = "simd128")
))]
use rows_are_lanes;

/// Four times four 32-bit numbers of each 128 bits, rows made columns, with the instructions of one width.
#[cfg(any(target_arch = "x86_64", all(target_arch = "wasm32", target_feature = "simd128")))]
macro_rules! transposed {
    ($a:expr, $b:expr, $c:expr, $d:expr, $low:ident, $high:ident, $low_pair:ident, $high_pair:ident) => {{
        let (a, b, c, d) = ($a, $b, $c, $d);
        let (ab_low, ab_high, cd_low, cd_high) = ($low(a, b), $high(a, b), $low(c, d), $high(c, d));
        [
            $low_pair(ab_low, cd_low),
            $high_pair(ab_low, cd_low),
            $low_pair(ab_high, cd_high),
            $high_pair(ab_high, cd_high),
        ]
    }};
}
#[cfg(any(target_arch = "x86_64", all(target_arch = "wasm32", target_feature = "simd128")))]
use transposed;

/// The operations that kernels are written in.
pub trait Simd: Copy {
    /// [`LANES`] floats.
    type F: Copy;
    /// Four bytes of each row of a tile: [`TILE`] lanes of 32 bits, the first byte lowest.
    type C: Copy;
    /// A float for each row of a tile: [`Simd::F`], except where a tile has fewer rows than a vector has lanes.
    type R: Copy;

    /// What [`Simd::signed`] adds to every weight.
    const OFFSET: i32;
    /// How many vectors the registers hold, where kernels that heed it were measured to gain; elsewhere as many as kernels want.
    const VECTORS: usize = 16;
    /// Whether [`Simd::half_sums`] costs less than as many sums of whole vectors.
    const SUMS_HALVES: bool = false;
    /// Whether products of bytes come as 16-bit sums of two, which cost less to add up as they are.
    const ADDS_PAIRS: bool = false;
    /// Whether bytes are looked up in a table of 256 by instructions, and not one by one.
    const LOOKS_UP_BYTES: bool = false;

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
    /// The square root, correctly rounded (IEEE 754 asks for it, so every machine agrees).
    #[inline(always)]
    fn sqrt(self, x: f32) -> f32 {
        libm::sqrtf(x)
    }

    /// The bits of the largest magnitude of all lanes: these order as the magnitudes do, with NaN above all, which `f32::max` would lose.
    #[inline(always)]
    fn largest(self, x: Self::F) -> u32 {
        let (mut lanes, mut largest) = ([0.0; LANES], 0);
        self.store(x, &mut lanes);
        for lane in lanes {
            let magnitude = lane.to_bits() & 0x7fff_ffff;
            largest = if magnitude > largest { magnitude } else { largest };
        }
        largest
    }
    /// Rounds lanes of -127 to 127 to the nearest integers, ties to even, and gives the sum of these. What is infinite or no number
    /// becomes 0.
    #[inline(always)]
    fn round(self, x: Self::F, out: &mut [i8; LANES]) -> i32 {
        let (mut lanes, mut sum) = ([0.0; LANES], 0);
        self.store(x, &mut lanes);
        for i in 0..LANES {
            out[i] = round_to_i8(lanes[i]);
            sum += i32::from(out[i]);
        }
        sum
    }

    /// The sum of each vector, as [`Simd::sum`] adds it, one to a lane.
    #[inline(always)]
    fn sums(self, v: &[Self::F; LANES]) -> Self::F {
        self.load(&each!(16, i => self.sum(v[i])))
    }

    /// The sums of the first and of the second half of each vector, one after the other, as [`Simd::sum`] adds a half and zeros, but for
    /// the sign of a zero; used where [`Simd::SUMS_HALVES`].
    #[inline(always)]
    fn half_sums(self, v: &[Self::F; LANES / 2]) -> Self::F {
        let (mut lanes, mut sums) = ([0.0; LANES], [0.0; LANES]);
        for (v, sums) in v.iter().zip(sums.as_chunks_mut::<2>().0) {
            self.store(*v, &mut lanes);
            let (first, second) = lanes.split_at(LANES / 2);
            *sums = [self.sum(self.load_part(first)), self.sum(self.load_part(second))];
        }
        self.load(&sums)
    }

    /// The same float for every row.
    fn rows_splat(self, x: f32) -> Self::R;
    /// A float for each row.
    fn rows_load(self, x: &[f32; TILE]) -> Self::R;
    /// A little-endian float for each row, at any address.
    #[inline(always)]
    fn rows_load_f32(self, x: &[u8; 4 * TILE]) -> Self::R {
        let floats = x.as_chunks::<4>().0;
        self.rows_load(&each_row!(r => f32::from_le_bytes(floats[r])))
    }
    /// Up to [`TILE`] floats, the missing ones zero.
    fn rows_load_part(self, x: &[f32]) -> Self::R;
    /// Writes the floats of the rows.
    fn rows_store(self, v: Self::R, out: &mut [f32; TILE]);
    /// Row by row `a + b`.
    fn rows_add(self, a: Self::R, b: Self::R) -> Self::R;
    /// Row by row `a - b`.
    fn rows_sub(self, a: Self::R, b: Self::R) -> Self::R;
    /// Row by row `a * b`.
    fn rows_mul(self, a: Self::R, b: Self::R) -> Self::R;
    /// The sum of each vector, as [`Simd::sum`] adds it, one to a row.
    fn rows_sums(self, v: &[Self::F; TILE]) -> Self::R;

    /// Sixteen bytes of each row as four times four.
    fn columns(self, rows: &[&[u8; 16]; TILE]) -> [Self::C; 4];
    /// One number for each row.
    fn lanes(self, x: &[u32; TILE]) -> Self::C;
    /// Writes the lanes.
    fn put(self, x: Self::C, out: &mut [u32; TILE]);
    /// The same number in every lane.
    fn all(self, x: u32) -> Self::C;
    /// Bit by bit `a & b`.
    fn and(self, a: Self::C, b: Self::C) -> Self::C;
    /// Bit by bit `a | b`.
    fn or(self, a: Self::C, b: Self::C) -> Self::C;
    /// Bit by bit `a ^ b`.
    fn xor(self, a: Self::C, b: Self::C) -> Self::C;
    /// Lane by lane `x << n`, for `n` below 32.
    fn up(self, x: Self::C, n: usize) -> Self::C;
    /// Lane by lane `x >> n`, for `n` below 32.
    fn down(self, x: Self::C, n: usize) -> Self::C;
    /// Byte by byte `a - b`, wrapping.
    fn less(self, a: Self::C, b: Self::C) -> Self::C;
    /// Sixteen bits by sixteen bits `a * b`, wrapping.
    fn times_16(self, a: Self::C, b: Self::C) -> Self::C;
    /// For each byte, which is below sixteen, the entry of `table`.
    fn lookup(self, x: Self::C, table: &[i8; 16]) -> Self::C;
    /// For the lower six bits of each byte, the entry of `table`.
    fn lookup64(self, x: Self::C, table: &[i8; 64]) -> Self::C;
    /// Byte `i` has all bits set where bit `first + i` of its lane is, and none where it is not; `first` is a multiple of
    /// four.
    fn spread(self, x: Self::C, first: usize) -> Self::C;
    /// The lower six bits of byte `i` are those from bit `at + i * STEP` of its lane; its others may be any.
    fn windows<const STEP: usize>(self, x: Self::C, at: usize) -> Self::C;
    /// Each lane, a signed integer, as a float (exact below 2^24).
    fn floats(self, x: Self::C) -> Self::R;
    /// The lower half of each lane, a half float, widened exactly.
    fn halves(self, x: Self::C) -> Self::R;
    /// The lowest byte of each lane, widened as [`e5m3_to_f32`](crate::half::e5m3_to_f32) does.
    fn e5m3(self, x: Self::C) -> Self::R;
    /// Signed weights as [`Simd::dot_signed`] takes them.
    fn signed(self, w: Self::C) -> Self::C;
    /// To each lane of `sums` adds the products of the bytes of `w`, made by [`Simd::signed`], with those of `a`, signed and
    /// never -128; every weight counts as [`Simd::OFFSET`] more than it is.
    fn dot_signed(self, sums: Self::C, w: Self::C, a: [u8; 4]) -> Self::C;
    /// As [`Simd::dot_signed`], where `w` holds 0 to 127.
    fn dot_unsigned(self, sums: Self::C, w: Self::C, a: [u8; 4]) -> Self::C;
    /// To each half of a lane of `sums` adds two products of the bytes of `w`, which holds 0 to 31, with those of `a`, as
    /// [`Simd::dot_signed`] has them: of four columns at most, so that sixteen bits hold them; used where [`Simd::ADDS_PAIRS`].
    #[inline(always)]
    fn dot_pairs(self, _: Self::C, _: Self::C, _: [u8; 4]) -> Self::C {
        unreachable!("products are summed by fours")
    }
    /// To each lane of `sums` adds both signed halves of `pairs`; used where [`Simd::ADDS_PAIRS`].
    #[inline(always)]
    fn add_pairs(self, _: Self::C, _: Self::C) -> Self::C {
        unreachable!("products are summed by fours")
    }

    /// For each lane, the entry of `table` whose number is in as many of its lowest bits as one takes; `N` is a power of two.
    #[inline(always)]
    fn entries<const N: usize>(self, x: Self::C, table: &[u32; N]) -> Self::C {
        const { assert!(N.is_power_of_two()) };
        let mut lanes = [0; TILE];
        self.put(x, &mut lanes);
        self.lanes(&each_row!(r => table[lanes[r] as usize & (N - 1)]))
    }
    /// What [`Simd::signed`] makes of [`Simd::lookup64`].
    #[inline(always)]
    fn signed_lookup64(self, x: Self::C, table: &[i8; 64]) -> Self::C {
        self.signed(self.lookup64(x, table))
    }
    /// The 32 bits from bit `at` of each lane on, where `high` has those that follow `low`; `at` is 1 to 31.
    #[inline(always)]
    fn joined(self, low: Self::C, high: Self::C, at: usize) -> Self::C {
        self.or(self.down(low, at), self.up(high, 32 - at))
    }
    /// For each byte, the entry of `table`; used where [`Simd::LOOKS_UP_BYTES`].
    #[inline(always)]
    fn lookup256(self, x: Self::C, table: &[u8; 256]) -> Self::C {
        lookup_bytes(self, x, table)
    }
    /// Byte `i` negated, wrapping, where bit `first + i` of the lane of `signs` is set; `first` is a multiple of four.
    #[inline(always)]
    fn with_signs(self, x: Self::C, signs: Self::C, first: usize) -> Self::C {
        let negative = self.spread(signs, first);
        self.less(self.xor(x, negative), negative)
    }
    /// Byte by byte `a * b`, wrapping: of even bytes it is the lower half of sixteen bits' product; of odd ones the upper half, where `a`
    /// has lost its even byte, and `b` has been moved to its place.
    #[inline(always)]
    fn times(self, a: Self::C, b: Self::C) -> Self::C {
        let even = self.and(self.times_16(a, b), self.all(0x00ff_00ff));
        self.or(even, self.times_16(self.and(a, self.all(0xff00_ff00)), self.down(b, 8)))
    }
    /// Each byte shifted right by `shift`, and then those bits of it that `mask` has.
    #[inline(always)]
    fn bits(self, x: Self::C, shift: usize, mask: u8) -> Self::C {
        self.and(self.down(x, shift), self.all(u32::from_le_bytes([mask & (0xff >> shift); 4])))
    }
    /// Thirty-two bytes of each row.
    #[inline(always)]
    fn block(self, rows: &[&[u8; BLOCK]; TILE]) -> [Self::C; 8] {
        let [a, b, c, d] = self.columns(&each_row!(r => half(rows[r], 0)));
        let [e, f, g, h] = self.columns(&each_row!(r => half(rows[r], 1)));
        [a, b, c, d, e, f, g, h]
    }
    /// Thirty-two four-bit numbers of each row: the low halves of sixteen bytes, then the high halves.
    #[inline(always)]
    fn nibbles(self, rows: &[&[u8; 16]; TILE]) -> [Self::C; 8] {
        let both = self.columns(rows);
        each!(8, i => self.bits(both[i % 4], i / 4 * 4, 15))
    }
    /// Up to sixteen floats, the missing ones zero.
    #[inline(always)]
    fn load_part(self, x: &[f32]) -> Self::F {
        self.load(&padded(x))
    }
    /// Writes as many lanes as there is room for.
    #[inline(always)]
    fn store_part(self, v: Self::F, out: &mut [f32]) {
        match out.as_mut_array() {
            Some(out) => self.store(v, out),
            None => {
                let mut all = [0.0; LANES];
                self.store(v, &mut all);
                out.copy_from_slice(&all[..out.len()]);
            }
        }
    }
    /// Writes the floats of as many rows as there is room for.
    #[inline(always)]
    fn rows_store_part(self, v: Self::R, out: &mut [f32]) {
        match out.as_mut_array() {
            Some(out) => self.rows_store(v, out),
            None => {
                let mut all = [0.0; TILE];
                self.rows_store(v, &mut all);
                out.copy_from_slice(&all[..out.len()]);
            }
        }
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

/// The first or the second sixteen of thirty-two bytes.
#[inline(always)]
fn half(row: &[u8; BLOCK], half: usize) -> &[u8; 16] {
    &row.as_chunks().0[half]
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

/// [`Simd::lookup256`] byte by byte.
#[inline(always)]
fn lookup_bytes<S: Simd>(s: S, x: S::C, table: &[u8; 256]) -> S::C {
    let mut lanes = [0; TILE];
    s.put(x, &mut lanes);
    let entry = |byte: u32| table[usize::from(byte as u8)];
    s.lanes(&each_row!(r => {
        let x = lanes[r];
        u32::from_le_bytes([entry(x), entry(x >> 8), entry(x >> 16), entry(x >> 24)])
    }))
}

/// [`Simd::windows`] made of shifts: each byte's bits are brought to its place and the others taken away.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", all(target_arch = "wasm32", target_feature = "simd128")))]
#[inline(always)]
fn windows_of_bytes<S: Simd, const STEP: usize>(s: S, x: S::C, at: usize) -> S::C {
    let byte = |i: usize| {
        let (from, to) = (at + i * STEP, 8 * i);
        let moved = if from < to { s.up(x, to - from) } else { s.down(x, from - to) };
        s.and(moved, s.all(63 << to))
    };
    s.or(s.or(byte(0), byte(1)), s.or(byte(2), byte(3)))
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
    #[cfg(any(test, not(all(target_arch = "wasm32", target_feature = "simd128"))))]
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Sse41,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Vnni,
    #[cfg(target_arch = "aarch64")]
    Neon,
    #[cfg(target_arch = "aarch64")]
    Dotprod,
    #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
    Simd128,
}

/// An instruction set that this CPU has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(Kind);

/// Every kernel set of this build, best last.
#[cfg(target_arch = "x86_64")]
const KINDS: &[(&str, Kind)] = &[
    ("scalar", Kind::Scalar),
    ("sse4.1", Kind::Sse41),
    ("avx2", Kind::Avx2),
    ("avx512", Kind::Avx512),
    ("avx512-vnni", Kind::Vnni),
];
/// Every kernel set of this build, best last.
#[cfg(target_arch = "aarch64")]
const KINDS: &[(&str, Kind)] = &[("scalar", Kind::Scalar), ("neon", Kind::Neon), ("neon-dotprod", Kind::Dotprod)];
/// Every kernel set of this build, best last.
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
const KINDS: &[(&str, Kind)] = &[
    #[cfg(test)]
    ("scalar", Kind::Scalar),
    ("simd128", Kind::Simd128),
];
/// Every kernel set of this build, best last.
#[cfg(not(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    all(target_arch = "wasm32", target_feature = "simd128")
)))]
const KINDS: &[(&str, Kind)] = &[("scalar", Kind::Scalar)];

/// Names of kernel sets, with spaces between: a build has these and no others, for each takes long to build. All, unless it is set.
const NAMED: Option<&str> = option_env!("SMIDGEN_ISA");

/// Whether this build has the kernels of `kind`.
const fn is_built(kind: Kind) -> bool {
    let mut index = 0;
    while KINDS[index].1 as u8 != kind as u8 {
        index += 1;
    }
    is_among(NAMED, KINDS[index].0)
}

impl Isa {
    /// Plain Rust, the definition; every CPU has it.
    #[cfg(any(test, not(all(target_arch = "wasm32", target_feature = "simd128"))))]
    pub const SCALAR: Isa = Isa(Kind::Scalar);

    /// The fastest instruction set of this CPU.
    pub fn detect() -> Isa {
        Isa::available().last().unwrap_or(Isa(KINDS[0].1))
    }

    /// The instruction set called `name` (`scalar`, `sse4.1`, `avx2`, `avx512`, `avx512-vnni`, `neon`,
    /// `neon-dotprod`, `simd128`), if this CPU has it.
    pub fn from_name(name: &str) -> Option<Isa> {
        Isa::available().find(|isa| isa.name() == name)
    }

    /// Every instruction set that this CPU has, slowest first.
    pub fn available() -> impl Iterator<Item = Isa> {
        KINDS.iter().map(|&(_, kind)| kind).filter(|&kind| is_built(kind) && has(kind)).map(Isa)
    }

    /// The name, as [`Isa::from_name`] takes it.
    pub fn name(self) -> &'static str {
        KINDS.iter().find(|(_, kind)| *kind == self.0).map_or("scalar", |(name, _)| name)
    }

    /// Runs `kernel` compiled for this instruction set.
    #[inline]
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            // SAFETY: this Isa exists only because `has` found the CPU's features.
            #[cfg(target_arch = "x86_64")]
            Kind::Sse41 if const { is_built(Kind::Sse41) } => unsafe { x86::run_sse41(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 if const { is_built(Kind::Avx2) } => unsafe { x86::run_avx2(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 if const { is_built(Kind::Avx512) } => unsafe { x86::run_avx512(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::Vnni if const { is_built(Kind::Vnni) } => unsafe { x86::run_vnni(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Kind::Neon if const { is_built(Kind::Neon) } => unsafe { aarch64::run_neon(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Kind::Dotprod if const { is_built(Kind::Dotprod) } => unsafe { aarch64::run_dotprod(kernel) },
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Kind::Simd128 => kernel.run(wasm::Simd128),
            // The definition; what is not built is never chosen.
            #[cfg(any(test, not(all(target_arch = "wasm32", target_feature = "simd128"))))]
            _ => scalar::run_scalar(kernel),
        }
    }
}

fn has(kind: Kind) -> bool {
    match kind {
        #[cfg(any(test, not(all(target_arch = "wasm32", target_feature = "simd128"))))]
        Kind::Scalar => true,
        #[cfg(target_arch = "x86_64")]
        Kind::Sse41 => x86::has_sse41(),
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => x86::has_avx2(),
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => x86::has_avx512(),
        #[cfg(target_arch = "x86_64")]
        Kind::Vnni => x86::has_vnni(),
        #[cfg(target_arch = "aarch64")]
        Kind::Neon => aarch64::has_neon(),
        #[cfg(target_arch = "aarch64")]
        Kind::Dotprod => aarch64::has_dotprod(),
        #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
        Kind::Simd128 => true,
    }
}

#[cfg(test)]
mod tests;
