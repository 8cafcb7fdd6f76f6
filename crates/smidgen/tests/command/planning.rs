//! `plan`: the same sums as `run`, and advice that is true.

use crate::smidgen::{command, shared, smidgen};

#[test]
fn plan_and_run_count_the_same_bytes() {
    for flags in [&[][..], &["-c", "100", "-b", "3"], &["--ctk", "q8_0", "--ctv", "f16", "--top-k", "0"], &["-t", "2"]]
    {
        let plan = smidgen(&[&["plan", "--json"], flags].concat()).json();
        let run = smidgen(&[&["run", "-p", "a", "-n", "1", "--json"], flags].concat()).json();
        assert_eq!(plan["planned_bytes"], run["planned_bytes"], "{flags:?}");
        assert_eq!(plan["lines"], run["plan"], "{flags:?}");
        assert_eq!((&plan["fits"], plan["options"].as_array().unwrap().len()), (&serde_json::Value::Null, 0));
    }
}

#[test]
fn plan_prints_every_line_and_their_sum() {
    let plan = smidgen(&["plan", "--json"]).json();
    let table = smidgen(&["plan"]).ok();
    for line in plan["lines"].as_array().unwrap() {
        assert!(table.contains(line["name"].as_str().unwrap()), "{table}");
    }
    assert_eq!(
        plan["total_bytes"].as_u64().unwrap(),
        plan["planned_bytes"].as_u64().unwrap() + plan["process_bytes"].as_u64().unwrap()
    );
}

#[test]
fn what_does_not_fit_exits_3_and_what_is_advised_fits() {
    let enough = smidgen(&["plan", "--json"]).json()["total_bytes"].as_u64().unwrap();
    let fits = smidgen(&["plan", "--ram", &enough.to_string()]);
    assert_eq!(fits.status, Some(0));
    assert!(fits.stdout.contains("It fits"), "{}", fits.stdout);

    // More than the caches of four layers out of six, which could be kept in a file.
    let ram = (enough - 1_100_000).to_string();
    let ran = smidgen(&["plan", "--ram", &ram, "--json"]);
    assert_eq!(ran.status, Some(3));
    let plan: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(plan["fits"], false);
    let options = plan["options"].as_array().unwrap();
    assert_eq!(options.len(), 4, "the embedded model is q8_0 already, so only the cache can change: {options:?}");
    for option in options {
        let (cache, context) = (option["cache"].as_str().unwrap(), option["context_tokens"].as_u64().unwrap());
        let status = |context: u64| {
            let context = context.to_string();
            smidgen(&["plan", "--ram", &ram, "--ctk", cache, "--ctv", cache, "-c", &context]).status
        };
        assert_eq!(status(context), Some(0), "{option}");
        if context < 512 {
            assert_eq!(status(context + 1), Some(3), "{option} is not the longest");
        }
    }
    let said = smidgen(&["plan", "--ram", &ram]).stdout;
    assert!(said.contains("does not fit") && said.contains("--ctk q8_0"), "{said}");
}

/// What `plan` says of the file of the embedded model within `ram`: its status, and what it needs in all.
fn needed(flags: &[&str], ram: u64) -> (Option<i32>, u64) {
    const TALES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tales.gguf");
    let ran = smidgen(&[&["plan", TALES, "--json", "--ram", &ram.to_string()], flags].concat());
    let plan: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{}", ran.stderr));
    (ran.status, plan["total_bytes"].as_u64().unwrap())
}

#[test]
fn what_fits_goes_on_to_fit_in_more_memory_and_with_less_context() {
    const KIB: u64 = 1024;
    for way in [&[][..], &["--no-mmap"], &["-t", "2"], &["--ctk", "q8_0"]] {
        let mut least = u64::MAX;
        for context in ["512", "300", "64", "8"] {
            let flags = [&["-c", context], way].concat();
            // The least that a refusal names is enough, and nothing less is.
            let (status, named) = needed(&flags, 900 * KIB);
            assert_eq!(status, Some(3), "{flags:?}");
            let below = named - 1;
            assert_eq!(needed(&flags, below), (Some(3), named), "{flags:?} in {below}");
            assert!(named <= least, "{flags:?}: {named} for fewer positions than need {least}");
            least = named;
            // To beyond all of the file.
            for step in 0..30 {
                let ram = named + step * step * 4 * KIB;
                let (status, total) = needed(&flags, ram);
                assert!(status == Some(0) && total <= ram, "{flags:?} in {ram}: {status:?}, {total}");
            }
        }
    }
}

#[test]
fn the_command_that_a_refusal_advises_fits() {
    const TALES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tales.gguf");
    for ram in ["1300K", "1400K", "1500K", "1600K"] {
        let asked = ["run", TALES, "-b", "64", "-p", "a", "-n", "1", "--ram", ram];
        let refused = smidgen(&[&asked[..], &["-c", "512"]].concat());
        if refused.status == Some(0) {
            continue;
        }
        assert_eq!(refused.status, Some(3), "{}", refused.stderr);
        let Some((_, advice)) = refused.stderr.split_once("it fits with ") else { continue };
        let changes: Vec<&str> = advice.trim().split("; or with ").collect();
        assert!(changes.len() <= 3, "{advice}");
        for change in changes {
            let (flags, made) = change.split_once(" after 'smidgen ").unwrap_or((change, ""));
            let flags: Vec<&str> = flags.split(' ').collect();
            if made.is_empty() {
                smidgen(&[&asked[..], &flags].concat()).ok();
            } else {
                assert!(made.contains("--pure") && made.contains("KiB)"), "its size is named: {made}");
            }
        }
    }
}

#[test]
fn smaller_weights_that_are_advised_fit_when_they_are_made() {
    let Some(model) = shared("gguf/stories260K-v1-f32.gguf") else { return };
    let model = model.to_str().unwrap();
    let ram = "1800K";
    let ran = smidgen(&["plan", model, "-c", "64", "--ram", ram, "--json"]);
    let plan = ran.json();
    assert!(plan["streamed_bytes"].as_u64().unwrap() > 0, "as stored it is read in parts: {plan}");
    for (weights, make) in [
        ("q8_0", &["convert", "--outtype", "q8_0", "--fallback", "f16"][..]),
        ("q4_w", &["quantize", "Q4_W", "--pure"]),
    ] {
        let option = plan["options"].as_array().unwrap().iter().find(|option| option["weights"] == weights).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let small = directory.path().join("small.gguf");
        let small = small.to_str().unwrap();
        smidgen(&[&make[..1], &[model, small], &make[1..]].concat()).ok();
        let context = option["context_tokens"].to_string();
        let cache = option["cache"].as_str().unwrap();
        let made = smidgen(&["plan", small, "-c", &context, "--ctk", cache, "--ctv", cache, "--ram", ram, "--json"]);
        let made = made.json();
        assert_eq!((&made["fits"], made["streamed_bytes"].as_u64()), (&true.into(), Some(0)), "{option}: {made}");
    }
}

/// Only from above, and roughly: the machine that tests run on has other things to do, and a model that fits in the processor's caches is
/// faster than the large matrix that is probed.
#[test]
fn what_was_probed_and_planned_is_not_far_beyond_what_is_measured() {
    let cache = tempfile::tempdir().unwrap();
    let json = |args: &[&str]| -> serde_json::Value {
        let output = command(args).env("SMIDGEN_CACHE", cache.path()).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    const TALES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tales.gguf");
    json(&["probe", TALES, "-t", "1", "--json"]);
    let rates = || {
        let planned = json(&["plan", TALES, "-c", "64", "-t", "1", "--json"])["tokens_per_s"].as_f64().unwrap();
        let tests = json(&["bench", TALES, "-p", "0", "-n", "32", "-r", "3", "-t", "1", "--json"]);
        let measured = tests["tests"].as_array().unwrap().iter().find(|test| test["kind"] == "decode").unwrap();
        (planned, measured["tokens_per_s_max"].as_f64().unwrap())
    };
    let found: Vec<_> = (0..3).map(|_| rates()).collect();
    let is_reached = |&(planned, measured): &(f64, f64)| planned > 0.0 && planned < 2.5 * measured;
    assert!(found.iter().any(is_reached), "planned and measured: {found:?}");
    // Two threads are planned to be as fast as one, or twice as fast where there are two cores.
    let of = |threads: &str| json(&["plan", TALES, "-t", threads, "--json"])["tokens_per_s"].as_f64().unwrap();
    let ratio = of("2") / of("1");
    assert!((0.99..2.01).contains(&ratio), "{ratio}");
}
