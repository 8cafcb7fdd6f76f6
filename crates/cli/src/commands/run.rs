//! `smidgen run`: a text and its continuation.

use crate::args::{EndingArgs, EngineArgs, ModelArgs, SamplingArgs};
use crate::budget::{Line, page_table_bytes};
use crate::draft::{self, Draft, DraftArgs};
use crate::failure::{Failure, Status};
use crate::generate::{Ending, Generator, Outcome, Prompted};
use crate::interrupt::{Guard, Interrupt};
use crate::load::{self, Session};
use crate::npy;
use crate::prompt::{self, PromptArgs};
use crate::prompt_cache;
use crate::report;
use crate::source::Source;
use clap::Args;
use serde::Serialize;
use smidgen_core::sample::{Candidate, Sampler};
use smidgen_core::tokenizer::Encode;
use smidgen_host::atomic;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[derive(Args, Debug)]
pub(super) struct Flags {
    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    prompt: PromptArgs,

    /// Token ids instead of text, such as "1 22 7"; nothing is added to them
    #[arg(long, value_name = "IDS", conflicts_with_all = ["text", "file"], help_heading = "Prompt")]
    ids: Option<String>,

    /// Write the text to this file instead
    #[arg(short = 'o', long = "output", value_name = "FILE", help_heading = "Output")]
    output: Option<PathBuf>,

    /// Write the f32 logits of every prompt position as .npy (positions x vocabulary)
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    logits: Option<PathBuf>,

    /// Keep the keys and values of the prompt in this file, and begin with those of an earlier run that the prompt shares
    #[arg(long, value_name = "FILE", conflicts_with = "logits", help_heading = "Prompt")]
    prompt_cache: Option<PathBuf>,

    /// Print one JSON object instead of the text and the summary
    #[arg(long, help_heading = "Output")]
    json: bool,

    #[command(flatten)]
    ending: EndingArgs,

    #[command(flatten)]
    draft: DraftArgs,

    #[command(flatten)]
    sampling: SamplingArgs,

    #[command(flatten)]
    engine: EngineArgs,
}

/// `smidgen.run/1`, described in `docs/json.md`.
#[derive(Serialize)]
struct Report<'a> {
    schema: &'static str,
    model: &'a str,
    prompt: &'a str,
    prompt_ids: &'a [u32],
    ids: &'a [u32],
    continuation: &'a str,
    text: String,
    ending: Ending,
    seed: u64,
    isa: &'static str,
    threads: usize,
    context_tokens: usize,
    timings: Timings,
    plan: &'a [Line],
    /// Of the weights, what is read from the file for every pass when the context is full.
    streamed_bytes: u64,
    /// What was read for each new token, on average.
    streamed_bytes_per_token: u64,
    /// Of the caches, what is kept in a file when the context is full.
    spilled_bytes: u64,
    planned_bytes: u64,
    process_bytes: u64,
    peak_bytes: Option<u64>,
}

impl<'a> Report<'a> {
    /// The report of a run that has ended.
    fn new(
        session: &'a Session<'_>,
        (prompt, continuation): (&'a str, &'a str),
        (prompt_ids, ids): (&'a [u32], &'a [u32]),
        ending: Ending,
        timings: Timings,
    ) -> Self {
        Self {
            schema: "smidgen.run/1",
            model: session.name,
            prompt,
            prompt_ids,
            ids,
            continuation,
            text: format!("{prompt}{continuation}"),
            ending,
            seed: session.settings.params.seed,
            isa: session.settings.isa.name(),
            threads: session.settings.limits.n_threads,
            context_tokens: session.settings.limits.context_tokens,
            timings,
            plan: &session.budget.lines,
            streamed_bytes: session.budget.streamed_bytes(),
            streamed_bytes_per_token: 0,
            spilled_bytes: session.budget.spilled_bytes(),
            planned_bytes: session.budget.total(),
            process_bytes: session.budget.process_bytes(),
            peak_bytes: None,
        }
    }
}

#[derive(Serialize)]
struct Timings {
    load_ms: f64,
    first_token_ms: f64,
    prompt_tokens_per_s: f64,
    decode_tokens_per_s: f64,
    guessed_tokens: usize,
    cached_tokens: usize,
}

impl Timings {
    fn new(load: Duration, n_prompt: usize, prompted: &Prompted, outcome: &Outcome) -> Self {
        // The first new token is known when the prompt has passed, so its time is the prompt's.
        let n_decoded = outcome.n_new.saturating_sub(1);
        Self {
            load_ms: load.as_secs_f64() * 1e3,
            first_token_ms: prompted.time.as_secs_f64() * 1e3,
            prompt_tokens_per_s: rate(prompted.n_tokens, prompted.time),
            decode_tokens_per_s: rate(n_decoded, outcome.time),
            guessed_tokens: outcome.n_guessed,
            cached_tokens: n_prompt - prompted.n_tokens,
        }
    }
}

fn rate(n: usize, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { n as f64 / time.as_secs_f64() }
}

pub(super) fn run(flags: &Flags, stdout: &mut dyn Write) -> Result<Status, Failure> {
    let began = Instant::now();
    let text = match flags.ids {
        Some(_) => String::new(),
        None => flags.prompt.read_trimmed()?,
    };
    for path in flags.output.iter().chain(&flags.logits).chain(&flags.prompt_cache) {
        if path.is_dir() {
            return Err(Failure::Input(format!("{}: is a directory, not a file to write", path.display())));
        }
    }
    let source = Source::open_to_run(&flags.model, &flags.engine, &flags.sampling)?;
    draft::with_draft(&flags.draft, &flags.model, &flags.engine, |draft, beside| {
        // What the draft model takes is not there for this one.
        let reads_each = flags.logits.is_some() || flags.draft.draft.is_some();
        let mut engine = EngineArgs { keeps_all: flags.prompt_cache.is_some(), reads_each, ..flags.engine.clone() };
        let draft_bytes = beside.as_ref().map_or(0, |beside| beside.total() + page_table_bytes(beside.total()));
        engine.ram = engine.ram.map(|ram| ram.saturating_sub(draft_bytes));
        load::with_session(&source, &engine, &flags.sampling, began, |session| {
            if let Some(beside) = beside {
                let mut both = session.budget.clone();
                both.add_beside("draft model", beside);
                let bytes = both.total() - session.budget.total();
                session.budget.lines.push(Line { name: "draft model".to_owned(), bytes });
            }
            continue_text(flags, text, session, draft, stdout)
        })
    })
}

/// Where the continuation goes while it comes.
struct Sink<'a> {
    stdout: Option<&'a mut dyn Write>,
    /// What has come so far, when it is wanted as a whole; its room is reserved before the first token.
    kept: Option<Vec<u8>>,
}

impl Sink<'_> {
    fn write(&mut self, piece: &[u8]) -> Result<(), Failure> {
        if let Some(kept) = &mut self.kept {
            kept.extend_from_slice(piece);
        }
        match &mut self.stdout {
            Some(stdout) => report::write(*stdout, piece),
            None => Ok(()),
        }
    }
}

fn continue_text(
    flags: &Flags,
    text: String,
    session: &mut Session<'_>,
    draft: Option<(&mut dyn Draft, usize)>,
    stdout: &mut dyn Write,
) -> Result<Status, Failure> {
    if let Some((draft, _)) = &draft {
        draft.check(session)?;
    }
    let context_tokens = session.settings.limits.context_tokens;
    let (prompt, mut tokens) = prompt_tokens(flags, text, session)?;
    let n_prompt = tokens.len();
    tokens.reserve_exact((context_tokens + 1).saturating_sub(n_prompt));

    let params = session.settings.params;
    let mut scratch = vec![Candidate::default(); Sampler::scratch_len(&params, session.model.hparams().n_vocab)];
    let sampler = Sampler::new(params, &mut scratch);
    let mut generator =
        Generator::new(session, sampler, &flags.ending)?.with_draft(draft.map(|(draft, most)| (draft as _, most)));
    let keeps = flags.json || flags.output.is_some();
    let room = (context_tokens + 1 - n_prompt) * session.tokenizer.max_piece_bytes();
    let mut sink = Sink { kept: keeps.then(|| Vec::with_capacity(room)), stdout: (!keeps).then_some(&mut *stdout) };

    let interrupt = Interrupt::watch()?;
    let guard = interrupt.guard();
    // What loads a model and makes tokens of a prompt is not needed to continue it.
    smidgen_host::pages::release_program();
    let fingerprint = restore_prompt(flags, session, &tokens)?;
    let prompted = match &flags.logits {
        Some(path) => with_logits(path, session, &tokens, &mut generator, &guard)?,
        None => generator.prompt(session, &tokens, None, &guard)?,
    };
    if prompted.first.is_some() {
        keep_prompt(flags, session, &tokens, fingerprint)?;
    }
    // Not before: a progress bar would draw over it.
    if !keeps {
        sink.write(prompt.as_bytes())?;
    }
    let before = (session.elsewhere.n_streamed(), session.engine.position());
    let outcome = generator.run(session, &mut tokens, prompted.first, &guard, &mut |piece| sink.write(piece))?;
    drop(guard);
    // Nor is the engine needed to say what it did.
    let peak = smidgen_host::machine::peak_rss_bytes();
    smidgen_host::pages::release_program();

    let Sink { kept, stdout: _ } = sink;
    let continuation = String::from_utf8_lossy(kept.as_deref().unwrap_or_default());
    if let Some(path) = &flags.output {
        atomic::write_bytes(path, &[prompt.as_bytes(), continuation.as_bytes()].concat())
            .map_err(load::host_failure)?;
    }
    let timings = Timings::new(session.load, n_prompt, &prompted, &outcome);
    if flags.json {
        let texts = (prompt.as_str(), &*continuation);
        let report = Report::new(session, texts, tokens.split_at(n_prompt), outcome.ending, timings);
        let report = Report {
            streamed_bytes_per_token: streamed_per_token(session, before),
            peak_bytes: smidgen_host::machine::peak_rss_bytes().max(peak),
            ..report
        };
        report::json(stdout, &report)?;
    } else {
        if !keeps {
            report::write(stdout, b"\n")?;
        }
        summarize(session, &prompted, &outcome, &timings, params.seed);
    }
    Ok(if outcome.ending == Ending::Interrupted { Status::Interrupted } else { Status::Done })
}

/// Takes what it can from the prompt cache, if there is to be one, and gives the fingerprint of what it is for.
fn restore_prompt(flags: &Flags, session: &mut Session<'_>, tokens: &[u32]) -> Result<Option<u64>, Failure> {
    let Some(path) = &flags.prompt_cache else { return Ok(None) };
    let fingerprint = prompt_cache::restore(path, session, tokens)?;
    // What did it is not needed to go on.
    smidgen_host::pages::release_program();
    Ok(Some(fingerprint))
}

/// Writes the prompt cache, if there is to be one.
fn keep_prompt(flags: &Flags, session: &Session<'_>, tokens: &[u32], fingerprint: Option<u64>) -> Result<(), Failure> {
    let (Some(path), Some(fingerprint)) = (&flags.prompt_cache, fingerprint) else { return Ok(()) };
    smidgen_host::pages::release_program();
    prompt_cache::save(path, session, tokens, (fingerprint, flags.engine.ram.is_some()))?;
    smidgen_host::pages::release_program();
    Ok(())
}

/// What was read of the weights for each token since so many bytes had been streamed and so many positions run.
fn streamed_per_token(session: &Session<'_>, (n_streamed, position): (u64, usize)) -> u64 {
    let n_passed = session.engine.position().saturating_sub(position).max(1) as u64;
    session.budget.in_file(session.elsewhere.n_streamed() - n_streamed) / n_passed
}

/// The text of the prompt and its ids, which fit the context.
fn prompt_tokens(flags: &Flags, text: String, session: &Session<'_>) -> Result<(String, Vec<u32>), Failure> {
    let tokenizer = session.tokenizer;
    let context_tokens = session.settings.limits.context_tokens;
    let (text, ids) = match &flags.ids {
        Some(ids) => {
            let ids = prompt::parse_ids(ids, session.model.hparams().n_vocab)?;
            (prompt::decode(tokenizer, &ids), ids)
        }
        None => {
            // Text that is longer than this many of the longest tokens need not be encoded to be refused.
            if text.len() / tokenizer.max_piece_bytes() > context_tokens {
                return Err(too_long(session, &format!("{} bytes", text.len())));
            }
            let options = Encode { add_special: true, parse_special: true };
            let mut ids = prompt::encode(tokenizer, &text, options).map_err(|error| session.refused(error))?;
            if tokenizer.adds_eos() {
                // What ends a text must not stand before its continuation.
                ids.pop();
            }
            if ids.is_empty() {
                // Nothing to go on from: a text begins as the model was taught, also where prompts do without.
                ids.extend(tokenizer.bos());
            }
            (text, ids)
        }
    };
    if ids.is_empty() {
        return Err(session.refused("an empty prompt, and the model has no BOS token to begin with; give -p TEXT"));
    }
    if ids.len() > context_tokens {
        return Err(too_long(session, &format!("{} tokens", ids.len())));
    }
    Ok((text, ids))
}

fn too_long(session: &Session<'_>, size: &str) -> Failure {
    Failure::Input(format!(
        "the prompt has {size}, more than the context of {} tokens; give a larger -c (the model was trained with {})",
        session.settings.limits.context_tokens,
        session.model.hparams().context_train,
    ))
}

/// Reads the prompt while its logits go to the file `path`.
fn with_logits(
    path: &Path,
    session: &mut Session<'_>,
    tokens: &[u32],
    generator: &mut Generator<'_>,
    guard: &Guard<'_>,
) -> Result<Prompted, Failure> {
    let n_vocab = session.model.hparams().n_vocab;
    let mut stopped = None;
    let written = atomic::write(path, |file| {
        let unwritten = |error| Failure::Failed(format!("{}: cannot be written: {error}", path.display()));
        let header = npy::write_header(file, tokens.len(), n_vocab).map_err(unwritten);
        let mut each = |logits: &[f32]| npy::write_row(file, logits).map_err(unwritten);
        let read = header.and_then(|()| generator.prompt(session, tokens, Some(&mut each), guard));
        let whole = read.and_then(|prompted| prompted.first.map(|_| prompted).ok_or(Failure::Interrupted));
        whole.map_err(|failure| {
            stopped = Some(failure);
            smidgen_host::Error::failed(path, "not written")
        })
    });
    written.map_err(|error| stopped.unwrap_or_else(|| load::host_failure(error)))
}

/// The line on the standard error, and the one before it when the context ended the text.
fn summarize(session: &Session<'_>, prompted: &Prompted, outcome: &Outcome, timings: &Timings, seed: u64) {
    if outcome.ending == Ending::Context {
        let context_tokens = session.settings.limits.context_tokens;
        eprintln!("smidgen: the context of {context_tokens} tokens is full; a larger -c goes on");
    }
    let peak = smidgen_host::machine::peak_rss_bytes().map_or("unknown".to_owned(), report::bytes);
    let guessed = if outcome.n_guessed > 0 { format!(" ({} guessed)", outcome.n_guessed) } else { String::new() };
    eprintln!(
        "smidgen: loaded in {:.1} ms, first token after {:.1} ms; prompt {} tokens at {:.0} tokens/s, {} new{guessed} at {:.0} tokens/s; \
         planned {}, peak {peak}; seed {seed}",
        timings.load_ms,
        timings.first_token_ms,
        prompted.n_tokens,
        timings.prompt_tokens_per_s,
        outcome.n_new,
        timings.decode_tokens_per_s,
        report::bytes(session.budget.total()),
    );
}
