//! How rows become bytes: the pipeline's side of `smidgen-compress`.

use super::known::Known;
use smidgen_compress::calibration::{Moment, input_of};
use smidgen_compress::encode::{EncodeError, encoder, quantize_rows};
use smidgen_compress::feedback::{self, Factor};
use smidgen_compress::recipe::EMBEDDING;
use smidgen_core::engine::Input;
use smidgen_core::quant::Type;
use smidgen_host::Error;
use smidgen_host::encode::{Encode, EncodeRows, Unwritable};
use smidgen_host::source::TensorInfo;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// Writes tensors with all that is known of what they are multiplied with.
pub struct Rounding<'a> {
    known: Option<&'a Known<'a>>,
    /// The factor made last: matrices with the same input follow one another.
    factor: Mutex<Option<(Input, Arc<Factor>)>>,
}

impl<'a> Rounding<'a> {
    /// Rounds by what is `known`, or by the weights alone.
    pub fn new(known: Option<&'a Known<'a>>) -> Self {
        Rounding { known, factor: Mutex::new(None) }
    }

    /// The factor of the moment of `input`, of the embedding or of another matrix.
    fn factor(&self, input: Input, moment: &Moment<'_>, is_embedding: bool) -> Option<Arc<Factor>> {
        let mut last = self.factor.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some((_, factor)) = last.as_ref().filter(|(known, _)| *known == input) {
            return Some(Arc::clone(factor));
        }
        // Of two factors, one has to go before the other is made.
        *last = None;
        let (mut square, n) = (moment.square(), moment.columns());
        if is_embedding {
            // The rows of an embedding are also read as they are, where every column matters alike.
            let mean = (0..n).map(|i| square[i * n + i]).sum::<f32>() / n as f32;
            (0..n).for_each(|i| square[i * n + i] += mean);
        }
        let factor = Arc::new(Factor::new(&square, n)?);
        *last = Some((input, Arc::clone(&factor)));
        Some(factor)
    }
}

impl Encode for Rounding<'_> {
    fn begin(&self, subject: &Path, tensor: &TensorInfo, kind: Type) -> Result<Box<dyn EncodeRows + '_>, Error> {
        let name = tensor.shown();
        let n_columns = tensor.n_columns() as usize;
        // An embedding is multiplied with something only where it is the output matrix too, and has an importance then.
        let known = self.known.filter(|known| encoder(kind).is_some() && known.importance(&name).is_some());
        if let Some(moment) = known.and_then(|known| known.moment(&name)) {
            let factor = input_of(&name).and_then(|input| self.factor(input, &moment, name == EMBEDDING));
            let factor = factor.ok_or_else(|| {
                Error::bad(subject, format!("tensor '{name}': the second moment of its input is not finite"))
            })?;
            return Ok(Box::new(WithFeedback { kind, factor }));
        }
        let importance = match self.known.and_then(|known| known.importance(&name)) {
            // Experts one after the other have importances of their own.
            Some(importance) if importance.len() == n_columns => Some(importance),
            // Nothing is multiplied with an embedding: a row is read, and all of it matters alike.
            _ if self.known.is_some() && name == EMBEDDING => Some(vec![1.0; n_columns]),
            _ => None,
        };
        Ok(Box::new(ByImportance { kind, n_columns, importance }))
    }
}

/// Rounds each block so that the weighted square of its errors is small.
struct ByImportance {
    kind: Type,
    n_columns: usize,
    importance: Option<Vec<f32>>,
}

impl EncodeRows for ByImportance {
    fn encode(&self, rows: &mut [f32], out: &mut [u8]) -> Result<(), Unwritable> {
        let written = quantize_rows(self.kind, rows, self.n_columns, self.importance.as_deref(), out);
        written.map_err(|error| unwritable(error, self.n_columns))
    }
}

/// Rounds each row so that its product with real inputs changes little: what one weight misses, later ones make good.
struct WithFeedback {
    kind: Type,
    factor: Arc<Factor>,
}

impl EncodeRows for WithFeedback {
    fn encode(&self, rows: &mut [f32], out: &mut [u8]) -> Result<(), Unwritable> {
        let written = feedback::quantize_rows(self.kind, rows, &self.factor, out);
        written.map_err(|error| unwritable(error, self.factor.n_columns()))
    }
}

/// What a group of rows says of itself.
fn unwritable(error: EncodeError, n_columns: usize) -> Unwritable {
    match error {
        EncodeError::Weight(row, column, _) => Unwritable::TooLarge(row * n_columns + column),
        other => Unwritable::Because(other.to_string()),
    }
}
