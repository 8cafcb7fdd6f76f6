//! Names of models on the Hub, and which files of a repository make a model.

use std::collections::BTreeSet;

use crate::error::Error;

/// Files listed in an error before it says how many more there are.
const FILES_SHOWN: usize = 20;
/// What a Hugging Face directory may have beside its weights.
const BESIDE_WEIGHTS: [&str; 8] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
];
const INDEX: &str = "model.safetensors.index.json";
const WEIGHTS: &str = "model.safetensors";

/// `hf:owner/name[/file]`, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    full: String,
    pub(super) owner: String,
    pub(super) repository: String,
    file: Option<String>,
}

/// The files that make a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// One file, with the small ones it needs beside it.
    File { file: String, beside: Vec<String> },
    /// All of these, in one directory.
    Directory(Vec<String>),
}

/// Whether `file` is a relative path that stays in its directory; the name comes from a user or from a server.
pub(super) fn is_safe(file: &str) -> bool {
    let is_plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(['\\', ':', '\0']);
    !file.is_empty() && file.split('/').all(is_plain)
}

impl Name {
    /// Takes `hf:owner/name[/file]` apart.
    pub(super) fn parse(full: &str) -> Result<Self, Error> {
        let odd = || Error::bad(full, "is not a name of the form hf:owner/name or hf:owner/name/file");
        let path = full.strip_prefix("hf:").ok_or_else(odd)?;
        let mut parts = path.splitn(3, '/');
        let part = |part: Option<&str>| {
            let is_known = |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
            part.filter(|part| is_safe(part) && part.chars().all(is_known)).map(str::to_string).ok_or_else(odd)
        };
        let (owner, repository) = (part(parts.next())?, part(parts.next())?);
        let file =
            parts.next().map(|file| if is_safe(file) { Ok(file.to_string()) } else { Err(odd()) }).transpose()?;
        Ok(Name { full: full.to_string(), owner, repository, file })
    }

    /// An error about this model.
    pub(super) fn error(&self, message: impl std::fmt::Display) -> Error {
        Error::bad(&self.full, message)
    }

    /// Which of the repository's `files` make the model; `read` gives the content of one of them.
    pub(super) fn choose(
        &self,
        files: &[String],
        read: impl FnOnce(&str) -> Result<Vec<u8>, Error>,
    ) -> Result<Choice, Error> {
        let ggufs: Vec<&String> = files.iter().filter(|file| file.to_ascii_lowercase().ends_with(".gguf")).collect();
        if let Some(file) = &self.file {
            if !files.contains(file) {
                let others = if ggufs.is_empty() { files.iter().collect() } else { ggufs };
                return Err(self.error(format!("there is no such file; there are {}", shown(&others))));
            }
            return Ok(Choice::File { file: file.clone(), beside: beside(file, files) });
        }
        match ggufs.as_slice() {
            [file] => return Ok(Choice::File { file: file.to_string(), beside: Vec::new() }),
            [] => {}
            several => {
                let message = format!("has {} .gguf files; add the name of one: {}", several.len(), shown(several));
                return Err(self.error(message));
            }
        }
        let has = |name: &str| files.iter().any(|file| file == name);
        let mut chosen: Vec<String> =
            BESIDE_WEIGHTS.iter().filter(|name| has(name)).map(|name| name.to_string()).collect();
        if has("config.json") && has(INDEX) {
            chosen.push(INDEX.to_string());
            chosen.extend(self.shards(&read(INDEX)?, files)?);
        } else if has("config.json") && has(WEIGHTS) {
            chosen.push(WEIGHTS.to_string());
        } else {
            return Err(self.error("has neither a .gguf file nor config.json with model.safetensors"));
        }
        Ok(Choice::Directory(chosen))
    }

    /// The files that an index of shards names.
    fn shards(&self, index: &[u8], files: &[String]) -> Result<BTreeSet<String>, Error> {
        #[derive(serde::Deserialize)]
        struct Index {
            weight_map: std::collections::BTreeMap<String, String>,
        }
        let index: Index =
            serde_json::from_slice(index).map_err(|error| self.error(format!("{INDEX} is not an index: {error}")))?;
        let shards: BTreeSet<String> = index.weight_map.into_values().collect();
        match shards.iter().find(|shard| !files.contains(shard)) {
            Some(missing) => Err(self.error(format!("{INDEX} names '{missing}', which is not there"))),
            None => Ok(shards),
        }
    }
}

/// The tokenizers that lie beside a llama2.c model.
fn beside(file: &str, files: &[String]) -> Vec<String> {
    if !file.ends_with(".bin") {
        return Vec::new();
    }
    let directory = file.rfind('/').map_or("", |end| &file[..=end]);
    let is_tokenizer = |other: &&String| {
        other
            .strip_prefix(directory)
            .is_some_and(|name| !name.contains('/') && name.starts_with("tok") && name.ends_with(".bin"))
    };
    files.iter().filter(|other| *other != file).filter(is_tokenizer).cloned().collect()
}

fn shown(files: &[&String]) -> String {
    let more = files.len().saturating_sub(FILES_SHOWN);
    let listed = files.iter().take(FILES_SHOWN).map(|file| file.as_str()).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{listed}, and {more} more") } else { listed }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(name: &str, files: &[&str]) -> Result<Choice, Error> {
        let files: Vec<String> = files.iter().map(|file| file.to_string()).collect();
        let index =
            br#"{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}"#;
        Name::parse(name).unwrap().choose(&files, |_| Ok(index.to_vec()))
    }

    #[test]
    fn names_that_are_none_are_refused() {
        for name in [
            "hf:",
            "hf:owner",
            "hf:owner/",
            "hf:../name",
            "hf:owner/..",
            "hf:o/n/../x",
            "hf:o/n//x",
            "hf:o/n/",
            "hf:o w/n",
        ] {
            assert!(Name::parse(name).unwrap_err().to_string().contains("hf:owner/name"), "{name}");
        }
        let name = Name::parse("hf:own-er/na.me/sub/file.gguf").unwrap();
        assert_eq!((name.owner.as_str(), name.repository.as_str()), ("own-er", "na.me"));
        assert_eq!(name.file.as_deref(), Some("sub/file.gguf"));
    }

    #[test]
    fn the_only_gguf_is_taken_and_several_are_listed() {
        let one = choose("hf:o/n", &["README.md", "a.gguf", "config.json", "model.safetensors"]).unwrap();
        assert_eq!(one, Choice::File { file: "a.gguf".into(), beside: vec![] });
        let said = choose("hf:o/n", &["a.gguf", "b.gguf"]).unwrap_err().to_string();
        assert!(said.contains("a.gguf, b.gguf"), "{said}");
        let named = choose("hf:o/n/b.gguf", &["a.gguf", "b.gguf"]).unwrap();
        assert_eq!(named, Choice::File { file: "b.gguf".into(), beside: vec![] });
        assert!(choose("hf:o/n/c.gguf", &["a.gguf"]).unwrap_err().to_string().contains("a.gguf"));
    }

    #[test]
    fn a_directory_is_its_shards_and_what_belongs_to_them() {
        let files = [
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "config.json",
            "tokenizer.json",
            "pytorch_model.bin",
        ];
        let Choice::Directory(chosen) = choose("hf:o/n", &files).unwrap() else { panic!("a directory") };
        assert_eq!(chosen.len(), 5);
        assert!(!chosen.contains(&"pytorch_model.bin".to_string()));
        assert!(choose("hf:o/n", &files[1..]).unwrap_err().to_string().contains("model-00001"));
        assert!(choose("hf:o/n", &["config.json"]).is_err());
    }

    #[test]
    fn a_llama2c_model_brings_its_tokenizer() {
        let files = ["s/stories260K.bin", "s/tok512.bin", "stories15M.bin", "s/readme.md"];
        let chosen = choose("hf:o/n/s/stories260K.bin", &files).unwrap();
        assert_eq!(chosen, Choice::File { file: files[0].into(), beside: vec![files[1].into()] });
    }
}
