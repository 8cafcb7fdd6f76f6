//! What a run takes at its peak, as the system counts it, against what was planned.
#![cfg(target_os = "linux")]

mod given;

use given::{shared, static_build};
use smidgen_core::simd::Isa;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

const TALES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tales.gguf");
const MIB: u64 = 1 << 20;

/// Planned, predicted and peak bytes.
struct Measured {
    planned: u64,
    predicted: u64,
    peak: u64,
}

/// What a run of `binary` takes.
fn measure(binary: &str, flags: &[&str]) -> Measured {
    measure_command(binary, &[&["run", "--temp", "0", "--ignore-eos"], flags].concat())
}

/// What a command takes that says so.
fn measure_command(binary: &str, flags: &[&str]) -> Measured {
    let report = json(binary, flags);
    let bytes = |key: &str| report[key].as_u64().unwrap();
    let (planned, peak) = (bytes("planned_bytes"), bytes("peak_bytes"));
    let measured = Measured { planned, predicted: planned + bytes("process_bytes"), peak };
    println!("{flags:?}: predicted {}, peak {peak}", measured.predicted);
    measured
}

fn json(binary: &str, flags: &[&str]) -> serde_json::Value {
    let output = Command::new(binary).args(flags).arg("--json").stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{flags:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Holds what `measure` gives to 2 % or 256 KiB (for each of `n_models`) of what was predicted, and below the cap of `way` if it has
/// one. Linux counts the pages of a process on each processor by itself and adds them up now and then, so that a peak that nobody
/// looked at in time is told too small: of two runs the larger is nearer to the truth.
fn hold(what: &str, way: &[&str], n_models: u64, measure: &dyn Fn() -> Measured) {
    const RUNS: usize = 2;
    let cap = cap_in(way).unwrap_or(u64::MAX);
    let (mut peak, mut least, mut predicted) = (0, u64::MAX, 0);
    for _ in 0..RUNS {
        let measured = measure();
        least = measured.peak.min(least);
        peak = measured.peak.max(peak);
        predicted = measured.predicted;
    }
    // After memory was given back the counts may be as much too large, but what is really beyond the cap is so in every run.
    assert!(least <= cap, "{what} {way:?}: {least} of {cap}");
    let kib = (peak as i64 - predicted as i64) / 1024;
    println!("{what} {way:?}: predicted {predicted}, peak {peak}, {kib} KiB");
    let allowed = (peak / 50).max(n_models * MIB / 4);
    assert!(peak.abs_diff(predicted) <= allowed, "{what} {way:?}: peak {peak}, predicted {predicted}");
}

/// The kernels that this processor has beside those that it would choose, which other processors do.
fn other_kernels() -> Vec<&'static str> {
    let mut names: Vec<_> = Isa::available().map(Isa::name).collect();
    names.pop();
    names
}

/// The bytes that follow `--ram`.
fn cap_in(way: &[&str]) -> Option<u64> {
    let at = way.iter().position(|word| *word == "--ram")?;
    let (number, unit) = way[at + 1].split_at(way[at + 1].len() - 1);
    Some(number.parse::<u64>().unwrap() << if unit == "K" { 10 } else { 20 })
}

#[test]
fn a_larger_context_costs_what_the_plan_says() {
    let binary = static_build().unwrap_or_else(|| env!("CARGO_BIN_EXE_smidgen").to_owned());
    let ids = "7 ".repeat(500);
    let peak = |context: &str, n: usize| {
        measure(&binary, &[TALES, "--no-mmap", "-n", "1", "-b", "8", "-c", context, "--ids", &ids[..2 * n]])
    };
    let (small, large) = (peak("128", 128), peak("500", 500));
    let (planned, measured) = (large.planned - small.planned, large.peak.saturating_sub(small.peak));
    assert!(planned > MIB, "the two plans differ: {planned}");
    // A quarter for what differs from run to run: which of the system's pages happen to be mapped.
    assert!(measured <= planned + MIB / 4, "{measured} bytes more for {planned} planned");
    assert!(measured + MIB / 4 >= planned, "{measured} bytes more for {planned} planned: the plan counts too much");
}

#[test]
fn the_peak_is_the_plan_and_no_more_than_the_process_was_said_to_take() {
    let Some(binary) = static_build() else { return };
    for flags in [&["-c", "64"][..], &["-c", "512", "-b", "64"], &["-c", "128", "--ctk", "q8_0", "--ctv", "q8_0"]] {
        for _ in 0..3 {
            let Measured { predicted, peak, .. } =
                measure(&binary, &[&[TALES, "--no-mmap", "-p", "Once upon a time", "-n", "40"], flags].concat());
            assert!(peak <= predicted, "{flags:?}: peak {peak}, predicted {predicted}");
        }
    }
}

/// Tales with weights of six types, each of which brings its own kernels.
fn of_many_types(binary: &str, directory: &Path) -> String {
    let mixed = directory.join("mixed.gguf").to_str().unwrap().to_owned();
    let mut command = Command::new(binary);
    command.args(["quantize", TALES, &mixed, "Q8_W", "--requantize"]);
    for rule in ["attn_q=q8_0", "attn_k=q5_0", "attn_v=iq4_nl", "ffn_up=f16", "ffn_down=q6_w"] {
        command.args(["--type", rule]);
    }
    assert!(command.stderr(Stdio::null()).stdout(Stdio::null()).status().unwrap().success());
    mixed
}

/// Tales in BF16, packed.
fn packed(binary: &str, directory: &Path) -> String {
    let name = |what: &str| directory.join(what).to_str().unwrap().to_owned();
    let (plain, packed) = (name("plain.gguf"), name("packed.gguf"));
    for made in [&["convert", TALES, &plain, "--outtype", "bf16"][..], &["pack", &plain, &packed]] {
        assert!(Command::new(binary).args(made).stderr(Stdio::null()).status().unwrap().success());
    }
    packed
}

/// Models with weights of every kind that brings code of its own.
fn models(binary: &str, directory: &Path) -> Vec<String> {
    let mut models = vec![TALES.to_owned(), of_many_types(binary, directory), packed(binary, directory)];
    models.extend(shared("gguf/stories260K-v1-f32.gguf"));
    models
}

/// However the weights are held: whole, mapped within a cap, or in parts.
const WAYS: [&[&str]; 7] =
    [&[], &["--no-mmap"], &["--mlock"], &["--ram", "6M"], &["--ram", "2300K"], &["--ram", "2000K"], &["-t", "2"]];

/// The peak of a command that uses all of its context is what `plan` said, to 2 % or 256 KiB, however the weights are held.
#[test]
fn the_predicted_peak_of_a_run_is_the_measured_one() {
    let Some(binary) = static_build() else { return };
    let directory = tempfile::tempdir().unwrap();
    let ids = "7 ".repeat(40);
    for model in models(&binary, directory.path()) {
        for way in WAYS {
            let flags = [&[model.as_str(), "--ids", &ids, "-n", "25", "-c", "64"], way].concat();
            hold(&format!("run {model}"), way, 1, &|| measure(&binary, &flags));
        }
        let flags = [&model, "--ids", &ids, "-n", "25", "-c", "64", "--draft", &model];
        hold(&format!("run --draft {model}"), &[], 2, &|| measure(&binary, &flags));
    }
}

/// The same where pages of the program cannot be watched, as before Linux 6.7, so that more of it is mapped.
#[test]
fn the_predicted_peak_is_the_measured_one_where_pages_cannot_be_watched() {
    let Some(binary) = static_build() else { return };
    let directory = tempfile::tempdir().unwrap();
    let ids = "7 ".repeat(40);
    let command = ["SMIDGEN_NO_USERFAULTFD=1", &binary, "run", "--temp", "0", "--ignore-eos", "--ids", &ids];
    for model in models(&binary, directory.path()) {
        for way in WAYS {
            let flags = [&command[..], &["-n", "25", "-c", "64", &model], way].concat();
            hold(&format!("unwatched run {model}"), way, 1, &|| measure_command("env", &flags));
        }
    }
}

/// The same on other processors: each set of kernels is code of its own.
#[test]
fn the_predicted_peak_is_the_measured_one_with_every_set_of_kernels() {
    let Some(binary) = static_build() else { return };
    let directory = tempfile::tempdir().unwrap();
    let ids = "7 ".repeat(40);
    for model in models(&binary, directory.path()) {
        for isa in other_kernels() {
            for way in [&[][..], &["--ram", "6M"], &["--ram", "2000K"]] {
                let flags = [&[&model, "--ids", &ids, "-n", "25", "-c", "64", "--isa", isa], way].concat();
                hold(&format!("run --isa {isa} {model}"), way, 1, &|| measure(&binary, &flags));
            }
            let flags = ["bench", &model, "-p", "64", "-n", "64", "-r", "2", "--ram", "2300K", "--isa", isa];
            hold(&format!("bench --isa {isa} {model}"), &flags[8..10], 1, &|| measure_command(&binary, &flags));
        }
    }
}

/// With a full context, of whose caches most are in a file.
#[test]
fn the_predicted_peak_is_the_measured_one_with_caches_in_a_file() {
    let Some(binary) = static_build() else { return };
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let ids = "7 ".repeat(400);
    let common = ["run", TALES, "--temp", "0", "--ignore-eos", "--ids", &ids, "-n", "112", "-c", "512"];
    let whole = json(&binary, &common);
    for cap in ["2000K", "2300K"] {
        let flags = [&common[..], &["--ram", cap, "--spill-dir", scratch.path().to_str().unwrap()]].concat();
        let report = json(&binary, &flags);
        assert!(report["spilled_bytes"].as_u64().unwrap() > MIB / 2, "{report}");
        assert_eq!(report["ids"], whole["ids"], "with --ram {cap}");
        hold("run, spilling", &["--ram", cap], 1, &|| measure_command(&binary, &flags));
    }
}

#[test]
fn the_predicted_peak_of_bench_is_the_measured_one() {
    let Some(binary) = static_build() else { return };
    let directory = tempfile::tempdir().unwrap();
    for model in models(&binary, directory.path()) {
        for way in WAYS {
            let flags = [&["bench", &model, "-p", "64", "-n", "64", "-r", "2"], way].concat();
            hold(&format!("bench {model}"), way, 1, &|| measure_command(&binary, &flags));
        }
    }
}

/// A process that is killed when the test is done with it, or has failed.
struct Running(Child);

impl Running {
    fn start(binary: &str, flags: &[&str]) -> Self {
        let mut command = Command::new(binary);
        command.args(flags).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        Running(command.spawn().unwrap())
    }

    /// Looks how much it takes until it has ended, and gives the most.
    fn watch(&self) -> JoinHandle<u64> {
        let path = format!("/proc/{}/status", self.0.id());
        std::thread::spawn(move || {
            let mut peak = 0;
            while let Some(now) = kib_in(&path, "VmHWM:") {
                peak = now.max(peak);
                std::thread::sleep(Duration::from_millis(1));
            }
            peak
        })
    }

    /// Ends it and gives the most that it took: that was `watched`, or is counted page by page now.
    fn end(self, watched: JoinHandle<u64>) -> u64 {
        let now = kib_in(&format!("/proc/{}/smaps_rollup", self.0.id()), "Rss:").unwrap_or(0);
        drop(self);
        watched.join().unwrap().max(now)
    }
}

/// The bytes that a file of /proc says after `name`, of a process that has not ended.
fn kib_in(path: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() << 10)
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended already needs no end.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What `plan` says that `command` will take.
fn predict(binary: &str, command: &str, flags: &[&str]) -> u64 {
    json(binary, &[&["plan", "--for", command], flags].concat())["total_bytes"].as_u64().unwrap()
}

#[test]
fn the_predicted_peak_of_chat_is_the_measured_one() {
    let Some(binary) = static_build() else { return };
    let directory = tempfile::tempdir().unwrap();
    let name = |what: &str| directory.path().join(what).to_str().unwrap().to_owned();
    let (template, saved) = (name("template"), name("saved"));
    std::fs::write(&template, "{% for message in messages %}{{ message.content }} {% endfor %}").unwrap();
    let talk = |flags: &[&str]| {
        let own = ["--ignore-eos", "--chat-template-file", &template, "-n", "20"];
        let mut chat = Running::start(&binary, &[&["chat"], flags, &own].concat());
        let watched = chat.watch();
        let stdin = chat.0.stdin.as_mut().unwrap();
        write!(stdin, "Once upon a time\nThere was a little girl\n/save {saved}\n").unwrap();
        stdin.flush().unwrap();
        // What is saved last is saved when everything is said.
        while !Path::new(&saved).exists() {
            assert!(chat.0.try_wait().unwrap().is_none(), "{flags:?}: the chat has ended");
            std::thread::sleep(Duration::from_millis(5));
        }
        std::fs::remove_file(&saved).unwrap();
        chat.end(watched)
    };
    for model in models(&binary, directory.path()) {
        // A conversation has no room in the least of the caps.
        for way in WAYS.into_iter().filter(|way| !way.contains(&"2000K")) {
            let flags = [&[model.as_str(), "--temp", "0", "-c", "64"], way].concat();
            let planned = predict(&binary, "chat", &flags);
            let measure = || Measured { planned, predicted: planned, peak: talk(&flags) };
            hold(&format!("chat {model}"), way, 1, &measure);
        }
    }
}

/// Sends these bodies at once, and waits until all are answered.
fn ask(address: &str, bodies: &[String]) {
    fn send<'a>(address: &str, body: &'a str) -> (TcpStream, &'a str) {
        let mut stream = TcpStream::connect(address).unwrap();
        let head = format!("POST /v1/completions HTTP/1.1\r\nHost: smidgen\r\nContent-Length: {}\r\n\r\n", body.len());
        // All but the end, so that every connection has its body in memory.
        write!(stream, "{head}{}", &body[..body.len() - 1]).unwrap();
        (stream, &body[body.len() - 1..])
    }
    let mut streams: Vec<_> = bodies.iter().map(|body| send(address, body)).collect();
    std::thread::sleep(Duration::from_millis(100));
    streams.iter_mut().for_each(|(stream, rest)| stream.write_all(rest.as_bytes()).unwrap());
    for (stream, _) in &mut streams {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 "), "{answer}");
    }
}

/// As many clients as there may be ask as much as they may.
#[test]
fn the_predicted_peak_of_serve_is_the_measured_one() {
    let Some(binary) = static_build() else { return };
    let directory = tempfile::tempdir().unwrap();
    let body = |prompt: &str, n: usize| {
        let body =
            serde_json::json!({"prompt": prompt.repeat(n), "max_tokens": 60, "temperature": 1.0, "stream": true});
        body.to_string()
    };
    let small = vec![body("Once upon a time ", 1); 4];
    let large = vec![body("Once upon a time ", smidgen_cli::budget::body_bytes(64) / 17 - 8); 4];
    let serve = |flags: &[&str]| {
        let mut server = Running::start(&binary, &[&["serve", "--port", "0"], flags].concat());
        let watched = server.watch();
        let mut lines = BufReader::new(server.0.stderr.take().unwrap()).lines();
        let line = lines.find_map(|line| line.ok().filter(|line| line.contains("http://"))).expect("an address");
        let address = line.split("http://").nth(1).unwrap().split(' ').next().unwrap();
        for bodies in [&small, &large, &large, &small] {
            ask(address, bodies);
        }
        server.end(watched)
    };
    for model in models(&binary, directory.path()) {
        for way in [&[][..], &["--ram", "6M"], &["--ram", "2800K"], &["-t", "2"]] {
            let flags = [&[model.as_str(), "-c", "64"], way].concat();
            let planned = predict(&binary, "serve", &flags);
            let measure = || Measured { planned, predicted: planned, peak: serve(&flags) };
            hold(&format!("serve {model}"), way, 1, &measure);
        }
    }
}

/// One model or two side by side, and all moments at once or in passes.
#[test]
fn the_predicted_peak_of_what_reads_a_text_is_the_measured_one() {
    let Some(binary) = static_build() else { return };
    let directory = tempfile::tempdir().unwrap();
    let (text, out) = (directory.path().join("text"), directory.path().join("imatrix.gguf"));
    let story = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/eval/story.txt");
    std::fs::write(&text, std::fs::read_to_string(story).unwrap().repeat(20)).unwrap();
    let (text, out) = (text.to_str().unwrap(), out.to_str().unwrap());
    let reading = |chunks| ["-f", text, "-c", "64", "--chunks", chunks];
    for model in models(&binary, directory.path()) {
        for way in [&[][..], &["--no-mmap"], &["--ram", "6M"], &["--ram", "2600K"], &["-t", "2"]] {
            let flags = [&["eval", &model], &reading("8")[..], way].concat();
            hold(&format!("eval {model}"), way, 1, &|| measure_command(&binary, &flags));
        }
        if !model.contains("stories260K") {
            for way in [&[][..], &["--ram", "5M"], &["-b", "64"]] {
                let flags = [&["eval", &model, "--against", TALES], &reading("100")[..], way].concat();
                hold(&format!("eval --against {model}"), way, 2, &|| measure_command(&binary, &flags));
            }
        }
    }
    for more in [&[][..], &["--hessian"], &["--hessian", "--ram", "6M"]] {
        let flags = [&["calibrate", TALES, "-o", out], &reading("8")[..], more].concat();
        hold("calibrate", more, 1, &|| measure_command(&binary, &flags));
    }
}

#[test]
fn stories260k_runs_in_three_megabytes_and_in_two_when_quantized() {
    let (Some(binary), Some(wide)) = (static_build(), shared("gguf/stories260K-v1-f32.gguf")) else { return };
    let directory = tempfile::tempdir().unwrap();
    let small = directory.path().join("q8_0.gguf").to_str().unwrap().to_owned();
    let convert = ["convert", &wide, &small, "--outtype", "q8_0", "--fallback", "f16"];
    assert!(Command::new(&binary).args(convert).stderr(Stdio::null()).status().unwrap().success());
    for (model, limit) in [(&wide, 3 * MIB), (&small, 2 * MIB)] {
        for more in [&["--no-mmap"][..], &[]] {
            let flags = [&[model.as_str(), "-c", "64", "-p", "Once upon a time"], more].concat();
            let Measured { predicted, peak, .. } = measure(&binary, &flags);
            assert!(peak < limit, "{flags:?}: peak {peak} of {limit}");
            assert!(peak <= predicted, "{flags:?}: peak {peak}, predicted {predicted}");
        }
    }
}
