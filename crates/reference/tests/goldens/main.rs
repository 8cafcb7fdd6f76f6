//! The oracle against `transformers` and against itself.

mod container;
mod golden;
mod hf;
mod stories;
