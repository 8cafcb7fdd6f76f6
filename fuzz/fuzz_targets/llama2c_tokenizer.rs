//! A llama2.c `tokenizer.bin` of any bytes: a vocabulary, or an error, in little time and memory.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smidgen_host::llama2c::tokenizer::parse;

fuzz_target!(|data: &[u8]| {
    if let Ok(pieces) = parse(data) {
        assert!(!pieces.is_empty());
    }
});
