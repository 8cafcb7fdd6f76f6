//! The keys and values of a prompt in a file, so that the next run with the same beginning need not compute them.
//!
//! Byte map, little-endian: `MAGIC`, the names of the key and the value type (8 bytes each, padded with zeros), bytes of one
//! position of one head (u32 each), pieces (u32: heads times layers), positions (u32), the fingerprint (u64), the token ids (u32
//! each); then for each piece the rows of its positions, all keys before all values; last the FNV-1a hash of all that (u64).
//!
//! A model is known by what it says: the fingerprint is the hash of its logits after the first of the ids. They are the same
//! bits on every machine, so a cache may be carried to another one.

use crate::failure::Failure;
use crate::generate::refused;
use crate::hash::Fnv1a;
use crate::load::{self, Session};
use smidgen_host::atomic::BUFFER_BYTES;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

const MAGIC: &[u8; 16] = b"smidgen cache 1\n";

/// What [`save`] takes of caches of so many bytes on their way to the file: what is gathered, and what the system has not written yet.
pub fn saving_bytes(cache_bytes: usize) -> usize {
    2 * BUFFER_BYTES.min(cache_bytes)
}

/// Type names, sizes and pieces of the engine's caches.
fn shape(session: &Session<'_>) -> Vec<u8> {
    let limits = &session.settings.limits;
    let mut shape = Vec::with_capacity(28);
    for kind in [limits.cache_k, limits.cache_v] {
        let mut name = [0; 8];
        name[..kind.name().len()].copy_from_slice(kind.name().as_bytes());
        shape.extend_from_slice(&name);
    }
    let h = session.model.hparams();
    let rows = [limits.cache_k, limits.cache_v].map(|kind| kind.row_bytes(h.head_dim));
    for number in [rows[0], rows[1], h.n_layers * h.n_kv_heads] {
        shape.extend_from_slice(&(number as u32).to_le_bytes());
    }
    shape
}

/// Runs `first` as the only token and gives the hash of what the model says to it.
fn fingerprint(session: &mut Session<'_>, first: u32) -> Result<u64, Failure> {
    session.engine.truncate(0);
    let logits = session
        .engine
        .forward(&[first])
        .map_err(|error| refused(session.name, session.gguf, session.elsewhere, error))?;
    let mut hash = Fnv1a::START;
    logits.iter().for_each(|logit| hash.add(&logit.to_le_bytes()));
    Ok(hash.value())
}

/// A file that is read and hashed.
struct Reader {
    file: BufReader<File>,
    hash: Fnv1a,
}

impl Reader {
    fn fill(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.file.read_exact(bytes)?;
        self.hash.add(bytes);
        Ok(())
    }

    fn number<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }
}

/// Takes the longest beginning that `tokens` share with the cache at `path` into the engine of `session`; the last token is
/// left to be run; nothing where there is no such file. Gives the fingerprint of the model after the first of `tokens`, for [`save`].
///
/// # Errors
/// Caches that are not in memory; a file that is no cache, one of another model or of other cache types, one that was cut or changed.
pub fn restore(path: &Path, session: &mut Session<'_>, tokens: &[u32]) -> Result<u64, Failure> {
    if session.budget.spilled.is_some() {
        return Err(Failure::Input(
            "--prompt-cache needs all keys and values in memory; give a smaller -c, a larger --ram, or --ctk and --ctv"
                .into(),
        ));
    }
    let own_fingerprint = fingerprint(session, tokens[0])?;
    session.engine.truncate(0);
    let (file, length) = match File::open(path).and_then(|file| file.metadata().map(|about| (file, about.len()))) {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(own_fingerprint),
        Err(error) => return Err(Failure::reading(path, &error)),
    };
    let bad =
        |what: &str| Failure::Input(format!("{}: {what}; delete it, or give another --prompt-cache", path.display()));
    let mut reader = Reader { file: BufReader::new(file), hash: Fnv1a::START };
    let cut = |_| bad("is no prompt cache, or was cut short");
    if reader.number::<16>().map_err(cut)? != *MAGIC {
        return Err(bad("is no prompt cache"));
    }
    let shape = shape(session);
    let mut stored = vec![0; shape.len()];
    reader.fill(&mut stored).map_err(cut)?;
    if stored != shape {
        return Err(bad("is the prompt cache of another model, or of other types of keys and values"));
    }
    let n = u32::from_le_bytes(reader.number().map_err(cut)?) as usize;
    let [key_bytes, value_bytes, pieces] =
        [16, 20, 24].map(|at| u32::from_le_bytes([shape[at], shape[at + 1], shape[at + 2], shape[at + 3]]) as u64);
    // The length is known before room is made for anything that the file only claims.
    let rows = (n as u64).saturating_mul(pieces).saturating_mul(key_bytes + value_bytes);
    if n == 0 || rows.saturating_add((16 + shape.len() + 4 + 8 + 4 * n + 8) as u64) != length {
        return Err(bad("was cut short, or is longer than it should be"));
    }
    let stored_fingerprint = u64::from_le_bytes(reader.number().map_err(cut)?);
    let mut ids = vec![0; n];
    for id in &mut ids {
        *id = u32::from_le_bytes(reader.number().map_err(cut)?);
    }
    let known = (ids[0] as usize) < session.model.hparams().n_vocab;
    if !known || fingerprint(session, ids[0])? != stored_fingerprint {
        return Err(bad("is the prompt cache of another model"));
    }
    let same = ids.iter().zip(tokens).take_while(|(id, token)| id == token).count();
    let same = same.min(tokens.len() - 1).min(session.engine.context_tokens());
    let mut piece = vec![0; n * key_bytes.max(value_bytes) as usize];
    session.engine.truncate(0);
    let restored = session.engine.restore(same, |rows, row_bytes| {
        let piece = &mut piece[..n * row_bytes];
        reader.fill(piece)?;
        rows.copy_from_slice(&piece[..rows.len()]);
        Ok(())
    });
    restored.map_err(cut)?;
    let computed = reader.hash.value();
    if u64::from_le_bytes(reader.number().map_err(cut)?) != computed {
        session.engine.truncate(0);
        return Err(bad("was changed since it was written"));
    }
    Ok(own_fingerprint)
}

/// Writes the keys and values of `tokens`, which the engine of `session` holds, to `path`, with the model's `fingerprint` after
/// the first of them; if memory `is_limited`, no more than [`saving_bytes`] of it are in memory at a time.
///
/// # Errors
/// A file that cannot be written.
pub fn save(
    path: &Path,
    session: &Session<'_>,
    tokens: &[u32],
    (fingerprint, is_limited): (u64, bool),
) -> Result<(), Failure> {
    let mut header = MAGIC.to_vec();
    header.extend_from_slice(&shape(session));
    header.extend_from_slice(&(tokens.len() as u32).to_le_bytes());
    header.extend_from_slice(&fingerprint.to_le_bytes());
    tokens.iter().for_each(|id| header.extend_from_slice(&id.to_le_bytes()));
    let step_bytes = if is_limited { BUFFER_BYTES as u64 } else { u64::MAX };
    let written = smidgen_host::atomic::write_in_steps(path, step_bytes, |file| {
        let mut hash = Fnv1a::START;
        for bytes in std::iter::once(&header[..]).chain(session.engine.cached(tokens.len())) {
            hash.add(bytes);
            file.write_all(bytes).map_err(|error| smidgen_host::Error::writing(path, &error))?;
        }
        file.write_all(&hash.value().to_le_bytes()).map_err(|error| smidgen_host::Error::writing(path, &error))
    });
    written.map_err(load::host_failure)
}
