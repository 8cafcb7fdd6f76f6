//! The tensors of a Hugging Face model on their way to GGUF: renamed, checked against `config.json`, and reordered.

use std::collections::HashMap;

use smidgen_core::quant::Type;

use super::families::{self, Change, Dim, Family, Row};
use super::hparams::Hparams;
use super::safetensors::Shards;
use crate::error::Error;
use crate::source::TensorInfo;

/// Names listed in an error before it says how many more there are.
const NAMES_SHOWN: usize = 4;

/// Where a tensor's rows come from.
#[derive(Clone, Debug)]
enum Origin {
    /// Tensor number `entry` of the files, of type `stored`, changed.
    Stored { entry: usize, stored: Type, change: Change },
    /// Little-endian f32, computed from the configuration.
    Computed(Vec<u8>),
}

/// Every tensor of the model in the order of the GGUF file.
pub(super) struct Weights {
    shards: Shards,
    tensors: Vec<TensorInfo>,
    origins: Vec<Origin>,
    n_heads: u64,
    n_kv_heads: u64,
    /// The tensor that was transposed last, whole.
    transposed: Option<(usize, Vec<u8>)>,
}

impl Weights {
    /// Finds every tensor of `family` in the files and checks its shape; what is missing or left over is an error.
    pub(super) fn plan(shards: Shards, family: &Family, hparams: &Hparams) -> Result<Self, Error> {
        let mut by_name: HashMap<String, usize> = HashMap::new();
        for (index, (_, entry)) in shards.entries().iter().enumerate() {
            let name = entry.name.strip_prefix(family.prefix).unwrap_or(&entry.name);
            let tied_head = name == "lm_head.weight" && hparams.tied;
            if families::is_buffer(name) || tied_head {
                continue;
            }
            if by_name.insert(name.to_string(), index).is_some() {
                let message = format!("tensor '{name}' is there with and without '{}' before its name", family.prefix);
                return Err(Error::bad(shards.path_of(index), message));
            }
        }
        let mut plan = Planner { shards: &shards, hparams, by_name, tensors: Vec::new(), origins: Vec::new() };
        if let Some(divisors) = hparams.rope.as_ref().and_then(|rope| rope.divisors(hparams.head_dim)) {
            plan.computed("rope_freqs.weight", &divisors);
        }
        let [before, layer, after] = family.tensors;
        let mut missing = Vec::new();
        plan.rows(before, None, &mut missing)?;
        for index in 0..hparams.n_layers {
            plan.rows(layer, Some(index), &mut missing)?;
        }
        plan.rows(after, None, &mut missing)?;
        let Planner { by_name, tensors, origins, .. } = plan;
        let directory = shards.path_of(0).parent().unwrap_or(shards.path_of(0)).to_path_buf();
        if !missing.is_empty() {
            let message = format!("{} of {} that config.json asks for", listed(&missing, "missing"), family.class);
            return Err(Error::bad(directory, message));
        }
        if !by_name.is_empty() {
            let mut left: Vec<String> = by_name.into_keys().collect();
            left.sort_unstable();
            let message = format!("{} that {} does not have", listed(&left, "unknown"), family.class);
            return Err(Error::bad(directory, message));
        }
        let [n_heads, n_kv_heads] = [hparams.n_heads, hparams.n_kv_heads].map(u64::from);
        Ok(Weights { shards, tensors, origins, n_heads, n_kv_heads, transposed: None })
    }

    pub(super) fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// See [`crate::source::Source::read_rows`].
    pub(super) fn read_rows(&mut self, tensor: usize, first_row: u64, out: &mut [u8]) -> Result<(), Error> {
        let info = &self.tensors[tensor];
        let row_bytes = info.kind.row_bytes(info.n_columns()).unwrap_or(0);
        let at = first_row * row_bytes;
        let (entry, stored, change) = match &self.origins[tensor] {
            Origin::Computed(bytes) => {
                out.copy_from_slice(&bytes[at as usize..][..out.len()]);
                return Ok(());
            }
            Origin::Stored { entry, stored, change } => (*entry, *stored, *change),
        };
        match change {
            Change::Keep | Change::Head => self.shards.read(entry, at, out),
            Change::Float => self.read_floats(entry, stored, at, 0.0, out),
            Change::AddOne => self.read_floats(entry, stored, at, 1.0, out),
            Change::PermuteQ => self.read_permuted(tensor, entry, self.n_heads, first_row, out),
            Change::PermuteK => self.read_permuted(tensor, entry, self.n_kv_heads, first_row, out),
            Change::Transpose => self.read_transposed(tensor, entry, at, out),
        }
    }

    /// Reads F32 from numbers stored as `stored`, with `added` on top; `at` counts bytes of F32.
    fn read_floats(&mut self, entry: usize, stored: Type, at: u64, added: f32, out: &mut [u8]) -> Result<(), Error> {
        let n = out.len() / 4;
        let width = stored.block_bytes();
        let mut bytes = vec![0; n * width];
        self.shards.read(entry, at / 4 * width as u64, &mut bytes)?;
        let mut weights = vec![0.0; n];
        // Only F32, F16 and BF16 come this far.
        let _ = stored.dequantize(&bytes, &mut weights);
        for (out, weight) in out.as_chunks_mut::<4>().0.iter_mut().zip(weights) {
            *out = (weight + added).to_le_bytes();
        }
        Ok(())
    }

    /// Reads rows in the order of rotary positions on neighbours.
    ///
    /// Here the pair of row `i` of a head is row `i + head_dim / 2`, in GGUF's llama it is the next row: row `2 i + p` of
    /// the result is row `i + p head_dim / 2` of the file.
    fn read_permuted(
        &mut self,
        tensor: usize,
        entry: usize,
        n_heads: u64,
        first_row: u64,
        out: &mut [u8],
    ) -> Result<(), Error> {
        let info = &self.tensors[tensor];
        let half = info.n_rows() / n_heads / 2;
        let row_bytes = info.kind.row_bytes(info.n_columns()).unwrap_or(0);
        for (row, out) in (first_row..).zip(out.chunks_exact_mut(row_bytes.max(1) as usize)) {
            let (head, within) = (row / (2 * half), row % (2 * half));
            let source = head * 2 * half + within / 2 + within % 2 * half;
            self.shards.read(entry, source * row_bytes, out)?;
        }
        Ok(())
    }

    /// Reads rows of the transpose; the tensor is read whole when its first row is asked for, and kept until another is.
    fn read_transposed(&mut self, tensor: usize, entry: usize, at: u64, out: &mut [u8]) -> Result<(), Error> {
        let is_kept = self.transposed.as_ref().is_some_and(|(kept, _)| *kept == tensor);
        if !is_kept {
            // The old one goes before the new one is read, so that there is only one.
            self.transposed = None;
            let info = &self.tensors[tensor];
            let (columns, rows, width) = (info.n_columns() as usize, info.n_rows() as usize, info.kind.block_bytes());
            let mut line = vec![0; rows * width];
            let mut bytes = vec![0; columns * rows * width];
            for column in 0..columns {
                self.shards.read(entry, (column * line.len()) as u64, &mut line)?;
                for (row, value) in line.chunks_exact(width).enumerate() {
                    bytes[(row * columns + column) * width..][..width].copy_from_slice(value);
                }
            }
            self.transposed = Some((tensor, bytes));
        }
        if let Some((_, bytes)) = &self.transposed {
            out.copy_from_slice(&bytes[at as usize..][..out.len()]);
        }
        // The last rows have been given: the memory can go.
        let ends = self.transposed.as_ref().is_some_and(|(_, bytes)| at as usize + out.len() == bytes.len());
        if ends {
            self.transposed = None;
        }
        Ok(())
    }
}

/// `2 missing tensors (a, b)`.
fn listed(names: &[String], what: &str) -> String {
    let shown = names.iter().take(NAMES_SHOWN).cloned().collect::<Vec<_>>().join(", ");
    let more = names.len().saturating_sub(NAMES_SHOWN);
    let more = if more > 0 { format!(", and {more} more") } else { String::new() };
    let plural = if names.len() == 1 { "" } else { "s" };
    format!("{} {what} tensor{plural} ({shown}{more})", names.len())
}

/// A plan in the making.
struct Planner<'a> {
    shards: &'a Shards,
    hparams: &'a Hparams,
    /// What has not been used yet.
    by_name: HashMap<String, usize>,
    tensors: Vec<TensorInfo>,
    origins: Vec<Origin>,
}

impl Planner<'_> {
    fn computed(&mut self, name: &str, values: &[f32]) {
        self.tensors.push(TensorInfo {
            name: name.as_bytes().to_vec(),
            dims: vec![values.len() as u64],
            kind: Type::F32,
            pinned: true,
        });
        self.origins.push(Origin::Computed(values.iter().flat_map(|value| value.to_le_bytes()).collect()));
    }

    fn rows(&mut self, groups: &[&[Row]], layer: Option<u32>, missing: &mut Vec<String>) -> Result<(), Error> {
        let numbered = |pattern: &str| match layer {
            Some(layer) => pattern.replacen('#', &layer.to_string(), 1),
            None => pattern.to_string(),
        };
        for &(there, here, shape, change) in groups.iter().copied().flatten() {
            if change == Change::Head && self.hparams.tied {
                continue;
            }
            let there = numbered(there);
            match self.by_name.remove(&there) {
                Some(entry) => self.row(entry, &numbered(here), shape, change)?,
                None => missing.push(there),
            }
        }
        Ok(())
    }

    fn row(&mut self, index: usize, name: &str, shape: &[Dim], change: Change) -> Result<(), Error> {
        let (_, entry) = &self.shards.entries()[index];
        let fail =
            |message: String| Error::bad(self.shards.path_of(index), format!("tensor '{}': {message}", entry.name));
        let wanted: Vec<u64> = shape.iter().map(|&dim| self.size(dim)).collect();
        if entry.shape != wanted {
            return Err(fail(format!("shape {:?}, but config.json leads to {wanted:?}", entry.shape)));
        }
        let stored = entry
            .kind()
            .ok_or_else(|| fail(format!("{} weights are not supported (F32, F16, BF16 are)", entry.dtype)))?;
        let mut dims = wanted;
        // GGUF names the contiguous dimension first, which a transposed tensor has first already.
        if change != Change::Transpose {
            dims.reverse();
        }
        let pinned = matches!(change, Change::Float | Change::AddOne);
        let kind = if pinned { Type::F32 } else { stored };
        self.tensors.push(TensorInfo { name: name.as_bytes().to_vec(), dims, kind, pinned });
        self.origins.push(Origin::Stored { entry: index, stored, change });
        Ok(())
    }

    fn size(&self, dim: Dim) -> u64 {
        let hparams = self.hparams;
        let of_heads = |n_heads: u32| u64::from(n_heads) * u64::from(hparams.head_dim);
        match dim {
            Dim::Vocab => hparams.n_vocab.into(),
            Dim::Positions => hparams.context_tokens.into(),
            Dim::Embd => hparams.n_embd.into(),
            Dim::Ff => hparams.n_ff.into(),
            Dim::Q => of_heads(hparams.n_heads),
            Dim::Kv => of_heads(hparams.n_kv_heads),
            Dim::Qkv => 3 * u64::from(hparams.n_embd),
            Dim::Head => hparams.head_dim.into(),
        }
    }
}
