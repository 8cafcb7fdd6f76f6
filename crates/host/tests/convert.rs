//! Models of the shared data, converted and opened.

use std::path::{Path, PathBuf};

use smidgen_host::{ConvertOptions, OpenOptions, convert, open};

fn shared(name: &str) -> Option<PathBuf> {
    let root = std::env::var_os("SMIDGEN_DATA").map(PathBuf::from);
    let root = root.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"));
    let path = root.join(name);
    path.exists().then_some(path)
}

#[test]
fn smoke() {
    for name in [
        "hf/llama-gqa",
        "hf/gpt2",
        "hf/gpt-neo",
        "hf/qwen2",
        "hf/qwen3",
        "hf/gemma3",
        "hf/tales-3m",
        "llama2c/stories260K.bin",
        "llama2c/stories260K_v1.bin",
        "llama2c/babyllama.bin",
        "gguf/stories260K-v1-f32.gguf",
    ] {
        let path = shared(name).unwrap();
        let out = std::env::temp_dir().join(format!("smoke-{}.gguf", name.replace('/', "-")));
        let summary = convert(path.to_str().unwrap(), &out, &ConvertOptions::default()).unwrap();
        println!("{name} {summary:?}");
        let file = open(out.to_str().unwrap(), &OpenOptions::default()).unwrap();
        let direct = open(path.to_str().unwrap(), &OpenOptions::default()).unwrap();
        println!("{} {} {}", file.bytes().len(), direct.is_mapped(), file.bytes() == direct.bytes());
    }
}
