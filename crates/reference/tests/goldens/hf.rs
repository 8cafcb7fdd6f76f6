//! Checkpoints of `transformers`, made GGUF by our own `convert`, against what `transformers` says of them.

use std::path::Path;

use smidgen_host::{ConvertOptions, convert};
use smidgen_reference::Model;

use crate::golden::{Golden, distance, read, shared, testdata};

/// f64 here against f32 there.
const LOGIT_LIMIT: f32 = 5e-5;

/// The GGUF of the checkpoint in `directory`.
fn converted(directory: &Path, big_endian: bool) -> Vec<u8> {
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("model.gguf");
    let options = ConvertOptions { big_endian, ..ConvertOptions::default() };
    convert(directory.to_str().unwrap(), &out, &options).unwrap_or_else(|error| panic!("{error}"));
    read(&out)
}

/// Checks every checkpoint in `root` and returns how many there are.
fn check_all(root: &Path) -> usize {
    let entries = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    let directories: Vec<_> = entries.filter(|path| path.join("golden.safetensors").is_file()).collect();
    for directory in &directories {
        let golden = Golden::open(&directory.join("golden.safetensors"));
        let (prompt, greedy) = (golden["input_ids"].ids(), golden["greedy_ids"].ids());
        let model = Model::from_gguf(&converted(directory, false)).unwrap();
        let off = distance(&model.logits(&prompt).concat(), &golden["logits"].floats());
        assert!(off < LOGIT_LIMIT, "{}: a logit is off by {off}", directory.display());
        assert_eq!(model.greedy(&prompt, greedy.len() - prompt.len(), None), greedy, "{}", directory.display());
    }
    directories.len()
}

#[test]
fn the_corners() {
    assert_eq!(check_all(&testdata().join("hf")), 12);
}

#[test]
fn the_families() {
    let Some(data) = shared("the checkpoints of hf/") else { return };
    assert_eq!(check_all(&data.join("hf")), 7);
}

#[test]
fn byte_order_changes_nothing() {
    for name in ["llama-mqa-linear", "qwen2-tied", "gpt2-untied-odd"] {
        let directory = testdata().join("hf").join(name);
        let [little, big] = [false, true].map(|big| Model::from_gguf(&converted(&directory, big)).unwrap());
        assert_eq!(little.logits(&[7, 3, 200]), big.logits(&[7, 3, 200]), "{name}");
    }
}
