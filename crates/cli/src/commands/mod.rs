//! The subcommands, one file each, and the one table that names them.

mod bench;
mod calibrate;
mod chat;
mod completions;
mod convert;
mod eval;
mod export;
mod inspect;
mod man;
mod pack;
mod plan;
mod probe;
mod quantize;
mod run;
mod serve;
mod tokenize;

use crate::failure::{Failure, Status};
use clap::{ArgMatches, Args, Command, FromArgMatches};
use std::ffi::OsStr;
use std::io::Write;

/// A subcommand: its name, what it does, its flags, and the function that runs it.
struct Subcommand {
    name: &'static str,
    about: &'static str,
    flags: fn(Command) -> Command,
    run: fn(ArgMatches, &mut dyn Write) -> Result<Status, Failure>,
}

/// The row of a subcommand whose flags are `A`.
macro_rules! subcommand {
    ($name:literal, $about:literal, $module:ident) => {
        Subcommand {
            name: $name,
            about: $about,
            // The text of a group of flags would take the place of the command's own.
            flags: |command| <$module::Flags as Args>::augment_args(command).about($about),
            run: |matches, stdout| $module::run(&read(matches)?, stdout),
        }
    };
}

const SUBCOMMANDS: &[Subcommand] = &[
    subcommand!("run", "Continue a text", run),
    subcommand!("chat", "Talk with a model through its chat template", chat),
    subcommand!("serve", "Answer programs that speak OpenAI's HTTP API", serve),
    subcommand!("plan", "Say to the byte what a model takes, and whether that fits", plan),
    subcommand!("probe", "Measure how fast this machine reads and multiplies weights, for plan", probe),
    subcommand!("inspect", "Show a model's metadata and tensors, and what is big", inspect),
    subcommand!("tokenize", "Print the token ids of a text", tokenize),
    subcommand!("convert", "Turn a model into a GGUF file", convert),
    subcommand!("calibrate", "Collect from a text what a model's matrices are multiplied with (an imatrix)", calibrate),
    subcommand!("eval", "Measure how well a model predicts a text, and what a smaller one lost", eval),
    subcommand!("quantize", "Turn a model into a smaller GGUF file", quantize),
    subcommand!("pack", "Make a GGUF file smaller without loss: its weights entropy-coded", pack),
    subcommand!("export", "Write a model as a program: C, or firmware for a microcontroller", export),
    subcommand!("bench", "Measure how fast a model runs here", bench),
    subcommand!("completions", "Print the completions for a shell", completions),
    subcommand!("man", "Print the manual page", man),
];

/// The one definition of the command line. The flags of a subcommand are only made when it is used, because a process that
/// runs a model in two megabytes has no room for the flags of the others.
pub fn command() -> Command {
    with_subcommands(|_| true)
}

/// [`command`] for arguments of which `first` is the first: without the other subcommands when it names one, for the same reason.
pub(crate) fn command_for(first: Option<&OsStr>) -> Command {
    let is_first = |subcommand: &Subcommand| first.is_some_and(|first| first == subcommand.name);
    if SUBCOMMANDS.iter().any(is_first) { with_subcommands(is_first) } else { command() }
}

fn with_subcommands(are_wanted: impl Fn(&Subcommand) -> bool) -> Command {
    let command = Command::new("smidgen")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Run, inspect and convert language models in a smidgen of RAM")
        .after_help("Exit status: 0 done, 1 failed, 2 wrong usage or bad input, 3 does not fit the budget, 4 missed a target, 130 stopped by Ctrl-C")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true);
    SUBCOMMANDS.iter().filter(|subcommand| are_wanted(subcommand)).fold(command, |command, subcommand| {
        command.subcommand(Command::new(subcommand.name).about(subcommand.about).defer(subcommand.flags))
    })
}

/// Runs the subcommand that the arguments name.
pub(crate) fn dispatch(mut matches: ArgMatches, stdout: &mut dyn Write) -> Result<Status, Failure> {
    let named = matches.remove_subcommand().and_then(|(name, matches)| {
        SUBCOMMANDS.iter().find(|subcommand| subcommand.name == name).map(|subcommand| (subcommand, matches))
    });
    match named {
        Some((subcommand, matches)) => (subcommand.run)(matches, stdout),
        None => Err(Failure::Input("no subcommand given; 'smidgen --help' lists them".to_owned())),
    }
}

/// The flags of a subcommand. The parser has done its work then, and its pages are given back.
fn read<A: FromArgMatches>(mut matches: ArgMatches) -> Result<A, Failure> {
    let flags = A::from_arg_matches_mut(&mut matches).map_err(|error| Failure::Input(error.to_string()))?;
    drop(matches);
    smidgen_host::pages::release_program();
    Ok(flags)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_definition_of_the_flags_is_in_order() {
        let mut command = super::command();
        command.build();
        command.debug_assert();
    }

    #[test]
    fn a_subcommand_is_the_same_without_the_others() {
        let help = |mut command: clap::Command, words: [&str; 3]| {
            command.try_get_matches_from_mut(words).unwrap_err().render().to_string()
        };
        for subcommand in super::SUBCOMMANDS {
            let words = ["smidgen", subcommand.name, "--help"];
            let alone = super::command_for(Some(subcommand.name.as_ref()));
            assert_eq!(alone.get_subcommands().count(), 1, "{}", subcommand.name);
            assert_eq!(help(alone, words), help(super::command(), words));
        }
        for other in [None, Some("--help"), Some("rum")] {
            let all = super::command_for(other.map(AsRef::as_ref));
            assert_eq!(all.get_subcommands().count(), super::SUBCOMMANDS.len(), "{other:?}");
        }
    }
}
