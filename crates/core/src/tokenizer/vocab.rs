//! The tokens of a model: their texts, kinds and scores, and the settings that go with them, from `tokenizer.ggml.*`.

use super::Error;
use super::ends::Ends;
use super::form::Form;
use super::pre::Pre;
use super::special::Special;
use super::strings::{Hash, Strings};
use crate::gguf::{Array, Gguf, Name, Value};

pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";
pub(super) const MERGES: &str = "tokenizer.ggml.merges";
const SCORES: &str = "tokenizer.ggml.scores";
const TYPES: &str = "tokenizer.ggml.token_type";
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";
const BOS: &str = "tokenizer.ggml.bos_token_id";
const EOS: &str = "tokenizer.ggml.eos_token_id";
const UNKNOWN: &str = "tokenizer.ggml.unknown_token_id";

/// How a text becomes tokens.
#[derive(Clone, Copy, Debug)]
pub(super) enum Algorithm {
    /// SentencePiece BPE: the pair with the best score first (`llama`).
    SentencePiece,
    /// Unigram: the tokens with the best sum of scores (`t5`).
    Unigram,
    /// Byte-level BPE: the pair that comes first among the merges, in words that the pre-tokenizer cuts (`gpt2`).
    ByteLevel(&'static Pre),
    /// Not at all: the file has no tokenizer, and the model is run by token ids.
    Absent,
}

/// `tokenizer.ggml.token_type`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Byte,
}

/// The tokens and settings of one model.
#[derive(Clone, Debug)]
pub(super) struct Vocab<'a> {
    pub(super) algorithm: Algorithm,
    pub(super) tokens: Strings<'a>,
    scores: Option<Array<'a>>,
    types: Option<Array<'a>>,
    /// (256) the token of each byte
    byte_ids: &'a [[u8; 4]],
    pub(super) bos: Option<u32>,
    pub(super) eos: Option<u32>,
    pub(super) unknown: Option<u32>,
    pub(super) adds_bos: bool,
    pub(super) adds_eos: bool,
    pub(super) adds_space: bool,
    pub(super) merges_spaces: bool,
    pub(super) ends: Ends,
    pub(super) special: Special,
    /// The longest token as it is spelled.
    pub(super) max_bytes: usize,
    /// The least score of a normal token.
    pub(super) min_score: f32,
}

/// No token has this number.
const NO_TOKEN: u32 = u32::MAX;

impl<'a> Vocab<'a> {
    /// Bytes of arena for `n_tokens`.
    pub(super) fn arena_bytes(n_tokens: usize) -> usize {
        Strings::arena_bytes(n_tokens).saturating_add(256 * 4)
    }

    /// Reads and checks the tokens of `list`; `arena` has at least [`Vocab::arena_bytes`].
    pub(super) fn new(
        gguf: &Gguf<'a>,
        algorithm: Algorithm,
        list: Array<'a>,
        arena: &'a mut [u8],
    ) -> Result<Self, Error> {
        let n_tokens = list.len();
        let is_absent = matches!(algorithm, Algorithm::Absent);
        if n_tokens == 0 && !is_absent {
            return Err(Error::NoTokens);
        }
        let got = arena.len();
        let split = arena.split_at_mut_checked(256 * 4);
        let (bytes, arena) = split.ok_or(Error::Arena(Self::arena_bytes(n_tokens), got))?;
        let tokens = enter_tokens(list, arena)?;
        let scores = per_token(gguf, SCORES, n_tokens)?;
        let types = per_token(gguf, TYPES, n_tokens)?;
        if scores.is_none() && matches!(algorithm, Algorithm::SentencePiece | Algorithm::Unigram) {
            return Err(Error::Missing(SCORES));
        }
        let (bos, eos, unknown, adds_bos, adds_eos) = match algorithm {
            Algorithm::SentencePiece => (Some(1), Some(2), Some(0), true, false),
            Algorithm::Unigram => (None, Some(1), Some(2), false, true),
            Algorithm::ByteLevel(pre) => (None, None, None, pre.adds_bos, false),
            Algorithm::Absent => (None, None, None, false, false),
        };
        // The usual id is only taken where that token is not an ordinary one.
        let usual = |id: Option<u32>| {
            id.filter(|&id| {
                (id as usize) < n_tokens && types.is_none_or(|types| typed_kind(&types, id) != Kind::Normal)
            })
        };
        let bos = token_id(gguf, BOS, n_tokens)?.or(usual(bos));
        let eos = token_id(gguf, EOS, n_tokens)?.or(usual(eos));
        let unknown = token_id(gguf, UNKNOWN, n_tokens)?.or(usual(unknown));
        let is_sentence_piece = matches!(algorithm, Algorithm::SentencePiece);
        let mut vocab = Self {
            algorithm,
            tokens,
            scores,
            types,
            byte_ids: &[],
            bos,
            eos,
            unknown,
            adds_bos: adds(gguf, ADD_BOS, adds_bos, BOS, bos)?,
            adds_eos: adds(gguf, ADD_EOS, adds_eos, EOS, eos)?,
            adds_space: flag(gguf, "tokenizer.ggml.add_space_prefix")?.unwrap_or(is_sentence_piece),
            merges_spaces: flag(gguf, "tokenizer.ggml.remove_extra_whitespaces")?.unwrap_or(false),
            ends: Ends::NONE,
            special: Special::NONE,
            max_bytes: 0,
            min_score: 0.0,
        };
        vocab.ends = Ends::new(gguf, &vocab)?;
        vocab.byte_ids = vocab.enter_bytes(bytes);
        vocab.check_tokens()?;
        Ok(vocab)
    }

    /// Checks every score, and gathers what a search for tokens wants to know of all of them.
    fn check_tokens(&mut self) -> Result<(), Error> {
        let mut min_score = f32::INFINITY;
        for (id, text) in self.tokens.iter().enumerate() {
            let score = self.score(id as u32);
            if !score.is_finite() {
                return Err(Error::Score(id));
            }
            match self.kind(id as u32) {
                Kind::Normal => min_score = min_score.min(score),
                Kind::Control | Kind::UserDefined | Kind::Unknown => self.special.add(id, text)?,
                Kind::Byte => (),
            }
            self.max_bytes = self.max_bytes.max(text.len());
        }
        self.min_score = if min_score.is_finite() { min_score } else { 0.0 };
        Ok(())
    }

    /// Writes the token of each byte, where the vocabulary has one, into the arena.
    fn enter_bytes(&self, arena: &'a mut [u8]) -> &'a [[u8; 4]] {
        let (cells, _) = arena.as_chunks_mut::<4>();
        for (byte, cell) in (0..=255u8).zip(cells.iter_mut()) {
            let id = match self.form() {
                Form::Bytes => self.find_text(&[byte]),
                _ => {
                    let digit = |value: u8| b"0123456789ABCDEF"[usize::from(value)];
                    self.find(&[b'<', b'0', b'x', digit(byte >> 4), digit(byte & 15), b'>'])
                }
            };
            *cell = id.unwrap_or(NO_TOKEN).to_le_bytes();
        }
        cells
    }

    /// How the tokens are spelled.
    pub(super) fn form(&self) -> Form {
        match self.algorithm {
            Algorithm::SentencePiece | Algorithm::Unigram => Form::Spaces,
            Algorithm::ByteLevel(_) | Algorithm::Absent => Form::Bytes,
        }
    }

    /// How many tokens.
    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// The token with exactly this text.
    pub(super) fn find(&self, piece: &[u8]) -> Option<u32> {
        self.tokens.find_text(Form::Raw, piece).map(|id| id as u32)
    }

    /// The token that `text`, spelled as tokens are, is.
    pub(super) fn find_text(&self, text: &[u8]) -> Option<u32> {
        self.tokens.find_text(self.form(), text).map(|id| id as u32)
    }

    /// The token of a byte, for text that no other token has.
    pub(super) fn byte_id(&self, byte: u8) -> Option<u32> {
        let cell = self.byte_ids.get(usize::from(byte))?;
        Some(u32::from_le_bytes(*cell)).filter(|&id| id != NO_TOKEN)
    }

    /// The score of token `id`; 0 where the file gives none.
    pub(super) fn score(&self, id: u32) -> f32 {
        match self.scores.and_then(|scores| scores.get(id as usize)) {
            Some(Value::I32(score)) => score as f32,
            Some(value) => value.as_f32().unwrap_or(0.0),
            None => 0.0,
        }
    }

    /// The kind of token `id`. A token whose name says that it ends a text is a control token whatever the file calls it.
    pub(super) fn kind(&self, id: u32) -> Kind {
        match &self.types {
            _ if self.ends.are_named(id) => Kind::Control,
            Some(types) => typed_kind(types, id),
            None => self.guessed_kind(id),
        }
    }

    /// What a token must be in a file without types.
    fn guessed_kind(&self, id: u32) -> Kind {
        if self.bos == Some(id) || self.eos == Some(id) {
            return Kind::Control;
        }
        let has_bytes = self.form() == Form::Spaces;
        match self.tokens.get(id as usize) {
            _ if has_bytes && self.unknown == Some(id) => Kind::Unknown,
            Some(text) if has_bytes && byte_of(text).is_some() => Kind::Byte,
            _ => Kind::Normal,
        }
    }
}

/// The kind that the file gives token `id`.
fn typed_kind(types: &Array<'_>, id: u32) -> Kind {
    match types.get(id as usize).and_then(|value| value.as_u64()) {
        Some(2) => Kind::Unknown,
        Some(3) => Kind::Control,
        Some(4) => Kind::UserDefined,
        Some(6) => Kind::Byte,
        _ => Kind::Normal,
    }
}

/// The byte that a token `<0xXX>` stands for.
pub(super) fn byte_of(text: &[u8]) -> Option<u8> {
    let [high, low] = text.strip_prefix(b"<0x")?.strip_suffix(b">")? else { return None };
    let digit = |c: u8| char::from(c).to_digit(16);
    u8::try_from(digit(*high)? << 4 | digit(*low)?).ok()
}

/// Fills the index of the tokens. Empty ones are not entered: they are no text, and there may be many.
fn enter_tokens<'a>(list: Array<'a>, arena: &'a mut [u8]) -> Result<Strings<'a>, Error> {
    let mut builder = Strings::begin(TOKENS, list, arena)?;
    for (id, text) in builder.strings() {
        if text.is_empty() {
            continue;
        }
        let hash = Hash::EMPTY.then_text(Form::Raw, text);
        if let Some(other) = builder.insert(id, hash, |other| other == text)? {
            return Err(Error::Duplicate(other, id));
        }
    }
    Ok(builder.finish())
}

/// Which tokenizer the file asks for.
pub(super) fn algorithm(gguf: &Gguf<'_>) -> Result<Algorithm, Error> {
    const MODEL: &str = "tokenizer.ggml.model";
    const PRE: &str = "tokenizer.ggml.pre";
    let Some(model) = gguf.get(MODEL) else {
        return if gguf.get(TOKENS).is_none() { Ok(Algorithm::Absent) } else { Err(Error::Missing(MODEL)) };
    };
    match model.as_str().ok_or(Error::WrongType(MODEL, "a string"))? {
        b"llama" => Ok(Algorithm::SentencePiece),
        b"t5" => Ok(Algorithm::Unigram),
        b"gpt2" => {
            let pre = gguf.get(PRE).map_or(Some(&b"default"[..]), |value| value.as_str());
            let name = pre.ok_or(Error::WrongType(PRE, "a string"))?;
            Pre::named(name).map(Algorithm::ByteLevel).ok_or(Error::UnknownPre(Name::new(name)))
        }
        b"none" | b"no_vocab" => Ok(Algorithm::Absent),
        other => Err(Error::UnknownModel(Name::new(other))),
    }
}

/// The array of tokens; empty for a file without tokenizer.
pub(super) fn tokens<'a>(gguf: &Gguf<'a>, algorithm: Algorithm) -> Result<Array<'a>, Error> {
    match algorithm {
        Algorithm::Absent => Ok(Array::EMPTY),
        _ => array(gguf, TOKENS)?.ok_or(Error::Missing(TOKENS)),
    }
}

/// The array under `key`, when there is one.
pub(super) fn array<'a>(gguf: &Gguf<'a>, key: &'static str) -> Result<Option<Array<'a>>, Error> {
    let Some(value) = gguf.get(key) else { return Ok(None) };
    value.as_array().map(Some).ok_or(Error::WrongType(key, "an array"))
}

/// The array under `key`, which has one number for each token.
fn per_token<'a>(gguf: &Gguf<'a>, key: &'static str, n_tokens: usize) -> Result<Option<Array<'a>>, Error> {
    let Some(array) = array(gguf, key)? else { return Ok(None) };
    if array.len() != n_tokens {
        return Err(Error::Length(key, array.len(), n_tokens));
    }
    match array.element().fixed_bytes() {
        Some(_) => Ok(Some(array)),
        None => Err(Error::WrongType(key, "an array of numbers")),
    }
}

/// The truth value under `key`, when there is one.
fn flag(gguf: &Gguf<'_>, key: &'static str) -> Result<Option<bool>, Error> {
    let Some(value) = gguf.get(key) else { return Ok(None) };
    value.as_bool().map(Some).ok_or(Error::WrongType(key, "true or false"))
}

/// The token id under `key`, when there is one.
pub(super) fn token_id(gguf: &Gguf<'_>, key: &'static str, n_tokens: usize) -> Result<Option<u32>, Error> {
    let Some(value) = gguf.get(key) else { return Ok(None) };
    let id = value.as_u64().ok_or(Error::WrongType(key, "a token id"))?;
    if id >= n_tokens as u64 {
        return Err(Error::SpecialId(key, id));
    }
    Ok(Some(id as u32))
}

/// Whether a text gets the token `id`: what the file says, else `default` when there is such a token.
fn adds(
    gguf: &Gguf<'_>,
    key: &'static str,
    default: bool,
    id_key: &'static str,
    id: Option<u32>,
) -> Result<bool, Error> {
    match flag(gguf, key)? {
        Some(true) if id.is_none() => Err(Error::NoSpecial(key, id_key)),
        Some(adds) => Ok(adds),
        None => Ok(default && id.is_some()),
    }
}
