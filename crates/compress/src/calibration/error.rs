//! What can be wrong with an imatrix.

use smidgen_core::gguf;
use std::fmt;

/// Why a file is no calibration of a model.
#[derive(Clone, Debug, PartialEq)]
pub enum Error {
    /// The header is not in order.
    Gguf(gguf::Error),
    /// A GGUF file of something else.
    NotImatrix,
    /// Neither GGUF nor the older form: what is wrong, and the byte where that is.
    NotLegacy(&'static str, usize),
    /// No matrix is in it.
    Empty,
    /// A tensor that is not there.
    Missing(String),
    /// A tensor of another type than F32: its name and that type.
    Kind(String, &'static str),
    /// A tensor whose length makes no sense.
    Shape(String),
    /// A sum that is negative or no number: the matrix, the place in its sums or counts, and what is there.
    Value(String, usize, f32),
    /// A matrix that the model does not have.
    Foreign(String),
    /// A matrix that has another number of columns here than in the model: here, there.
    Columns(String, u64, u64),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Gguf(error) => error.fmt(f),
            Error::NotImatrix => f.write_str("general.type is not 'imatrix': a GGUF file, but no imatrix"),
            Error::NotLegacy(what, at) => {
                write!(f, "no imatrix: not GGUF, and as one of the older form {what} at byte {at}")
            }
            Error::Empty => f.write_str("the imatrix knows no matrix"),
            Error::Missing(name) => write!(f, "tensor '{}' is missing", name.escape_debug()),
            Error::Kind(name, kind) => write!(f, "tensor '{}' is {kind} where F32 is needed", name.escape_debug()),
            Error::Shape(name) => write!(f, "tensor '{}' has a length that no imatrix has", name.escape_debug()),
            Error::Value(name, at, value) => {
                write!(f, "tensor '{}', value {at}: {value} is no sum of squares", name.escape_debug())
            }
            Error::Foreign(name) => {
                write!(f, "the imatrix of another model: this one has no tensor '{}'", name.escape_debug())
            }
            Error::Columns(name, here, there) => write!(
                f,
                "the imatrix of another model: '{}' has {here} columns in it and {there} in the model",
                name.escape_debug()
            ),
        }
    }
}

impl std::error::Error for Error {}
