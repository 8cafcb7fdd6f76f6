//! The scales of formats in which a weight is an integer times a scale, and the scale perhaps an integer times one that
//! a block shares.
//!
//! The error of a part of a block is a parabola in its scale while codes stay as they are, so one measurement of a scale
//! tells the best scale for the codes that it leads to, and what any other would cost with them. A search measures a
//! dozen scales, follows the best of them to where codes no longer change, chooses the shared scale by the parabolas,
//! and then measures again what became of each part under the integers that are stored.

use super::weights::{self, Importance};
use super::{Encoder, half};
use smidgen_core::quant::Parts;

/// What comes of rounding some weights under a scale.
#[derive(Clone, Copy, Default)]
pub(super) struct Measure {
    /// The sum of `importance * error^2`.
    pub(super) error: f32,
    /// The sum of `importance * integer * error`: half of what the error falls by with the scale.
    pub(super) slope: f32,
    /// The sum of `importance * integer^2`.
    pub(super) curve: f32,
}

impl Measure {
    /// How far the best scale for these codes lies above the one measured, and the error there.
    fn best(self) -> (f32, f32) {
        if self.curve > 0.0 {
            let step = self.slope / self.curve;
            (step, (self.error - self.slope * step).max(0.0))
        } else {
            (0.0, self.error)
        }
    }
}

/// The integers that weights become, whatever the scale.
pub(super) trait Codebook: Sync {
    /// How many codebooks there are, of which each part of a block chooses one.
    fn n_variants(&self) -> usize {
        1
    }
    /// Weights that share a code.
    fn group(&self) -> usize;
    /// What the largest magnitude of a part is tried to become, in units of the scale.
    fn targets(&self) -> &[f32];
    /// Whether negative scales are tried too, the integers not being the same on both sides of zero.
    fn both_signs(&self) -> bool;
    /// What comes of rounding `values` in codebook `variant` under `scale`, which may be zero.
    fn measure(&self, variant: usize, scale: f32, values: &[f32], importance: &[f32]) -> Measure;
    /// Chooses the code of a group under `scale`; `values` become integers.
    fn choose(&self, scale: f32, block: &mut Parts, at: usize, values: &mut [f32], importance: &[f32]);
}

/// Targets from `first` to `last`, after one that stands for blocks of which all weights are equal, but for their signs.
pub(super) const fn targets<const N: usize>(even: f32, first: f32, last: f32) -> [f32; N] {
    let mut targets = [even; N];
    let mut i = 1;
    while i < N {
        targets[i] = first + (last - first) * (i - 1) as f32 / (N - 2) as f32;
        i += 1;
    }
    targets
}

/// Which integers the scales of the parts of a block may be.
#[derive(Clone, Copy)]
pub(super) enum Scales {
    /// There are none: the block has one scale.
    One,
    /// From the negative of this to one less than it.
    Signed(i16),
    /// The odd numbers below this.
    Odd(i16),
}

impl Scales {
    /// The integer nearest to `x`.
    fn nearest(self, x: f32) -> i16 {
        match self {
            Scales::One => 1,
            Scales::Signed(end) => weights::round(weights::clamp(x, -f32::from(end), f32::from(end - 1))) as i16,
            Scales::Odd(end) => {
                2 * weights::round(weights::clamp((x - 1.0) / 2.0, 0.0, f32::from(end / 2 - 1))) as i16 + 1
            }
        }
    }

    /// The distance between neighbours.
    fn step(self) -> i16 {
        if let Scales::Odd(_) = self { 2 } else { 1 }
    }

    /// The largest of the integers, of which the part with the largest scale gets one nearby.
    fn largest(self) -> f32 {
        match self {
            Scales::One => 1.0,
            Scales::Signed(end) => f32::from(end),
            Scales::Odd(end) => f32::from(end - 1),
        }
    }
}

/// A format of scaled integers.
pub(super) struct Scaled<B> {
    /// The integers.
    pub(super) book: B,
    /// Weights in a block.
    pub(super) len: usize,
    /// Weights that share an integer scale.
    pub(super) part: usize,
    /// The integer scales.
    pub(super) scales: Scales,
    /// The shared scale is the stored one times this power of two.
    pub(super) factor: f32,
}

/// One part of a block in the course of a search.
#[derive(Clone, Copy, Default)]
struct Part {
    /// The best scale, were it free.
    free: f32,
    /// What comes of it.
    curve: f32,
    /// Which codebook.
    variant: usize,
    /// The integer scale.
    integer: i16,
    /// What comes of that.
    measure: Measure,
}

/// The most parts of a block.
const MAX_PARTS: usize = 16;

/// How often the best of the scales that were tried is moved to where its codes would have it.
const FOLLOW: usize = 4;

/// How often the shared scale is fitted to the codes, and those to it.
const ROUNDS: usize = 3;

impl<B: Codebook> Scaled<B> {
    /// The scale, codebook and curve with which a part alone has the smallest error.
    fn search(&self, values: &[f32], importance: &[f32]) -> Part {
        let largest = weights::largest(values);
        let signs: &[f32] = if self.book.both_signs() { &[1.0, -1.0] } else { &[1.0] };
        let mut best = (f32::INFINITY, Part::default());
        // Whether this scale, with the codes that it leads to, is better than any before.
        let mut consider = |variant: usize, scale: f32| {
            let measure = self.book.measure(variant, scale, values, importance);
            let (step, error) = measure.best();
            let better = error < best.0;
            if better {
                best = (error, Part { free: scale + step, curve: measure.curve, variant, ..Part::default() });
            }
            better.then_some(scale + step)
        };
        let mut promising = (0, 0.0);
        for variant in 0..self.book.n_variants() {
            for target in self.book.targets() {
                for sign in signs {
                    if let Some(scale) = consider(variant, sign * largest / target) {
                        promising = (variant, scale);
                    }
                }
            }
        }
        for _ in 0..FOLLOW {
            match consider(promising.0, promising.1) {
                Some(scale) => promising.1 = scale,
                None => break,
            }
        }
        best.1
    }

    /// The shared scale under which the parts' integers come nearest to their free scales, by their parabolas.
    fn shared_scale(&self, parts: &[Part]) -> f32 {
        let largest = parts.iter().map(|part| part.free).fold(0.0f32, |a, b| if b.abs() > a.abs() { b } else { a });
        if let Scales::One = self.scales {
            return half(largest / self.factor);
        }
        let cost = |d: f32| {
            let shared = d * self.factor;
            let miss = |part: &Part| shared * f32::from(self.scales.nearest(part.free / shared)) - part.free;
            parts.iter().map(|part| part.curve * miss(part) * miss(part)).sum::<f32>()
        };
        let mut best = (f32::INFINITY, 0.0);
        const N: usize = 48;
        for i in 0..N {
            let target = self.scales.largest() * (0.55 + 0.6 * i as f32 / N as f32);
            for d in [largest / target, -largest / target] {
                let d = half(d / self.factor);
                // Odd scales are positive, and so is what they multiply.
                if d == 0.0 || (d < 0.0 && matches!(self.scales, Scales::Odd(_))) {
                    continue;
                }
                let cost = cost(d);
                if cost < best.0 {
                    best = (cost, d);
                }
            }
        }
        best.1
    }

    /// Gives each part the integer under which its error is smallest, of the one it has and those up to `reach` away.
    fn settle(&self, d: f32, reach: i16, parts: &mut [Part], values: &[f32], importance: &[f32]) -> f32 {
        let shared = d * self.factor;
        let mut total = 0.0;
        for (i, part) in parts.iter_mut().enumerate() {
            let range = i * self.part..(i + 1) * self.part;
            let (values, importance) = (&values[range.clone()], &importance[range]);
            let middle = part.integer;
            part.measure.error = f32::INFINITY;
            let step = self.scales.step();
            for distance in -reach..=reach {
                let integer = middle + distance * step;
                if self.scales.nearest(f32::from(integer)) != integer {
                    continue;
                }
                let measure = self.book.measure(part.variant, shared * f32::from(integer), values, importance);
                if measure.error < part.measure.error {
                    (part.integer, part.measure) = (integer, measure);
                }
            }
            total += part.measure.error;
        }
        total
    }
}

impl<B: Codebook> Encoder for Scaled<B> {
    fn group(&self) -> usize {
        self.book.group()
    }

    fn fit(&self, values: &[f32], importance: &[f32], block: &mut Parts) {
        let importance = Importance::new(importance);
        let importance = importance.of(values);
        let n_parts = self.len / self.part;
        let mut parts = [Part::default(); MAX_PARTS];
        let parts = &mut parts[..n_parts];
        for (i, part) in parts.iter_mut().enumerate() {
            let range = i * self.part..(i + 1) * self.part;
            *part = self.search(&values[range.clone()], &importance[range]);
        }
        let mut d = self.shared_scale(parts);
        for part in parts.iter_mut() {
            part.integer = self.scales.nearest(if d == 0.0 { 0.0 } else { part.free / (d * self.factor) });
        }
        let mut best = f32::INFINITY;
        for round in 0..ROUNDS {
            // Another shared scale seldom asks for other integers; where trying costs little, they are tried.
            let reach = if round == 0 || self.book.group() == 1 { 1 } else { 0 };
            let error = self.settle(d, reach, parts, values, importance);
            if error < best {
                best = error;
            } else {
                break;
            }
            block.d = d;
            for (i, part) in parts.iter().enumerate() {
                block.scales[i] = part.integer;
                block.mins[i] = part.variant as i16;
            }
            let slope: f32 = parts.iter().map(|part| f32::from(part.integer) * part.measure.slope).sum();
            let curve: f32 = parts.iter().map(|part| f32::from(part.integer).powi(2) * part.measure.curve).sum();
            if curve > 0.0 {
                d = half(d + slope / curve / self.factor);
            }
        }
    }

    fn round(&self, block: &mut Parts, at: usize, values: &mut [f32], importance: &[f32]) {
        let integer = if let Scales::One = self.scales { 1 } else { block.scales[at / self.part] };
        let scale = block.d * self.factor * f32::from(integer);
        self.book.choose(scale, block, at, values, importance);
        for value in values {
            *value *= scale;
        }
    }
}
