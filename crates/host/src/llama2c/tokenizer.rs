//! The `tokenizer.bin` of llama2.c: a SentencePiece vocabulary as its `tokenizer.py` exports it.

use smidgen_core::bytes::{Cursor, Endian};

use crate::error::Flaw;
use crate::gguf_write::Header;
use crate::hf::vocab::is_byte_piece;

/// ggml's numbers for what a token is.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const BYTE: i32 = 6;
/// The three tokens that begin every vocabulary of llama2.c.
const SPECIAL: [(&[u8], i32); 3] = [(b"<unk>", UNKNOWN), (b"<s>", CONTROL), (b"</s>", CONTROL)];

/// The pieces of a llama2.c vocabulary as GGUF stores them.
#[derive(Debug)]
pub struct Pieces {
    tokens: Vec<Vec<u8>>,
    scores: Vec<f32>,
    types: Vec<i32>,
}

/// Reads a whole `tokenizer.bin`: the longest piece's length, then score, length and bytes of each piece.
///
/// # Errors
/// A field that the file ends in, a length that is not possible, a score that is not a number.
pub fn parse(bytes: &[u8]) -> Result<Pieces, Flaw> {
    let mut cursor = Cursor::new(bytes, Endian::Little);
    let longest = cursor.i32().ok_or_else(|| Flaw::new("at byte 0: the file ends inside the longest length"))?;
    if longest < 1 {
        return Err(Flaw::new(format!(
            "at byte 0: longest piece of {longest} bytes; is this a llama2.c tokenizer.bin?"
        )));
    }
    let mut pieces = Pieces { tokens: Vec::new(), scores: Vec::new(), types: Vec::new() };
    while cursor.remaining() > 0 {
        let at = cursor.offset();
        let id = pieces.tokens.len();
        let truncated = |field: &str| Flaw::new(format!("piece {id} at byte {at}: the file ends inside the {field}"));
        let score = cursor.f32().ok_or_else(|| truncated("score"))?;
        let len = cursor.i32().ok_or_else(|| truncated("length"))?;
        if score.is_nan() {
            return Err(Flaw::new(format!("piece {id} at byte {at}: the score is NaN")));
        }
        // The first three are rewritten below and may be longer than the length that the file gives.
        if len < 0 || (len > longest && id >= SPECIAL.len()) {
            return Err(Flaw::new(format!("piece {id} at byte {at}: length {len}, but the longest is {longest}")));
        }
        let piece = cursor.take(len as usize).ok_or_else(|| truncated("piece"))?;
        pieces.push(piece, score).map_err(|problem| Flaw::new(format!("piece {id} at byte {at}: {problem}")))?;
    }
    if pieces.tokens.len() < SPECIAL.len() {
        return Err(Flaw::new(format!("{} pieces; at least <unk>, <s> and </s> are needed", pieces.tokens.len())));
    }
    Ok(pieces)
}

impl Pieces {
    fn push(&mut self, piece: &[u8], score: f32) -> Result<(), String> {
        let (token, kind) = match SPECIAL.get(self.tokens.len()) {
            Some(&(name, kind)) => {
                // llama2.c writes the control tokens with line feeds around them, as they should be printed.
                if piece.trim_ascii() != name {
                    let (found, name) = (String::from_utf8_lossy(piece), String::from_utf8_lossy(name));
                    return Err(format!("is '{found}' where llama2.c has '{name}'"));
                }
                (name.to_vec(), kind)
            }
            None if is_byte_piece(piece) => (piece.to_vec(), BYTE),
            None => (with_marked_spaces(piece), NORMAL),
        };
        self.tokens.push(token);
        self.scores.push(score);
        self.types.push(kind);
        Ok(())
    }

    /// The number of pieces.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there are none; [`parse`] refuses such a file.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Writes the vocabulary as metadata.
    pub(super) fn write(&self, header: &mut Header) {
        header.str("tokenizer.ggml.model", b"llama");
        header.str("tokenizer.ggml.pre", b"default");
        header.strs("tokenizer.ggml.tokens", &self.tokens);
        header.f32s("tokenizer.ggml.scores", &self.scores);
        header.i32s("tokenizer.ggml.token_type", &self.types);
        header.u32("tokenizer.ggml.unknown_token_id", 0);
        header.u32("tokenizer.ggml.bos_token_id", 1);
        header.u32("tokenizer.ggml.eos_token_id", 2);
        header.bool("tokenizer.ggml.add_bos_token", true);
        header.bool("tokenizer.ggml.add_eos_token", false);
        header.bool("tokenizer.ggml.add_space_prefix", true);
    }
}

/// The piece with U+2581 for each space, as SentencePiece and GGUF have it.
fn with_marked_spaces(piece: &[u8]) -> Vec<u8> {
    let mut marked = Vec::with_capacity(piece.len() + 2);
    for &byte in piece {
        match byte {
            b' ' => marked.extend("\u{2581}".as_bytes()),
            _ => marked.push(byte),
        }
    }
    marked
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(longest: i32, pieces: &[(f32, &[u8])]) -> Vec<u8> {
        let mut bytes = longest.to_le_bytes().to_vec();
        for (score, piece) in pieces {
            bytes.extend(score.to_le_bytes());
            bytes.extend((piece.len() as i32).to_le_bytes());
            bytes.extend(*piece);
        }
        bytes
    }

    const START: [(f32, &[u8]); 3] = [(0.0, b"<unk>"), (0.0, b"\n<s>\n"), (0.0, b"\n</s>\n")];

    #[test]
    fn pieces_become_what_sentencepiece_had() {
        let mut pieces = START.to_vec();
        pieces.extend([(0.0, &b"<0x0A>"[..]), (-1.0, b" a b"), (-2.0, b"<0xZZ>")]);
        let pieces = parse(&file(7, &pieces)).unwrap();
        assert_eq!(pieces.tokens[..3], [b"<unk>".to_vec(), b"<s>".to_vec(), b"</s>".to_vec()]);
        assert_eq!(pieces.tokens[4], "\u{2581}a\u{2581}b".as_bytes());
        assert_eq!(pieces.types, [2, 3, 3, 6, 1, 1]);
        assert_eq!(pieces.scores[4], -1.0);
    }

    #[test]
    fn every_cut_and_every_lie_is_named() {
        let whole = file(7, &START);
        let boundaries: Vec<usize> = (0..=3).map(|n| file(7, &START[..n]).len()).collect();
        for cut in 0..whole.len() {
            let result = parse(&whole[..cut]);
            let said = result.unwrap_err().to_string();
            match boundaries.contains(&cut) {
                true => assert!(said.contains("at least"), "{said}"),
                false => assert!(said.contains("ends inside"), "cut at {cut}: {said}"),
            }
        }
        let mut long = whole.clone();
        long[8..12].copy_from_slice(&i32::MAX.to_le_bytes());
        assert!(parse(&long).unwrap_err().to_string().contains("ends inside the piece"));
        assert!(parse(&file(-1, &START)).is_err());
        assert!(parse(&file(7, &[(f32::NAN, b"<unk>")])).unwrap_err().to_string().contains("NaN"));
        assert!(parse(&file(7, &[(0.0, b"other")])).unwrap_err().to_string().contains("<unk>"));
    }
}
