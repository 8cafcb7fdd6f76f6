//! Rounding rows of weights to a type: which scales, which codes.
//!
//! Every format is written in three steps, so that whoever rounds can stand between them: scales are fitted to a whole
//! block, then groups of weights are rounded to codes under those scales, then the block is packed. Plain rounding does
//! the three in a row; error feedback changes the weights of a group after the groups before it were rounded.

mod affine;
mod any_width;
mod gain;
mod grid;
mod levels;
mod linear;
mod scaled;
mod ternary;
mod weights;

pub(crate) use gain::gain;
use smidgen_core::half::{f16_to_f32, f32_to_f16};
use smidgen_core::quant::{Parts, Type};

/// How blocks of one type are made from weights.
pub trait Encoder: Sync {
    /// Weights that share one code and are rounded together: 1 for most, 4 or 8 for codebooks of vectors.
    fn group(&self) -> usize;

    /// Chooses the scales of the block that `values` fill, so that the sum of `importance * error^2` is small.
    ///
    /// Scales are chosen as they will be stored. Only what importances are beside each other matters; where all are
    /// zero, they count as one.
    fn fit(&self, values: &[f32], importance: &[f32], block: &mut Parts);

    /// Chooses the code of the group whose first weight is number `at` of the block, under the scales that were fitted;
    /// `values` are what the group should be and become what will be read from the block, to the bit.
    fn round(&self, block: &mut Parts, at: usize, values: &mut [f32], importance: &[f32]);

    /// Rounds a whole block under the scales that were fitted, group after group; `values` are what its weights should be
    /// and become what its codes stand for. With a `coupling`, the errors of each group move the groups after it.
    fn round_block(&self, block: &mut Parts, values: &mut [f32], importance: &[f32], coupling: Option<Coupling<'_>>) {
        let group = self.group();
        let mut at = 0;
        while at < values.len() {
            let end = (at + group).min(values.len());
            let (rounded, later) = values.split_at_mut(end);
            let mut missed = [0.0; MAX_GROUP];
            missed[..end - at].copy_from_slice(&rounded[at..]);
            self.round(block, at, &mut rounded[at..], &importance[at..end]);
            if let Some(coupling) = coupling {
                missed.iter_mut().zip(&rounded[at..]).for_each(|(target, given)| *target -= given);
                coupling.spread(at, &mut missed[..end - at], later);
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

/// How the error of each weight of a block moves the weights after it: a square on the diagonal of a matrix of shares, which
/// has nothing on its own diagonal and below.
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

    /// Moves the weights `later` in the block by what the group at `at` has `missed` of its targets. In the group itself a
    /// miss moved the targets after it too, though its weights were rounded together: `missed` becomes what each missed then.
    pub(crate) fn spread(&self, at: usize, missed: &mut [f32], later: &mut [f32]) {
        let end = at + missed.len();
        for i in 0..missed.len() {
            let (done, rest) = missed.split_at_mut(i + 1);
            let shares = self.row(at + i);
            add_error(rest, done[i], &shares[at + i + 1..end]);
            add_error(later, done[i], &shares[end..]);
        }
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
        Type::Q4_0 => &linear::Q4_0,
        Type::Q5_0 => &linear::Q5_0,
        Type::Q8_0 => &linear::Q8_0,
        Type::Q3_K => &linear::Q3_K,
        Type::Q6_K => &linear::Q6_K,
        Type::Q4_1 => &affine::Q4_1,
        Type::Q5_1 => &affine::Q5_1,
        Type::Q2_K => &affine::Q2_K,
        Type::Q4_K => &affine::Q4_K,
        Type::Q5_K => &affine::Q5_K,
        Type::IQ4_NL => &levels::IQ4_NL,
        Type::IQ4_XS => &levels::IQ4_XS,
        Type::MXFP4 => &levels::MXFP4,
        Type::IQ3_S => &grid::IQ3_S,
        Type::IQ3_XXS => &grid::IQ3_XXS,
        Type::IQ2_S => &grid::IQ2_S,
        Type::IQ2_XS => &grid::IQ2_XS,
        Type::IQ2_XXS => &grid::IQ2_XXS,
        Type::IQ1_M => &grid::IQ1_M,
        Type::IQ1_S => &grid::IQ1_S,
        Type::TQ1_0 | Type::TQ2_0 => &ternary::TERNARY,
        Type::Q1_0 => &ternary::Q1_0,
        Type::Q2_0 => &linear::Q2_0,
        _ => return None,
    })
}

/// Whether rows can be written in `kind`.
pub fn can_write(kind: Type) -> bool {
    kind.can_quantize() || encoder(kind).is_some()
}

/// Whether `kind` leaves so little room that it is not worth writing without knowing which weights matter: types below
/// four bits whose points are few. Those for weights that are of one or two bits already are left out.
pub fn needs_calibration(kind: Type) -> bool {
    use Type::*;
    matches!(kind, Q2_K | IQ1_S | IQ1_M | IQ2_XXS | IQ2_XS | IQ2_S | IQ3_XXS | IQ3_S | Q2_W)
}

/// Why rows were not written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum EncodeError {
    /// Rows cannot be written in this type.
    Unsupported(Type),
    /// Rows of this type are whole blocks, and rows of this many columns are not.
    Columns(Type, usize),
    /// This type is not written without importances.
    NeedsCalibration(Type),
    /// The weight in this row and column is not finite, or beyond what the scales of the type hold.
    Weight(usize, usize, f32),
    /// The importance of this column is not a finite number of zero or more.
    Importance(usize),
}

impl std::fmt::Display for EncodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            EncodeError::Unsupported(kind) => write!(f, "rows cannot be written as {}", kind.name()),
            EncodeError::Columns(kind, n_columns) => {
                let (name, len) = (kind.name(), kind.block_len());
                write!(f, "{name} takes rows of a multiple of {len} columns, and these have {n_columns}")
            }
            EncodeError::NeedsCalibration(kind) => {
                write!(f, "{} is not worth writing without an importance matrix", kind.name())
            }
            EncodeError::Weight(row, column, weight) if weight.is_finite() => {
                write!(f, "the weight in row {row}, column {column} is {weight:e}, more than scales can hold")
            }
            EncodeError::Weight(row, column, weight) => {
                write!(f, "the weight in row {row}, column {column} is {weight}, not a finite number")
            }
            EncodeError::Importance(column) => {
                write!(f, "the importance of column {column} is not a finite number of zero or more")
            }
        }
    }
}

impl std::error::Error for EncodeError {}

/// Writes whole rows of `n_columns` weights in `kind`, so that the sum of `importance * error^2` is small.
///
/// `importance` is one number for each column, the mean square of what the column is multiplied with. Without it, floats
/// and the types of 32 weights are written as ggml writes them, byte for byte, and others as if a weight's importance grew
/// with it: the mean square of its block plus its own. An embedding, which nothing is multiplied with, may be given ones.
///
/// # Errors
/// What [`EncodeError`] says; then `out` may be partly written.
///
/// # Panics
/// When `rows` are not whole rows, `out` has not the bytes of as many, or `importance` not one number for each column.
pub fn quantize_rows(
    kind: Type,
    rows: &[f32],
    n_columns: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
) -> Result<(), EncodeError> {
    let row_bytes = check_rows(kind, rows, n_columns, out)?;
    if let Some(importance) = importance {
        assert_eq!(importance.len(), n_columns, "an importance for each column");
        if let Some(column) = importance.iter().position(|importance| !(0.0..f32::INFINITY).contains(importance)) {
            return Err(EncodeError::Importance(column));
        }
    } else if needs_calibration(kind) {
        return Err(EncodeError::NeedsCalibration(kind));
    } else if kind.can_quantize() {
        return kind.quantize(rows, out).map_err(|_| EncodeError::Unsupported(kind));
    }
    let Some(encoder) = encoder(kind) else {
        return kind.quantize(rows, out).map_err(|_| EncodeError::Unsupported(kind));
    };
    // The scales of the any-width family are too coarse to be corrected once the codes are chosen.
    let gain = if kind.is_any_width() { gain(kind, encoder) } else { 1.0 };
    for (row, out) in rows.chunks(n_columns).zip(out.chunks_mut(row_bytes)) {
        let mut column = 0;
        for (values, bytes) in row.chunks(kind.block_len()).zip(out.chunks_mut(kind.block_bytes())) {
            let presumption;
            let importance = match importance {
                Some(all) => &all[column..column + values.len()],
                None => {
                    presumption = presumed(values);
                    &presumption[..values.len()]
                }
            };
            let (mut parts, mut rounded) = (Parts::ZERO, [0.0; weights::MAX_BLOCK]);
            let rounded = &mut rounded[..values.len()];
            rounded.iter_mut().zip(values).for_each(|(rounded, value)| *rounded = gain * value);
            encoder.fit(rounded, importance, &mut parts);
            encoder.round_block(&mut parts, rounded, importance, None);
            // In Q1_0 nothing lies between codes, and models that are made for it are as large as they should be.
            if kind != Type::Q1_0 {
                restore_size(&mut parts, values, rounded, importance);
            }
            kind.pack(&parts, bytes).map_err(|_| EncodeError::Unsupported(kind))?;
            column += values.len();
        }
    }
    Ok(())
}

/// Bytes of a row, when rows like these can be written in `kind`.
pub(crate) fn check_rows(kind: Type, rows: &[f32], n_columns: usize, out: &[u8]) -> Result<usize, EncodeError> {
    let Some(row_bytes) = kind.row_bytes(n_columns as u64).filter(|_| n_columns > 0) else {
        return Err(EncodeError::Columns(kind, n_columns));
    };
    assert!(rows.len().is_multiple_of(n_columns), "whole rows");
    assert_eq!(out.len() as u64, row_bytes * (rows.len() / n_columns) as u64, "the bytes of as many rows");
    let largest = largest(kind);
    if let Some(i) = rows.iter().position(|weight| !(-largest..=largest).contains(weight)) {
        return Err(EncodeError::Weight(i / n_columns, i % n_columns, rows[i]));
    }
    Ok(row_bytes as usize)
}

/// Makes the scales of a block larger, codes staying as they are, so that `rounded` weights are hardly smaller than `values`.
///
/// Scales of least error make weights smaller on average: what lies between two codes counts for neither. All weights
/// together then turn the same way, which at two bits costs a model more than the error says: errors that differ from weight
/// to weight average out, and these do not. Giving all of it back costs about as much error as ggml's scales have; of that
/// last part a quarter is left. `docs/quantizing.md` has what it does to models. Formats whose scales are not floats stay
/// as they are.
fn restore_size(parts: &mut Parts, values: &[f32], rounded: &[f32], importance: &[f32]) {
    let (mut size, mut kept) = (0.0, 0.0);
    for ((value, rounded), importance) in values.iter().zip(rounded).zip(importance) {
        size += importance * value * value;
        kept += importance * value * rounded;
    }
    let factor = gain::give_back(size, kept);
    if factor.is_finite() && (1.0..2.0).contains(&factor) {
        parts.d = half(parts.d * factor);
        parts.dmin = half(parts.dmin * factor);
    }
}

/// The importance of the weights of a block, when nothing is known of what they are multiplied with: the block's mean
/// square plus the weight's square. What is large is seldom so by chance.
fn presumed(values: &[f32]) -> [f32; weights::MAX_BLOCK] {
    let mean = values.iter().map(|x| x * x).sum::<f32>() / values.len() as f32;
    let mut importance = [0.0; weights::MAX_BLOCK];
    for (importance, x) in importance.iter_mut().zip(values) {
        *importance = mean + x * x;
    }
    importance
}

/// The largest half float.
const LARGEST: f32 = 65504.0;

/// The largest weight that every encoder of `kind` finds a scale for.
fn largest(kind: Type) -> f32 {
    match kind {
        Type::F32 | Type::BF16 => f32::MAX,
        // The largest scale, 3.75, times the least of the largest levels.
        kind if kind.is_any_width() => 3.75 * 111.0,
        _ => LARGEST,
    }
}

/// The half float nearest to `x`, or the largest one: scales are searched among what can be stored.
fn half(x: f32) -> f32 {
    f16_to_f32(f32_to_f16(x.clamp(-LARGEST, LARGEST)))
}
