//! Memory that is set aside for caches and that they do not use yet.

use smidgen_core::model::Hparams;
use smidgen_core::plan::Plan;

/// The caches of a plan: as positions are run, their rows are written to, and only then does the system give memory for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caches {
    /// Rows that a head has in some layers, and how many heads there are of so many rows, of keys and as many of values.
    heads: Vec<(usize, usize)>,
    /// Bytes of a row of keys and of one of values.
    row_bytes: [usize; 2],
    page_bytes: usize,
}

impl Caches {
    /// The caches in the arena of `plan` of a model with the dimensions `h`.
    pub fn of(h: &Hparams<'_>, plan: &Plan) -> Self {
        let limits = plan.limits();
        let mut heads: Vec<(usize, usize)> = Vec::new();
        for layer in 0..h.n_layers {
            let n_rows = plan.cache_place(h, layer).n_rows;
            match heads.iter_mut().find(|(rows, _)| *rows == n_rows) {
                Some((_, n_heads)) => *n_heads += h.n_kv_heads,
                None => heads.push((n_rows, h.n_kv_heads)),
            }
        }
        let row_bytes = [limits.cache_k, limits.cache_v].map(|kind| kind.row_bytes(h.head_dim));
        Caches { heads, row_bytes, page_bytes: crate::machine::page_bytes() }
    }

    /// Bytes that nobody has written to when `n_positions` are in the caches, in whole pages.
    pub fn unused_bytes(&self, n_positions: usize) -> u64 {
        let page = self.page_bytes as u64;
        // The first and the last page of what is left of a head may have rows of this head, or of the next.
        let unused = |bytes: usize| (bytes as u64 / page).saturating_sub(1) * page;
        let of_head = |n_rows: usize, row_bytes: &usize| unused(n_rows.saturating_sub(n_positions) * row_bytes);
        let each = |&(n_rows, n_heads): &(usize, usize)| {
            n_heads as u64 * self.row_bytes.iter().map(|row_bytes| of_head(n_rows, row_bytes)).sum::<u64>()
        };
        self.heads.iter().map(each).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_pages_that_are_not_written_to_are_unused() {
        let caches = Caches { heads: vec![(64, 3), (16, 1)], row_bytes: [1000, 500], page_bytes: 4096 };
        let of_head = |n_rows: u64, row_bytes: u64| (n_rows * row_bytes / 4096).saturating_sub(1) * 4096;
        let both = |n_rows| of_head(n_rows, 1000) + of_head(n_rows, 500);
        assert_eq!(caches.unused_bytes(0), 3 * both(64) + both(16));
        assert_eq!(caches.unused_bytes(20), 3 * both(44));
        assert_eq!(caches.unused_bytes(58), 0);
        assert_eq!(caches.unused_bytes(1000), 0);
    }
}
