//! The tensors of one layer, and where in it a tensor's name puts it.

use super::{Error, Held, Hparams};
use crate::gguf::{Name, Tensor};
use crate::ops::matmul::Matrix;
use crate::ops::norm::Vector;
use crate::quant::Type;

/// A place for a matrix in a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MatrixSlot {
    Query,
    Key,
    Value,
    Output,
    Gate,
    Up,
    Down,
}

/// A place for a vector in a layer; biases stand in the order of their matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum VectorSlot {
    QueryBias,
    KeyBias,
    ValueBias,
    OutputBias,
    GateBias,
    UpBias,
    DownBias,
    AttentionNorm,
    AttentionNormBias,
    QueryNorm,
    KeyNorm,
    PostAttentionNorm,
    FeedForwardNorm,
    FeedForwardNormBias,
    PostFeedForwardNorm,
}

use MatrixSlot as M;
use VectorSlot as V;

/// Tensor names after `blk.N.` and their places.
#[rustfmt::skip]
const MATRICES: &[(&str, M)] = &[
    ("attn_q.weight", M::Query), ("attn_k.weight", M::Key), ("attn_v.weight", M::Value), ("attn_output.weight", M::Output),
    ("ffn_gate.weight", M::Gate), ("ffn_up.weight", M::Up), ("ffn_down.weight", M::Down),
];
/// Tensor names after `blk.N.` and their places.
#[rustfmt::skip]
const VECTORS: &[(&str, V)] = &[
    ("attn_q.bias", V::QueryBias), ("attn_k.bias", V::KeyBias), ("attn_v.bias", V::ValueBias), ("attn_output.bias", V::OutputBias),
    ("ffn_gate.bias", V::GateBias), ("ffn_up.bias", V::UpBias), ("ffn_down.bias", V::DownBias),
    ("attn_norm.weight", V::AttentionNorm), ("attn_norm.bias", V::AttentionNormBias),
    ("attn_q_norm.weight", V::QueryNorm), ("attn_k_norm.weight", V::KeyNorm),
    ("post_attention_norm.weight", V::PostAttentionNorm),
    ("ffn_norm.weight", V::FeedForwardNorm), ("ffn_norm.bias", V::FeedForwardNormBias),
    ("post_ffw_norm.weight", V::PostFeedForwardNorm),
];

/// A matrix and what is added to its product.
#[derive(Clone, Copy, Debug)]
pub struct Linear<'a> {
    /// The weights, (outputs, inputs).
    pub matrix: Matrix<'a>,
    /// The bias, (outputs), or empty.
    pub bias: Vector<'a>,
}

/// The tensors of one layer; what a family does not have is empty.
#[derive(Clone, Copy, Debug)]
pub struct Layer<'a> {
    matrices: [Matrix<'a>; MATRICES.len()],
    vectors: [Vector<'a>; VECTORS.len()],
}

impl<'a> Layer<'a> {
    /// A layer before its tensors are found, for the table that the caller owns.
    pub const EMPTY: Layer<'static> =
        Layer { matrices: [Matrix::EMPTY; MATRICES.len()], vectors: [Vector::EMPTY; VECTORS.len()] };

    fn linear(&self, slot: M) -> Linear<'a> {
        Linear { matrix: self.matrices[slot as usize], bias: self.vectors[slot as usize] }
    }

    fn vector(&self, slot: V) -> Vector<'a> {
        self.vectors[slot as usize]
    }

    /// (n_heads * head_dim, n_embd).
    pub fn query(&self) -> Linear<'a> {
        self.linear(M::Query)
    }

    /// (n_kv_heads * head_dim, n_embd).
    pub fn key(&self) -> Linear<'a> {
        self.linear(M::Key)
    }

    /// (n_kv_heads * head_dim, n_embd).
    pub fn value(&self) -> Linear<'a> {
        self.linear(M::Value)
    }

    /// (n_embd, n_heads * head_dim).
    pub fn output(&self) -> Linear<'a> {
        self.linear(M::Output)
    }

    /// (n_ff, n_embd); empty for a feed-forward network without gate.
    pub fn gate(&self) -> Linear<'a> {
        self.linear(M::Gate)
    }

    /// (n_ff, n_embd).
    pub fn up(&self) -> Linear<'a> {
        self.linear(M::Up)
    }

    /// (n_embd, n_ff).
    pub fn down(&self) -> Linear<'a> {
        self.linear(M::Down)
    }

    /// The norm before attention: weight and bias.
    pub fn attention_norm(&self) -> (Vector<'a>, Vector<'a>) {
        (self.vector(V::AttentionNorm), self.vector(V::AttentionNormBias))
    }

    /// The norm before the feed-forward network: weight and bias.
    pub fn feed_forward_norm(&self) -> (Vector<'a>, Vector<'a>) {
        (self.vector(V::FeedForwardNorm), self.vector(V::FeedForwardNormBias))
    }

    /// The norm of query heads and that of key heads, (head_dim); empty when heads are not normalised.
    pub fn head_norms(&self) -> (Vector<'a>, Vector<'a>) {
        (self.vector(V::QueryNorm), self.vector(V::KeyNorm))
    }

    /// The norm of attention's output; empty when there is none.
    pub fn post_attention_norm(&self) -> Vector<'a> {
        self.vector(V::PostAttentionNorm)
    }

    /// The norm of the feed-forward network's output; empty when there is none.
    pub fn post_feed_forward_norm(&self) -> Vector<'a> {
        self.vector(V::PostFeedForwardNorm)
    }

    /// The matrices in the order in which a pass multiplies with them.
    pub(super) fn matrices(&self) -> impl Iterator<Item = Matrix<'a>> + use<'a> {
        let order = [M::Query, M::Key, M::Value, M::Output, M::Up, M::Gate, M::Down];
        let matrices = self.matrices;
        order.into_iter().map(move |slot| matrices[slot as usize]).filter(|matrix| matrix.rows > 0)
    }

    /// The same matrices, whose tiles lie together now.
    pub(super) fn lay_together(&mut self) {
        self.matrices = self.matrices.map(Matrix::laid_together);
    }

    /// Whether `is` holds for the type of a matrix of this layer.
    pub fn has_weights(&self, is: fn(Type) -> bool) -> bool {
        self.matrices.iter().any(|matrix| is(matrix.kind))
    }

    /// Puts `tensor`, called `suffix` after `blk.N.`, in its place.
    pub(super) fn place(
        &mut self,
        suffix: &[u8],
        tensor: &Tensor<'a>,
        held: Held<'_, 'a>,
        h: &Hparams,
    ) -> Result<(), Error> {
        if let Some((_, slot)) = MATRICES.iter().find(|(name, _)| name.as_bytes() == suffix) {
            let [columns, rows] = matrix_shape(*slot, h);
            self.matrices[*slot as usize] = matrix(held, tensor, columns, rows)?;
            return Ok(());
        }
        if let Some((_, slot)) = VECTORS.iter().find(|(name, _)| name.as_bytes() == suffix) {
            self.vectors[*slot as usize] = vector(held, tensor, vector_len(*slot, h))?;
            return Ok(());
        }
        // Query, key and value in one tensor, one after the other (gpt2).
        let (q, kv) = (h.query_width(), h.kv_width());
        match suffix {
            b"attn_qkv.weight" => {
                let all = matrix(held, tensor, h.n_embd, q + 2 * kv)?;
                self.matrices[M::Query as usize] = all.slice(0..q);
                self.matrices[M::Key as usize] = all.slice(q..q + kv);
                self.matrices[M::Value as usize] = all.slice(q + kv..q + 2 * kv);
            }
            b"attn_qkv.bias" => {
                let all = vector(held, tensor, q + 2 * kv)?;
                self.vectors[V::QueryBias as usize] = all.slice(0..q);
                self.vectors[V::KeyBias as usize] = all.slice(q..q + kv);
                self.vectors[V::ValueBias as usize] = all.slice(q + kv..q + 2 * kv);
            }
            _ => return Err(Error::Unused(Name::new(tensor.name))),
        }
        Ok(())
    }

    /// The name of a tensor that the family needs and that has not been placed.
    pub(super) fn missing(&self, h: &Hparams) -> Option<&'static str> {
        let family = h.family;
        let gated = family.feed_forward != super::FeedForward::Gelu;
        let layer_norm = family.norm == crate::ops::norm::NormKind::Layer;
        let matrix = MATRICES
            .iter()
            .find(|(_, slot)| self.matrices[*slot as usize].rows == 0 && (gated || *slot != M::Gate))
            .map(|(name, _)| *name);
        let vector = VECTORS.iter().find(|(_, slot)| {
            let needed = match slot {
                V::AttentionNorm | V::FeedForwardNorm => true,
                V::AttentionNormBias | V::FeedForwardNormBias => layer_norm,
                V::QueryBias | V::KeyBias | V::ValueBias => family.qkv_bias,
                V::OutputBias | V::UpBias | V::DownBias => layer_norm,
                V::QueryNorm | V::KeyNorm => family.qk_norm,
                V::PostAttentionNorm | V::PostFeedForwardNorm => family.post_norms,
                V::GateBias => false,
            };
            needed && self.vector(*slot).is_empty()
        });
        matrix.or(vector.map(|(name, _)| *name))
    }

    /// A placed tensor that the family would leave unread.
    pub(super) fn surplus(&self, h: &Hparams) -> Option<&'static str> {
        let family = h.family;
        let gated = family.feed_forward != super::FeedForward::Gelu;
        if !gated && self.gate().matrix.rows > 0 {
            return Some("ffn_gate.weight");
        }
        let unread = VECTORS.iter().find(|(_, slot)| {
            let read = match slot {
                V::QueryNorm | V::KeyNorm => family.qk_norm,
                V::PostAttentionNorm | V::PostFeedForwardNorm => family.post_norms,
                V::GateBias => gated,
                _ => true,
            };
            !read && !self.vector(*slot).is_empty()
        });
        unread.map(|(name, _)| *name)
    }
}

/// (columns, rows) of the matrix in `slot`.
fn matrix_shape(slot: M, h: &Hparams) -> [usize; 2] {
    match slot {
        M::Query => [h.n_embd, h.query_width()],
        M::Key | M::Value => [h.n_embd, h.kv_width()],
        M::Output => [h.query_width(), h.n_embd],
        M::Gate | M::Up => [h.n_embd, h.n_ff],
        M::Down => [h.n_ff, h.n_embd],
    }
}

/// The length of the vector in `slot`.
fn vector_len(slot: V, h: &Hparams) -> usize {
    match slot {
        V::QueryBias => h.query_width(),
        V::KeyBias | V::ValueBias => h.kv_width(),
        V::GateBias | V::UpBias => h.n_ff,
        V::QueryNorm | V::KeyNorm => h.head_dim,
        _ => h.n_embd,
    }
}

/// `tensor` as a matrix of `rows` x `columns`.
pub(super) fn matrix<'a>(
    held: Held<'_, 'a>,
    tensor: &Tensor<'a>,
    columns: usize,
    rows: usize,
) -> Result<Matrix<'a>, Error> {
    let name = Name::new(tensor.name);
    let wanted = [columns as u64, rows as u64];
    if tensor.dims[..2] != wanted || tensor.dims[2..] != [1, 1] {
        return Err(Error::Shape(name, [tensor.dims[0], tensor.dims[1]], wanted));
    }
    if !tensor.kind.is_supported() {
        return Err(Error::TensorType(name, tensor.kind.name()));
    }
    let data = held(tensor).ok_or(Error::NoData(name))?;
    Matrix::partly(data, tensor.offset, tensor.kind, rows, columns).ok_or(Error::NoData(name))
}

/// `tensor` as a vector of `len` floats.
pub(super) fn vector<'a>(held: Held<'_, 'a>, tensor: &Tensor<'a>, len: usize) -> Result<Vector<'a>, Error> {
    let name = Name::new(tensor.name);
    let wanted = [len as u64, 1];
    if tensor.dims[..2] != wanted || tensor.dims[2..] != [1, 1] {
        return Err(Error::Shape(name, [tensor.dims[0], tensor.dims[1]], wanted));
    }
    if tensor.kind != Type::F32 {
        return Err(Error::TensorType(name, tensor.kind.name()));
    }
    let data = held(tensor).filter(|data| data.len() == 4 * len);
    data.map(Vector::new).ok_or(Error::NoData(name))
}
