//! What this firmware tells, and how much memory that takes: `smidgen export firmware` writes this file.

use smidgen_teller::{CacheType, Limits};

/// The model, executed from where the linker puts it: flash.
pub static MODEL: &[u8] = include_bytes!("../../../models/tales.gguf");
/// How the story begins.
pub const PROMPT: &str = "Once upon a time";
/// The most tokens that are added to it.
pub const N_NEW: usize = 40;
/// The sizes of the buffers.
pub const LIMITS: Limits = Limits {
    context_tokens: 64,
    batch_tokens: 1,
    n_threads: 1,
    cache_k: CacheType::F32,
    cache_v: CacheType::F32,
    keeps_all: false,
};
/// Layers of the model.
pub const N_LAYERS: usize = 6;
/// Bytes of each in the table of layers, at most.
pub const LAYER_BYTES: usize = 344;
/// What `smidgen_teller::memory_bytes` says of this model and these limits.
pub const MEMORY_BYTES: usize = 236_032;
/// Ticks of the machine timer in a second.
pub const CLOCK_HZ: u64 = 10_000_000;
