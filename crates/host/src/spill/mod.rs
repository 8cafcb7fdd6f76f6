//! Key-value caches of layers for which there is no memory: a file, and a thread that brings the next layer while one is used.
//!
//! A layer lies in the file as it lies in memory: all keys, then all values, each (n_kv_heads, n_rows) rows, from a sector
//! on. Only the sectors of rows that are there are read, and only those of new rows are written. Two layers fit in memory, one with
//! the engine and one with the thread, which does one thing after the other: what a layer's next reading brings has been written.

mod storage;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use smidgen_core::model::Hparams;
use smidgen_core::plan::Limits;
use smidgen_core::store::{Borrow, Lost, Spill};

pub use storage::{SpillDisk, SpillStorage, first_on_disk};
use storage::{read_exact_at, write_all_at};

use crate::error::Error;
use crate::weights::{PATIENCE, READER_BYTES, SECTOR, Window, window};

/// Layers that are in memory at a time.
const ROOMS: usize = 2;
/// The thread calls little; a stack counts only as far as it is used.
const STACK_BYTES: usize = 128 << 10;

/// The cache of one layer: bytes of a row of keys and of a row of values, and how many there are of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerShape {
    /// Bytes of one head's keys at one position.
    pub key_row_bytes: usize,
    /// Bytes of one head's values at one position.
    pub value_row_bytes: usize,
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// Rows of each head; a position's row is the position modulo their number.
    pub n_rows: usize,
}

impl LayerShape {
    /// The cache of `layer` of a model with the dimensions `h`, as a run within `limits` has it.
    pub fn of(h: &Hparams<'_>, limits: &Limits, layer: usize) -> Self {
        LayerShape {
            key_row_bytes: limits.cache_k.row_bytes(h.head_dim),
            value_row_bytes: limits.cache_v.row_bytes(h.head_dim),
            n_kv_heads: h.n_kv_heads,
            n_rows: limits.layer_rows(h, layer),
        }
    }

    fn key_bytes(&self) -> usize {
        self.n_kv_heads * self.n_rows * self.key_row_bytes
    }

    fn value_bytes(&self) -> usize {
        self.n_kv_heads * self.n_rows * self.value_row_bytes
    }

    /// Where in a layer its values begin.
    fn values_at(&self) -> usize {
        self.key_bytes().next_multiple_of(SECTOR)
    }

    /// Bytes of a layer, in the file and in memory.
    pub fn bytes(&self) -> usize {
        self.values_at() + self.value_bytes().next_multiple_of(SECTOR)
    }

    /// The rows of the last of these positions that there is room for: to the end, and from the beginning on.
    fn rows(&self, positions: &Range<usize>) -> [Range<usize>; 2] {
        let start = positions.start.max(positions.end.saturating_sub(self.n_rows));
        let (first, n) = (start % self.n_rows, positions.end - start);
        let n_first = n.min(self.n_rows - first);
        [first..first + n_first, 0..n - n_first]
    }

    /// Calls `each` with the sectors of a layer that hold the rows of some positions, of every head.
    fn sectors<E>(
        &self,
        positions: &Range<usize>,
        mut each: impl FnMut(Range<usize>) -> Result<(), E>,
    ) -> Result<(), E> {
        for rows in self.rows(positions).into_iter().filter(|rows| !rows.is_empty()) {
            for (at, row_bytes) in [(0, self.key_row_bytes), (self.values_at(), self.value_row_bytes)] {
                for head in 0..self.n_kv_heads {
                    let byte = |row: usize| at + (head * self.n_rows + row) * row_bytes;
                    each(byte(rows.start) / SECTOR * SECTOR..byte(rows.end).next_multiple_of(SECTOR))?;
                }
            }
        }
        Ok(())
    }
}

/// Memory that the spilling of layers with these caches takes.
pub fn spill_bytes(shapes: impl Iterator<Item = LayerShape>) -> u64 {
    let (n, largest) = shapes.fold((0, 0), |(n, largest), shape| (n + 1, shape.bytes().max(largest)));
    if n == 0 { 0 } else { (ROOMS.min(n) * largest) as u64 + READER_BYTES }
}

/// A layer in the file.
#[derive(Clone, Copy, Debug)]
struct Spilled {
    layer: usize,
    shape: LayerShape,
    /// Where it begins.
    at: u64,
}

/// What the thread does with a room: first writes the new rows of a layer, then reads the rows of another.
struct Request {
    room: Window,
    write: Option<(Spilled, Range<usize>)>,
    read: (Spilled, usize),
}

/// The room again.
struct Answer {
    room: Window,
    done: Result<(), Failed>,
}

/// What did not work.
enum Failed {
    Reading(io::Error),
    Writing(io::Error),
}

/// The caches of some layers, in a file that is gone when this is.
pub struct SpillFile {
    path: PathBuf,
    /// In order.
    layers: Vec<Spilled>,
    state: RefCell<State>,
    patience: Duration,
}

struct State {
    requests: SyncSender<Request>,
    answers: Receiver<Answer>,
    /// Layers (by their place in the file) that the thread was asked for, each with how many positions.
    pending: VecDeque<(usize, usize)>,
    free: Vec<Window>,
    error: Option<Error>,
    /// Rows that could not be written are lost for good.
    is_lost: bool,
}

impl SpillFile {
    /// A file in `directory` for the caches of `layers`, each with its shape, in order.
    ///
    /// # Errors
    /// When there cannot be one, or there is no memory or thread for it.
    pub fn new(directory: &Path, layers: &[(usize, LayerShape)]) -> Result<Self, Error> {
        let len = layers.iter().map(|(_, shape)| shape.bytes() as u64).sum();
        let (path, disk) = SpillDisk::create(directory, len)?;
        Self::over(path, Box::new(disk), layers)
    }

    /// The caches of `layers` in `storage`, which is called `path` in messages.
    ///
    /// # Errors
    /// When there is no memory or thread for it.
    pub fn over(
        path: PathBuf,
        mut storage: Box<dyn SpillStorage>,
        layers: &[(usize, LayerShape)],
    ) -> Result<Self, Error> {
        let failed = |error: io::Error| Error::failed(&path, format!("cannot hold the cache: {error}"));
        let mut end = 0;
        let spilled = |&(layer, shape): &(usize, LayerShape)| {
            let at = end;
            end += shape.bytes() as u64;
            Spilled { layer, shape, at }
        };
        let layers: Vec<Spilled> = layers.iter().map(spilled).collect();
        let largest = layers.iter().map(|spilled| spilled.shape.bytes()).max().unwrap_or(0);
        let rooms = (0..layers.len().min(ROOMS)).map(|_| window(largest));
        let free = rooms.collect::<io::Result<Vec<_>>>().map_err(failed)?;
        let (requests, asked) = sync_channel::<Request>(ROOMS);
        let (answered, answers) = sync_channel(ROOMS);
        let builder = std::thread::Builder::new().name("spill".to_owned()).stack_size(STACK_BYTES);
        let live = move || {
            while let Ok(Request { mut room, write, read }) = asked.recv() {
                let done = serve(storage.as_mut(), &mut room, write, read);
                if answered.send(Answer { room, done }).is_err() {
                    return;
                }
            }
        };
        builder.spawn(live).map_err(failed)?;
        let state = State { requests, answers, pending: VecDeque::new(), free, error: None, is_lost: false };
        Ok(SpillFile { path, layers, state: state.into(), patience: PATIENCE })
    }

    /// The same with another time after which a disk that says nothing is given up.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Why the last call of the engine failed, said once.
    pub fn take_error(&self) -> Option<Error> {
        self.state.borrow_mut().error.take()
    }

    /// Asks the thread to write what is new in `room` and to read a layer into it.
    fn ask(&self, state: &mut State, room: Window, write: Option<(Spilled, Range<usize>)>, read: (usize, usize)) {
        let (place, n) = read;
        // There is room in the channel for every request; a thread that has ended is noticed when its answer is missed.
        let _ = state.requests.send(Request { room, write, read: (self.layers[place], n) });
        state.pending.push_back(read);
    }

    /// Waits for the room that was asked for first; what went wrong is kept for [`SpillFile::take_error`].
    fn answer(&self, state: &mut State) -> Result<Window, (Option<Window>, Lost)> {
        let Answer { room, done } = match state.answers.recv_timeout(self.patience) {
            Ok(answer) => answer,
            Err(silence) => {
                let why = match silence {
                    RecvTimeoutError::Timeout => {
                        format!("the disk has not answered for {} seconds", self.patience.as_secs())
                    }
                    RecvTimeoutError::Disconnected => "the thread that keeps the cache has ended".to_owned(),
                };
                state.error = Some(Error::failed(&self.path, why));
                return Err((None, Lost));
            }
        };
        state.pending.pop_front();
        let error = match done {
            Ok(()) => return Ok(room),
            Err(Failed::Reading(error)) => Error::reading(&self.path, &error),
            Err(Failed::Writing(error)) => {
                state.is_lost = true;
                Error::writing(&self.path, &error)
            }
        };
        state.error = Some(error);
        Err((Some(room), Lost))
    }

    /// The room that holds at least `n_held` positions of the layer at `place`.
    fn take(&self, state: &mut State, place: usize, n_held: usize) -> Result<Window, Lost> {
        let is_there = |&(read, n): &(usize, usize)| read == place && n >= n_held;
        if !state.pending.front().is_some_and(is_there) {
            // The first pass, or one that follows a failed or a forgotten one.
            while !state.pending.is_empty() {
                let room = self.answer(state).or_else(|(room, Lost)| room.ok_or(Lost))?;
                state.free.push(room);
            }
            for step in 0..state.free.len() {
                let Some(room) = state.free.pop() else { break };
                self.ask(state, room, None, ((place + step) % self.layers.len(), n_held));
            }
        }
        if state.is_lost {
            return Err(Lost);
        }
        self.answer(state).map_err(|(room, lost)| {
            state.free.extend(room);
            lost
        })
    }
}

impl Spill for SpillFile {
    fn lend(&self, layer: usize, n_held: usize, n_new: usize, job: Borrow<'_>) -> Result<(), Lost> {
        let state = &mut *self.state.borrow_mut();
        let place = self.layers.binary_search_by_key(&layer, |spilled| spilled.layer).map_err(|_| Lost)?;
        let spilled = self.layers[place];
        let mut room = self.take(state, place, n_held)?;
        let (keys, values) = room.split_at_mut(spilled.shape.values_at());
        job(&mut keys[..spilled.shape.key_bytes()], &mut values[..spilled.shape.value_bytes()]);
        let next = place + self.layers.len().min(ROOMS);
        // A layer of the next pass will have the new positions too.
        let n = if next < self.layers.len() { n_held } else { n_held + n_new };
        let written = Some((spilled, n_held..n_held + n_new));
        self.ask(state, room, written, (next % self.layers.len(), n));
        Ok(())
    }
}

/// One request on the thread.
fn serve(
    storage: &mut dyn SpillStorage,
    room: &mut [u8],
    write: Option<(Spilled, Range<usize>)>,
    (read, n): (Spilled, usize),
) -> Result<(), Failed> {
    if let Some((Spilled { shape, at, .. }, positions)) = write {
        let written =
            shape.sectors(&positions, |sectors| write_all_at(storage, at + sectors.start as u64, &room[sectors]));
        written.and_then(|()| storage.settle()).map_err(Failed::Writing)?;
    }
    let Spilled { shape, at, .. } = read;
    let done = shape.sectors(&(0..n), |sectors| read_exact_at(storage, at + sectors.start as u64, &mut room[sectors]));
    done.map_err(Failed::Reading)
}

impl Drop for SpillFile {
    fn drop(&mut self) {
        // Elsewhere than on Unix the file still has its name; a system that refuses now removes it from its temporary files some day.
        #[cfg(not(unix))]
        let _ = std::fs::remove_file(&self.path);
    }
}
