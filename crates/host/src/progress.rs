//! How far a long piece of work has come, told to whoever wants to show it.

/// Receives the progress of one piece of work at a time; the command line draws a bar from it.
pub trait Progress {
    /// Work called `what` begins and will be done after `total` units (bytes, for everything in this crate).
    fn begin(&self, what: &str, total: u64);
    /// `n` more units are done.
    fn advance(&self, n: u64);
    /// The work that began last has ended, whole or not.
    fn end(&self);
}

/// Shows nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _what: &str, _total: u64) {}
    fn advance(&self, _n: u64) {}
    fn end(&self) {}
}

/// Ends the work on `progress` when it goes out of scope, so that an error leaves no half-drawn bar.
pub(crate) struct Work<'a>(&'a dyn Progress);

impl<'a> Work<'a> {
    /// Begins work called `what` of `total` bytes.
    pub(crate) fn begin(progress: &'a dyn Progress, what: &str, total: u64) -> Self {
        progress.begin(what, total);
        Work(progress)
    }

    /// `n` more bytes are done.
    pub(crate) fn advance(&self, n: u64) {
        self.0.advance(n);
    }
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}
