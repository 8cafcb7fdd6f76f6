//! Caches kept in a file give the bits of caches in memory, at every context length and after positions are forgotten; and a disk
//! that fails, fills up or says nothing ends a run with a line that says so.

use smidgen_core::engine::{self, Engine};
use smidgen_core::gguf::Gguf;
use smidgen_core::kv::{CacheType, PAGE};
use smidgen_core::model::{Layer, Model};
use smidgen_core::plan::{Limits, Plan};
use smidgen_core::simd::Isa;
use smidgen_core::store::{Head, Spill};
use smidgen_core::workers::Single;
use smidgen_host::spill::{SpillDisk, SpillFile, SpillShape, SpillStorage, first_on_disk};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A few pages for each head, and a last one in part.
const CONTEXT: usize = 170;

/// What `job` does with an engine that has `n_cached` rows of each head in memory and the others where `open` keeps them.
fn run<T>(
    (n_cached, cache): (usize, CacheType),
    open: impl FnOnce(&SpillShape) -> SpillFile,
    job: impl FnOnce(&mut Engine<'_>, Option<&SpillFile>) -> T,
) -> T {
    let bytes = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tales.gguf")).unwrap();
    let gguf = Gguf::parse(&bytes, bytes.len() as u64).unwrap();
    let mut layers = vec![Layer::EMPTY; Model::n_layers(&gguf).unwrap()];
    let model = Model::new(&gguf, &mut layers).unwrap();
    let h = *model.hparams();
    let limits = Limits {
        context_tokens: CONTEXT,
        batch_tokens: 7,
        n_threads: 1,
        cache_k: cache,
        cache_v: CacheType::F16,
        keeps_all: false,
    };
    let plan = Plan::with_cached_rows(&model, &limits, n_cached).unwrap();
    let spill = SpillShape::of(&h, &plan).map(|shape| open(&shape));
    let mut arena = vec![0xff; plan.arena_bytes()];
    let mut engine = Engine::new(&model, &plan, Isa::detect(), &Single, &mut arena).unwrap();
    if let Some(spill) = &spill {
        engine = engine.with_spill(spill);
    }
    job(&mut engine, spill.as_ref())
}

/// The bits of logits after prompts, single tokens and forgotten positions.
fn bits_of(engine: &mut Engine<'_>) -> Result<Vec<u32>, engine::Error> {
    let tokens: Vec<u32> = (0..CONTEXT as u32).map(|i| (i * 7919 + 13) % 2048).collect();
    let mut bits = Vec::new();
    let mut keep = |logits: &[f32]| bits.extend(logits.iter().map(|x| x.to_bits()));
    keep(engine.forward(&tokens[..60])?);
    for token in &tokens[60..CONTEXT] {
        keep(engine.forward(&[*token])?);
    }
    // What was forgotten is written over, in the middle of a sector and of a pass that was read ahead.
    for n in [141, 100, 45, 0, 3] {
        let left = engine.truncate(n);
        engine.forward(&tokens[left..=n])?;
        engine.forward_each(&tokens[5..25], |_, logits| keep(logits))?;
    }
    Ok(bits)
}

/// Those with `n_cached` rows in memory and the others in a file in `directory`.
fn bits(n_cached: usize, cache: CacheType, directory: &Path) -> Vec<u32> {
    let open = |shape: &SpillShape| SpillFile::new(directory, shape).unwrap();
    run((n_cached, cache), open, |engine, _| bits_of(engine).unwrap())
}

/// What a disk does from some read or write on.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Fails,
    IsFull,
    IsInterrupted,
    IsShort(usize),
    Stalls(Duration),
}

/// A disk in memory that has its fault after so many reads and writes.
struct Faulty {
    bytes: Vec<u8>,
    fault: Arc<Mutex<Option<Fault>>>,
    n_before: usize,
}

impl Faulty {
    /// The fault that this read or write has; how many bytes of `len` it may do.
    fn meet(&mut self, is_write: bool, len: usize) -> io::Result<usize> {
        if self.n_before > 0 {
            self.n_before -= 1;
            return Ok(len);
        }
        let fault = *self.fault.lock().unwrap();
        match fault {
            Some(Fault::Fails) if !is_write => Err(io::Error::other("the disk is broken")),
            Some(Fault::IsFull) if is_write => Err(io::ErrorKind::StorageFull.into()),
            Some(Fault::IsInterrupted) => {
                *self.fault.lock().unwrap() = None;
                Err(io::ErrorKind::Interrupted.into())
            }
            Some(Fault::IsShort(n)) => Ok(n.min(len)),
            Some(Fault::Stalls(time)) => {
                std::thread::sleep(time);
                Ok(len)
            }
            _ => Ok(len),
        }
    }
}

impl SpillStorage for Faulty {
    fn read_at(&mut self, at: u64, out: &mut [u8]) -> io::Result<usize> {
        let n = self.meet(false, out.len())?;
        out[..n].copy_from_slice(&self.bytes[at as usize..][..n]);
        Ok(n)
    }

    fn write_at(&mut self, at: u64, bytes: &[u8]) -> io::Result<usize> {
        let n = self.meet(true, bytes.len())?;
        self.bytes[at as usize..][..n].copy_from_slice(&bytes[..n]);
        Ok(n)
    }
}

/// The bits over a disk with `fault` after `n_before` reads and writes, or what is said; and what a second try without it gives.
fn with_fault(fault: Fault, n_before: usize, patience: Duration) -> (Result<Vec<u32>, String>, Option<Vec<u32>>) {
    let state = Arc::new(Mutex::new(Some(fault)));
    let open = |shape: &SpillShape| {
        let bytes = vec![0xaa; shape.file_bytes() as usize];
        let disk = Faulty { bytes, fault: Arc::clone(&state), n_before };
        SpillFile::over("cache".into(), Box::new(disk), shape).unwrap().with_patience(patience)
    };
    run((0, CacheType::F32), open, |engine, spill| match bits_of(engine) {
        Ok(bits) => (Ok(bits), None),
        Err(error) => {
            assert!(matches!(error, engine::Error::Cache(_)), "{error}");
            let said = spill.unwrap().take_error().unwrap().to_string();
            *state.lock().unwrap() = None;
            if let Fault::Stalls(time) = fault {
                std::thread::sleep(time);
            }
            engine.truncate(0);
            (Err(said), bits_of(engine).ok())
        }
    })
}

#[test]
fn a_disk_that_is_short_interrupted_or_slow_changes_nothing() {
    let want = bits(usize::MAX, CacheType::F32, Path::new("never used"));
    let slow = Duration::from_millis(1);
    for fault in [Fault::IsShort(1777), Fault::IsShort(4096), Fault::IsShort(9000), Fault::IsInterrupted] {
        assert!(with_fault(fault, 5, Duration::from_secs(60)).0.unwrap() == want, "{fault:?}");
    }
    assert!(with_fault(Fault::Stalls(slow), 4000, Duration::from_secs(60)).0.unwrap() == want);
}

#[test]
fn a_disk_that_fails_ends_a_run_and_a_mended_one_goes_on() {
    let want = bits(usize::MAX, CacheType::F32, Path::new("never used"));
    for n_before in [0, 1, 30, 500] {
        let (failed, again) = with_fault(Fault::Fails, n_before, Duration::from_secs(60));
        assert!(failed.unwrap_err().contains("the disk is broken"), "after {n_before}");
        assert!(again.unwrap() == want, "after {n_before}");
    }
}

/// Rows that were not kept are missed by whoever comes next, so nothing goes on after that.
#[test]
fn a_disk_that_is_full_ends_a_run_for_good() {
    for n_before in [0, 30, 500] {
        let (failed, again) = with_fault(Fault::IsFull, n_before, Duration::from_secs(60));
        let failed = failed.unwrap_err();
        assert!(failed.contains("cannot be written"), "{failed}");
        assert!(again.is_none(), "after {n_before}");
    }
}

#[test]
fn a_disk_that_never_answers_is_given_up() {
    // Not so little that a busy machine is taken for a broken disk.
    let stall = Fault::Stalls(Duration::from_millis(2500));
    let (failed, again) = with_fault(stall, 9, Duration::from_millis(1000));
    let failed = failed.unwrap_err();
    assert!(failed.contains("has not answered for 1 seconds"), "{failed}");
    assert!(again.unwrap() == bits(usize::MAX, CacheType::F32, Path::new("never used")));
}

#[test]
fn through_the_cache_of_the_system_the_bits_are_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let want = bits(usize::MAX, CacheType::F32, directory.path());
    let open = |shape: &SpillShape| {
        let (path, disk) = SpillDisk::create(directory.path(), shape.file_bytes()).unwrap();
        SpillFile::over(path, Box::new(disk.cached()), shape).unwrap()
    };
    assert!(run((0, CacheType::F32), open, |engine, _| bits_of(engine).unwrap()) == want);
}

#[test]
fn whatever_is_in_the_file_the_bits_are_the_same() {
    let directory = tempfile::tempdir().unwrap();
    for cache in [CacheType::F32, CacheType::Q8_0] {
        let want = bits(usize::MAX, cache, directory.path());
        for n_cached in [0, 96, 128] {
            assert!(bits(n_cached, cache, directory.path()) == want, "{n_cached} rows in memory, {}", cache.name());
        }
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "nothing stays behind");
}

/// Keys of more than a sector for three pages, values of less.
fn shape() -> SpillShape {
    SpillShape { layers: vec![(1, 64), (3, 96)], n_kv_heads: 2, n_rows: 96, key_row_bytes: 68, value_row_bytes: 6 }
}

/// Rows that say whose they are.
fn rows(head: Head, positions: std::ops::Range<usize>, row_bytes: usize) -> Vec<u8> {
    let of = |position: usize| (head.layer * 50 + head.head * 120 + position * 3) as u8;
    positions.flat_map(|position| (0..row_bytes).map(move |byte| of(position).wrapping_add(byte as u8))).collect()
}

#[test]
fn what_is_kept_is_lent_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let shape = shape();
    let spill = SpillFile::new(directory.path(), &shape).unwrap();
    let heads: Vec<Head> = [1, 3].into_iter().flat_map(|layer| [0, 1].map(|head| Head { layer, head })).collect();
    for position in [0, PAGE, 0, PAGE, 2 * PAGE] {
        for &head in &heads {
            let page = position..position + PAGE;
            let [keys, values] = [68, 6].map(|row_bytes| rows(head, page.clone(), row_bytes));
            spill.keep(head, position, &keys, &values).unwrap();
        }
        // The first layer sees two pages at most; the second time less is wanted than was read ahead.
        for (first, second) in [(0, 0), (position.saturating_sub(PAGE), 0), (position, position)] {
            for &head in &heads {
                let start = if head.layer == 1 { first.max(position.saturating_sub(PAGE)) } else { second };
                let positions = start..position + PAGE;
                let mut lent = 0;
                let mut job = |keys: &[u8], values: &[u8]| {
                    assert!(keys == rows(head, positions.clone(), 68), "keys of {head:?}, {positions:?}");
                    assert!(values == rows(head, positions.clone(), 6), "values of {head:?}, {positions:?}");
                    lent += 1;
                };
                spill.lend(head, positions.clone(), &mut job).unwrap();
                assert_eq!(lent, 1);
            }
        }
    }
    let mut never = |_: &[u8], _: &[u8]| unreachable!("there is no such head, or too many rows are wanted");
    for head in [Head { layer: 2, head: 0 }, Head { layer: 1, head: 2 }] {
        assert!(spill.keep(head, 0, &[0; 68 * PAGE], &[0; 6 * PAGE]).is_err());
        assert!(spill.lend(head, 0..PAGE, &mut never).is_err());
    }
    assert!(spill.lend(Head { layer: 1, head: 0 }, 0..3 * PAGE, &mut never).is_err());
    assert!(spill.keep(Head { layer: 1, head: 0 }, 96, &[0; 68 * PAGE], &[0; 6 * PAGE]).is_err());
}

#[test]
fn a_directory_that_cannot_hold_it_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, b"x").unwrap();
    let error = SpillFile::new(&file, &shape()).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("file") && error.exit_code() == 1, "{error}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_directory_in_memory_is_passed_over() {
    let here = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let wanted = here.path().to_path_buf();
    if Path::new("/dev/shm").is_dir() {
        assert_eq!(first_on_disk(["/dev/shm/not/there".into(), wanted.clone()]), Some(wanted));
        assert_eq!(first_on_disk(["/dev/shm".into()]), None);
    }
}
