//! The C of each weight type: how its blocks are read, and which of the shared ways its rows are multiplied in.

use super::sections::Sections;
use smidgen_core::quant::Type;
use std::fmt::Write;

/// How the rows of a type are laid out and multiplied.
#[derive(Clone, Copy, Debug)]
enum Shape {
    /// One number after the other; the expression of number `i`.
    Float(&'static str),
    /// Blocks of 32; the expression of the scale, and where a minimum lies.
    Block(&'static str, Option<usize>),
    /// Blocks of blocks: the expression of the scale, what it is multiplied with, where the scale of minimums lies, and how many
    /// minimums a block has.
    Superblock(&'static str, &'static str, Option<usize>, usize),
    /// Rows of any width: bits of a code.
    AnyWidth(usize),
}

use Shape::{AnyWidth, Block, Float, Superblock};

const HALF: &str = "half(half_at(b))";

/// A type, its shape, and the sections of C that its own needs.
type Row = (Type, Shape, &'static [&'static str]);

#[rustfmt::skip]
const FORMATS: &[Row] = &[
    (Type::F32, Float("float_of(word_at(b + 4 * i))"), &[]),
    (Type::F16, Float("half(half_at(b + 2 * i))"), &["half"]),
    (Type::BF16, Float("float_of(half_at(b + 2 * i) << 16)"), &[]),
    (Type::Q4_0, Block(HALF, None), &["half", "nibbles", "less"]),
    (Type::Q4_1, Block(HALF, Some(2)), &["half", "nibbles"]),
    (Type::Q5_0, Block(HALF, None), &["half", "nibbles", "fifths", "less"]),
    (Type::Q5_1, Block(HALF, Some(2)), &["half", "nibbles", "fifths"]),
    (Type::Q8_0, Block(HALF, None), &["half"]),
    (Type::IQ4_NL, Block(HALF, None), &["half", "nibbles", "levels", "iq4_levels"]),
    (Type::MXFP4, Block("mxfp4_scale(b)", None), &["nibbles", "levels"]),
    (Type::Q2_K, Superblock("half(half_at(b + 80))", "1.0f", Some(82), 2), &["half", "plane"]),
    (Type::Q3_K, Superblock("half(half_at(b + 108))", "1.0f", None, 1), &["half", "plane", "join", "less"]),
    (Type::Q4_K, Superblock(HALF, "1.0f", Some(2), 1), &["half", "plane", "both_halves", "six_bit_scales"]),
    (Type::Q5_K, Superblock(HALF, "1.0f", Some(2), 1), &["half", "plane", "join", "both_halves", "six_bit_scales"]),
    (Type::Q6_K, Superblock("half(half_at(b + 208))", "1.0f", None, 1), &["half", "plane", "join", "less"]),
    (Type::IQ1_S, Superblock(HALF, "0.125f", None, 1), &["half", "less", "grid8", "both_halves"]),
    (Type::IQ1_M, Superblock("iq1_m_scale(b)", "0.125f", None, 1), &["half", "grid8"]),
    (Type::IQ2_XXS, Superblock(HALF, "0.125f", None, 1), &["half", "signs", "even_signs", "grid8", "both_halves"]),
    (Type::IQ2_XS, Superblock(HALF, "0.125f", None, 1), &["half", "signs", "even_signs", "grid8", "odd_scales"]),
    (Type::IQ2_S, Superblock(HALF, "0.125f", None, 1), &["half", "signs", "grid8", "odd_scales"]),
    (Type::IQ3_XXS, Superblock(HALF, "0.25f", None, 1), &["half", "signs", "even_signs", "grid4", "both_halves"]),
    (Type::IQ3_S, Superblock(HALF, "1.0f", None, 1), &["half", "signs", "grid4", "both_halves"]),
    (Type::IQ4_XS, Superblock(HALF, "1.0f", None, 1), &["half", "nibbles", "levels", "iq4_levels", "both_halves"]),
    (Type::TQ1_0, Superblock("half(half_at(b + 52))", "1.0f", None, 1), &["half", "ones"]),
    (Type::TQ2_0, Superblock("half(half_at(b + 64))", "1.0f", None, 1), &["half", "plane", "less", "ones"]),
    (Type::Q1_0, Superblock(HALF, "1.0f", None, 1), &["half", "ones"]),
    (Type::Q2_0, Superblock(HALF, "1.0f", None, 1), &["half", "ones"]),
    (Type::Q2_W, AnyWidth(2), &["any_width_scale"]),
    (Type::Q3_W, AnyWidth(3), &["any_width_scale"]),
    (Type::Q4_W, AnyWidth(4), &["any_width_scale"]),
    (Type::Q5_W, AnyWidth(5), &["any_width_scale"]),
    (Type::Q6_W, AnyWidth(6), &["any_width_scale"]),
    (Type::Q8_W, AnyWidth(8), &["any_width_scale"]),
];

/// Sections that several types share, in the order in which C wants them.
const SHARED: &[&str] = &[
    "nibbles",
    "fifths",
    "plane",
    "join",
    "less",
    "levels",
    "iq4_levels",
    "signs",
    "even_signs",
    "grid8",
    "grid4",
    "both_halves",
    "odd_scales",
    "six_bit_scales",
    "ones",
    "any_width_scale",
];

fn row_of(kind: Type) -> Option<&'static Row> {
    FORMATS.iter().find(|row| row.0 == kind)
}

/// Whether there is C for `kind`.
pub(super) fn is_known(kind: Type) -> bool {
    row_of(kind).is_some()
}

/// Whether one of `types` calls for the section `name`.
pub(super) fn need(types: &[Type], name: &str) -> bool {
    types.iter().filter_map(|kind| row_of(*kind)).any(|row| row.2.contains(&name))
}

/// Everything that reads and multiplies rows of `types`, of which those in `read` are also read as floats and those in
/// `multiplied` multiplied.
pub(super) fn source(sections: &Sections, types: &[Type], read: &[Type], multiplied: &[Type]) -> String {
    let mut out = String::new();
    for name in SHARED.iter().filter(|name| need(types, name)) {
        out += sections.get(name);
    }
    for row in types.iter().filter_map(|kind| row_of(*kind)) {
        out += &grid(row.0);
        out += &one(sections, row, read.contains(&row.0), multiplied.contains(&row.0));
    }
    out
}

/// The C of one type.
fn one(sections: &Sections, &(kind, shape, needs): &Row, is_read: bool, is_multiplied: bool) -> String {
    let has_one_scale = needs.contains(&"both_halves");
    let mut out = match shape {
        Block(..) | Superblock(..) => sections.get(kind.name()).to_owned(),
        AnyWidth(bits) => levels(kind, bits),
        Float(_) => String::new(),
    };
    let (name, scale, factor, min_at, mins) = match shape {
        Float(value) => ("float", value, "", None, 0),
        Block(scale, min_at) => ("block", scale, "", min_at, 0),
        Superblock(scale, factor, min_at, mins) => ("superblock", scale, factor, min_at, mins),
        AnyWidth(_) => ("any_width", "", "", None, 0),
    };
    let bits = if let AnyWidth(bits) = shape { bits } else { 0 };
    let mut text = sections.get(name).to_owned();
    for (mark, value) in [
        ("@NAME@", kind.name().to_owned()),
        ("@BYTES@", kind.block_bytes().to_string()),
        ("@SCALE@", scale.to_owned()),
        ("@FACTOR@", factor.to_owned()),
        ("@ONE_SCALE@", u8::from(has_one_scale).to_string()),
        ("@COUNT@", (kind.block_len() / 32).to_string()),
        ("@HAS_MIN@", u8::from(min_at.is_some()).to_string()),
        ("@MIN_AT@", min_at.unwrap_or(0).to_string()),
        ("@MINS@", mins.to_string()),
        ("@BITS@", bits.to_string()),
    ] {
        text = text.replace(mark, &value);
    }
    for (is_wanted, function) in [(is_read, "_row("), (is_multiplied, "_dot(")] {
        if !is_wanted {
            text = without(&text, &format!("{}{function}", kind.name()));
        }
    }
    out += &text;
    out
}

/// `text` without the static function whose name is `name`: C89 compilers complain of one that nobody calls.
fn without(text: &str, name: &str) -> String {
    let Some(at) = text.find(name) else { return text.to_owned() };
    let start = text[..at].rfind("static ").unwrap_or(at);
    let end = text[at..].find("\n}\n").map_or(text.len(), |end| at + end + 3);
    format!("{}{}", &text[..start], &text[end..])
}

/// The levels that the windows of an any-width code choose between.
fn levels(kind: Type, bits: usize) -> String {
    if bits == 8 {
        return String::new();
    }
    let table = smidgen_core::quant::any_width::TABLES[bits - 2];
    format!(
        "\nstatic const s8 {}_levels[64] = {{{}}};\n",
        kind.name(),
        list(table.iter().map(|level| i64::from(*level)), 20)
    )
}

/// The points of an i-quant, packed as the C unpacks them, and what their codes stand for.
fn grid(kind: Type) -> String {
    let points: Vec<[i8; 8]> = (0..=u16::MAX).map_while(|number| kind.point(number)).collect();
    let n_coordinates = match kind {
        Type::IQ1_S | Type::IQ1_M | Type::IQ2_XXS | Type::IQ2_XS | Type::IQ2_S => 8,
        Type::IQ3_XXS | Type::IQ3_S => 4,
        _ => return String::new(),
    };
    let mut levels: Vec<i8> = points.iter().flat_map(|point| &point[..n_coordinates]).copied().collect();
    levels.sort_unstable();
    levels.dedup();
    let bits = 16 / n_coordinates - usize::from(n_coordinates == 4);
    let code = |point: &[i8; 8]| {
        let index = |i: usize| levels.iter().position(|level| *level == point[i]).unwrap_or(0) as i64;
        (0..n_coordinates).fold(0, |code, i| code | index(i) << (bits * i))
    };
    format!(
        "\nstatic const s8 {0}_levels[] = {{{1}}};\nstatic const unsigned short {0}_grid[] = {{{2}}};\n",
        kind.name(),
        list(levels.iter().map(|level| i64::from(*level)), 20),
        list(points.iter().map(code), 18),
    )
}

/// Numbers with commas between, `per_line` to a line.
pub(super) fn list(numbers: impl Iterator<Item = i64>, per_line: usize) -> String {
    let mut out = String::new();
    for (index, number) in numbers.enumerate() {
        let before = match (index, index % per_line) {
            (0, _) if per_line < usize::MAX => "\n    ",
            (_, 0) => ",\n    ",
            _ => ", ",
        };
        let _ = write!(out, "{before}{number}");
    }
    out
}

/// The cases of a switch over the types: what a row is multiplied with, or how it is read.
pub(super) fn cases(types: &[Type], is_dot: bool) -> String {
    let mut out = String::new();
    for kind in types {
        let name = kind.name();
        let call = match (is_dot, kind.is_integer()) {
            (true, true) => format!("r = {name}_dot(b, columns);"),
            (true, false) => format!("r = {name}_dot(b, x, columns);"),
            (false, _) => format!("{name}_row(b, columns, out);"),
        };
        let indent = if is_dot { "        " } else { "    " };
        let _ = write!(out, "{indent}case TYPE_{name}:\n{indent}    {call}\n{indent}    break;\n");
    }
    out
}

/// The numbers of the types, and the bytes of a row of each.
pub(super) fn numbers(types: &[Type]) -> String {
    let mut out = String::new();
    for (number, kind) in types.iter().enumerate() {
        let _ = writeln!(out, "#define TYPE_{} {number}", kind.name());
    }
    out += "\nstatic u32 row_bytes(int type, int columns)\n{\n    u32 n = (u32)columns;\n    switch (type) {\n";
    for kind in types {
        let (len, bytes) = (kind.block_len(), kind.block_bytes());
        let rest = match row_of(*kind) {
            Some((_, AnyWidth(bits), _)) => format!(" + (n % {len} ? 1 + (n % {len} * {bits} + 7) / 8 : 0)"),
            _ => String::new(),
        };
        let _ = write!(out, "    case TYPE_{}:\n        return n / {len} * {bytes}{rest};\n", kind.name());
    }
    out + "    default:\n        return 0;\n    }\n}\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use smidgen_core::quant::TYPES;

    #[test]
    fn every_type_of_the_engine_has_its_c() {
        let sections = Sections::new();
        for kind in TYPES.iter().map(|row| row.0).filter(|kind| kind.is_supported()) {
            assert!(is_known(kind), "{}", kind.name());
            let text = source(&sections, &[kind], &[kind], &[kind]);
            assert!(text.contains(&format!("{}_dot(", kind.name())), "{}", kind.name());
            assert!(!text.contains('@'), "{}", kind.name());
            let text = source(&sections, &[kind], &[kind], &[]);
            assert!(!text.contains(&format!("{}_dot(", kind.name())), "{}", kind.name());
        }
    }
}
