//! Memory while models are converted and refused. One test, because the peak belongs to the process.

#![cfg(target_os = "linux")]

mod tiny;

use std::fs::OpenOptions as FileOptions;
use std::os::unix::fs::FileExt;

use smidgen_core::quant::Type;
use smidgen_host::machine::peak_rss_bytes;
use smidgen_host::{ConvertOptions, OpenOptions, convert, open};
use tiny::{Directory, Model, N_EMBD, Tensor};

const MIB: u64 = 1 << 20;

/// Writes `model` with more tensors whose weights are not stored: a hole in the file reads as zeros.
fn with_holes(model: &Model, holes: &[(&str, [u64; 2])]) -> Directory {
    let directory = model.write();
    let stored = std::fs::read(directory.join("model.safetensors")).unwrap();
    let (len, rest) = stored.split_first_chunk::<8>().unwrap();
    let (header, data) = rest.split_at(u64::from_le_bytes(*len) as usize);
    let mut header: serde_json::Value = serde_json::from_slice(header).unwrap();
    let mut end = data.len() as u64;
    for (name, shape) in holes {
        let begin = end;
        end += shape[0] * shape[1] * 4;
        header[name] = serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [begin, end]});
    }
    let header = header.to_string();
    directory.write("model.safetensors", [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat());
    let file = FileOptions::new().write(true).open(directory.join("model.safetensors")).unwrap();
    file.set_len(8 + header.len() as u64 + end).unwrap();
    directory
}

#[test]
fn memory_is_bounded_by_a_few_rows_and_a_bad_file_takes_none() {
    let Some(start) = peak_rss_bytes() else {
        eprintln!("skipped: the peak of memory, this system does not say");
        return;
    };
    let used = || peak_rss_bytes().unwrap() - start;
    let n_ff = MIB;
    let mut model = Model::gated("LlamaForCausalLM", 1);
    model.config["num_hidden_layers"] = 1.into();
    model.config["intermediate_size"] = n_ff.into();
    model.tensors.retain(|name, _| !name.contains("layers.1.") && !name.contains("mlp"));
    let mlp = |name: &str| format!("model.layers.0.mlp.{name}_proj.weight");
    let [gate, up, down] = ["gate", "up", "down"].map(mlp);
    let holes = [(gate.as_str(), [n_ff, N_EMBD]), (&up, [n_ff, N_EMBD]), (&down, [N_EMBD, n_ff])];
    let directory = with_holes(&model, &holes);
    let out = directory.join("out.gguf");
    let options = ConvertOptions { outtype: Some(Type::F16), ..ConvertOptions::default() };
    let summary = convert(directory.path().to_str().unwrap(), out.as_ref(), &options).unwrap();
    assert!(summary.file_bytes > 70 * MIB);
    // A row of ffn_down, the longest, has 4 MiB; it is there as stored, as f32 and as f16.
    assert!(used() < 16 * MIB, "{} MiB", used() / MIB);
    let before = used();
    // The converted file with its end missing is refused before memory is taken for it.
    let file = FileOptions::new().write(true).open(&out).unwrap();
    file.set_len(summary.file_bytes - 64).unwrap();
    let read = OpenOptions { mmap: false, ..OpenOptions::default() };
    assert!(open(&out, &read).unwrap_err().to_string().contains("truncated"));
    file.write_all_at(&u64::MAX.to_le_bytes(), 8).unwrap();
    assert!(open(&out, &read).unwrap_err().to_string().contains("tensor count"));
    // So is a model of 100 million tokens with a norm of another size.
    let name = "model.embed_tokens.weight";
    let mut long = Model::gated("LlamaForCausalLM", 1);
    long.config["vocab_size"] = 100_000_000.into();
    long.tensors.remove(name);
    long.tensors.insert("model.norm.weight".into(), Tensor::f32(&[1], &[1.0]));
    let long = with_holes(&long, &[(name, [100_000_000, N_EMBD])]);
    assert!(open(long.path().to_str().unwrap(), &read).unwrap_err().to_string().contains("model.norm.weight"));
    assert!(used() - before < MIB, "{} KiB", (used() - before) / 1024);
}
