//! `smidgen plan`: every consumer of memory to the byte, whether that fits, and what would.

use crate::args::{EngineArgs, ModelArgs, SamplingArgs};
use crate::failure::{Failure, Status};
use crate::load::{Budget, Line, PROCESS_BYTES, Settings, Source};
use crate::report::{self, Table, count};
use clap::Args;
use serde::Serialize;
use smidgen_core::arena::ALIGN;
use smidgen_core::gguf::{Gguf, Tensor};
use smidgen_core::kv::CacheType;
use smidgen_core::model::{Layer, Model};
use smidgen_core::plan::{Limits, Plan};
use smidgen_core::quant::Type;
use smidgen_core::sample::SampleParams;
use smidgen_core::simd::BLOCK;
use std::io::Write;

#[derive(Args, Debug)]
pub(super) struct Flags {
    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    engine: EngineArgs,

    #[command(flatten)]
    sampling: SamplingArgs,

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
    options: Vec<Choice>,
}

/// A choice of types, and the longest context with which it fits.
#[derive(Serialize)]
struct Choice {
    weights: &'static str,
    /// The type of keys and values alike.
    cache: &'static str,
    context_tokens: usize,
    total_bytes: u64,
}

/// The types that the cache can have, the most exact first.
const CACHE_TYPES: [CacheType; 4] = [CacheType::F32, CacheType::F16, CacheType::Q8_0, CacheType::Q4_0];

pub(super) fn run(flags: &Flags, stdout: &mut dyn Write) -> Result<Status, Failure> {
    let source = Source::open(&flags.model)?;
    let gguf = source.gguf()?;
    let mut layers = vec![Layer::EMPTY; Model::n_layers(&gguf).map_err(|error| source.refused(error))?];
    let model = Model::new(&gguf, &mut layers).map_err(|error| source.refused(error))?;
    let Settings { limits, params, .. } = Settings::new(&flags.engine, &flags.sampling, &source, &gguf, &model)?;
    let plan = Plan::new(&model, &limits).map_err(|error| source.refused(error))?;
    let budget = Budget::new(&source, &gguf, &model, &plan, &params)?;
    let question = Question { source: &source, gguf: &gguf, model: &model, limits, params };
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
        process_bytes: PROCESS_BYTES,
        total_bytes: budget.with_process(),
        ram_bytes: flags.engine.ram,
        fits,
        options: flags.engine.ram.map_or(Vec::new(), |ram| question.choices(ram)),
    };
    match flags.json {
        true => report::json(stdout, &report)?,
        false => report::write(stdout, for_people(&report).as_bytes())?,
    }
    Ok(if fits == Some(false) { Status::DoesNotFit } else { Status::Done })
}

/// What would fit: the model, and what was asked of it.
struct Question<'a> {
    source: &'a Source,
    gguf: &'a Gguf<'a>,
    model: &'a Model<'a>,
    limits: Limits,
    params: SampleParams,
}

impl Question<'_> {
    /// Every choice of weight and cache type with the longest context that fits in `ram`, if any does.
    fn choices(&self, ram: u64) -> Vec<Choice> {
        let mut weights = vec![("as stored", 0)];
        let saved = self.saved_by_q8_0();
        if saved > 0 {
            weights.push(("q8_0", saved));
        }
        let mut choices = Vec::new();
        for (weights, saved) in weights {
            for cache in CACHE_TYPES {
                if let Some((context_tokens, total_bytes)) = self.longest(cache, saved, ram) {
                    choices.push(Choice { weights, cache: cache.name(), context_tokens, total_bytes });
                }
            }
        }
        choices
    }

    /// Bytes that a run needs less, at least, when `convert --outtype q8_0 --fallback f16` has stored the weights.
    fn saved_by_q8_0(&self) -> u64 {
        let saved: u64 = self.gguf.tensors().map(|tensor| tensor.n_bytes - q8_0_bytes(&tensor)).sum();
        let is_float = |tensor: Tensor<'_>| matches!(tensor.kind, Type::F32 | Type::F16 | Type::BF16);
        let padding = self.gguf.tensors().count() as u64 * self.gguf.alignment();
        let activations = if self.gguf.tensors().all(is_float) { self.activation_bytes() } else { 0 };
        saved.saturating_sub(padding + activations + self.header_growth())
    }

    /// What the header may gain when it is written anew: keys that name the types, and in place of version 1, whose lengths have 4
    /// bytes, at most as much again as there is.
    fn header_growth(&self) -> u64 {
        let weight_bytes: u64 = self.gguf.tensors().map(|tensor| tensor.n_bytes).sum();
        let header_bytes = self.source.bytes().len() as u64 - weight_bytes;
        if self.gguf.version() == 1 { header_bytes } else { 512 }
    }

    /// The buffers that a model with 8-bit weights has and one with float weights has not: a batch of the widest input in blocks,
    /// each with a scale and a sum.
    fn activation_bytes(&self) -> u64 {
        let h = self.model.hparams();
        let widest = h.n_embd.max(h.query_width()).max(h.n_ff);
        let block_bytes = BLOCK + size_of::<f32>() + size_of::<i32>();
        (self.limits.batch_tokens * widest.div_ceil(BLOCK) * block_bytes + 3 * ALIGN) as u64
    }

    /// The longest context that fits in `ram` when the cache holds `cache` and the weights are `saved` bytes smaller, with
    /// what it takes in all.
    fn longest(&self, cache: CacheType, saved: u64, ram: u64) -> Option<(usize, u64)> {
        let total = |context_tokens: usize| {
            let limits = Limits { context_tokens, cache_k: cache, cache_v: cache, ..self.limits };
            let plan = Plan::new(self.model, &limits).ok()?;
            let budget = Budget::new(self.source, self.gguf, self.model, &plan, &self.params).ok()?;
            Some(budget.with_process() - saved).filter(|&bytes| bytes <= ram)
        };
        // Every context up to `low` fits and none from `high` on does.
        let (mut low, mut high) = (0, self.model.hparams().context_train.max(self.limits.context_tokens) + 1);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if total(middle).is_some() { low = middle } else { high = middle }
        }
        total(low).filter(|_| low > 0).map(|bytes| (low, bytes))
    }
}

/// What a tensor takes when `convert --outtype q8_0 --fallback f16` has stored it: matrices in blocks of 32 where their
/// rows allow it, else in half floats, and vectors as they are.
fn q8_0_bytes(tensor: &Tensor<'_>) -> u64 {
    let n_rows = tensor.dims[1..].iter().product::<u64>();
    let stored = tensor.n_bytes;
    if tensor.n_dims < 2 {
        return stored;
    }
    let row = Type::Q8_0.row_bytes(tensor.dims[0]).or(Type::F16.row_bytes(tensor.dims[0]));
    row.map_or(stored, |row| row * n_rows).min(stored)
}

fn for_people(report: &Report<'_>) -> String {
    let mut table = Table::default();
    for line in report.lines {
        table.row([line.name.clone(), count(line.bytes), report::bytes(line.bytes)]);
    }
    for (name, bytes) in [
        ("planned", report.planned_bytes),
        ("process (code, stack, C library), at most", report.process_bytes),
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
    out += &format!("What would (q8_0 weights: convert --outtype q8_0 --fallback f16):\n{}", options.render(&[3]));
    out
}
