//! llama2.c's vocabularies: what its `run` makes of a prompt, for a vocabulary with byte tokens and for one without.

use std::collections::HashMap;

use smidgen_core::tokenizer::Encode;

use crate::support::{Meta, Random, decode, encode, encode_with, gguf, shared, with_tokenizer};

/// A `tokenizer.bin`: the longest piece, then score, length and bytes of each piece.
fn read(path: &str) -> Option<Vec<(f32, Vec<u8>)>> {
    let bytes = std::fs::read(shared(path)?).expect("a vocabulary");
    let mut rest = &bytes[4..];
    let mut pieces = Vec::new();
    while rest.len() >= 8 {
        let score = f32::from_le_bytes(rest[..4].try_into().expect("four bytes"));
        let len = u32::from_le_bytes(rest[4..8].try_into().expect("four bytes")) as usize;
        pieces.push((score, rest[8..8 + len].to_vec()));
        rest = &rest[8 + len..];
    }
    Some(pieces)
}

/// The vocabulary as a GGUF has it: `▁` for spaces, BOS and EOS without the line ends around them.
fn as_gguf(pieces: &[(f32, Vec<u8>)]) -> Vec<u8> {
    let tokens: Vec<String> = pieces
        .iter()
        .map(|(_, piece)| match &piece[..] {
            b"\n<s>\n" => "<s>".to_string(),
            b"\n</s>\n" => "</s>".to_string(),
            piece => std::str::from_utf8(piece).expect("UTF-8").replace(' ', "▁"),
        })
        .collect();
    let kind = |(id, token): (usize, &String)| match id {
        0 => 2,
        1 | 2 => 3,
        _ if token.starts_with("<0x") => 6,
        _ => 1,
    };
    gguf(&[
        ("tokenizer.ggml.model", Meta::Str(b"llama".to_vec())),
        ("tokenizer.ggml.scores", Meta::F32s(pieces.iter().map(|&(score, _)| score).collect())),
        ("tokenizer.ggml.token_type", Meta::I32s(tokens.iter().enumerate().map(kind).collect())),
        ("tokenizer.ggml.tokens", Meta::Strs(tokens.into_iter().map(String::into_bytes).collect())),
    ])
}

/// The way of `run.c`: BOS, a space, a token for each character or its bytes, then merges of the first best pair.
fn run_c(pieces: &[(f32, Vec<u8>)], text: &str, fallback: impl Fn(&str) -> Vec<u32>) -> Vec<u32> {
    let ids: HashMap<&[u8], u32> = pieces.iter().enumerate().map(|(id, (_, piece))| (&piece[..], id as u32)).collect();
    let mut tokens = vec![1];
    let mut buffer = [0; 4];
    for c in std::iter::once(' ').filter(|_| !text.is_empty()).chain(text.chars()) {
        let c: &str = c.encode_utf8(&mut buffer);
        match ids.get(c.as_bytes()) {
            Some(&id) => tokens.push(id),
            None => tokens.extend(fallback(c)),
        }
    }
    loop {
        let mut best: Option<(f32, usize, u32)> = None;
        for (index, pair) in tokens.windows(2).enumerate() {
            let joined = [&pieces[pair[0] as usize].1[..], &pieces[pair[1] as usize].1].concat();
            if let Some(&id) = ids.get(&joined[..]) {
                let score = pieces[id as usize].0;
                if best.is_none_or(|(top, ..)| score > top) {
                    best = Some((score, index, id));
                }
            }
        }
        let Some((_, index, id)) = best else { return tokens };
        tokens[index] = id;
        tokens.remove(index + 1);
    }
}

const BOS: Encode = Encode { add_special: true, parse_special: false };

#[test]
fn stories260k() {
    let Some(pieces) = read("llama2c/tok512.bin") else { return };
    let mut random = Random(11);
    with_tokenizer(&as_gguf(&pieces), |tokenizer| {
        assert_eq!(encode_with(tokenizer, "Once upon a time", BOS), Ok(vec![1, 403, 407, 261, 378]));
        for _ in 0..300 {
            let text = random.text(40).replace('▁', "_");
            let want = run_c(&pieces, &text, |c| c.bytes().map(|byte| u32::from(byte) + 3).collect());
            assert_eq!(encode_with(tokenizer, &text, BOS), Ok(want), "{text:?}");
            assert_eq!(decode(tokenizer, &encode(tokenizer, &text)), text);
        }
    })
    .expect("a vocabulary");
}

/// `run` adds 3 to the bytes of a character without a token, whether or not those are byte tokens; ours is `<unk>`.
#[test]
fn babyllama_has_no_byte_tokens() {
    let Some(pieces) = read("llama2c/babyllama.tok.bin") else { return };
    with_tokenizer(&as_gguf(&pieces), |tokenizer| {
        let text = "Once upon a time, Lily said \"hi\".";
        assert_eq!(encode_with(tokenizer, text, BOS), Ok(run_c(&pieces, text, |_| Vec::new())));
        let ids = encode(tokenizer, "a中文b");
        assert_eq!(ids[2..3], [0], "one <unk> for both");
        assert_eq!(decode(tokenizer, &ids), "ab");
    })
    .expect("a vocabulary");
}
