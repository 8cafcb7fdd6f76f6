//! The sums of a pass, kept beside the output until that is whole.
//!
//! A checkpoint is one line of text and then the sums of each input, in order: squares, and the triangle where it is collected,
//! as little-endian f64, so that a calibration that was stopped gives the same bytes as one that was not. The line names the model,
//! the text and the settings by a fingerprint; a checkpoint of anything else is not used. It is read in order and never
//! mapped, because sums may be most of what fits in memory.

use super::Columns;
use crate::args::EngineArgs;
use crate::failure::Failure;
use crate::load::host_failure;
use smidgen_compress::calibration::{Sums, triangle};
use smidgen_compress::chunks::Chunks;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

/// What two runs must share for one to go on from the other: the model, the text as it is read, and what is summed. Another
/// version of this program may find another number for the same; then the work begins again.
pub(super) fn fingerprint(model: &[u8], chunks: &Chunks<'_>, with_moments: bool, engine: &EngineArgs) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(model);
    let mut tokens = Vec::new();
    for index in 0..chunks.len() {
        chunks.read(index, &mut tokens);
        tokens.hash(&mut hasher);
    }
    (with_moments, engine.ctk.name(), engine.ctv.name()).hash(&mut hasher);
    hasher.finish()
}

/// The checkpoint of one pass.
#[derive(Debug)]
pub(super) struct Checkpoint<'a> {
    path: PathBuf,
    fingerprint: u64,
    chunks: Chunks<'a>,
    inputs: &'a [Columns],
    with_moments: bool,
}

impl<'a> Checkpoint<'a> {
    /// That of pass number `pass` over the `chunks` on the way to the file `output`, which sums these inputs.
    pub(super) fn new(
        output: &Path,
        pass: usize,
        fingerprint: u64,
        chunks: Chunks<'a>,
        (inputs, with_moments): (&'a [Columns], bool),
    ) -> Self {
        let mut name = output.file_name().unwrap_or_default().to_owned();
        name.push(format!(".pass{}.part", pass + 1));
        Self { path: output.with_file_name(name), fingerprint, chunks, inputs, with_moments }
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The inputs that are summed.
    pub(super) fn inputs(&self) -> &'a [Columns] {
        self.inputs
    }

    /// The first line, of which `done` chunks are the last part; it is as long for any number of them.
    fn line(&self, done: usize) -> String {
        format!("smidgen calibration {:016x}, chunks done: {done:20}\n", self.fingerprint)
    }

    /// Bytes of the whole file.
    fn file_bytes(&self) -> usize {
        let values = |&(_, columns): &Columns| columns + if self.with_moments { triangle(columns) } else { 0 };
        self.line(0).len() + self.inputs.iter().map(values).sum::<usize>() * size_of::<f64>()
    }

    /// Writes the sums after `done` chunks.
    pub(super) fn keep(&self, done: usize, sums: &[Sums]) -> Result<(), Failure> {
        let written = smidgen_host::atomic::write(&self.path, |out| {
            let mut write = || -> io::Result<()> {
                out.write_all(self.line(done).as_bytes())?;
                let mut values = sums.iter().flat_map(|sums| sums.squares().iter().chain(sums.upper()));
                values.try_for_each(|value| out.write_all(&value.to_le_bytes()))
            };
            write().map_err(|error| smidgen_host::Error::writing(&self.path, &error))
        });
        written.map_err(host_failure)
    }

    /// The sums in the file, if it is one of this pass, and how many chunks they are of.
    pub(super) fn open(&self) -> Option<(usize, Stored)> {
        let file = File::open(&self.path).ok()?;
        if file.metadata().ok()?.len() != self.file_bytes() as u64 {
            return None;
        }
        let mut reader = BufReader::new(file);
        let mut line = vec![0; self.line(0).len()];
        reader.read_exact(&mut line).ok()?;
        let done = std::str::from_utf8(&line).ok()?.rsplit(':').next()?.trim().parse().ok()?;
        (done <= self.chunks.len() && self.line(done).as_bytes() == line).then_some((done, Stored(reader)))
    }

    /// Fills in the `sums` of an earlier run, and returns how many chunks it did: 0 when there is none.
    pub(super) fn restore(&self, sums: &mut [Sums]) -> Result<usize, Failure> {
        let Some((done, mut stored)) = self.open() else { return Ok(0) };
        let n_tokens = (done * self.chunks.context_tokens()) as u64;
        for sums in sums {
            sums.restore(n_tokens, || stored.next()).map_err(|error| Failure::reading(&self.path, &error))?;
        }
        Ok(done)
    }

    /// Removes the file, when the output is whole.
    pub(super) fn remove(&self) {
        // What cannot be removed does no harm: it is only used by the same command.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The sums in a checkpoint, one after the other.
#[derive(Debug)]
pub(super) struct Stored(BufReader<File>);

impl Stored {
    /// The next one.
    pub(super) fn next(&mut self) -> io::Result<f64> {
        let mut bytes = [0; size_of::<f64>()];
        self.0.read_exact(&mut bytes)?;
        Ok(f64::from_le_bytes(bytes))
    }
}
