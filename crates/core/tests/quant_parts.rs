//! Blocks are put together from their parts: what is read from them is what the parts mean.

use smidgen_core::half::{f16_to_f32, f32_to_f16};
use smidgen_core::quant::{Parts, TYPES, Type};

/// How a type uses its parts.
struct Shape {
    kind: Type,
    /// Weights under one integer scale, or 0 where there are none.
    part: usize,
    /// The smallest integer scale, how many there are, and how far apart.
    scales: (i16, i16, i16),
    /// How many codes there are, and what is subtracted from the number of one that is not a point.
    codes: (u16, i16),
    /// Weights that share a code.
    group: usize,
    /// Which weights have signs of their own: none, or with an even number of negative ones, or any.
    signs: Signs,
    /// `d` times this is the scale.
    factor: f32,
    /// The largest minimum, and how many weights share one.
    mins: (i16, usize),
}

#[derive(Clone, Copy, PartialEq)]
enum Signs {
    None,
    Even,
    Any,
}

impl Shape {
    /// A type of one scale.
    const fn plain(kind: Type, n_codes: u16, below: i16) -> Shape {
        let scales = (0, 1, 1);
        Shape {
            kind,
            part: 0,
            scales,
            codes: (n_codes, below),
            group: 1,
            signs: Signs::None,
            factor: 1.0,
            mins: (0, 0),
        }
    }

    /// A type of points, whose scales are odd.
    const fn points(kind: Type, part: usize, n_scales: i16, n_codes: u16, group: usize, factor: f32) -> Shape {
        let scales = (1, n_scales, 2);
        Shape { part, scales, group, factor, ..Shape::plain(kind, n_codes, 0) }
    }
}

const SHAPES: &[Shape] = &[
    Shape::plain(Type::Q4_0, 16, 8),
    Shape { mins: (-1, 32), ..Shape::plain(Type::Q4_1, 16, 0) },
    Shape::plain(Type::Q5_0, 32, 16),
    Shape { mins: (-1, 32), ..Shape::plain(Type::Q5_1, 32, 0) },
    Shape::plain(Type::Q8_0, 256, 0),
    Shape { part: 16, scales: (0, 16, 1), mins: (15, 16), ..Shape::plain(Type::Q2_K, 4, 0) },
    Shape { part: 16, scales: (-32, 64, 1), ..Shape::plain(Type::Q3_K, 8, 4) },
    Shape { part: 32, scales: (0, 64, 1), mins: (63, 32), ..Shape::plain(Type::Q4_K, 16, 0) },
    Shape { part: 32, scales: (0, 64, 1), mins: (63, 32), ..Shape::plain(Type::Q5_K, 32, 0) },
    Shape { part: 16, scales: (-128, 256, 1), ..Shape::plain(Type::Q6_K, 64, 32) },
    Shape::plain(Type::IQ4_NL, 16, 0),
    Shape { part: 32, scales: (-32, 64, 1), ..Shape::plain(Type::IQ4_XS, 16, 0) },
    Shape { signs: Signs::Even, ..Shape::points(Type::IQ2_XXS, 32, 16, 256, 8, 0.125) },
    Shape { signs: Signs::Even, ..Shape::points(Type::IQ2_XS, 16, 16, 512, 8, 0.125) },
    Shape { signs: Signs::Any, ..Shape::points(Type::IQ2_S, 16, 16, 1024, 8, 0.125) },
    Shape { signs: Signs::Even, ..Shape::points(Type::IQ3_XXS, 32, 16, 256, 4, 0.25) },
    Shape { signs: Signs::Any, ..Shape::points(Type::IQ3_S, 32, 16, 512, 4, 1.0) },
    Shape { mins: (1, 32), ..Shape::points(Type::IQ1_S, 32, 8, 2048, 8, 0.125) },
    Shape::points(Type::IQ1_M, 16, 8, 4096, 8, 0.125),
    Shape::plain(Type::TQ1_0, 3, 1),
    Shape::plain(Type::TQ2_0, 3, 1),
    Shape { part: 32, scales: (1, 255, 1), ..Shape::plain(Type::MXFP4, 16, 0) },
    Shape::plain(Type::Q1_0, 2, 0),
    Shape::plain(Type::Q2_0, 4, 1),
];

/// A stream of numbers that look random (Knuth's MMIX generator, upper bits).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}

fn random_parts(shape: &Shape, numbers: &mut Numbers) -> Parts {
    let mut parts = Parts::ZERO;
    parts.d = f16_to_f32(f32_to_f16(numbers.below(1000) as f32 / 256.0 - 1.5));
    parts.dmin = f16_to_f32(f32_to_f16(numbers.below(1000) as f32 / 512.0));
    for scale in &mut parts.scales {
        *scale = shape.scales.0 + numbers.below(shape.scales.1 as usize) as i16 * shape.scales.2;
    }
    for min in &mut parts.mins {
        *min = numbers.below(shape.mins.0.max(0) as usize + 1) as i16;
    }
    for code in &mut parts.codes {
        *code = numbers.below(usize::from(shape.codes.0)) as u16;
    }
    for signs in &mut parts.signs {
        let seven = numbers.below(128) as u8;
        *signs = match shape.signs {
            Signs::None => 0,
            Signs::Even => seven | (seven.count_ones() as u8 & 1) << 7,
            Signs::Any => seven | (numbers.below(2) as u8) << 7,
        };
    }
    parts
}

/// The integer that weight `i` is a multiple of its scale by.
fn integer(shape: &Shape, parts: &Parts, i: usize) -> i32 {
    let code = parts.codes[i / shape.group * shape.group];
    let at = i % shape.group;
    let value = match shape.kind {
        Type::Q8_0 => i32::from(code as u8 as i8),
        Type::IQ1_M => i32::from(shape.kind.point(code % 2048).unwrap()[at]) - 2 * i32::from(code >= 2048),
        Type::IQ1_S => i32::from(shape.kind.point(code).unwrap()[at]) - 2 * i32::from(parts.mins[i / 32]),
        Type::Q1_0 => 2 * i32::from(code) - 1,
        kind => kind.point(code).map_or(i32::from(code) - i32::from(shape.codes.1), |point| i32::from(point[at])),
    };
    if parts.signs[i / 8] >> (i % 8) & 1 == 1 { -value } else { value }
}

fn value(shape: &Shape, parts: &Parts, i: usize) -> f64 {
    let integer = f64::from(integer(shape, parts, i));
    if shape.kind == Type::MXFP4 {
        return integer * 2f64.powi(i32::from(parts.scales[0]) - 128);
    }
    let scale = i.checked_div(shape.part).map_or(1, |part| parts.scales[part]);
    let min = match shape.mins {
        (-1, _) => -1.0,
        (1.., n) if shape.kind != Type::IQ1_S => f64::from(parts.mins[i / n]),
        _ => 0.0,
    };
    f64::from(parts.d) * f64::from(shape.factor) * f64::from(scale) * integer - f64::from(parts.dmin) * min
}

#[test]
fn what_is_read_is_what_was_meant() {
    let mut numbers = Numbers(5);
    for shape in SHAPES {
        let name = shape.kind.name();
        for _ in 0..20 {
            let parts = random_parts(shape, &mut numbers);
            let mut block = vec![0xaa; shape.kind.block_bytes()];
            shape.kind.pack(&parts, &mut block).unwrap();
            let mut values = vec![0.0; shape.kind.block_len()];
            shape.kind.dequantize(&block, &mut values).unwrap();
            for (i, &got) in values.iter().enumerate() {
                let want = value(shape, &parts, i);
                assert!(
                    (f64::from(got) - want).abs() <= want.abs() * 1e-5 + 1e-4,
                    "{name}, value {i}: {got}, not {want}"
                );
            }
        }
    }
}

#[test]
fn every_type_of_ggml_is_among_them() {
    let types = TYPES.iter().filter(|row| row.0.is_supported() && row.3 > 1);
    for (kind, ..) in types.filter(|row| !row.0.is_any_width()) {
        assert!(SHAPES.iter().any(|shape| shape.kind == *kind), "{}", kind.name());
    }
    assert!(Type::F32.pack(&Parts::ZERO, &mut [0; 4]).is_err());
}
