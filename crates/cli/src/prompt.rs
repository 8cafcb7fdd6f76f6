//! Where a prompt comes from: a flag, a file, the standard input, or token ids.

use crate::failure::Failure;
use clap::Args;
use smidgen_core::tokenizer::{self, Encode, Tokenizer};
use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};

/// Prompts longer than this are refused before they are read whole.
const MAX_BYTES: u64 = 1 << 30;

/// The flags that give a text.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Prompt")]
pub struct PromptArgs {
    /// Text, taken as it stands
    #[arg(short = 'p', long = "prompt", value_name = "TEXT", allow_hyphen_values = true)]
    text: Option<String>,

    /// File of text; - is the standard input, which is also read when neither is given and it is not a terminal
    #[arg(short = 'f', long = "file", value_name = "FILE", conflicts_with = "text")]
    file: Option<PathBuf>,
}

impl PromptArgs {
    /// The text as it stands; empty when none is given.
    ///
    /// # Errors
    /// A file that cannot be read or is not UTF-8.
    pub fn read(&self) -> Result<String, Failure> {
        match (&self.text, &self.file) {
            (Some(text), _) => Ok(text.clone()),
            (None, Some(path)) => read_file(path),
            (None, None) if std::io::stdin().is_terminal() => Ok(String::new()),
            (None, None) => read_file(Path::new("-")),
        }
    }

    /// The text without the newline that ends the last line of a file, which nobody means as part of a prompt.
    ///
    /// # Errors
    /// As [`PromptArgs::read`].
    pub fn read_trimmed(&self) -> Result<String, Failure> {
        let mut text = self.read()?;
        if self.text.is_none() {
            trim(&mut text);
        }
        Ok(text)
    }
}

/// Takes away the newline that ends the last line of a file.
pub fn trim(text: &mut String) {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
}

/// The text of the file `path`, or of the standard input when that is `-`.
///
/// # Errors
/// A file that cannot be read or is not UTF-8.
pub fn read_file(path: &Path) -> Result<String, Failure> {
    if path.as_os_str() == "-" {
        return read_text(std::io::stdin(), Path::new("standard input"));
    }
    let unreadable = |error| Failure::reading(path, &error);
    let file = File::open(path).map_err(unreadable)?;
    if file.metadata().map_err(unreadable)?.is_dir() {
        return Err(Failure::Input(format!("{}: is a directory, not a file", path.display())));
    }
    read_text(file, path)
}

fn read_text(from: impl Read, path: &Path) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    from.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|error| Failure::reading(path, &error))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Failure::Input(format!("{}: longer than the 1 GiB that a prompt may have", path.display())));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Failure::Input(format!("{}: not valid UTF-8 at byte {at}; save the text as UTF-8", path.display()))
    })
}

/// Reads token ids separated by spaces or commas, each below `n_tokens`.
///
/// # Errors
/// The first id that is not a number or not in the vocabulary.
pub fn parse_ids(text: &str, n_tokens: usize) -> Result<Vec<u32>, Failure> {
    let parse = |word: &str| match word.parse::<u32>() {
        Ok(id) if (id as usize) < n_tokens => Ok(id),
        Ok(id) => Err(Failure::Input(format!("--ids: {id} is not in the vocabulary of {n_tokens} tokens"))),
        Err(_) => Err(Failure::Input(format!("--ids: '{}' is not a token id", word.escape_default()))),
    };
    text.split([' ', ',', '\n', '\t']).filter(|word| !word.is_empty()).map(parse).collect()
}

/// The ids of `text`.
///
/// # Errors
/// What the vocabulary cannot write.
pub fn encode(tokenizer: &Tokenizer<'_>, text: &str, options: Encode) -> Result<Vec<u32>, tokenizer::Error> {
    let mut scratch = vec![0; tokenizer.scratch_bytes(text.len())];
    let mut ids = vec![0; tokenizer.max_tokens(text.len())];
    loop {
        match tokenizer.encode(text, options, &mut scratch, &mut ids) {
            Ok(n_ids) => {
                ids.truncate(n_ids);
                return Ok(ids);
            }
            // A vocabulary with a map of characters may make a text longer than was foreseen, and says by how much.
            Err(tokenizer::Error::Scratch(need, _)) if need > scratch.len() => scratch.resize(need, 0),
            Err(error) => return Err(error),
        }
    }
}

/// The text of `ids`.
pub fn decode(tokenizer: &Tokenizer<'_>, ids: &[u32]) -> String {
    let mut piece = vec![0; tokenizer.max_piece_bytes()];
    let mut text = Vec::new();
    let mut decoder = tokenizer.decoder();
    for &id in ids {
        let n_bytes = decoder.push(id, &mut piece);
        text.extend_from_slice(&piece[..n_bytes]);
    }
    let n_bytes = decoder.finish(&mut piece);
    text.extend_from_slice(&piece[..n_bytes]);
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_utf8_is_named_by_its_offset() {
        let failure = read_text(&b"good \xff bad"[..], Path::new("p.txt")).unwrap_err();
        assert_eq!(failure.to_string(), "p.txt: not valid UTF-8 at byte 5; save the text as UTF-8");
        assert_eq!(failure.code(), 2);
    }

    #[test]
    fn ids_are_checked_against_the_vocabulary() {
        assert_eq!(parse_ids("1 22, 7", 23).unwrap(), [1, 22, 7]);
        assert!(parse_ids("", 23).unwrap().is_empty());
        assert!(parse_ids("1 23", 23).is_err());
        assert!(parse_ids("-1", 23).is_err());
        assert!(parse_ids("1\u{1b}[2J", 23).unwrap_err().to_string().is_ascii());
    }
}
