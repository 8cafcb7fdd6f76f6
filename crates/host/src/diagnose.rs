//! Which weight made a model compute nonsense.
//!
//! Looking at every weight before the first token would read a mapped file whole, so a bad one is looked for only when
//! a logit is not finite (`engine::Error::NotFinite`).

use smidgen_core::gguf::{Gguf, Name};
use smidgen_core::ops::matmul::Tiles;
use std::borrow::Cow;
use std::fmt;

/// A weight that is not a finite number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BadWeight {
    /// The tensor that holds it.
    pub tensor: Name,
    /// Its number in the tensor.
    pub index: u64,
    /// Byte offset in the file of the weight, or of the block whose scale spoils it.
    pub offset: u64,
    /// NaN or an infinity.
    pub value: f32,
}

impl fmt::Display for BadWeight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tensor '{}', weight {} at byte {}: is {}", self.tensor, self.index, self.offset, self.value)
    }
}

/// The first weight of `gguf` that is not finite, in the order of the file's tensors; `None` when all are. Rows of
/// `together` are not where the file has them.
pub fn first_bad_weight(gguf: &Gguf<'_>, together: &[Tiles]) -> Option<BadWeight> {
    gguf.tensors().find_map(|tensor| {
        let data = as_stored(gguf.data(&tensor)?, tensor.offset, together);
        let (block_len, block_bytes) = (tensor.kind.block_len(), tensor.kind.block_bytes());
        let mut weights = vec![0.0; block_len];
        data.chunks_exact(block_bytes).enumerate().find_map(|(block, bytes)| {
            tensor.kind.dequantize(bytes, &mut weights).ok()?;
            let at = weights.iter().position(|weight| !weight.is_finite())?;
            Some(BadWeight {
                tensor: Name::new(tensor.name),
                index: (block * block_len + at) as u64,
                offset: tensor.offset + (block * block_bytes) as u64,
                value: weights[at],
            })
        })
    })
}

/// The bytes of a tensor at `offset` of the file as that has them.
fn as_stored<'d>(data: &'d [u8], offset: u64, together: &[Tiles]) -> Cow<'d, [u8]> {
    let inside = |tiles: &&Tiles| (offset..offset + data.len() as u64).contains(&tiles.offset);
    let mut stored = Cow::Borrowed(data);
    for tiles in together.iter().filter(inside) {
        let first = (tiles.offset - offset) as usize;
        let rows = first..first + tiles.n_bytes;
        tiles.rows(&data[rows.clone()], &mut stored.to_mut()[rows]);
    }
    stored
}

#[cfg(test)]
mod tests {
    use super::*;
    use smidgen_core::model::{Layer, Model};
    use smidgen_core::simd::Isa;

    #[test]
    fn the_bad_block_is_found() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tales.gguf");
        let mut bytes = std::fs::read(path).unwrap();
        let offset = {
            let gguf = Gguf::parse(&bytes, bytes.len() as u64).unwrap();
            assert_eq!(first_bad_weight(&gguf, &[]), None);
            gguf.tensor(&["blk.2.ffn_up.weight"]).unwrap().offset + 34 * 100
        };
        bytes[offset as usize..][..2].copy_from_slice(&[0x00, 0x7e]);
        let gguf = Gguf::parse(&bytes, bytes.len() as u64).unwrap();
        let bad = first_bad_weight(&gguf, &[]).unwrap();
        assert_eq!((bad.index, bad.offset), (3200, offset));
        let text = bad.to_string();
        assert_eq!(text, format!("tensor 'blk.2.ffn_up.weight', weight 3200 at byte {offset}: is NaN"));
        // The same where it is not where it was.
        let mut layers = vec![Layer::EMPTY; Model::n_layers(&gguf).unwrap()];
        let tiles: Vec<Tiles> = Model::new(&gguf, &mut layers).unwrap().tiles().collect();
        let mut laid = bytes.clone();
        for tiles in &tiles {
            let rows = &mut laid[tiles.offset as usize..][..tiles.n_bytes];
            tiles.lay_together(Isa::detect(), rows, &mut vec![0; tiles.tile_bytes]);
        }
        let gguf = Gguf::parse(&laid, laid.len() as u64).unwrap();
        assert_eq!(first_bad_weight(&gguf, &tiles).map(|bad| bad.to_string()), Some(text));
    }
}
