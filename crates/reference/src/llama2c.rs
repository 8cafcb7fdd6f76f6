//! llama2.c's files, read straight: the legacy checkpoint (`.bin`) and its tokenizer, as `run.c` of that project uses them.

use std::collections::HashMap;

use crate::{Hparams, Model, Result, Rope, Tensor};

/// Reads a legacy checkpoint: seven 32-bit integers, then f32 weights, all little-endian.
///
/// # Errors
/// A header that makes no sense or weights that are cut short.
pub fn model(bytes: &[u8]) -> Result<Model> {
    let number = |index: usize| {
        let field = bytes.get(index * 4..index * 4 + 4).ok_or("the header is cut short")?;
        Ok::<_, String>(i32::from_le_bytes([field[0], field[1], field[2], field[3]]))
    };
    let size = |index| usize::try_from(number(index)?).ok().filter(|&n| n > 0).ok_or(format!("header field {index}"));
    let (dim, hidden, n_layers) = (size(0)?, size(1)?, size(2)?);
    let (n_heads, n_kv_heads, seq_len) = (size(3)?, size(4)?, size(6)?);
    // A negative vocabulary says that the output has weights of its own.
    let (n_vocab, tied) = (number(5)?.unsigned_abs() as usize, number(5)? > 0);
    let (head_dim, kv_dim) = (dim / n_heads, dim / n_heads * n_kv_heads);
    let mut weights = bytes[28..].chunks_exact(4).map(|f| f32::from_le_bytes([f[0], f[1], f[2], f[3]]));
    let mut tensors = HashMap::new();
    let mut take = |name: String, n_rows: usize, n_cols: usize| {
        let data: Vec<f32> = weights.by_ref().take(n_rows * n_cols).collect();
        let whole = data.len() == n_rows * n_cols;
        tensors.insert(name.clone(), Tensor { n_rows, n_cols, data });
        whole.then_some(()).ok_or(format!("{name} is cut short"))
    };
    take("token_embd.weight".into(), n_vocab, dim)?;
    let of_layers = [
        ("attn_norm", 1, dim),
        ("attn_q", dim, dim),
        ("attn_k", kv_dim, dim),
        ("attn_v", kv_dim, dim),
        ("attn_output", dim, dim),
        ("ffn_norm", 1, dim),
        ("ffn_gate", hidden, dim),
        ("ffn_down", dim, hidden),
        ("ffn_up", hidden, dim),
    ];
    for (name, n_rows, n_cols) in of_layers {
        for layer in 0..n_layers {
            take(format!("blk.{layer}.{name}.weight"), n_rows, n_cols)?;
        }
    }
    take("output_norm.weight".into(), 1, dim)?;
    // Cosines and sines of old, which nothing reads any more.
    take("rotation".into(), seq_len, head_dim)?;
    if !tied {
        take("output.weight".into(), n_vocab, dim)?;
    }
    let frequencies = (0..head_dim / 2).map(|pair| 10000f64.powf(-2.0 * pair as f64 / head_dim as f64)).collect();
    let rope = Some(Rope { frequencies, magnitude: 1.0, interleaved: true });
    let hparams = Hparams {
        arch: "llama".into(),
        n_layers,
        n_heads,
        n_kv_heads,
        head_dim,
        norm_eps: 1e-5,
        attention_scale: 1.0 / (head_dim as f64).sqrt(),
        window: 0,
        is_windowed: vec![false; n_layers],
        rope_windowed: rope.clone(),
        rope,
    };
    Model::new(hparams, tensors)
}

/// The BOS id of every llama2.c vocabulary; `run` ends when the model says it.
pub const BOS: u32 = 1;

/// A llama2.c vocabulary.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    pieces: Vec<Vec<u8>>,
    scores: Vec<f32>,
}

impl Tokenizer {
    /// Reads `n_vocab` pieces: each a score (f32), a length (i32) and bytes, behind one i32 that nothing here needs.
    ///
    /// # Errors
    /// A file that is cut short.
    pub fn parse(bytes: &[u8], n_vocab: usize) -> Result<Self> {
        let (mut pieces, mut scores, mut rest) = (Vec::new(), Vec::new(), bytes.get(4..).ok_or("no header")?);
        for index in 0..n_vocab {
            let cut = || format!("piece {index} is cut short");
            let (score, after) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
            let (length, after) = after.split_first_chunk::<4>().ok_or_else(cut)?;
            let length = usize::try_from(i32::from_le_bytes(*length)).map_err(|_| cut())?;
            pieces.push(after.get(..length).ok_or_else(cut)?.to_vec());
            scores.push(f32::from_le_bytes(*score));
            rest = &after[length..];
        }
        Ok(Self { pieces, scores })
    }

    fn find(&self, piece: &[u8]) -> Option<u32> {
        self.pieces.iter().position(|other| other == piece).map(|index| index as u32)
    }

    /// BOS and the ids of `text`: a space goes before it, characters that are no piece become byte ids (byte + 3), and
    /// then the neighbours whose join scores best are joined, until none can be.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut ids = vec![BOS];
        if !text.is_empty() {
            ids.extend(self.find(b" "));
        }
        for character in text.chars() {
            let mut buffer = [0; 4];
            let piece = character.encode_utf8(&mut buffer).as_bytes();
            match self.find(piece) {
                Some(id) => ids.push(id),
                None => ids.extend(piece.iter().map(|&byte| u32::from(byte) + 3)),
            }
        }
        loop {
            let mut best: Option<(f32, usize, u32)> = None;
            for at in 1..ids.len() {
                let joined = [&*self.pieces[ids[at - 1] as usize], &*self.pieces[ids[at] as usize]].concat();
                let Some(id) = self.find(&joined) else { continue };
                let score = self.scores[id as usize];
                if best.is_none_or(|(best, ..)| score > best) {
                    best = Some((score, at, id));
                }
            }
            let Some((_, at, id)) = best else { return ids };
            ids[at - 1] = id;
            ids.remove(at);
        }
    }

    /// The bytes of `ids`, without BOS and the space behind it; `<0x..>` is the byte it names.
    pub fn decode(&self, ids: &[u32]) -> Vec<u8> {
        let mut text = Vec::new();
        for (index, &id) in ids.iter().enumerate() {
            let piece = self.pieces[id as usize].as_slice();
            let after_bos = index > 0 && ids[index - 1] == BOS;
            let piece = if after_bos { piece.strip_prefix(b" ").unwrap_or(piece) } else { piece };
            let hex = piece.strip_prefix(b"<0x").and_then(|rest| rest.strip_suffix(b">"));
            let byte = hex.and_then(|hex| u8::from_str_radix(str::from_utf8(hex).ok()?, 16).ok());
            match byte {
                _ if id == BOS => {}
                Some(byte) => text.push(byte),
                None => text.extend_from_slice(piece),
            }
        }
        text
    }
}
