//! From tokens back to text, one token at a time.

use super::Tokenizer;
use super::form::Form;
use super::vocab::{Kind, Vocab, byte_of};

/// Turns tokens into text as they come. What [`Decoder::push`] gives is always whole characters: the bytes of a character
/// that is still incomplete wait for the next token, and bytes that can be no character become U+FFFD, as with
/// `String::from_utf8_lossy`.
#[derive(Clone, Debug)]
pub struct Decoder<'t> {
    tokenizer: &'t Tokenizer<'t>,
    /// The bytes of a character that has begun.
    pending: [u8; 4],
    n_pending: usize,
    /// Whether the space that encoding adds to a text is still to come.
    drops_space: bool,
    shows_control: bool,
}

impl<'t> Decoder<'t> {
    pub(super) fn new(tokenizer: &'t Tokenizer<'t>) -> Self {
        let drops_space = tokenizer.vocab.adds_space;
        Self { tokenizer, pending: [0; 4], n_pending: 0, drops_space, shows_control: false }
    }

    /// Decodes tokens that go on a text which was decoded elsewhere: a space in front of them is part of the text, not
    /// the one that encoding adds.
    pub fn continuing(self) -> Self {
        Self { drops_space: false, ..self }
    }

    /// Writes control and unknown tokens as they are spelled; otherwise they are no text.
    pub fn showing_control(self) -> Self {
        Self { shows_control: true, ..self }
    }

    /// Adds one token and writes the characters that are complete with it into `out`; returns their bytes.
    ///
    /// `out` has at least [`Tokenizer::max_piece_bytes`] bytes; into a smaller one goes what fits. An id that is no token
    /// adds nothing.
    pub fn push(&mut self, id: u32, out: &mut [u8]) -> usize {
        let mut writer = Writer { out, len: 0 };
        bytes(&self.tokenizer.vocab, id, self.shows_control, |byte| self.push_byte(byte, &mut writer));
        writer.len
    }

    /// Ends the text: a character that is still incomplete becomes U+FFFD. Returns the bytes written, three at most.
    pub fn finish(&mut self, out: &mut [u8]) -> usize {
        let mut writer = Writer { out, len: 0 };
        if self.n_pending > 0 {
            writer.write(REPLACEMENT);
        }
        self.n_pending = 0;
        writer.len
    }

    fn push_byte(&mut self, byte: u8, writer: &mut Writer<'_>) {
        if core::mem::take(&mut self.drops_space) && byte == b' ' {
            return;
        }
        if byte < 0x80 && self.n_pending == 0 {
            return writer.write(&[byte]);
        }
        self.pending[self.n_pending] = byte;
        self.n_pending += 1;
        loop {
            let pending = &self.pending[..self.n_pending];
            let n_bad = match core::str::from_utf8(pending) {
                Ok(_) => {
                    writer.write(pending);
                    self.n_pending = 0;
                    return;
                }
                Err(error) => match error.error_len() {
                    Some(n_bad) => n_bad,
                    None => return,
                },
            };
            writer.write(REPLACEMENT);
            self.pending.copy_within(n_bad..self.n_pending, 0);
            self.n_pending -= n_bad;
        }
    }
}

/// Gives `each` the bytes of text of token `id`: none for an id that is no token, nor for a control or unknown token unless asked to
/// show it.
pub(super) fn bytes(vocab: &Vocab<'_>, id: u32, shows_control: bool, mut each: impl FnMut(u8)) {
    let Some(piece) = vocab.tokens.get(id as usize) else { return };
    match vocab.kind(id) {
        Kind::Control | Kind::Unknown if !shows_control => {}
        Kind::Byte => match byte_of(piece) {
            Some(byte) => each(byte),
            None => Form::Raw.unspell(piece, each),
        },
        Kind::Normal => vocab.form().unspell(piece, each),
        Kind::Control | Kind::Unknown | Kind::UserDefined => Form::Raw.unspell(piece, each),
    }
}

/// U+FFFD
const REPLACEMENT: &[u8] = "\u{fffd}".as_bytes();

/// Bytes that one [`Decoder::push`] of a token of `piece_bytes` writes at most: each byte, and each that waited, can become U+FFFD.
pub(super) fn max_bytes(piece_bytes: usize) -> usize {
    (piece_bytes + 3).saturating_mul(REPLACEMENT.len())
}

struct Writer<'o> {
    out: &'o mut [u8],
    len: usize,
}

impl Writer<'_> {
    /// Writes one character, if there is room for it.
    fn write(&mut self, character: &[u8]) {
        if let Some(place) = self.out.get_mut(self.len..self.len + character.len()) {
            place.copy_from_slice(character);
            self.len += character.len();
        }
    }
}
