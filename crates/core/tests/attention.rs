//! Attention over any number of positions: the same bits on every instruction set, and those near what floats of 64 bits give.

use smidgen_core::kv::{Cache, CacheType, Place};
use smidgen_core::ops::attention::{Attention, Old};
use smidgen_core::ops::matmul::Crew;
use smidgen_core::simd::Isa;
use smidgen_core::workers::Single;

const N_HEADS: usize = 4;
const N_KV_HEADS: usize = 2;
/// Rows of a head: what is behind them lies at the beginning again.
const N_ROWS: usize = 40;
const PLACE: Place = Place { start: 0, n_rows: N_ROWS };
/// What half floats hold exactly.
const STEP: f32 = 1.0 / 64.0;

/// Numbers from -2 to 2, zeros of both signs among them.
fn numbers(n: usize, seed: u32) -> Vec<f32> {
    let number = |i: u32| {
        let x = (i + 1).wrapping_mul(2_654_435_761).wrapping_add(seed.wrapping_mul(97)) >> 24;
        let x = (x as f32 - 128.0) * STEP;
        if x.abs() < 0.2 { 0.0_f32.copysign(x) } else { x }
    };
    (0..n as u32).map(number).collect()
}

/// What floats of 64 bits make of it: the last `n` positions of a head, rows of the newest behind each other.
fn exact(query: &[f32], keys: &[&[f32]], values: &[&[f32]], scale: f32) -> Vec<f64> {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let weights: Vec<f64> = keys.iter().map(|key| (dot(query, key) * f64::from(scale)).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let column = |i: usize| weights.iter().zip(values).map(|(w, value)| w * f64::from(value[i])).sum::<f64>() / sum;
    (0..query.len()).map(column).collect()
}

#[test]
fn any_number_of_positions_on_every_instruction_set() {
    for (kind, head_dim) in [(CacheType::F32, 8), (CacheType::F16, 8), (CacheType::F32, 4), (CacheType::F32, 24)] {
        let width = N_KV_HEADS * head_dim;
        let bytes = N_ROWS * N_KV_HEADS * kind.row_bytes(head_dim);
        let (mut key_bytes, mut value_bytes) = (vec![0; bytes], vec![0; bytes]);
        let mut keys = Cache::new(&mut key_bytes, kind, N_KV_HEADS, head_dim);
        let mut values = Cache::new(&mut value_bytes, kind, N_KV_HEADS, head_dim);
        let all: Vec<[Vec<f32>; 2]> = (0..100).map(|i| [numbers(width, 2 * i), numbers(width, 2 * i + 1)]).collect();
        for (position, [key, value]) in all.iter().enumerate() {
            keys.store(PLACE, position, key);
            values.store(PLACE, position, value);
            let query = numbers(N_HEADS * head_dim, 1000 + position as u32);
            let scale = 0.4;
            let attention = Attention {
                place: PLACE,
                old: Old::default(),
                kv_heads: (0, N_KV_HEADS),
                keys: &keys,
                values: &values,
                query: &query,
                position,
                n_heads: N_HEADS,
                n_kv_heads: N_KV_HEADS,
                head_dim,
                scale,
                window: Some(N_ROWS),
            };
            let run = |isa: Isa, n_together: usize| {
                let mut out = vec![f32::NAN; N_HEADS * head_dim];
                let mut scores = vec![f32::NAN; n_together * N_ROWS];
                attention.run(Crew { isa, workers: &Single }, &mut scores, n_together, &mut out);
                out
            };
            let want = run(Isa::SCALAR, 1);
            for isa in Isa::available() {
                for n_together in [1, 2] {
                    let got = run(isa, n_together);
                    let same = got.iter().zip(&want).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(same, "{} x {head_dim} at {position} on {}", kind.name(), isa.name());
                }
            }
            let seen = &all[(position + 1).saturating_sub(N_ROWS)..=position];
            for (head, (query, got)) in query.chunks(head_dim).zip(want.chunks(head_dim)).enumerate() {
                let columns = head / (N_HEADS / N_KV_HEADS) * head_dim..;
                let rows = |i: usize| seen.iter().map(|row| &row[i][columns.clone()][..head_dim]).collect::<Vec<_>>();
                let exact = exact(query, &rows(0), &rows(1), scale);
                let near = exact.iter().zip(got).all(|(exact, got)| (exact - f64::from(*got)).abs() < 1e-5);
                assert!(near, "{} x {head_dim} at {position}, head {head}: {got:?}, {exact:?}", kind.name());
            }
        }
    }
}
