//! `run`: the text, its ids, and the many ways to ask for them.

use crate::smidgen::{TALES, command, shared, smidgen, smidgen_reading};
use serde_json::Value;
use std::io::Read;
use std::process::Stdio;

const GREEDY: [&str; 6] = ["run", "--temp", "0", "-n", "24", "--ignore-eos"];

fn greedy(more: &[&str]) -> Vec<u64> {
    ids(&smidgen(&[&GREEDY[..], &["--json"], more].concat()).json()["ids"])
}

fn ids(value: &Value) -> Vec<u64> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
}

#[test]
fn run_prints_the_prompt_its_continuation_and_one_line_about_them() {
    let ran = smidgen(&[&GREEDY[..], &["-p", "Once upon a time"]].concat());
    assert!(ran.stdout.starts_with("Once upon a time") && ran.stdout.len() > 40, "{}", ran.stdout);
    assert!(ran.stdout.ends_with('\n'));
    assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
    for word in ["loaded in", "first token after", "24 new at", "planned", "peak", "seed"] {
        assert!(ran.stderr.contains(word), "{word}: {}", ran.stderr);
    }
}

#[test]
fn the_embedded_model_and_its_file_give_the_same() {
    let embedded = greedy(&["-p", "The cat"]);
    assert_eq!(embedded.len(), 24);
    assert_eq!(embedded, greedy(&[TALES, "-p", "The cat"]));
    assert_eq!(embedded, greedy(&["-m", TALES, "--no-mmap", "-p", "The cat"]));
}

#[test]
fn json_has_the_whole_text_and_accounts_for_every_byte() {
    let report = smidgen(&[&GREEDY[..], &["-p", "The cat", "--json", "-s", "7"]].concat()).json();
    let text = |key: &str| report[key].as_str().unwrap().to_owned();
    assert_eq!(text("schema"), "smidgen.run/1");
    assert_eq!(text("text"), text("prompt") + &text("continuation"));
    assert_eq!(text("ending"), "length");
    assert_eq!(report["seed"], 7);
    let sum: u64 = report["plan"].as_array().unwrap().iter().map(|line| line["bytes"].as_u64().unwrap()).sum();
    assert_eq!(report["planned_bytes"], sum);
    assert!(report["timings"]["decode_tokens_per_s"].as_f64().unwrap() > 0.0);
    if cfg!(target_os = "linux") {
        assert!(report["peak_bytes"].as_u64().unwrap() > 0);
    }
}

#[test]
fn ids_continue_like_their_text() {
    let text = smidgen(&[&GREEDY[..], &["-p", "The cat", "--json"]].concat()).json();
    let prompt: Vec<String> = ids(&text["prompt_ids"]).iter().map(u64::to_string).collect();
    let by_ids = smidgen(&[&GREEDY[..], &["--ids", &prompt.join(" "), "--json"]].concat()).json();
    for key in ["prompt_ids", "ids", "text", "continuation"] {
        assert_eq!(by_ids[key], text[key], "{key}");
    }
}

#[test]
fn kernels_threads_and_batches_do_not_change_a_token() {
    let expected = greedy(&["-p", "The old king was sad because"]);
    for flags in [&["--isa", "scalar"][..], &["-t", "2"], &["-b", "1"], &["-b", "64"], &["-c", "64"]] {
        assert_eq!(greedy(&[&["-p", "The old king was sad because"], flags].concat()), expected, "{flags:?}");
    }
}

#[test]
fn a_seed_repeats_its_text_and_another_does_not() {
    let text = |seed: &str| smidgen(&["run", "-p", "One day", "-n", "32", "--temp", "1.5", "-s", seed]).ok();
    assert_eq!(text("1"), text("1"));
    assert_ne!(text("1"), text("2"));
}

#[test]
fn the_prompt_comes_from_a_file_or_the_standard_input_too() {
    let expected = smidgen(&[&GREEDY[..], &["-p", "One day"]].concat()).ok();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("prompt.txt");
    std::fs::write(&file, "One day\n").unwrap();
    assert_eq!(smidgen(&[&GREEDY[..], &["-f", file.to_str().unwrap()]].concat()).ok(), expected);
    assert_eq!(smidgen_reading(&GREEDY, b"One day\r\n").ok(), expected);
    assert_eq!(smidgen_reading(&[&GREEDY[..], &["-f", "-"]].concat(), b"One day").ok(), expected);
}

#[test]
fn the_text_goes_to_a_file_when_one_is_named() {
    let expected = smidgen(&[&GREEDY[..], &["-p", "One day"]].concat()).ok();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("output.txt");
    let printed = smidgen(&[&GREEDY[..], &["-p", "One day", "-o", file.to_str().unwrap()]].concat()).ok();
    assert_eq!(printed, "");
    assert_eq!(std::fs::read_to_string(&file).unwrap() + "\n", expected);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn nothing_of_a_stop_string_is_shown_wherever_it_lies() {
    let whole = smidgen(&[&GREEDY[..], &["-p", "One day"]].concat()).ok();
    let continuation = whole.trim_end().strip_prefix("One day").unwrap();
    assert!(continuation.is_ascii() && continuation.len() > 40, "{continuation}");
    for (start, length) in [(1, 3), (5, 4), (9, 1), (14, 7), (20, 12)] {
        let stop = &continuation[start..start + length];
        let shown = &continuation[..continuation.find(stop).unwrap()];
        let stopped = smidgen(&[&GREEDY[..], &["-p", "One day", "--stop", "never said", "--stop", stop]].concat()).ok();
        assert_eq!(stopped, format!("One day{shown}\n"), "stop {stop:?}");
    }
}

#[test]
fn a_full_context_ends_the_text_and_says_so() {
    let ran = smidgen(&["run", "-p", "One day", "-c", "16", "--temp", "0", "--ignore-eos"]);
    assert_eq!(ran.status, Some(0));
    assert!(ran.stderr.contains("the context of 16 tokens is full"), "{}", ran.stderr);
    let report = smidgen(&["run", "-p", "One day", "-c", "16", "--temp", "0", "--ignore-eos", "--json"]).json();
    assert_eq!(report["ending"], "context");
    // The last new token needs no room: nothing follows it.
    assert_eq!(ids(&report["prompt_ids"]).len() + ids(&report["ids"]).len(), 17);
}

#[test]
fn no_new_tokens_may_be_asked_for() {
    assert_eq!(smidgen(&["run", "-p", "One day", "-n", "0"]).ok(), "One day\n");
}

#[test]
fn logits_are_the_same_bits_however_they_are_computed() {
    let directory = tempfile::tempdir().unwrap();
    let logits = |flags: &[&str]| {
        let file = directory.path().join("logits.npy");
        let fixed =
            ["run", "--ids", "260 285 81 444 12 9 7 300 301 302", "-n", "1", "--temp", "0", "--json", "--logits"];
        let report = smidgen(&[&fixed[..], &[file.to_str().unwrap()], flags].concat()).json();
        (std::fs::read(file).unwrap(), ids(&report["ids"])[0])
    };
    let (expected, first) = logits(&[]);
    let header = String::from_utf8_lossy(&expected[10..128]).into_owned();
    assert!(header.contains("'descr': '<f4', 'fortran_order': False, 'shape': (10, 2048), "), "{header}");
    assert_eq!(expected.len(), 128 + 10 * 2048 * 4);
    let last: Vec<f32> = expected[128 + 9 * 2048 * 4..]
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
        .collect();
    let best = (0..last.len()).max_by(|&a, &b| last[a].total_cmp(&last[b])).unwrap();
    assert_eq!(best as u64, first, "greedy takes the largest logit of the last position");
    for flags in [&["-b", "1"][..], &["-b", "3"], &["-t", "2"], &["--isa", "scalar"]] {
        assert!(logits(flags).0 == expected, "{flags:?}");
    }
}

#[test]
fn llama2c_and_gguf_of_stories260k_say_the_same() {
    let files = ["llama2c/stories260K.bin", "llama2c/tok512.bin", "gguf/stories260K-v1-f32.gguf"].map(shared);
    let [Some(bin), Some(tokenizer), Some(gguf)] = files else { return };
    let fixed = ["-p", "Once upon a time", "-c", "64"];
    let [bin, tokenizer, gguf] = [&bin, &tokenizer, &gguf].map(|path| path.to_str().unwrap());
    let from_bin = greedy(&[&fixed[..], &[bin, "--tokenizer", tokenizer]].concat());
    assert_eq!(from_bin, greedy(&[&fixed[..], &[gguf]].concat()));
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_the_text_in_order() {
    let mut command = command(&["run", "-p", "One day", "--ignore-eos", "-c", "512", "-n", "-1"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut begun = [0; 12];
    stdout.read_exact(&mut begun).unwrap();
    let signal = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(signal.success());
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(rest.ends_with('\n'));
    assert!(String::from_utf8_lossy(&output.stderr).contains("planned"), "the summary still comes");
}

#[cfg(unix)]
#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut command = command(&["run", "-p", "One day", "--ignore-eos", "-n", "100"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}

/// A guess spares a pass, and changes nothing: not greedily, not with a seed, not where a text ends.
#[test]
fn guesses_never_change_the_text() {
    let prompt = ["run", "-p", "The cat sat. The cat sat. The", "--json"];
    for sampling in
        [&["--temp", "0"][..], &["-s", "7"], &["-s", "8", "--repeat-penalty", "1.3"], &["--temp", "0", "--stop", "."]]
    {
        let alone = [&prompt[..], &["-n", "48"], sampling].concat();
        let want = smidgen(&alone).json();
        for draft in
            [&["--draft", "ngram"][..], &["--draft", TALES], &["--draft", TALES, "--draft-max", "3", "-b", "2"]]
        {
            let got = smidgen(&[&alone, draft].concat()).json();
            for key in ["ids", "text", "ending"] {
                assert_eq!(got[key], want[key], "{key} with {draft:?} and {sampling:?}");
            }
        }
    }
    let greedy = [&prompt[..], &["--temp", "0", "-n", "48", "--ignore-eos"]].concat();
    let guessed = |draft: &str| {
        let report = smidgen(&[&greedy[..], &["--draft", draft]].concat()).json();
        report["timings"]["guessed_tokens"].as_u64().unwrap()
    };
    assert!(guessed(TALES) >= 40, "a model guesses itself");
    assert!(guessed("ngram") > 0, "a text that repeats itself");
}

#[test]
fn a_context_is_filled_to_the_last_token_with_guesses_too() {
    let flags = ["run", "-p", "The cat", "--temp", "0", "--ignore-eos", "-c", "20", "--json"];
    let want = smidgen(&flags).json();
    assert_eq!(want["ending"], "context");
    for draft in ["ngram", TALES] {
        let got = smidgen(&[&flags[..], &["--draft", draft]].concat()).json();
        assert_eq!((&got["ids"], &got["ending"]), (&want["ids"], &want["ending"]), "{draft}");
    }
}

#[test]
fn a_draft_of_another_vocabulary_is_refused() {
    let other = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/hf/gpt2-untied-odd");
    let refused = smidgen(&["run", "-p", "The cat", "-n", "4", "--draft", other]);
    assert_eq!(refused.status, Some(2));
    assert!(refused.stderr.contains("another vocabulary"), "{}", refused.stderr);
}

/// What a prompt cache spares is not computed, and changes nothing; prompts share as much of it as they begin alike.
#[test]
fn a_prompt_cache_never_changes_the_text() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache");
    let path = path.to_str().unwrap();
    let run = |prompt: &str, more: &[&str]| {
        smidgen(&[&["run", "-p", prompt, "-n", "16", "-s", "3", "--json"][..], more].concat()).json()
    };
    let (long, other) = ("Once upon a time there was a cat", "Once upon a time a big dog came");
    for kind in ["f32", "q8_0"] {
        std::fs::remove_file(path).ok();
        let types = ["--ctk", kind, "--ctv", "f16"];
        let mut cached = Vec::new();
        for prompt in [long, long, other, "A", long] {
            let want = run(prompt, &types);
            let got = run(prompt, &[&types[..], &["--prompt-cache", path, "-b", "3"]].concat());
            for key in ["ids", "text", "ending"] {
                assert_eq!(got[key], want[key], "{prompt}, {kind}");
            }
            cached.push(got["timings"]["cached_tokens"].as_u64().unwrap());
        }
        assert_eq!(cached[0], 0);
        assert!(cached[1] > cached[2] && cached[2] > 2, "{cached:?}");
        assert!(cached[4] <= 1, "the cache holds the last prompt: {cached:?}");
    }
}

#[test]
fn a_prompt_cache_of_something_else_is_refused_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cache");
    let path = file.to_str().unwrap();
    let run =
        |more: &[&str]| smidgen(&[&["run", "-p", "The cat sat", "-n", "1", "--prompt-cache", path][..], more].concat());
    assert_eq!(run(&[]).status, Some(0));
    let good = std::fs::read(&file).unwrap();
    let small = folder.path().join("small.gguf");
    let small = small.to_str().unwrap();
    assert_eq!(smidgen(&["quantize", TALES, small, "Q4_W", "--requantize"]).status, Some(0));
    let mut changed = good.clone();
    *changed.last_mut().unwrap() ^= 1;
    let mut rows = good.clone();
    rows[good.len() / 2] ^= 0x10;
    let mut count = good.clone();
    count[44..48].copy_from_slice(&u32::MAX.to_le_bytes());
    for (bytes, flags, complaint) in [
        (&good, &[small][..], "another model"),
        (&good, &["--ctk", "f16"], "other types"),
        (&good[..good.len() - 1].to_vec(), &[], "cut short"),
        (&good[..30].to_vec(), &[], "cut short"),
        (&Vec::new(), &[], "no prompt cache"),
        (&b"once upon a time there was".to_vec(), &[], "no prompt cache"),
        (&changed, &[], "changed"),
        (&rows, &[], "changed"),
        (&count, &[], "cut short"),
    ] {
        std::fs::write(&file, bytes).unwrap();
        let refused = run(flags);
        assert_eq!(refused.status, Some(2), "{complaint}: {}", refused.stderr);
        assert!(refused.stderr.contains(complaint), "{complaint}: {}", refused.stderr);
        assert_eq!(&std::fs::read(&file).unwrap(), bytes, "{complaint}");
    }
}
