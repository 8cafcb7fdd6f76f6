//! Rotary positions as `config.json` describes them, old style and new, in the words of GGUF.
//!
//! Up to version 4 of `transformers` there are `rope_theta` and `rope_scaling`; version 5 has both in `rope_parameters`.

use std::f64::consts::PI;

use super::config::{Object, shorten};
use super::hparams::Hparams;
use crate::error::Error;
use crate::gguf_write::Header;

/// Rotary positions: the base of the frequencies and how they are stretched for longer texts.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rope {
    pub(super) theta: f32,
    pub(super) scaling: Scaling,
}

/// How frequencies are stretched.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Scaling {
    None,
    /// Positions are divided by the factor.
    Linear(f32),
    /// As in Llama 3.1: low frequencies are divided, high ones kept; GGUF has the divisors as a tensor.
    Llama3 {
        factor: f32,
        low: f32,
        high: f32,
        original: u32,
    },
    /// "YaRN: Efficient Context Window Extension" (Peng et al., 2023).
    Yarn {
        factor: f32,
        original: u32,
        attention: Option<f32>,
        beta_fast: f32,
        beta_slow: f32,
    },
}

impl Rope {
    /// Writes it as metadata of `arch`; the divisors of Llama 3 are a tensor, see [`Rope::divisors`].
    pub(super) fn write(&self, arch: &str, header: &mut Header) {
        let key = |name: &str| format!("{arch}.rope.{name}");
        header.f32(&key("freq_base"), self.theta);
        match self.scaling {
            Scaling::None | Scaling::Llama3 { .. } => {}
            Scaling::Linear(factor) => {
                header.str(&key("scaling.type"), b"linear");
                header.f32(&key("scaling.factor"), factor);
            }
            Scaling::Yarn { factor, original, attention, beta_fast, beta_slow } => {
                header.str(&key("scaling.type"), b"yarn");
                header.f32(&key("scaling.factor"), factor);
                header.u32(&key("scaling.original_context_length"), original);
                header.f32(&key("scaling.yarn_beta_fast"), beta_fast);
                header.f32(&key("scaling.yarn_beta_slow"), beta_slow);
                if let Some(attention) = attention {
                    // GGUF's factor comes on top of the one that YaRN has by default.
                    header.f32(&key("scaling.attn_factor"), attention / (1.0 + 0.1 * factor.ln()));
                }
            }
        }
    }

    /// The `rope_freqs.weight` tensor of Llama 3: what each frequency of a head is divided by.
    pub(super) fn divisors(&self, head_dim: u32) -> Option<Vec<f32>> {
        let Scaling::Llama3 { factor, low, high, original } = self.scaling else { return None };
        let [theta, factor, low, high] = [self.theta, factor, low, high].map(f64::from);
        let divisor = |index: u32| {
            let frequency = theta.powf(-f64::from(2 * index) / f64::from(head_dim));
            let turns = f64::from(original) * frequency / (2.0 * PI);
            // Between the two limits the frequency itself, not its divisor, is interpolated.
            let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
            1.0 / ((1.0 - kept) / factor + kept)
        };
        Some((0..head_dim / 2).map(|index| divisor(index) as f32).collect())
    }
}

/// The rotary positions of a family with one kind of layer.
pub(super) fn read(config: &Object, hparams: &Hparams, default_theta: f32) -> Result<Rope, Error> {
    if !hparams.head_dim.is_multiple_of(2) {
        return Err(config.error("head_dim", format!("{} is odd", hparams.head_dim)));
    }
    let theta = positive(config, "rope_theta", Some(default_theta))?;
    if let Some(parameters) = config.object_if_there("rope_parameters")? {
        for key in ["full_attention", "sliding_attention"] {
            if parameters.get(key).is_some() {
                return Err(parameters.error(key, "parameters for each kind of layer are not supported in this family"));
            }
        }
        return read_parameters(&parameters, theta, hparams);
    }
    match config.object_if_there("rope_scaling")? {
        Some(parameters) => read_parameters(&parameters, theta, hparams),
        None => Ok(Rope { theta, scaling: Scaling::None }),
    }
}

/// The rotary positions of Gemma 3: those of full layers, and the base of windowed ones.
pub(super) fn read_pair(config: &Object, hparams: &Hparams) -> Result<(Rope, f32), Error> {
    const FULL_THETA: f32 = 1e6;
    const WINDOWED_THETA: f32 = 1e4;
    let nested =
        config.object_if_there("rope_parameters")?.filter(|parameters| parameters.get("full_attention").is_some());
    let Some(parameters) = nested else {
        let windowed = positive(config, "rope_local_base_freq", Some(WINDOWED_THETA))?;
        return Ok((read(config, hparams, FULL_THETA)?, windowed));
    };
    if !hparams.head_dim.is_multiple_of(2) {
        return Err(config.error("head_dim", format!("{} is odd", hparams.head_dim)));
    }
    let of = |key: &str, theta: f32| match parameters.object_if_there(key)? {
        Some(object) => read_parameters(&object, theta, hparams),
        None => Err(parameters.error(key, "is missing")),
    };
    let windowed = of("sliding_attention", WINDOWED_THETA)?;
    if windowed.scaling != Scaling::None {
        return Err(parameters.error("sliding_attention", "scaling of windowed layers is not supported"));
    }
    Ok((of("full_attention", FULL_THETA)?, windowed.theta))
}

/// Reads `rope_parameters` or the older `rope_scaling`; `theta` is the base when it is not among them.
fn read_parameters(parameters: &Object, theta: f32, hparams: &Hparams) -> Result<Rope, Error> {
    let theta = positive(parameters, "rope_theta", Some(theta))?;
    if let Some(value) = parameters.get("partial_rotary_factor").filter(|value| value.as_f64() != Some(1.0)) {
        return Err(parameters.error("partial_rotary_factor", format!("{} is not supported", shorten(value))));
    }
    let key = if parameters.get("rope_type").is_some() { "rope_type" } else { "type" };
    let original = || match parameters.get("original_max_position_embeddings") {
        Some(_) => parameters.count("original_max_position_embeddings"),
        None => Ok(hparams.context_tokens),
    };
    let scaling = match parameters.str_if_there(key)?.unwrap_or("default") {
        "default" => Scaling::None,
        "linear" => Scaling::Linear(factor(parameters)?),
        "llama3" => {
            let low = positive(parameters, "low_freq_factor", None)?;
            let high = positive(parameters, "high_freq_factor", None)?;
            if high <= low {
                return Err(parameters.error("high_freq_factor", format!("{high} is not above low_freq_factor {low}")));
            }
            Scaling::Llama3 { factor: factor(parameters)?, low, high, original: original()? }
        }
        "yarn" => {
            for unsupported in ["mscale", "mscale_all_dim"] {
                if parameters.get(unsupported).is_some() {
                    return Err(parameters.error(unsupported, "is not supported"));
                }
            }
            if !parameters.bool_or("truncate", true)? {
                return Err(parameters.error("truncate", "false is not supported"));
            }
            let attention = parameters.get("attention_factor").map(|_| positive(parameters, "attention_factor", None));
            Scaling::Yarn {
                factor: factor(parameters)?,
                original: original()?,
                attention: attention.transpose()?,
                beta_fast: positive(parameters, "beta_fast", Some(32.0))?,
                beta_slow: positive(parameters, "beta_slow", Some(1.0))?,
            }
        }
        other => {
            let message = format!("'{other}' is not supported (only default, linear, llama3, yarn)");
            return Err(parameters.error(key, message));
        }
    };
    Ok(Rope { theta, scaling })
}

fn factor(parameters: &Object) -> Result<f32, Error> {
    let factor = positive(parameters, "factor", None)?;
    if factor < 1.0 { Err(parameters.error("factor", format!("{factor} is less than 1"))) } else { Ok(factor) }
}

fn positive(object: &Object, key: &str, default: Option<f32>) -> Result<f32, Error> {
    let value = object.f32_if_there(key)?.or(default).ok_or_else(|| object.error(key, "is missing"))?;
    if value > 0.0 { Ok(value) } else { Err(object.error(key, format!("{value} is not positive"))) }
}
