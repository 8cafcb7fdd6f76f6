//! The `smidgen` command from outside: what it prints, where, and how it ends.

mod bad_input;
mod bench;
mod calibrate;
mod chat;
#[cfg(feature = "constrain")]
mod constraint;
mod eval;
mod files;
mod generation;
mod goldens;
mod llama_cpp;
mod pack;
mod planning;
mod quantize;
mod smidgen;
