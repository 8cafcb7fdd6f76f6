//! The `smidgen` command: one file per subcommand under `commands`, and what they share.
//!
//! It is a library so that tests can run a command inside their own process, under their own allocator.

pub mod advice;
pub mod args;
pub mod budget;
pub mod cache;
pub mod calibrate;
pub mod commands;
pub mod constraint;
pub mod conversation;
pub mod corpus;
pub mod draft;
pub mod export;
pub mod failure;
pub mod generate;
pub mod hash;
pub mod interrupt;
pub mod import;
pub mod load;
pub mod npy;
pub mod probe;
pub mod progress;
pub mod prompt;
pub mod prompt_cache;
pub mod quantize;
pub mod report;
pub mod sampling;
pub mod serve;
pub mod source;
pub mod stop;
pub mod template;

use clap::error::ErrorKind;
use failure::Failure;
use std::ffi::OsString;
use std::io::Write;

/// Runs the command that `argv` (the program's name first) asks for, with its text going to `stdout`, and returns the
/// exit status. Everything else goes to the standard error.
pub fn run(argv: impl IntoIterator<Item = OsString>, stdout: &mut dyn Write) -> u8 {
    let argv: Vec<OsString> = argv.into_iter().map(args::spelled_out).collect();
    let command = commands::command_for(argv.get(1).map(OsString::as_os_str));
    let result = match command.try_get_matches_from(argv) {
        Ok(matches) => commands::dispatch(matches, stdout),
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                return match stdout.write_all(error.render().to_string().as_bytes()).map_err(Failure::writing) {
                    Ok(()) => 0,
                    Err(failure) => complain(&failure),
                };
            }
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                eprint!("{}", error.render());
                return 2;
            }
            _ => Err(Failure::Input(one_line(&error.render().to_string()))),
        },
    };
    match result {
        Ok(status) => status.code(),
        Err(failure) => complain(&failure),
    }
}

/// Says on the standard error why nothing was done, in one line, and returns the exit status.
fn complain(failure: &Failure) -> u8 {
    if !matches!(failure, Failure::Closed) {
        eprintln!("smidgen: {failure}");
    }
    failure.code()
}

/// What the parser of the arguments has to say, without the usage text that `--help` prints better.
fn one_line(rendered: &str) -> String {
    let message = rendered.strip_prefix("error: ").unwrap_or(rendered);
    let lines = message.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let joined = lines.filter(|line| !line.is_empty() && !line.starts_with("For more information"));
    joined.collect::<Vec<_>>().join("; ")
}
