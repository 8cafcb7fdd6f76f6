//! The same bits on every machine: core computes in f32, rounds after every operation, and calls no platform maths.

use super::tokens;
use super::{Finding, Source};

/// Methods whose result depends on the platform's maths library, or that round once where the definition rounds twice.
const METHODS: &[&str] = &[
    "mul_add", "exp", "exp2", "exp_m1", "ln", "ln_1p", "log", "log2", "log10", "sin", "cos", "tan", "sin_cos", "asin",
    "acos", "atan", "atan2", "sinh", "cosh", "tanh", "powf", "powi", "cbrt", "hypot",
];

/// Functions of `libm` that IEEE 754 fixes to the last bit, so that they agree everywhere.
const LIBM: &[&str] =
    &["sqrtf", "floorf", "ceilf", "truncf", "roundf", "roundevenf", "rintf", "fabsf", "copysignf", "fminf", "fmaxf"];

/// Parts of the names of instructions that fuse a product and a sum, or that only approximate.
const INSTRUCTIONS: &[&str] = &[
    "fmadd",
    "fmsub",
    "fnmadd",
    "fnmsub",
    "vfma",
    "vfms",
    "_rcp",
    "_rsqrt",
    "vrecpe",
    "vrsqrte",
    "fmla",
    "relaxed_madd",
];

/// Files that may name `f64`: readers of files that store it, and scores of cuts, which are summed as the model's own
/// tokenizer sums them and never reach a logit.
const F64: &[&str] = &["crates/core/src/bytes.rs", "crates/core/src/gguf/", "crates/core/src/tokenizer/unigram.rs"];

/// Arithmetic in core that another machine may round otherwise.
pub(super) fn check(file: &Source) -> Vec<Finding> {
    if !file.is_in("crates/core/src/") {
        return Vec::new();
    }
    let tokens = tokens::product(file);
    let mut findings = Vec::new();
    for (index, token) in tokens.iter().enumerate() {
        let name = token.text.as_str();
        let before = |n: usize| index.checked_sub(n).map_or("", |at| tokens[at].text.as_str());
        let is_call = tokens.get(index + 1).is_some_and(|next| next.text == "(");
        let is_associated = before(1) == ":" && before(2) == ":" && matches!(before(3), "f32" | "f64");
        let message = if METHODS.contains(&name) && is_call && (before(1) == "." || is_associated) {
            format!("`{name}` is the platform's, or rounds once: use the functions of `ops`")
        } else if before(1) == ":" && before(2) == ":" && before(3) == "libm" && !LIBM.contains(&name) {
            format!("`libm::{name}` does not give the same bits everywhere")
        } else if INSTRUCTIONS.iter().any(|part| name.contains(part)) && is_call {
            format!("`{name}` fuses or approximates: the definition rounds after every operation")
        } else if name == "f64" && !F64.iter().any(|path| file.is_in(path)) {
            "core computes in f32".to_string()
        } else {
            continue;
        };
        findings.push(file.finding(token.line, message));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::tests::messages;
    use super::*;

    const PATH: &str = "crates/core/src/ops/norm.rs";

    #[test]
    fn arithmetic_that_may_differ_is_refused() {
        for text in [
            "fn f(x: f32) -> f32 { x.exp() }",
            "fn f(x: f32) -> f32 { f32::mul_add(x, x, x) }",
            "fn f(x: f32) -> f32 { x.mul_add(x, x) }",
            "fn f(x: f32) -> f32 { libm::expf(x) }",
            "fn f() { _mm256_fmadd_ps(a, b, c); }",
            "fn f() { vfmaq_f32(a, b, c); }",
            "fn f(x: f64) {}",
        ] {
            assert_eq!(messages(check, PATH, text).len(), 1, "{text}");
        }
    }

    #[test]
    fn arithmetic_that_is_the_same_everywhere_is_not() {
        for text in [
            "fn f(x: f32) -> f32 { libm::sqrtf(x) }",
            "fn f(x: f32) -> f32 { exp(x) }",
            "fn f(x: &Bits) -> u32 { x.log }",
            "#[cfg(test)]\nmod tests { fn f(x: f64) -> f64 { x.exp() } }",
        ] {
            assert!(messages(check, PATH, text).is_empty(), "{text}");
        }
        assert!(messages(check, "crates/core/src/gguf/value.rs", "fn f(x: f64) {}").is_empty());
        assert!(messages(check, "crates/host/src/a.rs", "fn f(x: f32) -> f32 { x.exp() }").is_empty());
    }
}
