//! Goldens for the tests: where they lie, and a reader of the few safetensors types they use.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// The workspace's `testdata` directory.
pub(crate) fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata")
}

/// The shared data directory; says what is skipped where there is none.
pub(crate) fn shared(what: &str) -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let found = std::env::var_os("SMIDGEN_DATA").map_or(beside, PathBuf::from);
    if found.is_dir() {
        return Some(found);
    }
    eprintln!("skipped: {what}, no shared data");
    None
}

/// A whole file.
pub(crate) fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A tensor of a golden file: 32-bit words, whatever they mean.
pub(crate) struct Golden {
    words: Vec<u32>,
}

impl Golden {
    /// The tensors of a safetensors file of 32-bit types.
    pub(crate) fn open(path: &Path) -> HashMap<String, Golden> {
        let bytes = read(path);
        let (length, rest) = bytes.split_first_chunk().expect("a safetensors file");
        let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
        let header: HashMap<String, Value> = serde_json::from_slice(header).expect("a safetensors header");
        let tensor = |(name, about): (String, Value)| {
            let numbers = |key| about[key].as_array().expect(key).iter().map(|n| n.as_u64().expect(key) as usize);
            let offsets: Vec<usize> = numbers("data_offsets").collect();
            assert!(about["dtype"] == "F32" || about["dtype"] == "I32", "{name}: {}", about["dtype"]);
            let words = data[offsets[0]..offsets[1]].chunks_exact(4);
            let words = words.map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect();
            (name, Golden { words })
        };
        header.into_iter().filter(|(name, _)| name != "__metadata__").map(tensor).collect()
    }

    pub(crate) fn ids(&self) -> Vec<u32> {
        self.words.clone()
    }

    pub(crate) fn floats(&self) -> Vec<f32> {
        self.words.iter().map(|&word| f32::from_bits(word)).collect()
    }
}

/// The largest distance between two equally long rows.
pub(crate) fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}
