//! `smidgen pack`: a GGUF file with its weights entropy-coded, without loss.

use crate::args::{ImportArgs, ModelArgs};
use crate::failure::{Failure, Status};
use crate::load::host_failure;
use crate::progress::Bar;
use crate::report;
use crate::source::Source;
use clap::Args;
use serde::Serialize;
use smidgen_compress::pack::{Survey, pack};
use smidgen_core::gguf::{Gguf, Tensor};
use smidgen_core::packed::Plane;
use smidgen_core::quant::Type;
use smidgen_host::packed::{self, LONGEST_ROW};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

#[derive(Args, Debug)]
pub(super) struct Flags {
    /// The model to read
    #[arg(value_name = "MODEL")]
    model: String,

    /// The file to write
    #[arg(value_name = "OUT")]
    output: PathBuf,

    /// Pack the tensors of a type that become smaller by this many percent; others cost time and give little
    #[arg(long, value_name = "PERCENT", default_value_t = 5.0)]
    least: f64,

    #[command(flatten)]
    import: ImportArgs,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// `smidgen.pack/1`, described in `docs/json.md`.
#[derive(Serialize)]
struct Report<'a> {
    schema: &'static str,
    model: &'a str,
    output: String,
    /// Bytes of the plain file, and of the packed one.
    plain_bytes: u64,
    bytes: u64,
    types: Vec<TypeRow>,
}

/// What packing makes of the matrices of a type.
#[derive(Serialize)]
struct TypeRow {
    #[serde(rename = "type")]
    kind: &'static str,
    n_tensors: usize,
    bytes: u64,
    /// What they become, or would.
    packed_bytes: u64,
    is_packed: bool,
}

/// The matrices of one type, and how they would be packed.
struct Kind<'a> {
    kind: Type,
    tensors: Vec<Tensor<'a>>,
    planes: Vec<Plane>,
    bytes: u64,
    packed_bytes: f64,
}

impl<'a> Kind<'a> {
    /// Of `tensors`, all of `kind`, with the bytes that `gguf` has.
    fn new(gguf: &Gguf<'a>, kind: Type, tensors: Vec<Tensor<'a>>) -> Self {
        let mut survey = Survey::new(kind.block_bytes());
        for tensor in &tensors {
            // The whole file is in memory.
            survey.add(gguf.data(tensor).unwrap_or_default(), row_bytes(tensor) as usize);
        }
        let planes = survey.planes();
        let bytes = tensors.iter().map(|tensor| tensor.n_bytes).sum();
        let packed_bytes = survey.packed_bytes(&planes);
        Kind { kind, tensors, planes, bytes, packed_bytes }
    }

    /// Whether packing saves `least` percent.
    fn is_worth(&self, least: f64) -> bool {
        100.0 * (self.bytes as f64 - self.packed_bytes) >= least * self.bytes as f64
    }
}

/// Bytes of a row, of a tensor that has some.
fn row_bytes(tensor: &Tensor<'_>) -> u64 {
    tensor.n_bytes / tensor.dims[1..].iter().product::<u64>()
}

/// The matrices whose rows are not too long, by their types.
fn kinds<'a>(gguf: &Gguf<'a>) -> Vec<Kind<'a>> {
    let mut tensors: BTreeMap<&str, Vec<Tensor<'a>>> = BTreeMap::new();
    for tensor in gguf.tensors().filter(|tensor| tensor.dims[1] > 1 && row_bytes(tensor) <= LONGEST_ROW) {
        tensors.entry(tensor.kind.name()).or_default().push(tensor);
    }
    tensors.into_values().map(|tensors| Kind::new(gguf, tensors[0].kind, tensors)).collect()
}

pub(super) fn run(flags: &Flags, stdout: &mut dyn Write) -> Result<Status, Failure> {
    let source = Source::open_as_stored(&ModelArgs::of(&flags.model, &flags.import))?;
    let gguf = source.gguf()?;
    let kinds = kinds(&gguf);
    let (packed, others): (Vec<&Kind<'_>>, Vec<&Kind<'_>>) = kinds.iter().partition(|kind| kind.is_worth(flags.least));
    if packed.is_empty() {
        let best = kinds.iter().map(|kind| 100.0 - 100.0 * kind.packed_bytes / kind.bytes.max(1) as f64);
        let best = best.fold(0.0, f64::max);
        eprintln!(
            "smidgen: {}: nothing was written: packing would save {best:.1} % of its weights, less than {} (--least)",
            source.name, flags.least
        );
        return Ok(Status::MissedTarget);
    }
    let mut tensors = Vec::new();
    for (code, kind) in packed.iter().enumerate() {
        tensors.extend(kind.tensors.iter().map(|tensor| {
            let row_bytes = row_bytes(tensor);
            packed::Tensor { at: tensor.offset, row_bytes, n_rows: tensor.n_bytes / row_bytes, code }
        }));
    }
    tensors.sort_unstable_by_key(|tensor| tensor.at);
    let codes: Vec<(usize, Vec<Plane>)> =
        packed.iter().map(|kind| (kind.kind.block_bytes(), kind.planes.clone())).collect();
    let pack_rows = |code: usize, row_bytes: usize, rows: &[u8]| {
        let (block_bytes, planes) = &codes[code];
        pack(planes, (*block_bytes, row_bytes), rows)
    };
    let plain = (source.name.as_str(), source.bytes());
    let summary =
        packed::write(&flags.output, plain, &codes, &tensors, &pack_rows, &Bar::new()).map_err(host_failure)?;
    let row = |kind: &Kind<'_>, is_packed| TypeRow {
        kind: kind.kind.name(),
        n_tensors: kind.tensors.len(),
        bytes: kind.bytes,
        packed_bytes: kind.packed_bytes.round() as u64,
        is_packed,
    };
    let types = packed.iter().map(|kind| row(kind, true)).chain(others.iter().map(|kind| row(kind, false)));
    let report = Report {
        schema: "smidgen.pack/1",
        model: &source.name,
        output: flags.output.display().to_string(),
        plain_bytes: source.bytes().len() as u64,
        bytes: summary.file_bytes,
        types: types.collect(),
    };
    match flags.json {
        true => report::json(stdout, &report)?,
        false => for_people(&report),
    }
    Ok(Status::Done)
}

fn for_people(report: &Report<'_>) {
    let saved = |plain: u64, packed: u64| 100.0 * (plain as f64 - packed as f64) / plain.max(1) as f64;
    for kind in &report.types {
        let what = if kind.is_packed { "saved" } else { "left as they are, for it would save" };
        let share = saved(kind.bytes, kind.packed_bytes);
        eprintln!("smidgen: {} tensors of {}: {what} {share:.1} %", kind.n_tensors, kind.kind);
    }
    eprintln!(
        "smidgen: wrote {}: {}, {:.1} % less than {}",
        report.output,
        report::bytes(report.bytes),
        saved(report.plain_bytes, report.bytes),
        report::bytes(report.plain_bytes),
    );
}
