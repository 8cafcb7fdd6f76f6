//! `config.json` of each family, checked: what is not supported is an error that names its key, never ignored.

use serde_json::Value;

use super::config::{Object, shorten};
use super::rope::{self, Rope};
use crate::error::Error;
use crate::gguf_write::Header;

/// Many times the layers of any model; without a limit a small file could ask for a description of millions.
const MOST_LAYERS: u32 = 4096;

/// Which mean a norm takes, with what it adds to it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Norm {
    Rms(f32),
    Layer(f32),
}

/// What `config.json` says about a model.
#[derive(Clone, Debug)]
pub(super) struct Hparams {
    pub(super) n_layers: u32,
    pub(super) n_embd: u32,
    pub(super) n_ff: u32,
    pub(super) n_heads: u32,
    pub(super) n_kv_heads: u32,
    pub(super) head_dim: u32,
    pub(super) n_vocab: u32,
    pub(super) context_tokens: u32,
    pub(super) norm: Norm,
    pub(super) tied: bool,
    pub(super) rope: Option<Rope>,
    /// The base of rotary positions in windowed layers, when it is another.
    pub(super) rope_theta_windowed: Option<f32>,
    /// How many positions back a windowed layer sees, itself included, and which layers are windowed.
    pub(super) window: Option<(u32, Vec<bool>)>,
    /// The factor on attention scores, when it is not one over the root of `head_dim`.
    pub(super) attention_scale: Option<f32>,
}

impl Hparams {
    /// Writes them as metadata of `arch`.
    pub(super) fn write(&self, arch: &str, header: &mut Header) {
        let key = |name: &str| format!("{arch}.{name}");
        header.u32(&key("vocab_size"), self.n_vocab);
        header.u32(&key("context_length"), self.context_tokens);
        header.u32(&key("embedding_length"), self.n_embd);
        header.u32(&key("block_count"), self.n_layers);
        header.u32(&key("feed_forward_length"), self.n_ff);
        header.u32(&key("attention.head_count"), self.n_heads);
        header.u32(&key("attention.head_count_kv"), self.n_kv_heads);
        header.u32(&key("attention.key_length"), self.head_dim);
        header.u32(&key("attention.value_length"), self.head_dim);
        match self.norm {
            Norm::Rms(epsilon) => header.f32(&key("attention.layer_norm_rms_epsilon"), epsilon),
            Norm::Layer(epsilon) => header.f32(&key("attention.layer_norm_epsilon"), epsilon),
        }
        if let Some(scale) = self.attention_scale {
            header.f32(&key("attention.scale"), scale);
        }
        if let Some((window, layers)) = &self.window {
            header.u32(&key("attention.sliding_window"), *window);
            header.bools(&key("attention.sliding_window_pattern"), layers);
        }
        if let Some(rope) = &self.rope {
            header.u32(&key("rope.dimension_count"), self.head_dim);
            rope.write(arch, header);
        }
        if let Some(theta) = self.rope_theta_windowed {
            header.f32(&key("rope.freq_base_swa"), theta);
        }
    }
}

/// Refuses a value of `key` that the family's forward pass does not have: only those in `allowed`, or none, may be there.
fn only(config: &Object, key: &str, allowed: &[Value]) -> Result<(), Error> {
    match config.get(key) {
        Some(value) if !allowed.contains(value) => {
            let allowed: Vec<String> = allowed.iter().map(Value::to_string).collect();
            let known = if allowed.is_empty() { String::new() } else { format!(" (only {})", allowed.join(" or ")) };
            Err(config.error(key, format!("{} is not supported{known}", shorten(value))))
        }
        _ => Ok(()),
    }
}

/// What no family here has.
fn check_all(config: &Object) -> Result<(), Error> {
    for key in ["quantization_config", "attn_logit_softcapping", "final_logit_softcapping", "adapters"] {
        only(config, key, &[])?;
    }
    for key in ["num_local_experts", "num_experts", "n_routed_experts"] {
        only(config, key, &[0.into(), 1.into()])?;
    }
    for key in ["mlp_bias", "use_bidirectional_attention", "add_cross_attention", "is_encoder_decoder"] {
        only(config, key, &[false.into()])?;
    }
    only(config, "partial_rotary_factor", &[1.into(), 1.0.into()])
}

/// The number of layers called `key`, within reason.
fn n_layers(config: &Object, key: &str) -> Result<u32, Error> {
    let n_layers = config.count(key)?;
    if n_layers > MOST_LAYERS {
        return Err(config.error(key, format!("{n_layers} layers (at most {MOST_LAYERS})")));
    }
    Ok(n_layers)
}

/// What the families with rotary positions and gated feed-forward layers share; `tied` is the family's default.
fn gated(config: &Object, tied: bool) -> Result<Hparams, Error> {
    check_all(config)?;
    only(config, "attention_bias", &[false.into()])?;
    let n_embd = config.count("hidden_size")?;
    let n_heads = config.count("num_attention_heads")?;
    let head_dim = match config.get("head_dim") {
        Some(_) => config.count("head_dim")?,
        None if n_embd.is_multiple_of(n_heads) => n_embd / n_heads,
        None => {
            return Err(config.error("num_attention_heads", format!("{n_heads} does not divide hidden_size {n_embd}")));
        }
    };
    let n_kv_heads = config.count_or("num_key_value_heads", n_heads)?;
    if !n_heads.is_multiple_of(n_kv_heads) {
        return Err(config.error("num_key_value_heads", format!("{n_kv_heads} does not divide {n_heads} heads")));
    }
    Ok(Hparams {
        n_layers: n_layers(config, "num_hidden_layers")?,
        n_embd,
        n_ff: config.count("intermediate_size")?,
        n_heads,
        n_kv_heads,
        head_dim,
        n_vocab: config.count("vocab_size")?,
        context_tokens: config.count_or("max_position_embeddings", 2048)?,
        norm: Norm::Rms(config.f32_or("rms_norm_eps", 1e-6)?),
        tied: config.bool_or("tie_word_embeddings", tied)?,
        rope: None,
        rope_theta_windowed: None,
        window: None,
        attention_scale: None,
    })
}

/// `silu` is the only activation that the gated families other than Gemma have.
fn with_silu(config: &Object, mut hparams: Hparams) -> Result<Hparams, Error> {
    only(config, "hidden_act", &["silu".into(), "swish".into()])?;
    hparams.rope = Some(rope::read(config, &hparams, 10000.0)?);
    Ok(hparams)
}

/// Which layers are windowed by `layer_types`, when it is there.
fn layer_types(config: &Object, n_layers: u32) -> Result<Option<Vec<bool>>, Error> {
    let Some(types) = config.list_if_there("layer_types")? else { return Ok(None) };
    if types.len() != n_layers as usize {
        return Err(config.error("layer_types", format!("{} entries for {n_layers} layers", types.len())));
    }
    let is_windowed = |kind: &Value| match kind.as_str() {
        Some("sliding_attention") => Ok(true),
        Some("full_attention") => Ok(false),
        _ => Err(config.error("layer_types", format!("{} is not supported", shorten(kind)))),
    };
    types.iter().map(is_windowed).collect::<Result<_, _>>().map(Some)
}

/// A window that is there only when some layer uses it.
fn window(size: u32, layers: Vec<bool>) -> Option<(u32, Vec<bool>)> {
    layers.contains(&true).then_some((size, layers))
}

pub(super) fn llama(config: &Object) -> Result<Hparams, Error> {
    only(config, "sliding_window", &[])?;
    with_silu(config, gated(config, false)?)
}

pub(super) fn mistral(config: &Object) -> Result<Hparams, Error> {
    let mut hparams = with_silu(config, gated(config, false)?)?;
    if config.get("sliding_window").is_some() {
        let layers = layer_types(config, hparams.n_layers)?;
        let layers = layers.unwrap_or_else(|| vec![true; hparams.n_layers as usize]);
        hparams.window = window(config.count("sliding_window")?, layers);
    }
    Ok(hparams)
}

/// The windows of Qwen: off unless `use_sliding_window`, and then on the layers from `max_window_layers` on.
fn qwen(config: &Object) -> Result<Hparams, Error> {
    let mut hparams = with_silu(config, gated(config, false)?)?;
    if config.bool_or("use_sliding_window", false)? && config.get("sliding_window").is_some() {
        let first = config.u32_if_there("max_window_layers")?.unwrap_or(28);
        let layers = layer_types(config, hparams.n_layers)?;
        let layers = layers.unwrap_or_else(|| (0..hparams.n_layers).map(|layer| layer >= first).collect());
        hparams.window = window(config.count("sliding_window")?, layers);
    }
    Ok(hparams)
}

pub(super) fn qwen2(config: &Object) -> Result<Hparams, Error> {
    qwen(config)
}

pub(super) fn qwen3(config: &Object) -> Result<Hparams, Error> {
    // The one family whose head size has a default of its own.
    config.count("head_dim")?;
    qwen(config)
}

pub(super) fn gemma3(config: &Object) -> Result<Hparams, Error> {
    config.count("head_dim")?;
    let mut hparams = gated(config, true)?;
    for key in ["hidden_activation", "hidden_act"] {
        only(config, key, &["gelu_pytorch_tanh".into()])?;
    }
    let (rope, windowed) = rope::read_pair(config, &hparams)?;
    hparams.rope = Some(rope);
    hparams.rope_theta_windowed = Some(windowed);
    let scalar = config.f32_or("query_pre_attn_scalar", 256.0)?;
    if scalar <= 0.0 {
        return Err(config.error("query_pre_attn_scalar", format!("{scalar} is not positive")));
    }
    if scalar != hparams.head_dim as f32 {
        hparams.attention_scale = Some(1.0 / scalar.sqrt());
    }
    let pattern_key = if config.get("sliding_window_pattern").is_some() {
        "sliding_window_pattern"
    } else {
        "_sliding_window_pattern"
    };
    let period = config.count_or(pattern_key, 6)?;
    let layers = layer_types(config, hparams.n_layers)?;
    // The last layer of each period sees everything.
    let layers = layers.unwrap_or_else(|| (1..=hparams.n_layers).map(|layer| !layer.is_multiple_of(period)).collect());
    hparams.window = window(config.count_or("sliding_window", 4096)?, layers);
    Ok(hparams)
}

/// What GPT-2 and GPT-Neo share: learned positions, layer norms with biases, every head its own keys.
fn gpt(config: &Object, names: [&str; 5], n_ff: &str) -> Result<Hparams, Error> {
    check_all(config)?;
    only(config, "activation_function", &["gelu_new".into(), "gelu_pytorch_tanh".into()])?;
    let [layers, embd, heads, positions, vocab] = names;
    let n_embd = config.count(embd)?;
    let n_heads = config.count(heads)?;
    if !n_embd.is_multiple_of(n_heads) {
        return Err(config.error(heads, format!("{n_heads} does not divide {embd} {n_embd}")));
    }
    let four_times = || n_embd.checked_mul(4).ok_or_else(|| config.error(embd, format!("{n_embd} is not possible")));
    Ok(Hparams {
        n_layers: n_layers(config, layers)?,
        n_embd,
        n_ff: if config.get(n_ff).is_some() { config.count(n_ff)? } else { four_times()? },
        n_heads,
        n_kv_heads: n_heads,
        head_dim: n_embd / n_heads,
        n_vocab: config.count(vocab)?,
        context_tokens: config.count(positions)?,
        norm: Norm::Layer(config.f32_or("layer_norm_epsilon", 1e-5)?),
        tied: config.bool_or("tie_word_embeddings", true)?,
        rope: None,
        rope_theta_windowed: None,
        window: None,
        attention_scale: None,
    })
}

pub(super) fn gpt2(config: &Object) -> Result<Hparams, Error> {
    only(config, "scale_attn_by_inverse_layer_idx", &[false.into()])?;
    only(config, "scale_attn_weights", &[true.into()])?;
    gpt(config, ["n_layer", "n_embd", "n_head", "n_positions", "vocab_size"], "n_inner")
}

pub(super) fn gpt_neo(config: &Object) -> Result<Hparams, Error> {
    let names = ["num_layers", "hidden_size", "num_heads", "max_position_embeddings", "vocab_size"];
    let mut hparams = gpt(config, names, "intermediate_size")?;
    // GPT-Neo does not scale its scores.
    hparams.attention_scale = Some(1.0);
    let layers = gpt_neo_layers(config, hparams.n_layers)?;
    hparams.window = window(config.count_or("window_size", 256)?, layers);
    Ok(hparams)
}

/// Which layers are local: `attention_layers`, or `attention_types` as in `[[["global", "local"], 6]]`.
fn gpt_neo_layers(config: &Object, n_layers: u32) -> Result<Vec<bool>, Error> {
    let is_local = |key: &str, kind: &Value| match kind.as_str() {
        Some("local") => Ok(true),
        Some("global") => Ok(false),
        _ => Err(config.error(key, format!("{} is neither 'global' nor 'local'", shorten(kind)))),
    };
    let mut key = "attention_layers";
    let mut layers = Vec::new();
    if let Some(list) = config.list_if_there(key)? {
        layers = list.iter().map(|kind| is_local(key, kind)).collect::<Result<_, _>>()?;
    } else {
        key = "attention_types";
        let missing = || config.error("attention_layers", "is missing, and so is attention_types");
        for group in config.list_if_there(key)?.ok_or_else(missing)? {
            let odd = || config.error(key, format!("{} is not a list of types and a count", shorten(group)));
            let [kinds, count] = group.as_array().and_then(|group| group.as_array::<2>()).ok_or_else(odd)?;
            let kinds = kinds.as_array().ok_or_else(odd)?;
            let kinds = kinds.iter().map(|kind| is_local(key, kind)).collect::<Result<Vec<_>, _>>()?;
            let count = count.as_u64().filter(|&count| count <= u64::from(n_layers)).ok_or_else(odd)?;
            if layers.len() + kinds.len() * count as usize > n_layers as usize {
                return Err(config.error(key, format!("more than {n_layers} layers")));
            }
            (0..count).for_each(|_| layers.extend(&kinds));
        }
    }
    if layers.len() != n_layers as usize {
        return Err(config.error(key, format!("{} entries for {n_layers} layers", layers.len())));
    }
    Ok(layers)
}
