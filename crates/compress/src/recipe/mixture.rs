//! llama.cpp's rules for its mixtures: which tensors of which layers get more bits, or fewer, than the others.

use super::{Choices, EMBEDDING, Mixture, OUTPUT, POSITIONS, Recipe, Shape, Tensor};
use smidgen_core::quant::Type;

/// The layer that a tensor called `name` belongs to; those that belong to none come first.
pub(super) fn layer(name: &str) -> Option<u64> {
    name.strip_prefix("blk.")?.split_once('.')?.0.parse().ok()
}

/// What a matrix is for, as far as the rules care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Output,
    Embedding,
    Query,
    Key,
    /// The values, or a matrix that has them together with queries and keys.
    Value,
    AttentionOutput,
    Gate,
    Up,
    Down,
    Other,
}

fn role(name: &str) -> Role {
    const PARTS: &[(&str, Role)] = &[
        ("attn_qkv.weight", Role::Value),
        ("attn_kv_b.weight", Role::Value),
        ("attn_v.weight", Role::Value),
        ("attn_k.weight", Role::Key),
        ("attn_q.weight", Role::Query),
        ("attn_output.weight", Role::AttentionOutput),
        ("ffn_up", Role::Up),
        ("ffn_gate", Role::Gate),
        ("ffn_down", Role::Down),
    ];
    match name {
        OUTPUT => Role::Output,
        EMBEDDING => Role::Embedding,
        _ => PARTS.iter().find(|(part, _)| name.contains(part)).map_or(Role::Other, |&(_, role)| role),
    }
}

/// The rules on their way through a model, layer by layer.
pub(super) struct Rules<'a> {
    recipe: &'a Recipe,
    /// Queries share keys and values by four or more.
    shares_by_four: bool,
    /// Llama 2 and 3 of 70 billion weights, whose values get more bits.
    is_70b: bool,
    has_importance: bool,
    any_width: bool,
    n_layers: u64,
    /// Matrices of values in the model, and those seen.
    n_values: u64,
    seen_values: u64,
    /// Gates, ups and downs seen.
    seen_gates: u64,
    seen_ups: u64,
    seen_downs: u64,
}

/// The first and the last eighth of the layers, and every third between them.
fn deserves_more(layer: u64, n_layers: u64) -> bool {
    let eighth = n_layers / 8;
    layer < eighth || layer >= 7 * n_layers / 8 || (layer - eighth) % 3 == 2
}

/// What the embedding and the output matrix get. In a tied model they meet every token twice; `docs/any-width-study.md` has what
/// their bits are worth.
fn two_bits_more(kind: Type) -> Type {
    match kind {
        Type::Q2_W => Type::Q4_W,
        Type::Q3_W => Type::Q5_W,
        Type::Q4_W => Type::Q6_W,
        _ => Type::Q8_W,
    }
}

/// The number of the next one, counted from 0.
fn count(seen: &mut u64) -> u64 {
    *seen += 1;
    *seen - 1
}

impl<'a> Rules<'a> {
    pub(super) fn new(recipe: &'a Recipe, shape: &Shape, tensors: &[Tensor], choices: &Choices) -> Self {
        let n_values = tensors.iter().filter(|tensor| role(&tensor.name) == Role::Value).count() as u64;
        Rules {
            recipe,
            shares_by_four: shape.n_heads.checked_div(shape.n_kv_heads).is_some_and(|sharing| sharing >= 4),
            is_70b: shape.arch == "llama" && shape.n_layers == 80 && shape.n_heads != shape.n_kv_heads,
            has_importance: choices.has_importance,
            any_width: choices.any_width,
            n_layers: shape.n_layers,
            n_values,
            seen_values: 0,
            seen_gates: 0,
            seen_ups: 0,
            seen_downs: 0,
        }
    }

    /// The type of the next tensor in the order of the layers; `tied` when the token embedding is the output matrix too.
    pub(super) fn next(&mut self, tensor: &Tensor, tied: bool) -> Type {
        let mixture = self.recipe.mixture;
        if mixture == Mixture::Uniform {
            return self.recipe.base;
        }
        let role = role(&tensor.name);
        if mixture == Mixture::AnyWidth {
            return match role {
                Role::Output | Role::Embedding => two_bits_more(self.recipe.base),
                _ if tensor.name == POSITIONS => Type::Q8_W,
                _ => self.recipe.base,
            };
        }
        if role == Role::Output || (role == Role::Embedding && tied) {
            return self.output(tensor.n_columns);
        }
        if mixture == Mixture::Experts {
            // Only experts have that type, and no model that runs here has experts.
            return Type::Q8_0;
        }
        match role {
            Role::Embedding => self.embedding(),
            Role::Value => {
                let index = count(&mut self.seen_values);
                let kind = self.values(index);
                let is_narrow = matches!(kind, Type::Q3_K | Type::Q4_K);
                if self.is_70b && is_narrow && !self.is_low_bit() { Type::Q5_K } else { kind }
            }
            Role::Query | Role::Key => match mixture {
                Mixture::IQ3_XS => Type::IQ3_XXS,
                Mixture::IQ3_XXS => Type::IQ2_S,
                _ => self.recipe.base,
            },
            Role::AttentionOutput => self.attention_output(),
            Role::Down => {
                let index = count(&mut self.seen_downs);
                self.down(index)
            }
            Role::Gate => {
                let index = count(&mut self.seen_gates);
                self.gate_or_up(index)
            }
            Role::Up => {
                let index = count(&mut self.seen_ups);
                self.gate_or_up(index)
            }
            Role::Output | Role::Other => self.recipe.base,
        }
    }

    /// Whether this is one of the mixtures below 3 bits that have rules of their own.
    fn is_low_bit(&self) -> bool {
        matches!(self.recipe.mixture, Mixture::IQ1 | Mixture::IQ2 | Mixture::IQ2_S)
    }

    fn output(&self, n_columns: u64) -> Type {
        let base = self.recipe.base;
        let better = match self.recipe.mixture {
            Mixture::Experts => Type::Q8_0,
            Mixture::IQ1 | Mixture::IQ2 | Mixture::IQ2_S | Mixture::IQ3_XXS => Type::Q5_K,
            _ if base == Type::Q8_0 => Type::Q8_0,
            _ => Type::Q6_K,
        };
        // Not a fall-back from what was asked for, but the rule itself: Q8_0 is the next better type.
        if self.any_width || better.row_bytes(n_columns).is_some() { better } else { Type::Q8_0 }
    }

    fn embedding(&self) -> Type {
        match self.recipe.mixture {
            Mixture::IQ1 | Mixture::IQ2 => Type::Q2_K,
            Mixture::IQ2_S | Mixture::IQ3_XXS => Type::IQ3_S,
            Mixture::Ternary => Type::Q4_K,
            _ => self.recipe.base,
        }
    }

    fn values(&self, index: u64) -> Type {
        let base = self.recipe.base;
        let shared = |often: Type, seldom: Type| if self.shares_by_four { often } else { seldom };
        match self.recipe.mixture {
            Mixture::IQ1 | Mixture::IQ2 => shared(Type::Q4_K, Type::Q2_K),
            Mixture::IQ2_S => shared(Type::Q4_K, Type::IQ3_S),
            Mixture::Q2_K => shared(Type::Q4_K, Type::Q3_K),
            Mixture::IQ3_XXS => shared(Type::Q4_K, if self.has_importance { Type::IQ3_XXS } else { Type::IQ3_S }),
            Mixture::Q2_K_S | Mixture::IQ3_XS | Mixture::IQ3_S => shared(Type::Q4_K, base),
            Mixture::IQ3_M => Type::Q4_K,
            Mixture::Q3_K_M => [Type::Q5_K, Type::Q4_K][usize::from(index >= 2)],
            Mixture::Q3_K_L => Type::Q5_K,
            Mixture::IQ4 => shared(Type::Q5_K, base),
            Mixture::Q4_K_M | Mixture::Q5_K_M if deserves_more(index, self.n_values) => Type::Q6_K,
            Mixture::Q4_K_S if index < 4 => Type::Q5_K,
            _ => base,
        }
    }

    fn attention_output(&self) -> Type {
        match self.recipe.mixture {
            Mixture::IQ1 => Type::IQ2_XXS,
            Mixture::IQ2_S | Mixture::IQ3_XXS => Type::IQ3_S,
            Mixture::Q2_K => Type::Q3_K,
            Mixture::Q3_K_M | Mixture::IQ3_M => Type::Q4_K,
            Mixture::Q3_K_L => Type::Q5_K,
            _ => self.recipe.base,
        }
    }

    fn down(&self, index: u64) -> Type {
        let base = self.recipe.base;
        let is_early = index < self.n_layers / 8;
        match self.recipe.mixture {
            Mixture::IQ1 | Mixture::IQ2 if is_early => Type::Q2_K,
            Mixture::IQ2_S if is_early => Type::IQ3_S,
            Mixture::Q2_K => Type::Q3_K,
            Mixture::Q2_K_S | Mixture::IQ3_M if is_early => Type::Q4_K,
            Mixture::IQ3_XXS if !self.has_importance => [Type::Q3_K, Type::Q4_K][usize::from(is_early)],
            Mixture::Q3_K_M => [Type::Q4_K, Type::Q5_K][usize::from(index < self.n_layers / 16)],
            Mixture::Q3_K_L => Type::Q5_K,
            Mixture::Q4_K_M | Mixture::Q5_K_M if deserves_more(index, self.n_layers) => Type::Q6_K,
            Mixture::IQ4 if is_early && !self.has_importance => Type::Q5_K,
            Mixture::Q4_K_S if is_early => Type::Q5_K,
            // What suits most inputs under an importance matrix can suit the early layers badly; a minimum helps.
            Mixture::Plain if is_early && self.has_importance && base == Type::Q4_0 => Type::Q4_1,
            Mixture::Plain if is_early && self.has_importance && base == Type::Q5_0 => Type::Q5_1,
            _ => base,
        }
    }

    fn gate_or_up(&self, index: u64) -> Type {
        let (first, last) = (self.n_layers / 8, 7 * self.n_layers / 8);
        match self.recipe.mixture {
            Mixture::IQ3_XS if (first..last).contains(&index) => Type::IQ3_XXS,
            _ => self.recipe.base,
        }
    }
}
