//! `tokenizer.model` of SentencePiece: the fields of its protocol buffer that a tokenizer needs.
//!
//! Format: `sentencepiece_model.proto` of the SentencePiece project, and the encoding page of Protocol Buffers. A dozen
//! fields do not pay for a code generator; see `docs/adr/0041-own-protobuf-fields.md`.

use super::{Kind, Pieces, Token, TokenKind};
use crate::error::Flaw;

/// The value of one field.
enum Value<'a> {
    Number(u64),
    Fixed32([u8; 4]),
    Bytes(&'a [u8]),
}

/// The fields of one message in order.
struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Where the message begins in the file, for errors.
    base: usize,
}

impl<'a> Fields<'a> {
    fn new(bytes: &'a [u8], base: usize) -> Self {
        Fields { bytes, at: 0, base }
    }

    fn truncated(&self) -> Flaw {
        Flaw::new(format!(
            "at byte {}: a field is cut or not a protocol buffer; is this a SentencePiece model?",
            self.base + self.at
        ))
    }

    /// The next field's number and value; `None` at the end.
    fn next(&mut self) -> Result<Option<(u64, Value<'a>)>, Flaw> {
        if self.at == self.bytes.len() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Number(self.varint()?),
            1 => {
                self.take(8)?;
                Value::Number(0)
            }
            2 => {
                let len = self.varint()?;
                Value::Bytes(self.take(usize::try_from(len).map_err(|_| self.truncated())?)?)
            }
            5 => Value::Fixed32(self.take(4)?.try_into().map_err(|_| self.truncated())?),
            _ => return Err(self.truncated()),
        };
        Ok(Some((tag >> 3, value)))
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], Flaw> {
        let end = self.at.checked_add(n).filter(|&end| end <= self.bytes.len()).ok_or_else(|| self.truncated())?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, Flaw> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.truncated())
    }

    /// Where the value that was read last, of `len` bytes, begins in the file.
    fn offset_of_last(&self, len: usize) -> usize {
        self.base + self.at - len
    }
}

/// Reads a whole `tokenizer.model`.
///
/// # Errors
/// A field that is cut or impossible, with its offset; a kind of model that is neither unigram nor BPE.
pub fn parse(bytes: &[u8]) -> Result<Pieces, Flaw> {
    let mut pieces = Pieces::new(Kind::Unigram);
    pieces.adds_space_prefix = true;
    pieces.removes_extra_spaces = true;
    // The numbers that SentencePiece gives unless the file says otherwise: unknown, begin, end, padding.
    pieces.ids = [Some(0), Some(1), Some(2), None];
    let mut fields = Fields::new(bytes, 0);
    while let Some((number, value)) = fields.next()? {
        let Value::Bytes(message) = value else { continue };
        let inner = Fields::new(message, fields.offset_of_last(message.len()));
        match number {
            1 => {
                let id = u32::try_from(pieces.tokens.len()).map_err(|_| Flaw::new("too many pieces"))?;
                pieces.tokens.push(piece(inner, id)?);
            }
            2 => trainer(inner, &mut pieces)?,
            3 => normalizer(inner, &mut pieces)?,
            _ => {}
        }
    }
    if pieces.tokens.is_empty() {
        return Err(Flaw::new("has no pieces; is this a SentencePiece model?"));
    }
    let n = pieces.tokens.len() as u32;
    pieces.ids = pieces.ids.map(|id| id.filter(|&id| id < n));
    pieces.before = None;
    Ok(pieces)
}

/// `SentencePiece`: text, score, type.
fn piece(mut fields: Fields<'_>, id: u32) -> Result<Token, Flaw> {
    let base = fields.base;
    let mut token = Token { id, text: Vec::new(), score: 0.0, kind: TokenKind::Normal };
    while let Some(field) = fields.next()? {
        match field {
            (1, Value::Bytes(text)) => token.text = text.to_vec(),
            (2, Value::Fixed32(bits)) => token.score = f32::from_le_bytes(bits),
            (3, Value::Number(kind)) => {
                token.kind = match kind {
                    1 => TokenKind::Normal,
                    2 => TokenKind::Unknown,
                    3 => TokenKind::Control,
                    4 => TokenKind::UserDefined,
                    5 => TokenKind::Unused,
                    6 => TokenKind::Byte,
                    _ => return Err(Flaw::new(format!("piece {id} at byte {base}: type {kind} is not known"))),
                };
            }
            _ => {}
        }
    }
    if token.score.is_nan() {
        return Err(Flaw::new(format!("piece {id} at byte {base}: the score is NaN")));
    }
    if token.kind == TokenKind::UserDefined {
        // Such a piece is looked for in the text before spaces are marked.
        token.text = String::from_utf8_lossy(&token.text).replace('\u{2581}', " ").into_bytes();
    }
    Ok(token)
}

/// `TrainerSpec`: the kind of model and the numbers of special pieces.
fn trainer(mut fields: Fields<'_>, pieces: &mut Pieces) -> Result<(), Flaw> {
    while let Some(field) = fields.next()? {
        // Protocol buffers store -1, which means that there is no such piece, as 64 bits; no u32 is left of it.
        let id = |number: u64| u32::try_from(number).ok();
        match field {
            (3, Value::Number(1)) => pieces.kind = Kind::Unigram,
            (3, Value::Number(2)) => pieces.kind = Kind::SentencePiece,
            (3, Value::Number(kind)) => {
                return Err(Flaw::new(format!(
                    "trainer_spec.model_type: {kind} is not supported (unigram and BPE are)"
                )));
            }
            (40, Value::Number(number)) => pieces.ids[0] = id(number),
            (41, Value::Number(number)) => pieces.ids[1] = id(number),
            (42, Value::Number(number)) => pieces.ids[2] = id(number),
            (43, Value::Number(number)) => pieces.ids[3] = id(number),
            _ => {}
        }
    }
    Ok(())
}

/// `NormalizerSpec`: what happens to characters and spaces.
fn normalizer(mut fields: Fields<'_>, pieces: &mut Pieces) -> Result<(), Flaw> {
    while let Some(field) = fields.next()? {
        match field {
            (2, Value::Bytes(map)) => pieces.charsmap = map.to_vec(),
            (3, Value::Number(adds)) => pieces.adds_space_prefix = adds != 0,
            (4, Value::Number(removes)) => pieces.removes_extra_spaces = removes != 0,
            (5, Value::Number(0)) => {
                return Err(Flaw::new("normalizer_spec.escape_whitespaces: false is not supported"));
            }
            _ => {}
        }
    }
    Ok(())
}
