//! The flags that several commands share. Their names are llama.cpp's where llama.cpp has one.

use crate::budget::Work;
use crate::constraint::ConstraintArgs;
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use smidgen_core::kv::CacheType;
use smidgen_core::quant::Type;
use std::ffi::OsString;
use std::path::PathBuf;

/// Where the model comes from.
#[derive(Args, Clone, Debug)]
pub struct ModelArgs {
    /// Model: a GGUF file, a Hugging Face directory, a llama2.c .bin, or hf:owner/name[/file] [default: the embedded one]
    #[arg(value_name = "MODEL")]
    bare: Option<String>,

    /// The same as a bare MODEL
    #[arg(short = 'm', long = "model", value_name = "MODEL", conflicts_with = "bare")]
    flag: Option<String>,

    #[allow(missing_docs)] // A doc comment here would become the help text of the whole command.
    #[command(flatten)]
    pub import: ImportArgs,

    /// Read the file into memory instead of mapping it, as without --ram files up to 64 MiB are in any case
    #[arg(long)]
    pub no_mmap: bool,
}

impl ModelArgs {
    /// The model's name as given, if one was.
    pub fn name(&self) -> Option<&str> {
        self.bare.as_deref().or(self.flag.as_deref())
    }

    /// The flags that name the model `name`, to be read as `import` says.
    pub fn of(name: &str, import: &ImportArgs) -> Self {
        Self { bare: Some(name.to_owned()), flag: None, import: import.clone(), no_mmap: false }
    }

    /// The same flags for the model called `name`, in the types that it is stored in.
    pub fn as_stored(&self, name: &str) -> Self {
        let import = ImportArgs { tokenizer: self.import.tokenizer.clone(), outtype: None, fallback: None };
        Self { bare: Some(name.to_owned()), flag: None, import, no_mmap: self.no_mmap }
    }
}

/// How a model that is not GGUF becomes one.
#[derive(Args, Clone, Debug)]
pub struct ImportArgs {
    /// Tokenizer of a llama2.c model (tokenizer.bin)
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,

    /// Type that the weights are stored in [default: the type they have]
    #[arg(long, value_name = "TYPE", ignore_case = true, value_parser = weight_type())]
    pub outtype: Option<Type>,

    /// Type for tensors whose rows are not whole blocks of --outtype; without it they are an error
    #[arg(long, value_name = "TYPE", ignore_case = true, requires = "outtype", value_parser = fallback_type())]
    pub fallback: Option<Type>,
}

/// Connections that a server has at a time when it is not said.
pub const CONNECTIONS: usize = 4;

/// How much the engine is given.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Engine")]
pub struct EngineArgs {
    /// Context in tokens; 0 is the context the model was trained with [default: that, but at most 2048]
    #[arg(short = 'c', long = "ctx-size", value_name = "N")]
    pub context: Option<usize>,

    /// Prompt tokens that pass through the model together
    #[arg(short = 'b', long = "batch-size", value_name = "N", default_value_t = 16, value_parser = positive)]
    pub batch: usize,

    /// Threads [default: 1, and more for a model of more than 16 MiB]
    #[arg(short = 't', long, value_name = "N", value_parser = thread_count)]
    pub threads: Option<usize>,

    /// Type of the keys in the cache
    #[arg(long, alias = "cache-type-k", value_name = "TYPE", default_value = "f32", ignore_case = true, value_parser = cache_type())]
    pub ctk: CacheType,

    /// Type of the values in the cache
    #[arg(long, alias = "cache-type-v", value_name = "TYPE", default_value = "f32", ignore_case = true, value_parser = cache_type())]
    pub ctv: CacheType,

    /// Memory that the process may take, such as 200M: weights that do not fit are read from the file for every token; what cannot
    /// fit is not loaded (exit 3)
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub ram: Option<u64>,

    /// Directory for the key-value caches that do not fit --ram [default: the user's cache directory]
    #[arg(long, value_name = "DIR")]
    pub spill_dir: Option<PathBuf>,

    /// Whether layers that see a window keep all positions all the same, for a prompt cache.
    #[arg(skip)]
    pub keeps_all: bool,

    /// Whether the logits of every position are read, not only those of the last.
    #[arg(skip)]
    pub reads_each: bool,

    /// What is done with the model.
    #[arg(skip)]
    pub work: Work,

    /// Connections that a server has at a time.
    #[arg(skip = CONNECTIONS)]
    pub connections: usize,

    /// Keep the system from moving the weights out of memory
    #[arg(long)]
    pub mlock: bool,

    /// Kernels to use: scalar, or a set that this processor has (sse4.1, avx2, avx512, avx512-vnni, neon, neon-dotprod) [default: the best]
    #[arg(long, value_name = "NAME")]
    pub isa: Option<String>,
}

/// How the next token is chosen.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Seed of the random numbers; -1 is a new one each time
    #[arg(short = 's', long, value_name = "N", default_value_t = -1, allow_negative_numbers = true)]
    pub seed: i64,

    /// Temperature; 0 always takes the likeliest token [default: the model's, or 0.8]
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = not_negative)]
    pub temp: Option<f32>,

    /// Keep the K likeliest tokens; 0 keeps all [default: the model's, or 40]
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,

    /// Keep the likeliest tokens that together have this probability; 1 keeps all [default: the model's, or 0.95]
    #[arg(long, value_name = "P", value_parser = fraction)]
    pub top_p: Option<f32>,

    /// Keep tokens at least this likely relative to the likeliest; 0 keeps all [default: the model's, or 0.05]
    #[arg(long, value_name = "P", value_parser = fraction)]
    pub min_p: Option<f32>,

    /// Make tokens that were just used less likely by this factor; 1 does nothing
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = factor)]
    pub repeat_penalty: f32,

    /// How many of the last tokens the penalties look at; -1 is the whole context
    #[arg(long, value_name = "N", default_value_t = 64, allow_negative_numbers = true)]
    pub repeat_last_n: i64,

    /// Subtracted from the logits of tokens that were just used
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true, value_parser = finite)]
    pub presence_penalty: f32,

    /// Subtracted from the logits of tokens that were just used, once for each use
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true, value_parser = finite)]
    pub frequency_penalty: f32,
}

impl SamplingArgs {
    /// Always the likeliest token: what a command asks for that only reads logits, because it takes no memory.
    pub const GREEDY: SamplingArgs = SamplingArgs {
        seed: 0,
        temp: Some(0.0),
        top_k: None,
        top_p: None,
        min_p: None,
        repeat_penalty: 1.0,
        repeat_last_n: 0,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
    };

    /// The same for requests, which may ask to choose among all tokens.
    pub fn widest(&self) -> SamplingArgs {
        SamplingArgs { temp: Some(1.0), top_k: Some(0), ..self.clone() }
    }
}

/// When the text ends.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Ending")]
pub struct EndingArgs {
    /// New tokens at most; -1 goes on until the model ends or the context is full
    #[arg(short = 'n', long = "predict", visible_alias = "n-predict", value_name = "N", default_value_t = -1, allow_negative_numbers = true)]
    pub predict: i64,

    /// End before this text appears (may be given more than once)
    #[arg(long, alias = "reverse-prompt", short_alias = 'r', value_name = "TEXT", allow_hyphen_values = true, value_parser = not_empty)]
    pub stop: Vec<String>,

    /// Go on when the model says that the text has ended
    #[arg(long)]
    pub ignore_eos: bool,

    #[allow(missing_docs)] // As above.
    #[command(flatten)]
    pub constraint: ConstraintArgs,
}

/// llama.cpp's flags of several letters behind one dash, spelled so that a parser of short flags reads them.
pub fn spelled_out(arg: OsString) -> OsString {
    match arg.to_str() {
        Some("-ctk") => "--ctk".into(),
        Some("-ctv") => "--ctv".into(),
        Some("-sys") => "--system-prompt".into(),
        _ => arg,
    }
}

/// Reads a size in bytes: `4096`, `200M`, `1.5G`; K, M and G are powers of 1024.
///
/// # Errors
/// What a size looks like.
pub fn size(text: &str) -> Result<u64, String> {
    let wrong = || "a size is a number of bytes, or one with K, M or G: 4096, 200M, 1.5G".to_owned();
    let number = text.trim_end_matches(['B', 'b']).trim_end_matches('i');
    let (number, unit) = match number.char_indices().last() {
        Some((at, 'K' | 'k')) => (&number[..at], 1u64 << 10),
        Some((at, 'M' | 'm')) => (&number[..at], 1 << 20),
        Some((at, 'G' | 'g')) => (&number[..at], 1 << 30),
        _ => (number, 1),
    };
    if !number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Err(wrong());
    }
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(unit).ok_or_else(wrong);
    }
    let bytes = number.parse::<f64>().map_err(|_| wrong())? * unit as f64;
    if bytes < (1u64 << 53) as f64 { Ok(bytes as u64) } else { Err(wrong()) }
}

/// The parser of `--outtype`: the types that an import can write.
pub fn weight_type() -> impl TypedValueParser<Value = Type> {
    named(["f32", "f16", "bf16", "q8_0"])
}

fn fallback_type() -> impl TypedValueParser<Value = Type> {
    named(["f32", "f16", "bf16"])
}

fn named<const N: usize>(names: [&'static str; N]) -> impl TypedValueParser<Value = Type> {
    PossibleValuesParser::new(names).try_map(|name| Type::from_name(&name).ok_or("no such type"))
}

fn cache_type() -> impl TypedValueParser<Value = CacheType> {
    PossibleValuesParser::new(["f32", "f16", "q8_0", "q4_0"])
        .try_map(|name| CacheType::from_name(&name).ok_or("no such type"))
}

/// Reads a whole number of at least 1.
///
/// # Errors
/// What is needed.
pub fn positive(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&n| n > 0).ok_or_else(|| "a whole number of at least 1 is needed".to_owned())
}

/// Reads a number of threads.
///
/// # Errors
/// What is needed.
pub fn thread_count(text: &str) -> Result<usize, String> {
    positive(text).ok().filter(|&n| n <= 1024).ok_or_else(|| "a number from 1 to 1024 is needed".to_owned())
}

fn number(text: &str, allowed: impl Fn(f32) -> bool, wrong: &str) -> Result<f32, String> {
    text.parse().ok().filter(|&x: &f32| x.is_finite() && allowed(x)).ok_or_else(|| wrong.to_owned())
}

fn finite(text: &str) -> Result<f32, String> {
    number(text, |_| true, "a number is needed")
}

fn not_negative(text: &str) -> Result<f32, String> {
    number(text, |x| x >= 0.0, "a number of at least 0 is needed")
}

/// Reads a number above 0.
///
/// # Errors
/// What is wrong with it.
pub fn factor(text: &str) -> Result<f32, String> {
    number(text, |x| x > 0.0, "a number above 0 is needed")
}

fn fraction(text: &str) -> Result<f32, String> {
    number(text, |x| (0.0..=1.0).contains(&x), "a number from 0 to 1 is needed")
}

fn not_empty(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("an empty text would stop at once".to_owned()) } else { Ok(text.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(size("32M"), Ok(32 << 20));
        assert_eq!(size("32MiB"), Ok(32 << 20));
        assert_eq!(size("1.5g"), Ok(3 << 29));
        assert_eq!(size("200K"), Ok(200 << 10));
    }

    #[test]
    fn what_is_not_a_size_is_refused() {
        for text in ["", "M", "-1", "1T", "inf", "nan", "1e3", "99999999999999999999G", "1.2.3", "20000000000G"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn flags_of_several_letters_are_spelled_out() {
        assert_eq!(spelled_out("-ctk".into()), "--ctk");
        assert_eq!(spelled_out("-c".into()), "-c");
    }
}
