//! Where the tokens of a text go.

use super::Error;
use super::form::Form;
use super::vocab::Vocab;

/// The caller's ids, filled from the front.
pub(super) struct Out<'o> {
    ids: &'o mut [u32],
    len: usize,
    /// Whether the last id stands for characters that have no token.
    after_unknown: bool,
}

impl<'o> Out<'o> {
    pub(super) fn new(ids: &'o mut [u32]) -> Self {
        Self { ids, len: 0, after_unknown: false }
    }

    /// How many ids there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Adds one id.
    pub(super) fn push(&mut self, id: u32) -> Result<(), Error> {
        let places = self.ids.len();
        *self.ids.get_mut(self.len).ok_or(Error::OutOfRoom(places))? = id;
        self.len += 1;
        self.after_unknown = false;
        Ok(())
    }

    /// Adds what stands for a character without a token: the tokens of its bytes as they are spelled, or where one is
    /// missing the unknown token, once for all such characters in a row.
    pub(super) fn push_unknown(&mut self, vocab: &Vocab<'_>, character: &[u8]) -> Result<(), Error> {
        let spelled =
            || character.iter().map(|&byte| Form::Spaces.spell(byte)).flat_map(|(b, n)| b.into_iter().take(n));
        if vocab.form() == Form::Spaces && spelled().all(|byte| vocab.byte_id(byte).is_some()) {
            return spelled().try_for_each(|byte| self.push(vocab.byte_id(byte).unwrap_or(0)));
        }
        if self.after_unknown {
            return Ok(());
        }
        let text = core::str::from_utf8(character).unwrap_or_default();
        let c = text.chars().next().unwrap_or(char::REPLACEMENT_CHARACTER);
        self.push(vocab.unknown.ok_or(Error::NoToken(c))?)?;
        self.after_unknown = true;
        Ok(())
    }
}
