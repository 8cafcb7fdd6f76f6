//! `smidgen inspect`: what a model file holds, and what in it is big.

use crate::args::ModelArgs;
use crate::failure::{Failure, Status};
use crate::report::{self, Table, count, printable};
use crate::source::Source;
use clap::Args;
use serde::Serialize;
use smidgen_core::bytes::Endian;
use smidgen_core::gguf::{Gguf, Tensor, Value};
use std::collections::BTreeMap;
use std::io::Write;

/// Elements of an array that are shown.
const SHOWN_ELEMENTS: usize = 8;
/// Arrays up to this long are whole in the JSON.
const WHOLE_ELEMENTS: usize = 64;
/// Characters of a string that are shown.
const SHOWN_LETTERS: usize = 80;

#[derive(Args, Debug)]
pub(super) struct Flags {
    #[command(flatten)]
    model: ModelArgs,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// `smidgen.inspect/1`, described in `docs/json.md`.
#[derive(Serialize)]
struct Report<'a> {
    schema: &'static str,
    model: &'a str,
    gguf_version: u32,
    endian: &'static str,
    alignment: u64,
    bytes: u64,
    n_tensors: usize,
    n_weights: u64,
    weight_bytes: u64,
    /// Bytes of the tensors as they are stored, of a packed file.
    packed_bytes: Option<u64>,
    bits_per_weight: f64,
    metadata: BTreeMap<String, Shown>,
    tensors: Vec<TensorRow>,
    parts: Vec<Share>,
    types: Vec<Share>,
}

/// One tensor.
#[derive(Serialize)]
struct TensorRow {
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    dims: Vec<u64>,
    offset: u64,
    bytes: u64,
    /// Bytes that are stored for it, when it is packed.
    packed_bytes: Option<u64>,
    bits_per_weight: f64,
}

/// What some of the tensors take together.
#[derive(Serialize)]
struct Share {
    name: &'static str,
    n_tensors: usize,
    n_weights: u64,
    bytes: u64,
    bits_per_weight: f64,
    share: f64,
}

/// A metadata value in the JSON.
#[derive(Serialize)]
#[serde(untagged)]
enum Shown {
    Unsigned(u64),
    Signed(i64),
    Single(f32),
    Double(f64),
    Bool(bool),
    Text(String),
    Whole(Vec<Shown>),
    Long { element: String, len: usize, first: Vec<Shown> },
}

impl Shown {
    fn new(value: &Value<'_>) -> Self {
        match *value {
            Value::F32(x) => Shown::Single(x),
            Value::F64(x) => Shown::Double(x),
            Value::Bool(x) => Shown::Bool(x),
            Value::Str(text) => Shown::Text(String::from_utf8_lossy(text).into_owned()),
            Value::Array(array) if array.len() <= WHOLE_ELEMENTS => {
                Shown::Whole(array.iter().map(|value| Shown::new(&value)).collect())
            }
            Value::Array(array) => Shown::Long {
                element: format!("{:?}", array.element()).to_lowercase(),
                len: array.len(),
                first: array.iter().take(SHOWN_ELEMENTS).map(|value| Shown::new(&value)).collect(),
            },
            Value::I8(x) => Shown::Signed(x.into()),
            Value::I16(x) => Shown::Signed(x.into()),
            Value::I32(x) => Shown::Signed(x.into()),
            Value::I64(x) => Shown::Signed(x),
            Value::U8(_) | Value::U16(_) | Value::U32(_) | Value::U64(_) => {
                Shown::Unsigned(value.as_u64().unwrap_or(0))
            }
        }
    }
}

/// The type and the value of a metadata entry, for a terminal.
fn type_and_value(value: &Value<'_>) -> (String, String) {
    let scalar = |value: &Value<'_>| match *value {
        Value::Str(text) => printable(text, SHOWN_LETTERS),
        Value::F32(x) => x.to_string(),
        Value::F64(x) => x.to_string(),
        Value::Bool(x) => x.to_string(),
        Value::I8(x) => x.to_string(),
        Value::I16(x) => x.to_string(),
        Value::I32(x) => x.to_string(),
        Value::I64(x) => x.to_string(),
        _ => value.as_u64().unwrap_or(0).to_string(),
    };
    let Value::Array(array) = value else {
        // The derived name of a value is its type with the value in brackets.
        let name = format!("{value:?}");
        let kind = name.split('(').next().unwrap_or_default().to_lowercase();
        return (kind, scalar(value));
    };
    let mut elements: Vec<String> = array.iter().take(SHOWN_ELEMENTS).map(|value| scalar(&value)).collect();
    if array.len() > SHOWN_ELEMENTS {
        elements.push("...".to_owned());
    }
    let kind = format!("{}[{}]", format!("{:?}", array.element()).to_lowercase(), array.len());
    (kind, format!("[{}]", elements.join(", ")))
}

/// The part of a model that a tensor belongs to, by the names that GGUF gives them.
fn part(name: &[u8]) -> &'static str {
    let has = |word: &str| name.windows(word.len()).any(|window| window == word.as_bytes());
    match () {
        () if has("norm") => "norms",
        () if has("attn") => "attention",
        () if has("ffn") => "feed-forward",
        () if has("embd") => "embedding",
        () if name.starts_with(b"output") => "output head",
        () => "other",
    }
}

fn bits(bytes: u64, n_weights: u64) -> f64 {
    if n_weights == 0 { 0.0 } else { bytes as f64 * 8.0 / n_weights as f64 }
}

/// What the tensors with the same `group` take, the biggest first.
fn shares(gguf: &Gguf<'_>, total: u64, group: impl Fn(&Tensor<'_>) -> &'static str) -> Vec<Share> {
    let mut sums: BTreeMap<&'static str, (usize, u64, u64)> = BTreeMap::new();
    for tensor in gguf.tensors() {
        let sum = sums.entry(group(&tensor)).or_default();
        *sum = (sum.0 + 1, sum.1 + tensor.n_weights(), sum.2 + tensor.n_bytes);
    }
    let share = |(name, (n_tensors, n_weights, bytes))| Share {
        name,
        n_tensors,
        n_weights,
        bytes,
        bits_per_weight: bits(bytes, n_weights),
        share: if total == 0 { 0.0 } else { bytes as f64 / total as f64 },
    };
    let mut shares: Vec<Share> = sums.into_iter().map(share).collect();
    shares.sort_by_key(|share| std::cmp::Reverse(share.bytes));
    shares
}

pub(super) fn run(flags: &Flags, stdout: &mut dyn Write) -> Result<Status, Failure> {
    let source = Source::open_as_stored(&flags.model)?;
    let gguf = source.gguf()?;
    let index = source.read_index()?;
    let n_weights = gguf.tensors().map(|tensor| tensor.n_weights()).sum();
    let weight_bytes = gguf.tensors().map(|tensor| tensor.n_bytes).sum();
    let row = |tensor: Tensor<'_>| TensorRow {
        name: String::from_utf8_lossy(tensor.name).into_owned(),
        kind: tensor.kind.name(),
        dims: tensor.dims[..tensor.n_dims as usize].to_vec(),
        offset: tensor.offset,
        bytes: tensor.n_bytes,
        packed_bytes: index.as_ref().and_then(|index| index.packed_tensor(tensor.offset)),
        bits_per_weight: bits(tensor.n_bytes, tensor.n_weights()),
    };
    let report = Report {
        schema: "smidgen.inspect/1",
        model: &source.name,
        gguf_version: gguf.version(),
        endian: if gguf.endian() == Endian::Little { "little" } else { "big" },
        alignment: gguf.alignment(),
        bytes: source.bytes().len() as u64,
        n_tensors: gguf.tensors().count(),
        n_weights,
        weight_bytes,
        packed_bytes: index.as_ref().map(|index| {
            gguf.tensors().map(|tensor| index.packed_tensor(tensor.offset).unwrap_or(tensor.n_bytes)).sum()
        }),
        bits_per_weight: bits(weight_bytes, n_weights),
        metadata: gguf.keys().map(|(key, value)| (printable(key, usize::MAX), Shown::new(&value))).collect(),
        tensors: gguf.tensors().map(row).collect(),
        parts: shares(&gguf, weight_bytes, |tensor| part(tensor.name)),
        types: shares(&gguf, weight_bytes, |tensor| tensor.kind.name()),
    };
    match flags.json {
        true => report::json(stdout, &report)?,
        false => report::write(stdout, for_people(&report, &gguf).as_bytes())?,
    }
    Ok(Status::Done)
}

fn for_people(report: &Report<'_>, gguf: &Gguf<'_>) -> String {
    let mut out = format!(
        "{}: GGUF version {}, {} endian, {}; {} weights in {} tensors, {}, {:.3} bits per weight\n",
        report.model,
        report.gguf_version,
        report.endian,
        report::bytes(report.bytes),
        count(report.n_weights),
        report.n_tensors,
        report::bytes(report.weight_bytes),
        report.bits_per_weight,
    );
    if let Some(packed) = report.packed_bytes {
        let share = percent(1.0 - packed as f64 / report.weight_bytes.max(1) as f64);
        out += &format!("Packed: the weights are stored in {}, {share} less\n", report::bytes(packed));
    }
    let mut metadata = Table::default();
    for (key, value) in gguf.keys() {
        let (kind, value) = type_and_value(&value);
        metadata.row([printable(key, SHOWN_LETTERS), kind, value]);
    }
    out += &format!("\nMetadata\n{}", metadata.render(&[]));
    let mut tensors = Table::default();
    tensors.row(["name", "type", "dims", "bytes", "bits/weight", "share", "packed"].map(str::to_owned));
    for tensor in &report.tensors {
        let dims: Vec<String> = tensor.dims.iter().map(u64::to_string).collect();
        tensors.row([
            printable(tensor.name.as_bytes(), SHOWN_LETTERS),
            tensor.kind.to_owned(),
            dims.join(" x "),
            count(tensor.bytes),
            format!("{:.3}", tensor.bits_per_weight),
            percent(tensor.bytes as f64 / report.weight_bytes as f64),
            tensor.packed_bytes.map_or(String::new(), count),
        ]);
    }
    out += &format!("\nTensors (the contiguous dimension first)\n{}", tensors.render(&[3, 4, 5, 6]));
    for (title, shares) in [("What is big", &report.parts), ("By type", &report.types)] {
        let mut table = Table::default();
        for share in shares {
            table.row([
                share.name.to_owned(),
                format!("{} tensors", share.n_tensors),
                count(share.bytes),
                format!("{:.3} bits/weight", share.bits_per_weight),
                percent(share.share),
            ]);
        }
        out += &format!("\n{title}\n{}", table.render(&[1, 2, 3, 4]));
    }
    out
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_belong_to_the_parts_that_their_names_say() {
        let parts = [
            ("token_embd.weight", "embedding"),
            ("blk.0.attn_q.weight", "attention"),
            ("blk.0.attn_q_norm.weight", "norms"),
            ("blk.3.ffn_down.bias", "feed-forward"),
            ("output_norm.weight", "norms"),
            ("output.weight", "output head"),
            ("rope_freqs.weight", "other"),
        ];
        for (name, expected) in parts {
            assert_eq!(part(name.as_bytes()), expected, "{name}");
        }
    }
}
