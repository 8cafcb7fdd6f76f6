//! Calibration from a text to an imatrix file, in bounded memory, and resumed where it was stopped.
//!
//! Second moments of all inputs of a model may be larger than the model. When they do not fit `--ram`, the inputs are shared
//! out among passes over the text, each of which sums what fits. Every pass keeps its sums in a checkpoint beside the output,
//! from which the same command goes on; the output is put together from the checkpoints when the last pass is done.

mod checkpoint;
mod imatrix;

use crate::advice::advised;
use crate::args::{EngineArgs, SamplingArgs};
use crate::budget::{Budget, Code, Line, Work, check_ram};
use crate::corpus::Corpus;
use crate::failure::Failure;
use crate::generate::refused;
use crate::interrupt::{Guard, Interrupt};
use crate::load::{self, Session};
use crate::progress::Bar;
use crate::report;
use crate::source::Source;
use checkpoint::Checkpoint;
use smidgen_compress::calibration::{self, Collector, Sums};
use smidgen_core::engine::Input;
use smidgen_core::model::{Layer, Model};
use smidgen_host::Progress;
use std::path::Path;
use std::time::{Duration, Instant};

/// Code that sums the products of every two inputs of a matrix.
const OF_MOMENTS: Code = Code::kib(80);

/// Time between two checkpoints.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(30);

/// An input of the model and its columns.
type Columns = (Input, usize);

/// What is to be calibrated, and where the result goes.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    /// The model.
    pub source: &'a Source,
    /// The text.
    pub corpus: &'a Corpus,
    /// How the engine runs.
    pub engine: &'a EngineArgs,
    /// Whether second moments are wanted.
    pub with_moments: bool,
    /// The file to write.
    pub output: &'a Path,
}

/// What was done.
#[derive(Clone, Copy, Debug)]
pub struct Summary {
    /// Size of the file.
    pub file_bytes: u64,
    /// Matrices in it.
    pub n_matrices: usize,
    /// Moments in it.
    pub n_moments: usize,
    /// Chunks read.
    pub n_chunks: usize,
    /// Tokens read in each pass.
    pub n_tokens: usize,
    /// Passes over the text.
    pub n_passes: usize,
    /// Chunks that were found in checkpoints, of all passes together.
    pub n_resumed: usize,
    /// The memory that was planned.
    pub planned_bytes: u64,
    /// What the process was to take beside that.
    pub process_bytes: u64,
}

/// Calibrates, and writes the file.
///
/// # Errors
/// A text too short for what is wanted, a budget that holds not even one input, a model that computes what is no number,
/// Ctrl-C, and an output that cannot be written.
pub fn run(job: &Job<'_>, began: Instant) -> Result<Summary, Failure> {
    check_output(job.output)?;
    let chunks = job.corpus.chunks()?;
    let n_tokens = chunks.len() * chunks.context_tokens();
    let inputs = inputs(job.source)?;
    let widest = inputs.iter().map(|&(_, columns)| columns).max().unwrap_or(0);
    if job.with_moments && n_tokens < widest {
        return Err(Failure::Input(format!(
            "too short to calibrate: {n_tokens} tokens are read, but second moments of {widest} columns need at least as many"
        )));
    }
    let engine =
        EngineArgs { context: Some(chunks.context_tokens()), ram: None, work: Work::Read, ..job.engine.clone() };
    let mut budget = Budget::of(job.source, &engine, &SamplingArgs::GREEDY)?;
    let own = budget.with_process();
    budget.lines.push(Line { name: "token ids of the text".to_owned(), bytes: job.corpus.n_bytes() as u64 });
    // Of the buffer, only what is written is touched.
    let writing = (smidgen_host::atomic::BUFFER_BYTES as u64).min(sum_bytes(&inputs, job.with_moments));
    budget.lines.push(Line { name: "buffer of the file that is written".to_owned(), bytes: writing });
    if job.with_moments {
        budget.lines.push(Line { name: "code that sums second moments".to_owned(), bytes: OF_MOMENTS.bytes() });
    }
    let passes = passes(&inputs, job.with_moments, job.engine.ram.map(|ram| budget.room(ram)));
    let largest = passes.iter().map(|pass| sum_bytes(pass, job.with_moments)).max().unwrap_or(0);
    budget.lines.push(Line { name: "sums of the largest pass".to_owned(), bytes: largest });
    let beside = budget.with_process() - own;
    check_ram(job.engine.ram, &budget)
        .map_err(|refusal| advised(refusal, job.source, &engine, (job.engine.ram, beside)))?;

    let fingerprint = checkpoint::fingerprint(job.source.bytes(), &chunks, job.with_moments, &engine);
    let numbered = passes.iter().enumerate();
    let checkpoints: Vec<Checkpoint<'_>> = numbered
        .map(|(pass, inputs)| Checkpoint::new(job.output, pass, fingerprint, chunks, (inputs, job.with_moments)))
        .collect();
    let n_resumed = load::with_session(job.source, &engine, &SamplingArgs::GREEDY, began, |session| {
        collect(job, session, &checkpoints)
    })?;
    let file = imatrix::Imatrix { job, checkpoints: &checkpoints, n_tokens };
    let (file_bytes, n_matrices) = file.write()?;
    checkpoints.iter().for_each(Checkpoint::remove);
    Ok(Summary {
        file_bytes,
        n_matrices,
        n_moments: if job.with_moments { inputs.len() } else { 0 },
        n_chunks: chunks.len(),
        n_tokens,
        n_passes: passes.len(),
        n_resumed,
        planned_bytes: budget.total().max(job.corpus.reading_bytes()),
        process_bytes: budget.process_bytes(),
    })
}

/// Refuses, before the work, a file that could not be written after it.
fn check_output(output: &Path) -> Result<(), Failure> {
    if output.is_dir() {
        return Err(Failure::Input(format!("{}: is a directory, not a file to write", output.display())));
    }
    let directory = output.parent().filter(|parent| !parent.as_os_str().is_empty());
    match directory {
        Some(directory) if !directory.is_dir() => {
            Err(Failure::Input(format!("{}: there is no directory {}", output.display(), directory.display())))
        }
        _ => Ok(()),
    }
}

/// The distinct inputs of the model.
fn inputs(source: &Source) -> Result<Vec<Columns>, Failure> {
    let gguf = source.gguf()?;
    let mut layers = vec![Layer::EMPTY; Model::n_layers(&gguf).map_err(|error| source.refused(error))?];
    let model = Model::new(&gguf, &mut layers).map_err(|error| source.refused(error))?;
    Ok(calibration::inputs(model.hparams()))
}

fn sum_bytes(inputs: &[Columns], with_moments: bool) -> u64 {
    inputs.iter().map(|&(_, columns)| Sums::bytes(columns, with_moments) as u64).sum()
}

/// Shares the inputs out among passes whose sums take no more than `room`; an input that is larger has a pass of its own.
fn passes(inputs: &[Columns], with_moments: bool, room: Option<u64>) -> Vec<Vec<Columns>> {
    let mut passes: Vec<Vec<Columns>> = Vec::new();
    for &input in inputs {
        let fits = |pass: &Vec<Columns>| {
            let bytes = sum_bytes(pass, with_moments) + sum_bytes(&[input], with_moments);
            room.is_none_or(|room| bytes <= room)
        };
        match passes.last_mut().filter(|pass| fits(pass)) {
            Some(pass) => pass.push(input),
            None => passes.push(vec![input]),
        }
    }
    passes
}

/// Runs every pass to its end, and returns how many chunks were in checkpoints already.
fn collect(job: &Job<'_>, session: &mut Session<'_>, checkpoints: &[Checkpoint<'_>]) -> Result<usize, Failure> {
    let chunks = job.corpus.chunks()?;
    let (interrupt, bar) = (Interrupt::watch()?, Bar::new());
    let guard = interrupt.guard();
    let mut n_resumed = 0;
    bar.begin("calibrating", (checkpoints.len() * chunks.len()) as u64);
    for checkpoint in checkpoints {
        let (isa, workers) = (session.settings.isa, session.workers);
        let mut collector = Collector::new(checkpoint.inputs(), job.with_moments, isa, workers);
        let done = checkpoint.restore(collector.sums_mut())?;
        n_resumed += done;
        bar.advance(done as u64);
        let stopped = run_pass(job, session, &mut collector, (done, checkpoint), &bar, &guard)?;
        if let Some(done) = stopped {
            bar.end();
            eprintln!(
                "smidgen: {} of {} chunks are kept in {}; the same command goes on from there",
                report::count(done as u64),
                report::count(chunks.len() as u64),
                checkpoint.path().display(),
            );
            return Err(Failure::Interrupted);
        }
    }
    bar.end();
    Ok(n_resumed)
}

/// Reads the chunks from number `done` on and keeps the sums; how many were done when Ctrl-C came, if it did.
fn run_pass(
    job: &Job<'_>,
    session: &mut Session<'_>,
    collector: &mut Collector<'_>,
    (mut done, checkpoint): (usize, &Checkpoint<'_>),
    bar: &Bar,
    guard: &Guard<'_>,
) -> Result<Option<usize>, Failure> {
    let chunks = job.corpus.chunks()?;
    let mut tokens = Vec::with_capacity(chunks.context_tokens());
    let mut kept = Instant::now();
    if done == chunks.len() {
        return Ok(None);
    }
    while done < chunks.len() && !guard.is_pressed() {
        if kept.elapsed() >= CHECKPOINT_EVERY {
            checkpoint.keep(done, collector.sums())?;
            kept = Instant::now();
        }
        chunks.read(done, &mut tokens);
        session.engine.truncate(0);
        let observed = session.engine.forward_observed(&tokens, collector);
        observed.map_err(|error| refused(session.name, session.gguf, session.elsewhere, error))?;
        bar.advance(1);
        done += 1;
    }
    checkpoint.keep(done, collector.sums())?;
    Ok((done < chunks.len()).then_some(done))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_shared_out_in_order_and_none_is_lost() {
        let inputs: Vec<Columns> = (0..5).map(|layer| (Input::Down(layer), 10)).collect();
        let one = Sums::bytes(10, true) as u64;
        let sizes = |room| passes(&inputs, true, room).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes(None), [5]);
        assert_eq!(sizes(Some(5 * one)), [5]);
        assert_eq!(sizes(Some(5 * one - 1)), [4, 1]);
        assert_eq!(sizes(Some(2 * one)), [2, 2, 1]);
        assert_eq!(sizes(Some(0)), [1; 5]);
        assert_eq!(passes(&inputs, true, Some(2 * one)).concat(), inputs);
    }
}
