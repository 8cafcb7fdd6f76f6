//! `plan`: the same sums as `run`, and advice that is true.

use crate::smidgen::{shared, smidgen};

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

#[test]
fn smaller_weights_that_are_advised_fit_when_they_are_made() {
    let Some(model) = shared("gguf/stories260K-v1-f32.gguf") else { return };
    let model = model.to_str().unwrap();
    let ram = "2200K";
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
