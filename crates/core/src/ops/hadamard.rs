//! The Walsh-Hadamard transform of heads, for a cache of few bits: it spreads over a head what is large in one place of it,
//! so that no value sets the scale of a block alone (`docs/adr/0053-rotated-four-bit-keys.md`).
//!
//! Keys and queries are both transformed. The matrix is symmetric and, but for a factor, its own inverse, so that their dot
//! products are what they were once the keys are divided by that factor.

/// Transforms each head of `heads`, (tokens, heads, `head_dim`), in parts of the largest power of two that divides
/// `head_dim`.
pub fn spread(heads: &mut [f32], head_dim: usize) {
    for part in heads.chunks_exact_mut(part_len(head_dim)) {
        let mut half = 1;
        while half < part.len() {
            for pair in part.chunks_exact_mut(2 * half) {
                let (left, right) = pair.split_at_mut(half);
                for (a, b) in left.iter_mut().zip(right) {
                    (*a, *b) = (*a + *b, *a - *b);
                }
            }
            half *= 2;
        }
    }
}

/// [`spread`], divided by the length of a part, which is exact: its inverse, up to rounding.
pub fn spread_inverse(heads: &mut [f32], head_dim: usize) {
    spread(heads, head_dim);
    let factor = 1.0 / part_len(head_dim) as f32;
    heads.iter_mut().for_each(|value| *value *= factor);
}

fn part_len(head_dim: usize) -> usize {
    head_dim & head_dim.wrapping_neg()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_multiplied_with_the_matrix() {
        let mut heads = [1.0, 2.0, 4.0, 8.0, 1.0, 0.0];
        spread(&mut heads[..4], 4);
        assert_eq!(heads[..4], [15.0, -5.0, -9.0, 3.0]);
        // Three pairs of a head of six.
        let mut heads = [1.0, 2.0, 4.0, 8.0, 1.0, 0.0];
        spread(&mut heads, 6);
        assert_eq!(heads, [3.0, -1.0, 12.0, -4.0, 1.0, 1.0]);
    }

    #[test]
    fn products_of_heads_stay() {
        for head_dim in [8, 12, 64, 7] {
            let mut query: Vec<f32> = (0..2 * head_dim).map(|i| (i * i % 17) as f32 - 8.0).collect();
            let mut key: Vec<f32> = (0..2 * head_dim).map(|i| (i * 7 % 13) as f32 - 6.0).collect();
            let product = |query: &[f32], key: &[f32]| query.iter().zip(key).map(|(q, k)| q * k).sum::<f32>();
            let before = product(&query[head_dim..], &key[head_dim..]);
            spread(&mut query, head_dim);
            spread_inverse(&mut key, head_dim);
            assert!((product(&query[head_dim..], &key[head_dim..]) - before).abs() < 1e-2, "{head_dim}");
        }
    }
}
