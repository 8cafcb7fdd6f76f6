//! `smidgen tokenize`: the ids of a text.

use crate::args::ModelArgs;
use crate::failure::{Failure, Status};
use crate::prompt::{self, PromptArgs};
use crate::report;
use crate::source::Source;
use clap::Args;
use serde::Serialize;
use smidgen_core::tokenizer::{Encode, Tokenizer};
use std::io::Write;

#[derive(Args, Debug)]
pub(super) struct Flags {
    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    prompt: PromptArgs,

    /// Leave out the BOS and EOS that the model asks for
    #[arg(long)]
    no_bos: bool,

    /// Read the names of special tokens as plain text
    #[arg(long)]
    no_parse_special: bool,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// `smidgen.tokenize/1`, described in `docs/json.md`.
#[derive(Serialize)]
struct Report<'a> {
    schema: &'static str,
    model: &'a str,
    n_tokens: usize,
    ids: &'a [u32],
    pieces: Vec<String>,
}

pub(super) fn run(flags: &Flags, stdout: &mut dyn Write) -> Result<Status, Failure> {
    let source = Source::open(&flags.model)?;
    let gguf = source.gguf()?;
    let mut index = vec![0; Tokenizer::arena_bytes(&gguf).map_err(|error| source.refused(error))?];
    let tokenizer = Tokenizer::new(&gguf, &mut index).map_err(|error| source.refused(error))?;
    let text = flags.prompt.read()?;
    let options = Encode { add_special: !flags.no_bos, parse_special: !flags.no_parse_special };
    let ids = prompt::encode(&tokenizer, &text, options).map_err(|error| source.refused(error))?;
    if flags.json {
        let piece = |id: &u32| String::from_utf8_lossy(tokenizer.piece(*id).unwrap_or_default()).into_owned();
        let report = Report {
            schema: "smidgen.tokenize/1",
            model: &source.name,
            n_tokens: ids.len(),
            ids: &ids,
            pieces: ids.iter().map(piece).collect(),
        };
        report::json(stdout, &report)?;
    } else {
        let words: Vec<String> = ids.iter().map(u32::to_string).collect();
        report::write(stdout, format!("{}\n", words.join(" ")).as_bytes())?;
    }
    Ok(Status::Done)
}
