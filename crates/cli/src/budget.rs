//! The sum of a run: one line for each consumer of memory, weights and caches within what `--ram` leaves for them.

use crate::args::{EngineArgs, SamplingArgs};
use crate::failure::Failure;
use crate::load::{Settings, Source};
use crate::report;
use smidgen_core::gguf::Gguf;
use smidgen_core::model::{Layer, Model};
use smidgen_core::plan::Plan;
use smidgen_core::quant::Type;
use smidgen_core::sample::{Candidate, SampleParams, Sampler};
use smidgen_core::tokenizer::Tokenizer;
use smidgen_host::spill::{self, LayerShape};
use smidgen_host::weights::Residency;
use std::collections::BTreeMap;

/// What the process takes beside the plan: its code, its stack, the C library and this program's own small buffers.
/// `tests/memory.rs` measures that it is no more.
pub const PROCESS_BYTES: u64 = 1440 << 10;
/// Code that multiplies weights of one type other than F32; kernels of 16-bit floats take less.
const FLOAT_CODE_BYTES: u64 = 48 << 10;
/// The same for a quantized type, and what quantizes activations for any of them.
const QUANTIZED_CODE_BYTES: u64 = 40 << 10;
const ACTIVATIONS_CODE_BYTES: u64 = 104 << 10;
/// What starts threads and shares work among them, and what each beyond the first takes.
const SHARING_CODE_BYTES: u64 = 56 << 10;
const THREAD_BYTES: u64 = 16 << 10;
/// Code that brings weights from the file.
const PARTS_CODE_BYTES: u64 = 64 << 10;
/// Code that unpacks them.
const UNPACKING_CODE_BYTES: u64 = 96 << 10;

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
    /// Which weights are among them, of a model that is read in parts.
    #[serde(skip)]
    pub residency: Option<Residency>,
    /// The layers whose caches are kept in a file.
    #[serde(skip)]
    pub spilled: Vec<(usize, LayerShape)>,
    /// Bytes of that file.
    #[serde(skip)]
    pub spilled_bytes: u64,
}

impl Budget {
    /// The sum of `lines`.
    pub fn of_lines(lines: Vec<Line>) -> Self {
        Self { lines, residency: None, spilled: Vec::new(), spilled_bytes: 0 }
    }

    /// The sum for `model` in `source` under `plan`; of a model that is read in parts, with as many weights as `ram` leaves room
    /// for, or none without one; `each` says whether the logits of every position are read.
    ///
    /// # Errors
    /// A vocabulary that cannot be read.
    pub fn new(
        source: &Source,
        gguf: &Gguf<'_>,
        model: &Model<'_>,
        plan: &Plan,
        params: &SampleParams,
        (ram, each): (Option<u64>, bool),
    ) -> Result<Self, Failure> {
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
        for (name, bytes) in process_lines(gguf, plan.limits().n_threads, source, ram) {
            add(name, bytes as usize);
        }
        let spilled = spilled_layers(model, plan);
        let shapes = || spilled.iter().map(|&(_, shape)| shape);
        if !spilled.is_empty() {
            add("caches in a file, of which in memory", spill::spill_bytes(shapes()) as usize);
        }
        let spilled_bytes = shapes().map(|shape| shape.bytes() as u64).sum();
        let mut budget = Self { lines, residency: None, spilled, spilled_bytes };
        if let (Some(_), Some(ram)) = (source.outline(), ram) {
            let left = ram.saturating_sub(budget.with_process());
            let residency = Residency::new(model, gguf, left, each, source.index());
            budget.add_weights(&residency);
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
    /// least. When not everything fits, the caches get half of what the other buffers leave, and the weights the rest; layers whose
    /// caches have no room are spilled.
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
        let with_layers = |n_cached: usize, ram: Option<u64>| {
            let plan = Plan::with_cached_layers(model, limits, n_cached).map_err(|error| source.refused(error))?;
            let budget = Self::new(source, gguf, model, &plan, &settings.params, (ram, settings.reads_each))?;
            Ok((plan, budget))
        };
        let n_layers = model.hparams().n_layers;
        let all = with_layers(n_layers, ram)?;
        let Some(limit) = ram else { return Ok(all) };
        if all.1.with_process() <= limit && all.1.streamed_bytes() == 0 {
            return Ok(all);
        }
        let caches = |n: usize| {
            let plan = Plan::with_cached_layers(model, limits, n).map_err(|error| source.refused(error))?;
            let spilled = spilled_layers(model, &plan).into_iter().map(|(_, shape)| shape);
            Ok(plan.cache_bytes() as u64 + spill::spill_bytes(spilled))
        };
        let beside = with_layers(0, None)?.1.with_process() - caches(0)?;
        let left = limit.saturating_sub(beside);
        let share = match source.outline() {
            // At least what streaming cannot do without is for the weights.
            Some(_) => {
                let least = Residency::new(model, gguf, 0, settings.reads_each, source.index());
                (left / 2).min(left.saturating_sub(least.reader_bytes()))
            }
            None => left,
        };
        let mut n_cached = n_layers;
        while n_cached > 0 && caches(n_cached)? > share {
            n_cached -= 1;
        }
        if n_cached == n_layers {
            return Ok(all);
        }
        let spilling = with_layers(n_cached, ram)?;
        let is_better = spilling.1.with_process() <= limit || all.1.with_process() > limit;
        Ok(if is_better { spilling } else { all })
    }

    /// Of the weights, what is read from the file for every pass.
    pub fn streamed_bytes(&self) -> u64 {
        self.residency.as_ref().map_or(0, Residency::streamed_bytes)
    }

    /// The sum of all lines: the planned bytes.
    pub fn total(&self) -> u64 {
        self.lines.iter().map(|line| line.bytes).sum()
    }

    /// What the process needs in all.
    pub fn with_process(&self) -> u64 {
        self.total() + PROCESS_BYTES
    }
}

/// Code for weights of these types, which may be named more than once: each has kernels of its own.
pub fn code_bytes(kinds: impl Iterator<Item = Type>) -> u64 {
    let kinds: BTreeMap<&str, bool> =
        kinds.filter(|&kind| kind != Type::F32).map(|kind| (kind.name(), kind.is_integer())).collect();
    let n_quantized = kinds.values().filter(|&&is_integer| is_integer).count();
    let n_floats = kinds.len() - n_quantized;
    let activations = if n_quantized > 0 { ACTIVATIONS_CODE_BYTES } else { 0 };
    activations + n_quantized as u64 * QUANTIZED_CODE_BYTES + n_floats as u64 * FLOAT_CODE_BYTES
}

/// What the process takes beyond [`PROCESS_BYTES`], by what it will do.
fn process_lines(
    gguf: &Gguf<'_>,
    n_threads: usize,
    source: &Source,
    ram: Option<u64>,
) -> impl Iterator<Item = (&'static str, u64)> {
    let is_in_parts = source.outline().is_some() && ram.is_some();
    let threads = if n_threads > 1 { SHARING_CODE_BYTES + (n_threads as u64 - 1) * THREAD_BYTES } else { 0 };
    let lines = [
        ("code for the types of weights", code_bytes(gguf.tensors().map(|tensor| tensor.kind))),
        ("threads", threads),
        ("code that reads weights in parts", if is_in_parts { PARTS_CODE_BYTES } else { 0 }),
        ("code that unpacks weights", if is_in_parts && source.index().is_some() { UNPACKING_CODE_BYTES } else { 0 }),
    ];
    lines.into_iter().filter(|&(_, bytes)| bytes > 0)
}

/// The layers whose caches `plan` has no room for, and those caches.
fn spilled_layers(model: &Model<'_>, plan: &Plan) -> Vec<(usize, LayerShape)> {
    let (h, limits) = (model.hparams(), plan.limits());
    let spilled = (0..h.n_layers).filter(|&layer| plan.cache_place(h, layer).is_none());
    spilled.map(|layer| (layer, LayerShape::of(h, limits, layer))).collect()
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
            report::bytes(PROCESS_BYTES),
            report::bytes(ram),
        ))),
        _ => Ok(()),
    }
}
