//! Recipes: the names people know (`Q4_K_M`, `IQ2_XXS`), and the type that each tensor of a model has under them.
//!
//! The rules are llama.cpp's (`src/llama-quant.cpp`, as of llama-cpp-python 0.3.36), so that a name means here what it means
//! there; `tools/llama_cpp_mixtures.py` asks llama.cpp itself, and the tests compare every tensor. The one difference: a type
//! that a row cannot have stays in the answer, and what to do about it is the caller's choice (see [`fallback`]).

pub mod fallback;
mod mixture;

use crate::encode::can_write;
use smidgen_core::quant::Type;

/// What a recipe may know of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// `general.architecture`.
    pub arch: String,
    /// How many layers.
    pub n_layers: u64,
    /// Query heads of the first layer.
    pub n_heads: u64,
    /// Key and value heads of the first layer.
    pub n_kv_heads: u64,
}

/// What a recipe may know of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Its name in GGUF.
    pub name: String,
    /// The type it has.
    pub kind: Type,
    /// Weights in a row.
    pub n_columns: u64,
    /// Rows.
    pub n_rows: u64,
    /// Whether it keeps its type whatever is asked for.
    pub pinned: bool,
}

/// How a recipe departs from one type for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types)]
enum Mixture {
    /// One type, with the output matrix in a better one; llama.cpp calls a few of these mixtures after their type.
    Plain,
    /// One type for every matrix: what has no counterpart in llama.cpp.
    Uniform,
    /// One of our types, with two bits more for the embedding and the output matrix, and eight for learned positions.
    AnyWidth,
    Q2_K,
    Q2_K_S,
    Q3_K_M,
    Q3_K_L,
    Q4_K_S,
    Q4_K_M,
    Q5_K_M,
    IQ1,
    IQ2,
    IQ2_S,
    IQ3_XXS,
    IQ3_XS,
    IQ3_S,
    IQ3_M,
    IQ4,
    Ternary,
    Experts,
}

/// A way to choose the type of every tensor, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipe {
    name: &'static str,
    base: Type,
    mixture: Mixture,
    /// llama.cpp's number for a file made by it.
    file_type: Option<u32>,
}

const fn row(name: &'static str, base: Type, mixture: Mixture, file_type: u32) -> Recipe {
    Recipe { name, base, mixture, file_type: Some(file_type) }
}

const fn ours(name: &'static str, base: Type) -> Recipe {
    Recipe { name, base, mixture: Mixture::AnyWidth, file_type: None }
}

/// llama.cpp's recipes, with its numbers for them (`enum llama_ftype`), and ours.
#[rustfmt::skip]
const RECIPES: &[Recipe] = &[
    row("F32",       Type::F32,     Mixture::Uniform, 0),
    row("F16",       Type::F16,     Mixture::Uniform, 1),
    row("BF16",      Type::BF16,    Mixture::Uniform, 32),
    row("Q4_0",      Type::Q4_0,    Mixture::Plain,   2),
    row("Q4_1",      Type::Q4_1,    Mixture::Plain,   3),
    row("Q5_0",      Type::Q5_0,    Mixture::Plain,   8),
    row("Q5_1",      Type::Q5_1,    Mixture::Plain,   9),
    row("Q8_0",      Type::Q8_0,    Mixture::Plain,   7),
    row("Q2_K",      Type::Q2_K,    Mixture::Q2_K,    10),
    row("Q2_K_S",    Type::Q2_K,    Mixture::Q2_K_S,  21),
    row("Q3_K_S",    Type::Q3_K,    Mixture::Plain,   11),
    row("Q3_K_M",    Type::Q3_K,    Mixture::Q3_K_M,  12),
    row("Q3_K_L",    Type::Q3_K,    Mixture::Q3_K_L,  13),
    row("Q4_K_S",    Type::Q4_K,    Mixture::Q4_K_S,  14),
    row("Q4_K_M",    Type::Q4_K,    Mixture::Q4_K_M,  15),
    row("Q5_K_S",    Type::Q5_K,    Mixture::Plain,   16),
    row("Q5_K_M",    Type::Q5_K,    Mixture::Q5_K_M,  17),
    row("Q6_K",      Type::Q6_K,    Mixture::Plain,   18),
    row("IQ1_S",     Type::IQ1_S,   Mixture::IQ1,     24),
    row("IQ1_M",     Type::IQ1_M,   Mixture::IQ1,     31),
    row("IQ2_XXS",   Type::IQ2_XXS, Mixture::IQ2,     19),
    row("IQ2_XS",    Type::IQ2_XS,  Mixture::IQ2,     20),
    row("IQ2_S",     Type::IQ2_XS,  Mixture::IQ2_S,   28),
    row("IQ2_M",     Type::IQ2_S,   Mixture::IQ2_S,   29),
    row("IQ3_XXS",   Type::IQ3_XXS, Mixture::IQ3_XXS, 23),
    row("IQ3_XS",    Type::IQ3_S,   Mixture::IQ3_XS,  22),
    row("IQ3_S",     Type::IQ3_S,   Mixture::IQ3_S,   26),
    row("IQ3_M",     Type::IQ3_S,   Mixture::IQ3_M,   27),
    row("IQ4_NL",    Type::IQ4_NL,  Mixture::IQ4,     25),
    row("IQ4_XS",    Type::IQ4_XS,  Mixture::IQ4,     30),
    row("TQ1_0",     Type::TQ1_0,   Mixture::Ternary, 36),
    row("TQ2_0",     Type::TQ2_0,   Mixture::Ternary, 37),
    row("MXFP4_MOE", Type::MXFP4,   Mixture::Experts, 38),
    ours("Q2_W",     Type::Q2_W),
    ours("Q3_W",     Type::Q3_W),
    ours("Q4_W",     Type::Q4_W),
    ours("Q5_W",     Type::Q5_W),
    ours("Q6_W",     Type::Q6_W),
];

/// Names that llama.cpp understands too, for the type they are mostly of.
const ALIASES: &[(&str, &str)] = &[("Q3_K", "Q3_K_M"), ("Q4_K", "Q4_K_M"), ("Q5_K", "Q5_K_M")];

/// The choices that change what a recipe says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Choices {
    /// The recipe's type for every matrix, without better ones here and there.
    pub pure: bool,
    /// The output matrix keeps the type it has.
    pub keep_output: bool,
    /// The type of the output matrix; of the token embedding, where that is the output matrix too.
    pub output: Option<Type>,
    /// The type of the token embedding.
    pub embedding: Option<Type>,
    /// Whether there is an importance matrix: some recipes spend less where it helps.
    pub has_importance: bool,
    /// Whether rows that do not fit get a type for any width, so that the output matrix needs no exception for them.
    pub any_width: bool,
}

impl Recipe {
    /// The recipe called `name`, in any case: one of llama.cpp's, or a type for every matrix.
    pub fn find(name: &str) -> Option<Recipe> {
        let named = |name: &str| RECIPES.iter().find(|recipe| recipe.name.eq_ignore_ascii_case(name)).copied();
        let alias = ALIASES.iter().find(|(alias, _)| alias.eq_ignore_ascii_case(name)).map_or(name, |alias| alias.1);
        named(alias).or_else(|| {
            let base = Type::from_name(name).filter(|&base| can_write(base))?;
            Some(Recipe { name: base.name(), base, mixture: Mixture::Uniform, file_type: None })
        })
    }

    /// The names that [`Recipe::find`] knows, in the order of their tables.
    pub fn names() -> Vec<&'static str> {
        let recipes = RECIPES.iter().map(|recipe| recipe.name);
        let types = smidgen_core::quant::TYPES.iter().filter(|row| can_write(row.0)).map(|row| row.2);
        let mut names: Vec<&str> = recipes.collect();
        names.extend(types.filter(|name| !RECIPES.iter().any(|recipe| recipe.name == *name)));
        names
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The type that most matrices have.
    pub fn base(&self) -> Type {
        self.base
    }

    /// llama.cpp's number for a file made by it: `general.file_type`.
    pub fn file_type(&self) -> Option<u32> {
        self.file_type
    }

    /// The type of each of `tensors`, in their order. It may be one that the tensor's rows cannot have.
    pub fn types(&self, shape: &Shape, tensors: &[Tensor], choices: &Choices) -> Vec<Type> {
        let tied = !tensors.iter().any(|tensor| tensor.name == OUTPUT);
        // The rules count a layer's matrices in the order of the layers, whatever the order of the file.
        let mut order: Vec<usize> = (0..tensors.len()).collect();
        order.sort_by_key(|&index| mixture::layer(&tensors[index].name));
        let mut rules = mixture::Rules::new(self, shape, tensors, choices);
        let mut types: Vec<Type> = tensors.iter().map(|tensor| tensor.kind).collect();
        for index in order {
            let tensor = &tensors[index];
            if self.keeps(tensor) || (choices.keep_output && tensor.name == OUTPUT) {
                continue;
            }
            let ruled = rules.next(tensor, tied);
            let is_embedding = tensor.name == EMBEDDING;
            let is_output = tensor.name == OUTPUT || (is_embedding && tied && !choices.pure);
            let asked = choices.embedding.filter(|_| is_embedding).or(choices.output.filter(|_| is_output));
            types[index] = asked.unwrap_or(if choices.pure { self.base } else { ruled });
        }
        types
    }

    /// Whether `tensor` keeps its type under this recipe: as under every other, but ours also shrink the table of learned
    /// positions, which is no vector and which only llama.cpp wants as it was.
    pub fn keeps(&self, tensor: &Tensor) -> bool {
        let is_table = tensor.name == POSITIONS && tensor.n_rows > 1;
        is_kept(tensor) && !(is_table && self.base.is_any_width())
    }

    /// Whether llama.cpp refuses to make a tensor called `name` of type `kind` for this recipe without an importance matrix,
    /// although it makes that type elsewhere.
    pub fn insists_on_importance(&self, kind: Type) -> bool {
        self.mixture == Mixture::Q2_K_S && kind == Type::Q2_K
    }
}

/// The name of the output matrix.
pub const OUTPUT: &str = "output.weight";
/// The name of the token embedding.
pub const EMBEDDING: &str = "token_embd.weight";

/// The name of the table of learned positions.
pub const POSITIONS: &str = "position_embd.weight";

/// Whether `tensor` keeps its type in llama.cpp's recipes: what is no matrix of weights, norms, and a few that are tiny.
pub fn is_kept(tensor: &Tensor) -> bool {
    const TINY: &[&str] = &["_norm.weight", "ffn_gate_inp.weight", "ssm_conv1d", "shortconv.conv.weight"];
    let is_tiny = TINY.iter().any(|part| tensor.name.contains(part));
    tensor.pinned || tensor.n_rows < 2 || !tensor.name.ends_with("weight") || is_tiny
}
