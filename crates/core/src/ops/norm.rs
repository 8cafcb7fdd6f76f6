//! Normalisation of rows: root mean square (Zhang and Sennrich 2019) and layer norm (Ba et al. 2016).

use super::math::{dot, sum};
use crate::simd::{Kernel, Simd};

/// A vector of f32 weights as it lies in the file: little-endian, at any address.
#[derive(Clone, Copy, Debug)]
pub struct Vector<'a> {
    bytes: &'a [[u8; 4]],
}

impl<'a> Vector<'a> {
    /// No weights.
    pub const EMPTY: Vector<'static> = Vector { bytes: &[] };

    /// The weights in `bytes`, four to each; bytes that make no whole float are left out.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes: bytes.as_chunks().0 }
    }

    /// How many weights.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The weights in order.
    #[inline(always)]
    pub fn iter(&self) -> impl Iterator<Item = f32> + use<'a> {
        self.bytes.iter().map(|&bytes| f32::from_le_bytes(bytes))
    }

    /// The weights from number `first` on; none of none.
    pub(crate) fn behind(&self, first: usize) -> Vector<'a> {
        Vector { bytes: self.bytes.get(first..).unwrap_or_default() }
    }

    /// The weights of `range`.
    pub fn slice(&self, range: core::ops::Range<usize>) -> Vector<'a> {
        Vector { bytes: &self.bytes[range] }
    }
}

/// How rows are normalised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// Divided by the root of their mean square.
    Rms,
    /// Made to have mean 0 and variance 1.
    Layer,
}

/// Normalises every row of `x`, (rows, columns), into `out`.
pub struct Norm<'a> {
    /// Which norm.
    pub kind: NormKind,
    /// What each column is multiplied with, (columns).
    pub weight: Vector<'a>,
    /// What is then added, (columns) or none.
    pub bias: Vector<'a>,
    /// Added to the mean square or the variance.
    pub epsilon: f32,
    /// The rows.
    pub x: &'a [f32],
    /// The normalised rows.
    pub out: &'a mut [f32],
}

impl Kernel for Norm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let columns = self.weight.len();
        for (x, out) in self.x.chunks_exact(columns).zip(self.out.chunks_exact_mut(columns)) {
            match self.kind {
                NormKind::Rms => out.copy_from_slice(x),
                NormKind::Layer => {
                    let mean = sum(s, x) / columns as f32;
                    out.iter_mut().zip(x).for_each(|(out, x)| *out = x - mean);
                }
            }
            scale_row(s, out, self.weight, self.epsilon);
            out.iter_mut().zip(self.bias.iter()).for_each(|(out, b)| *out += b);
        }
    }
}

/// Normalises every row of `x`, (rows, columns), by its root mean square where it lies.
pub struct RmsInPlace<'a> {
    /// What each column is multiplied with, (columns).
    pub weight: Vector<'a>,
    /// Added to the mean square.
    pub epsilon: f32,
    /// The rows.
    pub x: &'a mut [f32],
}

impl Kernel for RmsInPlace<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for row in self.x.chunks_exact_mut(self.weight.len()) {
            scale_row(s, row, self.weight, self.epsilon);
        }
    }
}

/// Multiplies a row by its weights over the root of its mean square.
#[inline(always)]
fn scale_row<S: Simd>(s: S, row: &mut [f32], weight: Vector<'_>, epsilon: f32) {
    let mean_square = dot(s, row, row) / row.len() as f32;
    let scale = 1.0 / s.sqrt(mean_square + epsilon);
    row.iter_mut().zip(weight.iter()).for_each(|(x, w)| *x = *x * scale * w);
}

/// Adds `x` to `sum`, value by value.
pub struct Add<'a> {
    /// Added to.
    pub sum: &'a mut [f32],
    /// What is added.
    pub x: &'a [f32],
}

impl Kernel for Add<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        self.sum.iter_mut().zip(self.x).for_each(|(sum, x)| *sum += x);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Isa;

    #[test]
    fn norms_match_their_definitions() {
        let x: Vec<f32> = (0..40).map(|i| (i as f32 * 0.7).sin() + 0.3).collect();
        let weight: Vec<u8> = (0..20).flat_map(|i| (1.0 + i as f32 * 0.1).to_le_bytes()).collect();
        let bias: Vec<u8> = (0..20).flat_map(|i| (i as f32).to_le_bytes()).collect();
        for kind in [NormKind::Rms, NormKind::Layer] {
            let mut out = vec![0.0; 40];
            let (weight, bias) = (Vector::new(&weight), Vector::new(&bias));
            Isa::detect().run(Norm { kind, weight, bias, epsilon: 1e-5, x: &x, out: &mut out });
            for (row, got) in x.chunks(20).zip(out.chunks(20)) {
                let mean = if kind == NormKind::Layer { row.iter().sum::<f32>() / 20.0 } else { 0.0 };
                let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / 20.0;
                for (i, got) in got.iter().enumerate() {
                    let want = (row[i] - mean) / (variance + 1e-5).sqrt() * (1.0 + i as f32 * 0.1) + i as f32;
                    assert!((got - want).abs() < 1e-5, "{kind:?} column {i}: {got}, not {want}");
                }
            }
        }
    }
}
