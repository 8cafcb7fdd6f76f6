//! `--json-schema` and `--grammar-file`: whatever the model would have said, what comes is what they allow.

use crate::smidgen::{smidgen, smidgen_reading};

const SCHEMA: &str = r#"{
    "type": "object",
    "properties": { "name": { "type": "string", "maxLength": 12 }, "age": { "type": "integer", "minimum": 0, "maximum": 99 } },
    "required": ["name", "age"],
    "additionalProperties": false
}"#;

#[test]
fn a_schema_makes_any_sample_valid_json() {
    for seed in ["1", "2", "3", "4", "5"] {
        let flags = ["run", "-p", "A person: ", "-j", SCHEMA, "-n", "200", "--temp", "1.5", "-s", seed, "--json"];
        let report = smidgen(&flags).json();
        assert_eq!(report["ending"], "end_of_text", "{report}");
        let text = report["continuation"].as_str().unwrap();
        let value: serde_json::Value = serde_json::from_str(text).unwrap();
        assert!(value["name"].as_str().unwrap().chars().count() <= 12, "{text}");
        assert!(value["age"].as_u64().unwrap() <= 99, "{text}");
        assert_eq!(value.as_object().unwrap().len(), 2, "{text}");
    }
}

#[test]
fn a_grammar_leaves_only_what_it_lists() {
    let directory = tempfile::tempdir().unwrap();
    let grammar = directory.path().join("answer.lark");
    std::fs::write(&grammar, r#"start: "yes" | "no" | "may" " be""#).unwrap();
    for seed in ["1", "2", "3", "4"] {
        let flags = ["--temp", "2", "-s", seed, "-n", "40", "--grammar-file", grammar.to_str().unwrap()];
        let report = smidgen(&[&["run", "-p", "Is it?", "--json"], &flags[..]].concat()).json();
        let text = report["continuation"].as_str().unwrap();
        assert!(["yes", "no", "may be"].contains(&text), "{text}");
    }
}

#[test]
fn every_answer_of_a_chat_begins_the_grammar_anew() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (grammar, template) = (path("answer.lark"), path("template.jinja"));
    std::fs::write(&grammar, r#"start: "yes" | "no""#).unwrap();
    std::fs::write(&template, "{% for message in messages %}{{ message.content }} {% endfor %}").unwrap();
    let ran = smidgen_reading(
        &["chat", "--chat-template-file", &template, "--grammar-file", &grammar],
        b"Is it?\nAnd now?\n",
    );
    let answers: Vec<String> = ran.ok().lines().map(str::to_owned).collect();
    assert!(answers.len() == 2 && answers.iter().all(|answer| answer == "yes" || answer == "no"), "{answers:?}");
}

#[test]
fn what_is_no_schema_or_grammar_is_refused() {
    for (flag, text, said) in [
        ("-j", r#"{"type": 5}"#, "constraint: "),
        ("-j", r#"{"type": "#, "the JSON schema is not JSON"),
        ("--grammar-file", "/no/such/file", "no such file"),
    ] {
        let ran = smidgen(&["run", "-p", "a", flag, text]);
        assert_eq!(ran.status, Some(2), "{}", ran.stderr);
        assert!(ran.stderr.contains(said) && ran.stderr.lines().count() == 1, "{}", ran.stderr);
    }
}
