//! What can be wrong with a GGUF file.

use core::fmt;

/// A name taken from a file, cut to what a message needs, so that an error can be `Copy`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Name {
    bytes: [u8; Name::MAX],
    len: u8,
}

impl Name {
    const MAX: usize = 47;

    /// The first 47 bytes of `name`.
    pub fn new(name: &[u8]) -> Self {
        let mut bytes = [0; Name::MAX];
        let len = name.len().min(Name::MAX);
        bytes[..len].copy_from_slice(&name[..len]);
        Self { bytes, len: len as u8 }
    }
}

impl fmt::Display for Name {
    /// Writes the name with everything that is not printable ASCII as `?`: a file must not write control codes on a terminal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &byte in &self.bytes[..usize::from(self.len)] {
            let shown = if (0x20..0x7f).contains(&byte) { char::from(byte) } else { '?' };
            fmt::Write::write_char(f, shown)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a GGUF file was refused, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error {
    /// Byte offset of the field in the file.
    pub offset: u64,
    /// The metadata key or tensor concerned; empty for the header.
    pub name: Name,
    /// What is wrong.
    pub problem: Problem,
}

/// What is wrong with a field of a GGUF file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The file does not begin with `GGUF`.
    NotGguf,
    /// A version that nobody has defined.
    Version(u32),
    /// The file ends inside the named field.
    Truncated(&'static str),
    /// A count larger than what the rest of the file could hold.
    Count(&'static str, u64),
    /// A value type number that the format does not define.
    ValueType(u32),
    /// An array of arrays, which no reader supports.
    NestedArray,
    /// `general.alignment` is zero, not a power of two, or absurdly large.
    Alignment(u64),
    /// A tensor with no or more than four dimensions.
    Dimensions(u32),
    /// A dimension of zero, or a product of dimensions that overflows.
    Shape,
    /// A tensor type number that we do not know.
    TensorType(u32),
    /// The number of a type with the mark of weights that were packed, in a file that is read as it is.
    Packed,
    /// A row length that is not a multiple of the type's block length.
    RowLength(u64, &'static str),
    /// Tensor data that does not begin on the file's alignment.
    Unaligned(u64),
    /// Tensor data that runs past the end of the file: needed end, file size.
    PastEnd(u64, u64),
    /// Tensor data that lies over another tensor's.
    Overlap(Name),
    /// Two tensors of one name.
    DuplicateTensor,
    /// Two entries of one key.
    DuplicateKey,
    /// More tensors than any model has, in no order that could be checked quickly.
    TooManyTensors(u64),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name != Name::new(b"") {
            write!(f, "'{}' ", self.name)?;
        }
        write!(f, "at byte {}: ", self.offset)?;
        match self.problem {
            Problem::NotGguf => write!(f, "not a GGUF file (no 'GGUF' at the start)"),
            Problem::Version(v) => write!(f, "GGUF version {v} is not known (1 to 3 are)"),
            Problem::Truncated(field) => write!(f, "the file ends inside the {field}"),
            Problem::Count(field, n) => write!(f, "{field} {n} is more than the file can hold"),
            Problem::ValueType(t) => write!(f, "unknown metadata value type {t}"),
            Problem::NestedArray => write!(f, "an array of arrays is not supported"),
            Problem::Alignment(n) => write!(f, "alignment {n} is not a power of two from 1 to 65536"),
            Problem::Dimensions(n) => write!(f, "tensor with {n} dimensions (1 to 4 are possible)"),
            Problem::Shape => write!(f, "tensor dimensions are zero or overflow"),
            Problem::TensorType(t) => write!(f, "unknown tensor type {t}"),
            Problem::Packed => {
                write!(
                    f,
                    "its weights are packed, and what says how is not read here or was cut off the file's end; "
                )?;
                write!(f, "'smidgen convert' writes the plain file")
            }
            Problem::RowLength(n, name) => write!(f, "rows of {n} are not whole {name} blocks"),
            Problem::Unaligned(at) => write!(f, "tensor data at offset {at} is not aligned"),
            Problem::PastEnd(end, file) => {
                write!(f, "tensor data ends at byte {end} but the file has {file} (truncated?)")
            }
            Problem::Overlap(other) => write!(f, "tensor data overlaps that of '{other}'"),
            Problem::DuplicateTensor => write!(f, "two tensors have this name"),
            Problem::DuplicateKey => write!(f, "two metadata entries have this key"),
            Problem::TooManyTensors(n) => write!(f, "{n} tensors, not in the order of their data, are too many"),
        }
    }
}

impl core::error::Error for Error {}
