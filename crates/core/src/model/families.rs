//! Model families: one row each, over one forward pass.

use crate::ops::norm::NormKind;
use crate::ops::rope::Layout;

/// Where a token's position comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Positions {
    /// Queries and keys are rotated.
    Rotary(Layout),
    /// A learned vector is added to the embedding.
    Learned,
}

/// The two-layer network after attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedForward {
    /// `down(silu(gate(x)) * up(x))`.
    SiluGate,
    /// `down(gelu(gate(x)) * up(x))`.
    GeluGate,
    /// `down(gelu(up(x)))`.
    Gelu,
}

/// Which layers see only a window of positions, when the file gives a window but no pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Windows {
    /// All of them.
    Every,
    /// All but every n-th, counted from one.
    AllButEvery(usize),
}

/// What sets one family apart.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// `general.architecture` of the file.
    pub name: &'static str,
    /// How rows are normalised.
    pub norm: NormKind,
    /// Where positions come in.
    pub positions: Positions,
    /// The network after attention.
    pub feed_forward: FeedForward,
    /// Whether embeddings are multiplied with the root of their width.
    pub scaled_embeddings: bool,
    /// Whether queries, keys and values must have a bias.
    pub qkv_bias: bool,
    /// Whether queries and keys are normalised head by head.
    pub qk_norm: bool,
    /// Whether the outputs of attention and feed-forward are normalised too.
    pub post_norms: bool,
    /// Which layers are windowed by default.
    pub windows: Windows,
    /// The rotary base of windowed layers when the file gives none; `None`: the same as elsewhere.
    pub window_theta: Option<f32>,
}

const LLAMA: Family = Family {
    name: "llama",
    norm: NormKind::Rms,
    positions: Positions::Rotary(Layout::Interleaved),
    feed_forward: FeedForward::SiluGate,
    scaled_embeddings: false,
    qkv_bias: false,
    qk_norm: false,
    post_norms: false,
    windows: Windows::Every,
    window_theta: None,
};

const GPT2: Family = Family {
    name: "gpt2",
    norm: NormKind::Layer,
    positions: Positions::Learned,
    feed_forward: FeedForward::Gelu,
    qkv_bias: true,
    ..LLAMA
};

/// Every family that the engine runs.
pub const FAMILIES: &[Family] = &[
    LLAMA,
    Family { name: "qwen2", positions: Positions::Rotary(Layout::Split), qkv_bias: true, ..LLAMA },
    Family { name: "qwen3", positions: Positions::Rotary(Layout::Split), qk_norm: true, ..LLAMA },
    Family {
        name: "gemma3",
        positions: Positions::Rotary(Layout::Split),
        feed_forward: FeedForward::GeluGate,
        scaled_embeddings: true,
        qk_norm: true,
        post_norms: true,
        windows: Windows::AllButEvery(6),
        window_theta: Some(10_000.0),
        ..LLAMA
    },
    GPT2,
    Family { name: "gptneo", qkv_bias: false, ..GPT2 },
];

impl Family {
    /// The family called `name`.
    pub fn find(name: &[u8]) -> Option<&'static Family> {
        FAMILIES.iter().find(|family| family.name.as_bytes() == name)
    }
}
