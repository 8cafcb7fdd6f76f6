//! F32, F16 and BF16 rows: any length, no scales, exact widening.
//!
//! Byte map: little-endian IEEE binary32, IEEE binary16, or the upper half of a binary32.

use super::{Format, Quantize, Type};
use crate::half::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};
use crate::simd::{LANES, Simd, TILE, padded, prefetch_apart, prefetch_block};

/// Rows of which registers hold the sums, and which are read side by side.
const FEW: usize = if TILE < 4 { TILE } else { 4 };
/// Rows of which narrow registers hold the sums with one token.
const NARROW: usize = if TILE < 2 { TILE } else { 2 };

/// A format of floats.
pub(crate) trait FloatRows {
    /// Bytes of a number.
    const BYTES: usize;
    /// The dot products of each of [`TILE`] rows with each of `T` tokens' values: `out` is (T, TILE).
    /// Asks for as much of `ahead` meanwhile.
    fn tile<S: Simd, const T: usize>(
        s: S,
        rows: &[&[u8]; TILE],
        ahead: &[u8],
        x: &[&[f32]; T],
        out: &mut [[f32; TILE]; T],
    );
    /// The same, of rows that lie together in `tile`.
    fn together<S: Simd, const T: usize>(s: S, tile: &[u8], ahead: &[u8], x: &[&[f32]; T], out: &mut [[f32; TILE]; T]);
}

/// The dot products of [`TILE`] rows with the values of `T` tokens, `N` bytes to every [`LANES`] values.
///
/// Definition, for each pair: lane `l` adds the products of the columns `l`, `l + 16`, `l + 32`... in that order, starting
/// from zero; columns that are missing at the end count as zero; [`Simd::sum`] adds the lanes.
#[inline(always)]
fn tile<S: Simd, const N: usize, const T: usize>(
    s: S,
    (rows, ahead): (&[&[u8]; TILE], &[u8]),
    x: &[&[f32]; T],
    out: &mut [[f32; TILE]; T],
    load: impl Fn(&[u8; N]) -> S::F,
) {
    let mut sums = [[s.splat(0.0); TILE]; T];
    match T {
        1 if S::VECTORS < 8 => add_rows::<S, N, T, NARROW>(s, (rows, ahead), x, &mut sums, load),
        2.. if S::VECTORS == 8 => add_rows::<S, N, T, 1>(s, (rows, ahead), x, &mut sums, load),
        _ => add_rows::<S, N, T, FEW>(s, (rows, ahead), x, &mut sums, load),
    }
    for (sums, out) in sums.iter().zip(out) {
        s.rows_store(s.rows_sums(sums), out);
    }
}

/// Fills in the lanes' sums, `GROUP` rows at a time: as many as registers hold the sums of.
#[inline(always)]
fn add_rows<S: Simd, const N: usize, const T: usize, const GROUP: usize>(
    s: S,
    (rows, ahead): (&[&[u8]; TILE], &[u8]),
    x: &[&[f32]; T],
    all: &mut [[S::F; TILE]; T],
    load: impl Fn(&[u8; N]) -> S::F,
) {
    let n_chunks = x[0].len() / LANES;
    let tail = n_chunks * LANES;
    for first in (0..TILE).step_by(GROUP) {
        let mut chunks: [&[[u8; N]]; GROUP] = [&[]; GROUP];
        for (r, chunks) in chunks.iter_mut().enumerate() {
            *chunks = &rows[first + r].as_chunks::<N>().0[..n_chunks];
        }
        let mut xs: [&[[f32; LANES]]; T] = [&[]; T];
        for (xs, x) in xs.iter_mut().zip(x) {
            *xs = &x.as_chunks::<LANES>().0[..n_chunks];
        }
        let mut sums = [[s.splat(0.0); GROUP]; T];
        for chunk in 0..n_chunks {
            prefetch_apart(ahead, rows[0].len(), first / GROUP * n_chunks + chunk, GROUP * N);
            let mut w = [s.splat(0.0); GROUP];
            for r in 0..GROUP {
                w[r] = load(&chunks[r][chunk]);
            }
            for t in 0..T {
                let x = s.load(&xs[t][chunk]);
                for r in 0..GROUP {
                    sums[t][r] = s.add(sums[t][r], s.mul(w[r], x));
                }
            }
        }
        for r in 0..GROUP {
            let rest = &rows[first + r][n_chunks * N..];
            if !rest.is_empty() {
                let w = load(&padded(rest));
                for t in 0..T {
                    let x = s.load_part(&x[t][tail..]);
                    sums[t][r] = s.add(sums[t][r], s.mul(w, x));
                }
            }
            for t in 0..T {
                all[t][first + r] = sums[t][r];
            }
        }
    }
}

/// The same for rows that lie together, one to a lane: what [`tile`] has in a lane is a vector here, and nothing is added
/// across lanes. Registers hold the sums of `GROUP` lanes that stand `STEP` apart, which [`Simd::sum`]'s tree adds up first.
#[allow(clippy::needless_range_loop)] // The same number indexes the arrays of every token.
#[inline(always)]
fn together<S: Simd, const N: usize, const T: usize, const GROUP: usize, const STEP: usize>(
    s: S,
    (tile, ahead): (&[u8], &[u8]),
    x: &[&[f32]; T],
    out: &mut [[f32; TILE]; T],
    load: impl Fn(&[u8; N]) -> S::F,
) {
    const { assert!(GROUP * STEP == LANES) };
    let n_chunks = x[0].len() / LANES;
    let (chunks, rest) = tile.as_chunks::<N>().0.split_at(n_chunks * LANES);
    let chunks = chunks.as_chunks::<LANES>().0;
    let mut xs: [&[[f32; LANES]]; T] = [&[]; T];
    for t in 0..T {
        xs[t] = &x[t].as_chunks::<LANES>().0[..chunks.len()];
    }
    let mut groups = [[s.splat(0.0); STEP]; T];
    for group in 0..STEP {
        // Each a loop of its own, so that most have nothing else to do.
        let mut sums = if group == 0 && !ahead.is_empty() {
            lanes::<S, N, T, GROUP, STEP>(s, chunks, &xs, group, &load, |index| prefetch_block(ahead, index, N * LANES))
        } else {
            lanes::<S, N, T, GROUP, STEP>(s, chunks, &xs, group, &load, |_| {})
        };
        for i in 0..GROUP {
            let lane = i * STEP + group;
            if let Some(w) = rest.get(lane) {
                let w = load(w);
                for t in 0..T {
                    sums[t][i] = s.add(sums[t][i], s.mul(w, s.splat(x[t][n_chunks * LANES + lane])));
                }
            }
        }
        for t in 0..T {
            groups[t][group] = halved(s, sums[t]);
        }
    }
    for t in 0..T {
        let mut rows = [0.0; LANES];
        s.store(halved(s, groups[t]), &mut rows);
        out[t].copy_from_slice(&rows[..TILE]);
    }
}

/// The sums of `GROUP` lanes that stand `STEP` apart, from lane `group` on; calls `each_chunk` with the number of every chunk.
#[allow(clippy::needless_range_loop)] // The same number indexes the arrays of every token.
#[inline(always)]
fn lanes<S: Simd, const N: usize, const T: usize, const GROUP: usize, const STEP: usize>(
    s: S,
    chunks: &[[[u8; N]; LANES]],
    xs: &[&[[f32; LANES]]; T],
    group: usize,
    load: impl Fn(&[u8; N]) -> S::F,
    each_chunk: impl Fn(usize),
) -> [[S::F; GROUP]; T] {
    let mut sums = [[s.splat(0.0); GROUP]; T];
    for index in 0..chunks.len() {
        each_chunk(index);
        let chunk = chunks[index].as_chunks::<STEP>().0;
        for i in 0..GROUP {
            let w = load(&chunk[i][group]);
            for t in 0..T {
                let x = xs[t][index].as_chunks::<STEP>().0[i][group];
                sums[t][i] = s.add(sums[t][i], s.mul(w, s.splat(x)));
            }
        }
    }
    sums
}

/// The sum of vectors, the second half of them added to the first, and so on.
#[inline(always)]
fn halved<S: Simd, const N: usize>(s: S, mut v: [S::F; N]) -> S::F {
    if N == 16 {
        fold::<S, N, 8>(s, &mut v);
    }
    if N >= 8 {
        fold::<S, N, 4>(s, &mut v);
    }
    if N >= 4 {
        fold::<S, N, 2>(s, &mut v);
    }
    if N >= 2 {
        fold::<S, N, 1>(s, &mut v);
    }
    v[0]
}

/// Adds `HALF` vectors to those before them.
#[inline(always)]
fn fold<S: Simd, const N: usize, const HALF: usize>(s: S, v: &mut [S::F; N]) {
    for i in 0..HALF {
        v[i] = s.add(v[i], v[i + HALF]);
    }
}

/// A format of one number after the other.
macro_rules! float_format {
    ($name:ident, $bytes:literal, $bits:ty, $load:ident, $widen:expr, $narrow:expr) => {
        #[doc = concat!("The ", stringify!($name), " format.")]
        pub(crate) struct $name;

        impl Quantize for $name {
            fn quantize(row: &[f32], out: &mut [u8]) {
                for (x, bytes) in row.iter().zip(out.as_chunks_mut::<$bytes>().0) {
                    *bytes = <$bits>::to_le_bytes($narrow(*x));
                }
            }
        }

        impl Format for $name {
            const TYPE: Type = Type::$name;
            const INTEGER: bool = false;
            type Rows = Self;

            fn dequantize(row: &[u8], out: &mut [f32]) {
                for (bytes, x) in row.as_chunks::<$bytes>().0.iter().zip(out) {
                    *x = $widen(<$bits>::from_le_bytes(*bytes));
                }
            }

            fn swap_endian(blocks: &mut [u8]) {
                for bytes in blocks.as_chunks_mut::<$bytes>().0 {
                    bytes.reverse();
                }
            }
        }

        impl FloatRows for $name {
            const BYTES: usize = $bytes;

            #[inline(always)]
            fn tile<S: Simd, const T: usize>(
                s: S,
                rows: &[&[u8]; TILE],
                ahead: &[u8],
                x: &[&[f32]; T],
                out: &mut [[f32; TILE]; T],
            ) {
                tile::<S, { $bytes * LANES }, T>(s, (rows, ahead), x, out, |w| s.$load(w));
            }

            #[inline(always)]
            fn together<S: Simd, const T: usize>(
                s: S,
                tile: &[u8],
                ahead: &[u8],
                x: &[&[f32]; T],
                out: &mut [[f32; TILE]; T],
            ) {
                let bytes = (tile, ahead);
                match T {
                    1 if S::VECTORS > LANES => {
                        together::<S, { $bytes * LANES }, T, 16, 1>(s, bytes, x, out, |w| s.$load(w))
                    }
                    1 if S::VECTORS > 8 => together::<S, { $bytes * LANES }, T, 8, 2>(s, bytes, x, out, |w| s.$load(w)),
                    2.. if S::VECTORS == 8 => {
                        together::<S, { $bytes * LANES }, T, 1, 16>(s, bytes, x, out, |w| s.$load(w))
                    }
                    _ => together::<S, { $bytes * LANES }, T, 4, 4>(s, bytes, x, out, |w| s.$load(w)),
                }
            }
        }
    };
}

float_format!(F32, 4, u32, load_f32, f32::from_bits, f32::to_bits);
float_format!(F16, 2, u16, load_f16, f16_to_f32, f32_to_f16);
float_format!(BF16, 2, u16, load_bf16, bf16_to_f32, f32_to_bf16);
