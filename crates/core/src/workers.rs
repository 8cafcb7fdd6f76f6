//! Splitting a job among threads that the caller brings, each writing its own columns or rows of one buffer.
//!
//! Core has no threads: [`Single`] does everything itself, and a host implements [`Workers`] with a pool. Which worker does
//! which task never changes a result, because every output is computed whole by one task.
#![allow(unsafe_code)]

use core::marker::PhantomData;
use core::ops::Range;

/// Somebody who carries out the tasks of a job.
///
/// # Safety
/// `run` calls `job(worker, task)` exactly once for every task below `n_tasks`, never twice at the same time with the same
/// `worker`, every `worker` is below `n_workers`, and all calls have returned when `run` returns.
pub unsafe trait Workers: Sync {
    /// How many tasks may be under way at once.
    fn n_workers(&self) -> usize;
    /// Carries out `job(worker, task)` for every task.
    fn run(&self, n_tasks: usize, job: &(dyn Fn(usize, usize) + Sync));
}

/// The calling thread alone.
#[derive(Clone, Copy, Debug)]
pub struct Single;

// SAFETY: tasks are called one after the other.
unsafe impl Workers for Single {
    fn n_workers(&self) -> usize {
        1
    }

    fn run(&self, n_tasks: usize, job: &(dyn Fn(usize, usize) + Sync)) {
        for task in 0..n_tasks {
            job(0, task);
        }
    }
}

/// Some columns of a row-major (rows, columns) buffer, for one task alone to write.
#[derive(Debug)]
pub struct Columns<'a> {
    start: *mut f32,
    n_rows: usize,
    stride: usize,
    range: Range<usize>,
    buffer: PhantomData<&'a mut [f32]>,
}

impl Columns<'_> {
    /// The columns of the buffer that are this task's.
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// Some of this task's columns, for a part of its work.
    ///
    /// # Panics
    /// When they are not all this task's.
    pub(crate) fn part(&mut self, range: Range<usize>) -> Columns<'_> {
        assert!(self.range.start <= range.start && range.start <= range.end && range.end <= self.range.end);
        Columns { range, buffer: PhantomData, ..*self }
    }

    /// How many rows the buffer has.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// This task's columns of row `row`.
    ///
    /// # Panics
    /// When there is no such row.
    #[inline]
    pub fn row(&mut self, row: usize) -> &mut [f32] {
        assert!(row < self.n_rows);
        // SAFETY: `split` made `range` lie within a row of the buffer, `row` is below its number of rows, and no other task
        // has these columns; the borrow of `self` keeps this task from taking two slices at once.
        unsafe {
            let first = self.start.add(row * self.stride + self.range.start);
            core::slice::from_raw_parts_mut(first, self.range.len())
        }
    }
}

/// A pointer that tasks on other threads may use, each for its own part.
struct Shared<T>(*mut T);

// SAFETY: `split` and `split_rows` hand out disjoint parts only.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    fn get(&self) -> *mut T {
        self.0
    }
}

/// `n_units` dealt out to at most `n_tasks` tasks, to each as many as to the others but one.
#[derive(Clone, Copy)]
struct Deal {
    n_units: usize,
    n_tasks: usize,
}

impl Deal {
    /// Of so many tasks no number of units times a task is too large for a word.
    const MOST: usize = usize::MAX >> (usize::BITS / 2);

    fn new(n_units: usize, n_tasks: usize) -> Self {
        Deal { n_units, n_tasks: n_tasks.min(n_units).min(Self::MOST) }
    }

    /// The first unit of `task`, and the one behind its last.
    fn units(self, task: usize) -> Range<usize> {
        let Deal { n_units, n_tasks } = self;
        let first = |task: usize| n_units / n_tasks * task + n_units % n_tasks * task / n_tasks;
        first(task)..first(task + 1)
    }
}

/// Splits `rows`, each of `row_len` values, into at most `n_tasks` tasks of as many rows each, as far as that goes, and gives each task
/// the number of its first row and its rows.
///
/// # Panics
/// When `row_len` or `n_tasks` is zero, or `rows` is not whole rows.
pub fn split_rows<T: Send>(
    workers: &dyn Workers,
    (rows, row_len): (&mut [T], usize),
    n_tasks: usize,
    job: &(dyn Fn(usize, &mut [T]) + Sync),
) {
    assert!(rows.len().is_multiple_of(row_len) && n_tasks > 0);
    let deal = Deal::new(rows.len() / row_len, n_tasks);
    let start = Shared(rows.as_mut_ptr());
    workers.run(deal.n_tasks, &|_, task| {
        let own = deal.units(task);
        // SAFETY: the units of the tasks are all rows, each once, and no task is called twice, so nobody else has these.
        let part =
            unsafe { core::slice::from_raw_parts_mut(start.get().add(own.start * row_len), own.len() * row_len) };
        job(own.start, part);
    });
}

/// Splits the columns `range` of `out`, (rows, `stride`), into at most `n_tasks` tasks of as many units of `unit` columns each, as far as
/// that goes (the last unit may be narrower), and gives each task its columns and the `scratch_len` floats of `scratch` that belong to
/// its worker.
///
/// # Panics
/// When `unit` or `n_tasks` is zero, `out` is not whole rows, `range` does not lie within them, or `scratch` is too short for the workers.
pub fn split(
    workers: &dyn Workers,
    out: &mut [f32],
    (stride, range): (usize, Range<usize>),
    (unit, n_tasks): (usize, usize),
    (scratch, scratch_len): (&mut [f32], usize),
    job: &(dyn Fn(&mut [f32], Columns<'_>) + Sync),
) {
    assert!(out.len().is_multiple_of(stride) && range.start <= range.end && range.end <= stride && n_tasks > 0);
    assert!(workers.n_workers().checked_mul(scratch_len).is_some_and(|needed| needed <= scratch.len()));
    let n_rows = out.len() / stride;
    let start = Shared(out.as_mut_ptr());
    let scratch = Shared(scratch.as_mut_ptr());
    let deal = Deal::new(range.len().div_ceil(unit), n_tasks);
    workers.run(deal.n_tasks, &|worker, task| {
        let units = deal.units(task);
        let range = range.start + units.start * unit..range.end.min(range.start + units.end * unit);
        // SAFETY: the part lies within `scratch` by the assertion above, and `Workers` promises that no other call uses
        // the same worker number at the same time.
        let own = unsafe { core::slice::from_raw_parts_mut(scratch.get().add(worker * scratch_len), scratch_len) };
        job(own, Columns { start: start.get(), n_rows, stride, range, buffer: PhantomData });
    });
}

/// Two workers for tests, on one thread: the last task comes first, and they take turns.
#[cfg(test)]
pub(crate) struct Backwards;

// SAFETY: tasks are called one after the other.
#[cfg(test)]
unsafe impl Workers for Backwards {
    fn n_workers(&self) -> usize {
        2
    }

    fn run(&self, n_tasks: usize, job: &(dyn Fn(usize, usize) + Sync)) {
        (0..n_tasks).rev().for_each(|task| job(task % 2, task));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn every_column_is_written_once() {
        let mut out = vec![0.0; 3 * 10];
        for (range, n_tasks) in [(0..3, 2), (3..3, 1), (3..10, 3)] {
            split(&Single, &mut out, (10, range), (2, n_tasks), (&mut [0.0; 2], 2), &|scratch, mut columns| {
                scratch[1] += 1.0;
                for row in 0..columns.n_rows() {
                    let first = columns.range().start;
                    for (i, x) in columns.row(row).iter_mut().enumerate() {
                        *x += (row * 10 + first + i) as f32;
                    }
                }
            });
        }
        assert!(out.iter().enumerate().all(|(i, &x)| x == i as f32));
    }

    #[test]
    fn tasks_are_alike() {
        let widths = Mutex::new(Vec::new());
        split(&Single, &mut [0.0; 100], (100, 9..100), (4, 8), (&mut [], 0), &|_, columns| {
            widths.lock().unwrap().push(columns.range().len());
        });
        assert_eq!(widths.into_inner().unwrap(), [8, 12, 12, 12, 12, 12, 12, 11]);
    }

    #[test]
    fn every_row_is_given_to_one_task() {
        for (n_rows, n_tasks) in [(0, 3), (1, 3), (7, 3), (3, 7), (8, 5)] {
            let mut rows = vec![(0, 0); n_rows * 2];
            let n_called = Mutex::new(0);
            split_rows(&Backwards, (&mut rows, 2), n_tasks, &|first, own| {
                own.iter_mut().enumerate().for_each(|(i, x)| *x = (x.0 + 1, first * 2 + i));
                *n_called.lock().unwrap() += 1;
            });
            assert!(rows.iter().enumerate().all(|(i, &x)| x == (1, i)));
            assert_eq!(n_called.into_inner().unwrap(), n_tasks.min(n_rows));
        }
    }

    #[test]
    fn a_task_may_part_its_columns() {
        let mut out = vec![0.0; 2 * 8];
        split(&Single, &mut out, (8, 1..7), (4, 9), (&mut [], 0), &|_, mut columns| {
            let Range { start, end } = columns.range();
            for own in [start..start + 1, start + 1..end] {
                let mut part = columns.part(own.clone());
                assert_eq!((part.n_rows(), part.range()), (2, own.clone()));
                part.row(1).fill(own.start as f32);
            }
        });
        assert_eq!(out[..8], [0.0; 8]);
        assert_eq!(out[8..], [0.0, 1.0, 2.0, 2.0, 2.0, 5.0, 6.0, 0.0]);
    }
}
