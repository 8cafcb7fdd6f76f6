//! A parser with a planted bug of the usual kind: a length field that it believes. The rig must find it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(body) = data.strip_prefix(b"CANARY") else { return };
    let Some((&length, text)) = body.split_first() else { return };
    std::hint::black_box(&text[..usize::from(length)]);
});
