//! Models of every architecture, through the command, against what `transformers` computed for them.

use crate::smidgen::{shared, smidgen};
use std::path::{Path, PathBuf};

/// How far a logit may lie from the oracle's.
const TOLERANCE: f32 = 2e-4;

/// What `golden.safetensors` holds.
struct Golden {
    input_ids: Vec<u64>,
    /// (tokens, n_vocab).
    logits: Vec<f32>,
    /// The prompt and what greedy decoding makes of it.
    greedy_ids: Vec<u64>,
}

impl Golden {
    fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let (len, rest) = bytes.split_at(8);
        let (header, data) = rest.split_at(u64::from_le_bytes(len.try_into().unwrap()) as usize);
        let header: serde_json::Value = serde_json::from_slice(header).unwrap();
        let tensor = |name: &str| {
            let offset = |index: usize| header[name]["data_offsets"][index].as_u64().unwrap() as usize;
            (header[name]["dtype"].as_str().unwrap().to_owned(), &data[offset(0)..offset(1)])
        };
        let ids = |name: &str| match tensor(name) {
            (kind, data) if kind == "I64" => {
                data.chunks_exact(8).map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap())).collect()
            }
            (_, data) => {
                data.chunks_exact(4).map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap()).into()).collect()
            }
        };
        let (kind, logits) = tensor("logits");
        assert_eq!(kind, "F32");
        let logits = logits.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
        Self { input_ids: ids("input_ids"), logits, greedy_ids: ids("greedy_ids") }
    }
}

fn check(directory: &Path) {
    let name = directory.display();
    let golden = Golden::read(&directory.join("golden.safetensors"));
    let outputs = tempfile::tempdir().unwrap();
    let npy = outputs.path().join("logits.npy");
    let prompt: Vec<String> = golden.input_ids.iter().map(u64::to_string).collect();
    let n_new = (golden.greedy_ids.len() - golden.input_ids.len()).to_string();
    let report = smidgen(&[
        "run",
        directory.to_str().unwrap(),
        "--ids",
        &prompt.join(" "),
        "--temp",
        "0",
        "--ignore-eos",
        "--json",
        "-n",
        &n_new,
        "--logits",
        npy.to_str().unwrap(),
    ])
    .json();
    let ids = |key: &str| report[key].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect::<Vec<_>>();
    assert_eq!([ids("prompt_ids"), ids("ids")].concat(), golden.greedy_ids, "{name}");
    let npy = std::fs::read(npy).unwrap();
    let logits = npy[128..].chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
    assert_eq!(logits.len(), golden.logits.len(), "{name}");
    let worst = logits.zip(&golden.logits).map(|(ours, theirs)| (ours - theirs).abs()).fold(0.0, f32::max);
    assert!(worst <= TOLERANCE, "{name}: a logit is {worst} from the oracle's");
}

/// The models in the directories under `root`.
fn models(root: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.join("golden.safetensors").exists()).collect()
}

#[test]
fn every_golden_model_of_the_repository_is_run_as_transformers_runs_it() {
    let models = models(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/hf")));
    assert!(models.len() >= 10, "{models:?}");
    models.iter().for_each(|directory| check(directory));
}

#[test]
fn every_golden_model_of_the_shared_data_is_run_as_transformers_runs_it() {
    let Some(root) = shared("hf") else { return };
    models(&root).iter().for_each(|directory| check(directory));
}
