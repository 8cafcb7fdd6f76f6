//! The steps of a layer that go row by row, shared out among the crew where a batch has many.

use super::Error;
use crate::model::{FeedForward, Hparams, Linear};
use crate::ops::linear::multiply;
use crate::ops::math::{Gate, Map, gelu_tanh, silu};
use crate::ops::matmul::{Activations, Crew};
use crate::ops::norm::{Add, Norm, RmsInPlace, Vector};
use crate::ops::rope::{Layout, Turn};
use crate::store::Store;

/// out = linear(x).
pub(super) fn project(
    (crew, store): (Crew<'_>, &dyn Store),
    linear: Linear<'_>,
    x: &[f32],
    activations: &mut Activations<'_>,
    out: &mut [f32],
) -> Result<(), Error> {
    activations.quantize(crew, x, linear.matrix.columns, &[&linear.matrix]);
    Ok(multiply((crew, store), &linear.matrix, linear.bias, x, activations, out)?)
}

/// out = norm(x).
pub(super) fn normalise(
    crew: Crew<'_>,
    h: &Hparams<'_>,
    (weight, bias): (Vector<'_>, Vector<'_>),
    x: &[f32],
    out: &mut [f32],
) {
    let (kind, epsilon) = (h.family.norm, h.norm_epsilon);
    crew.rows((out, h.n_embd), &|first, out| {
        let x = &x[first * h.n_embd..];
        crew.isa.run(Norm { kind, weight, bias, epsilon, x, out });
    });
}

/// Turns the heads of every token, (tokens, heads, head_dim), by the angles of its position, (tokens, n_rot).
pub(super) fn turn(crew: Crew<'_>, h: &Hparams<'_>, (layout, angles): (Layout, &[f32]), heads: &mut [f32]) {
    let (n_rot, head_dim) = (h.n_rot, h.head_dim);
    let width = heads.len() / (angles.len() / n_rot);
    crew.rows((heads, width), &|first, heads| {
        let angles = &angles[first * n_rot..][..heads.len() / width * n_rot];
        crew.isa.run(Turn { layout, angles, n_rot, head_dim, heads });
    });
}

/// hidden += norm(x), or x where there is no norm.
pub(super) fn add_normed(crew: Crew<'_>, h: &Hparams<'_>, weight: Vector<'_>, x: &mut [f32], hidden: &mut [f32]) {
    let (n_embd, epsilon) = (h.n_embd, h.norm_epsilon);
    if !weight.is_empty() {
        crew.rows((&mut *x, n_embd), &|_, x| crew.isa.run(RmsInPlace { weight, epsilon, x }));
    }
    let x = &*x;
    crew.rows((hidden, n_embd), &|first, sum| crew.isa.run(Add { sum, x: &x[first * n_embd..] }));
}

/// What the layer's activation function makes of its products, where they lie.
pub(super) fn activate<'a>(crew: Crew<'_>, h: &Hparams<'_>, up: &'a mut [f32], gate: &'a mut [f32]) -> &'a mut [f32] {
    let (kind, n) = (h.family.feed_forward, h.n_ff);
    if kind == FeedForward::Gelu {
        crew.rows((&mut *up, n), &|_, x| crew.isa.run(Map { x, f: gelu_tanh }));
        return up;
    }
    let up = &*up;
    crew.rows((&mut *gate, n), &|first, gate| {
        let up = &up[first * n..];
        match kind {
            FeedForward::SiluGate => crew.isa.run(Gate { gate, up, f: silu }),
            _ => crew.isa.run(Gate { gate, up, f: gelu_tanh }),
        }
    });
    gate
}
