//! Metadata values of a GGUF file, read where they lie.

use crate::bytes::{Cursor, Endian};

/// One metadata value; strings and arrays borrow the file.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)] // The variants are the format's own value types.
pub enum Value<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Str(&'a [u8]),
    Array(Array<'a>),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl<'a> Value<'a> {
    /// The value as an unsigned number, when it is an integer that is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Value::U8(v) => Some(v.into()),
            Value::U16(v) => Some(v.into()),
            Value::U32(v) => Some(v.into()),
            Value::U64(v) => Some(v),
            Value::I8(v) => v.try_into().ok(),
            Value::I16(v) => v.try_into().ok(),
            Value::I32(v) => v.try_into().ok(),
            Value::I64(v) => v.try_into().ok(),
            _ => None,
        }
    }

    /// The value as a float, when it is one or an unsigned integer.
    pub fn as_f32(&self) -> Option<f32> {
        match *self {
            Value::F32(v) => Some(v),
            Value::F64(v) => Some(v as f32),
            _ => self.as_u64().map(|v| v as f32),
        }
    }

    /// The value as a boolean (an integer is true when it is not zero, as llama.cpp reads it).
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Value::Bool(v) => Some(v),
            _ => self.as_u64().map(|v| v != 0),
        }
    }

    /// The bytes of a string value; the format asks for UTF-8 but nothing here relies on it.
    pub fn as_str(&self) -> Option<&'a [u8]> {
        match *self {
            Value::Str(v) => Some(v),
            _ => None,
        }
    }

    /// The array, when the value is one.
    pub fn as_array(&self) -> Option<Array<'a>> {
        match *self {
            Value::Array(v) => Some(v),
            _ => None,
        }
    }
}

/// The type of a metadata value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The variants are the format's own value types.
pub enum ValueType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Str,
    Array,
    U64,
    I64,
    F64,
}

const VALUE_TYPES: [ValueType; 13] = [
    ValueType::U8,
    ValueType::I8,
    ValueType::U16,
    ValueType::I16,
    ValueType::U32,
    ValueType::I32,
    ValueType::F32,
    ValueType::Bool,
    ValueType::Str,
    ValueType::Array,
    ValueType::U64,
    ValueType::I64,
    ValueType::F64,
];

impl ValueType {
    /// The type with the format's number `id`.
    pub fn from_id(id: u32) -> Option<Self> {
        VALUE_TYPES.get(id as usize).copied()
    }

    /// The format's number for this type.
    pub fn id(self) -> u32 {
        self as u32
    }

    /// Bytes of one value, when all have the same size.
    pub fn fixed_bytes(self) -> Option<usize> {
        match self {
            ValueType::U8 | ValueType::I8 | ValueType::Bool => Some(1),
            ValueType::U16 | ValueType::I16 => Some(2),
            ValueType::U32 | ValueType::I32 | ValueType::F32 => Some(4),
            ValueType::U64 | ValueType::I64 | ValueType::F64 => Some(8),
            ValueType::Str | ValueType::Array => None,
        }
    }
}

/// Reads a length: GGUF version 1 stored 32 bits, later versions 64.
pub(super) fn read_len(cursor: &mut Cursor<'_>, version: u32) -> Option<u64> {
    if version == 1 { cursor.u32().map(u64::from) } else { cursor.u64() }
}

/// Reads a string: its length, then its bytes.
pub(super) fn read_str<'a>(cursor: &mut Cursor<'a>, version: u32) -> Option<&'a [u8]> {
    let len = read_len(cursor, version)?;
    cursor.take(usize::try_from(len).ok()?)
}

/// Reads one value that is not an array.
pub(super) fn read_scalar<'a>(cursor: &mut Cursor<'a>, version: u32, kind: ValueType) -> Option<Value<'a>> {
    Some(match kind {
        ValueType::U8 => Value::U8(cursor.u8()?),
        ValueType::I8 => Value::I8(cursor.i8()?),
        ValueType::U16 => Value::U16(cursor.u16()?),
        ValueType::I16 => Value::I16(cursor.i16()?),
        ValueType::U32 => Value::U32(cursor.u32()?),
        ValueType::I32 => Value::I32(cursor.i32()?),
        ValueType::F32 => Value::F32(cursor.f32()?),
        ValueType::Bool => Value::Bool(cursor.u8()? != 0),
        ValueType::Str => Value::Str(read_str(cursor, version)?),
        ValueType::U64 => Value::U64(cursor.u64()?),
        ValueType::I64 => Value::I64(cursor.i64()?),
        ValueType::F64 => Value::F64(cursor.f64()?),
        ValueType::Array => return None,
    })
}

/// A metadata array, already walked once: its `len` elements lie wholly in `bytes`.
#[derive(Clone, Copy, Debug)]
pub struct Array<'a> {
    pub(super) element: ValueType,
    pub(super) len: u64,
    pub(super) bytes: &'a [u8],
    pub(super) endian: Endian,
    pub(super) version: u32,
}

impl<'a> Array<'a> {
    /// An array of nothing.
    pub const EMPTY: Array<'static> =
        Array { element: ValueType::U8, len: 0, bytes: &[], endian: Endian::Little, version: 3 };

    /// The type of every element.
    pub fn element(&self) -> ValueType {
        self.element
    }

    /// How many elements.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements as they lie in the file.
    pub fn raw(&self) -> &'a [u8] {
        self.bytes
    }

    /// The byte order of [`Array::raw`].
    pub fn endian(&self) -> Endian {
        self.endian
    }

    /// The elements in order.
    pub fn iter(&self) -> ArrayIter<'a> {
        ArrayIter {
            cursor: Cursor::new(self.bytes, self.endian),
            element: self.element,
            version: self.version,
            left: self.len,
        }
    }

    /// Element `index` of an array of fixed-size values, in constant time; `None` for strings or beyond the end.
    pub fn get(&self, index: usize) -> Option<Value<'a>> {
        let size = self.element.fixed_bytes()?;
        let mut cursor = Cursor::at(self.bytes, index.checked_mul(size)?, self.endian);
        read_scalar(&mut cursor, self.version, self.element)
    }

    /// The string whose length field begins at byte `at` of [`Array::raw`]; pairs with [`Array::string_offsets`].
    pub fn string_at(&self, at: usize) -> Option<&'a [u8]> {
        read_str(&mut Cursor::at(self.bytes, at, self.endian), self.version)
    }

    /// Where each string begins (its length field, for [`Array::string_at`]), with the string; nothing unless the elements are strings.
    pub fn string_offsets(&self) -> impl Iterator<Item = (usize, &'a [u8])> + use<'a> {
        let mut cursor = Cursor::new(self.bytes, self.endian);
        let version = self.version;
        let len = if self.element == ValueType::Str { self.len } else { 0 };
        (0..len).map_while(move |_| {
            let at = cursor.offset();
            read_str(&mut cursor, version).map(|string| (at, string))
        })
    }
}

/// The elements of an [`Array`] in order.
#[derive(Clone, Debug)]
pub struct ArrayIter<'a> {
    cursor: Cursor<'a>,
    element: ValueType,
    version: u32,
    left: u64,
}

impl<'a> Iterator for ArrayIter<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        self.left = self.left.checked_sub(1)?;
        read_scalar(&mut self.cursor, self.version, self.element)
    }
}
