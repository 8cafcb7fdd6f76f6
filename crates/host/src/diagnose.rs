//! Which weight made a model compute nonsense.
//!
//! Looking at every weight before the first token would read a mapped file whole, so a bad one is looked for only when
//! a logit is not finite (`engine::Error::NotFinite`).

use smidgen_core::gguf::{Gguf, Name};
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

/// The first weight of `gguf` that is not finite, in the order of the file's tensors; `None` when all are.
pub fn first_bad_weight(gguf: &Gguf<'_>) -> Option<BadWeight> {
    gguf.tensors().find_map(|tensor| {
        let data = gguf.data(&tensor)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bad_block_is_found() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tales.gguf");
        let mut bytes = std::fs::read(path).unwrap();
        let offset = {
            let gguf = Gguf::parse(&bytes, bytes.len() as u64).unwrap();
            assert_eq!(first_bad_weight(&gguf), None);
            gguf.tensor(&["blk.2.ffn_up.weight"]).unwrap().offset + 34 * 100
        };
        bytes[offset as usize..][..2].copy_from_slice(&[0x00, 0x7e]);
        let gguf = Gguf::parse(&bytes, bytes.len() as u64).unwrap();
        let bad = first_bad_weight(&gguf).unwrap();
        assert_eq!((bad.index, bad.offset), (3200, offset));
        assert_eq!(bad.to_string(), format!("tensor 'blk.2.ffn_up.weight', weight 3200 at byte {offset}: is NaN"));
    }
}
