//! Products with, and rows of, a matrix of which some rows may lie outside of memory.

use super::matmul::{Activations, Crew, Matrix, matmul};
use super::norm::Vector;
use crate::simd::TILE;
use crate::store::{Fault, Store};

/// Writes `matrix * x + bias` as [`matmul`] does, with rows that `store` brings, as they come, and after each part of them a like share of
/// the rows that are in memory, so that the next part has time to come. A row's product is computed whole and alone, so the bits are
/// those of a matrix that is in memory.
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
    let n_held = matrix.held_rows();
    let n_brought = matrix.rows - n_held;
    if n_brought == 0 {
        matmul(crew, (&[(matrix, bias)], 0), x, activations, out);
        return Ok(());
    }
    let (mut first, mut next) = (0, n_held);
    store.stream(matrix.offset(n_held), matrix.row_bytes(), n_brought, &mut |bytes| {
        let part = matrix.of_rows(bytes);
        matmul(crew, (&[(&part, bias.behind(next))], next), x, activations, out);
        next += part.rows;
        let due = (n_held as u64 * (next - n_held) as u64 / n_brought as u64) as usize;
        // Whole tiles, until the end.
        let end = if next == matrix.rows { n_held } else { due / TILE * TILE };
        if first < end {
            matmul(crew, (&[(&matrix.slice(first..end), bias.behind(first))], first), x, activations, out);
            first = end;
        }
    })
}

/// The products of several matrices with the same `x`, as [`multiply`] takes them one after the other; they follow each other in `out`,
/// (tokens, rows) of each. With one token, matrices in memory are one job.
///
/// # Errors
/// Those of [`multiply`].
pub fn multiply_each(
    (crew, store): (Crew<'_>, &dyn Store),
    matrices: &[(&Matrix<'_>, Vector<'_>)],
    x: &[f32],
    activations: &Activations<'_>,
    mut out: &mut [f32],
) -> Result<(), Fault> {
    // A task begins at a tile of the matrix that it begins in.
    let joins = |(matrix, _): &(&Matrix<'_>, Vector<'_>)| {
        matrix.columns == x.len() && matrix.held_rows() == matrix.rows && matrix.rows.is_multiple_of(TILE)
    };
    if matrices.iter().all(joins) {
        matmul(crew, (matrices, 0), x, activations, out);
        return Ok(());
    }
    for &(matrix, bias) in matrices {
        let (own, behind) = out.split_at_mut(x.len() / matrix.columns * matrix.rows);
        multiply((crew, store), matrix, bias, x, activations, own)?;
        out = behind;
    }
    Ok(())
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
