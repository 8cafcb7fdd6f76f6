//! The tokens that end a text: a model may have several, and files rarely list them all.

use super::Error;
use super::vocab::{Vocab, token_id};
use crate::gguf::Gguf;

/// Metadata keys that name a token which ends a text.
const KEYS: [&str; 6] = [
    "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.eot_token_id",
    "tokenizer.ggml.eom_token_id",
    "tokenizer.ggml.fim_pad_token_id",
    "tokenizer.ggml.fim_rep_token_id",
    "tokenizer.ggml.fim_sep_token_id",
];

/// Tokens that end a text by their name alone, as in llama.cpp's `llama-vocab.cpp`.
const NAMES: [&str; 33] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|calls|>",
    "<|flush|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<PAD>",
    "[PAD]",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
    "<|file_sep|>",
];

/// The ids of the tokens that end a text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    /// First those with a known name, then those that the metadata names.
    ids: [u32; KEYS.len() + NAMES.len()],
    len: usize,
    n_named: usize,
}

impl Ends {
    /// Nothing ends a text.
    pub(super) const NONE: Self = Self { ids: [0; KEYS.len() + NAMES.len()], len: 0, n_named: 0 };

    /// Those that the metadata or their names tell.
    pub(super) fn new(gguf: &Gguf<'_>, vocab: &Vocab<'_>) -> Result<Self, Error> {
        let mut ends = Self::NONE;
        let has = |name: &str| vocab.find(name.as_bytes()).is_some();
        // Where an answer returns or calls (OpenAI's harmony, Solar), `<|end|>` only ends one of its messages.
        let has_messages = (has("<|call|>") && has("<|return|>")) || (has("<|calls|>") && has("<|flush|>"));
        for name in NAMES {
            if name != "<|end|>" || !has_messages {
                ends.add(vocab.find(name.as_bytes()));
            }
        }
        ends.n_named = ends.len;
        ends.add(vocab.eos);
        for key in KEYS {
            ends.add(token_id(gguf, key, vocab.len())?);
        }
        Ok(ends)
    }

    fn add(&mut self, id: Option<u32>) {
        let Some(id) = id.filter(|&id| !self.contains(id)) else { return };
        if let Some(place) = self.ids.get_mut(self.len) {
            *place = id;
            self.len += 1;
        }
    }

    /// Whether `id` ends a text by its name.
    pub(super) fn are_named(&self, id: u32) -> bool {
        self.ids[..self.n_named].contains(&id)
    }

    /// Whether `id` ends a text.
    pub(super) fn contains(&self, id: u32) -> bool {
        self.ids[..self.len].contains(&id)
    }
}
