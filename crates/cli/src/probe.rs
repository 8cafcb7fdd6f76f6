//! How fast this machine is at what bounds a run: reading a file in order, and multiplying weights of each type.
//!
//! A token needs every byte of the matrices once. What is in memory is multiplied at the rate of its type, what is streamed is
//! read at the rate of its disk, and the reader works while the engine does, so the longer of the two times is that of a token.

use crate::cache;
use crate::failure::Failure;
use crate::load::host_failure;
use serde::{Deserialize, Serialize};
use smidgen_core::model::Model;
use smidgen_core::ops::matmul::{Activations, Crew, Matrix, matmul};
use smidgen_core::ops::norm::Vector;
use smidgen_core::quant::{TYPES, Type, n_blocks};
use smidgen_core::simd::{BLOCK, Isa};
use smidgen_core::workers::Workers;
use smidgen_host::weights::{DirectFile, Storage, window};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Weights that are multiplied: more than the caches of most processors hold.
const WEIGHT_BYTES: usize = 48 << 20;
/// Columns of a matrix that is multiplied: whole blocks of every type.
const COLUMNS: usize = 1024;
/// How long one thing is measured, at least.
const LEAST: Duration = Duration::from_millis(60);
/// How long a file is read, at most.
const MOST: Duration = Duration::from_secs(2);
/// Bytes of a read, as those of the stream.
const READ_BYTES: usize = 512 << 10;

/// What was measured, as it is kept in a file: `smidgen.probe/1`, described in `docs/json.md`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Probe {
    /// `smidgen.probe/1`.
    pub schema: String,
    /// The kernels that multiplied.
    pub isa: String,
    /// The threads that did.
    pub threads: usize,
    /// For each weight type, bytes of weights that were multiplied in a second.
    pub weights_bytes_per_s: BTreeMap<String, f64>,
    /// For each disk (its number in the system), bytes that were read in a second.
    pub storage_bytes_per_s: BTreeMap<String, f64>,
}

impl Probe {
    /// Where it is kept: `probe.json` in the directory of our cache.
    pub fn path() -> Option<PathBuf> {
        Some(cache::directory()?.join("probe.json"))
    }

    /// What was kept, if anything was.
    pub fn kept() -> Option<Probe> {
        let text = std::fs::read_to_string(Self::path()?).ok()?;
        serde_json::from_str(&text).ok().filter(|probe: &Probe| probe.schema == SCHEMA)
    }

    /// Keeps it for `plan`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep(&self) -> Result<(), Failure> {
        let Some(path) = Self::path() else { return Ok(()) };
        let unwritten =
            |error: std::io::Error| Failure::Failed(format!("{}: cannot be written: {error}", path.display()));
        std::fs::create_dir_all(path.parent().unwrap_or(&path)).map_err(unwritten)?;
        let text = serde_json::to_string(self).map_err(|error| Failure::Failed(error.to_string()))?;
        let written = smidgen_host::atomic::write(&path, |file| {
            file.write_all(text.as_bytes()).map_err(|error| smidgen_host::Error::writing(&path, &error))
        });
        written.map_err(host_failure)
    }

    /// Tokens per second of a run of `model` that reads `streamed_bytes` of the file at `path` for each: the most that the
    /// measured rates allow. `None` when a type or the disk was not measured.
    pub fn tokens_per_s(&self, model: &Model<'_>, path: Option<&Path>, streamed_bytes: u64) -> Option<f64> {
        let mut seconds = 0.0;
        for matrix in model.matrices() {
            let rate = self.weights_bytes_per_s.get(matrix.kind.name()).filter(|&&rate| rate > 0.0)?;
            seconds += (matrix.rows * matrix.row_bytes()) as f64 / rate;
        }
        if streamed_bytes > 0 {
            let rate = self.storage_bytes_per_s.get(&disk(path?)).filter(|&&rate| rate > 0.0)?;
            seconds = f64::max(seconds, streamed_bytes as f64 / rate);
        }
        Some(1.0 / seconds)
    }
}

/// The schema of what is kept.
pub const SCHEMA: &str = "smidgen.probe/1";

/// The number by which the system knows the disk of `path`; empty where it does not say.
pub fn disk(path: &Path) -> String {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(path).map_or_else(|_| String::new(), |metadata| metadata.dev().to_string())
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        String::new()
    }
}

/// Bytes of the file at `path` that are read in a second, in order and past the system's cache.
///
/// # Errors
/// A file that cannot be read.
pub fn storage_rate(path: &Path) -> Result<f64, Failure> {
    let failed = |error: std::io::Error| Failure::Failed(format!("{}: cannot be read: {error}", path.display()));
    let mut file = DirectFile::open(path).map_err(host_failure)?;
    let mut room = window(READ_BYTES).map_err(failed)?;
    let (mut at, mut n_read) = (0, 0u64);
    let began = Instant::now();
    while began.elapsed() < MOST {
        let n = file.read_at(at, &mut room).map_err(failed)?;
        n_read += n as u64;
        at += n as u64;
        if n < room.len() {
            // The end: once through is enough, unless that took no time.
            if began.elapsed() >= LEAST {
                break;
            }
            at = 0;
        }
    }
    Ok(n_read as f64 / began.elapsed().as_secs_f64())
}

/// For each type, bytes of weights that the engine multiplies with one token in a second.
pub fn weights_rates(isa: Isa, workers: &dyn Workers, each: &mut dyn FnMut()) -> BTreeMap<String, f64> {
    let available = smidgen_host::machine::available_bytes().map_or(usize::MAX, |bytes| bytes as usize);
    // Bytes that are an ordinary number as a scale of any type: what is not ordinary may be slow.
    let bytes = vec![0x3c; WEIGHT_BYTES.min(available / 4)];
    let supported = TYPES.iter().map(|row| row.0).filter(|kind| kind.is_supported());
    let measured = supported.filter_map(|kind| {
        each();
        Some((kind.name().to_owned(), weights_rate(kind, &bytes, Crew { isa, workers })?))
    });
    measured.collect()
}

fn weights_rate(kind: Type, bytes: &[u8], crew: Crew<'_>) -> Option<f64> {
    let row_bytes = kind.row_bytes(COLUMNS as u64)? as usize;
    let rows = bytes.len() / row_bytes;
    let matrix = Matrix::new(&bytes[..rows * row_bytes], kind, rows, COLUMNS)?;
    let n = n_blocks(COLUMNS);
    let (mut q, mut rest, mut scale, mut sum) =
        (vec![[0; BLOCK]; n], vec![[0; BLOCK]; n], vec![0.0; n], vec![[0; 2]; n]);
    let mut activations = Activations { q: &mut q, scale: &mut scale, sum: &mut sum, rest: &mut rest };
    let x = vec![0.5; COLUMNS];
    activations.quantize(crew.isa, &x, COLUMNS, &[&matrix]);
    let mut out = vec![0.0; rows];
    let mut n_read = 0;
    let began = Instant::now();
    while began.elapsed() < LEAST {
        matmul(crew, (&matrix, 0), Vector::EMPTY, &x, &activations, &mut out);
        n_read += rows * row_bytes;
    }
    Some(n_read as f64 / began.elapsed().as_secs_f64())
}
