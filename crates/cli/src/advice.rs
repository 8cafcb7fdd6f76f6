//! What would make a model fit: types of weights and cache, each with the longest context.

use crate::args::{EngineArgs, SamplingArgs};
use crate::budget::{Budget, code_bytes};
use crate::failure::Failure;
use crate::load::Settings;
use crate::report;
use crate::source::Source;
use serde::Serialize;
use smidgen_core::gguf::{Gguf, Tensor};
use smidgen_core::kv::CacheType;
use smidgen_core::model::{Layer, Model};
use smidgen_core::plan::{self, Limits};
use smidgen_core::quant::Type;

/// The types that the cache can have, the most exact first.
const CACHE_TYPES: [CacheType; 4] = [CacheType::F32, CacheType::F16, CacheType::Q8_0, CacheType::Q4_0];
/// What the weights of a file can be stored as, the most exact first: each matrix in the first of these types that its rows can have.
/// `convert --outtype q8_0 --fallback f16` makes the first, `quantize --pure` the others.
const WEIGHT_TYPES: [(&str, &[Type]); 4] =
    [("q8_0", &[Type::Q8_0, Type::F16]), ("q4_w", &[Type::Q4_W]), ("q3_w", &[Type::Q3_W]), ("q2_w", &[Type::Q2_W])];

/// What is said when no choice is left.
pub const NOTHING: &str = "nothing would make it fit";

/// A choice of types, and the longest context with which it fits.
#[derive(Clone, Debug, Serialize)]
pub struct Choice {
    /// The type of the matrices; `as stored` when they need not change.
    pub weights: &'static str,
    /// The type of keys and values alike.
    pub cache: &'static str,
    /// The longest context.
    pub context_tokens: usize,
    /// What a run takes in all.
    pub total_bytes: u64,
    /// About how large the file with such weights is, when they must change.
    pub file_bytes: Option<u64>,
}

/// The model, and what was asked of it.
pub struct Question<'a> {
    source: &'a Source,
    gguf: &'a Gguf<'a>,
    model: &'a Model<'a>,
    /// What was asked of the engine.
    settings: Settings,
}

/// What weights take that are not as stored, for [`Question::longest`].
#[derive(Clone, Copy)]
enum Weights {
    AsStored,
    /// In memory as a whole: by so many bytes a run needs less, and the file about so many.
    Smaller {
        run: u64,
        file: u64,
    },
}

impl<'a> Question<'a> {
    /// What would make the model in `source`, with the header `gguf`, fit when it is asked for with `settings`?
    pub fn new(source: &'a Source, gguf: &'a Gguf<'a>, model: &'a Model<'a>, settings: Settings) -> Self {
        Self { source, gguf, model, settings }
    }

    /// Every choice of weight and cache type with the longest context that fits in `ram`, if any does.
    pub fn choices(&self, ram: u64) -> Vec<Choice> {
        let mut weights = vec![("as stored", Weights::AsStored)];
        let smaller = WEIGHT_TYPES.iter().map(|&(name, kinds)| (name, self.saved_by(kinds), self.file_bytes(kinds)));
        // The embedded model is no file that could be written anew.
        let smaller = smaller.filter(|&(_, saved, _)| saved > 0 && !self.source.is_embedded());
        weights.extend(smaller.map(|(name, run, file)| (name, Weights::Smaller { run, file })));
        let mut choices = Vec::new();
        for (weights, stored) in weights {
            let file_bytes = if let Weights::Smaller { file, .. } = stored { Some(file) } else { None };
            for cache in CACHE_TYPES {
                if let Some((context_tokens, total_bytes)) = self.longest(cache, stored, ram) {
                    choices.push(Choice { weights, cache: cache.name(), context_tokens, total_bytes, file_bytes });
                }
            }
        }
        choices
    }

    /// Up to three changes in one line, the cheapest first: of the weights as they are, and then of each smaller type, the most exact
    /// cache that has the context asked for, or else the longest one. `None` when nothing would make it fit.
    pub fn cheapest(&self, ram: u64) -> Option<String> {
        const MOST: usize = 3;
        let wanted = self.settings.limits.context_tokens;
        let choices = self.choices(ram);
        let mut said = Vec::new();
        let mut most_tokens = 0;
        for alike in choices.chunk_by(|a, b| a.weights == b.weights) {
            let enough = alike.iter().find(|choice| choice.context_tokens >= wanted);
            let longest = alike.iter().rev().max_by_key(|choice| choice.context_tokens);
            let Some(best) = enough.or(longest) else { continue };
            // Who makes a smaller file wants more of it than from the one that is there.
            let n_tokens = best.context_tokens.min(wanted);
            if n_tokens > most_tokens || n_tokens == wanted {
                said.push(advice(best, wanted));
                most_tokens = n_tokens;
            }
            // A shorter context with the cache that was asked for is as cheap as a smaller cache.
            let own = alike.iter().find(|choice| choice.cache == self.settings.limits.cache_k.name());
            let is_other =
                |own: &&Choice| own.weights == "as stored" && enough.is_some() && own.context_tokens < wanted;
            said.extend(own.filter(is_other).map(|own| advice(own, wanted)));
        }
        said.truncate(MOST);
        (!said.is_empty()).then(|| format!("it fits with {}", said.join("; or with ")))
    }

    /// About how large the file is when every matrix is stored in the first of `kinds` that its rows can have.
    fn file_bytes(&self, kinds: &[Type]) -> u64 {
        let aligned = |n_bytes: u64| n_bytes.next_multiple_of(self.gguf.alignment().max(1));
        self.gguf.data_offset() + self.gguf.tensors().map(|tensor| aligned(smaller(&tensor, kinds).1)).sum::<u64>()
    }

    /// Bytes that a run needs less, at least, when every matrix is stored in the first of `kinds` that its rows can have.
    fn saved_by(&self, kinds: &[Type]) -> u64 {
        let smaller = || self.gguf.tensors().map(|tensor| smaller(&tensor, kinds));
        let padding = self.gguf.tensors().count() as u64 * self.gguf.alignment();
        let batch_tokens = self.settings.limits.batch_tokens;
        let n_bytes: u64 = smaller().map(|(_, n_bytes)| n_bytes).sum();
        let saved = self.gguf.tensors().map(|tensor| tensor.n_bytes).sum::<u64>() - n_bytes;
        // Activations have an 8-bit form then, for which a model of floats has no room yet.
        let activations = match self.gguf.tensors().any(|tensor| tensor.kind.is_integer()) {
            true => 0,
            false => plan::activation_bytes(self.model, batch_tokens).map_or(saved, |bytes| bytes as u64),
        };
        let (isa, work) = (self.settings.isa, self.settings.work);
        let code = code_bytes(smaller().map(|(kind, _)| kind), isa, work);
        let growth = padding + activations + code + self.header_growth();
        (saved + code_bytes(self.gguf.tensors().map(|tensor| tensor.kind), isa, work)).saturating_sub(growth)
    }

    /// What the header may gain when it is written anew: keys that name the types, and in place of version 1, whose lengths have 4
    /// bytes, at most as much again as there is.
    fn header_growth(&self) -> u64 {
        if self.gguf.version() == 1 { self.gguf.data_offset() } else { 512 }
    }

    /// The longest context that fits in `ram` with such a cache and such weights, with what it takes in all.
    fn longest(&self, cache: CacheType, weights: Weights, ram: u64) -> Option<(usize, u64)> {
        let total = |context_tokens: usize| {
            let limits = Limits { context_tokens, cache_k: cache, cache_v: cache, ..self.settings.limits };
            let settings = Settings { limits, ..self.settings };
            let within = |ram| Budget::within(self.source, self.gguf, self.model, &settings, ram).ok();
            let bytes = match weights {
                // What is read in parts takes what there is.
                Weights::AsStored => within(Some(ram))?.1.with_process(),
                Weights::Smaller { run: saved, .. } => within(None)?.1.with(self.source.bytes_in_parts()) - saved,
            };
            Some(bytes).filter(|&bytes| bytes <= ram)
        };
        // Every context up to `low` fits and none from `high` on does.
        let (mut low, mut high) = (0, self.model.hparams().context_train.max(self.settings.limits.context_tokens) + 1);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if total(middle).is_some() { low = middle } else { high = middle }
        }
        total(low).filter(|_| low > 0).map(|bytes| (low, bytes))
    }
}

/// The flags of `choice` for a context of `wanted` tokens or what there is of it, and how to make its file.
fn advice(choice: &Choice, wanted: usize) -> String {
    let flags = format!("-c {} --ctk {1} --ctv {1}", choice.context_tokens.min(wanted), choice.cache);
    let make = match choice.weights {
        "as stored" => return flags,
        "q8_0" => "convert MODEL OUT --outtype q8_0 --fallback f16".to_owned(),
        kind => format!("quantize MODEL OUT {} --pure -f TEXT", kind.to_uppercase()),
    };
    format!("{flags} after 'smidgen {make}' (about {})", report::bytes(choice.file_bytes.unwrap_or(0)))
}

/// The refusal of a command that has `beside` bytes in memory beside the engine over `source`, with what would make it fit.
pub fn advised(refusal: Failure, source: &Source, args: &EngineArgs, (ram, beside): (Option<u64>, u64)) -> Failure {
    let (Failure::Budget(message), Some(ram)) = (&refusal, ram) else { return refusal };
    let args = EngineArgs { ram: None, ..args.clone() };
    let cheapest = || {
        let gguf = source.gguf()?;
        let mut layers = vec![Layer::EMPTY; Model::n_layers(&gguf).map_err(|error| source.refused(error))?];
        let model = source.model(&gguf, &mut layers)?;
        let settings = Settings::new(&args, &SamplingArgs::GREEDY, source, &gguf, &model)?;
        Ok::<_, Failure>(Question::new(source, &gguf, &model, settings).cheapest(ram.saturating_sub(beside)))
    };
    let advice = cheapest().ok().flatten();
    Failure::Budget(format!("{message}; {}", advice.unwrap_or(NOTHING.to_owned())))
}

/// The type of `tensor` when it is a matrix and is stored in the first of `kinds` that its rows can have, if that is smaller, and the
/// bytes that it takes then.
fn smaller(tensor: &Tensor<'_>, kinds: &[Type]) -> (Type, u64) {
    let n_rows = tensor.dims[1..].iter().product::<u64>();
    let stored = kinds.iter().find_map(|&kind| Some((kind, kind.row_bytes(tensor.dims[0])? * n_rows)));
    let is_smaller = |&(_, n_bytes): &(Type, u64)| tensor.n_dims > 1 && n_bytes < tensor.n_bytes;
    stored.filter(is_smaller).unwrap_or((tensor.kind, tensor.n_bytes))
}
