//! One body of tests for every instruction set of this machine, against the scalar definition, bit for bit.

use super::*;
use crate::half::f32_to_f16;
use crate::ops::matmul::{Activations, Crew, Matrix, matmul};
use crate::ops::norm::Vector;
use crate::quant::{Quantized, Rest, Type, n_blocks};
use crate::workers::Single;

/// xorshift64*: numbers that look random and are the same on every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A float from -4 to 4.
    fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 21) as f32 - 4.0
    }
}

/// The types to test: all, or for Miri, which is slow, enough of them to use the operations that no other test uses.
fn types() -> impl Iterator<Item = Type> {
    const FOR_MIRI: [Type; 12] = [
        Type::F32,
        Type::F16,
        Type::BF16,
        Type::Q5_0,
        Type::Q8_0,
        Type::Q4_K,
        Type::Q6_K,
        Type::IQ4_NL,
        Type::MXFP4,
        Type::Q2_W,
        Type::Q4_W,
        Type::Q5_W,
    ];
    let all = crate::quant::TYPES.iter().map(|row| row.0).filter(|kind| kind.is_supported());
    all.filter(|kind| !cfg!(miri) || FOR_MIRI.contains(kind))
}

/// Row lengths at the seams of lanes and blocks; Miri sees one for each kind of block.
fn widths(kind: Type) -> &'static [usize] {
    match kind.block_len() {
        _ if kind.is_any_width() && cfg!(miri) => &[45],
        _ if kind.is_any_width() => &[1, 2, 7, 31, 32, 33, 63, 64, 172, 288],
        1 if cfg!(miri) => &[19],
        32 if cfg!(miri) => &[32],
        256 if cfg!(miri) => &[256],
        1 => &[1, 2, 15, 16, 17, 31, 32, 33, 48, 64, 96, 172, 256, 257, 288, 520],
        32 => &[32, 64, 96, 256, 288],
        _ => &[256, 512, 768],
    }
}

/// The bits of the products of [`TILE`] rows with each of `x`, (4, TILE); the same whether they lie together or not.
fn products(isa: Isa, kind: Type, rows: &[Vec<u8>], x: &[Vec<f32>]) -> Vec<u32> {
    let columns = x[0].len();
    // Miri sees rows together, and a part of a tile, in two types of integers: what moves them is the same for all.
    let is_seen = !cfg!(miri) || matches!(kind, Type::Q8_0 | Type::Q2_W);
    // A tile, and a part of one, which never lies together.
    let n_more = if is_seen || kind.block_len() == 1 { 3.min(TILE) } else { 0 };
    let rows = [rows, &rows[..n_more]].concat();
    let mut data = rows.concat();
    let apart = products_of(isa, Matrix::new(&data, kind, rows.len(), columns).unwrap(), x);
    if let Some(tiles) = Matrix::new(&data, kind, rows.len(), columns).unwrap().tiles().filter(|_| is_seen) {
        let mut scratch = vec![0; tiles.tile_bytes];
        tiles.lay_together(isa, &mut data[..tiles.n_bytes], &mut scratch);
        let together = Matrix::new(&data, kind, rows.len(), columns).unwrap().laid_together();
        assert!(products_of(isa, together, x) == apart, "{} x {columns} together on {}", kind.name(), isa.name());
        check_rows(&together, &rows);
    }
    let tile = apart.chunks(rows.len()).flat_map(|token| {
        assert_eq!(token[..rows.len() - TILE], token[TILE..], "the rows that there are twice");
        token[..TILE].to_vec()
    });
    tile.collect()
}

/// Every row of a matrix that lies together is read as the one that it was made of.
fn check_rows(together: &Matrix<'_>, rows: &[Vec<u8>]) {
    let (mut got, mut want) = (vec![0.0; together.columns], vec![0.0; together.columns]);
    for (index, row) in rows.iter().enumerate() {
        together.dequantize(index, &mut got);
        together.kind.dequantize(row, &mut want).unwrap();
        let same = got.iter().zip(&want).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same, "{} x {}: row {index}", together.kind.name(), together.columns);
    }
}

/// The bits of the products of the rows of `matrix` with each of `x`, (4, rows).
fn products_of(isa: Isa, matrix: Matrix<'_>, x: &[Vec<f32>]) -> Vec<u32> {
    let (columns, n_rows) = (matrix.columns, matrix.rows);
    // Eight tokens are taken at once, or four, of floats up to sixteen; and a last one, which is the third again, alone. Miri, which has no
    // wide registers, sees four.
    let n_fours = if cfg!(miri) { 1 } else { 5 };
    let x = [x.concat().repeat(n_fours), x[2].clone()].concat();
    let n_tokens = 4 * n_fours + 1;
    let n = n_tokens * n_blocks(columns);
    let (mut blocks, mut rest) = (vec![Quantized::ZERO; n], vec![Rest::ZERO; n]);
    let mut activations = Activations { blocks: &mut blocks, rest: &mut rest };
    let crew = Crew { isa, workers: &Single };
    activations.quantize(crew, &x, columns, &[&matrix]);
    let mut out = vec![0.0; n_tokens * n_rows];
    matmul(crew, (&[(&matrix, Vector::EMPTY)], 0), &x, &activations, &mut out);
    let bits: Vec<u32> = out.iter().map(|x| x.to_bits()).collect();
    for four in bits.chunks_exact(4 * n_rows) {
        assert_eq!(four, &bits[..4 * n_rows], "in whichever batch");
    }
    assert_eq!(bits[2 * n_rows..3 * n_rows], bits[(n_tokens - 1) * n_rows..], "alone or in a batch");
    // One token of its own meets rows without a panel between; once is enough for Miri.
    for token in 0..if cfg!(miri) { 1 } else { 4 } {
        let x = &x[token * columns..][..columns];
        activations.quantize(crew, x, columns, &[&matrix]);
        matmul(crew, (&[(&matrix, Vector::EMPTY)], 0), x, &activations, &mut out[..n_rows]);
        let alone = out[..n_rows].iter().map(|x| x.to_bits());
        assert!(alone.eq(bits[token * n_rows..][..n_rows].iter().copied()), "{} alone", matrix.kind.name());
    }
    bits[..4 * n_rows].to_vec()
}

/// Where a block of `kind` holds half floats.
fn half_floats(kind: Type) -> &'static [usize] {
    match kind {
        // A scale in four pieces, and an exponent.
        Type::IQ1_M | Type::MXFP4 => &[],
        _ if kind.is_any_width() => &[],
        Type::Q4_1 | Type::Q5_1 | Type::Q4_K | Type::Q5_K => &[0, 2],
        Type::Q2_K => &[80, 82],
        Type::Q3_K => &[108],
        Type::Q6_K => &[208],
        Type::TQ1_0 => &[52],
        Type::TQ2_0 => &[64],
        _ => &[0],
    }
}

/// Random rows: floats, or any bytes, so that every bit pattern occurs, with finite scales of either sign among them.
fn random_row(kind: Type, columns: usize, numbers: &mut Numbers) -> Vec<u8> {
    let mut row = vec![0; kind.row_bytes(columns as u64).unwrap() as usize];
    if !kind.is_integer() {
        let values: Vec<f32> = (0..columns).map(|_| numbers.float()).collect();
        kind.quantize(&values, &mut row).unwrap();
        return row;
    }
    for block in row.chunks_mut(kind.block_bytes()) {
        block.iter_mut().for_each(|byte| *byte = numbers.next() as u8);
        set_scales(kind, block, || numbers.float());
    }
    row
}

/// Makes the scales of a block of any bytes finite: half floats are set, others lose what is too large.
fn set_scales(kind: Type, block: &mut [u8], mut scale: impl FnMut() -> f32) {
    for &at in half_floats(kind) {
        block[at..at + 2].copy_from_slice(&f32_to_f16(scale()).to_le_bytes());
    }
    match kind {
        Type::IQ1_M => block[55] &= 0xbf, // The upper bit of the scale's exponent.
        Type::MXFP4 => block[0] = 120 + block[0] % 16,
        _ => {}
    }
}

/// Every instruction set gives the bits of the definition in those of the types that are `wanted`.
fn hold(wanted: impl Fn(Type) -> bool) {
    let mut numbers = Numbers(0x1234_5678_9abc_def1);
    for kind in types().filter(|&kind| wanted(kind)) {
        for &columns in widths(kind) {
            let rows: Vec<Vec<u8>> = (0..TILE).map(|_| random_row(kind, columns, &mut numbers)).collect();
            let x: Vec<Vec<f32>> = (0..4).map(|_| (0..columns).map(|_| numbers.float()).collect()).collect();
            let want = products(Isa::SCALAR, kind, &rows, &x);
            for isa in Isa::available().filter(|&isa| isa != Isa::SCALAR) {
                assert!(products(isa, kind, &rows, &x) == want, "{} x {columns} on {}", kind.name(), isa.name());
            }
        }
    }
}

#[test]
fn superblocks_have_the_bits_of_the_definition() {
    hold(|kind| kind.block_len() == 256);
}

#[test]
fn rows_of_any_width_have_the_bits_of_the_definition() {
    hold(|kind| kind.is_any_width());
}

/// Apart from the others, for Miri takes a minute or two for each.
#[test]
fn other_types_have_the_bits_of_the_definition() {
    hold(|kind| kind.block_len() != 256 && !kind.is_any_width());
}

/// The largest weights with the largest activations: no sum on the way to theirs is too small for them.
#[test]
#[cfg_attr(miri, ignore = "the same kernels run there with random weights")]
fn extremes_have_the_bits_of_the_definition() {
    for kind in types().filter(|kind| kind.is_integer() && !kind.is_any_width()) {
        let columns = kind.block_len().max(2 * BLOCK);
        let mut row = vec![0xff; kind.row_bytes(columns as u64).unwrap() as usize];
        row.chunks_mut(kind.block_bytes()).for_each(|block| set_scales(kind, block, || 1.0));
        let rows = vec![row; TILE];
        let alternating = |i: usize| if i.is_multiple_of(2) { 1.0 } else { -1.0 };
        let x = [vec![1.0; columns], vec![-1.0; columns], (0..columns).map(alternating).collect(), vec![0.5; columns]];
        let want = products(Isa::SCALAR, kind, &rows, &x);
        for isa in Isa::available().filter(|&isa| isa != Isa::SCALAR) {
            assert!(products(isa, kind, &rows, &x) == want, "{} on {}", kind.name(), isa.name());
        }
    }
}

/// The dot products mean what they should: near those of the dequantized row in f64.
#[test]
fn products_are_near_those_of_the_dequantized_row() {
    let mut numbers = Numbers(42);
    for kind in types() {
        let columns: usize = if cfg!(miri) { 32 } else { 288 };
        let columns = if kind.is_any_width() { columns + 13 } else { columns.next_multiple_of(kind.block_len()) };
        let rows: Vec<Vec<u8>> = (0..TILE).map(|_| random_row(kind, columns, &mut numbers)).collect();
        let x: Vec<Vec<f32>> = (0..4).map(|_| (0..columns).map(|_| numbers.float()).collect()).collect();
        let got = products(Isa::detect(), kind, &rows, &x);
        for (t, x) in x.iter().enumerate() {
            for (r, row) in rows.iter().enumerate() {
                let mut weights = vec![0.0; columns];
                kind.dequantize(row, &mut weights).unwrap();
                let terms = weights.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x));
                let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
                let got = f64::from(f32::from_bits(got[t * TILE + r]));
                // An 8-bit activation is off by at most 1/254 of its block's largest, a 16-bit one by 1/254 of that.
                let limit = match (kind.is_integer(), kind.is_fine()) {
                    (true, false) => 0.01,
                    (true, true) => 4e-5,
                    _ => 1e-6,
                };
                assert!((got - sum).abs() <= limit * size, "{}: {got}, not {sum}", kind.name());
            }
        }
    }
}

/// Operations on lanes that products use only in part.
struct Lanes<'a> {
    x: &'a [f32; LANES],
    bytes: [&'a [u32; TILE]; 2],
}

impl Kernel for Lanes<'_> {
    type Output = (u32, i32, [i8; LANES], [u32; TILE], [f32; LANES]);

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Self::Output {
        let (x, mut rounded, mut products) = (s.load(self.x), [0; LANES], [0; TILE]);
        let [a, b] = self.bytes;
        s.put(s.times(s.lanes(a), s.lanes(b)), &mut products);
        let mut sums = [0.0; LANES];
        s.store(s.half_sums(&each!(8, i => s.add(x, s.splat(i as f32 / 3.0)))), &mut sums);
        (s.largest(x), s.round(x, &mut rounded), rounded, products, sums)
    }
}

#[test]
fn lanes_are_rounded_and_multiplied_one_by_one() {
    let mut numbers = Numbers(5);
    let ties = [0.5, 1.5, 2.5, -0.5, -1.5, 126.5, -127.0, -126.5, 127.0, -0.0, 3.49, -3.51, 0.0, 64.0, -99.2, 7.0];
    for round in 0..20 {
        let random = core::array::from_fn(|_| 31.0 * numbers.float());
        let x = if round == 0 { &ties } else { &random };
        let [a, b] = core::array::from_fn(|_| core::array::from_fn(|_| numbers.next() as u32));
        for isa in Isa::available() {
            let (largest, sum, rounded, products, sums) = isa.run(Lanes { x, bytes: [&a, &b] });
            let name = isa.name();
            assert_eq!(rounded, x.map(|x| x.round_ties_even() as i8), "{name}");
            assert_eq!(sum, rounded.iter().map(|&byte| i32::from(byte)).sum::<i32>(), "{name}");
            assert_eq!(f32::from_bits(largest), x.iter().fold(0.0, |largest: f32, x| largest.max(x.abs())), "{name}");
            let (.., want) = Isa::SCALAR.run(Lanes { x, bytes: [&a, &b] });
            assert_eq!(sums.map(f32::to_bits), want.map(f32::to_bits), "{name}");
            for (product, (a, b)) in products.iter().zip(a.iter().zip(&b)) {
                let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
                assert_eq!(product.to_le_bytes(), core::array::from_fn(|i| a[i].wrapping_mul(b[i])), "{name}");
            }
        }
    }
}

/// What is no number is the largest, whatever stands beside it.
#[test]
fn not_a_number_is_the_largest() {
    for (lane, wrong) in (0..LANES).flat_map(|lane| [f32::NAN, f32::NEG_INFINITY].map(|wrong| (lane, wrong))) {
        let mut x = [1.0; LANES];
        x[lane] = wrong;
        for isa in Isa::available() {
            let (largest, sum, rounded, ..) = isa.run(Lanes { x: &x, bytes: [&[0; TILE]; 2] });
            assert_eq!(largest, wrong.to_bits() & 0x7fff_ffff, "{}", isa.name());
            assert_eq!((sum, rounded[lane]), (15, 0), "{}", isa.name());
        }
    }
}

/// Blocks at the ends of what floats are, whose inverse scale may be infinite, and of all lengths.
#[test]
fn every_block_is_quantized_as_by_the_definition() {
    let mut numbers = Numbers(6);
    let mut tiny = [0.0; 45];
    (tiny[3], tiny[40], tiny[41]) = (1e-42, -5e-37, -0.0);
    let mut infinite = [1.0; 45];
    infinite[20] = f32::INFINITY;
    let random = core::array::from_fn(|_| numbers.float());
    let kind = Type::Q8_W;
    for (values, n) in [tiny, infinite, [1e-37; 45], random]
        .iter()
        .flat_map(|values| [1, 15, 16, 17, 31, 32, 33, 45].map(|n| (values, n)))
    {
        let row = vec![0; kind.row_bytes(n as u64).unwrap() as usize];
        let matrix = Matrix::new(&row, kind, 1, n).unwrap();
        let quantized = |isa: Isa| {
            let (mut blocks, mut rest) = ([Quantized::ZERO; 2], [Rest::ZERO; 2]);
            let mut activations = Activations { blocks: &mut blocks, rest: &mut rest };
            activations.quantize(Crew { isa, workers: &Single }, &values[..n], n, &[&matrix]);
            let starts = blocks.map(|block| (block.start, block.start_halves));
            for (block, (start, halves)) in blocks.iter_mut().zip(starts) {
                // What they begin with is the sum times what weights are stored above what they are.
                let below = block.sums.map(|sum| -i32::from(sum));
                let offset = if below[0] + below[1] == 0 { 0 } else { start / (below[0] + below[1]) };
                assert_eq!((start, halves), (offset * (below[0] + below[1]), below.map(|below| offset * below)));
                assert!([0, 128].contains(&offset), "{}", isa.name());
                (block.start, block.start_halves) = (0, [0; 2]);
            }
            (format!("{blocks:?}"), rest.map(|rest| rest.q))
        };
        let want = quantized(Isa::SCALAR);
        for isa in Isa::available() {
            assert_eq!(quantized(isa), want, "{n} values on {}", isa.name());
        }
    }
}

#[test]
fn names_lead_back_to_their_instruction_set() {
    for isa in Isa::available() {
        assert_eq!(Isa::from_name(isa.name()), Some(isa));
    }
    assert_eq!(Isa::from_name("sse9"), None);
    assert_eq!(Isa::available().next(), Some(Isa::SCALAR));
}
