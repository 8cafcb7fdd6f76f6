//! The type of every tensor: what the recipe says, what the flags change, and what to do about rows that do not fit.

use regex_lite::Regex;
use smidgen_compress::recipe::fallback::Fallback;
use smidgen_compress::recipe::{Choices, Recipe, Shape, Tensor};
use smidgen_core::gguf::Gguf;
use smidgen_core::quant::Type;
use smidgen_host::source::TensorInfo;

/// Tensors that a message lists before it says how many more there are.
const NAMES_SHOWN: usize = 4;

/// `--type REGEX=TYPE`: tensors whose names match get this type.
#[derive(Clone, Debug)]
pub struct Override {
    text: String,
    pattern: Regex,
    kind: Type,
}

/// Reads `REGEX=TYPE`.
///
/// # Errors
/// What is wrong with either.
pub fn parse_override(text: &str) -> Result<Override, String> {
    // A pattern may hold an equals sign, a type may not.
    let (pattern, kind) = text.rsplit_once('=').ok_or("REGEX=TYPE is needed, as in 'ffn_down=q6_k'")?;
    let kind = super::names::weight_type(kind)?;
    let regex = Regex::new(pattern).map_err(|error| format!("'{}': {error}", pattern.escape_default()))?;
    Ok(Override { text: pattern.to_owned(), pattern: regex, kind })
}

/// What was asked for.
#[derive(Clone, Debug)]
pub struct Wish {
    /// The recipe.
    pub recipe: Recipe,
    /// What the flags change in it.
    pub choices: Choices,
    /// Types for single tensors; the last that matches counts.
    pub overrides: Vec<Override>,
}

/// What the recipe and the flags say.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// The type of each tensor.
    pub types: Vec<Type>,
    /// The tensors whose rows do not fit, for a message.
    pub misfits: Vec<String>,
}

/// The model's tensors, as recipes want to know them.
pub fn tensors(infos: &[TensorInfo]) -> Vec<Tensor> {
    let tensor = |info: &TensorInfo| Tensor {
        name: info.shown(),
        kind: info.kind,
        n_columns: info.n_columns(),
        n_rows: info.n_rows(),
        pinned: info.pinned,
    };
    infos.iter().map(tensor).collect()
}

/// The model's numbers, as recipes want to know them.
///
/// # Errors
/// A number that is missing, or a model with experts, for which llama.cpp's mixtures have rules that are not here.
pub fn shape(gguf: &Gguf<'_>) -> Result<Shape, String> {
    let arch =
        gguf.get("general.architecture").and_then(|value| value.as_str()).ok_or("general.architecture is missing")?;
    let arch = String::from_utf8_lossy(arch).into_owned();
    let number = |key: &str| {
        let value = gguf.get(&format!("{arch}.{key}"))?;
        value.as_u64().or_else(|| value.as_array()?.iter().next()?.as_u64())
    };
    let n_layers = number("block_count").ok_or_else(|| format!("{arch}.block_count is missing"))?;
    if let Some(n_experts) = number("expert_count").filter(|&n| n > 0) {
        return Err(format!("{arch}.expert_count is {n_experts}; models with experts cannot be quantized here"));
    }
    // A model without heads has no attention whose values would deserve more bits.
    let n_heads = number("attention.head_count").unwrap_or(1);
    let n_kv_heads = number("attention.head_count_kv").unwrap_or(n_heads);
    Ok(Shape { arch, n_layers, n_heads, n_kv_heads })
}

impl Wish {
    /// The type of each of `tensors`, with `fallback` for rows that do not fit.
    ///
    /// # Errors
    /// An override that matches nothing.
    pub fn choose(&self, shape: &Shape, tensors: &[Tensor], fallback: Option<Fallback>) -> Result<Chosen, String> {
        let choices = Choices { any_width: fallback == Some(Fallback::AnyWidth), ..self.choices };
        let mut types = self.recipe.types(shape, tensors, &choices);
        self.override_types(&mut types, tensors)?;
        let mut misfits = Vec::new();
        for (kind, tensor) in types.iter_mut().zip(tensors) {
            if kind.row_bytes(tensor.n_columns).is_some() {
                continue;
            }
            match fallback.and_then(|fallback| fallback.instead_of(*kind, tensor.n_columns)) {
                Some(other) => *kind = other,
                None => misfits.push(format!("{} ({} columns, {})", tensor.name, tensor.n_columns, kind.name())),
            }
        }
        Ok(Chosen { types, misfits })
    }

    /// Applies `--type`.
    fn override_types(&self, types: &mut [Type], tensors: &[Tensor]) -> Result<(), String> {
        for Override { text, pattern, kind } in &self.overrides {
            let matching = || tensors.iter().enumerate().filter(|(_, tensor)| pattern.is_match(&tensor.name));
            let mut n_changed = 0;
            for (index, _) in matching().filter(|(_, tensor)| !self.recipe.keeps(tensor)) {
                types[index] = *kind;
                n_changed += 1;
            }
            if n_changed == 0 {
                let text = text.escape_default();
                return Err(match matching().next() {
                    Some((_, tensor)) => {
                        format!("--type '{text}' matches only tensors that keep their type, such as {}", tensor.name)
                    }
                    None => format!("--type '{text}' matches no tensor; 'smidgen inspect' lists their names"),
                });
            }
        }
        Ok(())
    }
}

/// The first few of `names`, and how many more there are.
pub fn listed(names: &[String]) -> String {
    smidgen_host::listed(names, NAMES_SHOWN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> (Shape, Vec<Tensor>) {
        let shape = Shape { arch: "llama".into(), n_layers: 2, n_heads: 4, n_kv_heads: 4 };
        let tensor = |name: &str, n_columns, n_rows| Tensor {
            name: name.into(),
            kind: Type::F32,
            n_columns,
            n_rows,
            pinned: n_rows == 1,
        };
        let tensors = vec![
            tensor("token_embd.weight", 256, 512),
            tensor("blk.0.attn_norm.weight", 256, 1),
            tensor("blk.0.attn_q.weight", 256, 256),
            tensor("blk.0.ffn_down.weight", 172, 256),
            tensor("output.weight", 256, 512),
        ];
        (shape, tensors)
    }

    fn wish(overrides: &[&str]) -> Wish {
        Wish {
            recipe: Recipe::find("q8_0").unwrap(),
            choices: Choices::default(),
            overrides: overrides.iter().map(|text| parse_override(text).unwrap()).collect(),
        }
    }

    #[test]
    fn the_last_override_counts_and_norms_stay() {
        let (shape, tensors) = model();
        let chosen = wish(&["weight=f16", "attn_q|embd=q4_0"]).choose(&shape, &tensors, None).unwrap();
        assert_eq!(chosen.types, [Type::Q4_0, Type::F32, Type::Q4_0, Type::F16, Type::F16]);
        assert!(chosen.misfits.is_empty());
    }

    #[test]
    fn an_override_that_does_nothing_is_refused() {
        let (shape, tensors) = model();
        assert!(wish(&["ffn_gate=f16"]).choose(&shape, &tensors, None).unwrap_err().contains("matches no tensor"));
        assert!(wish(&["_norm=f16"]).choose(&shape, &tensors, None).unwrap_err().contains("keep their type"));
        assert!(parse_override("a=b=q4_0").is_ok());
        for wrong in ["q4_0", "(=q4_0", "a=", "a=q4"] {
            assert!(parse_override(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_row_that_does_not_fit_gets_only_what_was_asked_for() {
        let (shape, tensors) = model();
        let with = |fallback| wish(&[]).choose(&shape, &tensors, fallback).unwrap();
        let refused = ["blk.0.ffn_down.weight (172 columns, Q8_0)"];
        assert_eq!(with(None).misfits, refused);
        assert_eq!(with(Some(Fallback::To(Type::Q4_0))).misfits, refused);
        assert_eq!(with(Some(Fallback::Llama)).types[3], Type::F16);
        assert_eq!(with(Some(Fallback::AnyWidth)).types[3], Type::Q8_W);
    }

    #[test]
    fn embeddings_and_outputs_are_chosen_apart() {
        let (shape, tensors) = model();
        let choices = Choices { embedding: Some(Type::Q4_0), keep_output: true, ..Choices::default() };
        let chosen = Wish { choices, ..wish(&[]) }.choose(&shape, &tensors, None).unwrap();
        assert_eq!((chosen.types[0], chosen.types[4]), (Type::Q4_0, Type::F32));
        let choices = Choices { output: Some(Type::F16), ..Choices::default() };
        let chosen = Wish { choices, ..wish(&[]) }.choose(&shape, &tensors, None).unwrap();
        assert_eq!((chosen.types[0], chosen.types[4]), (Type::Q8_0, Type::F16));
        // Where the embedding is the output too, what is said of the output is said of it.
        let chosen = Wish { choices, ..wish(&[]) }.choose(&shape, &tensors[..4], None).unwrap();
        assert_eq!(chosen.types[0], Type::F16);
    }
}
