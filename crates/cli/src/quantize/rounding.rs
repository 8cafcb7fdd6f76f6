//! How rows become bytes: the pipeline's side of `smidgen-compress`.

use smidgen_core::quant::Type;
use smidgen_host::Error;
use smidgen_host::encode::{Encode, EncodeRows, Plain};
use smidgen_host::source::TensorInfo;
use std::path::Path;

/// Writes tensors with all the care that there is for their types.
#[derive(Clone, Copy, Debug)]
pub struct Rounding;

/// Whether tensors can be written as `kind`.
pub fn can_write(kind: Type) -> bool {
    kind.can_quantize()
}

impl Encode for Rounding {
    fn begin(&self, subject: &Path, tensor: &TensorInfo, kind: Type) -> Result<Box<dyn EncodeRows + '_>, Error> {
        Plain.begin(subject, tensor, kind)
    }
}
