//! One model for programs that speak OpenAI's HTTP API.
//!
//! The engine stays where it was loaded, on the main thread, and answers one request after the other; [`http`] runs on a thread of its own
//! and hands it jobs. What the engine holds of the last request is used again as far as the next one begins alike.

pub mod api;
pub mod http;

use crate::args::EndingArgs;
use crate::constraint::ConstraintArgs;
use crate::failure::Failure;
use crate::generate::{Ending, Generator, Prompted};
use crate::interrupt::Guard;
use crate::load::Session;
use crate::prompt;
use crate::template::{Message, Template};
use smidgen_core::sample::{Candidate, SampleParams, Sampler};
use smidgen_core::tokenizer::Encode;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;

/// How long the loop waits for a job before it looks whether Ctrl-C was pressed.
const GLANCE: Duration = Duration::from_millis(100);

/// What is to be continued.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// A text.
    Text(String),
    /// Token ids.
    Ids(Vec<u32>),
    /// A conversation, which the model's template makes a text.
    Chat(Vec<Message>),
}

/// How tokens are chosen, where the request says so.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Choice {
    /// 0 always takes the likeliest token.
    pub temperature: Option<f32>,
    /// The likeliest so many tokens; 0 keeps all.
    pub top_k: Option<usize>,
    /// The likeliest tokens that together have this probability.
    pub top_p: Option<f32>,
    /// Tokens at least so likely relative to the likeliest.
    pub min_p: Option<f32>,
    /// The factor for tokens that were just used.
    pub repeat_penalty: Option<f32>,
    /// Subtracted from the logits of tokens that were just used.
    pub presence_penalty: Option<f32>,
    /// The same once for each use.
    pub frequency_penalty: Option<f32>,
    /// Of the random numbers.
    pub seed: Option<u64>,
}

impl Choice {
    /// What the request says, and what `base` says for the rest.
    fn over(&self, base: SampleParams) -> SampleParams {
        SampleParams {
            temperature: self.temperature.unwrap_or(base.temperature),
            top_k: self.top_k.unwrap_or(base.top_k),
            top_p: self.top_p.unwrap_or(base.top_p),
            min_p: self.min_p.unwrap_or(base.min_p),
            repeat_penalty: self.repeat_penalty.unwrap_or(base.repeat_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(base.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(base.frequency_penalty),
            seed: self.seed.unwrap_or(base.seed),
            ..base
        }
    }
}

/// One request, and where its answer goes.
pub struct Job {
    /// What is to be continued.
    pub ask: Ask,
    /// How tokens are chosen.
    pub choice: Choice,
    /// New tokens at most.
    pub limit: Option<u64>,
    /// Texts before which the answer ends.
    pub stop: Vec<String>,
    /// Takes what happens; closed when nobody waits for the answer any more.
    pub reply: UnboundedSender<Event>,
}

/// What happens to a request, in this order.
#[derive(Clone, Debug)]
pub enum Event {
    /// The prompt has so many tokens, and is being read.
    Begun(usize),
    /// The next piece of text.
    Text(String),
    /// The text has ended: why, and how many tokens are new.
    Ended(Ending, usize),
    /// There is no answer: whether the request is to blame, and what is wrong.
    Refused(bool, String),
}

/// What the loop needs beside the session.
pub struct Server {
    /// How tokens are chosen when a request does not say.
    pub params: SampleParams,
    /// The model's chat template, if it has one.
    pub template: Option<Template>,
    /// Scratch of the sampler.
    pub candidates: Vec<Candidate>,
    /// The tokens whose keys and values the engine holds come first.
    pub held: Vec<u32>,
}

impl Server {
    /// Answers jobs until there are no more, or Ctrl-C is pressed.
    ///
    /// # Errors
    /// What ends the server: weights that can no longer be read.
    pub fn run(&mut self, session: &mut Session<'_>, jobs: &Receiver<Job>, guard: &Guard<'_>) -> Result<(), Failure> {
        while !guard.is_pressed() {
            match jobs.recv_timeout(GLANCE) {
                Ok(job) => self.answer(session, &job, guard)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        Ok(())
    }

    /// Answers one job. A failure of this request is the client's to hear; one of the machine ends the server too.
    fn answer(&mut self, session: &mut Session<'_>, job: &Job, guard: &Guard<'_>) -> Result<(), Failure> {
        let done = self.ids(session, &job.ask).and_then(|ids| self.generate(session, job, ids, guard));
        let failure = match done {
            // The client has gone, or Ctrl-C was pressed.
            Ok(()) | Err(Failure::Closed | Failure::Interrupted) => return Ok(()),
            Err(failure) => failure,
        };
        // Whether the client still listens does not matter any more.
        let _ = job.reply.send(Event::Refused(matches!(failure, Failure::Input(_)), failure.to_string()));
        match failure {
            Failure::Input(_) | Failure::Budget(_) => Ok(()),
            failure => Err(failure),
        }
    }

    /// The token ids of what is asked.
    fn ids(&self, session: &Session<'_>, ask: &Ask) -> Result<Vec<u32>, Failure> {
        let encode = |text: &str, is_chat: bool| {
            let options = Encode { add_special: !is_chat, parse_special: is_chat };
            prompt::encode(session.tokenizer, text, options).map_err(|error| session.refused(error))
        };
        let ids = match ask {
            Ask::Text(text) => encode(text, false)?,
            Ask::Ids(ids) => ids.clone(),
            Ask::Chat(messages) => {
                let template = self.template.as_ref().ok_or_else(|| {
                    session.refused(
                        "the model has no chat template; ask for a completion, or serve it with --chat-template-file",
                    )
                })?;
                encode(&template.render(messages)?, true)?
            }
        };
        let context = session.settings.limits.context_tokens;
        match ids.len() {
            0 => Err(Failure::Input("the prompt is empty".to_owned())),
            n if n > context => Err(Failure::Input(format!("the prompt has {n} tokens and the context {context}"))),
            _ => Ok(ids),
        }
    }

    fn generate(
        &mut self,
        session: &mut Session<'_>,
        job: &Job,
        ids: Vec<u32>,
        guard: &Guard<'_>,
    ) -> Result<(), Failure> {
        let send = |event| job.reply.send(event).map_err(|_| Failure::Closed);
        // At least one token must pass through the model to say what comes next.
        let same = self.held.iter().zip(&ids).take_while(|(held, id)| held == id).count();
        session.engine.truncate(same.min(ids.len() - 1));
        self.held = ids;
        send(Event::Begun(self.held.len()))?;
        let ending = EndingArgs {
            predict: job.limit.map_or(-1, |limit| i64::try_from(limit).unwrap_or(i64::MAX)),
            stop: job.stop.clone(),
            ignore_eos: false,
            constraint: ConstraintArgs::default(),
        };
        let params = job.choice.over(self.params);
        let n_candidates = Sampler::scratch_len(&params, session.model.hparams().n_vocab).min(self.candidates.len());
        let sampler = Sampler::new(params, &mut self.candidates[..n_candidates]);
        let mut generator = Generator::new(session, sampler, &ending)?;
        // What reads requests and makes tokens of them is not needed to answer them.
        smidgen_host::pages::release_program();
        let Prompted { first, .. } = generator.prompt(session, &self.held, None, guard)?;
        let mut emit = |piece: &[u8]| send(Event::Text(String::from_utf8_lossy(piece).into_owned()));
        let outcome = generator.run(session, &mut self.held, first, guard, &mut emit)?;
        send(Event::Ended(outcome.ending, outcome.n_new))
    }
}
