//! The `.npy` format of NumPy (version 1.0), for logits: a header of text, then f32 in rows.

use std::io::{self, Write};

/// Bytes of the header; the format asks for a multiple of 64, and ours always fits the first two.
const HEADER_BYTES: usize = 128;

/// Writes the header of an array of `rows` x `columns` little-endian f32.
///
/// # Errors
/// Those of `out`.
pub fn write_header(out: &mut dyn Write, rows: usize, columns: usize) -> io::Result<()> {
    let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.extend_from_slice(b"\x93NUMPY\x01\x00");
    header.extend_from_slice(&((HEADER_BYTES - 10) as u16).to_le_bytes());
    header.extend_from_slice(text.as_bytes());
    header.resize(HEADER_BYTES - 1, b' ');
    header.push(b'\n');
    out.write_all(&header)
}

/// Writes one row.
///
/// # Errors
/// Those of `out`.
pub fn write_row(out: &mut dyn Write, row: &[f32]) -> io::Result<()> {
    row.iter().try_for_each(|value| out.write_all(&value.to_le_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_what_numpy_writes() {
        let mut out = Vec::new();
        write_header(&mut out, 3, 512).unwrap();
        write_row(&mut out, &[1.0, -2.0]).unwrap();
        assert_eq!(&out[..10], b"\x93NUMPY\x01\x00\x76\x00");
        assert!(out[10..].starts_with(b"{'descr': '<f4', 'fortran_order': False, 'shape': (3, 512), } "));
        assert_eq!(out[127], b'\n');
        assert_eq!(&out[128..], &[0, 0, 128, 63, 0, 0, 0, 192]);
    }

    #[test]
    fn the_largest_shape_fits_the_header() {
        let mut out = Vec::new();
        write_header(&mut out, usize::MAX, usize::MAX).unwrap();
        assert_eq!((out.len(), out[127]), (HEADER_BYTES, b'\n'));
    }
}
