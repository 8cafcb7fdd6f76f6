//! `smidgen bench`: how fast a model runs here.

use crate::args::{EngineArgs, ModelArgs, SamplingArgs, positive};
use crate::budget::Work;
use crate::failure::{Failure, Status};
use crate::generate::refused;
use crate::interrupt::{Guard, Interrupt};
use crate::load::{self, Session};
use crate::progress::Bar;
use crate::report::{self, Table};
use crate::source::Source;
use clap::Args;
use serde::Serialize;
use smidgen_core::engine::{Observer, Op};
use smidgen_core::model::{Layer, Model};
use smidgen_core::ops::matmul::{Crew, Matrix};
use smidgen_core::ops::reading::read_all;
use smidgen_host::Progress;
use std::io::Write;
use std::time::Instant;

#[derive(Args, Debug)]
pub(super) struct Flags {
    #[command(flatten)]
    model: ModelArgs,

    /// Tokens of the prompts to time; 0 times none
    #[arg(short = 'p', long, value_name = "N", value_delimiter = ',', default_value = "512")]
    n_prompt: Vec<usize>,

    /// New tokens to time, one after the other; 0 times none
    #[arg(short = 'n', long, value_name = "N", value_delimiter = ',', default_value = "128")]
    n_gen: Vec<usize>,

    /// Tokens that the model has read before the new ones
    #[arg(short = 'd', long, value_name = "N", value_delimiter = ',', default_value = "0")]
    n_depth: Vec<usize>,

    /// How often each is timed, after one time that is not
    #[arg(short = 'r', long, value_name = "N", default_value_t = 5, value_parser = positive)]
    repetitions: usize,

    /// Show instead where the time of the first -n new tokens goes, part by part, with the bytes of weights read in a second
    #[arg(long)]
    ops: bool,

    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    engine: EngineArgs,
}

/// `smidgen.bench/1`, described in `docs/json.md`.
#[derive(Serialize)]
struct Report<'a> {
    schema: &'static str,
    model: &'a str,
    isa: &'static str,
    threads: usize,
    batch_tokens: usize,
    context_tokens: usize,
    weight_bytes: u64,
    load_ms: f64,
    tests: Vec<Timed>,
    /// Of the weights, what is read from the file for every pass.
    streamed_bytes: u64,
    planned_bytes: u64,
    process_bytes: u64,
    peak_bytes: Option<u64>,
}

/// `smidgen.bench-ops/1`, described in `docs/json.md`.
#[derive(Serialize)]
struct OpsReport<'a> {
    schema: &'static str,
    model: &'a str,
    isa: &'static str,
    threads: usize,
    n_tokens: usize,
    depth: usize,
    /// Bytes of weights that this machine reads in a second where nothing is computed with them, as measured now.
    limit_gb_per_s: f64,
    ops: Vec<TimedOp>,
}

/// What a part of a pass takes.
#[derive(Serialize)]
struct TimedOp {
    op: &'static str,
    us_per_token: f64,
    share: f64,
    weight_bytes: u64,
    weight_gb_per_s: f64,
    /// Additions and multiplications of the products in a second.
    gop_per_s: f64,
    /// `weight_gb_per_s` as a share of the limit.
    limit_share: f64,
}

/// Who looks at the clock whenever a part of a pass begins.
struct Clock {
    seconds: [f64; Op::ALL.len()],
    under_way: Option<(Op, Instant)>,
}

impl Clock {
    fn stop(&mut self) {
        if let Some((op, began)) = self.under_way.take() {
            self.seconds[op as usize] += began.elapsed().as_secs_f64();
        }
    }
}

impl Observer for Clock {
    fn begin(&mut self, op: Op) {
        self.stop();
        self.under_way = Some((op, Instant::now()));
    }
}

/// What the parts are called.
fn op_name(op: Op) -> &'static str {
    match op {
        Op::Embed => "embedding",
        Op::Norm => "norms",
        Op::Qkv => "query, key, value",
        Op::Rope => "rotation, cache",
        Op::Attention => "attention",
        Op::AttentionOutput => "attention output",
        Op::FeedForward => "gate, up",
        Op::Activation => "activation",
        Op::Down => "down",
        Op::Logits => "logits",
    }
}

/// Weights and their bytes in the matrices that a part of a pass multiplies with, in all layers.
fn op_weights(op: Op, model: &Model<'_>) -> [u64; 2] {
    let one = |matrix: &Matrix<'_>| [matrix.rows * matrix.columns, matrix.rows * matrix.row_bytes()].map(|n| n as u64);
    let sum = |matrices: &[&Matrix<'_>]| matrices.iter().fold([0, 0], |sum, matrix| add(sum, one(matrix)));
    let layer = |layer: &Layer<'_>| match op {
        Op::Qkv => sum(&[&layer.query().matrix, &layer.key().matrix, &layer.value().matrix]),
        Op::AttentionOutput => one(&layer.output().matrix),
        Op::FeedForward => sum(&[&layer.gate().matrix, &layer.up().matrix]),
        Op::Down => one(&layer.down().matrix),
        _ => [0, 0],
    };
    if op == Op::Logits { one(model.output()) } else { model.layers().iter().map(layer).fold([0, 0], add) }
}

fn add(a: [u64; 2], b: [u64; 2]) -> [u64; 2] {
    [a[0] + b[0], a[1] + b[1]]
}

/// Bytes of weights in a second that are read and not computed with: the best of some passes over those in memory.
fn limit(session: &Session<'_>) -> f64 {
    const PASSES: usize = 9;
    let crew = Crew { isa: session.settings.isa, workers: session.workers };
    let pass = || {
        let began = Instant::now();
        session.model.matrices().for_each(|matrix| read_all(crew, matrix.held_bytes()));
        began.elapsed().as_secs_f64()
    };
    let seconds = (0..PASSES).map(|_| pass()).fold(f64::INFINITY, f64::min);
    let n_bytes: usize = session.model.matrices().map(|matrix| matrix.held_bytes().len()).sum();
    n_bytes as f64 / seconds
}

/// Times the parts of `n_tokens` passes behind `depth` tokens.
fn time_ops(session: &mut Session<'_>, ids: &[u32], n_tokens: usize, depth: usize) -> Result<Vec<TimedOp>, Failure> {
    let limit = limit(session);
    let (before, timed) = ids[..depth + n_tokens].split_at(depth);
    let mut seconds = [const { Vec::new() }; Op::ALL.len()];
    session.engine.truncate(0);
    let (name, gguf, stream) = (session.name, session.gguf, session.elsewhere);
    let failed = |error| refused(name, gguf, stream, error);
    if !before.is_empty() {
        session.engine.forward(before).map_err(failed)?;
    }
    for &id in timed {
        let mut clock = Clock { seconds: [0.0; Op::ALL.len()], under_way: None };
        session.engine.forward_timed(&[id], &mut clock).map_err(failed)?;
        clock.stop();
        seconds.iter_mut().zip(clock.seconds).for_each(|(all, one)| all.push(one));
    }
    // Of all tokens the one in the middle: the mean would charge a part with what else the machine did meanwhile.
    let medians = seconds.map(|mut all| {
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    });
    let all: f64 = medians.iter().sum();
    let timed = Op::ALL.map(|op| {
        let seconds = medians[op as usize];
        let [n_weights, weight_bytes] = op_weights(op, session.model);
        let per_s = |n: u64| if seconds > 0.0 { n as f64 / seconds } else { 0.0 };
        TimedOp {
            op: op_name(op),
            us_per_token: seconds * 1e6,
            share: seconds / all,
            weight_bytes,
            weight_gb_per_s: per_s(weight_bytes) / 1e9,
            gop_per_s: per_s(2 * n_weights) / 1e9,
            limit_share: per_s(weight_bytes) / limit,
        }
    });
    Ok(timed.into())
}

/// Prints where the time goes.
fn show_ops(flags: &Flags, session: &mut Session<'_>, ids: &[u32], stdout: &mut dyn Write) -> Result<Status, Failure> {
    let (n_tokens, depth) = (flags.n_gen[0], flags.n_depth[0]);
    if n_tokens == 0 {
        return Err(Failure::Input("--ops times new tokens; give -n a number above 0".to_owned()));
    }
    time_ops(session, ids, n_tokens, depth)?;
    let ops = time_ops(session, ids, n_tokens, depth)?;
    let report = OpsReport {
        schema: "smidgen.bench-ops/1",
        model: session.name,
        isa: session.settings.isa.name(),
        threads: session.settings.limits.n_threads,
        n_tokens,
        depth,
        limit_gb_per_s: limit(session) / 1e9,
        ops,
    };
    if flags.json {
        report::json(stdout, &report)?;
        return Ok(Status::Done);
    }
    let mut table = Table::default();
    table.row(["part", "us/token", "share", "weights GB/s", "of what can be read", "Gop/s"].map(str::to_owned));
    for op in &report.ops {
        let rates = [format!("{:.2}", op.weight_gb_per_s), percent(op.limit_share), format!("{:.1}", op.gop_per_s)];
        let [rate, limit, ops] = if op.weight_bytes > 0 { rates } else { Default::default() };
        table.row([op.op.into(), format!("{:.1}", op.us_per_token), percent(op.share), rate, limit, ops]);
    }
    report::write(stdout, table.render(&[1, 2, 3, 4, 5]).as_bytes())?;
    eprintln!("smidgen: weights can be read at {:.2} GB/s here, with nothing else to do", report.limit_gb_per_s);
    Ok(Status::Done)
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// What is timed: `n_tokens` that pass through the model together or one after the other, behind `depth` others.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
struct Test {
    kind: Kind,
    n_tokens: usize,
    depth: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Prompt,
    Decode,
}

/// Tokens per second of every repetition, sorted; the first one is not among them.
#[derive(Serialize)]
struct Timed {
    #[serde(flatten)]
    test: Test,
    tokens_per_s: f64,
    tokens_per_s_min: f64,
    tokens_per_s_max: f64,
}

impl Test {
    /// Every test that the flags ask for.
    fn all(flags: &Flags) -> Vec<Test> {
        let prompts = flags.n_prompt.iter().map(|&n| Test { kind: Kind::Prompt, n_tokens: n, depth: 0 });
        let decodes = flags
            .n_depth
            .iter()
            .flat_map(|&depth| flags.n_gen.iter().map(move |&n_tokens| Test { kind: Kind::Decode, n_tokens, depth }));
        prompts.chain(decodes).filter(|test| test.n_tokens > 0).collect()
    }

    /// As llama-bench calls it.
    fn name(&self) -> String {
        let kind = if self.kind == Kind::Prompt { "pp" } else { "tg" };
        match self.depth {
            0 => format!("{kind}{}", self.n_tokens),
            depth => format!("{kind}{} @ d{depth}", self.n_tokens),
        }
    }

    /// Runs the test once and gives its seconds.
    fn time(&self, session: &mut Session<'_>, ids: &[u32]) -> Result<f64, Failure> {
        let (before, timed) = ids[..self.depth + self.n_tokens].split_at(self.depth);
        let engine = &mut session.engine;
        engine.truncate(0);
        let mut run = |ids: &[u32]| match engine.forward(ids) {
            Ok(_) => Ok(()),
            Err(error) => Err(refused(session.name, session.gguf, session.elsewhere, error)),
        };
        if !before.is_empty() {
            run(before)?;
        }
        let began = Instant::now();
        match self.kind {
            Kind::Prompt => run(timed)?,
            Kind::Decode => timed.iter().try_for_each(|&id| run(&[id]))?,
        }
        Ok(began.elapsed().as_secs_f64())
    }
}

pub(super) fn run(flags: &Flags, stdout: &mut dyn Write) -> Result<Status, Failure> {
    let began = Instant::now();
    let tests = Test::all(flags);
    let Some(needed) = tests.iter().map(|test| test.depth.saturating_add(test.n_tokens)).max() else {
        return Err(Failure::Input("nothing to time; give -p or -n a number above 0".to_owned()));
    };
    let mut engine = EngineArgs { work: Work::Bench, ..flags.engine.clone() };
    let context = *engine.context.get_or_insert(needed);
    if context != 0 && context < needed {
        return Err(Failure::Input(format!("-c {context} has no room for the {needed} tokens of the longest test")));
    }
    let source = Source::open_to_run(&flags.model, &engine, &SamplingArgs::GREEDY)?;
    load::with_session(&source, &engine, &SamplingArgs::GREEDY, began, |session| {
        let context_tokens = session.settings.limits.context_tokens;
        if context_tokens < needed {
            return Err(session.refused(format!("a context of {context_tokens} has no room for {needed} tokens")));
        }
        let ids = arbitrary_ids(session.model.hparams().n_vocab, needed);
        let interrupt = Interrupt::watch()?;
        let guard = interrupt.guard();
        if flags.ops {
            return show_ops(flags, session, &ids, stdout);
        }
        let timed = time_all(&tests, flags.repetitions, session, &ids, &guard)?;
        let peak = smidgen_host::machine::peak_rss_bytes();
        smidgen_host::pages::release_program();
        show(flags, session, &source, (timed, peak), stdout)
    })
}

/// Ids that look like none in particular: speed hardly depends on them, and they are the same each time.
fn arbitrary_ids(n_vocab: usize, n: usize) -> Vec<u32> {
    let mut state = 260u32;
    let next = |_| {
        // The step of Numerical Recipes' "quick and dirty" generator; its upper bits are the good ones.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((u64::from(state) * n_vocab as u64) >> 32) as u32
    };
    (0..n).map(next).collect()
}

/// Times every test, in turns, so that a change of the machine's mind is shared by all.
fn time_all(
    tests: &[Test],
    repetitions: usize,
    session: &mut Session<'_>,
    ids: &[u32],
    guard: &Guard<'_>,
) -> Result<Vec<Timed>, Failure> {
    let mut seconds = vec![Vec::with_capacity(repetitions); tests.len()];
    let bar = Bar::new();
    bar.begin("timing", (tests.len() * (repetitions + 1)) as u64);
    for repetition in 0..=repetitions {
        for (test, seconds) in tests.iter().zip(&mut seconds) {
            if guard.is_pressed() {
                return Err(Failure::Interrupted);
            }
            let time = test.time(session, ids)?;
            if repetition > 0 {
                seconds.push(time);
            }
            bar.advance(1);
        }
    }
    bar.end();
    let timed = |(test, seconds): (&Test, &mut Vec<f64>)| {
        seconds.sort_by(f64::total_cmp);
        let rate = |at: usize| test.n_tokens as f64 / seconds[at];
        let last = repetitions - 1;
        Timed {
            test: *test,
            tokens_per_s: rate(repetitions / 2),
            tokens_per_s_min: rate(last),
            tokens_per_s_max: rate(0),
        }
    };
    Ok(tests.iter().zip(&mut seconds).map(timed).collect())
}

fn show(
    flags: &Flags,
    session: &Session<'_>,
    source: &Source,
    (timed, peak): (Vec<Timed>, Option<u64>),
    stdout: &mut dyn Write,
) -> Result<Status, Failure> {
    let limits = &session.settings.limits;
    let report = Report {
        schema: "smidgen.bench/1",
        model: session.name,
        isa: session.settings.isa.name(),
        threads: limits.n_threads,
        batch_tokens: limits.batch_tokens,
        context_tokens: limits.context_tokens,
        weight_bytes: source.gguf()?.tensors().map(|tensor| tensor.n_bytes).sum(),
        load_ms: session.load.as_secs_f64() * 1e3,
        tests: timed,
        streamed_bytes: session.budget.streamed_bytes(),
        planned_bytes: session.budget.total(),
        process_bytes: session.budget.process_bytes(),
        peak_bytes: smidgen_host::machine::peak_rss_bytes().max(peak),
    };
    if flags.json {
        report::json(stdout, &report)?;
        return Ok(Status::Done);
    }
    let mut table = Table::default();
    table.row(["test".into(), "tokens/s".into(), "min".into(), "max".into()]);
    for test in &report.tests {
        let rates = [test.tokens_per_s, test.tokens_per_s_min, test.tokens_per_s_max].map(|rate| format!("{rate:.1}"));
        let [median, min, max] = rates;
        table.row([test.test.name(), median, min, max]);
    }
    report::write(stdout, table.render(&[1, 2, 3]).as_bytes())?;
    eprintln!(
        "smidgen: {}, {} threads, batches of {}; loaded in {:.1} ms",
        report.isa, report.threads, report.batch_tokens, report.load_ms
    );
    Ok(Status::Done)
}
