//! `hf:owner/name[/file]`: models from the Hugging Face Hub, kept in the cache that its own tools use.
//!
//! The layout of the cache and the meaning of the headers are those of the `huggingface_hub` library. A download that is
//! cut goes on where it stopped, and nothing enters the cache whose checksum is not the one the Hub gave.

mod cache;
mod download;
mod http;
mod name;

use std::path::PathBuf;

use crate::error::Error;
use crate::progress::Progress;
use cache::Cache;
use http::Client;
use name::{Choice, Name};

/// Where models come from and where they are kept.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The Hub's address.
    pub endpoint: String,
    /// The directory of the cache.
    pub cache: PathBuf,
    /// The token that opens private and gated models.
    pub token: Option<String>,
    /// Ask no server and take what the cache has.
    pub offline: bool,
}

impl Settings {
    /// The settings that the Hub's own tools would use: `HF_ENDPOINT`, `HF_HUB_CACHE`, `HF_HOME`, `XDG_CACHE_HOME`,
    /// `HF_TOKEN` (or the file `HF_TOKEN_PATH`, or `token` in `HF_HOME`), `HF_HUB_OFFLINE`.
    ///
    /// # Errors
    /// When there is no home directory and no variable that names the cache.
    pub fn from_env() -> Result<Self, Error> {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let home = || variable("HOME").or_else(|| variable("USERPROFILE")).map(PathBuf::from);
        let cache_home = || variable("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| Some(home()?.join(".cache")));
        let hf_home = variable("HF_HOME").map(PathBuf::from).or_else(|| Some(cache_home()?.join("huggingface")));
        let cache = variable("HF_HUB_CACHE").map(PathBuf::from).or_else(|| Some(hf_home.as_ref()?.join("hub")));
        let no_cache = || Error::bad("hf:", "there is no home directory for the cache; set HF_HOME");
        let text = |name: &str| variable(name).and_then(|value| value.into_string().ok());
        let token_path = variable("HF_TOKEN_PATH").map(PathBuf::from).or_else(|| Some(hf_home.as_ref()?.join("token")));
        let stored = || std::fs::read_to_string(token_path?).ok();
        let token = text("HF_TOKEN").or_else(stored).map(|token| token.trim().to_string());
        let is_on = |value: String| ["1", "true", "yes", "on"].contains(&value.to_ascii_lowercase().as_str());
        Ok(Settings {
            endpoint: text("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_string()),
            cache: cache.ok_or_else(no_cache)?,
            token: token.filter(|token| !token.is_empty()),
            offline: text("HF_HUB_OFFLINE").is_some_and(is_on),
        })
    }
}

/// Brings the model called `name` (`hf:owner/name`, or with a file of it) into the cache and returns its path there: a
/// file, or the directory of a Hugging Face model.
///
/// Without a file, the repository's only `.gguf` is taken, or else its safetensors with all that belongs to them.
///
/// # Errors
/// A name that is none, a repository or file that is not there or not open to this token, several `.gguf` files of which
/// none was named, a server that does not answer, a checksum that is wrong.
pub fn fetch(name: &str, settings: &Settings, progress: &dyn Progress) -> Result<PathBuf, Error> {
    let parsed = Name::parse(name)?;
    let cache = Cache::new(&settings.cache, &parsed);
    if settings.offline {
        let commit =
            cache.commit().ok_or_else(|| Error::bad(name, "is not in the cache, and HF_HUB_OFFLINE is set"))?;
        let choice = parsed.choose(&cache.files(&commit)?, |index| cache.read(&commit, index))?;
        return Ok(cache.path_of(&commit, &choice));
    }
    let client = Client::new(name, settings)?;
    let listing = client.listing(&parsed)?;
    let get = |file: &str| download::file(&client, &cache, &parsed, &listing.commit, file, progress);
    let choice = parsed.choose(&listing.files, |index| {
        get(index)?;
        cache.read(&listing.commit, index)
    })?;
    let files: &[String] = match &choice {
        Choice::File { file, beside } => {
            beside.iter().try_for_each(|file| get(file))?;
            std::slice::from_ref(file)
        }
        Choice::Directory(files) => files,
    };
    files.iter().try_for_each(|file| get(file))?;
    cache.set_commit(&listing.commit)?;
    Ok(cache.path_of(&listing.commit, &choice))
}
