//! Weights read in parts: the same bits as when all are in memory, within their budget, and never wrong ones when a file or a
//! disk misbehaves.

use smidgen_core::engine::{self, Engine};
use smidgen_core::gguf::{Gguf, Tensor};
use smidgen_core::kv::CacheType;
use smidgen_core::model::{Layer, Model};
use smidgen_core::plan::{Limits, Plan};
use smidgen_core::simd::Isa;
use smidgen_core::store::Store;
use smidgen_core::workers::Single;
use smidgen_host::weights::{Caches, DirectFile, Kept, Outline, Residency, Sources, Stamp, Storage, Stream};
use smidgen_host::{ConvertOptions, Error};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const TALES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tales.gguf");
const LIMITS: Limits = Limits {
    context_tokens: 24,
    batch_tokens: 7,
    n_threads: 1,
    cache_k: CacheType::F32,
    cache_v: CacheType::F32,
    keeps_all: false,
};
const TOKENS: [u32; 20] = [1, 5, 900, 33, 2047, 0, 77, 8, 9, 1000, 1, 1, 512, 600, 31, 4, 99, 1234, 6, 7];

/// A copy of the embedded model that a test may spoil.
fn copy() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tales.gguf");
    std::fs::copy(TALES, &path).unwrap();
    (directory, path)
}

/// What `job` does with an engine over `model`.
fn run<T>(model: &Model<'_>, stream: Option<&Stream>, job: impl FnOnce(&mut Engine<'_>) -> T) -> T {
    let plan = Plan::new(model, &LIMITS).unwrap();
    let mut arena = vec![0xff; plan.arena_bytes()];
    let mut engine = Engine::new(model, &plan, Isa::detect(), &Single, &mut arena).unwrap();
    if let Some(stream) = stream {
        engine = engine.with_store(stream);
    }
    job(&mut engine)
}

/// The bits of the logits of every position, after two prompts and a token by itself.
fn bits(engine: &mut Engine<'_>) -> Result<Vec<u32>, engine::Error> {
    // Ids that a smaller vocabulary has too.
    let n_vocab = engine.forward(&[0])?.len() as u32;
    engine.truncate(0);
    let tokens = TOKENS.map(|token| token % n_vocab);
    let mut bits = Vec::new();
    let mut keep = |logits: &[f32]| bits.extend(logits.iter().map(|x| x.to_bits()));
    keep(engine.forward(&tokens)?);
    engine.truncate(0);
    engine.forward_each(&tokens, |_, logits| keep(logits))?;
    keep(engine.forward(&[3])?);
    Ok(bits)
}

fn expected() -> Vec<u32> {
    expected_of(Path::new(TALES))
}

fn expected_of(path: &Path) -> Vec<u32> {
    let bytes = std::fs::read(path).unwrap();
    let gguf = Gguf::parse(&bytes, bytes.len() as u64).unwrap();
    let mut layers = vec![Layer::EMPTY; Model::n_layers(&gguf).unwrap()];
    let model = Model::new(&gguf, &mut layers).unwrap();
    run(&model, None, |engine| bits(engine).unwrap())
}

/// The model at `path` with `budget` bytes for its matrices, and a stream that `open` makes.
fn with_parts<T>(
    path: &Path,
    budget: u64,
    open: impl FnOnce(&Outline, &Residency) -> Stream,
    job: impl FnOnce(&mut Engine<'_>, &Stream) -> T,
) -> T {
    let outline = Outline::open(path, u64::MAX).unwrap().unwrap();
    let gguf = outline.gguf().unwrap();
    let n_layers = Model::n_layers(&gguf).unwrap();
    let mut layers = vec![Layer::EMPTY; n_layers];
    let model = Model::partly_held(&gguf, &mut layers, &|tensor| outline.held(tensor)).unwrap();
    let residency = Residency::new(&model, &gguf, budget, false, outline.index());
    let kept = Kept::read(&outline, &residency, 100_000).unwrap();
    let mut layers = vec![Layer::EMPTY; n_layers];
    let held = |tensor: &Tensor<'_>| kept.held(tensor).or_else(|| outline.held(tensor));
    let model = Model::partly_held(&gguf, &mut layers, &held).unwrap();
    let stream = open(&outline, &residency);
    run(&model, Some(&stream), |engine| job(engine, &stream))
}

#[test]
fn any_budget_gives_the_same_bits() {
    let (_directory, path) = copy();
    let want = expected();
    for budget in [0, 70 << 10, 200 << 10, 600 << 10, 900 << 10, 1_100_000, 1_300_000, u64::MAX] {
        let open = |outline: &Outline, residency: &Residency| outline.stream(residency).unwrap();
        let got = with_parts(&path, budget, open, |engine, _| bits(engine).unwrap());
        assert!(got == want, "with {budget} bytes");
    }
}

/// The caches for 512 positions.
fn caches(outline: &Outline) -> Caches {
    let gguf = outline.gguf().unwrap();
    let mut layers = vec![Layer::EMPTY; Model::n_layers(&gguf).unwrap()];
    let model = Model::partly_held(&gguf, &mut layers, &|tensor| outline.held(tensor)).unwrap();
    let plan = Plan::new(&model, &Limits { context_tokens: 512, ..LIMITS }).unwrap();
    Caches::of(model.hparams(), &plan)
}

/// Parts stay in memory that caches will use, and go when they use it; the bits are the same before, meanwhile and after.
#[test]
fn memory_that_caches_do_not_use_yet_keeps_parts() {
    let (_directory, path) = copy();
    let want = expected();
    let room = caches(&Outline::open(&path, u64::MAX).unwrap().unwrap());
    for (budget, all_fit) in [(0, false), (200 << 10, false), (900 << 10, true)] {
        let windows = std::cell::Cell::new(0);
        let open = |outline: &Outline, residency: &Residency| {
            windows.set(residency.windows().total());
            outline.stream(residency).unwrap().with_room(Some(caches(outline)))
        };
        with_parts(&path, budget, open, |engine, stream| {
            let check = |engine: &mut Engine<'_>| {
                let before = stream.n_streamed();
                engine.truncate(0);
                assert!(bits(engine).unwrap() == want, "with {budget} bytes");
                stream.n_streamed() - before
            };
            let first = check(engine);
            let mut before = check(engine);
            assert!(before < first && (before == 0) == all_fit, "with {budget} bytes: {before} after {first}");
            assert!(stream.kept_bytes() > room.unused_bytes(400), "or giving it back shows nothing");
            for n_positions in [100, 300, 400, 450, 512] {
                stream.caches_grow(n_positions);
                // At once, and going back gives no memory back.
                stream.caches_grow(7);
                assert!(stream.kept_bytes() <= room.unused_bytes(n_positions), "with {budget} bytes");
                let after = check(engine);
                // What is read ahead in vain, which windows hold, differs from time to time.
                assert!(before <= after + windows.get(), "with {budget} bytes: {before}, then {after}");
                before = after;
            }
            assert!(before > first, "with {budget} bytes: {first}, {before} when nothing is lent");
        });
    }
}

/// Query, key and value of gpt2 share a tensor, and learned positions are read row by row.
#[test]
fn every_family_is_read_in_parts() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["gpt2-untied-odd", "gemma3-linear-window", "qwen3-untied", "llama-mqa-linear"] {
        let checkpoint = format!("{}/../../testdata/hf/{name}", env!("CARGO_MANIFEST_DIR"));
        let path = directory.path().join(name);
        smidgen_host::convert(&checkpoint, &path, &ConvertOptions::default()).unwrap();
        let want = expected_of(&path);
        for budget in [0, 90 << 10, 150 << 10, 220 << 10] {
            let open = |outline: &Outline, residency: &Residency| outline.stream(residency).unwrap();
            let got = with_parts(&path, budget, open, |engine, _| bits(engine).unwrap());
            assert!(got == want, "{name} with {budget} bytes");
        }
    }
}

#[test]
fn a_budget_is_used_and_not_exceeded() {
    let (_directory, path) = copy();
    let outline = Outline::open(&path, u64::MAX).unwrap().unwrap();
    let gguf = outline.gguf().unwrap();
    let mut layers = vec![Layer::EMPTY; Model::n_layers(&gguf).unwrap()];
    let model = Model::partly_held(&gguf, &mut layers, &|tensor| outline.held(tensor)).unwrap();
    let all: u64 = gguf.tensors().filter(|tensor| tensor.dims[1] > 1).map(|tensor| tensor.n_bytes).sum();
    let least = Residency::new(&model, &gguf, 0, true, None).reader_bytes();
    assert!(least < 128 << 10, "{least}");
    for (budget, each) in (least..all + 4096).step_by(4093).flat_map(|budget| [(budget, false), (budget, true)]) {
        let residency = Residency::new(&model, &gguf, budget, each, outline.index());
        let used = residency.held_bytes() + residency.reader_bytes();
        assert!(used <= budget, "{used} of {budget}");
        assert!(used + (64 << 10) > budget.min(all), "{used} of {budget}: too much is left");
        assert_eq!(residency.held_bytes() + residency.streamed_bytes(), all, "the embedding is the output matrix");
        assert_eq!(residency.is_partial(), budget < all);
    }
}

/// The output matrix is kept before any other where it is read at each position, and else like the others.
#[test]
fn the_output_matrix_is_kept_as_it_is_read() {
    let (_directory, path) = copy();
    let outline = Outline::open(&path, u64::MAX).unwrap().unwrap();
    let gguf = outline.gguf().unwrap();
    let mut layers = vec![Layer::EMPTY; Model::n_layers(&gguf).unwrap()];
    let model = Model::partly_held(&gguf, &mut layers, &|tensor| outline.held(tensor)).unwrap();
    let output = gguf.tensor(&["token_embd.weight"]).unwrap();
    let residency = Residency::new(&model, &gguf, output.n_bytes * 3, true, None);
    assert_eq!(residency.held_rows(&output), output.dims[1]);
    let gaps: Vec<bool> = gguf.tensors().filter(|t| t.dims[1] > 1).map(|t| residency.held_rows(&t) > 0).collect();
    assert!(gaps.iter().filter(|&&held| held).count() > 2 && gaps.contains(&false), "{gaps:?}");

    let residency = Residency::new(&model, &gguf, output.n_bytes * 3, false, None);
    // As much is streamed of it as of the others that fill windows, but for what is less than two reads.
    let window = residency.windows().bytes as u64;
    let long = gguf.tensors().filter(|tensor| tensor.dims[1] > 1 && tensor.n_bytes >= window / 2);
    let all: u64 = long.map(|tensor| tensor.n_bytes).sum();
    let share = residency.streamed_bytes() * output.n_bytes / all;
    let row_bytes = output.n_bytes / output.dims[1];
    let streamed = output.n_bytes - residency.held_rows(&output) * row_bytes;
    assert!(streamed > 0 && streamed.abs_diff(share) <= 2 * window, "{streamed} and not {share} of {}", output.n_bytes);
}

/// What a [`Faulty`] storage does at one of its reads.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// Says that the disk is broken.
    Fails,
    /// Is interrupted by a signal.
    IsInterrupted,
    /// Reads only so many bytes.
    IsShort(usize),
    /// Does not come back for so long.
    Stalls(Duration),
    /// Finds the end of the file.
    Ends,
}

/// A file that misbehaves from its `n`-th read on, until it is told to stop.
struct Faulty {
    file: DirectFile,
    /// What Linux's io_uring finds: as much of the file as there is, the rest is asked of the storage. `None` for threads.
    direct: Option<File>,
    fault: Arc<Mutex<Option<Fault>>>,
    reads_before: Arc<AtomicUsize>,
}

impl Storage for Faulty {
    fn read_at(&mut self, at: u64, out: &mut [u8]) -> io::Result<usize> {
        let before = self.reads_before.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| Some(n.saturating_sub(1)));
        let fault = if before == Ok(0) { *self.fault.lock().unwrap() } else { None };
        match fault {
            None => self.file.read_at(at, out),
            Some(Fault::Fails) => Err(io::Error::other("the disk is broken")),
            Some(Fault::IsInterrupted) => {
                *self.fault.lock().unwrap() = None;
                Err(io::ErrorKind::Interrupted.into())
            }
            Some(Fault::IsShort(n)) => {
                let n = n.min(out.len());
                self.file.read_at(at, &mut out[..n])
            }
            Some(Fault::Stalls(time)) => {
                std::thread::sleep(time);
                self.file.read_at(at, out)
            }
            Some(Fault::Ends) => Ok(0),
        }
    }

    fn stamp(&self) -> io::Result<Stamp> {
        self.file.stamp()
    }

    fn direct_file(&self) -> Option<File> {
        self.direct.as_ref().map(|file| file.try_clone().unwrap())
    }
}

/// Runs the model over a storage that has `fault` after `reads_before` reads, and of which io_uring finds `direct_bytes`: the bits
/// or the error, and what is then said; and the bits of a second try without the fault.
fn with_fault(
    fault: Fault,
    reads_before: usize,
    direct_bytes: Option<usize>,
    patience: Duration,
) -> (Result<Vec<u32>, Error>, Option<Vec<u32>>) {
    let (directory, path) = copy();
    let direct = direct_bytes.map(|n| {
        let path = directory.path().join("direct");
        std::fs::write(&path, &std::fs::read(TALES).unwrap()[..n]).unwrap();
        File::open(&path).unwrap()
    });
    let state = Arc::new(Mutex::new(Some(fault)));
    let left = Arc::new(AtomicUsize::new(reads_before));
    let open = |outline: &Outline, residency: &Residency| {
        let faulty = || {
            let file = DirectFile::open(&path).unwrap();
            let direct = direct.as_ref().map(|file| file.try_clone().unwrap());
            let (fault, reads_before) = (Arc::clone(&state), Arc::clone(&left));
            Box::new(Faulty { file, direct, fault, reads_before }) as Box<dyn Storage>
        };
        let (windows, row) = (residency.windows(), residency.fetched_row_bytes());
        let ahead = (0..windows.n_readers()).map(|_| faulty()).collect();
        let sources = Sources { ahead, aside: faulty(), tries_ring: direct.is_some(), expected: outline.stamp() };
        let stream = Stream::new(outline.path(), sources, residency.streamed(), windows, row);
        stream.unwrap().with_patience(patience)
    };
    with_parts(&path, 100 << 10, open, |engine, stream| match bits(engine) {
        Ok(bits) => (Ok(bits), None),
        Err(error) => {
            assert!(matches!(error, engine::Error::Storage(_)), "{error}");
            let said = stream.take_error().unwrap();
            *state.lock().unwrap() = None;
            if let Fault::Stalls(time) = fault {
                std::thread::sleep(2 * time);
            }
            engine.truncate(0);
            (Err(said), Some(bits(engine).unwrap()))
        }
    })
}

#[test]
fn short_interrupted_and_slow_reads_change_nothing() {
    let want = expected();
    let slow = Duration::from_millis(2);
    for fault in
        [Fault::IsShort(1777), Fault::IsShort(4096), Fault::IsShort(8191), Fault::IsInterrupted, Fault::Stalls(slow)]
    {
        for direct_bytes in [None, Some(700_001)] {
            let (got, _) = with_fault(fault, 5, direct_bytes, Duration::from_secs(60));
            assert!(got.unwrap() == want, "{fault:?} {direct_bytes:?}");
        }
    }
}

#[test]
fn a_broken_disk_is_an_error_and_a_mended_one_goes_on() {
    let want = expected();
    for reads_before in [0, 1, 4, 30, 300] {
        for (fault, said, code) in [(Fault::Fails, "the disk is broken", 1), (Fault::Ends, "became shorter", 2)] {
            for direct_bytes in [None, Some(0), Some(700_001)] {
                let (failed, again) = with_fault(fault, reads_before, direct_bytes, Duration::from_secs(60));
                let failed = failed.map(|_| ()).unwrap_err();
                assert!(failed.to_string().contains(said), "{failed}");
                assert_eq!(failed.exit_code(), code);
                assert!(again.unwrap() == want, "{fault:?} after {reads_before} reads, {direct_bytes:?}");
            }
        }
    }
}

#[test]
fn a_storage_that_never_answers_is_given_up() {
    // Not so little that a busy machine is taken for a broken disk.
    let (failed, again) = with_fault(Fault::Stalls(Duration::from_millis(2500)), 9, None, Duration::from_millis(1000));
    let failed = failed.map(|_| ()).unwrap_err();
    assert!(failed.to_string().contains("has not answered"), "{failed}");
    assert!(again.unwrap() == expected());
}

#[test]
fn a_file_that_changes_is_not_read_further() {
    let shorten = |path: &Path| {
        let bytes = std::fs::read(path).unwrap();
        std::fs::write(path, &bytes[..bytes.len() - 5000]).unwrap();
    };
    let touch = |path: &Path| {
        let file = File::options().write(true).open(path).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    };
    for (change, said) in [(&shorten as &dyn Fn(&Path), "became shorter"), (&touch, "was changed")] {
        let (_directory, path) = copy();
        let open = |outline: &Outline, residency: &Residency| outline.stream(residency).unwrap();
        with_parts(&path, 200 << 10, open, |engine, stream| {
            engine.forward(&[1, 2]).unwrap();
            change(&path);
            assert!(matches!(engine.forward(&TOKENS), Err(engine::Error::Storage(_))));
            let error = stream.take_error().unwrap().to_string();
            assert!(error.contains(said), "{error}");
        });
    }
}

/// A file that was written anew, or replaced by another of the same length and age, after its header was read.
#[test]
fn a_file_that_changes_before_its_weights_are_read_is_not_the_model_that_was_checked() {
    let rewrite = |path: &Path| std::fs::write(path, std::fs::read(path).unwrap()).unwrap();
    let replace = |path: &Path| {
        let other = path.with_extension("other");
        std::fs::copy(path, &other).unwrap();
        let time = std::fs::metadata(path).unwrap().modified().unwrap();
        File::options().write(true).open(&other).unwrap().set_modified(time).unwrap();
        std::fs::rename(&other, path).unwrap();
    };
    for change in [&rewrite as &dyn Fn(&Path), &replace] {
        let (_directory, path) = copy();
        let open = |outline: &Outline, residency: &Residency| {
            // Some systems tell times only by some milliseconds.
            std::thread::sleep(Duration::from_millis(20));
            change(outline.path());
            let error = Kept::read(outline, residency, 0).unwrap_err().to_string();
            assert!(error.contains("was changed"), "{error}");
            outline.stream(residency).unwrap()
        };
        with_parts(&path, 200 << 10, open, |engine, stream| {
            assert!(matches!(engine.forward(&TOKENS), Err(engine::Error::Storage(_))));
            let error = stream.take_error().unwrap().to_string();
            assert!(error.contains("was changed"), "{error}");
        });
    }
}

/// By threads or by io_uring, past the system's cache or, where a file system has no direct reads, through it.
#[test]
fn however_a_file_is_read_the_bits_are_the_same() {
    let (_directory, path) = copy();
    let want = expected();
    for (open_file, tries_ring) in [
        (DirectFile::open_cached as fn(&Path) -> Result<DirectFile, Error>, false),
        (DirectFile::open_cached, true),
        (DirectFile::open, false),
        (DirectFile::open, true),
    ] {
        for budget in [0, 100 << 10, 900 << 10] {
            let open = |outline: &Outline, residency: &Residency| {
                let file = || Box::new(open_file(outline.path()).unwrap()) as Box<dyn Storage>;
                let (windows, row) = (residency.windows(), residency.fetched_row_bytes());
                let ahead = (0..windows.n_readers()).map(|_| file()).collect();
                let sources = Sources { ahead, aside: file(), tries_ring, expected: outline.stamp() };
                Stream::new(outline.path(), sources, residency.streamed(), windows, row).unwrap()
            };
            let got = with_parts(&path, budget, open, |engine, _| bits(engine).unwrap());
            assert!(got == want, "{budget}, io_uring: {tries_ring}");
        }
    }
}

#[test]
fn what_is_no_little_endian_gguf_file_is_not_read_in_parts() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("other.bin");
    std::fs::write(&path, [0; 5000]).unwrap();
    assert!(Outline::open(&path, u64::MAX).unwrap().is_none());
    std::fs::write(&path, b"GGUF\x03\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff").unwrap();
    let error = Outline::open(&path, u64::MAX).unwrap_err();
    assert_eq!(error.exit_code(), 2, "{error}");
    let (_directory, path) = copy();
    let error = Outline::open(&path, 9000).unwrap_err();
    assert!(error.exit_code() == 3 && error.to_string().contains("more than 9000 bytes"), "{error}");
}
