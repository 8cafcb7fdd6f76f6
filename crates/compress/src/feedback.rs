//! Error feedback: what rounding does to one weight is made good by the weights after it.
//!
//! A row of weights `w` that is rounded to `q` changes the layer's output by `(w - q) H (w - q)^T` on average, where `H` is
//! the second moment of its input. With `H = A D A^T`, `A` unit upper triangular and `D` diagonal, that is the sum over
//! columns of `D_i y_i^2`, where `y = (w - q) A`. Column `i` of `y` is what `q_i` misses of the target `w_i + sum over j < i
//! of y_j B_ji`, with `B = I - A^-1`: so columns are rounded in order, and each miss moves the targets after it. This is LDLQ
//! (Chee et al., 2023, "QuIP"), and gives what GPTQ (Frantar et al., 2022) gives.

use smidgen_core::quant::{Parts, Type};

use crate::encode::{self, Coupling, EncodeError, Encoder, add_error};

/// Share of the mean of the diagonal that is added to it, so that inputs which calibration never saw do no harm.
const DAMPING: f64 = 0.01;
/// Share of the damping below which no pivot falls, whatever rounding does.
const LEAST_PIVOT: f64 = 1e-3;

/// What the second moment of a layer's input says of its columns.
#[derive(Clone, Debug)]
pub struct Factor {
    n_columns: usize,
    /// `B`, (columns, columns): how a miss moves the targets after it. Nothing on the diagonal and below.
    shares: Vec<f32>,
    /// `D`, (columns): what a miss costs.
    costs: Vec<f32>,
}

impl Factor {
    /// Factors the symmetric matrix `moment`, (`n_columns`, `n_columns`), of which the upper triangle is read.
    ///
    /// `None` when it holds something that is not a number.
    ///
    /// # Panics
    /// When `moment` is not square.
    pub fn new(moment: &[f32], n_columns: usize) -> Option<Factor> {
        let n = n_columns;
        assert_eq!(moment.len(), n * n, "a square matrix");
        let trace: f64 = (0..n).map(|i| f64::from(moment[i * n + i])).sum();
        let damping = (DAMPING * trace / n as f64).max(f64::from(f32::MIN_POSITIVE));
        let mut matrix: Vec<f64> = moment.iter().map(|&value| f64::from(value)).collect();
        (0..n).for_each(|i| matrix[i * n + i] += damping);
        let costs = factor(&mut matrix, n, damping * LEAST_PIVOT)?;
        invert(&mut matrix, n);
        let shares = (0..n * n).map(|at| if at % n > at / n { -matrix[at] as f32 } else { 0.0 }).collect();
        Some(Factor { n_columns, shares, costs })
    }

    /// Values in a row.
    pub fn n_columns(&self) -> usize {
        self.n_columns
    }
}

/// Turns the upper triangle of `matrix` into `A` of `A D A^T`, and returns `D`.
fn factor(matrix: &mut [f64], n: usize, least: f64) -> Option<Vec<f32>> {
    let mut diagonal = vec![0.0; n];
    // Row j of A times D, right of the diagonal.
    let mut scaled = vec![0.0; n];
    for j in (0..n).rev() {
        let row = &matrix[j * n..(j + 1) * n];
        scaled.iter_mut().zip(row).zip(&diagonal).skip(j + 1).for_each(|((scaled, a), d)| *scaled = a * d);
        let pivot = row[j] - dot(&row[j + 1..], &scaled[j + 1..]);
        if !pivot.is_finite() {
            return None;
        }
        diagonal[j] = pivot.max(least);
        for row in matrix.chunks_exact_mut(n).take(j) {
            row[j] = (row[j] - dot(&row[j + 1..], &scaled[j + 1..])) / diagonal[j];
        }
    }
    Some(diagonal.iter().map(|&value| value as f32).collect())
}

/// Turns the unit upper triangular `matrix` into its inverse; the diagonal is not touched.
fn invert(matrix: &mut [f64], n: usize) {
    for i in (0..n).rev() {
        let (above, below) = matrix.split_at_mut((i + 1) * n);
        let row = &mut above[i * n..];
        let factors = row.to_vec();
        row[i + 1..].fill(0.0);
        for j in i + 1..n {
            let factor = factors[j];
            row[j] -= factor;
            let inverse = &below[(j - i - 1) * n..(j - i) * n];
            row[j + 1..].iter_mut().zip(&inverse[j + 1..]).for_each(|(value, b)| *value -= factor * b);
        }
    }
}

fn dot(one: &[f64], other: &[f64]) -> f64 {
    one.iter().zip(other).map(|(a, b)| a * b).sum()
}

/// Writes whole rows of weights in `kind`; `rows` become what their bytes in `out` stand for.
///
/// # Errors
/// As [`encode::quantize_rows`], and a type without an encoder, which leaves nothing to choose.
///
/// # Panics
/// When `rows` are not whole rows of the factor's columns, or `out` has not the bytes of as many.
pub fn quantize_rows(kind: Type, rows: &mut [f32], factor: &Factor, out: &mut [u8]) -> Result<(), EncodeError> {
    let row_bytes = encode::check_rows(kind, rows, factor.n_columns, out)?;
    let encoder = encode::encoder(kind).ok_or(EncodeError::Unsupported(kind))?;
    let gain = encode::gain(kind, encoder);
    for (row, out) in rows.chunks_exact_mut(factor.n_columns).zip(out.chunks_exact_mut(row_bytes)) {
        row.iter_mut().for_each(|weight| *weight *= gain);
        quantize_row(encoder, kind, factor, row, out);
    }
    Ok(())
}

/// Rounds one row.
fn quantize_row(encoder: &dyn Encoder, kind: Type, factor: &Factor, row: &mut [f32], out: &mut [u8]) {
    let n = factor.n_columns;
    let mut parts = Parts::ZERO;
    let mut missed = vec![0.0; kind.block_len()];
    let (mut first, mut written) = (0, 0);
    while first < n {
        let end = (first + kind.block_len()).min(n);
        let n_bytes = kind.row_bytes((end - first) as u64).unwrap_or(0) as usize;
        let (values, later) = row[first..].split_at_mut(end - first);
        let missed = &mut missed[..values.len()];
        let costs = &factor.costs[first..end];
        let coupling = Coupling::new(&factor.shares, n, first, end);
        missed.copy_from_slice(values);
        encoder.fit(values, costs, &mut parts);
        encoder.round_block(&mut parts, values, costs, Some(coupling));
        let packed = kind.pack(&parts, &mut out[written..written + n_bytes]);
        debug_assert!(packed.is_ok(), "types with encoders are packed");
        // Targets inside the block moved while it was rounded.
        missed.iter_mut().zip(values).for_each(|(target, given)| *target -= *given);
        coupling.spread(0, missed, &mut []);
        for (i, missed) in (first..).zip(missed) {
            add_error(later, *missed, &factor.shares[i * n + end..(i + 1) * n]);
        }
        (first, written) = (end, written + n_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use smidgen_core::quant::TYPES;

    /// A matrix worked out by hand from A = [1 2 3; 0 1 4; 0 0 1] and D = [5, 6, 7].
    #[test]
    fn factors_of_three_columns() {
        let mut matrix = [92.0, 96.0, 21.0, 96.0, 118.0, 28.0, 21.0, 28.0, 7.0];
        assert_eq!(factor(&mut matrix, 3, 1e-9).unwrap(), [5.0, 6.0, 7.0]);
        assert_eq!([matrix[1], matrix[2], matrix[5]], [2.0, 3.0, 4.0]);
        invert(&mut matrix, 3);
        assert_eq!([matrix[1], matrix[2], matrix[5]], [-2.0, 5.0, -4.0]);
        assert!(Factor::new(&[1.0, f32::NAN, f32::NAN, 1.0], 2).is_none());
    }

    /// Numbers that look random and are the same on every run.
    fn numbers(n: usize) -> Vec<f32> {
        let mut state = 0x2545_f491u32;
        let next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        std::iter::repeat_with(next).take(n).collect()
    }

    /// What rounding does to the output, on correlated inputs, is less with feedback than without, for every type that is not
    /// for weights of two or three values.
    #[test]
    fn feedback_spares_the_output() {
        let (n, n_samples) = (256, 600);
        let noise = numbers(n * n_samples);
        let inputs: Vec<Vec<f32>> = noise
            .chunks(n)
            .map(|sample| (0..n).map(|i| sample[i] + sample[i % 30] + sample[i % 77]).collect())
            .collect();
        let mut moment = vec![0.0; n * n];
        for input in &inputs {
            for i in 0..n {
                (0..n).for_each(|j| moment[i * n + j] += input[i] * input[j]);
            }
        }
        let factor = Factor::new(&moment, n).unwrap();
        let unaware = Factor { shares: vec![0.0; n * n], costs: vec![1.0; n], ..factor.clone() };
        let kinds = TYPES.iter().map(|row| row.0).filter(|&kind| encode::encoder(kind).is_some());
        for kind in kinds.filter(|kind| !matches!(kind, Type::TQ1_0 | Type::TQ2_0 | Type::Q1_0)) {
            let damage = |factor: &Factor| -> f32 {
                let weights = numbers(10 * n);
                let mut rows = weights.clone();
                let row_bytes = kind.row_bytes(n as u64).unwrap() as usize;
                let mut out = vec![0; 10 * row_bytes];
                quantize_rows(kind, &mut rows, factor, &mut out).unwrap();
                let mut sum = 0.0;
                for (row, (weights, given)) in out.chunks(row_bytes).zip(weights.chunks(n).zip(rows.chunks(n))) {
                    let mut back = vec![0.0; n];
                    kind.dequantize(row, &mut back).unwrap();
                    assert_eq!(back, given, "{}: what was said to be stored is stored", kind.name());
                    let off: Vec<f32> = weights.iter().zip(&back).map(|(weight, back)| weight - back).collect();
                    let misses = inputs.iter().map(|input| input.iter().zip(&off).map(|(x, off)| x * off).sum::<f32>());
                    sum += misses.map(|miss| miss * miss).sum::<f32>();
                }
                sum
            };
            let (with, without) = (damage(&factor), damage(&unaware));
            println!("{}: {with} with feedback, {without} without", kind.name());
            assert!(with < 0.8 * without, "{}: {with} with feedback, {without} without", kind.name());
        }
    }
}
