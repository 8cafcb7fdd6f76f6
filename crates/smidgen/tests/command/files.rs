//! `inspect`, `tokenize`, `convert`, `completions` and `man`.

use crate::smidgen::{TALES, smidgen};
use serde_json::Value;

fn sum(rows: &Value, key: &str) -> u64 {
    rows.as_array().unwrap().iter().map(|row| row[key].as_u64().unwrap()).sum()
}

#[test]
fn inspect_accounts_for_every_weight() {
    let report = smidgen(&["inspect", TALES, "--json"]).json();
    assert_eq!(report["schema"], "smidgen.inspect/1");
    assert_eq!(report["bytes"], std::fs::metadata(TALES).unwrap().len());
    assert_eq!(report["metadata"]["general.architecture"], "llama");
    assert_eq!(report["metadata"]["tokenizer.ggml.tokens"]["len"], 2048);
    for rows in ["tensors", "parts", "types"] {
        assert_eq!(report["weight_bytes"], sum(&report[rows], "bytes"), "{rows}");
    }
    for rows in ["parts", "types"] {
        assert_eq!(report["n_weights"], sum(&report[rows], "n_weights"), "{rows}");
    }
    let q8_0 = report["types"].as_array().unwrap().iter().find(|row| row["name"] == "Q8_0").unwrap();
    assert_eq!(q8_0["bits_per_weight"], 8.5);
}

#[test]
fn inspect_shows_the_same_to_people() {
    let shown = smidgen(&["inspect"]).ok();
    for text in ["general.architecture", "token_embd.weight", "128 x 2048", "8.500", "What is big", "feed-forward"] {
        assert!(shown.contains(text), "{text}");
    }
}

#[test]
fn tokenize_prints_ids_on_one_line() {
    let line = smidgen(&["tokenize", TALES, "-p", "Once upon a time"]).ok();
    let ids: Vec<u32> = line.trim_end().split(' ').map(|id| id.parse().unwrap()).collect();
    let report = smidgen(&["tokenize", "-p", "Once upon a time", "--json"]).json();
    assert_eq!(report["ids"], serde_json::json!(ids));
    assert_eq!(report["n_tokens"], ids.len());
    let pieces: Vec<&str> = report["pieces"].as_array().unwrap().iter().map(|piece| piece.as_str().unwrap()).collect();
    assert_eq!(pieces[0], "<|endoftext|>", "the embedded model begins with BOS");
    assert_eq!(pieces[1..].concat().replace('\u{120}', " "), "Once upon a time");
    assert_eq!(smidgen(&["tokenize", "-p", "", "--no-bos"]).ok(), "\n");
}

#[test]
fn special_tokens_are_read_unless_asked_not_to() {
    let ids = |flags: &[&str]| smidgen(&[&["tokenize", "--no-bos", "-p", "<|endoftext|>"], flags].concat()).ok();
    assert_eq!(ids(&[]).trim().split(' ').count(), 1);
    assert!(ids(&["--no-parse-special"]).trim().split(' ').count() > 1);
}

#[test]
fn a_converted_model_says_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let ids = |model: &str| {
        smidgen(&["run", model, "-p", "One day", "--temp", "0", "-n", "16", "--json"]).json()["ids"].clone()
    };
    let (wide, big) = (path("wide.gguf"), path("big.gguf"));
    let report = smidgen(&["convert", TALES, &wide, "--outtype", "f16", "--json"]).json();
    assert_eq!(report["schema"], "smidgen.convert/1");
    assert_eq!(report["bytes"], std::fs::metadata(&wide).unwrap().len());
    assert!(report["types"]["F16"].as_u64().unwrap() > 0);
    smidgen(&["convert", "-m", TALES, "-o", &big, "--big-endian"]).ok();
    let inspected = smidgen(&["inspect", &big, "--json"]).json();
    assert_eq!((inspected["endian"].as_str(), inspected["gguf_version"].as_u64()), (Some("big"), Some(3)));
    assert_eq!(ids(&big), ids(TALES), "the byte order of the file changes nothing");
    assert_eq!(ids(&wide).as_array().unwrap().len(), 16);
    let refused = smidgen(&["convert", &wide, &wide]);
    assert_eq!(refused.status, Some(2), "{}", refused.stderr);
}

#[test]
fn completions_and_manual_come_from_the_flags() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = smidgen(&["completions", shell]).ok();
        assert!(script.contains("repeat-penalty") && script.contains("inspect"), "{shell}");
    }
    let page = smidgen(&["man"]).ok();
    assert!(page.starts_with(".ie") || page.starts_with(".TH"), "{page}");
    assert!(page.contains("tokenize"));
    let page = smidgen(&["man", "run"]).ok();
    assert!(page.contains("repeat\\-penalty") && page.contains("smidgen"), "{page}");
}

#[test]
fn help_goes_to_the_standard_output() {
    for command in ["run", "chat", "plan", "inspect", "tokenize", "convert", "quantize", "completions", "man"] {
        assert!(smidgen(&[command, "--help"]).ok().contains(&format!("smidgen {command}")));
        assert!(smidgen(&["--help"]).ok().contains(command));
    }
    assert!(smidgen(&["--version"]).ok().starts_with("smidgen "));
}
