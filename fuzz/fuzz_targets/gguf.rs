//! Any bytes as a GGUF file, as far as they lead: values and tensors, the vocabulary and text through it, the model and
//! two tokens through it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smidgen_core::engine::Engine;
use smidgen_core::gguf::Gguf;
use smidgen_core::kv::CacheType;
use smidgen_core::model::{Layer, Model};
use smidgen_core::plan::{Limits, Plan};
use smidgen_core::simd::Isa;
use smidgen_core::tokenizer::{Encode, Tokenizer};
use smidgen_core::workers::Single;
use std::hint::black_box;

/// What a caller with little memory would grant.
const ARENA_BYTES: usize = 1 << 20;
const N_LAYERS: usize = 64;
const LIMITS: Limits = Limits {
    context_tokens: 4,
    batch_tokens: 2,
    n_threads: 1,
    cache_k: CacheType::Q8_0,
    cache_v: CacheType::Q4_0,
    keeps_all: false,
};
const TEXT: &str = "Once upon a time, 12\u{a0}\u{1f600} <|x|></s>\n\n e\u{301}\0";

fuzz_target!(|data: &[u8]| {
    let Ok(gguf) = Gguf::parse(data, data.len() as u64) else { return };
    walk(&gguf);
    tokenize(&gguf);
    run(&gguf);
});

/// What the header describes lies in the file.
fn walk(gguf: &Gguf<'_>) {
    for (key, value) in gguf.keys() {
        black_box((key, value.as_u64(), value.as_f32(), value.as_str()));
        let Some(array) = value.as_array() else { continue };
        black_box((array.iter().count(), array.string_offsets().count(), array.get(array.len() / 2)));
    }
    for tensor in gguf.tensors() {
        let bytes = gguf.data(&tensor).expect("the header was checked against the file");
        assert_eq!(bytes.len() as u64, tensor.n_bytes);
        black_box(bytes.iter().fold(0u8, |sum, byte| sum ^ byte));
    }
}

/// Text becomes tokens of the vocabulary and text again.
fn tokenize(gguf: &Gguf<'_>) {
    let Some(arena_bytes) = Tokenizer::arena_bytes(gguf).ok().filter(|&bytes| bytes <= ARENA_BYTES) else { return };
    let mut arena = vec![0; arena_bytes];
    let Ok(tokenizer) = Tokenizer::new(gguf, &mut arena) else { return };
    let mut scratch = vec![0; tokenizer.scratch_bytes(TEXT.len())];
    let mut tokens = vec![0; tokenizer.max_tokens(TEXT.len())];
    let options = Encode { add_special: true, parse_special: true };
    let Ok(n) = tokenizer.encode(TEXT, options, &mut scratch, &mut tokens) else { return };
    let mut piece = vec![0; tokenizer.max_piece_bytes()];
    let mut decoder = tokenizer.decoder();
    for &token in &tokens[..n] {
        assert!((token as usize) < tokenizer.n_tokens());
        let n = decoder.push(token, &mut piece);
        assert!(std::str::from_utf8(&piece[..n]).is_ok(), "half a character");
    }
}

/// A model that passes its checks can be run within its plan.
fn run(gguf: &Gguf<'_>) {
    let Some(n_layers) = Model::n_layers(gguf).ok().filter(|&n| n <= N_LAYERS) else { return };
    let mut layers = vec![Layer::EMPTY; n_layers];
    let Ok(model) = Model::new(gguf, &mut layers) else { return };
    let Some(plan) = Plan::new(&model, &LIMITS).ok().filter(|plan| plan.arena_bytes() <= ARENA_BYTES) else { return };
    let mut arena = vec![0; plan.arena_bytes()];
    let mut engine = Engine::new(&model, &plan, Isa::detect(), &Single, &mut arena).expect("the arena is as planned");
    let last = model.hparams().n_vocab as u32 - 1;
    if let Ok(logits) = engine.forward(&[0, last, 0]) {
        assert!(logits.iter().all(|logit| logit.is_finite()));
    }
}
