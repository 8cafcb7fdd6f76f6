//! A pool of threads for [`Workers`]: a job is handed over by a short spin and, where nothing comes, a parked thread.
//!
//! On a busy machine a thread that only spins keeps the others from running (llama.cpp with two threads beside two busy
//! loops is 50 times slower than alone), so every wait here gives the core away after some microseconds. The caller takes
//! tasks too and can finish a job alone: a helper that the system never wakes costs nothing but its help.
#![allow(unsafe_code)]

use smidgen_core::workers::Workers;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

/// Looks at a flag before a thread parks: some microseconds, about the pause between two jobs of a small model.
const SPINS: usize = 2000;

type Job = dyn Fn(usize, usize) + Sync;

/// A job whose borrow has been forgotten; [`Pool::run`] does not return while a helper may still call it.
#[derive(Clone, Copy)]
struct Posted {
    job: *const Job,
    n_tasks: usize,
}

// SAFETY: the job is Sync, and `Pool::run` keeps it alive while it is posted.
unsafe impl Send for Posted {}

/// Where jobs are offered.
#[derive(Default)]
struct Board {
    /// The job on offer.
    offer: Option<Posted>,
    /// How many have been posted.
    n_posted: usize,
    /// Helpers that wait for the bell.
    n_parked: usize,
}

/// What the caller and its helpers share.
struct Shared {
    board: Mutex<Board>,
    /// Rung when a job is posted while helpers are parked, or the pool ends.
    bell: Condvar,
    /// How many jobs have been posted: what helpers look at while they spin.
    generation: AtomicUsize,
    /// The next task of the job.
    next: AtomicUsize,
    /// Helpers inside the job.
    busy: AtomicUsize,
    /// Helpers that have begun.
    ready: AtomicUsize,
    /// Whether the helpers shall end.
    done: AtomicBool,
}

/// A fixed number of workers: the calling thread and its helpers.
pub struct Pool {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
    /// One job at a time.
    turn: Mutex<()>,
}

impl Pool {
    /// A pool of `n_workers`, the calling thread counted. Fewer where the system refuses a thread.
    pub fn new(n_workers: usize) -> Self {
        let shared = Arc::new(Shared {
            board: Mutex::default(),
            bell: Condvar::new(),
            generation: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            ready: AtomicUsize::new(0),
            done: AtomicBool::new(false),
        });
        let helpers: Vec<_> = (1..n_workers)
            .map_while(|worker| {
                let shared = Arc::clone(&shared);
                // A job needs no deep stack, and every stack counts against the cap.
                let builder = std::thread::Builder::new().name(format!("worker {worker}")).stack_size(256 << 10);
                builder.spawn(move || help(&shared, worker)).ok()
            })
            .collect();
        // What a thread allocates to begin shall be there before the first job, as the plan says.
        while shared.ready.load(Ordering::Acquire) < helpers.len() {
            std::thread::yield_now();
        }
        Pool { shared, helpers, turn: Mutex::new(()) }
    }
}

/// A helper's life: wait for a job, take tasks until none are left, wait again.
fn help(shared: &Shared, worker: usize) {
    shared.ready.fetch_add(1, Ordering::Release);
    let mut seen = 0;
    while let Some(posted) = next_job(shared, &mut seen) {
        // SAFETY: `busy` was raised while the job was on offer, so `run` waits for us before the job ends.
        let job = unsafe { &*posted.job };
        let _leave = Leave(shared);
        take_tasks(shared, posted.n_tasks, worker, job);
    }
}

/// Lowers `busy` again, also when the job panics.
struct Leave<'a>(&'a Shared);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Release);
    }
}

/// Waits for a job that this helper has not seen, and enters it; `None` when the pool ends.
fn next_job(shared: &Shared, seen: &mut usize) -> Option<Posted> {
    for _ in 0..SPINS {
        if shared.generation.load(Ordering::Acquire) != *seen || shared.done.load(Ordering::Acquire) {
            break;
        }
        std::hint::spin_loop();
    }
    let mut board = lock(&shared.board);
    loop {
        if shared.done.load(Ordering::Acquire) {
            return None;
        }
        if board.n_posted != *seen {
            *seen = board.n_posted;
            if let Some(job) = board.offer {
                // Raised under the lock: `run` takes the job off the board under it, then waits for `busy`.
                shared.busy.fetch_add(1, Ordering::Relaxed);
                return Some(job);
            }
        }
        board.n_parked += 1;
        board = shared.bell.wait(board).unwrap_or_else(|poisoned| poisoned.into_inner());
        board.n_parked -= 1;
    }
}

fn take_tasks(shared: &Shared, n_tasks: usize, worker: usize, job: &Job) {
    loop {
        let task = shared.next.fetch_add(1, Ordering::Relaxed);
        if task >= n_tasks {
            return;
        }
        job(worker, task);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // The data is only ever replaced whole, so a panic elsewhere leaves it good.
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Takes the job off the board and waits for the helpers inside it, also when the job panics on the calling thread.
struct Retract<'a>(&'a Shared);

impl Drop for Retract<'_> {
    fn drop(&mut self) {
        lock(&self.0.board).offer = None;
        let mut looks = 0;
        while self.0.busy.load(Ordering::Acquire) > 0 {
            looks += 1;
            if looks < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
    }
}

// SAFETY: `next` hands out every task once; the caller is worker 0 (one job at a time: `turn`) and each helper has a number
// of its own; `Retract` waits until every helper that entered has left, so all calls have returned.
unsafe impl Workers for Pool {
    fn n_workers(&self) -> usize {
        self.helpers.len() + 1
    }

    fn run(&self, n_tasks: usize, job: &(dyn Fn(usize, usize) + Sync)) {
        let _turn = lock(&self.turn);
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes; `Retract` ends every use of the job before this call returns.
        let job: &'static Job = unsafe { std::mem::transmute::<&(dyn Fn(usize, usize) + Sync), &'static Job>(job) };
        shared.next.store(0, Ordering::Relaxed);
        let n_parked = {
            let mut board = lock(&shared.board);
            board.offer = Some(Posted { job, n_tasks });
            board.n_posted = board.n_posted.wrapping_add(1);
            shared.generation.store(board.n_posted, Ordering::Release);
            board.n_parked
        };
        // To ring is a call of the system, and helpers that still spin need none.
        if n_parked > 0 {
            shared.bell.notify_all();
        }
        let _retract = Retract(shared);
        take_tasks(shared, n_tasks, 0, job);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        {
            let _board = lock(&self.shared.board);
            self.shared.done.store(true, Ordering::Release);
        }
        self.shared.bell.notify_all();
        for helper in self.helpers.drain(..) {
            // A helper that panicked has said so on stderr already.
            let _ = helper.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_is_done_once_by_a_worker_that_does_nothing_else() {
        for n_workers in [1, 2, 3, 5] {
            let pool = Pool::new(n_workers);
            assert_eq!(pool.n_workers(), n_workers);
            for n_tasks in [0, 1, 2, 7, 100] {
                for _ in 0..50 {
                    let done: Vec<AtomicUsize> = (0..n_tasks).map(|_| AtomicUsize::new(0)).collect();
                    let inside: Vec<AtomicUsize> = (0..n_workers).map(|_| AtomicUsize::new(0)).collect();
                    pool.run(n_tasks, &|worker, task| {
                        assert_eq!(inside[worker].fetch_add(1, Ordering::SeqCst), 0);
                        done[task].fetch_add(1, Ordering::SeqCst);
                        inside[worker].fetch_sub(1, Ordering::SeqCst);
                    });
                    assert!(done.iter().all(|n| n.load(Ordering::SeqCst) == 1));
                }
            }
        }
    }

    #[test]
    fn a_pool_may_be_used_from_several_threads() {
        let pool = Pool::new(3);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        let sum = AtomicUsize::new(0);
                        pool.run(10, &|_, task| {
                            sum.fetch_add(task, Ordering::Relaxed);
                        });
                        assert_eq!(sum.load(Ordering::Relaxed), 45);
                    }
                });
            }
        });
    }

    #[test]
    fn helpers_sleep_and_wake_again() {
        let pool = Pool::new(2);
        for _ in 0..5 {
            std::thread::sleep(std::time::Duration::from_millis(5));
            let sum = AtomicUsize::new(0);
            pool.run(4, &|_, task| {
                sum.fetch_add(task, Ordering::Relaxed);
            });
            assert_eq!(sum.load(Ordering::Relaxed), 6);
        }
    }
}
