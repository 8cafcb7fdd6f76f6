//! Where everything lies in a llama2.c checkpoint.

use smidgen_core::bytes::{Cursor, Endian};
use smidgen_core::quant::Type;

use crate::error::Flaw;
use crate::source::TensorInfo;

/// `ak42`, the first word of version 1 and 2.
pub(super) const MAGIC: u32 = 0x616b_3432;
/// Weights of version 1 and 2 begin here; the legacy header is 28 bytes.
pub(super) const HEADER_BYTES: u64 = 256;
const LEGACY_HEADER_BYTES: u64 = 28;
/// Many times the layers of any model; without a limit a small file could ask for a description of millions.
const MOST_LAYERS: u32 = 4096;

/// How weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Legacy,
    Floats,
    /// Signed bytes with one f32 scale for each group of this many.
    Groups(u64),
}

/// The checked header of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The names are the field's own.
pub struct Checkpoint {
    version: Version,
    tied: bool,
    pub n_embd: u32,
    pub n_ff: u32,
    pub n_layers: u32,
    pub n_heads: u32,
    pub n_kv_heads: u32,
    pub n_vocab: u32,
    pub context_tokens: u32,
}

/// Reads the header of a checkpoint of `file_bytes` bytes from its first bytes (256, or the whole file when it is shorter).
///
/// # Errors
/// A field that is missing or impossible, or a file whose size is not what the header leads to.
pub fn parse_header(bytes: &[u8], file_bytes: u64) -> Result<Checkpoint, Flaw> {
    let mut cursor = Cursor::new(bytes, Endian::Little);
    let truncated = |field: &str| Flaw::new(format!("the file ends inside the header ({field})"));
    let has_magic = cursor.clone().u32() == Some(MAGIC);
    let mut version = 0;
    if has_magic {
        cursor.u32();
        version = cursor.i32().ok_or_else(|| truncated("version"))?;
        if !(1..=2).contains(&version) {
            return Err(Flaw::new(format!("at byte 4: llama2.c version {version} is not known (legacy, 1 and 2 are)")));
        }
    }
    let mut field = |name: &str| cursor.i32().ok_or_else(|| truncated(name)).map(i64::from);
    let n_embd = field("dim")?;
    let n_ff = field("hidden_dim")?;
    let n_layers = field("n_layers")?;
    let n_heads = field("n_heads")?;
    let n_kv_heads = field("n_kv_heads")?;
    let n_vocab = field("vocab_size")?;
    let context_tokens = field("max_seq_len")?;
    // A legacy file says with a negative vocabulary size that the output layer has weights of its own.
    let mut tied = n_vocab > 0;
    let mut stored = Version::Legacy;
    if has_magic {
        tied = cursor.u8().ok_or_else(|| truncated("shared_classifier"))? != 0;
        stored = Version::Floats;
        if version == 2 {
            let group = cursor.i32().ok_or_else(|| truncated("group_size"))?;
            if group < 1 {
                return Err(Flaw::new(format!("group_size {group} is not possible")));
            }
            stored = Version::Groups(group as u64);
        }
    }
    let positive = |name: &str, value: i64| match u32::try_from(value) {
        Ok(value) if value > 0 => Ok(value),
        _ => Err(Flaw::new(format!("{name} {value} is not possible; is this a llama2.c model?"))),
    };
    let checkpoint = Checkpoint {
        version: stored,
        tied,
        n_embd: positive("dim", n_embd)?,
        n_ff: positive("hidden_dim", n_ff)?,
        n_layers: positive("n_layers", n_layers)?,
        n_heads: positive("n_heads", n_heads)?,
        n_kv_heads: positive("n_kv_heads", n_kv_heads)?,
        n_vocab: positive("vocab_size", if has_magic { n_vocab } else { n_vocab.abs() })?,
        context_tokens: positive("max_seq_len", context_tokens)?,
    };
    checkpoint.check(file_bytes)?;
    Ok(checkpoint)
}

impl Checkpoint {
    fn check(&self, file_bytes: u64) -> Result<(), Flaw> {
        if !self.n_embd.is_multiple_of(self.n_heads) || !(self.n_embd / self.n_heads).is_multiple_of(2) {
            return Err(Flaw::new(format!("dim {} does not make {} heads of even size", self.n_embd, self.n_heads)));
        }
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            let message = format!("n_heads {} is not a multiple of n_kv_heads {}", self.n_heads, self.n_kv_heads);
            return Err(Flaw::new(message));
        }
        if self.n_layers > MOST_LAYERS {
            return Err(Flaw::new(format!("n_layers {} is not possible (at most {MOST_LAYERS})", self.n_layers)));
        }
        let needed = self.file_bytes().ok_or_else(|| Flaw::new("the header's sizes overflow"))?;
        if let Version::Groups(group) = self.version {
            let [q, kv, _, w1, embd] = self.sizes().map(|(size, _)| size);
            if [q, kv, w1, embd].iter().any(|size| !size.is_multiple_of(group)) {
                return Err(Flaw::new(format!("group_size {group} does not divide the weights")));
            }
        }
        if needed != file_bytes {
            let message = format!(
                "the header leads to a file of {needed} bytes but it has {file_bytes} (truncated, or not llama2.c?)"
            );
            return Err(Flaw::new(message));
        }
        Ok(())
    }

    fn n_kv(&self) -> u64 {
        u64::from(self.n_embd) / u64::from(self.n_heads) * u64::from(self.n_kv_heads)
    }

    /// Weights in one tensor, and how many such tensors there are: query (and attention output), key (and value),
    /// norms, feed-forward, embedding (and output).
    fn sizes(&self) -> [(u64, u64); 5] {
        let [embd, ff, layers, vocab] = [self.n_embd, self.n_ff, self.n_layers, self.n_vocab].map(u64::from);
        // Each product is of two 32-bit numbers.
        [
            (embd * embd, 2 * layers),
            (self.n_kv() * embd, 2 * layers),
            (embd, 2 * layers + 1),
            (ff * embd, 3 * layers),
            (vocab * embd, if self.tied { 1 } else { 2 }),
        ]
    }

    /// The size of the file that this header leads to.
    fn file_bytes(&self) -> Option<u64> {
        let mut total = if self.version == Version::Legacy { LEGACY_HEADER_BYTES } else { HEADER_BYTES };
        for (index, (size, count)) in self.sizes().into_iter().enumerate() {
            let bytes = match self.version {
                // Norms are floats in every version.
                Version::Groups(group) if index != 2 => size.checked_add((size / group).checked_mul(4)?)?,
                _ => size.checked_mul(4)?,
            };
            total = total.checked_add(bytes.checked_mul(count)?)?;
        }
        if self.version == Version::Legacy {
            let frequencies = u64::from(self.context_tokens) * u64::from(self.n_embd / self.n_heads);
            total = total.checked_add(frequencies.checked_mul(4)?)?;
        }
        Some(total)
    }
}

/// How the numbers of a tensor are stored.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stored {
    /// Little-endian f32.
    Floats,
    /// Signed bytes, with the f32 scales of their groups elsewhere.
    Groups { group: u64, scales_at: u64 },
}

/// Where a tensor's data lies in the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) at: u64,
    pub(super) stored: Stored,
}

/// One kind of tensor in file order: its GGUF name (of a layer, when it begins with a dot), columns, rows.
type Kind = (&'static str, u64, u64);

/// The tensors of a checkpoint in GGUF's order with their places; `exact` makes F32 of int8 groups.
pub(super) fn tensors(model: &Checkpoint, exact: bool) -> (Vec<TensorInfo>, Vec<Place>) {
    let [embd, ff, vocab] = [model.n_embd, model.n_ff, model.n_vocab].map(u64::from);
    let kv = model.n_kv();
    let token_embd = ("token_embd.weight", embd, vocab);
    let attention: [Kind; 4] = [
        (".attn_q.weight", embd, embd),
        (".attn_k.weight", embd, kv),
        (".attn_v.weight", embd, kv),
        (".attn_output.weight", embd, embd),
    ];
    let feed_forward: [Kind; 3] =
        [(".ffn_gate.weight", embd, ff), (".ffn_down.weight", ff, embd), (".ffn_up.weight", embd, ff)];
    let attn_norm = (".attn_norm.weight", embd, 1);
    let ffn_norm = (".ffn_norm.weight", embd, 1);
    let output_norm = ("output_norm.weight", embd, 1);
    let mut order: Vec<Kind> = Vec::new();
    if model.version == Version::Legacy {
        order.extend([token_embd, attn_norm]);
        order.extend(attention);
        order.push(ffn_norm);
        order.extend(feed_forward);
        order.push(output_norm);
    } else {
        order.extend([attn_norm, ffn_norm, output_norm, token_embd]);
        order.extend(attention);
        order.extend(feed_forward);
    }
    let mut walk = Walk { at: HEADER_BYTES, version: model.version, exact, found: Vec::new() };
    if model.version == Version::Legacy {
        walk.at = LEGACY_HEADER_BYTES;
    }
    for (name, columns, rows) in order {
        if name.starts_with('.') {
            (0..model.n_layers).for_each(|layer| walk.tensor(&format!("blk.{layer}{name}"), columns, rows));
        } else {
            walk.tensor(name, columns, rows);
        }
    }
    if model.version == Version::Legacy {
        // Tables of cosines and sines, which every reader computes itself.
        walk.at += u64::from(model.context_tokens) * u64::from(model.n_embd / model.n_heads) * 4;
    }
    if !model.tied {
        walk.tensor("output.weight", embd, vocab);
    }
    walk.found.into_iter().unzip()
}

/// A walk over the weights of a file.
struct Walk {
    at: u64,
    version: Version,
    exact: bool,
    found: Vec<(TensorInfo, Place)>,
}

impl Walk {
    fn tensor(&mut self, name: &str, columns: u64, rows: u64) {
        let n = columns * rows;
        let is_norm = rows == 1 && name.ends_with("norm.weight");
        let mut place = Place { at: self.at, stored: Stored::Floats };
        let mut kind = Type::F32;
        match self.version {
            Version::Groups(group) if !is_norm => {
                place.stored = Stored::Groups { group, scales_at: self.at + n };
                // Blocks of 32 lie within one group and one row when both lengths are multiples of 32.
                if !self.exact && group.is_multiple_of(32) && columns.is_multiple_of(32) {
                    kind = Type::Q8_0;
                }
                self.at += n + n / group * 4;
            }
            _ => self.at += n * 4,
        }
        let dims = if is_norm { vec![columns] } else { vec![columns, rows] };
        self.found.push((TensorInfo { name: name.as_bytes().to_vec(), dims, kind, pinned: is_norm }, place));
    }
}

/// Whole rows of a version 2 tensor as they are stored.
pub(super) struct Groups<'a> {
    /// Index in the tensor of the first of `values`.
    pub(super) first: u64,
    /// Values that share a scale.
    pub(super) group: u64,
    /// Index in the tensor of the first of `scales`.
    pub(super) first_group: u64,
    pub(super) values: &'a [u8],
    /// Little-endian f32.
    pub(super) scales: &'a [u8],
}

impl Groups<'_> {
    /// Writes the values as `kind`, F32 or Q8_0.
    pub(super) fn write(&self, kind: Type, out: &mut [u8]) -> Result<(), String> {
        let scales = self.scales.as_chunks::<4>().0;
        let scale = |index: usize| {
            let group = (self.first + index as u64) / self.group;
            f32::from_le_bytes(scales[(group - self.first_group) as usize])
        };
        if kind == Type::Q8_0 {
            for (index, block) in out.as_chunks_mut::<34>().0.iter_mut().enumerate() {
                let scale = scale(index * 32);
                // The largest f16; a scale beyond it, or one that is not a number, is no scale of weights.
                if scale.abs() > 65504.0 || scale.is_nan() {
                    return Err(format!("weight {}: a scale of {scale}", self.first + index as u64 * 32));
                }
                // Fails for no type that this function is called with.
                let _ = Type::F16.quantize(&[scale], &mut block[..2]);
                block[2..].copy_from_slice(&self.values[index * 32..][..32]);
            }
        } else {
            for (index, out) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                *out = (f32::from(self.values[index] as i8) * scale(index)).to_le_bytes();
            }
        }
        Ok(())
    }
}
