//! The oracle against `transformers` and against itself.

mod golden;
mod stories;
