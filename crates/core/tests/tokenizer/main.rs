//! Tokenizers against others' goldens: llama.cpp's vectors, `tokenizers`, `sentencepiece`, naive twins, and hostile files.

mod llama_cpp;
mod support;
mod vectors;
