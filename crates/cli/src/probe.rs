//! How fast this machine is at what bounds a run: reading a file in order, and multiplying weights of each type.
//!
//! A token needs every byte of the matrices once. What is in memory is multiplied at the rate of its type, what is streamed is
//! read at the rate of its disk, and the reader works while the engine does, so the longer of the two times is that of a token.
//! Readers of a packed file unpack as well, each after it has read, and share the cores with the engine.

use crate::budget::share;
use crate::cache;
use crate::failure::Failure;
use crate::load::host_failure;
use serde::{Deserialize, Serialize};
use smidgen_compress::pack::{Survey, pack};
use smidgen_core::model::Model;
use smidgen_core::ops::matmul::{Activations, Crew, Matrix, matmul};
use smidgen_core::ops::norm::Vector;
use smidgen_core::packed::{Layout, Plane, Table, unpack};
use smidgen_core::quant::{Quantized, Rest, TYPES, Type, n_blocks};
use smidgen_core::simd::Isa;
use smidgen_core::workers::Workers;
use smidgen_host::weights::{DirectFile, Storage, Windows, window};
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
    /// Bytes of packed weights that one core unpacks in a second, where they are coded and where they lie as they were; 0 when
    /// that was not measured.
    #[serde(default)]
    pub unpacking_bytes_per_s: Unpacking,
}

/// Bytes that one core unpacks in a second.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Unpacking {
    /// Of what is coded.
    pub coded: f64,
    /// Of what lies as it was.
    pub plain: f64,
}

/// What of a file is read for every token.
#[derive(Clone, Copy, Debug, Default)]
pub struct Streamed<'a> {
    /// The file.
    pub path: Option<&'a Path>,
    /// How many of its bytes.
    pub bytes: u64,
    /// Of a packed file, how many bytes are decoded for that, how many are only put in their places, and by how many threads.
    pub unpacked: Option<([u64; 2], usize)>,
    /// Of the caches, how many bytes are read from a file when the context is full, and from a file in which directory.
    pub spilled: u64,
    /// The directory.
    pub spill_path: Option<&'a Path>,
}

impl Streamed<'_> {
    /// The same when only so many bytes of the file are read, and the rest is in memory and unpacked.
    pub fn only(self, bytes: u64) -> Self {
        let unpacked = self.unpacked.map(|(both, n_readers)| (both.map(|n| share(n, bytes, self.bytes)), n_readers));
        Self { bytes, unpacked, ..self }
    }
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
        smidgen_host::atomic::write_bytes(&path, text.as_bytes()).map_err(host_failure)
    }

    /// Tokens per second of a run of `model` by `threads` threads that needs `streamed` for each: the most that the measured rates
    /// allow. `None` when a type, a disk, or unpacking was not measured.
    pub fn tokens_per_s(&self, model: &Model<'_>, threads: usize, streamed: Streamed<'_>) -> Option<f64> {
        let n_cores = smidgen_host::machine::n_cores();
        // More threads than cores multiply no faster.
        let at_once = |threads: usize| threads.clamp(1, n_cores) as f64;
        let scale = at_once(self.threads) / at_once(threads);
        let mut computing = 0.0;
        for matrix in model.matrices() {
            let rate = self.weights_bytes_per_s.get(matrix.kind.name()).filter(|&&rate| rate > 0.0)?;
            computing += (matrix.rows * matrix.row_bytes()) as f64 / rate * scale;
        }
        let reading = self.seconds_of_disk(streamed.bytes, streamed.path)?
            + self.seconds_of_disk(streamed.spilled, streamed.spill_path)?;
        let unpacking = match streamed.unpacked.filter(|_| streamed.bytes > 0) {
            Some(([coded, plain], n_readers)) => Some((self.unpacking_bytes_per_s.seconds(coded, plain)?, n_readers)),
            None => None,
        };
        Some(1.0 / seconds_of_token(computing, reading, unpacking, (n_cores, threads)))
    }

    /// How long the disk of `path` takes for so many bytes; `None` when it was not measured.
    fn seconds_of_disk(&self, bytes: u64, path: Option<&Path>) -> Option<f64> {
        if bytes == 0 {
            return Some(0.0);
        }
        // A directory that is not there yet will be on the disk of the nearest one that is.
        let there = path?.ancestors().find(|path| path.exists())?;
        let rate = self.storage_bytes_per_s.get(&disk(there)).filter(|&&rate| rate > 0.0)?;
        Some(bytes as f64 / rate)
    }
}

impl Unpacking {
    /// How long a core takes for so many bytes; `None` when that was not measured.
    fn seconds(&self, coded: u64, plain: u64) -> Option<f64> {
        let is_known = self.coded > 0.0 && self.plain > 0.0;
        is_known.then(|| coded as f64 / self.coded + plain as f64 / self.plain)
    }
}

/// How long a token takes that needs so many seconds of computing by `threads` threads, of the disk, and, where `unpacking` says so,
/// of one core's unpacking by so many readers, on a machine of `n_cores`.
fn seconds_of_token(
    computing: f64,
    reading: f64,
    unpacking: Option<(f64, usize)>,
    (n_cores, threads): (usize, usize),
) -> f64 {
    let longer = f64::max(computing, reading);
    let Some((unpacking, n_readers)) = unpacking else { return longer };
    // A reader waits for the disk or unpacks, and nobody works on more cores than there are.
    let readers = (reading + unpacking) / n_readers.max(1) as f64;
    let cores = (computing * threads.max(1) as f64 + unpacking) / n_cores.max(1) as f64;
    longer.max(readers).max(cores)
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
    // As a stream reads into the first of its windows, which share a large page.
    let mut page = window(Windows::LARGE.total() as usize).map_err(failed)?;
    let room = &mut page[..Windows::LARGE.bytes];
    let (mut at, mut n_read) = (0, 0u64);
    let began = Instant::now();
    while began.elapsed() < MOST {
        let n = file.read_at(at, room).map_err(failed)?;
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

/// How fast one core unpacks. What is measured are weights in BF16, of which one byte of two is worth coding.
pub fn unpacking_rates() -> Unpacking {
    const ROW_BYTES: usize = 2048;
    let mut state = 260u32;
    let mut uniform = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(state) / f64::from(u32::MAX) - 0.5
    };
    // About normal, as weights are.
    let mut weight = || ((uniform() + uniform() + uniform() + uniform()) * 0.05) as f32;
    let rows: Vec<u8> =
        (0..8 * ROW_BYTES / 2).flat_map(|_| ((weight().to_bits() >> 16) as u16).to_le_bytes()).collect();
    let mut survey = Survey::new(1);
    survey.add(&rows.iter().skip(1).step_by(2).copied().collect::<Vec<u8>>(), ROW_BYTES / 2);
    let coded = survey.planes().first().and_then(|plane| plane.frequencies);
    let seconds = |planes: &[Plane]| {
        let packed = pack(planes, (2, ROW_BYTES), &rows);
        let tables: Vec<Table> = planes.iter().filter_map(|plane| Table::new(&plane.frequencies?).ok()).collect();
        let places: Vec<_> = planes.iter().map(|plane| (plane.n_bytes, plane.frequencies.map(|_| 0))).collect();
        let layout = Layout { block_bytes: 2, row_bytes: ROW_BYTES, planes: &places, tables: &tables };
        let (mut scratch, mut out) = (vec![0; rows.len()], vec![0; rows.len()]);
        let (mut n, began) = (0, Instant::now());
        while began.elapsed() < LEAST {
            unpack(&layout, &packed, &mut scratch, &mut out).ok()?;
            n += 1;
        }
        Some(began.elapsed().as_secs_f64() / f64::from(n))
    };
    let plane = |frequencies| Plane { n_bytes: 1, frequencies };
    let (Some(both), Some(plain)) = (seconds(&[plane(None), plane(coded)]), seconds(&[plane(None), plane(None)]))
    else {
        return Unpacking::default();
    };
    let half = rows.len() as f64 / 2.0;
    Unpacking { coded: half / (both - plain / 2.0).max(f64::MIN_POSITIVE), plain: 2.0 * half / plain }
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
    let (mut blocks, mut rest) = (vec![Quantized::ZERO; n], vec![Rest::ZERO; n]);
    let mut activations = Activations { blocks: &mut blocks, rest: &mut rest };
    let x = vec![0.5; COLUMNS];
    activations.quantize(crew, &x, COLUMNS, &[&matrix]);
    let mut out = vec![0.0; rows];
    let mut n_read = 0;
    let began = Instant::now();
    while began.elapsed() < LEAST {
        matmul(crew, (&[(&matrix, Vector::EMPTY)], 0), &x, &activations, &mut out);
        n_read += rows * row_bytes;
    }
    Some(n_read as f64 / began.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_takes_what_takes_longest() {
        let seconds = |unpacking, cores| seconds_of_token(0.02, 0.01, unpacking, (cores, 1));
        assert_eq!(seconds(None, 1), 0.02, "the disk is faster");
        assert_eq!(seconds(Some((0.005, 2)), 8), 0.02, "so are the readers");
        assert_eq!(seconds(Some((0.07, 2)), 8), 0.04, "each of two reads and unpacks a half");
        assert_eq!(seconds(Some((0.02, 2)), 1), 0.04, "one core does both");
    }

    #[test]
    fn a_cache_in_a_file_takes_the_time_of_its_disk() {
        let here = std::env::temp_dir();
        let storage_bytes_per_s = BTreeMap::from([(disk(&here), 1e6)]);
        let probe = Probe { storage_bytes_per_s, ..Probe::default() };
        assert_eq!(probe.seconds_of_disk(500_000, Some(&here.join("not/there"))), Some(0.5));
        assert_eq!(probe.seconds_of_disk(0, None), Some(0.0), "nothing is read");
        assert_eq!(Probe::default().seconds_of_disk(1, Some(&here)), None, "not measured");
    }

    #[test]
    fn what_is_coded_is_slower_than_what_is_not() {
        let rates = unpacking_rates();
        assert!(rates.coded > 0.0 && rates.plain > rates.coded, "{rates:?}");
        assert_eq!(rates.seconds(0, 0), Some(0.0));
        assert_eq!(Unpacking::default().seconds(1, 1), None, "not measured");
    }
}
