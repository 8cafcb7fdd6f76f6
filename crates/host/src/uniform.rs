//! One type for every matrix: what `--outtype` means.

use smidgen_core::bytes::Endian;
use smidgen_core::quant::Type;

use crate::emit::{FileType, Target};
use crate::error::{Error, listed};
use crate::source::{Source, TensorInfo};

/// The types that `--outtype` may name, with llama.cpp's number for a file mostly of that type.
#[rustfmt::skip]
const OUTTYPES: [(Type, u32); 8] = [
    (Type::F32, 0), (Type::F16, 1), (Type::BF16, 32), (Type::Q8_0, 7),
    (Type::Q4_0, 2), (Type::Q4_1, 3), (Type::Q5_0, 8), (Type::Q5_1, 9),
];
/// Tensor names listed in an error before it says "and more".
const NAMES_SHOWN: usize = 8;

/// What `source` becomes when every tensor that is not pinned gets `outtype` where it is given, and `fallback` where its rows
/// cannot have that.
///
/// # Errors
/// A type that is not offered, or tensors that can have neither type.
pub(crate) fn target(
    source: &dyn Source,
    outtype: Option<Type>,
    fallback: Option<Type>,
    endian: Endian,
) -> Result<Target, Error> {
    let subject = &source.files()[0];
    for named in [outtype, fallback].into_iter().flatten() {
        if !OUTTYPES.iter().any(|&(kind, _)| kind == named) {
            let known: Vec<&str> = OUTTYPES.iter().map(|(kind, _)| kind.name()).collect();
            let message = format!("cannot be converted to {}: only {}", named.name(), known.join(", "));
            return Err(Error::bad(subject, message));
        }
    }
    let number = outtype.and_then(|outtype| OUTTYPES.iter().find(|&&(kind, _)| kind == outtype));
    let file_type = number.map_or(FileType::AsStored, |&(_, number)| FileType::Recipe(number));
    let types = choose_types(source, outtype, fallback)?;
    Ok(Target { types, file_type, endian, ..Target::as_stored(source) })
}

/// The type of every tensor, or an error that lists those that cannot have the type asked for.
fn choose_types(source: &dyn Source, outtype: Option<Type>, fallback: Option<Type>) -> Result<Vec<Type>, Error> {
    let mut refused = Vec::new();
    let mut types = Vec::with_capacity(source.tensors().len());
    for tensor in source.tensors() {
        let wanted = outtype.filter(|_| !tensor.pinned).unwrap_or(tensor.kind);
        let fits = |kind: &Type| kind.row_bytes(tensor.n_columns()).is_some();
        let target = Some(wanted).filter(fits).or(fallback.filter(fits));
        if target.is_none() {
            refused.push(format!("{} (rows of {})", tensor.shown(), tensor.n_columns()));
        }
        types.push(target.unwrap_or(wanted));
    }
    if refused.is_empty() {
        return Ok(types);
    }
    let name = outtype.map_or("this type", Type::name);
    let message = format!(
        "{name} cannot hold the rows of {}; name a type for those, as in --fallback f16",
        listed(&refused, NAMES_SHOWN)
    );
    Err(Error::bad(&source.files()[0], message))
}

/// llama.cpp's `general.file_type` for a file of `tensors` as they are: that of the type most weights have.
pub(crate) fn stored_file_type(tensors: &[TensorInfo]) -> u32 {
    let weights = |kind: Type| -> u64 {
        let of_kind = tensors.iter().filter(|tensor| tensor.kind == kind);
        of_kind.fold(0, |sum, tensor| sum.saturating_add(tensor.n_rows().saturating_mul(tensor.n_columns())))
    };
    OUTTYPES.iter().max_by_key(|&&(kind, _)| weights(kind)).map_or(0, |&(_, number)| number)
}
