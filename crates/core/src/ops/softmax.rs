//! Scores become weights that sum to one.
// The same number indexes several arrays; iterators over several at once are calls in functions as large as these.
#![allow(clippy::needless_range_loop)]

use super::math::{exp_to_88, sum};
use crate::simd::{Kernel, LANES, Simd, TILE};
use core::ops::Range;

/// Turns the scores of each query into weights that sum to one.
pub(super) struct Softmax<'a> {
    /// (queries, rows).
    pub(super) scores: &'a mut [f32],
    /// Rows.
    pub(super) stride: usize,
    /// The rows that each query sees.
    pub(super) seen: &'a [Range<usize>],
}

impl Kernel for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (scores, seen) in self.scores.chunks_exact_mut(self.stride).zip(self.seen) {
            let scores = &mut scores[seen.clone()];
            let largest = largest(scores);
            // At most 0, or no number. (What fills up the last vector may be more, and is thrown away.)
            each_lane(s, scores, |score| exp_to_88(score - largest));
            let inverse = 1.0 / sum(s, scores);
            each_lane(s, scores, |score| score * inverse);
        }
    }
}

/// Vectors that are computed side by side where there are many: the steps of one wait for each other, those of others do not.
const SIDE_BY_SIDE: usize = 4;

/// Replaces every value by `f` of it. Where there are vectors, fewer values than make one are made up for with zeros, which are
/// computed too: that is faster than one after the other.
#[inline(always)]
fn each_lane<S: Simd>(s: S, x: &mut [f32], f: impl Fn(f32) -> f32) {
    let n_grouped = if TILE == LANES { x.len() } else { 0 };
    let (grouped, rest) = x.split_at_mut(n_grouped / (SIDE_BY_SIDE * LANES) * (SIDE_BY_SIDE * LANES));
    for group in grouped.as_chunks_mut::<{ SIDE_BY_SIDE * LANES }>().0 {
        for x in group {
            *x = f(*x);
        }
    }
    let (chunks, rest) = rest.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for x in chunk {
            *x = f(*x);
        }
    }
    if TILE != LANES {
        rest.iter_mut().for_each(|x| *x = f(*x));
    } else if !rest.is_empty() {
        let mut last = [0.0; LANES];
        s.store(s.load_part(rest), &mut last);
        for x in &mut last {
            *x = f(*x);
        }
        s.store_part(s.load(&last), rest);
    }
}

/// The largest of `x`, whatever is no number left out.
#[inline(always)]
fn largest(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for group in x.as_chunks::<LANES>().0 {
        lanes = larger(lanes, group);
    }
    match x.last_chunk::<LANES>() {
        // Some are looked at twice.
        Some(last) => lanes = larger(lanes, last),
        None => {
            for i in 0..x.len() {
                lanes[i] = if x[i] > lanes[i] { x[i] } else { lanes[i] };
            }
        }
    }
    // Halves of the lanes are compared, and halves of these.
    let mut n = LANES;
    while n > 1 {
        n /= 2;
        for i in 0..n {
            lanes[i] = if lanes[i + n] > lanes[i] { lanes[i + n] } else { lanes[i] };
        }
    }
    lanes[0]
}

/// The larger of each two, the first where the second is no number.
#[inline(always)]
fn larger(mut a: [f32; LANES], b: &[f32; LANES]) -> [f32; LANES] {
    for i in 0..LANES {
        a[i] = if b[i] > a[i] { b[i] } else { a[i] };
    }
    a
}
