//! From prompt ids to new ids and their text: the loop that `run` and `chat` share.

use crate::args::EndingArgs;
use crate::constraint::Constraint;
use crate::draft::Draft;
use crate::failure::Failure;
use crate::interrupt::Guard;
use crate::load::{Elsewhere, Session, host_failure};
use crate::progress::Bar;
use crate::stop::StopStrings;
use smidgen_core::engine;
use smidgen_core::gguf::Gguf;
use smidgen_core::sample::Sampler;
use smidgen_core::tokenizer::{Decoder, Tokenizer};
use smidgen_host::Progress;
use smidgen_host::diagnose::first_bad_weight;
use std::time::{Duration, Instant};

/// Batches of a prompt between two looks at the progress bar and at Ctrl-C; each such step computes logits once.
const BATCHES_PER_STEP: usize = 4;

/// Why the text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// The model said so.
    EndOfText,
    /// As many new tokens as were asked for.
    Length,
    /// The context is full.
    Context,
    /// A stop string.
    Stop,
    /// Ctrl-C.
    Interrupted,
}

/// What reading the prompt gave.
#[derive(Clone, Copy, Debug)]
pub struct Prompted {
    /// The first new token; `None` when Ctrl-C came before it was known.
    pub first: Option<u32>,
    /// Tokens that passed through the model.
    pub n_tokens: usize,
    /// How long that took.
    pub time: Duration,
}

/// What generating took and how it ended.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Why the text ended.
    pub ending: Ending,
    /// New tokens.
    pub n_new: usize,
    /// Those of them that had been guessed.
    pub n_guessed: usize,
    /// From the first new token until the end.
    pub time: Duration,
}

/// What to do with the logits of each prompt position.
pub type LogitsSink<'s> = &'s mut dyn FnMut(&[f32]) -> Result<(), Failure>;

/// Everything the loop needs beside the engine; nothing in it grows once the loop runs.
pub struct Generator<'a> {
    sampler: Sampler<'a>,
    constraint: Option<Constraint>,
    stop: StopStrings,
    /// Room for the text of one token.
    piece: Vec<u8>,
    /// New tokens at most.
    limit: usize,
    ignore_eos: bool,
    /// Who guesses ahead, and how many tokens at a time, at most.
    draft: Option<(&'a mut dyn Draft, usize)>,
    /// How many it guesses next: twice as many where all were right, else one more than were.
    reach: usize,
    /// The tokens of a pass.
    batch: Vec<u32>,
    /// Guesses that were right.
    n_guessed: usize,
}

impl<'a> Generator<'a> {
    /// A loop for the model of `session`.
    ///
    /// # Errors
    /// A constraint that is not in order.
    pub fn new(session: &Session<'_>, sampler: Sampler<'a>, ending: &EndingArgs) -> Result<Self, Failure> {
        let piece_bytes = session.tokenizer.max_piece_bytes();
        Ok(Self {
            sampler,
            constraint: Constraint::new(&ending.constraint, session)?,
            stop: StopStrings::new(&ending.stop, piece_bytes),
            piece: vec![0; piece_bytes],
            limit: usize::try_from(ending.predict).unwrap_or(usize::MAX),
            ignore_eos: ending.ignore_eos,
            draft: None,
            reach: 1,
            batch: Vec::with_capacity(1),
            n_guessed: 0,
        })
    }

    /// Lets somebody guess ahead, by so many tokens at most.
    pub fn with_draft(self, draft: Option<(&'a mut dyn Draft, usize)>) -> Self {
        let most = draft.as_ref().map_or(0, |(_, most)| *most);
        Self { draft, batch: Vec::with_capacity(1 + most), ..self }
    }

    /// Passes the tokens that the engine does not hold yet through it, gives their logits to `each`, and chooses the
    /// first new token. There must be at least one such token.
    ///
    /// # Errors
    /// Those of `each`, and tokens that the engine refuses.
    pub fn prompt(
        &mut self,
        session: &mut Session<'_>,
        tokens: &[u32],
        mut each: Option<LogitsSink<'_>>,
        interrupt: &Guard<'_>,
    ) -> Result<Prompted, Failure> {
        let began = Instant::now();
        let bar = Bar::new();
        let new = &tokens[session.engine.position()..];
        let mut first = Ok(None);
        let mut left = new.len();
        if let Some(constraint) = &mut self.constraint {
            constraint.restart()?;
        }
        bar.begin("prompt", new.len() as u64);
        for batch in new.chunks(BATCHES_PER_STEP * session.settings.limits.batch_tokens) {
            if interrupt.is_pressed() {
                break;
            }
            left -= batch.len();
            let mut result = Ok(());
            let forwarded = match each.as_mut() {
                Some(each) => session.engine.forward_each(batch, |index, logits| {
                    if result.is_ok() {
                        result = each(logits);
                    }
                    if left == 0 && index + 1 == batch.len() {
                        first = self.choose(logits, tokens).map(Some);
                    }
                }),
                None => session.engine.forward(batch).map(|logits| {
                    if left == 0 {
                        first = self.choose(logits, tokens).map(Some);
                    }
                }),
            };
            forwarded.map_err(|error| refused(session.name, session.gguf, session.elsewhere, error))?;
            result?;
            bar.advance(batch.len() as u64);
        }
        bar.end();
        Ok(Prompted { first: first?, n_tokens: new.len(), time: began.elapsed() })
    }

    /// Chooses the token that follows `tokens`.
    fn choose(&mut self, logits: &mut [f32], tokens: &[u32]) -> Result<u32, Failure> {
        if let Some(constraint) = &mut self.constraint {
            constraint.mask(logits)?;
        }
        Ok(self.sampler.sample(logits, tokens))
    }

    /// Continues `tokens` with `first`, and with what follows from it until the text ends. The new ids are appended to
    /// `tokens`; their text goes to `emit` in whole characters as it comes.
    ///
    /// # Errors
    /// Those of `emit`, and tokens that the engine refuses.
    pub fn run(
        &mut self,
        session: &mut Session<'_>,
        tokens: &mut Vec<u32>,
        first: Option<u32>,
        interrupt: &Guard<'_>,
        emit: &mut dyn FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<Outcome, Failure> {
        let began = Instant::now();
        let n_prompt = tokens.len();
        let tokenizer = session.tokenizer;
        let mut decoder = tokenizer.decoder();
        for &id in tokens.iter() {
            // The text of the prompt is known; the decoder only has to stand where the prompt ends.
            decoder.push(id, &mut self.piece);
        }
        let mut text = Text { tokenizer, decoder, tokens, n_prompt, emit };
        let ending = match first {
            None => Ending::Interrupted,
            Some(_) if self.limit == 0 => Ending::Length,
            Some(id) => self.go_on(session, &mut text, id, interrupt)?,
        };
        let Text { mut decoder, emit, .. } = text;
        if ending != Ending::Stop {
            let n_bytes = decoder.finish(&mut self.piece);
            self.stop.push(&self.piece[..n_bytes], &mut *emit)?;
        }
        self.stop.finish(emit)?;
        let n_guessed = std::mem::take(&mut self.n_guessed);
        Ok(Outcome { ending, n_new: tokens.len() - n_prompt, n_guessed, time: began.elapsed() })
    }

    /// Takes `id` and what follows from it, until the text ends.
    fn go_on(
        &mut self,
        session: &mut Session<'_>,
        text: &mut Text<'_, '_>,
        mut id: u32,
        interrupt: &Guard<'_>,
    ) -> Result<Ending, Failure> {
        loop {
            if let Some(ending) = self.take(text, id)? {
                return Ok(ending);
            }
            if interrupt.is_pressed() {
                return Ok(Ending::Interrupted);
            }
            let room = session.settings.limits.context_tokens - session.engine.position();
            if room == 0 {
                return Ok(Ending::Context);
            }
            let mut batch = std::mem::take(&mut self.batch);
            batch.clear();
            self.guess(text, room - 1, &mut batch)?;
            batch.insert(0, id);
            let n_right_before = self.n_guessed;
            let mut step = Ok(None);
            let forwarded = session.engine.forward_while(&batch, |index, logits| {
                step = self.choose(logits, text.tokens).and_then(|chosen| {
                    id = chosen;
                    // A guess that was right is taken at once: the logits behind it are on their way.
                    if batch.get(index + 1) == Some(&chosen) { self.take_guess(text, chosen) } else { Ok(Some(None)) }
                });
                matches!(step, Ok(None))
            });
            forwarded.map_err(|error| refused(session.name, session.gguf, session.elsewhere, error))?;
            let (n_right, n_guesses) = (self.n_guessed - n_right_before, batch.len() - 1);
            if n_guesses > 0 {
                self.reach = if n_right == n_guesses { 2 * n_guesses } else { n_right + 1 };
            }
            self.batch = batch;
            if let Some(Some(ending)) = step? {
                return Ok(ending);
            }
        }
    }

    /// Guesses what may follow, as far as there is room and tokens are wanted.
    fn guess(&mut self, text: &Text<'_, '_>, room: usize, guesses: &mut Vec<u32>) -> Result<(), Failure> {
        let wanted = self.limit - (text.tokens.len() - text.n_prompt);
        match &mut self.draft {
            Some((draft, most)) => draft.guess(text.tokens, room.min(wanted).min(*most).min(self.reach), guesses),
            None => Ok(()),
        }
    }

    /// As [`Generator::take`]; the ending in its place when the text ends with it.
    fn take_guess(&mut self, text: &mut Text<'_, '_>, id: u32) -> Result<Option<Option<Ending>>, Failure> {
        self.n_guessed += 1;
        Ok(self.take(text, id)?.map(Some))
    }

    /// Appends `id` to the text; the ending when the text ends there.
    fn take(&mut self, text: &mut Text<'_, '_>, id: u32) -> Result<Option<Ending>, Failure> {
        if text.tokenizer.is_end(id) && !self.ignore_eos {
            return Ok(Some(Ending::EndOfText));
        }
        text.tokens.push(id);
        let n_bytes = text.decoder.push(id, &mut self.piece);
        if self.stop.push(&self.piece[..n_bytes], &mut *text.emit)? {
            return Ok(Some(Ending::Stop));
        }
        if self.constraint.as_mut().map_or(Ok(false), |constraint| constraint.accept(id))? {
            return Ok(Some(Ending::EndOfText));
        }
        Ok((text.tokens.len() - text.n_prompt >= self.limit).then_some(Ending::Length))
    }
}

/// A text that grows.
struct Text<'t, 'm> {
    tokenizer: &'m Tokenizer<'m>,
    decoder: Decoder<'m>,
    tokens: &'t mut Vec<u32>,
    n_prompt: usize,
    emit: &'t mut dyn FnMut(&[u8]) -> Result<(), Failure>,
}

/// What to say when the engine refuses; a result that is not finite is traced to the weight that made it so, and what
/// could not be read or kept to what the system said.
pub fn refused(name: &str, gguf: &Gguf<'_>, elsewhere: Elsewhere<'_>, error: engine::Error) -> Failure {
    if let Some(error) = elsewhere.take_error(error) {
        return host_failure(error);
    }
    let bad = match error {
        engine::Error::NotFinite => first_bad_weight(gguf, elsewhere.together),
        _ => None,
    };
    Failure::Input(match bad {
        Some(bad) => format!("{name}: {bad}; the model is broken"),
        None => format!("{name}: {error}"),
    })
}
