//! Writes the imatrix, input by input, from the checkpoints of all passes.

use super::Job;
use super::checkpoint::Checkpoint;
use crate::failure::Failure;
use crate::load::host_failure;
use smidgen_compress::calibration::{COUNTS, GENERAL_TYPE, MOMENT, SUMS, input_name, matrices, triangle};
use smidgen_core::bytes::Endian;
use smidgen_core::engine::Input;
use smidgen_core::quant::Type;
use smidgen_host::Error;
use smidgen_host::gguf_write::Header;
use std::io::{self, Write};

/// The file to be written.
pub(super) struct Imatrix<'a> {
    pub(super) job: &'a Job<'a>,
    pub(super) checkpoints: &'a [Checkpoint<'a>],
    /// Tokens that every input saw.
    pub(super) n_tokens: usize,
}

impl Imatrix<'_> {
    /// Writes the file; its size, and how many matrices are in it.
    pub(super) fn write(&self) -> Result<(u64, usize), Failure> {
        let gguf = self.job.source.gguf()?;
        let matrices = matrices(&gguf);
        let header = self.header(&matrices)?;
        let written = smidgen_host::atomic::write(self.job.output, |out| {
            header.write(out).map_err(|error| Error::writing(self.job.output, &error))?;
            for checkpoint in self.checkpoints {
                self.write_pass(&header, &matrices, checkpoint, out)?;
            }
            Ok((header.file_bytes(), matrices.len()))
        });
        written.map_err(host_failure)
    }

    /// The keys that llama.cpp writes, and every tensor in the order of the inputs.
    fn header(&self, matrices: &[(&str, Input)]) -> Result<Header, Failure> {
        let chunks = self.job.corpus.chunks()?;
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let mut header = Header::new(Endian::Little);
        header.str("general.type", GENERAL_TYPE.as_bytes());
        header.strs("imatrix.datasets", &[self.job.corpus.name()]);
        header.u32("imatrix.chunk_count", number(chunks.len()));
        header.u32("imatrix.chunk_size", number(chunks.context_tokens()));
        for &(input, columns) in self.checkpoints.iter().flat_map(|checkpoint| checkpoint.inputs()) {
            for (name, _) in matrices.iter().filter(|(_, of)| *of == input) {
                header.tensor(format!("{name}{SUMS}").as_bytes(), &[columns as u64, 1], Type::F32);
                header.tensor(format!("{name}{COUNTS}").as_bytes(), &[1, 1], Type::F32);
            }
            if self.job.with_moments {
                let name = input_name(input) + MOMENT;
                header.tensor(name.as_bytes(), &[triangle(columns) as u64], Type::F32);
            }
        }
        Ok(header)
    }

    /// Writes the tensors of the inputs of one pass.
    fn write_pass(
        &self,
        header: &Header,
        matrices: &[(&str, Input)],
        checkpoint: &Checkpoint<'_>,
        out: &mut dyn Write,
    ) -> Result<(), Error> {
        let lost = || Error::failed(checkpoint.path(), "was changed by somebody else");
        let unwritten = |error: io::Error| Error::writing(self.job.output, &error);
        let (_, mut stored) = checkpoint.open().ok_or_else(lost)?;
        for &(input, columns) in checkpoint.inputs() {
            let squares = (0..columns).map(|_| stored.next()).collect::<io::Result<Vec<f64>>>().map_err(|_| lost())?;
            for _ in matrices.iter().filter(|(_, of)| *of == input) {
                write_tensor(header, out, squares.iter().copied().map(Ok)).map_err(unwritten)?;
                write_tensor(header, out, [Ok(self.n_tokens as f64)].into_iter()).map_err(unwritten)?;
            }
            if self.job.with_moments {
                write_tensor(header, out, (0..triangle(columns)).map(|_| stored.next())).map_err(unwritten)?;
            }
        }
        Ok(())
    }
}

/// Writes the values of one F32 tensor and what pads it.
fn write_tensor(
    header: &Header,
    out: &mut dyn Write,
    mut values: impl ExactSizeIterator<Item = io::Result<f64>>,
) -> io::Result<()> {
    let n_bytes = size_of::<f32>() as u64 * values.len() as u64;
    values.try_for_each(|value| out.write_all(&(value? as f32).to_le_bytes()))?;
    header.pad(out, n_bytes)
}
