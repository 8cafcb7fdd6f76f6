//! Summing what an engine shows.
//!
//! Sums are in f64, and each is added to token by token, so that they do not depend on batches, threads or kernels.

use super::{Moment, Upper, triangle};
use smidgen_core::engine::{Input, Observer};
use smidgen_core::simd::{Isa, Kernel, Simd};
use smidgen_core::workers::Workers;
use std::sync::{Mutex, PoisonError};

/// Tasks for each worker: rows of a triangle differ in length, and many tasks even that out.
const TASKS_PER_WORKER: usize = 4;

/// The sums of one input.
#[derive(Clone, Debug)]
pub struct Sums {
    input: Input,
    columns: usize,
    n_tokens: u64,
    squares: Vec<f64>,
    /// The rows of the upper triangle of the sum of `x x^T`; empty when that is not wanted.
    upper: Vec<f64>,
}

impl Sums {
    /// Nothing yet of an input of `columns`.
    pub fn new(input: Input, columns: usize, with_moment: bool) -> Self {
        let upper = if with_moment { vec![0.0; triangle(columns)] } else { Vec::new() };
        Self { input, columns, n_tokens: 0, squares: vec![0.0; columns], upper }
    }

    /// Bytes that [`Sums::new`] takes.
    pub fn bytes(columns: usize, with_moment: bool) -> usize {
        (columns + if with_moment { triangle(columns) } else { 0 }) * size_of::<f64>()
    }

    /// The input.
    pub fn input(&self) -> Input {
        self.input
    }

    /// Tokens seen.
    pub fn n_tokens(&self) -> u64 {
        self.n_tokens
    }

    /// The sums of squares, (columns).
    pub fn squares(&self) -> &[f64] {
        &self.squares
    }

    /// The rows of the upper triangle of the sum of `x x^T`, one after the other; empty when it is not collected.
    pub fn upper(&self) -> &[f64] {
        &self.upper
    }

    /// The mean of the squares, (columns); ones when no token was seen.
    pub fn importance(&self) -> Vec<f32> {
        let n = self.n_tokens as f64;
        self.squares.iter().map(|sum| if n > 0.0 { (sum / n) as f32 } else { 1.0 }).collect()
    }

    /// The second moment, when it is collected and there was a token.
    pub fn moment(&self) -> Option<Moment<'_>> {
        let n_tokens = self.n_tokens as f64;
        let upper = Upper::Summed(&self.upper);
        (!self.upper.is_empty() && self.n_tokens > 0).then_some(Moment { columns: self.columns, n_tokens, upper })
    }

    /// Goes on from sums of `n_tokens` that were kept: `next` gives the squares, and then the triangle if it is collected.
    ///
    /// # Errors
    /// The first of `next`; some sums have been replaced then.
    pub fn restore<E>(&mut self, n_tokens: u64, mut next: impl FnMut() -> Result<f64, E>) -> Result<(), E> {
        self.n_tokens = n_tokens;
        for sum in self.squares.iter_mut().chain(&mut self.upper) {
            *sum = next()?;
        }
        Ok(())
    }

    /// Adds the rows of `x`, (tokens, columns).
    fn add(&mut self, x: &[f32], isa: Isa, workers: &dyn Workers) {
        let columns = self.columns;
        for row in x.chunks_exact(columns) {
            self.squares.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x) * f64::from(x));
        }
        self.n_tokens += (x.len() / columns) as u64;
        if self.upper.is_empty() {
            return;
        }
        let tasks = split(&mut self.upper, columns, workers.n_workers() * TASKS_PER_WORKER);
        workers.run(tasks.len(), &|_, task| {
            // A task is one worker's, so the lock is never waited for.
            let mut rows = tasks[task].lock().unwrap_or_else(PoisonError::into_inner);
            let (first, upper) = &mut *rows;
            isa.run(Outer { upper, first: *first, columns, x });
        });
    }
}

/// Some rows of a triangle: the number of the first, and their values.
type Rows<'a> = Mutex<(usize, &'a mut [f64])>;

/// Cuts a triangle into about `n` tasks of the same size, each of whole rows.
fn split(mut upper: &mut [f64], columns: usize, n: usize) -> Vec<Rows<'_>> {
    let size = upper.len().div_ceil(n);
    let mut tasks = Vec::with_capacity(n);
    let mut first = 0;
    while first < columns {
        let (mut end, mut len) = (first, 0);
        while end < columns && len < size {
            len += columns - end;
            end += 1;
        }
        let (rows, rest) = upper.split_at_mut(len);
        tasks.push(Mutex::new((first, rows)));
        upper = rest;
        first = end;
    }
    tasks
}

/// Adds `x x^T` of every row of `x` to some rows of a triangle, from row `first` on.
struct Outer<'a> {
    upper: &'a mut [f64],
    first: usize,
    columns: usize,
    x: &'a [f32],
}

/// Rows and columns of the tile of sums that stays in registers while all tokens pass.
const ROWS: usize = 4;
const COLUMNS: usize = 16;

impl Kernel for Outer<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Outer { mut upper, first, columns, x } = self;
        let mut i = first;
        while !upper.is_empty() {
            // Where fewer rows are left, the others are empty and nothing is added to them.
            let mut rows: [&mut [f64]; ROWS] = std::array::from_fn(|r| {
                let len = (columns - (i + r).min(columns)).min(upper.len());
                upper.split_off_mut(..len).unwrap_or_default()
            });
            let is_whole = i + ROWS <= columns && !rows[ROWS - 1].is_empty();
            let inner = if is_whole { i + ROWS } else { columns };
            let outer = inner + (columns - inner) / COLUMNS * COLUMNS;
            for (r, row) in rows.iter_mut().enumerate() {
                let end = i + r + row.len();
                add_edge(row, i + r, i + r..inner.min(end), columns, x);
                add_edge(row, i + r, outer.max(i + r)..end, columns, x);
            }
            for j in (inner..outer).step_by(COLUMNS) {
                add_tile(&mut rows, i, j, columns, x);
            }
            i += ROWS;
        }
    }
}

/// Adds `x_i * x_j` of every token to the sums of row `i`, of which the first is that of column `i`, for each `j`.
#[inline(always)]
fn add_edge(row: &mut [f64], i: usize, of: std::ops::Range<usize>, columns: usize, x: &[f32]) {
    for j in of {
        row[j - i] = x.chunks_exact(columns).fold(row[j - i], |sum, x| sum + f64::from(x[i]) * f64::from(x[j]));
    }
}

/// The same for rows from `i` on and [`COLUMNS`] columns from `j` on.
#[inline(always)]
fn add_tile(rows: &mut [&mut [f64]; ROWS], i: usize, j: usize, columns: usize, x: &[f32]) {
    let mut sums: [[f64; COLUMNS]; ROWS] =
        std::array::from_fn(|r| std::array::from_fn(|column| rows[r][j - i - r + column]));
    for x in x.chunks_exact(columns) {
        let (left, right) = (&x[i..i + ROWS], &x[j..j + COLUMNS]);
        let right: [f64; COLUMNS] = std::array::from_fn(|column| f64::from(right[column]));
        for (sums, &left) in sums.iter_mut().zip(left) {
            sums.iter_mut().zip(&right).for_each(|(sum, right)| *sum += f64::from(left) * right);
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        rows[r][j - i - r..][..COLUMNS].copy_from_slice(sums);
    }
}

/// Sums of some of a model's inputs, gathered while an engine runs (`Engine::forward_observed`).
pub struct Collector<'a> {
    sums: Vec<Sums>,
    isa: Isa,
    workers: &'a dyn Workers,
}

impl<'a> Collector<'a> {
    /// Will sum the given inputs, each with its columns, and leave out the others.
    pub fn new(inputs: &[(Input, usize)], with_moments: bool, isa: Isa, workers: &'a dyn Workers) -> Self {
        let sums = inputs.iter().map(|&(input, columns)| Sums::new(input, columns, with_moments)).collect();
        Self { sums, isa, workers }
    }

    /// The sums so far, in the order of the inputs given.
    pub fn sums(&self) -> &[Sums] {
        &self.sums
    }

    /// The sums, to be restored.
    pub fn sums_mut(&mut self) -> &mut [Sums] {
        &mut self.sums
    }

    /// The sums of one input.
    pub fn of(&self, input: Input) -> Option<&Sums> {
        self.sums.iter().find(|sums| sums.input == input)
    }
}

impl Observer for Collector<'_> {
    fn observe(&mut self, input: Input, x: &[f32], columns: usize) {
        if let Some(sums) = self.sums.iter_mut().find(|sums| sums.input == input) {
            assert_eq!(sums.columns, columns, "the inputs of the model that runs");
            sums.add(x, self.isa, self.workers);
        }
    }
}
