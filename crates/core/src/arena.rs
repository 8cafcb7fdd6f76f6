//! Typed slices carved from bytes that the caller owns.
//!
//! On a board the bytes are a `static`, so the linker proves that they fit.
#![allow(unsafe_code)]

use crate::quant::{Quantized, Rest};

/// Every slice begins on a multiple of this many bytes: one cache line, one AVX-512 register.
pub const ALIGN: usize = 64;

/// Types for which any bytes are a value and whose alignment divides [`ALIGN`].
///
/// # Safety
/// Implementors keep that promise.
pub unsafe trait Plain: Copy {}

// SAFETY: numbers and arrays of numbers.
unsafe impl Plain for u8 {}
// SAFETY: as above.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for u64 {}
// SAFETY: as above.
unsafe impl Plain for i32 {}
// SAFETY: as above.
unsafe impl Plain for f32 {}
// SAFETY: as above.
unsafe impl Plain for Rest {}
// SAFETY: as above.
unsafe impl Plain for Quantized {}

/// Bytes that [`Arena::take`] uses for `n` values of `T`; `None` on overflow.
pub fn span_bytes<T: Plain>(n: usize) -> Option<usize> {
    n.checked_mul(size_of::<T>())?.checked_next_multiple_of(ALIGN)
}

/// What is left of the caller's bytes.
#[derive(Debug)]
pub struct Arena<'a> {
    rest: &'a mut [u8],
}

impl<'a> Arena<'a> {
    /// Begins at the first multiple of [`ALIGN`] in `bytes`.
    pub fn new(bytes: &'a mut [u8]) -> Self {
        let skipped = bytes.as_ptr().align_offset(ALIGN).min(bytes.len());
        Self { rest: &mut bytes[skipped..] }
    }

    /// The next `n` values of `T`, holding whatever bytes were there; `None` when the arena is too small.
    pub fn take<T: Plain>(&mut self, n: usize) -> Option<&'a mut [T]> {
        let bytes = span_bytes::<T>(n)?;
        if bytes > self.rest.len() {
            return None;
        }
        let (taken, rest) = core::mem::take(&mut self.rest).split_at_mut(bytes);
        self.rest = rest;
        // SAFETY: `taken` is exclusively ours for 'a, holds at least n * size_of::<T>() bytes, begins on a multiple of
        // ALIGN (the arena began on one and every span is a multiple of it), and any bytes are a `Plain` value.
        Some(unsafe { core::slice::from_raw_parts_mut(taken.as_mut_ptr().cast::<T>(), n) })
    }

    /// Bytes not yet taken.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_aligned_and_apart() {
        let mut bytes = vec![0u8; 1000];
        for skip in 0..8 {
            let mut arena = Arena::new(&mut bytes[skip..]);
            let floats = arena.take::<f32>(5).unwrap();
            let longs = arena.take::<u64>(3).unwrap();
            assert_eq!(floats.as_ptr() as usize % ALIGN, 0);
            assert_eq!(longs.as_ptr() as usize - floats.as_ptr() as usize, span_bytes::<f32>(5).unwrap());
            floats.fill(1.0);
            longs.fill(u64::MAX);
            assert_eq!(floats, [1.0; 5]);
        }
    }

    #[test]
    fn too_little_is_refused() {
        let mut bytes = [0u8; 256];
        let mut arena = Arena::new(&mut bytes);
        assert!(arena.take::<f32>(usize::MAX).is_none());
        assert!(arena.take::<f32>(100).is_none());
        assert!(arena.take::<u8>(64).is_some());
        assert!(Arena::new(&mut []).take::<u8>(1).is_none());
    }
}
