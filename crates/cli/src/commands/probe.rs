//! `smidgen probe`: how fast this machine reads a disk and multiplies weights, for the predictions of `plan`.

use crate::failure::{Failure, Status};
use crate::load;
use crate::probe::{self, Probe, SCHEMA};
use crate::progress::Bar;
use crate::report::{self, Table};
use clap::Args;
use smidgen_core::quant::TYPES;
use smidgen_core::workers::{Single, Workers};
use smidgen_host::Progress;
use smidgen_host::threads::Pool;
use std::io::Write;
use std::path::PathBuf;

#[derive(Args, Debug)]
pub(super) struct Flags {
    /// A file on the disk to be measured, such as a model [default: this program]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,

    /// Threads [default: as many as the machine has cores]
    #[arg(short = 't', long, value_name = "N", value_parser = crate::args::thread_count)]
    threads: Option<usize>,

    /// Kernels to use [default: the best]
    #[arg(long, value_name = "NAME")]
    isa: Option<String>,

    /// Measure only the disk
    #[arg(long)]
    storage_only: bool,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(flags: &Flags, stdout: &mut dyn Write) -> Result<Status, Failure> {
    let isa = load::choose_isa(flags.isa.as_deref())?;
    let own = || std::env::current_exe().map_err(|error| Failure::Failed(format!("this program: {error}")));
    let file = flags.file.clone().map_or_else(own, Ok)?;
    let n_threads = flags.threads.unwrap_or_else(smidgen_host::machine::n_cores);
    let pool = Pool::new(n_threads);
    let workers: &dyn Workers = if n_threads == 1 { &Single } else { &pool };

    let storage = probe::storage_rate(&file)?;
    // Disks that were measured before are kept, and weights when only the disk is asked for.
    let mut measured = Probe::kept().unwrap_or_default();
    measured.schema = SCHEMA.to_owned();
    measured.storage_bytes_per_s.insert(probe::disk(&file), storage);
    if !flags.storage_only {
        let bar = Bar::new();
        bar.begin("types", TYPES.iter().filter(|row| row.0.is_supported()).count() as u64);
        measured.weights_bytes_per_s = probe::weights_rates(isa, workers, &mut || bar.advance(1));
        bar.end();
        measured.unpacking_bytes_per_s = probe::unpacking_rates();
        measured.isa = isa.name().to_owned();
        measured.threads = workers.n_workers();
    }
    measured.keep()?;
    match flags.json {
        true => report::json(stdout, &measured)?,
        false => report::write(stdout, for_people(&measured, &file, storage).as_bytes())?,
    }
    Ok(Status::Done)
}

fn for_people(probe: &Probe, file: &std::path::Path, storage: f64) -> String {
    let rate = |bytes: f64| format!("{}/s", report::bytes(bytes as u64));
    let mut table = Table::default();
    for (kind, bytes) in &probe.weights_bytes_per_s {
        table.row([kind.clone(), rate(*bytes)]);
    }
    let unpacking = probe.unpacking_bytes_per_s;
    format!(
        "{}: read in order at {}\nweights multiplied by {} threads with {}:\n{}packed weights unpacked by one core: {} where they are coded, {} where not\n",
        file.display(),
        rate(storage),
        probe.threads,
        probe.isa,
        table.render(&[1]),
        rate(unpacking.coded),
        rate(unpacking.plain),
    )
}
