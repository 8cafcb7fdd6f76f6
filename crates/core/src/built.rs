//! What a build has: the variables `SMIDGEN_TYPES`, `SMIDGEN_CACHES` and `SMIDGEN_ISA` name it, with spaces between.

/// Whether `name` is one of the names in `named`, or nothing is named.
pub(crate) const fn is_among(named: Option<&str>, name: &str) -> bool {
    let Some(named) = named else { return true };
    let (named, name) = (named.as_bytes(), name.as_bytes());
    let (mut at, mut matched) = (0, 0);
    // One past the end, where the last name ends as the others do at a space.
    while at <= named.len() {
        if at == named.len() || named[at] == b' ' {
            if matched == name.len() {
                return true;
            }
            matched = 0;
        } else {
            // A byte that differs makes the count larger than any name, until the next space.
            matched = if matched < name.len() && named[at] == name[matched] { matched + 1 } else { usize::MAX / 2 };
        }
        at += 1;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_whole() {
        for (named, name, want) in [
            (None, "Q4_0", true),
            (Some("Q4_0"), "Q4_0", true),
            (Some("F32 Q4_0 Q8_0"), "Q4_0", true),
            (Some("F32  Q8_0"), "Q8_0", true),
            (Some("Q4_01 XQ4_0"), "Q4_0", false),
            (Some("Q4"), "Q4_0", false),
            (Some(""), "Q4_0", false),
        ] {
            assert_eq!(is_among(named, name), want, "{name} among {named:?}");
        }
    }
}
