//! `quantize`: what it writes, what it says before, and what it refuses.

use crate::smidgen::{Ran, TALES, command, smidgen};
use smidgen_core::bytes::Endian;
use smidgen_core::gguf::Gguf;
use smidgen_core::quant::Type;
use smidgen_host::gguf_write::Header;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

/// A checkpoint of random weights: 64 columns and more, tied.
const LLAMA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/hf/llama-mqa-linear");

/// A directory for what a test writes.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Folder(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }
}

/// Writes a GGUF file of these F32 tensors, whose weights are a hole in the file: zeros that take no disk.
fn sparse(path: &Path, tensors: &[(&str, &[u64])]) -> u64 {
    let mut header = Header::new(Endian::Little);
    header.str("general.architecture", b"llama");
    header.u32("llama.block_count", 1);
    header.u32("llama.attention.head_count", 4);
    for (name, dims) in tensors {
        header.tensor(name.as_bytes(), dims, Type::F32).unwrap();
    }
    let mut file = File::create(path).unwrap();
    header.write(&mut file).unwrap();
    file.set_len(header.file_bytes()).unwrap();
    header.header_bytes()
}

/// The types of the tensors in the file at `path`, by name.
fn types(path: &str) -> Vec<(String, Type)> {
    let bytes = std::fs::read(path).unwrap();
    let gguf = Gguf::parse(&bytes, bytes.len() as u64).unwrap();
    gguf.tensors().map(|tensor| (String::from_utf8(tensor.name.to_vec()).unwrap(), tensor.kind)).collect()
}

#[test]
fn the_file_is_what_the_dry_run_said() {
    let folder = Folder::new();
    let out = folder.path("out.gguf");
    let flags = ["quantize", TALES, &out, "q5_0", "--requantize", "--json", "-c", "64"];
    let before = smidgen(&[&flags[..], &["--dry-run"]].concat()).json();
    assert!(!Path::new(&out).exists(), "a dry run writes nothing");
    let after = smidgen(&flags).json();
    assert_eq!(after["schema"], "smidgen.quantize/1");
    assert_eq!(after["bytes"], std::fs::metadata(&out).unwrap().len());
    for field in ["bytes", "n_weights", "bits_per_weight", "types", "memory", "llama_bytes"] {
        assert_eq!(before[field], after[field], "{field}");
    }
    let plan = smidgen(&["plan", &out, "--json", "-c", "64"]).json();
    assert_eq!(after["memory"]["bytes"], plan["total_bytes"], "the forecast is the plan");
    let errors: Vec<f64> =
        after["tensors"].as_array().unwrap().iter().map(|tensor| tensor["error"].as_f64().unwrap()).collect();
    assert!(errors.iter().all(|error| *error < 0.06) && errors.iter().any(|error| *error > 0.02), "{errors:?}");
    assert!(before["tensors"][0]["error"].is_null());
    smidgen(&["run", &out, "--ids", "1 2 3", "-n", "4", "--temp", "0"]).ok();
}

#[test]
fn the_bytes_are_the_same_for_any_number_of_threads() {
    let folder = Folder::new();
    let bytes = |threads: &str, kind: &str| {
        let out = folder.path(&format!("{kind}-{threads}.gguf"));
        smidgen(&["quantize", TALES, &out, kind, "--requantize", "-t", threads]).ok();
        std::fs::read(out).unwrap()
    };
    for kind in ["q4_0", "q5_1", "bf16"] {
        let alone = bytes("1", kind);
        for threads in ["2", "3", "7"] {
            assert!(bytes(threads, kind) == alone, "{kind} with {threads} threads");
        }
    }
}

#[test]
fn metadata_says_what_the_file_is() {
    let folder = Folder::new();
    let out = folder.path("out.gguf");
    smidgen(&["quantize", LLAMA, &out, "q4_1", "--fallback", "llama"]).ok();
    let metadata = smidgen(&["inspect", &out, "--json"]).json()["metadata"].clone();
    assert_eq!((&metadata["general.file_type"], &metadata["general.quantization_version"]), (&3.into(), &2.into()));
    // Quantized again, the file says what it has become.
    let again = folder.path("again.gguf");
    smidgen(&["quantize", &out, &again, "q8_0", "--requantize", "--fallback", "llama"]).ok();
    let metadata = smidgen(&["inspect", &again, "--json"]).json()["metadata"].clone();
    assert_eq!((&metadata["general.file_type"], &metadata["general.quantization_version"]), (&7.into(), &2.into()));
}

#[test]
fn flags_choose_types_tensor_by_tensor() {
    let folder = Folder::new();
    let out = folder.path("out.gguf");
    let flags = ["quantize", TALES, &out, "q4_0", "--requantize", "--embedding-type", "q5_0"];
    smidgen(&[&flags[..], &["--type", "ffn_.*=q5_1", "--type", "blk.0.ffn_down=f16"]].concat()).ok();
    for (name, kind) in types(&out) {
        let expected = match name.as_str() {
            "token_embd.weight" => Type::Q5_0,
            "blk.0.ffn_down.weight" => Type::F16,
            name if name.contains("norm") => Type::F32,
            name if name.contains("ffn_") => Type::Q5_1,
            _ => Type::Q4_0,
        };
        assert_eq!(kind, expected, "{name}");
    }
    smidgen(&["quantize", TALES, &out, "q4_0", "--requantize", "--pure"]).ok();
    assert!(types(&out).iter().all(|(name, kind)| name.contains("norm") == (*kind == Type::F32)));
}

#[test]
fn what_cannot_be_done_is_refused_with_a_way_out() {
    let folder = Folder::new();
    let out = folder.path("out.gguf");
    let wide = folder.path("wide.gguf");
    smidgen(&["convert", LLAMA, &wide, "--outtype", "f32"]).ok();
    for (flags, said) in [
        (&[&wide, "q4_k_m"][..], "--fallback any"),
        (&[&wide, "q4_k_m"], "--fallback llama (what llama.cpp takes without asking"),
        (&[&wide, "q4_k_m"], "blk.0.attn_q.weight ("),
        (&[&wide, "Q4KM"], "Q4_K_M"),
        (&[&wide, "q8_0", "--type", "attn_z=q8_0"], "matches no tensor"),
        (&[&wide, "q8_0", "--type", "attn_q=q9"], "no type 'q9'"),
        (&[&wide, "q8_0", "--type", "attn_norm=q8_0"], "keep their type"),
        (&[TALES, "q4_0"], "--requantize"),
    ] {
        let words = [&["quantize", flags[0], &out][..], &flags[1..]].concat();
        let refused = smidgen(&words);
        assert_eq!(refused.status, Some(2), "{flags:?}: {}", refused.stderr);
        assert!(refused.stderr.contains(said), "{flags:?}: {}", refused.stderr);
        assert_eq!(refused.stderr.lines().count(), 1, "{}", refused.stderr);
        assert!(!Path::new(&out).exists(), "{flags:?}");
    }
    let same = smidgen(&["quantize", &wide, &wide, "f16"]);
    assert_eq!(same.status, Some(2), "{}", same.stderr);
    assert_eq!(smidgen(&["quantize"]).status, Some(2));
    assert_eq!(smidgen(&["quantize", &wide, "q8_0"]).status, Some(2), "only a dry run needs no OUT");
}

#[test]
fn a_weight_that_is_not_finite_is_named() {
    let folder = Folder::new();
    let (path, out) = (folder.path("model.gguf"), folder.path("out.gguf"));
    let data_at = sparse(path.as_ref(), &[("blk.0.attn_q.weight", &[64, 64]), ("blk.0.attn_k.weight", &[64, 64])]);
    for (weight, said) in [(f32::NAN, "is NaN"), (f32::NEG_INFINITY, "is infinite"), (1e30, "too large for Q4_0")] {
        let mut file = OpenOptions::new().write(true).open(&path).unwrap();
        file.seek(SeekFrom::Start(data_at + 64 * 64 * 4 + 4000)).unwrap();
        file.write_all(&weight.to_le_bytes()).unwrap();
        let refused = smidgen(&["quantize", &path, &out, "q4_0"]);
        assert_eq!(refused.status, Some(2), "{}", refused.stderr);
        assert!(refused.stderr.contains("'blk.0.attn_k.weight', weight 1000: "), "{}", refused.stderr);
        assert!(refused.stderr.contains(said), "{}", refused.stderr);
        assert!(!Path::new(&out).exists());
    }
}

/// Runs `smidgen` with measurements kept in `cache`.
fn searching(cache: &str, args: &[&str]) -> Ran {
    let output = command(args).env("SMIDGEN_CACHE", cache).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { status: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

#[test]
fn types_are_chosen_to_a_size() {
    let folder = Folder::new();
    let (text, out, cache) = (folder.path("text"), folder.path("out.gguf"), folder.path("cache"));
    std::fs::write(&text, include_str!("../../../../CONTRIBUTING.md").repeat(2)).unwrap();
    let flags = ["quantize", LLAMA, &out, "-f", &text, "--json"];
    let report = searching(&cache, &[&flags[..], &["--bpw", "4.6"]].concat()).json();
    assert!(report["bits_per_weight"].as_f64().unwrap() <= 4.6, "{report}");
    assert!(report["bits_per_weight"].as_f64().unwrap() > 4.2, "the budget is used: {report}");
    assert_eq!(report["bytes"], std::fs::metadata(&out).unwrap().len());
    let search = &report["search"];
    assert_eq!(search["from_cache"], false);
    assert!(search["kl"].as_f64().unwrap() <= search["uniform"]["kl"].as_f64().unwrap(), "{search}");
    let parts = search["parts"].as_array().unwrap();
    let kinds: std::collections::BTreeSet<&str> = parts.iter().map(|part| part["type"].as_str().unwrap()).collect();
    assert!(kinds.len() > 1, "types differ from part to part: {kinds:?}");
    assert_eq!(parts.len(), types(&out).iter().filter(|(_, kind)| kind.is_any_width()).count());
    smidgen(&["run", &out, "--ids", "1 2 3", "-n", "4", "--temp", "0"]).ok();

    // Another size measures nothing but its result, and the same size gives the same file.
    let again = folder.path("again.gguf");
    let flags = ["quantize", LLAMA, &again, "-f", &text, "--json"];
    let smaller = searching(&cache, &[&flags[..], &["--bpw", "3.4"]].concat()).json();
    assert_eq!(smaller["search"]["from_cache"], true);
    assert!(smaller["bytes"].as_u64().unwrap() < report["bytes"].as_u64().unwrap());
    searching(&cache, &[&flags[..], &["--size", &report["bytes"].to_string()]].concat()).json();
    assert!(std::fs::read(&again).unwrap() == std::fs::read(&out).unwrap());

    // Memory counts what running takes beside the file.
    let total = smaller["memory"]["bytes"].as_u64().unwrap().to_string();
    let fitted = searching(&cache, &[&flags[..], &["--ram", &total]].concat()).json();
    assert!(fitted["memory"]["bytes"].as_u64().unwrap() <= smaller["memory"]["bytes"].as_u64().unwrap());

    let none = folder.path("none.gguf");
    for (flags, status) in
        [(&["--size", "1K"][..], 3), (&["--ram", "1K"], 3), (&["--size", "1G", "--among", "q4_k"], 2)]
    {
        let words = [&["quantize", LLAMA, &none, "-f", &text][..], flags].concat();
        let refused = searching(&cache, &words);
        assert_eq!(refused.status, Some(status), "{flags:?}: {}", refused.stderr);
        assert!(!Path::new(&none).exists());
    }
    assert_eq!(smidgen(&["quantize", LLAMA, &again, "--size", "1M"]).status, Some(2), "a search needs a text");
    std::fs::write(&text, "Too short.").unwrap();
    let refused = searching(&cache, &["quantize", LLAMA, &again, "-f", &text, "--size", "1M"]);
    assert!(refused.status == Some(2) && refused.stderr.contains("too few"), "{}", refused.stderr);
}

#[test]
fn few_bits_want_to_know_the_inputs() {
    let folder = Folder::new();
    let (text, out) = (folder.path("text"), folder.path("out.gguf"));
    std::fs::write(&text, include_str!("../../../../CONTRIBUTING.md").repeat(2)).unwrap();
    let blind = smidgen(&["quantize", LLAMA, &out, "q2_w"]);
    assert_eq!(blind.status, Some(2), "{}", blind.stderr);
    assert!(blind.stderr.contains(&format!("smidgen calibrate {LLAMA} -f TEXT -o imatrix.gguf")), "{}", blind.stderr);
    let forecast = smidgen(&["quantize", LLAMA, "q2_w", "--dry-run"]).ok();
    assert!(forecast.contains("would be made blindly"), "{forecast}");
    let errors = |flags: &[&str]| -> Vec<f64> {
        let words = [&["quantize", LLAMA, &out, "q4_w", "--json"], flags].concat();
        let report = smidgen(&words).json();
        report["tensors"].as_array().unwrap().iter().map(|tensor| tensor["error"].as_f64().unwrap()).collect()
    };
    // What is rounded for real inputs has larger errors in the weights themselves, or it was rounded for nothing.
    let (unaware, aware) = (errors(&[]), errors(&["-f", &text]));
    assert!(aware.iter().sum::<f64>() > unaware.iter().sum::<f64>(), "{aware:?} {unaware:?}");
    let metadata = smidgen(&["inspect", &out, "--json"]).json()["metadata"].clone();
    assert_eq!(metadata["quantize.imatrix.dataset"], text);
    smidgen(&["quantize", LLAMA, &out, "q2_w", "-f", &text]).ok();

    // What a refusal tells people to do, done.
    let imatrix = folder.path("imatrix.gguf");
    smidgen(&["calibrate", LLAMA, "-f", &text, "-o", &imatrix]).ok();
    smidgen(&["quantize", LLAMA, &out, "q2_w", "--imatrix", &imatrix]).ok();
    let metadata = smidgen(&["inspect", &out, "--json"]).json()["metadata"].clone();
    assert_eq!(metadata["quantize.imatrix.file"], imatrix);
    assert!(metadata["quantize.imatrix.entries_count"].as_u64().unwrap() > 0, "{metadata}");
    let foreign = smidgen(&["quantize", TALES, &out, "q2_w", "--requantize", "--imatrix", &imatrix]);
    assert_eq!(foreign.status, Some(2), "an imatrix of another model: {}", foreign.stderr);
}

#[cfg(target_os = "linux")]
#[test]
fn memory_is_bounded_by_the_largest_tensor_whatever_the_model_takes() {
    let folder = Folder::new();
    let (path, out) = (folder.path("model.gguf"), folder.path("out.gguf"));
    let names: Vec<String> = (0..12).map(|layer| format!("blk.{layer}.ffn_up.weight")).collect();
    let dims = [1024, 4096];
    let tensors: Vec<(&str, &[u64])> = names.iter().map(|name| (name.as_str(), &dims[..])).collect();
    sparse(path.as_ref(), &tensors);
    let model_bytes = std::fs::metadata(&path).unwrap().len();
    assert!(model_bytes > 192 * MIB);
    let report = smidgen(&["quantize", &path, &out, "q4_0", "--json"]).json();
    let peak = report["peak_bytes"].as_u64().unwrap();
    println!("peak {} KiB for a model of {} KiB", peak / 1024, model_bytes / 1024);
    assert!(peak <= 16 * MIB + 64 * MIB, "{} MiB", peak / MIB);
    assert!(PathBuf::from(out).exists());
}
