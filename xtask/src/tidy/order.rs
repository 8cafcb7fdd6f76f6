//! Core has no `std` and no allocator, and its modules know only what stands before them.

use super::tokens::{self, Token};
use super::{Finding, Source};

/// The modules of core in the order of their dependency: each may use those above it.
const ORDER: &[&str] = &[
    "built",
    "bytes",
    "half",
    "round",
    "packed",
    "simd",
    "quant",
    "arena",
    "workers",
    "kv",
    "store",
    "ops",
    "gguf",
    "tokenizer",
    "model",
    "plan",
    "engine",
    "sample",
];

const CORE: &str = "crates/core/src/";

/// Paths in core that lead to `std`, to an allocator, or to a later module.
pub(super) fn check(file: &Source) -> Vec<Finding> {
    let Some(inside) = file.path.strip_prefix(CORE).filter(|path| path.ends_with(".rs")) else { return Vec::new() };
    let module = inside.split('/').next().unwrap_or(inside).trim_end_matches(".rs");
    let rank = |name: &str| ORDER.iter().position(|module| *module == name);
    if module != "lib" && rank(module).is_none() {
        return vec![file.finding(0, format!("module `{module}` has no place in the order of tidy"))];
    }
    // How many parents lead from here to the root of the crate: 1 in `quant/mod.rs`, 2 in `quant/q8_0.rs`.
    let depth = inside.trim_end_matches("/mod.rs").split('/').count();
    let tokens = tokens::product(file);
    let mut findings = Vec::new();
    for (index, token) in tokens.iter().enumerate() {
        let path = path_from(&tokens[index..]);
        match token.text.as_str() {
            root @ ("std" | "alloc") if path.is_some() || is_extern_crate(&tokens, index) => {
                findings.push(file.finding(token.line, format!("core uses `{root}`")));
            }
            "super" if n_supers(&tokens[index..]) >= depth => {
                findings.push(file.finding(token.line, "write `crate::` for a path that leaves the module"));
            }
            "crate" => {
                for used in path.map(first_names).unwrap_or_default() {
                    if rank(&used).is_some() && rank(&used) > rank(module) && module != "lib" {
                        let message = format!("module `{module}` uses `{used}`, which stands after it");
                        findings.push(file.finding(token.line, message));
                    }
                }
            }
            _ => {}
        }
    }
    findings
}

/// What follows `name::` when the first token is a name that begins a path.
fn path_from(tokens: &[Token]) -> Option<&[Token]> {
    let [_, first, second, rest @ ..] = tokens else { return None };
    (first.text == ":" && second.text == ":" && !rest.is_empty()).then_some(rest)
}

/// How many times `super` stands at the beginning of a path.
fn n_supers(tokens: &[Token]) -> usize {
    tokens.chunks(3).take_while(|part| part[0].text == "super").count()
}

fn is_extern_crate(tokens: &[Token], index: usize) -> bool {
    index >= 2 && tokens[index - 1].text == "crate" && tokens[index - 2].text == "extern"
}

/// The names that `a::b` or `{a::b, c}` begin with.
fn first_names(path: &[Token]) -> Vec<String> {
    if path.first().is_none_or(|token| token.text != "{") {
        return path.first().map(|token| token.text.clone()).into_iter().collect();
    }
    let (mut names, mut depth, mut is_first) = (Vec::new(), 0, true);
    for token in path {
        match token.text.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            "," if depth == 1 => is_first = true,
            name if depth == 1 && is_first => {
                names.push(name.to_string());
                is_first = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::super::tests::messages;
    use super::*;

    #[test]
    fn a_later_module_is_refused_however_it_is_named() {
        let path = "crates/core/src/quant/q8_0.rs";
        for text in [
            "use crate::engine::Engine;",
            "use crate::{bytes::{Cursor, Endian}, engine::Engine};",
            "fn f() { crate::engine::f() }",
            "macro_rules! m { () => { $crate::engine::f() } }",
        ] {
            let expected = "crates/core/src/quant/q8_0.rs:1: module `quant` uses `engine`, which stands after it";
            assert_eq!(messages(check, path, text), [expected], "{text}");
        }
        for text in ["use crate::{bytes::Cursor, quant::Type};", "use crate::simd::Isa;"] {
            assert!(messages(check, path, text).is_empty(), "{text}");
        }
        assert_eq!(messages(check, path, "use super::super::engine::Engine;").len(), 1);
        assert!(messages(check, path, "use super::Type;").is_empty());
        let deeper = "crates/core/src/tokenizer/pre/words.rs";
        assert!(messages(check, deeper, "use super::super::unicode::Class;").is_empty());
        assert_eq!(messages(check, "crates/core/src/quant/mod.rs", "use super::engine::Engine;").len(), 1);
    }

    #[test]
    fn std_and_alloc_are_refused_outside_tests() {
        let path = "crates/core/src/bytes.rs";
        assert_eq!(messages(check, path, "use std::vec::Vec;"), ["crates/core/src/bytes.rs:1: core uses `std`"]);
        assert_eq!(messages(check, path, "extern crate alloc;"), ["crates/core/src/bytes.rs:1: core uses `alloc`"]);
        assert!(messages(check, path, "#[cfg(test)]\nmod tests { use std::vec::Vec; }").is_empty());
        assert!(messages(check, "crates/host/src/lib.rs", "use std::vec::Vec;").is_empty());
    }

    #[test]
    fn a_module_without_a_place_is_refused() {
        assert_eq!(messages(check, "crates/core/src/extra.rs", "").len(), 1);
        assert!(messages(check, "crates/core/src/lib.rs", "pub mod bytes;").is_empty());
    }
}
