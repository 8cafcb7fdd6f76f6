//! `smidgen export c`: one file of C89 that holds the engine for one model, and its weights beside it. No allocation, no C library
//! beyond `limits.h`, every buffer of the size that the plan gives it; the same bits as the engine's.

mod data;
mod formats;
mod sections;

use super::{file_name, limits, make_folder, types, write};
use crate::args::{EngineArgs, ModelArgs};
use crate::failure::{Failure, Status};
use crate::report::{self, count};
use crate::source::Source;
use clap::Args;
use data::{Data, Text};
use sections::Sections;
use smidgen_core::gguf::Gguf;
use smidgen_core::kv::CacheType;
use smidgen_core::model::{FeedForward, Layer, Model, Positions};
use smidgen_core::ops::norm::NormKind;
use smidgen_core::ops::rope::Layout;
use smidgen_core::plan::{Limits, Plan};
use smidgen_core::quant::Type;
use smidgen_core::tokenizer::{Encode, Tokenizer};
use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;

#[derive(Args, Debug)]
#[allow(missing_docs)] // A doc comment here would become the help text of the whole command.
pub struct Flags {
    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    engine: EngineArgs,

    /// The folder that model.c, model_data.c and model.bin are written to
    #[arg(short = 'o', long, value_name = "DIR")]
    output: PathBuf,

    /// The prompt that is used when the program is given none
    #[arg(short = 'p', long, value_name = "TEXT", default_value = "Once upon a time")]
    prompt: String,

    /// The same prompt as token ids: "1 22 7"
    #[arg(long, value_name = "IDS", conflicts_with = "prompt")]
    ids: Option<String>,

    /// The most tokens that are added to a prompt [default: as many as the context has room for]
    #[arg(short = 'n', long, value_name = "N")]
    n_predict: Option<usize>,
}

/// Statics of the program that no plan knows, at most: where it is in the context, and the hash of the logits.
const STATE_BYTES: usize = 64;

/// What stands before the numbers of a model.
const HEAD: &str = " */
#include <limits.h>

/* Where data lies in an address space of its own: the qualifier of pointers to it, and the address of a byte of it. */
#ifndef SMIDGEN_FAR
#define SMIDGEN_FAR
#define SMIDGEN_AT(offset) (smidgen_data + (offset))
#endif

#ifdef SMIDGEN_DATA_POINTER
const SMIDGEN_FAR unsigned char *smidgen_data;
#else
extern const SMIDGEN_FAR unsigned char smidgen_data[];
#endif

int smidgen_forward(unsigned long token);
void smidgen_restart(void);
unsigned long smidgen_likeliest(void);
const SMIDGEN_FAR unsigned char *smidgen_text(unsigned long token, int *length);
int smidgen_is_end(unsigned long token);
int smidgen_encode(const char *text, unsigned long *out, int room);
int smidgen_tell(const unsigned long *ids, int n_prompt, int n_new, void (*put)(const SMIDGEN_FAR char *, int));

";

/// Writes the sources.
pub(crate) fn run(flags: &Flags, stdout: &mut dyn Write) -> Result<Status, Failure> {
    let source = Source::open(&flags.model)?;
    let gguf = source.gguf()?;
    let mut layers = vec![Layer::EMPTY; Model::n_layers(&gguf).map_err(|error| source.refused(error))?];
    let model = Model::new(&gguf, &mut layers).map_err(|error| source.refused(error))?;
    let limits = Limits { keeps_all: true, ..limits(&flags.engine) };
    let plan = Plan::new(&model, &limits).map_err(|error| source.refused(error))?;
    if let Some(ram) = flags.engine.ram.filter(|&ram| plan.arena_bytes() as u64 > ram) {
        let needed = report::bytes(plan.arena_bytes() as u64);
        return Err(Failure::Budget(format!("the buffers take {needed}, more than --ram {}", report::bytes(ram))));
    }
    let mut index = vec![0; Tokenizer::arena_bytes(&gguf).map_err(|error| source.refused(error))?];
    let tokenizer = Tokenizer::new(&gguf, &mut index).map_err(|error| source.refused(error))?;
    let prompt = match (&flags.ids, tokenizer.n_tokens()) {
        (Some(ids), _) => crate::prompt::parse_ids(ids, model.hparams().n_vocab)?,
        (None, 0) => return Err(source.refused("has no tokenizer; --ids gives the prompt as token ids")),
        (None, _) => {
            let options = Encode { add_special: true, parse_special: false };
            crate::prompt::encode(&tokenizer, &flags.prompt, options).map_err(|error| source.refused(error))?
        }
    };
    if prompt.is_empty() {
        return Err(Failure::Input("the prompt has no tokens; C has no array without elements".into()));
    }
    let n_new = flags.n_predict.unwrap_or(limits.context_tokens);
    let export =
        Export { source: &source, gguf: &gguf, model: &model, plan: &plan, tokenizer: &tokenizer, prompt, n_new };
    let (text, data) = export.source()?;
    make_folder(&flags.output)?;
    write(&flags.output.join("model.c"), text.as_bytes())?;
    write(&flags.output.join("model.bin"), &data.bytes)?;
    write(&flags.output.join("model_data.c"), array(&data.bytes).as_bytes())?;
    let line = format!(
        "{}: model.c, model_data.c and model.bin; {} bytes of data, {} bytes of buffers\n",
        flags.output.display(),
        count(data.bytes.len() as u64),
        count(plan.arena_bytes() as u64),
    );
    report::write(stdout, line.as_bytes())?;
    Ok(Status::Done)
}

/// The data as an array of C.
fn array(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 4 + 200);
    out += "/* Written by smidgen export c: the data of model.c. */\n\nextern const unsigned char smidgen_data[];\n\n";
    let _ = write!(out, "const unsigned char smidgen_data[{}] = {{", bytes.len());
    out += &formats::list(bytes.iter().map(|byte| i64::from(*byte)), 32);
    out + "\n};\n"
}

/// A model that becomes C.
struct Export<'a> {
    source: &'a Source,
    gguf: &'a Gguf<'a>,
    model: &'a Model<'a>,
    plan: &'a Plan,
    tokenizer: &'a Tokenizer<'a>,
    prompt: Vec<u32>,
    n_new: usize,
}

impl Export<'_> {
    /// The source, and the data that it reads.
    fn source(&self) -> Result<(String, Data), Failure> {
        let mut data = Data::new();
        let weights = data.weights(self.model);
        let text = data::text(&mut data, self.source, self.gguf, self.tokenizer)?;
        let mut kinds = types(self.gguf);
        kinds.retain(|kind| data.read.contains(kind) || data.multiplied.contains(kind));
        if let Some(kind) = kinds.iter().find(|kind| !formats::is_known(**kind)) {
            return Err(self.source.refused(format!("{} is a type that C is not written for", kind.name())));
        }
        let sections = Sections::new();
        let is_integer = data.multiplied.iter().any(|kind| kind.is_integer());
        let mut out = self.header(&text);
        out += &self.numbers(&text, data.multiplied.contains(&Type::Q8_W));
        out += sections.get("base");
        let limits = self.plan.limits();
        let caches = [limits.cache_k, limits.cache_v];
        let is_small = |cache: &CacheType| *cache != CacheType::F32;
        let is_rounded = |cache: &CacheType| matches!(cache, CacheType::Q8_0 | CacheType::Q4_0);
        let has_halves = formats::need(&kinds, "half") || caches.iter().any(is_small);
        for (name, is_needed) in [
            ("half_at", has_halves || kinds.contains(&Type::BF16)),
            ("rounded", is_integer || caches.iter().any(is_rounded)),
            ("half", has_halves),
            ("to_half", caches.iter().any(is_small)),
        ] {
            if is_needed {
                out += sections.get(name);
            }
        }
        match is_integer {
            true => {
                out += sections.get("integer");
                out += "\n#define QUANTIZE(x, n) quantize(x, n)\n\n";
            }
            false => out += "\n#define QUANTIZE(x, n) ((void)0)\n\n",
        }
        out += &formats::numbers(&kinds);
        out += &formats::source(&sections, &kinds, &data.read, &data.multiplied);
        for (name, cache) in [("K", limits.cache_k), ("V", limits.cache_v)] {
            out += &sections.get(&format!("cache_{}", cache.name())).replace("@KV@", name);
        }
        let tables = weights + &self.frequencies();
        let engine = sections.get("engine").replace("@TABLES@", &tables).replace("@STATICS@", &self.caches()?);
        let engine = engine.replace("@ROW_CASES@", &formats::cases(&data.read, false));
        out += &engine.replace("@DOT_CASES@", &formats::cases(&data.multiplied, true));
        if self.model.ropes().is_some() {
            out += sections.get("rope");
        }
        if limits.cache_k == CacheType::Q4_0 {
            out += sections.get("spread");
        }
        out += sections.get("layers");
        out += &self.lists(&text);
        let texts: &[&str] = if self.tokenizer.n_tokens() > 0 { &["text"] } else { &[] };
        for name in texts.iter().chain(text.sections).chain(&["story", "main"]) {
            out += sections.get(name);
        }
        Ok((out, data))
    }

    fn header(&self, text: &Text) -> String {
        let mut out = format!(
            "/*\n * {} as C89, written by smidgen export c.\n *\n * Compile this file and model_data.c; with -DSMIDGEN_MAIN it is a \
             program. Floats must be\n * rounded as IEEE 754 says and never fused: -std=c89 or -ffp-contract=off. Where the compiler \
             keeps\n * more bits than a float has and does not say so in __FLT_EVAL_METHOD__, add -DSMIDGEN_EXCESS.\n * With \
             -DSMIDGEN_DATA_POINTER the data is where smidgen_data points; it is the contents of model.bin.\n *\n * Buffers, as \
             planned:\n",
            file_name(self.source)
        );
        for span in self.plan.spans().iter().filter(|span| span.bytes > 0) {
            let _ = writeln!(out, " *   {:>10}  {}", span.bytes, span.name);
        }
        let _ = writeln!(out, " *   {:>10}  in all\n *\n * Statics beside the plan:", self.plan.arena_bytes());
        let encoder = if text.sections.is_empty() { 0 } else { data::ENCODER_BYTES };
        for (name, bytes) in [("text that is encoded", encoder), ("position, hash", STATE_BYTES)] {
            let _ = writeln!(out, " *   {bytes:>10}  {name}");
        }
        let _ = writeln!(out, " *   {:>10}  with the plan, at most", self.plan.arena_bytes() + encoder + STATE_BYTES);
        out + HEAD
    }

    /// The numbers of the model and of the plan.
    fn numbers(&self, text: &Text, is_fine: bool) -> String {
        let h = self.model.hparams();
        let limits = self.plan.limits();
        let family = h.family;
        let rope = self.model.ropes();
        let n_rot = rope.map_or(0, |[full, _]| full.n_rot);
        let is_split = family.positions == Positions::Rotary(Layout::Split);
        let widest = h.n_embd.max(h.query_width()).max(h.n_ff);
        let work = 2 * (h.query_width() + h.kv_width()).max(h.n_ff);
        let mut out = String::new();
        for (name, value) in [
            ("N_VOCAB", h.n_vocab),
            ("N_LAYERS", h.n_layers),
            ("N_EMBD", h.n_embd),
            ("N_HEADS", h.n_heads),
            ("N_KV_HEADS", h.n_kv_heads),
            ("HEAD_DIM", h.head_dim),
            ("QUERY", h.query_width()),
            ("KV", h.kv_width()),
            ("N_FF", h.n_ff),
            ("N_BLOCKS", widest.div_ceil(32)),
            ("FINE", usize::from(is_fine)),
            ("CONTEXT", limits.context_tokens),
            ("HIDDEN", h.n_embd),
            ("NORMED", h.n_embd),
            ("WORK", work),
            ("N_ROT", n_rot),
            ("ROPE_STEP", if is_split { 1 } else { 2 }),
            ("ROPE_GAP", if is_split { n_rot / 2 } else { 1 }),
            ("LAYER_NORM", usize::from(family.norm == NormKind::Layer)),
            ("GELU", usize::from(family.feed_forward != FeedForward::SiluGate)),
            ("GATED", usize::from(family.feed_forward != FeedForward::Gelu)),
            ("SCALED_EMBEDDINGS", usize::from(family.scaled_embeddings)),
            ("KEY_BYTES", limits.cache_k.row_bytes(h.head_dim)),
            ("VALUE_BYTES", limits.cache_v.row_bytes(h.head_dim)),
            ("SPREAD", if limits.cache_k == CacheType::Q4_0 { 1 << h.head_dim.trailing_zeros() } else { 0 }),
            ("N_NEW", self.n_new),
            ("N_ENDS", text.ends.len()),
            ("HAS_TEXT", usize::from(self.tokenizer.n_tokens() > 0)),
        ] {
            let _ = writeln!(out, "#define {name} {value}");
        }
        for (name, value) in [
            ("NORM_EPSILON", h.norm_epsilon),
            ("ATTENTION_SCALE", h.attention_scale),
            ("ROPE_MAGNITUDE", rope.map_or(1.0, |[full, _]| full.magnitude())),
        ] {
            let _ = writeln!(out, "#define {name} {:#x}UL /* {value} */", value.to_bits());
        }
        out + &text.defines + "\n"
    }

    /// Turns per position of each rotary frequency, in units of 2^-64: those of full layers, then those of windowed ones.
    fn frequencies(&self) -> String {
        let Some(ropes) = self.model.ropes() else { return String::new() };
        let mut turns = vec![0u64; ropes[0].n_rot];
        let (full, windowed) = turns.split_at_mut(ropes[0].n_rot / 2);
        ropes[0].frequencies(full);
        ropes[1].frequencies(windowed);
        let pairs: Vec<String> = turns
            .iter()
            .map(|turns| format!("    {{{:#x}UL, {:#x}UL}},\n", turns >> 32, turns & 0xffff_ffff))
            .collect();
        format!("static const u32 frequencies[N_ROT][2] = {{\n{}}};\n", pairs.concat())
    }

    /// The cache of keys and values, aligned for what it holds.
    fn caches(&self) -> Result<String, Failure> {
        let h = self.model.hparams();
        let limits = self.plan.limits();
        let mut out = String::new();
        for (name, span, kind) in [("keys", "keys", limits.cache_k), ("values", "values", limits.cache_v)] {
            let n_bytes = h.n_layers * h.n_kv_heads * limits.context_tokens * kind.row_bytes(h.head_dim);
            let planned =
                self.plan.spans().iter().find(|planned| planned.name == span).map_or(0, |planned| planned.bytes);
            if planned < n_bytes {
                return Err(Failure::Failed(format!("the plan has {planned} bytes of {span}, the program {n_bytes}")));
            }
            let _ = match kind {
                CacheType::F32 => {
                    writeln!(
                        out,
                        "static float {name}_floats[{}];\n#define {name} ((u8 *)(void *){name}_floats)",
                        n_bytes / 4
                    )
                }
                _ => writeln!(out, "static u8 {name}[{n_bytes}];"),
            };
        }
        Ok(out)
    }

    /// The tokens that end a text, and those of the prompt.
    fn lists(&self, text: &Text) -> String {
        let numbers = |ids: &[u32]| ids.iter().map(|id| format!("{id}UL")).collect::<Vec<_>>().join(", ");
        let ends = match self.tokenizer.n_tokens() {
            0 => String::new(),
            _ if text.ends.is_empty() => "\nstatic const unsigned long ends[] = {0};".to_owned(),
            _ => format!("\nstatic const unsigned long ends[] = {{{}}};", numbers(&text.ends)),
        };
        format!(
            "{ends}\nextern const unsigned long smidgen_prompt[{0}];\nconst unsigned \
             long smidgen_prompt[{0}] = {{{1}}};\n",
            self.prompt.len(),
            numbers(&self.prompt)
        )
    }
}
