//! The HTTP side: connections, paths and streams. It knows no model, only where jobs go.

use super::api::{self, Head, Kind, Request, Usage};
use super::{Event, Job};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// Bytes of a connection's buffer.
pub const BUFFER_BYTES: usize = 64 << 10;
/// A client that has not sent its request for so long is let go.
const PATIENCE: Duration = Duration::from_secs(30);

/// What every connection knows.
pub struct Shared {
    /// Where jobs go; there is room for one of each connection.
    pub jobs: SyncSender<Job>,
    /// The model's name.
    pub model: String,
    /// What clients must send as their key, if anything.
    pub key: Option<String>,
    /// Connections at a time.
    pub n_connections: usize,
    /// Bytes of a request's body at most.
    pub body_bytes: usize,
    /// Answers so far.
    pub count: AtomicUsize,
}

/// Serves connections until the process ends.
///
/// # Errors
/// When the system has nothing to wait for connections with.
pub fn serve(listener: TcpListener, shared: Arc<Shared>) -> io::Result<Infallible> {
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let free = Arc::new(Semaphore::new(shared.n_connections));
        let router = router(shared);
        loop {
            let Ok(permit) = Arc::clone(&free).acquire_owned().await else { return Err(io::ErrorKind::Other.into()) };
            let Ok((stream, _)) = listener.accept().await else {
                // Out of file descriptors, most likely; some come back when others end.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let service = TowerToHyperService::new(router.clone());
            tokio::spawn(async move {
                let mut http = http1::Builder::new();
                // A connection that is kept would keep its place from others.
                http.timer(TokioTimer::new())
                    .header_read_timeout(PATIENCE)
                    .max_buf_size(BUFFER_BYTES)
                    .keep_alive(false);
                // A client that goes away is no failure of ours.
                let _ = http.serve_connection(TokioIo::new(stream), service).await;
                drop(permit);
            });
        }
    })
}

fn router(shared: Arc<Shared>) -> Router {
    let limit = DefaultBodyLimit::max(shared.body_bytes);
    let ask = |kind: Kind| {
        post(move |state: State<Arc<Shared>>, headers: HeaderMap, body: Result<Bytes, BytesRejection>| {
            answer(kind, state.0, headers, body)
        })
    };
    Router::new()
        .route("/health", get(|| async { ok(&json!({"status": "ok"})) }))
        .route("/v1/models", get(models))
        .route("/v1/completions", ask(Kind::Completion))
        .route("/v1/chat/completions", ask(Kind::Chat))
        .fallback(|| async { refused(StatusCode::NOT_FOUND, "", "there is no such path") })
        .method_not_allowed_fallback(|| async { refused(StatusCode::METHOD_NOT_ALLOWED, "", "not with this method") })
        .layer(limit)
        .with_state(shared)
}

fn ok(value: &Value) -> Response {
    (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

fn refused(status: StatusCode, param: &str, message: &str) -> Response {
    let kind = if status.is_server_error() { "server_error" } else { "invalid_request_error" };
    let body = api::error(kind, param, message).to_string();
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// Whether the request bears the key; every byte is compared, so that the time says nothing about it.
fn is_allowed(shared: &Shared, headers: &HeaderMap) -> bool {
    let Some(key) = &shared.key else { return true };
    let given = headers.get(header::AUTHORIZATION).map_or(&b""[..], |value| value.as_bytes());
    let given = given.strip_prefix(b"Bearer ").unwrap_or_default();
    let differs = key.bytes().zip(given).fold(0, |differs, (a, b)| differs | (a ^ b));
    given.len() == key.len() && differs == 0
}

async fn models(shared: State<Arc<Shared>>, headers: HeaderMap) -> Response {
    if !is_allowed(&shared, &headers) {
        return refused(StatusCode::UNAUTHORIZED, "", "the key is missing or wrong");
    }
    let model = json!({"id": shared.model, "object": "model", "created": 0, "owned_by": "smidgen"});
    ok(&json!({"object": "list", "data": [model]}))
}

async fn answer(kind: Kind, shared: Arc<Shared>, headers: HeaderMap, body: Result<Bytes, BytesRejection>) -> Response {
    if !is_allowed(&shared, &headers) {
        return refused(StatusCode::UNAUTHORIZED, "", "the key is missing or wrong");
    }
    let request = match body {
        Ok(body) => Request::read(kind, &body),
        Err(rejection) => return refused(rejection.status(), "", &rejection.body_text()),
    };
    let request = match request {
        Ok(request) => request,
        Err(bad) => {
            let message = [bad.param, &bad.message].join(if bad.param.is_empty() { "" } else { " " });
            return refused(StatusCode::BAD_REQUEST, bad.param, &message);
        }
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let prefix = if kind == Kind::Chat { "chatcmpl" } else { "cmpl" };
    let id = format!("{prefix}-{:x}-{}", now.as_nanos(), shared.count.fetch_add(1, Ordering::Relaxed));
    let head = Head { kind, id, created: now.as_secs(), model: shared.model.clone() };
    let (reply, mut events) = unbounded_channel();
    let Request { ask, choice, limit, stop, stream, include_usage } = request;
    if shared.jobs.try_send(Job { ask, choice, limit, stop, reply }).is_err() {
        return refused(StatusCode::SERVICE_UNAVAILABLE, "", "the server is ending");
    }
    let n_prompt = match events.recv().await {
        Some(Event::Begun(n_prompt)) => n_prompt,
        Some(Event::Refused(is_theirs, message)) => return refused(blame(is_theirs), "", &message),
        _ => return refused(StatusCode::SERVICE_UNAVAILABLE, "", "the server is ending"),
    };
    match stream {
        true => streamed(Pieces { head, events, n_prompt, include_usage, next: Next::First }),
        false => whole(&head, &mut events, n_prompt).await,
    }
}

fn blame(is_theirs: bool) -> StatusCode {
    if is_theirs { StatusCode::BAD_REQUEST } else { StatusCode::INTERNAL_SERVER_ERROR }
}

async fn whole(head: &Head, events: &mut UnboundedReceiver<Event>, n_prompt: usize) -> Response {
    let mut text = String::new();
    loop {
        match events.recv().await {
            Some(Event::Text(piece)) => text += &piece,
            Some(Event::Ended(ending, n_new)) => return ok(&head.whole(&text, ending, Usage::new(n_prompt, n_new))),
            Some(Event::Refused(is_theirs, message)) => return refused(blame(is_theirs), "", &message),
            Some(Event::Begun(_)) => {}
            None => return refused(StatusCode::SERVICE_UNAVAILABLE, "", "the server is ending"),
        }
    }
}

/// What of a stream comes next.
enum Next {
    First,
    Text,
    Usage(usize),
    Done,
    Nothing,
}

/// An answer in pieces, as server-sent events.
struct Pieces {
    head: Head,
    events: UnboundedReceiver<Event>,
    n_prompt: usize,
    include_usage: bool,
    next: Next,
}

impl Pieces {
    /// The next event; `None` after the last.
    async fn next(&mut self) -> Option<String> {
        let (next, value) = match self.next {
            // A chat begins with who speaks.
            Next::First if self.head.kind == Kind::Chat => (Next::Text, self.head.piece(None, None)),
            Next::First | Next::Text => match self.events.recv().await? {
                Event::Text(piece) => (Next::Text, self.head.piece(Some(&piece), None)),
                Event::Ended(ending, n_new) => (self.after(n_new), self.head.piece(None, Some(ending))),
                Event::Refused(_, message) => (Next::Nothing, api::error("server_error", "", &message)),
                Event::Begun(_) => return None,
            },
            Next::Usage(n_new) => (Next::Done, self.head.usage(Usage::new(self.n_prompt, n_new))),
            Next::Done => {
                self.next = Next::Nothing;
                return Some("data: [DONE]\n\n".to_owned());
            }
            Next::Nothing => return None,
        };
        self.next = next;
        Some(format!("data: {value}\n\n"))
    }

    fn after(&self, n_new: usize) -> Next {
        if self.include_usage { Next::Usage(n_new) } else { Next::Done }
    }
}

fn streamed(pieces: Pieces) -> Response {
    let stream = futures_util::stream::unfold(pieces, |mut pieces| async move {
        let event = pieces.next().await?;
        Some((Ok::<_, Infallible>(event), pieces))
    });
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
    (headers, Body::from_stream(stream)).into_response()
}
