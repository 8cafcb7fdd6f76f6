//! The TinyStories models of llama2.c: prompt in, the same ids and text out as llama2.c's `run -t 0` gives, whichever way
//! the model comes in. The goldens are an f32 oracle's, checked against `transformers` (`tools/make_goldens.py`).

use smidgen_core::engine::Engine;
use smidgen_core::gguf::Gguf;
use smidgen_core::kv::CacheType;
use smidgen_core::model::{Layer, Model};
use smidgen_core::plan::{Limits, Plan};
use smidgen_core::simd::Isa;
use smidgen_core::tokenizer::{Encode, Tokenizer};
use smidgen_core::workers::Single;
use smidgen_host::{ConvertOptions, OpenOptions, convert, open};
use std::path::{Path, PathBuf};

/// A prompt and its greedy continuation.
#[derive(serde::Deserialize)]
struct Golden {
    prompt: String,
    prompt_ids: Vec<u32>,
    greedy_ids: Vec<u32>,
    text: String,
}

fn goldens(name: &str) -> Vec<Golden> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/stories").join(name);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The shared data, or a note that the test goes without.
fn shared() -> Option<PathBuf> {
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let root = std::env::var_os("SMIDGEN_DATA").map_or(beside, PathBuf::from);
    if root.join("llama2c").is_dir() {
        return Some(root);
    }
    println!("skipped: llama2.c's stories, no shared data");
    None
}

/// Runs a golden's prompt through the model in `bytes` as the command does, and compares everything with it.
fn check(bytes: &[u8], golden: &Golden) {
    let gguf = Gguf::parse(bytes, bytes.len() as u64).unwrap();
    let mut index = vec![0; Tokenizer::arena_bytes(&gguf).unwrap()];
    let tokenizer = Tokenizer::new(&gguf, &mut index).unwrap();
    let mut scratch = vec![0; tokenizer.scratch_bytes(golden.prompt.len())];
    let mut ids = vec![0; tokenizer.max_tokens(golden.prompt.len())];
    let options = Encode { add_special: true, parse_special: false };
    let n = tokenizer.encode(&golden.prompt, options, &mut scratch, &mut ids).unwrap();
    ids.truncate(n);
    assert_eq!(ids, golden.prompt_ids, "{:?}", golden.prompt);

    let mut layers = vec![Layer::EMPTY; Model::n_layers(&gguf).unwrap()];
    let model = Model::new(&gguf, &mut layers).unwrap();
    let cache = CacheType::F32;
    let limits = Limits {
        context_tokens: 256,
        batch_tokens: 32,
        n_threads: 1,
        cache_k: cache,
        cache_v: cache,
        keeps_all: false,
    };
    let plan = Plan::new(&model, &limits).unwrap();
    let mut arena = vec![0; plan.arena_bytes()];
    let mut engine = Engine::new(&model, &plan, Isa::detect(), &Single, &mut arena).unwrap();
    let mut next = ids.clone();
    while ids.len() < golden.greedy_ids.len() {
        let logits = engine.forward(&next).unwrap();
        let best = (1..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best }) as u32;
        next = vec![best];
        ids.push(best);
    }
    assert_eq!(ids, golden.greedy_ids, "{:?}", golden.prompt);

    let mut text = Vec::new();
    let mut piece = vec![0; tokenizer.max_piece_bytes()];
    let mut decoder = tokenizer.decoder();
    for id in ids {
        let n = decoder.push(id, &mut piece);
        assert!(std::str::from_utf8(&piece[..n]).is_ok(), "half a character came out");
        text.extend_from_slice(&piece[..n]);
    }
    let n = decoder.finish(&mut piece);
    text.extend_from_slice(&piece[..n]);
    // llama2.c writes an unknown token as it is spelled; like llama.cpp we write nothing.
    assert_eq!(String::from_utf8(text).unwrap(), golden.text.replace("<unk>", ""));
}

fn check_all(path: &Path, tokenizer: Option<PathBuf>, goldens: &[Golden]) {
    let options = OpenOptions { tokenizer, ..OpenOptions::default() };
    let opened = open(path.to_str().unwrap(), &options).unwrap();
    goldens.iter().for_each(|golden| check(opened.bytes(), golden));
}

#[test]
fn stories260k_tells_its_stories_whichever_way_it_comes() {
    let Some(data) = shared() else { return };
    let goldens = goldens("stories260K.json");
    let tokenizer = Some(data.join("llama2c/tok512.bin"));
    check_all(&data.join("llama2c/stories260K.bin"), tokenizer.clone(), &goldens);
    check_all(&data.join("llama2c/stories260K_v1.bin"), tokenizer.clone(), &goldens);
    check_all(&data.join("gguf/stories260K-v1-f32.gguf"), None, &goldens);
    for big_endian in [false, true] {
        let scratch = tempfile::tempdir().unwrap();
        let out = scratch.path().join("stories.gguf");
        let options = ConvertOptions { tokenizer: tokenizer.clone(), big_endian, ..ConvertOptions::default() };
        convert(data.join("llama2c/stories260K.bin").to_str().unwrap(), &out, &options).unwrap();
        check_all(&out, None, &goldens);
    }
}

/// 105 one-character pieces and no byte fallback.
#[test]
fn babyllama_tells_its_stories() {
    let Some(data) = shared() else { return };
    let tokenizer = Some(data.join("llama2c/babyllama.tok.bin"));
    check_all(&data.join("llama2c/babyllama.bin"), tokenizer, &goldens("babyllama.json"));
}
