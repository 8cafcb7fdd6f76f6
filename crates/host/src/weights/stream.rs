//! The weights that are read for every pass, ahead of the engine and in its order.
//!
//! There are a few windows of memory. Each is being filled, full and waiting, or with the engine; the engine hands one back
//! by asking for the next part, so who reads never waits for anything but the disk, and never for a part that nobody will ask
//! for. When the engine goes elsewhere (a prompt of several batches needs the output matrix once only) what was read ahead is
//! dropped.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use smidgen_core::store::{Each, Fault, Store};

use super::ahead::{Ahead, Answer, Part, Silence, Sources, start};
use super::residency::{Range, Windows};
use super::storage::{SECTOR, Stamp, Storage, Window, read_into, window, window_bytes};
use crate::error::Error;

/// A storage that has said nothing for so long is broken; a card that wakes up or a disk that spins up is faster.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A row in the order of a pass: of which range, and which of its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    range: usize,
    row: usize,
}

/// The weights of one file that are not in memory, as the engine asks for them.
pub struct Stream {
    path: PathBuf,
    /// What is read for a pass, in its order.
    ranges: Vec<Range>,
    /// Bytes of a window.
    window_bytes: usize,
    state: RefCell<State>,
    patience: Duration,
}

struct State {
    ahead: Box<dyn Ahead>,
    /// Parts that have been asked for and that have not been taken, in order.
    pending: VecDeque<Place>,
    free: Vec<Window>,
    /// The first row of the part to ask for next.
    next: Place,
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
        let free = (0..windows.count).map(|_| window(windows.bytes)).collect::<io::Result<_>>().map_err(failed)?;
        let row = window(window_bytes(longest_row)).map_err(failed)?;
        let pending = VecDeque::with_capacity(windows.count);
        let state = State {
            ahead,
            pending,
            free,
            next: Place { range: 0, row: 0 },
            is_stale: false,
            storage: aside,
            row,
            expected,
            error: None,
        };
        let stream = Stream {
            path: path.to_path_buf(),
            ranges: ranges.to_vec(),
            window_bytes: windows.bytes,
            state: state.into(),
            patience: PATIENCE,
        };
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

    /// Asks for parts while there are windows for them.
    fn read_ahead(&self, state: &mut State) {
        while let Some(window) = state.free.pop_if(|_| !self.ranges.is_empty()) {
            let (part, next) = self.part(state.next);
            state.ahead.ask(part, window);
            state.pending.push_back(state.next);
            state.next = next;
        }
    }

    /// The part that begins at `place`, and where the next one does. A range has parts of about the same size that fit a window,
    /// whole rows each, and whole groups of rows where a window has room for one.
    fn part(&self, place: Place) -> (Part, Place) {
        let Range { at, row_bytes, n_rows, group_rows, lead_rows } = self.ranges[place.range];
        let most = (self.window_bytes.saturating_sub(SECTOR) / row_bytes).max(1);
        let group = if group_rows <= most { group_rows } else { 1 };
        let rows = n_rows.div_ceil(n_rows.div_ceil(most / group * group)).next_multiple_of(group);
        // The first part ends where a group does.
        let is_short = place.row == 0 && lead_rows > 0 && group > 1;
        let rows = if is_short { lead_rows + rows - group } else { rows }.min(n_rows - place.row);
        let part = Part { at: at + (place.row * row_bytes) as u64, len: rows * row_bytes };
        let row = place.row + rows;
        let is_last = row == n_rows;
        (
            part,
            if is_last {
                Place { range: (place.range + 1) % self.ranges.len(), row: 0 }
            } else {
                Place { row, ..place }
            },
        )
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
        while let Some((found, Answer { window, begins })) = self.answer(state)? {
            match begins {
                Ok(begins) if found == place => return Ok((window, begins)),
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
        let Some(range) = self.ranges.iter().position(|range| range.at == at) else {
            let error = Error::failed(&self.path, format!("no rows were planned to be read at byte {at}"));
            return Err(Self::fault(state, at, error));
        };
        let mut place = Place { range, row: 0 };
        while at < end {
            let (part, next) = self.part(place);
            let (window, begins) = self.take(state, place).map_err(|error| Self::fault(state, at, error))?;
            each(&window[begins..begins + part.len]);
            state.free.push(window);
            self.read_ahead(state);
            at += part.len as u64;
            place = next;
        }
        Ok(())
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
