//! Weight types: what a tensor's bytes mean. One file per format, one row per type in [`TYPES`].
// Types are called as ggml calls them.
#![allow(non_camel_case_types)]

mod activation;
pub mod any_width;
mod block;
mod float;
mod grid;
mod grids;
mod iq1_m;
mod iq1_s;
mod iq2_s;
mod iq2_xs;
mod iq2_xxs;
mod iq3_s;
mod iq3_xxs;
mod iq4_nl;
mod iq4_xs;
mod mxfp4;
pub(crate) mod panel;
mod q1_0;
mod q2_0;
mod q2_k;
mod q3_k;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
mod superblock;
pub(crate) mod tile;
mod tq1_0;
mod tq2_0;

use crate::built;
pub use activation::{Activation, Quantized, REST, Rest, n_blocks};
pub(crate) use activation::{quantize as quantize_activation, quantize_rest};
pub(crate) use any_width::{Q2_W, Q3_W, Q4_W, Q5_W, Q6_W, Q8_W};
pub(crate) use float::{BF16, CHUNKS, Chunk, F16, F32, FloatRows, Lanes};
pub(crate) use iq1_m::IQ1_M;
pub(crate) use iq1_s::IQ1_S;
pub(crate) use iq2_s::IQ2_S;
pub(crate) use iq2_xs::IQ2_XS;
pub(crate) use iq2_xxs::IQ2_XXS;
pub(crate) use iq3_s::IQ3_S;
pub(crate) use iq3_xxs::IQ3_XXS;
pub(crate) use iq4_nl::IQ4_NL;
pub(crate) use iq4_xs::IQ4_XS;
pub(crate) use mxfp4::MXFP4;
pub(crate) use q1_0::Q1_0;
pub(crate) use q2_0::Q2_0;
pub(crate) use q2_k::Q2_K;
pub(crate) use q3_k::Q3_K;
pub(crate) use q4_0::Q4_0;
pub(crate) use q4_1::Q4_1;
pub(crate) use q4_k::Q4_K;
pub(crate) use q5_0::Q5_0;
pub(crate) use q5_1::Q5_1;
pub(crate) use q5_k::Q5_K;
pub(crate) use q6_k::Q6_K;
pub(crate) use q8_0::Q8_0;
pub(crate) use tq1_0::TQ1_0;
pub(crate) use tq2_0::TQ2_0;

/// What every format file implements, in this order.
pub(crate) trait Format: Sized {
    /// The row of [`TYPES`].
    const TYPE: Type;
    /// Whether dot products are taken with 8-bit activations rather than floats.
    const INTEGER: bool;
    /// How its rows are unpacked, an [`Unpack`](panel::Unpack), or multiplied: formats of one kind share one way.
    type Rows;
    /// Reads whole blocks: `row` and `out` hold the same number of blocks.
    fn dequantize(row: &[u8], out: &mut [f32]);
    /// Turns little-endian blocks into big-endian ones and back.
    fn swap_endian(blocks: &mut [u8]);
}

/// A block taken apart, whatever its format: what its file writes, and its encoder chooses. The `pack` of each format's
/// file says what it uses of this and how.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The scale that the block shares, as it is stored: a half float.
    pub d: f32,
    /// The scale of its minimums, or the minimum itself, a half float too.
    pub dmin: f32,
    /// The integer that the weights of each part of the block are multiplied with.
    pub scales: [i16; 32],
    /// The integer minimum of each part of the block.
    pub mins: [i16; 32],
    /// The code of each group of weights, at the place of the group's first weight.
    pub codes: [u16; 256],
    /// The signs of each eight weights, one bit each, where codes do not hold them.
    pub signs: [u8; 32],
}

impl Parts {
    /// A block of zeros.
    pub const ZERO: Parts =
        Parts { d: 0.0, dmin: 0.0, scales: [0; 32], mins: [0; 32], codes: [0; 256], signs: [0; 32] };
}

/// A format that rows can be written in.
pub(crate) trait Quantize: Format {
    /// Writes whole blocks: `row` and `out` hold the same number of blocks.
    fn quantize(row: &[f32], out: &mut [u8]);
}

/// A format whose blocks can be put together from their parts.
pub(crate) trait Pack: Format {
    /// Writes one block; its bytes are zero before.
    fn pack(parts: &Parts, block: &mut [u8]);
}

/// Names of types, with spaces between: a build for a board computes with these alone, and takes no room for the others.
const NAMED: Option<&str> = option_env!("SMIDGEN_TYPES");

/// Whether this build computes with the type called `name`: with every one, unless `SMIDGEN_TYPES` named some.
pub(crate) const fn is_built(name: &str) -> bool {
    built::is_among(NAMED, name)
}

/// Whether this build is for the types of one model.
pub(crate) const IS_FOR_ONE_MODEL: bool = NAMED.is_some();

/// Runs `$body` with `$F` standing for the format called as `$kind` is, one of `$name`, or else `$other`.
macro_rules! with_one_of {
    ($kind:expr, $F:ident => $body:expr, _ => $other:expr, $($name:ident)+) => {
        match $kind {
            $($crate::quant::Type::$name if const { $crate::quant::is_built(stringify!($name)) } => {
                type $F = $crate::quant::$name;
                $body
            })+
            _ => $other,
        }
    };
}
pub(crate) use with_one_of;

/// Runs `$body` with `$F` standing for the [`Format`] of `$kind`, or `$other` for a type that has none.
macro_rules! with_format {
    ($kind:expr, $F:ident => $body:expr, _ => $other:expr) => {
        $crate::quant::with_one_of!($kind, $F => $body, _ => $other, F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0
            Q2_K Q3_K Q4_K Q5_K Q6_K IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S IQ4_NL IQ4_XS TQ1_0 TQ2_0 MXFP4 Q1_0 Q2_0
            Q2_W Q3_W Q4_W Q5_W Q6_W Q8_W)
    };
}

/// Puts the names of the formats of integers, those that can be unpacked and packed, behind what else `$with` takes.
macro_rules! for_integers {
    ($($with:tt)::+ ! ($($argument:tt)*)) => {
        $($with)::+!($($argument)* Q4_0 Q4_1 Q5_0 Q5_1 Q8_0
            Q2_K Q3_K Q4_K Q5_K Q6_K IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S IQ4_NL IQ4_XS TQ1_0 TQ2_0 MXFP4 Q1_0 Q2_0
            Q2_W Q3_W Q4_W Q5_W Q6_W Q8_W)
    };
}
pub(crate) use for_integers;

/// Runs `$body` with `$F` standing for the format of integers of `$kind`, or `$other` for a type that is none.
macro_rules! with_integer {
    ($kind:expr, $F:ident => $body:expr, _ => $other:expr) => {
        $crate::quant::for_integers!($crate::quant::with_one_of!($kind, $F => $body, _ => $other,))
    };
}
pub(crate) use with_integer;

/// Whether a format that this build computes with has blocks of `shape`.
pub(crate) const fn is_shape_built(shape: panel::Shape) -> bool {
    macro_rules! any {
        ($($name:ident)+) => {
            $(is_built(stringify!($name)) && <<$name as Format>::Rows as panel::Unpack<$name>>::SHAPE.has_kernel_of(shape))||+
        };
    }
    for_integers!(any!())
}

/// Runs `$body` with `$F` standing for the format of floats of `$kind`, or `$other` for a type that is none.
macro_rules! with_floats {
    ($kind:expr, $F:ident => $body:expr, _ => $other:expr) => {
        $crate::quant::with_one_of!($kind, $F => $body, _ => $other, F32 F16 BF16)
    };
}
pub(crate) use with_floats;

/// Runs `$body` with `$F` standing for the [`Quantize`] of `$kind`, or `$other` for a type that has none.
macro_rules! with_quantizer {
    ($kind:expr, $F:ident => $body:expr, _ => $other:expr) => {
        with_one_of!($kind, $F => $body, _ => $other, F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0)
    };
}

/// A type that the container knows and that cannot be read, or, where it was to be written, cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsupported(
    /// The type.
    pub Type,
);

impl core::fmt::Display for Unsupported {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "tensor type {} is not supported yet", self.0.name())
    }
}

impl core::error::Error for Unsupported {}

/// A tensor type of the GGUF container, by its ggml name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The names are the documentation: they are ggml's.
pub enum Type {
    F32,
    F16,
    BF16,
    F64,
    I8,
    I16,
    I32,
    I64,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q8_1,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    Q8_K,
    IQ1_S,
    IQ1_M,
    IQ2_XXS,
    IQ2_XS,
    IQ2_S,
    IQ3_XXS,
    IQ3_S,
    IQ4_NL,
    IQ4_XS,
    TQ1_0,
    TQ2_0,
    MXFP4,
    NVFP4,
    Q1_0,
    Q2_0,
    Q2_W,
    Q3_W,
    Q4_W,
    Q5_W,
    Q6_W,
    Q8_W,
}

/// One row of [`TYPES`]: type, ggml's number for it, name, values in a block, bytes in a block.
pub type Row = (Type, u32, &'static str, usize, usize);

/// What the numbers of the any-width family begin with: "SW" as a big-endian number.
const OURS: u32 = 0x5357_0000;

/// Every type that a GGUF file may name (ggml's `enum ggml_type` and block structs).
#[rustfmt::skip]
pub const TYPES: &[Row] = &[
    (Type::F32,      0, "F32",       1,   4),
    (Type::F16,      1, "F16",       1,   2),
    (Type::Q4_0,     2, "Q4_0",     32,  18),
    (Type::Q4_1,     3, "Q4_1",     32,  20),
    (Type::Q5_0,     6, "Q5_0",     32,  22),
    (Type::Q5_1,     7, "Q5_1",     32,  24),
    (Type::Q8_0,     8, "Q8_0",     32,  34),
    (Type::Q8_1,     9, "Q8_1",     32,  36),
    (Type::Q2_K,    10, "Q2_K",    256,  84),
    (Type::Q3_K,    11, "Q3_K",    256, 110),
    (Type::Q4_K,    12, "Q4_K",    256, 144),
    (Type::Q5_K,    13, "Q5_K",    256, 176),
    (Type::Q6_K,    14, "Q6_K",    256, 210),
    (Type::Q8_K,    15, "Q8_K",    256, 292),
    (Type::IQ2_XXS, 16, "IQ2_XXS", 256,  66),
    (Type::IQ2_XS,  17, "IQ2_XS",  256,  74),
    (Type::IQ3_XXS, 18, "IQ3_XXS", 256,  98),
    (Type::IQ1_S,   19, "IQ1_S",   256,  50),
    (Type::IQ4_NL,  20, "IQ4_NL",   32,  18),
    (Type::IQ3_S,   21, "IQ3_S",   256, 110),
    (Type::IQ2_S,   22, "IQ2_S",   256,  82),
    (Type::IQ4_XS,  23, "IQ4_XS",  256, 136),
    (Type::I8,      24, "I8",        1,   1),
    (Type::I16,     25, "I16",       1,   2),
    (Type::I32,     26, "I32",       1,   4),
    (Type::I64,     27, "I64",       1,   8),
    (Type::F64,     28, "F64",       1,   8),
    (Type::IQ1_M,   29, "IQ1_M",   256,  56),
    (Type::BF16,    30, "BF16",      1,   2),
    (Type::TQ1_0,   34, "TQ1_0",   256,  54),
    (Type::TQ2_0,   35, "TQ2_0",   256,  66),
    (Type::MXFP4,   39, "MXFP4",    32,  17),
    (Type::NVFP4,   40, "NVFP4",    64,  36),
    (Type::Q1_0,    41, "Q1_0",    128,  18),
    (Type::Q2_0,    42, "Q2_0",     64,  18),
    // Ours, numbered far from ggml's.
    (Type::Q2_W, OURS + 2, "Q2_W",  64,  17),
    (Type::Q3_W, OURS + 3, "Q3_W",  64,  25),
    (Type::Q4_W, OURS + 4, "Q4_W",  64,  33),
    (Type::Q5_W, OURS + 5, "Q5_W",  64,  41),
    (Type::Q6_W, OURS + 6, "Q6_W",  64,  49),
    (Type::Q8_W, OURS + 8, "Q8_W",  64,  65),
];

impl Type {
    fn row(self) -> &'static Row {
        // Every variant has a row (a test visits them), so the fallback is never taken.
        TYPES.iter().find(|row| row.0 == self).unwrap_or(&TYPES[0])
    }

    /// The type with ggml's number `id`.
    pub fn from_id(id: u32) -> Option<Type> {
        TYPES.iter().find(|row| row.1 == id).map(|row| row.0)
    }

    /// The type called `name`, in any case (`q8_0`, `F16`).
    pub fn from_name(name: &str) -> Option<Type> {
        TYPES.iter().find(|row| row.2.eq_ignore_ascii_case(name)).map(|row| row.0)
    }

    /// ggml's number for this type.
    pub fn id(self) -> u32 {
        self.row().1
    }

    /// ggml's name for this type.
    pub fn name(self) -> &'static str {
        self.row().2
    }

    /// How many values share one block.
    pub fn block_len(self) -> usize {
        self.row().3
    }

    /// Bytes of one block.
    pub fn block_bytes(self) -> usize {
        self.row().4
    }

    /// Whether rows may be of any length, because their last block may be a part of one.
    pub fn is_any_width(self) -> bool {
        self.id() > OURS
    }

    /// Bytes of a row of `n` values; `None` when this type has no rows of that length or the product overflows.
    pub fn row_bytes(self, n: u64) -> Option<u64> {
        let block = self.block_len() as u64;
        let rest = match n % block {
            0 => 0,
            _ if !self.is_any_width() => return None,
            rest => 1 + (rest * u64::from(self.id() - OURS)).div_ceil(8),
        };
        (n / block).checked_mul(self.block_bytes() as u64)?.checked_add(rest)
    }

    /// Bits that one weight takes, the block's scales included.
    pub fn bits_per_weight(self) -> f32 {
        self.block_bytes() as f32 * 8.0 / self.block_len() as f32
    }

    /// Whether the engine can compute with this type.
    pub fn is_supported(self) -> bool {
        with_format!(self, F => F::TYPE == self, _ => false)
    }

    /// Whether dot products with this type read activations as 8-bit integers.
    pub fn is_integer(self) -> bool {
        with_format!(self, F => F::INTEGER, _ => false)
    }

    /// Whether dot products with this type read activations as 16-bit integers.
    pub fn is_fine(self) -> bool {
        with_integer!(self, F => <<F as Format>::Rows as panel::Unpack<F>>::SHAPE.rest, _ => false)
    }

    /// How rows of this type are cut to lie together; `None` for those that always lie apart, and where a tile has fewer rows
    /// than a vector has lanes.
    pub(crate) fn cut(self) -> Option<tile::Cut> {
        if crate::simd::TILE != crate::simd::LANES {
            return None;
        }
        with_floats!(self, F => {
            let bytes = <F as float::FloatRows>::BYTES;
            Some(tile::Cut { block_bytes: bytes, head: 0, unit: bytes })
        }, _ => with_integer!(self, F => <<F as Format>::Rows as panel::Unpack<F>>::CUT, _ => None))
    }

    /// Whether rows can be written in this type.
    pub fn can_quantize(self) -> bool {
        with_quantizer!(self, F => F::TYPE == self, _ => false)
    }

    /// Writes `row` into `out` as little-endian blocks.
    ///
    /// # Errors
    /// A type without a quantizer.
    ///
    /// # Panics
    /// When `row` is not a whole number of blocks or `out` has another number of them.
    pub fn quantize(self, row: &[f32], out: &mut [u8]) -> Result<(), Unsupported> {
        assert_eq!(self.row_bytes(row.len() as u64), Some(out.len() as u64), "whole blocks");
        with_quantizer!(self, F => { F::quantize(row, out); Ok(()) }, _ => Err(Unsupported(self)))
    }

    /// Writes one block from its parts, little-endian; of a type for any width, as much of one as `block` has room for.
    ///
    /// # Errors
    /// A type without blocks, or whose byte map is not known.
    ///
    /// # Panics
    /// When `block` has another length.
    pub fn pack(self, parts: &Parts, block: &mut [u8]) -> Result<(), Unsupported> {
        let fits = block.len() == self.block_bytes() || self.is_any_width() && block.len() < self.block_bytes();
        assert!(fits, "one block");
        block.fill(0);
        with_integer!(self, F => { F::pack(parts, block); Ok(()) }, _ => Err(Unsupported(self)))
    }

    /// What the code `number` stands for, in units of its scale: one, four or eight integers, and zeros for the rest.
    /// The IQ1 types' shift is 1/8 here. `None` past the last code, and for types whose codes are plain numbers.
    pub fn point(self, number: u16) -> Option<[i8; 8]> {
        grid::point(self, usize::from(number))
    }

    /// Reads little-endian blocks into `out`; of a type for any width, one row.
    ///
    /// # Errors
    /// A type that the engine cannot read.
    ///
    /// # Panics
    /// When `out` is not a whole number of blocks or `row` has another number of them.
    pub fn dequantize(self, row: &[u8], out: &mut [f32]) -> Result<(), Unsupported> {
        assert_eq!(self.row_bytes(out.len() as u64), Some(row.len() as u64), "whole blocks");
        with_format!(self, F => { F::dequantize(row, out); Ok(()) }, _ => Err(Unsupported(self)))
    }

    /// Turns whole little-endian blocks into big-endian ones, or back.
    ///
    /// # Errors
    /// A type whose byte map is not known.
    pub fn swap_endian(self, blocks: &mut [u8]) -> Result<(), Unsupported> {
        with_format!(self, F => { F::swap_endian(blocks); Ok(()) }, _ => Err(Unsupported(self)))
    }
}
