//! How vocabularies spell text: byte-level BPE writes every byte as a printable character, SentencePiece writes spaces
//! as `▁`. Text is hashed and compared in that spelling without ever being rewritten.

/// The spelling of the tokens of a vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// As it is.
    Raw,
    /// A space is U+2581 `▁` (SentencePiece).
    Spaces,
    /// Byte 0 to 255 is one of 256 printable characters (`bytes_to_unicode` of GPT-2's `encoder.py`).
    Bytes,
}

/// `▁`, the space of SentencePiece.
pub(super) const ESCAPED_SPACE: [u8; 3] = [0xe2, 0x96, 0x81];

impl Form {
    /// How `byte` of a text is spelled: the bytes, and how many of them count.
    #[inline]
    pub(super) fn spell(self, byte: u8) -> ([u8; 3], usize) {
        match self {
            Form::Spaces if byte == b' ' => (ESCAPED_SPACE, 3),
            Form::Bytes if !matches!(byte, 0x21..=0x7e) => {
                let code = byte_to_code(byte);
                ([0xc0 | (code >> 6) as u8, 0x80 | (code & 0x3f) as u8, 0], 2)
            }
            _ => ([byte, 0, 0], 1),
        }
    }

    /// What follows `text`, in this spelling, at the start of `spelled`; `None` when it does not begin so.
    pub(super) fn strip<'s>(self, text: &[u8], spelled: &'s [u8]) -> Option<&'s [u8]> {
        text.iter().try_fold(spelled, |rest, &byte| {
            let (bytes, n) = self.spell(byte);
            rest.strip_prefix(&bytes[..n])
        })
    }

    /// Whether `spelled` is `text` in this spelling.
    pub(super) fn equal(self, text: &[u8], spelled: &[u8]) -> bool {
        self.strip(text, spelled).is_some_and(<[u8]>::is_empty)
    }

    /// Gives `sink` the bytes that `spelled` stands for. Characters that stand for no byte stand for themselves.
    pub(super) fn unspell(self, spelled: &[u8], mut sink: impl FnMut(u8)) {
        let mut at = 0;
        while let Some(&byte) = spelled.get(at) {
            let next = spelled.get(at + 1).copied().unwrap_or(0);
            if self == Form::Spaces && spelled[at..].starts_with(&ESCAPED_SPACE) {
                sink(b' ');
                at += 3;
            } else if let (Form::Bytes, 0xc2..=0xc5, 0x80..=0xbf) = (self, byte, next) {
                match code_to_byte(u16::from(byte & 0x1f) << 6 | u16::from(next & 0x3f)) {
                    Some(byte) => sink(byte),
                    None => [byte, next].into_iter().for_each(&mut sink),
                }
                at += 2;
            } else {
                sink(byte);
                at += 1;
            }
        }
    }
}

/// The character of a byte that is not printable ASCII: itself in Latin-1 where that is printable, else 256 and on.
fn byte_to_code(byte: u8) -> u16 {
    let code = u16::from(byte);
    match byte {
        0..=0x20 => 256 + code,
        0x7f..=0xa0 => 256 + 33 + code - 0x7f,
        0xad => 256 + 67,
        _ => code,
    }
}

/// The byte of a character that is not ASCII, when it is one of the 256.
fn code_to_byte(code: u16) -> Option<u8> {
    let byte = match code {
        0xa1..=0xac | 0xae..=0xff => code,
        256..=288 => code - 256,
        289..=322 => code - 289 + 0x7f,
        323 => 0xad,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_own_character_and_comes_back() {
        for byte in 0..=255 {
            let (spelled, n) = Form::Bytes.spell(byte);
            let text = core::str::from_utf8(&spelled[..n]).expect("a character");
            assert!(text.chars().all(|c| !c.is_whitespace() && !c.is_control()), "{byte}");
            let mut back = Vec::new();
            Form::Bytes.unspell(text.as_bytes(), |byte| back.push(byte));
            assert_eq!(back, [byte]);
            assert!(Form::Bytes.equal(&[byte], text.as_bytes()));
        }
        assert_eq!(Form::Bytes.spell(b' ').0[..2], *"Ġ".as_bytes());
        assert_eq!(Form::Bytes.spell(b'\n').0[..2], *"Ċ".as_bytes());
        assert_eq!(Form::Bytes.spell(0xad).0[..2], *"Ń".as_bytes());
    }

    #[test]
    fn spaces_are_escaped() {
        assert!(Form::Spaces.equal(b" a b", "▁a▁b".as_bytes()));
        assert!(!Form::Spaces.equal(b" a b", "▁a▁".as_bytes()));
        assert!(!Form::Raw.equal(b" ", "▁".as_bytes()));
        let mut back = Vec::new();
        Form::Spaces.unspell("▁a▁b▂".as_bytes(), |byte| back.push(byte));
        assert_eq!(back, " a b▂".as_bytes());
    }
}
