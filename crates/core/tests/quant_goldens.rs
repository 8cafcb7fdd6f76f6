//! Blocks of random bytes, beside the floats that the `gguf` package reads from them: ours are the same to the bit.
//!
//! `tools/quant_goldens.py` makes them. Four blocks of each type are in `testdata/quant`, and where `SMIDGEN_PYTHON` names a
//! Python with numpy and gguf, four thousand are made.

use smidgen_core::quant::{TYPES, Type};
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Every type that the engine reads and that has blocks.
fn block_types() -> impl Iterator<Item = Type> {
    TYPES.iter().map(|row| row.0).filter(|kind| kind.is_supported() && kind.block_len() > 1)
}

/// Compares every type with its golden in `folder`, which holds `n_blocks` of each.
fn check(folder: &Path, n_blocks: usize) {
    for kind in block_types() {
        let golden = std::fs::read(folder.join(kind.name()).with_extension("bin"))
            .unwrap_or_else(|error| panic!("{}: {error}", kind.name()));
        let (blocks, values) = golden.split_at(n_blocks * kind.block_bytes());
        let want: Vec<u32> = values.as_chunks().0.iter().map(|&bytes| u32::from_le_bytes(bytes)).collect();
        assert_eq!(want.len(), n_blocks * kind.block_len(), "{} has {n_blocks} blocks", kind.name());
        let mut got = vec![0.0; want.len()];
        kind.dequantize(blocks, &mut got).unwrap();
        for (i, (got, want)) in got.iter().zip(want).enumerate() {
            let wanted = f32::from_bits(want);
            assert!(got.to_bits() == want, "{}, value {i}: {got:e}, not {wanted:e}", kind.name());
        }
    }
}

#[test]
fn the_committed_blocks() {
    check(&root().join("testdata/quant"), 4);
}

#[test]
fn four_thousand_blocks() {
    let Some(python) = std::env::var_os("SMIDGEN_PYTHON") else {
        eprintln!("skipped: four thousand blocks of each type, SMIDGEN_PYTHON names no Python");
        return;
    };
    let packages = Command::new(&python).args(["-c", "import numpy, gguf"]).output();
    if !packages.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: four thousand blocks of each type, no numpy and gguf for that Python");
        return;
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("quant_goldens");
    let script = root().join("tools/quant_goldens.py");
    let options = ["--blocks", "4000", "--seed", "2"];
    let output = Command::new(&python).arg(script).arg(&folder).args(options).output().expect("python");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    check(&folder, 4000);
}

/// Big-endian blocks are those in which every number of more than one byte is reversed; twice reversed, they are back.
#[test]
fn swapping_twice_changes_nothing() {
    for kind in block_types() {
        let golden = std::fs::read(root().join("testdata/quant").join(kind.name()).with_extension("bin")).unwrap();
        let blocks = &golden[..4 * kind.block_bytes()];
        let mut swapped = blocks.to_vec();
        kind.swap_endian(&mut swapped).unwrap();
        assert_eq!(
            swapped == blocks,
            kind == Type::MXFP4 || kind.is_any_width(),
            "{} holds numbers to swap",
            kind.name()
        );
        kind.swap_endian(&mut swapped).unwrap();
        assert_eq!(swapped, blocks, "{}", kind.name());
    }
}
