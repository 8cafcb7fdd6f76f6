//! Every type that llama.cpp gives every tensor in every mixture, against the recipes here.

use serde_json::Value;
use smidgen_compress::recipe::fallback::Fallback;
use smidgen_compress::recipe::{Choices, Recipe, Shape, Tensor};
use smidgen_core::quant::Type;

/// Written by llama.cpp through `tools/llama_cpp_mixtures.py`.
const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/quant/llama_cpp_mixtures.json");

/// The matrices of a model in three parts: before its layers, each layer, after them; with the lengths of their rows.
struct Matrices {
    before: Vec<(String, u64)>,
    layers: Vec<Vec<(String, u64)>>,
    after: Vec<(String, u64)>,
}

impl Matrices {
    /// As the tool makes them.
    fn of(model: &Value) -> Self {
        let number = |key: &str| model[key].as_u64().unwrap();
        let (n_embd, n_ff) = (number("n_embd"), number("n_ff"));
        let is_gpt2 = model["arch"] == "gpt2";
        let mut before = vec![("token_embd.weight".to_owned(), n_embd)];
        if is_gpt2 {
            before.push(("position_embd.weight".to_owned(), n_embd));
        }
        let names: &[&str] = match is_gpt2 {
            true => &["attn_qkv", "attn_output", "ffn_up", "ffn_down"],
            false => &["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"],
        };
        let columns = |name: &str| if name == "ffn_down" { n_ff } else { n_embd };
        let layer =
            |index| names.iter().map(|name| (format!("blk.{index}.{name}.weight"), columns(name))).collect::<Vec<_>>();
        let after = if model["tied"] == true { Vec::new() } else { vec![("output.weight".to_owned(), n_embd)] };
        Matrices { before, layers: (0..number("n_layers")).map(layer).collect(), after }
    }

    fn tensors(&self) -> Vec<Tensor> {
        let all = self.before.iter().chain(self.layers.iter().flatten()).chain(&self.after);
        let tensor = |(name, n_columns): &(String, u64)| Tensor {
            name: name.clone(),
            kind: Type::F32,
            n_columns: *n_columns,
            n_rows: 2,
            pinned: name == "position_embd.weight",
        };
        all.map(tensor).collect()
    }
}

/// The letters of `answer` with its runs of layers written out.
fn spelled_out(answer: &str) -> String {
    let run = |word: &str| match word.split_once('*') {
        Some((letters, n)) => letters.repeat(n.parse().unwrap()),
        None => word.to_owned(),
    };
    answer.split(' ').map(run).collect()
}

#[test]
fn every_tensor_has_the_type_that_llama_cpp_gives_it() {
    let golden: Value = serde_json::from_slice(&std::fs::read(GOLDEN).unwrap()).unwrap();
    let mut n_compared = 0;
    for model in golden["models"].as_array().unwrap() {
        let number = |key: &str| model[key].as_u64().unwrap();
        let shape = Shape {
            arch: model["arch"].as_str().unwrap().to_owned(),
            n_layers: number("n_layers"),
            n_heads: number("n_heads"),
            n_kv_heads: number("n_kv_heads"),
        };
        let tensors = Matrices::of(model).tensors();
        // Rules go by the order of the layers, and a file may have any.
        let backwards: Vec<Tensor> = tensors.iter().rev().cloned().collect();
        for (name, answers) in model["types"].as_object().unwrap() {
            let recipe = Recipe::find(name).unwrap();
            for has_importance in [false, true] {
                let plain = answers.get("plain").filter(|_| !has_importance);
                let Some(answer) = plain.or(answers.get("imatrix").or(answers.get("plain")).filter(|_| has_importance))
                else {
                    continue;
                };
                let choices = Choices { has_importance, ..Choices::default() };
                let ours = recipe.types(&shape, &tensors, &choices);
                let mut reversed = recipe.types(&shape, &backwards, &choices);
                reversed.reverse();
                assert_eq!(ours, reversed, "{name}");
                let letters = spelled_out(answer.as_str().unwrap());
                assert_eq!(letters.len(), tensors.len());
                for ((letter, tensor), kind) in letters.chars().zip(&tensors).zip(ours) {
                    let theirs = golden["letters"][letter.to_string()].as_str().unwrap();
                    let fits = kind.row_bytes(tensor.n_columns).is_some();
                    let kind = if fits { Some(kind) } else { Fallback::Llama.instead_of(kind, tensor.n_columns) };
                    let place =
                        format!("{name}, {} of {} layers, imatrix {has_importance}", tensor.name, shape.n_layers);
                    assert_eq!(kind.unwrap().name(), theirs, "{place}");
                    n_compared += 1;
                }
            }
        }
    }
    assert!(n_compared > 50_000, "only {n_compared} tensors were compared");
}

/// llama.cpp keeps learned positions in f32; ours are read nowhere else, so they need not.
#[test]
fn our_recipes_shrink_the_table_of_learned_positions() {
    let shape = Shape { arch: "gpt2".into(), n_layers: 1, n_heads: 2, n_kv_heads: 2 };
    let table =
        |n_rows| Tensor { name: "position_embd.weight".into(), kind: Type::F32, n_columns: 100, n_rows, pinned: true };
    let chosen = |name: &str, pure| {
        let choices = Choices { pure, ..Choices::default() };
        Recipe::find(name).unwrap().types(&shape, &[table(64), table(1)], &choices)
    };
    assert_eq!(chosen("Q2_W", false), [Type::Q8_W, Type::F32]);
    assert_eq!(chosen("Q8_W", false), [Type::Q8_W, Type::F32]);
    assert_eq!(chosen("Q4_W", true), [Type::Q4_W, Type::F32]);
    assert_eq!(chosen("Q4_0", true), [Type::F32, Type::F32]);
}
