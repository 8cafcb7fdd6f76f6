//! `smidgen chat`: questions and answers through the model's own template.

use crate::args::{EndingArgs, EngineArgs, ModelArgs, SamplingArgs};
use crate::budget::Work;
use crate::conversation::Conversation;
use crate::failure::{Failure, Status};
use crate::generate::{Ending, Generator};
use crate::interrupt::Interrupt;
use crate::load::{self, Session};
use crate::prompt;
use crate::report::{self, printable};
use crate::source::Source;
use crate::template::Template;
use clap::Args;
use rustyline::error::ReadlineError;
use serde::Serialize;
use smidgen_core::sample::{Candidate, Sampler};
use smidgen_core::tokenizer::Encode;
use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

const HELP: &str = "\
/reset      begin a new conversation
/undo       take back the last question and its answer
/retry      answer the last question again
/edit       change the last question and ask it again
/history    show the conversation
/save FILE  write the conversation as JSON
/quit       end (so does Ctrl-D); Ctrl-C stops an answer
";

#[derive(Args, Debug)]
pub(super) struct Flags {
    #[command(flatten)]
    model: ModelArgs,

    /// What the system says before the conversation
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    system_prompt: Option<String>,

    /// File with the Jinja template to use in place of the model's own
    #[arg(long, value_name = "FILE")]
    chat_template_file: Option<PathBuf>,

    #[command(flatten)]
    ending: EndingArgs,

    #[command(flatten)]
    sampling: SamplingArgs,

    #[command(flatten)]
    engine: EngineArgs,
}

pub(super) fn run(flags: &Flags, stdout: &mut dyn Write) -> Result<Status, Failure> {
    let began = Instant::now();
    let engine = EngineArgs { work: Work::Chat, ..flags.engine.clone() };
    let source = Source::open_to_run(&flags.model, &engine, &flags.sampling)?;
    load::with_session(&source, &engine, &flags.sampling, began, |session| {
        let template = Template::of_model(flags.chat_template_file.as_deref(), session)?;
        let params = session.settings.params;
        let mut scratch = vec![Candidate::default(); Sampler::scratch_len(&params, session.model.hparams().n_vocab)];
        let generator = Generator::new(session, Sampler::new(params, &mut scratch), &flags.ending)?;
        let context_tokens = session.settings.limits.context_tokens;
        let mut chat = Chat {
            conversation: Conversation::new(flags.system_prompt.as_deref()),
            template,
            generator,
            interrupt: Interrupt::watch()?,
            tokens: Vec::with_capacity(context_tokens + 1),
        };
        smidgen_host::pages::release_program();
        chat.talk(session, stdout)
    })
}

/// A conversation in progress.
struct Chat<'a> {
    conversation: Conversation,
    template: Template,
    generator: Generator<'a>,
    interrupt: Interrupt,
    /// The tokens whose keys and values the engine holds come first.
    tokens: Vec<u32>,
}

/// What a line asks for.
enum Request {
    Answer,
    Edit,
    Nothing,
    Quit,
}

impl Chat<'_> {
    /// Reads lines and answers them until there are no more.
    fn talk(&mut self, session: &mut Session<'_>, stdout: &mut dyn Write) -> Result<Status, Failure> {
        let mut lines = Lines::new()?;
        let mut draft = String::new();
        while let Some(line) = lines.next(&std::mem::take(&mut draft))? {
            match self.obey(line, stdout)? {
                Request::Answer => match self.answer(session, stdout) {
                    Ok(()) => {}
                    Err(Failure::Input(message)) => {
                        // What cannot be answered is taken back, and the conversation goes on.
                        self.conversation.undo();
                        eprintln!("smidgen: {message}");
                    }
                    Err(failure) => return Err(failure),
                },
                Request::Edit => draft = self.conversation.undo().unwrap_or_default(),
                Request::Nothing => {}
                Request::Quit => break,
            }
        }
        Ok(Status::Done)
    }

    /// Does what a line that begins with `/` says, or takes the line as the user's next message.
    fn obey(&mut self, line: String, stdout: &mut dyn Write) -> Result<Request, Failure> {
        let (command, rest) = line.split_once(' ').unwrap_or((&line, ""));
        match command {
            "" if rest.is_empty() => return Ok(Request::Nothing),
            "/quit" | "/exit" => return Ok(Request::Quit),
            "/help" => eprint!("{HELP}"),
            "/reset" => self.conversation.reset(),
            "/undo" => match self.conversation.undo() {
                Some(question) => eprintln!("smidgen: took back '{}'", printable(question.as_bytes(), 60)),
                None => eprintln!("smidgen: nothing to take back"),
            },
            "/retry" => {
                if let Some(question) = self.conversation.undo() {
                    self.conversation.ask(question);
                    return Ok(Request::Answer);
                }
                eprintln!("smidgen: nothing to answer again");
            }
            "/edit" => return Ok(Request::Edit),
            "/history" => {
                for message in self.conversation.messages() {
                    report::write(stdout, format!("{}: {}\n", message.role, message.content).as_bytes())?;
                }
            }
            "/save" => self.save(rest.trim()),
            _ if command.starts_with('/') => eprintln!("smidgen: no such command; /help lists them"),
            _ => {
                self.conversation.ask(line);
                return Ok(Request::Answer);
            }
        }
        Ok(Request::Nothing)
    }

    /// Writes the conversation as `smidgen.chat/1`, described in `docs/json.md`; a failure is told and nothing is lost.
    fn save(&self, path: &str) {
        #[derive(Serialize)]
        struct Report<'a> {
            schema: &'static str,
            messages: &'a [crate::template::Message],
        }
        if path.is_empty() {
            eprintln!("smidgen: /save needs the name of a file");
            return;
        }
        let report = Report { schema: "smidgen.chat/1", messages: self.conversation.messages() };
        let path = Path::new(path);
        let written = smidgen_host::atomic::write(path, |file| {
            report::json(file, &report).map_err(|failure| smidgen_host::Error::failed(path, failure))
        });
        match written {
            Ok(()) => eprintln!("smidgen: wrote {}", path.display()),
            Err(error) => eprintln!("smidgen: {error}"),
        }
    }

    /// Answers the last message. What the engine already holds of the conversation is not computed again.
    fn answer(&mut self, session: &mut Session<'_>, stdout: &mut dyn Write) -> Result<(), Failure> {
        // What answered the last message is not needed to read this one.
        smidgen_host::pages::release_program();
        let text = self.template.render(self.conversation.messages())?;
        let options = Encode { add_special: false, parse_special: true };
        let ids = prompt::encode(session.tokenizer, &text, options).map_err(|error| session.refused(error))?;
        let context_tokens = session.settings.limits.context_tokens;
        if ids.is_empty() || ids.len() > context_tokens {
            return Err(Failure::Input(format!(
                "the conversation has {} tokens and the context {context_tokens}; /undo or /reset, or begin with a larger -c",
                ids.len(),
            )));
        }
        // At least one token must pass through the model to say what comes next.
        let held = self.tokens.iter().zip(&ids).take_while(|(held, id)| held == id).count();
        let held = held.min(session.engine.position()).min(ids.len() - 1);
        session.engine.truncate(held);
        self.tokens.clear();
        self.tokens.extend_from_slice(&ids);

        // What makes a conversation tokens is not needed to answer it.
        smidgen_host::pages::release_program();
        let guard = self.interrupt.guard();
        let prompted = self.generator.prompt(session, &self.tokens, None, &guard)?;
        let mut said = Vec::new();
        let mut emit = |piece: &[u8]| {
            said.extend_from_slice(piece);
            report::write(stdout, piece)
        };
        let outcome = self.generator.run(session, &mut self.tokens, prompted.first, &guard, &mut emit)?;
        drop(guard);
        report::write(stdout, b"\n")?;
        match outcome.ending {
            Ending::Context => eprintln!("smidgen: the context of {context_tokens} tokens is full; /undo or /reset"),
            Ending::Interrupted => eprintln!("smidgen: stopped"),
            Ending::EndOfText | Ending::Length | Ending::Stop => {}
        }
        self.conversation.answer(String::from_utf8_lossy(&said).into_owned());
        Ok(())
    }
}

/// The lines that the user types: edited and remembered on a terminal, plain otherwise.
enum Lines {
    Terminal(Box<rustyline::DefaultEditor>),
    Plain(std::io::StdinLock<'static>),
}

impl Lines {
    fn new() -> Result<Self, Failure> {
        if !std::io::stdin().is_terminal() {
            return Ok(Lines::Plain(std::io::stdin().lock()));
        }
        let editor = rustyline::DefaultEditor::new().map_err(|error| unreadable(&error))?;
        eprintln!("smidgen: /help lists the commands");
        Ok(Lines::Terminal(Box::new(editor)))
    }

    /// The next line, which begins as `draft` when there is an editor; `None` at the end.
    fn next(&mut self, draft: &str) -> Result<Option<String>, Failure> {
        match self {
            Lines::Plain(stdin) => {
                let mut line = String::new();
                let n_bytes = stdin.read_line(&mut line).map_err(|error| unreadable(&error))?;
                Ok((n_bytes > 0).then(|| line.trim().to_owned()))
            }
            Lines::Terminal(editor) => loop {
                match editor.readline_with_initial("> ", (draft, "")) {
                    Ok(line) => {
                        editor.add_history_entry(&line).map_err(|error| unreadable(&error))?;
                        return Ok(Some(line.trim().to_owned()));
                    }
                    Err(ReadlineError::Eof) => return Ok(None),
                    Err(ReadlineError::Interrupted) => eprintln!("smidgen: /quit or Ctrl-D ends the chat"),
                    Err(error) => return Err(unreadable(&error)),
                }
            },
        }
    }
}

fn unreadable(error: &dyn std::error::Error) -> Failure {
    Failure::Input(format!("standard input: {error}"))
}
