//! Tiny models that tests write, with weights that say where they came from.
#![allow(dead_code)] // Each test uses a part.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

/// A directory that goes away with its value.
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("smidgen-host-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Directory(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The path of `name` in it, as text.
    pub(crate) fn join(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_string()
    }

    /// Writes a file in it.
    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A file of the shared data, when it is there; says so when it is not.
pub(crate) fn shared(name: &str) -> Option<PathBuf> {
    let root = std::env::var_os("SMIDGEN_DATA").map(PathBuf::from);
    let root = root.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"));
    let path = root.join(name);
    if !path.exists() {
        eprintln!("skipped: {name}, no shared data");
        return None;
    }
    Some(path)
}

/// A tensor to be written.
#[derive(Clone)]
pub(crate) struct Tensor {
    pub(crate) dtype: &'static str,
    pub(crate) shape: Vec<u64>,
    pub(crate) bytes: Vec<u8>,
}

impl Tensor {
    pub(crate) fn f32(shape: &[u64], values: &[f32]) -> Self {
        Tensor {
            dtype: "F32",
            shape: shape.to_vec(),
            bytes: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        }
    }

    pub(crate) fn floats(&self) -> Vec<f32> {
        assert_eq!(self.dtype, "F32");
        self.bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
    }
}

/// The bytes of a safetensors file.
pub(crate) fn safetensors<'a>(tensors: impl IntoIterator<Item = (&'a String, &'a Tensor)>) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut data: Vec<u8> = Vec::new();
    for (name, tensor) in tensors {
        let begin = data.len();
        data.extend(&tensor.bytes);
        let entry = json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [begin, data.len()]});
        header.insert(name.clone(), entry);
    }
    header.insert("__metadata__".into(), json!({"format": "pt"}));
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(data);
    file
}

/// A Hugging Face model to be written.
#[derive(Clone)]
pub(crate) struct Model {
    pub(crate) config: Value,
    pub(crate) tokenizer: Value,
    pub(crate) settings: Value,
    pub(crate) tensors: BTreeMap<String, Tensor>,
}

pub(crate) const N_LAYERS: u64 = 2;
pub(crate) const N_EMBD: u64 = 12;
pub(crate) const N_FF: u64 = 20;
pub(crate) const N_HEADS: u64 = 3;
pub(crate) const HEAD_DIM: u64 = 6;
pub(crate) const N_VOCAB: u64 = 14;
pub(crate) const N_POSITIONS: u64 = 16;

impl Model {
    fn new(config: Value) -> Self {
        let settings = json!({"eos_token": "<|end|>"});
        Model { config, tokenizer: byte_level_tokenizer(), settings, tensors: BTreeMap::new() }
    }

    /// Adds a tensor whose every weight is another small number.
    fn tensor(&mut self, name: &str, shape: &[u64]) {
        let n: u64 = shape.iter().product();
        let base = self.tensors.len() as f32;
        let values: Vec<f32> = (0..n).map(|index| base - 30.0 + index as f32 / 512.0).collect();
        self.tensors.insert(name.to_string(), Tensor::f32(shape, &values));
    }

    /// A model whose layers have gates and rotary positions, with query heads of `HEAD_DIM` and `n_kv_heads` for keys.
    pub(crate) fn gated(class: &str, n_kv_heads: u64) -> Self {
        let mut model = Model::new(json!({
            "architectures": [class], "hidden_size": N_EMBD, "intermediate_size": N_FF, "num_hidden_layers": N_LAYERS,
            "num_attention_heads": N_HEADS, "num_key_value_heads": n_kv_heads, "head_dim": HEAD_DIM,
            "vocab_size": N_VOCAB, "max_position_embeddings": N_POSITIONS, "rms_norm_eps": 1e-5, "rope_theta": 5000.0,
            "tie_word_embeddings": true, "eos_token_id": 0,
        }));
        let (q, kv) = (N_HEADS * HEAD_DIM, n_kv_heads * HEAD_DIM);
        model.tensor("model.embed_tokens.weight", &[N_VOCAB, N_EMBD]);
        model.tensor("model.norm.weight", &[N_EMBD]);
        for layer in 0..N_LAYERS {
            for (name, shape) in [
                ("input_layernorm.weight", vec![N_EMBD]),
                ("post_attention_layernorm.weight", vec![N_EMBD]),
                ("self_attn.q_proj.weight", vec![q, N_EMBD]),
                ("self_attn.k_proj.weight", vec![kv, N_EMBD]),
                ("self_attn.v_proj.weight", vec![kv, N_EMBD]),
                ("self_attn.o_proj.weight", vec![N_EMBD, q]),
                ("mlp.gate_proj.weight", vec![N_FF, N_EMBD]),
                ("mlp.up_proj.weight", vec![N_FF, N_EMBD]),
                ("mlp.down_proj.weight", vec![N_EMBD, N_FF]),
            ] {
                model.tensor(&format!("model.layers.{layer}.{name}"), &shape);
            }
            let mut extra = Vec::new();
            if class == "Qwen2ForCausalLM" {
                extra.extend([
                    ("self_attn.q_proj.bias", q),
                    ("self_attn.k_proj.bias", kv),
                    ("self_attn.v_proj.bias", kv),
                ]);
            }
            if class != "Qwen2ForCausalLM" && class != "LlamaForCausalLM" && class != "MistralForCausalLM" {
                extra.extend([("self_attn.q_norm.weight", HEAD_DIM), ("self_attn.k_norm.weight", HEAD_DIM)]);
            }
            if class == "Gemma3ForCausalLM" {
                extra.extend([
                    ("pre_feedforward_layernorm.weight", N_EMBD),
                    ("post_feedforward_layernorm.weight", N_EMBD),
                ]);
            }
            for (name, n) in extra {
                model.tensor(&format!("model.layers.{layer}.{name}"), &[n]);
            }
        }
        model
    }

    /// A GPT-2, or with other names a GPT-Neo.
    pub(crate) fn gpt(class: &str) -> Self {
        let is_neo = class == "GPTNeoForCausalLM";
        let mut model = Model::new(match is_neo {
            false => json!({
                "architectures": [class], "n_embd": N_EMBD, "n_layer": N_LAYERS, "n_head": N_HEADS, "n_inner": N_FF,
                "n_positions": N_POSITIONS, "vocab_size": N_VOCAB, "activation_function": "gelu_new",
            }),
            true => json!({
                "architectures": [class], "hidden_size": N_EMBD, "num_layers": N_LAYERS, "num_heads": N_HEADS,
                "intermediate_size": N_FF, "max_position_embeddings": N_POSITIONS, "vocab_size": N_VOCAB,
                "activation_function": "gelu_new", "attention_types": [[["global", "local"], 1]], "window_size": 5,
            }),
        });
        model.tensor("transformer.wte.weight", &[N_VOCAB, N_EMBD]);
        model.tensor("transformer.wpe.weight", &[N_POSITIONS, N_EMBD]);
        for name in ["ln_f.weight", "ln_f.bias"] {
            model.tensor(&format!("transformer.{name}"), &[N_EMBD]);
        }
        for layer in 0..N_LAYERS {
            let mut of_layer = vec![("mlp.c_fc.bias", vec![N_FF]), ("mlp.c_proj.bias", vec![N_EMBD])];
            for name in ["ln_1.weight", "ln_1.bias", "ln_2.weight", "ln_2.bias"] {
                of_layer.push((name, vec![N_EMBD]));
            }
            if is_neo {
                for name in ["q_proj", "k_proj", "v_proj", "out_proj"] {
                    model.tensor(&format!("transformer.h.{layer}.attn.attention.{name}.weight"), &[N_EMBD, N_EMBD]);
                }
                of_layer.push(("attn.attention.out_proj.bias", vec![N_EMBD]));
                of_layer.push(("mlp.c_fc.weight", vec![N_FF, N_EMBD]));
                of_layer.push(("mlp.c_proj.weight", vec![N_EMBD, N_FF]));
            } else {
                of_layer.push(("attn.c_attn.weight", vec![N_EMBD, 3 * N_EMBD]));
                of_layer.push(("attn.c_attn.bias", vec![3 * N_EMBD]));
                of_layer.push(("attn.c_proj.weight", vec![N_EMBD, N_EMBD]));
                of_layer.push(("attn.c_proj.bias", vec![N_EMBD]));
                of_layer.push(("mlp.c_fc.weight", vec![N_EMBD, N_FF]));
                of_layer.push(("mlp.c_proj.weight", vec![N_FF, N_EMBD]));
            }
            for (name, shape) in of_layer {
                model.tensor(&format!("transformer.h.{layer}.{name}"), &shape);
            }
        }
        model
    }

    /// A model of each class that can be imported.
    pub(crate) fn all() -> Vec<Self> {
        let mut gemma = Model::gated("Gemma3ForCausalLM", 1);
        gemma.config["layer_types"] = json!(["sliding_attention", "full_attention"]);
        gemma.config["sliding_window"] = json!(7);
        gemma.config["query_pre_attn_scalar"] = json!(9);
        let mut mistral = Model::gated("MistralForCausalLM", 1);
        mistral.config["sliding_window"] = json!(8);
        vec![
            Model::gated("LlamaForCausalLM", 3),
            mistral,
            Model::gated("Qwen2ForCausalLM", 1),
            Model::gated("Qwen3ForCausalLM", 3),
            gemma,
            Model::gpt("GPT2LMHeadModel"),
            Model::gpt("GPTNeoForCausalLM"),
        ]
    }

    pub(crate) fn class(&self) -> &str {
        self.config["architectures"][0].as_str().unwrap_or_default()
    }

    /// Writes the model as a directory.
    pub(crate) fn write(&self) -> Directory {
        let directory = Directory::new();
        directory.write("config.json", self.config.to_string());
        directory.write("tokenizer.json", self.tokenizer.to_string());
        directory.write("tokenizer_config.json", self.settings.to_string());
        directory.write("model.safetensors", safetensors(&self.tensors));
        directory
    }
}

/// A byte-level vocabulary of 12 tokens, two less than the models' embeddings have rows.
pub(crate) fn byte_level_tokenizer() -> Value {
    json!({
        "added_tokens": [
            {"id": 0, "content": "<|end|>", "special": true, "normalized": false},
            {"id": 11, "content": "<tool>", "special": false, "normalized": false},
        ],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null,
        "model": {
            "type": "BPE", "unk_token": null, "byte_fallback": false,
            "vocab": {"<|end|>": 0, "a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "\u{120}": 6, "ab": 7, "\u{120}a": 8, "cd": 9, "abcd": 10},
            "merges": [["a", "b"], ["\u{120}", "a"], "c d", ["ab", "cd"]],
        },
    })
}

/// The bytes of a legacy llama2.c checkpoint with weights that count up.
pub(crate) fn llama2c_legacy(dims: [i32; 7]) -> Vec<u8> {
    let [embd, ff, layers, heads, kv_heads, vocab, positions] = dims;
    let kv = embd / heads * kv_heads;
    let per_layer = embd * 2 + embd * embd * 2 + kv * embd * 2 + ff * embd * 3;
    let mut n = vocab.abs() * embd + layers * per_layer + embd + positions * (embd / heads);
    if vocab < 0 {
        n += vocab.abs() * embd;
    }
    let header = dims.iter().flat_map(|dim| dim.to_le_bytes());
    header.chain((0..n).flat_map(|index| (index as f32 / 64.0).to_le_bytes())).collect()
}
