//! The text that a model is calibrated and measured on, and engines that run it.

use super::known::Known;
use crate::failure::Failure;
use crate::generate;
use crate::load::Elsewhere;
use crate::prompt;
use smidgen_compress::calibration::{Collector, inputs};
use smidgen_core::engine::{self, Engine};
use smidgen_core::gguf::Gguf;
use smidgen_core::kv::CacheType;
use smidgen_core::model::{Layer, Model};
use smidgen_core::plan::{Limits, Plan};
use smidgen_core::simd::Isa;
use smidgen_core::tokenizer::{Encode, Tokenizer};
use smidgen_core::workers::Workers;
use smidgen_host::Progress;
use std::path::Path;

/// Tokens of a sequence, where the model's context allows.
const SEQUENCE_TOKENS: usize = 256;
/// Tokens that pass through a model together.
pub const BATCH_TOKENS: usize = 64;
/// What a part of the work may read, in products of weights and tokens, and the least and the most sequences that it does.
#[derive(Clone, Copy)]
struct Share {
    products: u64,
    least: u64,
    most: u64,
}

/// All of calibration: a matrix of moments wants some tokens for each of its columns.
const CALIBRATE: Share = Share { products: 40_000_000_000, least: 8, most: 128 };
/// One measurement of one type in one part, of which there are hundreds.
const MEASURE: Share = Share { products: 1_500_000_000, least: 2, most: 8 };
/// One measurement of a whole file, of which there are few.
const VERIFY: Share = Share { products: 6_000_000_000, least: 4, most: 16 };

impl Share {
    /// How many sequences of `length` tokens a model of `n_weights` reads.
    fn sequences(self, n_weights: u64, length: usize) -> usize {
        (self.products / n_weights.max(1) / length as u64).clamp(self.least, self.most) as usize
    }
}

/// Sequences of tokens, all of one length.
#[derive(Clone, Debug)]
pub struct Text {
    /// What calibration reads.
    pub calibrate: Vec<Vec<u32>>,
    /// What the damage of each type in each part is measured on: some of what calibration reads.
    pub measure: Vec<Vec<u32>>,
    /// What results are judged by: the end of the text, which nothing else has seen.
    pub verify: Vec<Vec<u32>>,
}

impl Text {
    /// Reads `path` for the model in `gguf`, of `n_weights`, called `name`.
    ///
    /// # Errors
    /// A text that cannot be read or is too short, or a model without tokenizer.
    pub fn read(path: &Path, name: &str, gguf: &Gguf<'_>, n_weights: u64) -> Result<Self, Failure> {
        let refused = |error| Failure::Input(format!("{name}: {error}"));
        let mut text = prompt::read_file(path)?;
        prompt::trim(&mut text);
        let mut index = vec![0; Tokenizer::arena_bytes(gguf).map_err(refused)?];
        let tokenizer = Tokenizer::new(gguf, &mut index).map_err(refused)?;
        let options = Encode { add_special: false, parse_special: false };
        let tokens = prompt::encode(&tokenizer, &text, options).map_err(refused)?;
        let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
        let length = sequence_tokens(gguf);
        let whole = tokens.chunks_exact(length - usize::from(bos.is_some()));
        let mut sequences: Vec<Vec<u32>> = whole.map(|chunk| bos.iter().chain(chunk).copied().collect()).collect();
        let n_verify = VERIFY.sequences(n_weights, length).min(sequences.len() / 2);
        if n_verify == 0 {
            return Err(Failure::Input(format!(
                "{}: {} tokens are too few; at least {} are needed, and some thousands are better",
                path.display(),
                tokens.len(),
                2 * length
            )));
        }
        let verify = sequences.split_off(sequences.len() - n_verify);
        sequences.truncate(CALIBRATE.sequences(n_weights, length));
        let n_measure = MEASURE.sequences(n_weights, length).min(sequences.len());
        Ok(Text { measure: sequences[..n_measure].to_vec(), calibrate: sequences, verify })
    }
}

/// Tokens of a sequence for the model in `gguf`.
pub fn sequence_tokens(gguf: &Gguf<'_>) -> usize {
    let arch = gguf.get("general.architecture").and_then(|value| value.as_str()).unwrap_or_default();
    let key = format!("{}.context_length", String::from_utf8_lossy(arch));
    let trained = gguf.get(&key).and_then(|value| value.as_u64()).unwrap_or(0);
    usize::try_from(trained).unwrap_or(usize::MAX).clamp(2, SEQUENCE_TOKENS)
}

/// How models are run to be measured.
#[derive(Clone, Copy)]
pub struct Bench<'a> {
    /// How messages call the model.
    pub name: &'a str,
    /// Kernels.
    pub isa: Isa,
    /// Who computes.
    pub workers: &'a dyn Workers,
    /// Positions that a sequence takes.
    pub context_tokens: usize,
}

impl Bench<'_> {
    /// Runs the model in the GGUF `image`.
    ///
    /// # Errors
    /// A model that does not run, or what `work` says.
    pub fn run<R>(
        &self,
        image: &[u8],
        work: impl FnOnce(&mut Engine<'_>, &Model<'_>) -> Result<R, engine::Error>,
    ) -> Result<R, Failure> {
        let refused = |error: String| Failure::Input(format!("{}: {error}", self.name));
        let gguf = Gguf::parse(image, image.len() as u64).map_err(|error| refused(error.to_string()))?;
        let n_layers = Model::n_layers(&gguf).map_err(|error| refused(error.to_string()))?;
        let mut layers = vec![Layer::EMPTY; n_layers];
        let model = Model::new(&gguf, &mut layers).map_err(|error| refused(error.to_string()))?;
        let limits = Limits {
            context_tokens: self.context_tokens,
            batch_tokens: BATCH_TOKENS,
            n_threads: self.workers.n_workers(),
            cache_k: CacheType::F32,
            cache_v: CacheType::F32,
            keeps_all: false,
        };
        let plan = Plan::new(&model, &limits).map_err(|error| refused(error.to_string()))?;
        let mut arena = vec![0; plan.arena_bytes()];
        let mut engine = Engine::new(&model, &plan, self.isa, self.workers, &mut arena)
            .map_err(|error| refused(error.to_string()))?;
        work(&mut engine, &model).map_err(|error| generate::refused(self.name, &gguf, Elsewhere::default(), error))
    }

    /// What `sequences` show of the inputs of the model in `image`.
    ///
    /// # Errors
    /// A model that does not run.
    pub fn calibrate(
        &self,
        image: &[u8],
        sequences: &[Vec<u32>],
        is_tied: bool,
        progress: &dyn Progress,
    ) -> Result<Known<'static>, Failure> {
        progress.begin("calibrating", sequences.len() as u64);
        let known = self.run(image, |engine, model| {
            let mut collector = Collector::new(&inputs(model.hparams()), true, self.isa, self.workers);
            for sequence in sequences {
                engine.truncate(0);
                for batch in sequence.chunks(BATCH_TOKENS) {
                    engine.forward_observed(batch, &mut collector)?;
                }
                progress.advance(1);
            }
            Ok(Known::Text(collector.sums().to_vec(), is_tied))
        });
        progress.end();
        known
    }
}
