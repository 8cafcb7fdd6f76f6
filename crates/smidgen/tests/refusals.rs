//! Broken copies of a model: each is one line and exit status 2, in little memory, or runs; never anything else.
#![cfg(unix)]

use std::path::Path;
use std::process::{Command, Output, Stdio};

/// What the whole process may map, in KiB: the program, its libraries and stack, the model, and 20 MiB.
const ADDRESS_SPACE_KIB: usize = (20 + 24) << 10;

/// Runs the model at `path` for one token in no more than [`ADDRESS_SPACE_KIB`].
fn run(path: &Path) -> Output {
    let limited = format!("ulimit -v {ADDRESS_SPACE_KIB} && exec \"$0\" \"$@\"");
    let binary = env!("CARGO_BIN_EXE_smidgen");
    let flags = ["--ids", "1", "-n", "1", "--temp", "0", "-c", "8"];
    let mut command = Command::new("sh");
    command.args(["-c", &limited, binary, "run"]).arg(path).args(flags).stdin(Stdio::null());
    command.output().unwrap()
}

/// Checks what a broken model may do: run all the same, or be refused in one line that names the file.
fn check(bytes: &[u8], what: &str) -> bool {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("broken.gguf");
    std::fs::write(&path, bytes).unwrap();
    let output = run(&path);
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(0) => false,
        Some(2) => {
            assert!(said.contains("broken.gguf") && said.trim_end().lines().count() == 1, "{what}: {said}");
            true
        }
        _ => panic!("{what}: {}, {said}", output.status),
    }
}

fn model() -> Vec<u8> {
    std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tales.gguf")).unwrap()
}

#[test]
fn the_whole_model_runs_in_that_memory() {
    assert!(!check(&model(), "whole"));
}

#[test]
fn every_truncated_model_is_refused() {
    let model = model();
    let mut len = 0;
    while len < model.len() {
        assert!(check(&model[..len], &format!("{len} bytes")), "{len} bytes of {} run", model.len());
        len = (len + 7).max(len * 5 / 4);
    }
}

/// In every byte of the first keys, then here and there in vocabulary, tensor descriptions and weights.
#[test]
fn a_flipped_bit_is_refused_or_does_no_harm() {
    let model = model();
    let mut at = 0;
    let mut n_refused = 0;
    while at < model.len() {
        let mut flipped = model.clone();
        flipped[at] ^= 1 << (at % 8);
        n_refused += usize::from(check(&flipped, &format!("bit {} of byte {at}", at % 8)));
        at = (at + 5).max(at * 21 / 20);
    }
    assert!(n_refused > 10, "only {n_refused} were refused");
}
