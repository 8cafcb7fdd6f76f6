//! Benchmarks beside other programs, and the records they leave.

use crate::command;
use crate::step::{Counts, ONE, Report, Stop, cargo, program, run, works};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What pip installs: llama.cpp, from source.
const REQUIREMENTS: &str = "tools/bench_requirements.txt";
/// Where it lies; its stamp is a copy of the requirements.
const ENVIRONMENT: &str = "target/bench/peers";
/// Where llama.cpp's own command is built.
const COMPLETION: &str = "target/bench/llama.cpp";
/// The command as this machine links it.
const RELEASE: &str = "target/release/smidgen";
/// Where models are made.
const MODELS: &str = "target/bench/models";
/// A Python that has the requirements already, to be used instead.
const PYTHON: &str = "SMIDGEN_PEERS_PYTHON";

/// Models that are timed beside llama.cpp, by the name of their record and their table in the README.
const PEERS: [(&str, &str); 4] =
    [("small", "stories260K,s15M"), ("smol", "smol135"), ("gpt2", "gpt2-124"), ("qwen3", "qwen3-0.6B")];

/// The types that `tools/bench_peers.py` looks for unless it is told others.
const TYPES: &str = "F32,F16,Q8_0,Q4_0,Q4_K,Q2_K,IQ2_XXS,Q2_W";

/// Times smidgen beside llama.cpp on the models that `only` names, or all; `arguments` go to tools/bench_peers.py.
pub(crate) fn peers(report: &mut Report, only: &[String], arguments: &[String]) {
    if let Some(name) = only.iter().find(|&name| PEERS.iter().all(|(peer, _)| peer != name)) {
        let known = PEERS.map(|(name, _)| name).join(", ");
        report.step("bench: peers", |_| Err(Stop::Failed(format!("there is no {name:?}, but {known}"))));
        return;
    }
    let wanted: Vec<_> =
        PEERS.iter().filter(|(name, _)| only.is_empty() || only.iter().any(|only| only == name)).collect();
    let asked = arguments.iter().position(|word| word == "--types").and_then(|at| arguments.get(at + 1));
    let types = asked.map_or(TYPES, String::as_str).split(',');
    let names = wanted.iter().flat_map(|(_, models)| models.split(','));
    let models: Vec<String> = names.flat_map(|name| types.clone().map(move |kind| format!("{name}:{kind}"))).collect();
    if !is_ready(report, &models.iter().map(String::as_str).collect::<Vec<_>>()) {
        return;
    }
    for (name, models) in wanted {
        let words = [&[MODELS.to_owned(), "--models".into(), (*models).into()], arguments].concat();
        let what = format!("peers-{name}");
        report.step(&format!("bench: {what}"), |_| record("tools/bench_peers.py", &words, &what));
    }
}

/// The models that `tools/bench_start.py` starts unless it is told others.
const STARTED: [&str; 6] =
    ["stories260K:F32", "stories260K:Q8_0", "s15M:Q8_0", "smol135:Q8_0", "smol135:Q4_0", "gpt2-124:Q4_0"];

/// Times whole processes of llama.cpp and of smidgen's static build, as a release has it; `arguments` go to tools/bench_start.py.
pub(crate) fn start(report: &mut Report, arguments: &[String]) {
    let is_ready = is_ready(report, &STARTED) && report.step("bench: static build", |_| command::build());
    if is_ready && report.step("bench: llama.cpp's command", |_| completion()) {
        let words = [&[format!("{COMPLETION}/build/bin/llama-completion"), MODELS.to_owned()], arguments].concat();
        report.step("bench: start", |_| record_of(&command::place(), "tools/bench_start.py", &words, "start"));
    }
}

/// The models that `tools/bench_ops.py` times unless it is told others.
const READ: [&str; 4] = ["smol135:Q8_0", "smol135:Q4_0", "gpt2-124:Q8_0", "gpt2-124:Q4_0"];

/// Holds the speed at which new tokens read their weights against that of memory; `arguments` go to tools/bench_ops.py.
pub(crate) fn ops(report: &mut Report, arguments: &[String]) {
    if is_ready(report, &READ) {
        let words = [&[MODELS.to_owned()], arguments].concat();
        report.step("bench: ops", |_| record("tools/bench_ops.py", &words, "ops"));
    }
}

/// Where llama2.c is built, and its models are made.
const LLAMA2C: &str = "target/bench/llama2c";

/// Times smidgen beside llama2.c, whose programs stand in `source`; `arguments` go to tools/bench_llama2c.py.
pub(crate) fn llama2c(report: &mut Report, source: &Path, arguments: &[String]) {
    if is_ready(report, &[]) {
        let words = [source.to_string_lossy().into_owned(), data(), LLAMA2C.into()];
        let words = [&words[..], arguments].concat();
        report.step("bench: llama2.c", |_| record("tools/bench_llama2c.py", &words, "llama2c"));
    }
}

/// The models that run under caps, and those whose least memory is looked for: names and types.
const CAPPED: [&str; 2] = ["smol135:Q8_0", "qwen3-0.6B:Q8_0"];
const SMALL: [&str; 4] = ["stories260K:F32", "s15M:Q8_0", "gpt2-124:Q4_0", "smol135:Q2_W"];

/// Runs smidgen and llama.cpp under the same memory caps, holds smidgen against its bound, and finds the least memory in which small
/// models generate: three records, in about forty minutes.
pub(crate) fn ram(report: &mut Report) {
    if !is_ready(report, &[CAPPED.as_slice(), &SMALL].concat()) {
        return;
    }
    let files = |models: &[&str]| -> Vec<String> {
        models.iter().map(|model| format!("{MODELS}/{}.gguf", model.replace(':', "-"))).collect()
    };
    let capped = files(&CAPPED);
    let flags = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let alone = flags(&["--alone", "--disks", "local", "--seconds", "6", "--minutes", "14", "--rounds", "5"]);
    report.step("bench: against the bound", |_| {
        record("tools/bench_ram.py", &[&capped[..], &alone].concat(), "ram-bound")
    });
    report.step("bench: least memory", |_| record("tools/ram_floor.py", &files(&SMALL), "ram-floor"));
    let limit = flags(&["--minutes", "30"]);
    report.step("bench: under caps", |_| record("tools/bench_ram.py", &[&capped[..], &limit].concat(), "ram"));
}

/// Builds and installs what a comparison needs, and makes `models`: names, with a type or for all types.
fn is_ready(report: &mut Report, models: &[&str]) -> bool {
    let built = report.step("bench: release build", |_| run(&mut cargo(&["build", "--release", "--locked"])));
    let installed = report.step("bench: llama.cpp", |_| environment());
    built && installed && report.step("bench: models", |_| make(models))
}

/// What the compiler of llama.cpp is told: virtual machines announce AMX that the system below does not let them use, and llama.cpp
/// ends with SIGILL there. Without it its other kernels count, which are not slower for one token; the record names the flags.
fn peer_flags() -> &'static str {
    let announced = std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|cpu| cpu.contains(" amx_tile"));
    if announced { "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16" } else { "" }
}

/// A tool run by the Python that has the requirements; it knows how llama.cpp was built.
fn tool(words: &[&str]) -> Command {
    let mut command = program(&python(), words);
    if std::env::var_os("CFLAGS").is_none() && !peer_flags().is_empty() {
        command.env("CFLAGS", peer_flags()).env("CXXFLAGS", peer_flags());
    }
    command
}

/// The Python that runs the tools.
fn python() -> String {
    std::env::var(PYTHON).unwrap_or_else(|_| format!("{ENVIRONMENT}/bin/python"))
}

/// Makes the environment anew when the requirements have changed.
fn environment() -> Result<Counts, Stop> {
    if std::env::var_os(PYTHON).is_some() {
        return Ok(ONE);
    }
    let root = crate::root();
    let wanted =
        std::fs::read_to_string(root.join(REQUIREMENTS)).map_err(|error| format!("{REQUIREMENTS}: {error}"))?;
    let wanted = format!("{wanted}# {}\n", peer_flags());
    let stamp = root.join(ENVIRONMENT).join("installed.txt");
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(ONE);
    }
    if !works(&mut program("python3", &["-c", "import ensurepip, venv"])) {
        return Err(Stop::Skipped("there is no python3 with venv".into()));
    }
    run(&mut program("python3", &["-m", "venv", "--clear", ENVIRONMENT]))?;
    let words = ["-m", "pip", "install", "--quiet", "--no-binary", "llama-cpp-python", "-r", REQUIREMENTS];
    run(tool(&words).env("CMAKE_ARGS", "-DGGML_NATIVE=ON"))?;
    std::fs::write(&stamp, wanted).map_err(|error| format!("{}: {error}", stamp.display()))?;
    Ok(ONE)
}

/// Builds llama.cpp's own command, of which Python's package has only the library.
fn completion() -> Result<Counts, Stop> {
    run(&mut tool(&["tools/build_llama_completion.py", COMPLETION]))
}

/// Makes those of `models` that are not there yet.
fn make(models: &[&str]) -> Result<Counts, Stop> {
    if models.is_empty() {
        return Ok(ONE);
    }
    let words = ["tools/bench_models.py", RELEASE, &data(), MODELS];
    run(&mut tool(&[&words, models].concat()))
}

/// Where the models are that people have.
fn data() -> String {
    let data = crate::shared_data().unwrap_or_else(|| PathBuf::from("../shared/data"));
    data.to_string_lossy().into_owned()
}

/// As [`record_of`], of what this machine links.
fn record(script: &str, arguments: &[String], what: &str) -> Result<Counts, Stop> {
    record_of(RELEASE, script, arguments, what)
}

/// Runs a tool with `smidgen`, keeps its record of `what` under today's date, and writes the documents' tables from it.
fn record_of(smidgen: &str, script: &str, arguments: &[String], what: &str) -> Result<Counts, Stop> {
    let mut command = tool(&[script, smidgen]);
    let output = command
        .args(arguments)
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("{script} did not start: {error}"))?;
    if !output.status.success() {
        return Err(Stop::Failed(format!("{script} ended with {}", output.status)));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let date = text.split("\"date\": \"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or("undated");
    let path = crate::root().join(format!("bench/record/{date}-{what}.json"));
    std::fs::write(&path, text.as_bytes()).map_err(|error| format!("{}: {error}", path.display()))?;
    write_tables(&path)
}

/// Writes the documents' tables anew from a record.
pub(crate) fn write_tables(record: &Path) -> Result<Counts, Stop> {
    run(program("python3", &["tools/tables.py"]).arg(record))
}
