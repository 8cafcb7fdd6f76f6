//! The safetensors container: a JSON header that is checked whole before any tensor is read.
//!
//! Format: the README of the safetensors project. Its own crate wants the whole file mapped and does not say where a
//! header is wrong; see `docs/adr/0040-own-safetensors-header.md`.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::error::{Error, Flaw};
use crate::image::read_small;
use crate::source::DataFile;
use smidgen_core::quant::Type;

/// Headers beyond this describe more tensors than any model has; 38,000 tensors fit.
const HEADER_LIMIT_BYTES: u64 = 4 << 20;
/// Bytes of an index of shards, for the same reason.
const INDEX_LIMIT_BYTES: u64 = 4 << 20;
/// More dimensions than any tensor has; GGUF can name four.
const MOST_DIMENSIONS: usize = 8;
/// Files that one model may be split over.
const MOST_SHARDS: usize = 1000;

/// One tensor of a safetensors file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The tensor's name.
    pub name: String,
    /// The name of its number type, such as `BF16`.
    pub dtype: String,
    /// Dimensions, the contiguous one last.
    pub shape: Vec<u64>,
    /// Where its data begins, counted from the end of the header.
    pub begin: u64,
    /// Where its data ends, counted from the end of the header.
    pub end: u64,
}

impl Entry {
    /// The type of the tensor's numbers, when it is one that weights can have here.
    pub fn kind(&self) -> Option<Type> {
        match self.dtype.as_str() {
            "F32" => Some(Type::F32),
            "F16" => Some(Type::F16),
            "BF16" => Some(Type::BF16),
            _ => None,
        }
    }
}

/// Bytes of one number of the type called `name`, of all types that the format defines in whole bytes.
fn dtype_bytes(name: &str) -> Option<u64> {
    match name {
        "BOOL" | "U8" | "I8" | "F8_E5M2" | "F8_E4M3" | "F8_E8M0" | "F8_E4M3FNUZ" | "F8_E5M2FNUZ" => Some(1),
        "I16" | "U16" | "F16" | "BF16" => Some(2),
        "I32" | "U32" | "F32" => Some(4),
        "I64" | "U64" | "F64" | "C64" => Some(8),
        _ => None,
    }
}

/// How many bytes of header follow the first eight of a file of `file_bytes` bytes.
///
/// # Errors
/// When that many bytes are not there, or more than a header can need.
pub fn header_len(start: [u8; 8], file_bytes: u64) -> Result<usize, Flaw> {
    let len = u64::from_le_bytes(start);
    if len > file_bytes.saturating_sub(8) {
        return Err(Flaw::new(format!("at byte 0: a header of {len} bytes, but the file has {file_bytes}")));
    }
    if len > HEADER_LIMIT_BYTES {
        return Err(Flaw::new(format!("at byte 0: a header of {len} bytes is more than any model needs")));
    }
    Ok(len as usize)
}

/// Reads and checks the JSON `header` of a file with `data_bytes` bytes of data; the entries come in the order of their data.
///
/// # Errors
/// What is wrong, naming the tensor: JSON that is not a header, types and shapes that do not make the size given, data
/// that overlaps, leaves a gap or ends beyond the file.
pub fn parse_header(header: &[u8], data_bytes: u64) -> Result<Vec<Entry>, Flaw> {
    let raw: RawHeader = serde_json::from_slice(header)
        .map_err(|error| Flaw::new(format!("the header (from byte 8 on) is not a safetensors header: {error}")))?;
    let mut entries = Vec::with_capacity(raw.0.len());
    for (name, raw) in raw.0 {
        entries.push(check_entry(name, raw)?);
    }
    let mut names: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Flaw::new(format!("tensor '{}' is described twice", pair[0])));
    }
    entries.sort_by_key(|entry| (entry.begin, entry.end));
    let mut end = 0;
    for entry in &entries {
        if entry.begin != end {
            let what = if entry.begin < end { "overlaps the tensor before it" } else { "leaves a gap before it" };
            return Err(Flaw::new(format!(
                "tensor '{}': its data at offset {} {what} (offset {end})",
                entry.name, entry.begin
            )));
        }
        end = entry.end;
    }
    if end != data_bytes {
        return Err(Flaw::new(format!(
            "tensor data ends at offset {end}, but the file has {data_bytes} bytes of it (truncated?)"
        )));
    }
    Ok(entries)
}

fn check_entry(name: String, raw: RawEntry) -> Result<Entry, Flaw> {
    let fail = |what: String| Flaw::new(format!("tensor '{name}': {what}"));
    let [begin, end] = raw.data_offsets;
    let size = dtype_bytes(&raw.dtype).ok_or_else(|| fail(format!("unknown dtype {}", raw.dtype)))?;
    if raw.shape.len() > MOST_DIMENSIONS {
        return Err(fail(format!("{} dimensions", raw.shape.len())));
    }
    let n_bytes = raw.shape.iter().try_fold(size, |product, &dim| product.checked_mul(dim));
    let n_bytes = n_bytes.ok_or_else(|| fail(format!("shape {:?} overflows", raw.shape)))?;
    if end.checked_sub(begin) != Some(n_bytes) {
        let message =
            format!("data_offsets [{begin}, {end}] do not hold the {n_bytes} bytes of {:?} {}", raw.shape, raw.dtype);
        return Err(fail(message));
    }
    Ok(Entry { name, dtype: raw.dtype, shape: raw.shape, begin, end })
}

/// A tensor's description as JSON has it.
#[derive(serde::Deserialize)]
struct RawEntry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// Every tensor's description, in the order of the header and with repeated names still there.
struct RawHeader(Vec<(String, RawEntry)>);

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HeaderVisitor;
        impl<'de> Visitor<'de> for HeaderVisitor {
            type Value = RawHeader;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                    } else {
                        entries.push((name, map.next_value()?));
                    }
                }
                Ok(RawHeader(entries))
            }
        }
        deserializer.deserialize_map(HeaderVisitor)
    }
}

/// The safetensors files of one model.
#[derive(Debug)]
pub struct Shards {
    files: Vec<DataFile>,
    data_at: Vec<u64>,
    entries: Vec<(usize, Entry)>,
}

impl Shards {
    /// Opens `model.safetensors` in `directory`, or the shards that `model.safetensors.index.json` lists.
    ///
    /// # Errors
    /// What is missing or wrong, naming the file.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let index = directory.join("model.safetensors.index.json");
        let paths =
            if index.exists() { shard_paths(directory, &index)? } else { vec![directory.join("model.safetensors")] };
        if !index.exists() && !paths[0].exists() {
            let message = "has no model.safetensors (weights in PyTorch's .bin are not read: they are programs)";
            return Err(Error::bad(directory, message));
        }
        let mut shards = Shards { files: Vec::new(), data_at: Vec::new(), entries: Vec::new() };
        for path in paths {
            shards.add(&path)?;
        }
        let mut names: Vec<(&str, usize)> =
            shards.entries.iter().map(|(shard, entry)| (entry.name.as_str(), *shard)).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            let message = format!("tensor '{}' is also in {}", pair[1].0, shards.files[pair[0].1].path().display());
            return Err(Error::bad(shards.files[pair[1].1].path(), message));
        }
        Ok(shards)
    }

    fn add(&mut self, path: &Path) -> Result<(), Error> {
        let mut file = DataFile::open(path)?;
        let mut start = [0; 8];
        if file.len() < 8 {
            return Err(Error::bad(path, "the file ends inside the header's length"));
        }
        file.read_at(0, &mut start)?;
        let len = header_len(start, file.len()).map_err(|flaw| flaw.in_file(path))?;
        let mut header = vec![0; len];
        file.read_at(8, &mut header)?;
        let data_at = 8 + len as u64;
        let entries = parse_header(&header, file.len() - data_at).map_err(|flaw| flaw.in_file(path))?;
        let shard = self.files.len();
        self.entries.extend(entries.into_iter().map(|entry| (shard, entry)));
        self.files.push(file);
        self.data_at.push(data_at);
        Ok(())
    }

    /// The names of the files.
    pub fn paths(&self) -> impl Iterator<Item = PathBuf> + '_ {
        self.files.iter().map(|file| file.path().to_path_buf())
    }

    /// Every tensor with the number of the file that has it.
    pub fn entries(&self) -> &[(usize, Entry)] {
        &self.entries
    }

    /// The file that holds tensor number `entry`.
    pub fn path_of(&self, entry: usize) -> &Path {
        self.files[self.entries[entry].0].path()
    }

    /// Fills `out` with the data of tensor number `entry` from byte `at` on.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(&mut self, entry: usize, at: u64, out: &mut [u8]) -> Result<(), Error> {
        let (shard, found) = &self.entries[entry];
        self.files[*shard].read_at(self.data_at[*shard] + found.begin + at, out)
    }
}

/// The files that the index names, each once, all in `directory`.
fn shard_paths(directory: &Path, index: &Path) -> Result<Vec<PathBuf>, Error> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let bytes = read_small(index, INDEX_LIMIT_BYTES)?;
    let parsed: Index = serde_json::from_slice(&bytes)
        .map_err(|error| Error::bad(index, format!("is not an index of safetensors files: {error}")))?;
    let names: std::collections::BTreeSet<&String> = parsed.weight_map.values().collect();
    if names.is_empty() || names.len() > MOST_SHARDS {
        return Err(Error::bad(index, format!("weight_map names {} files", names.len())));
    }
    let mut paths = Vec::new();
    for name in names {
        // A name must not lead out of the directory.
        if Path::new(name).file_name().is_none_or(|file| file != name.as_str()) {
            return Err(Error::bad(index, format!("weight_map names '{name}', which is not a file beside it")));
        }
        let path = directory.join(name);
        if !path.exists() {
            return Err(Error::bad(index, format!("weight_map names {name}, which is missing")));
        }
        paths.push(path);
    }
    Ok(paths)
}
