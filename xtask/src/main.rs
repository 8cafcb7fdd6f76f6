//! `cargo xtask`: everything a developer repeats.

mod bench;
mod check;
mod command;
mod fuzz;
mod install;
mod ports;
mod release;
mod step;
mod test;
mod tidy;

use clap::{Parser, Subcommand};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use step::Report;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Everything a developer of smidgen repeats")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what the tests need and run every one of them: this is what `.ci/run` calls
    Test,
    /// Formatting, clippy, documentation, dependencies and tidy
    Check,
    /// The house rules alone
    Tidy,
    /// Install what the tests need: emulators, nightly parts, a Python environment, cargo-deny, cargo-fuzz and cbindgen
    Install,
    /// Fuzz every parser
    Fuzz {
        /// Seconds for each target
        #[arg(default_value_t = 20)]
        seconds: u32,
        /// Only the targets whose name holds this
        #[arg(long)]
        only: Option<String>,
    },
    /// Build the engine for foreign machines, run it under emulation and compare every bit
    Ports {
        /// Only one machine of each kind, as the tests do
        #[arg(long)]
        sample: bool,
        /// Only some parts, with commas between: user, boards, powermac, c, web, cli, python
        #[arg(long, value_name = "PARTS")]
        only: Option<String>,
        /// Write what each board takes to this record
        #[arg(long, value_name = "FILE")]
        record: Option<PathBuf>,
    },
    /// Make the disc that a Power Macintosh starts from: target/ports/disc.iso
    Disc,
    /// Make a file for the drive of a board with an RP2040 or an RP2350 of its firmware
    Uf2 {
        /// The chip: rp2040 or rp2350
        chip: String,
        /// What `cargo build --release` has made of the project
        program: PathBuf,
        /// The file that is written
        output: PathBuf,
    },
    /// Collect what a release has beside its source in target/release-artifacts, with SHA256SUMS
    Release,
    /// Measure beside other programs and write the record
    Bench {
        #[command(subcommand)]
        beside: Beside,
    },
}

#[derive(Subcommand)]
enum Beside {
    /// Install llama.cpp from source, make the models, and time both programs alternately on the same files
    Peers {
        /// Only some models, with commas between: small, smol, gpt2, qwen3
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
        /// Passed on to tools/bench_peers.py: --types, --threads, --repetitions
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Time whole processes of both: to the first token, at their peak of memory, and on a busy machine
    Start {
        /// Passed on to tools/bench_start.py: --models, --busy, --repetitions
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Hold the speed at which new tokens read their weights against that of this machine's memory
    Ops {
        /// Passed on to tools/bench_ops.py: --models, --threads, --repetitions
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Time smidgen beside llama2.c's own programs on its own checkpoints; needs a C compiler
    Llama2c {
        /// A folder with run.c and runq.c of karpathy/llama2.c, which are no part of this project
        source: PathBuf,
        /// Passed on to tools/bench_llama2c.py: --repetitions
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run both under memory caps, and find the least memory in which small models run; needs root and cgroups of version 1
    Ram,
}

fn main() -> ExitCode {
    let mut report = Report::default();
    match Arguments::parse().command {
        Command::Test => test::all(&mut report),
        Command::Check => check::all(&mut report),
        Command::Tidy => check::tidy(&mut report),
        Command::Install => install::all(&mut report),
        Command::Fuzz { seconds, only } => fuzz::all(&mut report, seconds, only.as_deref()),
        Command::Ports { sample, only, record } => {
            let extent = if sample { ports::Extent::Sample } else { ports::Extent::All };
            ports::all(&mut report, extent, only.as_deref(), record.as_deref())
        }
        Command::Disc => {
            report.step("disc", |_| ports::powermac::image());
        }
        Command::Uf2 { chip, program, output } => {
            report.step("uf2", |_| ports::pico::uf2(&chip, &program, &output));
        }
        Command::Release => release::all(&mut report),
        Command::Bench { beside: Beside::Peers { only, arguments } } => bench::peers(&mut report, &only, &arguments),
        Command::Bench { beside: Beside::Start { arguments } } => bench::start(&mut report, &arguments),
        Command::Bench { beside: Beside::Ops { arguments } } => bench::ops(&mut report, &arguments),
        Command::Bench { beside: Beside::Llama2c { source, arguments } } => {
            bench::llama2c(&mut report, &source, &arguments);
        }
        Command::Bench { beside: Beside::Ram } => bench::ram(&mut report),
    }
    report.close()
}

/// The root of the workspace.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).into()
}

/// The folder of the shared data, when this machine has it.
fn shared_data() -> Option<PathBuf> {
    let folder = match std::env::var_os("SMIDGEN_DATA") {
        Some(folder) => PathBuf::from(folder),
        None => root().join("../shared/data"),
    };
    folder.is_dir().then_some(folder)
}
