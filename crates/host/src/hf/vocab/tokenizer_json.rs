//! `tokenizer.json` of the `tokenizers` library: byte-level BPE, BPE with byte fallback (a converted SentencePiece
//! vocabulary), and unigram.

use std::collections::{HashMap, HashSet};
use std::fmt;

use base64::prelude::{BASE64_STANDARD, Engine};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::pre;
use super::{Kind, Pieces, Token, TokenKind, is_byte_piece};
use crate::error::Flaw;
use crate::hf::config::shorten;

/// U+2581, which stands for a space in SentencePiece vocabularies.
const MARK: char = '\u{2581}';
/// The score that llama.cpp gives to a token that was added to a SentencePiece vocabulary.
const ADDED_SCORE: f32 = -1000.0;

/// Reads a whole `tokenizer.json`.
///
/// # Errors
/// JSON that is not a tokenizer, a kind of tokenizer or a step of it that is not supported, merges of tokens that are
/// not there, two tokens of one number.
pub fn parse(bytes: &[u8]) -> Result<Pieces, Flaw> {
    read(bytes, true)
}

/// As [`parse`], of a vocabulary whose scores will come from the `tokenizer.model` beside it and not from the merges.
pub(super) fn parse_beside_model(bytes: &[u8]) -> Result<Pieces, Flaw> {
    read(bytes, false)
}

fn read(bytes: &[u8], needs_scores: bool) -> Result<Pieces, Flaw> {
    let raw: Raw = serde_json::from_slice(bytes).map_err(|error| Flaw::new(format!("is not a tokenizer: {error}")))?;
    let model = &raw.model;
    for (key, value) in [
        ("continuing_subword_prefix", &model.continuing_subword_prefix),
        ("end_of_word_suffix", &model.end_of_word_suffix),
    ] {
        if value.as_ref().is_some_and(|value| !value.is_empty()) {
            return Err(Flaw::new(format!("model.{key}: is not supported")));
        }
    }
    let is_bytes = pre::is_byte_level(&raw.pre_tokenizer);
    // Files from before the type was written are told by their fields.
    let kind = match (model.kind.as_deref(), &model.vocab) {
        (Some("BPE") | None, RawVocab::Numbered(_)) if is_bytes => Kind::ByteLevel,
        (Some("BPE") | None, RawVocab::Numbered(_)) => Kind::SentencePiece,
        (Some("Unigram") | None, RawVocab::Scored(_)) => Kind::Unigram,
        (Some(kind @ ("BPE" | "Unigram")), _) => return Err(Flaw::new(format!("model.vocab: is not that of {kind}"))),
        (Some(kind), _) => {
            return Err(Flaw::new(format!("model.type: '{kind}' is not supported (BPE and Unigram are)")));
        }
    };
    let mut pieces = match kind {
        Kind::ByteLevel => byte_level(&raw)?,
        Kind::SentencePiece => sentence_piece(&raw, needs_scores)?,
        Kind::Unigram => unigram(&raw)?,
    };
    for added in &raw.added_tokens {
        pieces.add(added.id, &added.content, added.special);
    }
    read_post_processor(&raw.post_processor, &mut pieces)?;
    pieces.finish()
}

fn byte_level(raw: &Raw) -> Result<Pieces, Flaw> {
    let mut steps = Vec::new();
    normalizers(&raw.normalizer, &mut steps);
    // llama.cpp does not compose characters either; models with NFC were trained on text that is almost all composed.
    if let Some(step) = steps.iter().find(|step| step["type"] != "NFC") {
        return Err(unsupported_normalizer(step));
    }
    let mut pieces = Pieces::new(Kind::ByteLevel);
    pieces.pre = pre::recognise(&raw.pre_tokenizer, raw.model.ignore_merges.unwrap_or(false))?;
    let RawVocab::Numbered(vocab) = &raw.model.vocab else { return Ok(pieces) };
    pieces.tokens.extend(vocab.iter().map(|(text, id)| Token::new(*id, text, TokenKind::Normal)));
    let known: HashSet<&str> = vocab.iter().map(|(text, _)| text.as_str()).collect();
    for (rank, Merge(left, right)) in raw.model.merges.iter().enumerate() {
        check_merge(rank, left, right, &known)?;
        pieces.merges.push(format!("{left} {right}"));
    }
    Ok(pieces)
}

/// A merge must be of two tokens and make a third; a space within would be lost in GGUF, which joins the two with one.
fn check_merge(rank: usize, left: &str, right: &str, known: &HashSet<&str>) -> Result<(), Flaw> {
    let joined = format!("{left}{right}");
    if let Some(part) = [left, right, &joined].into_iter().find(|part| !known.contains(part)) {
        return Err(Flaw::new(format!("model.merges[{rank}]: '{part}' is not in model.vocab")));
    }
    if joined.contains(' ') {
        return Err(Flaw::new(format!("model.merges[{rank}]: '{joined}' has a space")));
    }
    Ok(())
}

/// A SentencePiece vocabulary that was turned into merges: scores are the ranks of the merges again.
fn sentence_piece(raw: &Raw, needs_scores: bool) -> Result<Pieces, Flaw> {
    let mut pieces = Pieces::new(Kind::SentencePiece);
    read_spaces(raw, &mut pieces)?;
    let RawVocab::Numbered(vocab) = &raw.model.vocab else { return Ok(pieces) };
    if !raw.model.byte_fallback.unwrap_or(false) && raw.model.unk_token.is_none() {
        return Err(Flaw::new("model: BPE without ByteLevel, byte_fallback or unk_token is not supported"));
    }
    let known: HashSet<&str> = vocab.iter().map(|(text, _)| text.as_str()).collect();
    let mut merged: HashMap<String, (usize, HashSet<usize>)> = HashMap::new();
    for (rank, Merge(left, right)) in raw.model.merges.iter().enumerate() {
        let joined = format!("{left}{right}");
        if let Some(part) = [left, right, &joined].into_iter().find(|part| !known.contains(part.as_str())) {
            return Err(Flaw::new(format!("model.merges[{rank}]: '{part}' is not in model.vocab")));
        }
        merged.entry(joined).or_insert_with(|| (rank, HashSet::new())).1.insert(left.len());
    }
    let added: HashSet<&str> = raw.added_tokens.iter().map(|added| added.content.as_str()).collect();
    let is_unknown = |text: &str| raw.model.unk_token.as_deref() == Some(text);
    for (text, id) in vocab {
        let kind = match text {
            text if is_unknown(text) => TokenKind::Unknown,
            text if raw.model.byte_fallback.unwrap_or(false) && is_byte_piece(text.as_bytes()) => TokenKind::Byte,
            _ => TokenKind::Normal,
        };
        let mut token = Token::new(*id, text, kind);
        let found = merged.get(text);
        token.score = found.map_or(0.0, |(rank, _)| -(*rank as f32));
        // Tokens that were added are found in the text before anything is merged.
        if needs_scores && kind == TokenKind::Normal && !added.contains(text.as_str()) {
            check_cuts(text, found.map(|(_, cuts)| cuts), &known)?;
        }
        pieces.tokens.push(token);
    }
    if pieces.has_inner_marks() && splits_at_marks(&raw.pre_tokenizer) {
        return Err(Flaw::new("pre_tokenizer: Metaspace with split is not supported with tokens of several words"));
    }
    Ok(pieces)
}

/// SentencePiece joins any two neighbours that make a token; merges say the same only if every cut of a token is among them.
fn check_cuts(text: &str, cuts: Option<&HashSet<usize>>, known: &HashSet<&str>) -> Result<(), Flaw> {
    for (at, _) in text.char_indices().skip(1) {
        let is_there = cuts.is_some_and(|cuts| cuts.contains(&at));
        if !is_there && known.contains(&text[..at]) && known.contains(&text[at..]) {
            let message = format!(
                "model.merges: '{}' + '{}' is missing, so this is not a SentencePiece vocabulary; put its tokenizer.model beside",
                &text[..at],
                &text[at..]
            );
            return Err(Flaw::new(message));
        }
    }
    Ok(())
}

fn unigram(raw: &Raw) -> Result<Pieces, Flaw> {
    let mut pieces = Pieces::new(Kind::Unigram);
    read_spaces(raw, &mut pieces)?;
    let RawVocab::Scored(vocab) = &raw.model.vocab else { return Ok(pieces) };
    for (id, (text, score)) in (0u32..).zip(vocab) {
        let kind = match text {
            _ if raw.model.unk_id == Some(id) => TokenKind::Unknown,
            text if raw.model.byte_fallback.unwrap_or(false) && is_byte_piece(text.as_bytes()) => TokenKind::Byte,
            _ => TokenKind::Normal,
        };
        let mut token = Token::new(id, text, kind);
        token.score = *score;
        pieces.tokens.push(token);
    }
    if raw.model.unk_id.is_some_and(|id| id as usize >= vocab.len()) {
        return Err(Flaw::new("model.unk_id: is beyond the vocabulary"));
    }
    Ok(pieces)
}

/// What SentencePiece does with spaces and characters, from the normalizer and the pre-tokenizer together.
fn read_spaces(raw: &Raw, pieces: &mut Pieces) -> Result<(), Flaw> {
    let mut steps = Vec::new();
    normalizers(&raw.normalizer, &mut steps);
    let mut adds_prefix = false;
    for step in steps {
        let pattern = &step["pattern"];
        match step["type"].as_str() {
            Some("Prepend") if step["prepend"] == "\u{2581}" => adds_prefix = true,
            Some("Replace") if pattern["String"] == " " && step["content"] == "\u{2581}" => {}
            Some("Replace") if pattern["Regex"] == " {2,}" => pieces.removes_extra_spaces = true,
            Some("Strip") if pieces.kind == Kind::Unigram => {}
            Some("Precompiled") => pieces.charsmap = charsmap(step)?,
            _ => return Err(unsupported_normalizer(step)),
        }
    }
    adds_prefix |= metaspace(&raw.pre_tokenizer)?;
    pieces.adds_space_prefix = adds_prefix;
    Ok(())
}

/// Whether the pre-tokenizer of a SentencePiece vocabulary puts a space before the text.
fn metaspace(value: &Value) -> Result<bool, Flaw> {
    let unknown = || Flaw::new(format!("pre_tokenizer: {} is not known", shorten(value)));
    match value["type"].as_str() {
        None if value.is_null() => Ok(false),
        Some("Sequence") => {
            let list = value["pretokenizers"].as_array().ok_or_else(unknown)?;
            list.iter().try_fold(false, |adds, step| Ok(adds | metaspace(step)?))
        }
        Some("Metaspace") if value["replacement"] == "\u{2581}" => match value["prepend_scheme"].as_str() {
            Some("always" | "first") => Ok(true),
            Some("never") => Ok(false),
            None => Ok(value["add_prefix_space"].as_bool().unwrap_or(true)),
            Some(_) => Err(unknown()),
        },
        // Gemma cuts at spaces, of which its normalizer has left none.
        Some("Split") if value["pattern"]["String"] == " " => Ok(false),
        Some("WhitespaceSplit") => Ok(false),
        _ => Err(unknown()),
    }
}

/// Whether words are cut apart before they are merged.
fn splits_at_marks(value: &Value) -> bool {
    match value["type"].as_str() {
        Some("Sequence") => value["pretokenizers"].as_array().is_some_and(|list| list.iter().any(splits_at_marks)),
        kind => kind == Some("Metaspace") && value["split"].as_bool().unwrap_or(true),
    }
}

/// The steps of a normalizer, those of sequences one by one.
fn normalizers<'a>(value: &'a Value, found: &mut Vec<&'a Value>) {
    match value["normalizers"].as_array() {
        Some(list) if value["type"] == "Sequence" => list.iter().for_each(|step| normalizers(step, found)),
        _ if value.is_null() => {}
        _ => found.push(value),
    }
}

fn unsupported_normalizer(step: &Value) -> Flaw {
    Flaw::new(format!("normalizer: {} is not supported", shorten(step)))
}

/// The character map of a `Precompiled` step, which is base64.
fn charsmap(step: &Value) -> Result<Vec<u8>, Flaw> {
    let text = step["precompiled_charsmap"].as_str();
    let decoded = text.and_then(|text| BASE64_STANDARD.decode(text).ok());
    decoded.ok_or_else(|| Flaw::new("normalizer.precompiled_charsmap: is not base64"))
}

/// Finds which special tokens come before and after a text.
fn read_post_processor(value: &Value, pieces: &mut Pieces) -> Result<(), Flaw> {
    match value["type"].as_str() {
        Some("Sequence") => {
            for step in value["processors"].as_array().map(Vec::as_slice).unwrap_or_default() {
                read_post_processor(step, pieces)?;
            }
            Ok(())
        }
        Some("TemplateProcessing") => read_template(value, pieces),
        Some("ByteLevel") => Ok(()),
        None if value.is_null() => Ok(()),
        _ => Err(Flaw::new(format!("post_processor: {} is not supported", shorten(value)))),
    }
}

/// A template such as `<s> A </s>`: at most one token before the text and one after.
fn read_template(value: &Value, pieces: &mut Pieces) -> Result<(), Flaw> {
    let single = value["single"].as_array().map(Vec::as_slice).unwrap_or_default();
    let odd = || Flaw::new(format!("post_processor.single: {} is not supported", shorten(&value["single"])));
    let text = single.iter().position(|part| part.get("Sequence").is_some()).ok_or_else(odd)?;
    let token = |part: &Value| part["SpecialToken"]["id"].as_str().map(str::to_string);
    match &single[..text] {
        [] => {}
        [before] => pieces.before = Some(token(before).ok_or_else(odd)?),
        _ => return Err(odd()),
    }
    match &single[text + 1..] {
        [] => {}
        [after] => pieces.after = Some(token(after).ok_or_else(odd)?),
        _ => return Err(odd()),
    }
    Ok(())
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    added_tokens: Vec<RawAdded>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    model: RawModel,
}

#[derive(Deserialize)]
struct RawAdded {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct RawModel {
    #[serde(rename = "type")]
    kind: Option<String>,
    vocab: RawVocab,
    #[serde(default)]
    merges: Vec<Merge>,
    unk_token: Option<String>,
    unk_id: Option<u32>,
    byte_fallback: Option<bool>,
    ignore_merges: Option<bool>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
}

/// Tokens with their numbers, or in their order with scores.
enum RawVocab {
    Numbered(Vec<(String, u32)>),
    Scored(Vec<(String, f32)>),
}

impl<'de> Deserialize<'de> for RawVocab {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct VocabVisitor;
        impl<'de> Visitor<'de> for VocabVisitor {
            type Value = RawVocab;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of token numbers or a list of tokens with scores")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawVocab, A::Error> {
                let mut tokens = Vec::new();
                while let Some(token) = map.next_entry()? {
                    tokens.push(token);
                }
                Ok(RawVocab::Numbered(tokens))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<RawVocab, A::Error> {
                let mut tokens = Vec::new();
                while let Some(token) = list.next_element()? {
                    tokens.push(token);
                }
                Ok(RawVocab::Scored(tokens))
            }
        }
        deserializer.deserialize_any(VocabVisitor)
    }
}

/// Two neighbours that become one token; `"a b"` in older files, `["a", "b"]` in newer ones.
struct Merge(String, String);

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MergeVisitor;
        impl<'de> Visitor<'de> for MergeVisitor {
            type Value = Merge;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a merge of two tokens")
            }

            fn visit_str<E: serde::de::Error>(self, line: &str) -> Result<Merge, E> {
                match line.split_once(' ') {
                    Some((left, right)) if !right.contains(' ') => Ok(Merge(left.to_string(), right.to_string())),
                    _ => Err(E::custom(format!("the merge '{line}' is not of two tokens"))),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Merge, A::Error> {
                let odd = || serde::de::Error::custom("a merge is not of two tokens");
                let left = list.next_element()?.ok_or_else(odd)?;
                let right = list.next_element()?.ok_or_else(odd)?;
                if list.next_element::<String>()?.is_some() {
                    return Err(odd());
                }
                Ok(Merge(left, right))
            }
        }
        deserializer.deserialize_any(MergeVisitor)
    }
}

impl Pieces {
    /// Whether a token has a space mark behind its first other character, that is, spans two words.
    fn has_inner_marks(&self) -> bool {
        let spans = |text: &str| text.trim_start_matches(MARK).contains(MARK) || text.starts_with("\u{2581}\u{2581}");
        self.tokens.iter().any(|token| token.kind == TokenKind::Normal && spans(&String::from_utf8_lossy(&token.text)))
    }

    /// Adds a token that is found in text before anything else is done, or changes one that is there.
    pub(super) fn add(&mut self, id: u32, content: &str, special: bool) {
        let kind = if special { TokenKind::Control } else { TokenKind::UserDefined };
        let mut token = Token::new(id, content, kind);
        token.score = ADDED_SCORE;
        self.added.push(token);
    }
}
