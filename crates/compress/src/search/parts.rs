//! The parts of a model that get a type each: single matrices, or like matrices of neighbouring layers where there are many.

use crate::recipe::{Tensor, is_kept};
use std::collections::BTreeMap;

/// More parts than this are not measured one by one.
const MOST_PARTS: usize = 64;

/// Matrices that get one type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// For people: the name of its matrix, or `blk.0-3.ffn_up.weight`.
    pub name: String,
    /// Its tensors, by their numbers.
    pub tensors: Vec<usize>,
}

/// The parts of a model of `tensors`; those that keep their type are in none.
pub fn parts(tensors: &[Tensor]) -> Vec<Part> {
    let matrices: Vec<usize> = (0..tensors.len()).filter(|&index| !is_kept(&tensors[index])).collect();
    let name = |index: usize| tensors[index].name.as_str();
    if matrices.len() <= MOST_PARTS {
        return matrices.iter().map(|&index| Part { name: name(index).to_owned(), tensors: vec![index] }).collect();
    }
    let mut parts = Vec::new();
    let mut of_layers: BTreeMap<&str, Vec<(u64, usize)>> = BTreeMap::new();
    for index in matrices {
        match layer_and_role(name(index)) {
            Some((layer, role)) => of_layers.entry(role).or_default().push((layer, index)),
            None => parts.push(Part { name: name(index).to_owned(), tensors: vec![index] }),
        }
    }
    let n_bands = (MOST_PARTS.saturating_sub(parts.len()) / of_layers.len().max(1)).max(1);
    for (role, mut matrices) in of_layers {
        matrices.sort_unstable();
        for band in matrices.chunks(matrices.len().div_ceil(n_bands)) {
            // A chunk is never empty.
            let (first, last) = (band[0].0, band[band.len() - 1].0);
            let name = if first == last { format!("blk.{first}.{role}") } else { format!("blk.{first}-{last}.{role}") };
            parts.push(Part { name, tensors: band.iter().map(|&(_, index)| index).collect() });
        }
    }
    parts
}

/// `7` and `ffn_up.weight` of `blk.7.ffn_up.weight`.
fn layer_and_role(name: &str) -> Option<(u64, &str)> {
    let (layer, role) = name.strip_prefix("blk.")?.split_once('.')?;
    Some((layer.parse().ok()?, role))
}

#[cfg(test)]
mod tests {
    use super::*;
    use smidgen_core::quant::Type;

    fn model(n_layers: usize) -> Vec<Tensor> {
        let tensor = |name: String, n_rows| Tensor { name, kind: Type::F32, n_columns: 64, n_rows, pinned: false };
        let mut tensors = vec![tensor("token_embd.weight".into(), 64)];
        for layer in 0..n_layers {
            tensors.push(tensor(format!("blk.{layer}.attn_norm.weight"), 1));
            tensors.extend(["attn_q", "ffn_up"].map(|role| tensor(format!("blk.{layer}.{role}.weight"), 64)));
        }
        tensors
    }

    #[test]
    fn a_small_model_is_measured_matrix_by_matrix() {
        let parts = parts(&model(3));
        assert_eq!(parts.len(), 7);
        assert_eq!(parts[1], Part { name: "blk.0.attn_q.weight".into(), tensors: vec![2] });
    }

    #[test]
    fn a_large_model_is_measured_in_bands_of_layers() {
        let tensors = model(100);
        let parts = parts(&tensors);
        assert!(parts.len() <= MOST_PARTS && parts.len() > MOST_PARTS / 2, "{}", parts.len());
        assert_eq!(parts[1].name, "blk.0-3.attn_q.weight");
        let mut all: Vec<usize> = parts.iter().flat_map(|part| part.tensors.clone()).collect();
        all.sort_unstable();
        let matrices: Vec<usize> = (0..tensors.len()).filter(|&index| tensors[index].n_rows > 1).collect();
        assert_eq!(all, matrices, "every matrix is in one part");
    }
}
