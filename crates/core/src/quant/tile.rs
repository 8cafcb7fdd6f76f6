//! Tiles: where the bytes of sixteen rows lie, and how they lie when a product wants them.
//!
//! A file has its rows one after the other, and sixteen of them are read in sixteen strands and transposed. Where weights lie in
//! memory of our own, their tiles lie *together* instead: a row's bytes are cut into units, of four bytes but for a scale that
//! stands alone, and unit after unit those of all rows of the tile follow each other. A unit that begins at byte `u` of its row
//! begins at byte `TILE * u` of the tile. Nothing is added and nothing lost, so rows change places where they lie; those behind
//! the last whole tile stay as they are.

use super::block::bytes_at;
use crate::simd::{BLOCK, Kernel, Simd, TILE, each, each_row};
use core::borrow::Borrow;

/// How the rows of a format are cut into units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Bytes of a block; a row is cut block by block.
    pub(crate) block_bytes: usize,
    /// Bytes of a block's first unit, where it is not as the others.
    pub(crate) head: usize,
    /// Bytes of every other unit; the last of a block may be shorter.
    pub(crate) unit: usize,
}

impl Cut {
    /// The unit that holds byte `at` of a row of `row_bytes` bytes: where it begins, and its bytes.
    #[inline(always)]
    const fn unit_at(self, at: usize, row_bytes: usize) -> (usize, usize) {
        let block = at / self.block_bytes * self.block_bytes;
        let at = at - block;
        if at < self.head {
            return (block, self.head);
        }
        let begin = block + self.head + (at - self.head) / self.unit * self.unit;
        let end = if block + self.block_bytes < row_bytes { block + self.block_bytes } else { row_bytes };
        (begin, if begin + self.unit < end { self.unit } else { end - begin })
    }

    /// The words behind the head of a block of which the rows have only the beginning, together; what is missing is zero.
    #[inline(always)]
    pub(crate) fn part<const WORDS: usize>(self, bytes: &[u8]) -> [[u32; TILE]; WORDS] {
        let mut words = [[0; TILE]; WORDS];
        let units = &bytes[TILE * self.head..];
        let n_whole = units.len() / (TILE * 4);
        let (whole, last) = units.split_at(TILE * 4 * n_whole);
        for (word, unit) in words.iter_mut().zip(whole.chunks_exact(TILE * 4)) {
            *word = lanes_of::<4>(unit);
        }
        match last.len() / TILE {
            1 => words[n_whole] = lanes_of::<1>(last),
            2 => words[n_whole] = lanes_of::<2>(last),
            3 => words[n_whole] = lanes_of::<3>(last),
            _ => {}
        }
        words
    }

    /// Copies what a tile that lies together has of row `row`, from byte `first` on.
    pub(crate) fn copy_row(self, tile: &[u8], row: usize, first: usize, out: &mut [u8]) {
        let row_bytes = tile.len() / TILE;
        let mut at = first;
        while at < first + out.len() {
            let (begin, n) = self.unit_at(at, row_bytes);
            let unit = &tile[TILE * begin + row * n..][..n];
            let end = (begin + n).min(first + out.len());
            out[at - first..end - first].copy_from_slice(&unit[at - begin..end - begin]);
            at = end;
        }
    }
}

/// Lays the rows of a tile together.
pub(crate) struct LayTogether<'a> {
    pub(crate) cut: Cut,
    /// The tile, rewritten.
    pub(crate) tile: &'a mut [u8],
    /// Room for as many bytes.
    pub(crate) apart: &'a mut [u8],
}

impl Kernel for LayTogether<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        self.apart.copy_from_slice(self.tile);
        let row_bytes = self.tile.len() / TILE;
        let rows = each_row!(r => &self.apart[r * row_bytes..][..row_bytes]);
        let mut at = 0;
        while at < row_bytes {
            let (_, n) = self.cut.unit_at(at, row_bytes);
            let (last, n_last) = self.cut.unit_at((at + 15).min(row_bytes - 1), row_bytes);
            // Four words at once, where a block has as many left.
            if n == 4 && last == at + 12 && n_last == 4 {
                let words = s.columns(&each_row!(r => bytes_at(rows[r], at)));
                for (word, out) in words.into_iter().zip(self.tile[TILE * at..].chunks_exact_mut(TILE * 4)) {
                    let mut lanes = [0; TILE];
                    s.put(word, &mut lanes);
                    let bytes = out.as_chunks_mut::<4>().0;
                    bytes.iter_mut().zip(lanes).for_each(|(bytes, lane)| *bytes = lane.to_le_bytes());
                }
                at += 16;
                continue;
            }
            let units = &mut self.tile[TILE * at..][..TILE * n];
            match n {
                1 => gather::<1>(units, &rows, at),
                2 => gather::<2>(units, &rows, at),
                4 => gather::<4>(units, &rows, at),
                _ => units.chunks_exact_mut(n).zip(rows).for_each(|(unit, row)| unit.copy_from_slice(&row[at..at + n])),
            }
            at += n;
        }
    }
}

/// Copies a unit of `N` bytes from byte `at` of every row; of a length that is known, so that nothing is called for a few bytes.
#[inline(always)]
fn gather<const N: usize>(units: &mut [u8], rows: &[&[u8]; TILE], at: usize) {
    let units = units.as_chunks_mut::<N>().0;
    units.iter_mut().zip(rows).for_each(|(unit, row)| *unit = *bytes_at(row, at));
}

/// A unit of `N` bytes of every row, as numbers.
#[inline(always)]
fn lanes_of<const N: usize>(units: &[u8]) -> [u32; TILE] {
    let units = units.as_chunks::<N>().0;
    each_row!(r => {
        let mut bytes = [0; 4];
        bytes[..N].copy_from_slice(&units[r]);
        u32::from_le_bytes(bytes)
    })
}

/// A block of each row of a tile, `N` bytes to a row, wherever they lie.
pub(crate) trait Lanes<const N: usize>: Copy {
    /// The bytes of one row.
    type Row: Borrow<[u8; N]>;
    /// The block of row `row`.
    fn row(self, row: usize) -> Self::Row;
    /// The first byte of row `row`, which is a unit of its own.
    fn byte(self, row: usize) -> u8;
    /// Four bytes from byte `at` of each row, which begin a unit.
    fn word<S: Simd>(self, s: S, at: usize) -> S::C;
    /// Two bytes from byte `at` of each row, which lie in one unit; the upper half of a lane may hold anything.
    fn half<S: Simd>(self, s: S, at: usize) -> S::C;
    /// Sixteen bytes from byte `at` of each row, whole units, as four words.
    fn words<S: Simd>(self, s: S, at: usize) -> [S::C; 4];
    /// The last four words of a block that ends one byte behind a word: that byte is the last of them.
    fn last_words<S: Simd>(self, s: S) -> [S::C; 4];
}

/// Rows that lie as in a file.
#[derive(Clone, Copy)]
pub(crate) struct Apart<'t, 'a, const N: usize>(pub(crate) &'t [&'a [u8; N]; TILE]);

impl<'a, const N: usize> Lanes<N> for Apart<'_, 'a, N> {
    type Row = &'a [u8; N];

    #[inline(always)]
    fn row(self, row: usize) -> &'a [u8; N] {
        self.0[row]
    }
    #[inline(always)]
    fn byte(self, row: usize) -> u8 {
        self.0[row][0]
    }
    #[inline(always)]
    fn word<S: Simd>(self, s: S, at: usize) -> S::C {
        s.lanes(&each_row!(r => u32::from_le_bytes(*bytes_at(self.0[r], at))))
    }
    #[inline(always)]
    fn half<S: Simd>(self, s: S, at: usize) -> S::C {
        s.lanes(&each_row!(r => u32::from(u16::from_le_bytes(*bytes_at(self.0[r], at)))))
    }
    #[inline(always)]
    fn words<S: Simd>(self, s: S, at: usize) -> [S::C; 4] {
        s.columns(&each_row!(r => bytes_at(self.0[r], at)))
    }
    /// They are cut out of the last sixteen bytes, because what follows a block is not always there.
    #[inline(always)]
    fn last_words<S: Simd>(self, s: S) -> [S::C; 4] {
        let last = self.words(s, N - 16);
        let joined = |i: usize| s.or(s.down(last[i], 24), s.up(last[i + 1], 8));
        [joined(0), joined(1), joined(2), s.down(last[3], 24)]
    }
}

/// A block of the rows of a tile that lie together, and how they were cut.
#[derive(Clone, Copy)]
pub(crate) struct Together<'a, const N: usize>(pub(crate) &'a [u8], pub(crate) Cut);

impl<const N: usize> Lanes<N> for Together<'_, N> {
    type Row = [u8; N];

    #[inline(always)]
    fn row(self, row: usize) -> [u8; N] {
        let mut block = [0; N];
        self.1.copy_row(self.0, row, 0, &mut block);
        block
    }
    #[inline(always)]
    fn byte(self, row: usize) -> u8 {
        self.0[row]
    }
    #[inline(always)]
    fn word<S: Simd>(self, s: S, at: usize) -> S::C {
        let words = &self.0[TILE * at..][..TILE * 4];
        s.lanes(&each_row!(r => u32::from_le_bytes(*bytes_at(words, 4 * r))))
    }
    #[inline(always)]
    fn half<S: Simd>(self, s: S, at: usize) -> S::C {
        let (begin, n) = self.1.unit_at(at, N);
        if n == 4 {
            return s.down(self.word(s, begin), 8 * (at - begin));
        }
        let units = &self.0[TILE * begin..][..TILE * n];
        s.lanes(&each_row!(r => u32::from(u16::from_le_bytes(*bytes_at(units, r * n + at - begin)))))
    }
    #[inline(always)]
    fn words<S: Simd>(self, s: S, at: usize) -> [S::C; 4] {
        each!(4, i => self.word(s, at + 4 * i))
    }
    #[inline(always)]
    fn last_words<S: Simd>(self, s: S) -> [S::C; 4] {
        let bytes = &self.0[TILE * (N - 1)..][..TILE];
        let last = s.lanes(&each_row!(r => u32::from(bytes[r])));
        [self.word(s, N - 13), self.word(s, N - 9), self.word(s, N - 5), last]
    }
}

/// Thirty-two bytes from byte `at` of each row.
#[inline(always)]
pub(crate) fn block_at<S: Simd, const N: usize>(s: S, rows: impl Lanes<N>, at: usize) -> [S::C; BLOCK / 4] {
    let ([a, b, c, d], [e, f, g, h]) = (rows.words(s, at), rows.words(s, at + 16));
    [a, b, c, d, e, f, g, h]
}

/// Thirty-two four-bit numbers from byte `at` of each row: the low halves of sixteen bytes, then the high halves.
#[inline(always)]
pub(crate) fn nibbles_at<S: Simd, const N: usize>(s: S, rows: impl Lanes<N>, at: usize) -> [S::C; BLOCK / 4] {
    let both = rows.words(s, at);
    each!(8, i => s.bits(both[i % 4], i / 4 * 4, 15))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Isa;

    /// A byte that says where it is from.
    fn byte(row: usize, at: usize) -> u8 {
        (row * 37 + at * 3) as u8
    }

    #[test]
    fn units_begin_at_their_byte_times_the_rows() {
        let (cut, row_bytes) = (Cut { block_bytes: 21, head: 1, unit: 4 }, 21 + 8);
        let mut tile: Vec<u8> = (0..TILE).flat_map(|r| (0..row_bytes).map(move |at| byte(r, at))).collect();
        let apart = &mut vec![0; TILE * row_bytes];
        Isa::detect().run(LayTogether { cut, tile: &mut tile, apart });
        for row in 0..TILE {
            // The head, the first word, the head of the next block, and its last unit, which is cut short.
            for (begin, n) in [(0, 1), (1, 4), (13, 4), (17, 4), (21, 1), (22, 4), (26, 3)] {
                let want: Vec<u8> = (begin..begin + n).map(|at| byte(row, at)).collect();
                assert_eq!(tile[TILE * begin + row * n..][..n], want, "row {row}, unit at {begin}");
            }
            for (first, n) in [(0, row_bytes), (3, 9), (21, 8), (28, 1)] {
                let mut out = vec![0; n];
                cut.copy_row(&tile, row, first, &mut out);
                assert_eq!(out, (first..first + n).map(|at| byte(row, at)).collect::<Vec<u8>>());
            }
        }
    }
}
