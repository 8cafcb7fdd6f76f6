//! F32, F16 and BF16 rows: any length, no scales, exact widening.
//!
//! Byte map: little-endian IEEE binary32, IEEE binary16, or the upper half of a binary32.
// The same number indexes several arrays.
#![allow(clippy::needless_range_loop)]

use super::block::bytes_at;
use super::{Format, Quantize, Type};
use crate::half::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};
use crate::simd::{LANES, Simd, TILE, each_row, padded, prefetch_apart, prefetch_block};
use core::ops::Range;

/// Rows of which registers hold the sums, and which are read side by side.
const FEW: usize = if TILE < 4 { TILE } else { 4 };
/// Rows of which narrow registers hold the sums with one token.
const NARROW: usize = if TILE < 2 { TILE } else { 2 };

/// Bytes of the largest tile that is read once for each few lanes. Larger ones have long rows, as matrices that no cache holds have, and
/// from memory only what is read in order comes fast.
const NEAR_TILE: usize = 4 << 10;

/// Sixteen columns, one for each lane, of the rows of a tile that lie together: floats as a file has them.
pub(crate) type Chunk = [[u8; 4 * TILE]; LANES];
/// Chunks of columns that are made floats at once.
pub(crate) const CHUNKS: usize = 16;
/// Columns of the rows of a tile as floats, (lanes, chunks): those of a lane follow each other, so that a cache has places for all.
pub(crate) type Lanes = [[[f32; TILE]; CHUNKS + 1]; LANES];

/// A format of floats.
pub(crate) trait FloatRows {
    /// Bytes of a number.
    const BYTES: usize;
    /// The dot products of each of [`TILE`] rows with `x`. Asks for as much of `ahead` meanwhile.
    ///
    /// Definition, for each row: lane `l` adds the products of the columns `l`, `l + 16`, `l + 32`... in that order, starting
    /// from zero; columns that are missing at the end count as zero; [`Simd::sum`] adds the lanes.
    fn product<S: Simd>(s: S, rows: &[&[u8]; TILE], ahead: &[u8], x: &[f32], out: &mut [f32; TILE]);
    /// The same, of rows that lie together in `tile`.
    fn product_together<S: Simd>(s: S, tile: &[u8], ahead: &[u8], x: &[f32], out: &mut [f32; TILE]);
    /// The whole chunks of rows that lie together in `tile`, where these are floats as they lie.
    #[inline(always)]
    fn chunks(tile: &[u8]) -> Option<&[Chunk]> {
        (Self::BYTES == size_of::<f32>()).then_some(tile.as_chunks().0.as_chunks().0)
    }
    /// Makes floats of `chunks`, at most [`CHUNKS`]; what the rows do not have is zero. Asks for as much of `ahead` meanwhile.
    fn widen<S: Simd>(s: S, rows: &[&[u8]; TILE], ahead: &[u8], chunks: Range<usize>, out: &mut Lanes);
    /// The same, of rows that lie together in `tile`.
    fn widen_together<S: Simd>(s: S, tile: &[u8], ahead: &[u8], chunks: Range<usize>, out: &mut Lanes);
}

/// [`FloatRows::product`], `N` bytes to every [`LANES`] values.
#[inline(always)]
fn product<S: Simd, const N: usize>(
    s: S,
    (rows, ahead): (&[&[u8]; TILE], &[u8]),
    x: &[f32],
    out: &mut [f32; TILE],
    load: impl Fn(&[u8; N]) -> S::F,
) {
    let mut sums = [s.splat(0.0); TILE];
    match S::VECTORS < 8 {
        true => add_rows::<S, N, NARROW>(s, (rows, ahead), x, &mut sums, load),
        false => add_rows::<S, N, FEW>(s, (rows, ahead), x, &mut sums, load),
    }
    s.rows_store(s.rows_sums(&sums), out);
}

/// Fills in the lanes' sums, `GROUP` rows at a time: as many as registers hold the sums of.
#[inline(always)]
fn add_rows<S: Simd, const N: usize, const GROUP: usize>(
    s: S,
    (rows, ahead): (&[&[u8]; TILE], &[u8]),
    x: &[f32],
    all: &mut [S::F; TILE],
    load: impl Fn(&[u8; N]) -> S::F,
) {
    let (xs, tail) = x.as_chunks::<LANES>();
    for first in (0..TILE).step_by(GROUP) {
        let mut chunks: [&[[u8; N]]; GROUP] = [&[]; GROUP];
        for (r, chunks) in chunks.iter_mut().enumerate() {
            *chunks = &rows[first + r].as_chunks::<N>().0[..xs.len()];
        }
        let mut sums = [s.splat(0.0); GROUP];
        for (chunk, x) in xs.iter().enumerate() {
            prefetch_apart(ahead, rows[0].len(), first / GROUP * xs.len() + chunk, GROUP * N);
            let x = s.load(x);
            for r in 0..GROUP {
                sums[r] = s.add(sums[r], s.mul(load(&chunks[r][chunk]), x));
            }
        }
        for r in 0..GROUP {
            let rest = &rows[first + r][xs.len() * N..];
            if !rest.is_empty() {
                sums[r] = s.add(sums[r], s.mul(load(&padded(rest)), s.load_part(tail)));
            }
            all[first + r] = sums[r];
        }
    }
}

/// The same for rows that lie together, one to a lane: what [`product`] has in a lane is a vector here, and nothing is added
/// across lanes. Registers hold the sums of `GROUP` lanes that stand `STEP` apart, which [`Simd::sum`]'s tree adds up first.
#[inline(always)]
fn together<S: Simd, const N: usize, const GROUP: usize, const STEP: usize>(
    s: S,
    (tile, ahead): (&[u8], &[u8]),
    x: &[f32],
    out: &mut [f32; TILE],
    load: impl Fn(&[u8; N]) -> S::F,
) {
    const { assert!(GROUP * STEP == LANES) };
    let (xs, tail) = x.as_chunks::<LANES>();
    let (chunks, rest) = tile.as_chunks::<N>().0.split_at(xs.len() * LANES);
    let chunks = chunks.as_chunks::<LANES>().0;
    let mut groups = [s.splat(0.0); STEP];
    for group in 0..STEP {
        // Each a loop of its own, so that most have nothing else to do.
        let mut sums = if group == 0 && !ahead.is_empty() {
            lanes::<S, N, GROUP, STEP>(s, chunks, xs, group, &load, |index| prefetch_block(ahead, index, N * LANES))
        } else {
            lanes::<S, N, GROUP, STEP>(s, chunks, xs, group, &load, |_| {})
        };
        for i in 0..GROUP {
            let lane = i * STEP + group;
            if let Some(w) = rest.get(lane) {
                sums[i] = s.add(sums[i], s.mul(load(w), s.splat(tail[lane])));
            }
        }
        groups[group] = halved(s, sums);
    }
    let mut rows = [0.0; LANES];
    s.store(halved(s, groups), &mut rows);
    out.copy_from_slice(&rows[..TILE]);
}

/// The same for a tile that is read in order; where registers have no room for the sums of all lanes, memory has. It is [`together`] of
/// one group, but with loops of its own: those of `lanes` came out as slow as 0.6 of these for AVX2 (docs/adr/0119-float-batches-widened-first.md).
#[inline(always)]
fn together_in_order<S: Simd, const N: usize>(
    s: S,
    (tile, ahead): (&[u8], &[u8]),
    x: &[f32],
    out: &mut [f32; TILE],
    load: impl Fn(&[u8; N]) -> S::F,
) {
    let (xs, tail) = x.as_chunks::<LANES>();
    let (chunks, rest) = tile.as_chunks::<N>().0.split_at(xs.len() * LANES);
    let chunks = chunks.as_chunks::<LANES>().0;
    let mut sums = [s.splat(0.0); LANES];
    if ahead.is_empty() {
        add_in_order(s, chunks, xs, &mut sums, &load, |_| {});
    } else {
        add_in_order(s, chunks, xs, &mut sums, &load, |index| prefetch_block(ahead, index, N * LANES));
    }
    for (lane, w) in rest.iter().enumerate().take(LANES) {
        sums[lane] = s.add(sums[lane], s.mul(load(w), s.splat(tail[lane])));
    }
    let mut rows = [0.0; LANES];
    s.store(halved(s, sums), &mut rows);
    out.copy_from_slice(&rows[..TILE]);
}

/// Adds the products of chunks to the sums of all lanes.
#[inline(always)]
fn add_in_order<S: Simd, const N: usize>(
    s: S,
    chunks: &[[[u8; N]; LANES]],
    xs: &[[f32; LANES]],
    out: &mut [S::F; LANES],
    load: impl Fn(&[u8; N]) -> S::F,
    each_chunk: impl Fn(usize),
) {
    let mut sums = *out;
    for (index, (chunk, x)) in chunks.iter().zip(xs).enumerate() {
        each_chunk(index);
        for i in 0..LANES {
            sums[i] = s.add(sums[i], s.mul(load(&chunk[i]), s.splat(x[i])));
        }
    }
    *out = sums;
}

/// The sums of `GROUP` lanes that stand `STEP` apart, from lane `group` on; calls `each_chunk` with the number of every chunk.
#[inline(always)]
fn lanes<S: Simd, const N: usize, const GROUP: usize, const STEP: usize>(
    s: S,
    chunks: &[[[u8; N]; LANES]],
    xs: &[[f32; LANES]],
    group: usize,
    load: impl Fn(&[u8; N]) -> S::F,
    each_chunk: impl Fn(usize),
) -> [S::F; GROUP] {
    let xs = &xs[..chunks.len()];
    let mut sums = [s.splat(0.0); GROUP];
    for index in 0..chunks.len() {
        each_chunk(index);
        let (chunk, x) = (chunks[index].as_chunks::<STEP>().0, xs[index].as_chunks::<STEP>().0);
        for i in 0..GROUP {
            sums[i] = s.add(sums[i], s.mul(load(&chunk[i][group]), s.splat(x[i][group])));
        }
    }
    sums
}

/// [`FloatRows::widen`], `N` bytes to every [`LANES`] values: `columns` makes floats of four bytes of all rows.
#[inline(always)]
fn widen<S: Simd, const N: usize, const C: usize>(
    s: S,
    (rows, ahead): (&[&[u8]; TILE], &[u8]),
    chunks: Range<usize>,
    out: &mut Lanes,
    columns: impl Fn(S::C) -> [[f32; TILE]; C],
) {
    for (index, chunk) in chunks.enumerate() {
        prefetch_apart(ahead, rows[0].len(), chunk, TILE * N);
        let rest = each_row!(r => &rows[r][chunk * N..]);
        let few;
        let whole = if rest[0].len() >= N {
            rest
        } else {
            few = each_row!(r => padded::<u8, N>(rest[r]));
            each_row!(r => &few[r][..])
        };
        for at in (0..N).step_by(16) {
            let words = s.columns(&each_row!(r => bytes_at(whole[r], at)));
            for (word, words) in (at / 4..).zip(words) {
                for (lane, column) in (word * C..).zip(columns(words)) {
                    out[lane][index] = column;
                }
            }
        }
    }
}

/// [`FloatRows::widen_together`], `N` bytes to a column.
#[inline(always)]
fn widen_together<S: Simd, const N: usize>(
    s: S,
    (tile, ahead): (&[u8], &[u8]),
    chunks: Range<usize>,
    out: &mut Lanes,
    load: impl Fn(&[u8; N]) -> S::F,
) {
    let columns = tile.as_chunks::<N>().0;
    for (index, chunk) in chunks.enumerate() {
        prefetch_block(ahead, chunk, N * LANES);
        let columns = &columns[chunk * LANES..];
        for lane in 0..LANES {
            let out = &mut out[lane][index];
            match (columns.get(lane), out.as_mut_array()) {
                (Some(column), Some(out)) => s.store(load(column), out),
                _ => *out = [0.0; TILE],
            }
        }
    }
}

/// What is in the lanes, as floats of the same bits.
#[inline(always)]
fn floats<S: Simd>(s: S, bits: S::C) -> [f32; TILE] {
    let mut lanes = [0; TILE];
    s.put(bits, &mut lanes);
    each_row!(r => f32::from_bits(lanes[r]))
}

/// The column of floats that are in the lanes.
#[inline(always)]
fn columns_f32<S: Simd>(s: S, word: S::C) -> [[f32; TILE]; 1] {
    [floats(s, word)]
}

/// Both columns of half floats that are in the lanes.
#[inline(always)]
fn columns_f16<S: Simd>(s: S, word: S::C) -> [[f32; TILE]; 2] {
    let mut out = [[0.0; TILE]; 2];
    s.rows_store(s.halves(word), &mut out[0]);
    s.rows_store(s.halves(s.down(word, 16)), &mut out[1]);
    out
}

/// Both columns of bfloat16s that are in the lanes.
#[inline(always)]
fn columns_bf16<S: Simd>(s: S, word: S::C) -> [[f32; TILE]; 2] {
    [floats(s, s.up(word, 16)), floats(s, s.and(word, s.all(0xffff_0000)))]
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
    ($name:ident, $bytes:literal, $bits:ty, $load:ident, $columns:ident, $widen:expr, $narrow:expr) => {
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
            fn product<S: Simd>(s: S, rows: &[&[u8]; TILE], ahead: &[u8], x: &[f32], out: &mut [f32; TILE]) {
                product::<S, { $bytes * LANES }>(s, (rows, ahead), x, out, |w| s.$load(w));
            }

            #[inline(always)]
            fn product_together<S: Simd>(s: S, tile: &[u8], ahead: &[u8], x: &[f32], out: &mut [f32; TILE]) {
                // A small tile is read as often as registers take to hold the sums of all lanes, a large one once.
                match S::VECTORS {
                    ..=8 if tile.len() <= NEAR_TILE => {
                        together::<S, { $bytes * LANES }, 4, 4>(s, (tile, ahead), x, out, |w| s.$load(w))
                    }
                    9..=LANES if tile.len() <= NEAR_TILE => {
                        together::<S, { $bytes * LANES }, 8, 2>(s, (tile, ahead), x, out, |w| s.$load(w))
                    }
                    _ => together_in_order::<S, { $bytes * LANES }>(s, (tile, ahead), x, out, |w| s.$load(w)),
                }
            }

            #[inline(always)]
            fn widen<S: Simd>(s: S, rows: &[&[u8]; TILE], ahead: &[u8], chunks: Range<usize>, out: &mut Lanes) {
                widen::<S, { $bytes * LANES }, { 4 / $bytes }>(s, (rows, ahead), chunks, out, |word| $columns(s, word));
            }

            #[inline(always)]
            fn widen_together<S: Simd>(s: S, tile: &[u8], ahead: &[u8], chunks: Range<usize>, out: &mut Lanes) {
                widen_together::<S, { $bytes * LANES }>(s, (tile, ahead), chunks, out, |w| s.$load(w));
            }
        }
    };
}

float_format!(F32, 4, u32, load_f32, columns_f32, f32::from_bits, f32::to_bits);
float_format!(F16, 2, u16, load_f16, columns_f16, f16_to_f32, f32_to_f16);
float_format!(BF16, 2, u16, load_bf16, columns_bf16, bf16_to_f32, f32_to_bf16);
