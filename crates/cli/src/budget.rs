//! The sum of a run: one line for each consumer of memory, weights and caches within what `--ram` leaves for them.

use crate::args::{EngineArgs, SamplingArgs};
use crate::failure::Failure;
use crate::load::Settings;
use crate::prompt_cache;
use crate::report;
use crate::serve::http;
use crate::source::Source;
use clap::ValueEnum;
use smidgen_core::gguf::Gguf;
use smidgen_core::kv::PAGE;
use smidgen_core::model::{Layer, Model};
use smidgen_core::ops::floats::{ROOM_BYTES, TOKENS};
use smidgen_core::plan::Plan;
use smidgen_core::quant::Type;
use smidgen_core::sample::{Candidate, Sampler};
use smidgen_core::simd::Isa;
use smidgen_core::tokenizer::Tokenizer;
use smidgen_host::pages;
use smidgen_host::spill::SpillShape;
use smidgen_host::weights::{Caches, Residency};
use std::collections::BTreeMap;

/// What a process does with a model, which decides how much of the program it touches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Work {
    /// One text and its continuation.
    #[default]
    Run,
    /// A conversation.
    Chat,
    /// Speed.
    Bench,
    /// Answers over HTTP.
    Serve,
    /// A text is scored or calibrated by.
    #[value(skip)]
    Read,
}

impl Work {
    /// What the process takes beside the plan: its code, its stack, the C library and this program's own small buffers.
    /// `tests/memory.rs` measures that it is neither more nor less by 2 % or 256 KiB, and that no cap is passed.
    pub fn process_bytes(self) -> u64 {
        let code = match self {
            Work::Run | Work::Serve => Code::kib(672),
            Work::Chat => Code::kib(880),
            Work::Bench => Code::kib(632),
            Work::Read => Code::kib(608),
        };
        code.bytes()
    }
}

/// Code that the process touches, and constants: the bytes of all the windows of [`pages::map_finely`] that hold them.
#[derive(Clone, Copy)]
pub(crate) struct Code(u64);

impl Code {
    pub(crate) const fn kib(kib: u64) -> Self {
        Self(kib << 10)
    }

    /// What of it is in memory. About three quarters of what shares a window with what is touched is touched itself; where whole windows
    /// are mapped, those of the start stay until they are given back.
    pub(crate) fn bytes(self) -> u64 {
        if pages::are_mapped_one_by_one() { self.0 / 4 * 3 } else { self.0 + self.0 / 16 }
    }
}

/// The code that a set of kernels takes.
struct Kernels {
    isa: &'static str,
    /// KiB of attention, norms and rows of F32.
    common: u64,
    /// KiB of what multiplies weights of one more type with batches.
    each: u64,
    /// KiB of what multiplies weights of one more quantized type with a token alone.
    alone: u64,
}

/// The kernels of each set, which is code of its own, so that the same run takes more on one processor than on another. Measured
/// with `--isa`, as `tests/memory.rs` measures them all.
const KERNELS: &[Kernels] = &[
    Kernels { isa: "scalar", common: 96, each: 32, alone: 28 },
    Kernels { isa: "avx2", common: 160, each: 16, alone: 28 },
    Kernels { isa: "avx512", common: 140, each: 16, alone: 32 },
    Kernels { isa: "avx512-vnni", common: 152, each: 16, alone: 24 },
];
/// Those that need the most stand for every set that was not measured.
const LARGEST_KERNELS: Kernels = Kernels { isa: "sse4.1", common: 172, each: 16, alone: 40 };

/// What quantizes activations for weights of any quantized type.
const ACTIVATIONS_KIB: u64 = 72;
/// What starts threads and shares work among them, and what each beyond the first takes.
const OF_SHARING: Code = Code::kib(16);
const THREAD_BYTES: u64 = 16 << 10;
/// Code that brings weights from the file.
const OF_PARTS: Code = Code::kib(108);
/// Code that unpacks them.
const OF_UNPACKING: Code = Code::kib(12);
/// Code that keeps caches in a file.
const OF_SPILLING: Code = Code::kib(40);
/// What reading a whole file leaves behind, beside a mapped one.
pub(crate) const OF_READING: Code = Code::kib(32);

/// Code and tables of a server, and its thread.
const OF_SERVER: Code = Code::kib(684);
/// What a body may have beside its text, and for each token of the context.
const BODY_BYTES: usize = 8 << 10;
const BODY_BYTES_PER_TOKEN: usize = 16;
/// While a body is read it is in memory twice more than it came: as the values that are read from it, and as a prompt.
const COPIES_OF_BODY: usize = 2;
/// What a connection takes beside its body.
const CONNECTION_BYTES: usize = http::BUFFER_BYTES / 2;
/// Text that a token of a conversation stands for, and how often it is in memory: as messages, as values for the template, as its text.
const BYTES_PER_TOKEN: usize = 4;
const COPIES_OF_CONVERSATION: usize = 3;
/// What a tokenizer needs for each byte of a text that it works on as a whole.
const SCRATCH_BYTES_PER_BYTE: usize = 29;

/// The lines that these are part of.
const TYPES_CODE: &str = "code that computes";
const SHARING: &str = "threads";
const READING_CODE: &str = "code that reads weights";
const PARTS_CODE: &str = "code that reads weights in parts";
const UNPACKING_CODE: &str = "code that unpacks weights";
const SPILLING_CODE: &str = "code that keeps caches in a file";

/// One consumer of memory.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Line {
    /// What it is.
    pub name: String,
    /// How much it takes.
    pub bytes: u64,
}

/// Every consumer of memory that the program knows before it begins.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Budget {
    /// One line per consumer.
    pub lines: Vec<Line>,
    /// What the process does, which decides what it takes beside them.
    #[serde(skip)]
    work: Work,
    /// The types that weights have, and the kernels that multiply them.
    #[serde(skip)]
    kinds: Vec<Type>,
    #[serde(skip)]
    isa: Option<Isa>,
    /// Which weights are among them, of a model that is read in parts.
    #[serde(skip)]
    pub residency: Option<Residency>,
    /// The caches whose memory is lent to streamed weights until they use it.
    #[serde(skip)]
    pub lender: Option<Caches>,
    /// The older rows of caches that are kept in a file, if some are.
    #[serde(skip)]
    pub spilled: Option<SpillShape>,
}

impl Budget {
    /// The sum of `lines` for a process that does `work`.
    pub fn of_lines(lines: Vec<Line>, work: Work) -> Self {
        Self { lines, work, kinds: Vec::new(), isa: None, residency: None, lender: None, spilled: None }
    }

    /// Adds what `other` takes, of another model that the same process runs, and calls it `name`. What of the program both need is
    /// there once.
    pub fn add_beside(&mut self, name: &str, other: Budget) {
        self.kinds.extend(other.kinds);
        let has = |line: &str| self.lines.iter().any(|own| own.name == line);
        let code = [
            (SHARING, OF_SHARING),
            (PARTS_CODE, OF_PARTS),
            (UNPACKING_CODE, OF_UNPACKING),
            (SPILLING_CODE, OF_SPILLING),
        ];
        let both = code.map(|(line, code)| (line, if has(line) { code.bytes() } else { 0 }));
        for line in other.lines.into_iter().filter(|line| line.name != TYPES_CODE) {
            let once = both.iter().find(|(name, _)| *name == line.name).map_or(0, |&(_, bytes)| bytes);
            self.lines.push(Line { name: format!("{name}: {}", line.name), bytes: line.bytes - once });
        }
        self.lines.retain(|line| line.name != TYPES_CODE);
        if let Some(isa) = self.isa.or(other.isa) {
            let bytes = code_bytes(self.kinds.iter().copied(), isa, self.work);
            self.lines.push(Line { name: TYPES_CODE.to_owned(), bytes });
        }
    }

    /// The sum for `model` in `source` under `plan`; of a model that is read in parts, with as many weights as `ram` leaves room
    /// for, or none without one; `settings` are those that `plan` was made by.
    ///
    /// # Errors
    /// A vocabulary that cannot be read.
    pub fn new(
        source: &Source,
        gguf: &Gguf<'_>,
        model: &Model<'_>,
        plan: &Plan,
        (ram, settings): (Option<u64>, &Settings),
    ) -> Result<Self, Failure> {
        let params = &settings.params;
        let index = Tokenizer::arena_bytes(gguf).map_err(|error| source.refused(error))?;
        let mut lines = source.lines();
        let mut add = |name: &str, bytes: usize| lines.push(Line { name: name.to_owned(), bytes: bytes as u64 });
        add("table of layers", model.hparams().n_layers * size_of::<Layer<'_>>());
        add("tokenizer index", index);
        for span in plan.spans() {
            add(span.name, span.bytes);
        }
        add("token ids", (plan.limits().context_tokens + 1) * size_of::<u32>());
        add("sampler", Sampler::scratch_len(params, model.hparams().n_vocab) * size_of::<Candidate>());
        if plan.limits().batch_tokens >= TOKENS && model.matrices().any(|matrix| !matrix.kind.is_integer()) {
            add("batches of floats, on stacks", plan.limits().n_threads * ROOM_BYTES);
        }
        for (name, bytes) in work_lines(gguf, settings) {
            add(name, bytes);
        }
        if plan.limits().keeps_all {
            add("prompt cache on its way to the file", prompt_cache::saving_bytes(plan.cache_bytes()));
        }
        for (name, bytes) in process_lines(gguf, settings, source, ram) {
            add(name, bytes as usize);
        }
        let spilled = SpillShape::of(model.hparams(), plan);
        if let Some(shape) = &spilled {
            add("caches in a file, of which in memory", shape.memory_bytes() as usize);
            add(SPILLING_CODE, OF_SPILLING.bytes() as usize);
        }
        let kinds = gguf.tensors().map(|tensor| tensor.kind).collect();
        let isa = Some(settings.isa);
        let mut budget = Self { kinds, isa, spilled, ..Self::of_lines(lines, settings.work) };
        if let (Some(_), Some(ram)) = (source.outline(), ram) {
            let residency = Residency::new(model, gguf, budget.room(ram), settings.reads_each, source.index());
            if !residency.is_partial() {
                // Nothing reads from the file once it is loaded.
                budget.lines.retain(|line| line.name != UNPACKING_CODE);
                let read = |line: &mut Line| *line = Line { name: READING_CODE.to_owned(), bytes: OF_READING.bytes() };
                budget.lines.iter_mut().filter(|line| line.name == PARTS_CODE).for_each(read);
            }
            budget.add_weights(&residency);
            // What is mapped beside caches that are reserved as a whole needs addresses of its own.
            let can_lend = !residency.streamed().is_empty() && smidgen_host::machine::may_reserve();
            budget.lender = can_lend.then(|| Caches::of(model.hparams(), plan));
            budget.residency = Some(residency);
        }
        Ok(budget)
    }

    /// One line for each part of the weights that `residency` brings into memory.
    fn add_weights(&mut self, residency: &Residency) {
        let windows = residency.windows();
        let unpacking = residency.unpacking_bytes();
        let others = residency.reader_bytes() - windows.total() - unpacking;
        for (name, bytes) in [
            ("weights, kept", residency.held_bytes()),
            ("windows of streamed weights", windows.total()),
            ("readers of streamed weights", others),
        ] {
            self.lines.push(Line { name: name.to_owned(), bytes });
        }
        if unpacking > 0 {
            self.lines.push(Line { name: "unpacking weights".to_owned(), bytes: unpacking });
        }
    }

    /// The sum for the model in `source` as these flags would load it; nothing is loaded.
    ///
    /// # Errors
    /// A model that is not in order, or that cannot be run with these flags.
    pub fn of(source: &Source, args: &EngineArgs, sampling: &SamplingArgs) -> Result<Self, Failure> {
        let gguf = source.gguf()?;
        let mut layers = vec![Layer::EMPTY; Model::n_layers(&gguf).map_err(|error| source.refused(error))?];
        let model = source.model(&gguf, &mut layers)?;
        let settings = Settings::new(args, sampling, source, &gguf, &model)?;
        Ok(Self::within(source, &gguf, &model, &settings, args.ram)?.1)
    }

    /// The plan of a run of `model` in `source` that stays within `ram`, and its sum; what does not fit has the sum that needs the
    /// least. When not everything fits, the caches get half of what the other buffers leave, and the weights the rest; older
    /// rows that have no room are spilled.
    ///
    /// # Errors
    /// A model that cannot be run with these settings.
    pub fn within(
        source: &Source,
        gguf: &Gguf<'_>,
        model: &Model<'_>,
        settings: &Settings,
        ram: Option<u64>,
    ) -> Result<(Plan, Self), Failure> {
        let limits = &settings.limits;
        let plan = |n_rows: usize| Plan::with_cached_rows(model, limits, n_rows).map_err(|error| source.refused(error));
        let with_rows = |n_rows: usize, ram: Option<u64>| {
            let plan = plan(n_rows)?;
            let budget = Self::new(source, gguf, model, &plan, (ram, settings))?;
            Ok((plan, budget))
        };
        let all = with_rows(usize::MAX, ram)?;
        let Some(limit) = ram else { return Ok(all) };
        let fits = |(_, budget): &(Plan, Self)| budget.with_process() <= limit;
        if fits(&all) && all.1.streamed_bytes() == 0 {
            return Ok(all);
        }
        let caches = |plan: &Plan| {
            let spilled = SpillShape::of(model.hparams(), plan).map_or(0, |shape| shape.memory_bytes());
            plan.cache_bytes() as u64 + spilled
        };
        // What cannot be done without: the rows that a batch needs, and of the weights no row kept.
        let (fewest, least) = with_rows(0, Some(0))?;
        let weights = least.residency.as_ref().map_or(0, Residency::reader_bytes);
        let left = without_page_tables(limit).saturating_sub(least.mapped() - weights - caches(&fewest));
        // At least what streaming cannot do without is for the weights.
        let share = if least.residency.is_some() { (left / 2).min(left.saturating_sub(weights)) } else { left };
        if caches(&all.0) <= share {
            return Ok(all);
        }
        let mut n_rows = limits.context_tokens / PAGE * PAGE;
        while n_rows > fewest.cached_rows() && caches(&plan(n_rows)?) > share {
            n_rows -= PAGE;
        }
        let spilling = with_rows(n_rows, ram)?;
        if fits(&spilling) || fits(&all) {
            return Ok(if fits(&spilling) { spilling } else { all });
        }
        // Short contexts need less than rows of two heads that are in memory by turns: what needs the least is one of these.
        let fewest = with_rows(0, ram)?;
        Ok(if fewest.1.with_process() < all.1.with_process() { fewest } else { all })
    }

    /// Of the weights, what is read from the file for every pass when the context is full.
    pub fn streamed_bytes(&self) -> u64 {
        self.residency.as_ref().map_or(0, Residency::streamed_bytes)
    }

    /// The same when `n_positions` are in the caches, and weights in the memory that these do not use yet.
    pub fn streamed_bytes_at(&self, n_positions: usize) -> u64 {
        let room = self.lender.as_ref().map_or(0, |caches| caches.unused_bytes(n_positions));
        self.residency.as_ref().map_or(0, |residency| residency.streamed_beside(room))
    }

    /// What so many bytes of streamed weights have in the file, about: where it is packed, parts of it are packed more tightly than others.
    pub fn in_file(&self, n_streamed: u64) -> u64 {
        let unpacked = self.residency.as_ref().map_or(0, Residency::unpacked_streamed_bytes);
        share(n_streamed, self.streamed_bytes(), unpacked)
    }

    /// Of the caches, what is read from a file for every pass when the context is full.
    pub fn spilled_bytes(&self) -> u64 {
        self.spilled.as_ref().map_or(0, SpillShape::read_bytes)
    }

    /// The sum of all lines: the planned bytes.
    pub fn total(&self) -> u64 {
        self.lines.iter().map(|line| line.bytes).sum()
    }

    /// What the process takes beside the lines, page tables included.
    pub fn process_bytes(&self) -> u64 {
        self.work.process_bytes() + page_table_bytes(self.mapped())
    }

    /// What the process needs in all.
    pub fn with_process(&self) -> u64 {
        self.with(0)
    }

    /// The same with so many bytes more.
    pub fn with(&self, more: u64) -> u64 {
        let mapped = self.mapped() + more;
        mapped + page_table_bytes(mapped)
    }

    /// What there is room for beside it within `ram`.
    pub fn room(&self, ram: u64) -> u64 {
        without_page_tables(ram).saturating_sub(self.mapped())
    }

    /// The lines and the process itself.
    fn mapped(&self) -> u64 {
        self.total() + self.work.process_bytes()
    }
}

/// Code of the kernels `isa` for weights of these types, which may be named more than once: each has kernels of its own. Reading a text
/// has no token alone.
pub fn code_bytes(kinds: impl Iterator<Item = Type>, isa: Isa, work: Work) -> u64 {
    let kinds: BTreeMap<&str, bool> =
        kinds.filter(|&kind| kind != Type::F32).map(|kind| (kind.name(), kind.is_integer())).collect();
    let kernels = KERNELS.iter().find(|kernels| kernels.isa == isa.name()).unwrap_or(&LARGEST_KERNELS);
    let activations = if kinds.values().any(|&is_integer| is_integer) { ACTIVATIONS_KIB } else { 0 };
    let n_alone = if work == Work::Read { 0 } else { kinds.values().filter(|&&is_integer| is_integer).count() };
    let kib = kernels.common + activations + kinds.len() as u64 * kernels.each + n_alone as u64 * kernels.alone;
    Code::kib(kib).bytes()
}

/// What of `n` is as much of it as `part` is of `whole`.
pub fn share(n: u64, part: u64, whole: u64) -> u64 {
    (u128::from(n) * u128::from(part) / u128::from(whole.max(1))) as u64
}

/// What the system keeps of a page.
const PAGE_ENTRY: u64 = size_of::<usize>() as u64;

/// What the system keeps of so many bytes of memory: an entry for each page.
pub fn page_table_bytes(bytes: u64) -> u64 {
    bytes / smidgen_host::machine::page_bytes() as u64 * PAGE_ENTRY
}

/// What of `ram` is left when the system has what it keeps of it.
fn without_page_tables(ram: u64) -> u64 {
    ram.saturating_sub(page_table_bytes(ram) + PAGE_ENTRY)
}

/// Bytes of a request's body at most, for a context of so many tokens.
pub fn body_bytes(context_tokens: usize) -> usize {
    BODY_BYTES + BODY_BYTES_PER_TOKEN * context_tokens
}

/// What a conversation or requests take, and turning their text into tokens.
fn work_lines(gguf: &Gguf<'_>, settings: &Settings) -> Vec<(&'static str, usize)> {
    let context_tokens = settings.limits.context_tokens;
    let model = gguf.get("tokenizer.ggml.model").and_then(|value| value.as_str());
    // Such a tokenizer works on one word after the other, the others on a text as a whole.
    let is_by_words = model.is_some_and(|model| model == b"gpt2");
    let scratch = |text_bytes: usize| if is_by_words { 0 } else { text_bytes * SCRATCH_BYTES_PER_BYTE };
    match settings.work {
        Work::Chat => {
            let text_bytes = BYTES_PER_TOKEN * context_tokens;
            vec![("conversation", COPIES_OF_CONVERSATION * text_bytes), ("reading a prompt", scratch(text_bytes))]
        }
        Work::Serve => {
            let body_bytes = body_bytes(context_tokens);
            let requests = settings.connections * (body_bytes + CONNECTION_BYTES) + COPIES_OF_BODY * body_bytes;
            vec![
                ("server", OF_SERVER.bytes() as usize),
                ("requests", requests),
                ("reading a prompt", scratch(body_bytes)),
            ]
        }
        Work::Run | Work::Bench | Work::Read => Vec::new(),
    }
}

/// What the process takes beyond [`Work::process_bytes`], by what it will do.
fn process_lines(
    gguf: &Gguf<'_>,
    settings: &Settings,
    source: &Source,
    ram: Option<u64>,
) -> impl Iterator<Item = (&'static str, u64)> {
    let is_in_parts = source.outline().is_some() && ram.is_some();
    let n_threads = settings.limits.n_threads;
    let threads = if n_threads > 1 { OF_SHARING.bytes() + (n_threads as u64 - 1) * THREAD_BYTES } else { 0 };
    let lines = [
        (TYPES_CODE, code_bytes(gguf.tensors().map(|tensor| tensor.kind), settings.isa, settings.work)),
        (SHARING, threads),
        (READING_CODE, if source.is_read() { OF_READING.bytes() } else { 0 }),
        (PARTS_CODE, if is_in_parts { OF_PARTS.bytes() } else { 0 }),
        (UNPACKING_CODE, if is_in_parts && source.index().is_some() { OF_UNPACKING.bytes() } else { 0 }),
    ];
    lines.into_iter().filter(|&(_, bytes)| bytes > 0)
}

/// Refuses to load what would not stay within the memory it may take.
///
/// # Errors
/// A budget that is larger than `ram`.
pub fn check_ram(ram: Option<u64>, budget: &Budget) -> Result<(), Failure> {
    match ram {
        Some(ram) if budget.with_process() > ram => Err(Failure::Budget(format!(
            "needs {} ({} planned, {} for the process), more than --ram {}",
            report::bytes(budget.with_process()),
            report::bytes(budget.total()),
            report::bytes(budget.process_bytes()),
            report::bytes(ram),
        ))),
        _ => Ok(()),
    }
}
