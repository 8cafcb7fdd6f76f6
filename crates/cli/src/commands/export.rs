//! `smidgen export`: a model as a program for a machine that has neither this command nor files.

use crate::export::{c, firmware};
use crate::failure::{Failure, Status};
use clap::{Args, Subcommand};
use std::io::Write;

#[derive(Args, Debug)]
pub(super) struct Flags {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// One file of C89 that holds the engine for this model, and its weights beside it
    C(c::Flags),
    /// A project in Rust that builds and runs on a microcontroller
    Firmware(firmware::Flags),
}

pub(super) fn run(flags: &Flags, stdout: &mut dyn Write) -> Result<Status, Failure> {
    match &flags.what {
        What::C(flags) => c::run(flags, stdout),
        What::Firmware(flags) => firmware::run(flags, stdout),
    }
}
