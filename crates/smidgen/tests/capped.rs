//! `--ram` is a promise: a run in a memory cgroup of exactly that size and no swap finishes, and its text is that of a run with
//! all the memory there is.
#![cfg(target_os = "linux")]

mod given;

use smidgen_core::bytes::Endian;
use smidgen_core::quant::Type;
use smidgen_host::gguf_write::Header;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

const TALES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tales.gguf");
const KIB: u64 = 1024;

/// A memory cgroup (version 1 or 2) that may hold so many bytes and swap none of them; removed when dropped.
struct Group {
    path: PathBuf,
    peak: &'static str,
}

impl Group {
    /// A group of its own; `None` where this process may not make one.
    fn new(bytes: u64) -> Option<Self> {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let name = format!("smidgen-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let one = ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.swappiness", "memory.max_usage_in_bytes");
        let two = ("/sys/fs/cgroup", "memory.max", "memory.swap.max", "memory.peak");
        [one, two].into_iter().find_map(|(root, limit, swap, peak)| {
            let group = Group { path: Path::new(root).join(&name), peak };
            std::fs::create_dir(&group.path).ok()?;
            std::fs::write(group.path.join(limit), bytes.to_string()).ok()?;
            std::fs::write(group.path.join(swap), "0").ok()?;
            Some(group)
        })
    }

    /// The line of shell that enters this group, and then becomes the command.
    fn enter(&self) -> String {
        format!("echo $$ > '{}/cgroup.procs' && exec \"$@\"", self.path.display())
    }

    /// Runs the command in this group.
    fn run(&self, args: &[&str]) -> Output {
        shell(&self.enter(), args)
    }

    /// The most that the group held at once.
    fn peak_bytes(&self) -> u64 {
        std::fs::read_to_string(self.path.join(self.peak)).unwrap().trim().parse().unwrap()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Refused while a process is in it; the system removes nothing by itself, and a name is never used twice.
        let _ = std::fs::remove_dir(&self.path);
    }
}

/// The command after a line of shell, with nothing to read.
fn command(before: &str, args: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", before, "sh", &binary()]).args(args).stdin(Stdio::null());
    command
}

/// Runs the command after a line of shell.
fn shell(before: &str, args: &[&str]) -> Output {
    command(before, args).output().unwrap()
}

/// The static build where there is one, which is the one that the limits are for; in the system's cache, since no program can
/// bound what the system reads around its first page, which is more than these limits on a disk that reads far ahead.
fn binary() -> String {
    let path = given::static_build().unwrap_or_else(|| env!("CARGO_BIN_EXE_smidgen").to_owned());
    std::fs::read(&path).unwrap();
    path
}

fn json(output: &Output) -> serde_json::Value {
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A model of several megabytes: the shared one where it is, in f32.
fn models() -> Vec<String> {
    let mut models = vec![TALES.to_owned()];
    models.extend(given::shared("gguf/stories260K-v1-f32.gguf"));
    models
}

const PROMPT: [&str; 8] = ["-p", "Once upon a time", "--temp", "0", "-n", "24", "-c", "64"];

/// The least `--ram` that is not refused, to a KiB.
fn least(model: &str) -> u64 {
    let fits =
        |ram: u64| shell("exec \"$@\"", &["plan", model, "-c", "64", "--ram", &ram.to_string()]).status.success();
    let (mut low, mut high) = (0, 64 << 20);
    while high - low > KIB {
        let middle = low + (high - low) / 2;
        if fits(middle) { high = middle } else { low = middle }
    }
    high
}

#[test]
fn a_run_in_a_cgroup_of_exactly_the_cap_finishes_with_the_same_text() {
    if Group::new(64 << 20).is_none() {
        println!("skipped: runs in a memory cgroup, which this process may not make");
        return;
    }
    for model in models() {
        let run = [&["run", &model, "--json"][..], &PROMPT].concat();
        let want = json(&shell("exec \"$@\"", &run));
        let least = least(&model);
        let most = ["planned_bytes", "process_bytes"].map(|key| want[key].as_u64().unwrap()).iter().sum::<u64>();
        assert!(least < most, "{model}: {least} to {most}");
        for ram in [least, least + (most - least) / 3, least + (most - least) * 3 / 4, most] {
            let text = ram.to_string();
            let group = Group::new(ram).unwrap();
            let got = json(&group.run(&[&run[..], &["--ram", &text]].concat()));
            println!("{model}: {ram} bytes allowed, {} held at most", group.peak_bytes());
            assert_eq!(got["ids"], want["ids"], "{model} in {ram}");
            assert!(group.peak_bytes() <= ram);
            assert_eq!(got["streamed_bytes"].as_u64() == Some(0), ram == most, "{model} in {ram}: {got}");
        }
    }
}

/// What caches do not use yet holds weights: fewer are read while a context is short, none of them is in the way of a full one.
#[test]
fn memory_of_caches_holds_weights_until_they_use_it() {
    for ram in [2600 * KIB, 3400 * KIB] {
        let text = ram.to_string();
        let run = |n_tokens: &str| {
            let words = ["run", TALES, "--json", "-p", "Once upon a time", "--temp", "0", "--ignore-eos", "-c", "512"];
            let words = [&words[..], &["-n", n_tokens, "--ram", &text]].concat();
            let group = Group::new(ram);
            let got = json(&group.as_ref().map_or_else(|| shell("exec \"$@\"", &words), |group| group.run(&words)));
            let peak = group.map(|group| group.peak_bytes());
            assert!(peak.is_none_or(|peak| peak <= ram), "{n_tokens} tokens in {ram}: {peak:?}");
            got
        };
        let (short, long) = (run("24"), run("500"));
        let ids = |run: &serde_json::Value| run["ids"].as_array().unwrap()[..24].to_vec();
        assert_eq!(ids(&short), ids(&long), "in {ram}");
        let read = |run: &serde_json::Value| run["streamed_bytes_per_token"].as_u64().unwrap();
        let full = long["streamed_bytes"].as_u64().unwrap();
        println!("{ram} bytes allowed: {} and {} read for a token, {full} at the end", read(&short), read(&long));
        assert!(read(&short) < read(&long) && read(&long) < full, "in {ram}");
        let plan = ["plan", TALES, "-c", "512", "--ram", &text, "--temp", "0", "--json"];
        let plan = json(&shell("exec \"$@\"", &plan));
        assert_eq!(plan["streamed_bytes"].as_u64(), Some(full), "{plan}");
        assert!(plan["streamed_bytes_at_first"].as_u64().unwrap() <= read(&short), "{plan}");
    }
}

/// A cache that is filled at once takes the memory back at once.
#[test]
fn a_restored_prompt_stays_within_the_cap_too() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let prompt = "Once upon a time there was a little cat. ".repeat(40);
    let words = ["run", TALES, "--json", "-p", &prompt, "--temp", "0", "--ignore-eos", "-c", "512", "-n", "9"];
    let types = ["--ctk", "q8_0", "--ctv", "q8_0"];
    let want = json(&shell("exec \"$@\"", &[&words[..], &types].concat()));
    assert!(want["prompt_ids"].as_array().unwrap().len() > 300, "{want}");
    for n_cached in [0, 300] {
        let ram = 2300 * KIB;
        let text = ram.to_string();
        let run = [&words[..], &types, &["--ram", &text, "--prompt-cache", cache.to_str().unwrap()]].concat();
        let group = Group::new(ram);
        let got = json(&group.as_ref().map_or_else(|| shell("exec \"$@\"", &run), |group| group.run(&run)));
        assert_eq!(got["ids"], want["ids"]);
        assert!(got["timings"]["cached_tokens"].as_u64().unwrap() >= n_cached, "{got}");
        assert!(got["streamed_bytes"].as_u64().unwrap() > 0 && got["spilled_bytes"].as_u64() == Some(0), "{got}");
        match group {
            Some(group) => assert!(group.peak_bytes() <= ram, "{} in {ram}", group.peak_bytes()),
            None => println!("skipped: a restored prompt in a memory cgroup, which this process may not make"),
        }
    }
}

/// Writes a llama of half a gigabyte in Q8_0, whose weights are a hole in the file: zeros that take no disk.
fn write_large(path: &Path) -> u64 {
    const WIDTH: u64 = 1024;
    let mut header = Header::new(Endian::Little);
    header.str("general.architecture", b"llama");
    header.str("tokenizer.ggml.model", b"no_vocab");
    header.f32("llama.attention.layer_norm_rms_epsilon", 1e-5);
    let [n_layers, n_heads, n_ff] = [32, 16, 4 * WIDTH];
    for (key, value) in [
        ("block_count", n_layers),
        ("embedding_length", WIDTH),
        ("feed_forward_length", n_ff),
        ("attention.head_count", n_heads),
        ("context_length", 64),
        ("rope.dimension_count", WIDTH / n_heads),
    ] {
        header.u32(&format!("llama.{key}"), value as u32);
    }
    let mut tensor = |name: &str, dims: &[u64]| {
        let kind = if dims.len() == 1 { Type::F32 } else { Type::Q8_0 };
        header.tensor(format!("{name}.weight").as_bytes(), dims, kind).unwrap();
    };
    tensor("token_embd", &[WIDTH, 256]);
    tensor("output_norm", &[WIDTH]);
    for layer in 0..n_layers {
        for name in ["attn_q", "attn_k", "attn_v", "attn_output"] {
            tensor(&format!("blk.{layer}.{name}"), &[WIDTH, WIDTH]);
        }
        for (name, dims) in [("ffn_gate", [WIDTH, n_ff]), ("ffn_up", [WIDTH, n_ff]), ("ffn_down", [n_ff, WIDTH])] {
            tensor(&format!("blk.{layer}.{name}"), &dims);
        }
        for name in ["attn_norm", "ffn_norm"] {
            tensor(&format!("blk.{layer}.{name}"), &[WIDTH]);
        }
    }
    let mut file = File::create(path).unwrap();
    header.write(&mut file).unwrap();
    file.set_len(header.file_bytes()).unwrap();
    header.file_bytes()
}

/// What the system keeps of so much memory counts too, most of all when the context is full.
#[test]
fn half_a_gigabyte_stays_within_the_cap() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("large.gguf");
    let n_bytes = write_large(&path);
    let (path, ids) = (path.to_str().unwrap(), "7 ".repeat(48));
    for ram in [n_bytes * 9 / 10, n_bytes * 102 / 100] {
        let Some(group) = Group::new(ram) else {
            println!("skipped: half a gigabyte in a memory cgroup, which this process may not make");
            return;
        };
        let text = ram.to_string();
        let words = ["run", path, "--json", "--ids", &ids, "--ignore-eos", "--temp", "0", "-c", "64", "-n", "17"];
        let got = json(&group.run(&[&words[..], &["-t", "1", "--ram", &text]].concat()));
        println!("{ram} bytes allowed, {} held at most: {}", group.peak_bytes(), got["streamed_bytes"]);
        assert!(got["streamed_bytes"].as_u64().unwrap() > 0 && group.peak_bytes() <= ram, "{got}");
    }
}

/// The embedded model in BF16 and packed: what is kept and what is streamed is unpacked within the cap.
#[test]
fn a_packed_file_stays_within_the_cap_too() {
    if Group::new(64 << 20).is_none() {
        println!("skipped: a packed file in a memory cgroup, which this process may not make");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let name = |what: &str| directory.path().join(what).to_str().unwrap().to_owned();
    let (plain, packed) = (name("plain.gguf"), name("packed.gguf"));
    for made in [&["convert", TALES, &plain, "--outtype", "bf16"], &["pack", &plain, &packed, "--least", "20"]] {
        assert!(shell("exec \"$@\"", made).status.success());
    }
    let run = |model: &str| json(&shell("exec \"$@\"", &[&["run", model, "--json"][..], &PROMPT].concat()));
    let want = run(&plain);
    let least = least(&packed);
    for ram in [least, least + 700 * KIB, 64 << 20] {
        let group = Group::new(ram).unwrap();
        let text = ram.to_string();
        let got = json(&group.run(&[&["run", &packed, "--json", "--ram", &text][..], &PROMPT].concat()));
        println!("packed: {ram} bytes allowed, {} held at most", group.peak_bytes());
        assert_eq!(got["ids"], want["ids"], "in {ram}");
        assert!(group.peak_bytes() <= ram);
    }
}

/// The caches of a long context go to a file, and the ids are those of a run that keeps them all.
#[test]
fn caches_in_a_file_stay_within_the_cap_too() {
    if Group::new(64 << 20).is_none() {
        println!("skipped: caches in a file in a memory cgroup, which this process may not make");
        return;
    }
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let directory = scratch.path().to_str().unwrap();
    let prompt = ["-p", "Once upon a time", "--temp", "0", "-n", "300", "--ignore-eos", "-c", "512"];
    let run = [&["run", TALES, "--json", "--spill-dir", directory][..], &prompt].concat();
    let want = json(&shell("exec \"$@\"", &run));
    assert_eq!(want["spilled_bytes"], 0);
    for ram in [2000 * KIB, 2300 * KIB] {
        let group = Group::new(ram).unwrap();
        let got = json(&group.run(&[&run[..], &["--ram", &ram.to_string()]].concat()));
        let spilled = got["spilled_bytes"].as_u64().unwrap();
        println!("{ram} bytes allowed, {} held at most, {spilled} spilled", group.peak_bytes());
        assert!(spilled > 300 * KIB, "in {ram}: {spilled}");
        assert_eq!(got["ids"], want["ids"], "in {ram}");
        assert!(group.peak_bytes() <= ram);
    }
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0, "nothing stays behind");
}

/// What `args` say in a group of `ram` bytes and no more, and without a limit; they read `input`.
fn capped_and_free(args: &[&str], ram: u64, input: &Path) -> [String; 2] {
    let group = Group::new(ram).unwrap();
    let text = ram.to_string();
    let capped = [args, &["--ram", &text]].concat();
    [(group.enter(), &capped[..]), ("exec \"$@\"".to_owned(), args)].map(|(before, args)| {
        let output = command(&before, args).stdin(File::open(input).unwrap()).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    })
}

#[test]
fn whatever_has_the_flag_stays_within_the_cap() {
    if Group::new(64 << 20).is_none() {
        println!("skipped: chat, eval and bench in a memory cgroup, which this process may not make");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let said = file("said", "Once upon a time\nThere was a little girl\n");
    let template = file("template", "{% for message in messages %}{{ message.content }} {% endfor %}");
    let template = template.to_str().unwrap();
    let chat = ["chat", TALES, "--temp", "0", "-c", "64", "-n", "12", "--chat-template-file", template];
    let [capped, free] = capped_and_free(&chat, 2100 * KIB, &said);
    assert!(capped == free && !free.trim().is_empty(), "{capped} instead of {free}");

    let story = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/eval/story.txt");
    let eval = ["eval", TALES, "-f", story, "-c", "64", "--json"];
    let [capped, free] = capped_and_free(&eval, 2600 * KIB, &said).map(|text| {
        let report: serde_json::Value = serde_json::from_str(&text).unwrap();
        report["perplexity"].as_f64().unwrap().to_bits()
    });
    assert_eq!(capped, free, "the same perplexity, to the bit");

    for ram in [2000 * KIB, 4000 * KIB] {
        let [capped, _] = capped_and_free(&["bench", TALES, "-p", "8", "-n", "8", "-r", "1", "--json"], ram, &said);
        assert!(capped.contains("\"decode\""), "{capped}");
    }
}

/// The text that a server started after this line of shell gives for a prompt.
fn served(before: &str, flags: &[&str]) -> String {
    let args = [&["serve", TALES, "--port", "0", "-c", "64"], flags].concat();
    let mut server = command(before, &args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(server.stderr.take().unwrap()).lines();
    let line = lines.find_map(|line| line.ok().filter(|line| line.contains("http://"))).expect("an address");
    let address = line.split("http://").nth(1).unwrap().split(' ').next().unwrap();
    let body = serde_json::json!({"prompt": "Once upon a time", "max_tokens": 20, "temperature": 0}).to_string();
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    server.kill().unwrap();
    server.wait().unwrap();
    let json = answer.find('{').zip(answer.rfind('}')).map_or("", |(first, last)| &answer[first..=last]);
    let report: serde_json::Value = serde_json::from_str(json).unwrap_or_else(|_| panic!("{answer}"));
    report["choices"][0]["text"].as_str().unwrap().to_owned()
}

#[test]
fn a_server_in_a_cgroup_of_exactly_the_cap_answers_as_any_other() {
    let ram = 2800 * KIB;
    let Some(group) = Group::new(ram) else {
        println!("skipped: a server in a memory cgroup, which this process may not make");
        return;
    };
    let want = served("exec \"$@\"", &[]);
    assert_eq!(served(&group.enter(), &["--ram", &ram.to_string()]), want);
    println!("serve: {ram} bytes allowed, {} held at most", group.peak_bytes());
    assert!(group.peak_bytes() <= ram);
}

/// A file system in memory has no reads past the cache: the flag is refused, and files are read through it.
#[test]
fn where_direct_reads_are_refused_the_text_is_the_same() {
    let mount = tempfile::tempdir().unwrap();
    let place = mount.path().display().to_string();
    let inside = |then: &str| format!("mount -t ramfs none '{place}' && cp '{TALES}' '{place}/tales.gguf' && {then}");
    let is_allowed = Command::new("unshare").args(["-m", "sh", "-c", &inside("true")]).stderr(Stdio::null()).status();
    if !is_allowed.is_ok_and(|status| status.success()) {
        println!("skipped: a file system without direct reads, which this process may not mount");
        return;
    }
    let want = json(&shell("exec \"$@\"", &[&["run", TALES, "--json"][..], &PROMPT].concat()));
    let model = format!("{place}/tales.gguf");
    for ram in ["1900K", "2300K"] {
        // What the copy takes is charged to who wrote it, so the group is entered after that.
        let group = Group::new(4 << 20);
        let then = group.as_ref().map_or("exec \"$@\"".to_owned(), Group::enter);
        let (script, binary) = (inside(&then), binary());
        let run = [&["-m", "sh", "-c", &script, "sh", &binary, "run", &model, "--json"][..], &PROMPT].concat();
        let output = Command::new("unshare").args(run).args(["--ram", ram]).stdin(Stdio::null()).output().unwrap();
        let got = json(&output);
        assert!(got["streamed_bytes"].as_u64().unwrap() > 0, "{got}");
        assert_eq!(got["ids"], want["ids"], "in {ram}");
    }
}

/// A model that is no GGUF file is made one first, on a disk, and leaves nothing there.
#[test]
fn a_model_that_must_be_imported_is_kept_within_the_cap_too() {
    let Some(model) = given::shared("hf/tales-3m") else { return };
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let run = [&["run", &model, "--json", "--spill-dir", scratch.path().to_str().unwrap()][..], &PROMPT].concat();
    let want = json(&shell("exec \"$@\"", &run));
    // A build with a loader takes more than the process is counted with.
    let is_static = binary() != env!("CARGO_BIN_EXE_smidgen");
    for ram in ["5M", "8M", "24M"] {
        let bytes = ram.trim_end_matches('M').parse::<u64>().unwrap() << 20;
        let capped = [&run[..], &["--ram", ram]].concat();
        let group = Group::new(bytes).filter(|_| is_static);
        let got = json(&group.as_ref().map_or_else(|| shell("exec \"$@\"", &capped), |group| group.run(&capped)));
        assert_eq!(got["ids"], want["ids"], "in {ram}");
        assert_eq!(got["streamed_bytes"].as_u64() == Some(0), ram == "24M", "in {ram}");
        let is_small = got["peak_bytes"].as_u64().is_none_or(|peak| peak <= bytes);
        assert!(is_small || !is_static, "in {ram}: {}", got["peak_bytes"]);
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0, "nothing stays behind");
    }
    let refused = shell("exec \"$@\"", &[&run[..], &["--ram", "3M"]].concat());
    assert_eq!(refused.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("importing it takes about"));
}

/// Where there are no cgroups: neither the process nor its maps grow beyond the cap and what the program itself maps.
#[test]
fn a_run_in_little_address_space_finishes_with_the_same_text() {
    for model in models() {
        let run = [&["run", &model, "--json"][..], &PROMPT].concat();
        let want = json(&shell("exec \"$@\"", &run));
        let empty = address_space(&["run", "-p", "a", "-n", "1", "-c", "8", "--json"]);
        let least = least(&model).to_string();
        let limited = format!("ulimit -v {} && exec \"$@\"", (empty + 4096 * KIB) / KIB);
        let got = json(&shell(&limited, &[&run[..], &["--ram", &least]].concat()));
        assert_eq!(got["ids"], want["ids"], "{model}");
    }
}

/// The least address space, to 256 KiB, in which a run finishes.
fn address_space(args: &[&str]) -> u64 {
    let runs = |kib: u64| shell(&format!("ulimit -v {kib} && exec \"$@\""), args).status.success();
    let (mut low, mut high) = (0, 1 << 20);
    while high - low > 256 {
        let middle = low + (high - low) / 2;
        if runs(middle) { high = middle } else { low = middle }
    }
    high * KIB
}

#[test]
fn what_cannot_fit_is_refused_before_anything_is_read() {
    for model in models() {
        let ram = (least(&model) - 2 * KIB).to_string();
        let refused = shell("exec \"$@\"", &[&["run", &model][..], &PROMPT, &["--ram", &ram]].concat());
        assert_eq!(refused.status.code(), Some(3), "{}", String::from_utf8_lossy(&refused.stderr));
        assert!(refused.stdout.is_empty());
    }
}
