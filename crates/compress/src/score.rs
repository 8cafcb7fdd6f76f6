//! Runs models over a text and gathers what their logits tell: one model alone, or two side by side.
//!
//! Two models go through the text together, a batch of tokens at a time, so that no more logits are kept than those of one
//! batch of the base.

use crate::chunks::Chunks;
use crate::damage::{Damage, Likelihood, log_total, nll};
use smidgen_core::engine::{self, Engine};
use std::fmt;

/// Why a text was not scored to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The model refused.
    Model(engine::Error),
    /// The base refused.
    Base(engine::Error),
    /// The caller did not want to go on.
    Stopped,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Model(error) => error.fmt(f),
            Error::Base(error) => write!(f, "the base: {error}"),
            Error::Stopped => f.write_str("stopped"),
        }
    }
}

impl std::error::Error for Error {}

/// Told after every batch how many tokens it had; says whether to go on.
pub type Watch<'w> = &'w mut dyn FnMut(usize) -> bool;

fn go_on(watch: &mut Watch<'_>, n_tokens: usize) -> Result<(), Error> {
    if watch(n_tokens) { Ok(()) } else { Err(Error::Stopped) }
}

/// Scores the `chunks` of a text, `batch_tokens` at a time; `engine` has room for one chunk.
///
/// # Errors
/// What the engine refuses, or when `watch` says so.
pub fn score(
    engine: &mut Engine<'_>,
    chunks: &Chunks<'_>,
    batch_tokens: usize,
    mut watch: Watch<'_>,
) -> Result<Likelihood, Error> {
    let mut likelihood = Likelihood::with_capacity(chunks.n_scored());
    let mut tokens = Vec::with_capacity(chunks.context_tokens());
    let scored = chunks.scored();
    for index in 0..chunks.len() {
        chunks.read(index, &mut tokens);
        engine.truncate(0);
        for batch in tokens[..scored.start].chunks(batch_tokens) {
            engine.forward(batch).map_err(Error::Model)?;
            go_on(&mut watch, batch.len())?;
        }
        let mut followed = tokens[scored.start + 1..].chunks(batch_tokens);
        for batch in tokens[scored.clone()].chunks(batch_tokens) {
            let followed = followed.next().unwrap_or_default();
            let each = |at: usize, logits: &mut [f32]| likelihood.push(nll(logits, log_total(logits), followed[at]));
            engine.forward_each(batch, each).map_err(Error::Model)?;
            go_on(&mut watch, batch.len())?;
        }
    }
    Ok(likelihood)
}

/// Scores the `chunks` of a text with the model in `engine`, and compares it with the one in `base`, which has the same
/// vocabulary. Keeps `batch_tokens` rows of logits.
///
/// # Errors
/// What an engine refuses, or when `watch` says so.
pub fn compare(
    engine: &mut Engine<'_>,
    base: &mut Engine<'_>,
    chunks: &Chunks<'_>,
    batch_tokens: usize,
    mut watch: Watch<'_>,
) -> Result<(Likelihood, Damage), Error> {
    let mut likelihood = Likelihood::with_capacity(chunks.n_scored());
    let mut damage = Damage::with_capacity(chunks.n_scored());
    let mut tokens = Vec::with_capacity(chunks.context_tokens());
    let mut rows: Vec<Vec<f32>> = vec![Vec::new(); batch_tokens];
    let scored = chunks.scored();
    for index in 0..chunks.len() {
        chunks.read(index, &mut tokens);
        engine.truncate(0);
        base.truncate(0);
        for batch in tokens[..scored.start].chunks(batch_tokens) {
            base.forward(batch).map_err(Error::Base)?;
            engine.forward(batch).map_err(Error::Model)?;
            go_on(&mut watch, batch.len())?;
        }
        let mut followed = tokens[scored.start + 1..].chunks(batch_tokens);
        for batch in tokens[scored.clone()].chunks(batch_tokens) {
            let followed = followed.next().unwrap_or_default();
            let keep = |at: usize, logits: &mut [f32]| {
                rows[at].clear();
                rows[at].extend_from_slice(logits);
            };
            base.forward_each(batch, keep).map_err(Error::Base)?;
            let each = |at: usize, logits: &mut [f32]| damage.push(&rows[at], logits, followed[at], &mut likelihood);
            engine.forward_each(batch, each).map_err(Error::Model)?;
            go_on(&mut watch, batch.len())?;
        }
    }
    Ok((likelihood, damage))
}
