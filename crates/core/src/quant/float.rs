//! F32, F16 and BF16 rows: any length, no scales, exact widening.
//!
//! Byte map: little-endian IEEE binary32, IEEE binary16, or the upper half of a binary32.

use super::{Activation, Format, Quantize, TILE, Tile, Type};
use crate::half::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};
use crate::simd::{LANES, Simd, padded};

/// The dot products of [`TILE`] rows with `T` activations, `N` bytes to every [`LANES`] values.
///
/// Definition, for each pair: lane `l` adds the products of the columns `l`, `l + 16`, `l + 32`... in that order, starting
/// from zero; columns that are missing at the end count as zero; [`Simd::sum`] adds the lanes.
#[inline(always)]
fn tile<S: Simd, const N: usize, const T: usize>(
    s: S,
    rows: &[&[u8]; TILE],
    activations: &[Activation<'_>; T],
    out: &mut [[f32; TILE]; T],
    load: impl Fn(&[u8; N]) -> S::F,
) {
    const HALF: usize = TILE / 2;
    let n_chunks = activations[0].x.len() / LANES;
    let tail = n_chunks * LANES;
    for half in [0, HALF] {
        let chunks: [&[[u8; N]]; HALF] = core::array::from_fn(|r| &rows[half + r].as_chunks::<N>().0[..n_chunks]);
        let xs: [&[[f32; LANES]]; T] = core::array::from_fn(|t| &activations[t].x.as_chunks::<LANES>().0[..n_chunks]);
        let mut sums = [[s.splat(0.0); HALF]; T];
        for chunk in 0..n_chunks {
            let w: [S::F; HALF] = core::array::from_fn(|r| load(&chunks[r][chunk]));
            for t in 0..T {
                let x = s.load(&xs[t][chunk]);
                for r in 0..HALF {
                    sums[t][r] = s.add(sums[t][r], s.mul(w[r], x));
                }
            }
        }
        for r in 0..HALF {
            let rest = &rows[half + r][n_chunks * N..];
            if !rest.is_empty() {
                let w = load(&padded(rest));
                for t in 0..T {
                    let x = s.load_part(&activations[t].x[tail..]);
                    sums[t][r] = s.add(sums[t][r], s.mul(w, x));
                }
            }
            for t in 0..T {
                out[t][half + r] = s.sum(sums[t][r]);
            }
        }
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

        impl Tile<Self> for $name {
            #[inline(always)]
            fn tile<S: Simd, const T: usize>(
                s: S,
                rows: &[&[u8]; TILE],
                activations: &[Activation<'_>; T],
                out: &mut [[f32; TILE]; T],
            ) {
                tile::<S, { $bytes * LANES }, T>(s, rows, activations, out, |x| s.$load(x));
            }
        }
    };
}

float_format!(F32, 4, u32, load_f32, f32::from_bits, f32::to_bits);
float_format!(F16, 2, u16, load_f16, f16_to_f32, f32_to_f16);
float_format!(BF16, 2, u16, load_bf16, bf16_to_f32, f32_to_bf16);
