//! `cargo xtask`: everything a developer repeats.
fn main() {}
