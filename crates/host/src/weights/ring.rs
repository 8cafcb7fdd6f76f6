//! Reads that Linux's io_uring does while the engine computes: several at a time, and no thread of ours.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode};

use super::ahead::{Ahead, Answer, Silence};
use super::parts::Part;
use super::storage::{SECTOR, Stamp, Storage, read_at, read_into, same_file};
use super::window::{Window, window};

/// How long requests that nobody wants any more are waited for.
const FAREWELL: Duration = Duration::from_secs(1);
/// Threads that the system may use for what it cannot ask of the disk at once: as many as we would.
const WORKERS: u32 = 2;

/// Windows that the system fills in any order, and that are taken in the order in which they were asked for.
pub(super) struct Ring {
    ring: IoUring,
    /// Reads of whole sectors, past the system's cache.
    file: File,
    /// The same file for whatever did not go as it should: one way to say what is wrong, and to read what came short.
    storage: Box<dyn Storage>,
    expected: Stamp,
    flights: VecDeque<Flight>,
    /// The number of the first flight; numbers tell the answers apart.
    first: u64,
}

/// A window that is being filled.
struct Flight {
    part: Part,
    window: Window,
    /// What the system said: bytes, or an error's negative number.
    said: Option<i32>,
}

impl Flight {
    /// Bytes before the part in its first sector.
    fn skipped(&self) -> usize {
        (self.part.at % SECTOR as u64) as usize
    }
}

impl Ring {
    /// A ring with room for `n` requests that reads from the first of `storages` and takes it; `None`, and nothing is taken, where the
    /// file, the system or those who guard it have no such thing.
    pub(super) fn start(storages: &mut Vec<Box<dyn Storage>>, expected: Stamp, n: usize) -> Option<Self> {
        let file = storages.first()?.direct_file().filter(can_read)?;
        let ring = new_ring(n)?;
        let storage = storages.swap_remove(0);
        Some(Ring { ring, file, storage, expected, flights: VecDeque::with_capacity(n), first: 0 })
    }

    /// Notes what the system has said of flights.
    fn reap(&mut self) {
        for entry in self.ring.completion() {
            let index = usize::try_from(entry.user_data().wrapping_sub(self.first));
            if let Some(flight) = index.ok().and_then(|index| self.flights.get_mut(index)) {
                flight.said = Some(entry.result());
            }
        }
    }

    /// Waits until `is_done` holds of the flights.
    fn wait(&mut self, patience: Duration, is_done: impl Fn(&VecDeque<Flight>) -> bool) -> Result<(), Silence> {
        let deadline = Instant::now() + patience;
        loop {
            self.reap();
            if is_done(&self.flights) {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Silence::Timeout);
            }
            let time = Timespec::from(left);
            let waited = self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&time));
            match waited.map_err(|error| error.raw_os_error()) {
                // Time that has passed, a signal, a system that is busy: the next look says more.
                Ok(_) | Err(Some(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY)) => {}
                Err(_) => return Err(Silence::Ended),
            }
        }
    }
}

/// Whether the file system does what the flag promised.
fn can_read(file: &File) -> bool {
    window(SECTOR).is_ok_and(|mut window| read_at(file, 0, &mut window).is_ok())
}

/// A ring that can be waited for with a limit, which Linux has had since 5.11.
fn new_ring(n: usize) -> Option<IoUring> {
    let ring = IoUring::new(u32::try_from(n).ok()?.max(1)).ok()?;
    // Without the limit it only takes more memory.
    let _ = ring.submitter().register_iowq_max_workers(&mut [WORKERS, WORKERS]);
    ring.params().is_feature_ext_arg().then_some(ring)
}

impl Ahead for Ring {
    fn ask(&mut self, part: Part, window: Window) {
        let mut flight = Flight { part, window, said: None };
        let skipped = flight.skipped();
        let len = (skipped + part.len).next_multiple_of(SECTOR);
        let target = flight.window[..len].as_mut_ptr();
        let read = opcode::Read::new(Fd(self.file.as_raw_fd()), target, len as u32).offset(part.at - skipped as u64);
        let entry = read.build().user_data(self.first + self.flights.len() as u64);
        // SAFETY: the file is open as long as the ring is. The window has `len` bytes from `target` on, its pages stay where they
        // are, and nobody else has it: a flight ends, or its window is leaked, only when the system has said that it is done with it.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        // What does not fit in the ring is read when it is asked for; there is room for every window, though.
        flight.said = pushed.err().map(|_| -libc::EBUSY);
        self.flights.push_back(flight);
        // Where the system is busy now, it is told again by who waits.
        let _ = self.ring.submit();
    }

    fn answer(&mut self, patience: Duration) -> Result<Answer, Silence> {
        self.wait(patience, |flights| flights.front().is_none_or(|flight| flight.said.is_some()))?;
        let mut flight = self.flights.pop_front().ok_or(Silence::Ended)?;
        self.first += 1;
        let (skipped, part) = (flight.skipped(), flight.part);
        let read = flight.said.and_then(|said| usize::try_from(said).ok()).unwrap_or(0);
        let begins = if read >= skipped + part.len {
            // Asked after the read: what was read before a change is not what the rest of the file belongs to now.
            same_file(self.storage.as_ref(), &self.expected).map(|()| skipped)
        } else {
            read_into(self.storage.as_mut(), (part.at, part.len), &mut flight.window, &self.expected)
        };
        Ok(Answer { window: flight.window, begins, took: None, is_late: false })
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.wait(FAREWELL, |flights| flights.iter().all(|flight| flight.said.is_some())).is_err() {
            // The system may write to them yet.
            std::mem::forget(std::mem::take(&mut self.flights));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::DirectFile;
    use std::io::Write;

    /// A ring whose file is the end of a pipe, which says nothing until something is written to the other end.
    fn of_a_pipe(directory: &std::path::Path) -> Option<(Ring, std::io::PipeWriter)> {
        let path = directory.join("file");
        std::fs::write(&path, [7; SECTOR]).unwrap();
        let storage = Box::new(DirectFile::open(&path).unwrap());
        let expected = storage.stamp().unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        let file = File::from(std::os::fd::OwnedFd::from(reader));
        let Some(ring) = new_ring(2) else {
            eprintln!("skipped: this system has no io_uring");
            return None;
        };
        Some((Ring { ring, file, storage, expected, flights: VecDeque::new(), first: 0 }, writer))
    }

    #[test]
    fn what_comes_late_is_missed_and_then_taken() {
        let directory = tempfile::tempdir().unwrap();
        let Some((mut ring, mut writer)) = of_a_pipe(directory.path()) else { return };
        ring.ask(Part { at: 0, len: SECTOR }, window(SECTOR).unwrap());
        assert_eq!(ring.answer(Duration::from_millis(30)).err(), Some(Silence::Timeout));
        writer.write_all(&[5; SECTOR]).unwrap();
        let answer = ring.answer(Duration::from_secs(60)).unwrap();
        assert_eq!((answer.begins.unwrap(), &answer.window[..SECTOR]), (0, &[5; SECTOR][..]));
        // What comes short comes from the file.
        ring.ask(Part { at: 0, len: SECTOR }, window(SECTOR).unwrap());
        writer.write_all(&[5; 100]).unwrap();
        let answer = ring.answer(Duration::from_secs(60)).unwrap();
        assert_eq!((answer.begins.unwrap(), &answer.window[..SECTOR]), (0, &[7; SECTOR][..]));
        assert_eq!(ring.answer(Duration::from_secs(60)).err(), Some(Silence::Ended), "nothing was asked for");
    }

    #[test]
    fn a_ring_goes_though_nobody_answers() {
        let directory = tempfile::tempdir().unwrap();
        let Some((mut ring, writer)) = of_a_pipe(directory.path()) else { return };
        ring.ask(Part { at: 0, len: SECTOR }, window(SECTOR).unwrap());
        drop(ring);
        drop(writer);
    }
}
