//! Every weight format on its own: rows that this machine quantizes, reads back, swaps and multiplies.
//!
//! Checkpoints small enough for an emulator have rows that few block formats divide, so the formats are shown rows of
//! their own: floats that this machine quantizes, and the golden blocks of `testdata/quant`.

use crate::Hash;
use smidgen_core::ops::matmul::{Activations, Crew, Matrix, matmul};
use smidgen_core::ops::norm::Vector;
use smidgen_core::quant::{Quantized, Rest, TYPES, Type};
use smidgen_core::simd::{BLOCK, Isa};
use smidgen_core::workers::Single;

/// Blocks in a row and in a golden file.
const BLOCKS: usize = 4;
/// Values in the widest row.
const COLUMNS: usize = BLOCKS * 256;
/// More than one tile of rows and of tokens, with some left over.
const ROWS: usize = 11;
const TOKENS: usize = 5;

macro_rules! goldens {
    ($($name:literal)*) => {
        &[$(($name, include_bytes!(concat!("../../../testdata/quant/", $name, ".bin")))),*]
    };
}

/// For each type with blocks, [`BLOCKS`] of them and then the floats that they stand for.
const GOLDENS: &[(&str, &[u8])] = goldens!(
    "IQ1_M" "IQ1_S" "IQ2_S" "IQ2_XS" "IQ2_XXS" "IQ3_S" "IQ3_XXS" "IQ4_NL" "IQ4_XS" "MXFP4" "Q1_0" "Q2_0" "Q2_K" "Q3_K" "Q4_0"
    "Q4_1" "Q4_K" "Q5_0" "Q5_1" "Q5_K" "Q6_K" "Q8_0" "TQ1_0" "TQ2_0" "Q2_W" "Q3_W" "Q4_W" "Q5_W" "Q6_W" "Q8_W"
);

/// Rows and activations; too large for a stack.
pub struct Scratch {
    values: [f32; ROWS * COLUMNS],
    bytes: [u8; ROWS * COLUMNS * 4],
    blocks: [Quantized; TOKENS * COLUMNS / BLOCK],
    rests: [Rest; TOKENS * COLUMNS / BLOCK],
    products: [f32; TOKENS * ROWS],
}

impl Scratch {
    /// Zeros.
    pub const EMPTY: Scratch = Scratch {
        values: [0.0; ROWS * COLUMNS],
        bytes: [0; ROWS * COLUMNS * 4],
        blocks: [Quantized::ZERO; TOKENS * COLUMNS / BLOCK],
        rests: [Rest::ZERO; TOKENS * COLUMNS / BLOCK],
        products: [0.0; TOKENS * ROWS],
    };

    /// Adds to `hash` all that `isa` makes of each format: blocks, the same blocks swapped, values and products.
    ///
    /// # Errors
    /// A format that does not do here what it promises, or has nothing to be shown.
    pub fn run(&mut self, isa: Isa, hash: &mut Hash) -> Result<(), Type> {
        for kind in TYPES.iter().map(|row| row.0).filter(|kind| kind.is_supported()) {
            self.format(kind, isa, hash).ok_or(kind)?;
        }
        Ok(())
    }

    fn format(&mut self, kind: Type, isa: Isa, hash: &mut Hash) -> Option<()> {
        // Rows of any width end inside a block.
        let missing = if kind.is_any_width() { 13 } else { 0 };
        let columns = BLOCKS * kind.block_len().max(BLOCK) - missing;
        let row_bytes = usize::try_from(kind.row_bytes(columns as u64)?).ok()?;
        let bytes = self.bytes.get_mut(..ROWS * row_bytes)?;
        let values = self.values.get_mut(..ROWS * columns)?;
        fill(values);
        if kind.can_quantize() {
            for (row, values) in bytes.chunks_exact_mut(row_bytes).zip(values.chunks_exact(columns)) {
                kind.quantize(values, row).ok()?;
            }
            hash.add_bytes(bytes);
        }
        if kind.block_len() > 1 {
            place_golden(kind, bytes, row_bytes)?;
        }
        kind.swap_endian(bytes).ok()?;
        hash.add_bytes(bytes);
        kind.swap_endian(bytes).ok()?;

        let matrix = Matrix::new(bytes, kind, ROWS, columns)?;
        let x = values.get(..TOKENS * columns)?;
        let mut activations = Activations { blocks: &mut self.blocks, rest: &mut self.rests };
        let crew = Crew { isa, workers: &Single };
        activations.quantize(crew, x, columns, &[&matrix]);
        matmul(crew, (&[(&matrix, Vector::EMPTY)], 0), x, &activations, &mut self.products);
        hash.add(&self.products);

        for (row, values) in bytes.chunks_exact(row_bytes).zip(values.chunks_exact_mut(columns)) {
            kind.dequantize(row, values).ok()?;
        }
        hash.add(values);
        Some(())
    }
}

/// Fills every row with the golden blocks of `kind`, each row beginning with another one.
fn place_golden(kind: Type, rows: &mut [u8], row_bytes: usize) -> Option<()> {
    let (_, golden) = GOLDENS.iter().find(|(name, _)| *name == kind.name())?;
    let golden = golden.get(..BLOCKS * kind.block_bytes())?;
    for (first, row) in rows.chunks_exact_mut(row_bytes).enumerate() {
        for (index, block) in row.chunks_mut(kind.block_bytes()).enumerate() {
            let from = golden.chunks_exact(kind.block_bytes()).nth((first + index) % BLOCKS)?;
            block.copy_from_slice(from.get(..block.len())?);
        }
    }
    Some(())
}

/// Numbers from -1 to 1 that are the same everywhere: the top 16 bits of Knuth's linear congruential generator.
fn fill(values: &mut [f32]) {
    let mut state = 1u64;
    for value in values {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *value = f32::from((state >> 48) as u16 as i16) / 32768.0;
    }
}
