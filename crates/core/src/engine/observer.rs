//! What a pass lets others see of itself.

/// What matrices of a model are multiplied with: matrices that read the same values share one input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Input {
    /// Query, key and value of a layer: (n_embd).
    Attention(usize),
    /// The projection of a layer's attention: (n_heads * head_dim).
    AttentionOutput(usize),
    /// Gate and up of a layer: (n_embd).
    FeedForward(usize),
    /// Down of a layer: (n_ff).
    Down(usize),
    /// The output matrix: (n_embd).
    Output,
}

/// A part of a pass, for whoever wants to know where its time goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Rows of the embedding, and the angles of the positions.
    Embed,
    /// Norms, and the 8-bit form of what they give.
    Norm,
    /// Query, key and value.
    Qkv,
    /// Rotation, and the storing of keys and values.
    Rope,
    /// Scores, softmax and the mixing of values.
    Attention,
    /// The projection of attention's output, and its sum with the hidden states.
    AttentionOutput,
    /// Gate and up.
    FeedForward,
    /// The activation function.
    Activation,
    /// Down, and its sum with the hidden states.
    Down,
    /// The output matrix.
    Logits,
}

impl Op {
    /// All of them, in the order of a pass.
    pub const ALL: [Op; 10] = [
        Op::Embed,
        Op::Norm,
        Op::Qkv,
        Op::Rope,
        Op::Attention,
        Op::AttentionOutput,
        Op::FeedForward,
        Op::Activation,
        Op::Down,
        Op::Logits,
    ];
}

/// Somebody who is told what a pass does, and shown what matrices are multiplied with, before it is rounded to 8 bits.
pub trait Observer {
    /// `x`, (tokens, `columns`), is about to be multiplied with the matrices of `input`.
    fn observe(&mut self, _input: Input, _x: &[f32], _columns: usize) {}

    /// `op` begins, and what was under way before it has ended.
    fn begin(&mut self, _op: Op) {}
}

/// Nobody.
impl Observer for () {}

/// Anybody: so a pass is compiled once for all of them, with its kernels in this crate, rather than where it is called and as
/// that is compiled.
pub(super) struct Somebody<'a>(pub(super) &'a mut dyn Observer);

impl Observer for Somebody<'_> {
    fn observe(&mut self, input: Input, x: &[f32], columns: usize) {
        self.0.observe(input, x, columns);
    }

    fn begin(&mut self, op: Op) {
        self.0.begin(op);
    }
}
