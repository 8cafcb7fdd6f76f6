//! A `tokenizer.json` of any bytes: a vocabulary, or an error, in little time and memory.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smidgen_host::hf::vocab::tokenizer_json::parse;

fuzz_target!(|data: &[u8]| {
    if let Ok(pieces) = parse(data) {
        assert!(!pieces.is_empty());
    }
});
