//! `eval`: llama.cpp's perplexities, damage where there is some and none where there is none, targets, and refusals.

use crate::smidgen::{Ran, TALES, shared, smidgen};
use std::path::Path;

/// A text of about 600 tokens.
const STORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/eval/story.txt");

fn checkpoint(name: &str) -> String {
    format!("{}/../../testdata/hf/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Runs `eval` on the story in chunks of 64 tokens.
fn eval(args: &[&str]) -> Ran {
    smidgen(&[&["eval", "-f", STORY, "-c", "64"], args].concat())
}

fn figures(args: &[&str]) -> serde_json::Value {
    eval(&[args, &["--json"]].concat()).json()
}

/// The figures are those of `tools/llama_cpp_perplexity.py --golden -c 64`. llama.cpp rounds GELU to half floats and the
/// activations of the Q8_0 model in another order.
#[test]
fn perplexity_is_llama_cpps() {
    let (odd, qwen) = (checkpoint("gpt2-untied-odd"), checkpoint("qwen2-tied"));
    for (model, perplexity, error) in
        [(TALES, 44.39998, 7.499734), (&odd, 6813.547, 622.6094), (&qwen, 5091.856, 446.4403)]
    {
        let report = figures(&[model]);
        for (name, want) in [("perplexity", perplexity), ("perplexity_error", error)] {
            let got = report[name].as_f64().unwrap();
            assert!((got / want - 1.0).abs() < 0.005, "{model}: {name} is {got}, not {want}");
        }
        assert_eq!(report["tokens"].as_u64().unwrap(), 31 * report["chunks"].as_u64().unwrap());
        assert!(report["kl_mean"].is_null() && report["base_perplexity"].is_null());
    }
}

#[test]
fn figures_do_not_depend_on_batches_threads_or_kernels() {
    let want = figures(&["--chunks", "2"]);
    for flags in [["-b", "1"], ["-b", "7"], ["-t", "2"], ["--isa", "scalar"]] {
        let got = figures(&[&["--chunks", "2"], &flags[..]].concat());
        assert_eq!(got["perplexity"], want["perplexity"], "{flags:?}");
    }
    let against = |batch| figures(&["--chunks", "2", "--against", TALES, "--ctk", "q8_0", "-b", batch]);
    assert_eq!(against("5")["kl_mean"], against("64")["kl_mean"]);
}

#[test]
fn a_model_against_itself_loses_nothing() {
    let report = figures(&[TALES, "--against", TALES]);
    for name in ["kl_mean", "kl_p50", "kl_p90", "kl_p99", "kl_max"] {
        assert_eq!(report[name], 0.0, "{name}");
    }
    assert_eq!(report["same_top"], 1.0);
    assert_eq!(report["perplexity"], report["base_perplexity"]);
    assert_eq!(report["perplexity"], figures(&[TALES])["perplexity"]);
    assert_eq!(report["model_bytes"].as_u64(), Some(std::fs::metadata(TALES).unwrap().len()));
}

#[test]
fn rounding_weights_or_the_cache_costs_a_little_and_is_measured() {
    let odd = checkpoint("llama-untied-odd");
    let rounded = figures(&[&odd, "--outtype", "f16", "--against", &odd]);
    let kl = |report: &serde_json::Value, name: &str| report[name].as_f64().unwrap();
    assert!(kl(&rounded, "kl_mean") > 0.0 && kl(&rounded, "kl_mean") < 1e-4, "{rounded}");
    assert!(kl(&rounded, "bits_per_weight") < kl(&rounded, "base_bits_per_weight"));

    let cache = figures(&[TALES, "--against", TALES, "--ctk", "q8_0", "--ctv", "q8_0"]);
    let quantiles = ["kl_p50", "kl_p90", "kl_p99", "kl_max"].map(|name| kl(&cache, name));
    assert!(quantiles.is_sorted() && quantiles[0] > 0.0, "{cache}");
    assert!(kl(&cache, "kl_mean") > 1e-6 && kl(&cache, "kl_mean") < 0.01, "{cache}");
    assert!(kl(&cache, "same_top") < 1.0 && kl(&cache, "same_top") > 0.9, "{cache}");
}

#[test]
fn q8_0_costs_stories260k_what_it_should() {
    let Some(model) = shared("gguf/stories260K-v1-f32.gguf") else { return };
    let model = model.to_str().unwrap();
    let report = figures(&[model, "--outtype", "q8_0", "--fallback", "f16", "--against", model]);
    let kl = report["kl_mean"].as_f64().unwrap();
    assert!(kl > 1e-5 && kl < 2e-3, "{report}");
}

#[test]
fn a_missed_target_exits_4_after_the_report() {
    let kept = eval(&["--against", TALES, "--max-kl", "0", "--max-kl-p99", "0", "--max-ppl-ratio", "1"]);
    assert_eq!((kept.status, kept.stderr.as_str()), (Some(0), ""));
    let q8 = ["--against", TALES, "--ctk", "q8_0", "--ctv", "q8_0"];
    let ran = eval(&[&q8[..], &["--max-kl", "1e-9", "--max-kl-p99", "1", "--json"]].concat());
    assert_eq!(ran.status, Some(4), "{}", ran.stderr);
    assert!(ran.stderr.contains("kl_mean is") && ran.stderr.contains("--max-kl 0.000000001"), "{}", ran.stderr);
    assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(report["missed"].as_array().unwrap().len(), 1);
    let ran = eval(&[&q8[..], &["--max-ppl-ratio", "0.5"]].concat());
    assert_eq!(ran.status, Some(4));
    assert!(ran.stdout.contains("same top token") && ran.stderr.contains("--max-ppl-ratio"), "{}", ran.stderr);
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let refused = |args: &[&str], status: i32, said: &str| {
        let ran = smidgen(&[&["eval"], args].concat());
        assert_eq!(ran.status, Some(status), "{args:?}: {}", ran.stderr);
        assert_eq!(ran.stdout, "", "{args:?}");
        assert!(ran.stderr.contains(said) && ran.stderr.lines().count() == 1, "{args:?}: {}", ran.stderr);
    };
    let qwen = checkpoint("qwen2-tied");
    refused(&[], 2, "--file");
    refused(&["-f", STORY], 2, "but 1024 are needed (2 chunks of 512); give a longer text or a smaller -c");
    refused(&["-f", STORY, "-c", "2"], 2, "at least 3");
    refused(&["-f", STORY, "-c", "513"], 2, "more than the 512 positions");
    refused(&["-f", STORY, "--chunks", "0"], 2, "at least 1");
    refused(&["-f", "/no/such/text"], 2, "no such file");
    refused(&["/no/such/model", "-f", STORY], 2, "/no/such/model");
    refused(&["-f", STORY, "-c", "64", "--against", "/no/such/model"], 2, "/no/such/model");
    refused(&["-f", STORY, "-c", "64", "--against", STORY], 2, "story.txt");
    refused(&["-f", STORY, "-c", "64", "--against", &qwen], 2, "another vocabulary");
    refused(&["-f", STORY, "-c", "64", "--max-kl", "0.1"], 2, "--against");
    refused(&["-f", STORY, "-c", "64", "--ram", "2M"], 3, "more than --ram 2.00 MiB");
    let directory = tempfile::tempdir().unwrap();
    let noise = directory.path().join("noise.txt");
    std::fs::write(&noise, b"once \xff").unwrap();
    refused(&["-f", noise.to_str().unwrap()], 2, "not valid UTF-8 at byte 5");
}

/// Both models count: what suffices for one does not for two.
#[test]
fn the_budget_is_that_of_both_models() {
    let planned = |args: &[&str]| figures(&[args, &["--chunks", "1"]].concat())["planned_bytes"].as_u64().unwrap();
    let (one, two) = (planned(&[]), planned(&["--against", TALES]));
    assert!(two > one + std::fs::metadata(TALES).unwrap().len());
    // The least that one needs, to 64 KiB; of two, at least the buffers come twice.
    let (mut low, mut high) = (0, one + (2 << 20));
    while high - low > 64 << 10 {
        let middle = low + (high - low) / 2;
        let fits = eval(&["--chunks", "1", "--ram", &middle.to_string()]).status == Some(0);
        (low, high) = if fits { (low, middle) } else { (middle, high) };
    }
    let ram = high.to_string();
    assert_eq!(eval(&["--chunks", "1", "--ram", &ram]).status, Some(0));
    assert_eq!(eval(&["--chunks", "1", "--ram", &ram, "--against", TALES]).status, Some(3));
}

#[test]
fn a_weight_that_is_no_number_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("broken.gguf");
    break_a_weight(&path);
    let path = path.to_str().unwrap();
    for args in [&[path][..], &[TALES, "--against", path]] {
        let ran = eval(args);
        assert_eq!(ran.status, Some(2));
        assert!(ran.stderr.contains("broken.gguf: tensor 'blk.3.ffn_down.weight'"), "{}", ran.stderr);
    }
}

/// Writes the embedded model with a NaN among its weights.
fn break_a_weight(path: &Path) {
    let mut bytes = std::fs::read(TALES).unwrap();
    let gguf = smidgen_core::gguf::Gguf::parse(&bytes, bytes.len() as u64).unwrap();
    let at = gguf.tensor(&["blk.3.ffn_down.weight"]).unwrap().offset as usize;
    bytes[at..at + 2].copy_from_slice(&0x7e00u16.to_le_bytes());
    std::fs::write(path, bytes).unwrap();
}
