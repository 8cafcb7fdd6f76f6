//! What a model's matrices are multiplied with on real text: how much each input column matters, and how they go together.
//!
//! [`Collector`] watches an engine and sums; [`Calibration`] reads what was written of it, or an imatrix of llama.cpp. The
//! importance of a column is the mean of its squares (the imatrix of llama.cpp); the second moment `E[x x^T]` of a whole input
//! is what error feedback goes by (the Hessian of GPTQ, Frantar et al. 2022, and LDLQ, Chee et al. 2023).
//!
//! The file is llama.cpp's: a GGUF whose `general.type` is `imatrix`, with two F32 tensors for each matrix, `NAME.in_sum2`
//! (columns, matrices) and `NAME.counts` (1, matrices): the sums of squares, and how many tokens they are of. Ours adds
//! `INPUT.in_moment` (columns * (columns + 1) / 2): the rows of the upper triangle of the sum of `x x^T`, one after the other,
//! for every distinct input. llama.cpp passes over tensors with other endings.

mod collect;
mod error;
mod legacy;

pub use collect::{Collector, Sums};
pub use error::Error;

use smidgen_core::bytes::Endian;
use smidgen_core::engine::Input;
use smidgen_core::gguf::{Gguf, Tensor, Value};
use smidgen_core::model::Hparams;
use smidgen_core::quant::Type;
use std::collections::BTreeMap;

/// The value of `general.type`.
pub const GENERAL_TYPE: &str = "imatrix";
/// The endings of the tensors of one matrix, and of one input.
pub const SUMS: &str = ".in_sum2";
/// As [`SUMS`].
pub const COUNTS: &str = ".counts";
/// As [`SUMS`].
pub const MOMENT: &str = ".in_moment";

/// Every distinct input of a model, with its columns, in the order in which a forward pass meets them.
pub fn inputs(h: &Hparams<'_>) -> Vec<(Input, usize)> {
    let of_layer = |layer: usize| {
        [
            (Input::Attention(layer), h.n_embd),
            (Input::AttentionOutput(layer), h.query_width()),
            (Input::FeedForward(layer), h.n_embd),
            (Input::Down(layer), h.n_ff),
        ]
    };
    (0..h.n_layers).flat_map(of_layer).chain([(Input::Output, h.n_embd)]).collect()
}

/// The input that the matrix called `tensor` is multiplied with; `None` for what is no such matrix. The embedding counts as
/// the output matrix, which it is where a model has no other.
pub fn input_of(tensor: &str) -> Option<Input> {
    if matches!(tensor, "output.weight" | "token_embd.weight") {
        return Some(Input::Output);
    }
    let (layer, part) = tensor.strip_prefix("blk.")?.split_once('.')?;
    let layer = layer.parse().ok()?;
    match part.strip_suffix(".weight")? {
        "attn_q" | "attn_k" | "attn_v" | "attn_qkv" => Some(Input::Attention(layer)),
        "attn_output" => Some(Input::AttentionOutput(layer)),
        "ffn_gate" | "ffn_up" => Some(Input::FeedForward(layer)),
        "ffn_down" => Some(Input::Down(layer)),
        _ => None,
    }
}

/// The name of an input, which its moment is stored under.
pub fn input_name(input: Input) -> String {
    match input {
        Input::Attention(layer) => format!("blk.{layer}.attn_input"),
        Input::AttentionOutput(layer) => format!("blk.{layer}.attn_output_input"),
        Input::FeedForward(layer) => format!("blk.{layer}.ffn_input"),
        Input::Down(layer) => format!("blk.{layer}.ffn_down_input"),
        Input::Output => "output_input".to_owned(),
    }
}

/// The matrices of `gguf` that have an input, by name, in the order of the file. The embedding is among them only where it is
/// the output matrix too.
pub fn matrices<'a>(gguf: &Gguf<'a>) -> Vec<(&'a str, Input)> {
    let is_tied = gguf.tensor(&["output.weight"]).is_none();
    let names = gguf.tensors().filter_map(|tensor| std::str::from_utf8(tensor.name).ok());
    let with_inputs = names.filter_map(|name| input_of(name).map(|input| (name, input)));
    with_inputs.filter(|(name, _)| is_tied || *name != "token_embd.weight").collect()
}

/// The second moment of an input: the mean of `x x^T`.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    columns: usize,
    n_tokens: f64,
    upper: Upper<'a>,
}

/// The rows of the upper triangle of the sum.
#[derive(Clone, Copy, Debug)]
enum Upper<'a> {
    Summed(&'a [f64]),
    Stored(&'a [[u8; 4]], Endian),
}

/// How many values the upper triangle of a square of `columns` has.
pub fn triangle(columns: usize) -> usize {
    columns * (columns + 1) / 2
}

impl Moment<'_> {
    /// Columns of the input.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The mean of `x x^T`, (columns, columns), both triangles.
    pub fn square(&self) -> Vec<f32> {
        let n = self.columns;
        let mut square = vec![0.0; n * n];
        let mut at = 0;
        for i in 0..n {
            for j in i..n {
                let sum = match self.upper {
                    Upper::Summed(sums) => sums[at],
                    Upper::Stored(bytes, Endian::Little) => f32::from_le_bytes(bytes[at]).into(),
                    Upper::Stored(bytes, Endian::Big) => f32::from_be_bytes(bytes[at]).into(),
                };
                let mean = (sum / self.n_tokens) as f32;
                square[i * n + j] = mean;
                square[j * n + i] = mean;
                at += 1;
            }
        }
        square
    }
}

/// Where a moment lies.
#[derive(Clone, Copy, Debug)]
struct Stored<'a> {
    columns: usize,
    bytes: &'a [[u8; 4]],
    endian: Endian,
}

/// What is known of a model's inputs.
#[derive(Clone, Debug, Default)]
pub struct Calibration<'a> {
    /// Mean squares of the columns of each matrix.
    importance: BTreeMap<String, Vec<f32>>,
    /// Tokens that each matrix saw.
    n_tokens: BTreeMap<String, f32>,
    moments: BTreeMap<String, Stored<'a>>,
    /// The texts that it was collected from.
    pub datasets: Vec<String>,
    /// How many chunks of text.
    pub n_chunks: u64,
    /// Tokens of a chunk.
    pub chunk_tokens: u64,
}

impl<'a> Calibration<'a> {
    /// Reads the file in `bytes`: GGUF, or the older binary form (`.dat`).
    ///
    /// # Errors
    /// What is missing, of another shape, or no number.
    pub fn read(bytes: &'a [u8]) -> Result<Self, Error> {
        if bytes.starts_with(b"GGUF") {
            let gguf = Gguf::parse(bytes, bytes.len() as u64).map_err(Error::Gguf)?;
            return Self::parse(&gguf);
        }
        legacy::read(bytes)
    }

    /// Reads the tensors of `gguf`.
    ///
    /// # Errors
    /// As [`Calibration::read`].
    pub fn parse(gguf: &Gguf<'a>) -> Result<Self, Error> {
        if gguf.get("general.type").and_then(|value| value.as_str()) != Some(GENERAL_TYPE.as_bytes()) {
            return Err(Error::NotImatrix);
        }
        let number = |key: &str| gguf.get(key).and_then(|value| value.as_u64()).unwrap_or(0);
        let datasets = gguf.get("imatrix.datasets").and_then(|value| value.as_array());
        let texts = datasets.iter().flat_map(|array| array.iter()).filter_map(|value| match value {
            Value::Str(text) => Some(String::from_utf8_lossy(text).into_owned()),
            _ => None,
        });
        let mut calibration = Calibration {
            datasets: texts.collect(),
            n_chunks: number("imatrix.chunk_count"),
            chunk_tokens: number("imatrix.chunk_size"),
            ..Calibration::default()
        };
        for tensor in gguf.tensors() {
            let name = String::from_utf8_lossy(tensor.name).into_owned();
            if let Some(matrix) = name.strip_suffix(SUMS) {
                let counts =
                    gguf.tensor(&[matrix, COUNTS]).ok_or_else(|| Error::Missing(format!("{matrix}{COUNTS}")))?;
                calibration.add(matrix, &floats(gguf, &tensor)?, &floats(gguf, &counts)?)?;
            } else if let Some(input) = name.strip_suffix(MOMENT) {
                let stored = moment(gguf, &tensor)?;
                calibration.moments.insert(input.to_owned(), stored);
            }
        }
        if calibration.importance.is_empty() { Err(Error::Empty) } else { Ok(calibration) }
    }

    /// Adds the matrix `name`, of whose columns these are the sums; a matrix without tokens has columns that matter alike.
    fn add(&mut self, name: &str, sums: &[f32], counts: &[f32]) -> Result<(), Error> {
        if counts.is_empty() || sums.is_empty() || !sums.len().is_multiple_of(counts.len()) {
            return Err(Error::Shape(name.to_owned()));
        }
        let values = sums.iter().enumerate().chain(counts.iter().enumerate());
        if let Some((at, &value)) = values.into_iter().find(|(_, value)| !(value.is_finite() && **value >= 0.0)) {
            return Err(Error::Value(name.to_owned(), at, value));
        }
        let columns = sums.len() / counts.len();
        let means = sums.chunks(columns).zip(counts).flat_map(|(sums, &count)| {
            let mean = move |&sum: &f32| if count > 0.0 { sum / count } else { 1.0 };
            sums.iter().map(mean)
        });
        self.importance.insert(name.to_owned(), means.collect());
        self.n_tokens.insert(name.to_owned(), counts[0]);
        Ok(())
    }

    /// The names of the matrices that something is known of.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.importance.keys().map(String::as_str)
    }

    /// The mean square of each column of what the matrix `tensor` is multiplied with, (columns).
    pub fn importance(&self, tensor: &str) -> Option<&[f32]> {
        self.importance.get(tensor).map(Vec::as_slice)
    }

    /// Whether moments are here, and not importance alone.
    pub fn has_moments(&self) -> bool {
        !self.moments.is_empty()
    }

    /// The second moment of what the matrix `tensor` is multiplied with, where it was collected.
    pub fn moment(&self, tensor: &str) -> Option<Moment<'a>> {
        let stored = self.moments.get(&input_name(input_of(tensor)?))?;
        let n_tokens = f64::from(*self.n_tokens.get(tensor)?);
        let upper = Upper::Stored(stored.bytes, stored.endian);
        (n_tokens > 0.0).then_some(Moment { columns: stored.columns, n_tokens, upper })
    }

    /// Refuses what was collected from another model than `gguf`: a matrix that it does not have, or of other columns.
    ///
    /// # Errors
    /// The first such matrix.
    pub fn check(&self, gguf: &Gguf<'_>) -> Result<(), Error> {
        for (name, importance) in &self.importance {
            let Some(tensor) = gguf.tensor(&[name]) else { return Err(Error::Foreign(name.clone())) };
            let wanted = tensor.dims[0] * tensor.dims[2];
            if importance.len() as u64 != wanted {
                return Err(Error::Columns(name.clone(), importance.len() as u64, wanted));
            }
            if let Some(moment) = self.moment(name)
                && moment.columns as u64 != tensor.dims[0]
            {
                return Err(Error::Columns(name.clone(), moment.columns as u64, tensor.dims[0]));
            }
        }
        Ok(())
    }
}

/// The bytes of an F32 tensor.
fn words<'a>(gguf: &Gguf<'a>, tensor: &Tensor<'_>) -> Result<&'a [[u8; 4]], Error> {
    let name = || String::from_utf8_lossy(tensor.name).into_owned();
    if tensor.kind != Type::F32 {
        return Err(Error::Kind(name(), tensor.kind.name()));
    }
    gguf.data(tensor).map(|data| data.as_chunks().0).ok_or_else(|| Error::Missing(name()))
}

fn floats(gguf: &Gguf<'_>, tensor: &Tensor<'_>) -> Result<Vec<f32>, Error> {
    let float = match gguf.endian() {
        Endian::Little => f32::from_le_bytes,
        Endian::Big => f32::from_be_bytes,
    };
    Ok(words(gguf, tensor)?.iter().map(|&bytes| float(bytes)).collect())
}

/// The triangle in `tensor`, whose length must be one.
fn moment<'a>(gguf: &Gguf<'a>, tensor: &Tensor<'_>) -> Result<Stored<'a>, Error> {
    let bytes = words(gguf, tensor)?;
    let columns = (((8 * bytes.len() + 1) as f64).sqrt() as usize).saturating_sub(1) / 2;
    let columns = (columns..columns + 2).find(|&columns| triangle(columns) == bytes.len());
    let columns = columns.ok_or_else(|| Error::Shape(String::from_utf8_lossy(tensor.name).into_owned()))?;
    Ok(Stored { columns, bytes, endian: gguf.endian() })
}

#[cfg(test)]
mod tests;
