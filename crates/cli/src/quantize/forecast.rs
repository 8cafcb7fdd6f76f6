//! What a file will be before it is written: its size, its bits per weight and the memory that running it takes.

use crate::args::EngineArgs;
use crate::budget::{Budget, Work};
use crate::failure::Failure;
use crate::load::{Settings, host_failure, limits};
use crate::source::Source;
use smidgen_core::model::{Layer, Model};
use smidgen_core::quant::Type;
use smidgen_core::sample::SampleParams;
use smidgen_core::simd::Isa;
use smidgen_host::Import;
use smidgen_host::emit::{Emission, Target};
use smidgen_host::source::TensorInfo;
use std::collections::BTreeMap;

/// Sums over the tensors of one type.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct OfType {
    /// How many tensors.
    pub n_tensors: usize,
    /// Their weights.
    pub n_weights: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The sizes of a file whose tensors have certain types.
#[derive(Clone, Debug, PartialEq)]
pub struct Sizes {
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Weights of all tensors.
    pub n_weights: u64,
    /// Bytes of all tensors, without header and padding.
    pub weight_bytes: u64,
    /// The same for each type, by its name.
    pub types: BTreeMap<&'static str, OfType>,
}

impl Sizes {
    /// The sizes of `emission`, whose tensors are `infos`.
    pub fn of(emission: &Emission, infos: &[TensorInfo]) -> Self {
        let mut types: BTreeMap<&'static str, OfType> = BTreeMap::new();
        for (info, &kind) in infos.iter().zip(emission.types()) {
            let sum = types.entry(kind.name()).or_insert(OfType { n_tensors: 0, n_weights: 0, bytes: 0 });
            sum.n_tensors += 1;
            sum.n_weights += info.n_rows() * info.n_columns();
            sum.bytes += tensor_bytes(info, kind);
        }
        let n_weights = types.values().map(|sum| sum.n_weights).sum();
        let weight_bytes = types.values().map(|sum| sum.bytes).sum();
        Sizes { file_bytes: emission.file_bytes(), n_weights, weight_bytes, types }
    }

    /// Bits for each weight, of the tensors alone.
    pub fn bits_per_weight(&self) -> f64 {
        self.weight_bytes as f64 * 8.0 / self.n_weights.max(1) as f64
    }

    /// Bits for each weight, of the whole file.
    pub fn file_bits_per_weight(&self) -> f64 {
        self.file_bytes as f64 * 8.0 / self.n_weights.max(1) as f64
    }

    /// `30 Q4_K, 1 Q6_K`.
    pub fn counts(&self) -> String {
        let counts: Vec<String> = self.types.iter().map(|(name, sum)| format!("{} {name}", sum.n_tensors)).collect();
        counts.join(", ")
    }
}

/// Bytes of a tensor as `kind`, whose rows it fits.
pub fn tensor_bytes(info: &TensorInfo, kind: Type) -> u64 {
    kind.row_bytes(info.n_columns()).unwrap_or(0) * info.n_rows()
}

/// The sizes of the file that `import` becomes with `target`.
///
/// # Errors
/// Those of [`Emission::new`].
pub fn sizes(import: &Import, target: &Target) -> Result<Sizes, Failure> {
    let emission = Emission::new(import.source(), target).map_err(host_failure)?;
    Ok(Sizes::of(&emission, import.tensors()))
}

/// What running the file takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Memory {
    /// The context that this counts with.
    pub context_tokens: usize,
    /// All planned consumers and the process.
    pub bytes: u64,
}

/// What running the file takes with the flags `args`, to the byte, by the same plan as `smidgen plan`.
///
/// # Errors
/// A model that does not run here: the reason.
pub fn memory(import: &mut Import, emission: &Emission, args: &EngineArgs, name: &str) -> Result<Memory, Failure> {
    let image = import.skeleton(emission).map_err(host_failure)?;
    let source = Source::planned(name, image);
    let gguf = source.gguf()?;
    let mut layers = vec![Layer::EMPTY; Model::n_layers(&gguf).map_err(|error| source.refused(error))?];
    let model = Model::new(&gguf, &mut layers).map_err(|error| source.refused(error))?;
    let limits = limits(args, &source, &model);
    let (params, isa) = (SampleParams::default(), Isa::detect());
    let settings = Settings { limits, isa, params, reads_each: false, work: Work::Run, connections: 0 };
    let (_, budget) = Budget::within(&source, &gguf, &model, &settings, None)?;
    Ok(Memory { context_tokens: limits.context_tokens, bytes: budget.with_process() })
}
