//! Words that do not belong into what is committed: unfinished work, and names of one person's machine.

use super::{Finding, Source};

/// One forbidden word: its text, whether it only counts as a whole word, and what is wrong with it.
struct Word(&'static str, bool, &'static str);

const UNFINISHED: &str = "unfinished work: do it, or open an issue";
const MACHINE: &str = "the name of a machine, a folder of it or a registry host";

/// Written in two parts, so that this list does not find itself.
const WORDS: &[Word] = &[
    Word(concat!("TO", "DO"), true, UNFINISHED),
    Word(concat!("FIX", "ME"), true, UNFINISHED),
    Word(concat!("XX", "X"), true, UNFINISHED),
    Word(concat!("todo", "!"), false, UNFINISHED),
    Word(concat!("unimplemented", "!"), false, UNFINISHED),
    Word(concat!("dbg", "!"), false, UNFINISHED),
    Word(concat!("#[igno", "re"), false, UNFINISHED),
    Word(concat!("place", "holder"), false, UNFINISHED),
    Word(concat!("for n", "ow"), true, UNFINISHED),
    Word(concat!("not yet imple", "mented"), false, UNFINISHED),
    Word(concat!("/wo", "rk/"), false, MACHINE),
    Word(concat!("/ro", "ot/"), false, MACHINE),
    Word(concat!("/fa", "rm/"), false, MACHINE),
    Word(concat!("static.cra", "tes"), false, MACHINE),
    Word(concat!("index.cra", "tes"), false, MACHINE),
    Word(concat!("pypi", ".org"), false, MACHINE),
    Word(concat!("deb.deb", "ian"), false, MACHINE),
    Word(concat!("registry.npm", "js"), false, MACHINE),
    Word(concat!("artifact", "ory"), false, MACHINE),
];

/// Vocabularies and texts under `testdata/` are data, and a lock file is cargo's own.
fn is_written_by_hand(file: &Source) -> bool {
    let is_data = file.is_in("testdata/") && !file.path.ends_with(".md");
    !is_data && !file.path.ends_with(".lock")
}

/// Every forbidden word of `file`.
pub(super) fn check(file: &Source) -> Vec<Finding> {
    if !is_written_by_hand(file) {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (number, line) in file.lines() {
        for Word(word, whole, reason) in WORDS {
            if contains(line, word, *whole) {
                findings.push(file.finding(number, format!("`{word}`: {reason}")));
            }
        }
    }
    findings
}

fn contains(line: &str, word: &str, whole: bool) -> bool {
    let is_word = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    let bytes = line.as_bytes();
    line.match_indices(word).any(|(at, _)| {
        let before = at.checked_sub(1).and_then(|at| bytes.get(at));
        !whole || !(is_word(before) || is_word(bytes.get(at + word.len())))
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::messages;
    use super::*;

    #[test]
    fn every_word_of_the_list_is_found_and_only_as_it_is_meant() {
        for Word(word, whole, reason) in WORDS {
            let found = messages(check, "a.md", &format!("\nsee {word} here"));
            assert!(found.contains(&format!("a.md:2: `{word}`: {reason}")), "{word}: {found:?}");
            if *whole {
                assert!(messages(check, "a.md", &format!("a{word}b")).is_empty(), "{word} inside another word");
            }
        }
    }

    #[test]
    fn data_may_hold_any_word() {
        let word = WORDS[0].0;
        assert!(messages(check, "testdata/tok/tokenizer.json", word).is_empty());
        assert_eq!(messages(check, "testdata/README.md", word).len(), 1);
    }
}
