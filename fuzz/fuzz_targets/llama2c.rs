//! The header of a llama2.c checkpoint of any bytes, in a file of its own size.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smidgen_host::llama2c::parse_header;
use std::hint::black_box;

/// As much of a file as the importer looks at first.
const HEADER_BYTES: usize = 256;

fuzz_target!(|data: &[u8]| {
    let header = &data[..data.len().min(HEADER_BYTES)];
    if let Ok(checkpoint) = parse_header(header, data.len() as u64) {
        assert_eq!(checkpoint.n_embd % checkpoint.n_heads, 0);
        black_box(checkpoint);
    }
});
