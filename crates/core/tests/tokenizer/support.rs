//! What these tests share: files, a writer of tiny GGUFs, and one way to encode and decode.

use std::path::PathBuf;

use smidgen_core::gguf::Gguf;
use smidgen_core::tokenizer::{Encode, Error, Tokenizer};

/// The workspace root.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A file of the shared data, or `None` (and a line that says so) where there is none.
pub(crate) fn shared(path: &str) -> Option<PathBuf> {
    let data = std::env::var_os("SMIDGEN_DATA").map_or_else(|| root().join("../shared/data"), PathBuf::from);
    let path = data.join(path);
    if !path.exists() {
        eprintln!("skipped: {}, no shared data", path.file_name().unwrap_or_default().to_string_lossy());
        return None;
    }
    Some(path)
}

/// Builds the tokenizer of a GGUF image and gives it to `body`.
pub(crate) fn with_tokenizer<R>(bytes: &[u8], body: impl FnOnce(&Tokenizer<'_>) -> R) -> Result<R, Error> {
    let gguf = Gguf::parse(bytes, bytes.len() as u64).expect("a GGUF header");
    let mut arena = vec![0xa5; Tokenizer::arena_bytes(&gguf)?];
    Tokenizer::new(&gguf, &mut arena).map(|tokenizer| body(&tokenizer))
}

/// The tokens of `text`, in exactly the scratch and room that the tokenizer asks for.
pub(crate) fn encode_with(tokenizer: &Tokenizer<'_>, text: &str, options: Encode) -> Result<Vec<u32>, Error> {
    let mut scratch = vec![0x5a; tokenizer.scratch_bytes(text.len())];
    let mut ids = vec![0; tokenizer.max_tokens(text.len())];
    let n_tokens = tokenizer.encode(text, options, &mut scratch, &mut ids)?;
    ids.truncate(n_tokens);
    Ok(ids)
}

/// The tokens of `text`, nothing added.
pub(crate) fn encode(tokenizer: &Tokenizer<'_>, text: &str) -> Vec<u32> {
    encode_with(tokenizer, text, Encode::default()).expect("every character has a token")
}

/// The text of `ids`. Checks on the way that each step gives whole characters.
pub(crate) fn decode(tokenizer: &Tokenizer<'_>, ids: &[u32]) -> String {
    let mut decoder = tokenizer.decoder();
    let mut buffer = vec![0; tokenizer.max_piece_bytes()];
    let mut text = String::new();
    for &id in ids {
        let n_bytes = decoder.push(id, &mut buffer);
        text += std::str::from_utf8(&buffer[..n_bytes]).expect("whole characters");
    }
    let n_bytes = decoder.finish(&mut buffer);
    text += std::str::from_utf8(&buffer[..n_bytes]).expect("whole characters");
    text
}

/// A small random generator (Numerical Recipes' LCG), so that every run is the same.
pub(crate) struct Random(pub(crate) u32);

impl Random {
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 >> 8) as usize % n
    }

    /// Text of every script, with words, spaces, digits and emoji, of up to `max_chars` characters.
    pub(crate) fn text(&mut self, max_chars: usize) -> String {
        const RANGES: [(u32, u32); 14] = [
            (0x20, 0x7e),
            (0x61, 0x7a),
            (0x61, 0x7a),
            (0x20, 0x20),
            (0x30, 0x39),
            (0x09, 0x0d),
            (0xa0, 0x17f),
            (0x300, 0x36f),
            (0x391, 0x3c9),
            (0x410, 0x44f),
            (0x905, 0x94d),
            (0x4e00, 0x4fff),
            (0x2000, 0x206f),
            (0x1f600, 0x1f64f),
        ];
        (0..self.below(max_chars + 1))
            .filter_map(|_| {
                let (first, last) = RANGES[self.below(RANGES.len())];
                char::from_u32(first + self.below((last - first + 1) as usize) as u32)
            })
            .collect()
    }
}

/// A metadata value of a GGUF under construction.
#[derive(Clone)]
pub(crate) enum Meta {
    Str(Vec<u8>),
    U32(u32),
    Bool(bool),
    Strs(Vec<Vec<u8>>),
    F32s(Vec<f32>),
    I32s(Vec<i32>),
    Bytes(Vec<u8>),
}

/// A GGUF of metadata only (version 3, little-endian).
pub(crate) fn gguf(entries: &[(&str, Meta)]) -> Vec<u8> {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend(0u64.to_le_bytes());
    bytes.extend((entries.len() as u64).to_le_bytes());
    let string = |bytes: &mut Vec<u8>, text: &[u8]| {
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text);
    };
    let array = |bytes: &mut Vec<u8>, element: u32, len: usize| {
        bytes.extend(9u32.to_le_bytes());
        bytes.extend(element.to_le_bytes());
        bytes.extend((len as u64).to_le_bytes());
    };
    for (key, value) in entries {
        string(&mut bytes, key.as_bytes());
        match value {
            Meta::Str(text) => {
                bytes.extend(8u32.to_le_bytes());
                string(&mut bytes, text);
            }
            Meta::U32(value) => bytes.extend([4u32.to_le_bytes(), value.to_le_bytes()].concat()),
            Meta::Bool(value) => {
                bytes.extend(7u32.to_le_bytes());
                bytes.push(u8::from(*value));
            }
            Meta::Strs(texts) => {
                array(&mut bytes, 8, texts.len());
                texts.iter().for_each(|text| string(&mut bytes, text));
            }
            Meta::F32s(values) => {
                array(&mut bytes, 6, values.len());
                bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
            Meta::I32s(values) => {
                array(&mut bytes, 5, values.len());
                bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
            Meta::Bytes(values) => {
                array(&mut bytes, 0, values.len());
                bytes.extend(values);
            }
        }
    }
    bytes
}

/// The byte-level vocabulary with another pre-tokenizer, or with a space before the text.
pub(crate) fn gguf_with_pre(bytes: &[u8], pre: &str, adds_space: bool) -> Vec<u8> {
    let file = Gguf::parse(bytes, bytes.len() as u64).expect("a GGUF");
    let strings = |key| {
        let array = file.get(key).and_then(|value| value.as_array()).expect("an array");
        let texts = array.iter().filter_map(|value| value.as_str().map(<[u8]>::to_vec));
        Meta::Strs(texts.collect())
    };
    gguf(&[
        ("tokenizer.ggml.model", Meta::Str(b"gpt2".to_vec())),
        ("tokenizer.ggml.pre", Meta::Str(pre.as_bytes().to_vec())),
        ("tokenizer.ggml.tokens", strings("tokenizer.ggml.tokens")),
        ("tokenizer.ggml.merges", strings("tokenizer.ggml.merges")),
        ("tokenizer.ggml.add_space_prefix", Meta::Bool(adds_space)),
    ])
}
