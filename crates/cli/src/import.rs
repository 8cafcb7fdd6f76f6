//! Models that are not little-endian GGUF files, within a limit of memory: they are made one in a file first, which can be read in
//! parts.

use crate::args::{EngineArgs, ModelArgs};
use crate::failure::Failure;
use crate::load::host_failure;
use crate::progress::Bar;
use crate::report;
use smidgen_host::spill::first_on_disk;
use smidgen_host::{ConvertOptions, weights::Outline};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// What importing takes at its peak beside the texts that describe a model: code and buffers. `tests/memory.rs` measures it.
const IMPORT_BYTES: u64 = 5 << 19;
/// A text of JSON takes this many times its length while it is made into the pieces of a vocabulary.
const PER_BYTE_OF_TEXT: u64 = 12;

/// What the system may keep of the file before it is on the disk.
const STEP_BYTES: u64 = 512 << 10;

/// A GGUF file made of another model, that is gone when this is.
#[derive(Debug)]
pub struct Imported {
    directory: TempDir,
}

impl Imported {
    /// The file.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("model.gguf")
    }
}

/// A directory for files that are as large as a model or a cache: the one that `--spill-dir` names, or else the first of our own that
/// is on a disk.
///
/// # Errors
/// When files in all of them are kept in memory.
pub fn scratch_directory(args: &EngineArgs) -> Result<PathBuf, Failure> {
    let own = || [crate::cache::directory(), Some(std::env::temp_dir())].into_iter().flatten();
    let candidates: Vec<PathBuf> = args.spill_dir.clone().map_or_else(|| own().collect(), |given| vec![given]);
    let shown = candidates.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
    first_on_disk(candidates).ok_or_else(|| {
        Failure::Input(format!("{shown}: files there are in memory; give a directory on a disk with --spill-dir"))
    })
}

/// The header of the model that the flags name, to be read in parts within `ram`, and the file that was made for that if the model is
/// none that can be read so; `None` when the flags name no model.
///
/// # Errors
/// A model that cannot be read or imported, or not within `ram`.
pub fn open_in_parts(
    model: &ModelArgs,
    engine: &EngineArgs,
    ram: u64,
) -> Result<Option<(Outline, Option<Imported>)>, Failure> {
    let Some(name) = model.name() else { return Ok(None) };
    let path = smidgen_host::locate(name, &Bar::new()).map_err(host_failure)?;
    if model.import.outtype.is_none() && path.is_file() {
        let outline = Outline::open(&path, ram).map_err(host_failure)?;
        if let Some(outline) = outline {
            return Ok(Some((outline, None)));
        }
    }
    let texts = text_bytes(&path, model.import.tokenizer.as_deref());
    let needed = IMPORT_BYTES + PER_BYTE_OF_TEXT * texts + unpacked_bytes(&path)?;
    if needed > ram {
        return Err(Failure::Budget(format!(
            "{name}: importing it takes about {}, more than --ram {}; it fits after 'smidgen convert' on a machine with more memory",
            report::bytes(needed),
            report::bytes(ram),
        )));
    }
    let directory = scratch_directory(engine)?;
    let made = std::fs::create_dir_all(&directory)
        .and_then(|()| tempfile::Builder::new().prefix("smidgen-import-").tempdir_in(&directory));
    let imported =
        Imported { directory: made.map_err(|error| host_failure(smidgen_host::Error::writing(&directory, &error)))? };
    let bar = Bar::new();
    let options = ConvertOptions {
        outtype: model.import.outtype,
        fallback: model.import.fallback,
        tokenizer: model.import.tokenizer.clone(),
        step_bytes: STEP_BYTES,
        progress: &bar,
        ..ConvertOptions::default()
    };
    let name = path.to_str().unwrap_or(name);
    smidgen_host::convert(name, &imported.path(), &options).map_err(host_failure)?;
    smidgen_host::pages::release_program();
    let outline = Outline::open(&imported.path(), ram).map_err(host_failure)?;
    Ok(outline.map(|outline| (outline, Some(imported))))
}

/// Bytes of a packed file when it is plain: what is made of it is made of the whole.
///
/// # Errors
/// A file that cannot be read.
fn unpacked_bytes(path: &Path) -> Result<u64, Failure> {
    if !path.is_file() {
        return Ok(0);
    }
    let (_, index) = smidgen_host::packed::open(path, u64::MAX).map_err(host_failure)?;
    Ok(index.map_or(0, |index| index.plain_bytes()))
}

/// Bytes of the texts that describe the model at `path`: those of a Hugging Face directory, or the vocabulary of a llama2.c model.
fn text_bytes(path: &Path, tokenizer: Option<&Path>) -> u64 {
    let n_bytes = |path: &Path| std::fs::metadata(path).map_or(0, |about| about.len());
    let is_text = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "json");
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let texts: u64 = entries.map(|entry| entry.path()).filter(is_text).map(|path| n_bytes(&path)).sum();
    texts + tokenizer.map_or(0, n_bytes)
}
