//! Vocabularies with one thing wrong: a clear error for each, and never a panic.

use smidgen_core::gguf::Gguf;
use smidgen_core::tokenizer::{Encode, Error, Tokenizer};

use crate::support::{Meta, Random, encode_with, gguf, root, with_tokenizer};

type Entries = Vec<(&'static str, Meta)>;

const TOKENS: &str = "tokenizer.ggml.tokens";
const MERGES: &str = "tokenizer.ggml.merges";
const SCORES: &str = "tokenizer.ggml.scores";
const TYPES: &str = "tokenizer.ggml.token_type";

fn strings(texts: &[&str]) -> Meta {
    Meta::Strs(texts.iter().map(|text| text.as_bytes().to_vec()).collect())
}

fn llama() -> Entries {
    vec![
        ("tokenizer.ggml.model", Meta::Str(b"llama".to_vec())),
        (TOKENS, strings(&["<unk>", "<s>", "</s>", "▁", "a", "b", "ab"])),
        (SCORES, Meta::F32s(vec![0.0, 0.0, 0.0, -1.0, -2.0, -3.0, -4.0])),
        (TYPES, Meta::I32s(vec![2, 3, 3, 1, 1, 1, 1])),
    ]
}

fn gpt2() -> Entries {
    vec![
        ("tokenizer.ggml.model", Meta::Str(b"gpt2".to_vec())),
        ("tokenizer.ggml.pre", Meta::Str(b"gpt-2".to_vec())),
        (TOKENS, strings(&["a", "b", "ab", "c"])),
        (MERGES, strings(&["a b"])),
    ]
}

/// `entries` with `key` set to `value`, or without it.
fn with(mut entries: Entries, key: &'static str, value: impl Into<Option<Meta>>) -> Entries {
    entries.retain(|(other, _)| *other != key);
    entries.extend(value.into().map(|value| (key, value)));
    entries
}

fn error(entries: &Entries) -> Error {
    with_tokenizer(&gguf(entries), |_| ()).expect_err("an error")
}

#[test]
fn the_models_to_be_broken_are_whole() {
    for entries in [llama(), gpt2()] {
        assert!(with_tokenizer(&gguf(&entries), |_| ()).is_ok());
    }
}

#[test]
fn a_key_is_missing_or_of_another_type() {
    let flag = Meta::Bool(true);
    for (entries, key) in [(llama(), "tokenizer.ggml.model"), (llama(), TOKENS), (llama(), SCORES), (gpt2(), MERGES)] {
        assert_eq!(error(&with(entries.clone(), key, None)), Error::Missing(key));
        assert!(matches!(error(&with(entries, key, flag.clone())), Error::WrongType(wrong, _) if wrong == key));
    }
    for key in [TOKENS, SCORES, TYPES] {
        let wrong = if key == TOKENS { Meta::I32s(vec![1; 7]) } else { strings(&["x"; 7]) };
        assert!(matches!(error(&with(llama(), key, wrong)), Error::WrongType(wrong, _) if wrong == key));
    }
    let wrong = with(gpt2(), "tokenizer.ggml.pre", flag.clone());
    assert!(matches!(error(&wrong), Error::WrongType("tokenizer.ggml.pre", _)));
    let wrong = with(llama(), "tokenizer.ggml.add_bos_token", strings(&["yes"]));
    assert!(matches!(error(&wrong), Error::WrongType("tokenizer.ggml.add_bos_token", _)));
    let wrong = with(llama(), "tokenizer.ggml.bos_token_id", flag);
    assert!(matches!(error(&wrong), Error::WrongType("tokenizer.ggml.bos_token_id", _)));
}

#[test]
fn an_unknown_model_or_pre_tokenizer_is_named() {
    let unknown = error(&with(llama(), "tokenizer.ggml.model", Meta::Str(b"wordpiece\x1b".to_vec())));
    assert_eq!(unknown.to_string(), "'tokenizer.ggml.model': unknown tokenizer 'wordpiece?'");
    let unknown = error(&with(gpt2(), "tokenizer.ggml.pre", Meta::Str(b"klingon".to_vec())));
    assert_eq!(unknown.to_string(), "'tokenizer.ggml.pre': unknown pre-tokenizer 'klingon'");
    let missing = with(gpt2(), "tokenizer.ggml.pre", None);
    assert!(with_tokenizer(&gguf(&missing), |_| ()).is_ok(), "llama.cpp's default");
}

#[test]
fn arrays_have_one_element_for_each_token() {
    assert_eq!(error(&with(llama(), TOKENS, strings(&[]))), Error::NoTokens);
    for n_scores in [0, 6, 8] {
        let wrong = with(llama(), SCORES, Meta::F32s(vec![0.0; n_scores]));
        assert_eq!(error(&wrong), Error::Length(SCORES, n_scores, 7));
    }
    assert_eq!(error(&with(llama(), TYPES, Meta::I32s(vec![1; 3]))), Error::Length(TYPES, 3, 7));
    let nan = Meta::F32s(vec![0.0, 0.0, 0.0, 0.0, f32::NAN, 0.0, 0.0]);
    assert_eq!(error(&with(llama(), SCORES, nan)), Error::Score(4));
    let infinite = Meta::F32s(vec![0.0, 0.0, 0.0, 0.0, 0.0, 0.0, f32::NEG_INFINITY]);
    assert_eq!(error(&with(llama(), SCORES, infinite)), Error::Score(6));
}

#[test]
fn a_token_is_there_twice_or_is_absurdly_long() {
    let twice = strings(&["<unk>", "<s>", "</s>", "▁", "a", "b", "a"]);
    assert_eq!(error(&with(llama(), TOKENS, twice)), Error::Duplicate(4, 6));
    let empty = strings(&["<unk>", "<s>", "</s>", "▁", "a", "", ""]);
    assert!(with_tokenizer(&gguf(&with(llama(), TOKENS, empty)), |_| ()).is_ok(), "empty ones are no text");
    let long = "x".repeat(20_000);
    let too_long = strings(&["<unk>", "<s>", "</s>", "▁", "a", "b", &long]);
    assert_eq!(error(&with(llama(), TOKENS, too_long)), Error::TooLong(TOKENS, 6, 20_000));
    let control = strings(&["<unk>", "<s>", &long[..2000], "▁", "a", "b", "c"]);
    assert_eq!(error(&with(llama(), TOKENS, control)), Error::TooLong(TOKENS, 2, 2000));
}

#[test]
fn merges_are_of_tokens_that_make_a_token() {
    for wrong in ["a x", "x b", "b a", "ab", "", " ", "a ", " b", "a b c"] {
        assert_eq!(error(&with(gpt2(), MERGES, strings(&["a b", wrong]))), Error::Merge(1), "{wrong:?}");
    }
    let twice = with(gpt2(), MERGES, strings(&["a b", "a b"]));
    assert!(with_tokenizer(&gguf(&twice), |_| ()).is_ok(), "the first counts");
}

#[test]
fn ids_are_of_tokens() {
    for key in ["tokenizer.ggml.bos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.unknown_token_id"] {
        assert_eq!(error(&with(llama(), key, Meta::U32(7))), Error::SpecialId(key, 7));
        assert_eq!(error(&with(llama(), key, Meta::U32(u32::MAX))), Error::SpecialId(key, u32::MAX.into()));
    }
    let wrong = with(gpt2(), "tokenizer.ggml.add_eos_token", Meta::Bool(true));
    let want = Error::NoSpecial("tokenizer.ggml.add_eos_token", "tokenizer.ggml.eos_token_id");
    assert_eq!(error(&wrong), want);
}

#[test]
fn a_damaged_charsmap_is_refused_or_does_nothing() {
    const KEY: &str = "tokenizer.ggml.precompiled_charsmap";
    let unigram = with(llama(), "tokenizer.ggml.model", Meta::Str(b"t5".to_vec()));
    for wrong in
        [&b"x"[..], &[9, 0, 0, 0, 1, 2, 3], &[0, 0, 0, 0, b'x'], &[3, 0, 0, 0, 1, 2, 3, 0], &[4, 0, 0, 0, 1, 2, 3, 4]]
    {
        let wrong = with(unigram.clone(), KEY, Meta::Bytes(wrong.to_vec()));
        assert!(matches!(error(&wrong), Error::Charsmap(_)));
    }
    assert!(matches!(error(&with(unigram.clone(), KEY, strings(&["x"]))), Error::WrongType(KEY, _)));
    // A trie of noise leads anywhere, also outside of itself.
    let mut random = Random(9);
    for _ in 0..300 {
        let mut bytes = 256u32.to_le_bytes().to_vec();
        bytes.extend((0..256 + 40).map(|_| random.below(256) as u8));
        bytes.push(0);
        with_tokenizer(&gguf(&with(unigram.clone(), KEY, Meta::Bytes(bytes))), |tokenizer| {
            for _ in 0..20 {
                let done = encode_with(tokenizer, &random.text(20), Default::default());
                assert!(matches!(done, Ok(_) | Err(Error::Scratch(..) | Error::OutOfRoom(_))), "{done:?}");
            }
        })
        .expect("a vocabulary");
    }
}

#[test]
fn a_character_without_a_token_is_named_where_nothing_stands_for_it() {
    with_tokenizer(&gguf(&gpt2()), |tokenizer| {
        let done = encode_with(tokenizer, "abé", Default::default());
        assert_eq!(done, Err(Error::NoToken('é')));
        assert_eq!(encode_with(tokenizer, "abc", Default::default()), Ok(vec![2, 3]));
    })
    .expect("a vocabulary");
}

#[test]
fn the_arena_is_as_large_as_asked_for_or_refused() {
    let bytes = gguf(&llama());
    let file = Gguf::parse(&bytes, bytes.len() as u64).expect("a GGUF");
    let need = Tokenizer::arena_bytes(&file).expect("bytes");
    for got in [0, 1, 1024, need - 1] {
        assert_eq!(Tokenizer::new(&file, &mut vec![0; got]).err(), Some(Error::Arena(need, got)));
    }
    assert!(Tokenizer::new(&file, &mut vec![0; need]).is_ok());
}

/// Flips bits and cuts ends; whatever still parses is built and used.
#[test]
fn bits_flip() {
    let mut random = Random(10);
    for kind in ["byte-level", "llama", "unigram", "spm-unigram"] {
        let whole = std::fs::read(root().join(format!("testdata/tokenizer/{kind}.gguf"))).expect("a vocabulary");
        for _ in 0..400 {
            let mut bytes = whole.clone();
            for _ in 0..1 + random.below(6) {
                let at = random.below(bytes.len());
                bytes[at] ^= 1 << random.below(8);
            }
            let Ok(file) = Gguf::parse(&bytes, bytes.len() as u64) else { continue };
            let Ok(need) = Tokenizer::arena_bytes(&file) else { continue };
            assert!(need < 64 * bytes.len(), "the arena is bounded by the file");
            let mut arena = vec![0; need];
            let Ok(tokenizer) = Tokenizer::new(&file, &mut arena) else { continue };
            let text = random.text(40);
            let done = encode_with(&tokenizer, &text, Default::default());
            assert!(
                matches!(done, Ok(_) | Err(Error::NoToken(_) | Error::Scratch(..) | Error::OutOfRoom(_))),
                "{done:?}"
            );
        }
    }
}

/// A model that is run by token ids only is in order; a text is then refused.
#[test]
fn a_file_may_have_no_tokenizer() {
    let none = Meta::Str(b"none".to_vec());
    for entries in [vec![], vec![("tokenizer.ggml.model", none)]] {
        let file = gguf(&entries);
        let empty = with_tokenizer(&file, |t| {
            assert_eq!((t.n_tokens(), t.piece(3)), (0, None));
            t.encode("", Encode::default(), &mut [], &mut [])
        });
        assert_eq!(empty.expect("a tokenizer of nothing"), Ok(0));
        let refused = with_tokenizer(&file, |t| t.encode("a", Encode::default(), &mut [], &mut [0; 8]));
        assert_eq!(refused.expect("a tokenizer of nothing"), Err(Error::NoTokenizer));
    }
}
