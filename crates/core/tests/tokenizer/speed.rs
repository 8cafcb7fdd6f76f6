//! A text eight times as long takes about eight times as long, whatever is in it.

use std::time::{Duration, Instant};

use smidgen_core::tokenizer::{Encode, Tokenizer};

use crate::support::{gguf_with_pre, root, shared, with_tokenizer};

/// n log n makes of eight times as many bytes 9.4 times the work; the caches of a busy machine make it more. A
/// quadratic step makes it 64 times.
const MAX_RATIO: f64 = 30.0;
/// Shorter times than this are noise.
const MIN_TIME: Duration = Duration::from_millis(10);
/// What a slow machine under load may take for a megabyte; any quadratic step takes minutes.
const MAX_TIME: Duration = Duration::from_secs(20);

/// One letter, spaces, an unbroken run of Chinese, emoji, angle brackets, capitals, digits, line ends, and prose.
fn patterns() -> Vec<String> {
    let prose = "Once upon a time, there was a little girl who liked 3 red apples. \"Don't!\" she said.\n";
    let chinese: String = ('\u{4e00}'..'\u{5000}').collect();
    ["a", " ", &chinese, "😀", "<", "Aʰ", "1", "\n", "\u{301}", "x ", "'", prose].map(String::from).to_vec()
}

fn repeated(pattern: &str, bytes: usize) -> String {
    pattern.repeat(bytes / pattern.len() + 1)
}

fn time(tokenizer: &Tokenizer<'_>, text: &str) -> Duration {
    let mut scratch = vec![1; tokenizer.scratch_bytes(text.len())];
    let mut out = vec![1; tokenizer.max_tokens(text.len())];
    let start = Instant::now();
    let options = Encode { add_special: true, parse_special: true };
    let n_tokens = tokenizer.encode(text, options, &mut scratch, &mut out).expect("tokens");
    assert!(n_tokens > 0);
    start.elapsed()
}

/// Times `small_bytes` and eight times as many.
fn check(name: &str, bytes: &[u8], small_bytes: usize) {
    with_tokenizer(bytes, |tokenizer| {
        for pattern in patterns() {
            let small_text = repeated(&pattern, small_bytes);
            let small = (0..2).map(|_| time(tokenizer, &small_text)).max().expect("a time");
            let large = time(tokenizer, &repeated(&pattern, 8 * small_bytes));
            let shown: String = pattern.chars().take(8).collect();
            println!("{name} {shown:?}: {small_bytes} bytes {small:?}, eight times as many {large:?}");
            assert!(large < MAX_TIME, "{name} {shown:?}: {large:?}");
            let ratio = large.as_secs_f64() / small.max(MIN_TIME).as_secs_f64();
            assert!(ratio < MAX_RATIO, "{name} {shown:?}: {ratio:.1} times as long");
        }
    })
    .expect("a vocabulary");
}

#[test]
fn small_vocabularies() {
    let folder = root().join("testdata/tokenizer");
    let read = |kind: &str| std::fs::read(folder.join(format!("{kind}.gguf"))).expect("a vocabulary");
    for kind in ["llama", "unigram", "spm-unigram"] {
        check(kind, &read(kind), 64 << 10);
    }
    // One for each kind of stage.
    for pre in ["default", "llama-bpe", "gpt-4o", "deepseek-v3", "deepseek-llm", "bloom"] {
        check(pre, &gguf_with_pre(&read("byte-level"), pre, false), 64 << 10);
    }
}

#[test]
fn real_vocabularies() {
    for kind in ["llama-spm", "gpt-2"] {
        let Some(path) = shared(&format!("tok/ggml-vocab-{kind}.gguf")) else { continue };
        check(kind, &std::fs::read(path).expect("a vocabulary"), 128 << 10);
    }
}

#[test]
fn an_index_is_small_and_built_quickly() {
    for kind in ["llama-spm", "starcoder"] {
        let Some(path) = shared(&format!("tok/ggml-vocab-{kind}.gguf")) else { continue };
        let bytes = std::fs::read(path).expect("a vocabulary");
        let gguf = smidgen_core::gguf::Gguf::parse(&bytes, bytes.len() as u64).expect("a GGUF");
        let need = Tokenizer::arena_bytes(&gguf).expect("bytes");
        let build = || {
            let mut arena = vec![0; need];
            let start = Instant::now();
            let tokenizer = Tokenizer::new(&gguf, &mut arena).expect("a tokenizer");
            assert!(tokenizer.n_tokens() >= 32_000);
            start.elapsed()
        };
        let built = (0..10).map(|_| build()).min().expect("a time");
        println!("{kind}: {need} bytes, built in {built:?}");
        assert!(need < 800 << 10, "{kind}: {need} bytes");
        assert!(built < Duration::from_millis(500), "{kind}: {built:?}");
    }
}
