//! Older rows of key-value caches for which there is no memory: a file, and a thread that brings the rows of the next head while
//! those of one are used.
//!
//! Each head of a spilled layer has its part of the file, from a sector on: the keys of all positions that may be moved out, one
//! after the other, and then the values. Rows come in pages, which rarely end with a sector: what of the first sector belongs to the
//! page before is read again when a page is written. The rows of two heads fit in memory, of one with the engine and of one with the
//! thread, which does one thing after the other: what it reads has been written.

mod shape;
mod storage;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use smidgen_core::kv::PAGE;
use smidgen_core::store::{Borrow, Head, Lost, Spill};

use shape::Side;
pub use shape::SpillShape;
pub use storage::{SpillDisk, SpillStorage, first_on_disk};
use storage::{read_exact_at, write_all_at};

use crate::error::Error;
use crate::weights::{PATIENCE, SECTOR, Window, window, windows};

/// Heads whose rows are in memory at a time.
const ROOMS: usize = 2;
/// The thread calls little; a stack counts only as far as it is used.
const STACK_BYTES: usize = 128 << 10;

/// What the thread does with a room: the rows of some positions of the head whose part of the file begins there.
struct Request {
    room: Window,
    work: Work,
    at: u64,
    positions: Range<usize>,
}

/// Whether they go to the file or come from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Write,
    Read,
}

/// The room again.
struct Answer {
    room: Window,
    done: io::Result<()>,
}

/// What the thread was asked for: of which head (by its place in the file), and which positions.
struct Asked {
    work: Work,
    place: usize,
    positions: Range<usize>,
}

/// The older rows of some layers' caches, in a file that is gone when this is.
pub struct SpillFile {
    path: PathBuf,
    shape: SpillShape,
    state: RefCell<State>,
    patience: Duration,
}

struct State {
    requests: SyncSender<Request>,
    answers: Receiver<Answer>,
    pending: VecDeque<Asked>,
    free: Vec<Window>,
    /// What was lent last of each layer: the next pass wants the same, or more.
    lent: Vec<Range<usize>>,
    error: Option<Error>,
    /// Rows that could not be written are lost for good.
    is_lost: bool,
}

impl SpillFile {
    /// A file in `directory` for rows of this shape.
    ///
    /// # Errors
    /// When there cannot be one, or there is no memory or thread for it.
    pub fn new(directory: &Path, shape: &SpillShape) -> Result<Self, Error> {
        let (path, disk) = SpillDisk::create(directory, shape.file_bytes())?;
        Self::over(path, Box::new(disk), shape)
    }

    /// Rows of this shape in `storage`, which is called `path` in messages.
    ///
    /// # Errors
    /// When there is no memory or thread for it.
    pub fn over(path: PathBuf, mut storage: Box<dyn SpillStorage>, shape: &SpillShape) -> Result<Self, Error> {
        let failed = |error: io::Error| Error::failed(&path, format!("cannot hold the cache: {error}"));
        let free = windows(shape.n_heads().min(ROOMS), shape.room_bytes()).map_err(failed)?;
        let mut spare = window(SECTOR).map_err(failed)?;
        let (requests, asked) = sync_channel::<Request>(ROOMS);
        let (answered, answers) = sync_channel(ROOMS);
        let builder = std::thread::Builder::new().name("spill".to_owned()).stack_size(STACK_BYTES);
        let sides = shape.sides();
        let live = move || {
            while let Ok(Request { mut room, work, at, positions }) = asked.recv() {
                let mut sides = sides.iter();
                let done = match work {
                    Work::Read => sides.try_for_each(|side| read(storage.as_mut(), &mut room, side, at, &positions)),
                    Work::Write => sides
                        .try_for_each(|side| write(storage.as_mut(), (&mut room, &mut spare), side, at, &positions))
                        .and_then(|()| storage.settle()),
                };
                if answered.send(Answer { room, done }).is_err() {
                    return;
                }
            }
        };
        builder.spawn(live).map_err(failed)?;
        let lent = vec![0..0; shape.layers.len()];
        let state = State { requests, answers, pending: VecDeque::new(), free, lent, error: None, is_lost: false };
        Ok(SpillFile { path, shape: shape.clone(), state: state.into(), patience: PATIENCE })
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

    /// Asks the thread for `work` on some rows of the head at `place`.
    fn ask(&self, state: &mut State, room: Window, asked: Asked) {
        let at = asked.place as u64 * self.shape.head_bytes();
        // There is room in the channel for every request; a thread that has ended is noticed when its answer is missed.
        let _ = state.requests.send(Request { room, work: asked.work, at, positions: asked.positions.clone() });
        state.pending.push_back(asked);
    }

    /// Asks for what the next pass is likely to want of the head at `place`.
    fn ask_ahead(&self, state: &mut State, room: Window, place: usize) {
        let of_layer = place / self.shape.n_kv_heads;
        let Range { start, end } = state.lent[of_layer];
        let positions = start.max(end.saturating_sub(self.shape.layers[of_layer].1))..end;
        if positions.is_empty() {
            state.free.push(room);
        } else {
            self.ask(state, room, Asked { work: Work::Read, place, positions });
        }
    }

    /// Waits for the room that was asked for first, and gives the positions it was asked for; what went wrong is kept for
    /// [`SpillFile::take_error`].
    fn answer(&self, state: &mut State) -> Result<(Window, Range<usize>), (Option<Window>, Lost)> {
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
        let asked = state.pending.pop_front();
        let work = asked.as_ref().map_or(Work::Read, |asked| asked.work);
        match done {
            Ok(()) => return Ok((room, asked.map_or(0..0, |asked| asked.positions))),
            Err(error) if work == Work::Read => state.error = Some(Error::reading(&self.path, &error)),
            Err(error) => {
                state.is_lost = true;
                state.error = Some(Error::writing(&self.path, &error));
            }
        }
        Err((Some(room), Lost))
    }

    /// Waits until the thread has done all it was asked for.
    fn settle(&self, state: &mut State) -> Result<(), Lost> {
        while !state.pending.is_empty() {
            let room = self.answer(state).map(|(room, _)| room).or_else(|(room, Lost)| room.ok_or(Lost))?;
            state.free.push(room);
        }
        if state.is_lost { Err(Lost) } else { Ok(()) }
    }

    /// The room that holds at least `positions` of the head at `place`, and those that it holds.
    fn take(&self, state: &mut State, place: usize, positions: &Range<usize>) -> Result<(Window, Range<usize>), Lost> {
        let is_there = |asked: &Asked| {
            let holds = asked.positions.start <= positions.start && positions.end <= asked.positions.end;
            asked.work == Work::Read && asked.place == place && holds
        };
        if !state.pending.front().is_some_and(is_there) {
            // The first pass, or one after a page was moved out, or one that follows a failed one.
            self.settle(state)?;
            for step in 0..state.free.len() {
                let Some(room) = state.free.pop() else { break };
                self.ask_ahead(state, room, (place + step) % self.shape.n_heads());
            }
        }
        if state.is_lost || state.pending.is_empty() {
            return Err(Lost);
        }
        self.answer(state).map_err(|(room, lost)| {
            state.free.extend(room);
            lost
        })
    }

    /// The place of a head in the file, and that of its layer.
    fn place(&self, Head { layer, head }: Head) -> Result<(usize, usize), Lost> {
        let of_layer = self.shape.layers.binary_search_by_key(&layer, |&(layer, _)| layer).map_err(|_| Lost)?;
        if head < self.shape.n_kv_heads { Ok((of_layer * self.shape.n_kv_heads + head, of_layer)) } else { Err(Lost) }
    }
}

impl Spill for SpillFile {
    fn keep(&self, head: Head, position: usize, keys: &[u8], values: &[u8]) -> Result<(), Lost> {
        let state = &mut *self.state.borrow_mut();
        let (place, of_layer) = self.place(head)?;
        let positions = position..position + PAGE;
        if positions.end > self.shape.n_rows {
            return Err(Lost);
        }
        // What is read ahead lacks this page.
        if state.free.is_empty() || state.pending.iter().any(|asked| asked.work == Work::Read) {
            self.settle(state)?;
        }
        if state.is_lost {
            return Err(Lost);
        }
        let mut room = state.free.pop().ok_or(Lost)?;
        for (side, rows) in self.shape.sides().iter().zip([keys, values]) {
            room[side.rows(&positions)].copy_from_slice(rows);
        }
        if !state.lent[of_layer].is_empty() {
            state.lent[of_layer].end = positions.end;
        }
        self.ask(state, room, Asked { work: Work::Write, place, positions });
        Ok(())
    }

    fn lend(&self, head: Head, positions: Range<usize>, job: Borrow<'_>) -> Result<(), Lost> {
        let state = &mut *self.state.borrow_mut();
        let (place, of_layer) = self.place(head)?;
        if positions.len() > self.shape.layers[of_layer].1 {
            return Err(Lost);
        }
        state.lent[of_layer] = positions.clone();
        let (room, held) = self.take(state, place, &positions)?;
        let [keys, values] = self.shape.sides().map(|side| {
            let rows = side.rows(&held);
            let skipped = (positions.start - held.start) * side.row_bytes;
            &room[rows.start + skipped..][..positions.len() * side.row_bytes]
        });
        job(keys, values);
        // That layer may be one that sees other positions.
        self.ask_ahead(state, room, (place + ROOMS.min(self.shape.n_heads())) % self.shape.n_heads());
        Ok(())
    }
}

/// Brings rows of some positions of the head at `at` of the file to where they belong in `room`.
fn read(
    storage: &mut dyn SpillStorage,
    room: &mut [u8],
    side: &Side,
    at: u64,
    positions: &Range<usize>,
) -> io::Result<()> {
    let sectors = side.sectors(positions);
    let out = &mut room[side.room_at..][..sectors.len()];
    read_exact_at(storage, at + sectors.start as u64, out)
}

/// Writes a page that lies in `room` to where it belongs, with what the file has before it in its first sector.
fn write(
    storage: &mut dyn SpillStorage,
    (room, spare): (&mut [u8], &mut [u8]),
    side: &Side,
    at: u64,
    positions: &Range<usize>,
) -> io::Result<()> {
    let sectors = side.sectors(positions);
    let n_before = side.rows(positions).start - side.room_at;
    if n_before > 0 {
        read_exact_at(storage, at + sectors.start as u64, spare)?;
        room[side.room_at..][..n_before].copy_from_slice(&spare[..n_before]);
    }
    write_all_at(storage, at + sectors.start as u64, &room[side.room_at..][..sectors.len()])
}

impl Drop for SpillFile {
    fn drop(&mut self) {
        // Elsewhere than on Unix the file still has its name; a system that refuses now removes it from its temporary files some day.
        #[cfg(not(unix))]
        let _ = std::fs::remove_file(&self.path);
    }
}
