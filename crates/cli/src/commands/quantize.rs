//! `smidgen quantize`: a smaller file, by a recipe that people know the name of.

use crate::args::EngineArgs;
use crate::budget::page_table_bytes;
use crate::failure::{Failure, Status};
use crate::load::{choose_isa, host_failure};
use crate::progress::Bar;
use crate::quantize::choice::{self, Override, Wish};
use crate::quantize::forecast::{self, Memory, Sizes, tensor_bytes};
use crate::quantize::known::{ImatrixFile, Known};
use crate::quantize::names;
use crate::quantize::report::{Report, TensorRow};
use crate::quantize::rounding::Rounding;
use crate::quantize::search::{self, Choice, Found, Search};
use crate::quantize::text::{self, Bench, Text};
use crate::quantize::work::{self, Work, stored_header};
use crate::report;
use clap::Args;
use smidgen_compress::recipe::fallback::Fallback;
use smidgen_compress::recipe::{Choices, OUTPUT, Recipe};
use smidgen_core::gguf::Gguf;
use smidgen_core::quant::Type;
use smidgen_host::emit::{Emission, Entry, Means, Target};
use smidgen_host::threads::Pool;
use smidgen_host::{Import, OpenOptions, atomic};
use std::io::Write;
use std::path::PathBuf;

/// What stands in the place of a type: types are chosen by the damage that they are measured to do. All need -f.
#[derive(Args, Debug)]
#[command(next_help_heading = "To a size (with -f TEXT, in the place of TYPE)")]
struct GoalArgs {
    /// Bytes that the file may take, such as 44M
    #[arg(long, value_name = "SIZE", value_parser = crate::args::size, conflicts_with = "bpw")]
    size: Option<u64>,

    /// Bits for each weight that the file may take
    #[arg(long, value_name = "BITS", value_parser = crate::args::factor)]
    bpw: Option<f32>,

    /// Types to choose from [default: those for rows of any width]
    #[arg(long, value_name = "TYPES", value_delimiter = ',', value_parser = names::weight_type)]
    among: Vec<Type>,
}

#[derive(Args, Debug)]
#[command(mut_arg("threads", |arg| arg.help("Threads [default: one for each core]")))]
#[command(mut_arg("ram", |arg| arg.help("Memory that running the file may take, such as 32M, with -c tokens of context; in place of TYPE, types are chosen to fit it")))]
pub(super) struct Flags {
    /// The model to read, the file to write, and the type: IN OUT TYPE. TYPE is a weight type or one of llama.cpp's mixtures, such as Q4_K_M; --size, --bpw or --ram stand in its place; --dry-run needs no OUT
    #[arg(value_name = "IN OUT TYPE", num_args = 0..=3)]
    bare: Vec<String>,

    /// The same as a bare IN
    #[arg(short = 'm', long = "model", value_name = "MODEL")]
    model: Option<String>,

    /// The same as a bare OUT
    #[arg(short = 'o', long = "output", alias = "outfile", value_name = "FILE")]
    output: Option<PathBuf>,

    /// Tokenizer of a llama2.c model (tokenizer.bin)
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,

    /// Another type for the tensors whose names match, as in 'ffn_down=q6_k' (may be given more than once; the last match counts)
    #[arg(long = "type", alias = "tensor-type", value_name = "REGEX=TYPE", value_parser = choice::parse_override)]
    types: Vec<Override>,

    /// The same type for every matrix, without better ones where a mixture has them
    #[arg(long)]
    pure: bool,

    /// Leave the output matrix as it is
    #[arg(long, alias = "leave-output-tensor")]
    keep_output: bool,

    /// Type of the output matrix
    #[arg(long, alias = "output-tensor-type", value_name = "TYPE", value_parser = names::weight_type)]
    output_type: Option<Type>,

    /// Type of the token embedding
    #[arg(long, alias = "token-embedding-type", value_name = "TYPE", value_parser = names::weight_type)]
    embedding_type: Option<Type>,

    /// What tensors get whose rows their type cannot have: a type, 'any' (for rows of any width, of like bits) or 'llama' (what llama.cpp takes without asking); without it they are an error
    #[arg(long, value_name = "TYPE", value_parser = names::fallback)]
    fallback: Option<Fallback>,

    /// Allow a source that is quantized already: what it has lost stays lost, and is lost again
    #[arg(long, alias = "allow-requantize")]
    requantize: bool,

    /// What 'smidgen calibrate' or llama-imatrix found out about the model's inputs
    #[arg(long, value_name = "FILE")]
    imatrix: Option<PathBuf>,

    /// Text to calibrate with, unless --imatrix is given, and to measure damage on
    #[arg(short = 'f', long = "calibrate", alias = "file", value_name = "TEXT")]
    text: Option<PathBuf>,

    #[command(flatten)]
    goal: GoalArgs,

    /// Say what the file will be, and write nothing
    #[arg(long)]
    dry_run: bool,

    /// Show every tensor
    #[arg(long)]
    verbose: bool,

    #[command(flatten)]
    engine: EngineArgs,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What decides the types.
enum Goal {
    Recipe(Recipe),
    /// Bytes of the file.
    Size(u64),
    /// Bits for each weight of all tensors.
    BitsPerWeight(f64),
    /// Bytes that running the file takes.
    Ram(u64),
}

/// What the command was asked to read, write and make.
struct Job<'a> {
    model: &'a str,
    /// `None` for a dry run that names no file.
    output: Option<PathBuf>,
    goal: Goal,
}

fn usage(text: &str) -> Failure {
    Failure::Input(format!("quantize: {text}"))
}

impl Flags {
    fn job(&self) -> Result<Job<'_>, Failure> {
        let mut bare = self.bare.as_slice();
        let n_paths = 2 - usize::from(self.model.is_some()) - usize::from(self.output.is_some());
        let to_size = match (self.goal.size, self.goal.bpw, self.engine.ram) {
            (Some(size), ..) => Some(Goal::Size(size)),
            (_, Some(bits), _) => Some(Goal::BitsPerWeight(bits.into())),
            (.., Some(ram)) if bare.len() <= n_paths && bare.last().is_none_or(|name| Recipe::find(name).is_none()) => {
                Some(Goal::Ram(ram))
            }
            _ => None,
        };
        if to_size.is_some() {
            self.check_search()?;
        } else if self.text.is_some() && self.imatrix.is_some() {
            return Err(usage("--imatrix says already what -f would find out; give one of them"));
        }
        let goal = match to_size {
            Some(goal) => goal,
            None => {
                let (name, paths) = bare.split_last().ok_or_else(|| usage("give IN, OUT and TYPE"))?;
                bare = paths;
                Goal::Recipe(names::recipe(name).map_err(|error| usage(&error))?)
            }
        };
        let mut bare = bare.iter();
        let model = self.model.as_deref().or_else(|| bare.next().map(String::as_str));
        let output = self.output.clone().or_else(|| bare.next().map(PathBuf::from));
        if let Some(extra) = bare.next() {
            return Err(usage(&format!("'{}' is one word too many", extra.escape_default())));
        }
        match (model, output) {
            (Some(model), None) if self.dry_run => Ok(Job { model, output: None, goal }),
            (Some(model), Some(output)) => Ok(Job { model, output: Some(output), goal }),
            _ => Err(usage("give a model IN to read, a file OUT to write and a TYPE")),
        }
    }

    /// Refuses what a search has no use for.
    fn check_search(&self) -> Result<(), Failure> {
        if self.text.is_none() {
            return Err(usage("--size, --bpw and --ram choose types by measuring: give a text with -f"));
        }
        let chosen = [
            ("--type", !self.types.is_empty()),
            ("--pure", self.pure),
            ("--keep-output", self.keep_output),
            ("--output-type", self.output_type.is_some()),
            ("--embedding-type", self.embedding_type.is_some()),
            ("--fallback", self.fallback.is_some()),
        ];
        match chosen.iter().find(|(_, given)| *given) {
            Some((flag, _)) => {
                Err(usage(&format!("{flag} says something about a TYPE; --size, --bpw and --ram choose all types")))
            }
            None => Ok(()),
        }
    }

    fn wish(&self, recipe: Recipe) -> Wish {
        let choices = Choices {
            pure: self.pure,
            keep_output: self.keep_output,
            output: self.output_type,
            embedding: self.embedding_type,
            has_importance: self.imatrix.is_some() || self.text.is_some(),
            any_width: false,
        };
        Wish { recipe, choices, overrides: self.types.clone() }
    }
}

/// What is at hand while a file is made.
struct Ground<'a> {
    flags: &'a Flags,
    job: &'a Job<'a>,
    gguf: &'a Gguf<'a>,
    bench: Bench<'a>,
    bar: &'a Bar,
}

/// What is known of the model's inputs, and where that comes from.
#[derive(Default)]
struct Knowledge<'a> {
    known: Option<Known<'a>>,
    text: Option<Text>,
    entries: Vec<(&'static str, Entry)>,
    /// What tells this knowledge from another.
    name: String,
}

/// A file that is made, or will be.
struct Made {
    recipe: &'static str,
    emission: Emission,
    /// What rounding did to each tensor, when there was rounding.
    errors: Option<Vec<f64>>,
    llama_bytes: Option<u64>,
    memory: Result<Memory, Failure>,
    requantized: bool,
    notes: Vec<String>,
    found: Option<Found>,
}

pub(super) fn run(flags: &Flags, stdout: &mut dyn Write) -> Result<Status, Failure> {
    let job = flags.job()?;
    let bar = Bar::new();
    let mut import = Import::open(job.model, flags.tokenizer.as_deref(), None, &bar).map_err(host_failure)?;
    if let Some(output) = &job.output {
        import.check_output(output).map_err(host_failure)?;
    }
    let (header, stored_bytes) = stored_header(&import)?;
    let refused = |error| Failure::Input(format!("{}: {error}", job.model));
    let gguf = Gguf::parse(&header, stored_bytes).map_err(refused)?;
    let pool = Pool::new(flags.engine.threads.unwrap_or_else(smidgen_host::machine::n_cores));
    let isa = choose_isa(flags.engine.isa.as_deref())?;
    let context_tokens = text::sequence_tokens(&gguf);
    let bench = Bench { name: job.model, isa, workers: &pool, context_tokens };
    let ground = Ground { flags, job: &job, gguf: &gguf, bench, bar: &bar };
    let imatrix = flags.imatrix.as_deref().map(ImatrixFile::open).transpose()?;
    let knowledge = ground.knowledge(&import, imatrix.as_ref())?;
    let made = match job.goal {
        Goal::Recipe(recipe) => ground.by_recipe(&mut import, recipe, knowledge)?,
        _ => ground.by_search(&mut import, knowledge)?,
    };
    report(flags, &job, &import, made, stdout)
}

impl Ground<'_> {
    fn knowledge<'k>(&self, import: &Import, file: Option<&'k ImatrixFile>) -> Result<Knowledge<'k>, Failure> {
        let n_weights = import.tensors().iter().map(|info| info.n_rows() * info.n_columns()).sum();
        let read = |path: &PathBuf| Text::read(path, self.job.model, self.gguf, n_weights);
        let text = self.flags.text.as_ref().map(read).transpose()?;
        if let Some(file) = file {
            let calibration = file.read(self.gguf)?;
            let entries = file.entries(&calibration);
            return Ok(Knowledge { known: Some(Known::File(calibration)), text, entries, name: file.identity() });
        }
        let (Some(path), Some(text)) = (&self.flags.text, text) else { return Ok(Knowledge::default()) };
        let options =
            OpenOptions { tokenizer: self.flags.tokenizer.clone(), progress: self.bar, ..OpenOptions::default() };
        let model = smidgen_host::open(self.job.model, &options).map_err(host_failure)?;
        let is_tied = self.gguf.tensor(&[OUTPUT]).is_none();
        let known = self.bench.calibrate(model.bytes(), &text.calibrate, is_tied, self.bar)?;
        let n_chunks = u32::try_from(text.calibrate.len()).unwrap_or(u32::MAX);
        let entries = vec![
            ("quantize.imatrix.dataset", Entry::Str(path.display().to_string())),
            ("quantize.imatrix.chunks_count", Entry::U32(n_chunks)),
        ];
        let name = format!("calibrated on {n_chunks} sequences");
        Ok(Knowledge { known: Some(known), text: Some(text), entries, name })
    }

    fn by_recipe(&self, import: &mut Import, recipe: Recipe, knowledge: Knowledge<'_>) -> Result<Made, Failure> {
        let Knowledge { known, entries, .. } = knowledge;
        let wish = self.flags.wish(recipe);
        let work = Work::new(self.job.model, import, self.gguf, wish, self.flags.fallback, entries)?;
        let types = work.types(import)?;
        let mut notes = Vec::new();
        match work.check_known(&types, known.as_ref()) {
            Err(blind) if self.flags.dry_run => notes.push(blind.to_string()),
            checked => checked?,
        }
        let requantized = work.check_source(&types, self.flags.requantize)?;
        let emission = Emission::new(import.source(), &work.target(types)).map_err(host_failure)?;
        let llama_bytes = Some(work.sizes_with(import, Fallback::Llama)?.file_bytes);
        let memory = self.memory(import, &emission)?;
        let errors = match &self.job.output {
            Some(output) if !self.flags.dry_run => {
                let rounding = Rounding::new(known.as_ref());
                let means = Means { encode: &rounding, workers: self.bench.workers, progress: self.bar };
                Some(import.write(&emission, output, &means).map_err(host_failure)?.errors)
            }
            _ => None,
        };
        Ok(Made { recipe: recipe.name(), emission, errors, llama_bytes, memory, requantized, notes, found: None })
    }

    fn by_search(&self, import: &mut Import, knowledge: Knowledge<'_>) -> Result<Made, Failure> {
        let Knowledge { known: Some(known), text: Some(text), entries, name } = knowledge else {
            return Err(usage("a search needs a text: give one with -f"));
        };
        let tensors = choice::tensors(import.tensors());
        let target = Target { entries, ..Target::as_stored(import.source()) };
        let stored = Emission::new(import.source(), &target).map_err(host_failure)?;
        let among = match self.flags.goal.among.as_slice() {
            [] => search::any_width_types(),
            given => given.to_vec(),
        };
        let mut search = Search {
            import,
            tensors: &tensors,
            bench: self.bench,
            text: &text,
            known: (&known, name),
            among,
            target,
            alignment_bytes: stored.alignment_bytes(),
            progress: self.bar,
        };
        let smallest = search.smallest_file()?;
        let requantized = work::check_source(self.job.model, &tensors, smallest.types(), self.flags.requantize)?;
        let target_bytes = self.target_bytes(search.import, &smallest)?;
        let Choice { found, emission, pages, errors } = search.run(target_bytes)?;
        let memory = self.memory(import, &emission)?;
        if let Some(output) = self.job.output.as_ref().filter(|_| !self.flags.dry_run) {
            atomic::write_bytes(output, &pages).map_err(host_failure)?;
        }
        let (errors, found) = (Some(errors), Some(found));
        Ok(Made {
            recipe: "search",
            emission,
            errors,
            llama_bytes: None,
            memory,
            requantized,
            notes: Vec::new(),
            found,
        })
    }

    /// Bytes that the file may take, when `smallest` is the smallest that it can be.
    fn target_bytes(&self, import: &mut Import, smallest: &Emission) -> Result<u64, Failure> {
        match self.job.goal {
            Goal::Recipe(_) => Ok(u64::MAX),
            Goal::Size(bytes) => Ok(bytes),
            Goal::BitsPerWeight(bits) => {
                let sizes = Sizes::of(smallest, import.tensors());
                Ok((bits * sizes.n_weights as f64 / 8.0) as u64 + smallest.header_bytes())
            }
            Goal::Ram(ram) => {
                let memory = forecast::memory(import, smallest, &self.flags.engine, self.job.model)?;
                // A larger file has more page tables too.
                let beside = memory.bytes - smallest.file_bytes() + page_table_bytes(ram);
                ram.checked_sub(beside).ok_or_else(|| {
                    let (beside, ram) = (report::bytes(beside), report::bytes(ram));
                    Failure::Budget(format!(
                        "{}: {beside} are needed beside the file with -c {}, more than --ram {ram}",
                        self.job.model, memory.context_tokens
                    ))
                })
            }
        }
    }

    /// What running the file takes; a file that takes more than `--ram` is refused before it is written.
    fn memory(&self, import: &mut Import, emission: &Emission) -> Result<Result<Memory, Failure>, Failure> {
        let memory = forecast::memory(import, emission, &self.flags.engine, self.job.model);
        match (&memory, self.flags.engine.ram) {
            (Ok(memory), Some(ram)) if memory.bytes > ram => Err(Failure::Budget(format!(
                "{}: running the file takes {} with -c {}, more than --ram {}",
                self.job.model,
                report::bytes(memory.bytes),
                memory.context_tokens,
                report::bytes(ram)
            ))),
            _ => Ok(memory),
        }
    }
}

fn report(
    flags: &Flags,
    job: &Job<'_>,
    import: &Import,
    made: Made,
    stdout: &mut dyn Write,
) -> Result<Status, Failure> {
    let Made { recipe, emission, errors, llama_bytes, memory, requantized, mut notes, found } = made;
    let sizes = Sizes::of(&emission, import.tensors());
    if let Err(why) = &memory {
        notes.push(format!("it does not run here: {why}"));
    }
    if requantized {
        notes.push(
            "the source was quantized already; 'smidgen eval' with the original says what both roundings cost"
                .to_owned(),
        );
    }
    let tensors = import.tensors().iter().zip(emission.types()).enumerate().map(|(index, (info, &kind))| TensorRow {
        name: info.shown(),
        from: info.kind.name(),
        to: kind.name(),
        bytes: tensor_bytes(info, kind),
        error: errors.as_ref().map(|errors| errors[index]),
    });
    let report = Report {
        schema: "smidgen.quantize/1",
        model: job.model,
        output: job.output.as_ref().map(|path| path.display().to_string()),
        recipe,
        dry_run: flags.dry_run,
        bytes: sizes.file_bytes,
        n_tensors: import.tensors().len(),
        n_weights: sizes.n_weights,
        bits_per_weight: sizes.bits_per_weight(),
        file_bits_per_weight: sizes.file_bits_per_weight(),
        types: &sizes.types,
        llama_bytes,
        memory: memory.ok(),
        requantized,
        notes,
        peak_bytes: smidgen_host::machine::peak_rss_bytes(),
        search: found,
        tensors: tensors.collect(),
    };
    if flags.json {
        report::json(stdout, &report)?;
        return Ok(Status::Done);
    }
    let shown = report.for_people(&sizes, flags.verbose);
    match flags.dry_run {
        true => report::write(stdout, shown.as_bytes())?,
        false => eprint!("{shown}"),
    }
    Ok(Status::Done)
}
