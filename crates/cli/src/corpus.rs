//! A text that a model is judged or calibrated by: read, tokenized once, and cut into chunks.

use crate::args::{EngineArgs, positive};
use crate::budget::{Budget, Line, check_ram};
use crate::failure::Failure;
use crate::load::Source;
use crate::prompt;
use clap::Args;
use smidgen_compress::chunks::{self, Chunks};
use smidgen_core::tokenizer::{Encode, Tokenizer};
use std::path::PathBuf;

/// The length of a chunk when `-c` does not say and the model allows it: llama.cpp's.
const DEFAULT_CONTEXT: usize = 512;

/// The flags that give a text.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Text")]
pub struct CorpusArgs {
    /// File of text, which the model reads in chunks of the context; - is the standard input
    #[arg(short = 'f', long = "file", value_name = "TEXT")]
    pub file: PathBuf,

    /// Read only the first N chunks
    #[arg(long, value_name = "N", value_parser = positive)]
    pub chunks: Option<usize>,
}

/// The tokens of a text, and how a model wants to read them.
#[derive(Debug)]
pub struct Corpus {
    tokens: Vec<u32>,
    bos: Option<u32>,
    context_tokens: usize,
    limit: Option<usize>,
    name: String,
    reading_bytes: u64,
}

impl Corpus {
    /// Reads and tokenizes the text for the model in `source`.
    ///
    /// # Errors
    /// A text that cannot be read or is too short, a model without a tokenizer, a context longer than the model's, or more
    /// memory than `--ram`.
    pub fn read(args: &CorpusArgs, source: &Source, engine: &EngineArgs) -> Result<Self, Failure> {
        let context_tokens = context_tokens(source, engine)?;
        let mut text = prompt::read_file(&args.file)?;
        // As llama.cpp reads a file.
        prompt::trim(&mut text);
        let gguf = source.gguf()?;
        let index_bytes = Tokenizer::arena_bytes(&gguf).map_err(|error| source.refused(error))?;
        let mut index = vec![0; index_bytes];
        let tokenizer = Tokenizer::new(&gguf, &mut index).map_err(|error| source.refused(error))?;
        let line = |name: &str, bytes: usize| Line { name: name.to_owned(), bytes: bytes as u64 };
        let mut lines = source.lines();
        lines.extend([
            line("tokenizer index", index_bytes),
            line("text", text.len()),
            line("tokenizer scratch", tokenizer.scratch_bytes(text.len())),
            line("token ids of the text", tokenizer.max_tokens(text.len()) * size_of::<u32>()),
        ]);
        let budget = Budget::of_lines(lines);
        check_ram(engine.ram, &budget)?;
        // Names of special tokens in a text are text, as in llama-perplexity.
        let options = Encode { add_special: true, parse_special: false };
        let mut tokens = prompt::encode(&tokenizer, &text, options).map_err(|error| source.refused(error))?;
        if tokenizer.adds_eos() {
            tokens.pop();
        }
        tokens.shrink_to_fit();
        let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
        let name = args.file.display().to_string();
        let reading_bytes = budget.total();
        let corpus = Self { tokens, bos, context_tokens, limit: args.chunks, name, reading_bytes };
        corpus.chunks()?;
        Ok(corpus)
    }

    /// The text in chunks.
    ///
    /// # Errors
    /// A text that is too short, and how long it would have to be.
    pub fn chunks(&self) -> Result<Chunks<'_>, Failure> {
        Chunks::new(&self.tokens, self.context_tokens, self.bos, self.limit).map_err(|error| {
            Failure::Input(match error {
                chunks::Error::Short(..) => format!("{}: {error}; give a longer text or a smaller -c", self.name),
                chunks::Error::Context(_) => format!("-c: {error}"),
            })
        })
    }

    /// The name of the text's file, as it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Tokens of a chunk.
    pub fn context_tokens(&self) -> usize {
        self.context_tokens
    }

    /// Bytes that were planned for while the text was tokenized, which nothing holds any more.
    pub fn reading_bytes(&self) -> u64 {
        self.reading_bytes
    }

    /// Bytes that the tokens take.
    pub fn n_bytes(&self) -> usize {
        self.tokens.capacity() * size_of::<u32>()
    }
}

/// The length of a chunk: `-c`, where 0 is all that the model knows, or the default.
fn context_tokens(source: &Source, engine: &EngineArgs) -> Result<usize, Failure> {
    let (trained, _) = source.context_and_vocabulary()?;
    match engine.context {
        None => Ok(trained.min(DEFAULT_CONTEXT)),
        Some(0) => Ok(trained),
        Some(n) if n > trained => {
            let message = format!("-c {n} is more than the {trained} positions that the model was trained with");
            Err(source.refused(message))
        }
        Some(n) => Ok(n),
    }
}
