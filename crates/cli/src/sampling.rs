//! How tokens are chosen when the flags do not say: as the model's own metadata asks, else as llama.cpp does.

use crate::args::SamplingArgs;
use smidgen_core::gguf::Gguf;
use smidgen_core::sample::SampleParams;
use std::hash::{BuildHasher, Hasher};

/// What the flags, the model's own metadata and llama.cpp's defaults say about sampling, in this order.
pub fn params(args: &SamplingArgs, gguf: &Gguf<'_>, context_tokens: usize) -> SampleParams {
    let default = SampleParams::default();
    let of_model = |key: &str| gguf.get(key).and_then(|value| value.as_f32()).filter(|x| x.is_finite() && *x >= 0.0);
    let value = |flag: Option<f32>, key: &str, default: f32| flag.or_else(|| of_model(key)).unwrap_or(default);
    let top_k = args.top_k.or_else(|| of_model("general.sampling.top_k").map(|k| k as usize));
    SampleParams {
        temperature: value(args.temp, "general.sampling.temp", default.temperature),
        top_k: top_k.unwrap_or(default.top_k),
        top_p: value(args.top_p, "general.sampling.top_p", default.top_p),
        min_p: value(args.min_p, "general.sampling.min_p", default.min_p),
        repeat_penalty: args.repeat_penalty,
        repeat_last_n: usize::try_from(args.repeat_last_n).unwrap_or(context_tokens),
        presence_penalty: args.presence_penalty,
        frequency_penalty: args.frequency_penalty,
        seed: seed(args.seed),
    }
}

/// The seed asked for, or for a negative one another each time (32 bits, so that JSON and people can repeat it).
fn seed(asked: i64) -> u64 {
    u64::try_from(asked).unwrap_or_else(|_| std::hash::RandomState::new().build_hasher().finish() >> 32)
}
