//! Rounding rows of weights to a type: which scales, which codes.
//!
//! Every format is written in three steps, so that whoever rounds can stand between them: scales are fitted to a whole
//! block, then groups of weights are rounded to codes under those scales, then the block is packed. Plain rounding does
//! the three in a row; error feedback changes the weights of a group after the groups before it were rounded.

mod any_width;

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

    /// Rounds a whole block under the scales that were fitted, group after group; `values` are what its weights should be
    /// and become what its codes stand for. With a `coupling`, the errors of each group move the groups after it.
    fn round_block(&self, block: &mut Parts, values: &mut [f32], importance: &[f32], coupling: Option<Coupling<'_>>) {
        let group = self.group();
        let mut at = 0;
        while at < values.len() {
            let end = (at + group).min(values.len());
            let (rounded, later) = values.split_at_mut(end);
            let mut wanted = [0.0; MAX_GROUP];
            wanted[..end - at].copy_from_slice(&rounded[at..]);
            self.round(block, at, &mut rounded[at..], &importance[at..end]);
            if let Some(coupling) = coupling {
                for (i, (wanted, given)) in (at..).zip(wanted.iter().zip(&rounded[at..])) {
                    add_error(later, wanted - given, &coupling.row(i)[end..]);
                }
            }
            at = end;
        }
    }
}

/// Weights of the largest group; an encoder with larger ones has a `round_block` of its own.
const MAX_GROUP: usize = 8;

/// Adds to each of `later` its `share` of an `error`.
pub(crate) fn add_error(later: &mut [f32], error: f32, shares: &[f32]) {
    later.iter_mut().zip(shares).for_each(|(value, share)| *value += error * share);
}

/// How the error of each weight of a block moves the weights after it: a square on the diagonal of a matrix that is unit
/// upper triangular.
#[derive(Clone, Copy, Debug)]
pub struct Coupling<'a> {
    matrix: &'a [f32],
    n_columns: usize,
    block: (usize, usize),
}

impl<'a> Coupling<'a> {
    /// The square of `matrix`, (`n_columns`, `n_columns`), that belongs to the columns from `first` to `end`.
    pub(crate) fn new(matrix: &'a [f32], n_columns: usize, first: usize, end: usize) -> Self {
        Coupling { matrix, n_columns, block: (first, end) }
    }

    /// The shares of the error of weight `i` of the block that each weight of it gets; those up to `i` mean nothing.
    pub(crate) fn row(&self, i: usize) -> &'a [f32] {
        let (first, end) = self.block;
        let row = (first + i) * self.n_columns;
        &self.matrix[row + first..row + end]
    }
}

/// The encoder of `kind`, if that type can be chosen with care; the types without one are floats.
pub fn encoder(kind: Type) -> Option<&'static dyn Encoder> {
    Some(match kind {
        Type::Q2_W => &any_width::Trellis::<2>,
        Type::Q3_W => &any_width::Trellis::<3>,
        Type::Q4_W => &any_width::Trellis::<4>,
        Type::Q5_W => &any_width::Trellis::<5>,
        Type::Q6_W => &any_width::Trellis::<6>,
        Type::Q8_W => &any_width::Plain,
        _ => return None,
    })
}
