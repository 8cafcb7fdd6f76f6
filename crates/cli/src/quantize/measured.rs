//! What was measured for a search, kept in the user's cache, so that another size of the same model takes no second measurement.

use crate::cache;
use crate::hash::Fnv1a;
use serde::{Deserialize, Serialize};
use smidgen_host::atomic;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Measurements of one type.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OfType {
    /// The divergence when only that part has the type; null where its rows cannot have it.
    pub parts: Vec<Option<f64>>,
    /// The divergence on the rest of the text when every part has it; null where one cannot.
    pub uniform: Option<f64>,
}

/// All measurements of one model on one text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Everything that they depend on.
    key: String,
    /// By the name of the type.
    pub types: BTreeMap<String, OfType>,
}

impl Measured {
    /// What is known already under `key`.
    pub fn load(key: String) -> Self {
        let stored = path(&key).and_then(|path| std::fs::read(path).ok());
        let stored: Option<Measured> = stored.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        stored.filter(|stored| stored.key == key).unwrap_or(Measured { key, types: BTreeMap::new() })
    }

    /// Keeps it. A cache that cannot be written costs time and nothing else, so that is no failure.
    pub fn save(&self) {
        let Some(path) = path(&self.key) else { return };
        let Ok(bytes) = serde_json::to_vec(self) else { return };
        if let Some(folder) = path.parent()
            && std::fs::create_dir_all(folder).is_ok()
        {
            let _ = atomic::write_bytes(&path, &bytes);
        }
    }
}

/// Where measurements under `key` lie.
fn path(key: &str) -> Option<PathBuf> {
    Some(cache::directory()?.join(format!("measured-{:016x}.json", Fnv1a::of(key.as_bytes()))))
}

/// What tells the file at `path` from another, or from itself at another time.
pub fn identity(path: &Path) -> String {
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let metadata = std::fs::metadata(&path).ok();
    let changed = metadata.as_ref().and_then(|metadata| metadata.modified().ok());
    format!("{} ({:?} bytes, {changed:?})", path.display(), metadata.map(|metadata| metadata.len()))
}
