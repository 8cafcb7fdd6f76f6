//! Whether what the processor's caches hold of a window is thrown out of them before the window is read into again.
//!
//! The disk of a virtual machine is a program of its host, which copies what was read to our memory. Where it runs on a core that shares
//! no cache with ours, it must first take every line from our caches that we have looked at, and reads fall to half; where it shares one,
//! it is faster when the lines are still there. Hosts move their programs from core to core, and some disks copy nothing, so both ways are
//! timed again and again, and windows go the way that is faster now. Where the engine seldom waits for the disk nothing is thrown out, nor
//! where nobody times reads: io_uring's, and those of packed files, whose windows no disk writes to.

use std::time::Duration;

use super::window::Window;

/// Of so many reads the last ones, [`TRIAL`], go the other way.
const PERIOD: u32 = 251;
const TRIAL: u32 = 16;
/// What reads took counts so much less with every read that comes after them.
const PACE_FADES: f32 = 0.9;
/// Whether they were late does so more slowly: the engine does not wait as often at every place of a pass.
const LATE_FADES: f32 = 0.98;
/// Windows are evicted where the engine waits for more than this share of the reads, and as long as it waits for more than the second. Where
/// it does nothing but wait it is half of them: two are answered at a time.
const LEAST_LATE: [f32; 2] = [0.1, 0.02];
/// Reads must take less than this share of the time, since eviction takes some of the engine's.
const LESS_TIME: f32 = 0.9;

/// What reads took, the last ones most.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    nanoseconds: f32,
    bytes: f32,
}

impl Pace {
    fn note(&mut self, bytes: usize, took: Duration) {
        self.nanoseconds = self.nanoseconds * PACE_FADES + took.as_nanos() as f32;
        self.bytes = self.bytes * PACE_FADES + bytes as f32;
    }
}

/// What was measured, by which is decided.
#[derive(Clone, Copy, Debug)]
pub(super) struct Eviction {
    /// Of windows that caches had a part of, and of those that were evicted.
    kept: Pace,
    evicted: Pace,
    /// Bytes of the longest read so far.
    longest: usize,
    /// The share of reads that the engine waited for, the last ones most.
    late: f32,
    /// Reads of this period.
    n_reads: u32,
}

impl Default for Eviction {
    fn default() -> Self {
        let [kept, evicted] = [Pace::default(); 2];
        // The first trial comes soon, unless the engine has not waited till then.
        let (late, n_reads) = (2.0 * LEAST_LATE[0], PERIOD - 2 * TRIAL);
        Eviction { kept, evicted, longest: 0, late, n_reads }
    }
}

impl Eviction {
    /// Notes that `bytes` were read in the time that it `took` into a window that was evicted or not, and whether the engine waited for
    /// them.
    pub(super) fn note(&mut self, was_evicted: bool, bytes: usize, took: Duration, is_late: bool) {
        self.late = self.late * LATE_FADES + f32::from(u8::from(is_late)) * (1.0 - LATE_FADES);
        self.longest = self.longest.max(bytes);
        // Short ones, of which every one has its fixed costs, say nothing of the others.
        if bytes < self.longest / 2 {
            return;
        }
        let pace = if was_evicted { &mut self.evicted } else { &mut self.kept };
        pace.note(bytes, took);
        self.n_reads = (self.n_reads + 1) % PERIOD;
    }

    /// Whether a window is evicted that is handed back now.
    pub(super) fn is_due(&self) -> bool {
        let Eviction { kept, evicted, .. } = self;
        let is_better = evicted.nanoseconds * kept.bytes < LESS_TIME * kept.nanoseconds * evicted.bytes;
        let is_trial = self.n_reads >= PERIOD - TRIAL;
        Window::CAN_EVICT && self.late > LEAST_LATE[usize::from(is_better)] && is_better != is_trial
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// Shares of windows that are evicted in each thousand reads, where a read takes so many nanoseconds for a byte of a window
    /// that was not evicted and of one that was, and some time besides; `is_late` is told its number and whether its window was.
    fn shares(paces: &[[u64; 2]], is_late: impl Fn(u32, bool) -> bool) -> Vec<u32> {
        let mut eviction = Eviction::default();
        let mut pending = VecDeque::from([false; 4]);
        let thousand = |&[kept, evicted]: &[u64; 2]| {
            let n_evicted = (0..1000).filter(|&n| {
                let was_evicted = pending.pop_front().unwrap();
                let bytes = if n % 128 < 96 { 470_000 } else { 120_000 };
                let took = Duration::from_nanos(150_000 + bytes as u64 * if was_evicted { evicted } else { kept });
                eviction.note(was_evicted, bytes, took, is_late(n, was_evicted));
                pending.push_back(eviction.is_due());
                eviction.is_due()
            });
            n_evicted.count() as u32
        };
        paces.iter().map(thousand).collect()
    }

    #[test]
    fn the_faster_way_is_taken_and_the_other_tried() {
        let found = shares(&[[1, 2], [2, 1], [2, 1], [1, 2], [1, 2]], |n, _| n % 2 == 0);
        if !Window::CAN_EVICT {
            return assert_eq!(found, [0; 5]);
        }
        assert!((1..=100).contains(&found[0]) && (1..=100).contains(&found[4]), "{found:?}");
        assert!((600..=960).contains(&found[1]) && (900..=960).contains(&found[2]), "{found:?}");
        assert!((50..=400).contains(&found[3]), "{found:?}");
    }

    #[test]
    fn a_way_that_is_hardly_faster_is_not_taken() {
        let found = shares(&[[30, 29], [30, 30], [29, 30]], |n, _| n % 2 == 0);
        assert!(found.iter().all(|&n| n <= 100), "{found:?}");
    }

    #[test]
    fn nothing_is_evicted_where_the_engine_does_not_wait() {
        // Until it is known, there may be a trial.
        assert_eq!(shares(&[[2, 1], [2, 1], [2, 1]], |_, _| false)[1..], [0, 0]);
    }

    #[test]
    fn windows_are_evicted_as_long_as_it_helps() {
        let found = shares(&[[2, 1], [2, 1], [2, 1]], |n, was_evicted| n % if was_evicted { 20 } else { 2 } == 0);
        assert!(!Window::CAN_EVICT || found[1..].iter().all(|&n| n >= 900), "{found:?}");
    }
}
