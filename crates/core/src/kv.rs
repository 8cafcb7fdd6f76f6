//! The cache of keys and values of earlier positions, in 32, 16, 8 or 4 bits a value.

use crate::built::is_among;
use crate::half::{f16_to_f32, f32_to_f16};
use crate::quant::Type;
use crate::round::round_to_i8;
use crate::simd::{BLOCK, LANES, Simd, padded};

/// Bytes of a whole block of [`CacheType::Q4_0`].
const Q4_BYTES: usize = 2 + BLOCK / 2;
/// Positions whose rows are moved out of a cache at once, when its layer has more than there is room for.
pub const PAGE: usize = 32;
/// Names of caches, as `SMIDGEN_TYPES` has those of weights: a build for a board keeps values in these types alone.
const NAMED: Option<&str> = option_env!("SMIDGEN_CACHES");

/// How cached values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheType {
    /// Four bytes a value.
    F32,
    /// Two bytes a value.
    F16,
    /// One byte a value and a half-float scale for every 32 values of a head, or fewer at its end.
    Q8_0,
    /// Half a byte a value and a half-float scale for every 32 values of a head, or fewer at its end.
    Q4_0,
}

impl CacheType {
    /// The type called `name` (`f32`, `f16`, `q8_0`, `q4_0`, in any case).
    pub fn from_name(name: &str) -> Option<CacheType> {
        match Type::from_name(name)? {
            Type::F32 => Some(CacheType::F32),
            Type::F16 => Some(CacheType::F16),
            Type::Q8_0 => Some(CacheType::Q8_0),
            Type::Q4_0 => Some(CacheType::Q4_0),
            _ => None,
        }
    }

    /// The name.
    pub const fn name(self) -> &'static str {
        match self {
            CacheType::F32 => "f32",
            CacheType::F16 => "f16",
            CacheType::Q8_0 => "q8_0",
            CacheType::Q4_0 => "q4_0",
        }
    }

    /// Whether this build has caches of this type: every one has, unless `SMIDGEN_CACHES` named some.
    pub(crate) const fn is_built(self) -> bool {
        is_among(NAMED, self.name())
    }

    /// Bytes of one head's values at one position.
    pub fn row_bytes(self, head_dim: usize) -> usize {
        match self {
            CacheType::F32 => 4 * head_dim,
            CacheType::F16 => 2 * head_dim,
            CacheType::Q8_0 => head_dim + 2 * head_dim.div_ceil(BLOCK),
            CacheType::Q4_0 => head_dim.div_ceil(2) + 2 * head_dim.div_ceil(BLOCK),
        }
    }
}

/// Where the rows of one layer are in a [`Cache`]. The row of a position is the position modulo their number, so a layer that
/// has fewer rows than there are positions holds the last ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Rows that each head has in the layers before.
    pub start: usize,
    /// Rows of each head.
    pub n_rows: usize,
}

/// The keys, or the values, of every layer: of each layer (n_kv_heads, n_rows, head_dim).
#[derive(Debug)]
pub struct Cache<'a> {
    bytes: &'a mut [u8],
    kind: CacheType,
    n_kv_heads: usize,
    row_bytes: usize,
}

impl<'a> Cache<'a> {
    /// A cache in `bytes`, which hold the product of all dimensions in rows of `kind`.
    pub fn new(bytes: &'a mut [u8], kind: CacheType, n_kv_heads: usize, head_dim: usize) -> Self {
        Self { bytes, kind, n_kv_heads, row_bytes: kind.row_bytes(head_dim) }
    }

    /// How values are stored.
    pub fn kind(&self) -> CacheType {
        self.kind
    }

    /// The rows of one head of the layer at `place`.
    pub fn head(&self, place: Place, head: usize) -> &[u8] {
        let first = place.start * self.n_kv_heads + head * place.n_rows;
        &self.bytes[first * self.row_bytes..(first + place.n_rows) * self.row_bytes]
    }

    /// The rows of positions `start` to `end` of one head of the layer at `place`, in order: the second part is what lies at the
    /// beginning again.
    pub fn positions(&self, place: Place, head: usize, (start, end): (usize, usize)) -> [&[u8]; 2] {
        let rows = self.head(place, head);
        let first = start % place.n_rows;
        let n_first = (end - start).min(place.n_rows - first);
        let n_second = end - start - n_first;
        [&rows[first * self.row_bytes..(first + n_first) * self.row_bytes], &rows[..n_second * self.row_bytes]]
    }

    /// The first `n` rows of every head of every layer, in order, where each has `n_rows`.
    pub fn pieces(&self, n: usize, n_rows: usize) -> impl Iterator<Item = &[u8]> {
        self.bytes.chunks_exact(n_rows * self.row_bytes).map(move |head| &head[..n * self.row_bytes])
    }

    /// As [`Cache::pieces`], to be filled in.
    pub fn pieces_mut(&mut self, n: usize, n_rows: usize) -> impl Iterator<Item = &mut [u8]> {
        let row_bytes = self.row_bytes;
        self.bytes.chunks_exact_mut(n_rows * row_bytes).map(move |head| &mut head[..n * row_bytes])
    }

    /// Bytes of one row of [`Cache::head`].
    pub fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// Stores every head of one position: `values` is (n_kv_heads, head_dim).
    pub fn store(&mut self, place: Place, position: usize, values: &[f32]) {
        let head_dim = values.len() / self.n_kv_heads;
        for (head, values) in values.chunks_exact(head_dim).enumerate() {
            let row = place.start * self.n_kv_heads + head * place.n_rows + position % place.n_rows;
            let out = &mut self.bytes[row * self.row_bytes..(row + 1) * self.row_bytes];
            match self.kind {
                CacheType::F32 if const { CacheType::F32.is_built() } => store_each(values, out, f32::to_le_bytes),
                CacheType::F16 if const { CacheType::F16.is_built() } => {
                    store_each(values, out, |x| f32_to_f16(x).to_le_bytes());
                }
                CacheType::Q8_0 if const { CacheType::Q8_0.is_built() } => store_q8(values, out),
                CacheType::Q4_0 if const { CacheType::Q4_0.is_built() } => store_q4(values, out),
                _ => unreachable!("the plan refuses caches that are not built"),
            }
        }
    }
}

fn store_each<const N: usize>(values: &[f32], out: &mut [u8], bytes: impl Fn(f32) -> [u8; N]) {
    for (x, out) in values.iter().zip(out.as_chunks_mut::<N>().0) {
        *out = bytes(*x);
    }
}

/// Blocks of scale and signed bytes; the scale is rounded to f16 first, so that the bytes make up for its rounding.
fn store_q8(values: &[f32], out: &mut [u8]) {
    for (values, out) in values.chunks(BLOCK).zip(out.chunks_mut(BLOCK + 2)) {
        let largest = values.iter().fold(0, |largest, v| (v.to_bits() & 0x7fff_ffff).max(largest));
        let half = f32_to_f16(f32::from_bits(largest) / 127.0);
        let scale = f16_to_f32(half);
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        let (head, bytes) = out.split_at_mut(2);
        head.copy_from_slice(&half.to_le_bytes());
        for (byte, v) in bytes.iter_mut().zip(values) {
            *byte = round_to_i8((v * inverse).clamp(-127.0, 127.0)) as u8;
        }
    }
}

/// Blocks of scale and pairs of values: the even ones in the low halves of the bytes, so that a head of any width fills them.
/// The scale is the value of the largest magnitude over -8, so that this one takes the end of the range that reaches further
/// (ggml's Q4_0), and is rounded to f16 first, as for eight bits.
fn store_q4(values: &[f32], out: &mut [u8]) {
    for (values, out) in values.chunks(BLOCK).zip(out.chunks_mut(Q4_BYTES)) {
        let magnitude = |v: f32| v.to_bits() & 0x7fff_ffff;
        let largest =
            values.iter().fold(0.0, |largest, &v| if magnitude(v) > magnitude(largest) { v } else { largest });
        let half = f32_to_f16(largest / -8.0);
        let scale = f16_to_f32(half);
        let inverse = if scale != 0.0 { 1.0 / scale } else { 0.0 };
        let (head, nibbles) = out.split_at_mut(2);
        head.copy_from_slice(&half.to_le_bytes());
        // A NaN rounds to anything; the scale has kept it.
        let code = |v: f32| round_to_i8((v * inverse).clamp(-8.0, 7.0)).wrapping_add(8) as u8 & 15;
        for (byte, pair) in nibbles.iter_mut().zip(values.chunks(2)) {
            *byte = code(pair[0]) | pair.get(1).map_or(0, |&v| code(v)) << 4;
        }
    }
}

/// Reading of cached rows, sixteen values at a time.
pub(crate) trait CacheFormat {
    /// Whether a row is its values and nothing else, so that those of several rows are read as one.
    const IS_PLAIN: bool = false;
    /// Values `column` to `column + n` of a row, as floats, zero from `n` on; `n` is at most [`LANES`].
    fn load<S: Simd>(s: S, row: &[u8], column: usize, n: usize) -> S::F;
}

/// [`CacheType::F32`].
pub(crate) struct CacheF32;
/// [`CacheType::F16`].
pub(crate) struct CacheF16;
/// [`CacheType::Q8_0`].
pub(crate) struct CacheQ8;
/// [`CacheType::Q4_0`].
pub(crate) struct CacheQ4;

/// The cached bytes `at` to `at + N` where all sixteen lanes are wanted.
#[inline(always)]
fn whole<const N: usize>(row: &[u8], at: usize) -> &[u8; N] {
    row[at..].first_chunk().unwrap_or_else(|| unreachable!("a row holds the columns it was made for"))
}

impl CacheFormat for CacheF32 {
    const IS_PLAIN: bool = true;

    #[inline(always)]
    fn load<S: Simd>(s: S, row: &[u8], column: usize, n: usize) -> S::F {
        let at = 4 * column;
        if n == LANES { s.load_f32(whole(row, at)) } else { s.load_f32_part(&row[at..at + 4 * n]) }
    }
}

impl CacheFormat for CacheF16 {
    const IS_PLAIN: bool = true;

    #[inline(always)]
    fn load<S: Simd>(s: S, row: &[u8], column: usize, n: usize) -> S::F {
        let at = 2 * column;
        if n == LANES { s.load_f16(whole(row, at)) } else { s.load_f16_part(&row[at..at + 2 * n]) }
    }
}

impl CacheFormat for CacheQ8 {
    #[inline(always)]
    fn load<S: Simd>(s: S, row: &[u8], column: usize, n: usize) -> S::F {
        let block = column / BLOCK * (BLOCK + 2);
        let scale = f16_to_f32(u16::from_le_bytes([row[block], row[block + 1]]));
        let at = block + 2 + column % BLOCK;
        let bytes: [u8; LANES] = if n == LANES { *whole(row, at) } else { padded(&row[at..at + n]) };
        s.mul(s.load_i8(&bytes.map(|byte| byte as i8)), s.splat(scale))
    }
}

impl CacheFormat for CacheQ4 {
    #[inline(always)]
    fn load<S: Simd>(s: S, row: &[u8], column: usize, n: usize) -> S::F {
        let block = column / BLOCK * Q4_BYTES;
        let scale = f16_to_f32(u16::from_le_bytes([row[block], row[block + 1]]));
        let at = block + 2 + column % BLOCK / 2;
        let mut bytes = [0; LANES / 2];
        if n == LANES {
            bytes = *whole(row, at)
        } else {
            bytes[..n.div_ceil(2)].copy_from_slice(&row[at..at + n.div_ceil(2)])
        }
        let codes = core::array::from_fn(|i| if i < n { (bytes[i / 2] >> (4 * (i % 2)) & 15) as i8 - 8 } else { 0 });
        s.mul(s.load_i8(&codes), s.splat(scale))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Scalar;

    const ONLY: Place = Place { start: 0, n_rows: 1 };

    fn read<C: CacheFormat>(row: &[u8], head_dim: usize) -> Vec<f32> {
        (0..head_dim)
            .step_by(LANES)
            .flat_map(|column| {
                let n = LANES.min(head_dim - column);
                let lanes = C::load(Scalar, row, column, n);
                assert!(lanes[n..].iter().all(|&x| x == 0.0));
                lanes[..n].to_vec()
            })
            .collect()
    }

    /// So that it reaches the logits, where it is noticed.
    #[test]
    fn not_a_number_is_not_lost() {
        for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for kind in [CacheType::Q8_0, CacheType::Q4_0] {
                let mut bytes = vec![0; kind.row_bytes(LANES)];
                let mut values = [0.5; LANES];
                values[5] = wrong;
                Cache::new(&mut bytes, kind, 1, LANES).store(ONLY, 0, &values);
                let values = if kind == CacheType::Q8_0 {
                    read::<CacheQ8>(&bytes, LANES)
                } else {
                    read::<CacheQ4>(&bytes, LANES)
                };
                assert!(values.iter().any(|value| !value.is_finite()), "{}: {values:?}", kind.name());
            }
        }
    }

    /// Head widths at the seams of lanes and blocks.
    #[test]
    fn what_is_stored_comes_back() {
        for head_dim in [2, 6, 8, 15, 16, 17, 32, 33, 48, 64, 80] {
            let values: Vec<f32> = (0..2 * head_dim).map(|i| (i as f32 * 1.3).sin()).collect();
            for kind in [CacheType::F32, CacheType::F16, CacheType::Q8_0, CacheType::Q4_0] {
                let mut bytes = vec![0; 3 * 2 * 5 * kind.row_bytes(head_dim)];
                let mut cache = Cache::new(&mut bytes, kind, 2, head_dim);
                let place = Place { start: 10, n_rows: 5 };
                cache.store(place, 9, &values);
                let row = &cache.head(place, 1)[4 * cache.row_bytes()..];
                let back = match kind {
                    CacheType::F32 => read::<CacheF32>(row, head_dim),
                    CacheType::F16 => read::<CacheF16>(row, head_dim),
                    CacheType::Q8_0 => read::<CacheQ8>(row, head_dim),
                    CacheType::Q4_0 => read::<CacheQ4>(row, head_dim),
                };
                let limit = [0.0, 0.0005, 0.005, 0.13][kind as usize];
                for (back, want) in back.iter().zip(&values[head_dim..]) {
                    assert!((back - want).abs() <= limit, "{kind:?}, {head_dim}: {back}, not {want}");
                }
            }
        }
    }
    /// A block of 20 values: a scale and ten pairs.
    #[test]
    fn four_bits_lie_as_described() {
        assert_eq!([8, 17, 20, 32, 33, 64].map(|n| CacheType::Q4_0.row_bytes(n)), [6, 11, 12, 18, 21, 36]);
        let mut values = [0.0; 20];
        (values[0], values[1], values[16], values[19]) = (-8.0, 3.0, 7.0, -2.4);
        let mut bytes = [0xee; 12];
        Cache::new(&mut bytes, CacheType::Q4_0, 1, 20).store(ONLY, 0, &values);
        // The scale is -8 / -8 = 1; codes are values plus 8.
        assert_eq!(bytes, [0x00, 0x3c, 0xb0, 0x88, 0x88, 0x88, 0x88, 0x88, 0x88, 0x88, 0x8f, 0x68]);
        // A largest value that is positive has a negative scale, and codes count down.
        values[0] = 8.0;
        Cache::new(&mut bytes, CacheType::Q4_0, 1, 20).store(ONLY, 0, &values);
        assert_eq!(bytes[1..3], [0xbc, 0x50]);
        assert_eq!(read::<CacheQ4>(&bytes, 20)[..2], [8.0, 3.0]);
        let mut nothing = [0xee; 12];
        Cache::new(&mut nothing, CacheType::Q4_0, 1, 20).store(ONLY, 0, &[0.0; 20]);
        assert!(read::<CacheQ4>(&nothing, 20).iter().all(|&x| x == 0.0));
    }
}
