//! The any-width family: a path through the trellis for 2, 3 and 4 bits, plain rounding for 5, 6 and 8.

use smidgen_core::half::e5m3_to_f32;
use smidgen_core::quant::Parts;
use smidgen_core::quant::any_width::{TABLES, WINDOW};
use smidgen_core::simd::{BLOCK, Isa, Kernel, Simd};

use super::{Coupling, Encoder};

/// Windows of the stream: each has a level.
const WINDOWS: usize = 1 << WINDOW;
/// States between two weights, in the format with most of them.
const MAX_STATES: usize = 1 << (WINDOW - 2);

/// The largest scale that is no larger than `wanted`, as its byte; 1, the smallest, for anything below.
fn scale_below(wanted: f32) -> u8 {
    let (mut low, mut high) = (1u8, 255u8);
    while low < high {
        let middle = high - (high - low) / 2;
        if e5m3_to_f32(middle) <= wanted { low = middle } else { high = middle - 1 }
    }
    low
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |largest, value| value.abs().max(largest))
}

/// The formats of `BITS` bits whose weights are the codes themselves, from `-LIMIT - 1` to `LIMIT`.
pub(super) struct Plain<const BITS: usize>;

impl<const BITS: usize> Plain<BITS> {
    const LIMIT: f32 = ((1 << (BITS - 1)) - 1) as f32;
    /// Scales that are tried below the one that reaches the largest weight: an eighth of an octave each.
    const TRIED: u8 = if BITS == 8 { 2 } else { 6 };

    fn nearest(value: f32, inverse: f32) -> i32 {
        (value * inverse).round().clamp(-Self::LIMIT - 1.0, Self::LIMIT) as i32
    }

    fn error(values: &[f32], importance: &[f32], scale: f32) -> f32 {
        let inverse = 1.0 / scale;
        let errors = values.iter().zip(importance).map(|(&value, &importance)| {
            let off = value - scale * Self::nearest(value, inverse) as f32;
            importance * off * off
        });
        errors.sum()
    }
}

impl<const BITS: usize> Encoder for Plain<BITS> {
    fn group(&self) -> usize {
        1
    }

    fn fit(&self, values: &[f32], importance: &[f32], block: &mut Parts) {
        let largest = largest(values);
        if largest == 0.0 {
            block.scales[0] = 0;
            return;
        }
        let top = scale_below(largest / Self::LIMIT).saturating_add(1);
        let tried = top.saturating_sub(Self::TRIED).max(1)..=top;
        let error = |byte: &u8| Self::error(values, importance, e5m3_to_f32(*byte));
        let best = tried.min_by(|one, other| error(one).total_cmp(&error(other)));
        block.scales[0] = i16::from(best.unwrap_or(top));
    }

    fn round(&self, block: &mut Parts, at: usize, values: &mut [f32], _: &[f32]) {
        let scale = e5m3_to_f32(block.scales[0] as u8);
        let integer = if scale == 0.0 { 0 } else { Self::nearest(values[0], 1.0 / scale) };
        // Five and six bits are stored above zero, eight bits as a signed byte.
        let stored = if BITS == 8 { integer & 0xff } else { integer + Self::LIMIT as i32 + 1 };
        block.codes[at] = stored as u16;
        values[0] = scale * integer as f32;
    }
}

/// The formats of `BITS` bits whose levels come from a table.
pub(super) struct Trellis<const BITS: usize>;

impl<const BITS: usize> Trellis<BITS> {
    /// How many bits of a window are older than its own code, and the states that they make.
    const OLDER: usize = WINDOW - BITS;
    const STATES: usize = 1 << Self::OLDER;
    const CODES: usize = 1 << BITS;
    /// The root mean square of a table, in its units, over that of the weights it was made for.
    const SPREAD: f32 = [SPREADS[0], SPREADS[1], SPREADS[2]][BITS - 2];

    /// The state that the stream is in behind the scale `byte`.
    fn start(byte: u8) -> usize {
        usize::from(byte) >> (8 - Self::OLDER)
    }

    /// Finds the best path for a block.
    fn search(byte: u8, values: &[f32], importance: &[f32], coupling: Option<Coupling<'_>>) -> Path {
        Isa::detect().run(Search::<BITS> { byte, values, importance, coupling })
    }
}

/// Table units for one standard deviation of a block's weights.
const SPREADS: [f32; 3] = [48.9, 45.1, 42.4];
/// Scales that are tried on either side of the one that the block's root mean square suggests.
const TRIED: i32 = 5;

/// The codes of a block and what they cost.
struct Path {
    codes: [u8; BLOCK],
    error: f32,
}

/// Viterbi's search for the path of least weighted squared error.
struct Search<'a, const BITS: usize> {
    byte: u8,
    values: &'a [f32],
    importance: &'a [f32],
    coupling: Option<Coupling<'a>>,
}

/// What is known of each state: the error of the best path to it, and what its errors add to the weights to come.
#[derive(Clone, Copy)]
struct Survivors {
    error: [f32; MAX_STATES],
    added: [[f32; BLOCK]; MAX_STATES],
}

impl<const BITS: usize> Kernel for Search<'_, BITS> {
    type Output = Path;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> Path {
        let scale = e5m3_to_f32(self.byte);
        let levels = TABLES[BITS - 2].map(|level| scale * f32::from(level));
        let states = Trellis::<BITS>::STATES;
        let mut now = Survivors { error: [f32::INFINITY; MAX_STATES], added: [[0.0; BLOCK]; MAX_STATES] };
        now.error[Trellis::<BITS>::start(self.byte)] = 0.0;
        // The window by which each state was best reached from the one before.
        let mut came_by = [[0u8; MAX_STATES]; BLOCK];
        for (i, (&value, &importance)) in self.values.iter().zip(self.importance).enumerate() {
            let mut next = Survivors { error: [f32::INFINITY; MAX_STATES], ..now };
            let mut costs = [0.0; WINDOWS];
            for (window, cost) in costs.iter_mut().enumerate() {
                let old = window & (states - 1);
                let off = value + now.added[old][i] - levels[window];
                *cost = now.error[old] + importance * off * off;
            }
            for new in 0..states {
                let reached = new << BITS..(new + 1) << BITS;
                for window in reached {
                    if costs[window] < next.error[new] {
                        next.error[new] = costs[window];
                        came_by[i][new] = window as u8;
                    }
                }
                if let Some(coupling) = &self.coupling {
                    let window = usize::from(came_by[i][new]);
                    let old = window & (states - 1);
                    let off = value + now.added[old][i] - levels[window];
                    next.added[new] = now.added[old];
                    for (added, share) in next.added[new][i + 1..].iter_mut().zip(&coupling.row(i)[i + 1..]) {
                        *added += off * share;
                    }
                }
            }
            now = next;
        }
        let best = (0..states).min_by(|&one, &other| now.error[one].total_cmp(&now.error[other])).unwrap_or(0);
        let mut path = Path { codes: [0; BLOCK], error: now.error[best] };
        let mut state = best;
        for i in (0..self.values.len()).rev() {
            let window = usize::from(came_by[i][state]);
            path.codes[i] = (window >> Trellis::<BITS>::OLDER) as u8;
            state = window & (states - 1);
        }
        path
    }
}

impl<const BITS: usize> Encoder for Trellis<BITS> {
    fn group(&self) -> usize {
        BLOCK
    }

    fn fit(&self, values: &[f32], importance: &[f32], block: &mut Parts) {
        let weight: f32 = importance.iter().sum();
        let power: f32 = values.iter().zip(importance).map(|(value, importance)| importance * value * value).sum();
        let spread = (power / weight.max(f32::MIN_POSITIVE)).sqrt().max(largest(values) / 8.0);
        if spread == 0.0 {
            block.scales[0] = 0;
            return;
        }
        let middle = i32::from(scale_below(spread / Self::SPREAD));
        let tried = (middle - TRIED).max(1)..=(middle + TRIED).min(255);
        let error = |byte: &i32| Self::search(*byte as u8, values, importance, None).error;
        let best = tried.map(|byte| (byte, error(&byte))).min_by(|one, other| one.1.total_cmp(&other.1));
        block.scales[0] = best.map_or(middle, |(byte, _)| byte) as i16;
    }

    fn round(&self, block: &mut Parts, _: usize, values: &mut [f32], importance: &[f32]) {
        self.round_block(block, values, importance, None);
    }

    fn round_block(&self, block: &mut Parts, values: &mut [f32], importance: &[f32], coupling: Option<Coupling<'_>>) {
        let byte = block.scales[0] as u8;
        if byte == 0 {
            block.codes[..BLOCK].fill(0);
            values.fill(0.0);
            return;
        }
        let path = Self::search(byte, values, importance, coupling);
        let scale = e5m3_to_f32(byte);
        let mut window = Self::start(byte);
        for (i, value) in values.iter_mut().enumerate() {
            let code = usize::from(path.codes[i]);
            debug_assert!(code < Self::CODES);
            window |= code << Self::OLDER;
            block.codes[i] = code as u16;
            *value = scale * f32::from(TABLES[BITS - 2][window]);
            window >>= BITS;
        }
    }
}
