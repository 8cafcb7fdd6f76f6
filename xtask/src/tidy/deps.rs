//! Which crate may know which: the edges of the architecture, read from `cargo metadata`.

use super::Finding;
use serde_json::Value;

/// What one crate of the workspace may depend on.
struct Edges {
    name: &'static str,
    /// Crates of this workspace that it may use.
    ours: &'static [&'static str],
    /// Crates of this workspace that only its tests may use.
    in_tests: &'static [&'static str],
    /// Crates from outside that it may use; `None` when any may serve.
    others: Option<&'static [&'static str]>,
}

const EDGES: &[Edges] = &[
    Edges { name: "smidgen-core", ours: &[], in_tests: &["smidgen-reference"], others: Some(&["libm"]) },
    Edges { name: "smidgen-reference", ours: &[], in_tests: &["smidgen-host"], others: Some(&[]) },
    Edges { name: "smidgen-host", ours: &["smidgen-core"], in_tests: &["smidgen-reference"], others: None },
    Edges {
        name: "smidgen-compress",
        ours: &["smidgen-core"],
        in_tests: &["smidgen-reference", "smidgen-host"],
        others: None,
    },
    Edges {
        name: "smidgen-train",
        ours: &["smidgen-core"],
        in_tests: &["smidgen-reference", "smidgen-host"],
        others: None,
    },
    Edges {
        name: "smidgen",
        ours: &["smidgen-cli", "smidgen-host"],
        in_tests: &["smidgen-core", "smidgen-compress"],
        others: Some(&[]),
    },
    Edges {
        name: "smidgen-cli",
        ours: &["smidgen-core", "smidgen-host", "smidgen-compress", "smidgen-teller", "smidgen-train"],
        in_tests: &["smidgen-reference"],
        others: None,
    },
    Edges { name: "xtask", ours: &[], in_tests: &[], others: None },
];

/// Edges that the architecture does not draw.
pub(super) fn check(metadata: &Value) -> Vec<Finding> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let members = list(&metadata["workspace_members"]);
    let packages = list(&metadata["packages"]);
    packages.iter().filter(|package| members.contains(&package["id"])).flat_map(check_package).collect()
}

fn check_package(package: &Value) -> Vec<Finding> {
    let name = package["name"].as_str().unwrap_or_default();
    let finding = |message| Finding { path: format!("Cargo.toml of {name}"), line: 0, message };
    let Some(edges) = EDGES.iter().find(|edges| edges.name == name) else {
        return vec![finding("this crate has no row in the table of edges".into())];
    };
    let mut findings = Vec::new();
    for dependency in package["dependencies"].as_array().into_iter().flatten() {
        let other = dependency["name"].as_str().unwrap_or_default();
        let in_tests = dependency["kind"].as_str() == Some("dev");
        let is_allowed = if dependency["path"].is_string() {
            edges.ours.contains(&other) || (in_tests && edges.in_tests.contains(&other))
        } else if dependency["source"].as_str().is_some_and(|source| source.starts_with("registry+")) {
            in_tests || edges.others.is_none_or(|others| others.contains(&other))
        } else {
            false // A git repository: it is not there for everybody, nor for ever.
        };
        if !is_allowed {
            findings.push(finding(format!("the edge to `{other}` is not in the architecture")));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn messages(name: &str, dependencies: Value) -> Vec<String> {
        let metadata = json!({
            "workspace_members": ["a"],
            "packages": [{"id": "a", "name": name, "dependencies": dependencies}, {"id": "b", "name": "stranger"}],
        });
        check(&metadata).iter().map(|finding| finding.message.clone()).collect()
    }

    fn external(name: &str, kind: Value) -> Value {
        json!({"name": name, "kind": kind, "source": "registry+index"})
    }

    #[test]
    fn an_edge_that_is_not_drawn_is_refused() {
        let refused = ["the edge to `rayon` is not in the architecture"];
        assert_eq!(messages("smidgen-core", json!([external("rayon", Value::Null)])), refused);
        let host = json!([{"name": "smidgen-host", "kind": null, "path": "crates/host"}]);
        assert_eq!(messages("smidgen-core", host.clone()).len(), 1);
        assert!(messages("smidgen", host).is_empty());
        let reference = |kind| json!([{"name": "smidgen-reference", "kind": kind, "path": "crates/reference"}]);
        assert_eq!(messages("smidgen-core", reference(Value::Null)).len(), 1);
        assert!(messages("smidgen-core", reference(json!("dev"))).is_empty());
        let git = json!([{"name": "rayon", "kind": null, "source": "git+repository"}]);
        assert_eq!(messages("smidgen-host", git).len(), 1);
    }

    #[test]
    fn tests_may_use_crates_from_outside_and_core_may_use_libm() {
        let dependencies = json!([external("libm", Value::Null), external("proptest", json!("dev"))]);
        assert!(messages("smidgen-core", dependencies).is_empty());
    }

    #[test]
    fn a_crate_without_a_row_is_refused() {
        assert_eq!(messages("smidgen-extra", json!([])), ["this crate has no row in the table of edges"]);
    }
}
