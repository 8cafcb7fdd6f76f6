//! What a tensor may have instead of a type that its rows are too short or too odd for.

use crate::encode::can_write;
use smidgen_core::quant::{TYPES, Type};

/// What to do about a tensor whose rows its type cannot have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// What llama.cpp takes without being asked: a wider type of 32 weights to a block, else F16.
    Llama,
    /// The type for rows of any length whose bits are nearest.
    AnyWidth,
    /// This type, where the rows can have it.
    To(Type),
}

impl Fallback {
    /// The type that rows of `n_columns` weights get instead of `kind`; `None` when they cannot have it either.
    pub fn instead_of(self, kind: Type, n_columns: u64) -> Option<Type> {
        match self {
            Fallback::Llama => Some(llama(kind, n_columns)),
            Fallback::AnyWidth => any_width(kind),
            Fallback::To(other) => Some(other).filter(|other| other.row_bytes(n_columns).is_some()),
        }
    }
}

/// llama.cpp's silent choice for rows of `n_columns` weights (`tensor_type_fallback`).
fn llama(kind: Type, n_columns: u64) -> Type {
    let wider = match kind {
        Type::IQ1_S | Type::IQ1_M | Type::IQ2_XXS | Type::IQ2_XS | Type::IQ2_S => Type::IQ4_NL,
        Type::IQ3_XXS | Type::IQ3_S | Type::IQ4_XS => Type::IQ4_NL,
        Type::Q2_K | Type::Q3_K | Type::TQ1_0 | Type::TQ2_0 => Type::Q4_0,
        Type::Q4_K => Type::Q5_0,
        Type::Q5_K => Type::Q5_1,
        Type::Q6_K => Type::Q8_0,
        _ => Type::F16,
    };
    if wider.row_bytes(n_columns).is_some() { wider } else { Type::F16 }
}

/// The type for rows of any length whose bits are nearest to those of `kind`.
fn any_width(kind: Type) -> Option<Type> {
    let distance = |other: Type| (other.bits_per_weight() - kind.bits_per_weight()).abs();
    let of_any_length = TYPES.iter().map(|row| row.0).filter(|&other| can_write(other) && other.row_bytes(1).is_some());
    of_any_length.min_by(|a, b| distance(*a).total_cmp(&distance(*b)))
}
