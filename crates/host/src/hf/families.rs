//! The model families of Hugging Face that can be imported, one row each: names, checks of `config.json`, tensors.
//!
//! Tensor names and changes are those of llama.cpp's `convert_hf_to_gguf.py`; GPT-Neo, which llama.cpp does not have,
//! follows its style.

use super::config::Object;
use super::hparams::{self, Hparams};
use crate::error::Error;

/// A model family.
pub(super) struct Family {
    /// The name in `architectures` of `config.json`.
    pub(super) class: &'static str,
    /// The name in `model_type` of `config.json`, for a directory that does not name the class.
    pub(super) model_type: &'static str,
    /// What GGUF calls it.
    pub(super) arch: &'static str,
    /// What tensor names begin with, unless the model was saved without its head.
    pub(super) prefix: &'static str,
    /// Reads and checks `config.json`.
    pub(super) read: fn(&Object) -> Result<Hparams, Error>,
    /// Its tensors: those before the layers, those of each layer, those after.
    pub(super) tensors: [&'static [&'static [Row]]; 3],
}

/// A tensor: its name there (`#` is the layer, the family's prefix left out), its name in GGUF, its shape there, and how it changes.
pub(super) type Row = (&'static str, &'static str, &'static [Dim], Change);

/// A dimension in terms of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dim {
    Vocab,
    Positions,
    Embd,
    Ff,
    /// All query heads.
    Q,
    /// All key heads.
    Kv,
    /// Query, key and value side by side.
    Qkv,
    /// One head.
    Head,
}

/// What happens to a tensor on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing.
    Keep,
    /// It becomes F32 and stays it: norms, biases, learned positions.
    Float,
    /// As `Float`, with 1 added: Gemma multiplies by one more than the norm's weight.
    AddOne,
    /// The two halves of each query head's rows are interleaved, for rotary positions on neighbours.
    PermuteQ,
    /// The same for key heads.
    PermuteK,
    /// It is stored (in, out) and becomes rows of outputs.
    Transpose,
    /// As `Keep`, and it is there only when the head is not tied to the embedding.
    Head,
}

use Change::{AddOne, Float, Head, Keep, PermuteK, PermuteQ, Transpose};
use Dim::{Embd, Ff, Kv, Positions, Q, Qkv, Vocab};

const EMBEDDING: &[Row] = &[("embed_tokens.weight", "token_embd.weight", &[Vocab, Embd], Keep)];
const OUTPUT: &[Row] = &[("lm_head.weight", "output.weight", &[Vocab, Embd], Head)];
const RMS_NORM: &[Row] = &[("norm.weight", "output_norm.weight", &[Embd], Float)];
const GEMMA_NORM: &[Row] = &[("norm.weight", "output_norm.weight", &[Embd], AddOne)];

const PRE_NORMS: &[Row] = &[
    ("layers.#.input_layernorm.weight", "blk.#.attn_norm.weight", &[Embd], Float),
    ("layers.#.post_attention_layernorm.weight", "blk.#.ffn_norm.weight", &[Embd], Float),
];

const FOUR_NORMS: &[Row] = &[
    ("layers.#.input_layernorm.weight", "blk.#.attn_norm.weight", &[Embd], AddOne),
    ("layers.#.post_attention_layernorm.weight", "blk.#.post_attention_norm.weight", &[Embd], AddOne),
    ("layers.#.pre_feedforward_layernorm.weight", "blk.#.ffn_norm.weight", &[Embd], AddOne),
    ("layers.#.post_feedforward_layernorm.weight", "blk.#.post_ffw_norm.weight", &[Embd], AddOne),
];

const PERMUTED_ATTENTION: &[Row] = &[
    ("layers.#.self_attn.q_proj.weight", "blk.#.attn_q.weight", &[Q, Embd], PermuteQ),
    ("layers.#.self_attn.k_proj.weight", "blk.#.attn_k.weight", &[Kv, Embd], PermuteK),
    ("layers.#.self_attn.v_proj.weight", "blk.#.attn_v.weight", &[Kv, Embd], Keep),
    ("layers.#.self_attn.o_proj.weight", "blk.#.attn_output.weight", &[Embd, Q], Keep),
];

const ATTENTION: &[Row] = &[
    ("layers.#.self_attn.q_proj.weight", "blk.#.attn_q.weight", &[Q, Embd], Keep),
    ("layers.#.self_attn.k_proj.weight", "blk.#.attn_k.weight", &[Kv, Embd], Keep),
    ("layers.#.self_attn.v_proj.weight", "blk.#.attn_v.weight", &[Kv, Embd], Keep),
    ("layers.#.self_attn.o_proj.weight", "blk.#.attn_output.weight", &[Embd, Q], Keep),
];

const QKV_BIAS: &[Row] = &[
    ("layers.#.self_attn.q_proj.bias", "blk.#.attn_q.bias", &[Q], Float),
    ("layers.#.self_attn.k_proj.bias", "blk.#.attn_k.bias", &[Kv], Float),
    ("layers.#.self_attn.v_proj.bias", "blk.#.attn_v.bias", &[Kv], Float),
];

const QK_NORM: &[Row] = &[
    ("layers.#.self_attn.q_norm.weight", "blk.#.attn_q_norm.weight", &[Dim::Head], Float),
    ("layers.#.self_attn.k_norm.weight", "blk.#.attn_k_norm.weight", &[Dim::Head], Float),
];

const GEMMA_QK_NORM: &[Row] = &[
    ("layers.#.self_attn.q_norm.weight", "blk.#.attn_q_norm.weight", &[Dim::Head], AddOne),
    ("layers.#.self_attn.k_norm.weight", "blk.#.attn_k_norm.weight", &[Dim::Head], AddOne),
];

const GATED_MLP: &[Row] = &[
    ("layers.#.mlp.gate_proj.weight", "blk.#.ffn_gate.weight", &[Ff, Embd], Keep),
    ("layers.#.mlp.up_proj.weight", "blk.#.ffn_up.weight", &[Ff, Embd], Keep),
    ("layers.#.mlp.down_proj.weight", "blk.#.ffn_down.weight", &[Embd, Ff], Keep),
];

const GPT_EMBEDDINGS: &[Row] = &[
    ("wte.weight", "token_embd.weight", &[Vocab, Embd], Keep),
    ("wpe.weight", "position_embd.weight", &[Positions, Embd], Float),
];

const GPT_NORMS: &[Row] = &[
    ("h.#.ln_1.weight", "blk.#.attn_norm.weight", &[Embd], Float),
    ("h.#.ln_1.bias", "blk.#.attn_norm.bias", &[Embd], Float),
    ("h.#.ln_2.weight", "blk.#.ffn_norm.weight", &[Embd], Float),
    ("h.#.ln_2.bias", "blk.#.ffn_norm.bias", &[Embd], Float),
];

const GPT_OUTPUT_NORM: &[Row] =
    &[("ln_f.weight", "output_norm.weight", &[Embd], Float), ("ln_f.bias", "output_norm.bias", &[Embd], Float)];

const GPT2_LAYER: &[Row] = &[
    ("h.#.attn.c_attn.weight", "blk.#.attn_qkv.weight", &[Embd, Qkv], Transpose),
    ("h.#.attn.c_attn.bias", "blk.#.attn_qkv.bias", &[Qkv], Float),
    ("h.#.attn.c_proj.weight", "blk.#.attn_output.weight", &[Embd, Embd], Transpose),
    ("h.#.attn.c_proj.bias", "blk.#.attn_output.bias", &[Embd], Float),
    ("h.#.mlp.c_fc.weight", "blk.#.ffn_up.weight", &[Embd, Ff], Transpose),
    ("h.#.mlp.c_fc.bias", "blk.#.ffn_up.bias", &[Ff], Float),
    ("h.#.mlp.c_proj.weight", "blk.#.ffn_down.weight", &[Ff, Embd], Transpose),
    ("h.#.mlp.c_proj.bias", "blk.#.ffn_down.bias", &[Embd], Float),
];

const GPT_NEO_LAYER: &[Row] = &[
    ("h.#.attn.attention.q_proj.weight", "blk.#.attn_q.weight", &[Embd, Embd], Keep),
    ("h.#.attn.attention.k_proj.weight", "blk.#.attn_k.weight", &[Embd, Embd], Keep),
    ("h.#.attn.attention.v_proj.weight", "blk.#.attn_v.weight", &[Embd, Embd], Keep),
    ("h.#.attn.attention.out_proj.weight", "blk.#.attn_output.weight", &[Embd, Embd], Keep),
    ("h.#.attn.attention.out_proj.bias", "blk.#.attn_output.bias", &[Embd], Float),
    ("h.#.mlp.c_fc.weight", "blk.#.ffn_up.weight", &[Ff, Embd], Keep),
    ("h.#.mlp.c_fc.bias", "blk.#.ffn_up.bias", &[Ff], Float),
    ("h.#.mlp.c_proj.weight", "blk.#.ffn_down.weight", &[Embd, Ff], Keep),
    ("h.#.mlp.c_proj.bias", "blk.#.ffn_down.bias", &[Embd], Float),
];

/// Every family that can be imported.
pub(super) const FAMILIES: &[Family] = &[
    Family {
        class: "LlamaForCausalLM",
        model_type: "llama",
        arch: "llama",
        prefix: "model.",
        read: hparams::llama,
        tensors: [&[EMBEDDING], &[PRE_NORMS, PERMUTED_ATTENTION, GATED_MLP], &[RMS_NORM, OUTPUT]],
    },
    Family {
        class: "MistralForCausalLM",
        model_type: "mistral",
        arch: "llama",
        prefix: "model.",
        read: hparams::mistral,
        tensors: [&[EMBEDDING], &[PRE_NORMS, PERMUTED_ATTENTION, GATED_MLP], &[RMS_NORM, OUTPUT]],
    },
    Family {
        class: "Qwen2ForCausalLM",
        model_type: "qwen2",
        arch: "qwen2",
        prefix: "model.",
        read: hparams::qwen2,
        tensors: [&[EMBEDDING], &[PRE_NORMS, ATTENTION, QKV_BIAS, GATED_MLP], &[RMS_NORM, OUTPUT]],
    },
    Family {
        class: "Qwen3ForCausalLM",
        model_type: "qwen3",
        arch: "qwen3",
        prefix: "model.",
        read: hparams::qwen3,
        tensors: [&[EMBEDDING], &[PRE_NORMS, ATTENTION, QK_NORM, GATED_MLP], &[RMS_NORM, OUTPUT]],
    },
    Family {
        class: "Gemma3ForCausalLM",
        model_type: "gemma3_text",
        arch: "gemma3",
        prefix: "model.",
        read: hparams::gemma3,
        tensors: [&[EMBEDDING], &[FOUR_NORMS, ATTENTION, GEMMA_QK_NORM, GATED_MLP], &[GEMMA_NORM, OUTPUT]],
    },
    Family {
        class: "GPT2LMHeadModel",
        model_type: "gpt2",
        arch: "gpt2",
        prefix: "transformer.",
        read: hparams::gpt2,
        tensors: [&[GPT_EMBEDDINGS], &[GPT_NORMS, GPT2_LAYER], &[GPT_OUTPUT_NORM, OUTPUT]],
    },
    Family {
        class: "GPTNeoForCausalLM",
        model_type: "gpt_neo",
        arch: "gptneo",
        prefix: "transformer.",
        read: hparams::gpt_neo,
        tensors: [&[GPT_EMBEDDINGS], &[GPT_NORMS, GPT_NEO_LAYER], &[GPT_OUTPUT_NORM, OUTPUT]],
    },
];

/// The family of the model that `config` describes.
pub(super) fn of(config: &Object) -> Result<&'static Family, Error> {
    let known = || FAMILIES.iter().map(|family| family.class).collect::<Vec<_>>().join(", ");
    if let Some(names) = config.list_if_there("architectures")? {
        let name = names.first().and_then(serde_json::Value::as_str).unwrap_or("");
        let found = FAMILIES.iter().find(|family| family.class == name);
        return found.ok_or_else(|| {
            config.error("architectures", format!("'{name}' is not supported; these are: {}", known()))
        });
    }
    let name = config.str_if_there("model_type")?;
    let name = name.ok_or_else(|| config.error("architectures", "is missing, and so is model_type"))?;
    let found = FAMILIES.iter().find(|family| family.model_type == name);
    found.ok_or_else(|| config.error("model_type", format!("'{name}' is not supported; these are: {}", known())))
}

/// Whether a tensor is a buffer that some versions of the library saved and that is computed anew.
pub(super) fn is_buffer(name: &str) -> bool {
    const BUFFERS: [&str; 5] =
        [".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias"];
    BUFFERS.iter().any(|buffer| name.ends_with(buffer))
}
