//! Products with, and rows of, a matrix of which some rows may lie outside of memory.

use super::matmul::{Activations, Crew, Matrix, matmul};
use super::norm::Vector;
use crate::store::{Fault, Store};

/// Writes `matrix * x + bias` as [`matmul`] does: first the rows that are in memory, then those that `store` brings, as they
/// come. A row's product is computed whole and alone, so the bits are those of a matrix that is in memory.
///
/// # Errors
/// Rows that the store could not bring; `out` is written in part then.
pub fn multiply(
    (crew, store): (Crew<'_>, &dyn Store),
    matrix: &Matrix<'_>,
    bias: Vector<'_>,
    x: &[f32],
    activations: &Activations<'_>,
    out: &mut [f32],
) -> Result<(), Fault> {
    let mut first = matrix.held_rows();
    if first == matrix.rows {
        matmul(crew, (matrix, 0), bias, x, activations, out);
        return Ok(());
    }
    if first > 0 {
        matmul(crew, (&matrix.slice(0..first), 0), bias, x, activations, out);
    }
    store.stream(matrix.offset(first), matrix.row_bytes(), matrix.rows - first, &mut |bytes| {
        let part = matrix.of_rows(bytes);
        matmul(crew, (&part, first), bias, x, activations, out);
        first += part.rows;
    })
}

/// Dequantizes row `row` of `matrix` into `out`, (columns).
///
/// # Errors
/// A row that is not in memory and that the store could not bring.
pub fn read_row(store: &dyn Store, matrix: &Matrix<'_>, row: usize, out: &mut [f32]) -> Result<(), Fault> {
    if row < matrix.held_rows() {
        matrix.dequantize(row, out);
        return Ok(());
    }
    store.fetch(matrix.offset(row), matrix.row_bytes(), &mut |bytes| matrix.of_rows(bytes).dequantize(0, out))
}
