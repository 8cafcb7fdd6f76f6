//! What is not in memory: somebody brings the rows of weights, and the older rows of caches, when they are needed.
//!
//! A machine with less memory than the model has keeps what it can and reads the rest from a file, a flash chip or a card for
//! every pass. The engine asks in an order that never changes (layer by layer, and in a layer query, key, value, output, up,
//! gate, down; then the output matrix), so a store can read ahead. Each row is multiplied as if it had always been there:
//! where the bytes come from changes no bit.

use core::ops::Range;

/// Rows that could not be had: the offset in the file of the first that is missing. The store knows more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault(
    /// Byte offset in the file.
    pub u64,
);

/// What is called with the bytes of some whole rows.
pub type Each<'f> = &'f mut dyn FnMut(&[u8]);

/// Somebody who brings the rows that are not in memory.
pub trait Store {
    /// Hands over `n_rows` rows of `row_bytes` bytes that lie one after the other from offset `at` of the file on, in order, in
    /// as many groups of whole rows as it likes. They will be asked for again, in the same order.
    ///
    /// # Errors
    /// Rows that could not be had; those before them have been handed over.
    fn stream(&self, at: u64, row_bytes: usize, n_rows: usize, each: Each<'_>) -> Result<(), Fault>;

    /// Hands over the one row of `row_bytes` bytes at offset `at`, which nobody could foresee.
    ///
    /// # Errors
    /// A row that could not be had.
    fn fetch(&self, at: u64, row_bytes: usize, each: Each<'_>) -> Result<(), Fault>;

    /// Hears before every pass how many positions will be in the caches after it. Their memory is not written to before.
    fn caches_grow(&self, n_positions: usize) {
        let _ = n_positions;
    }
}

/// Rows of a cache that could not be had, or not be kept. Who keeps them knows more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost;

/// What is called with rows of keys and rows of values.
pub type Borrow<'f> = &'f mut dyn FnMut(&[u8], &[u8]);

/// One head of the cache of one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The layer.
    pub layer: usize,
    /// Which of its key and value heads.
    pub head: usize,
}

/// Somebody who keeps the older rows of caches for which there is no room.
pub trait Spill {
    /// Keeps the rows of the [`PAGE`](crate::kv::PAGE) positions from `position` on, a multiple of it, one after the other. What was
    /// kept for that position and for later ones counts no longer.
    ///
    /// # Errors
    /// Rows that could not be kept.
    fn keep(&self, head: Head, position: usize, keys: &[u8], values: &[u8]) -> Result<(), Lost>;

    /// Lends the rows of `positions`, which are whole pages that were kept, one after the other. Heads are asked for in order,
    /// layer by layer, again and again.
    ///
    /// # Errors
    /// Rows that could not be brought, or were not kept; the job has not been called then.
    fn lend(&self, head: Head, positions: Range<usize>, job: Borrow<'_>) -> Result<(), Lost>;
}

/// Nobody: for models that are in memory as a whole.
#[derive(Clone, Copy, Debug)]
pub struct Nowhere;

impl Store for Nowhere {
    fn stream(&self, at: u64, _: usize, _: usize, _: Each<'_>) -> Result<(), Fault> {
        Err(Fault(at))
    }

    fn fetch(&self, at: u64, _: usize, _: Each<'_>) -> Result<(), Fault> {
        Err(Fault(at))
    }
}

impl Spill for Nowhere {
    fn keep(&self, _: Head, _: usize, _: &[u8], _: &[u8]) -> Result<(), Lost> {
        Err(Lost)
    }

    fn lend(&self, _: Head, _: Range<usize>, _: Borrow<'_>) -> Result<(), Lost> {
        Err(Lost)
    }
}
