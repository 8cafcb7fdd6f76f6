//! Files, imports, memory maps, threads and the machine: what core leaves to an operating system.
//!
//! [`open`] makes any model that people have (GGUF, a Hugging Face directory, a llama2.c `.bin`) one GGUF image in memory;
//! [`convert`] writes it to a file instead, tensor by tensor. Both read through the same [`Source`](source::Source), so
//! a model cannot differ by the way it came in.

pub mod atomic;
mod convert;
pub mod diagnose;
pub mod emit;
pub mod encode;
mod error;
pub mod gguf_source;
pub mod gguf_write;
#[cfg(all(target_os = "linux", any(target_env = "musl", test)))]
pub mod heap;
pub mod hf;
#[cfg(feature = "hub")]
pub mod hub;
pub mod image;
pub mod llama2c;
pub mod machine;
mod open;
pub mod packed;
pub mod pages;
mod progress;
pub mod source;
pub mod spill;
mod stream;
pub mod threads;
mod uniform;
pub mod weights;

pub use convert::{ConvertOptions, Import, Summary, convert};
pub use error::{Error, Flaw, listed};
pub use open::{ModelFile, OpenOptions, locate, open, open_path};
pub use progress::{Progress, Silent};
