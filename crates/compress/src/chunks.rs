//! The chunks of a text that a model reads to be judged or calibrated: those of llama.cpp, so that figures compare.
//!
//! The text is tokenized once, as a whole, and cut into chunks of the context's length; what is left at its end is not used.
//! A model that wants BOS before a text finds it in the place of the first token of every chunk. The first half of a chunk is
//! only read; the tokens after it are predicted, each from all tokens of the chunk before it, so that every prediction has at
//! least half a context to go by. Source: `llama-perplexity` (`perplexity.cpp`, `perplexity()`).

use std::fmt;
use std::ops::Range;

/// The smallest chunk that predicts a token: two are read, and the third is predicted.
pub const MIN_CONTEXT: usize = 3;
/// A text must fill this many chunks, as llama.cpp demands: one chunk alone says little.
const MIN_CHUNKS: usize = 2;

/// A text cut into chunks.
#[derive(Clone, Copy, Debug)]
pub struct Chunks<'a> {
    tokens: &'a [u32],
    context_tokens: usize,
    bos: Option<u32>,
    len: usize,
}

/// Why a text cannot be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// A chunk too short to predict a token: its length.
    Context(usize),
    /// Too few tokens: those of the text, and those that are needed.
    Short(usize, usize),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Context(given) => {
                write!(f, "chunks of {given} tokens predict none; at least {MIN_CONTEXT} are needed")
            }
            Error::Short(given, needed) => {
                write!(
                    f,
                    "too short: {given} tokens, but {needed} are needed ({MIN_CHUNKS} chunks of {})",
                    needed / MIN_CHUNKS
                )
            }
        }
    }
}

impl std::error::Error for Error {}

impl<'a> Chunks<'a> {
    /// Cuts `tokens` into chunks of `context_tokens`, of which no more than `limit` are used. `bos` is the token that begins
    /// every chunk, for a model that wants one.
    ///
    /// # Errors
    /// A context below [`MIN_CONTEXT`], or a text that does not fill two chunks.
    pub fn new(
        tokens: &'a [u32],
        context_tokens: usize,
        bos: Option<u32>,
        limit: Option<usize>,
    ) -> Result<Self, Error> {
        if context_tokens < MIN_CONTEXT {
            return Err(Error::Context(context_tokens));
        }
        let needed = context_tokens.saturating_mul(MIN_CHUNKS);
        if tokens.len() < needed {
            return Err(Error::Short(tokens.len(), needed));
        }
        let len = (tokens.len() / context_tokens).min(limit.unwrap_or(usize::MAX));
        Ok(Self { tokens, context_tokens, bos, len })
    }

    /// How many chunks there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none, because none were asked for.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Tokens of a chunk.
    pub fn context_tokens(&self) -> usize {
        self.context_tokens
    }

    /// The tokens of chunk `index`, as the model reads them.
    ///
    /// # Panics
    /// When there is no such chunk.
    pub fn read(&self, index: usize, chunk: &mut Vec<u32>) {
        assert!(index < self.len);
        chunk.clear();
        chunk.extend_from_slice(&self.tokens[index * self.context_tokens..][..self.context_tokens]);
        if let Some(bos) = self.bos {
            chunk[0] = bos;
        }
    }

    /// The positions in a chunk whose logits are scored, each by the token after it.
    pub fn scored(&self) -> Range<usize> {
        self.context_tokens / 2..self.context_tokens - 1
    }

    /// Scored positions of all chunks.
    pub fn n_scored(&self) -> usize {
        self.len * self.scored().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKENS: [u32; 13] = [10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22];

    #[test]
    fn a_text_is_cut_from_its_start_and_what_is_left_over_is_not_used() {
        let chunks = Chunks::new(&TOKENS, 6, None, None).unwrap();
        let mut chunk = Vec::new();
        chunks.read(1, &mut chunk);
        assert_eq!((chunks.len(), &chunk[..]), (2, &[16, 17, 18, 19, 20, 21][..]));
        assert_eq!(Chunks::new(&TOKENS, 6, None, Some(1)).unwrap().len(), 1);
        assert_eq!(Chunks::new(&TOKENS, 6, None, Some(9)).unwrap().len(), 2);
    }

    #[test]
    fn bos_takes_the_place_of_the_first_token() {
        let mut chunk = Vec::new();
        Chunks::new(&TOKENS, 4, Some(1), None).unwrap().read(2, &mut chunk);
        assert_eq!(chunk, [1, 19, 20, 21]);
    }

    /// llama.cpp scores the logits of positions `n/2` to `n - 2`: 255 of 512.
    #[test]
    fn the_second_half_is_scored_but_for_the_last_token_that_nothing_follows() {
        let tokens = vec![7; 1024];
        let chunks = Chunks::new(&tokens, 512, None, None).unwrap();
        assert_eq!((chunks.scored(), chunks.n_scored()), (256..511, 2 * 255));
        assert_eq!(Chunks::new(&TOKENS, 3, None, None).unwrap().scored(), 1..2);
        assert_eq!(Chunks::new(&TOKENS, 5, None, None).unwrap().scored(), 2..4);
    }

    #[test]
    fn what_cannot_be_cut_says_what_it_would_take() {
        assert_eq!(Chunks::new(&TOKENS, 2, None, None).unwrap_err(), Error::Context(2));
        let short = Chunks::new(&TOKENS, 7, None, None).unwrap_err();
        assert_eq!(short, Error::Short(13, 14));
        assert_eq!(short.to_string(), "too short: 13 tokens, but 14 are needed (2 chunks of 7)");
        assert!(Chunks::new(&TOKENS, usize::MAX, None, None).is_err());
    }
}
