//! Fuzzing: one target for each parser of files that come from strangers, and a canary that must be caught.

use crate::install;
use crate::step::{self, Counts, ONE, Report, Stop, program, run};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A parser to fuzz.
struct Target {
    name: &'static str,
    /// How the names of files end that show it what its input looks like.
    seeds: &'static [&'static str],
    /// The longest input.
    max_bytes: usize,
}

const TARGETS: &[Target] = &[
    Target { name: "gguf", seeds: &[".gguf"], max_bytes: 1 << 18 },
    Target { name: "imatrix", seeds: &["imatrix-gpt2-untied-odd.gguf"], max_bytes: 1 << 14 },
    Target { name: "packed", seeds: &["packed-index.bin"], max_bytes: 1 << 13 },
    Target { name: "safetensors", seeds: &[".safetensors"], max_bytes: 1 << 17 },
    Target { name: "tokenizer_json", seeds: &["tokenizer.json"], max_bytes: 1 << 15 },
    Target { name: "tokenizer_model", seeds: &["tokenizer.model"], max_bytes: 1 << 14 },
    Target { name: "llama2c", seeds: &["llama2c.bin"], max_bytes: 1 << 12 },
    Target { name: "llama2c_tokenizer", seeds: &["tok512.bin", ".tok.bin", "tokenizer.bin"], max_bytes: 1 << 14 },
];

/// A target with a planted bug. A rig that does not find it would find nothing else either.
const CANARY: Target = Target { name: "canary", seeds: &[], max_bytes: 64 };
const CANARY_SECONDS: u32 = 60;
/// The exit status of libFuzzer when it has found a crash.
const CRASH: i32 = 77;
/// The most memory that the process may take and that one allocation may ask for, in MiB.
const RSS_MIB: usize = 1024;
const ALLOCATION_MIB: usize = 64;
/// The longest that one input may take, in seconds, under a sanitizer on a busy machine.
const INPUT_SECONDS: u32 = 5;
/// A run of fewer inputs has not fuzzed anything.
const LEAST_INPUTS: u64 = 1000;

/// Builds the targets, sees the canary caught, then fuzzes each parser for `seconds`, one on each CPU.
pub(crate) fn all(report: &mut Report, seconds: u32, only: Option<&str>) {
    if !report.step("fuzz: build", |_| build()) || !binary(&CANARY).is_file() {
        return;
    }
    report.step("fuzz: canary", |_| canary());
    let targets: Vec<&Target> = TARGETS.iter().filter(|target| target.name.contains(only.unwrap_or(""))).collect();
    let n_cpus = std::thread::available_parallelism().map_or(1, |n| n.get());
    for some in targets.chunks(n_cpus) {
        let names: Vec<&str> = some.iter().map(|target| target.name).collect();
        report.step(&format!("fuzz: {} for {seconds} s", names.join(", ")), |_| together(some, seconds));
    }
}

/// Builds every target, with the kernels of the definition alone: parsers are what is fuzzed, and with every kernel it takes ten minutes.
pub(crate) fn build() -> Result<Counts, Stop> {
    let fuzz = install::tool("cargo-fuzz").ok_or(Stop::Skipped("cargo-fuzz is not installed".into()))?;
    if install::sysroot("nightly").is_none() {
        return Err(Stop::Skipped("there is no nightly toolchain".into()));
    }
    run(program(&fuzz, &["build"]).env("RUSTUP_TOOLCHAIN", "nightly").env("SMIDGEN_ISA", "scalar"))
}

fn folder() -> PathBuf {
    crate::root().join("fuzz")
}

fn binary(target: &Target) -> PathBuf {
    folder().join("target/x86_64-unknown-linux-gnu/release").join(target.name)
}

/// The command that fuzzes `target`; what it learns stays in `fuzz/corpus`, what it finds in `fuzz/artifacts`.
fn command(target: &Target, seconds: u32) -> Result<Command, Stop> {
    let (corpus, artifacts) = (folder().join("corpus").join(target.name), folder().join("artifacts").join(target.name));
    for path in [&corpus, &artifacts] {
        std::fs::create_dir_all(path).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    let mut command = program(&binary(target).to_string_lossy(), &["-print_final_stats=1", "-verbosity=0"]);
    command.arg(format!("-max_total_time={seconds}"));
    command.arg(format!("-max_len={}", target.max_bytes));
    command.arg(format!("-timeout={INPUT_SECONDS}"));
    command.arg(format!("-rss_limit_mb={RSS_MIB}"));
    command.arg(format!("-malloc_limit_mb={ALLOCATION_MIB}"));
    command.arg(format!("-artifact_prefix={}/", artifacts.display()));
    command.arg(corpus);
    Ok(command)
}

/// The planted bug must be found, and found as a crash.
fn canary() -> Result<Counts, Stop> {
    let mut command = command(&CANARY, CANARY_SECONDS)?;
    let output = command.output().map_err(|error| format!("canary: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(CRASH) if said.contains("out of range for slice") => Ok(ONE),
        _ => Err(Stop::Failed(format!("the planted bug was not found; status {}", output.status))),
    }
}

/// Fuzzes `targets` at the same time.
fn together(targets: &[&Target], seconds: u32) -> Result<Counts, Stop> {
    let mut counts = Counts::default();
    let outcomes: Vec<Result<u64, Stop>> = std::thread::scope(|scope| {
        let threads: Vec<_> = targets.iter().map(|target| scope.spawn(|| fuzz(target, seconds))).collect();
        let gone = || Err(Stop::Failed("its thread panicked".into()));
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| gone())).collect()
    });
    for (target, outcome) in targets.iter().zip(outcomes) {
        match outcome {
            Ok(inputs) => {
                counts.passed += 1;
                step::say(&format!("{}: {inputs} inputs", target.name));
            }
            Err(Stop::Failed(reason) | Stop::Skipped(reason)) => {
                counts.failed += 1;
                step::say(&format!("{}: {reason}", target.name));
            }
        }
    }
    Ok(counts)
}

/// Fuzzes one target and says how many inputs it has tried.
fn fuzz(target: &Target, seconds: u32) -> Result<u64, Stop> {
    let mut command = command(target, seconds)?;
    let seeds = folder().join("target/seeds").join(target.name);
    plant(target, &seeds)?;
    let output = command.arg(seeds).output().map_err(|error| format!("{}: {error}", target.name))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(Stop::Failed(format!("ended with {}\n{said}", output.status)));
    }
    match inputs(&said) {
        Some(n) if n >= LEAST_INPUTS => Ok(n),
        n => Err(Stop::Failed(format!("tried only {} inputs\n{said}", n.unwrap_or(0)))),
    }
}

/// Reads `stat::number_of_executed_units: 524288`.
fn inputs(said: &str) -> Option<u64> {
    let line = said.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))?;
    line.trim().parse().ok()
}

/// Copies into `folder` the files that show the target what its input looks like.
fn plant(target: &Target, folder: &Path) -> Result<(), Stop> {
    let fail = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    std::fs::create_dir_all(folder).map_err(|error| fail(folder, error))?;
    let root = crate::root();
    let mut places = vec![root.join("testdata"), root.join("target/ports"), root.join("fuzz/seeds").join(target.name)];
    places.extend(crate::shared_data());
    places.retain(|place| place.is_dir());
    let mut n = 0;
    while let Some(place) = places.pop() {
        for path in step::listing(&place)? {
            if path.is_dir() {
                places.push(path);
                continue;
            }
            let is_seed = target.seeds.iter().any(|ending| path.to_string_lossy().ends_with(ending));
            if is_seed && path.metadata().is_ok_and(|metadata| metadata.len() <= target.max_bytes as u64) {
                let seed = folder.join(format!("{n}"));
                std::fs::copy(&path, &seed).map_err(|error| fail(&path, error))?;
                n += 1;
            }
        }
    }
    if n == 0 {
        return Err(Stop::Failed("there is no seed to start from".into()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_inputs_is_read() {
        let said = "Done 99 runs\nstat::number_of_executed_units: 524288\nstat::average_exec_per_sec:     1\n";
        assert_eq!(inputs(said), Some(524288));
        assert_eq!(inputs("Done 99 runs"), None);
    }

    #[test]
    fn every_target_is_a_program_of_the_fuzz_crate() {
        for target in TARGETS.iter().chain([&CANARY]) {
            let path = folder().join("fuzz_targets").join(target.name).with_extension("rs");
            assert!(path.is_file(), "{} is not there", path.display());
        }
        let files = step::listing(&folder().join("fuzz_targets")).unwrap_or_default();
        assert_eq!(files.len(), TARGETS.len() + 1, "a target that nobody runs");
    }
}
