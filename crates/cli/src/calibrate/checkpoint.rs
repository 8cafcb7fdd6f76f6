//! The sums of a pass, kept beside the output until that is whole.
//!
//! A checkpoint is a GGUF file whose tensors are in F64, so that a calibration that was stopped gives the same bytes as one that
//! was not. It names the model, the text and the settings by a fingerprint; one of another calibration is not used.

use crate::args::EngineArgs;
use crate::failure::Failure;
use crate::load::host_failure;
use smidgen_compress::calibration::{Sums, input_name};
use smidgen_compress::chunks::Chunks;
use smidgen_core::bytes::Endian;
use smidgen_core::engine::Input;
use smidgen_core::gguf::Gguf;
use smidgen_core::quant::Type;
use smidgen_host::gguf_write::Header;
use smidgen_host::image::Image;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};

/// The value of `general.type`.
const GENERAL_TYPE: &str = "smidgen.calibration";
const FINGERPRINT: &str = "smidgen.calibration.fingerprint";
const DONE: &str = "smidgen.calibration.chunks_done";

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
pub(super) struct Checkpoint {
    path: PathBuf,
    fingerprint: String,
    context_tokens: usize,
}

impl Checkpoint {
    /// That of pass number `pass` over chunks of `context_tokens`, on the way to the file `output`.
    pub(super) fn new(output: &Path, pass: usize, fingerprint: u64, context_tokens: usize) -> Self {
        let mut name = output.file_name().unwrap_or_default().to_owned();
        name.push(format!(".pass{}.part", pass + 1));
        Self { path: output.with_file_name(name), fingerprint: format!("{fingerprint:016x}"), context_tokens }
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the sums after `done` chunks.
    pub(super) fn keep(&self, done: usize, sums: &[Sums]) -> Result<(), Failure> {
        let mut header = Header::new(Endian::Little);
        header.str("general.type", GENERAL_TYPE.as_bytes());
        header.str(FINGERPRINT, self.fingerprint.as_bytes());
        header.u32(DONE, u32::try_from(done).unwrap_or(u32::MAX));
        let tensors: Vec<(String, &[f64])> = sums.iter().flat_map(tensors).collect();
        for (name, values) in &tensors {
            header.tensor(name.as_bytes(), &[values.len() as u64], Type::F64);
        }
        let written = smidgen_host::atomic::write(&self.path, |out| {
            let mut write = || -> io::Result<()> {
                header.write(out)?;
                for (_, values) in &tensors {
                    values.iter().try_for_each(|value| out.write_all(&value.to_le_bytes()))?;
                    header.pad(out, 8 * values.len() as u64)?;
                }
                Ok(())
            };
            write().map_err(|error| smidgen_host::Error::writing(&self.path, &error))
        });
        written.map_err(host_failure)
    }

    /// Fills in the `sums` of an earlier run, and returns how many chunks it did: 0 when there is none that fits.
    pub(super) fn restore(&self, sums: &mut [Sums]) -> usize {
        self.open().and_then(|image| self.read(&image, sums)).unwrap_or(0)
    }

    /// The file's bytes, if there is one.
    pub(super) fn open(&self) -> Option<Image> {
        self.path.is_file().then(|| Image::map(&self.path).ok()).flatten()
    }

    /// As [`Checkpoint::restore`], from the bytes of the file.
    fn read(&self, bytes: &[u8], sums: &mut [Sums]) -> Option<usize> {
        let gguf = Gguf::parse(bytes, bytes.len() as u64).ok()?;
        if gguf.get(FINGERPRINT)?.as_str()? != self.fingerprint.as_bytes() {
            return None;
        }
        let done = usize::try_from(gguf.get(DONE)?.as_u64()?).ok()?;
        let n_tokens = (done as u64).checked_mul(self.context_tokens as u64)?;
        // All or nothing: looked at before the first is changed.
        for sums in &*sums {
            let [squares, upper] = Stored::of(&gguf, sums.input())?.0.map(<[_]>::len);
            if squares != sums.squares().len() || upper != sums.upper().len() {
                return None;
            }
        }
        for sums in sums {
            let [squares, upper] = Stored::of(&gguf, sums.input())?.0;
            sums.restore(n_tokens, floats(squares), floats(upper))?;
        }
        Some(done)
    }

    /// Removes the file, when the output is whole.
    pub(super) fn remove(&self) {
        // What cannot be removed does no harm: it is only used by the same command.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The names of the tensors of one input: sums of squares, and the triangle.
fn names(input: Input) -> [String; 2] {
    let name = input_name(input);
    [format!("{name}.squares"), format!("{name}.upper")]
}

/// The tensors of one input; the triangle only where it is collected.
fn tensors(sums: &Sums) -> Vec<(String, &[f64])> {
    let [squares, upper] = names(sums.input());
    let all = [(squares, sums.squares()), (upper, sums.upper())];
    all.into_iter().filter(|(_, values)| !values.is_empty()).collect()
}

/// Sums of squares and triangle of one input, as they lie in the file.
pub(super) struct Stored<'a>(pub(super) [&'a [[u8; 8]]; 2]);

impl<'a> Stored<'a> {
    /// Those of `input`; a triangle that is not there is empty.
    pub(super) fn of(gguf: &Gguf<'a>, input: Input) -> Option<Self> {
        let [squares, upper] = names(input).map(|name| {
            let tensor = gguf.tensor(&[&name]).filter(|tensor| tensor.kind == Type::F64)?;
            gguf.data(&tensor).map(|data| data.as_chunks().0)
        });
        Some(Self([squares?, upper.unwrap_or_default()]))
    }
}

/// The numbers in these bytes.
pub(super) fn floats(bytes: &[[u8; 8]]) -> impl ExactSizeIterator<Item = f64> {
    bytes.iter().map(|&bytes| f64::from_le_bytes(bytes))
}
