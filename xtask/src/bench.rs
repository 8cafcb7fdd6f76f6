//! Benchmarks beside other programs, and the records they leave.

use crate::step::{Counts, ONE, Report, Stop, cargo, program, run, works};
use std::path::PathBuf;
use std::process::Stdio;

/// What pip installs: llama.cpp, from source.
const REQUIREMENTS: &str = "tools/bench_requirements.txt";
/// Where it lies; its stamp is a copy of the requirements.
const ENVIRONMENT: &str = "target/bench/peers";
/// Where llama.cpp's own command is built.
const COMPLETION: &str = "target/bench/llama.cpp";
/// Where models are made.
const MODELS: &str = "target/bench/models";
/// A Python that has the requirements already, to be used instead.
const PYTHON: &str = "SMIDGEN_PEERS_PYTHON";

/// Times smidgen beside llama.cpp; `arguments` go to tools/bench_peers.py.
pub(crate) fn peers(report: &mut Report, arguments: &[String]) {
    if is_ready(report) {
        let words = [&[MODELS.to_owned()], arguments].concat();
        report.step("bench: peers", |_| record("tools/bench_peers.py", &words, "peers"));
    }
}

/// Times whole processes of smidgen and llama.cpp; `arguments` go to tools/bench_start.py.
pub(crate) fn start(report: &mut Report, arguments: &[String]) {
    if is_ready(report) && report.step("bench: llama.cpp's command", |_| completion()) {
        let words = [&[format!("{COMPLETION}/build/bin/llama-completion"), MODELS.to_owned()], arguments].concat();
        report.step("bench: start", |_| record("tools/bench_start.py", &words, "start"));
    }
}

/// Runs smidgen and llama.cpp under the same memory caps, and finds the least memory in which small models generate.
pub(crate) fn ram(report: &mut Report) {
    if !is_ready(report) {
        return;
    }
    let files = |names: &[&str]| -> Vec<String> { names.iter().map(|name| format!("{MODELS}/{name}.gguf")).collect() };
    let capped = files(&["smol135-Q8_0", "qwen3-0.6B-Q8_0"]);
    report.step("bench: under caps", |_| record("tools/bench_ram.py", &capped, "ram"));
    let small = files(&["stories260K-F32", "s15M-Q8_0", "gpt2-124-Q4_0", "smol135-Q2_W"]);
    report.step("bench: least memory", |_| record("tools/ram_floor.py", &small, "ram-floor"));
}

/// Builds and installs what a comparison needs.
fn is_ready(report: &mut Report) -> bool {
    let built = report.step("bench: release build", |_| run(&mut cargo(&["build", "--release", "--locked"])));
    let installed = report.step("bench: llama.cpp", |_| environment());
    built && installed && report.step("bench: models", |_| models())
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
    let stamp = root.join(ENVIRONMENT).join("installed.txt");
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(ONE);
    }
    if !works(&mut program("python3", &["-c", "import ensurepip, venv"])) {
        return Err(Stop::Skipped("there is no python3 with venv".into()));
    }
    run(&mut program("python3", &["-m", "venv", "--clear", ENVIRONMENT]))?;
    let words = ["-m", "pip", "install", "--quiet", "--no-binary", "llama-cpp-python", "-r", REQUIREMENTS];
    run(program(&python(), &words).env("CMAKE_ARGS", "-DGGML_NATIVE=ON"))?;
    std::fs::write(&stamp, wanted).map_err(|error| format!("{}: {error}", stamp.display()))?;
    Ok(ONE)
}

/// Builds llama.cpp's own command, of which Python's package has only the library.
fn completion() -> Result<Counts, Stop> {
    run(&mut program(&python(), &["tools/build_llama_completion.py", COMPLETION]))
}

/// Makes the models that are not there yet.
fn models() -> Result<Counts, Stop> {
    let data = crate::shared_data().unwrap_or_else(|| PathBuf::from("../shared/data"));
    let data = data.to_string_lossy().into_owned();
    run(&mut program(&python(), &["tools/bench_models.py", "target/release/smidgen", &data, MODELS]))
}

/// Runs a tool and keeps its record of `what` under today's date.
fn record(tool: &str, arguments: &[String], what: &str) -> Result<Counts, Stop> {
    let mut command = program(&python(), &[tool, "target/release/smidgen"]);
    let output = command
        .args(arguments)
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("{tool} did not start: {error}"))?;
    if !output.status.success() {
        return Err(Stop::Failed(format!("{tool} ended with {}", output.status)));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let date = text.split("\"date\": \"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or("undated");
    let path = crate::root().join(format!("bench/record/{date}-{what}.json"));
    std::fs::write(&path, text.as_bytes()).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(ONE)
}
