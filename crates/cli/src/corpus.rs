//! A text that a model is judged or calibrated by: read, tokenized once, and cut into chunks.

use crate::args::{EngineArgs, positive};
use crate::budget::{Budget, Line, Work, check_ram};
use crate::failure::Failure;
use crate::prompt;
use crate::source::Source;
use clap::Args;
use smidgen_compress::chunks::{self, Chunks};
use smidgen_core::tokenizer::{self, Encode, Tokenizer};
use std::path::PathBuf;

/// The length of a chunk when `-c` does not say and the model allows it: llama.cpp's.
const DEFAULT_CONTEXT: usize = 512;

/// Room for the words of a text, for a tokenizer that takes one after the other.
const WORDS_BYTES: usize = 64 << 10;

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
        // What opens a model is not needed to read a text.
        smidgen_host::pages::release_program();
        let mut text = prompt::read_file(&args.file)?;
        // As llama.cpp reads a file.
        prompt::trim(&mut text);
        let gguf = source.gguf()?;
        let index_bytes = Tokenizer::arena_bytes(&gguf).map_err(|error| source.refused(error))?;
        let mut index = vec![0; index_bytes];
        let tokenizer = Tokenizer::new(&gguf, &mut index).map_err(|error| source.refused(error))?;
        let budget = |scratch_bytes: usize, n_ids: usize| {
            let line = |name: &str, bytes: usize| Line { name: name.to_owned(), bytes: bytes as u64 };
            let mut lines = source.lines_of_header(&gguf);
            lines.extend([
                line("tokenizer index", index_bytes),
                line("text", text.len()),
                line("tokenizer scratch", scratch_bytes),
                line("token ids of the text", n_ids * size_of::<u32>()),
            ]);
            Budget::of_lines(lines, Work::Read)
        };
        let check = |scratch_bytes, n_ids| check_ram(engine.ram, &budget(scratch_bytes, n_ids));
        let (mut tokens, scratch_bytes) =
            encode(&tokenizer, &text, &check)?.map_err(|error: tokenizer::Error| source.refused(error))?;
        let reading_bytes = budget(scratch_bytes, tokens.len()).total();
        if tokenizer.adds_eos() {
            tokens.pop();
        }
        tokens.shrink_to_fit();
        smidgen_host::pages::release_program();
        let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
        let name = args.file.display().to_string();
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

    /// Bytes that there were while the text was tokenized, which nothing holds any more.
    pub fn reading_bytes(&self) -> u64 {
        self.reading_bytes
    }

    /// Bytes that the tokens take.
    pub fn n_bytes(&self) -> usize {
        self.tokens.capacity() * size_of::<u32>()
    }
}

/// The ids of `text`, and how many bytes that took beside them. Begins with room for words and for tokens of two bytes, and makes more
/// only when that is not enough and `check` has nothing against so many bytes and ids: most tokenizers never need what they could.
fn encode(
    tokenizer: &Tokenizer<'_>,
    text: &str,
    check: &dyn Fn(usize, usize) -> Result<(), Failure>,
) -> Result<Result<(Vec<u32>, usize), tokenizer::Error>, Failure> {
    // Names of special tokens in a text are text, as in llama-perplexity.
    let options = Encode { add_special: true, parse_special: false };
    let most = tokenizer.max_tokens(text.len());
    let (mut scratch_bytes, mut n_ids) =
        (tokenizer.scratch_bytes(text.len()).min(WORDS_BYTES), most.min(text.len() / 2 + 2));
    loop {
        check(scratch_bytes, n_ids)?;
        let (mut scratch, mut ids) = (vec![0; scratch_bytes], vec![0; n_ids]);
        match tokenizer.encode(text, options, &mut scratch, &mut ids) {
            Ok(n) => {
                ids.truncate(n);
                return Ok(Ok((ids, touched_bytes(&scratch))));
            }
            Err(tokenizer::Error::Scratch(need, _)) if need > scratch_bytes => scratch_bytes = need,
            Err(tokenizer::Error::OutOfRoom(..)) if n_ids < most => n_ids = most.min(2 * n_ids),
            Err(error) => return Ok(Err(error)),
        }
    }
}

/// Of `room`, which was all zeros, the bytes of the pages that something was written to.
fn touched_bytes(room: &[u8]) -> usize {
    const PAGE_BYTES: usize = 4096;
    room.chunks(PAGE_BYTES).filter(|page| page.iter().any(|&byte| byte != 0)).map(<[u8]>::len).sum()
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
