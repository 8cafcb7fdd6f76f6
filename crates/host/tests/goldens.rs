//! Every golden checkpoint, opened as a directory and from the GGUF made of it, against the logits of `transformers`;
//! and the same bits on every instruction set, at every batch, with any number of threads.

use smidgen_core::engine::Engine;
use smidgen_core::gguf::Gguf;
use smidgen_core::kv::CacheType;
use smidgen_core::model::{Layer, Model};
use smidgen_core::plan::{Limits, Plan};
use smidgen_core::quant::Type;
use smidgen_core::simd::Isa;
use smidgen_core::workers::{Single, Workers};
use smidgen_host::hf::safetensors::{header_len, parse_header};
use smidgen_host::threads::Pool;
use smidgen_host::{ConvertOptions, OpenOptions, convert, open};
use std::path::{Path, PathBuf};

/// How far a logit may be from the oracle's.
const TOLERANCE: f32 = 2e-4;

/// Every type that the engine computes with.
const WEIGHT_TYPES: [Type; 8] =
    [Type::F32, Type::F16, Type::BF16, Type::Q8_0, Type::Q4_0, Type::Q4_1, Type::Q5_0, Type::Q5_1];

/// What `transformers` computed for a checkpoint.
struct Golden {
    input_ids: Vec<u32>,
    /// (tokens, vocab).
    logits: Vec<f32>,
    /// The prompt and what follows it.
    greedy_ids: Vec<u32>,
}

impl Golden {
    fn read(directory: &Path) -> Golden {
        let bytes = std::fs::read(directory.join("golden.safetensors")).unwrap();
        let header = header_len(bytes[..8].try_into().unwrap(), bytes.len() as u64).unwrap();
        let (header, data) = bytes[8..].split_at(header);
        let entries = parse_header(header, data.len() as u64).unwrap();
        let tensor = |name: &str| {
            let entry = entries.iter().find(|entry| entry.name == name).unwrap();
            (entry.dtype.clone(), &data[entry.begin as usize..entry.end as usize])
        };
        let ids = |name: &str| -> Vec<u32> {
            let (dtype, bytes) = tensor(name);
            match dtype.as_str() {
                "I64" => bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as u32).collect(),
                "I32" => bytes.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b) as u32).collect(),
                other => panic!("{name} is of type {other}"),
            }
        };
        let logits = tensor("logits").1.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        Golden { input_ids: ids("input_ids"), logits, greedy_ids: ids("greedy_ids") }
    }
}

/// The checkpoints of the repository, and those of the shared data where it is.
fn checkpoints() -> Vec<PathBuf> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let shared = std::env::var_os("SMIDGEN_DATA").map_or(root.join("../shared/data"), PathBuf::from).join("hf");
    let mut all = Vec::new();
    for parent in [root.join("testdata/hf"), shared] {
        let Ok(entries) = std::fs::read_dir(&parent) else {
            println!("skipped: the goldens of shared data, no shared data");
            continue;
        };
        let directories = entries.map(|entry| entry.unwrap().path()).filter(|path| path.join("config.json").exists());
        all.extend(directories);
    }
    all.sort();
    assert!(all.len() >= 12, "the repository's own goldens are there");
    all
}

fn name(directory: &Path) -> String {
    directory.file_name().unwrap().to_string_lossy().into_owned()
}

/// How a run is made.
#[derive(Clone, Copy)]
struct How<'a> {
    isa: Isa,
    workers: &'a dyn Workers,
    batch_tokens: usize,
}

const PLAIN: How<'_> = How { isa: Isa::SCALAR, workers: &Single, batch_tokens: 1 };

fn with_engine<T>(bytes: &[u8], how: How<'_>, job: impl FnOnce(&mut Engine<'_>) -> T) -> T {
    let gguf = Gguf::parse(bytes, bytes.len() as u64).unwrap();
    let mut layers = vec![Layer::EMPTY; Model::n_layers(&gguf).unwrap()];
    let model = Model::new(&gguf, &mut layers).unwrap();
    let limits = Limits {
        context_tokens: model.hparams().context_train.min(128),
        batch_tokens: how.batch_tokens,
        n_threads: how.workers.n_workers(),
        cache_k: CacheType::F32,
        cache_v: CacheType::F32,
        keeps_all: false,
    };
    let plan = Plan::new(&model, &limits).unwrap();
    let mut arena = vec![0xff; plan.arena_bytes()];
    let mut engine = Engine::new(&model, &plan, how.isa, how.workers, &mut arena).unwrap();
    job(&mut engine)
}

fn logits(bytes: &[u8], how: How<'_>, ids: &[u32]) -> Vec<f32> {
    with_engine(bytes, how, |engine| {
        let mut all = Vec::new();
        engine.forward_each(ids, |_, logits| all.extend_from_slice(logits)).unwrap();
        all
    })
}

fn greedy(bytes: &[u8], how: How<'_>, prompt: &[u32], n: usize) -> Vec<u32> {
    with_engine(bytes, how, |engine| {
        let mut ids = prompt.to_vec();
        let mut next = prompt.to_vec();
        while ids.len() < n {
            let logits = engine.forward(&next).unwrap();
            let best = (1..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best });
            next = vec![best as u32];
            ids.push(best as u32);
        }
        ids
    })
}

fn converted(directory: &Path, outtype: Type, big_endian: bool) -> Vec<u8> {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("model.gguf");
    let options = ConvertOptions { outtype: Some(outtype), big_endian, ..ConvertOptions::default() };
    convert(directory.to_str().unwrap(), &file, &options).unwrap();
    let opened = open(file.to_str().unwrap(), &OpenOptions { mmap: false, ..OpenOptions::default() }).unwrap();
    opened.bytes().to_vec()
}

#[test]
fn logits_and_greedy_ids_equal_transformers() {
    for directory in checkpoints() {
        let golden = Golden::read(&directory);
        let f32_in_memory = OpenOptions { outtype: Some(Type::F32), ..OpenOptions::default() };
        let opened = open(directory.to_str().unwrap(), &f32_in_memory).unwrap();
        let fast = How { isa: Isa::detect(), batch_tokens: 64, ..PLAIN };
        let got = logits(opened.bytes(), fast, &golden.input_ids);
        assert_eq!(got.len(), golden.logits.len(), "{}", name(&directory));
        let worst = got.iter().zip(&golden.logits).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        println!("{}: largest difference {worst:e}", name(&directory));
        assert!(worst < TOLERANCE, "{}: a logit is off by {worst}", name(&directory));
        let ids = greedy(opened.bytes(), fast, &golden.input_ids, golden.greedy_ids.len());
        assert_eq!(ids, golden.greedy_ids, "{}", name(&directory));

        for big_endian in [false, true] {
            let file = converted(&directory, Type::F32, big_endian);
            let again = logits(&file, fast, &golden.input_ids);
            let same = again.iter().map(|x| x.to_bits()).eq(got.iter().map(|x| x.to_bits()));
            assert!(same, "{}: the GGUF made of it differs (big-endian: {big_endian})", name(&directory));
        }
    }
}

/// The independent oracle agrees too, so that it may judge where `transformers` cannot.
#[test]
fn the_reference_equals_transformers() {
    for directory in checkpoints() {
        let golden = Golden::read(&directory);
        let model = smidgen_reference::Model::from_gguf(&converted(&directory, Type::F32, false)).unwrap();
        let got: Vec<f32> = model.logits(&golden.input_ids).concat();
        let worst = got.iter().zip(&golden.logits).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < TOLERANCE, "{}: a logit is off by {worst}", name(&directory));
    }
}

/// For every golden model and weight type that its rows can take.
#[test]
fn every_way_of_running_gives_the_same_bits() {
    let (two, three) = (Pool::new(2), Pool::new(3));
    for directory in checkpoints() {
        let ids = Golden::read(&directory).input_ids;
        for outtype in WEIGHT_TYPES {
            let options = OpenOptions { outtype: Some(outtype), fallback: Some(Type::F16), ..OpenOptions::default() };
            let opened = open(directory.to_str().unwrap(), &options).unwrap();
            let bits = |how| -> Vec<u32> { logits(opened.bytes(), how, &ids).iter().map(|x| x.to_bits()).collect() };
            let want = bits(PLAIN);
            for isa in Isa::available() {
                for batch_tokens in [1, 64] {
                    let got = bits(How { isa, batch_tokens, ..PLAIN });
                    let case = format!("{} as {} on {}", name(&directory), outtype.name(), isa.name());
                    assert!(got == want, "{case}, batches of {batch_tokens}");
                }
            }
            for workers in [&two, &three] {
                let got = bits(How { isa: Isa::detect(), workers, batch_tokens: 64 });
                assert!(got == want, "{} as {}: threads", name(&directory), outtype.name());
            }
        }
    }
}
