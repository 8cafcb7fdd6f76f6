//! Weight matrices times activations.
//!
//! The work is split by rows, never by columns: a dot product is always one worker's, start to end, and takes the same
//! path through the same additions whoever computes it, alone or in a batch.

use super::norm::Vector;
use crate::quant::{Activation, Format, Tile, Type, n_blocks, quantize_activation, with_format};
use crate::simd::{BLOCK, Isa, Kernel, Simd, TILE};
use crate::workers::{Columns, Single, Workers, split};

/// A weight matrix as it lies in the file: `rows` rows of `columns` values.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    /// The rows one after the other, little-endian.
    data: &'a [u8],
    /// How many rows (outputs).
    pub rows: usize,
    /// Values in a row (inputs).
    pub columns: usize,
    /// What the bytes mean.
    pub kind: Type,
    row_bytes: usize,
}

impl<'a> Matrix<'a> {
    /// No matrix.
    pub const EMPTY: Matrix<'static> = Matrix { data: &[], rows: 0, columns: 0, kind: Type::F32, row_bytes: 0 };

    /// The matrix in `data`; `None` when that is not exactly `rows` rows of `columns` values of `kind`.
    pub fn new(data: &'a [u8], kind: Type, rows: usize, columns: usize) -> Option<Self> {
        let row_bytes = usize::try_from(kind.row_bytes(columns as u64)?).ok()?;
        (row_bytes.checked_mul(rows)? == data.len()).then_some(Matrix { data, rows, columns, kind, row_bytes })
    }

    /// The bytes of row `row`.
    #[inline(always)]
    pub fn row(&self, row: usize) -> &'a [u8] {
        &self.data[row * self.row_bytes..][..self.row_bytes]
    }

    /// Some of the rows as a matrix of their own.
    pub fn slice(&self, rows: core::ops::Range<usize>) -> Matrix<'a> {
        let data = &self.data[rows.start * self.row_bytes..rows.end * self.row_bytes];
        Matrix { data, rows: rows.len(), ..*self }
    }
}

/// A batch of activations, and room for their 8-bit form.
#[derive(Debug)]
pub struct Activations<'a> {
    /// The 8-bit values, (tokens, blocks).
    pub q: &'a mut [[i8; BLOCK]],
    /// Their scales, (tokens, blocks).
    pub scale: &'a mut [f32],
    /// Their sums, (tokens, blocks).
    pub sum: &'a mut [i32],
}

impl Activations<'_> {
    /// Fills in the 8-bit form of the rows of `x`, (tokens, `columns`), when one of `matrices` reads it.
    pub fn quantize(&mut self, isa: Isa, x: &[f32], columns: usize, matrices: &[&Matrix<'_>]) {
        if matrices.iter().any(|matrix| matrix.kind.is_integer()) {
            isa.run(Quantize { activations: self, x, columns });
        }
    }
}

struct Quantize<'a, 'b> {
    activations: &'a mut Activations<'b>,
    x: &'a [f32],
    columns: usize,
}

impl Kernel for Quantize<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let n = n_blocks(self.columns);
        for (token, x) in self.x.chunks_exact(self.columns).enumerate() {
            let blocks = token * n..(token + 1) * n;
            let Activations { q, scale, sum } = &mut *self.activations;
            quantize_activation(x, &mut q[blocks.clone()], &mut scale[blocks.clone()], &mut sum[blocks]);
        }
    }
}

/// Where and on whom a job runs.
#[derive(Clone, Copy)]
pub struct Crew<'a> {
    /// The instruction set.
    pub isa: Isa,
    /// The threads.
    pub workers: &'a dyn Workers,
}

/// Products of a weight and an activation below which waking another thread costs more than it saves.
const SMALL_JOB: usize = 1 << 17;
/// Tasks for each worker: enough to even out an unlucky one, few enough to hand out cheaply.
const TASKS_PER_WORKER: usize = 4;

/// Writes `matrix * x + bias` for every row of `x`: `out` is (tokens, matrix rows), `x` (tokens, columns), and
/// `activations` holds the 8-bit form of `x` when the matrix is of an integer format. No bias when it is empty.
pub fn matmul(
    crew: Crew<'_>,
    matrix: &Matrix<'_>,
    bias: Vector<'_>,
    x: &[f32],
    activations: &Activations<'_>,
    out: &mut [f32],
) {
    let alone = matrix.rows * x.len() < SMALL_JOB;
    let workers: &dyn Workers = if alone { &Single } else { crew.workers };
    let tasks = if workers.n_workers() == 1 { 1 } else { workers.n_workers() * TASKS_PER_WORKER };
    let chunk = matrix.rows.div_ceil(tasks).next_multiple_of(TILE);
    split(workers, out, matrix.rows, chunk, (&mut [], 0), &|_, columns| {
        with_format!(matrix.kind, F => {
            crew.isa.run(Rows::<F> { matrix, bias, x, activations, columns, format: core::marker::PhantomData })
        }, _ => unreachable!("the model was checked to hold supported types only"))
    });
}

/// The dot products of some rows of a matrix with every activation.
struct Rows<'a, F> {
    matrix: &'a Matrix<'a>,
    bias: Vector<'a>,
    x: &'a [f32],
    activations: &'a Activations<'a>,
    columns: Columns<'a>,
    format: core::marker::PhantomData<F>,
}

/// Tokens whose activations meet a tile of weights while it is in registers.
const TOKENS: usize = 4;

impl<F: Format> Kernel for Rows<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let range = self.columns.range();
        let n_tokens = self.columns.n_rows();
        for first in range.clone().step_by(TILE) {
            // A last, narrower tile repeats its last row; the surplus is not written.
            let rows = core::array::from_fn(|r| self.matrix.row((first + r).min(range.end - 1)));
            let width = TILE.min(range.end - first);
            let mut token = 0;
            while token + TOKENS <= n_tokens {
                self.tile::<S, TOKENS>(s, &rows, token, first - range.start, width);
                token += TOKENS;
            }
            while token < n_tokens {
                self.tile::<S, 1>(s, &rows, token, first - range.start, width);
                token += 1;
            }
        }
    }
}

impl<'a, F: Format> Rows<'a, F> {
    /// One tile of `width` rows with `T` tokens from `token` on, written at column `at` of this task.
    #[inline(always)]
    fn tile<S: Simd, const T: usize>(&mut self, s: S, rows: &[&[u8]; TILE], token: usize, at: usize, width: usize) {
        let activations: [Activation<'a>; T] = core::array::from_fn(|t| self.activation(token + t));
        let mut out = [[0.0; TILE]; T];
        F::Rows::tile(s, rows, &activations, &mut out);
        let first = self.columns.range().start + at;
        for (t, products) in out.iter().enumerate() {
            let out = &mut self.columns.row(token + t)[at..at + width];
            out.copy_from_slice(&products[..width]);
            if !self.bias.is_empty() {
                let bias = self.bias.slice(first..first + width);
                out.iter_mut().zip(bias.iter()).for_each(|(out, b)| *out += b);
            }
        }
    }

    #[inline(always)]
    fn activation(&self, token: usize) -> Activation<'a> {
        let columns = self.matrix.columns;
        let n = n_blocks(columns);
        let blocks = if F::INTEGER { token * n..(token + 1) * n } else { 0..0 };
        Activation {
            x: &self.x[token * columns..(token + 1) * columns],
            q: &self.activations.q[blocks.clone()],
            scale: &self.activations.scale[blocks.clone()],
            sum: &self.activations.sum[blocks],
        }
    }
}
