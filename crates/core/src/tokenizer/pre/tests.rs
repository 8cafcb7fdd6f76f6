//! Pieces by hand, from the patterns.

use super::*;

fn pieces(name: &str, text: &str) -> Vec<String> {
    let pre = Pre::named(name.as_bytes()).expect("a known name");
    let mut pieces = Vec::new();
    let done: Result<(), ()> = pre.split(text, &mut |piece| {
        pieces.push(piece.to_string());
        Ok(())
    });
    done.expect("no error");
    pieces
}

#[test]
fn gpt2_keeps_a_space_with_the_word() {
    assert_eq!(
        pieces("gpt-2", "I've  got 3.5 é½!?\n\n x"),
        ["I", "'ve", " ", " got", " 3", ".", "5", " é", "½", "!?", "\n\n", " x"]
    );
    assert_eq!(pieces("gpt-2", "a  "), ["a", "  "]);
    assert_eq!(pieces("gpt-2", " "), [" "]);
    assert_eq!(pieces("gpt-2", "'S's"), ["'", "S", "'s"]);
}

#[test]
fn llama3_takes_three_digits_and_any_case_of_contractions() {
    assert_eq!(
        pieces("llama-bpe", "We'RE 12345 (ok)\n\n  x\t y"),
        ["We", "'RE", " ", "123", "45", " (", "ok", ")\n\n", " ", " x", "\t", " y"]
    );
    assert_eq!(pieces("llama-bpe", "a \n b"), ["a", " \n", " b"]);
}

#[test]
fn qwen2_takes_single_digits() {
    assert_eq!(pieces("qwen2", "x12 \n"), ["x", "1", "2", " \n"]);
    assert_eq!(pieces("qwen2", "क\u{94d}ष"), ["क", "\u{94d}ष"]);
    assert_eq!(pieces("qwen35", "क\u{94d}ष"), ["क\u{94d}ष"]);
}

#[test]
fn gpt4o_cuts_where_case_changes() {
    assert_eq!(
        pieces("gpt-4o", "helloWorld HTTPServer's a/b//\nÉTÉété"),
        ["hello", "World", " HTTPServer's", " a", "/b", "//\n", "ÉTÉété"]
    );
    assert_eq!(pieces("tekken", "ABC中DEF 12"), ["ABC中", "DEF", " ", "1", "2"]);
}

#[test]
fn stages_cut_the_pieces_of_the_stage_before() {
    assert_eq!(pieces("starcoder", "a 12b"), ["a", " ", "1", "2", "b"]);
    assert_eq!(pieces("falcon", "a$12345 678!"), ["a", "$", "123", "45", " ", "678", "!"]);
    assert_eq!(pieces("default", "x 1234`"), ["x", " ", "123", "4", "`"]);
    assert_eq!(pieces("deepseek-v3", "ab1234我x#y .\n"), ["ab", "123", "4", "我", "x", "#y", " .\n"]);
    assert_eq!(pieces("deepseek-llm", "Hi, 你好 12 \n  "), ["Hi", ",", " ", "你好", " ", "12", " ", "\n", "  "]);
    assert_eq!(pieces("deepseek-coder", "a =b 12"), ["a", " =", "b", " ", "1", "2"]);
    assert_eq!(pieces("bloom", "a  b, c"), ["a", " ", " b", ",", " c"]);
}

#[test]
fn nothing_is_lost_whatever_the_text() {
    let mut seed = 7u32;
    let alphabet: Vec<char> = "aZéÉ中ªʰ\u{301}1½ \t\n\r\u{3000}\u{85}'sT.,$`|(😀\0\u{200d}ǅ".chars().collect();
    for row in PRES {
        for _ in 0..300 {
            let text: String = (0..24)
                .map(|_| {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    alphabet[(seed >> 16) as usize % alphabet.len()]
                })
                .collect();
            for name in row.names {
                let pieces = pieces(name, &text);
                assert_eq!(pieces.concat(), text, "{name}");
                assert!(pieces.iter().all(|piece| !piece.is_empty()), "{name}");
            }
        }
    }
}

#[test]
fn no_name_is_in_two_rows() {
    for (index, name) in PRES.iter().flat_map(|pre| pre.names).enumerate() {
        assert!(!PRES.iter().flat_map(|pre| pre.names).take(index).any(|other| other == name), "{name}");
    }
}
