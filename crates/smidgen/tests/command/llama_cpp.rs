//! The files of `quantize` in llama.cpp: its answers, kept beside the files' hashes, and llama.cpp itself where it is installed.

use crate::smidgen::{TALES, smidgen};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::process::Command;

/// What llama.cpp said, written by [`TOOL`].
const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/quant/our_quants_in_llama_cpp.json");
const TOOL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tools/our_quants_in_llama_cpp.py");
/// Both programs round activations to eight bits, llama.cpp in blocks of 256 where weights come in such, which moves logits by
/// one to five hundredths.
const MOST_APART: f64 = 0.06;
/// Tokens that a text must have at least to say something.
const LEAST_TOKENS: usize = 8;

#[test]
fn llama_cpp_continues_our_files_as_we_do() {
    let golden: Value = serde_json::from_slice(&std::fs::read(GOLDEN).unwrap()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let prompt = golden["prompt"].as_str().unwrap();
    let runs = golden["runs"].as_array().unwrap();
    assert!(runs.len() >= 8);
    for run in runs {
        let kind = run["type"].as_str().unwrap();
        let out = directory.path().join(kind).to_str().unwrap().to_owned();
        smidgen(&["quantize", TALES, &out, kind, "--requantize", "--pure"]).ok();
        let hash: String =
            Sha256::digest(std::fs::read(&out).unwrap()).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(run["sha256"], hash, "{kind}: the file is not the one that llama.cpp read; {TOOL} asks it again");
        let n = run["ids"].as_array().unwrap().len();
        assert!(n >= LEAST_TOKENS, "{kind}: llama.cpp is sure of {n} tokens only");
        let n = n.to_string();
        let flags = ["run", &out, "-p", prompt, "--temp", "0", "-n", &n, "--ignore-eos", "--json"];
        assert_eq!(smidgen(&flags).json()["ids"], run["ids"], "{kind}");
    }
}

#[test]
fn llama_cpp_runs_every_mixture_that_we_make() {
    let python = std::env::var("SMIDGEN_PYTHON").ok().filter(|python| {
        let found = Command::new(python).args(["-c", "import llama_cpp, gguf, numpy"]).output();
        found.is_ok_and(|output| output.status.success())
    });
    let Some(python) = python else {
        println!("skipped: our files in llama.cpp itself, SMIDGEN_PYTHON has no llama_cpp");
        return;
    };
    let output = Command::new(python).args([TOOL, env!("CARGO_BIN_EXE_smidgen")]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    let results = record["results"].as_array().unwrap();
    assert!(results.len() > 30);
    for result in results {
        assert!(result["difference"].as_f64().unwrap() < MOST_APART, "{result}");
        assert!(result.get("same_text").is_none_or(|same| same == true), "{result}");
    }
}
