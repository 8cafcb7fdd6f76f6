//! `smidgen serve`: a model behind OpenAI's HTTP API.

use crate::args::{CONNECTIONS, EngineArgs, ModelArgs, SamplingArgs};
use crate::budget::{self, Work};
use crate::failure::{Failure, Status};
use crate::interrupt::Interrupt;
use crate::load::{self, Session};
use crate::sampling;
use crate::serve::http::{self, Shared};
use crate::serve::{Job, Server};
use crate::source::Source;
use crate::template::Template;
use clap::Args;
use smidgen_core::sample::Candidate;
use std::io::Write;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::sync_channel;
use std::time::Instant;

#[derive(Args, Debug)]
pub(super) struct Flags {
    #[command(flatten)]
    model: ModelArgs,

    /// Address to listen at
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: String,

    /// Port to listen at; 0 takes a free one
    #[arg(long, value_name = "N", default_value_t = 8080)]
    port: u16,

    /// Key that clients must send (Authorization: Bearer KEY)
    #[arg(long, value_name = "KEY", env = "SMIDGEN_API_KEY", hide_env_values = true)]
    api_key: Option<String>,

    /// Connections at a time; others wait
    #[arg(long, value_name = "N", default_value_t = CONNECTIONS as u16, value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,

    /// Name of the model for clients [default: the file's]
    #[arg(long, value_name = "NAME")]
    alias: Option<String>,

    /// File with the Jinja template to use in place of the model's own
    #[arg(long, value_name = "FILE")]
    chat_template_file: Option<PathBuf>,

    #[command(flatten)]
    sampling: SamplingArgs,

    #[command(flatten)]
    engine: EngineArgs,
}

pub(super) fn run(flags: &Flags, _stdout: &mut dyn Write) -> Result<Status, Failure> {
    let began = Instant::now();
    let widest = flags.sampling.widest();
    let engine = EngineArgs { work: Work::Serve, connections: flags.connections.into(), ..flags.engine.clone() };
    let source = Source::open_to_run(&flags.model, &engine, &widest)?;
    load::with_session(&source, &engine, &widest, began, |session| serve(flags, session))
}

fn serve(flags: &Flags, session: &mut Session<'_>) -> Result<Status, Failure> {
    let context_tokens = session.settings.limits.context_tokens;
    let template = match Template::of_model(flags.chat_template_file.as_deref(), session) {
        Ok(template) => Some(template),
        // Completions need none.
        Err(_) if flags.chat_template_file.is_none() => None,
        Err(failure) => return Err(failure),
    };
    let at = (flags.host.as_str(), flags.port);
    let cannot = |error: std::io::Error| Failure::Failed(format!("cannot listen at {}:{}: {error}", at.0, at.1));
    let listener = TcpListener::bind(at).map_err(cannot)?;
    let address = listener.local_addr().map_err(cannot)?;
    let (jobs, asked) = sync_channel::<Job>(usize::from(flags.connections));
    let shared = Shared {
        jobs,
        model: flags.alias.clone().unwrap_or_else(|| session.name.to_owned()),
        key: flags.api_key.clone(),
        n_connections: flags.connections.into(),
        body_bytes: budget::body_bytes(context_tokens),
        count: AtomicUsize::new(0),
    };
    let mut server = Server {
        params: sampling::params(&flags.sampling, session.gguf, context_tokens),
        template,
        candidates: vec![Candidate::default(); session.model.hparams().n_vocab],
        held: Vec::with_capacity(context_tokens + 1),
    };
    let interrupt = Interrupt::watch()?;
    let guard = interrupt.guard();
    // Its only way out is an error at the beginning; then it drops where jobs come from, and the loop below ends.
    let live = move || http::serve(listener, Arc::new(shared)).map_err(|error| eprintln!("smidgen: {error}"));
    std::thread::Builder::new().name("http".to_owned()).spawn(live).map_err(cannot)?;
    eprintln!(
        "smidgen: serving {} at http://{address} with a context of {context_tokens} tokens; planned {}; Ctrl-C ends",
        session.name,
        crate::report::bytes(session.budget.total()),
    );
    smidgen_host::pages::release_program();
    server.run(session, &asked, &guard)?;
    Ok(Status::Done)
}
