//! The products of a panel of quantized rows with a batch of activations: one kernel for all formats.
// The same number indexes the arrays of every token.
#![allow(clippy::needless_range_loop)]

use crate::quant::panel::{BLOCKS, COLUMNS, PAIRED, Panel, Shape, activations};
use crate::quant::{self, Activation, Quantized, Rest};
use crate::simd::{BLOCK, Isa, Kernel, Simd};
use crate::workers::Columns;

/// Tokens whose activations meet a lane of weights while it is in a register.
pub const TOKENS: usize = 4;

/// The same where registers hold the sums of so many.
const MANY: usize = 2 * TOKENS;

/// Whether there is a kernel for [`TOKENS`] tokens at once. A build for the types of one model is one for a machine that has
/// no room for a batch, nor for code that it does not run.
pub(super) const IN_BATCHES: bool = !quant::IS_FOR_ONE_MODEL;

/// Adds the products of a panel, whose first block is block `first` of the rows, to the tile's outputs.
///
/// Definition, for each row and token, blocks in order. A sum is that of weight times activation, taken exactly and made a
/// float; with two factors each half's is multiplied with its own, and these two added, all of which is exact below 2^24.
/// Of 16-bit activations the sum with their rests times the float nearest to 1 / 254 is added. This, times (weight scale
/// times activation scale), is added to the total; the weight scale is that of the superblock times the block's one factor,
/// where there is one, which is exact too. Then, where there are minimums, the minimum (times its scale, exactly) times (the
/// activations' sum with its sign turned times their scale), with two minimums the sum of both halves' such products.
pub(crate) fn multiply(isa: Isa, shape: Shape, panel: &Panel, first: usize, tokens: &Tokens<'_>, out: Tile<'_, '_>) {
    macro_rules! with {
        ($($signed:literal $factors:literal $mins:literal $rest:literal $few:literal,)+) => {
            match (shape.signed, shape.n_factors, shape.n_mins, shape.rest, shape.is_few) {
                $(($signed, $factors, $mins, $rest, $few) if const {
                    quant::is_shape_built(Shape {
                        signed: $signed,
                        bias: 0,
                        n_factors: $factors,
                        n_mins: $mins,
                        rest: $rest,
                        is_few: $few,
                    })
                } => {
                    isa.run(Multiply::<$signed, $factors, $mins, $rest, $few> { bias: shape.bias, panel, first, tokens, out })
                })+
                _ => unreachable!("no format has such blocks"),
            }
        };
    }
    with!(
        true 0 0 false false,
        true 0 0 true false,
        true 2 0 false false,
        false 0 0 false true,
        false 0 1 false true,
        false 0 2 false false,
        false 2 2 false true,
    )
}

/// The activations of a batch, as [`Activation`] describes them, (tokens, blocks).
#[derive(Clone, Copy)]
pub(crate) struct Tokens<'a> {
    /// Blocks of a token.
    pub(crate) n_blocks: usize,
    pub(crate) blocks: &'a [Quantized],
    pub(crate) rest: &'a [Rest],
}

impl<'a> Tokens<'a> {
    /// All blocks of the first token.
    #[inline(always)]
    pub(super) fn first(&self) -> Activation<'a> {
        let n = self.n_blocks;
        let rest = self.rest.get(..n).unwrap_or_default();
        Activation { blocks: &self.blocks[..n], rest }
    }

    /// Blocks `first` to `first + n` of token `token`.
    #[inline(always)]
    fn blocks<const REST: bool>(&self, token: usize, first: usize, n: usize) -> Activation<'a> {
        let first = token * self.n_blocks + first;
        let range = first..first + n;
        Activation { blocks: &self.blocks[range.clone()], rest: if REST { &self.rest[range] } else { &[] } }
    }
}

/// Where the products of a tile go: `width` columns from `at` on of those that belong to a task.
pub(crate) struct Tile<'a, 'b> {
    pub(crate) columns: &'a mut Columns<'b>,
    pub(crate) at: usize,
    pub(crate) width: usize,
}

/// The products of a panel.
struct Multiply<
    'a,
    'b,
    'c,
    const SIGNED: bool,
    const FACTORS: usize,
    const MINS: usize,
    const REST: bool,
    const FEW: bool,
> {
    bias: i32,
    panel: &'a Panel,
    first: usize,
    tokens: &'a Tokens<'c>,
    out: Tile<'a, 'b>,
}

impl<const SIGNED: bool, const FACTORS: usize, const MINS: usize, const REST: bool, const FEW: bool> Kernel
    for Multiply<'_, '_, '_, SIGNED, FACTORS, MINS, REST, FEW>
{
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let n_tokens = self.out.columns.n_rows();
        let mut token = 0;
        while IN_BATCHES && S::VECTORS > 2 * MANY && token + MANY <= n_tokens {
            self.tokens::<S, MANY>(s, token);
            token += MANY;
        }
        while IN_BATCHES && token + TOKENS <= n_tokens {
            self.tokens::<S, TOKENS>(s, token);
            token += TOKENS;
        }
        while token < n_tokens {
            self.tokens::<S, 1>(s, token);
            token += 1;
        }
    }
}

impl<const SIGNED: bool, const FACTORS: usize, const MINS: usize, const REST: bool, const FEW: bool>
    Multiply<'_, '_, '_, SIGNED, FACTORS, MINS, REST, FEW>
{
    /// The products with `T` tokens from `token` on.
    #[inline(always)]
    fn tokens<S: Simd, const T: usize>(&mut self, s: S, token: usize) {
        let n_blocks = self.panel.n_blocks.min(BLOCKS);
        let mut activations = [Activation::EMPTY; T];
        for (t, activation) in activations.iter_mut().enumerate() {
            *activation = self.tokens.blocks::<REST>(token + t, self.first, n_blocks);
        }
        let range = self.out.at..self.out.at + self.out.width;
        let mut totals = [s.rows_splat(0.0); T];
        if self.first > 0 {
            for t in 0..T {
                totals[t] = s.rows_load_part(&self.out.columns.row(token + t)[range.clone()]);
            }
        }
        for block in 0..n_blocks {
            let scale = s.rows_load(&self.panel.scale[block]);
            let sums = self.sums::<S, T>(s, block, &activations);
            for t in 0..T {
                let a = &activations[t].blocks[block];
                let activation_scale = s.rows_splat(a.scale);
                totals[t] = s.rows_add(totals[t], s.rows_mul(sums[t], s.rows_mul(scale, activation_scale)));
                if MINS > 0 {
                    totals[t] = s.rows_add(totals[t], self.panel.halves.below(s, block, MINS, None, a));
                }
            }
        }
        for t in 0..T {
            s.rows_store_part(totals[t], &mut self.out.columns.row(token + t)[range.clone()]);
        }
    }

    /// What the panel's blocks are. Weights with minimums have no bias, which a kernel then need not ask for.
    #[inline(always)]
    fn shape<S: Simd>(&self, s: S) -> Shape {
        let bias = if MINS > 0 { 0 } else { self.bias };
        let shape = Shape { signed: SIGNED, bias, n_factors: FACTORS, n_mins: MINS, rest: REST, is_few: FEW };
        Shape { signed: shape.is_signed_in_panels(s), ..shape }
    }

    /// The sums of a block, factors included.
    #[inline(always)]
    fn sums<S: Simd, const T: usize>(&self, s: S, block: usize, activations: &[Activation<'_>; T]) -> [S::R; T] {
        let shape = self.shape(s);
        let mut q = [&[0; BLOCK]; T];
        for t in 0..T {
            q[t] = &activations[t].blocks[block].q;
        }
        let (mut first, mut second) = ([0; T], [0; T]);
        let halves = &self.panel.halves;
        if FACTORS == 2 {
            for t in 0..T {
                [first[t], second[t]] = shape.start_halves(&activations[t].blocks[block]);
            }
            let mut sums = self.dot(s, block, 0..COLUMNS / 2, &q, first);
            let others = self.dot(s, block, COLUMNS / 2..COLUMNS, &q, second);
            for t in 0..T {
                sums[t] = halves.product(s, block, FACTORS, [sums[t], others[t]]);
            }
            return sums;
        }
        for t in 0..T {
            first[t] = shape.start(&activations[t].blocks[block]);
        }
        let mut sums = self.dot(s, block, 0..COLUMNS, &q, first);
        if REST {
            for t in 0..T {
                let rest = &activations[t].rest[block];
                (q[t], first[t]) = (&rest.q, rest.start);
            }
            let rests = self.dot(s, block, 0..COLUMNS, &q, first);
            for t in 0..T {
                sums[t] = s.rows_add(sums[t], s.rows_mul(rests[t], s.rows_splat(1.0 / quant::REST)));
            }
        }
        sums
    }

    /// The exact sums over some columns of a block, with the activations `a`, beginning with `start`.
    #[inline(always)]
    fn dot<S: Simd, const T: usize>(
        &self,
        s: S,
        block: usize,
        columns: core::ops::Range<usize>,
        a: &[&[i8; BLOCK]; T],
        start: [i32; T],
    ) -> [S::R; T] {
        let shape = self.shape(s);
        let mut sums = [s.all(0); T];
        for t in 0..T {
            sums[t] = s.all(start[t] as u32);
        }
        if S::ADDS_PAIRS && shape.is_few && !shape.signed {
            for first in columns.step_by(PAIRED) {
                let mut pairs = [s.all(0); T];
                for column in first..first + PAIRED {
                    let weights = s.lanes(&self.panel.weights[block][column]);
                    for t in 0..T {
                        pairs[t] = s.dot_pairs(pairs[t], weights, activations(a[t], column));
                    }
                }
                for t in 0..T {
                    sums[t] = s.add_pairs(sums[t], pairs[t]);
                }
            }
            return floats(s, sums);
        }
        for column in columns {
            let weights = s.lanes(&self.panel.weights[block][column]);
            for t in 0..T {
                let a = activations(a[t], column);
                sums[t] = match shape.signed {
                    true => s.dot_signed(sums[t], weights, a),
                    false => s.dot_unsigned(sums[t], weights, a),
                };
            }
        }
        floats(s, sums)
    }
}

/// The sums of every token as floats.
#[inline(always)]
fn floats<S: Simd, const T: usize>(s: S, sums: [S::C; T]) -> [S::R; T] {
    let mut floats = [s.rows_splat(0.0); T];
    for t in 0..T {
        floats[t] = s.floats(sums[t]);
    }
    floats
}
