//! How rows of weights become bytes of a type: what a caller of the pipeline brings.

use smidgen_core::quant::Type;

use crate::error::Error;
use crate::source::TensorInfo;

/// Knows how to write any tensor.
pub trait Encode: Sync {
    /// Prepares to write `tensor`, of a model whose file is called `subject` in errors, as `kind`.
    ///
    /// # Errors
    /// A type that rows cannot be written in, or something that this tensor needs and that is missing.
    fn begin(
        &self,
        subject: &std::path::Path,
        tensor: &TensorInfo,
        kind: Type,
    ) -> Result<Box<dyn EncodeRows + '_>, Error>;
}

/// Knows how to write the rows of one tensor. Each row depends on nothing but its own weights, so that groups of rows may be
/// written in any order, by any number of threads, with the same bytes.
pub trait EncodeRows: Sync {
    /// Writes whole rows, which may be changed on the way, as little-endian blocks that fill `out`.
    ///
    /// # Errors
    /// Weights that cannot be written.
    fn encode(&self, rows: &mut [f32], out: &mut [u8]) -> Result<(), Unwritable>;
}

/// Why rows were not written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unwritable {
    /// The weight of this number, among those given, is too large for the type.
    TooLarge(usize),
    /// Another reason.
    Because(String),
}

/// Rounds every block by itself, to what core's own quantizers make of it.
#[derive(Clone, Copy, Debug)]
pub struct Plain;

impl Encode for Plain {
    fn begin(
        &self,
        subject: &std::path::Path,
        tensor: &TensorInfo,
        kind: Type,
    ) -> Result<Box<dyn EncodeRows + '_>, Error> {
        let row_bytes = kind.row_bytes(tensor.n_columns()).filter(|_| kind.can_quantize()).ok_or_else(|| {
            Error::bad(subject, format!("tensor '{}' cannot be written as {}", tensor.shown(), kind.name()))
        })?;
        Ok(Box::new(PlainRows { kind, n_columns: tensor.n_columns() as usize, row_bytes: row_bytes as usize }))
    }
}

struct PlainRows {
    kind: Type,
    n_columns: usize,
    row_bytes: usize,
}

impl EncodeRows for PlainRows {
    fn encode(&self, rows: &mut [f32], out: &mut [u8]) -> Result<(), Unwritable> {
        for (row, out) in rows.chunks_exact(self.n_columns).zip(out.chunks_exact_mut(self.row_bytes)) {
            let written = self.kind.quantize(row, out);
            written.map_err(|error| Unwritable::Because(error.to_string()))?;
        }
        Ok(())
    }
}
