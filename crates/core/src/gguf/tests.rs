//! What is found in a header, and what is refused.

use super::*;

/// A file of one-dimensional F32 tensors of one weight each: their names, and where their data begin.
fn file_of_tensors(tensors: &[(String, u64)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(b"GGUF");
    bytes.extend(3_u32.to_le_bytes());
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend(0_u64.to_le_bytes());
    for (name, offset) in tensors {
        bytes.extend((name.len() as u64).to_le_bytes());
        bytes.extend(name.as_bytes());
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend(1_u64.to_le_bytes());
        bytes.extend(0_u32.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
    }
    bytes.resize(bytes.len().next_multiple_of(32) + tensors.len() * 32, 0);
    bytes
}

fn problem(tensors: &[(String, u64)]) -> Option<Problem> {
    let bytes = file_of_tensors(tensors);
    Gguf::parse(&bytes, bytes.len() as u64).err().map(|error| error.problem)
}

/// So many that the bits of some of their names are the same.
fn many() -> Vec<(String, u64)> {
    (0..500).map(|n| (format!("blk.{}.ffn_{}.weight", n / 7, n % 7), 32 * n)).collect()
}

#[test]
fn many_tensors_of_different_names_are_taken() {
    let mut seen = Seen::NONE;
    let tensors = many();
    assert!(tensors.iter().filter(|(name, _)| seen.may_have(name.as_bytes())).count() > 1, "no two names share a bit");
    assert_eq!(problem(&tensors), None);
}

#[test]
fn a_name_that_comes_twice_is_refused_wherever_it_stands() {
    for (first, second) in [(0, 1), (0, 499), (250, 251), (3, 77), (498, 499)] {
        let mut tensors = many();
        tensors[second].0 = tensors[first].0.clone();
        assert_eq!(problem(&tensors), Some(Problem::DuplicateTensor), "{first} and {second}");
    }
}

#[test]
fn data_may_lie_in_any_order_but_not_over_other_data() {
    let mut tensors = many();
    tensors.reverse();
    assert_eq!(problem(&tensors), None);
    tensors[400].1 = tensors[20].1;
    assert!(matches!(problem(&tensors), Some(Problem::Overlap(_))));
    let mut tensors = many();
    tensors[7].1 = tensors[6].1;
    assert!(matches!(problem(&tensors), Some(Problem::Overlap(_))));
}

/// A GGUF without tensors whose keys hold these strings; one that holds none has a number instead.
fn file(version: u32, entries: &[(&str, &[&str])]) -> Vec<u8> {
    let len =
        |n: usize| if version == 1 { (n as u32).to_le_bytes().to_vec() } else { (n as u64).to_le_bytes().to_vec() };
    let string = |text: &str| [len(text.len()), text.as_bytes().to_vec()].concat();
    let mut bytes = [b"GGUF".to_vec(), version.to_le_bytes().to_vec(), len(0), len(entries.len())].concat();
    for (key, strings) in entries {
        bytes.extend(string(key));
        if strings.is_empty() {
            bytes.extend([ValueType::U32.id(), 7].map(u32::to_le_bytes).concat());
            continue;
        }
        bytes.extend([ValueType::Array.id(), ValueType::Str.id()].map(u32::to_le_bytes).concat());
        bytes.extend([len(strings.len()), strings.iter().flat_map(|text| string(text)).collect()].concat());
    }
    bytes
}

#[test]
fn strings_are_found_wherever_their_key_stands() {
    let entries: [(&str, &[&str]); 4] =
        [("first", &["a", "", "bcd"]), ("n", &[]), ("one", &["x"]), ("last", &["yz"; 9])];
    for version in 1..=3 {
        let bytes = file(version, &entries);
        let gguf = Gguf::parse(&bytes, bytes.len() as u64).expect("a GGUF");
        for ((key, strings), (walked, value)) in entries.into_iter().zip(gguf.keys()) {
            assert_eq!(key.as_bytes(), walked);
            for value in [value, gguf.get(key).expect("the key")] {
                let texts =
                    value.as_array().unwrap_or(Array::EMPTY).iter().map(|text| text.as_str().expect("a string"));
                assert!(texts.eq(strings.iter().map(|text| text.as_bytes())), "version {version}, {key}");
                assert_eq!(value.as_u64(), strings.is_empty().then_some(7));
            }
        }
        assert_eq!(gguf.keys().count(), entries.len());
        assert_eq!(gguf.data_offset(), (bytes.len() as u64).next_multiple_of(32));
    }
}

#[test]
fn a_key_may_not_come_again_behind_strings() {
    let bytes = file(3, &[("n", &[]), ("tokens", &["a", "b"]), ("n", &[])]);
    let error = Gguf::parse(&bytes, bytes.len() as u64).err().expect("a repeated key");
    assert_eq!((error.problem, error.name), (Problem::DuplicateKey, Name::new(b"n")));
}
