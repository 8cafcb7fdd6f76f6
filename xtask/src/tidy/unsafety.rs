//! `unsafe` lives in a few named files, and each use of it says why it holds.

use super::tokens::{self, Token};
use super::{Finding, Source};

/// Files and folders (which end with `/`) that may hold `unsafe`, each with what needs it.
const ALLOWED: &[(&str, &str)] = &[
    ("crates/core/src/simd/", "instruction sets beyond the baseline"),
    ("crates/core/src/arena.rs", "typed slices carved from the caller's bytes"),
    ("crates/core/src/workers.rs", "rows of one buffer shared out among workers"),
    ("crates/core/tests/engine.rs", "threads as unlike ours as can be"),
    ("crates/smidgen/tests/allocation.rs", "an allocator that counts"),
    ("crates/host/src/image.rs", "files mapped into memory"),
    ("crates/host/src/heap.rs", "an allocator"),
    ("crates/host/src/pages.rs", "pages given back to the system"),
    ("crates/host/src/weights/window.rs", "one large page shared by several windows, and stores past the caches"),
    ("crates/host/src/weights/ring.rs", "memory lent to the system while it reads"),
    ("crates/host/src/threads.rs", "a job lent to threads until they are done"),
    ("ports/", "machines without an operating system under them"),
];

/// `unsafe` outside the named files, and `unsafe` without its reason.
pub(super) fn check(file: &Source) -> Vec<Finding> {
    let is_named = ALLOWED.iter().any(|(path, _)| match path.ends_with('/') {
        true => file.is_in(path),
        false => file.path == *path,
    });
    let lines: Vec<&str> = file.text.lines().collect();
    let tokens = tokens::flat(file);
    let mut findings = Vec::new();
    for (index, token) in tokens.iter().enumerate().filter(|(_, token)| token.text == "unsafe") {
        let next = tokens.get(index + 1).map_or("", |token| token.text.as_str());
        if !is_named {
            findings.push(file.finding(token.line, "`unsafe` outside the files that tidy names"));
        } else if matches!(next, "{" | "impl") && !has_reason(&lines, token) {
            findings.push(file.finding(token.line, "`unsafe` without a `// SAFETY:` comment above it"));
        }
    }
    findings
}

/// Whether the comment above the statement of `token` (or on its line) begins with `SAFETY:`.
fn has_reason(lines: &[&str], token: &Token) -> bool {
    let says = |line: &str| line.contains("// SAFETY:");
    let mut at = token.line - 1;
    if lines.get(at).is_some_and(|line| says(line)) {
        return true;
    }
    while let Some(line) = at.checked_sub(1).and_then(|above| lines.get(above)).map(|line| line.trim()) {
        if says(line) {
            return true;
        }
        // Upwards through the comment, through attributes, and through the lines that one statement is broken into.
        let is_statement_end = line.is_empty() || line.ends_with([';', '{', '}', ',']);
        if is_statement_end && !line.starts_with("//") && !line.starts_with("#[") {
            return false;
        }
        at -= 1;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::super::tests::messages;
    use super::*;

    #[test]
    fn unsafe_outside_the_named_files_is_refused_even_in_a_macro() {
        let text = "// SAFETY: said, but in the wrong place.\nfn f() { unsafe { g() } }";
        let expected = "crates/core/src/plan.rs:2: `unsafe` outside the files that tidy names";
        assert_eq!(messages(check, "crates/core/src/plan.rs", text), [expected]);
        let text = "macro_rules! m { () => { unsafe { g() } } }";
        assert_eq!(messages(check, "crates/host/src/a.rs", text).len(), 1);
        assert!(messages(check, "crates/core/src/plan.rs", "fn f() { g(\"unsafe\") } // unsafe").is_empty());
    }

    #[test]
    fn a_block_needs_its_own_reason() {
        let path = "crates/core/src/arena.rs";
        let good = [
            "fn f() {\n // SAFETY: a reason\n // of two lines.\n unsafe { g() }\n}",
            "fn f() {\n // SAFETY: a reason.\n let x =\n unsafe { g() };\n}",
            "// SAFETY: a reason.\nunsafe impl Sync for S {}",
            "unsafe fn f() {}",
            "fn f() { // SAFETY: a reason.\n unsafe { g() } }",
        ];
        for text in good {
            assert!(messages(check, path, text).is_empty(), "{text}");
        }
        let bad = [
            "fn f() {\n unsafe { g() }\n}",
            "fn f() {\n // SAFETY: of the first.\n unsafe { g() }\n;\n unsafe { g() }\n}",
            "unsafe impl Sync for S {}",
        ];
        for text in bad {
            assert_eq!(messages(check, path, text).len(), 1, "{text}");
        }
    }
}
