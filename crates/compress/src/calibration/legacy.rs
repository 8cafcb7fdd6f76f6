//! The binary form of an imatrix that llama.cpp wrote until 2025, called `.dat`.
//!
//! All numbers are little-endian: an i32 number of matrices; for each an i32 length and its name, an i32 number of calls, an
//! i32 number of columns and as many f32, the means of the squares times the calls. What follows (the number of the last call and
//! the name of the text, each with its length) may be missing.

use super::{Calibration, Error};
use smidgen_core::bytes::{Cursor, Endian};

/// Reads a file of the older form.
pub(super) fn read(bytes: &[u8]) -> Result<Calibration<'static>, Error> {
    let mut cursor = Cursor::new(bytes, Endian::Little);
    let mut calibration = Calibration::default();
    let n_matrices = length(&mut cursor, "the number of matrices", 16)?;
    for _ in 0..n_matrices {
        let n_bytes = length(&mut cursor, "the length of a name", 1)?;
        let name = take(&mut cursor, n_bytes, "a name")?;
        let name = String::from_utf8_lossy(name).into_owned();
        let n_calls = number(&mut cursor, "a number of calls")?.max(1);
        let columns = length(&mut cursor, "a number of columns", 4)?;
        let values = take(&mut cursor, 4 * columns, "sums")?;
        let sums: Vec<f32> = values.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        calibration.add(&name, &sums, &[n_calls as f32])?;
    }
    calibration.n_chunks = number(&mut cursor, "the last call").unwrap_or(0).max(0) as u64;
    if let Ok(n_bytes) = length(&mut cursor, "the length of the text's name", 1)
        && let Ok(name) = take(&mut cursor, n_bytes, "the text's name")
    {
        calibration.datasets.push(String::from_utf8_lossy(name).into_owned());
    }
    if calibration.importance.is_empty() { Err(Error::Empty) } else { Ok(calibration) }
}

fn number(cursor: &mut Cursor<'_>, what: &'static str) -> Result<i32, Error> {
    let at = cursor.offset();
    cursor.u32().map(|word| word as i32).ok_or(Error::NotLegacy(what, at))
}

/// A number of things of at least `size` bytes, which the rest of the file must hold.
fn length(cursor: &mut Cursor<'_>, what: &'static str, size: usize) -> Result<usize, Error> {
    let at = cursor.offset();
    let n = usize::try_from(number(cursor, what)?).ok();
    n.filter(|&n| n > 0 && n <= cursor.remaining() / size).ok_or(Error::NotLegacy(what, at))
}

fn take<'a>(cursor: &mut Cursor<'a>, n: usize, what: &'static str) -> Result<&'a [u8], Error> {
    let at = cursor.offset();
    cursor.take(n).ok_or(Error::NotLegacy(what, at))
}
