//! `bench`: what it times, and what it refuses. How fast anything is, is nothing a test can hold.

use crate::smidgen::{TALES, smidgen};

#[test]
fn every_test_is_timed() {
    let report = smidgen(&["bench", TALES, "-p", "3,5", "-n", "4", "-d", "0,6", "-r", "3", "--json"]).json();
    assert_eq!(report["schema"], "smidgen.bench/1");
    let tests = report["tests"].as_array().unwrap();
    let named: Vec<_> = tests.iter().map(|test| (&test["kind"], &test["n_tokens"], &test["depth"])).collect();
    let wanted = serde_json::json!([["prompt", 3, 0], ["prompt", 5, 0], ["decode", 4, 0], ["decode", 4, 6]]);
    let wanted: Vec<_> = wanted.as_array().unwrap().iter().map(|test| (&test[0], &test[1], &test[2])).collect();
    assert_eq!(named, wanted);
    for test in tests {
        let rate = |key: &str| test[key].as_f64().unwrap();
        let [min, median, max] = ["tokens_per_s_min", "tokens_per_s", "tokens_per_s_max"].map(rate);
        assert!(0.0 < min && min <= median && median <= max, "{test}");
    }
    assert_eq!(report["context_tokens"], 10);
    assert!(report["weight_bytes"].as_u64().unwrap() > 100_000);
}

#[test]
fn the_parts_of_a_pass_make_up_the_whole() {
    let report = smidgen(&["bench", TALES, "-n", "8", "-d", "4", "--ops", "--json"]).json();
    assert_eq!(report["schema"], "smidgen.bench-ops/1");
    let ops = report["ops"].as_array().unwrap();
    let shares: f64 = ops.iter().map(|op| op["share"].as_f64().unwrap()).sum();
    assert!((shares - 1.0).abs() < 1e-6, "{shares}");
    assert!(ops.iter().all(|op| op["us_per_token"].as_f64().unwrap() > 0.0));
    assert!(report["limit_gb_per_s"].as_f64().unwrap() > 0.0);
    for op in ops {
        let has_weights = op["weight_bytes"].as_u64().unwrap() > 0;
        for rate in ["weight_gb_per_s", "gop_per_s", "limit_share"] {
            assert_eq!(op[rate].as_f64().unwrap() > 0.0, has_weights, "{rate} of {}", op["op"]);
        }
    }
    assert!(ops.iter().any(|op| op["weight_bytes"].as_u64().unwrap() > 0));
    let table = smidgen(&["bench", TALES, "-n", "8", "--ops"]).ok();
    assert_eq!(table.lines().count(), ops.len() + 1, "{table}");
}

#[test]
fn what_cannot_be_timed_is_refused() {
    for (flags, complaint) in [
        (&["-p", "0", "-n", "0"][..], "nothing to time"),
        (&["-p", "40", "-c", "39"], "no room"),
        (&["-r", "0"], "at least 1"),
        (&["--ops", "-p", "4", "-n", "0"], "above 0"),
        (&["--isa", "sse9"], "this processor has scalar"),
    ] {
        let refused = smidgen(&[&["bench", TALES], flags].concat());
        assert_eq!(refused.status, Some(2), "{flags:?}");
        assert!(refused.stderr.contains(complaint), "{flags:?}: {}", refused.stderr);
    }
}
