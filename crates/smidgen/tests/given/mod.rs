//! What tests of memory find where it was made: the static build, and the shared data.
#![allow(dead_code)] // Not every test needs both.

use std::path::Path;

/// The release build without a loader or relocations, which is the one that the limits are for.
pub(crate) fn static_build() -> Option<String> {
    let built = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/x86_64-unknown-linux-musl/release/smidgen");
    let path = std::env::var("SMIDGEN_STATIC").unwrap_or_else(|_| built.to_owned());
    if Path::new(&path).exists() {
        return Some(path);
    }
    println!("skipped: limits of the static build; cargo build --release --target x86_64-unknown-linux-musl makes one");
    None
}

/// A file or directory of the shared data.
pub(crate) fn shared(what: &str) -> Option<String> {
    let root = std::env::var("SMIDGEN_DATA")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data").to_owned());
    let path = format!("{root}/{what}");
    if Path::new(&path).exists() {
        return Some(path);
    }
    println!("skipped: {what}, no shared data");
    None
}
