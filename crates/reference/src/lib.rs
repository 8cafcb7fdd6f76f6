//! An independent oracle: GGUF bytes to tokens, read from top to bottom. It shares no code with the engine.
//!
//! Weights are dequantized to f32; every sum, product and function after that is f64, one token at a time, in plain
//! loops. So it has no rounding, batching, tiling or caching trick of its own to argue about: where it and the engine
//! differ by more than f32 rounding, the engine is wrong. It is slow, and meant for models of a few million weights.
//!
//! From top to bottom: [`File`], [`Tensor`], `Hparams`, `Rope`, [`Model`], [`Session`] (the forward pass).
//! [`llama2c`] reads llama2.c's files into the same [`Model`].

pub mod llama2c;

use std::collections::HashMap;
use std::f64::consts::{PI, TAU};

/// What is wrong with a file, in words.
pub type Result<T> = std::result::Result<T, String>;

/// A metadata value; every integer type is [`Value::Int`].
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Any of the eight integer types.
    Int(i128),
    /// f32 or f64.
    Float(f64),
    /// A boolean.
    Bool(bool),
    /// A string, which need not be UTF-8.
    Text(Vec<u8>),
    /// An array.
    List(Vec<Value>),
}

/// A GGUF file read whole: versions 1 to 3, either byte order.
#[derive(Clone, Debug)]
pub struct File {
    /// Metadata.
    pub keys: HashMap<String, Value>,
    /// Weights by name.
    pub tensors: HashMap<String, Tensor>,
}

/// A reader that knows the byte order and the width of counts.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    big: bool,
    version: u32,
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(n).filter(|&end| end <= self.bytes.len());
        let taken = &self.bytes[self.at..end.ok_or(format!("ends in a field at offset {}", self.at))?];
        self.at += n;
        Ok(taken)
    }

    /// An unsigned number of `n` bytes.
    fn number(&mut self, n: usize) -> Result<u64> {
        let bytes = self.take(n)?;
        let push = |value, &byte: &u8| value << 8 | u64::from(byte);
        Ok(if self.big { bytes.iter().fold(0, push) } else { bytes.iter().rev().fold(0, push) })
    }

    /// A count or length: 32 bits in version 1, 64 later.
    fn count(&mut self) -> Result<usize> {
        let count = self.number(if self.version == 1 { 4 } else { 8 })?;
        usize::try_from(count).map_err(|_| format!("the count {count} at offset {} is too large", self.at))
    }

    fn text(&mut self) -> Result<Vec<u8>> {
        let n = self.count()?;
        Ok(self.take(n)?.to_vec())
    }

    fn value(&mut self, kind: u64) -> Result<Value> {
        Ok(match kind {
            0 => Value::Int(self.number(1)?.into()),
            1 => Value::Int((self.number(1)? as i8).into()),
            2 => Value::Int(self.number(2)?.into()),
            3 => Value::Int((self.number(2)? as i16).into()),
            4 => Value::Int(self.number(4)?.into()),
            5 => Value::Int((self.number(4)? as i32).into()),
            6 => Value::Float(f32::from_bits(self.number(4)? as u32).into()),
            7 => Value::Bool(self.number(1)? != 0),
            8 => Value::Text(self.text()?),
            9 => {
                let element = self.number(4)?;
                if element == 9 {
                    return Err(format!("an array of arrays at offset {}", self.at));
                }
                let n = self.count()?;
                Value::List((0..n).map(|_| self.value(element)).collect::<Result<_>>()?)
            }
            10 => Value::Int(self.number(8)?.into()),
            11 => Value::Int((self.number(8)? as i64).into()),
            12 => Value::Float(f64::from_bits(self.number(8)?)),
            _ => return Err(format!("unknown value type {kind} at offset {}", self.at)),
        })
    }
}

impl File {
    /// Reads a whole GGUF file.
    ///
    /// # Errors
    /// A field that is cut short, unknown or does not fit the file.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader { bytes, at: 0, big: false, version: 3 };
        if reader.take(4)? != b"GGUF" {
            return Err("not a GGUF file".into());
        }
        reader.version = reader.number(4)? as u32;
        if reader.version > 0xffff {
            reader.big = true;
            reader.version = reader.version.swap_bytes();
        }
        if !(1..=3).contains(&reader.version) {
            return Err(format!("GGUF version {}", reader.version));
        }
        let (n_tensors, n_keys) = (reader.count()?, reader.count()?);
        let mut keys = HashMap::new();
        for _ in 0..n_keys {
            let name = String::from_utf8(reader.text()?).map_err(|error| error.to_string())?;
            let kind = reader.number(4)?;
            keys.insert(name, reader.value(kind)?);
        }
        let mut found = Vec::new();
        for _ in 0..n_tensors {
            let name = String::from_utf8(reader.text()?).map_err(|error| error.to_string())?;
            let n_dims = reader.number(4)?;
            let dims = (0..n_dims).map(|_| reader.count()).collect::<Result<Vec<_>>>()?;
            let (kind, offset) = (reader.number(4)?, reader.number(8)?);
            found.push((name, dims, kind, offset as usize));
        }
        let alignment = match keys.get("general.alignment") {
            Some(&Value::Int(alignment)) if (1..=65536).contains(&alignment) => alignment as usize,
            Some(value) => return Err(format!("general.alignment is {value:?}")),
            None => 32,
        };
        let start = reader.at.next_multiple_of(alignment);
        let mut tensors = HashMap::new();
        for (name, dims, kind, offset) in found {
            let data = start.checked_add(offset).and_then(|at| bytes.get(at..));
            let data = data.ok_or(format!("{name}: begins at {offset}, behind the end of the file"))?;
            let tensor = Tensor::read(&dims, kind, data, reader.big).map_err(|why| format!("{name}: {why}"))?;
            tensors.insert(name, tensor);
        }
        Ok(Self { keys, tensors })
    }
}

/// A matrix of f32; a vector has one row.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Outputs.
    pub n_rows: usize,
    /// Inputs; the contiguous dimension.
    pub n_cols: usize,
    /// (n_rows, n_cols)
    pub data: Vec<f32>,
}

impl Tensor {
    /// Dequantizes what `data` begins with. Block layouts: `ggml-common.h` of the ggml project.
    fn read(dims: &[usize], kind: u64, data: &[u8], big: bool) -> Result<Self> {
        // Values and bytes of a block.
        let (values, size) = match kind {
            0 => (1, 4),
            1 | 30 => (1, 2),
            2 => (32, 18),
            3 => (32, 20),
            6 => (32, 22),
            7 => (32, 24),
            8 => (32, 34),
            _ => return Err(format!("type {kind} is not known here")),
        };
        let n_cols = *dims.first().ok_or("no dimensions")?;
        let n_rows = dims[1..].iter().try_fold(1usize, |product, &dim| product.checked_mul(dim));
        let n_rows = n_rows.ok_or("dimensions overflow")?;
        let n_bytes =
            n_rows.checked_mul(n_cols).and_then(|n| (n / values).checked_mul(size)).ok_or("size overflows")?;
        if n_cols % values != 0 {
            return Err(format!("rows of {n_cols} are no multiple of {values}"));
        }
        let bytes = data.get(..n_bytes).ok_or("data reach behind the end of the file")?;
        let mut out = Vec::with_capacity(n_rows * n_cols);
        for block in bytes.chunks_exact(size) {
            dequantize(kind, block, big, &mut out);
        }
        Ok(Self { n_rows, n_cols, data: out })
    }

    /// One row.
    fn row(&self, index: usize) -> &[f32] {
        &self.data[index * self.n_cols..(index + 1) * self.n_cols]
    }

    /// `self * x`, each dot product in f64.
    fn times(&self, x: &[f64]) -> Vec<f64> {
        assert_eq!(x.len(), self.n_cols, "a matrix of {} columns meets a vector of {}", self.n_cols, x.len());
        let dot = |row| self.row(row).iter().zip(x).map(|(&weight, x)| f64::from(weight) * x).sum();
        (0..self.n_rows).map(dot).collect()
    }
}

/// The bits of an IEEE half as f32.
fn half(bits: u16) -> f32 {
    let (sign, exponent, fraction) = (bits >> 15, i32::from(bits >> 10 & 31), f32::from(bits & 1023));
    let magnitude = match exponent {
        0 => fraction * 2f32.powi(-24),
        31 if fraction == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        _ => (1.0 + fraction / 1024.0) * 2f32.powi(exponent - 15),
    };
    if sign == 1 { -magnitude } else { magnitude }
}

/// Appends the values of one block.
fn dequantize(kind: u64, block: &[u8], big: bool, out: &mut Vec<f32>) {
    let u16_at = |at: usize| {
        let bytes = [block[at], block[at + 1]];
        if big { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) }
    };
    let u32_at = |at: usize| {
        let bytes = [block[at], block[at + 1], block[at + 2], block[at + 3]];
        if big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
    };
    match kind {
        0 => out.push(f32::from_bits(u32_at(0))),
        1 => out.push(half(u16_at(0))),
        30 => out.push(f32::from_bits(u32::from(u16_at(0)) << 16)),
        8 => out.extend(block[2..].iter().map(|&q| half(u16_at(0)) * f32::from(q as i8))),
        // Q4_0, Q4_1, Q5_0, Q5_1: scale, minimum of the _1 forms, fifth bits of the Q5 forms, then nibbles: value i
        // lies in the low half of byte i, value i + 16 in its high half.
        _ => {
            let (has_min, five_bits) = (kind == 3 || kind == 7, kind >= 6);
            let high_at = if has_min { 4 } else { 2 };
            let high = if five_bits { u32_at(high_at) } else { 0 };
            let nibbles = &block[if five_bits { high_at + 4 } else { high_at }..];
            let zero = if has_min { 0.0 } else { [8.0, 16.0][usize::from(five_bits)] };
            let min = if has_min { half(u16_at(2)) } else { 0.0 };
            for index in 0..32 {
                let low = nibbles[index % 16] >> (index / 16 * 4) & 15;
                let q = f32::from(low | ((high >> index & 1) as u8) << 4);
                out.push((q - zero) * half(u16_at(0)) + min);
            }
        }
    }
}

/// The shape of a model and what tells its family from the others.
#[derive(Clone, Debug)]
struct Hparams {
    arch: String,
    n_layers: usize,
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
    /// Added to the variance in norms.
    norm_eps: f64,
    /// What scores are multiplied with.
    attention_scale: f64,
    /// How many positions a windowed layer sees, the present one included.
    window: usize,
    /// Which layers are windowed: (n_layers)
    is_windowed: Vec<bool>,
    /// Rotation of the layers without a window; none in gpt2 and gptneo.
    rope: Option<Rope>,
    rope_windowed: Option<Rope>,
}

/// Rotary embedding of one kind of layer.
#[derive(Clone, Debug)]
struct Rope {
    /// Radians per position of each pair of dimensions.
    frequencies: Vec<f64>,
    /// What cosines and sines are multiplied with (YaRN).
    magnitude: f64,
    /// Whether pairs are neighbours (llama as GGUF stores it) or half a head apart (the others).
    interleaved: bool,
}

impl File {
    fn find(&self, arch: &str, key: &str) -> Option<&Value> {
        self.keys.get(&format!("{arch}.{key}"))
    }

    fn float(&self, arch: &str, key: &str) -> Option<f64> {
        match self.find(arch, key)? {
            Value::Float(value) => Some(*value),
            Value::Int(value) => Some(*value as f64),
            _ => None,
        }
    }

    fn int(&self, arch: &str, key: &str) -> Option<usize> {
        match self.find(arch, key)? {
            Value::Int(value) => usize::try_from(*value).ok(),
            _ => None,
        }
    }

    fn need(&self, arch: &str, key: &str) -> Result<usize> {
        self.int(arch, key).ok_or(format!("no {arch}.{key}"))
    }

    fn hparams(&self) -> Result<Hparams> {
        let Some(Value::Text(arch)) = self.keys.get("general.architecture") else {
            return Err("no general.architecture".into());
        };
        let arch = String::from_utf8_lossy(arch).into_owned();
        if !["llama", "qwen2", "qwen3", "gemma3", "gpt2", "gptneo"].contains(&arch.as_str()) {
            return Err(format!("the architecture {arch} is not known here"));
        }
        let scalings = ["none", "linear", "yarn"].map(|name| Value::Text(name.into()));
        if self.find(&arch, "rope.scaling.type").is_some_and(|scaling| !scalings.contains(scaling)) {
            return Err(format!("{arch}.rope.scaling.type is none of none, linear and yarn"));
        }
        let n_layers = self.need(&arch, "block_count")?;
        let n_heads = self.need(&arch, "attention.head_count")?;
        let n_embd = self.need(&arch, "embedding_length")?;
        let head_dim = self.int(&arch, "attention.key_length").or(n_embd.checked_div(n_heads));
        let head_dim = head_dim.filter(|&n| n > 0).ok_or("heads without width")?;
        let eps = ["attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"];
        let norm_eps = eps.iter().find_map(|key| self.float(&arch, key)).ok_or("no norm epsilon")?;
        let window = self.int(&arch, "attention.sliding_window").unwrap_or(0);
        let is_windowed = |layer: usize| match self.find(&arch, "attention.sliding_window_pattern") {
            Some(Value::List(pattern)) => pattern.get(layer) == Some(&Value::Bool(true)),
            // gemma3 files without a pattern have five windowed layers for each global one.
            _ => arch != "gemma3" || !(layer + 1).is_multiple_of(6),
        };
        let scale = if arch == "gptneo" { 1.0 } else { 1.0 / (head_dim as f64).sqrt() };
        Ok(Hparams {
            n_layers,
            n_heads,
            n_kv_heads: self.int(&arch, "attention.head_count_kv").unwrap_or(n_heads),
            head_dim,
            norm_eps,
            attention_scale: self.float(&arch, "attention.scale").unwrap_or(scale),
            window,
            is_windowed: (0..n_layers).map(|layer| window > 0 && is_windowed(layer)).collect(),
            rope: self.rope(&arch, head_dim, false),
            rope_windowed: self.rope(&arch, head_dim, true),
            arch,
        })
    }

    /// The rotation of `windowed` layers or the others. Scalings: linear, YaRN (arXiv 2309.00071, with ggml's choice
    /// of its constants), and llama3's, which is a tensor of divisors.
    fn rope(&self, arch: &str, head_dim: usize, windowed: bool) -> Option<Rope> {
        if arch.starts_with("gpt") {
            return None;
        }
        let local = windowed && arch == "gemma3";
        let base = self.float(arch, "rope.freq_base").unwrap_or(10000.0);
        let base = if local { self.float(arch, "rope.freq_base_swa").unwrap_or(10000.0) } else { base };
        let n_dims = self.int(arch, "rope.dimension_count").unwrap_or(head_dim);
        let plain = |pair: usize| base.powf(-2.0 * pair as f64 / n_dims as f64);
        let mut frequencies: Vec<f64> = (0..n_dims / 2).map(plain).collect();
        let mut magnitude = 1.0;
        let scaling = if local { None } else { self.find(arch, "rope.scaling.type") };
        let factor = self.float(arch, "rope.scaling.factor").filter(|&factor| factor > 0.0).unwrap_or(1.0);
        if scaling == Some(&Value::Text(b"linear".to_vec())) {
            frequencies.iter_mut().for_each(|frequency| *frequency /= factor);
        }
        if scaling == Some(&Value::Text(b"yarn".to_vec())) {
            let trained = ["rope.scaling.original_context_length", "context_length"];
            let trained = trained.iter().find_map(|key| self.float(arch, key)).unwrap_or(0.0);
            // The pair that turns `turns` times over the context trained on.
            let pair_of = |turns: f64| n_dims as f64 * (trained / (turns * TAU)).ln() / (2.0 * base.ln());
            let turns = |key, default| self.float(arch, key).unwrap_or(default);
            let low = pair_of(turns("rope.scaling.yarn_beta_fast", 32.0)).floor().max(0.0);
            let high = pair_of(turns("rope.scaling.yarn_beta_slow", 1.0)).ceil().min(n_dims as f64 - 1.0);
            for (pair, frequency) in frequencies.iter_mut().enumerate() {
                let ramp = ((pair as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
                *frequency = *frequency * (1.0 - ramp) + *frequency / factor * ramp;
            }
            let attn = ["rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor"].map(|key| turns(key, 1.0));
            magnitude = attn[0] * attn[1] * (1.0 + 0.1 * factor.ln());
        }
        if let (Some(divisors), false) = (self.tensors.get("rope_freqs.weight"), local) {
            frequencies.iter_mut().zip(&divisors.data).for_each(|(frequency, &by)| *frequency /= f64::from(by));
        }
        Some(Rope { frequencies, magnitude, interleaved: arch == "llama" })
    }
}

impl Rope {
    /// Rotates the heads of `x` (heads, head_dim) to `position`.
    fn rotate(&self, x: &mut [f64], head_dim: usize, position: usize) {
        let half = self.frequencies.len();
        for head in x.chunks_exact_mut(head_dim) {
            for (pair, frequency) in self.frequencies.iter().enumerate() {
                let (sin, cos) = (position as f64 * frequency).sin_cos();
                let (sin, cos) = (sin * self.magnitude, cos * self.magnitude);
                let (i, j) = if self.interleaved { (2 * pair, 2 * pair + 1) } else { (pair, pair + half) };
                (head[i], head[j]) = (head[i] * cos - head[j] * sin, head[i] * sin + head[j] * cos);
            }
        }
    }
}

/// A whole model, dequantized.
#[derive(Clone, Debug)]
pub struct Model {
    hparams: Hparams,
    tensors: HashMap<String, Tensor>,
}

impl Model {
    /// Reads a GGUF file of one of the known architectures.
    ///
    /// # Errors
    /// What [`File::parse`] finds, an unknown architecture, or a missing key or tensor.
    pub fn from_gguf(bytes: &[u8]) -> Result<Self> {
        let file = File::parse(bytes)?;
        let hparams = file.hparams()?;
        Self::new(hparams, file.tensors)
    }

    fn new(hparams: Hparams, tensors: HashMap<String, Tensor>) -> Result<Self> {
        for name in ["token_embd.weight", "output_norm.weight"] {
            tensors.get(name).ok_or(format!("no {name}"))?;
        }
        for layer in 0..hparams.n_layers {
            for name in ["attn_norm", "attn_output", "ffn_norm", "ffn_up", "ffn_down"] {
                let name = format!("blk.{layer}.{name}.weight");
                tensors.get(&name).ok_or(format!("no {name}"))?;
            }
        }
        Ok(Self { hparams, tensors })
    }

    /// The size of the vocabulary.
    pub fn n_vocab(&self) -> usize {
        self.tensors["token_embd.weight"].n_rows
    }

    /// The logits at every position of `ids`: (ids, n_vocab).
    pub fn logits(&self, ids: &[u32]) -> Vec<Vec<f32>> {
        let mut session = Session::new(self);
        ids.iter().map(|&id| session.forward(id)).collect()
    }

    /// `ids` and up to `n_new` more, each the best one; before the token `end`, if it comes, no more follow.
    pub fn greedy(&self, ids: &[u32], n_new: usize, end: Option<u32>) -> Vec<u32> {
        let mut session = Session::new(self);
        let mut logits = Vec::new();
        ids.iter().for_each(|&id| logits = session.forward(id));
        let mut told = ids.to_vec();
        for _ in 0..n_new {
            let best = (0..logits.len()).rev().max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
            let Some(next) = best.map(|best| best as u32).filter(|&next| Some(next) != end) else { break };
            told.push(next);
            logits = session.forward(next);
        }
        told
    }

    fn get(&self, layer: usize, name: &str) -> Option<&Tensor> {
        self.tensors.get(&format!("blk.{layer}.{name}"))
    }

    /// `name.weight * x`, plus `name.bias` where there is one; `None` where there is no such weight.
    fn linear(&self, layer: usize, name: &str, x: &[f64]) -> Option<Vec<f64>> {
        let mut y = self.get(layer, &format!("{name}.weight"))?.times(x);
        if let Some(bias) = self.get(layer, &format!("{name}.bias")) {
            y.iter_mut().zip(&bias.data).for_each(|(y, &bias)| *y += f64::from(bias));
        }
        Some(y)
    }

    /// Normalizes every run of `weight.n_cols` values of `x`: LayerNorm for the gpt families, RMSNorm for the others.
    fn norm(&self, x: &[f64], weight: &Tensor, bias: Option<&Tensor>) -> Vec<f64> {
        let mut out = Vec::with_capacity(x.len());
        for run in x.chunks_exact(weight.n_cols) {
            let n = run.len() as f64;
            let mean = if self.hparams.arch.starts_with("gpt") { run.iter().sum::<f64>() / n } else { 0.0 };
            let variance = run.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n;
            let scale = 1.0 / (variance + self.hparams.norm_eps).sqrt();
            for (index, x) in run.iter().enumerate() {
                let bias = bias.map_or(0.0, |bias| f64::from(bias.data[index]));
                out.push((x - mean) * scale * f64::from(weight.data[index]) + bias);
            }
        }
        out
    }

    /// The norm `name` of a layer; `x` as it is where the layer has none.
    fn layer_norm(&self, layer: usize, name: &str, x: Vec<f64>) -> Vec<f64> {
        match self.get(layer, &format!("{name}.weight")) {
            Some(weight) => self.norm(&x, weight, self.get(layer, &format!("{name}.bias"))),
            None => x,
        }
    }
}

/// A model and the keys and values of the tokens it has seen.
#[derive(Clone, Debug)]
pub struct Session<'m> {
    model: &'m Model,
    n_seen: usize,
    /// Per layer: (n_seen, n_kv_heads, head_dim)
    keys: Vec<Vec<f64>>,
    /// Per layer: (n_seen, n_kv_heads, head_dim)
    values: Vec<Vec<f64>>,
}

impl<'m> Session<'m> {
    /// A session that has seen nothing.
    pub fn new(model: &'m Model) -> Self {
        let empty = vec![Vec::new(); model.hparams.n_layers];
        Self { model, n_seen: 0, keys: empty.clone(), values: empty }
    }

    /// Sees one more token and returns the logits of what follows: (n_vocab).
    ///
    /// # Panics
    /// When the token is not in the vocabulary, or tensors do not fit each other.
    pub fn forward(&mut self, id: u32) -> Vec<f32> {
        let model = self.model;
        let embedding = &model.tensors["token_embd.weight"];
        let mut x: Vec<f64> = embedding.row(id as usize).iter().map(|&x| x.into()).collect();
        if model.hparams.arch == "gemma3" {
            let scale = (x.len() as f64).sqrt();
            x.iter_mut().for_each(|x| *x *= scale);
        }
        if let Some(positions) = model.tensors.get("position_embd.weight") {
            x.iter_mut().zip(positions.row(self.n_seen)).for_each(|(x, &position)| *x += f64::from(position));
        }
        for layer in 0..model.hparams.n_layers {
            let attended = self.attention(layer, &model.layer_norm(layer, "attn_norm", x.clone()));
            let attended = model.layer_norm(layer, "post_attention_norm", attended);
            x.iter_mut().zip(attended).for_each(|(x, y)| *x += y);
            let fed = feed_forward(model, layer, &model.layer_norm(layer, "ffn_norm", x.clone()));
            let fed = model.layer_norm(layer, "post_ffw_norm", fed);
            x.iter_mut().zip(fed).for_each(|(x, y)| *x += y);
        }
        self.n_seen += 1;
        let x = model.norm(&x, &model.tensors["output_norm.weight"], model.tensors.get("output_norm.bias"));
        let output = model.tensors.get("output.weight").unwrap_or(embedding);
        output.times(&x).into_iter().map(|logit| logit as f32).collect()
    }

    /// Attention of the new token to itself and the ones before, within the layer's window.
    fn attention(&mut self, layer: usize, x: &[f64]) -> Vec<f64> {
        let (model, h) = (self.model, &self.model.hparams);
        let (n_query, n_kv) = (h.n_heads * h.head_dim, h.n_kv_heads * h.head_dim);
        let fused = model.linear(layer, "attn_qkv", x);
        let part = |name: &str, from: usize, n: usize| match &fused {
            Some(fused) => fused[from..from + n].to_vec(),
            None => model.linear(layer, name, x).unwrap_or_else(|| panic!("no blk.{layer}.{name}.weight")),
        };
        let mut query = model.layer_norm(layer, "attn_q_norm", part("attn_q", 0, n_query));
        let mut key = model.layer_norm(layer, "attn_k_norm", part("attn_k", n_query, n_kv));
        let windowed = h.is_windowed[layer];
        if let Some(rope) = if windowed { &h.rope_windowed } else { &h.rope } {
            rope.rotate(&mut query, h.head_dim, self.n_seen);
            rope.rotate(&mut key, h.head_dim, self.n_seen);
        }
        self.keys[layer].extend(key);
        self.values[layer].extend(part("attn_v", n_query + n_kv, n_kv));
        let first = if windowed { (self.n_seen + 1).saturating_sub(h.window) } else { 0 };
        let mut mixed = vec![0.0; n_query];
        for head in 0..h.n_heads {
            let query = &query[head * h.head_dim..][..h.head_dim];
            let kv_head = head * h.n_kv_heads / h.n_heads;
            let at = |position: usize| position * n_kv + kv_head * h.head_dim;
            let score = |position| {
                let key = &self.keys[layer][at(position)..];
                query.iter().zip(key).map(|(q, k)| q * k).sum::<f64>() * h.attention_scale
            };
            let scores: Vec<f64> = (first..=self.n_seen).map(score).collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = scores.iter().map(|score| (score - max).exp()).sum();
            for (position, score) in (first..).zip(scores) {
                let weight = (score - max).exp() / sum;
                let value = &self.values[layer][at(position)..];
                mixed[head * h.head_dim..][..h.head_dim].iter_mut().zip(value).for_each(|(y, v)| *y += weight * v);
            }
        }
        model.linear(layer, "attn_output", &mixed).expect("checked when the model was read")
    }
}

/// Two layers with GELU between (gpt families), or three with a gate: GELU in gemma3, SiLU in the others.
fn feed_forward(model: &Model, layer: usize, x: &[f64]) -> Vec<f64> {
    let gelu = |x: f64| 0.5 * x * (1.0 + ((2.0 / PI).sqrt() * (x + 0.044715 * x * x * x)).tanh());
    let silu = |x: f64| x / (1.0 + (-x).exp());
    let mut hidden = model.linear(layer, "ffn_up", x).expect("checked when the model was read");
    match model.linear(layer, "ffn_gate", x) {
        None => hidden.iter_mut().for_each(|x| *x = gelu(*x)),
        Some(gate) if model.hparams.arch == "gemma3" => hidden.iter_mut().zip(gate).for_each(|(x, g)| *x *= gelu(g)),
        Some(gate) => hidden.iter_mut().zip(gate).for_each(|(x, g)| *x *= silu(g)),
    }
    model.linear(layer, "ffn_down", &hidden).expect("checked when the model was read")
}
