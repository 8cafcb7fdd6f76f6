//! Bytes in, tokens out: a language-model engine without `std` and without an allocator.
//!
//! The modules stand in the order of their dependency; `ARCHITECTURE.md` says what each may know of the others.
#![cfg_attr(not(test), no_std)]
#![deny(unsafe_code)]

mod built;
pub mod bytes;
pub mod half;
mod round;
pub mod packed;
pub mod simd;
pub mod quant;
pub mod arena;
pub mod workers;
pub mod kv;
pub mod store;
pub mod ops;
pub mod gguf;
pub mod tokenizer;
pub mod model;
pub mod plan;
pub mod engine;
pub mod sample;
