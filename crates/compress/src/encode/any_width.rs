//! The any-width family: a path through the trellis for 2 to 6 bits, plain rounding for 8.

use std::sync::LazyLock;

use smidgen_core::half::e5m3_to_f32;
use smidgen_core::quant::Parts;
use smidgen_core::quant::any_width::{TABLES, WEIGHTS, WINDOW};
use smidgen_core::simd::{Isa, Kernel, Simd};

use super::weights::{Importance, inverse, largest};
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

/// The instruction set that searches are compiled for; asking the CPU takes longer than a block does.
static ISA: LazyLock<Isa> = LazyLock::new(Isa::detect);

/// The format of eight bits, whose weights are the codes themselves.
pub(super) struct Plain;

impl Plain {
    /// Scales that are tried below the one that reaches the largest weight, an eighth of an octave each.
    const TRIED: u8 = 2;

    fn nearest(value: f32, inverse: f32) -> i8 {
        (value * inverse).round().clamp(-127.0, 127.0) as i8
    }

    fn error(values: &[f32], importance: &[f32], scale: f32) -> f32 {
        let inverse = inverse(scale);
        let errors = values.iter().zip(importance).map(|(&value, &importance)| {
            let off = value - scale * f32::from(Self::nearest(value, inverse));
            importance * off * off
        });
        errors.sum()
    }
}

impl Encoder for Plain {
    fn group(&self) -> usize {
        1
    }

    fn fit(&self, values: &[f32], importance: &[f32], block: &mut Parts) {
        let top = scale_below(largest(values) / 127.0).saturating_add(1);
        let tried = top.saturating_sub(Self::TRIED)..=top;
        let importance = Importance::new(importance);
        let importance = importance.of(values);
        let error = |byte: &u8| Self::error(values, importance, e5m3_to_f32(*byte));
        let best = tried.min_by(|one, other| error(one).total_cmp(&error(other)));
        block.scales[0] = i16::from(best.unwrap_or(top));
    }

    fn round(&self, block: &mut Parts, at: usize, values: &mut [f32], _: &[f32]) {
        let scale = e5m3_to_f32(block.scales[0] as u8);
        let code = Self::nearest(values[0], inverse(scale));
        block.codes[at] = u16::from(code as u8);
        values[0] = scale * f32::from(code);
    }
}

/// The formats of `BITS` bits whose levels come from a table.
pub(super) struct Trellis<const BITS: usize>;

impl<const BITS: usize> Trellis<BITS> {
    /// How many bits of a window are older than its own code, and the states that they make.
    const OLDER: usize = WINDOW - BITS;
    const STATES: usize = 1 << Self::OLDER;
    /// The root mean square of a block's weights, in units of the table, that suits the table.
    const SPREAD: f32 = [47.0, 45.0, 43.0, 42.0, 41.0][BITS - 2];

    /// The state that the stream is in behind the scale `byte`.
    fn start(byte: u8) -> usize {
        usize::from(byte) >> (8 - Self::OLDER)
    }
}

/// Scales that are tried at once.
const LANES: usize = 16;

/// The least weighted squared error that a block has with each of [`LANES`] scales, by Viterbi's search.
struct Errors<'a, const BITS: usize> {
    bytes: [u8; LANES],
    values: &'a [f32],
    importance: &'a [f32],
}

impl<const BITS: usize> Kernel for Errors<'_, BITS> {
    type Output = [f32; LANES];

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> [f32; LANES] {
        let states = Trellis::<BITS>::STATES;
        let scales = self.bytes.map(e5m3_to_f32);
        let mut now = [[f32::INFINITY; LANES]; MAX_STATES];
        for (lane, &byte) in self.bytes.iter().enumerate() {
            now[Trellis::<BITS>::start(byte)][lane] = 0.0;
        }
        for (&value, &importance) in self.values.iter().zip(self.importance) {
            let mut next = [[f32::INFINITY; LANES]; MAX_STATES];
            for (window, &level) in TABLES[BITS - 2].iter().enumerate() {
                let (old, new) = (&now[window & (states - 1)], &mut next[window >> BITS]);
                let level = f32::from(level);
                for lane in 0..LANES {
                    let off = value - scales[lane] * level;
                    let error = old[lane] + importance * off * off;
                    new[lane] = if error < new[lane] { error } else { new[lane] };
                }
            }
            now = next;
        }
        now[..states]
            .iter()
            .fold([f32::INFINITY; LANES], |best, errors| core::array::from_fn(|lane| best[lane].min(errors[lane])))
    }
}

/// The codes of the path of least weighted squared error, by Viterbi's search; with a coupling, each path that survives moves
/// its own targets.
struct Search<'a, const BITS: usize> {
    byte: u8,
    values: &'a [f32],
    importance: &'a [f32],
    coupling: Option<Coupling<'a>>,
}

impl<const BITS: usize> Kernel for Search<'_, BITS> {
    type Output = [u8; WEIGHTS];

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> [u8; WEIGHTS] {
        let scale = e5m3_to_f32(self.byte);
        let levels = TABLES[BITS - 2].map(|level| scale * f32::from(level));
        let states = Trellis::<BITS>::STATES;
        let mut error = [f32::INFINITY; MAX_STATES];
        error[Trellis::<BITS>::start(self.byte)] = 0.0;
        // What the misses of the best path to each state add to the targets to come; one set is read, one written.
        let (mut added, mut next_added) = ([[0.0f32; WEIGHTS]; MAX_STATES], [[0.0f32; WEIGHTS]; MAX_STATES]);
        // The window by which each state was best reached.
        let mut came_by = [[0u8; MAX_STATES]; WEIGHTS];
        for (i, (&value, &importance)) in self.values.iter().zip(self.importance).enumerate() {
            let target: [f32; MAX_STATES] = core::array::from_fn(|state| value + added[state][i]);
            let mut errors = [0.0; WINDOWS];
            for window in 0..WINDOWS {
                let old = window & (states - 1);
                let off = target[old] - levels[window];
                errors[window] = error[old] + importance * off * off;
            }
            for new in 0..states {
                let mut best = new << BITS;
                for window in best + 1..(new + 1) << BITS {
                    best = if errors[window] < errors[best] { window } else { best };
                }
                came_by[i][new] = best as u8;
                error[new] = errors[best];
                if let Some(coupling) = &self.coupling {
                    let old = best & (states - 1);
                    let off = target[old] - levels[best];
                    let shares = coupling.row(i);
                    for (k, &share) in shares.iter().enumerate().skip(i + 1) {
                        next_added[new][k] = added[old][k] + off * share;
                    }
                }
            }
            std::mem::swap(&mut added, &mut next_added);
        }
        let mut state = (0..states).min_by(|&one, &other| error[one].total_cmp(&error[other])).unwrap_or(0);
        let mut codes = [0; WEIGHTS];
        for i in (0..self.values.len()).rev() {
            let window = usize::from(came_by[i][state]);
            codes[i] = (window >> Trellis::<BITS>::OLDER) as u8;
            state = window & (states - 1);
        }
        codes
    }
}

impl<const BITS: usize> Encoder for Trellis<BITS> {
    fn group(&self) -> usize {
        WEIGHTS
    }

    fn fit(&self, values: &[f32], importance: &[f32], block: &mut Parts) {
        let importance = Importance::new(importance);
        let importance = importance.of(values);
        let weight: f32 = importance.iter().sum();
        let power: f32 = values.iter().zip(importance).map(|(value, importance)| importance * value * value).sum();
        // A block with one large weight has a small mean square.
        let spread = (power / weight).sqrt().max(largest(values) / 8.0);
        let first = scale_below(spread / Self::SPREAD).saturating_sub(LANES as u8 / 2).clamp(1, u8::MAX - LANES as u8);
        let bytes = core::array::from_fn(|lane| first + lane as u8);
        let errors = ISA.run(Errors::<BITS> { bytes, values, importance });
        let best = (0..LANES).min_by(|&one, &other| errors[one].total_cmp(&errors[other])).unwrap_or(0);
        // Zero is the best scale of nothing, and of what is too small for any other.
        block.scales[0] = if errors[best] < power { i16::from(bytes[best]) } else { 0 };
    }

    fn round(&self, block: &mut Parts, _: usize, values: &mut [f32], importance: &[f32]) {
        self.round_block(block, values, importance, None);
    }

    fn round_block(&self, block: &mut Parts, values: &mut [f32], importance: &[f32], coupling: Option<Coupling<'_>>) {
        let byte = block.scales[0] as u8;
        if byte == 0 {
            block.codes[..WEIGHTS].fill(0);
            values.fill(0.0);
            return;
        }
        let importance = Importance::new(importance);
        let importance = importance.of(values);
        let codes = ISA.run(Search::<BITS> { byte, values, importance, coupling });
        let scale = e5m3_to_f32(byte);
        let mut window = Self::start(byte);
        for (i, value) in values.iter_mut().enumerate() {
            window |= usize::from(codes[i]) << Self::OLDER;
            block.codes[i] = u16::from(codes[i]);
            *value = scale * f32::from(TABLES[BITS - 2][window]);
            window >>= BITS;
        }
    }
}
