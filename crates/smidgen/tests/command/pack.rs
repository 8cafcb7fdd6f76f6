//! `pack`: the same weights in fewer bytes, wherever they are read from, and a clear word about what is spoilt.

use crate::smidgen::{TALES, smidgen};
use sha2::{Digest, Sha256};
use smidgen_core::gguf::{Gguf, Problem};
use smidgen_host::packed::{Index, PackedFile};
use smidgen_host::weights::{DirectFile, SECTOR, Stamp, Storage};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// So little that the packed models here are read in parts.
const PARTS: &str = "2200K";

/// The embedded model in `kind` and packed: the plain file and the packed one, in a directory of their own.
fn packed(kind: &str) -> (tempfile::TempDir, String, String) {
    let directory = tempfile::tempdir().unwrap();
    let name = |what: &str| directory.path().join(what).to_str().unwrap().to_owned();
    let (plain, small) = (name("plain.gguf"), name("packed.gguf"));
    match kind {
        "as stored" => drop(std::fs::copy(TALES, &plain).unwrap()),
        _ => drop(smidgen(&["convert", TALES, &plain, "--outtype", kind]).ok()),
    }
    smidgen(&["pack", &plain, &small, "--least", "1"]).ok();
    (directory, plain, small)
}

fn sha(path: &str) -> [u8; 32] {
    Sha256::digest(std::fs::read(path).unwrap()).into()
}

/// Ids, and the bytes of every logit of the prompt.
fn said(directory: &Path, model: &str, flags: &[&str]) -> (serde_json::Value, Vec<u8>) {
    let logits = directory.join("logits.npy");
    let run = ["run", model, "-p", "Once upon a time", "--temp", "0", "-n", "12", "-c", "64", "--json", "--logits"];
    let ran = smidgen(&[&run[..], &[logits.to_str().unwrap()], flags].concat()).json();
    (ran["ids"].clone(), std::fs::read(logits).unwrap())
}

#[test]
fn a_packed_file_gives_the_bits_of_the_plain_one_however_it_is_held() {
    for kind in ["as stored", "bf16"] {
        let (directory, plain, small) = packed(kind);
        assert!(std::fs::metadata(&small).unwrap().len() < std::fs::metadata(&plain).unwrap().len(), "{kind}");
        let want = said(directory.path(), &plain, &[]);
        for flags in
            [&[][..], &["--no-mmap"], &["-t", "2"], &["--ram", PARTS], &["--ram", "4M", "-t", "2"], &["--ram", "1G"]]
        {
            assert!(said(directory.path(), &small, flags) == want, "{kind} {flags:?}");
        }
        let plan = |model: &str| smidgen(&["plan", model, "-c", "64", "--ram", PARTS, "--json"]).json();
        let (of_plain, of_packed) = (plan(&plain), plan(&small));
        let run = smidgen(&["run", &small, "-p", "a", "-n", "1", "-c", "64", "--ram", PARTS, "--json"]).json();
        assert_eq!(of_packed["lines"], run["plan"]);
        assert!(run["plan"].to_string().contains("unpacking weights"), "{run}");
        let streamed = |plan: &serde_json::Value| plan["streamed_bytes"].as_u64().unwrap();
        assert!(streamed(&of_packed) > 0 && streamed(&of_packed) == streamed(&run));
        if kind == "bf16" {
            assert!(streamed(&of_packed) * 4 < streamed(&of_plain) * 3, "a third less: {of_packed} {of_plain}");
        }
    }
}

#[test]
fn convert_gives_the_plain_file_back_in_either_byte_order() {
    let (directory, plain, small) = packed("f16");
    let name = |what: &str| directory.path().join(what).to_str().unwrap().to_owned();
    let (big, back) = (name("big.gguf"), name("back.gguf"));
    smidgen(&["convert", &small, &back]).ok();
    assert_eq!(sha(&back), sha(&plain));
    smidgen(&["convert", &plain, &big, "--big-endian"]).ok();
    smidgen(&["pack", &big, &small]).ok();
    smidgen(&["convert", &small, &back, "--big-endian"]).ok();
    assert_eq!(sha(&back), sha(&big));
    smidgen(&["convert", &small, &back]).ok();
    assert_eq!(sha(&back), sha(&plain), "the other byte order");
    assert_eq!(said(directory.path(), &small, &[]), said(directory.path(), &plain, &[]));
    let other = |model: &str| smidgen(&["quantize", model, &back, "Q8_W", "--requantize", "--pure"]).ok();
    drop(other(&plain));
    let want = sha(&back);
    drop(other(&small));
    assert_eq!(sha(&back), want, "what is made of the packed file is what is made of the plain one");
}

#[test]
fn inspect_shows_what_is_packed() {
    let (_directory, plain, small) = packed("bf16");
    let (of_plain, of_packed) =
        (smidgen(&["inspect", &plain, "--json"]).json(), smidgen(&["inspect", &small, "--json"]).json());
    assert!(of_plain["packed_bytes"].is_null());
    let (weights, bytes) = (of_packed["weight_bytes"].as_u64().unwrap(), of_packed["packed_bytes"].as_u64().unwrap());
    assert_eq!(of_plain["weight_bytes"], of_packed["weight_bytes"]);
    assert!(bytes * 4 < weights * 3, "{bytes} of {weights}");
    let rows = of_packed["tensors"].as_array().unwrap();
    let (packed, others): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row["packed_bytes"].is_u64());
    assert!(packed.iter().all(|row| row["type"] == "BF16") && others.iter().all(|row| row["type"] == "F32"));
    assert!(smidgen(&["inspect", &small]).ok().contains("Packed: "));
}

#[test]
fn what_is_not_worth_it_is_not_packed() {
    let (directory, plain, small) = packed("bf16");
    let out = directory.path().join("out.gguf");
    let refused = smidgen(&["pack", &plain, out.to_str().unwrap(), "--least", "50"]);
    assert_eq!(refused.status, Some(4), "{}", refused.stderr);
    assert!(refused.stderr.contains("nothing was written") && !out.exists(), "{}", refused.stderr);
    assert_eq!(smidgen(&["pack", &plain, &plain]).status, Some(2), "the input is no output");
    let before = sha(&small);
    smidgen(&["pack", &small, out.to_str().unwrap()]).ok();
    assert_eq!(sha(out.to_str().unwrap()), before, "packed again it is the same");
}

fn bytes_of(path: &str) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

#[test]
fn a_reader_that_does_not_unpack_refuses_and_a_spoilt_file_says_so() {
    let (_directory, _, small) = packed("as stored");
    let bytes = bytes_of(&small);
    let error = Gguf::parse(&bytes, u64::MAX).map(drop).unwrap_err();
    assert_eq!(error.problem, Problem::Packed);
    let refused = |bytes: &[u8], flags: &[&str], part: &str| {
        std::fs::write(&small, bytes).unwrap();
        let ran = smidgen(&[&["run", &small, "-p", "a", "-n", "2", "-c", "64"][..], flags].concat());
        assert!(ran.status == Some(1) || ran.status == Some(2), "{flags:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(part) && ran.stdout.len() < 4, "{flags:?}: {}", ran.stderr);
    };
    let plan = smidgen(&["plan", &small, "-c", "64", "--ram", PARTS, "--json"]).json();
    assert!(plan["streamed_bytes"].as_u64().unwrap() > 0, "{plan}");
    for flags in [&[][..], &["--ram", PARTS]] {
        refused(&bytes[..bytes.len() - 1], flags, "packed");
        refused(&bytes[..bytes.len() / 2], flags, "packed");
        for part in [3, 4] {
            let mut spoilt = bytes.clone();
            spoilt[bytes.len() / 5 * part] ^= 4;
            refused(&spoilt, flags, "are broken");
        }
        // Every field of the index, of which the lengths of blocks are the most.
        let end = bytes.len() - 32;
        let index = u64::from_le_bytes(bytes[end..end + 8].try_into().unwrap()) as usize;
        for at in [index, index + 7, index + 200, end - 3, end + 6, end + 14] {
            let mut spoilt = bytes.clone();
            spoilt[at] ^= 0x80;
            refused(&spoilt, flags, "packed");
        }
    }
}

/// A packed file that says little at a time, until it fails.
struct Faulty {
    file: DirectFile,
    reads_left: usize,
}

impl Storage for Faulty {
    fn read_at(&mut self, at: u64, out: &mut [u8]) -> io::Result<usize> {
        self.reads_left = self.reads_left.checked_sub(1).ok_or_else(|| io::Error::other("the disk is broken"))?;
        let n = out.len().min(SECTOR);
        self.file.read_at(at, &mut out[..n])
    }

    fn stamp(&self) -> io::Result<Stamp> {
        self.file.stamp()
    }
}

/// The plain file's bytes, in pieces of `len` from a storage that fails after so many reads.
fn read(path: &str, room: usize, len: usize, reads_left: usize) -> io::Result<Vec<u8>> {
    let mut file = DirectFile::open(Path::new(path)).unwrap();
    let index = Arc::new(Index::read(&mut file, Path::new(path), u64::MAX).unwrap().unwrap());
    let n = index.plain_bytes();
    let mut file = PackedFile::new(Box::new(Faulty { file, reads_left }), index, room)?;
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < n {
        let mut out = vec![0xee; len];
        let n = file.read_at(bytes.len() as u64, &mut out)?;
        assert!(n > 0 && n <= len);
        bytes.extend(&out[..n]);
    }
    Ok(bytes)
}

#[test]
fn any_piece_of_a_packed_file_is_that_of_the_plain_one() {
    let (_directory, plain, small) = packed("as stored");
    let want = bytes_of(&plain);
    for (room, len) in [(0, 3001), (0, 1 << 16), (1 << 16, 100_001), (1 << 20, 1 << 24)] {
        assert!(read(&small, room, len, usize::MAX).unwrap() == want, "{room} {len}");
    }
    for reads_left in [0, 1, 20, 150] {
        let error = read(&small, 0, 1 << 16, reads_left).unwrap_err();
        assert!(error.to_string().contains("the disk is broken"), "{error}");
    }
}
