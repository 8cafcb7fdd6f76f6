//! `smidgen completions`: the script that completes commands and flags in a shell.

use crate::failure::{Failure, Status};
use crate::report;
use clap::Args;
use clap_complete::Shell;
use std::io::Write;

#[derive(Args, Debug)]
pub(super) struct Flags {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

pub(super) fn run(flags: &Flags, stdout: &mut dyn Write) -> Result<Status, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(flags.shell, &mut super::command(), "smidgen", &mut script);
    report::write(stdout, &script)?;
    Ok(Status::Done)
}
