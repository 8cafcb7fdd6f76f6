//! What `tokenizers` and `sentencepiece` make of random Unicode strings (`tools/tokenizer_vectors.py`): 60 strings for
//! each kind are in `testdata/tokenizer`, and where `SMIDGEN_PYTHON` names a Python with those packages, 1,000 are made.

use std::path::Path;
use std::process::Command;

use smidgen_core::gguf::{Gguf, Value};

use crate::support::{decode, encode, gguf_with_pre, root, with_tokenizer};

/// The string that a line of `strings.txt` stands for.
fn unescape(line: &str) -> String {
    let mut text = String::new();
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        let escape = if c == '\\' { rest.next() } else { None };
        text.push(match escape {
            None => c,
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('u') => {
                let code: String = rest.by_ref().skip(1).take_while(|&c| c != '}').collect();
                u32::from_str_radix(&code, 16).ok().and_then(char::from_u32).expect("a code point")
            }
            Some(c) => c,
        });
    }
    text
}

/// What decoding gives back: spaces that encoding added or merged are no part of it.
fn expected_text(bytes: &[u8], text: &str) -> Option<String> {
    let file = Gguf::parse(bytes, bytes.len() as u64).expect("a GGUF");
    let is = |key| matches!(file.get(key), Some(Value::Bool(true)));
    let has_all_bytes = file.get("tokenizer.ggml.model").and_then(|value| value.as_str()) == Some(b"gpt2")
        || file
            .get("tokenizer.ggml.tokens")
            .and_then(|value| value.as_array())
            .is_some_and(|tokens| tokens.iter().any(|token| token.as_str() == Some(b"<0xFF>")));
    let is_kept = has_all_bytes && !is("tokenizer.ggml.remove_extra_whitespaces");
    is_kept.then(|| match (is("tokenizer.ggml.add_space_prefix"), text.strip_prefix(' ')) {
        // Byte-level BPE leaves a space that is already there, and the decoder cannot know.
        (true, Some(rest)) if file.get("tokenizer.ggml.merges").is_some() => rest.to_string(),
        _ => text.to_string(),
    })
}

/// Checks every kind in `folder`; returns how many.
fn check(folder: &Path) -> usize {
    let strings = std::fs::read_to_string(folder.join("strings.txt")).expect("strings.txt");
    let strings: Vec<String> = strings.lines().map(unescape).collect();
    let mut n_kinds = 0;
    for entry in std::fs::read_dir(folder).expect("the folder") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|extension| extension != "ids") {
            continue;
        }
        let kind = path.file_stem().unwrap_or_default().to_string_lossy().to_string();
        let own = path.with_extension("gguf");
        let bytes = if own.exists() {
            std::fs::read(own).expect("a GGUF")
        } else {
            let shared = std::fs::read(folder.join("byte-level.gguf")).expect("byte-level.gguf");
            let (pre, adds_space) = kind.strip_suffix("+space").map_or((&kind[..], false), |pre| (pre, true));
            gguf_with_pre(&shared, pre, adds_space)
        };
        let ids = std::fs::read_to_string(&path).expect("ids");
        assert_eq!(ids.lines().count(), strings.len(), "{kind}");
        with_tokenizer(&bytes, |tokenizer| {
            for (text, line) in strings.iter().zip(ids.lines()) {
                let want: Vec<u32> = line.split_whitespace().map(|id| id.parse().expect("an id")).collect();
                assert_eq!(encode(tokenizer, text), want, "{kind}: {text:?}");
                if let Some(expected) = expected_text(&bytes, text) {
                    assert_eq!(decode(tokenizer, &want), expected, "{kind}");
                }
            }
        })
        .expect("a vocabulary");
        n_kinds += 1;
    }
    n_kinds
}

#[test]
fn the_committed_strings() {
    assert_eq!(check(&root().join("testdata/tokenizer")), 25);
}

#[test]
fn a_thousand_strings() {
    let Some(python) = std::env::var_os("SMIDGEN_PYTHON") else {
        eprintln!("skipped: a thousand strings for each kind, SMIDGEN_PYTHON names no Python");
        return;
    };
    let packages = Command::new(&python).args(["-c", "import tokenizers, sentencepiece, gguf"]).output();
    if !packages.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: a thousand strings for each kind, no tokenizers, sentencepiece and gguf for that Python");
        return;
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tokenizer_vectors");
    let script = root().join("tools/tokenizer_vectors.py");
    let output = Command::new(&python).arg(script).arg(&folder).args(["--strings", "1000"]).output().expect("python");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(check(&folder), 26);
}
