//! Writes a [`Source`] as GGUF, a few rows at a time: to a file for `convert`, to memory for `open`.

use std::io::Write;

use smidgen_core::bytes::Endian;
use smidgen_core::quant::Type;

use crate::error::Error;
use crate::gguf_write::Header;
use crate::progress::{Progress, Work};
use crate::source::{Source, TensorInfo};

/// Rows are handled in groups of about this many bytes.
const CHUNK_BYTES: u64 = 256 << 10;
/// The types that `--outtype` may name, with llama.cpp's number for a file mostly of that type.
#[rustfmt::skip]
const OUTTYPES: [(Type, u32); 8] = [
    (Type::F32, 0), (Type::F16, 1), (Type::BF16, 32), (Type::Q8_0, 7),
    (Type::Q4_0, 2), (Type::Q4_1, 3), (Type::Q5_0, 8), (Type::Q5_1, 9),
];
/// Tensor names listed in an error before it says "and more".
const NAMES_SHOWN: usize = 8;

/// What a tensor type holds at most, before rounding turns a weight into infinity.
fn largest_weight(kind: Type) -> f32 {
    match kind {
        Type::F16 => 65504.0,
        Type::Q8_0 => 65504.0 * 127.0,
        Type::Q4_0 => 65504.0 * 8.0,
        Type::Q5_0 => 65504.0 * 16.0,
        // A minimum is a half float too.
        Type::Q4_1 | Type::Q5_1 => 65504.0,
        _ => f32::MAX,
    }
}

/// The type of each tensor and the header that follows from it, all checked before a byte is written.
pub(crate) struct Emission {
    header: Header,
    targets: Vec<Type>,
}

impl Emission {
    /// Decides every tensor's type: `outtype` where it is given and the tensor is not pinned, `fallback` for rows that
    /// `outtype` cannot take.
    pub(crate) fn new(
        source: &dyn Source,
        outtype: Option<Type>,
        fallback: Option<Type>,
        endian: Endian,
    ) -> Result<Self, Error> {
        let subject = &source.files()[0];
        for named in [outtype, fallback].into_iter().flatten() {
            if !OUTTYPES.iter().any(|&(kind, _)| kind == named) {
                let known: Vec<&str> = OUTTYPES.iter().map(|(kind, _)| kind.name()).collect();
                let message = format!("cannot be converted to {}: only {}", named.name(), known.join(", "));
                return Err(Error::bad(subject, message));
            }
        }
        let targets = choose_types(source, outtype, fallback)?;
        let mut header = Header::new(endian);
        source.metadata(&mut header, outtype.and_then(file_type_number))?;
        for (tensor, &kind) in source.tensors().iter().zip(&targets) {
            header.tensor(&tensor.name, &tensor.dims, kind).ok_or_else(|| {
                Error::bad(
                    subject,
                    format!(
                        "tensor '{}': rows of {} are not whole {} blocks",
                        tensor.shown(),
                        tensor.n_columns(),
                        kind.name()
                    ),
                )
            })?;
            if endian == Endian::Big && kind.swap_endian(&mut []).is_err() {
                return Err(Error::bad(
                    subject,
                    format!("tensor '{}': {} has no big-endian form here", tensor.shown(), kind.name()),
                ));
            }
        }
        Ok(Emission { header, targets })
    }

    /// Bytes that [`Emission::write`] will write.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.header.file_bytes()
    }

    /// The type of each tensor in the order of the source.
    pub(crate) fn types(&self) -> &[Type] {
        &self.targets
    }

    /// Writes the whole file to `out`; a failure to write is reported through `failed`.
    pub(crate) fn write(
        &self,
        source: &mut dyn Source,
        out: &mut dyn Write,
        failed: &dyn Fn(std::io::Error) -> Error,
        progress: &dyn Progress,
    ) -> Result<(), Error> {
        let work = Work::begin(progress, "converting", self.file_bytes());
        self.header.write(out).map_err(failed)?;
        work.advance(self.header.header_bytes());
        let mut buffers = Buffers::default();
        for (index, &kind) in self.targets.iter().enumerate() {
            let mut writer = TensorWriter { source, index, kind, endian: self.header.endian(), buffers: &mut buffers };
            let written = writer.write(out, failed, &work)?;
            self.header.pad(out, written).map_err(failed)?;
        }
        Ok(())
    }
}

/// The type of every tensor, or an error that lists those that cannot have the type asked for.
fn choose_types(source: &dyn Source, outtype: Option<Type>, fallback: Option<Type>) -> Result<Vec<Type>, Error> {
    let subject = &source.files()[0];
    let mut refused = Vec::new();
    let mut targets = Vec::with_capacity(source.tensors().len());
    for tensor in source.tensors() {
        let wanted = outtype.filter(|_| !tensor.pinned).unwrap_or(tensor.kind);
        let fits = |kind: &Type| kind.row_bytes(tensor.n_columns()).is_some();
        let target = Some(wanted).filter(fits).or(fallback.filter(fits));
        if target.is_none() {
            refused.push(format!("{} (rows of {})", tensor.shown(), tensor.n_columns()));
        }
        let target = target.unwrap_or(wanted);
        if target != tensor.kind && tensor.kind.dequantize(&[], &mut []).is_err() {
            let message = format!(
                "tensor '{}' is {}, which cannot be turned into {}",
                tensor.shown(),
                tensor.kind.name(),
                target.name()
            );
            return Err(Error::bad(subject, message));
        }
        targets.push(target);
    }
    if refused.is_empty() {
        return Ok(targets);
    }
    let more = refused.len().saturating_sub(NAMES_SHOWN);
    refused.truncate(NAMES_SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let name = outtype.map_or("this type", Type::name);
    let message = format!(
        "{name} cannot hold the rows of {}{more}; name a type for those, as in --fallback f16",
        refused.join(", ")
    );
    Err(Error::bad(subject, message))
}

/// llama.cpp's number for a file whose weights were asked to be `outtype`.
fn file_type_number(outtype: Type) -> Option<u32> {
    OUTTYPES.iter().find(|&&(kind, _)| kind == outtype).map(|&(_, number)| number)
}

/// llama.cpp's `general.file_type` for a file of `tensors` as they are: that of the type most weights have.
pub(crate) fn stored_file_type(tensors: &[TensorInfo]) -> u32 {
    let weights = |kind: Type| -> u64 {
        let of_kind = tensors.iter().filter(|tensor| tensor.kind == kind);
        of_kind.fold(0, |sum, tensor| sum.saturating_add(tensor.n_rows().saturating_mul(tensor.n_columns())))
    };
    OUTTYPES.iter().max_by_key(|&&(kind, _)| weights(kind)).map_or(0, |&(_, number)| number)
}

/// Memory that is used again for every group of rows.
#[derive(Default)]
struct Buffers {
    stored: Vec<u8>,
    weights: Vec<f32>,
    target: Vec<u8>,
}

/// One tensor on its way from the source to the file.
struct TensorWriter<'a> {
    source: &'a mut dyn Source,
    index: usize,
    kind: Type,
    endian: Endian,
    buffers: &'a mut Buffers,
}

impl TensorWriter<'_> {
    /// Writes all rows; returns how many bytes they took.
    fn write(
        &mut self,
        out: &mut dyn Write,
        failed: &dyn Fn(std::io::Error) -> Error,
        work: &Work<'_>,
    ) -> Result<u64, Error> {
        let tensor = self.source.tensors()[self.index].clone();
        let n_rows = tensor.n_rows();
        // Both products were checked when the header was made.
        let stored_row = tensor.kind.row_bytes(tensor.n_columns()).unwrap_or(0);
        let target_row = self.kind.row_bytes(tensor.n_columns()).unwrap_or(0);
        let step = (CHUNK_BYTES / stored_row.max(1)).clamp(1, n_rows.max(1));
        let mut row = 0;
        while row < n_rows {
            let rows = step.min(n_rows - row);
            self.buffers.stored.resize((rows * stored_row) as usize, 0);
            self.source.read_rows(self.index, row, &mut self.buffers.stored)?;
            self.retype(&tensor, row, (rows * target_row) as usize)?;
            out.write_all(&self.buffers.target).map_err(failed)?;
            work.advance(self.buffers.target.len() as u64);
            row += rows;
        }
        Ok(n_rows * target_row)
    }

    /// Fills the target buffer with `target_bytes` of the tensor's target type from the rows just read.
    fn retype(&mut self, tensor: &TensorInfo, row: u64, target_bytes: usize) -> Result<(), Error> {
        let Buffers { stored, weights, target } = &mut *self.buffers;
        let subject = &self.source.files()[0];
        let first = row * tensor.n_columns();
        let named = |index: usize, what: String| {
            Error::bad(subject, format!("tensor '{}', weight {}: {what}", tensor.shown(), first + index as u64))
        };
        // Types are checked when the emission is planned, so this names no tensor that a user could meet.
        let unsupported = |_| Error::bad(subject, format!("tensor '{}' is of an unsupported type", tensor.shown()));
        weights.resize(stored.len() / tensor.kind.block_bytes() * tensor.kind.block_len(), 0.0);
        tensor.kind.dequantize(stored, weights).map_err(unsupported)?;
        if let Some(index) = weights.iter().position(|weight| !weight.is_finite()) {
            let what = if weights[index].is_nan() { "NaN" } else { "infinite" };
            return Err(named(index, format!("is {what}; the model is broken")));
        }
        if self.kind == tensor.kind {
            std::mem::swap(stored, target);
        } else {
            let limit = largest_weight(self.kind);
            if let Some(index) = weights.iter().position(|weight| weight.abs() > limit) {
                return Err(named(index, format!("{} is too large for {}", weights[index], self.kind.name())));
            }
            target.resize(target_bytes, 0);
            self.kind.quantize(weights, target).map_err(unsupported)?;
        }
        if self.endian == Endian::Big {
            self.kind.swap_endian(target).map_err(unsupported)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;
    use std::path::PathBuf;

    /// One tensor of ones.
    struct Ones([PathBuf; 1], [TensorInfo; 1]);

    impl Ones {
        fn new(n_rows: u64) -> Self {
            let info = TensorInfo { name: b"ones".to_vec(), dims: vec![32, n_rows], kind: Type::F32, pinned: false };
            Ones([PathBuf::from("ones")], [info])
        }
    }

    impl Source for Ones {
        fn files(&self) -> &[PathBuf] {
            &self.0
        }

        fn metadata(&self, _: &mut Header, _: Option<u32>) -> Result<(), Error> {
            Ok(())
        }

        fn tensors(&self) -> &[TensorInfo] {
            &self.1
        }

        fn read_rows(&mut self, _: usize, _: u64, out: &mut [u8]) -> Result<(), Error> {
            out.as_chunks_mut::<4>().0.fill(1f32.to_le_bytes());
            Ok(())
        }
    }

    /// Takes so many bytes and then says that the disk is full.
    struct Disk(usize);

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(std::io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_is_reported_wherever_it_fills() {
        let mut source = Ones::new(3);
        let emission = Emission::new(&source, Some(Type::Q8_0), None, Endian::Big).unwrap();
        let failed = |error| Error::writing("disk", &error);
        for room in 0..emission.file_bytes() as usize {
            let error = emission.write(&mut source, &mut Disk(room), &failed, &Silent).unwrap_err();
            assert_eq!(error.exit_code(), 1);
        }
        emission.write(&mut source, &mut Disk(emission.file_bytes() as usize), &failed, &Silent).unwrap();
    }

    #[test]
    fn rows_pass_in_groups_without_a_seam() {
        // More rows than one group holds, and not a whole number of groups.
        let n_rows = CHUNK_BYTES / 128 * 2 + 5;
        let mut source = Ones::new(n_rows);
        let emission = Emission::new(&source, None, None, Endian::Little).unwrap();
        let mut bytes = Vec::new();
        emission.write(&mut source, &mut bytes, &|error| Error::writing("memory", &error), &Silent).unwrap();
        assert_eq!(bytes.len() as u64, emission.file_bytes());
        let data = &bytes[bytes.len() - (n_rows * 128) as usize..];
        assert!(data.as_chunks::<4>().0.iter().all(|&bytes| f32::from_le_bytes(bytes) == 1.0));
    }
}
