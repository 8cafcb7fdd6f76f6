//! The engine as a Linux process without a C library.
#![no_std]
#![no_main]

mod system;

use core::fmt::Write;
use smidgen_core::gguf::Gguf;
use system::{Stdout, exit};

#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);

static MODEL: &Aligned<[u8]> =
    &Aligned(*include_bytes!(env!("SMIDGEN_MODEL", "SMIDGEN_MODEL names the GGUF file to embed")));

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let _ = writeln!(Stdout, "{info}");
    exit(101)
}

#[unsafe(no_mangle)]
extern "C" fn smidgen_start() -> ! {
    system::set_float_precision();
    match Gguf::parse(&MODEL.0, MODEL.0.len() as u64) {
        Ok(g) => { let _ = writeln!(Stdout, "{} tensors", g.tensors().count()); exit(0) }
        Err(e) => { let _ = writeln!(Stdout, "{e}"); exit(1) }
    }
}
