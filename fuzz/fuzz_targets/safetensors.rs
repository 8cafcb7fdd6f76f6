//! Any bytes as a safetensors file: its header, and that the data it describes lies in the file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smidgen_host::hf::safetensors::{header_len, parse_header};

fuzz_target!(|data: &[u8]| {
    let Some((start, rest)) = data.split_first_chunk::<8>() else { return };
    let Ok(len) = header_len(*start, data.len() as u64) else { return };
    let (header, body) = rest.split_at(len);
    for entry in parse_header(header, body.len() as u64).unwrap_or_default() {
        assert!(body.get(entry.begin as usize..entry.end as usize).is_some(), "{entry:?}");
    }
});
