//! `smidgen calibrate`: an imatrix, and on request the second moments that error feedback goes by.

use crate::args::{EngineArgs, ModelArgs};
use crate::calibrate::{self, Job};
use crate::corpus::{Corpus, CorpusArgs};
use crate::failure::{Failure, Status};
use crate::report::{self, count};
use crate::source::Source;
use clap::Args;
use serde::Serialize;
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

#[derive(Args, Debug)]
#[command(mut_arg("context", |arg| arg.help("Tokens of a chunk; 0 is the context the model was trained with [default: 512, or that]")))]
pub(super) struct Flags {
    #[command(flatten)]
    model: ModelArgs,

    /// The imatrix to write, a GGUF file that llama.cpp reads too
    #[arg(short = 'o', long = "output", value_name = "FILE")]
    output: PathBuf,

    /// Also collect the second moment of every input (Hessian), for error feedback
    #[arg(long)]
    hessian: bool,

    #[command(flatten)]
    corpus: CorpusArgs,

    #[command(flatten)]
    engine: EngineArgs,

    /// Print one JSON object
    #[arg(long, help_heading = "Output")]
    json: bool,
}

/// `smidgen.calibrate/1`, described in `docs/json.md`.
#[derive(Serialize)]
struct Report<'a> {
    schema: &'static str,
    model: &'a str,
    output: String,
    bytes: u64,
    context_tokens: usize,
    chunks: usize,
    tokens: usize,
    n_matrices: usize,
    n_moments: usize,
    passes: usize,
    resumed_chunks: usize,
    seconds: f64,
    planned_bytes: u64,
    process_bytes: u64,
    peak_bytes: Option<u64>,
}

pub(super) fn run(flags: &Flags, stdout: &mut dyn Write) -> Result<Status, Failure> {
    let began = Instant::now();
    let source = Source::open(&flags.model)?;
    let corpus = Corpus::read(&flags.corpus, &source, &flags.engine)?;
    let job = Job {
        source: &source,
        corpus: &corpus,
        engine: &flags.engine,
        with_moments: flags.hessian,
        output: &flags.output,
    };
    let summary = calibrate::run(&job, began)?;
    let report = Report {
        schema: "smidgen.calibrate/1",
        model: &source.name,
        output: flags.output.display().to_string(),
        bytes: summary.file_bytes,
        context_tokens: corpus.context_tokens(),
        chunks: summary.n_chunks,
        tokens: summary.n_tokens,
        n_matrices: summary.n_matrices,
        n_moments: summary.n_moments,
        passes: summary.n_passes,
        resumed_chunks: summary.n_resumed,
        seconds: began.elapsed().as_secs_f64(),
        planned_bytes: summary.planned_bytes,
        process_bytes: summary.process_bytes,
        peak_bytes: smidgen_host::machine::peak_rss_bytes(),
    };
    if flags.json {
        report::json(stdout, &report)?;
        return Ok(Status::Done);
    }
    let moments = if flags.hessian { format!(" and {} second moments", summary.n_moments) } else { String::new() };
    let passes = if report.passes > 1 { format!(", in {} passes", report.passes) } else { String::new() };
    let resumed = match report.resumed_chunks {
        0 => String::new(),
        n => format!("; {} chunks were done before", count(n as u64)),
    };
    eprintln!(
        "smidgen: wrote {}: {}, {} matrices{moments} from {} tokens in {} chunks{passes}{resumed}",
        report.output,
        report::bytes(report.bytes),
        report.n_matrices,
        count(report.tokens as u64),
        count(report.chunks as u64),
    );
    Ok(Status::Done)
}
