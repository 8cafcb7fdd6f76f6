//! llama.cpp's own vectors: for each vocabulary the texts of `.inp` have the ids of `.out`, nothing added.

use crate::support::{decode, encode, shared, with_tokenizer};

fn check(name: &str) {
    let Some(path) = shared(&format!("tok/ggml-vocab-{name}.gguf")) else { return };
    let gguf = std::fs::read(&path).expect("vocabulary");
    let texts = std::fs::read_to_string(path.with_extension("gguf.inp")).expect("texts");
    let ids = std::fs::read_to_string(path.with_extension("gguf.out")).expect("ids");
    let texts: Vec<&str> = texts.split("\n__ggml_vocab_test__\n").collect();
    let lines: Vec<&str> = ids.lines().collect();
    assert_eq!(texts.len(), lines.len() + usize::from(texts.last() == Some(&"")), "{name}: texts and lines of ids");
    with_tokenizer(&gguf, |tokenizer| {
        for (text, line) in texts.iter().zip(&lines) {
            let want: Vec<u32> = line.split_whitespace().map(|id| id.parse().expect("an id")).collect();
            assert_eq!(encode(tokenizer, text), want, "{name}: {text:?}");
            assert_eq!(decode(tokenizer, &want), *text, "{name}");
        }
    })
    .expect("a vocabulary");
}

#[test]
fn llama_spm() {
    check("llama-spm");
}

#[test]
fn phi_3() {
    check("phi-3");
}

#[test]
fn gpt_2() {
    check("gpt-2");
}

#[test]
fn falcon() {
    check("falcon");
}

#[test]
fn starcoder() {
    check("starcoder");
}
