//! Special tokens, whether a text gets one before and after it, and the chat template: from `tokenizer_config.json`,
//! `generation_config.json`, `config.json` and the tokenizer's own post-processor.

use std::path::Path;

use serde_json::Value;

use super::{Kind, Pieces};
use crate::error::Error;
use crate::gguf_write::Header;
use crate::hf::config::{Object, shorten};
use crate::image::read_small;

/// A template beyond this is not one.
const TEMPLATE_LIMIT_BYTES: u64 = 1 << 20;

/// What GGUF says of special tokens.
#[derive(Clone, Debug, Default)]
pub(super) struct Special {
    bos: Option<u32>,
    /// The tokens that end a text: GGUF has keys for three (eos, eot, eom).
    ends: Vec<u32>,
    unknown: Option<u32>,
    padding: Option<u32>,
    adds_bos: bool,
    adds_eos: bool,
    chat_template: Option<String>,
}

impl Special {
    /// Writes them as metadata.
    pub(super) fn write(&self, header: &mut Header) {
        let ends = ["eos", "eot", "eom"].into_iter().zip(self.ends.iter().copied().map(Some));
        let others = [("bos", self.bos), ("unknown", self.unknown), ("padding", self.padding)];
        for (name, id) in others.into_iter().chain(ends) {
            if let Some(id) = id {
                header.u32(&format!("tokenizer.ggml.{name}_token_id"), id);
            }
        }
        header.bool("tokenizer.ggml.add_bos_token", self.adds_bos);
        header.bool("tokenizer.ggml.add_eos_token", self.adds_eos);
        if let Some(template) = &self.chat_template {
            header.str("tokenizer.chat_template", template.as_bytes());
        }
    }
}

/// Finds the special tokens of `pieces` in the files of `directory`.
pub(super) fn read(
    directory: &Path,
    config: &Object,
    settings: Option<&Object>,
    pieces: &Pieces,
    n_vocab: u32,
) -> Result<Special, Error> {
    let generation = Object::read_if_there(&directory.join("generation_config.json"))?;
    let named =
        |key: &str| settings.and_then(|settings| token_text(settings.get(key)?)).and_then(|text| pieces.find(text));
    let numbered = |key: &str| -> Result<Vec<u32>, Error> {
        let mut ids = numbers(config, key, n_vocab)?;
        if let Some(generation) = &generation {
            ids.extend(numbers(generation, key, n_vocab)?);
        }
        Ok(ids)
    };
    let [unknown, begin, end, padding] = pieces.ids;
    // What a text begins or ends with is what the post-processor puts there, when nothing else says so.
    let placed = |name: &Option<String>| name.as_ref().and_then(|name| pieces.find(name));
    let bos = named("bos_token").or(numbered("bos_token_id")?.first().copied()).or(begin).or(placed(&pieces.before));
    let mut ends: Vec<u32> = Vec::new();
    for id in named("eos_token").into_iter().chain(numbered("eos_token_id")?) {
        if !ends.contains(&id) {
            ends.push(id);
        }
    }
    if ends.is_empty() {
        ends.extend(end.or(placed(&pieces.after)));
    }
    let text_of = |id: Option<u32>| id.and_then(|id| pieces.tokens.iter().find(|token| token.id == id));
    let is = |id: Option<u32>, name: &str| text_of(id).is_some_and(|token| token.text == name.as_bytes());
    let setting = |key: &str| settings.map_or(Ok(None), |settings| settings.bool_if_there(key));
    let unexpected = |name: &str, place: &str| {
        let message = format!("post_processor: '{name}' {place} a text is neither its begin nor its end token");
        Error::bad(directory.join("tokenizer.json"), message)
    };
    let mut special = Special { bos, unknown: named("unk_token").or(unknown), ..Special::default() };
    special.padding = named("pad_token").or(padding);
    special.adds_bos = match (setting("add_bos_token")?, &pieces.before) {
        (Some(adds), _) => adds,
        (None, Some(name)) if is(bos, name) => true,
        (None, Some(name)) => return Err(unexpected(name, "before")),
        (None, None) => false,
    };
    special.adds_eos = match (setting("add_eos_token")?, &pieces.after) {
        (Some(adds), _) => adds,
        (None, Some(name)) if is(ends.first().copied(), name) => true,
        (None, Some(name)) => return Err(unexpected(name, "after")),
        (None, None) => false,
    };
    special.ends = ends;
    special.chat_template = chat_template(directory, settings)?;
    Ok(special)
}

/// The text of a token that is given as a string or as an object with its `content`.
fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value["content"].as_str())
}

/// The token numbers that `key` gives, one or a list.
fn numbers(object: &Object, key: &str, n_vocab: u32) -> Result<Vec<u32>, Error> {
    let Some(value) = object.get(key) else { return Ok(Vec::new()) };
    let one = std::slice::from_ref(value);
    let list = value.as_array().map_or(one, Vec::as_slice);
    let number = |value: &Value| {
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok()).filter(|&id| id < n_vocab);
        id.ok_or_else(|| object.error(key, format!("{} is not a token of {n_vocab}", shorten(value))))
    };
    list.iter().map(number).collect()
}

/// The template: a file of its own, or in `tokenizer_config.json` as a string or a list of named ones.
fn chat_template(directory: &Path, settings: Option<&Object>) -> Result<Option<String>, Error> {
    let path = directory.join("chat_template.jinja");
    if path.exists() {
        let bytes = read_small(&path, TEMPLATE_LIMIT_BYTES)?;
        let text = String::from_utf8(bytes).map_err(|_| Error::bad(&path, "is not UTF-8"))?;
        return Ok(Some(text));
    }
    let json = Object::read_if_there(&directory.join("chat_template.json"))?;
    for object in json.iter().chain(settings) {
        let Some(value) = object.get("chat_template") else { continue };
        let listed = value.as_array().and_then(|list| list.iter().find(|template| template["name"] == "default"));
        let text = value.as_str().or_else(|| listed.and_then(|template| template["template"].as_str()));
        let odd = || object.error("chat_template", "is neither a string nor a list with one named 'default'");
        return Ok(Some(text.ok_or_else(odd)?.to_string()));
    }
    Ok(None)
}

/// Adds to a `tokenizer.model` what `added_tokens.json` and `tokenizer_config.json` add, and what its class implies.
pub(super) fn read_added(directory: &Path, settings: Option<&Object>, pieces: &mut Pieces) -> Result<(), Error> {
    let path = directory.join("added_tokens.json");
    if path.exists() {
        let bytes = read_small(&path, TEMPLATE_LIMIT_BYTES)?;
        let added: std::collections::BTreeMap<String, u32> = serde_json::from_slice(&bytes)
            .map_err(|error| Error::bad(&path, format!("is not a list of tokens: {error}")))?;
        added.iter().for_each(|(text, &id)| pieces.add(id, text, false));
    }
    if let Some(settings) = settings
        && let Some(decoder) = settings.get("added_tokens_decoder")
    {
        let odd = || settings.error("added_tokens_decoder", "is not an object of tokens by their numbers");
        for (id, token) in decoder.as_object().ok_or_else(odd)? {
            let id = id.parse().map_err(|_| odd())?;
            let content = token["content"].as_str().ok_or_else(odd)?;
            pieces.add(id, content, token["special"].as_bool().unwrap_or(false));
        }
    }
    Ok(())
}

impl Pieces {
    /// This vocabulary of `tokenizer.model` with what `tokenizer.json` says beyond it.
    pub(super) fn with_added_of(mut self, json: Pieces) -> Result<Pieces, crate::error::Flaw> {
        debug_assert!(json.kind != Kind::ByteLevel);
        let known = self.tokens.len() as u32;
        let beyond = |token: &&super::Token| token.id >= known || token.kind as i32 != super::TokenKind::Normal as i32;
        self.added = json.tokens.iter().filter(beyond).cloned().collect();
        self.adds_space_prefix = json.adds_space_prefix;
        self.before = json.before;
        self.after = json.after;
        self.finish()
    }
}
