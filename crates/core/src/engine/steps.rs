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

/// x = norm(x), row by row of as many values as there are weights; nothing where there is no norm.
pub(super) fn normalise_in_place(crew: Crew<'_>, h: &Hparams<'_>, weight: Vector<'_>, x: &mut [f32]) {
    if !weight.is_empty() {
        let epsilon = h.norm_epsilon;
        crew.rows((x, weight.len()), &|_, x| crew.isa.run(RmsInPlace { weight, epsilon, x }));
    }
}

/// hidden += norm(x), or x where there is no norm.
pub(super) fn add_normed(crew: Crew<'_>, h: &Hparams<'_>, weight: Vector<'_>, x: &mut [f32], hidden: &mut [f32]) {
    normalise_in_place(crew, h, weight, x);
    let x = &*x;
    crew.rows((hidden, h.n_embd), &|first, sum| crew.isa.run(Add { sum, x: &x[first * h.n_embd..] }));
}

/// What the layer's activation function makes of its products, where they lie.
pub(super) fn activate<'a>(crew: Crew<'_>, h: &Hparams<'_>, up: &'a mut [f32], gate: &'a mut [f32]) -> &'a mut [f32] {
    match h.family.feed_forward {
        FeedForward::SiluGate => open_gates((crew, h.n_ff), gate, up, silu),
        FeedForward::GeluGate => open_gates((crew, h.n_ff), gate, up, gelu_tanh),
        FeedForward::Gelu => {
            crew.rows((&mut *up, h.n_ff), &|_, x| crew.isa.run(Map { x, f: gelu_tanh }));
            up
        }
    }
}

/// gate = f(gate) * up, both (tokens, `n_ff`).
fn open_gates<'a>(
    (crew, n_ff): (Crew<'_>, usize),
    gate: &'a mut [f32],
    up: &[f32],
    f: impl Fn(f32) -> f32 + Copy + Sync,
) -> &'a mut [f32] {
    crew.rows((&mut *gate, n_ff), &|first, gate| crew.isa.run(Gate { gate, up: &up[first * n_ff..], f }));
    gate
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::Gguf;
    use crate::model::{Family, Layer, Model};
    use crate::ops::matmul::Matrix;
    use crate::ops::norm::NormKind;
    use crate::quant::{Quantized, Rest, Type, n_blocks};
    use crate::simd::Isa;
    use crate::workers::{Backwards, Single, Workers};

    /// More than what one thread does alone.
    const TOKENS: usize = 99;

    fn numbers(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / f32::from(1u16 << 12) / 2048.0 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    /// What `job` makes of rows, with one worker and with two, which must be the same.
    fn same_bits<T: Clone + PartialEq>(rows: &[T], job: impl Fn(Crew<'_>, &mut [T])) {
        let made = |workers: &dyn Workers| {
            let mut rows = rows.to_vec();
            job(Crew { isa: Isa::detect(), workers }, &mut rows);
            rows
        };
        let alone = made(&Single);
        assert!(alone != rows && alone == made(&Backwards));
    }

    #[test]
    fn steps_that_are_shared_out_give_the_same_bits() {
        let bytes = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tales.gguf")).unwrap();
        let gguf = Gguf::parse(&bytes, bytes.len() as u64).unwrap();
        let mut layers = vec![Layer::EMPTY; Model::n_layers(&gguf).unwrap()];
        let model = Model::new(&gguf, &mut layers).unwrap();
        let h = model.hparams();
        let weights: Vec<u8> = numbers(h.n_embd, 1).iter().flat_map(|x| x.to_le_bytes()).collect();
        let weight = Vector::new(&weights);
        let x = numbers(TOKENS * h.n_embd, 2);
        for kind in [NormKind::Rms, NormKind::Layer] {
            let family: &'static Family = Box::leak(Box::new(Family { norm: kind, ..*h.family }));
            let mut h = *h;
            h.family = family;
            same_bits(&vec![0.0; x.len()], |crew, out| normalise(crew, &h, (weight, weight), &x, out));
        }
        for weight in [weight, Vector::EMPTY] {
            same_bits(&x, |crew, hidden| add_normed(crew, h, weight, &mut x.clone(), hidden));
        }
        let angles = numbers(TOKENS * h.n_rot, 3);
        for layout in [Layout::Interleaved, Layout::Split] {
            same_bits(&x, |crew, heads| turn(crew, h, (layout, &angles), heads));
        }
        let (up, gate) = (numbers(TOKENS * h.n_ff, 4), numbers(TOKENS * h.n_ff, 5));
        for feed_forward in [FeedForward::SiluGate, FeedForward::GeluGate, FeedForward::Gelu] {
            let family: &'static Family = Box::leak(Box::new(Family { feed_forward, ..*h.family }));
            let mut h = *h;
            h.family = family;
            same_bits(&gate, |crew, gate| {
                let activated = activate(crew, &h, &mut up.clone(), &mut gate.to_vec()).to_vec();
                gate.copy_from_slice(&activated);
            });
        }
    }

    #[test]
    fn activations_that_are_shared_out_are_rounded_alike() {
        let columns = 333;
        let row = vec![0; Type::Q8_W.row_bytes(columns as u64).unwrap() as usize];
        let matrix = Matrix::new(&row, Type::Q8_W, 1, columns).unwrap();
        let x = numbers(TOKENS * columns, 6);
        let n = TOKENS * n_blocks(columns);
        same_bits(&vec![(Quantized::ZERO, Rest::ZERO); n], |crew, both| {
            let (mut blocks, mut rest) = (vec![Quantized::ZERO; n], vec![Rest::ZERO; n]);
            let mut activations = Activations { blocks: &mut blocks, rest: &mut rest };
            activations.quantize(crew, &x, columns, &[&matrix]);
            both.copy_from_slice(&blocks.into_iter().zip(rest).collect::<Vec<_>>());
        });
    }
}
