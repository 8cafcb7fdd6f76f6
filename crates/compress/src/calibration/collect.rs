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

/// Tokens that meet a row of sums while it is in registers.
const TOKENS: usize = 4;

impl Kernel for Outer<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let mut upper = self.upper;
        let mut i = self.first;
        while !upper.is_empty() {
            let (sums, rest) = upper.split_at_mut(self.columns - i);
            let mut groups = self.x.chunks_exact(TOKENS * self.columns);
            for group in &mut groups {
                let rows: [&[f32]; TOKENS] =
                    std::array::from_fn(|t| &group[t * self.columns + i..(t + 1) * self.columns]);
                let x = rows.map(|row| f64::from(row[0]));
                let [a, b, c, d] = rows;
                for ((((sum, a), b), c), d) in sums.iter_mut().zip(a).zip(b).zip(c).zip(d) {
                    let three = *sum + x[0] * f64::from(*a) + x[1] * f64::from(*b) + x[2] * f64::from(*c);
                    *sum = three + x[3] * f64::from(*d);
                }
            }
            for row in groups.remainder().chunks_exact(self.columns) {
                let x = f64::from(row[i]);
                sums.iter_mut().zip(&row[i..]).for_each(|(sum, &y)| *sum += x * f64::from(y));
            }
            upper = rest;
            i += 1;
        }
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
