//! What is not in memory: somebody brings the rows of weights, and the caches of layers, when they are needed.
//!
//! A machine with less memory than the model has keeps what it can and reads the rest from a file, a flash chip or a card for
//! every pass. The engine asks in an order that never changes (layer by layer, and in a layer query, key, value, output, up,
//! gate, down; then the output matrix), so a store can read ahead. Each row is multiplied as if it had always been there:
//! where the bytes come from changes no bit.

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
}

/// A cache that could not be had, or not be kept. Who keeps it knows more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost;

/// What is called with room for the keys and room for the values of a layer.
pub type Borrow<'f> = &'f mut dyn FnMut(&mut [u8], &mut [u8]);

/// Somebody who keeps the caches of layers for which there is no room.
pub trait Spill {
    /// Lends room for the cached rows of `layer`, as [`Cache`](crate::kv::Cache) lays out those of one layer. The rows of positions
    /// below `n_held` are as they were left; those of the `n_new` positions from there on are kept as they will be left. Layers
    /// are asked for in order, again and again.
    ///
    /// # Errors
    /// Rows that could not be brought or kept; the job may or may not have been called.
    fn lend(&self, layer: usize, n_held: usize, n_new: usize, job: Borrow<'_>) -> Result<(), Lost>;
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
    fn lend(&self, _: usize, _: usize, _: usize, _: Borrow<'_>) -> Result<(), Lost> {
        Err(Lost)
    }
}
