//! Tokenizers against others' goldens: llama.cpp's vectors, `tokenizers`, `sentencepiece`, naive twins, and hostile files.

mod llama2c;
mod llama_cpp;
mod malformed;
mod properties;
mod speed;
mod support;
mod vectors;
