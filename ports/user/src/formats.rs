//! Every weight format on its own: rows that this machine quantizes, reads back, swaps and multiplies.
//!
//! Checkpoints small enough for an emulator have rows that few block formats divide, so the formats are shown rows that
//! they all do.

use crate::Hash;
use smidgen_core::ops::matmul::{Activations, Crew, Matrix, matmul};
use smidgen_core::ops::norm::Vector;
use smidgen_core::quant::TYPES;
use smidgen_core::simd::{BLOCK, Isa};
use smidgen_core::workers::Single;

/// Whole blocks of every format, and more than one tile of rows and of tokens with some left over.
const COLUMNS: usize = 3 * 256;
const ROWS: usize = 11;
const TOKENS: usize = 5;
/// No format takes more than four bytes for a value.
const BYTES: usize = ROWS * COLUMNS * 4;

/// Rows and activations; too large for a stack.
pub struct Scratch {
    values: [f32; ROWS * COLUMNS],
    bytes: [u8; BYTES],
    blocks: [[i8; BLOCK]; TOKENS * COLUMNS / BLOCK],
    scales: [f32; TOKENS * COLUMNS / BLOCK],
    sums: [i32; TOKENS * COLUMNS / BLOCK],
    products: [f32; TOKENS * ROWS],
}

impl Scratch {
    /// Zeros.
    pub const EMPTY: Scratch = Scratch {
        values: [0.0; ROWS * COLUMNS],
        bytes: [0; BYTES],
        blocks: [[0; BLOCK]; TOKENS * COLUMNS / BLOCK],
        scales: [0.0; TOKENS * COLUMNS / BLOCK],
        sums: [0; TOKENS * COLUMNS / BLOCK],
        products: [0.0; TOKENS * ROWS],
    };

    /// Adds to `hash` all that `isa` makes of each format: blocks, the same blocks swapped, values and products.
    ///
    /// `None` is a format that promises what it does not do.
    pub fn run(&mut self, isa: Isa, hash: &mut Hash) -> Option<()> {
        for kind in TYPES.iter().map(|row| row.0).filter(|kind| kind.is_supported()) {
            let row_bytes = usize::try_from(kind.row_bytes(COLUMNS as u64)?).ok()?;
            let bytes = self.bytes.get_mut(..ROWS * row_bytes)?;
            fill(&mut self.values);
            for (row, values) in bytes.chunks_exact_mut(row_bytes).zip(self.values.chunks_exact(COLUMNS)) {
                kind.quantize(values, row).ok()?;
            }
            hash.add_bytes(bytes);
            kind.swap_endian(bytes).ok()?;
            hash.add_bytes(bytes);
            kind.swap_endian(bytes).ok()?;

            let matrix = Matrix::new(bytes, kind, ROWS, COLUMNS)?;
            let x = self.values.get(..TOKENS * COLUMNS)?;
            let mut activations = Activations { q: &mut self.blocks, scale: &mut self.scales, sum: &mut self.sums };
            activations.quantize(isa, x, COLUMNS, &[&matrix]);
            let crew = Crew { isa, workers: &Single };
            matmul(crew, &matrix, Vector::EMPTY, x, &activations, &mut self.products);
            hash.add(&self.products);

            for (row, values) in bytes.chunks_exact(row_bytes).zip(self.values.chunks_exact_mut(COLUMNS)) {
                kind.dequantize(row, values).ok()?;
            }
            hash.add(&self.values);
        }
        Some(())
    }
}

/// Numbers from -1 to 1 that are the same everywhere: the top 16 bits of Knuth's linear congruential generator.
fn fill(values: &mut [f32]) {
    let mut state = 1u64;
    for value in values {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *value = f32::from((state >> 48) as u16 as i16) / 32768.0;
    }
}
