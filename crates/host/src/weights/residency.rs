//! What of a model's weights is in memory, when not everything can be.
//!
//! Every byte of a matrix is read once for a pass, so all are equally hot, and those are kept that leave the streamed ones evenly
//! spread over it, so that the reader works while kept ones are multiplied, and in reads that fill their windows, since a disk takes its
//! time for every read: of each tensor as many whole reads as are due are streamed, and tensors that are short ones only when all others are.
//! Only a command that reads the logits of every position needs the output matrix once for each token of a batch; for it that one
//! is kept first. The embedding, where it is not the output matrix too, is read row by row, and kept only when everything else is.

use std::collections::BTreeMap;
use std::sync::Arc;

use smidgen_core::gguf::{Gguf, Tensor};
use smidgen_core::model::Model;
use smidgen_core::ops::matmul::Matrix;

use super::parts::{Parts, rows_of_read};
use super::storage::{SECTOR, window_bytes};
use crate::packed::{Index, PackedFile};

/// The windows get at most this share of the memory for weights or of what is streamed, whichever is more: larger ones are read faster,
/// but keep fewer weights.
const WINDOWS_SHARE: u64 = 8;
/// Windows larger than [`Windows::LARGE`] get at most this share of what is streamed.
const LARGER_SHARE: u64 = 28;
/// Tensors that are read in less than half a window are held first if they are at most this share of what could be streamed.
const SHORT_SHARE: u64 = 8;
/// A reader's thread: what it uses of its stack, and what the system keeps of a thread.
pub(crate) const READER_BYTES: u64 = 40 << 10;

/// Packed rows that are kept are read through a window of about this size.
pub(super) const UNPACK_BYTES: usize = 32 << 10;

/// Rows that are read for every pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Where the first lies in the file.
    pub at: u64,
    /// Bytes of each.
    pub row_bytes: usize,
    /// How many.
    pub n_rows: usize,
    /// They are best read in groups of so many, which are packed together; 1 in a plain file.
    pub group_rows: usize,
    /// Rows before the first whole group.
    pub lead_rows: usize,
}

impl Range {
    /// Bytes of all its rows.
    fn len(&self) -> u64 {
        (self.row_bytes * self.n_rows) as u64
    }
}

/// The readers' memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// How many windows.
    pub count: usize,
    /// Bytes of each, a multiple of [`SECTOR`].
    pub bytes: usize,
}

/// One matrix tensor of the file.
#[derive(Clone, Copy, Debug)]
struct Stored {
    at: u64,
    row_bytes: u64,
    n_rows: u64,
    /// Rows from the first on that are in memory.
    held: u64,
}

impl Stored {
    fn bytes(&self) -> u64 {
        self.row_bytes * self.n_rows
    }
}

/// Which weights are in memory, and how the others get there.
#[derive(Clone, Debug)]
pub struct Residency {
    /// Every matrix tensor: those of a pass in its order, then those that are read row by row.
    tensors: Vec<Stored>,
    /// The rows that are read for every pass, in its order.
    streamed: Vec<Range>,
    windows: Windows,
    longest_row: usize,
    /// What a packed file says of itself.
    index: Option<Arc<Index>>,
}

impl Residency {
    /// The best use of `budget` bytes for the matrices of `model`, whose header is `gguf`, of a file that is packed as `index` says
    /// if there is one, for passes whose logits are read at the last position or at `each`. When the budget is too small for any
    /// use, the one that needs the least.
    pub fn new(model: &Model<'_>, gguf: &Gguf<'_>, budget: u64, each: bool, index: Option<&Arc<Index>>) -> Self {
        let index = index.cloned();
        let unpacking =
            |windows, is_partial| index.as_deref().map_or(0, |index| unpacking_bytes(index, windows, is_partial));
        let (mut tensors, n_of_pass) = tensors_in_order(model, gguf);
        let longest_row = tensors.iter().map(|tensor| tensor.row_bytes).max().unwrap_or(0) as usize;
        let all: u64 = tensors.iter().map(Stored::bytes).sum();
        let of_pass: u64 = tensors[..n_of_pass].iter().map(Stored::bytes).sum();
        let rest = budget.saturating_sub(window_bytes(longest_row) as u64 + unpacking(Windows::NONE, true));
        let mut windows = Windows::NONE;
        if all + unpacking(Windows::NONE, false) <= budget {
            tensors.iter_mut().for_each(|tensor| tensor.held = tensor.n_rows);
        } else if of_pass <= rest {
            tensors[..n_of_pass].iter_mut().for_each(|tensor| tensor.held = tensor.n_rows);
            hold_spread(&mut tensors[n_of_pass..].iter_mut().collect::<Vec<_>>(), rest - of_pass, usize::MAX);
        } else {
            // A window that holds less than a block would have it unpacked twice.
            let block = index.as_ref().map_or(0, |index| index.largest_block().0);
            let largest = tensors[..n_of_pass].iter().map(Stored::bytes).max().unwrap_or(0);
            // Readers of a packed file have windows of their own beside these, and wait for their unpacking.
            let streamed = if index.is_some() { 0 } else { of_pass - rest };
            windows = choose_windows(rest, streamed, longest_row.max(block), largest);
            let readers = windows.with_readers() + unpacking(windows, true) - unpacking(Windows::NONE, true);
            // A share of rows would end within a block of a packed file, which would be read and unpacked for the rest of it.
            let read_bytes = if index.is_some() { usize::MAX } else { windows.bytes };
            hold_of_pass(&mut tensors[..n_of_pass], rest.saturating_sub(readers), each, read_bytes);
        }
        let streamed = model
            .matrices()
            .filter_map(|matrix| rows_not_held(&matrix, &tensors[..n_of_pass], index.as_deref()))
            .collect();
        Residency { streamed, tensors, windows, longest_row, index }
    }

    /// How many rows of `tensor`, from the first on, are in memory; none of one that is not a matrix.
    pub fn held_rows(&self, tensor: &Tensor<'_>) -> u64 {
        self.tensors.iter().find(|stored| stored.at == tensor.offset).map_or(0, |stored| stored.held)
    }

    /// Bytes of the rows that are in memory.
    pub fn held_bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.held * tensor.row_bytes).sum()
    }

    /// Bytes of the file that are read for every pass.
    pub fn streamed_bytes(&self) -> u64 {
        self.streamed_beside(0)
    }

    /// Bytes of the file that are read for every pass when parts of it are kept in `room` bytes beside the windows.
    pub fn streamed_beside(&self, room: u64) -> u64 {
        let read = |at, len| self.index.as_ref().map_or(len, |index| index.packed_bytes(at, len));
        let all: u64 = self.streamed.iter().map(|range| read(range.at, range.len())).sum();
        if room == 0 {
            return all;
        }
        let parts = Parts::new(&self.streamed, self.windows.bytes);
        all - parts.below(parts.ranks_within(room)).map(|part| read(part.at, part.len as u64)).sum::<u64>()
    }

    /// Bytes of the rows that are read for every pass.
    pub fn unpacked_streamed_bytes(&self) -> u64 {
        self.streamed.iter().map(Range::len).sum()
    }

    /// Of a packed file, how many bytes are decoded for every pass, how many are put in their places as they are, and by how many
    /// threads; `None` when nothing is unpacked.
    pub fn unpacked_bytes(&self) -> Option<([u64; 2], usize)> {
        let index = self.index.as_ref().filter(|_| !self.streamed.is_empty())?;
        let coded = |range: &Range| index.coded_bytes(range.at, range.len());
        let sum = self.streamed.iter().map(coded).fold([0, 0], |sum, [a, b]| [sum[0] + a, sum[1] + b]);
        Some((sum, self.windows.n_readers()))
    }

    /// What unpacking takes: what the file says of itself, and windows and blocks of whoever reads it.
    pub fn unpacking_bytes(&self) -> u64 {
        self.index.as_deref().map_or(0, |index| unpacking_bytes(index, self.windows, self.is_partial()))
    }

    /// The rows that are read for every pass, in its order.
    pub fn streamed(&self) -> &[Range] {
        &self.streamed
    }

    /// Bytes of the longest row that is read for itself; 0 when no row is.
    pub fn fetched_row_bytes(&self) -> usize {
        let aside = |tensor: &&Stored| tensor.held < tensor.n_rows;
        // The output matrix may be the embedding, so a row of any tensor of the pass may be asked for.
        if self.tensors.iter().any(|tensor| aside(&tensor)) { self.longest_row } else { 0 }
    }

    /// The readers' windows; none when nothing is streamed.
    pub fn windows(&self) -> Windows {
        self.windows
    }

    /// What is beside the rows in memory: windows, the row that is read for itself, the readers, and what unpacking takes.
    pub fn reader_bytes(&self) -> u64 {
        let readers = match self.fetched_row_bytes() {
            0 => 0,
            row => self.windows.with_readers() + window_bytes(row) as u64,
        };
        readers + self.unpacking_bytes()
    }

    /// Whether some rows are not in memory.
    pub fn is_partial(&self) -> bool {
        self.fetched_row_bytes() > 0
    }
}

impl Windows {
    /// Those where memory allows: one with the engine, the others filled or being filled, by reads that reach the speed of the disks we
    /// know; together they have the size of a large page.
    pub const LARGE: Self = Windows { count: 4, bytes: 512 << 10 };

    /// The size of each where so much is streamed that what they keep from being kept is little of it, at most: larger reads are no faster.
    const LARGEST_BYTES: usize = 2 << 20;

    /// None.
    const NONE: Self = Windows { count: 0, bytes: SECTOR };

    /// Bytes of all.
    pub fn total(&self) -> u64 {
        (self.count * self.bytes) as u64
    }

    /// Bytes of what is read for one of them from a file that is packed as `index` says.
    pub(super) fn packed_bytes(&self, index: &Index) -> usize {
        index.packed_share(self.bytes)
    }

    /// How many threads read into them.
    pub fn n_readers(&self) -> usize {
        self.count / 2
    }

    /// Bytes of all, and of the threads.
    fn with_readers(&self) -> u64 {
        self.total() + self.n_readers() as u64 * READER_BYTES
    }
}

/// What unpacking a file takes that is packed as `index` says: the index, and if some rows are not kept, who reads into `windows` and
/// who reads single rows. Who reads what is kept has gone before the engine's buffers come, and takes less than they do.
fn unpacking_bytes(index: &Index, windows: Windows, is_partial: bool) -> u64 {
    let ahead = windows.n_readers() as u64 * PackedFile::memory_bytes(index, windows.packed_bytes(index));
    index.memory_bytes() + if is_partial { ahead + PackedFile::memory_bytes(index, 0) } else { 0 }
}

/// The rows of `matrix` that are not in memory: a part of those of its tensor, where three matrices share one (gpt2).
fn rows_not_held(matrix: &Matrix<'_>, tensors: &[Stored], index: Option<&Index>) -> Option<Range> {
    let at = matrix.offset(0);
    let tensor = tensors.iter().find(|tensor| (tensor.at..tensor.at + tensor.bytes()).contains(&at))?;
    let before = (at - tensor.at) / tensor.row_bytes;
    let held = usize::try_from(tensor.held.saturating_sub(before)).map_or(matrix.rows, |held| held.min(matrix.rows));
    let n_rows = matrix.rows - held;
    let (first, row_bytes) = (matrix.offset(held), matrix.row_bytes());
    let group_rows = index.and_then(|index| index.rows_of_block(tensor.at)).unwrap_or(1);
    let past = ((first - tensor.at) / tensor.row_bytes) as usize % group_rows;
    let lead_rows = if past == 0 { 0 } else { group_rows - past };
    (n_rows > 0).then_some(Range { at: first, row_bytes, n_rows, group_rows, lead_rows })
}

/// The matrix tensors in the order in which a pass first needs them, then the others; with the number of the first kind.
fn tensors_in_order(model: &Model<'_>, gguf: &Gguf<'_>) -> (Vec<Stored>, usize) {
    let mut left: BTreeMap<u64, Stored> = gguf
        .tensors()
        .filter(|tensor| tensor.dims[1] > 1)
        .map(|tensor| {
            let row_bytes = tensor.n_bytes / tensor.dims[1];
            (tensor.offset, Stored { at: tensor.offset, row_bytes, n_rows: tensor.dims[1], held: 0 })
        })
        .collect();
    let mut tensors = Vec::with_capacity(left.len());
    for matrix in model.matrices() {
        // The tensor that the matrix lies in: three matrices may share one (gpt2).
        let found = left.range(..=matrix.offset(0)).next_back().map(|(&at, stored)| (at, stored.bytes()));
        if let Some((at, _)) = found.filter(|(at, bytes)| matrix.offset(0) < at + bytes) {
            tensors.extend(left.remove(&at));
        }
    }
    let n_of_pass = tensors.len();
    tensors.extend(left.into_values());
    (tensors, n_of_pass)
}

/// Windows for `rest` bytes of memory when about `streamed` are not kept: large ones where there is room, though no larger than a tensor
/// of at most `largest` bytes fills, and in any case two that hold the longest row. Where they are beyond one large page they fill two or four.
fn choose_windows(rest: u64, streamed: u64, longest_row: usize, largest: u64) -> Windows {
    let least = window_bytes(longest_row);
    let most = usize::try_from(largest)
        .map_or(Windows::LARGE.bytes, |largest| window_bytes(largest).min(Windows::LARGE.bytes));
    let half = rest.saturating_sub(Windows::LARGE.n_readers() as u64 * READER_BYTES) / 2;
    let mut larger = Windows::LARGE;
    let is_little = |total: u64| total <= (streamed / LARGER_SHARE).min(half);
    let is_filled = |bytes: usize| bytes as u64 <= largest;
    while larger.bytes < Windows::LARGEST_BYTES && is_little(2 * larger.total()) && is_filled(2 * larger.bytes) {
        larger.bytes *= 2;
    }
    if larger != Windows::LARGE && least <= larger.bytes {
        return larger;
    }
    let share = (rest / WINDOWS_SHARE).max((streamed / WINDOWS_SHARE).min(half));
    let share = usize::try_from(share).unwrap_or(usize::MAX);
    let bytes = (share / Windows::LARGE.count / SECTOR * SECTOR).min(most).max(least);
    Windows { count: if share / bytes < Windows::LARGE.count { 2 } else { Windows::LARGE.count }, bytes }
}

/// Holds rows of the tensors of a pass worth at most `budget` bytes. The last is the output matrix: if it is read at `each` position,
/// as much as there is room for is held of it first. Tensors of less than half of `read_bytes` are held before the others, unless they are
/// so much that streaming the others alone would not be spread over the pass.
fn hold_of_pass(tensors: &mut [Stored], mut budget: u64, each: bool, read_bytes: usize) {
    let n_first = if each { tensors.len().min(1) } else { 0 };
    let (others, first) = tensors.split_at_mut(tensors.len() - n_first);
    for output in first {
        output.held = (budget / output.row_bytes).min(output.n_rows);
        budget -= output.held * output.row_bytes;
    }
    let all: u64 = others.iter().map(Stored::bytes).sum();
    let is_short = |tensor: &Stored| tensor.bytes() < read_bytes as u64 / 2;
    let comes_first =
        others.iter().filter(|tensor| is_short(tensor)).map(Stored::bytes).sum::<u64>() <= all / SHORT_SHARE;
    let (mut first, mut last): (Vec<_>, Vec<_>) = others.iter_mut().partition(|tensor| comes_first && is_short(tensor));
    budget -= hold_spread(&mut first, budget, read_bytes);
    hold_spread(&mut last, budget, read_bytes);
}

/// Holds rows worth at most `budget` bytes, and says how many bytes these are: all but whole reads of about `read_bytes` each, which
/// are evenly spread (Bresenham's line), and what is less than a read of the last tensors. Where three matrices share a tensor (gpt2) what
/// is streamed of it is read for each of them.
fn hold_spread(tensors: &mut [&mut Stored], budget: u64, read_bytes: usize) -> u64 {
    let all: u64 = tensors.iter().map(|tensor| tensor.bytes()).sum();
    let least = all.saturating_sub(budget);
    let (mut seen, mut streamed) = (0, 0);
    for tensor in tensors.iter_mut() {
        seen += tensor.bytes();
        let due = (u128::from(seen) * u128::from(least) / u128::from(all)) as u64 - streamed;
        let rows = rows_of_read(tensor.n_rows as usize, tensor.row_bytes as usize, 1, read_bytes).0 as u64;
        let n_rows = (due / (rows * tensor.row_bytes) * rows).min(tensor.n_rows);
        tensor.held = tensor.n_rows - n_rows;
        streamed += n_rows * tensor.row_bytes;
    }
    for tensor in tensors.iter_mut().rev() {
        let n_rows = least.saturating_sub(streamed).div_ceil(tensor.row_bytes).min(tensor.held);
        tensor.held -= n_rows;
        streamed += n_rows * tensor.row_bytes;
    }
    all - streamed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_fit_and_grow_with_the_memory_for_weights() {
        let cases = [(0, 2), (1 << 20, 2), (100 << 20, 2), (200 << 20, 4), (300 << 20, 8)];
        for (streamed, most) in cases {
            for longest_row in [100, 5000] {
                let mut before = 0;
                for rest in (0..20 << 20).step_by(40_093) {
                    let windows = choose_windows(rest, streamed, longest_row, 2 << 20);
                    let are_least = windows == Windows { count: 2, bytes: window_bytes(longest_row) };
                    assert!(are_least || windows.with_readers() <= rest, "{windows:?} in {rest}");
                    assert!(windows.total() >= before, "{windows:?} in {rest}");
                    before = windows.total();
                }
                assert_eq!(before, most << 20, "of {streamed}");
            }
        }
        assert_eq!(choose_windows(20 << 20, 300 << 20, 100, 2_000_000).bytes, 1 << 20, "no larger than a tensor");
        let few = |streamed| choose_windows(5 << 20, streamed, 100, 1 << 20);
        assert!(few(100 << 20) == Windows::LARGE && few(1 << 20).total() < 1 << 20, "larger where more is streamed");
    }

    #[test]
    fn what_is_streamed_is_spread_and_fills_its_windows() {
        const READ: usize = 64_000 + SECTOR;
        let stored = |n_rows| Stored { at: 0, row_bytes: 1000, n_rows, held: 0 };
        let streamed = |tensors: &[Stored]| tensors.iter().map(|t| t.bytes() - t.held * 1000).sum::<u64>();
        // Reads of 50 rows, of 20, and of 60.
        let all: Vec<Stored> = (0..90).map(|i| stored([200, 20, 60][i % 3])).collect();
        let total: u64 = all.iter().map(Stored::bytes).sum();
        for budget in (0..=total + 99_999).step_by(77_777) {
            let mut tensors = all.clone();
            hold_of_pass(&mut tensors, budget, false, READ);
            let least = total.saturating_sub(budget);
            assert!((least..least + 1000).contains(&streamed(&tensors)), "{} of {least}", streamed(&tensors));
            for third in tensors.chunks(30) {
                assert!(streamed(third).abs_diff(least / 3) <= 150_000, "{budget}: {}", streamed(third));
            }
            let is_whole = |t: &Stored| (t.n_rows - t.held).is_multiple_of(if t.n_rows == 200 { 50 } else { t.n_rows });
            assert!(tensors.iter().filter(|t| !is_whole(t)).count() <= 2, "{budget}: {tensors:?}");
            let n_short = tensors.iter().filter(|t| t.n_rows == 20 && t.held < 20).count();
            assert!(n_short <= 1 || tensors.iter().all(|t| t.n_rows == 20 || t.held == 0), "{budget}: {tensors:?}");
        }
        let mut tensors = all;
        hold_of_pass(&mut tensors, 1_000_000, false, usize::MAX);
        let n_partial = tensors.iter().filter(|t| t.held > 0 && t.held < t.n_rows).count();
        let least = total - 1_000_000;
        assert!(n_partial <= 2 && (least..least + 1000).contains(&streamed(&tensors)), "whole tensors");
        assert!(tensors.chunks(30).all(|third| streamed(third).abs_diff(least / 3) <= 300_000), "{tensors:?}");
    }
}
