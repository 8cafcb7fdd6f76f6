//! llama2.c's models against what `transformers` says of them (`testdata/stories`, `tools/make_goldens.py`).

use crate::golden::{Golden, distance, read, shared, testdata};
use smidgen_reference::{Model, llama2c};

/// f64 here against f32 there.
const LOGIT_LIMIT: f32 = 5e-5;

fn check(name: &str, checkpoint: &str, pieces: &str) {
    let Some(data) = shared(name) else { return };
    let model = llama2c::model(&read(&data.join("llama2c").join(checkpoint))).unwrap();
    let tokenizer = read(&data.join("llama2c").join(pieces));
    let tokenizer = llama2c::Tokenizer::parse(&tokenizer, model.n_vocab()).unwrap();
    let logits = Golden::open(&testdata().join(format!("stories/{name}.safetensors")));
    let told: serde_json::Value =
        serde_json::from_slice(&read(&testdata().join(format!("stories/{name}.json")))).unwrap();
    for (index, story) in told.as_array().unwrap().iter().enumerate() {
        let ids = |key: &str| -> Vec<u32> { serde_json::from_value(story[key].clone()).unwrap() };
        let (prompt, greedy) = (ids("prompt_ids"), ids("greedy_ids"));
        assert_eq!(tokenizer.encode(story["prompt"].as_str().unwrap()), prompt);
        let last = model.logits(&prompt).pop().unwrap();
        let off = distance(&last, &logits[&format!("logits_{index}")].floats());
        assert!(off < LOGIT_LIMIT, "{name}, prompt {index}: a logit is off by {off}");
        assert_eq!(model.greedy(&prompt, greedy.len() - prompt.len(), Some(llama2c::BOS)), greedy);
        assert_eq!(String::from_utf8_lossy(&tokenizer.decode(&greedy)), story["text"].as_str().unwrap());
    }
}

#[test]
fn stories260k() {
    check("stories260K", "stories260K.bin", "tok512.bin");
}

#[test]
fn babyllama_of_one_character_pieces() {
    check("babyllama", "babyllama.bin", "babyllama.tok.bin");
}

#[test]
fn a_gguf_of_version_1_is_the_same_model() {
    let Some(data) = shared("stories260K as GGUF version 1") else { return };
    let gguf = Model::from_gguf(&read(&data.join("gguf/stories260K-v1-f32.gguf"))).unwrap();
    let bin = llama2c::model(&read(&data.join("llama2c/stories260K.bin"))).unwrap();
    let prompt = [1, 403, 407, 261, 378];
    for (gguf, bin) in gguf.logits(&prompt).iter().zip(bin.logits(&prompt)) {
        assert!(distance(gguf, &bin) < LOGIT_LIMIT);
    }
}
