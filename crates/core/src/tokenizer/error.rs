//! What can be wrong with a vocabulary, or with a request to encode a text.

use core::fmt;

use crate::gguf::Name;

/// Why a tokenizer could not be built, or a text not be encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The metadata key is not in the file.
    Missing(&'static str),
    /// The metadata key has a value of another type than this.
    WrongType(&'static str, &'static str),
    /// `tokenizer.ggml.model` names a kind of tokenizer that we do not know.
    UnknownModel(Name),
    /// `tokenizer.ggml.pre` names a pre-tokenizer that we do not know.
    UnknownPre(Name),
    /// The array has not one element per token: key, its elements, tokens.
    Length(&'static str, usize, usize),
    /// `tokenizer.ggml.tokens` is empty.
    NoTokens,
    /// A text was to be encoded, but the file has no tokenizer.
    NoTokenizer,
    /// The array has more elements than an index can hold: key, elements.
    TooMany(&'static str, usize),
    /// The string of an array is longer than any token: key, element, bytes.
    TooLong(&'static str, usize, usize),
    /// Two tokens of one text: the first and the second.
    Duplicate(usize, usize),
    /// So many strings share one hash that the file must have been made to do so: key.
    Collisions(&'static str),
    /// The score of this token is not a finite number.
    Score(usize),
    /// This merge is not two tokens with a space between, which together make a token.
    Merge(usize),
    /// The key gives the id of a token that does not exist: key, id.
    SpecialId(&'static str, u64),
    /// The first key asks for a token whose id the second does not give.
    NoSpecial(&'static str, &'static str),
    /// `tokenizer.ggml.precompiled_charsmap` is not one, from this byte on.
    Charsmap(usize),
    /// The arena is smaller than [`Tokenizer::arena_bytes`](super::Tokenizer::arena_bytes): bytes needed, bytes given.
    Arena(usize, usize),
    /// The scratch is too small for this text: bytes needed, bytes given.
    Scratch(usize, usize),
    /// The text has more bytes than offsets in it can count.
    TextTooLong(usize),
    /// There are more tokens than places in `out`: its places.
    OutOfRoom(usize),
    /// The vocabulary has no token for this character, no byte tokens, and no unknown token.
    NoToken(char),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Error::Missing(key) => write!(f, "'{key}' is missing"),
            Error::WrongType(key, want) => write!(f, "'{key}' is not {want}"),
            Error::UnknownModel(name) => write!(f, "'tokenizer.ggml.model': unknown tokenizer '{name}'"),
            Error::UnknownPre(name) => write!(f, "'tokenizer.ggml.pre': unknown pre-tokenizer '{name}'"),
            Error::Length(key, len, n_tokens) => write!(f, "'{key}' has {len} elements for {n_tokens} tokens"),
            Error::NoTokenizer => write!(f, "the model has no tokenizer, so it can only be run by token ids"),
            Error::NoTokens => write!(f, "'tokenizer.ggml.tokens' is empty"),
            Error::TooMany(key, len) => write!(f, "'{key}' has {len} elements, which are too many"),
            Error::TooLong(key, index, bytes) => write!(f, "'{key}' element {index} is {bytes} bytes long, too many"),
            Error::Duplicate(first, second) => {
                write!(f, "'tokenizer.ggml.tokens' elements {first} and {second} are the same token")
            }
            Error::Collisions(key) => write!(f, "'{key}' has too many strings of one hash"),
            Error::Score(id) => write!(f, "'tokenizer.ggml.scores' element {id} is not a finite number"),
            Error::Merge(index) => {
                write!(f, "'tokenizer.ggml.merges' element {index} is not two tokens that together make a token")
            }
            Error::SpecialId(key, id) => write!(f, "'{key}' is {id}, which is no token"),
            Error::NoSpecial(flag, key) => write!(f, "'{flag}' is true but '{key}' is missing"),
            Error::Charsmap(at) => write!(f, "'tokenizer.ggml.precompiled_charsmap' is damaged at its byte {at}"),
            Error::Arena(need, got) => write!(f, "the tokenizer needs an arena of {need} bytes, not {got}"),
            Error::Scratch(need, got) => write!(f, "encoding needs {need} bytes of scratch, not {got}"),
            Error::TextTooLong(bytes) => write!(f, "a text of {bytes} bytes is too long"),
            Error::OutOfRoom(places) => write!(f, "the text makes more than {places} tokens"),
            Error::NoToken(c) => write!(f, "the vocabulary has no token for the character U+{:04X}", c as u32),
        }
    }
}

impl core::error::Error for Error {}
