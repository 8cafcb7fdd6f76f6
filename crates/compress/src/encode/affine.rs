//! Formats in which a weight is an integer times a scale, less a minimum: Q4_1 and Q5_1, with one of each to a block,
//! and Q2_K, Q4_K and Q5_K, where both are integers times what a superblock shares.
//!
//! As in [`super::scaled`], the error is a quadratic form in scale and minimum while codes stay as they are.

use super::weights::{self, Importance, LANES, clamp, inverse, sum};
use super::{Encoder, half};
use smidgen_core::quant::Parts;

/// What comes of rounding some weights to integers times a scale plus an offset.
#[derive(Clone, Copy, Default)]
struct Measure {
    /// The sum of `importance * error^2`.
    error: f32,
    /// The sums of `importance * error` and `importance * integer * error`.
    miss: [f32; 2],
    /// The sums of `importance`, `importance * integer` and `importance * integer^2`.
    moments: [f32; 3],
}

/// A scale, and what is added: a weight is `scale * integer + offset`.
#[derive(Clone, Copy, Default)]
struct Line {
    scale: f32,
    offset: f32,
}

impl Measure {
    /// Measures codes 0 to `top`.
    fn new(line: Line, top: f32, values: &[f32], importance: &[f32]) -> Measure {
        let inverse = inverse(line.scale);
        let mut error = [0.0; LANES];
        let mut miss = [[0.0; LANES]; 2];
        let mut moments = [[0.0; LANES]; 3];
        for (x, w) in values.as_chunks::<LANES>().0.iter().zip(importance.as_chunks::<LANES>().0) {
            for i in 0..LANES {
                let q = weights::round(clamp((x[i] - line.offset) * inverse, 0.0, top));
                let d = x[i] - (line.scale * q + line.offset);
                error[i] += w[i] * d * d;
                miss[0][i] += w[i] * d;
                miss[1][i] += w[i] * q * d;
                moments[0][i] += w[i];
                moments[1][i] += w[i] * q;
                moments[2][i] += w[i] * q * q;
            }
        }
        Measure { error: sum(error), miss: miss.map(sum), moments: moments.map(sum) }
    }

    /// The error of line `to` with the same codes, when this was measured at `line`.
    fn error_at(&self, line: Line, to: Line) -> f32 {
        let [w, q, qq] = self.moments;
        let (scale, offset) = (to.scale - line.scale, to.offset - line.offset);
        let linear = scale * self.miss[1] + offset * self.miss[0];
        let square = scale * scale * qq + 2.0 * scale * offset * q + offset * offset * w;
        self.error - 2.0 * linear + square
    }

    /// How far away the best line for these codes lies.
    fn step(&self) -> Line {
        let [w, q, qq] = self.moments;
        let determinant = w * qq - q * q;
        if determinant <= 1e-6 * w * qq {
            // All codes are the same: only the offset can be told.
            return Line { scale: 0.0, offset: if w > 0.0 { self.miss[0] / w } else { 0.0 } };
        }
        let scale = (w * self.miss[1] - q * self.miss[0]) / determinant;
        Line { scale, offset: (qq * self.miss[0] - q * self.miss[1]) / determinant }
    }

    /// The scale of the best line through `offset`, when this was measured at `line`.
    fn scale_through(&self, line: Line, offset: f32) -> f32 {
        let [_, q, qq] = self.moments;
        line.scale + if qq > 0.0 { (self.miss[1] - (offset - line.offset) * q) / qq } else { 0.0 }
    }

    /// The offset of the best line of slope `scale`, when this was measured at `line`.
    fn offset_under(&self, line: Line, scale: f32) -> f32 {
        let [w, q, _] = self.moments;
        line.offset + if w > 0.0 { (self.miss[0] - (scale - line.scale) * q) / w } else { 0.0 }
    }
}

/// One part of a block in the course of a search.
#[derive(Clone, Copy, Default)]
struct Part {
    /// The line that was measured, and what came of it.
    line: Line,
    measure: Measure,
    /// The best line for the same codes.
    free: Line,
    /// The integers of the part.
    scale: i16,
    min: i16,
}

/// A format of scaled integers with minimums.
pub(super) struct Affine {
    /// Weights in a block.
    len: usize,
    /// Weights that share a scale and a minimum.
    part: usize,
    /// The largest code.
    top: f32,
    /// The largest integer scale and minimum of a part; zero where there are none.
    largest: i16,
}

/// The most parts of a block.
const MAX_PARTS: usize = 16;

/// How often the shared scales are fitted to the codes, and those to them.
const ROUNDS: usize = 4;

/// How many lines are tried for each part.
const N_LINES: usize = 24;

/// How many shared scales are tried, and as many shared scales of minimums.
const N_SHARED: usize = 7;

impl Affine {
    /// A block of 32 under one scale and one minimum, which is added: the integers of its only part are 1 and -1.
    const fn block(top: f32) -> Affine {
        Affine { len: 32, part: 32, top, largest: 0 }
    }

    /// The best line for a part alone. In superblocks it does not lie above zero: minimums are subtracted.
    fn search(&self, values: &[f32], importance: &[f32]) -> Part {
        let free = self.largest == 0;
        let low = values.iter().copied().fold(if free { f32::INFINITY } else { 0.0 }, f32::min);
        let high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut best = Part::default();
        let mut best_error = f32::INFINITY;
        for i in 0..N_LINES {
            // From a range a little too wide to one that leaves out a good part of what is at its ends, which is best
            // where that does not matter, and seldom: most of them lie near the start.
            let far = i as f32 / (N_LINES - 1) as f32;
            let steps = self.top - 0.6 + (self.top * 0.35 + 1.2) * far * far;
            let mut line = Line { scale: (high - low) / steps, offset: low };
            for _ in 0..3 {
                let measure = Measure::new(line, self.top, values, importance);
                let step = measure.step();
                let mut free_line = Line { scale: line.scale + step.scale, offset: line.offset + step.offset };
                if !free && free_line.offset > 0.0 {
                    free_line = Line { scale: measure.scale_through(line, 0.0), offset: 0.0 };
                }
                let error = measure.error_at(line, free_line);
                if error < best_error && free_line.scale >= 0.0 {
                    best_error = error;
                    best = Part { line, measure, free: free_line, ..Part::default() };
                    line = free_line;
                } else {
                    break;
                }
            }
        }
        best
    }

    /// The integer minimum that is best under `scale`, by what was measured at `part.line`.
    fn min_under(&self, part: &Part, scale: f32, dmin: f32) -> i16 {
        match self.largest {
            0 => -1,
            largest => {
                let min = -part.measure.offset_under(part.line, scale) * inverse(dmin);
                weights::round(clamp(min, 0.0, f32::from(largest))) as i16
            }
        }
    }

    /// The integers that come nearest to the free lines under `d` and `dmin`, and what they cost, by the forms.
    fn integers(&self, d: f32, dmin: f32, parts: &mut [Part]) -> f32 {
        let mut total = 0.0;
        for part in parts {
            let below = clamp(part.free.scale * inverse(d), 0.0, f32::from(self.largest)) as i16;
            let candidates = if self.largest == 0 { [1; 2] } else { [below, (below + 1).min(self.largest)] };
            let mut best = f32::INFINITY;
            for scale in candidates {
                let min = self.min_under(part, d * f32::from(scale), dmin);
                let error = part.measure.error_at(part.line, line(d, scale, dmin, min));
                if error < best {
                    best = error;
                    (part.scale, part.min) = (scale, min);
                }
            }
            total += best;
        }
        total
    }

    /// The shared scales under which the parts' integers come nearest to their free lines.
    fn shared_scales(&self, parts: &mut [Part]) -> (f32, f32) {
        if self.largest == 0 {
            let Line { scale, .. } = parts[0].free;
            let d = half(scale);
            return (d, half(parts[0].measure.offset_under(parts[0].line, d)));
        }
        let highest = parts.iter().map(|part| part.free.scale).fold(0.0, f32::max);
        let lowest = parts.iter().map(|part| -part.free.offset).fold(0.0, f32::max);
        let mut best = (f32::INFINITY, 0.0, 0.0);
        let target = |i: usize| f32::from(self.largest) * (1.03 - 0.4 * i as f32 / N_SHARED as f32);
        for i in 0..N_SHARED {
            for j in 0..N_SHARED {
                let (d, dmin) = (half(highest / target(i)), half(lowest / target(j)));
                let error = self.integers(d, dmin, parts);
                if error < best.0 {
                    best = (error, d, dmin);
                }
            }
        }
        (best.1, best.2)
    }

    /// Gives each part the integers under which its error is smallest, of those it has and their neighbours.
    fn settle(&self, d: f32, dmin: f32, parts: &mut [Part], values: &[f32], importance: &[f32]) -> f32 {
        let mut total = 0.0;
        for (i, part) in parts.iter_mut().enumerate() {
            let range = i * self.part..(i + 1) * self.part;
            let (values, importance) = (&values[range.clone()], &importance[range]);
            let measured = |scale: i16, min: i16| {
                let line = line(d, scale, dmin, min);
                Part { line, measure: Measure::new(line, self.top, values, importance), scale, min, free: line }
            };
            let mut best = measured(part.scale, part.min);
            if self.largest > 0 {
                let (scale, min) = (part.scale, part.min);
                for scale in [scale - 1, scale, scale + 1].map(|scale| scale.clamp(0, self.largest)) {
                    // Other scales lead to other codes, and those perhaps to another minimum.
                    let mut tried = min;
                    for _ in 0..2 {
                        let min = self.min_under(&best, d * f32::from(scale), dmin);
                        if (scale, min) == (best.scale, best.min) || (min == tried && scale == best.scale) {
                            break;
                        }
                        tried = min;
                        let next = measured(scale, min);
                        if next.measure.error < best.measure.error {
                            best = next;
                        }
                    }
                }
            }
            *part = best;
            total += best.measure.error;
        }
        total
    }
}

/// The line of a part with integers `scale` and `min`.
fn line(d: f32, scale: i16, dmin: f32, min: i16) -> Line {
    Line { scale: d * f32::from(scale), offset: -dmin * f32::from(min) }
}

/// How much is to be added to `d` and `dmin`, so that the error of all parts is smallest while codes stay as they are.
fn step_of_shared(parts: &[Part]) -> (f32, f32) {
    let (mut a, mut b, mut c, mut right) = (0.0, 0.0, 0.0, [0.0; 2]);
    for part in parts {
        let [w, q, qq] = part.measure.moments;
        let (scale, min) = (f32::from(part.scale), -f32::from(part.min));
        a += scale * scale * qq;
        b += scale * min * q;
        c += min * min * w;
        right[0] += scale * part.measure.miss[1];
        right[1] += min * part.measure.miss[0];
    }
    let determinant = a * c - b * b;
    if determinant > 1e-6 * a * c {
        ((c * right[0] - b * right[1]) / determinant, (a * right[1] - b * right[0]) / determinant)
    } else if a > 0.0 {
        (right[0] / a, 0.0)
    } else {
        (0.0, 0.0)
    }
}

impl Encoder for Affine {
    fn group(&self) -> usize {
        1
    }

    fn fit(&self, values: &[f32], importance: &[f32], block: &mut Parts) {
        let importance = Importance::new(importance);
        let importance = importance.of(values);
        let mut parts = [Part::default(); MAX_PARTS];
        let parts = &mut parts[..self.len / self.part];
        for (i, part) in parts.iter_mut().enumerate() {
            let range = i * self.part..(i + 1) * self.part;
            *part = self.search(&values[range.clone()], &importance[range]);
        }
        let (mut d, mut dmin) = self.shared_scales(parts);
        self.integers(d, dmin, parts);
        let mut best = f32::INFINITY;
        for _ in 0..ROUNDS {
            let error = self.settle(d, dmin, parts, values, importance);
            if error < best {
                best = error;
            } else {
                break;
            }
            (block.d, block.dmin) = (d, dmin);
            for (i, part) in parts.iter().enumerate() {
                (block.scales[i], block.mins[i]) = (part.scale, part.min);
            }
            let step = step_of_shared(parts);
            (d, dmin) = (half(d + step.0), half(dmin + step.1));
        }
    }

    fn round(&self, block: &mut Parts, at: usize, values: &mut [f32], _: &[f32]) {
        let part = at / self.part;
        // In the order in which blocks are read, so that the value is the one that will be read.
        let scale = block.d * f32::from(block.scales[part]);
        let min = block.dmin * f32::from(block.mins[part]);
        let q = weights::round(clamp((values[0] + min) * inverse(scale), 0.0, self.top));
        block.codes[at] = q as u16;
        values[0] = scale * q - min;
    }
}

pub(super) static Q4_1: Affine = Affine::block(15.0);
pub(super) static Q5_1: Affine = Affine::block(31.0);
pub(super) static Q2_K: Affine = Affine { len: 256, part: 16, top: 3.0, largest: 15 };
pub(super) static Q4_K: Affine = Affine { len: 256, part: 32, top: 15.0, largest: 63 };
pub(super) static Q5_K: Affine = Affine { len: 256, part: 32, top: 31.0, largest: 63 };
