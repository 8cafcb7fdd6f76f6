//! Quantized tensors that ggml itself wrote, beside the floats they were made of: our quantizers write the same bytes.

use smidgen_core::bytes::{Cursor, Endian};
use smidgen_core::quant::Type;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The tensors of an rwkv.cpp file: type and data by name.
///
/// Layout (rwkv.cpp `docs/FILE_FORMAT.md`): magic, version, n_vocab, n_embed, n_layer, type as u32; then for each tensor
/// the number of dimensions, the length of the name and the type as u32, the dimensions as u32, the name, the data.
fn tensors(name: &str) -> Option<BTreeMap<String, (Type, Vec<u8>)>> {
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let root = std::env::var_os("SMIDGEN_DATA").map_or(beside, PathBuf::from);
    let Ok(bytes) = std::fs::read(root.join("rwkv").join(name)) else {
        println!("skipped: {name}, no shared data");
        return None;
    };
    let mut cursor = Cursor::at(&bytes, 6 * 4, Endian::Little);
    let mut tensors = BTreeMap::new();
    while cursor.remaining() > 0 {
        let n_dims = cursor.u32()?;
        let name_len = cursor.u32()?;
        let kind = match cursor.u32()? {
            7 => Type::Q5_0, // rwkv.cpp numbers its types in its own way.
            8 => Type::Q5_1,
            0 => Type::F32,
            other => panic!("type {other}"),
        };
        let dims: Vec<u64> = (0..n_dims).map(|_| u64::from(cursor.u32().unwrap())).collect();
        let name = String::from_utf8(cursor.take(name_len as usize)?.to_vec()).unwrap();
        let bytes = kind.row_bytes(dims[0]).unwrap() * dims[1..].iter().product::<u64>();
        tensors.insert(name, (kind, cursor.take(bytes as usize)?.to_vec()));
    }
    Some(tensors)
}

#[test]
fn q5_is_ggmls_byte_for_byte() {
    let Some(floats) = tensors("tiny-rwkv-5v2-730K-FP32.bin") else { return };
    for (file, kind) in [("tiny-rwkv-5v2-730K-Q5_0.bin", Type::Q5_0), ("tiny-rwkv-5v2-730K-Q5_1.bin", Type::Q5_1)] {
        let quantized = tensors(file).unwrap();
        let mut n_compared = 0;
        for (name, (_, want)) in quantized.iter().filter(|(_, (found, _))| *found == kind) {
            let row: Vec<f32> = floats[name].1.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            let mut got = vec![0; want.len()];
            kind.quantize(&row, &mut got).unwrap();
            assert!(got == *want, "{name} as {}", kind.name());
            n_compared += 1;
        }
        assert!(n_compared > 10, "{file} holds quantized tensors");
    }
}
