//! A checked cursor over bytes of either endianness.
//!
//! Files come from strangers: every read says whether the bytes were there, and no read panics.

/// The byte order of the numbers in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endian {
    /// Least significant byte first.
    Little,
    /// Most significant byte first.
    Big,
}

/// A position in a byte slice and the order of its numbers.
#[derive(Clone, Copy, Debug)]
pub struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    endian: Endian,
}

macro_rules! number {
    ($name:ident, $type:ty, $n:literal) => {
        #[doc = concat!("Reads one `", stringify!($type), "` and moves past it; `None` at the end of the bytes.")]
        #[inline]
        pub fn $name(&mut self) -> Option<$type> {
            let bytes: [u8; $n] = self.take($n)?.try_into().ok()?;
            Some(match self.endian {
                Endian::Little => <$type>::from_le_bytes(bytes),
                Endian::Big => <$type>::from_be_bytes(bytes),
            })
        }
    };
}

impl<'a> Cursor<'a> {
    /// A cursor at the start of `bytes`.
    pub fn new(bytes: &'a [u8], endian: Endian) -> Self {
        Self { bytes, at: 0, endian }
    }

    /// A cursor at offset `at` of `bytes`; every read fails when `at` lies beyond the end.
    pub fn at(bytes: &'a [u8], at: usize, endian: Endian) -> Self {
        Self { bytes, at, endian }
    }

    /// The offset of the next byte.
    pub fn offset(&self) -> usize {
        self.at
    }

    /// How many bytes are left.
    pub fn remaining(&self) -> usize {
        self.bytes.len().saturating_sub(self.at)
    }

    /// The byte order in use.
    pub fn endian(&self) -> Endian {
        self.endian
    }

    /// The next `n` bytes, and moves past them; `None` when fewer are left.
    #[inline]
    pub fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(n)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    number!(u8, u8, 1);
    number!(i8, i8, 1);
    number!(u16, u16, 2);
    number!(i16, i16, 2);
    number!(u32, u32, 4);
    number!(i32, i32, 4);
    number!(u64, u64, 8);
    number!(i64, i64, 8);
    number!(f32, f32, 4);
    number!(f64, f64, 8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_byte_orders() {
        let bytes = [1, 2, 3, 4];
        assert_eq!(Cursor::new(&bytes, Endian::Little).u32(), Some(0x0403_0201));
        assert_eq!(Cursor::new(&bytes, Endian::Big).u32(), Some(0x0102_0304));
    }

    #[test]
    fn the_end_is_not_crossed() {
        let mut cursor = Cursor::new(&[1, 2, 3], Endian::Little);
        assert_eq!(cursor.u16(), Some(0x0201));
        assert_eq!(cursor.u16(), None);
        assert_eq!(cursor.offset(), 2, "a failed read does not move");
        assert_eq!(cursor.take(usize::MAX), None);
        assert_eq!(Cursor::at(&[1], 9, Endian::Big).u8(), None);
    }
}
