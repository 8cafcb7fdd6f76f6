//! Properties on vocabularies made at random: naive twins agree, and what was encoded decodes to itself.

use std::collections::HashMap;

use smidgen_core::tokenizer::{Encode, Error};

use crate::support::{Meta, Random, decode, encode, encode_with, gguf, with_tokenizer};

/// Tokens that grow by joining two that are there, and the joined pairs.
fn grown(random: &mut Random, mut tokens: Vec<String>, n_merges: usize) -> (Vec<String>, Vec<(String, String)>) {
    let n_first = tokens.len();
    let mut merges = Vec::new();
    while merges.len() < n_merges {
        let mut pick = || tokens[random.below(tokens.len())].clone();
        let (left, right) = (pick(), pick());
        let joined = format!("{left}{right}");
        if joined.len() <= 12 && !tokens[n_first..].contains(&joined) && !joined.contains('<') {
            tokens.push(joined);
            merges.push((left, right));
        }
    }
    (tokens, merges)
}

fn letters() -> Vec<String> {
    "▁abcé中😀".chars().map(String::from).collect()
}

fn texts(random: &mut Random, n_texts: usize) -> Vec<String> {
    let alphabet: Vec<char> = " aabbcé中😀d".chars().collect();
    (0..n_texts).map(|_| (0..random.below(30)).map(|_| alphabet[random.below(alphabet.len())]).collect()).collect()
}

/// A `llama` vocabulary: `<unk>`, BOS, EOS, all bytes if wanted, letters, and joined tokens with few different scores.
fn llama(random: &mut Random, has_bytes: bool) -> (Vec<String>, Vec<f32>, Vec<u8>) {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
    let mut types = vec![2, 3, 3];
    if has_bytes {
        tokens.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
        types.resize(tokens.len(), 6);
    }
    let (pieces, _) = grown(random, letters(), 40);
    tokens.extend(pieces);
    types.resize(tokens.len(), 1);
    let scores: Vec<f32> = tokens.iter().map(|_| -(random.below(12) as f32) / 4.0).collect();
    let bytes = gguf(&[
        ("tokenizer.ggml.model", Meta::Str(b"llama".to_vec())),
        ("tokenizer.ggml.tokens", Meta::Strs(tokens.iter().map(|token| token.clone().into_bytes()).collect())),
        ("tokenizer.ggml.scores", Meta::F32s(scores.clone())),
        ("tokenizer.ggml.token_type", Meta::I32s(types)),
    ]);
    (tokens, scores, bytes)
}

/// Joins the leftmost of the best pairs until there is none.
fn naive_bpe(text: &str, rank: impl Fn(&str, &str) -> Option<f32>) -> Vec<String> {
    let mut symbols: Vec<String> = text.chars().map(String::from).collect();
    loop {
        let mut best: Option<(f32, usize)> = None;
        for (index, pair) in symbols.windows(2).enumerate() {
            let score = rank(&pair[0], &pair[1]);
            best = match (best, score) {
                (None, Some(score)) => Some((score, index)),
                (Some((top, _)), Some(score)) if score > top => Some((score, index)),
                _ => best,
            };
        }
        let Some((_, index)) = best else { return symbols };
        let right = symbols.remove(index + 1);
        symbols[index] += &right;
    }
}

#[test]
fn sentencepiece_agrees_with_its_naive_twin() {
    let mut random = Random(1);
    for round in 0..60 {
        let (tokens, scores, bytes) = llama(&mut random, round % 2 == 0);
        let ids: HashMap<&str, usize> = tokens.iter().enumerate().map(|(id, token)| (&token[..], id)).collect();
        let texts = texts(&mut random, 40);
        with_tokenizer(&bytes, |tokenizer| {
            for text in texts.iter().filter(|text| !text.is_empty()) {
                let spelled = format!(" {text}").replace(' ', "▁");
                let rank = |left: &str, right: &str| ids.get(&format!("{left}{right}")[..]).map(|&id| scores[id]);
                let mut want = Vec::new();
                for symbol in naive_bpe(&spelled, rank) {
                    match ids.get(&symbol[..]) {
                        Some(&id) => want.push(id as u32),
                        None if round % 2 == 0 => want.extend(symbol.bytes().map(|byte| u32::from(byte) + 3)),
                        None if want.last() == Some(&0) => (),
                        None => want.push(0),
                    }
                }
                assert_eq!(encode(tokenizer, text), want, "{text:?}");
            }
        })
        .expect("a vocabulary");
    }
}

/// The character that byte-level BPE writes for `byte`.
fn byte_char(byte: u8) -> char {
    let is_printable = |byte: u8| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    if is_printable(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|&byte| !is_printable(byte)).count();
    char::from_u32(256 + before as u32).expect("a character")
}

fn spelled(text: &str) -> String {
    text.bytes().map(byte_char).collect()
}

/// The rank of each pair that merges.
type Ranks = HashMap<(String, String), usize>;

/// A `gpt2` vocabulary: all bytes, and joined tokens.
fn gpt2(random: &mut Random, pre: &str) -> (HashMap<String, usize>, Ranks, Vec<u8>) {
    let mut first: Vec<String> = (0..=255).map(|byte| byte_char(byte).to_string()).collect();
    let parts = spelled("abcé中😀 ");
    // Bytes of the letters come up more often, so that there are tokens of whole and of half characters.
    first.extend(parts.chars().map(String::from));
    let mut seen = std::collections::HashSet::new();
    let (grown, merges) = grown(random, first, 60);
    let tokens: Vec<String> = grown.into_iter().filter(|token| seen.insert(token.clone())).collect();
    let bytes = gguf(&[
        ("tokenizer.ggml.model", Meta::Str(b"gpt2".to_vec())),
        ("tokenizer.ggml.pre", Meta::Str(pre.as_bytes().to_vec())),
        ("tokenizer.ggml.tokens", Meta::Strs(tokens.iter().map(|token| token.clone().into_bytes()).collect())),
        (
            "tokenizer.ggml.merges",
            Meta::Strs(merges.iter().map(|(left, right)| format!("{left} {right}").into_bytes()).collect()),
        ),
    ]);
    let ids = tokens.into_iter().enumerate().map(|(id, token)| (token, id)).collect();
    let mut ranks = HashMap::new();
    for (rank, pair) in merges.into_iter().enumerate() {
        ranks.entry(pair).or_insert(rank);
    }
    (ids, ranks, bytes)
}

#[test]
fn byte_level_agrees_with_its_naive_twin() {
    let mut random = Random(2);
    for _ in 0..40 {
        let (ids, ranks, bytes) = gpt2(&mut random, "gpt-2");
        let texts = texts(&mut random, 40);
        with_tokenizer(&bytes, |tokenizer| {
            for text in &texts {
                // Letters alone are one word for every pre-tokenizer.
                let text: String = text.chars().filter(|c| c.is_alphabetic()).collect();
                let rank =
                    |left: &str, right: &str| ranks.get(&(left.into(), right.into())).map(|&rank| -(rank as f32));
                let want: Vec<u32> = naive_bpe(&spelled(&text), rank).iter().map(|token| ids[token] as u32).collect();
                assert_eq!(encode(tokenizer, &text), want, "{text:?}");
            }
        })
        .expect("a vocabulary");
    }
}

#[test]
fn unigram_agrees_with_its_naive_twin() {
    let mut random = Random(3);
    for _ in 0..60 {
        let (tokens, scores, bytes) = llama(&mut random, false);
        let position = bytes.windows(5).position(|window| window == b"llama").expect("the model's name");
        // The same vocabulary under the other name; the shorter string needs its length changed.
        let mut unigram = bytes[..position - 8].to_vec();
        unigram.extend([2, 0, 0, 0, 0, 0, 0, 0]);
        unigram.extend(b"t5");
        unigram.extend(&bytes[position + 5..]);
        let mut best_of: HashMap<String, f64> = HashMap::new();
        for (token, &score) in tokens.iter().zip(&scores).skip(3) {
            best_of.insert(token.clone(), score.into());
        }
        let worst = best_of.values().copied().fold(0.0, f64::min) - 10.0;
        let texts = texts(&mut random, 40);
        with_tokenizer(&unigram, |tokenizer| {
            for text in &texts {
                let chars: Vec<char> = text.replace(' ', "▁").chars().collect();
                let mut best = vec![f64::NEG_INFINITY; chars.len() + 1];
                best[0] = 0.0;
                for end in 1..=chars.len() {
                    for start in 0..end {
                        let token: String = chars[start..end].iter().collect();
                        let unknown = (end - start == 1).then_some(worst);
                        if let Some(score) = best_of.get(&token).copied().or(unknown) {
                            best[end] = best[end].max(best[start] + score);
                        }
                    }
                }
                // Several cuts may be the best; ours must be one, up to the unknown characters that became one token.
                let ids = encode(tokenizer, text);
                let n_unknown = chars.iter().filter(|c| !best_of.contains_key(&c.to_string())).count();
                let known = ids.iter().filter(|&&id| id != 2 && id != 0);
                let sum: f64 = known.map(|&id| f64::from(scores[id as usize])).sum();
                assert!((sum + n_unknown as f64 * worst - best[chars.len()]).abs() < 1e-3, "{text:?}: {ids:?}");
            }
        })
        .expect("a vocabulary");
    }
}

#[test]
fn every_text_comes_back_where_every_byte_has_a_token() {
    let mut random = Random(4);
    let (_, _, llama) = llama(&mut random, true);
    let (_, _, gpt2) = gpt2(&mut random, "llama-bpe");
    for bytes in [llama, gpt2] {
        with_tokenizer(&bytes, |tokenizer| {
            for _ in 0..2000 {
                let text = random.text(60).replace('▁', "_");
                assert_eq!(decode(tokenizer, &encode(tokenizer, &text)), text);
            }
        })
        .expect("a vocabulary");
    }
}

#[test]
fn any_tokens_decode_to_what_their_bytes_are_read_as() {
    let mut random = Random(5);
    let (ids, _, bytes) = gpt2(&mut random, "gpt-2");
    let by_id: HashMap<usize, &String> = ids.iter().map(|(token, &id)| (id, token)).collect();
    let byte_of: HashMap<char, u8> = (0..=255).map(|byte| (byte_char(byte), byte)).collect();
    with_tokenizer(&bytes, |tokenizer| {
        for _ in 0..2000 {
            let ids: Vec<u32> = (0..random.below(12)).map(|_| random.below(by_id.len()) as u32).collect();
            let text: Vec<u8> = ids.iter().flat_map(|&id| by_id[&(id as usize)].chars()).map(|c| byte_of[&c]).collect();
            assert_eq!(decode(tokenizer, &ids), String::from_utf8_lossy(&text), "{ids:?}");
        }
    })
    .expect("a vocabulary");
}

/// A vocabulary with control and user-defined tokens, some the start of others.
fn with_special() -> Vec<u8> {
    let tokens = ["<unk>", "<s>", "</s>", "▁", "a", "b", "▁a", "<x>", "<x><y>", "<y>", "  ", "<u>"];
    gguf(&[
        ("tokenizer.ggml.model", Meta::Str(b"llama".to_vec())),
        ("tokenizer.ggml.tokens", Meta::Strs(tokens.map(|token| token.as_bytes().to_vec()).to_vec())),
        ("tokenizer.ggml.scores", Meta::F32s(vec![0.0; tokens.len()])),
        ("tokenizer.ggml.token_type", Meta::I32s(vec![2, 3, 3, 1, 1, 1, 1, 3, 3, 3, 4, 4])),
    ])
}

#[test]
fn special_tokens_are_found_longest_first_where_asked() {
    with_tokenizer(&with_special(), |tokenizer| {
        let ids = |text, parse_special| {
            encode_with(tokenizer, text, Encode { add_special: true, parse_special }).expect("tokens")
        };
        assert_eq!(ids("a<x><y>b", true), [1, 6, 8, 3, 5], "the longest, and a space after it");
        assert_eq!(ids("<x><x><y></s>", true), [1, 7, 8, 2]);
        assert_eq!(ids("<x>a", false), [1, 3, 0, 4], "unknown characters when control tokens are not asked for");
        assert_eq!(ids("a<u>b   a", false), [1, 6, 11, 3, 5, 10, 3, 6], "user-defined ones always are");
        assert_eq!(ids("", true), [1]);
        assert!(tokenizer.adds_bos() && !tokenizer.adds_eos());
        assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(1), Some(2)));
        assert!(tokenizer.is_end(2) && !tokenizer.is_end(1) && !tokenizer.is_end(99));
        assert_eq!(tokenizer.piece(7), Some(&b"<x>"[..]));
        assert_eq!((tokenizer.piece(12), tokenizer.find(b"<y>"), tokenizer.find(b"")), (None, Some(9), None));
    })
    .expect("a vocabulary");
}

#[test]
fn gemma_adds_no_space() {
    let tokens = ["<unk>", "<s>", "</s>", "▁", "a", "▁a"];
    let bytes = gguf(&[
        ("tokenizer.ggml.model", Meta::Str(b"llama".to_vec())),
        ("tokenizer.ggml.tokens", Meta::Strs(tokens.map(|token| token.as_bytes().to_vec()).to_vec())),
        ("tokenizer.ggml.scores", Meta::F32s(vec![0.0; tokens.len()])),
        ("tokenizer.ggml.add_space_prefix", Meta::Bool(false)),
    ]);
    with_tokenizer(&bytes, |tokenizer| {
        assert_eq!(encode(tokenizer, "a a"), [4, 5]);
        assert_eq!(decode(tokenizer, &[5, 4]), " aa", "and drops none");
    })
    .expect("a vocabulary");
}

#[test]
fn the_decoder_shows_and_drops_what_it_is_told_to() {
    with_tokenizer(&with_special(), |tokenizer| {
        let ids = [1, 6, 7, 3, 4, 0, 99, 11, 2];
        let text = |mut decoder: smidgen_core::tokenizer::Decoder<'_>| {
            let mut buffer = vec![0; tokenizer.max_piece_bytes()];
            let mut text = Vec::new();
            for id in ids {
                let n_bytes = decoder.push(id, &mut buffer);
                text.extend_from_slice(&buffer[..n_bytes]);
            }
            String::from_utf8(text).expect("text")
        };
        assert_eq!(text(tokenizer.decoder()), "a a<u>");
        assert_eq!(text(tokenizer.decoder().continuing()), " a a<u>");
        assert_eq!(text(tokenizer.decoder().continuing().showing_control()), "<s> a<x> a<unk><u></s>");
        let mut small = [0; 1];
        assert_eq!(tokenizer.decoder().continuing().push(11, &mut small), 1, "what fits");
    })
    .expect("a vocabulary");
}

#[test]
fn too_little_room_is_an_error() {
    with_tokenizer(&with_special(), |tokenizer| {
        let mut scratch = vec![0; tokenizer.scratch_bytes(4)];
        let mut out = [0; 8];
        let plain = Encode::default();
        assert_eq!(tokenizer.encode("abab", plain, &mut scratch, &mut out[..2]), Err(Error::OutOfRoom(2)));
        let need = tokenizer.scratch_bytes(4);
        assert_eq!(tokenizer.encode("abab", plain, &mut [0; 9], &mut out), Err(Error::Scratch(need, 9)));
        assert_eq!(tokenizer.encode("abab", plain, &mut [], &mut out), Err(Error::Scratch(need, 0)));
        assert!(tokenizer.encode("abab", plain, &mut scratch, &mut out).is_ok());
    })
    .expect("a vocabulary");
}
