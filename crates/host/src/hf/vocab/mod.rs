//! The vocabulary of a Hugging Face model as the `tokenizer.ggml.*` metadata of llama.cpp.

mod pre;
pub mod sentencepiece;
mod special;
pub mod tokenizer_json;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::config::Object;
use crate::error::{Error, Flaw};
use crate::gguf_write::Header;
use crate::image::read_small;
use special::Special;

/// The largest files known have 33 MB.
const LIMIT_BYTES: u64 = 256 << 20;

/// How text becomes tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Merges over bytes written as characters; `gpt2` in GGUF.
    ByteLevel,
    /// The neighbours with the best score are joined first; `llama` in GGUF.
    SentencePiece,
    /// The cut with the best sum of scores; `t5` in GGUF.
    Unigram,
}

/// What a token is, with ggml's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenKind {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

/// One token.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    id: u32,
    text: Vec<u8>,
    score: f32,
    kind: TokenKind,
}

impl Token {
    fn new(id: u32, text: &str, kind: TokenKind) -> Self {
        Token { id, text: text.as_bytes().to_vec(), score: 0.0, kind }
    }
}

/// Tokens and how text is cut into them, from `tokenizer.json` or `tokenizer.model`.
#[derive(Clone, Debug)]
pub struct Pieces {
    kind: Kind,
    /// llama.cpp's name of the pre-tokenizer.
    pre: &'static str,
    /// In the order of their numbers, which may have gaps, once [`Pieces::finish`] has run.
    tokens: Vec<Token>,
    /// Tokens that were added to the vocabulary, until [`Pieces::finish`] merges them in.
    added: Vec<Token>,
    merges: Vec<String>,
    adds_space_prefix: bool,
    removes_extra_spaces: bool,
    charsmap: Vec<u8>,
    /// The special token before every text, when the file says so.
    before: Option<String>,
    /// The special token after every text, when the file says so.
    after: Option<String>,
    /// Numbers of special tokens that the vocabulary itself gives: unknown, begin, end, padding.
    ids: [Option<u32>; 4],
}

impl Pieces {
    fn new(kind: Kind) -> Self {
        Pieces {
            kind,
            pre: "default",
            tokens: Vec::new(),
            added: Vec::new(),
            merges: Vec::new(),
            adds_space_prefix: false,
            removes_extra_spaces: false,
            charsmap: Vec::new(),
            before: None,
            after: None,
            ids: [None; 4],
        }
    }

    /// The number of tokens.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there are none, which no parser here returns.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The number of the token `text`.
    fn find(&self, text: &str) -> Option<u32> {
        self.tokens.iter().find(|token| token.text == text.as_bytes()).map(|token| token.id)
    }

    /// Sorts the tokens and lets the added ones take their places.
    fn finish(mut self) -> Result<Self, Flaw> {
        self.tokens.sort_by_key(|token| token.id);
        let repeated = self.tokens.windows(2).find(|pair| pair[0].id == pair[1].id);
        if let Some([one, other]) = repeated.and_then(|pair| pair.as_array::<2>()) {
            let [one_text, other_text] = [one, other].map(|token| String::from_utf8_lossy(&token.text));
            return Err(Flaw::new(format!("tokens '{one_text}' and '{other_text}' both have number {}", one.id)));
        }
        let places: HashMap<u32, usize> = self.tokens.iter().enumerate().map(|(at, token)| (token.id, at)).collect();
        for mut added in std::mem::take(&mut self.added) {
            self.adapt(&mut added);
            match places.get(&added.id) {
                Some(&at) => self.tokens[at].become_added(added),
                None => self.tokens.push(added),
            }
        }
        self.tokens.sort_by_key(|token| token.id);
        self.tokens.dedup_by_key(|token| token.id);
        if self.tokens.is_empty() {
            return Err(Flaw::new("the vocabulary is empty"));
        }
        Ok(self)
    }

    /// Makes of an added token what llama.cpp does: what looks special is, and spaces of a SentencePiece vocabulary are spaces.
    fn adapt(&self, added: &mut Token) {
        let looks_special = |text: &str| {
            let between = |start: &str, end: &str| text.starts_with(start) && text.ends_with(end);
            let named = ["<pad>", "<mask>", "<2mass>", "[@BOS@]"].contains(&text);
            named || between("<|", "|>") || between("<\u{ff5c}", "\u{ff5c}>") || between("<unused", ">")
        };
        let text = String::from_utf8_lossy(&added.text).into_owned();
        if added.kind == TokenKind::UserDefined && looks_special(&text) {
            added.kind = TokenKind::Control;
        }
        if added.kind == TokenKind::UserDefined && self.kind != Kind::ByteLevel {
            added.text = text.replace('\u{2581}', " ").into_bytes();
        }
    }
}

impl Token {
    /// Takes what an added token of the same number says; what the vocabulary knows better stays.
    fn become_added(&mut self, added: Token) {
        let is_same = self.text == added.text;
        if is_same && matches!(self.kind, TokenKind::Unknown | TokenKind::Byte) {
            return;
        }
        let score = if is_same { self.score } else { added.score };
        *self = Token { score, ..added };
    }
}

/// A model's vocabulary, padded to the rows of its embedding.
pub(super) struct Vocab {
    pieces: Pieces,
    special: Special,
    n_vocab: u32,
    files: Vec<PathBuf>,
}

impl Vocab {
    /// Reads the tokenizer in `directory` for a model with `n_vocab` rows in its embedding.
    pub(super) fn read(directory: &Path, config: &Object, n_vocab: u32) -> Result<Self, Error> {
        let [json, model] = ["tokenizer.json", "tokenizer.model"].map(|name| directory.join(name));
        let settings_path = directory.join("tokenizer_config.json");
        let settings = Object::read_if_there(&settings_path)?;
        let mut files = Vec::new();
        let mut pieces = None;
        if json.exists() {
            let from_model = if model.exists() { Some(read_pieces(&model, sentencepiece::parse)?) } else { None };
            let read = if from_model.is_some() { tokenizer_json::parse_beside_model } else { tokenizer_json::parse };
            pieces = Some(match (read_pieces(&json, read)?, from_model) {
                (from_json, Some(from_model)) if from_json.kind != Kind::ByteLevel => {
                    files.push(model);
                    from_model.with_added_of(from_json).map_err(|flaw| flaw.in_file(&json))?
                }
                (from_json, _) => from_json,
            });
            files.push(json);
        } else if model.exists() {
            let mut from_model = read_pieces(&model, sentencepiece::parse)?;
            special::read_added(directory, settings.as_ref(), &mut from_model)?;
            pieces = Some(from_model.finish().map_err(|flaw| flaw.in_file(&model))?);
            files.push(model);
        }
        let missing = || Error::bad(directory, "has neither tokenizer.json nor tokenizer.model");
        let pieces = pieces.ok_or_else(missing)?;
        if let Some(last) = pieces.tokens.last().filter(|last| last.id >= n_vocab) {
            let text = String::from_utf8_lossy(&last.text).into_owned();
            let message = format!("token '{text}' has number {}, but config.json says vocab_size {n_vocab}", last.id);
            return Err(Error::bad(&files[0], message));
        }
        let special = special::read(directory, config, settings.as_ref(), &pieces, n_vocab)?;
        if settings.is_some() {
            files.push(settings_path);
        }
        Ok(Vocab { pieces, special, n_vocab, files })
    }

    /// The files that were read.
    pub(super) fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Writes the vocabulary as metadata; numbers that no token has become unused tokens, as in llama.cpp.
    pub(super) fn write(&self, header: &mut Header) {
        let pieces = &self.pieces;
        let (model, has_scores) = match pieces.kind {
            Kind::ByteLevel => (&b"gpt2"[..], false),
            Kind::SentencePiece => (&b"llama"[..], true),
            Kind::Unigram => (&b"t5"[..], true),
        };
        let mut tokens = Vec::with_capacity(self.n_vocab as usize);
        let mut found = pieces.tokens.iter().peekable();
        for id in 0..self.n_vocab {
            let token = found.next_if(|token| token.id == id).cloned();
            tokens.push(token.unwrap_or_else(|| Token::new(id, &format!("[PAD{id}]"), TokenKind::Unused)));
        }
        let texts: Vec<&[u8]> = tokens.iter().map(|token| token.text.as_slice()).collect();
        header.str("tokenizer.ggml.model", model);
        header.str("tokenizer.ggml.pre", pieces.pre.as_bytes());
        header.strs("tokenizer.ggml.tokens", &texts);
        if has_scores {
            header.f32s("tokenizer.ggml.scores", &tokens.iter().map(|token| token.score).collect::<Vec<_>>());
        }
        header.i32s("tokenizer.ggml.token_type", &tokens.iter().map(|token| token.kind as i32).collect::<Vec<_>>());
        if pieces.kind == Kind::ByteLevel {
            header.strs("tokenizer.ggml.merges", &pieces.merges);
        } else {
            header.bool("tokenizer.ggml.add_space_prefix", pieces.adds_space_prefix);
            header.bool("tokenizer.ggml.remove_extra_whitespaces", pieces.removes_extra_spaces);
        }
        if !pieces.charsmap.is_empty() {
            header.u8s("tokenizer.ggml.precompiled_charsmap", &pieces.charsmap);
        }
        self.special.write(header);
    }
}

fn read_pieces(path: &Path, parse: fn(&[u8]) -> Result<Pieces, Flaw>) -> Result<Pieces, Error> {
    let bytes = read_small(path, LIMIT_BYTES)?;
    parse(&bytes).map_err(|flaw| flaw.in_file(path))
}

/// Whether `piece` stands for one byte, as in `<0x0A>`.
pub(crate) fn is_byte_piece(piece: &[u8]) -> bool {
    match piece {
        [b'<', b'0', b'x', high, low, b'>'] => high.is_ascii_hexdigit() && low.is_ascii_hexdigit(),
        _ => false,
    }
}
