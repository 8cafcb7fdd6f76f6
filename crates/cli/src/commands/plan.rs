//! `smidgen plan`: every consumer of memory to the byte, whether that fits, and what would.

use crate::advice::{Choice, Question};
use crate::args::{EngineArgs, ModelArgs, SamplingArgs};
use crate::budget::{Budget, Line, Work};
use crate::failure::{Failure, Status};
use crate::import;
use crate::load::Settings;
use crate::probe::{Probe, Streamed};
use crate::report::{self, Table, count};
use crate::source::Source;
use clap::Args;
use serde::Serialize;
use smidgen_core::model::{Layer, Model};
use smidgen_host::weights::Residency;
use std::io::Write;

#[derive(Args, Debug)]
pub(super) struct Flags {
    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    engine: EngineArgs,

    #[command(flatten)]
    sampling: SamplingArgs,

    /// What is to be planned for
    #[arg(long = "for", value_name = "COMMAND", value_enum, default_value_t)]
    work: Work,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// `smidgen.plan/1`, described in `docs/json.md`.
#[derive(Serialize)]
struct Report<'a> {
    schema: &'static str,
    model: &'a str,
    context_tokens: usize,
    context_train: usize,
    batch_tokens: usize,
    threads: usize,
    cache_k: &'static str,
    cache_v: &'static str,
    lines: &'a [Line],
    planned_bytes: u64,
    process_bytes: u64,
    total_bytes: u64,
    ram_bytes: Option<u64>,
    fits: Option<bool>,
    /// Of the weights, what is read from the file for every token when the context is full.
    streamed_bytes: u64,
    /// The same when the first token has come, and others of them lie in memory that the caches will use.
    streamed_bytes_at_first: u64,
    /// Of the caches, what is kept in a file when the context is full.
    spilled_bytes: u64,
    /// As the probe of this machine has it, if there is one.
    tokens_per_s: Option<f64>,
    tokens_per_s_at_first: Option<f64>,
    options: Vec<Choice>,
}

pub(super) fn run(flags: &Flags, stdout: &mut dyn Write) -> Result<Status, Failure> {
    let engine = EngineArgs { work: flags.work, ..flags.engine.clone() };
    let sampling = match flags.work {
        Work::Bench => SamplingArgs::GREEDY,
        Work::Serve => flags.sampling.widest(),
        _ => flags.sampling.clone(),
    };
    let source = Source::open_within(&flags.model, &engine, &sampling)?.to_plan(&engine);
    let gguf = source.gguf()?;
    let mut layers = vec![Layer::EMPTY; Model::n_layers(&gguf).map_err(|error| source.refused(error))?];
    let model = source.model(&gguf, &mut layers)?;
    let settings = Settings::new(&engine, &sampling, &source, &gguf, &model)?;
    let limits = settings.limits;
    let (_, budget) = Budget::within(&source, &gguf, &model, &settings, flags.engine.ram)?;
    let question = Question::new(&source, &gguf, &model, settings);
    let streamed_bytes = budget.streamed_bytes();
    let streamed_bytes_at_first = budget.streamed_bytes_at(1);
    let spill_path = budget.spilled.is_some().then(|| import::scratch_directory(&engine)).transpose()?;
    let streamed = Streamed {
        path: source.outline().map(|outline| outline.path()),
        bytes: streamed_bytes,
        unpacked: budget.residency.as_ref().and_then(Residency::unpacked_bytes),
        spilled: budget.spilled_bytes(),
        spill_path: spill_path.as_deref(),
    };
    let probe = Probe::kept();
    let rate = |streamed| probe.as_ref().and_then(|probe| probe.tokens_per_s(&model, limits.n_threads, streamed));
    let fits = flags.engine.ram.map(|ram| budget.with_process() <= ram);
    let report = Report {
        schema: "smidgen.plan/1",
        model: &source.name,
        context_tokens: limits.context_tokens,
        context_train: model.hparams().context_train,
        batch_tokens: limits.batch_tokens,
        threads: limits.n_threads,
        cache_k: limits.cache_k.name(),
        cache_v: limits.cache_v.name(),
        lines: &budget.lines,
        planned_bytes: budget.total(),
        process_bytes: budget.process_bytes(),
        total_bytes: budget.with_process(),
        ram_bytes: flags.engine.ram,
        fits,
        streamed_bytes,
        streamed_bytes_at_first,
        spilled_bytes: budget.spilled_bytes(),
        tokens_per_s: rate(streamed),
        tokens_per_s_at_first: rate(Streamed { spilled: 0, ..streamed.only(streamed_bytes_at_first) }),
        options: flags.engine.ram.map_or(Vec::new(), |ram| question.choices(ram)),
    };
    match flags.json {
        true => report::json(stdout, &report)?,
        false => report::write(stdout, for_people(&report).as_bytes())?,
    }
    Ok(if fits == Some(false) { Status::DoesNotFit } else { Status::Done })
}

/// A rate in as many digits as it is worth.
fn significant(rate: f64) -> String {
    if rate < 10.0 { format!("{rate:.2}") } else { format!("{rate:.0}") }
}

fn for_people(report: &Report<'_>) -> String {
    let mut table = Table::default();
    for line in report.lines {
        table.row([line.name.clone(), count(line.bytes), report::bytes(line.bytes)]);
    }
    for (name, bytes) in [
        ("planned", report.planned_bytes),
        ("process (code, stack, C library, page tables), at most", report.process_bytes),
        ("in all", report.total_bytes),
    ] {
        table.row([name.to_owned(), count(bytes), report::bytes(bytes)]);
    }
    let mut out = format!(
        "{}: context {} of {} tokens, batch {}, cache {}/{}, threads {}\n{}",
        report.model,
        report.context_tokens,
        report.context_train,
        report.batch_tokens,
        report.cache_k,
        report.cache_v,
        report.threads,
        table.render(&[1, 2]),
    );
    if report.streamed_bytes > 0 {
        let [full, first] = [report.streamed_bytes, report.streamed_bytes_at_first].map(report::bytes);
        out += &format!("\n{full} are read from the file for every token");
        out += &match report.streamed_bytes_at_first == report.streamed_bytes {
            true => ".\n".to_owned(),
            false => format!(" when the context is full, {first} at first.\n"),
        };
    }
    if report.spilled_bytes > 0 {
        out += &format!(
            "\nOlder rows of the caches are kept in a file, up to {} when the context is full.\n",
            report::bytes(report.spilled_bytes)
        );
    }
    match report.tokens_per_s {
        Some(rate) => {
            let first = report.tokens_per_s_at_first.map(significant).filter(|first| *first != significant(rate));
            let at_first = first.map_or(String::new(), |first| format!(" ({first} at first)"));
            out +=
                &format!("\nAt most {} tokens per second{at_first}, as this machine was probed.\n", significant(rate))
        }
        None => out += "\n'smidgen probe MODEL' measures this machine; then this says how fast a run can be.\n",
    }
    let (Some(ram), Some(fits)) = (report.ram_bytes, report.fits) else { return out };
    let ram_text = report::bytes(ram);
    if fits {
        out += &format!("\nIt fits in {ram_text}, with {} left.\n", report::bytes(ram - report.total_bytes));
        return out;
    }
    out += &format!("\nIt does not fit in {ram_text}: {} are missing.\n", report::bytes(report.total_bytes - ram));
    if report.options.is_empty() {
        out += "No context and no type that 'smidgen convert' can write would make it fit.\n";
        return out;
    }
    let mut options = Table::default();
    options.row(["weights", "cache", "longest context", "in all"].map(str::to_owned));
    for choice in &report.options {
        let context = format!("-c {}", choice.context_tokens);
        let cache = format!("--ctk {0} --ctv {0}", choice.cache);
        options.row([choice.weights.to_owned(), cache, context, report::bytes(choice.total_bytes)]);
    }
    out += &format!(
        "What would (q8_0 weights: convert --outtype q8_0 --fallback f16; q4_w and the like: quantize --pure -f TEXT):\n{}",
        options.render(&[3])
    );
    out
}
