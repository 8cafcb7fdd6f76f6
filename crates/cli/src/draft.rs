//! Guesses at the next tokens, which the model then checks in one pass over its weights.
//!
//! A guess never changes what is generated: a token is taken from the model's own logits, which are the same bits alone or
//! in a batch, and a guess only spares a pass when it is that token (Leviathan et al. 2023; guesses from the text itself:
//! Saxena 2023). Random numbers are drawn once for each token taken, so a seed gives the same text too.

use crate::args::{EngineArgs, ModelArgs, SamplingArgs, positive};
use crate::budget::Budget;
use crate::failure::Failure;
use crate::generate::refused;
use crate::load::{self, Session};
use crate::source::Source;
use clap::Args;
use std::time::Instant;

/// Where guesses come from.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Guessing ahead")]
pub struct DraftArgs {
    /// Guess the next tokens and check several at once, which gives the same text sooner: 'ngram' guesses from the text so far, a MODEL with the same vocabulary by itself
    #[arg(long, value_name = "MODEL|ngram")]
    pub draft: Option<String>,

    /// Tokens to guess at a time, at most
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = positive, requires = "draft")]
    pub draft_max: usize,
}

/// Somebody who guesses.
pub trait Draft {
    /// Adds up to `n` tokens that may follow `tokens` to `guesses`, which has room for them.
    ///
    /// # Errors
    /// A model that refuses a token.
    fn guess(&mut self, tokens: &[u32], n: usize, guesses: &mut Vec<u32>) -> Result<(), Failure>;

    /// Refuses to guess for a model of another vocabulary.
    ///
    /// # Errors
    /// Vocabularies that differ.
    fn check(&self, session: &Session<'_>) -> Result<(), Failure>;
}

/// How many of the last tokens must have stood somewhere before, tried from the largest number on.
const LONGEST_NGRAM: usize = 4;

/// Guesses that the text goes on as it did the last time its last tokens stood in it.
pub struct Ngram;

impl Draft for Ngram {
    fn guess(&mut self, tokens: &[u32], n: usize, guesses: &mut Vec<u32>) -> Result<(), Failure> {
        for length in (1..=LONGEST_NGRAM.min(tokens.len() / 2)).rev() {
            let (before, last) = (&tokens[..tokens.len() - 1], &tokens[tokens.len() - length..]);
            if let Some(at) = before.windows(length).rposition(|window| window == last) {
                guesses.extend(tokens[at + length..].iter().take(n));
                break;
            }
        }
        Ok(())
    }

    fn check(&self, _: &Session<'_>) -> Result<(), Failure> {
        Ok(())
    }
}

/// Guesses what another model, a smaller one, finds likeliest.
pub struct Smaller<'s, 'a> {
    session: &'s mut Session<'a>,
    /// The tokens that its engine holds.
    held: Vec<u32>,
}

impl Draft for Smaller<'_, '_> {
    fn guess(&mut self, tokens: &[u32], n: usize, guesses: &mut Vec<u32>) -> Result<(), Failure> {
        let room = self.session.engine.context_tokens().saturating_sub(tokens.len());
        // The last token is run again in any case, because its logits are wanted.
        let same = self.held.iter().zip(tokens).take_while(|(held, token)| held == token).count().min(tokens.len() - 1);
        let same = self.session.engine.truncate(same);
        self.held.truncate(same);
        for _ in 0..n.min(room) {
            let new = if guesses.is_empty() { &tokens[same..] } else { &guesses[guesses.len() - 1..] };
            let (name, gguf, stream) = (self.session.name, self.session.gguf, self.session.elsewhere);
            let logits = self.session.engine.forward(new).map_err(|error| refused(name, gguf, stream, error))?;
            self.held.extend_from_slice(new);
            let likeliest = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
            guesses.extend(likeliest.map(|(id, _)| id as u32));
        }
        Ok(())
    }

    fn check(&self, session: &Session<'_>) -> Result<(), Failure> {
        let n_vocab = session.model.hparams().n_vocab;
        let same_piece = |id: u32| self.session.tokenizer.piece(id) == session.tokenizer.piece(id);
        if self.session.model.hparams().n_vocab == n_vocab && (0..n_vocab as u32).all(same_piece) {
            return Ok(());
        }
        Err(self
            .session
            .refused(format!("has another vocabulary than {}, so its guesses mean nothing there", session.name)))
    }
}

/// Loads what the flags ask guesses from, and hands it to `work` with what it takes.
///
/// # Errors
/// A model that cannot be loaded, and those of `work`.
pub fn with_draft<R>(
    flags: &DraftArgs,
    model: &ModelArgs,
    engine: &EngineArgs,
    work: impl FnOnce(Option<(&mut dyn Draft, usize)>, Option<Budget>) -> Result<R, Failure>,
) -> Result<R, Failure> {
    let Some(name) = &flags.draft else { return work(None, None) };
    if name == "ngram" {
        return work(Some((&mut Ngram, flags.draft_max)), None);
    }
    let source = Source::open_whole_to_run(&model.as_stored(name), engine)?;
    load::with_session(&source, engine, &SamplingArgs::GREEDY, Instant::now(), |session| {
        let budget = session.budget.clone();
        let held = Vec::with_capacity(session.settings.limits.context_tokens);
        work(Some((&mut Smaller { session, held }, flags.draft_max)), Some(budget))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guesses(tokens: &[u32], n: usize) -> Vec<u32> {
        let mut guesses = Vec::new();
        Ngram.guess(tokens, n, &mut guesses).unwrap();
        guesses
    }

    #[test]
    fn the_text_goes_on_as_it_did_the_last_time() {
        assert_eq!(guesses(&[1, 2, 3, 4, 1, 2], 3), [3, 4, 1]);
        assert_eq!(guesses(&[1, 2, 3, 9, 2, 5, 1, 2], 2), [3, 9], "two tokens say more than one");
        assert_eq!(guesses(&[7, 5, 7, 6, 7], 1), [6], "the last time");
        assert_eq!(guesses(&[8, 8, 8], 4), [8], "no further than the text goes");
        assert!(guesses(&[1, 2, 3, 4], 4).is_empty());
        assert!(guesses(&[1], 4).is_empty());
    }
}
