//! Wrong usage and bad input: one line on the standard error, nothing on the standard output, and the right status.

use crate::smidgen::{TALES, smidgen, smidgen_reading};
use std::path::Path;

/// Runs `args`, which must end with `status` and one line that contains `said`.
fn refused(args: &[&str], status: i32, said: &str) {
    let ran = smidgen(args);
    assert_eq!(ran.status, Some(status), "{args:?}: {}", ran.stderr);
    assert_eq!(ran.stdout, "", "{args:?}");
    assert!(ran.stderr.starts_with("smidgen: ") && ran.stderr.matches('\n').count() == 1, "{args:?}: {}", ran.stderr);
    assert!(ran.stderr.contains(said), "{args:?}: {}", ran.stderr);
}

#[test]
fn wrong_usage_exits_2() {
    refused(&["run", "--no-such-flag"], 2, "--no-such-flag");
    refused(&["walk"], 2, "walk");
    refused(&["run", "--temp", "warm"], 2, "a number of at least 0");
    refused(&["run", "--temp", "-1"], 2, "a number of at least 0");
    refused(&["run", "--top-p", "1.5"], 2, "from 0 to 1");
    refused(&["run", "-c", "many"], 2, "many");
    refused(&["run", "-b", "0"], 2, "at least 1");
    refused(&["run", "-t", "0"], 2, "1 to 1024");
    let crowded = smidgen(&["run", "-p", "a", "-n", "1", "-t", "300"]);
    assert!(crowded.status == Some(0) && crowded.stderr.contains("300 threads share"), "{}", crowded.stderr);
    refused(&["run", "--ctk", "f64"], 2, "f32, f16, q8_0");
    refused(&["run", "--ram", "lots"], 2, "4096, 200M, 1.5G");
    refused(&["run", "--isa", "abacus"], 2, "scalar");
    refused(&["run", "--stop", ""], 2, "would stop at once");
    refused(&["run", "-p", "a", "--ids", "1"], 2, "--ids");
    refused(&["run", "-p", "a", "-f", "b"], 2, "--file");
    refused(&["run", "--ids", "1 two"], 2, "'two' is not a token id");
    refused(&["run", "--ids", "1 2048"], 2, "2048 is not in the vocabulary of 2048");
    refused(&["run", TALES, "-m", TALES], 2, "--model");
    refused(&["run", "--outtype", "f16"], 2, "need a MODEL");
    refused(&["convert"], 2, "MODEL");
    refused(&["convert", TALES], 2, "OUT");
    refused(&["convert", TALES, "a", "-o", "b"], 2, "'a' is one path too many");
    refused(&["man", "walk"], 2, "'walk'");
}

#[test]
fn no_command_at_all_prints_the_help_and_exits_2() {
    let ran = smidgen(&[]);
    assert_eq!((ran.status, ran.stdout.as_str()), (Some(2), ""));
    assert!(ran.stderr.contains("tokenize"));
}

#[test]
fn prompts_that_cannot_be_used_exit_2() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = directory.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let latin1 = file("latin1.txt", b"caf\xe9");
    refused(&["run", "-f", &latin1], 2, "latin1.txt: not valid UTF-8 at byte 3");
    refused(&["tokenize", "-f", &latin1], 2, "not valid UTF-8 at byte 3");
    refused(&["run", "-f", directory.path().to_str().unwrap()], 2, "is a directory");
    refused(&["run", "-f", &format!("{latin1}.gone")], 2, "no such file");
    refused(&["run", "-c", "8", "-p", &"word ".repeat(30)], 2, "give a larger -c");
    let long = file("long.txt", "word ".repeat(200_000).as_bytes());
    refused(&["run", "-f", &long], 2, "1000000 bytes, more than the context of 512 tokens");
    refused(&["run", "-c", "600", "--ids", &"1 ".repeat(601)], 2, "601 tokens");
    let ran = smidgen_reading(&["run"], b"\xff");
    assert_eq!(ran.status, Some(2));
    assert!(ran.stderr.contains("standard input: not valid UTF-8 at byte 0"), "{}", ran.stderr);
}

#[test]
fn an_empty_prompt_is_bos_and_no_ids_are_refused() {
    // This one does not put BOS before a text, but has one.
    let without = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/hf/llama-mqa-linear");
    smidgen(&["run", without, "-p", "", "-n", "1"]).ok();
    smidgen(&["run", "-p", "", "-n", "1"]).ok();
    refused(&["run", "--ids", ""], 2, "empty prompt");
}

#[test]
fn models_that_cannot_be_used_exit_2() {
    let directory = tempfile::tempdir().unwrap();
    let tales = std::fs::read(TALES).unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = directory.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let empty = file("empty.gguf", b"");
    let noise = file("noise.gguf", b"this is not a model at all, not by any measure");
    let short = file("short.gguf", &tales[..tales.len() / 2]);
    let cut = file("cut.gguf", &tales[..100]);
    let mut flipped = tales.clone();
    flipped[8] ^= 0x80;
    let flipped = file("flipped.gguf", &flipped);
    for command in ["run", "plan", "inspect", "tokenize", "chat"] {
        refused(&[command, "/no/such/model.gguf"], 2, "/no/such/model.gguf");
        refused(&[command, &empty], 2, "empty.gguf");
        refused(&[command, &noise], 2, "noise.gguf");
        refused(&[command, &short], 2, "short.gguf");
        refused(&[command, &cut], 2, "cut.gguf");
        refused(&[command, &flipped], 2, "flipped.gguf");
        refused(&[command, directory.path().to_str().unwrap()], 2, "");
    }
    let out = directory.path().join("out.gguf");
    refused(&["convert", &short, out.to_str().unwrap()], 2, "short.gguf");
    assert!(!Path::new(&out).exists(), "a file that was not made whole is not there");
}

#[test]
fn outputs_that_cannot_be_written_say_so() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    refused(&["run", "-p", "a", "-o", path], 2, "is a directory");
    refused(&["run", "-p", "a", "--logits", path], 2, "is a directory");
    refused(&["convert", TALES, path], 2, "directory");
    refused(&["run", "-p", "a", "-n", "1", "-o", &format!("{path}/none/out.txt")], 1, "out.txt");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_exits_1() {
    use crate::smidgen::command;
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = command(&["run", "-p", "a", "-n", "1"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.starts_with("smidgen: standard output: ") && said.lines().count() == 1, "{said}");
}

#[test]
fn a_budget_that_does_not_suffice_exits_3_before_loading() {
    refused(&["run", "-p", "a", "--ram", "2800K"], 3, "more than --ram 2.73 MiB");
    refused(&["chat", "--ram", "3000K"], 3, "it fits with -c ");
    refused(&["run", "-p", "a", "--ram", "1M"], 3, "nothing would make it fit");
}
