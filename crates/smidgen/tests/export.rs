//! What `smidgen export` writes: C that computes the engine's bits for every weight type and cache, and firmware that fits or is refused.

use smidgen_core::bytes::Endian;
use smidgen_core::engine::Engine;
use smidgen_core::gguf::Gguf;
use smidgen_core::kv::CacheType;
use smidgen_core::model::{Layer, Model};
use smidgen_core::plan::{Limits, Plan};
use smidgen_core::quant::{Parts, TYPES, Type};
use smidgen_core::simd::Isa;
use smidgen_core::workers::Single;
use smidgen_host::gguf_write::Header;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

const N_EMBD: u64 = 256;
const N_HEADS: u64 = 4;
const N_KV_HEADS: u64 = 2;
const N_VOCAB: u64 = 24;
const IDS: [u32; 5] = [1, 7, 3, 22, 7];
const STRICT: &str = "-std=c89 -pedantic -Wall -Wextra -Werror";
/// Code and constants of one model at -Os, at most.
const CODE_BYTES: u64 = 32 << 10;
const CACHES: [CacheType; 4] = [CacheType::F32, CacheType::F16, CacheType::Q8_0, CacheType::Q4_0];

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Runs the command; its exit status and what it printed.
fn smidgen(words: &[&str]) -> (u8, String) {
    let mut stdout = Vec::new();
    let argv = std::iter::once("smidgen").chain(words.iter().copied()).map(OsString::from);
    let status = smidgen_cli::run(argv, &mut stdout);
    (status, String::from_utf8(stdout).expect("the command prints text"))
}

/// `n` rows of `columns` weights of `kind`: rounded from numbers that look like weights, or the golden blocks again and again.
fn rows(kind: Type, columns: u64, n: u64) -> Vec<u8> {
    let row_bytes = kind.row_bytes(columns).expect("a row of that type") as usize;
    let mut out = vec![0; row_bytes * n as usize];
    if kind.can_quantize() {
        for (index, row) in out.chunks_exact_mut(row_bytes).enumerate() {
            let weight = |i: u64| ((i * 37 + index as u64 * 101) as f32 * 0.7).sin() * 0.2;
            let values: Vec<f32> = (0..columns).map(weight).collect();
            kind.quantize(&values, row).expect("this type can be written");
        }
        return out;
    }
    if kind == Type::MXFP4 {
        // Its golden exponents go to the ends of what a float holds; these are those of weights.
        let mut parts = Parts::ZERO;
        for (index, block) in out.chunks_exact_mut(kind.block_bytes()).enumerate() {
            parts.scales[0] = 118 + (index % 5) as i16;
            parts.codes.iter_mut().zip(index..).for_each(|(code, i)| *code = (i * 7 % 16) as u16);
            kind.pack(&parts, block).expect("this type can be packed");
        }
        return out;
    }
    let path = repository().join("testdata/quant").join(format!("{}.bin", kind.name()));
    let golden = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let blocks: Vec<&[u8]> = golden.chunks_exact(kind.block_bytes()).take(4).collect();
    for (first, row) in out.chunks_exact_mut(row_bytes).enumerate() {
        for (index, block) in row.chunks_mut(kind.block_bytes()).enumerate() {
            block.copy_from_slice(&blocks[(first + index) % 4][..block.len()]);
        }
    }
    out
}

/// A llama of one layer whose matrices are all of `kind`; rows of types for any width end inside a block.
fn model(kind: Type) -> Vec<u8> {
    let n_ff = if kind.is_any_width() { 333 } else { 256 };
    let kv = N_EMBD / N_HEADS * N_KV_HEADS;
    let mut header = Header::new(Endian::Little);
    header.str("general.architecture", b"llama");
    for (key, value) in [
        ("block_count", 1),
        ("embedding_length", N_EMBD),
        ("attention.head_count", N_HEADS),
        ("attention.head_count_kv", N_KV_HEADS),
        ("feed_forward_length", n_ff),
        ("context_length", 64),
    ] {
        header.u32(&format!("llama.{key}"), value as u32);
    }
    header.f32("llama.attention.layer_norm_rms_epsilon", 1e-5);
    // Golden blocks hold scales of any size; norms bring their products back to the size of logits.
    let embedding = rows(kind, N_EMBD, N_VOCAB);
    let mut values = vec![0.0; N_EMBD as usize];
    let row_bytes = embedding.len() / N_VOCAB as usize;
    let largest = embedding.chunks_exact(row_bytes).fold(0f32, |largest, row| {
        kind.dequantize(row, &mut values).expect("this type can be read");
        values.iter().fold(largest, |largest, value| largest.max(value.abs()))
    });
    let weight = (16.0 / (N_EMBD as f32 * largest)).min(1.0);
    let norm = || weight.to_le_bytes().repeat(N_EMBD as usize);
    let mut data = Vec::new();
    let mut add = |name: &str, dims: &[u64], kind: Type, bytes: Vec<u8>| {
        header.tensor(name.as_bytes(), dims, kind).expect("a tensor that fits");
        data.push(bytes);
    };
    for (name, columns, n) in [
        ("token_embd", N_EMBD, N_VOCAB),
        ("blk.0.attn_q", N_EMBD, N_EMBD),
        ("blk.0.attn_k", N_EMBD, kv),
        ("blk.0.attn_v", N_EMBD, kv),
        ("blk.0.attn_output", N_EMBD, N_EMBD),
        ("blk.0.ffn_gate", N_EMBD, n_ff),
        ("blk.0.ffn_up", N_EMBD, n_ff),
        ("blk.0.ffn_down", n_ff, N_EMBD),
    ] {
        add(&format!("{name}.weight"), &[columns, n], kind, rows(kind, columns, n));
    }
    for name in ["blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"] {
        add(&format!("{name}.weight"), &[N_EMBD], Type::F32, norm());
    }
    let mut file = Vec::new();
    header.write(&mut file).expect("memory takes it");
    for bytes in data {
        file.extend_from_slice(&bytes);
        file.resize(file.len().next_multiple_of(header.alignment_bytes() as usize), 0);
    }
    file
}

/// The hash of all logits, as the engine's definition computes them.
fn hash(bytes: &[u8], cache: CacheType) -> String {
    let gguf = Gguf::parse(bytes, bytes.len() as u64).expect("a model");
    let mut layers = vec![Layer::EMPTY; Model::n_layers(&gguf).expect("layers")];
    let model = Model::new(&gguf, &mut layers).expect("a model");
    let limits =
        Limits { context_tokens: 16, batch_tokens: 1, n_threads: 1, cache_k: cache, cache_v: cache, keeps_all: false };
    let plan = Plan::new(&model, &limits).expect("a plan");
    let mut arena = vec![0; plan.arena_bytes()];
    let mut engine = Engine::new(&model, &plan, Isa::SCALAR, &Single, &mut arena).expect("an engine");
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let mut add = |logits: &mut [f32]| {
        let bytes = logits.iter().flat_map(|x| x.to_bits().to_le_bytes());
        hash = bytes.fold(hash, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    };
    engine.forward_each(&IDS, |_, logits| add(logits)).expect("finite logits");
    format!("logits {hash:016x}")
}

/// Exports the model in `file`.
fn export(folder: &Path, file: &Path, cache: CacheType) {
    let (from, to) = (file.to_string_lossy(), folder.to_string_lossy());
    let ids = IDS.map(|id| id.to_string()).join(" ");
    let cache = cache.name();
    let words = ["export", "c", &from, "-o", &to, "-c", "16", "-n", "0", "--ids", &ids, "--ctk", cache, "--ctv", cache];
    assert_eq!(smidgen(&words).0, 0);
}

/// Runs a program in `folder`; what it printed, or `None` where it is not there.
fn output(folder: &Path, line: &str) -> Option<String> {
    let mut words = line.split(' ');
    let output = Command::new(words.next()?).args(words).current_dir(folder).output().ok()?;
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).expect("text"))
}

/// Compiles the exported program and runs it; `None` where there is no compiler.
fn run_as_c(folder: &Path, compiler: &str) -> Option<String> {
    output(folder, &format!("{compiler} {STRICT} -O1 -DSMIDGEN_MAIN model.c model_data.c -o story"))?;
    output(folder, folder.join("story").to_str()?)
}

/// Compiles the exported engine small; its bytes of code and constants, and of statics. `None` where something is missing.
fn sizes(folder: &Path, compiler: &str) -> Option<(u64, u64)> {
    output(folder, &format!("{compiler} {STRICT} -Os -c model.c -o model.o"))?;
    let listing = output(folder, "size model.o")?;
    let mut numbers = listing.lines().nth(1)?.split_whitespace().map_while(|word| word.parse::<u64>().ok());
    Some((numbers.next()?, numbers.next()? + numbers.next()?))
}

/// The bytes of statics that the head of `model.c` names.
fn promised(folder: &Path) -> u64 {
    let source = std::fs::read_to_string(folder.join("model.c")).expect("it was written");
    let line = source.lines().find(|line| line.ends_with("with the plan, at most")).expect("the head says it");
    line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a number")
}

#[test]
fn c_computes_the_bits_of_every_weight_type_and_cache() {
    let folder = tempfile::tempdir().expect("a folder");
    for (index, kind) in TYPES.iter().map(|row| row.0).filter(|kind| kind.is_supported()).enumerate() {
        let cache = CACHES[index % CACHES.len()];
        let bytes = model(kind);
        let file = folder.path().join("model.gguf");
        std::fs::write(&file, &bytes).expect("the folder takes it");
        export(folder.path(), &file, cache);
        let Some(printed) = run_as_c(folder.path(), "cc") else {
            println!("skipped: exported C, there is no cc");
            return;
        };
        let want = hash(&bytes, cache);
        assert!(printed.contains(&want), "{} with {}: {printed}, not {want}", kind.name(), cache.name());
    }
}

/// Each weight type, with the cache whose code is the longest, by both compilers and without a warning.
#[test]
fn c_is_as_small_as_it_says() {
    let folder = tempfile::tempdir().expect("a folder");
    for kind in TYPES.iter().map(|row| row.0).filter(|kind| kind.is_supported()) {
        let file = folder.path().join("model.gguf");
        std::fs::write(&file, model(kind)).expect("the folder takes it");
        export(folder.path(), &file, CacheType::Q4_0);
        for compiler in ["gcc", "clang"] {
            let Some((code, statics)) = sizes(folder.path(), compiler) else {
                println!("skipped: the size of exported C, there is no {compiler} or no size");
                continue;
            };
            assert!(code <= CODE_BYTES, "{} by {compiler}: {code} bytes of code", kind.name());
            let promised = promised(folder.path());
            assert!(statics <= promised, "{} by {compiler}: {statics} bytes, not {promised}", kind.name());
        }
    }
}

/// The numbers of the plan decide, and nothing is written where they say no.
#[test]
fn firmware_that_does_not_fit_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let project = folder.path().join("project");
    let (model, to) = (repository().join("models/tales.gguf"), project.to_string_lossy().into_owned());
    let source = repository().to_string_lossy().into_owned();
    let words = |more: &[&'static str]| {
        let mut words = vec!["export", "firmware", model.to_str().expect("text"), "-o", &to, "--source", &source];
        words.extend(more);
        smidgen(&words)
    };
    let (status, text) = words(&["--board", "microbit"]);
    assert_eq!(status, 3, "{text}");
    assert!(text.contains("does not fit the flash") && text.contains("does not fit the RAM"), "{text}");
    assert!(!project.exists());
    assert_eq!(
        words(&["--target", "thumbv7em", "--flash", "2M", "--ram", "128K", "--ctk", "q8_0", "--ctv", "q8_0"]).0,
        0
    );
    let memory = std::fs::read_to_string(project.join("memory.x")).expect("it was written");
    assert!(memory.contains("ORIGIN = 0x08000000, LENGTH = 2097152"), "{memory}");
    assert!(std::fs::read(project.join("model.gguf")).expect("it was written").starts_with(b"GGUF"));
    assert_eq!(words(&["--target", "z80", "--flash", "1M", "--ram", "1M"]).0, 2);
    assert_eq!(words(&["--target", "thumbv7em", "--flash", "1M"]).0, 2);
    assert_eq!(words(&["--board", "microbits"]).0, 2);
}

#[test]
fn c_that_has_no_prompt_or_no_room_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let (model, to) = (repository().join("models/tales.gguf"), folder.path().to_string_lossy().into_owned());
    let model = model.to_string_lossy();
    assert_eq!(smidgen(&["export", "c", &model, "-o", &to, "--ids", ""]).0, 2);
    assert_eq!(smidgen(&["export", "c", &model, "-o", &to, "--ids", "99999"]).0, 2);
    assert_eq!(smidgen(&["export", "c", &model, "-o", &to, "--ram", "16K"]).0, 3);
    assert!(!folder.path().join("model.c").exists());
}
