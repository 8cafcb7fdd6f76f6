//! `smidgen eval`: how well a model predicts a text, and how far it has moved from the model it was made from.

use crate::advice::advised;
use crate::args::{EngineArgs, ModelArgs, SamplingArgs};
use crate::budget::{Budget, Line, Work, check_ram, share};
use crate::corpus::{Corpus, CorpusArgs};
use crate::failure::{Failure, Status};
use crate::generate::refused;
use crate::interrupt::Interrupt;
use crate::load::{self, Session, Settings};
use crate::progress::Bar;
use crate::report::{self, Table};
use crate::source::Source;
use clap::Args;
use serde::Serialize;
use smidgen_compress::damage::{Damage, Likelihood};
use smidgen_compress::score;
use smidgen_core::gguf::{Array, Gguf};
use smidgen_core::kv::CacheType;
use smidgen_host::Progress;
use std::io::Write;
use std::time::Instant;

#[derive(Args, Debug)]
#[command(mut_arg("context", |arg| arg.help("Tokens of a chunk; 0 is the context the model was trained with [default: 512, or that]")))]
#[command(mut_arg("ctk", |arg| arg.help("Type of the keys in MODEL's cache; BASE's are f32")))]
#[command(mut_arg("ctv", |arg| arg.help("Type of the values in MODEL's cache; BASE's are f32")))]
pub(super) struct Flags {
    #[command(flatten)]
    model: ModelArgs,

    /// The model that MODEL was made from, to be compared with: read as stored, run with an exact cache
    #[arg(long, value_name = "BASE")]
    against: Option<String>,

    #[command(flatten)]
    corpus: CorpusArgs,

    #[command(flatten)]
    targets: Targets,

    #[command(flatten)]
    engine: EngineArgs,

    /// Print one JSON object
    #[arg(long, help_heading = "Output")]
    json: bool,
}

/// What must not be exceeded.
#[derive(Args, Debug)]
#[command(next_help_heading = "Targets (exit 4 when one is missed)")]
struct Targets {
    /// Mean KL divergence from BASE, in nats, at most
    #[arg(long, value_name = "X", requires = "against")]
    max_kl: Option<f64>,

    /// KL divergence from BASE at 99 of 100 positions, in nats, at most
    #[arg(long, value_name = "X", requires = "against")]
    max_kl_p99: Option<f64>,

    /// Perplexity divided by that of BASE, at most
    #[arg(long, value_name = "R", requires = "against")]
    max_ppl_ratio: Option<f64>,
}

impl Targets {
    /// The targets that `report` misses; a figure that is no number misses every one.
    fn missed(&self, report: &Report<'_>) -> Vec<String> {
        let ratio = report.base_perplexity.map(|base| report.perplexity / base);
        let targets = [
            ("kl_mean", report.kl_mean, "--max-kl", self.max_kl),
            ("kl_p99", report.kl_p99, "--max-kl-p99", self.max_kl_p99),
            ("perplexity / base_perplexity", ratio, "--max-ppl-ratio", self.max_ppl_ratio),
        ];
        let missed = targets.into_iter().filter_map(|(name, figure, flag, most)| {
            let (figure, most) = (figure?, most?);
            let met = figure <= most;
            (!met).then(|| format!("{name} is {figure:.6}, more than {flag} {most}"))
        });
        missed.collect()
    }
}

/// `smidgen.eval/1`, described in `docs/json.md`.
#[derive(Serialize)]
struct Report<'a> {
    schema: &'static str,
    model: &'a str,
    against: Option<&'a str>,
    context_tokens: usize,
    chunks: usize,
    tokens: usize,
    perplexity: f64,
    perplexity_error: f64,
    bits_per_byte: f64,
    model_bytes: u64,
    bits_per_weight: f64,
    base_perplexity: Option<f64>,
    base_perplexity_error: Option<f64>,
    base_bits_per_byte: Option<f64>,
    base_bytes: Option<u64>,
    base_bits_per_weight: Option<f64>,
    kl_mean: Option<f64>,
    kl_p50: Option<f64>,
    kl_p90: Option<f64>,
    kl_p99: Option<f64>,
    kl_max: Option<f64>,
    same_top: Option<f64>,
    missed: Vec<String>,
    isa: &'static str,
    threads: usize,
    cache_k: &'static str,
    cache_v: &'static str,
    seconds: f64,
    planned_bytes: u64,
    process_bytes: u64,
    peak_bytes: Option<u64>,
}

/// What the logits told.
struct Measured {
    likelihood: Likelihood,
    damage: Option<Damage>,
    /// Bytes of text that the scored tokens stand for.
    n_bytes: u64,
    settings: Settings,
    /// The most that was resident by then.
    peak: Option<u64>,
}

impl<'a> Report<'a> {
    /// The report of what was measured of the model in `source`; the targets have not been looked at.
    fn new(
        source: &'a Source,
        base: Option<&'a Source>,
        corpus: &Corpus,
        measured: &Measured,
        budget: &Budget,
        began: Instant,
    ) -> Result<Self, Failure> {
        let Measured { likelihood, damage, n_bytes, settings, peak } = measured;
        let of_base = damage.as_ref().map(|damage| &damage.base);
        let kl = damage.as_ref().map(Damage::kl);
        let chunks = corpus.chunks()?;
        Ok(Self {
            schema: "smidgen.eval/1",
            model: &source.name,
            against: base.map(|base| base.name.as_str()),
            context_tokens: chunks.context_tokens(),
            chunks: chunks.len(),
            tokens: chunks.n_scored(),
            perplexity: likelihood.perplexity(),
            perplexity_error: likelihood.perplexity_error(),
            bits_per_byte: likelihood.bits_per_byte(*n_bytes),
            model_bytes: source.file_bytes(),
            bits_per_weight: source.bits_per_weight()?,
            base_perplexity: of_base.map(Likelihood::perplexity),
            base_perplexity_error: of_base.map(Likelihood::perplexity_error),
            base_bits_per_byte: of_base.map(|base| base.bits_per_byte(*n_bytes)),
            base_bytes: base.map(Source::file_bytes),
            base_bits_per_weight: base.map(Source::bits_per_weight).transpose()?,
            kl_mean: kl.map(|kl| kl.mean),
            kl_p50: kl.map(|kl| kl.p50),
            kl_p90: kl.map(|kl| kl.p90),
            kl_p99: kl.map(|kl| kl.p99),
            kl_max: kl.map(|kl| kl.max),
            same_top: damage.as_ref().map(Damage::same_top),
            missed: Vec::new(),
            isa: settings.isa.name(),
            threads: settings.limits.n_threads,
            cache_k: settings.limits.cache_k.name(),
            cache_v: settings.limits.cache_v.name(),
            seconds: began.elapsed().as_secs_f64(),
            planned_bytes: budget.total().max(corpus.reading_bytes()),
            process_bytes: budget.process_bytes(),
            peak_bytes: smidgen_host::machine::peak_rss_bytes().max(*peak),
        })
    }
}

pub(super) fn run(flags: &Flags, stdout: &mut dyn Write) -> Result<Status, Failure> {
    let began = Instant::now();
    let source = open(&flags.model, &flags.engine)?;
    let corpus = Corpus::read(&flags.corpus, &source, &flags.engine)?;
    // Not before the text is read, whose tokenizer may take more than the engines.
    let source = source.to_run(&flags.engine)?;
    let base = flags.against.as_deref().map(|name| open(&flags.model.as_stored(name), &flags.engine)).transpose()?;
    if let Some(base) = &base {
        check_vocabulary(&source, base)?;
    }
    let base = base.map(|base| base.to_run(&flags.engine)).transpose()?;
    let context = Some(corpus.context_tokens());
    // More than are read together have no room in a chunk.
    let batch = flags.engine.batch.min(corpus.context_tokens().div_ceil(2));
    let engine = EngineArgs { context, batch, ram: None, reads_each: true, work: Work::Read, ..flags.engine.clone() };
    let exact = EngineArgs { ctk: CacheType::F32, ctv: CacheType::F32, ..engine.clone() };
    let (engine, exact) = share_ram(flags.engine.ram, (&source, engine), (base.as_ref(), exact), &corpus)?;
    let budget = budget(&source, &engine, base.as_ref().map(|base| (base, &exact)), &corpus)?;
    check_ram(flags.engine.ram, &budget).map_err(|refusal| {
        let own = Budget::of(&source, &EngineArgs { ram: None, ..engine.clone() }, &SamplingArgs::GREEDY);
        let beside = own.map_or(0, |own| budget.with_process().saturating_sub(own.with_process()));
        advised(refusal, &source, &engine, (flags.engine.ram, beside))
    })?;

    let sampling = &SamplingArgs::GREEDY;
    let measured = load::with_session(&source, &engine, sampling, began, |session| match &base {
        Some(base) => load::with_session(base, &exact, sampling, began, |base| measure(session, Some(base), &corpus)),
        None => measure(session, None, &corpus),
    })?;
    smidgen_host::pages::release_program();
    let mut report = Report::new(&source, base.as_ref(), &corpus, &measured, &budget, began)?;
    report.missed = flags.targets.missed(&report);
    match flags.json {
        true => report::json(stdout, &report)?,
        false => report::write(stdout, for_people(&report).as_bytes())?,
    }
    for missed in &report.missed {
        eprintln!("smidgen: target missed: {missed}");
    }
    Ok(if report.missed.is_empty() { Status::Done } else { Status::MissedTarget })
}

/// Opens a model; within a limit of memory it is read in parts, which may be all of it.
fn open(model: &ModelArgs, engine: &EngineArgs) -> Result<Source, Failure> {
    let parts = engine.ram.map_or(Ok(None), |ram| Source::open_in_parts(model, engine, ram))?;
    parts.map_or_else(|| Source::open(model), Ok)
}

/// The flags of both engines with what of `ram` is theirs: what is beside the weights of both, and of the rest a part that is as
/// large as the model's file is.
fn share_ram(
    ram: Option<u64>,
    (source, engine): (&Source, EngineArgs),
    (base, exact): (Option<&Source>, EngineArgs),
    corpus: &Corpus,
) -> Result<(EngineArgs, EngineArgs), Failure> {
    let Some(ram) = ram else { return Ok((engine, exact)) };
    let all = budget(source, &engine, base.map(|base| (base, &exact)), corpus)?;
    let left = ram.saturating_sub(all.with_process());
    let in_parts = |source: &Source| source.outline().map_or(0, |outline| outline.file_bytes());
    let (ours, theirs) = (in_parts(source), base.map_or(0, in_parts));
    let limited = |source: &Source, engine: EngineArgs, n_bytes: u64| {
        let beside = Budget::of(source, &engine, &SamplingArgs::GREEDY)?;
        Ok(EngineArgs { ram: Some(beside.with_process() + share(left, n_bytes, ours + theirs)), ..engine })
    };
    let exact = base.map_or(Ok(exact.clone()), |base| limited(base, exact, theirs))?;
    Ok((limited(source, engine, ours)?, exact))
}

/// Refuses a base whose token ids mean something else.
fn check_vocabulary(source: &Source, base: &Source) -> Result<(), Failure> {
    let (gguf, base_gguf) = (source.gguf()?, base.gguf()?);
    fn pieces<'a>(gguf: &Gguf<'a>) -> Option<Array<'a>> {
        gguf.get("tokenizer.ggml.tokens")?.as_array()
    }
    let (Some(ours), Some(theirs)) = (pieces(&gguf), pieces(&base_gguf)) else {
        // Whichever has none says so when the text is tokenized.
        let without = if pieces(&gguf).is_none() { source } else { base };
        return Err(without.refused("has no tokenizer, so it cannot read a text"));
    };
    let another = |what: String| base.refused(format!("{what}: another vocabulary than that of {}", source.name));
    if ours.len() != theirs.len() {
        return Err(another(format!("{} tokens, not {}", theirs.len(), ours.len())));
    }
    match ours.iter().zip(theirs.iter()).position(|(a, b)| a.as_str() != b.as_str()) {
        Some(id) => Err(another(format!("token {id} is another"))),
        None => Ok(()),
    }
}

/// Everything that is in memory while the text is scored.
fn budget(
    source: &Source,
    engine: &EngineArgs,
    base: Option<(&Source, &EngineArgs)>,
    corpus: &Corpus,
) -> Result<Budget, Failure> {
    let mut budget = Budget::of(source, engine, &SamplingArgs::GREEDY)?;
    let figures = corpus.chunks()?.n_scored() * size_of::<f32>();
    let mut add = |name: &str, bytes: usize| budget.lines.push(Line { name: name.to_owned(), bytes: bytes as u64 });
    add("token ids of the text", corpus.n_bytes());
    add("likelihoods", figures);
    if let Some((base, engine)) = base {
        let (_, n_vocab) = source.context_and_vocabulary()?;
        add("base: likelihoods", figures);
        add("divergences, and the same sorted", 2 * figures);
        let n_rows = engine.batch.min(corpus.chunks()?.scored().len());
        add("base: logits of a batch", n_rows * n_vocab * size_of::<f32>());
        budget.add_beside("base", Budget::of(base, engine, &SamplingArgs::GREEDY)?);
    }
    Ok(budget)
}

/// Reads the text with the model, and beside it with the base.
fn measure(session: &mut Session<'_>, base: Option<&mut Session<'_>>, corpus: &Corpus) -> Result<Measured, Failure> {
    let chunks = corpus.chunks()?;
    let mut n_bytes = 0;
    let mut tokens = Vec::with_capacity(chunks.context_tokens());
    for index in 0..chunks.len() {
        chunks.read(index, &mut tokens);
        tokens.drain(..=chunks.scored().start);
        tokens.iter().for_each(|&token| session.tokenizer.bytes(token, |_| n_bytes += 1));
    }
    let (interrupt, bar) = (Interrupt::watch()?, Bar::new());
    let guard = interrupt.guard();
    bar.begin("evaluating", (chunks.len() * (chunks.context_tokens() - 1)) as u64);
    let mut watch = |n_tokens: usize| {
        bar.advance(n_tokens as u64);
        !guard.is_pressed()
    };
    let batch = session.settings.limits.batch_tokens;
    let blamed = base.as_ref().map(|base| (base.name, base.gguf, base.elsewhere));
    let scored = match base {
        Some(base) => score::compare(&mut session.engine, &mut base.engine, &chunks, batch, &mut watch)
            .map(|(likelihood, damage)| (likelihood, Some(damage))),
        None => score::score(&mut session.engine, &chunks, batch, &mut watch).map(|likelihood| (likelihood, None)),
    };
    bar.end();
    let (likelihood, damage) = scored.map_err(|error| match (error, blamed) {
        (score::Error::Stopped, _) => Failure::Interrupted,
        (score::Error::Base(error), Some((name, gguf, stream))) => refused(name, gguf, stream, error),
        (score::Error::Base(error) | score::Error::Model(error), _) => {
            refused(session.name, session.gguf, session.elsewhere, error)
        }
    })?;
    let peak = smidgen_host::machine::peak_rss_bytes();
    Ok(Measured { likelihood, damage, n_bytes, settings: session.settings, peak })
}

/// The report as lines for a terminal.
fn for_people(report: &Report<'_>) -> String {
    let with_base = |model: String, base: Option<String>| [model, base.unwrap_or_default()];
    let mut table = Table::default();
    let mut row = |name: &str, [model, base]: [String; 2]| table.row([name.to_owned(), model, base]);
    row("", with_base("model".to_owned(), report.against.map(|_| "base".to_owned())));
    row("size", with_base(report::bytes(report.model_bytes), report.base_bytes.map(report::bytes)));
    let bits = |bits: f64| format!("{bits:.3}");
    row("bits per weight", with_base(bits(report.bits_per_weight), report.base_bits_per_weight.map(bits)));
    let figure = |x: f64| format!("{x:.4}");
    row("perplexity", with_base(figure(report.perplexity), report.base_perplexity.map(figure)));
    let error = |x: f64| format!("+/- {x:.5}");
    row("", with_base(error(report.perplexity_error), report.base_perplexity_error.map(error)));
    row("bits per byte", with_base(figure(report.bits_per_byte), report.base_bits_per_byte.map(figure)));
    let mut out = format!(
        "{}: {} tokens scored, in {} chunks of {}\n{}",
        report.model,
        report::count(report.tokens as u64),
        report::count(report.chunks as u64),
        report.context_tokens,
        table.render(&[1, 2]),
    );
    if let (Some(against), Some(same_top)) = (report.against, report.same_top) {
        let mut table = Table::default();
        let kls = [
            ("mean", report.kl_mean),
            ("p50", report.kl_p50),
            ("p90", report.kl_p90),
            ("p99", report.kl_p99),
            ("max", report.kl_max),
        ];
        for (name, kl) in kls {
            table.row([format!("KL divergence, {name}"), kl.map_or(String::new(), |kl| format!("{kl:.6} nats"))]);
        }
        table.row(["same top token".to_owned(), format!("{:.2} %", same_top * 100.0)]);
        out += &format!("\nagainst {against}\n{}", table.render(&[1]));
    }
    out
}
