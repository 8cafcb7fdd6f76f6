//! The weights that are read for every pass, ahead of the engine and in its order.
//!
//! There are a few windows of memory. Each is being filled, full and waiting, or with the engine; the engine hands one back
//! by asking for the next part, so who reads never waits for anything but the disk, and never for a part that nobody will ask
//! for. When the engine goes elsewhere (a prompt of several batches needs the output matrix once only) what was read ahead is
//! dropped.
//!
//! Memory that is set aside for caches is of no use until they have grown. [`Stream::with_room`] lends it to parts that were streamed:
//! they stay, as many as there is room for, and go when the caches want it.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use smidgen_core::store::{Each, Fault, Store};

use super::ahead::{Ahead, Answer, Silence, Sources, start};
use super::eviction::Eviction;
use super::parts::{Parts, Place};
use super::residency::{Range, Windows};
use super::room::Caches;
use super::storage::{Stamp, Storage, read_into, window_bytes};
use super::window::{self, Window};
use crate::error::Error;
use crate::image::{Pages, zeroed};

/// A storage that has said nothing for so long is broken; a card that wakes up or a disk that spins up is faster.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The weights of one file that are not in memory, as the engine asks for them.
pub struct Stream {
    path: PathBuf,
    /// What is read for a pass, in its order.
    parts: Parts,
    state: RefCell<State>,
    patience: Duration,
    /// Whose memory is lent, if anybody's.
    caches: Option<Caches>,
}

struct State {
    ahead: Box<dyn Ahead>,
    /// Parts that have been asked for and that have not been taken, in order.
    pending: VecDeque<Place>,
    free: Vec<Window>,
    eviction: Eviction,
    /// The part to ask for next, unless it is kept.
    next: Place,
    /// Parts that are kept, by the number of parts before them.
    kept: BTreeMap<u32, Pages>,
    /// Those below this rank are still kept when the caches have a position more: the others go in this pass once they were used, so
    /// that they are read ahead for the next.
    kept_ranks: u32,
    /// Bytes that there are for them now, and when the caches have a position more; the least that there have been.
    rooms: [u64; 2],
    /// Bytes that were read ahead so far.
    n_streamed: u64,
    /// Whether a call has failed: what was read ahead then may have failed for the same reason, which may be gone.
    is_stale: bool,
    /// For rows that nobody could foresee.
    storage: Box<dyn Storage>,
    row: Window,
    expected: Stamp,
    error: Option<Error>,
}

impl Stream {
    /// Begins to read `ranges`, which is the order of a pass, of the file called `path` in messages, through `windows`; the longest
    /// row that will be asked for out of order has `longest_row` bytes.
    ///
    /// # Errors
    /// When there is no memory or no thread for it.
    pub fn new(
        path: &Path,
        Sources { ahead, aside, tries_ring, expected }: Sources,
        ranges: &[Range],
        windows: Windows,
        longest_row: usize,
    ) -> Result<Self, Error> {
        let failed = |error: io::Error| Error::failed(path, format!("cannot be streamed: {error}"));
        let ahead = start(ahead, tries_ring, expected, windows.count).map_err(failed)?;
        let free = window::windows(windows.count, windows.bytes).map_err(failed)?;
        let row = window::window(window_bytes(longest_row)).map_err(failed)?;
        let pending = VecDeque::with_capacity(windows.count);
        let parts = Parts::new(ranges, windows.bytes);
        let state = State {
            ahead,
            pending,
            free,
            eviction: Eviction::default(),
            next: parts.first(),
            kept: BTreeMap::new(),
            kept_ranks: 0,
            rooms: [u64::MAX; 2],
            n_streamed: 0,
            is_stale: false,
            storage: aside,
            row,
            expected,
            error: None,
        };
        let stream = Stream { path: path.to_path_buf(), parts, state: state.into(), patience: PATIENCE, caches: None };
        stream.read_ahead(&mut stream.state.borrow_mut());
        Ok(stream)
    }

    /// The same with another time after which a storage that says nothing is given up.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Why the last call of the engine failed, said once.
    pub fn take_error(&self) -> Option<Error> {
        self.state.borrow_mut().error.take()
    }

    /// The same with parts that are kept in memory that `caches` do not use yet, if they lend it.
    #[must_use]
    pub fn with_room(self, caches: Option<Caches>) -> Self {
        Self { caches, ..self }
    }

    /// Bytes that have been read ahead so far, of the plain file, those that nobody wanted any more included.
    pub fn n_streamed(&self) -> u64 {
        self.state.borrow().n_streamed
    }

    /// Bytes of the parts that are kept now.
    pub fn kept_bytes(&self) -> u64 {
        self.state.borrow().kept.values().map(|part| part.len() as u64).sum()
    }

    /// Asks for parts that are not kept while there are windows for them.
    fn read_ahead(&self, state: &mut State) {
        while (state.kept.len() as u32) < self.parts.len() {
            while state.kept.contains_key(&state.next.n_before) {
                state.next = self.parts.part(state.next).1;
            }
            // A whole pass of them may have been asked for already.
            let is_asked_for = state.pending.contains(&state.next);
            let Some(window) = state.free.pop_if(|_| !is_asked_for) else { return };
            let (part, next) = self.parts.part(state.next);
            state.ahead.ask(part, window);
            state.pending.push_back(state.next);
            state.next = next;
        }
    }

    /// Keeps a copy of the part at `place`; without memory for it, it is streamed again.
    fn keep(state: &mut State, place: Place, bytes: &[u8]) {
        if let Ok(mut pages) = zeroed(bytes.len() as u64) {
            pages.copy_from_slice(bytes);
            state.kept.insert(place.n_before, pages);
        }
    }

    /// Waits for what was asked for first; with its place. `None` when nothing was.
    fn answer(&self, state: &mut State) -> Result<Option<(Place, Answer)>, Error> {
        let Some(&place) = state.pending.front() else { return Ok(None) };
        let answer = state.ahead.answer(self.patience).map_err(|silence| match silence {
            Silence::Timeout => {
                let seconds = self.patience.as_secs();
                Error::failed(&self.path, format!("the storage has not answered for {seconds} seconds"))
            }
            Silence::Ended => Error::failed(&self.path, "it is not read ahead any more"),
        })?;
        state.pending.pop_front();
        state.n_streamed += self.parts.part(place).0.len as u64;
        Ok(Some((place, answer)))
    }

    /// The window that holds the part at `place`, and where in it the part begins.
    fn take(&self, state: &mut State, place: Place) -> Result<(Window, usize), Error> {
        if state.is_stale || !state.pending.contains(&place) {
            // The engine went elsewhere.
            while let Some((_, answer)) = self.answer(state)? {
                state.free.push(answer.window);
            }
            state.is_stale = false;
            state.next = place;
            self.read_ahead(state);
        }
        while let Some((found, Answer { window, begins, took, is_late })) = self.answer(state)? {
            match begins {
                Ok(begins) if found == place => {
                    if let Some(took) = took {
                        state.eviction.note(window.is_evicted, self.parts.part(place).0.len, took, is_late);
                    }
                    return Ok((window, begins));
                }
                Err(error) if found == place => {
                    state.free.push(window);
                    return Err(Error::reading(&self.path, &error));
                }
                // Read for a pass that went elsewhere.
                _ => state.free.push(window),
            }
            self.read_ahead(state);
        }
        Err(Error::failed(&self.path, "there is no window to read into"))
    }

    /// Notes why a call failed, for [`Stream::take_error`].
    fn fault(state: &mut State, at: u64, error: Error) -> Fault {
        state.error = Some(error);
        state.is_stale = true;
        Fault(at)
    }
}

impl Store for Stream {
    fn stream(&self, mut at: u64, row_bytes: usize, n_rows: usize, each: Each<'_>) -> Result<(), Fault> {
        let state = &mut *self.state.borrow_mut();
        let end = at + (row_bytes * n_rows) as u64;
        let Some(mut place) = self.parts.of_range_at(at) else {
            let error = Error::failed(&self.path, format!("no rows were planned to be read at byte {at}"));
            return Err(Self::fault(state, at, error));
        };
        while at < end {
            let (part, next) = self.parts.part(place);
            let will_stay = self.parts.rank(place.n_before) < state.kept_ranks;
            if let Some(bytes) = state.kept.get(&place.n_before) {
                each(bytes);
                if !will_stay {
                    state.kept.remove(&place.n_before);
                    self.read_ahead(state);
                }
            } else {
                let (mut window, begins) = self.take(state, place).map_err(|error| Self::fault(state, at, error))?;
                let bytes = &window[begins..begins + part.len];
                each(bytes);
                if will_stay {
                    Self::keep(state, place, bytes);
                }
                window.is_evicted = state.eviction.is_due();
                if window.is_evicted {
                    window.evict(begins + part.len);
                }
                state.free.push(window);
                self.read_ahead(state);
            }
            at += part.len as u64;
            place = next;
        }
        Ok(())
    }

    fn caches_grow(&self, n_positions: usize) {
        let state = &mut *self.state.borrow_mut();
        let Some(caches) = &self.caches else { return };
        let rooms = [n_positions, n_positions + 1].map(|n| caches.unused_bytes(n));
        // What has been written to once stays with the caches.
        if rooms >= state.rooms {
            return;
        }
        let [now, next] = rooms.map(|room| self.parts.ranks_within(room));
        state.kept.retain(|&n_before, _| self.parts.rank(n_before) < now);
        (state.rooms, state.kept_ranks) = (rooms, next);
    }

    fn fetch(&self, at: u64, row_bytes: usize, each: Each<'_>) -> Result<(), Fault> {
        let state = &mut *self.state.borrow_mut();
        let begins = read_into(state.storage.as_mut(), (at, row_bytes), &mut state.row, &state.expected);
        match begins {
            Ok(begins) => each(&state.row[begins..begins + row_bytes]),
            Err(error) => return Err(Self::fault(state, at, Error::reading(&self.path, &error))),
        }
        Ok(())
    }
}
