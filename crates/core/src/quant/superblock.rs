//! What the formats of superblocks share: eight blocks of 32 integers, in two formats fewer, whose own scales are small
//! integers too.
//!
//! A weight is `(d * scale) * weight`, and in formats with minimums `(d * scale) * weight - dmin * min`, where `d` and
//! `dmin` are half floats that the superblock shares, `scale` and `min` integers for each half of a block, and `weight`
//! an integer of its own.

use super::activation::Activation;
use super::panel::{COLUMNS, Dots, Halves, Panel, Row, Shape, Unpack, Weights};
use super::tile::{Apart, Cut, Lanes, Together};
use crate::half::f16_to_f32;
use crate::simd::{BLOCK, LANES, Simd, TILE, each, each_row, prefetch_apart, prefetch_block};
use core::borrow::Borrow;

/// Values in a superblock of eight blocks.
pub(super) const SUPERBLOCK: usize = 256;
/// Blocks in a superblock of most formats.
pub(super) const BLOCKS: usize = SUPERBLOCK / BLOCK;

/// Halves of blocks in a superblock, each with a scale of its own.
pub(super) const HALVES: usize = 2 * BLOCKS;

/// A format of superblocks; `N` bytes to each.
pub(super) trait Superblock<const N: usize> {
    /// Blocks in a superblock, at most [`BLOCKS`].
    const N_BLOCKS: usize = BLOCKS;
    /// A power of two: `d` is the stored scale times it.
    const FACTOR: f32 = 1.0;
    /// Whether all weights are 0 to 31.
    const UNSIGNED: bool = false;
    /// How many integers a block's weights are multiplied with: none, one, or one for each half.
    const SCALES_PER_BLOCK: usize;
    /// Byte offset of `dmin`, for formats that have minimums.
    const MIN_AT: Option<usize> = None;
    /// How many minimums a block has, one or two.
    const MINS_PER_BLOCK: usize = 1;
    /// Whether the product of any weight and its scale is 0 to 127, or, where weights are signed, a signed byte once its sign is turned.
    const HAS_SMALL_PRODUCTS: bool = false;

    /// Whether a tile is unpacked by words of all its rows, rather than row by row.
    const BY_WORDS: bool = false;
    /// Bytes before the first word, where words do not begin with the superblock.
    const HEAD: usize = 0;
    /// Byte offset of the stored scale, for formats that have it in one piece; most begin with it.
    const SCALE_AT: usize = 0;

    /// The bits of the stored scale.
    #[inline(always)]
    fn scale(superblock: &[u8; N]) -> u16 {
        half_at(superblock, Self::SCALE_AT)
    }
    /// The integers that the weights of each half of a block are multiplied with; formats with one scale have none.
    #[inline(always)]
    fn scales(_: &[u8; N]) -> [i8; HALVES] {
        [1; HALVES]
    }
    /// A byte for each half: the same integers, with the sign turned where weights are signed; of formats with small products.
    #[inline(always)]
    fn scale_bytes<S: Simd>(_: S, _: impl Lanes<N>) -> [S::C; HALVES / 4] {
        unreachable!("products of this format are no bytes")
    }
    /// The integers that `dmin` is multiplied with, for each block or each half of one.
    #[inline(always)]
    fn mins(_: &[u8; N]) -> [u8; HALVES] {
        [0; HALVES]
    }
    /// The integer weights of block `block`.
    fn weights(superblock: &[u8; N], block: usize) -> [u8; BLOCK];

    /// Fills in [`Superblock::mins`] of a tile, of formats with small products that have any.
    #[inline(always)]
    fn unpack_mins<S: Simd>(_: S, _: impl Lanes<N>, _: &mut Halves) {}
    /// Fills in the integers of a tile: those of [`Superblock::scales`] as factors, and [`Superblock::mins`].
    #[inline(always)]
    fn unpack_scales<S: Simd>(_: S, rows: impl Lanes<N>, halves: &mut Halves) {
        for r in 0..TILE {
            let row = rows.row(r);
            let (scales, mins) = (Self::scales(row.borrow()), Self::mins(row.borrow()));
            for block in 0..Self::N_BLOCKS {
                for half in 0..Self::SCALES_PER_BLOCK {
                    halves.factors[block][half][r] = f32::from(scales[2 * block + half]);
                }
                for half in 0..if Self::MIN_AT.is_some() { Self::MINS_PER_BLOCK } else { 0 } {
                    halves.mins[block][half][r] = f32::from(mins[block * Self::MINS_PER_BLOCK + half]);
                }
            }
        }
    }
    /// Fills in the weights of a tile, those of [`Superblock::weights`]; the fast way of a format changes only who unpacks
    /// how many at once.
    #[inline(always)]
    fn unpack_weights<S: Simd>(s: S, rows: impl Lanes<N>, out: &mut impl Weights<S>) {
        for block in 0..Self::N_BLOCKS {
            let mut weights = [[0; BLOCK]; TILE];
            for (r, weights) in weights.iter_mut().enumerate() {
                *weights = Self::weights(rows.row(r).borrow(), block);
            }
            let weights = s.block(&each_row!(r => &weights[r]));
            match Self::UNSIGNED {
                true => out.put_unsigned(s, block, weights),
                false => out.put_signed(s, block, weights),
            }
        }
    }
}

/// The bits of the half float at byte `at`.
#[inline(always)]
pub(super) fn half_at<const N: usize>(superblock: &[u8; N], at: usize) -> u16 {
    u16::from_le_bytes([superblock[at], superblock[at + 1]])
}

/// Byte `i` of each lane as a number of its own.
#[inline(always)]
pub(super) fn byte<S: Simd>(s: S, x: S::C, i: usize) -> S::C {
    s.and(s.down(x, 8 * i), s.all(255))
}

/// Weights of a panel that are already multiplied with their scales, so that their sums need no factors.
struct Scaled<'a, S: Simd> {
    panel: &'a mut Panel,
    /// [`Superblock::scale_bytes`].
    scales: [S::C; HALVES / 4],
}

impl<S: Simd> Scaled<'_, S> {
    #[inline(always)]
    fn products(&self, s: S, block: usize, weights: [S::C; COLUMNS]) -> [S::C; COLUMNS] {
        let scales = self.scales[block / 2];
        let halves = [everywhere(s, byte(s, scales, block % 2 * 2)), everywhere(s, byte(s, scales, block % 2 * 2 + 1))];
        each!(8, i => s.times(weights[i], halves[i / 4]))
    }
}

impl<S: Simd> Weights<S> for Scaled<'_, S> {
    #[inline(always)]
    fn put_signed(&mut self, s: S, block: usize, weights: [S::C; COLUMNS]) {
        let products = self.products(s, block, weights);
        self.panel.put_signed(s, block, products);
    }
    #[inline(always)]
    fn put_unsigned(&mut self, s: S, block: usize, weights: [S::C; COLUMNS]) {
        let products = self.products(s, block, weights);
        self.panel.put(s, block, products);
    }
}

/// The lowest byte of each lane in all four of its bytes; the others are zero.
#[inline(always)]
fn everywhere<S: Simd>(s: S, byte: S::C) -> S::C {
    let two = s.or(byte, s.up(byte, 8));
    s.or(two, s.up(two, 16))
}

/// Writes a number for both halves of every block, each a byte, less `bias`.
#[inline(always)]
pub(super) fn put_halves<S: Simd>(s: S, bytes: [S::C; 4], bias: f32, out: &mut [[Row; 2]; BLOCKS]) {
    for (column, bytes) in bytes.into_iter().enumerate() {
        for i in 0..4 {
            let number = s.rows_sub(s.floats(byte(s, bytes, i)), s.rows_splat(bias));
            s.rows_store(number, &mut out[2 * column + i / 2][i % 2]);
        }
    }
}

/// Each of eight scales twice, for formats in which both halves of a block share one.
#[inline(always)]
pub(super) fn for_both_halves(scales: [i8; BLOCKS]) -> [i8; HALVES] {
    core::array::from_fn(|half| scales[half / 2])
}

/// Writes `bits` bits of every code, from bit `from` of it: each 32 bytes hold those of `8 / bits` blocks, byte `i` of
/// value `i` of each, the first block lowest. `out` is zero before.
pub(super) fn pack_planes(codes: &[u16; SUPERBLOCK], from: usize, bits: usize, out: &mut [u8]) {
    let per_byte = 8 / bits;
    for (block, codes) in codes.as_chunks::<BLOCK>().0.iter().enumerate() {
        let shift = block % per_byte * bits;
        for (byte, code) in out[block / per_byte * BLOCK..].iter_mut().zip(codes) {
            *byte |= ((code >> from) as u8 & ((1 << bits) - 1)) << shift;
        }
    }
}

/// Writes the bytes of 16-bit numbers one after the other.
pub(super) fn put_words(words: impl Iterator<Item = u16>, out: &mut [u8]) {
    for (bytes, word) in out.as_chunks_mut::<2>().0.iter_mut().zip(words) {
        *bytes = word.to_le_bytes();
    }
}

/// Reads whole superblocks, with the float operations of ggml in their order.
pub(super) fn dequantize<F: Superblock<N>, const N: usize>(row: &[u8], out: &mut [f32]) {
    for (superblock, values) in row.as_chunks::<N>().0.iter().zip(out.chunks_exact_mut(F::N_BLOCKS * BLOCK)) {
        let d = f16_to_f32(F::scale(superblock)) * F::FACTOR;
        let dmin = F::MIN_AT.map(|at| f16_to_f32(half_at(superblock, at)));
        let (scales, mins) = (F::scales(superblock), F::mins(superblock));
        for (block, values) in values.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
            let weights = F::weights(superblock, block);
            for (i, value) in values.iter_mut().enumerate() {
                let half = i / (BLOCK / 2);
                *value = d * f32::from(scales[2 * block + half]) * f32::from(weights[i] as i8);
                if let Some(dmin) = dmin {
                    let min = mins[block * F::MINS_PER_BLOCK + half * (F::MINS_PER_BLOCK - 1)];
                    *value -= dmin * f32::from(min);
                }
            }
        }
    }
}

/// Formats of [`Superblock`]s: panels of one of them.
///
/// The sums stay below 2^24, where every integer is a float: the largest, of Q6_K, is 128 * 32 * 127 * 32.
pub(crate) struct Rows<const N: usize>;

impl<const N: usize> Rows<N> {
    /// How rows are cut that lie together.
    const fn cut<F: Superblock<N>>() -> Cut {
        Cut { block_bytes: N, head: F::HEAD, unit: 4 }
    }

    /// Whether panels have the products of weights and scales. Where a tile has fewer rows than a vector has lanes it costs less to
    /// multiply sums.
    const fn has_products<F: Superblock<N>>() -> bool {
        F::HAS_SMALL_PRODUCTS && TILE == LANES
    }

    /// What the weights of the rows are multiplied with beside their own integers, and what minimums are.
    #[inline(always)]
    fn scales<S: Simd, F: Superblock<N>>(s: S, superblocks: impl Lanes<N>) -> (S::R, Option<S::R>) {
        let bits = match F::BY_WORDS {
            true => superblocks.half(s, F::SCALE_AT),
            false => s.lanes(&each_row!(r => u32::from(F::scale(superblocks.row(r).borrow())))),
        };
        let d = s.rows_mul(s.halves(bits), s.rows_splat(F::FACTOR));
        (d, F::MIN_AT.map(|at| s.halves(superblocks.half(s, at))))
    }

    /// Fills in a panel.
    #[inline(always)]
    fn fill<S: Simd, F: Superblock<N>>(s: S, superblocks: impl Lanes<N>, panel: &mut Panel) {
        panel.n_blocks = F::N_BLOCKS;
        let (d, dmin) = Self::scales::<S, F>(s, superblocks);
        // A zero may get the other sign by it, which no total shows.
        let is_turned = Self::has_products::<F>() && !F::UNSIGNED;
        let scale = if is_turned { s.rows_sub(s.rows_splat(0.0), d) } else { d };
        if Self::has_products::<F>() {
            F::unpack_mins(s, superblocks, &mut panel.halves);
            let scales = F::scale_bytes(s, superblocks);
            F::unpack_weights(s, superblocks, &mut Scaled { panel, scales });
        } else {
            F::unpack_scales(s, superblocks, &mut panel.halves);
            F::unpack_weights(s, superblocks, panel);
        }
        for block in 0..F::N_BLOCKS {
            let scale = if F::SCALES_PER_BLOCK == 1 { panel.halves.scale(s, block, scale) } else { scale };
            s.rows_store(scale, &mut panel.scale[block]);
            if let Some(dmin) = dmin {
                panel.halves.scale_mins(s, block, F::MINS_PER_BLOCK, dmin);
            }
        }
    }

    /// Integers that the sums of a block are multiplied with, which are no part of its scale.
    const fn n_factors<F: Superblock<N>>() -> usize {
        assert!(!F::HAS_SMALL_PRODUCTS || F::SCALES_PER_BLOCK == 2, "one scale for both halves costs nothing");
        if F::SCALES_PER_BLOCK == 2 { 2 } else { 0 }
    }

    /// `total` and the products of a superblock, whose first block is block `first` of its row: the definition's steps in its order,
    /// for weights that were never stored. `halves` is room for its integers.
    #[allow(clippy::needless_range_loop)] // The same number indexes activations, sums and halves.
    #[inline(always)]
    fn add_superblock<S: Simd, F: Superblock<N>>(
        s: S,
        mut total: S::R,
        (superblocks, halves): (impl Lanes<N>, &mut Halves),
        first: usize,
        activation: &Activation<'_>,
    ) -> S::R {
        let activations = &activation.blocks[first..first + F::N_BLOCKS];
        let by_halves = F::SCALES_PER_BLOCK == 2;
        let mut dots = Dots { activations, by_halves, sums: [[s.rows_splat(0.0); 2]; BLOCKS] };
        F::unpack_weights(s, superblocks, &mut dots);
        F::unpack_scales(s, superblocks, halves);
        let (d, dmin) = Self::scales::<S, F>(s, superblocks);
        for block in 0..F::N_BLOCKS {
            let product = halves.product(s, block, Self::n_factors::<F>(), dots.sums[block]);
            let scale = if F::SCALES_PER_BLOCK == 1 { halves.scale(s, block, d) } else { d };
            let activation_scale = s.rows_splat(activations[block].scale);
            total = s.rows_add(total, s.rows_mul(product, s.rows_mul(scale, activation_scale)));
            if dmin.is_some() {
                total = s.rows_add(total, halves.below(s, block, F::MINS_PER_BLOCK, dmin, &activations[block]));
            }
        }
        total
    }
}

impl<F: Superblock<N>, const N: usize> Unpack<F> for Rows<N> {
    const SHAPE: Shape = Shape {
        signed: !F::UNSIGNED,
        n_factors: if Self::has_products::<F>() { 0 } else { Self::n_factors::<F>() },
        n_mins: if F::MIN_AT.is_some() { F::MINS_PER_BLOCK } else { 0 },
        is_few: F::UNSIGNED && !Self::has_products::<F>(),
        ..Shape::PLAIN
    };
    const N_BLOCKS: usize = F::N_BLOCKS;

    const CUT: Option<Cut> = if F::BY_WORDS { Some(Self::cut::<F>()) } else { None };
    const HAS_PRODUCT: bool = F::BY_WORDS;

    #[inline(always)]
    fn unpack<S: Simd>(s: S, rows: &[&[u8]; TILE], ahead: &[u8], index: usize, panel: &mut Panel) {
        prefetch_apart(ahead, rows[0].len(), index, TILE * N);
        let superblocks: [&[u8; N]; TILE] = each_row!(r => &rows[r].as_chunks::<N>().0[index]);
        Self::fill::<S, F>(s, Apart(&superblocks), panel);
    }

    #[inline(always)]
    fn unpack_together<S: Simd>(s: S, tile: &[u8], index: usize, panel: &mut Panel) {
        let superblocks = &tile[index * TILE * N..][..TILE * N];
        Self::fill::<S, F>(s, Together(superblocks, Self::cut::<F>()), panel);
    }

    #[inline(always)]
    fn product<S: Simd>(s: S, tile: &[u8], ahead: &[u8], activation: &Activation<'_>) -> S::R {
        let (mut total, mut halves) = (s.rows_splat(0.0), Halves::EMPTY);
        for (index, bytes) in tile.chunks_exact(TILE * N).enumerate() {
            prefetch_block(ahead, index, TILE * N);
            let superblocks = Together(bytes, Self::cut::<F>());
            total = Self::add_superblock::<S, F>(s, total, (superblocks, &mut halves), index * F::N_BLOCKS, activation);
        }
        total
    }

    #[inline(always)]
    fn product_apart<S: Simd>(s: S, rows: &[&[u8]; TILE], ahead: &[u8], activation: &Activation<'_>) -> S::R {
        let (mut total, mut halves) = (s.rows_splat(0.0), Halves::EMPTY);
        for index in 0..rows[0].len() / N {
            prefetch_apart(ahead, rows[0].len(), index, TILE * N);
            let superblocks: [&[u8; N]; TILE] = each_row!(r => &rows[r].as_chunks::<N>().0[index]);
            total = Self::add_superblock::<S, F>(
                s,
                total,
                (Apart(&superblocks), &mut halves),
                index * F::N_BLOCKS,
                activation,
            );
        }
        total
    }
}
