//! `calibrate`: llama.cpp's sums, moments that agree with them, memory that suffices, and work that is not lost.

use crate::smidgen::{Ran, TALES, command, smidgen};
use smidgen_compress::calibration::{COUNTS, Calibration, SUMS};
use smidgen_core::gguf::Gguf;
use std::path::Path;

const TESTDATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata");

/// Calibrates the model on the story in chunks of 64 tokens.
fn calibrate(model: &str, output: &Path, args: &[&str]) -> Ran {
    let story = format!("{TESTDATA}/eval/story.txt");
    let output = output.to_str().unwrap();
    smidgen(&[&["calibrate", model, "-f", &story, "-c", "64", "-o", output], args].concat())
}

fn floats(gguf: &Gguf<'_>, name: &str) -> Vec<f32> {
    let tensor = gguf.tensor(&[name]).unwrap_or_else(|| panic!("no tensor {name}"));
    gguf.data(&tensor).unwrap().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

/// The golden file is what llama.cpp's own graph summed (`tools/llama_cpp_imatrix.py --golden`).
#[test]
fn the_sums_are_llama_cpps() {
    let golden = std::fs::read(format!("{TESTDATA}/eval/imatrix-gpt2-untied-odd.gguf")).unwrap();
    let golden = Gguf::parse(&golden, golden.len() as u64).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("imatrix.gguf");
    calibrate(&format!("{TESTDATA}/hf/gpt2-untied-odd"), &path, &["--chunks", "8"]).ok();
    let ours = std::fs::read(&path).unwrap();
    let ours = Gguf::parse(&ours, ours.len() as u64).unwrap();
    assert_eq!(ours.n_tensors(), golden.n_tensors());
    for key in ["general.type", "imatrix.chunk_count", "imatrix.chunk_size"] {
        let shown = |gguf: &Gguf<'_>| format!("{:?}", gguf.get(key).unwrap());
        assert_eq!(shown(&ours), shown(&golden));
    }
    for tensor in golden.tensors() {
        let name = std::str::from_utf8(tensor.name).unwrap();
        let (ours, golden) = (floats(&ours, name), floats(&golden, name));
        assert_eq!(ours.len(), golden.len(), "{name}");
        for (ours, golden) in ours.iter().zip(&golden) {
            assert!((ours / golden - 1.0).abs() < 1e-3, "{name}: {ours}, not {golden}");
        }
    }
}

#[test]
fn moments_agree_with_importance_and_belong_to_every_matrix() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("imatrix.gguf");
    let report = calibrate(TALES, &path, &["--hessian", "--json"]).json();
    assert_eq!((report["n_matrices"].as_u64(), report["n_moments"].as_u64()), (Some(6 * 7 + 1), Some(6 * 4 + 1)));
    assert_eq!(report["bytes"].as_u64(), Some(std::fs::metadata(&path).unwrap().len()));
    let (bytes, model) = (std::fs::read(&path).unwrap(), std::fs::read(TALES).unwrap());
    let calibration = Calibration::read(&bytes).unwrap();
    calibration.check(&Gguf::parse(&model, model.len() as u64).unwrap()).unwrap();
    assert_eq!((calibration.n_chunks, calibration.chunk_tokens), (9, 64));
    assert_eq!(calibration.names().count(), 43);
    for name in calibration.names() {
        let importance = calibration.importance(name).unwrap();
        let moment = calibration.moment(name).unwrap();
        let (n, square) = (moment.columns(), moment.square());
        for (i, importance) in importance.iter().enumerate() {
            assert!((square[i * n + i] / importance - 1.0).abs() < 1e-6, "{name}, column {i}");
            // No two columns go together more closely than each with itself (Cauchy and Schwarz).
            let within = |j: usize| square[i * n + j].powi(2) <= square[i * n + i] * square[j * n + j] * 1.0001;
            assert!((0..n).all(within), "{name}, column {i}");
        }
    }
}

#[test]
fn batches_threads_and_passes_change_no_byte() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, args: &[&str]| {
        let path = directory.path().join(name);
        let report = calibrate(TALES, &path, &[&["--hessian", "--chunks", "6", "--json"], args].concat()).json();
        (std::fs::read(path).unwrap(), report)
    };
    let (want, report) = file("one", &[]);
    assert_eq!(report["passes"], 1);
    let planned = report["planned_bytes"].as_u64().unwrap();
    assert!(file("batch", &["-b", "7"]).0 == want);
    assert!(file("threads", &["-t", "2"]).0 == want);
    // The process takes 1.5 MiB beside what is planned, so that much is missing for one pass.
    let ram = planned.to_string();
    let (several, report) = file("passes", &["--ram", &ram]);
    assert!(report["passes"].as_u64().unwrap() > 1 && several == want, "{report}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 4, "no checkpoint is left");
    let path = directory.path().join("none");
    let ran = calibrate(TALES, &path, &["--hessian", "--ram", "2M"]);
    assert!(ran.status == Some(3) && !path.exists(), "{}", ran.stderr);
}

/// Starts a calibration, stops it by Ctrl-C, and lets the same command go on.
#[cfg(unix)]
#[test]
fn what_ctrl_c_stopped_goes_on_and_gives_the_same_file() {
    let directory = tempfile::tempdir().unwrap();
    let text = directory.path().join("long.txt");
    let story = std::fs::read_to_string(format!("{TESTDATA}/eval/story.txt")).unwrap();
    std::fs::write(&text, story.repeat(6)).unwrap();
    let run = |output: &Path| {
        let flags = ["-f", text.to_str().unwrap(), "-c", "64", "--hessian", "-o", output.to_str().unwrap(), "--json"];
        command(&[&["calibrate", TALES], &flags[..]].concat())
    };
    let (stopped, whole) = (directory.path().join("stopped"), directory.path().join("whole"));
    // On a busy machine it may take long until the first chunk is done, and Ctrl-C means nothing special before.
    let checkpoint = directory.path().join("stopped.pass1.part");
    let was_stopped = [300, 1000, 3000, 9000].into_iter().any(|delay_ms| {
        let child = run(&stopped).stderr(std::process::Stdio::piped()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(delay_ms));
        let kill = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
        let ended = child.wait_with_output().unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        kill.success() && ended.status.code() == Some(130) && said.contains("goes on") && !said.contains(" 0 of ")
    });
    assert!(was_stopped && checkpoint.exists() && !stopped.exists());

    // A checkpoint of something else is not used: this one is cut short.
    let kept = std::fs::read(&checkpoint).unwrap();
    std::fs::write(directory.path().join("whole.pass1.part"), &kept[..kept.len() / 2]).unwrap();
    let report = |output: &Path| -> serde_json::Value {
        let output = run(output).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let (went_on, anew) = (report(&stopped), report(&whole));
    assert!(went_on["resumed_chunks"].as_u64().unwrap() > 0, "{went_on}");
    assert_eq!(anew["resumed_chunks"], 0);
    assert!(std::fs::read(&stopped).unwrap() == std::fs::read(&whole).unwrap());
    assert!(!checkpoint.exists());
}

#[test]
fn what_cannot_be_calibrated_is_refused_before_the_work() {
    let directory = tempfile::tempdir().unwrap();
    let output = directory.path().join("imatrix.gguf");
    let refused = |args: &[&str], said: &str| {
        let ran = calibrate(TALES, &output, args);
        assert_eq!(ran.status, Some(2), "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(said) && ran.stderr.lines().count() == 1, "{args:?}: {}", ran.stderr);
        assert!(!output.exists());
    };
    refused(&["--hessian", "--chunks", "5"], "320 tokens are read, but second moments of 384 columns");
    refused(&["--json", "-m", TALES], "--model");
    let ran =
        smidgen(&["calibrate", TALES, "-f", &format!("{TESTDATA}/eval/story.txt"), "-o", output.to_str().unwrap()]);
    assert!(ran.status == Some(2) && ran.stderr.contains("but 1024 are needed"), "{}", ran.stderr);
    let ran = calibrate(TALES, directory.path(), &[]);
    assert!(ran.status == Some(2) && ran.stderr.contains("is a directory"), "{}", ran.stderr);
    let ran = calibrate(TALES, &directory.path().join("none/imatrix"), &[]);
    assert!(ran.status == Some(2) && ran.stderr.contains("there is no directory"), "{}", ran.stderr);
    let without = smidgen(&["calibrate", TALES, "-f", TALES]);
    assert!(without.status == Some(2) && without.stderr.contains("--output"), "{}", without.stderr);
}

#[test]
fn every_matrix_has_sums_and_counts() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("imatrix.gguf");
    calibrate(TALES, &path, &["--chunks", "2"]).ok();
    let bytes = std::fs::read(&path).unwrap();
    let gguf = Gguf::parse(&bytes, bytes.len() as u64).unwrap();
    assert_eq!(floats(&gguf, &format!("blk.5.ffn_down.weight{COUNTS}")), [128.0]);
    assert_eq!(floats(&gguf, &format!("blk.5.ffn_down.weight{SUMS}")).len(), 384);
    assert!(gguf.tensor(&["token_embd.weight", SUMS]).is_some(), "the embedding is the output matrix of this model");
    assert_eq!(gguf.n_tensors(), 2 * 43);
}
