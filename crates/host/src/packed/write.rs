//! Writes a packed file from the plain one's bytes.

use std::io::Write;
use std::path::Path;

use smidgen_core::bytes::Endian;
use smidgen_core::gguf::Gguf;
use smidgen_core::packed::Plane;

use super::{BLOCK_BYTES, FOOTER_BYTES, MAGIC, MARK};
use crate::atomic;
use crate::convert::is_same_file;
use crate::error::Error;
use crate::progress::{Progress, Work};

/// A tensor that is to be packed.
#[derive(Clone, Copy, Debug)]
pub struct Tensor {
    /// Where it begins in the plain file.
    pub at: u64,
    /// Bytes of a row.
    pub row_bytes: u64,
    /// How many rows.
    pub n_rows: u64,
    /// The number of the code of its type.
    pub code: usize,
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Bytes of the packed file.
    pub file_bytes: u64,
    /// Bytes of the packed tensors, before.
    pub plain_bytes: u64,
    /// And after.
    pub packed_bytes: u64,
}

/// Packs some rows: those of a tensor with code number `code` and rows of so many bytes.
pub type Pack<'a> = &'a dyn Fn(usize, usize, &[u8]) -> Vec<u8>;

/// Writes the GGUF file whose bytes are `plain` to `out`, with `tensors`, in the order of their offsets, packed by `pack`. Each code
/// is the bytes of a block and its planes.
///
/// # Errors
/// A plain file that is not GGUF or is `out`, or the failure to write.
///
/// # Panics
/// When `tensors` are not tensors of that file in their order, or one of their rows is longer than
/// [`LONGEST_ROW`](super::LONGEST_ROW).
pub fn write(
    out: &Path,
    (name, plain): (&str, &[u8]),
    codes: &[(usize, Vec<Plane>)],
    tensors: &[Tensor],
    pack: Pack<'_>,
    progress: &dyn Progress,
) -> Result<Summary, Error> {
    if is_same_file(Path::new(name), out) {
        return Err(Error::bad(out, "is the model that is read; write to another file"));
    }
    let gguf = Gguf::parse(plain, plain.len() as u64).map_err(|error| Error::bad(name, error))?;
    let marks = marks(&gguf, tensors);
    let failed = |error: std::io::Error| Error::writing(out, &error);
    let work = Work::begin(progress, "packing", plain.len() as u64);
    atomic::write(out, |file| {
        let mut index = Vec::new();
        push_head(&mut index, &marks, codes, tensors.len());
        let (mut plain_at, mut at) = (0, 0u64);
        let mut packed_bytes = 0;
        for tensor in tensors {
            at += copy(file, plain, plain_at..tensor.at, &marks).map_err(failed)?;
            let end = tensor.at + tensor.row_bytes * tensor.n_rows;
            let rows = (BLOCK_BYTES / tensor.row_bytes).max(1);
            push_u64(&mut index, tensor.at);
            push_u64(&mut index, tensor.n_rows);
            [tensor.row_bytes, rows, tensor.code as u64].iter().for_each(|&n| push_u32(&mut index, n as usize));
            for block in plain[tensor.at as usize..end as usize].chunks((rows * tensor.row_bytes) as usize) {
                let packed = pack(tensor.code, tensor.row_bytes as usize, block);
                file.write_all(&packed).map_err(failed)?;
                push_u32(&mut index, packed.len());
                at += packed.len() as u64;
                packed_bytes += packed.len() as u64;
                work.advance(block.len() as u64);
            }
            plain_at = end;
        }
        at += copy(file, plain, plain_at..plain.len() as u64, &marks).map_err(failed)?;
        push_u64(&mut index, at);
        push_u64(&mut index, plain.len() as u64);
        index.extend(MAGIC);
        file.write_all(&index).map_err(failed)?;
        let plain_bytes = tensors.iter().map(|tensor| tensor.row_bytes * tensor.n_rows).sum();
        debug_assert!(index.len() >= FOOTER_BYTES);
        Ok(Summary { file_bytes: at + index.len() as u64, plain_bytes, packed_bytes })
    })
}

/// Copies bytes as they are, but for the marks; says how many.
fn copy(file: &mut dyn Write, plain: &[u8], range: std::ops::Range<u64>, marks: &[u64]) -> std::io::Result<u64> {
    let mut at = range.start;
    for &mark in marks.iter().filter(|mark| range.contains(mark)) {
        file.write_all(&plain[at as usize..mark as usize])?;
        file.write_all(&[plain[mark as usize] | MARK])?;
        at = mark + 1;
    }
    file.write_all(&plain[at as usize..range.end as usize])?;
    Ok(range.end - range.start)
}

/// The offsets of the bytes with the highest bit of the numbers of the types of `tensors`.
fn marks(gguf: &Gguf<'_>, tensors: &[Tensor]) -> Vec<u64> {
    let highest = if gguf.endian() == Endian::Little { 3 } else { 0 };
    let packed = |offset: u64| tensors.binary_search_by_key(&offset, |tensor| tensor.at).is_ok();
    gguf.tensors()
        .zip(gguf.type_offsets())
        .filter(|(tensor, _)| packed(tensor.offset))
        .map(|(_, at)| at + highest)
        .collect()
}

fn push_head(index: &mut Vec<u8>, marks: &[u64], codes: &[(usize, Vec<Plane>)], n_tensors: usize) {
    push_u32(index, marks.len());
    marks.iter().for_each(|&mark| push_u64(index, mark));
    push_u32(index, codes.len());
    for (block_bytes, planes) in codes {
        push_u32(index, *block_bytes);
        push_u32(index, planes.len());
        for plane in planes {
            push_u32(index, plane.n_bytes);
            push_u32(index, plane.frequencies.is_some().into());
            index.extend(plane.frequencies.iter().flatten().flat_map(|frequency| frequency.to_le_bytes()));
        }
    }
    push_u32(index, n_tensors);
}

fn push_u32(index: &mut Vec<u8>, value: usize) {
    // Counts and lengths that a file of blocks of at most a mebibyte has.
    index.extend((value as u32).to_le_bytes());
}

fn push_u64(index: &mut Vec<u8>, value: u64) {
    index.extend(value.to_le_bytes());
}
