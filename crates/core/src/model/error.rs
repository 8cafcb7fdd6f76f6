//! Why a file that is good GGUF is not a model that we can run.

use super::families::FAMILIES;
use crate::gguf::Name;
use crate::quant::IS_FOR_ONE_MODEL;
use core::fmt;

/// What is wrong with a model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Error {
    /// A metadata key that must be there is not, or has another type.
    Key(Name),
    /// A metadata key whose value makes no sense: the key, the value.
    Value(Name, f32),
    /// A metadata key whose text we do not know: the key, the text.
    Word(Name, Name),
    /// An architecture that is not one of ours.
    Architecture(Name),
    /// A tensor that must be there is not.
    Missing(Name),
    /// A tensor that the architecture has no place for.
    Unused(Name),
    /// A tensor of other dimensions: its name, found (columns, rows), wanted.
    Shape(Name, [u64; 2], [u64; 2]),
    /// A tensor of a type that the engine cannot use in its place.
    TensorType(Name, &'static str),
    /// A tensor whose data was not given.
    NoData(Name),
    /// The vocabulary has another size than the embedding: tokens, rows.
    Vocabulary(u64, u64),
    /// The file's numbers are big-endian; it has to be swapped first.
    BigEndian,
    /// The caller's table of layers has another length: given, needed.
    Layers(usize, usize),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Key(key) => write!(f, "metadata key '{key}' is missing or of the wrong type"),
            // The digits of floats take ten kilobytes of code.
            Error::Value(key, value) if IS_FOR_ONE_MODEL => {
                write!(f, "metadata key '{key}' has an impossible value, about {}", *value as i64)
            }
            Error::Value(key, value) => write!(f, "metadata key '{key}' has the impossible value {value}"),
            Error::Word(key, word) => write!(f, "metadata key '{key}' says '{word}', which is not supported"),
            Error::Architecture(name) => {
                write!(f, "architecture '{name}' is not supported (known:")?;
                FAMILIES.iter().try_for_each(|family| write!(f, " {}", family.name))?;
                write!(f, ")")
            }
            Error::Missing(name) => write!(f, "tensor '{name}' is missing"),
            Error::Unused(name) => write!(f, "tensor '{name}' has no place in this architecture"),
            Error::Shape(name, found, wanted) => {
                let ([fc, fr], [wc, wr]) = (found, wanted);
                write!(f, "tensor '{name}' is {fc} x {fr}, not {wc} x {wr}")
            }
            Error::TensorType(name, kind) => {
                write!(f, "tensor '{name}' is of type {kind}, which is not supported here")
            }
            Error::NoData(name) => write!(f, "the data of tensor '{name}' is not loaded"),
            Error::Vocabulary(tokens, rows) => {
                write!(f, "the tokenizer has {tokens} tokens but 'token_embd.weight' has {rows} rows")
            }
            Error::BigEndian => write!(f, "the tensors are big-endian and were not swapped"),
            Error::Layers(given, needed) => write!(f, "a table of {given} layers was given for {needed}"),
        }
    }
}

impl core::error::Error for Error {}
