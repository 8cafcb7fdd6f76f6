//! The `smidgen` binary: hands the arguments to the library and its status to the system.

use std::process::ExitCode;

fn main() -> ExitCode {
    smidgen_host::pages::map_finely();
    ExitCode::from(smidgen_cli::run(std::env::args_os(), &mut std::io::stdout()))
}
