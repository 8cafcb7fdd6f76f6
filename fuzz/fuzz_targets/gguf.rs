//! Any bytes as a GGUF file: the header, every value and every tensor's data.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smidgen_core::gguf::Gguf;
use std::hint::black_box;

fuzz_target!(|data: &[u8]| {
    let Ok(gguf) = Gguf::parse(data, data.len() as u64) else { return };
    for (key, value) in gguf.keys() {
        black_box((key, value.as_u64(), value.as_f32(), value.as_str()));
        let Some(array) = value.as_array() else { continue };
        black_box((array.iter().count(), array.string_offsets().count(), array.get(array.len() / 2)));
    }
    for tensor in gguf.tensors() {
        // The header has promised that the data lies in the file.
        let bytes = gguf.data(&tensor).expect("checked by parse");
        assert_eq!(bytes.len() as u64, tensor.n_bytes);
        black_box(bytes.iter().fold(0u8, |sum, byte| sum ^ byte));
    }
});
