//! One tensor on its way from a source to a file: groups of rows, shared out among threads.

use std::io::Write;
use std::sync::{Mutex, MutexGuard};

use smidgen_core::bytes::Endian;
use smidgen_core::quant::Type;

use crate::emit::Means;
use crate::encode::{EncodeRows, Unwritable};
use crate::error::Error;
use crate::progress::Work;
use crate::source::{Source, TensorInfo};

/// A thread takes rows of about this many weights at a time.
const TASK_WEIGHTS: u64 = 16 << 10;
/// Rows of about this many weights for each thread are read together: several tasks, so that threads end at about the same time.
const GROUP_WEIGHTS: u64 = 4 * TASK_WEIGHTS;

/// Memory that is used again for every group of rows.
pub(crate) struct Buffers {
    stored: Vec<u8>,
    target: Vec<u8>,
    /// For each worker, weights before and after rounding.
    floats: Vec<Mutex<[Vec<f32>; 2]>>,
}

impl Buffers {
    pub(crate) fn new(n_workers: usize) -> Self {
        let floats = (0..n_workers).map(|_| Mutex::new([Vec::new(), Vec::new()])).collect();
        Buffers { stored: Vec::new(), target: Vec::new(), floats }
    }
}

/// What became of a tensor.
pub(crate) struct Written {
    /// Bytes of its data.
    pub(crate) n_bytes: u64,
    /// The root mean square of what rounding changed, over that of the weights.
    pub(crate) error: f64,
}

/// One tensor on its way from the source to the file.
pub(crate) struct TensorWriter<'a> {
    pub(crate) source: &'a mut dyn Source,
    pub(crate) index: usize,
    pub(crate) kind: Type,
    pub(crate) endian: Endian,
    pub(crate) means: &'a Means<'a>,
    pub(crate) buffers: &'a mut Buffers,
}

/// Sums over the weights of some rows.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    squares: f64,
    squared_errors: f64,
}

/// Why some rows could not be written; weights are counted from the first of these rows.
enum Problem {
    NotFinite(usize, f32),
    TooLarge(usize, f32),
    Because(String),
}

/// Rows that one thread writes.
struct Task<'a> {
    stored: &'a [u8],
    target: &'a mut [u8],
    done: Result<Sums, Problem>,
}

/// How the rows of a tensor are written, whichever they are.
struct Rows<'a> {
    stored: Type,
    target: Type,
    n_columns: usize,
    stored_bytes: usize,
    target_bytes: usize,
    endian: Endian,
    /// `None` when the bytes stay as they are.
    encode: Option<&'a dyn EncodeRows>,
}

impl TensorWriter<'_> {
    /// Writes all rows.
    pub(crate) fn write(
        &mut self,
        out: &mut dyn Write,
        failed: &dyn Fn(std::io::Error) -> Error,
        work: &Work<'_>,
    ) -> Result<Written, Error> {
        let tensor = self.source.tensors()[self.index].clone();
        let subject = self.source.files()[0].clone();
        let encode = match self.kind == tensor.kind {
            true => None,
            false => Some(self.means.encode.begin(&subject, &tensor, self.kind)?),
        };
        // Both products were checked when the header was made.
        let row_bytes = |kind: Type| kind.row_bytes(tensor.n_columns()).unwrap_or(0) as usize;
        let rows = Rows {
            stored: tensor.kind,
            target: self.kind,
            n_columns: tensor.n_columns() as usize,
            stored_bytes: row_bytes(tensor.kind),
            target_bytes: row_bytes(self.kind),
            endian: self.endian,
            encode: encode.as_deref(),
        };
        let task_rows = (TASK_WEIGHTS / tensor.n_columns().max(1)).max(1);
        let group_rows = (GROUP_WEIGHTS / task_rows / tensor.n_columns().max(1)).max(1) * task_rows;
        let group_rows = group_rows * self.means.workers.n_workers() as u64;
        let mut sums = Sums::default();
        let mut row = 0;
        while row < tensor.n_rows() {
            let n_rows = group_rows.min(tensor.n_rows() - row) as usize;
            self.buffers.stored.resize(n_rows * rows.stored_bytes, 0);
            self.source.read_rows(self.index, row, &mut self.buffers.stored)?;
            self.buffers.target.resize(n_rows * rows.target_bytes, 0);
            for (task, done) in self.rewrite(&rows, task_rows as usize).into_iter().enumerate() {
                let first = (row + task as u64 * task_rows) * tensor.n_columns();
                let done = done.map_err(|problem| problem.in_tensor(&subject, &tensor, self.kind, first))?;
                sums.squares += done.squares;
                sums.squared_errors += done.squared_errors;
            }
            out.write_all(&self.buffers.target).map_err(failed)?;
            work.advance(self.buffers.target.len() as u64);
            row += n_rows as u64;
        }
        let error = if sums.squared_errors == 0.0 { 0.0 } else { (sums.squared_errors / sums.squares).sqrt() };
        Ok(Written { n_bytes: tensor.n_rows() * rows.target_bytes as u64, error })
    }

    /// Fills the target buffer from the stored rows, `task_rows` to a task; what became of each task, in their order.
    fn rewrite(&mut self, rows: &Rows<'_>, task_rows: usize) -> Vec<Result<Sums, Problem>> {
        let Buffers { stored, target, floats } = &mut *self.buffers;
        let stored = stored.chunks(task_rows * rows.stored_bytes);
        let target = target.chunks_mut(task_rows * rows.target_bytes);
        let tasks: Vec<Mutex<Task<'_>>> = stored
            .zip(target)
            .map(|(stored, target)| Mutex::new(Task { stored, target, done: Ok(Sums::default()) }))
            .collect();
        // Every task and every worker's buffers are locked by one thread only, so no lock is ever waited for.
        self.means.workers.run(tasks.len(), &|worker, task| {
            let task = &mut *lock(&tasks[task]);
            let [weights, rounded] = &mut *lock(&floats[worker]);
            task.done = rows.write(task, weights, rounded);
        });
        tasks.into_iter().map(|task| task.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()).done).collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Rows<'_> {
    /// Writes the rows of `task`; `weights` and `rounded` are memory to work in.
    fn write(&self, task: &mut Task<'_>, weights: &mut Vec<f32>, rounded: &mut Vec<f32>) -> Result<Sums, Problem> {
        let n_weights = task.stored.len() / self.stored_bytes.max(1) * self.n_columns;
        self.read(self.stored, task.stored, weights, n_weights)?;
        if let Some(index) = weights.iter().position(|weight| !weight.is_finite()) {
            return Err(Problem::NotFinite(index, weights[index]));
        }
        let mut sums = Sums::default();
        match self.encode {
            None => task.target.copy_from_slice(task.stored),
            Some(encode) => {
                encode.encode(weights, task.target).map_err(|unwritable| match unwritable {
                    Unwritable::TooLarge(index) => Problem::TooLarge(index, weights[index]),
                    Unwritable::Because(why) => Problem::Because(why),
                })?;
                self.read(self.target, task.target, rounded, n_weights)?;
                // Rounding may have changed the weights, so they are read again.
                self.read(self.stored, task.stored, weights, n_weights)?;
                self.check(weights, rounded)?;
                for (weight, rounded) in weights.iter().zip(rounded) {
                    let error = f64::from(*weight - *rounded);
                    sums.squares += f64::from(*weight) * f64::from(*weight);
                    sums.squared_errors += error * error;
                }
            }
        }
        if self.endian == Endian::Big {
            for row in task.target.chunks_exact_mut(self.target_bytes) {
                self.target.swap_endian(row).map_err(|error| Problem::Because(error.to_string()))?;
            }
        }
        Ok(sums)
    }

    /// Fills `weights` with what rows of `kind` in `bytes` stand for.
    fn read(&self, kind: Type, bytes: &[u8], weights: &mut Vec<f32>, n_weights: usize) -> Result<(), Problem> {
        weights.resize(n_weights, 0.0);
        let row_bytes = if kind == self.stored { self.stored_bytes } else { self.target_bytes };
        for (row, weights) in bytes.chunks_exact(row_bytes).zip(weights.chunks_exact_mut(self.n_columns)) {
            kind.dequantize(row, weights).map_err(|error| Problem::Because(error.to_string()))?;
        }
        Ok(())
    }

    /// Finds the weight that made a scale larger than its type can hold.
    fn check(&self, weights: &[f32], rounded: &[f32]) -> Result<(), Problem> {
        let Some(at) = rounded.iter().position(|weight| !weight.is_finite()) else { return Ok(()) };
        let row = at - at % self.n_columns;
        let block = row + (at - row) / self.target.block_len() * self.target.block_len();
        let shared = block..(block + self.target.block_len()).min(row + self.n_columns);
        let largest = shared.max_by(|&a, &b| weights[a].abs().total_cmp(&weights[b].abs())).unwrap_or(at);
        Err(Problem::TooLarge(largest, weights[largest]))
    }
}

impl Problem {
    /// The error for `tensor`, whose weight number `first` is the first of these rows.
    fn in_tensor(self, subject: &std::path::Path, tensor: &TensorInfo, kind: Type, first: u64) -> Error {
        let named = |index: usize, what: String| {
            Error::bad(subject, format!("tensor '{}', weight {}: {what}", tensor.shown(), first + index as u64))
        };
        match self {
            Problem::NotFinite(index, weight) => {
                let what = if weight.is_nan() { "NaN" } else { "infinite" };
                named(index, format!("is {what}; the model is broken"))
            }
            Problem::TooLarge(index, weight) => named(index, format!("{weight} is too large for {}", kind.name())),
            Problem::Because(why) => Error::bad(subject, format!("tensor '{}': {why}", tensor.shown())),
        }
    }
}
