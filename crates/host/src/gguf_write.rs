//! Writes GGUF version 3 in either byte order: first the header, gathered in memory, then tensor data as it comes.
//!
//! Format: the `gguf.md` document of the ggml project.

use std::io::{self, Read, Write};

use smidgen_core::bytes::Endian;
use smidgen_core::gguf::{Array, Value, ValueType};
use smidgen_core::quant::Type;

/// The value of `general.quantization_version`: ggml's block formats have been these since May 2023.
pub const QUANTIZATION_VERSION: u32 = 2;
/// Tensor data begins on multiples of this many bytes unless the file says otherwise.
const DEFAULT_ALIGNMENT: u64 = 32;

/// A GGUF header being put together: metadata entries, then tensor descriptions.
#[derive(Debug)]
pub struct Header {
    endian: Endian,
    alignment: u64,
    keys: Vec<u8>,
    n_keys: u64,
    tensors: Vec<u8>,
    n_tensors: u64,
    data_bytes: u64,
}

/// One method per type of number that metadata holds.
macro_rules! scalar {
    ($name:ident, $type:ty, $kind:ident) => {
        #[doc = concat!("Adds the entry `key` with a value of type `", stringify!($type), "`.")]
        pub fn $name(&mut self, key: &str, value: $type) {
            self.begin(key.as_bytes(), ValueType::$kind);
            match self.endian {
                Endian::Little => self.keys.extend(value.to_le_bytes()),
                Endian::Big => self.keys.extend(value.to_be_bytes()),
            }
        }
    };
}

impl Header {
    /// A header without entries, for a file whose numbers are all in the order `endian`.
    pub fn new(endian: Endian) -> Self {
        Header {
            endian,
            alignment: DEFAULT_ALIGNMENT,
            keys: Vec::new(),
            n_keys: 0,
            tensors: Vec::new(),
            n_tensors: 0,
            data_bytes: 0,
        }
    }

    /// The byte order of the file.
    pub fn endian(&self) -> Endian {
        self.endian
    }

    scalar!(u32, u32, U32);
    scalar!(i32, i32, I32);
    scalar!(f32, f32, F32);

    /// Adds the entry `key` with a boolean.
    pub fn bool(&mut self, key: &str, value: bool) {
        self.begin(key.as_bytes(), ValueType::Bool);
        self.keys.push(value.into());
    }

    /// Adds the entry `key` with a string.
    pub fn str(&mut self, key: &str, value: &[u8]) {
        self.begin(key.as_bytes(), ValueType::Str);
        push_str(&mut self.keys, self.endian, value);
    }

    /// Adds the entry `key` with an array of strings.
    pub fn strs<S: AsRef<[u8]>>(&mut self, key: &str, values: &[S]) {
        self.begin_array(key, ValueType::Str, values.len());
        for value in values {
            push_str(&mut self.keys, self.endian, value.as_ref());
        }
    }

    /// Adds the entry `key` with an array of `f32`.
    pub fn f32s(&mut self, key: &str, values: &[f32]) {
        self.begin_array(key, ValueType::F32, values.len());
        for value in values {
            push_u32(&mut self.keys, self.endian, value.to_bits());
        }
    }

    /// Adds the entry `key` with an array of `i32`.
    pub fn i32s(&mut self, key: &str, values: &[i32]) {
        self.begin_array(key, ValueType::I32, values.len());
        for &value in values {
            push_u32(&mut self.keys, self.endian, value as u32);
        }
    }

    /// Adds the entry `key` with an array of booleans.
    pub fn bools(&mut self, key: &str, values: &[bool]) {
        self.begin_array(key, ValueType::Bool, values.len());
        self.keys.extend(values.iter().map(|&value| u8::from(value)));
    }

    /// Adds the entry `key` with an array of bytes.
    pub fn u8s(&mut self, key: &str, values: &[u8]) {
        self.begin_array(key, ValueType::U8, values.len());
        self.keys.extend(values);
    }

    /// Tensor data begins on multiples of this many bytes.
    pub fn alignment_bytes(&self) -> u64 {
        self.alignment
    }

    /// Adds the entry `general.alignment`: tensor data, all described after this, begins on multiples of `bytes`.
    pub fn alignment(&mut self, bytes: u32) {
        self.u32("general.alignment", bytes);
        self.alignment = u64::from(bytes).max(1);
    }

    /// Adds the entry `key` with a value read from another GGUF file.
    pub fn value(&mut self, key: &[u8], value: Value<'_>) {
        self.begin(key, value_type(&value));
        if let Value::Array(array) = value {
            push_u32(&mut self.keys, self.endian, array.element().id());
            push_u64(&mut self.keys, self.endian, array.len() as u64);
        }
        push_value(&mut self.keys, self.endian, value);
    }

    /// Describes the next tensor, whose data will follow that of the tensors before: `dims` has the contiguous one first.
    ///
    /// Returns the bytes of its data; `None` when its rows are not whole blocks of `kind` or the size overflows.
    pub fn tensor(&mut self, name: &[u8], dims: &[u64], kind: Type) -> Option<u64> {
        let (&columns, rows) = dims.split_first()?;
        let n_rows = rows.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim))?;
        let n_bytes = kind.row_bytes(columns)?.checked_mul(n_rows)?;
        push_str(&mut self.tensors, self.endian, name);
        push_u32(&mut self.tensors, self.endian, dims.len() as u32);
        for &dim in dims {
            push_u64(&mut self.tensors, self.endian, dim);
        }
        push_u32(&mut self.tensors, self.endian, kind.id());
        push_u64(&mut self.tensors, self.endian, self.data_bytes);
        self.data_bytes = self.data_bytes.checked_add(n_bytes)?.checked_next_multiple_of(self.alignment)?;
        self.n_tensors += 1;
        Some(n_bytes)
    }

    /// The size of the header with the padding that follows it.
    pub fn header_bytes(&self) -> u64 {
        let header = 24 + self.keys.len() as u64 + self.tensors.len() as u64;
        header.next_multiple_of(self.alignment)
    }

    /// The size of the whole file: header, tensor data and the padding after each.
    pub fn file_bytes(&self) -> u64 {
        self.header_bytes().saturating_add(self.data_bytes)
    }

    /// Writes the header with the padding that follows it; tensor data comes next, each followed by [`Header::pad`].
    ///
    /// # Errors
    /// The writer's.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut start = Vec::with_capacity(24);
        start.extend(b"GGUF");
        push_u32(&mut start, self.endian, 3);
        push_u64(&mut start, self.endian, self.n_tensors);
        push_u64(&mut start, self.endian, self.n_keys);
        out.write_all(&start)?;
        out.write_all(&self.keys)?;
        out.write_all(&self.tensors)?;
        self.pad(out, (start.len() + self.keys.len() + self.tensors.len()) as u64)
    }

    /// Writes the zeros that follow data of `n_bytes`, up to the file's alignment.
    ///
    /// # Errors
    /// The writer's.
    pub fn pad(&self, out: &mut dyn Write, n_bytes: u64) -> io::Result<()> {
        let padding = n_bytes.next_multiple_of(self.alignment) - n_bytes;
        io::copy(&mut io::repeat(0).take(padding), out).map(|_| ())
    }

    fn begin(&mut self, key: &[u8], kind: ValueType) {
        push_str(&mut self.keys, self.endian, key);
        push_u32(&mut self.keys, self.endian, kind.id());
        self.n_keys += 1;
    }

    fn begin_array(&mut self, key: &str, element: ValueType, len: usize) {
        self.begin(key.as_bytes(), ValueType::Array);
        push_u32(&mut self.keys, self.endian, element.id());
        push_u64(&mut self.keys, self.endian, len as u64);
    }
}

fn push_u32(bytes: &mut Vec<u8>, endian: Endian, value: u32) {
    match endian {
        Endian::Little => bytes.extend(value.to_le_bytes()),
        Endian::Big => bytes.extend(value.to_be_bytes()),
    }
}

fn push_u64(bytes: &mut Vec<u8>, endian: Endian, value: u64) {
    match endian {
        Endian::Little => bytes.extend(value.to_le_bytes()),
        Endian::Big => bytes.extend(value.to_be_bytes()),
    }
}

fn push_u16(bytes: &mut Vec<u8>, endian: Endian, value: u16) {
    match endian {
        Endian::Little => bytes.extend(value.to_le_bytes()),
        Endian::Big => bytes.extend(value.to_be_bytes()),
    }
}

fn push_str(bytes: &mut Vec<u8>, endian: Endian, value: &[u8]) {
    push_u64(bytes, endian, value.len() as u64);
    bytes.extend(value);
}

/// Adds a value without its type; of an array, the elements.
fn push_value(bytes: &mut Vec<u8>, endian: Endian, value: Value<'_>) {
    match value {
        Value::U8(v) => bytes.push(v),
        Value::I8(v) => bytes.push(v as u8),
        Value::Bool(v) => bytes.push(v.into()),
        Value::U16(v) => push_u16(bytes, endian, v),
        Value::I16(v) => push_u16(bytes, endian, v as u16),
        Value::U32(v) => push_u32(bytes, endian, v),
        Value::I32(v) => push_u32(bytes, endian, v as u32),
        Value::F32(v) => push_u32(bytes, endian, v.to_bits()),
        Value::U64(v) => push_u64(bytes, endian, v),
        Value::I64(v) => push_u64(bytes, endian, v as u64),
        Value::F64(v) => push_u64(bytes, endian, v.to_bits()),
        Value::Str(v) => push_str(bytes, endian, v),
        Value::Array(array) => push_elements(bytes, endian, array),
    }
}

fn push_elements(bytes: &mut Vec<u8>, endian: Endian, array: Array<'_>) {
    for element in array.iter() {
        push_value(bytes, endian, element);
    }
}

fn value_type(value: &Value<'_>) -> ValueType {
    match value {
        Value::U8(_) => ValueType::U8,
        Value::I8(_) => ValueType::I8,
        Value::U16(_) => ValueType::U16,
        Value::I16(_) => ValueType::I16,
        Value::U32(_) => ValueType::U32,
        Value::I32(_) => ValueType::I32,
        Value::F32(_) => ValueType::F32,
        Value::Bool(_) => ValueType::Bool,
        Value::Str(_) => ValueType::Str,
        Value::Array(_) => ValueType::Array,
        Value::U64(_) => ValueType::U64,
        Value::I64(_) => ValueType::I64,
        Value::F64(_) => ValueType::F64,
    }
}
