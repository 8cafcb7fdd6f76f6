//! Attention over any number of positions: the same bits on every instruction set, and those near what floats of 64 bits give.

use smidgen_core::kv::{Cache, CacheType, Place};
use smidgen_core::ops::attention::{Attention, Old};
use smidgen_core::ops::matmul::Crew;
use smidgen_core::simd::{Isa, LANES, TILE};
use smidgen_core::workers::Single;

/// Rows of a head: what is behind them lies at the beginning again.
const N_ROWS: usize = 40;
const PLACE: Place = Place { start: 0, n_rows: N_ROWS };
/// What a token sees, so that rows are left for two more tokens.
const WINDOW: usize = N_ROWS - 2;
/// Queries that may go together.
const TOGETHER: &[usize] = if TILE == LANES { &[1, 2, 4] } else { &[1] };

/// Numbers from -2 to 2 that half floats hold exactly, zeros of both signs among them.
fn numbers(n: usize, seed: usize) -> Vec<f32> {
    let number = |i: usize| {
        let x = ((i + 1009 * seed + 1) as u32).wrapping_mul(2_654_435_761) >> 24;
        let x = (x as f32 - 128.0) / 64.0;
        if x.abs() < 0.2 { 0.0_f32.copysign(x) } else { x }
    };
    (0..n).map(number).collect()
}

/// What floats of 64 bits make of a query with the keys and values that it sees.
fn exact(query: &[f32], rows: &[(&[f32], &[f32])], scale: f32) -> Vec<f64> {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let weights: Vec<f64> = rows.iter().map(|(key, _)| (dot(query, key) * f64::from(scale)).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let column = |i: usize| weights.iter().zip(rows).map(|(w, (_, value))| w * f64::from(value[i])).sum::<f64>() / sum;
    (0..query.len()).map(column).collect()
}

/// The output, and the same again where each head of the cache has its first few rows elsewhere.
fn run(attention: &Attention<'_>, isa: Isa, n_together: usize) -> [Vec<f32>; 2] {
    let crew = Crew { isa, workers: &Single };
    let scores = &mut vec![f32::NAN; n_together * N_ROWS];
    let mut out = [vec![f32::NAN; attention.query.len()], vec![f32::NAN; attention.query.len()]];
    attention.run(crew, scores, n_together, &mut out[0]);
    let oldest = (attention.position + 1).saturating_sub(WINDOW);
    let positions = (oldest, attention.position.min(oldest + 5));
    for head in 0..attention.n_kv_heads {
        let [keys, values] =
            [attention.keys, attention.values].map(|cache| cache.positions(PLACE, head, positions).concat());
        let old = Old { positions, keys: &keys, values: &values };
        Attention { old, kv_heads: (head, head + 1), ..*attention }.run(crew, scores, n_together, &mut out[1]);
    }
    out
}

/// A hundred positions of heads of `head_dim`, `n_tokens` at a time.
fn check(kind: CacheType, (n_heads, n_kv_heads): (usize, usize), head_dim: usize, n_tokens: usize) {
    let width = n_kv_heads * head_dim;
    let bytes = N_ROWS * n_kv_heads * kind.row_bytes(head_dim);
    let (mut key_bytes, mut value_bytes) = (vec![0; bytes], vec![0; bytes]);
    let mut keys = Cache::new(&mut key_bytes, kind, n_kv_heads, head_dim);
    let mut values = Cache::new(&mut value_bytes, kind, n_kv_heads, head_dim);
    let all: Vec<[Vec<f32>; 2]> = (0..100).map(|i| [numbers(width, 2 * i), numbers(width, 2 * i + 1)]).collect();
    assert!(all[0][0] != all[1][0] && all[0][0] != all[0][1], "rows differ");
    for position in (0..all.len() - n_tokens).step_by(n_tokens) {
        for (token, [key, value]) in all[position..][..n_tokens].iter().enumerate() {
            keys.store(PLACE, position + token, key);
            values.store(PLACE, position + token, value);
        }
        let query = &numbers(n_tokens * n_heads * head_dim, 1000 + position);
        let (old, window, scale) = (Old::default(), Some(WINDOW), 0.4);
        let kv_heads = (0, n_kv_heads);
        let (place, keys, values) = (PLACE, &keys, &values);
        let attention = Attention {
            place,
            old,
            kv_heads,
            keys,
            values,
            query,
            position,
            n_heads,
            n_kv_heads,
            head_dim,
            scale,
            window,
        };
        let [want, _] = run(&attention, Isa::SCALAR, 1);
        for isa in Isa::available() {
            for &n_together in TOGETHER {
                for got in run(&attention, isa, n_together) {
                    let same = got.iter().zip(&want).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(same, "{} x {head_dim} at {position} on {}, {n_together}", kind.name(), isa.name());
                }
            }
        }
        for (index, (query, got)) in query.chunks(head_dim).zip(want.chunks(head_dim)).enumerate() {
            let (token, head) = (index / n_heads, index % n_heads);
            let end = position + token + 1;
            let first = head / (n_heads / n_kv_heads) * head_dim;
            let seen = all[end.saturating_sub(WINDOW)..end].iter();
            let rows: Vec<_> =
                seen.map(|[key, value]| (&key[first..][..head_dim], &value[first..][..head_dim])).collect();
            let near =
                exact(query, &rows, scale).iter().zip(got).all(|(exact, got)| (exact - f64::from(*got)).abs() < 1e-5);
            assert!(near, "{} x {head_dim} at {position}, token {token}, head {head}", kind.name());
        }
    }
}

#[test]
fn any_number_of_positions_on_every_instruction_set() {
    for (kind, head_dim) in [(CacheType::F32, 8), (CacheType::F16, 8), (CacheType::F32, 4), (CacheType::F32, 24)] {
        for n_tokens in [1, 3] {
            check(kind, (8, 2), head_dim, n_tokens);
        }
    }
}

#[test]
fn two_heads_at_once_on_every_instruction_set() {
    // Odd numbers of heads that keep keys leave one alone; three vectors are two and one.
    for (kind, heads, head_dim) in [
        (CacheType::F32, (6, 3), 8),
        (CacheType::F16, (4, 2), 16),
        (CacheType::F32, (3, 3), 48),
        (CacheType::F16, (2, 2), 32),
        (CacheType::F32, (6, 2), 12),
    ] {
        check(kind, heads, head_dim, 1);
    }
}
