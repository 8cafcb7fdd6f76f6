//! `smidgen quantize`: a smaller file, by a recipe that people know the name of.

use crate::args::EngineArgs;
use crate::failure::{Failure, Status};
use crate::load::host_failure;
use crate::progress::Bar;
use crate::quantize::choice::{self, Chosen, Override, Wish};
use crate::quantize::forecast::{self, Memory, OfType, Sizes, tensor_bytes};
use crate::quantize::names;
use crate::quantize::rounding::{Rounding, can_write};
use crate::report::{self, Table, count};
use clap::Args;
use serde::Serialize;
use smidgen_compress::recipe::fallback::Fallback;
use smidgen_compress::recipe::{Choices, Recipe, Tensor};
use smidgen_core::bytes::Endian;
use smidgen_core::gguf::Gguf;
use smidgen_core::quant::Type;
use smidgen_host::Import;
use smidgen_host::emit::{Emission, FileType, Means, Target};
use smidgen_host::threads::Pool;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

#[derive(Args, Debug)]
#[command(mut_arg("threads", |arg| arg.help("Threads [default: one for each core]")))]
pub(super) struct Flags {
    /// The model to read, the file to write, and the type: IN OUT TYPE. TYPE is a weight type or one of llama.cpp's mixtures, such as Q4_K_M; --dry-run needs no OUT
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

/// What the command was asked to read, write and make.
struct Job<'a> {
    model: &'a str,
    /// `None` for a dry run that names no file.
    output: Option<PathBuf>,
    recipe: Recipe,
}

impl Flags {
    fn job(&self) -> Result<Job<'_>, Failure> {
        let usage = |text: &str| Failure::Input(format!("quantize: {text}"));
        let (name, bare) = self.bare.split_last().ok_or_else(|| usage("give IN, OUT and TYPE"))?;
        let mut bare = bare.iter();
        let model = self.model.as_deref().or_else(|| bare.next().map(String::as_str));
        let output = self.output.clone().or_else(|| bare.next().map(PathBuf::from));
        if let Some(extra) = bare.next() {
            return Err(usage(&format!("'{}' is one word too many", extra.escape_default())));
        }
        let recipe = names::recipe(name).map_err(|error| usage(&error))?;
        match (model, output) {
            (Some(model), None) if self.dry_run => Ok(Job { model, output: None, recipe }),
            (Some(model), Some(output)) => Ok(Job { model, output: Some(output), recipe }),
            _ => Err(usage("give a model IN to read, a file OUT to write and a TYPE")),
        }
    }

    fn wish(&self, recipe: Recipe) -> Wish {
        let choices = Choices {
            pure: self.pure,
            keep_output: self.keep_output,
            output: self.output_type,
            embedding: self.embedding_type,
            has_importance: false,
        };
        Wish { recipe, choices, overrides: self.types.clone(), fallback: self.fallback }
    }
}

/// `smidgen.quantize/1`, described in `docs/json.md`.
#[derive(Serialize)]
struct Report<'a> {
    schema: &'static str,
    model: &'a str,
    output: Option<String>,
    recipe: &'static str,
    dry_run: bool,
    bytes: u64,
    n_tensors: usize,
    n_weights: u64,
    bits_per_weight: f64,
    file_bits_per_weight: f64,
    types: &'a BTreeMap<&'static str, OfType>,
    /// The file that llama.cpp's own choice for rows that do not fit would make.
    llama_bytes: u64,
    memory: Option<Memory>,
    requantized: bool,
    /// The most that was resident, where the system says.
    peak_bytes: Option<u64>,
    tensors: Vec<TensorRow>,
}

/// One tensor of the report.
#[derive(Serialize)]
struct TensorRow {
    name: String,
    from: &'static str,
    to: &'static str,
    bytes: u64,
    /// What rounding did to it; null in a dry run.
    error: Option<f64>,
}

pub(super) fn run(flags: &Flags, stdout: &mut dyn Write) -> Result<Status, Failure> {
    let job = flags.job()?;
    let bar = Bar::new();
    let mut import = Import::open(job.model, flags.tokenizer.as_deref(), None, &bar).map_err(host_failure)?;
    if let Some(output) = &job.output {
        import.check_output(output).map_err(host_failure)?;
    }
    let work = Work::new(&import, &job, flags.wish(job.recipe))?;
    let types = work.types(&import)?;
    let requantized = work.check_source(&types, flags.requantize)?;
    let target = work.target(types);
    let emission = Emission::new(import.source(), &target).map_err(host_failure)?;
    let sizes = Sizes::of(&emission, import.tensors());
    let llama_bytes = work.sizes_with(&import, Fallback::Llama)?.file_bytes;
    let memory = forecast::memory(&mut import, &emission, &flags.engine, job.model);
    let errors = match &job.output {
        Some(output) if !flags.dry_run => {
            let n_threads = flags.engine.threads.unwrap_or_else(smidgen_host::machine::n_cores);
            let pool = Pool::new(n_threads);
            let means = Means { encode: &Rounding, workers: &pool, progress: &bar };
            Some(import.write(&emission, output, &means).map_err(host_failure)?.errors)
        }
        _ => None,
    };
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
        recipe: job.recipe.name(),
        dry_run: flags.dry_run,
        bytes: sizes.file_bytes,
        n_tensors: import.tensors().len(),
        n_weights: sizes.n_weights,
        bits_per_weight: sizes.bits_per_weight(),
        file_bits_per_weight: sizes.file_bits_per_weight(),
        types: &sizes.types,
        llama_bytes,
        memory: memory.as_ref().ok().copied(),
        requantized,
        peak_bytes: smidgen_host::machine::peak_rss_bytes(),
        tensors: tensors.collect(),
    };
    if flags.json {
        report::json(stdout, &report)?;
        return Ok(Status::Done);
    }
    let shown = for_people(&report, &sizes, &memory, flags.verbose);
    match flags.dry_run {
        true => report::write(stdout, shown.as_bytes())?,
        false => eprint!("{shown}"),
    }
    Ok(Status::Done)
}

/// A model and what is wanted of it.
struct Work<'a> {
    name: &'a str,
    wish: Wish,
    tensors: Vec<Tensor>,
    chosen: Chosen,
}

impl<'a> Work<'a> {
    fn new(import: &Import, job: &Job<'a>, wish: Wish) -> Result<Self, Failure> {
        let refused = |what: String| Failure::Input(format!("{}: {what}", job.model));
        let as_stored = Emission::new(import.source(), &Target::as_stored(import.source())).map_err(host_failure)?;
        let header = as_stored.header_image();
        let gguf = Gguf::parse(&header, as_stored.file_bytes()).map_err(|error| refused(error.to_string()))?;
        let shape = choice::shape(&gguf).map_err(&refused)?;
        let tensors = choice::tensors(import.tensors());
        let chosen = wish.choose(&shape, &tensors).map_err(|error| Failure::Input(format!("quantize: {error}")))?;
        Ok(Work { name: job.model, wish, tensors, chosen })
    }

    fn refused(&self, what: String) -> Failure {
        Failure::Input(format!("{}: {what}", self.name))
    }

    /// What the model becomes with `types`.
    fn target(&self, types: Vec<Type>) -> Target {
        let file_type = self.wish.recipe.file_type().map_or(FileType::Unnamed, FileType::Recipe);
        Target { types, file_type, entries: Vec::new(), endian: Endian::Little }
    }

    /// The types of all tensors, or why there are none and what there could be.
    fn types(&self, import: &Import) -> Result<Vec<Type>, Failure> {
        let types = match self.chosen.with(self.wish.fallback, &self.tensors) {
            Ok(types) => types,
            Err(listed) => return Err(self.misfit(import, &listed)?),
        };
        let unwritable = |(kind, tensor): &(&Type, &Tensor)| **kind != tensor.kind && !can_write(**kind);
        match types.iter().zip(&self.tensors).find(unwritable) {
            Some((kind, tensor)) => {
                Err(self.refused(format!("{}: tensors cannot be written as {}", tensor.name, kind.name())))
            }
            None => Ok(types),
        }
    }

    /// Says which rows do not fit, and what the file would be with each way out.
    fn misfit(&self, import: &Import, listed: &str) -> Result<Failure, Failure> {
        let mut ways = Vec::new();
        for (name, fallback, what) in [
            ("any", Fallback::AnyWidth, "types for rows of any width, of like bits"),
            ("llama", Fallback::Llama, "what llama.cpp takes without asking"),
        ] {
            let sizes = self.sizes_with(import, fallback)?;
            ways.push(format!(
                "--fallback {name} ({what}: {}; {}, {:.2} bits per weight)",
                sizes.counts(),
                report::bytes(sizes.file_bytes),
                sizes.file_bits_per_weight(),
            ));
        }
        let name = self.wish.recipe.name();
        Ok(self.refused(format!(
            "{name} cannot have the rows of {listed}; choose {}, or --fallback TYPE",
            ways.join(" or ")
        )))
    }

    /// The file with `fallback` for rows that do not fit.
    fn sizes_with(&self, import: &Import, fallback: Fallback) -> Result<Sizes, Failure> {
        let types = self.chosen.with(Some(fallback), &self.tensors).map_err(|listed| self.refused(listed))?;
        forecast::sizes(import, &self.target(types))
    }

    /// Whether weights are quantized a second time, which must have been asked for.
    fn check_source(&self, types: &[Type], allowed: bool) -> Result<bool, Failure> {
        let is_float = |kind: Type| matches!(kind, Type::F32 | Type::F16 | Type::BF16);
        let twice: Vec<String> = types
            .iter()
            .zip(&self.tensors)
            .filter(|(kind, tensor)| **kind != tensor.kind && !is_float(tensor.kind))
            .map(|(_, tensor)| format!("{} ({})", tensor.name, tensor.kind.name()))
            .collect();
        if twice.is_empty() || allowed {
            return Ok(!twice.is_empty());
        }
        Err(self.refused(format!(
            "is quantized already: {}; what that lost stays lost, and rounding again loses more than rounding the original; \
             --requantize does it all the same",
            choice::listed(&twice)
        )))
    }
}

fn for_people(report: &Report<'_>, sizes: &Sizes, memory: &Result<Memory, Failure>, verbose: bool) -> String {
    let mut out = String::new();
    if verbose {
        let mut table = Table::default();
        table.row(["tensor", "from", "to", "bytes", "error"].map(str::to_owned));
        for tensor in &report.tensors {
            let error = tensor.error.map_or(String::new(), |error| format!("{error:.4}"));
            let name = report::printable(tensor.name.as_bytes(), 64);
            table.row([name, tensor.from.into(), tensor.to.into(), count(tensor.bytes), error]);
        }
        out += &table.render(&[3, 4]);
    }
    if verbose || report.dry_run {
        let mut table = Table::default();
        table.row(["type", "tensors", "weights", "bytes", "bits"].map(str::to_owned));
        for (name, sum) in &sizes.types {
            let bits = sum.bytes as f64 * 8.0 / sum.n_weights.max(1) as f64;
            let cells = [count(sum.n_tensors as u64), count(sum.n_weights), count(sum.bytes)];
            let [n_tensors, n_weights, bytes] = cells;
            table.row([(*name).to_owned(), n_tensors, n_weights, bytes, format!("{bits:.3}")]);
        }
        out += &table.render(&[1, 2, 3, 4]);
    }
    let verb = if report.dry_run { "would write" } else { "wrote" };
    out += &format!(
        "smidgen: {verb} {} ({}): {}, {:.3} bits per weight, {:.3} with everything in the file; {} weights in {} tensors ({})\n",
        report.output.as_deref().unwrap_or("a file"),
        report.recipe,
        report::bytes(report.bytes),
        report.bits_per_weight,
        report.file_bits_per_weight,
        count(report.n_weights),
        report.n_tensors,
        sizes.counts(),
    );
    if report.llama_bytes != report.bytes {
        let llama = report::bytes(report.llama_bytes);
        out += &format!("smidgen: llama.cpp's own choice for rows that do not fit would make {llama}\n");
    }
    match memory {
        Ok(memory) => {
            let bytes = report::bytes(memory.bytes);
            out += &format!("smidgen: running it takes {bytes} with -c {}\n", memory.context_tokens);
        }
        Err(why) => out += &format!("smidgen: it does not run here: {why}\n"),
    }
    if report.requantized {
        out += "smidgen: the source was quantized already; 'smidgen eval' with the original says what both roundings cost\n";
    }
    out
}
