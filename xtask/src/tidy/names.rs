//! A file says by its name what is in it.

use super::{Finding, Source};

/// Names that say nothing: what has no name has no place yet.
const EMPTY_NAMES: &[&str] = &["util", "utils", "common", "helper", "helpers", "manager", "managers", "misc", "stuff"];

/// Files and folders whose name says nothing.
pub(super) fn check(file: &Source) -> Vec<Finding> {
    let parts = file.path.split('/').map(|part| part.split('.').next().unwrap_or(part));
    let empty = parts.filter(|part| EMPTY_NAMES.contains(&part.to_ascii_lowercase().as_str()));
    empty.map(|part| file.finding(0, format!("the name `{part}` does not say what is inside"))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::messages;
    use super::*;

    #[test]
    fn a_name_without_a_meaning_is_refused() {
        assert_eq!(messages(check, "a/utils.rs", ""), ["a/utils.rs: the name `utils` does not say what is inside"]);
        assert_eq!(messages(check, "a/common/mod.rs", "").len(), 1);
        assert!(messages(check, "a/uncommon.rs", "").is_empty());
    }
}
