//! Hugging Face model directories: `config.json`, safetensors, and a tokenizer, seen as a GGUF file.

mod config;
mod families;
mod hparams;
mod rope;
pub mod safetensors;
pub mod vocab;
mod weights;

use std::path::{Path, PathBuf};

use crate::emit::{FileType, write_types};
use crate::error::Error;
use crate::gguf_write::Header;
use crate::source::{Source, TensorInfo};
use crate::uniform::stored_file_type;
use config::Object;
use families::Family;
use hparams::Hparams;
use safetensors::Shards;
use vocab::Vocab;
use weights::Weights;

/// A Hugging Face model directory as a [`Source`].
pub struct HfSource {
    /// The directory, then the files in it that were read.
    files: Vec<PathBuf>,
    family: &'static Family,
    hparams: Hparams,
    weights: Weights,
    vocab: Vocab,
}

impl HfSource {
    /// Opens the directory at `path` and checks everything in it but the weights themselves.
    ///
    /// # Errors
    /// A file that is missing or wrong, naming it and the key or tensor concerned; a model that is not supported, with
    /// the list of those that are.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let config_path = path.join("config.json");
        if !config_path.exists() {
            return Err(Error::bad(path, "is not a Hugging Face model directory: it has no config.json"));
        }
        let config = Object::read(&config_path)?;
        let family = families::of(&config)?;
        let hparams = (family.read)(&config)?;
        let vocab = Vocab::read(path, &config, hparams.n_vocab)?;
        let shards = Shards::open(path)?;
        let mut files = vec![path.to_path_buf(), config_path];
        files.extend(shards.paths());
        files.extend(vocab.files().iter().cloned());
        let weights = Weights::plan(shards, family, &hparams)?;
        Ok(HfSource { files, family, hparams, weights, vocab })
    }
}

impl Source for HfSource {
    fn files(&self) -> &[PathBuf] {
        &self.files
    }

    fn metadata(&self, header: &mut Header, file_type: FileType) -> Result<(), Error> {
        let name = model_name(&self.files[0]);
        header.str("general.architecture", self.family.arch.as_bytes());
        header.str("general.type", b"model");
        header.str("general.name", name.as_bytes());
        write_types(file_type, stored_file_type(self.tensors()), header);
        self.hparams.write(self.family.arch, header);
        self.vocab.write(header);
        Ok(())
    }

    fn tensors(&self) -> &[TensorInfo] {
        self.weights.tensors()
    }

    fn read_rows(&mut self, tensor: usize, first_row: u64, out: &mut [u8]) -> Result<(), Error> {
        self.weights.read_rows(tensor, first_row, out)
    }
}

/// The name of the model in `directory`: the directory's, or that of the repository when it lies in the Hub's cache.
fn model_name(directory: &Path) -> String {
    let full = std::path::absolute(directory).unwrap_or_else(|_| directory.to_path_buf());
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let snapshots = full.parent().filter(|parent| name(parent) == "snapshots");
    let repository = snapshots.and_then(Path::parent).map(name).filter(|name| name.starts_with("models--"));
    match repository.as_deref().and_then(|repository| repository.rsplit_once("--")) {
        Some((_, repository)) => repository.to_string(),
        None => name(&full),
    }
}
