//! The container: versions, byte orders, block layouts and files cut short.

use smidgen_reference::{File, Value};

/// A writer of the little GGUF that the tests need.
struct Writer {
    bytes: Vec<u8>,
    big: bool,
    version: u32,
}

impl Writer {
    fn number(&mut self, value: u64, n_bytes: usize) {
        let mut bytes = value.to_le_bytes()[..n_bytes].to_vec();
        if self.big {
            bytes.reverse();
        }
        self.bytes.extend(bytes);
    }

    fn count(&mut self, value: usize) {
        self.number(value as u64, if self.version == 1 { 4 } else { 8 });
    }

    fn text(&mut self, text: &str) {
        self.count(text.len());
        self.bytes.extend(text.as_bytes());
    }
}

/// A file of one tensor `t` of 32 values in one row, and a few keys.
fn file(version: u32, big: bool, kind: u64, data: &[u8]) -> Vec<u8> {
    let mut writer = Writer { bytes: b"GGUF".to_vec(), big, version };
    writer.number(version.into(), 4);
    writer.count(1);
    writer.count(3);
    writer.text("an.int");
    writer.number(5, 4);
    writer.number(-7i32 as u32 as u64, 4);
    writer.text("a.float");
    writer.number(6, 4);
    writer.number(0.25f32.to_bits().into(), 4);
    writer.text("a.list");
    writer.number(9, 4);
    writer.number(8, 4);
    writer.count(2);
    writer.text("one");
    writer.text("two");
    writer.text("t");
    writer.number(1, 4);
    writer.count(32);
    writer.number(kind, 4);
    writer.number(0, 8);
    writer.bytes.resize(writer.bytes.len().next_multiple_of(32), 0);
    writer.bytes.extend(data);
    writer.bytes
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// What the `gguf` package (0.19.0, PyPI) makes of `(index - 13) * 0.375`: type, its number, largest error, one block.
#[rustfmt::skip]
const BLOCKS: &[(&str, u64, f32, &str)] = &[
    ("F16",   1, 0.0,   "e0c480c420c480c3c0c200c240c180c080bf00be80bc00ba00b600000036003a803c003e803f804040410042c042804320448044e0444045a04500466046c046"),
    ("BF16", 30, 0.0,   "9cc090c084c070c058c040c028c010c0f0bfc0bf90bf40bfc0be0000c03e403f903fc03ff03f10402840404058407040844090409c40a840b440c040cc40d840"),
    ("Q8_0",  8, 0.026, "ce2aa4abb2b9c1c8cfd6dde4ebf2f900070e151c232a31383f474e555c636a71787f"),
    ("Q4_0",  2, 0.376, "c0ba7e6d6d5c5c4c4b4b3a3a292918180807"),
    ("Q4_1",  3, 0.376, "333ae0c480809191a2a2b3b3c4c4d5d5e6e6f7f7"),
    ("Q5_0",  6, 0.188, "c0b6ff3f0000dccbcab9a89786756454434231201f0e"),
    ("Q5_1",  7, 0.0,   "0036e0c40000ffff00112233445566778899aabbccddeeff"),
];

fn ramp(index: usize) -> f32 {
    (index as f32 - 13.0) * 0.375
}

#[test]
fn every_block_layout() {
    for &(name, kind, limit, hex) in BLOCKS {
        let file = File::parse(&file(3, false, kind, &bytes(hex))).unwrap();
        for (index, value) in file.tensors["t"].data.iter().enumerate() {
            assert!((value - ramp(index)).abs() <= limit, "{name}: value {index} is {value}, not {}", ramp(index));
        }
    }
}

#[test]
fn every_version_in_both_byte_orders() {
    let values: Vec<f32> = (0..32).map(ramp).collect();
    for version in 1..=3 {
        for big in [false, true] {
            let data: Vec<u8> =
                values.iter().flat_map(|v| if big { v.to_be_bytes() } else { v.to_le_bytes() }).collect();
            let file = File::parse(&file(version, big, 0, &data)).unwrap();
            assert_eq!(file.tensors["t"].data, values);
            assert_eq!(file.keys["an.int"], Value::Int(-7));
            assert_eq!(file.keys["a.float"], Value::Float(0.25));
            assert_eq!(
                file.keys["a.list"],
                Value::List(vec![Value::Text(b"one".to_vec()), Value::Text(b"two".to_vec())])
            );
        }
    }
}

#[test]
fn halves_of_every_kind() {
    let halves: [(u16, f32); 6] = [
        (0x3c00, 1.0),
        (0xc000, -2.0),
        (0x7bff, 65504.0),
        (1, 5.9604645e-8),
        (0xfc00, f32::NEG_INFINITY),
        (0x8000, 0.0),
    ];
    let mut data: Vec<u8> = halves.iter().flat_map(|(bits, _)| bits.to_le_bytes()).collect();
    data.resize(64, 0);
    let file = File::parse(&file(3, false, 1, &data)).unwrap();
    for (value, (bits, expected)) in file.tensors["t"].data.iter().zip(halves) {
        assert_eq!(*value, expected, "{bits:#06x}");
    }
}

#[test]
fn a_file_cut_short_anywhere_is_an_error() {
    let whole = file(3, false, 8, &bytes(BLOCKS[2].3));
    assert!(File::parse(&whole).is_ok());
    for n in 0..whole.len() {
        assert!(File::parse(&whole[..n]).is_err(), "cut at {n}");
    }
}
