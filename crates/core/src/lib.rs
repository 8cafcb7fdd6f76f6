//! Bytes in, tokens out: a language-model engine without `std` and without an allocator.
//!
//! The modules stand in the order of their dependency; `ARCHITECTURE.md` says what each may know of the others.
#![cfg_attr(not(test), no_std)]
#![deny(unsafe_code)]

pub mod bytes;
pub mod gguf;
pub mod quant;
pub mod tokenizer;
