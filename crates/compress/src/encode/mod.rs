//! Rounding rows of weights to a type: which scales, which codes.
//!
//! Every format is written in three steps, so that whoever rounds can stand between them: scales are fitted to a whole
//! block, then groups of weights are rounded to codes under those scales, then the block is packed. Plain rounding does
//! the three in a row; error feedback changes the weights of a group after the groups before it were rounded.

use smidgen_core::quant::{Parts, Type};

/// How blocks of one type are made from weights.
pub trait Encoder: Sync {
    /// Weights that share one code and are rounded together: 1 for most, 4 or 8 for codebooks of vectors.
    fn group(&self) -> usize;

    /// Chooses the scales of the block that `values` fill, so that the sum of `importance * error^2` is small.
    fn fit(&self, values: &[f32], importance: &[f32], block: &mut Parts);

    /// Chooses the code of the group whose first weight is number `at` of the block, under the scales that were fitted;
    /// `values` are what the group should be and become what its code stands for.
    fn round(&self, block: &mut Parts, at: usize, values: &mut [f32], importance: &[f32]);
}

/// The encoder of `kind`, if that type can be chosen with care; the types without one are floats.
pub fn encoder(kind: Type) -> Option<&'static dyn Encoder> {
    let _ = kind;
    None
}
