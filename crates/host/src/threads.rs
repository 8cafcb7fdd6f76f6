//! A pool of threads for [`Workers`]: a job is handed over by a short spin and, where nothing comes, a parked thread.
//!
//! Every worker has a share of the tasks, the same one of the same job, so that with each token it finds the weights that the cache of
//! its own core still has. Who is done takes what others have not begun, so the caller can finish a job alone: a helper that the system
//! never wakes costs nothing but its help.
//!
//! On a busy machine a thread that only spins keeps the others from running (llama.cpp with two threads beside two busy
//! loops is 50 times slower than alone), so every wait here gives the core away after some microseconds.
#![allow(unsafe_code)]

use smidgen_core::workers::Workers;
use std::cell::UnsafeCell;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

/// Looks at a flag before a thread parks: some microseconds, about the pause between two jobs of a small model.
const SPINS: usize = 2000;

type Job = dyn Fn(usize, usize) + Sync;

/// A job whose borrow has been forgotten; [`Pool::run`] does not return before all its tasks are done.
type Posted = *const Job;

/// The tasks of a job that one worker has first claim to, from which it takes the first and others the last.
#[repr(align(128))]
struct Share {
    /// The first task and the one behind the last, [`Share::BITS`] each.
    tasks: AtomicUsize,
    /// What to do with them.
    job: UnsafeCell<Posted>,
    /// How many tasks of the job its worker has done, of this share and of others.
    n_done: AtomicUsize,
}

// SAFETY: the job is Sync, and is only written while the share is empty and all its tasks are done (`Pool::run` has its turn), and read
// by who has taken a task that is not done.
unsafe impl Sync for Share {}
// SAFETY: as above.
unsafe impl Send for Share {}

impl Share {
    /// Bits of a task's number: two of them fit into a word of any machine. Miri has no time for as many tasks.
    const BITS: u32 = if cfg!(miri) { 8 } else { 16 };
    /// The most tasks that shares can hold.
    const MOST: usize = (1 << Self::BITS) - 1;

    fn new() -> Self {
        fn nothing(_: usize, _: usize) {}
        Share { tasks: AtomicUsize::new(0), job: UnsafeCell::new(&nothing), n_done: AtomicUsize::new(0) }
    }

    fn pack(tasks: Range<usize>) -> usize {
        tasks.start << Self::BITS | tasks.end
    }

    fn unpack(packed: usize) -> Range<usize> {
        packed >> Self::BITS..packed & Self::MOST
    }

    /// Offers `tasks` of `job`.
    ///
    /// # Safety
    /// All tasks that were offered before are done, and nobody else offers any meanwhile.
    unsafe fn offer(&self, job: Posted, tasks: Range<usize>) {
        // SAFETY: nobody reads it, as no task is under way and the share is empty.
        unsafe { *self.job.get() = job };
        self.tasks.store(Self::pack(tasks), Ordering::Release);
    }

    fn is_empty(&self) -> bool {
        Self::unpack(self.tasks.load(Ordering::Relaxed)).is_empty()
    }

    /// The first task and its job, for the worker whose share it is.
    fn first(&self) -> Option<(Posted, usize)> {
        self.take(|tasks| tasks.start + 1..tasks.end).map(|(job, tasks)| (job, tasks.start))
    }

    /// The last task and its job, for others.
    fn last(&self) -> Option<(Posted, usize)> {
        self.take(|tasks| tasks.start..tasks.end - 1).map(|(job, tasks)| (job, tasks.end - 1))
    }

    /// Leaves of the tasks what `rest` says; what there were, unless there were none.
    fn take(&self, rest: impl Fn(Range<usize>) -> Range<usize>) -> Option<(Posted, Range<usize>)> {
        let left = |packed: usize| {
            let tasks = Self::unpack(packed);
            (!tasks.is_empty()).then(|| Self::pack(rest(tasks)))
        };
        let packed = self.tasks.fetch_update(Ordering::Acquire, Ordering::Relaxed, left).ok()?;
        // SAFETY: a task is taken, so the job stays until that is done, and it was written before the task was offered.
        Some((unsafe { *self.job.get() }, Self::unpack(packed)))
    }

    /// Takes all tasks away that nobody has begun; how many there were.
    fn withdraw(&self) -> usize {
        if self.is_empty() { 0 } else { Self::unpack(self.tasks.swap(0, Ordering::Relaxed)).len() }
    }
}

/// What the caller and its helpers share.
struct Shared {
    /// The tasks of the job, a share for each worker.
    shares: Box<[Share]>,
    /// Helpers that wait for the bell, or are about to.
    n_parked: AtomicUsize,
    /// Rung, with the lock, when a job is posted while helpers are parked, or the pool ends.
    bell: (Mutex<()>, Condvar),
    /// Helpers that have begun.
    ready: AtomicUsize,
    /// Whether the helpers shall end.
    end: AtomicBool,
}

impl Shared {
    /// Does tasks as `worker`: its own, then what the others have not begun.
    fn take_tasks(&self, worker: usize) {
        self.take_from(worker, worker, Share::first);
        for other in (worker + 1..self.shares.len()).chain(0..worker) {
            self.take_from(other, worker, Share::last);
        }
    }

    /// Does tasks as `worker` until `take` finds no more in the share of `other`, and counts them then.
    fn take_from(&self, other: usize, worker: usize, take: fn(&Share) -> Option<(Posted, usize)>) {
        let mut done = Done { n_tasks: 0, n_done: &self.shares[worker].n_done };
        while let Some((job, task)) = take(&self.shares[other]) {
            done.n_tasks += 1;
            // SAFETY: the task is taken and not counted, so the job is still there.
            unsafe { (*job)(worker, task) };
        }
    }

    /// Wakes the parked helpers, if there are any, after `shares` or `end` was written.
    fn ring(&self) {
        // Either this sees that a helper is about to park, or the helper sees what was written.
        fence(Ordering::SeqCst);
        // To ring is a call of the system, and helpers that still spin need none.
        if self.n_parked.load(Ordering::Relaxed) > 0 {
            drop(lock(&self.bell.0));
            self.bell.1.notify_all();
        }
    }

    /// Waits until the share of helper `worker` has tasks, or any share, once it has slept; false when the pool ends.
    fn wait_for_tasks(&self, worker: usize) -> bool {
        for _ in 0..SPINS {
            if !self.shares[worker].is_empty() {
                return true;
            }
            std::hint::spin_loop();
        }
        let mut guard = lock(&self.bell.0);
        self.n_parked.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let ends = loop {
            let ends = self.end.load(Ordering::Acquire);
            if ends || !self.shares.iter().all(Share::is_empty) {
                break ends;
            }
            guard = self.bell.1.wait(guard).unwrap_or_else(|poisoned| poisoned.into_inner());
        };
        self.n_parked.fetch_sub(1, Ordering::Relaxed);
        !ends
    }
}

/// Counts what a worker has done, also when the job panics.
struct Done<'a> {
    n_tasks: usize,
    n_done: &'a AtomicUsize,
}

impl Drop for Done<'_> {
    fn drop(&mut self) {
        if self.n_tasks > 0 {
            self.n_done.fetch_add(self.n_tasks, Ordering::Release);
        }
    }
}

/// A job under way: takes back the tasks that nobody has begun (after a panic on the calling thread) and waits for the others.
struct Round<'a> {
    shared: &'a Shared,
    n_tasks: usize,
}

impl Drop for Round<'_> {
    fn drop(&mut self) {
        let shares = &self.shared.shares;
        let left = self.n_tasks - shares.iter().map(Share::withdraw).sum::<usize>();
        let are_done = || shares.iter().map(|share| share.n_done.load(Ordering::Acquire)).sum::<usize>() == left;
        let mut looks = 0;
        while !are_done() {
            looks += 1;
            if looks < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
    }
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
            shares: (0..n_workers.max(1)).map(|_| Share::new()).collect(),
            n_parked: AtomicUsize::new(0),
            bell: Default::default(),
            ready: AtomicUsize::new(0),
            end: AtomicBool::new(false),
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
        Pool { shared, helpers, turn: Mutex::default() }
    }

    /// Shares out at most [`Share::MOST`] tasks and does them.
    fn round(&self, n_tasks: usize, job: &(dyn Fn(usize, usize) + Sync)) {
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes; `Round` ends every use of the job before this call returns.
        let job = unsafe { std::mem::transmute::<&(dyn Fn(usize, usize) + Sync), Posted>(job) };
        let _round = Round { shared, n_tasks };
        let n_workers = self.n_workers();
        let first = |worker: usize| (worker * n_tasks).div_ceil(n_workers);
        // All of them before the first offer, as helpers that are late may take from any share.
        shared.shares.iter().for_each(|share| share.n_done.store(0, Ordering::Relaxed));
        for (worker, share) in shared.shares[..n_workers].iter().enumerate().rev() {
            // SAFETY: `turn` lets in one caller at a time, whose `Round` waits until every task is done.
            unsafe { share.offer(job, first(worker)..first(worker + 1)) };
        }
        shared.ring();
        shared.take_tasks(0);
    }
}

/// A helper's life: wait for tasks, take them until none are left, wait again.
fn help(shared: &Shared, worker: usize) {
    shared.ready.fetch_add(1, Ordering::Release);
    while shared.wait_for_tasks(worker) {
        shared.take_tasks(worker);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // The data is only ever replaced whole, so a panic elsewhere leaves it good.
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

// SAFETY: shares are disjoint and hand out each task once; the caller is worker 0 (one job at a time: `turn`) and each helper has a
// number of its own; `Round` waits until every task that was taken is done, so all calls have returned.
unsafe impl Workers for Pool {
    fn n_workers(&self) -> usize {
        self.helpers.len() + 1
    }

    fn run(&self, n_tasks: usize, job: &(dyn Fn(usize, usize) + Sync)) {
        let _turn = lock(&self.turn);
        if n_tasks == 1 {
            // Nobody needs to be woken for it.
            return job(0, 0);
        }
        for first in (0..n_tasks).step_by(Share::MOST) {
            let n = (n_tasks - first).min(Share::MOST);
            self.round(n, &|worker, task| job(worker, first + task));
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.end.store(true, Ordering::Release);
        self.shared.ring();
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
    fn every_worker_has_its_own_share_of_a_job() {
        for n_workers in [2, 3] {
            for _ in 0..20 {
                // A new one: its helpers wait for tasks of their own, while one that is late from another job may take any.
                let pool = Pool::new(n_workers);
                let begun = AtomicUsize::new(0);
                pool.run(n_workers, &|worker, task| {
                    assert_eq!(worker, task);
                    begun.fetch_add(1, Ordering::SeqCst);
                    // Nobody is free to take another's task before all have begun.
                    while begun.load(Ordering::SeqCst) < n_workers {
                        std::thread::yield_now();
                    }
                });
            }
        }
    }

    #[test]
    fn more_tasks_than_shares_hold_are_done_in_rounds() {
        let pool = Pool::new(2);
        let n_tasks = 2 * Share::MOST + 7;
        let done: Vec<AtomicUsize> = (0..n_tasks).map(|_| AtomicUsize::new(0)).collect();
        pool.run(n_tasks, &|_, task| {
            done[task].fetch_add(1, Ordering::Relaxed);
        });
        assert!(done.iter().all(|n| n.load(Ordering::Relaxed) == 1));
    }

    #[test]
    fn a_job_that_panics_leaves_the_pool_in_order() {
        let pool = Pool::new(2);
        for n in [1, 7, 50] {
            let caller = std::thread::current().id();
            let was_called = AtomicBool::new(false);
            let job = |_: usize, _: usize| {
                if std::thread::current().id() == caller {
                    was_called.store(true, Ordering::Relaxed);
                    panic!("on purpose");
                }
            };
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| pool.run(n, &job)));
            assert_eq!(outcome.is_err(), was_called.into_inner());
            let n_done = AtomicUsize::new(0);
            pool.run(n, &|_, _| {
                n_done.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(n_done.into_inner(), n);
        }
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
