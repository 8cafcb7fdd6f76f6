//! `smidgen convert`: any model that can be read, as a GGUF file.

use crate::args::ImportArgs;
use crate::failure::{Failure, Status};
use crate::load::host_failure;
use crate::progress::Bar;
use crate::report;
use clap::Args;
use serde::Serialize;
use smidgen_host::ConvertOptions;
use smidgen_host::threads::Pool;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

#[derive(Args, Debug)]
pub(super) struct Flags {
    /// The model to read, and the file to write: MODEL OUT, or only one of them beside -m or -o
    #[arg(value_name = "MODEL OUT", num_args = 0..=2)]
    bare: Vec<String>,

    /// The same as a bare MODEL
    #[arg(short = 'm', long = "model", value_name = "MODEL")]
    model: Option<String>,

    /// The same as a bare OUT
    #[arg(short = 'o', long = "output", alias = "outfile", value_name = "FILE")]
    output: Option<PathBuf>,

    #[command(flatten)]
    import: ImportArgs,

    /// Write numbers with the most significant byte first
    #[arg(long)]
    big_endian: bool,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Flags {
    /// The model to read and the file to write.
    fn paths(&self) -> Result<(&str, &Path), Failure> {
        let mut bare = self.bare.iter();
        let model = self.model.as_deref().or_else(|| bare.next().map(String::as_str));
        let output = self.output.as_deref().or_else(|| bare.next().map(Path::new));
        match (model, output, bare.next()) {
            (Some(model), Some(output), None) => Ok((model, output)),
            (_, _, Some(extra)) => {
                Err(Failure::Input(format!("convert: '{}' is one path too many", extra.escape_default())))
            }
            _ => Err(Failure::Input("convert: give a MODEL to read and a file OUT to write".to_owned())),
        }
    }
}

/// `smidgen.convert/1`, described in `docs/json.md`.
#[derive(Serialize)]
struct Report<'a> {
    schema: &'static str,
    model: &'a str,
    output: String,
    bytes: u64,
    n_tensors: usize,
    n_weights: u64,
    /// How many tensors have each type.
    types: BTreeMap<&'static str, usize>,
}

pub(super) fn run(flags: &Flags, stdout: &mut dyn Write) -> Result<Status, Failure> {
    let (model, output) = flags.paths()?;
    let bar = Bar::new();
    let pool = Pool::new(smidgen_host::machine::n_cores());
    let options = ConvertOptions {
        outtype: flags.import.outtype,
        big_endian: flags.big_endian,
        fallback: flags.import.fallback,
        tokenizer: flags.import.tokenizer.clone(),
        workers: &pool,
        progress: &bar,
        ..ConvertOptions::default()
    };
    let summary = smidgen_host::convert(model, output, &options).map_err(host_failure)?;
    let types: BTreeMap<_, _> = summary.types.iter().map(|(kind, n_tensors)| (kind.name(), *n_tensors)).collect();
    if flags.json {
        let report = Report {
            schema: "smidgen.convert/1",
            model,
            output: output.display().to_string(),
            bytes: summary.file_bytes,
            n_tensors: summary.n_tensors,
            n_weights: summary.n_weights,
            types,
        };
        report::json(stdout, &report)?;
    } else {
        let types: Vec<String> = types.iter().map(|(name, n_tensors)| format!("{n_tensors} {name}")).collect();
        eprintln!(
            "smidgen: wrote {}: {}, {} weights in {} tensors ({})",
            output.display(),
            report::bytes(summary.file_bytes),
            report::count(summary.n_weights),
            summary.n_tensors,
            types.join(", "),
        );
    }
    Ok(Status::Done)
}
