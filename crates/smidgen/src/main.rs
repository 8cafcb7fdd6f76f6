//! The `smidgen` binary: hands the arguments to the library and its status to the system.

use std::process::ExitCode;

#[cfg(all(target_os = "linux", target_env = "musl"))]
#[global_allocator]
static HEAP: smidgen_host::heap::Heap = smidgen_host::heap::Heap;

fn main() -> ExitCode {
    smidgen_host::pages::map_finely();
    ExitCode::from(smidgen_cli::run(std::env::args_os(), &mut std::io::stdout()))
}
