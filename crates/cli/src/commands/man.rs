//! `smidgen man`: the manual page, of the command or of one subcommand.

use crate::failure::{Failure, Status};
use crate::report;
use clap::Args;
use clap_mangen::Man;
use std::io::Write;

#[derive(Args, Debug)]
pub(super) struct Flags {
    /// The subcommand [default: the page of all of them]
    #[arg(value_name = "COMMAND")]
    subcommand: Option<String>,
}

pub(super) fn run(flags: &Flags, stdout: &mut dyn Write) -> Result<Status, Failure> {
    let mut command = super::command();
    command.build();
    let page = match &flags.subcommand {
        None => command,
        Some(name) => match command.find_subcommand(name) {
            Some(subcommand) => subcommand.clone(),
            None => {
                let name = name.escape_default();
                return Err(Failure::Input(format!(
                    "man: there is no subcommand '{name}'; 'smidgen --help' lists them"
                )));
            }
        },
    };
    let mut text = Vec::new();
    Man::new(page).render(&mut text).map_err(Failure::writing)?;
    report::write(stdout, &text)?;
    Ok(Status::Done)
}
