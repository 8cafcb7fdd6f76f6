//! Weight matrices times activations.
//!
//! The work is split by rows, never by columns: a dot product is always one worker's, start to end, and takes the same
//! path through the same additions whoever computes it, alone or in a batch.

use super::floats;
use super::norm::Vector;
use super::products::{Tile, Tokens, multiply};
use crate::quant::panel::{Panel, Shape, Unpack};
use crate::quant::tile::{Cut, LayTogether};
use crate::quant::{
    Format, Quantized, Rest, Type, n_blocks, quantize_activation, quantize_rest, with_floats, with_integer,
};
use crate::simd::{BLOCK, Isa, Kernel, LANES, Simd, TILE, each_row, foresees_pages, prefetch_block};
use crate::workers::{Columns, Single, Workers, split, split_rows};
use core::marker::PhantomData;

/// A weight matrix as it lies in the file: `rows` rows of `columns` values, of which the first are in memory.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    /// The rows that are in memory one after the other, little-endian.
    data: &'a [u8],
    /// Where the first row lies in the file, for the rows that are not.
    offset: u64,
    /// How many rows (outputs).
    pub rows: usize,
    /// Values in a row (inputs).
    pub columns: usize,
    /// What the bytes mean.
    pub kind: Type,
    row_bytes: usize,
    /// Whether whole tiles of rows lie together.
    together: bool,
}

/// Rows that can lie together: of which type, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiles {
    cut: Cut,
    /// Where they begin in the file.
    pub offset: u64,
    /// Bytes of all whole tiles.
    pub n_bytes: usize,
    /// Bytes of one tile.
    pub tile_bytes: usize,
}

impl Tiles {
    /// Lays the rows of every tile together; `rows` are [`Tiles::n_bytes`], and `scratch` has room for one tile.
    ///
    /// # Panics
    /// When `rows` are no whole tiles, or `scratch` has no room for one.
    pub fn lay_together(&self, isa: Isa, rows: &mut [u8], scratch: &mut [u8]) {
        assert!(rows.len().is_multiple_of(self.tile_bytes), "whole tiles");
        let apart = &mut scratch[..self.tile_bytes];
        for tile in rows.chunks_exact_mut(self.tile_bytes) {
            isa.run(LayTogether { cut: self.cut, tile, apart: &mut *apart });
        }
    }

    /// The rows of `tiles`, some whole tiles that lie together, one after the other as a file has them.
    ///
    /// # Panics
    /// When they are no whole tiles, or `rows` has room for another number of bytes.
    pub fn rows(&self, tiles: &[u8], rows: &mut [u8]) {
        assert!(tiles.len().is_multiple_of(self.tile_bytes) && rows.len() == tiles.len(), "whole tiles");
        let row_bytes = self.tile_bytes / TILE;
        for (index, row) in rows.chunks_exact_mut(row_bytes).enumerate() {
            let tile = &tiles[index / TILE * self.tile_bytes..][..self.tile_bytes];
            self.cut.copy_row(tile, index % TILE, 0, row);
        }
    }
}

impl<'a> Matrix<'a> {
    /// No matrix.
    pub const EMPTY: Matrix<'static> =
        Matrix { data: &[], offset: 0, rows: 0, columns: 0, kind: Type::F32, row_bytes: 0, together: false };

    /// The matrix in `data`; `None` when that is not exactly `rows` rows of `columns` values of `kind`.
    pub fn new(data: &'a [u8], kind: Type, rows: usize, columns: usize) -> Option<Self> {
        Self::partly(data, 0, kind, rows, columns).filter(|matrix| matrix.held_rows() == rows)
    }

    /// The matrix at byte `offset` of a file, whose first rows are in `data`; `None` when these are not whole rows, or more of
    /// them than there are.
    pub fn partly(data: &'a [u8], offset: u64, kind: Type, rows: usize, columns: usize) -> Option<Self> {
        let row_bytes = usize::try_from(kind.row_bytes(columns as u64)?).ok()?;
        let fits = data.len() <= row_bytes.checked_mul(rows)? && data.len().checked_rem(row_bytes)? == 0;
        fits.then_some(Matrix { data, offset, rows, columns, kind, row_bytes, together: false })
    }

    /// How many rows, from the first on, are in memory.
    pub fn held_rows(&self) -> usize {
        self.data.len().checked_div(self.row_bytes).unwrap_or(0)
    }

    /// The bytes of the rows that are in memory, however they lie.
    pub fn held_bytes(&self) -> &'a [u8] {
        self.data
    }

    /// Bytes of a row.
    pub fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// Where row `row` lies in the file.
    pub fn offset(&self, row: usize) -> u64 {
        self.offset + row as u64 * self.row_bytes as u64
    }

    /// The rows in `data`, which are some of this matrix, as a matrix of their own.
    pub fn of_rows<'b>(&self, data: &'b [u8]) -> Matrix<'b> {
        Matrix { data, rows: data.len().checked_div(self.row_bytes).unwrap_or(0), together: false, ..*self }
    }

    /// The tiles that could lie together; `None` when a row is not in memory, or there are no whole tiles of such a type.
    pub fn tiles(&self) -> Option<Tiles> {
        let cut = self.kind.cut().filter(|_| self.rows >= TILE && self.held_rows() == self.rows)?;
        let tile_bytes = TILE * self.row_bytes;
        Some(Tiles { cut, offset: self.offset, n_bytes: self.rows / TILE * tile_bytes, tile_bytes })
    }

    /// This matrix with [`Matrix::tiles`] that do lie together.
    pub fn laid_together(self) -> Self {
        Self { together: self.tiles().is_some(), ..self }
    }

    /// The tile of rows from `first` on, if it lies together.
    #[inline(always)]
    pub(super) fn tile(&self, first: usize) -> Option<&'a [u8]> {
        let is_whole = self.together && first + TILE <= self.rows;
        is_whole.then(|| &self.data[first * self.row_bytes..][..TILE * self.row_bytes])
    }

    /// The bytes that products of the rows from `row` on shall ask for, as far ahead of those that they read: a page where rows lie
    /// together, or else a tile. None of a matrix that stays in a near cache, nor of one that the CPU foresees by itself.
    fn soon(&self, row: usize) -> &'a [u8] {
        let is_near = self.data.len() <= NEAR_BYTES;
        // Larger blocks are read here and there.
        let is_foreseen = self.together && self.kind.block_len() <= BLOCK && foresees_pages();
        let ahead = if self.together { AHEAD } else { TILE * self.row_bytes };
        self.data.get(row * self.row_bytes + ahead..).filter(|_| !is_near && !is_foreseen).unwrap_or_default()
    }

    /// Reads row `row`, which is in memory, into `out`, (columns).
    pub(crate) fn dequantize(&self, row: usize, out: &mut [f32]) {
        let read = |bytes: &[u8], out: &mut [f32]| {
            let read = self.kind.dequantize(bytes, out);
            read.unwrap_or_else(|_| unreachable!("the model was checked to hold supported types only"));
        };
        let (Some(tile), Some(cut)) = (self.tile(row / TILE * TILE), self.kind.cut()) else {
            return read(self.row(row), out);
        };
        // As many blocks as this has room for, one at least.
        let mut bytes = [0; 256];
        let n_blocks = bytes.len() / self.kind.block_bytes();
        let mut first = 0;
        for values in out.chunks_mut(n_blocks * self.kind.block_len()) {
            let n_bytes = (n_blocks * self.kind.block_bytes()).min(self.row_bytes - first);
            cut.copy_row(tile, row % TILE, first, &mut bytes[..n_bytes]);
            read(&bytes[..n_bytes], values);
            first += n_bytes;
        }
    }

    /// The bytes of row `row`, which is in memory and does not lie in a tile together.
    #[inline(always)]
    pub fn row(&self, row: usize) -> &'a [u8] {
        &self.data[row * self.row_bytes..][..self.row_bytes]
    }

    /// Some of the rows as a matrix of their own; those that lie together are not parted.
    pub fn slice(&self, rows: core::ops::Range<usize>) -> Matrix<'a> {
        let is_parted = !rows.start.is_multiple_of(TILE) || rows.end < self.rows && !rows.end.is_multiple_of(TILE);
        debug_assert!(!(self.together && is_parted && !rows.is_empty()), "tiles stay whole");
        let held = |row: usize| row.min(self.held_rows()) * self.row_bytes;
        let data = &self.data[held(rows.start)..held(rows.end)];
        Matrix { data, offset: self.offset(rows.start), rows: rows.len(), ..*self }
    }
}

/// A batch of activations, and room for their integer form.
#[derive(Debug)]
pub struct Activations<'a> {
    /// The 8-bit values, (tokens, blocks).
    pub blocks: &'a mut [Quantized],
    /// What the 8-bit values leave over, (tokens, blocks); empty for a model without types that read it.
    pub rest: &'a mut [Rest],
}

impl Activations<'_> {
    /// Fills in the integer form of the rows of `x`, (tokens, `columns`), when one of `matrices` reads it.
    pub fn quantize(&mut self, crew: Crew<'_>, x: &[f32], columns: usize, matrices: &[&Matrix<'_>]) {
        if !matrices.iter().any(|matrix| matrix.kind.is_integer()) {
            return;
        }
        let n = n_blocks(columns);
        let range = ..x.len() / columns * n;
        let blocks = &mut self.blocks[range];
        crew.rows((blocks, n), &|first, blocks| crew.isa.run(Quantize { x: &x[first * columns..], columns, blocks }));
        if matrices.iter().any(|matrix| matrix.kind.is_fine()) {
            let blocks = &*blocks;
            crew.rows((&mut self.rest[range], n), &|first, rest| {
                crew.isa.run(QuantizeRest { x: &x[first * columns..], columns, blocks: &blocks[first * n..], rest });
            });
        }
    }
}

/// Fills in the 8-bit values of some rows.
struct Quantize<'a> {
    x: &'a [f32],
    columns: usize,
    blocks: &'a mut [Quantized],
}

impl Kernel for Quantize<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let rows = self.x.chunks_exact(self.columns).zip(self.blocks.chunks_exact_mut(n_blocks(self.columns)));
        rows.for_each(|(x, blocks)| quantize_activation(s, x, S::OFFSET, blocks));
    }
}

/// Fills in what the 8-bit values of some rows leave over.
struct QuantizeRest<'a> {
    x: &'a [f32],
    columns: usize,
    blocks: &'a [Quantized],
    rest: &'a mut [Rest],
}

impl Kernel for QuantizeRest<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n = n_blocks(self.columns);
        let rows = self.x.chunks_exact(self.columns).zip(self.blocks.chunks_exact(n));
        for ((x, blocks), rest) in rows.zip(self.rest.chunks_exact_mut(n)) {
            quantize_rest(s, x, S::OFFSET, blocks, rest);
        }
    }
}

/// Where and on whom a job runs.
#[derive(Clone, Copy)]
pub struct Crew<'a> {
    /// The instruction set.
    pub isa: Isa,
    /// The threads.
    pub workers: &'a dyn Workers,
}

impl Crew<'_> {
    /// Shares out `rows`, of `row_len` values each, where they are many; `job` gets the number of the first row of a part, and the part.
    /// Not inlined, so that there is one copy of every job.
    #[inline(never)]
    pub fn rows<T: Send>(self, (rows, row_len): (&mut [T], usize), job: &(dyn Fn(usize, &mut [T]) + Sync)) {
        if size_of_val(rows) < SMALL_ROWS || rows.len() <= row_len || self.workers.n_workers() == 1 {
            job(0, rows);
        } else {
            split_rows(self.workers, (rows, row_len), self.workers.n_workers() * TASKS_PER_WORKER, job);
        }
    }
}

/// Bytes of rows that one thread has done with before another is awake.
const SMALL_ROWS: usize = 1 << 15;

/// Products of a weight and an activation below which waking another thread costs more than it saves.
const SMALL_JOB: usize = 1 << 17;
/// How far ahead of the bytes that a product reads others are asked for, where rows lie together: many a CPU foresees by itself what
/// follows within a page of 4 KiB, but not what comes behind it (docs/adr/0102-asking-a-page-ahead.md).
const AHEAD: usize = 4096;
/// A matrix of no more bytes belongs to a model that a CPU keeps in its own caches, from which it is fast enough by itself.
const NEAR_BYTES: usize = 64 << 10;
/// Tasks for each worker: enough to even out an unlucky one, few enough to hand out cheaply.
const TASKS_PER_WORKER: usize = 4;

/// Writes `matrix * x + bias` for every row of `x`, from column `first` of `out` on, and behind it the same for each further one of
/// `matrices`: `out` is (tokens, n), `x` (tokens, columns), a bias (n), and `activations` holds the integer form of `x` when a matrix is
/// of an integer format. No bias when it is empty. What one token needs of several matrices is one job, which threads share out once.
/// A matrix that is not in memory as a whole is multiplied by [`linear`](super::linear::multiply).
pub fn matmul(
    crew: Crew<'_>,
    (matrices, first): (&[(&Matrix<'_>, Vector<'_>)], usize),
    x: &[f32],
    activations: &Activations<'_>,
    out: &mut [f32],
) {
    let n_rows = matrices.iter().map(|(matrix, _)| matrix.rows).sum::<usize>();
    let alone = n_rows * x.len() < SMALL_JOB;
    let workers: &dyn Workers = if alone { &Single } else { crew.workers };
    let tasks = if workers.n_workers() == 1 { 1 } else { workers.n_workers() * TASKS_PER_WORKER };
    let n_columns = matrices.first().map_or(1, |(matrix, _)| matrix.columns);
    let stride = out.len() / (x.len() / n_columns);
    split(workers, out, (stride, first..first + n_rows), (TILE, tasks), (&mut [], 0), &|_, mut columns| {
        let range = columns.range();
        let mut first = first;
        for &(matrix, bias) in matrices {
            let own = range.start.max(first)..range.end.min(first + matrix.rows);
            if !own.is_empty() {
                products(crew.isa, (matrix, first), bias, (x, activations), columns.part(own));
            }
            first += matrix.rows;
        }
    });
}

/// The rows of a matrix that are one task's.
pub(super) struct Part<'a> {
    pub(super) matrix: Matrix<'a>,
    /// What products of them ask for, as far ahead of each byte that they read.
    soon: &'a [u8],
}

impl Part<'_> {
    /// What to ask for while the tile from row `first` on is read.
    #[inline(always)]
    pub(super) fn ahead(&self, first: usize) -> &[u8] {
        self.soon.get(first * self.matrix.row_bytes..).unwrap_or_default()
    }
}

/// The products of those rows of `matrix` whose columns, from `first` on, are a task's; where rows lie together, in whole tiles.
fn products(
    isa: Isa,
    (matrix, first): (&Matrix<'_>, usize),
    bias: Vector<'_>,
    (x, activations): (&[f32], &Activations<'_>),
    mut columns: Columns<'_>,
) {
    let rows = columns.range().start - first..columns.range().end - first;
    let part = &Part { matrix: matrix.slice(rows.clone()), soon: matrix.soon(rows.start) };
    with_floats!(matrix.kind, F => {
        floats::multiply::<F>(isa, part, x, &mut columns);
    }, _ => integer_products(isa, part, activations, &mut columns));
    if !bias.is_empty() {
        let bias = bias.slice(rows);
        for token in 0..columns.n_rows() {
            columns.row(token).iter_mut().zip(bias.iter()).for_each(|(out, b)| *out += b);
        }
    }
}

/// The rows of a matrix from `first` on, as many as a tile takes: where there are fewer, the last one again and again.
#[inline(always)]
pub(super) fn tile_rows<'a>(matrix: &Matrix<'a>, first: usize) -> [&'a [u8]; TILE] {
    each_row!(r => matrix.row((first + r).min(matrix.rows - 1)))
}

/// The dot products of the rows of a matrix of an integer format with every activation, tile by tile and panel by panel.
fn integer_products(isa: Isa, part: &Part<'_>, activations: &Activations<'_>, columns: &mut Columns<'_>) {
    let matrix = &part.matrix;
    let unpacker = Unpacker::new(matrix.kind);
    let tokens = Tokens { n_blocks: n_blocks(matrix.columns), blocks: activations.blocks, rest: activations.rest };
    if let Some(products) = unpacker.products.filter(|_| columns.n_rows() == 1) {
        return products(isa, part, &tokens, columns);
    }
    let n_panels = tokens.n_blocks.div_ceil(unpacker.n_blocks);
    let mut panel = Panel::EMPTY;
    for first in (0..matrix.rows).step_by(TILE) {
        let width = TILE.min(matrix.rows - first);
        let (tile, rows) = (matrix.tile(first), tile_rows(matrix, first));
        let ahead = part.ahead(first);
        let share = (width * matrix.row_bytes).div_ceil(n_panels);
        for index in 0..n_panels {
            match tile {
                Some(tile) => {
                    prefetch_block(ahead, index, share);
                    (unpacker.unpack_together)(isa, tile, index, &mut panel);
                }
                None => (unpacker.unpack)(isa, &rows, ahead, index, &mut panel),
            }
            let out = Tile { columns, at: first, width };
            multiply(isa, unpacker.shape, &panel, index * unpacker.n_blocks, &tokens, out);
        }
    }
}

/// Fills in a panel from rows as a file has them, and asks for bytes meanwhile.
type UnpackApart = fn(Isa, &[&[u8]; TILE], &[u8], usize, &mut Panel);

/// What there is to know of an integer format.
struct Unpacker {
    shape: Shape,
    n_blocks: usize,
    unpack: UnpackApart,
    unpack_together: fn(Isa, &[u8], usize, &mut Panel),
    /// The products of all rows with one token.
    products: Option<fn(Isa, &Part<'_>, &Tokens<'_>, &mut Columns<'_>)>,
}

impl Unpacker {
    fn new(kind: Type) -> Self {
        /// How the rows of `F` are unpacked.
        type Rows<F> = <F as Format>::Rows;
        with_integer!(kind, F => {
            let has_products = <Rows<F> as Unpack<F>>::HAS_PRODUCT && TILE == LANES;
            Unpacker {
                shape: <Rows<F> as Unpack<F>>::SHAPE,
                n_blocks: <Rows<F> as Unpack<F>>::N_BLOCKS,
                unpack: |isa, rows, ahead, index, panel| {
                    isa.run(UnpackPanel { rows, ahead, index, panel, format: PhantomData::<F> });
                },
                unpack_together: |isa, tile, index, panel| {
                    isa.run(UnpackTogether { tile, index, panel, format: PhantomData::<F> });
                },
                products: has_products.then_some(|isa, part, tokens, columns| {
                    isa.run(Products { part, tokens, columns, format: PhantomData::<F> });
                }),
            }
        }, _ => unreachable!("the model was checked to hold supported types only"))
    }
}

/// Fills in one panel.
struct UnpackPanel<'a, 'b, F> {
    rows: &'a [&'b [u8]; TILE],
    ahead: &'a [u8],
    index: usize,
    panel: &'a mut Panel,
    format: PhantomData<F>,
}

impl<F: Format<Rows: Unpack<F>>> Kernel for UnpackPanel<'_, '_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        F::Rows::unpack(s, self.rows, self.ahead, self.index, self.panel);
    }
}

/// Fills in one panel from rows that lie together.
struct UnpackTogether<'a, F> {
    tile: &'a [u8],
    index: usize,
    panel: &'a mut Panel,
    format: PhantomData<F>,
}

impl<F: Format<Rows: Unpack<F>>> Kernel for UnpackTogether<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        F::Rows::unpack_together(s, self.tile, self.index, self.panel);
    }
}

/// The products of a matrix with one token.
struct Products<'a, 'b, F> {
    part: &'a Part<'a>,
    tokens: &'a Tokens<'a>,
    columns: &'a mut Columns<'b>,
    format: PhantomData<F>,
}

impl<F: Format<Rows: Unpack<F>>> Kernel for Products<'_, '_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let activation = self.tokens.first();
        let matrix = &self.part.matrix;
        for (index, out) in self.columns.row(0).chunks_mut(TILE).enumerate() {
            let first = index * TILE;
            let ahead = self.part.ahead(first);
            let products = match matrix.tile(first) {
                Some(tile) => F::Rows::product(s, tile, ahead, &activation),
                None => F::Rows::product_apart(s, &tile_rows(matrix, first), ahead, &activation),
            };
            match out.as_mut_array() {
                Some(out) => s.rows_store(products, out),
                None => s.rows_store_part(products, out),
            }
        }
    }
}
