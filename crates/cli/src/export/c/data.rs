//! The data of an exported model: its weights as they were stored, its texts, and what encodes them; little-endian throughout.

use crate::failure::Failure;
use crate::source::Source;
use smidgen_core::gguf::{Array, Gguf};
use smidgen_core::model::{Linear, Model};
use smidgen_core::ops::matmul::Matrix;
use smidgen_core::ops::norm::Vector;
use smidgen_core::quant::Type;
use smidgen_core::tokenizer::Tokenizer;
use std::fmt::Write;

/// Bytes that begin with four of nothing, so that no tensor lies at 0.
#[derive(Debug)]
pub(super) struct Data {
    pub(super) bytes: Vec<u8>,
    /// Types that rows are multiplied in, and types that rows are read in.
    pub(super) multiplied: Vec<Type>,
    pub(super) read: Vec<Type>,
}

impl Data {
    pub(super) fn new() -> Self {
        Self { bytes: vec![0; 4], multiplied: Vec::new(), read: Vec::new() }
    }

    /// Where the next tensor may begin.
    fn align(&mut self) -> usize {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self.bytes.len()
    }

    /// A matrix as C: where it lies and its type.
    fn matrix(&mut self, matrix: &Matrix<'_>) -> String {
        if matrix.rows == 0 {
            return "{0, 0}".to_owned();
        }
        let at = self.align();
        (0..matrix.rows).for_each(|row| self.bytes.extend_from_slice(matrix.row(row)));
        format!("{{{at}UL, TYPE_{}}}", matrix.kind.name())
    }

    fn linear(&mut self, linear: &Linear<'_>) -> String {
        if linear.matrix.rows > 0 && !self.multiplied.contains(&linear.matrix.kind) {
            self.multiplied.push(linear.matrix.kind);
        }
        self.matrix(&linear.matrix)
    }

    /// A vector as C: where it lies, or 0.
    fn vector(&mut self, vector: Vector<'_>) -> String {
        if vector.is_empty() {
            return "0".to_owned();
        }
        let at = self.align();
        self.bytes.extend(vector.iter().flat_map(f32::to_le_bytes));
        format!("{at}UL")
    }

    fn words(&mut self, words: impl Iterator<Item = u32>) -> usize {
        let at = self.align();
        self.bytes.extend(words.flat_map(u32::to_le_bytes));
        at
    }

    /// The tables of matrices and vectors.
    pub(super) fn weights(&mut self, model: &Model<'_>) -> String {
        let mut out = String::from("static const struct layer layers[N_LAYERS] = {\n");
        for (index, layer) in model.layers().iter().enumerate() {
            let linears =
                [layer.query(), layer.key(), layer.value(), layer.output(), layer.gate(), layer.up(), layer.down()];
            let mut parts: Vec<String> = linears.iter().map(|linear| self.linear(linear)).collect();
            parts.extend(linears.iter().map(|linear| self.vector(linear.bias)));
            let ((norm, norm_bias), (feed, feed_bias)) = (layer.attention_norm(), layer.feed_forward_norm());
            let (query_norm, key_norm) = layer.head_norms();
            let (post_attention, post_feed) = (layer.post_attention_norm(), layer.post_feed_forward_norm());
            let vectors = [norm, norm_bias, query_norm, key_norm, post_attention, feed, feed_bias, post_feed];
            parts.extend(vectors.into_iter().map(|vector| self.vector(vector)));
            parts.push(format!("{}UL", model.hparams().window(index).unwrap_or(0)));
            let _ = writeln!(out, "    {{{}}},", parts.join(", "));
        }
        out += "};\n";
        let embedding = self.matrix(model.embedding());
        self.read.push(model.embedding().kind);
        let is_tied = std::ptr::eq(model.output().row(0).as_ptr(), model.embedding().row(0).as_ptr());
        let output = match is_tied {
            true => {
                if !self.multiplied.contains(&model.output().kind) {
                    self.multiplied.push(model.output().kind);
                }
                embedding.clone()
            }
            false => self.linear(&Linear { matrix: *model.output(), bias: Vector::EMPTY }),
        };
        let _ = writeln!(out, "static const struct matrix embedding = {embedding};");
        let _ = writeln!(out, "static const struct matrix output = {output};");
        if model.positions().rows > 0 {
            let positions = self.matrix(model.positions());
            if !self.read.contains(&model.positions().kind) {
                self.read.push(model.positions().kind);
            }
            let _ = writeln!(out, "static const struct matrix positions = {positions};");
        }
        let (norm, bias) = model.output_norm();
        let _ = writeln!(out, "#define output_norm {}", self.vector(norm));
        let _ = writeln!(out, "#define output_norm_bias {}", self.vector(bias));
        out
    }
}

/// The words of the tokenizer as C reads them.
pub(super) struct Text {
    /// Lines of `#define`.
    pub(super) defines: String,
    /// Tokens that end a text.
    pub(super) ends: Vec<u32>,
    /// The sections that encode, or none for a tokenizer that C does not have.
    pub(super) sections: &'static [&'static str],
}

/// Pre-tokenizers of GPT-2's pattern, and those that also set digits apart.
const GPT2: &[&[u8]] = &[b"gpt-2", b"phi-2", b"mpt", b"olmo"];
const SINGLE_DIGITS: &[&[u8]] = &[b"smollm", b"starcoder", b"refact", b"command-r", b"codeshell"];
/// `tokenizer.ggml.token_type` of tokens that are found in a text before all else, and of those that stand for a byte.
const USER_DEFINED: u64 = 4;
const BYTE: u64 = 6;
/// The longest text that C encodes, in bytes, and the statics that it does so in: its symbols, their lengths, and the text with a
/// space before it and a zero behind it.
const MAX_TEXT: usize = 512;
pub(super) const ENCODER_BYTES: usize = (4 + 4 + 1) * MAX_TEXT + 1;
/// A pair that is no token.
const NO_PAIR: u32 = u32::MAX;

/// Enters the texts of all tokens, and what encodes a text where C can.
pub(super) fn text(
    data: &mut Data,
    source: &Source,
    gguf: &Gguf<'_>,
    tokenizer: &Tokenizer<'_>,
) -> Result<Text, Failure> {
    let n = tokenizer.n_tokens() as u32;
    let texts: Vec<Vec<u8>> = (0..n)
        .map(|id| {
            let mut bytes = Vec::new();
            tokenizer.bytes(id, |byte| bytes.push(byte));
            bytes
        })
        .collect();
    let mut at = 0;
    let starts: Vec<u32> = std::iter::once(0)
        .chain(texts.iter().map(|text| {
            at += text.len() as u32;
            at
        }))
        .collect();
    let mut defines = format!("#define TEXT_STARTS {}UL\n", data.words(starts.into_iter()));
    let _ = writeln!(defines, "#define TEXT_BYTES {}UL", data.align());
    texts.iter().for_each(|text| data.bytes.extend_from_slice(text));

    let flag = |key: &str, default| gguf.get(key).and_then(|value| value.as_bool()).unwrap_or(default);
    let name = gguf.get("tokenizer.ggml.model").and_then(|value| value.as_str()).unwrap_or_default();
    let pre = gguf.get("tokenizer.ggml.pre").and_then(|value| value.as_str()).unwrap_or_default();
    let types = Types(gguf.get("tokenizer.ggml.token_type").and_then(|value| value.as_array()));
    let plain = !tokenizer.adds_eos()
        && !flag("tokenizer.ggml.remove_extra_whitespaces", false)
        && !(0..n).any(|id| types.get(id) == USER_DEFINED);
    let is_sentence_piece = name == b"llama";
    let sections: &[&str] = match name {
        b"llama" if plain => &["encode", "sentence_piece", "join_symbols", "encode_sentence_piece"],
        b"gpt2" if plain && (GPT2.contains(&pre) || SINGLE_DIGITS.contains(&pre)) => {
            &["encode", "byte_level", "join_symbols", "encode_byte_level"]
        }
        _ => &[],
    };
    for (name, value) in [
        ("ADDS_SPACE", u32::from(flag("tokenizer.ggml.add_space_prefix", is_sentence_piece))),
        ("CAN_ENCODE", u32::from(!sections.is_empty())),
    ] {
        let _ = writeln!(defines, "#define {name} {value}");
    }
    if !sections.is_empty() {
        for (name, value) in [
            ("BYTE_LEVEL", u32::from(!is_sentence_piece)),
            ("SINGLE_DIGITS", u32::from(SINGLE_DIGITS.contains(&pre))),
            ("ADDS_BOS", u32::from(tokenizer.adds_bos() && tokenizer.bos().is_some())),
        ] {
            let _ = writeln!(defines, "#define {name} {value}");
        }
        let unknown = gguf.get("tokenizer.ggml.unknown_token_id").and_then(|value| value.as_u64());
        let unknown = if is_sentence_piece { unknown.unwrap_or(0) } else { unknown.unwrap_or(n.into()) };
        let _ = writeln!(defines, "#define BOS {}UL\n#define UNKNOWN {unknown}UL", tokenizer.bos().unwrap_or(0));
        let _ = writeln!(defines, "#define NO_PAIR 0xffffffffUL\n#define MAX_TEXT {MAX_TEXT}");
        let encoder = Encoder { tokenizer, texts: &texts, types };
        defines += &match is_sentence_piece {
            true => encoder.sentence_piece(data, gguf),
            false => encoder.byte_level(data, gguf).map_err(|reason| source.refused(reason))?,
        };
    }
    Ok(Text { defines, ends: (0..n).filter(|id| tokenizer.is_end(*id)).collect(), sections })
}

/// The kinds that the file gives its tokens.
#[derive(Clone, Copy)]
struct Types<'a>(Option<Array<'a>>);

impl Types<'_> {
    fn get(&self, id: u32) -> u64 {
        self.0.and_then(|types| types.get(id as usize)).and_then(|value| value.as_u64()).unwrap_or(1)
    }
}

struct Encoder<'a> {
    tokenizer: &'a Tokenizer<'a>,
    texts: &'a [Vec<u8>],
    types: Types<'a>,
}

impl Encoder<'_> {
    /// The tokens that text may become, in the order of their texts.
    fn sorted(&self) -> Vec<u32> {
        let mut ids: Vec<u32> = (0..self.texts.len() as u32)
            .filter(|id| self.types.get(*id) != BYTE && !self.texts[*id as usize].is_empty())
            .collect();
        ids.sort_by(|a, b| self.texts[*a as usize].cmp(&self.texts[*b as usize]));
        ids
    }

    fn find(&self, data: &mut Data, byte_tokens: impl Fn(u8) -> Option<u32>) -> String {
        let sorted = self.sorted();
        let n_vocab = self.texts.len() as u32;
        let n_sorted = sorted.len();
        let at = data.words(sorted.into_iter());
        let bytes = data.words((0..=255).map(|byte| byte_tokens(byte).unwrap_or(n_vocab)));
        format!("#define SORTED {at}UL\n#define N_SORTED {n_sorted}UL\n#define BYTE_TOKENS {bytes}UL\n")
    }

    fn sentence_piece(&self, data: &mut Data, gguf: &Gguf<'_>) -> String {
        let scores = gguf.get("tokenizer.ggml.scores").and_then(|value| value.as_array());
        let score = |id: usize| scores.and_then(|list| list.get(id)).and_then(|value| value.as_f32()).unwrap_or(0.0);
        // A number that is the smaller the better the score; adding zero makes 0.0 of -0.0.
        let rank = |id: usize| {
            let bits = (score(id) + 0.0).to_bits();
            !(if bits >> 31 == 0 { bits | 0x8000_0000 } else { !bits })
        };
        let at = data.words((0..self.texts.len()).map(|id| rank(id).min(NO_PAIR - 1)));
        let byte = |byte: u8| self.tokenizer.find(format!("<0x{byte:02X}>").as_bytes());
        format!("{}#define RANKS {at}UL\n", self.find(data, byte))
    }

    fn byte_level(&self, data: &mut Data, gguf: &Gguf<'_>) -> Result<String, String> {
        let merges = gguf.get("tokenizer.ggml.merges").and_then(|value| value.as_array());
        let merges = merges.ok_or("tokenizer.ggml.merges: missing")?;
        let mut rows = Vec::new();
        for (rank, (_, merge)) in merges.string_offsets().enumerate() {
            let find = |piece: &[u8]| self.tokenizer.find(piece);
            let space = merge.iter().skip(1).position(|&byte| byte == b' ').map(|at| at + 1);
            let halves = space.map(|at| (&merge[..at], &merge[at + 1..]));
            let row = halves.and_then(|(left, right)| {
                Some([find(left)?, find(right)?, find(&[left, right].concat())?, rank as u32])
            });
            rows.push(row.ok_or(format!("tokenizer.ggml.merges[{rank}]: not two tokens that make a third"))?);
        }
        rows.sort_unstable();
        rows.dedup_by_key(|row| [row[0], row[1]]);
        let n_merges = rows.len();
        let at = data.words(rows.into_iter().flatten());
        let byte = |byte: u8| {
            let is_it = |id: &u32| self.texts[*id as usize] == [byte];
            (0..self.texts.len() as u32).find(is_it)
        };
        Ok(format!("{}#define MERGES {at}UL\n#define N_MERGES {n_merges}UL\n", self.find(data, byte)))
    }
}
