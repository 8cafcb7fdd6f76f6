//! The numbers that shape a model, read from metadata and checked.

use super::Error;
use super::families::{Family, Positions, Windows};
use crate::gguf::{Array, Gguf, Name, Value};
use crate::ops::norm::Vector;
use crate::ops::rope::{Rope, Scaling};

/// A model's numbers.
#[derive(Clone, Copy, Debug)]
pub struct Hparams<'a> {
    /// The row of the table of families.
    pub family: &'static Family,
    /// Transformer layers.
    pub n_layers: usize,
    /// Width of the hidden state.
    pub n_embd: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Values of a head.
    pub head_dim: usize,
    /// Width of the feed-forward network.
    pub n_ff: usize,
    /// Tokens of the vocabulary.
    pub n_vocab: usize,
    /// Positions the model was trained for.
    pub context_train: usize,
    /// Added under the root of a norm.
    pub norm_epsilon: f32,
    /// What attention scores are multiplied with.
    pub attention_scale: f32,
    /// Values of a head that are rotated.
    pub n_rot: usize,
    theta: f32,
    window_theta: f32,
    scaling: Scaling,
    window: Option<usize>,
    pattern: Pattern<'a>,
}

/// Which layers are windowed.
#[derive(Clone, Copy, Debug)]
enum Pattern<'a> {
    Family(Windows),
    Listed(Array<'a>),
}

/// Metadata under one architecture's prefix.
struct Keys<'g, 'a> {
    gguf: &'g Gguf<'a>,
    prefix: &'static str,
}

impl<'a> Keys<'_, 'a> {
    fn value(&self, key: &str) -> Option<Value<'a>> {
        self.gguf.get_parts(&[self.prefix, ".", key])
    }

    /// The key's full name, for errors.
    fn name(&self, key: &str) -> Name {
        let mut full = [0; 64];
        let parts = [self.prefix.as_bytes(), b".", key.as_bytes()];
        let mut len = 0;
        for byte in parts.into_iter().flatten().take(full.len()) {
            full[len] = *byte;
            len += 1;
        }
        Name::new(&full[..len])
    }

    /// A whole number from 1 to 2^31; `default` when the key is missing.
    fn count(&self, key: &str, default: Option<usize>) -> Result<usize, Error> {
        let Some(value) = self.value(key) else {
            return default.ok_or(Error::Key(self.name(key)));
        };
        let value = value.as_u64().ok_or(Error::Key(self.name(key)))?;
        match usize::try_from(value) {
            Ok(count) if (1..=1 << 31).contains(&value) => Ok(count),
            _ => Err(Error::Value(self.name(key), value as f32)),
        }
    }

    /// A finite float that is not below `least`; `default` when the key is missing.
    fn float(&self, key: &str, least: f32, default: Option<f32>) -> Result<f32, Error> {
        let Some(value) = self.value(key) else {
            return default.ok_or(Error::Key(self.name(key)));
        };
        let value = value.as_f32().ok_or(Error::Key(self.name(key)))?;
        if value.is_finite() && value >= least { Ok(value) } else { Err(Error::Value(self.name(key), value)) }
    }
}

impl<'a> Hparams<'a> {
    /// The family named by the file, and its number of layers.
    pub(super) fn family_and_layers(gguf: &Gguf<'a>) -> Result<(&'static Family, usize), Error> {
        let key = "general.architecture";
        let name = gguf.get(key).and_then(|value| value.as_str()).ok_or(Error::Key(Name::new(key.as_bytes())))?;
        let family = Family::find(name).ok_or(Error::Architecture(Name::new(name)))?;
        let keys = Keys { gguf, prefix: family.name };
        let n_layers = keys.count("block_count", None)?;
        // Every layer has tensors, so a count that lies is found before a table is made for it.
        if n_layers > gguf.n_tensors() {
            return Err(Error::Value(keys.name("block_count"), n_layers as f32));
        }
        Ok((family, n_layers))
    }

    pub(super) fn read(gguf: &Gguf<'a>, n_vocab: usize) -> Result<Self, Error> {
        let (family, n_layers) = Self::family_and_layers(gguf)?;
        let keys = Keys { gguf, prefix: family.name };
        let n_embd = keys.count("embedding_length", None)?;
        let n_heads = keys.count("attention.head_count", None)?;
        let n_kv_heads = keys.count("attention.head_count_kv", Some(n_heads))?;
        if !n_heads.is_multiple_of(n_kv_heads) {
            return Err(Error::Value(keys.name("attention.head_count_kv"), n_kv_heads as f32));
        }
        let head_dim = keys.count("attention.key_length", Some((n_embd / n_heads).max(1)))?;
        if keys.count("attention.value_length", Some(head_dim))? != head_dim {
            return Err(Error::Value(keys.name("attention.value_length"), head_dim as f32));
        }
        // Widths are multiplied below; no model comes near this.
        if n_heads > 1 << 15 || head_dim > 1 << 15 || n_embd > 1 << 24 {
            return Err(Error::Value(keys.name("attention.head_count"), n_heads as f32));
        }
        let epsilon_key = match family.norm {
            crate::ops::norm::NormKind::Rms => "attention.layer_norm_rms_epsilon",
            crate::ops::norm::NormKind::Layer => "attention.layer_norm_epsilon",
        };
        let theta = keys.float("rope.freq_base", 1.0, Some(10_000.0))?;
        let n_rot = keys.count("rope.dimension_count", Some(head_dim))?;
        let rotary = matches!(family.positions, Positions::Rotary(_));
        if rotary && (n_rot > head_dim || n_rot % 2 != 0) {
            return Err(Error::Value(keys.name("rope.dimension_count"), n_rot as f32));
        }
        let window = match keys.value("attention.sliding_window").and_then(|value| value.as_u64()) {
            None | Some(0) => None,
            Some(_) => Some(keys.count("attention.sliding_window", None)?),
        };
        Ok(Hparams {
            family,
            n_layers,
            n_embd,
            n_heads,
            n_kv_heads,
            head_dim,
            n_ff: keys.count("feed_forward_length", None)?,
            n_vocab,
            context_train: keys.count("context_length", None)?,
            norm_epsilon: keys.float(epsilon_key, 0.0, None)?,
            attention_scale: keys.float(
                "attention.scale",
                f32::MIN_POSITIVE,
                Some(1.0 / crate::ops::math::sqrt(head_dim as f32)),
            )?,
            n_rot,
            theta,
            window_theta: keys.float("rope.freq_base_swa", 1.0, Some(family.window_theta.unwrap_or(theta)))?,
            scaling: scaling(&keys)?,
            window,
            pattern: pattern(&keys, family, n_layers)?,
        })
    }

    /// Width of all query heads.
    pub fn query_width(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Width of all key heads, or of all value heads.
    pub fn kv_width(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }

    /// How many positions layer `layer` sees; `None` for all.
    pub fn window(&self, layer: usize) -> Option<usize> {
        let windowed = match self.pattern {
            Pattern::Family(Windows::Every) => true,
            Pattern::Family(Windows::AllButEvery(n)) => !(layer + 1).is_multiple_of(n),
            Pattern::Listed(list) => list.get(layer).and_then(|value| value.as_bool()).unwrap_or(false),
        };
        self.window.filter(|_| windowed)
    }

    /// The rotation of full layers and that of windowed ones; `None` for learned positions.
    pub(super) fn ropes(&self, factors: Vector<'a>) -> Option<[Rope<'a>; 2]> {
        let Positions::Rotary(layout) = self.family.positions else {
            return None;
        };
        let full = Rope { layout, n_rot: self.n_rot, theta: self.theta, scaling: self.scaling, factors };
        // A windowed layer never looks far, so where it has a base of its own it is not stretched either (gemma3).
        let windowed = match self.family.window_theta {
            Some(_) => Rope { theta: self.window_theta, scaling: Scaling::None, factors: Vector::EMPTY, ..full },
            None => full,
        };
        Some([full, windowed])
    }
}

/// How the file stretches rotary frequencies.
fn scaling(keys: &Keys<'_, '_>) -> Result<Scaling, Error> {
    let key = "rope.scaling.type";
    let word = match keys.value(key) {
        None => b"none".as_slice(),
        Some(value) => value.as_str().ok_or(Error::Key(keys.name(key)))?,
    };
    let factor = || keys.float("rope.scaling.factor", 1.0, None);
    match word {
        b"none" | b"llama3" => Ok(Scaling::None), // llama3's factors are the tensor `rope_freqs.weight`.
        b"linear" => Ok(Scaling::Linear { factor: factor()? }),
        b"yarn" => Ok(Scaling::Yarn {
            factor: factor()?,
            original_context: keys.count("rope.scaling.original_context_length", None)? as u32,
            beta_fast: keys.float("rope.scaling.yarn_beta_fast", 0.001, Some(32.0))?,
            beta_slow: keys.float("rope.scaling.yarn_beta_slow", 0.001, Some(1.0))?,
            attention_factor: keys.float("rope.scaling.attn_factor", 0.0, Some(1.0))?,
        }),
        other => Err(Error::Word(keys.name(key), Name::new(other))),
    }
}

/// Which layers the file says are windowed: a list of booleans, every n-th layer full, or the family's habit.
fn pattern<'a>(keys: &Keys<'_, 'a>, family: &Family, n_layers: usize) -> Result<Pattern<'a>, Error> {
    let key = "attention.sliding_window_pattern";
    match keys.value(key) {
        None => Ok(Pattern::Family(family.windows)),
        Some(Value::Array(list)) if list.len() == n_layers && list.get(0).is_some_and(|v| v.as_bool().is_some()) => {
            Ok(Pattern::Listed(list))
        }
        Some(Value::Array(_)) => Err(Error::Key(keys.name(key))),
        Some(_) => Ok(Pattern::Family(Windows::AllButEvery(keys.count(key, None)?))),
    }
}
