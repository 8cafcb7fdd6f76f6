//! Vocabularies on their way from Hugging Face files to the tokenizer in core, checked with llama.cpp's own test vectors.

mod tiny;

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Value, json};
use smidgen_core::gguf::Gguf;
use smidgen_core::tokenizer::{Encode, Tokenizer};
use smidgen_host::image::Image;
use smidgen_host::{ModelFile, OpenOptions, open};
use tiny::{Directory, Model, N_EMBD, Tensor};

/// A vocabulary as GGUF has it.
struct Vocabulary {
    tokens: Vec<String>,
    types: Vec<u64>,
    scores: Vec<f32>,
    merges: Vec<String>,
}

fn strings(gguf: &Gguf<'_>, key: &str) -> Vec<String> {
    let array = gguf.get(key).and_then(|value| value.as_array());
    let strings = array.iter().flat_map(|array| array.string_offsets());
    strings.map(|(_, text)| String::from_utf8(text.to_vec()).unwrap()).collect()
}

impl Vocabulary {
    fn of(bytes: &[u8]) -> Self {
        let gguf = Gguf::parse(bytes, bytes.len() as u64).unwrap();
        let numbers = |key: &str| gguf.get(key).and_then(|value| value.as_array());
        Vocabulary {
            tokens: strings(&gguf, "tokenizer.ggml.tokens"),
            types: numbers("tokenizer.ggml.token_type")
                .iter()
                .flat_map(|array| array.iter())
                .map(|v| v.as_u64().unwrap())
                .collect(),
            scores: numbers("tokenizer.ggml.scores")
                .iter()
                .flat_map(|array| array.iter())
                .map(|v| v.as_f32().unwrap())
                .collect(),
            merges: strings(&gguf, "tokenizer.ggml.merges"),
        }
    }

    fn shared(name: &str) -> Option<Self> {
        let path = tiny::shared(&format!("tok/ggml-vocab-{name}.gguf"))?;
        Some(Vocabulary::of(&Image::map(&path).unwrap()))
    }

    /// The tokens of `types` as `added_tokens`.
    fn added(&self, types: &[u64]) -> Value {
        let added = self.tokens.iter().zip(&self.types).enumerate().filter(|(_, (_, kind))| types.contains(kind));
        added.map(|(id, (text, kind))| json!({"id": id, "content": text, "special": *kind == 3})).collect()
    }

    fn numbered(&self) -> Value {
        self.tokens
            .iter()
            .enumerate()
            .map(|(id, text)| (text.clone(), json!(id)))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }

    /// The merges that the `tokenizers` library makes of a SentencePiece vocabulary: every cut of every token.
    fn every_merge(&self) -> Vec<Value> {
        let known: HashMap<&str, usize> =
            self.tokens.iter().enumerate().map(|(id, text)| (text.as_str(), id)).collect();
        let mut merges = Vec::new();
        for (id, text) in self.tokens.iter().enumerate() {
            for (at, _) in text.char_indices().skip(1) {
                let (left, right) = text.split_at(at);
                if known.contains_key(left) && known.contains_key(right) {
                    merges.push((self.scores[id], known[left], known[right], json!([left, right])));
                }
            }
        }
        merges.sort_by(|one, other| other.0.total_cmp(&one.0).then((one.1, one.2).cmp(&(other.1, other.2))));
        merges.into_iter().map(|(_, _, _, merge)| merge).collect()
    }

    /// A model with these tokens and the files of `write`.
    fn model(&self, write: impl FnOnce(&Directory)) -> (Directory, ModelFile) {
        let mut model = Model::gated("LlamaForCausalLM", 1);
        let n = self.tokens.len() as u64;
        model.config["vocab_size"] = json!(n);
        let embedding = Tensor::f32(&[n, N_EMBD], &vec![0.5; (n * N_EMBD) as usize]);
        model.tensors.insert("model.embed_tokens.weight".into(), embedding);
        model.settings = json!({});
        let directory = model.write();
        write(&directory);
        let file = open(directory.path().to_str().unwrap(), &OpenOptions::default()).unwrap();
        (directory, file)
    }
}

/// Compares the tokenizer of `bytes` with llama.cpp's vectors for vocabulary `name`.
fn check_vectors(bytes: &[u8], name: &str) {
    let read = |ending: &str| {
        std::fs::read_to_string(tiny::shared(&format!("tok/ggml-vocab-{name}.gguf{ending}")).unwrap()).unwrap()
    };
    let (texts, expected) = (read(".inp"), read(".out"));
    let gguf = Gguf::parse(bytes, bytes.len() as u64).unwrap();
    let mut arena = vec![0; Tokenizer::arena_bytes(&gguf).unwrap()];
    let tokenizer = Tokenizer::new(&gguf, &mut arena).unwrap();
    let mut n = 0;
    for (text, line) in texts.split("\n__ggml_vocab_test__\n").zip(expected.lines()) {
        let expected: Vec<u32> = line.split_whitespace().map(|id| id.parse().unwrap()).collect();
        let mut scratch = vec![0; tokenizer.scratch_bytes(text.len())];
        let mut out = vec![0; tokenizer.max_tokens(text.len())];
        let options = Encode { add_special: false, parse_special: false };
        let n_out = tokenizer.encode(text, options, &mut scratch, &mut out).unwrap();
        assert_eq!(out[..n_out], expected, "{name}: {text:?}");
        n += 1;
    }
    assert!(n > 40, "{n} vectors");
}

#[test]
fn byte_level_vocabularies_keep_their_merges_and_their_pre_tokenizer() {
    let bytes = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": use_regex});
    let digits = |individual: bool| json!({"type": "Digits", "individual_digits": individual});
    let triples =
        json!({"type": "Split", "pattern": {"Regex": "[0-9][0-9][0-9]"}, "behavior": "Isolated", "invert": false});
    let punctuation = json!({"type": "Punctuation", "behavior": "Contiguous"});
    let steps = [
        ("gpt-2", vec![bytes(true)]),
        ("starcoder", vec![digits(true), bytes(true)]),
        ("falcon", vec![punctuation, bytes(true), digits(false), triples]),
    ];
    for (name, steps) in steps {
        let Some(vocabulary) = Vocabulary::shared(name) else { return };
        let (_directory, file) = vocabulary.model(|directory| {
            let merges: Vec<Value> = vocabulary.merges.iter().map(|merge| json!(merge)).collect();
            let tokenizer = json!({
                "added_tokens": vocabulary.added(&[3, 4]),
                "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
                "model": {"type": "BPE", "vocab": vocabulary.numbered(), "merges": merges},
            });
            directory.write("tokenizer.json", tokenizer.to_string());
        });
        let ours = Vocabulary::of(file.bytes());
        assert!(
            ours.tokens == vocabulary.tokens && ours.types == vocabulary.types && ours.merges == vocabulary.merges,
            "{name}"
        );
        check_vectors(file.bytes(), name);
    }
}

/// The steps of a Llama 2 `tokenizer.json` with these tokens.
fn llama2(vocabulary: &Vocabulary) -> Value {
    json!({
        "added_tokens": vocabulary.added(&[2, 3]),
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "\u{2581}"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"}]},
        "pre_tokenizer": null,
        "post_processor": {"type": "TemplateProcessing", "single": [
            {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]},
        "model": {"type": "BPE", "unk_token": "<unk>", "byte_fallback": true, "vocab": vocabulary.numbered(),
            "merges": vocabulary.every_merge()},
    })
}

#[test]
fn merges_with_byte_fallback_become_scores_again() {
    let Some(vocabulary) = Vocabulary::shared("llama-spm") else { return };
    let (_directory, file) = vocabulary.model(|directory| {
        directory.write("tokenizer.json", llama2(&vocabulary).to_string());
        directory
            .write("tokenizer_config.json", json!({"bos_token": "<s>", "eos_token": {"content": "</s>"}}).to_string());
    });
    let ours = Vocabulary::of(file.bytes());
    assert!(ours.tokens == vocabulary.tokens && ours.types == vocabulary.types);
    check_vectors(file.bytes(), "llama-spm");
    let gguf = Gguf::parse(file.bytes(), file.bytes().len() as u64).unwrap();
    for (key, value) in
        [("add_bos_token", 1), ("add_eos_token", 0), ("add_space_prefix", 1), ("bos_token_id", 1), ("eos_token_id", 2)]
    {
        let found = gguf.get_parts(&["tokenizer.ggml.", key]).unwrap_or_else(|| panic!("{key}"));
        assert_eq!(found.as_bool().map(u64::from).filter(|_| value < 2).or(found.as_u64()), Some(value), "{key}");
    }
}

#[test]
fn merges_that_are_not_complete_are_no_sentencepiece_vocabulary() {
    let Some(vocabulary) = Vocabulary::shared("llama-spm") else { return };
    let mut tokenizer = llama2(&vocabulary);
    let merges = tokenizer["model"]["merges"].as_array_mut().unwrap();
    let removed = merges.remove(1000);
    let said =
        smidgen_host::hf::vocab::tokenizer_json::parse(tokenizer.to_string().as_bytes()).unwrap_err().to_string();
    for part in removed.as_array().unwrap() {
        assert!(said.contains(part.as_str().unwrap()), "{said} {removed}");
    }
    assert!(said.contains("tokenizer.model"), "{said}");
}

/// A protocol buffer in the making.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value > 0x7f {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn number(mut self, field: u64, value: u64) -> Self {
        self.varint(field << 3);
        self.varint(value);
        self
    }

    fn float(mut self, field: u64, value: f32) -> Self {
        self.varint(field << 3 | 5);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn bytes(mut self, field: u64, value: &[u8]) -> Self {
        self.varint(field << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend(value);
        self
    }
}

impl Vocabulary {
    /// A `tokenizer.model` of this kind (1 unigram, 2 BPE) with these normalizer settings.
    fn sentencepiece(&self, kind: u64, normalizer: Message) -> Vec<u8> {
        let mut model = Message::default();
        for ((text, &score), &kind) in self.tokens.iter().zip(&self.scores).zip(&self.types) {
            let piece = Message::default().bytes(1, text.as_bytes()).float(2, score).number(3, kind);
            model = model.bytes(1, &piece.0);
        }
        // No padding piece: -1 as protocol buffers have it.
        let trainer = Message::default().number(3, kind).number(35, 1).number(43, u64::MAX).bytes(99, b"later");
        model.bytes(2, &trainer.0).bytes(3, &normalizer.0).0
    }
}

#[test]
fn a_sentencepiece_model_keeps_its_scores() {
    let Some(vocabulary) = Vocabulary::shared("llama-spm") else { return };
    let bytes = vocabulary.sentencepiece(2, Message::default().number(3, 1).number(4, 0));
    let (directory, file) = vocabulary.model(|directory| {
        std::fs::remove_file(directory.join("tokenizer.json")).unwrap();
        directory.write("tokenizer.model", &bytes);
        directory.write("tokenizer_config.json", json!({"add_bos_token": true}).to_string());
    });
    let ours = Vocabulary::of(file.bytes());
    assert!(ours.tokens == vocabulary.tokens && ours.types == vocabulary.types && ours.scores == vocabulary.scores);
    check_vectors(file.bytes(), "llama-spm");
    // With a tokenizer.json whose merges are not complete beside it, its scores are still the model's.
    let mut tokenizer = llama2(&vocabulary);
    tokenizer["model"]["merges"].as_array_mut().unwrap().truncate(9);
    directory.write("tokenizer.json", tokenizer.to_string());
    let file = open(directory.path().to_str().unwrap(), &OpenOptions::default()).unwrap();
    assert!(Vocabulary::of(file.bytes()).scores == vocabulary.scores);
}

fn unigram() -> Vocabulary {
    let pieces = [
        ("<unk>", 2, 0.0),
        ("<s>", 3, 0.0),
        ("</s>", 3, 0.0),
        ("\u{2581}a", 1, -1.5),
        ("b", 1, -2.0),
        ("\u{2581}", 1, -3.0),
    ];
    Vocabulary {
        tokens: pieces.iter().map(|(text, _, _)| text.to_string()).collect(),
        types: pieces.iter().map(|&(_, kind, _)| kind).collect(),
        scores: pieces.iter().map(|&(_, _, score)| score).collect(),
        merges: Vec::new(),
    }
}

#[test]
fn a_unigram_vocabulary_is_the_same_from_both_of_its_files() {
    let vocabulary = unigram();
    let charsmap = [1u8, 2, 3, 4];
    let model = vocabulary.sentencepiece(1, Message::default().bytes(2, &charsmap).number(3, 1).number(4, 1));
    let list: Vec<Value> =
        vocabulary.tokens.iter().zip(&vocabulary.scores).map(|(text, score)| json!([text, score])).collect();
    let tokenizer = json!({
        "added_tokens": vocabulary.added(&[2, 3]),
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Precompiled", "precompiled_charsmap": "AQIDBA=="},
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}]},
        "pre_tokenizer": {"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always"},
        "model": {"type": "Unigram", "unk_id": 0, "vocab": list},
    });
    let settings =
        json!({"add_bos_token": true, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}).to_string();
    let (_one, from_json) = vocabulary.model(|directory| {
        directory.write("tokenizer.json", tokenizer.to_string());
        directory.write("tokenizer_config.json", &settings);
    });
    let (_other, from_model) = vocabulary.model(|directory| {
        std::fs::remove_file(directory.join("tokenizer.json")).unwrap();
        directory.write("tokenizer.model", &model);
        directory.write("tokenizer_config.json", &settings);
    });
    let keys = |file: &ModelFile| -> Vec<String> {
        let gguf = Gguf::parse(file.bytes(), file.bytes().len() as u64).unwrap();
        let tokenizer = gguf.keys().filter(|(key, _)| key.starts_with(b"tokenizer."));
        tokenizer
            .map(|(key, value)| match value.as_array() {
                Some(array) => format!("{} {:?}", String::from_utf8_lossy(key), array.raw()),
                None => format!("{} {value:?}", String::from_utf8_lossy(key)),
            })
            .collect()
    };
    assert_eq!(keys(&from_json), keys(&from_model));
    let gguf = Gguf::parse(from_json.bytes(), from_json.bytes().len() as u64).unwrap();
    assert_eq!(gguf.get("tokenizer.ggml.model").unwrap().as_str(), Some(&b"t5"[..]));
    assert_eq!(gguf.get("tokenizer.ggml.precompiled_charsmap").unwrap().as_array().unwrap().raw(), charsmap);
    assert_eq!(gguf.get("tokenizer.ggml.remove_extra_whitespaces").unwrap().as_bool(), Some(true));
}

#[test]
fn a_sentencepiece_model_cut_or_changed_anywhere_is_an_error_or_a_model() {
    use smidgen_host::hf::vocab::sentencepiece::parse;
    let whole = unigram().sentencepiece(2, Message::default().number(3, 1));
    assert_eq!(parse(&whole).unwrap().len(), 6);
    for cut in 0..whole.len() {
        if let Err(flaw) = parse(&whole[..cut]) {
            let said = flaw.to_string();
            assert!(said.contains("at byte") || said.contains("no pieces"), "{said}");
        }
        for bit in 0..8 {
            let mut flipped = whole.clone();
            flipped[cut] ^= 1 << bit;
            let _ = parse(&flipped);
        }
    }
    let odd = Message::default().bytes(1, &Message::default().bytes(1, b"a").number(3, 9).0).0;
    assert!(parse(&odd).unwrap_err().to_string().contains("type 9"));
    let nan = Message::default().bytes(1, &Message::default().bytes(1, b"a").float(2, f32::NAN).0).0;
    assert!(parse(&nan).unwrap_err().to_string().contains("NaN"));
    let words = unigram().sentencepiece(3, Message::default());
    assert!(parse(&words).unwrap_err().to_string().contains("model_type"));
}

#[test]
fn special_tokens_and_templates_come_from_the_files_that_have_them() {
    let model = Model::gated("LlamaForCausalLM", 1);
    let directory = model.write();
    let number = |file: &ModelFile, key: &str| {
        let gguf = Gguf::parse(file.bytes(), file.bytes().len() as u64).unwrap();
        gguf.get_parts(&["tokenizer.", key]).and_then(|value| value.as_u64())
    };
    let template = |file: &ModelFile| {
        let gguf = Gguf::parse(file.bytes(), file.bytes().len() as u64).unwrap();
        let template = gguf.get("tokenizer.chat_template");
        template.map(|value| String::from_utf8(value.as_str().unwrap().to_vec()).unwrap())
    };
    let open = |directory: &Path| open(directory.to_str().unwrap(), &OpenOptions::default()).unwrap();
    directory.write("generation_config.json", json!({"eos_token_id": [0, 11, 3], "bos_token_id": 2}).to_string());
    let settings = json!({"eos_token": {"content": "<tool>"}, "pad_token": "d", "unk_token": "absent",
        "chat_template": [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes {{ x }}"}]});
    directory.write("tokenizer_config.json", settings.to_string());
    let file = open(directory.path());
    // The tokenizer's own end comes first, then those of the other files, each once.
    assert_eq!(number(&file, "ggml.eos_token_id"), Some(11));
    assert_eq!(number(&file, "ggml.eot_token_id"), Some(0));
    assert_eq!(number(&file, "ggml.eom_token_id"), Some(3));
    assert_eq!(number(&file, "ggml.bos_token_id"), Some(2));
    assert_eq!(number(&file, "ggml.padding_token_id"), Some(4));
    assert_eq!(number(&file, "ggml.unknown_token_id"), None);
    assert_eq!(template(&file).as_deref(), Some("yes {{ x }}"));
    directory.write("tokenizer_config.json", json!({"chat_template": "one"}).to_string());
    assert_eq!(template(&open(directory.path())).as_deref(), Some("one"));
    directory.write("chat_template.jinja", "a file of its own");
    assert_eq!(template(&open(directory.path())).as_deref(), Some("a file of its own"));
    // Without anything else, the post-processor names the begin token.
    let mut model = Model::gated("LlamaForCausalLM", 1);
    model.tokenizer["post_processor"] = json!({"type": "Sequence", "processors": [{"type": "ByteLevel"},
        {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|end|>"}}, {"Sequence": {"id": "A"}}]}]});
    let file = open(model.write().path());
    assert_eq!(number(&file, "ggml.bos_token_id"), Some(0));
    let gguf = Gguf::parse(file.bytes(), file.bytes().len() as u64).unwrap();
    assert_eq!(gguf.get("tokenizer.ggml.add_bos_token").unwrap().as_bool(), Some(true));
}
