//! Who reads ahead: threads, which use another core than the engine, or Linux's io_uring where there is only one.

use std::collections::VecDeque;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use super::parts::Part;
use super::storage::{Stamp, Storage, read_into};
use super::window::Window;

/// A reader calls little; a stack counts only as far as it is used.
const STACK_BYTES: usize = 128 << 10;

/// A window to be filled with a part.
struct Request {
    part: Part,
    window: Window,
}

/// The window again, and where in it the part begins.
pub(super) struct Answer {
    pub window: Window,
    pub begins: io::Result<usize>,
    /// How long the disk took to write to the window, where somebody looked.
    pub took: Option<Duration>,
    /// Whether it had to be waited for, if so.
    pub is_late: bool,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Silence {
    /// None came in time.
    Timeout,
    /// None will come.
    Ended,
}

/// Fills windows while the engine computes.
pub(super) trait Ahead {
    /// Begins to read `part` into `window`.
    fn ask(&mut self, part: Part, window: Window);

    /// Waits for what was asked for first, which there must be.
    fn answer(&mut self, patience: Duration) -> Result<Answer, Silence>;
}

/// Where a stream comes from. All storages read the same file.
pub struct Sources {
    /// One for each thread that reads ahead; io_uring needs the first only.
    pub ahead: Vec<Box<dyn Storage>>,
    /// For rows out of order.
    pub aside: Box<dyn Storage>,
    /// Whether io_uring reads ahead where there is one.
    pub tries_ring: bool,
    /// What the file looked like when its header was read, and must look like.
    pub expected: Stamp,
}

/// Whether io_uring is worth trying: threads are as fast or faster, unless they take turns with the engine on one core.
pub(super) fn prefers_ring() -> bool {
    std::thread::available_parallelism().is_ok_and(|n| n.get() == 1)
}

/// Whoever can read ahead from `storages`, at most `n` requests at a time; the file must look like `expected`.
pub(super) fn start(
    mut storages: Vec<Box<dyn Storage>>,
    tries_ring: bool,
    expected: Stamp,
    n: usize,
) -> io::Result<Box<dyn Ahead>> {
    if let Some(ring) = tries_ring.then(|| ring(&mut storages, expected, n)).flatten() {
        return Ok(ring);
    }
    let start = |storage| Reader::start(storage, expected, n);
    let readers = storages.into_iter().map(start).collect::<io::Result<Vec<_>>>()?;
    Ok(Box::new(Readers { readers, turn: 0, asked: VecDeque::with_capacity(n) }))
}

#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
fn ring(storages: &mut Vec<Box<dyn Storage>>, expected: Stamp, n: usize) -> Option<Box<dyn Ahead>> {
    super::ring::Ring::start(storages, expected, n).map(|ring| Box::new(ring) as Box<dyn Ahead>)
}

#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))))]
fn ring(_: &mut Vec<Box<dyn Storage>>, _: Stamp, _: usize) -> Option<Box<dyn Ahead>> {
    None
}

/// Threads that take turns, so that the disk has the next request when it has answered one.
struct Readers {
    readers: Vec<Reader>,
    /// The reader whose turn it is.
    turn: usize,
    /// The reader that was asked for each part.
    asked: VecDeque<usize>,
}

/// A thread that reads.
struct Reader {
    requests: SyncSender<Request>,
    answers: Receiver<Answer>,
}

impl Ahead for Readers {
    fn ask(&mut self, part: Part, window: Window) {
        self.turn = (self.turn + 1) % self.readers.len();
        // The channel has room for every window, and a reader that has ended is noticed when its answer is missed.
        let _ = self.readers[self.turn].requests.send(Request { part, window });
        self.asked.push_back(self.turn);
    }

    fn answer(&mut self, patience: Duration) -> Result<Answer, Silence> {
        let reader = self.asked.front().and_then(|&reader| self.readers.get(reader)).ok_or(Silence::Ended)?;
        let waited = |error| match error {
            RecvTimeoutError::Timeout => Silence::Timeout,
            RecvTimeoutError::Disconnected => Silence::Ended,
        };
        let answer = match reader.answers.try_recv() {
            Ok(answer) => answer,
            Err(_) => Answer { is_late: true, ..reader.answers.recv_timeout(patience).map_err(waited)? },
        };
        self.asked.pop_front();
        Ok(answer)
    }
}

impl Reader {
    /// Starts a thread that reads from `storage` and has room for `n` requests.
    fn start(storage: Box<dyn Storage>, expected: Stamp, n: usize) -> io::Result<Self> {
        let (requests, asked) = sync_channel(n);
        let (answered, answers) = sync_channel(n);
        let builder = std::thread::Builder::new().name("reader".to_owned()).stack_size(STACK_BYTES);
        builder.spawn(move || read(storage, &expected, &asked, &answered))?;
        Ok(Reader { requests, answers })
    }
}

/// A reader's life: fill windows until nobody wants them any more.
fn read(mut storage: Box<dyn Storage>, expected: &Stamp, requests: &Receiver<Request>, answered: &SyncSender<Answer>) {
    while let Ok(Request { part, mut window }) = requests.recv() {
        let began = Instant::now();
        let begins = read_into(storage.as_mut(), (part.at, part.len), &mut window, expected);
        // What unpacks has memory of its own for what it reads.
        let took = (storage.unit() > 1).then(|| began.elapsed());
        if answered.send(Answer { window, begins, took, is_late: false }).is_err() {
            return;
        }
    }
}
