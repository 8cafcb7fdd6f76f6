//! The engine for C and for WebAssembly: a model's bytes and one piece of memory in, tokens out; nothing is allocated.
//!
//! `include/smidgen.h` is the header, with what every function takes and gives. A session lives at the beginning of the memory
//! that it was given; the pointer to it is good as long as that memory and the model's bytes are left alone.
#![no_std]

mod session;

use core::slice;
use session::{Parts, Session};
use smidgen_core::kv::CacheType;
use smidgen_core::plan::{Limits, Span};
use smidgen_core::sample::SampleParams;
use smidgen_core::tokenizer::Encode;

/// What a function came to.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SmidgenStatus {
    /// It did what was asked.
    Done = 0,
    /// A pointer is null, or a number is none that there is.
    Argument = 1,
    /// The bytes are no model that this library runs.
    Model = 2,
    /// The tokenizer of the model is not in order, or there is none.
    Tokenizer = 3,
    /// The memory is smaller than `smidgen_memory_bytes` said.
    Memory = 4,
    /// The tokens do not fit the context, or are not in the vocabulary.
    Tokens = 5,
    /// The text is no UTF-8, or longer than planned; or its tokens have no room.
    Text = 6,
    /// A weight is NaN or infinite.
    NotFinite = 7,
}

/// How much is planned for.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SmidgenLimits {
    /// Positions kept: prompt and continuation together.
    pub context_tokens: u32,
    /// Prompt tokens that share one pass over the weights.
    pub batch_tokens: u32,
    /// Bytes of the longest text that is encoded at once.
    pub text_bytes: u32,
    /// The most tokens that a draw chooses between (`top_k`).
    pub candidates: u32,
    /// How keys and values are cached: 0 is F32, 1 is F16, 2 is Q8_0, 3 is Q4_0.
    pub cache: u32,
}

/// How tokens are chosen.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SmidgenSampling {
    /// Logits are divided by this; 0 takes the likeliest token.
    pub temperature: f32,
    /// The fewest largest probabilities that sum to at least this are kept; 1 keeps all.
    pub top_p: f32,
    /// Probabilities below this share of the largest are dropped; 0 keeps all.
    pub min_p: f32,
    /// Only this many of the largest logits are kept, and no more than `candidates` of the limits.
    pub top_k: u32,
    /// The seed of the draw.
    pub seed: u64,
    /// Logits of recent tokens are divided by this if positive and multiplied with it if negative; 1 for no change.
    pub repeat_penalty: f32,
    /// How many of the last tokens, the prompt's among them, are recent.
    pub repeat_last_n: u32,
}

/// One consumer of a session's memory.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SmidgenSpan {
    /// What it holds: `name_bytes` bytes of ASCII without a zero behind them, never freed.
    pub name: *const core::ffi::c_char,
    /// Bytes of the name.
    pub name_bytes: usize,
    /// Bytes that it takes; 0 for what this model does without.
    pub bytes: usize,
}

fn limits(limits: &SmidgenLimits) -> Option<Limits> {
    let cache = *[CacheType::F32, CacheType::F16, CacheType::Q8_0, CacheType::Q4_0].get(limits.cache as usize)?;
    Some(Limits {
        context_tokens: limits.context_tokens as usize,
        batch_tokens: limits.batch_tokens as usize,
        n_threads: 1,
        cache_k: cache,
        cache_v: cache,
        keeps_all: true,
    })
}

/// Writes the bytes of memory that a session needs to `memory_bytes`.
///
/// # Safety
/// `model` points to `model_bytes` bytes, the others to one value each, or are null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smidgen_memory_bytes(
    model: *const u8,
    model_bytes: usize,
    wanted: *const SmidgenLimits,
    memory_bytes: *mut usize,
) -> SmidgenStatus {
    // SAFETY: as the caller promises.
    let (wanted, out) = unsafe { (wanted.as_ref(), memory_bytes.as_mut()) };
    let (false, Some(wanted), Some(out)) = (model.is_null(), wanted, out) else { return SmidgenStatus::Argument };
    let Some(limits) = limits(wanted) else { return SmidgenStatus::Argument };
    // SAFETY: as the caller promises.
    let model = unsafe { slice::from_raw_parts(model, model_bytes) };
    match Parts::new(model, &limits, wanted) {
        Ok(parts) => {
            *out = parts.sum();
            SmidgenStatus::Done
        }
        Err(status) => status,
    }
}

/// Lists what the memory of a session is for: up to `room` spans go to `spans`, and how many there are to `n_spans`. Together they
/// are what [`smidgen_memory_bytes`] says.
///
/// # Safety
/// As [`smidgen_memory_bytes`]; `spans` points to room for `room` spans, `n_spans` to one number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smidgen_spans(
    model: *const u8,
    model_bytes: usize,
    wanted: *const SmidgenLimits,
    spans: *mut SmidgenSpan,
    room: usize,
    n_spans: *mut usize,
) -> SmidgenStatus {
    // SAFETY: as the caller promises.
    let (wanted, out) = unsafe { (wanted.as_ref(), n_spans.as_mut()) };
    let (false, false, Some(wanted), Some(out)) = (model.is_null(), spans.is_null(), wanted, out) else {
        return SmidgenStatus::Argument;
    };
    let Some(limits) = limits(wanted) else { return SmidgenStatus::Argument };
    // SAFETY: as the caller promises.
    let model = unsafe { slice::from_raw_parts(model, model_bytes) };
    match Parts::new(model, &limits, wanted) {
        Ok(parts) => {
            *out = 0;
            for Span { name, bytes } in parts.spans() {
                if *out < room {
                    let span = SmidgenSpan { name: name.as_ptr().cast(), name_bytes: name.len(), bytes };
                    // SAFETY: there is room for more than this many.
                    unsafe { spans.add(*out).write(span) };
                }
                *out += 1;
            }
            SmidgenStatus::Done
        }
        Err(status) => status,
    }
}

/// Opens the model in `memory` and writes the session to `session`.
///
/// # Safety
/// As [`smidgen_memory_bytes`]; `memory` points to `memory_bytes` bytes that nobody else uses. Model and memory stay as they are
/// until the session is used for the last time; then both belong to the caller again, and nothing needs to be closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smidgen_open(
    model: *const u8,
    model_bytes: usize,
    wanted: *const SmidgenLimits,
    memory: *mut u8,
    memory_bytes: usize,
    session: *mut *mut Session,
) -> SmidgenStatus {
    // SAFETY: as the caller promises.
    let (wanted, out) = unsafe { (wanted.as_ref(), session.as_mut()) };
    let (false, false, Some(wanted), Some(out)) = (model.is_null(), memory.is_null(), wanted, out) else {
        return SmidgenStatus::Argument;
    };
    let Some(limits) = limits(wanted) else { return SmidgenStatus::Argument };
    // SAFETY: as the caller promises, for as long as the session is used.
    let (model, memory) =
        unsafe { (slice::from_raw_parts(model, model_bytes), slice::from_raw_parts_mut(memory, memory_bytes)) };
    match Session::open(model, &limits, wanted, memory) {
        Ok(opened) => {
            *out = opened;
            SmidgenStatus::Done
        }
        Err(status) => status,
    }
}

/// How many tokens the vocabulary has: the length of the logits.
///
/// # Safety
/// `session` comes from [`smidgen_open`], and nobody else uses it meanwhile; this holds for every function below.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smidgen_n_vocab(session: *const Session) -> u32 {
    // SAFETY: as the caller promises.
    unsafe { session.as_ref() }.map_or(0, Session::n_vocab)
}

/// How many positions have been run.
///
/// # Safety
/// As [`smidgen_n_vocab`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smidgen_position(session: *const Session) -> u32 {
    // SAFETY: as the caller promises.
    unsafe { session.as_ref() }.map_or(0, |session| session.engine.position() as u32)
}

/// Forgets all but the first `n` positions, and begins a new text for [`smidgen_decode`] when `n` is 0.
///
/// # Safety
/// As [`smidgen_n_vocab`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smidgen_truncate(session: *mut Session, n: u32) {
    // SAFETY: as the caller promises.
    if let Some(session) = unsafe { session.as_mut() } {
        session.truncate(n as usize);
    }
}

/// Writes the tokens of a text of UTF-8 to `ids`, the one that begins a text first when `begins` is not 0; how many, to `n_ids`.
///
/// # Safety
/// As [`smidgen_n_vocab`]; `text` points to `text_bytes` bytes, `ids` to room for `room` tokens, `n_ids` to one number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smidgen_encode(
    session: *mut Session,
    text: *const u8,
    text_bytes: usize,
    begins: i32,
    ids: *mut u32,
    room: usize,
    n_ids: *mut usize,
) -> SmidgenStatus {
    // SAFETY: as the caller promises.
    let (session, out) = unsafe { (session.as_mut(), n_ids.as_mut()) };
    let (Some(session), Some(out), false, false) = (session, out, text.is_null(), ids.is_null()) else {
        return SmidgenStatus::Argument;
    };
    // SAFETY: as the caller promises.
    let (text, ids) = unsafe { (slice::from_raw_parts(text, text_bytes), slice::from_raw_parts_mut(ids, room)) };
    let Ok(text) = core::str::from_utf8(text) else { return SmidgenStatus::Text };
    let options = Encode { add_special: begins != 0, parse_special: false };
    match session.tokenizer.encode(text, options, session.scratch, ids) {
        Ok(n) => {
            *out = n;
            SmidgenStatus::Done
        }
        Err(_) => SmidgenStatus::Text,
    }
}

/// Writes the text that token `id` adds, whole characters, to `text`; how many bytes, to `text_bytes`. What does not fit is left out.
///
/// # Safety
/// As [`smidgen_n_vocab`]; `text` points to `room` bytes, `text_bytes` to one number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smidgen_decode(
    session: *mut Session,
    id: u32,
    text: *mut u8,
    room: usize,
    text_bytes: *mut usize,
) -> SmidgenStatus {
    // SAFETY: as the caller promises.
    let (session, out) = unsafe { (session.as_mut(), text_bytes.as_mut()) };
    let (Some(session), Some(out), false) = (session, out, text.is_null()) else { return SmidgenStatus::Argument };
    // SAFETY: as the caller promises.
    *out = session.decoder.push(id, unsafe { slice::from_raw_parts_mut(text, room) });
    SmidgenStatus::Done
}

/// Runs tokens at the next positions; the logits after the last of them, [`smidgen_n_vocab`] floats, are where `logits` then points,
/// until the next call.
///
/// # Safety
/// As [`smidgen_n_vocab`]; `ids` points to `n_ids` tokens; `logits` to one pointer, or is null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smidgen_forward(
    session: *mut Session,
    ids: *const u32,
    n_ids: usize,
    logits: *mut *const f32,
) -> SmidgenStatus {
    // SAFETY: as the caller promises.
    let (session, out) = unsafe { (session.as_mut(), logits.as_mut()) };
    let (Some(session), false) = (session, ids.is_null()) else { return SmidgenStatus::Argument };
    // SAFETY: as the caller promises.
    match session.forward(unsafe { slice::from_raw_parts(ids, n_ids) }) {
        Ok(address) => {
            if let Some(out) = out {
                *out = address;
            }
            SmidgenStatus::Done
        }
        Err(status) => status,
    }
}

/// Sets how [`smidgen_sample`] chooses from here on, and starts its random numbers anew.
///
/// # Safety
/// As [`smidgen_n_vocab`]; `sampling` points to one value.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smidgen_sampling(session: *mut Session, sampling: *const SmidgenSampling) -> SmidgenStatus {
    // SAFETY: as the caller promises.
    let (session, sampling) = unsafe { (session.as_mut(), sampling.as_ref()) };
    let (Some(session), Some(sampling)) = (session, sampling) else { return SmidgenStatus::Argument };
    let SmidgenSampling { temperature, top_p, min_p, top_k, seed, repeat_penalty, repeat_last_n } = *sampling;
    let is_number = |x: f32| x.is_finite() && x >= 0.0;
    if ![temperature, top_p, min_p, repeat_penalty].into_iter().all(is_number) || repeat_penalty == 0.0 {
        return SmidgenStatus::Argument;
    }
    let (top_k, repeat_last_n) = (top_k as usize, repeat_last_n as usize);
    let chosen = SampleParams { temperature, top_p, min_p, top_k, seed, ..SampleParams::default() };
    let params = SampleParams { repeat_penalty, repeat_last_n, ..chosen };
    session.set_sampling(params);
    SmidgenStatus::Done
}

/// Chooses a token by the logits of the last [`smidgen_forward`], which a penalty changes; 0 before there was one.
///
/// # Safety
/// As [`smidgen_n_vocab`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smidgen_sample(session: *mut Session) -> u32 {
    // SAFETY: as the caller promises.
    unsafe { session.as_mut() }.map_or(0, Session::sample)
}

/// Whether a text ends with token `id`: 1 or 0.
///
/// # Safety
/// As [`smidgen_n_vocab`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smidgen_is_end(session: *const Session, id: u32) -> i32 {
    // SAFETY: as the caller promises.
    unsafe { session.as_ref() }.map_or(0, |session| i32::from(session.tokenizer.is_end(id)))
}

/// What each status means, in the order of their numbers.
const MESSAGES: [&core::ffi::CStr; 8] = [
    c"done",
    c"a pointer is null, or a number is none that there is",
    c"the bytes are no model that this library runs",
    c"the tokenizer of the model is not in order, or there is none",
    c"the memory is smaller than smidgen_memory_bytes said",
    c"the tokens do not fit the context, or are not in the vocabulary",
    c"the text is no UTF-8 or longer than planned, or its tokens have no room",
    c"a weight is NaN or infinite",
];

/// What a status means, in words; the text ends with a zero and is never freed.
#[unsafe(no_mangle)]
pub extern "C" fn smidgen_message(status: u32) -> *const core::ffi::c_char {
    MESSAGES.get(status as usize).copied().unwrap_or(c"no such status").as_ptr()
}

#[cfg(unix)]
#[link(name = "c")]
unsafe extern "C" {
    fn abort() -> !;
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    #[cfg(target_arch = "wasm32")]
    core::arch::wasm32::unreachable();
    #[cfg(unix)]
    // SAFETY: it takes nothing and does not come back.
    unsafe {
        abort()
    };
    #[cfg(not(any(unix, target_arch = "wasm32")))]
    loop {}
}
