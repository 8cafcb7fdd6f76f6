//! A model: a GGUF file's tensors in the places that the forward pass reads them from, checked once.

mod error;
mod families;
mod hparams;
mod layer;

pub use error::Error;
pub use families::{FAMILIES, Family, FeedForward, Positions, Windows};
pub use hparams::Hparams;
pub use layer::{Layer, Linear};

use crate::bytes::Endian;
use crate::gguf::{Gguf, Name, Tensor};
use crate::ops::matmul::{Matrix, Tiles};
use crate::ops::norm::Vector;
use crate::ops::rope::Rope;
use layer::{matrix, vector};

/// The bytes of a tensor that are in memory: all of them, or of a matrix the first rows. `None` when they should be and are not.
pub type Held<'f, 'a> = &'f dyn Fn(&Tensor<'a>) -> Option<&'a [u8]>;

/// A model that can be run.
#[derive(Clone, Copy, Debug)]
pub struct Model<'a> {
    hparams: Hparams<'a>,
    layers: &'a [Layer<'a>],
    embedding: Matrix<'a>,
    positions: Matrix<'a>,
    output: Matrix<'a>,
    output_norm: Vector<'a>,
    output_norm_bias: Vector<'a>,
    rope_factors: Vector<'a>,
}

impl<'a> Model<'a> {
    /// How many layers the file's model has: the length of the table that [`Model::new`] fills.
    ///
    /// # Errors
    /// An unknown architecture, or a count that the file's tensors belie.
    pub fn n_layers(gguf: &Gguf<'a>) -> Result<usize, Error> {
        Hparams::family_and_layers(gguf).map(|(_, n_layers)| n_layers)
    }

    /// Finds and checks every tensor. `layers` is [`Model::n_layers`] times [`Layer::EMPTY`], filled in here.
    ///
    /// # Errors
    /// The first key or tensor that is missing, of another shape or type than the architecture needs, or left over.
    pub fn new(gguf: &Gguf<'a>, layers: &'a mut [Layer<'a>]) -> Result<Self, Error> {
        Self::partly_held(gguf, layers, &|tensor| gguf.data(tensor))
    }

    /// As [`Model::new`], for a model of which only a part is in memory: `held` gives the first rows of a matrix, or none of them,
    /// and every vector as a whole. The other rows come from the [`Store`](crate::store::Store) that the engine is given.
    ///
    /// # Errors
    /// Those of [`Model::new`].
    pub fn partly_held(gguf: &Gguf<'a>, layers: &'a mut [Layer<'a>], held: Held<'_, 'a>) -> Result<Self, Error> {
        let model = Self::fill(gguf, layers, held)?;
        Ok(Model { layers, ..model })
    }

    /// Fills in `layers`, which the model does not have yet.
    fn fill(gguf: &Gguf<'a>, layers: &mut [Layer<'a>], held: Held<'_, 'a>) -> Result<Self, Error> {
        if gguf.endian() == Endian::Big {
            return Err(Error::BigEndian);
        }
        let n_layers = Self::n_layers(gguf)?;
        if layers.len() != n_layers {
            return Err(Error::Layers(layers.len(), n_layers));
        }
        let embedding = required(gguf, "token_embd.weight")?;
        let n_vocab = usize::try_from(embedding.dims[1])
            .ok()
            .filter(|&n| n < 1 << 31)
            .ok_or(Error::Value(Name::new(b"token_embd.weight"), embedding.dims[1] as f32))?;
        let hparams = Hparams::read(gguf, n_vocab)?;
        check_vocabulary(gguf, n_vocab)?;
        let mut model = Model {
            hparams,
            layers: &[],
            embedding: Matrix::EMPTY,
            positions: Matrix::EMPTY,
            output: Matrix::EMPTY,
            output_norm: Vector::EMPTY,
            output_norm_bias: Vector::EMPTY,
            rope_factors: Vector::EMPTY,
        };
        for tensor in gguf.tensors() {
            match layer_tensor(tensor.name) {
                Some((index, suffix)) => layers
                    .get_mut(index)
                    .ok_or(Error::Unused(Name::new(tensor.name)))?
                    .place(suffix, &tensor, held, &hparams)?,
                None => model.place(&tensor, held)?,
            }
        }
        model.check(layers)?;
        if model.output.rows == 0 {
            model.output = model.embedding;
        }
        Ok(model)
    }

    /// As [`Model::new`], for an image in which somebody has laid the rows of all of [`Model::tiles`] together.
    ///
    /// # Errors
    /// Those of [`Model::new`].
    pub fn laid_together(gguf: &Gguf<'a>, layers: &'a mut [Layer<'a>]) -> Result<Self, Error> {
        let model = Self::fill(gguf, layers, &|tensor| gguf.data(tensor))?;
        layers.iter_mut().for_each(Layer::lay_together);
        let is_tied = model.embedding.offset(0) == model.output.offset(0);
        let output = model.output.laid_together();
        let embedding = if is_tied { output } else { model.embedding };
        Ok(Model { embedding, output, layers, ..model })
    }

    /// The rows that a pass multiplies with and that can lie together.
    pub fn tiles(&self) -> impl Iterator<Item = Tiles> {
        self.matrices().filter_map(|matrix| matrix.tiles())
    }

    /// Puts a tensor that belongs to no layer in its place.
    fn place(&mut self, tensor: &Tensor<'a>, held: Held<'_, 'a>) -> Result<(), Error> {
        let h = &self.hparams;
        match tensor.name {
            b"token_embd.weight" => self.embedding = matrix(held, tensor, h.n_embd, h.n_vocab)?,
            b"output.weight" => self.output = matrix(held, tensor, h.n_embd, h.n_vocab)?,
            b"output_norm.weight" => self.output_norm = vector(held, tensor, h.n_embd)?,
            b"output_norm.bias" => self.output_norm_bias = vector(held, tensor, h.n_embd)?,
            b"position_embd.weight" if h.family.positions == Positions::Learned => {
                self.positions = matrix(held, tensor, h.n_embd, h.context_train)?;
            }
            b"rope_freqs.weight" if h.family.positions != Positions::Learned => {
                self.rope_factors = vector(held, tensor, h.n_rot / 2)?;
                if let Some(bad) = self.rope_factors.iter().find(|factor| !(factor.is_finite() && *factor > 0.0)) {
                    return Err(Error::Value(Name::new(tensor.name), bad));
                }
            }
            _ => return Err(Error::Unused(Name::new(tensor.name))),
        }
        Ok(())
    }

    /// Refuses a model with tensors missing or left over.
    fn check(&self, layers: &[Layer<'a>]) -> Result<(), Error> {
        let h = &self.hparams;
        let missing = |name: &str| Err(Error::Missing(Name::new(name.as_bytes())));
        for (index, layer) in layers.iter().enumerate() {
            if let Some(suffix) = layer.missing(h) {
                return Err(Error::Missing(layer_name(index, suffix)));
            }
            if let Some(suffix) = layer.surplus(h) {
                return Err(Error::Unused(layer_name(index, suffix)));
            }
        }
        if self.output_norm.is_empty() {
            return missing("output_norm.weight");
        }
        if h.family.norm == crate::ops::norm::NormKind::Layer && self.output_norm_bias.is_empty() {
            return missing("output_norm.bias");
        }
        if h.family.positions == Positions::Learned && self.positions.rows == 0 {
            return missing("position_embd.weight");
        }
        Ok(())
    }

    /// The model's numbers.
    pub fn hparams(&self) -> &Hparams<'a> {
        &self.hparams
    }

    /// The layers in order.
    pub fn layers(&self) -> &'a [Layer<'a>] {
        self.layers
    }

    /// The matrices that a pass multiplies with, in the order in which it does.
    pub fn matrices(&self) -> impl Iterator<Item = Matrix<'a>> {
        self.layers.iter().flat_map(Layer::matrices).chain([self.output])
    }

    /// (n_vocab, n_embd).
    pub fn embedding(&self) -> &Matrix<'a> {
        &self.embedding
    }

    /// (context_train, n_embd) for learned positions, else empty.
    pub fn positions(&self) -> &Matrix<'a> {
        &self.positions
    }

    /// (n_vocab, n_embd); the embedding where the file has no other.
    pub fn output(&self) -> &Matrix<'a> {
        &self.output
    }

    /// The last norm: weight and bias.
    pub fn output_norm(&self) -> (Vector<'a>, Vector<'a>) {
        (self.output_norm, self.output_norm_bias)
    }

    /// The rotation of full layers and that of windowed ones; `None` for learned positions.
    pub fn ropes(&self) -> Option<[Rope<'a>; 2]> {
        self.hparams.ropes(self.rope_factors)
    }
}

fn required<'a>(gguf: &Gguf<'a>, name: &str) -> Result<Tensor<'a>, Error> {
    gguf.tensor(&[name]).ok_or(Error::Missing(Name::new(name.as_bytes())))
}

/// A file without a tokenizer may be run by token ids; one with a tokenizer must agree with itself.
fn check_vocabulary(gguf: &Gguf<'_>, n_vocab: usize) -> Result<(), Error> {
    match gguf.get("tokenizer.ggml.tokens").and_then(|value| value.as_array()) {
        Some(tokens) if tokens.len() != n_vocab => Err(Error::Vocabulary(tokens.len() as u64, n_vocab as u64)),
        _ => Ok(()),
    }
}

/// Layer index and the rest of a name such as `blk.12.attn_q.weight`.
fn layer_tensor(name: &[u8]) -> Option<(usize, &[u8])> {
    let rest = name.strip_prefix(b"blk.")?;
    let dot = rest.iter().position(|&byte| byte == b'.')?;
    let digits = &rest[..dot];
    let canonical = digits.len() == 1 || digits.first() != Some(&b'0');
    if digits.is_empty() || digits.len() > 6 || !canonical || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let index = digits.iter().fold(0, |index, digit| index * 10 + usize::from(digit - b'0'));
    Some((index, &rest[dot + 1..]))
}

/// `blk.<index>.<suffix>`, for an error.
fn layer_name(index: usize, suffix: &str) -> Name {
    let mut text = [0; 64];
    let mut len = 0;
    let mut push = |byte: u8| {
        if len < text.len() {
            text[len] = byte;
            len += 1;
        }
    };
    b"blk.".iter().for_each(|&byte| push(byte));
    let mut divisor = 1;
    while index / divisor >= 10 {
        divisor *= 10;
    }
    while divisor > 0 {
        push(b'0' + (index / divisor % 10) as u8);
        divisor /= 10;
    }
    push(b'.');
    suffix.bytes().for_each(push);
    Name::new(&text[..len])
}
