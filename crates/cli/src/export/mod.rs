//! Models as programs: sources in C or Rust that hold one model and everything that runs it.

mod boards;
pub mod c;
pub mod firmware;

use crate::args::EngineArgs;
use crate::failure::Failure;
use crate::load::host_failure;
use crate::source::Source;
use smidgen_core::gguf::Gguf;
use smidgen_core::plan::Limits;
use smidgen_core::quant::Type;
use std::path::Path;

/// The sizes of an exported program's buffers: tokens come one by one, to one thread, in a context of 64 unless another is asked for.
fn limits(args: &EngineArgs) -> Limits {
    let context_tokens = args.context.filter(|&n| n > 0).unwrap_or(64);
    Limits { context_tokens, batch_tokens: 1, n_threads: 1, cache_k: args.ctk, cache_v: args.ctv, keeps_all: false }
}

/// The folder `path`, made here; files of the same names in a folder that is there are written over, others left alone.
fn make_folder(path: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(path).map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))
}

/// Writes a file whole or not at all.
fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    smidgen_host::atomic::write(path, |file| {
        file.write_all(bytes).map_err(|error| smidgen_host::Error::failed(path, error))
    })
    .map_err(host_failure)
}

/// The types of a file's tensors, each once, in the order of their names.
fn types(gguf: &Gguf<'_>) -> Vec<Type> {
    let mut types: Vec<Type> = Vec::new();
    for tensor in gguf.tensors() {
        if !types.contains(&tensor.kind) {
            types.push(tensor.kind);
        }
    }
    types.sort_by_key(|kind| kind.name());
    types
}

/// `text` as a string literal that C and Rust read alike: ASCII, and nothing that either takes for something else.
fn literal(text: &str) -> String {
    let mut out = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' | '\\' => out.extend(['\\', letter]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            letter => out.push(letter),
        }
    }
    out.push('"');
    out
}

/// The name of the model without its folder, for a comment.
fn file_name(source: &Source) -> String {
    let name = Path::new(&source.name).file_name().map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| source.name.clone()).replace("*/", "")
}
