//! From text to tokens and back, with the vocabulary that a GGUF file brings along (`tokenizer.ggml.*`).
//!
//! Three kinds: SentencePiece BPE (`llama`; also Gemma, Phi-3 and llama2.c), unigram (`t5`) and byte-level BPE
//! (`gpt2`) with the pre-tokenizers in use. The strings stay in the file; an index over them lies in an arena that the
//! caller owns. Where llama.cpp and the `tokenizers` library differ, ADR 0010 says which we follow and why.
//!
//! ```text
//! text --special--> fragments --sentencepiece | unigram | pre + bytelevel--> ids --Decoder--> text
//! ```

mod bytelevel;
mod charsmap;
mod decode;
mod ends;
mod error;
mod form;
mod merge;
mod out;
mod pre;
mod sentencepiece;
mod special;
mod strings;
mod unicode;
mod unicode_table;
mod unigram;
mod vocab;

pub use decode::Decoder;
pub use error::Error;

use crate::gguf::{Array, Gguf};
use bytelevel::Merges;
use charsmap::Charsmap;
use out::Out;
use vocab::{Algorithm, Vocab};

/// What to make of a text beside its words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Encode {
    /// Put BOS before and EOS after the text, each if the model asks for it.
    pub add_special: bool,
    /// Take control tokens that are spelled out in the text for what they name. User-defined tokens always are.
    pub parse_special: bool,
}

/// The tokenizer of one model.
#[derive(Clone, Debug)]
pub struct Tokenizer<'a> {
    vocab: Vocab<'a>,
    merges: Merges<'a>,
    charsmap: Option<Charsmap<'a>>,
}

/// The long arrays of a vocabulary; each is found once, for finding it walks over all of it.
struct Lists<'a> {
    algorithm: Algorithm,
    tokens: Array<'a>,
    merges: Array<'a>,
}

impl<'a> Lists<'a> {
    fn new(gguf: &Gguf<'a>) -> Result<Self, Error> {
        let algorithm = vocab::algorithm(gguf)?;
        Ok(Self { algorithm, tokens: vocab::tokens(gguf, algorithm)?, merges: bytelevel::merges(gguf, algorithm)? })
    }

    /// Bytes of arena for the tokens, and for everything.
    fn arena_bytes(&self) -> (usize, usize) {
        let vocab = Vocab::arena_bytes(self.tokens.len());
        (vocab, vocab.saturating_add(Merges::arena_bytes(self.merges.len())))
    }
}

impl<'a> Tokenizer<'a> {
    /// Bytes of arena that [`Tokenizer::new`] needs for this file.
    ///
    /// # Errors
    /// The file has a tokenizer without `tokenizer.ggml.tokens`, or one that we do not know. A file without any is in
    /// order: nothing can be encoded then, and ids decode to nothing.
    pub fn arena_bytes(gguf: &Gguf<'a>) -> Result<usize, Error> {
        let (_, n_bytes) = Lists::new(gguf)?.arena_bytes();
        Ok(n_bytes)
    }

    /// Reads and checks the vocabulary of `gguf` and builds its index in `arena`.
    ///
    /// # Errors
    /// What is wrong with the vocabulary: the key and the element of its array; or the arena is too small.
    pub fn new(gguf: &Gguf<'a>, arena: &'a mut [u8]) -> Result<Self, Error> {
        let lists = Lists::new(gguf)?;
        let (vocab_bytes, need) = lists.arena_bytes();
        let got = arena.len();
        let split = arena.split_at_mut_checked(vocab_bytes).filter(|_| got >= need);
        let (vocab_arena, merges_arena) = split.ok_or(Error::Arena(need, got))?;
        let vocab = Vocab::new(gguf, lists.algorithm, lists.tokens, vocab_arena)?;
        let merges = Merges::new(&vocab, lists.merges, merges_arena)?;
        let is_unigram = matches!(lists.algorithm, Algorithm::Unigram);
        let charsmap = if is_unigram { Charsmap::new(gguf)? } else { None };
        Ok(Self { vocab, merges, charsmap })
    }

    /// How many tokens there are.
    pub fn n_tokens(&self) -> usize {
        self.vocab.len()
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.vocab.bos
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<u32> {
        self.vocab.eos
    }

    /// Whether generation ends with token `id`: EOS, the end of a turn or of a message, and what else models have.
    pub fn is_end(&self, id: u32) -> bool {
        self.vocab.ends.contains(id)
    }

    /// Whether the model wants BOS before a text.
    pub fn adds_bos(&self) -> bool {
        self.vocab.adds_bos
    }

    /// Whether the model wants EOS after a text.
    pub fn adds_eos(&self) -> bool {
        self.vocab.adds_eos
    }

    /// The text of token `id` as the file spells it.
    pub fn piece(&self, id: u32) -> Option<&'a [u8]> {
        self.vocab.tokens.get(id as usize)
    }

    /// The token that the file spells so.
    pub fn find(&self, piece: &[u8]) -> Option<u32> {
        self.vocab.find(piece)
    }

    /// Bytes of scratch that [`Tokenizer::encode`] needs for any text of `text_bytes`: 29 for each, but for a
    /// unigram vocabulary 17, or 51 with a map of characters.
    ///
    /// Most texts need far less, for only the longest word counts in byte-level BPE. A text that a map of characters
    /// makes more than three times as long needs more; [`Error::Scratch`] says how much.
    pub fn scratch_bytes(&self, text_bytes: usize) -> usize {
        match self.vocab.algorithm {
            Algorithm::SentencePiece => sentencepiece::scratch_bytes(text_bytes),
            Algorithm::Unigram => unigram::scratch_bytes(text_bytes, self.charsmap.is_some()),
            Algorithm::ByteLevel(_) => bytelevel::scratch_bytes(text_bytes),
            Algorithm::Absent => 0,
        }
    }

    /// The most tokens that a text of `text_bytes` makes, BOS and EOS included.
    ///
    /// It is an estimate only where a map of characters makes a text more than three times as long, as above.
    pub fn max_tokens(&self, text_bytes: usize) -> usize {
        let growth = if self.charsmap.is_some() { unigram::GROWTH } else { 1 };
        // A space before each stretch between special tokens, and three byte tokens for a space without one of its own.
        let n_spaces = if self.vocab.adds_space { self.vocab.special.max_in(text_bytes).saturating_add(1) } else { 0 };
        let per_byte = if self.vocab.find_text(b" ").is_some() { 1 } else { 3 };
        let characters = text_bytes.saturating_mul(growth).saturating_add(n_spaces);
        characters.saturating_mul(per_byte).saturating_add(2)
    }

    /// Writes the tokens of `text` into `out`; returns how many.
    ///
    /// Takes O(n log n) for n bytes. Characters that the vocabulary has no token for become byte tokens, else the
    /// unknown token (one for several in a row).
    ///
    /// # Errors
    /// [`Error::Scratch`] and [`Error::OutOfRoom`] when [`Tokenizer::scratch_bytes`] or [`Tokenizer::max_tokens`] were not
    /// heeded; [`Error::NoToken`] for a character that the vocabulary cannot express at all.
    pub fn encode(&self, text: &str, options: Encode, scratch: &mut [u8], out: &mut [u32]) -> Result<usize, Error> {
        if text.len() > (u32::MAX / 16) as usize {
            return Err(Error::TextTooLong(text.len()));
        }
        let mut out = Out::new(out);
        if let (true, true, Some(bos)) = (options.add_special, self.vocab.adds_bos, self.vocab.bos) {
            out.push(bos)?;
        }
        let mut done = 0;
        let mut after_special = true;
        while done < text.len() {
            let found = self.vocab.special.find(&self.vocab, text, done, options.parse_special);
            let end = found.map_or(text.len(), |found| found.start);
            if end > done {
                self.encode_fragment(&text[done..end], after_special, scratch, &mut out)?;
                after_special = false;
            }
            done = end;
            if let Some(found) = found {
                out.push(found.id)?;
                after_special = true;
                done = found.end;
            }
        }
        if let (true, true, Some(eos)) = (options.add_special, self.vocab.adds_eos, self.vocab.eos) {
            out.push(eos)?;
        }
        Ok(out.len())
    }

    /// Encodes what lies between special tokens.
    fn encode_fragment(
        &self,
        text: &str,
        after_special: bool,
        scratch: &mut [u8],
        out: &mut Out<'_>,
    ) -> Result<(), Error> {
        let adds_space = self.vocab.adds_space && after_special;
        match self.vocab.algorithm {
            Algorithm::SentencePiece => sentencepiece::encode(&self.vocab, text, adds_space, scratch, out),
            Algorithm::Unigram => unigram::encode(&self.vocab, self.charsmap.as_ref(), text, adds_space, scratch, out),
            Algorithm::ByteLevel(pre) => bytelevel::encode(&self.vocab, &self.merges, pre, text, scratch, out),
            Algorithm::Absent => Err(Error::NoTokenizer),
        }
    }

    /// Gives `each` the bytes that token `id` adds to a text, which may be a part of a character; a control token adds none.
    pub fn bytes(&self, id: u32, each: impl FnMut(u8)) {
        decode::bytes(&self.vocab, id, false, each);
    }

    /// A decoder at the start of a text.
    pub fn decoder(&self) -> Decoder<'_> {
        Decoder::new(self)
    }

    /// Bytes of the buffer that [`Decoder::push`] wants.
    pub fn max_piece_bytes(&self) -> usize {
        decode::max_bytes(self.vocab.max_bytes)
    }
}

/// The first `n_bytes` of `scratch`, and the rest; `need` is what the error tells.
fn split_scratch(scratch: &mut [u8], n_bytes: usize, need: usize) -> Result<(&mut [u8], &mut [u8]), Error> {
    let got = scratch.len();
    scratch.split_at_mut_checked(n_bytes).ok_or(Error::Scratch(need, got))
}
