//! Requests to the Hub: what it lists, what a file is, and its bytes from any offset.

use std::time::Duration;

use serde::Deserialize;
use ureq::http::{HeaderMap, Response, StatusCode, Uri};
use ureq::{Agent, Body};

use super::Settings;
use super::cache::{REVISION, is_commit};
use super::name::{Name, is_safe};
use crate::error::Error;

const CONNECT_SECONDS: u64 = 20;
const ANSWER_SECONDS: u64 = 60;
/// After this long a download is cut and goes on with a new connection, so that one that stands still ends.
const BODY_SECONDS: u64 = 600;
const MOST_REDIRECTS: usize = 8;
/// A list of files is not larger.
const LISTING_LIMIT_BYTES: u64 = 16 << 20;

/// The Hub, as one user sees it.
pub(super) struct Client {
    agent: Agent,
    name: String,
    endpoint: String,
    token: Option<String>,
}

/// What a repository has.
pub(super) struct Listing {
    pub(super) commit: String,
    pub(super) files: Vec<String>,
}

/// What the Hub says about a file before it is downloaded.
pub(super) struct FileInfo {
    /// The checksum: SHA-256 of a large file, git's SHA-1 of a small one.
    pub(super) etag: String,
    /// Its size, when it is said.
    pub(super) n_bytes: Option<u64>,
}

/// The rest of a file.
pub(super) struct Rest {
    pub(super) body: Body,
    /// Where in the file the body begins.
    pub(super) start: u64,
}

/// A request that failed, and whether it may succeed when it is made again.
pub(super) struct Failure {
    pub(super) error: Error,
    pub(super) is_passing: bool,
}

impl Client {
    /// A client for the model `name`.
    pub(super) fn new(name: &str, settings: &Settings) -> Result<Self, Error> {
        let endpoint = settings.endpoint.trim_end_matches('/').to_string();
        let odd = || Error::bad(&settings.endpoint, "is not an address for HF_ENDPOINT, as https://huggingface.co is");
        let uri: Uri = endpoint.parse().map_err(|_| odd())?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(odd());
        }
        let mut config = Agent::config_builder()
            .user_agent(concat!("smidgen/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(Duration::from_secs(CONNECT_SECONDS)))
            .timeout_recv_response(Some(Duration::from_secs(ANSWER_SECONDS)))
            .timeout_recv_body(Some(Duration::from_secs(BODY_SECONDS)));
        if matches!(uri.host(), Some("localhost" | "127.0.0.1" | "[::1]")) {
            // A proxy would look for the server on its own machine.
            config = config.proxy(None);
        }
        let agent = config.build().new_agent();
        Ok(Client { agent, name: name.to_string(), endpoint, token: settings.token.clone() })
    }

    fn failed(&self, message: impl std::fmt::Display) -> Error {
        Error::failed(&self.name, message)
    }

    /// The files of a repository at the head of its branch.
    pub(super) fn listing(&self, name: &Name) -> Result<Listing, Error> {
        #[derive(Deserialize)]
        struct Sibling {
            rfilename: String,
        }
        #[derive(Deserialize)]
        struct Answer {
            sha: String,
            #[serde(default)]
            siblings: Vec<Sibling>,
        }
        let url = format!("{}/api/models/{}/{}/revision/{REVISION}", self.endpoint, name.owner, name.repository);
        let answer = super::download::with_patience(|| {
            let mut response = self.follow("GET", &url, None)?.1;
            let bytes = response.body_mut().with_config().limit(LISTING_LIMIT_BYTES).read_to_vec();
            bytes.map_err(|error| self.passing(format!("the list of files was cut: {error}")))
        })?;
        let answer: Answer = serde_json::from_slice(&answer)
            .map_err(|error| self.failed(format!("{url} did not answer with a list of files: {error}")))?;
        if !is_commit(&answer.sha) {
            return Err(self.failed(format!("{url} answered with a commit that is none")));
        }
        let files = answer.siblings.into_iter().map(|sibling| sibling.rfilename).filter(|file| is_safe(file)).collect();
        Ok(Listing { commit: answer.sha, files })
    }

    /// What `file` of `commit` is.
    pub(super) fn info(&self, name: &Name, commit: &str, file: &str) -> Result<FileInfo, Failure> {
        let (own, last) = self.follow("HEAD", &self.url(name, commit, file), None)?;
        let header = |headers: &HeaderMap, key: &str| headers.get(key)?.to_str().ok().map(str::to_string);
        // The Hub itself says which content it redirects to; what stands behind has checksums of its own.
        let etag = header(&own, "x-linked-etag").or_else(|| header(&own, "etag"));
        let etag = etag.unwrap_or_default();
        let etag = etag.trim_start_matches("W/").trim_matches('"').to_string();
        if !matches!(etag.len(), 40 | 64) || !etag.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            let error = self.failed(format!("{file}: the server gave no checksum for it (ETag '{etag}')"));
            return Err(Failure { error, is_passing: false });
        }
        let size = header(&own, "x-linked-size").or_else(|| header(last.headers(), "content-length"));
        Ok(FileInfo { etag: etag.to_ascii_lowercase(), n_bytes: size.and_then(|size| size.parse().ok()) })
    }

    /// The bytes of `file` from offset `start` on, or from its beginning when the server cannot do that.
    pub(super) fn rest(&self, name: &Name, commit: &str, file: &str, start: u64) -> Result<Rest, Failure> {
        let (_, response) = self.follow("GET", &self.url(name, commit, file), Some(start))?;
        let start = if response.status() == StatusCode::PARTIAL_CONTENT {
            let range = response.headers().get("content-range").and_then(|value| value.to_str().ok());
            let from = range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse().ok());
            from.filter(|&from| from == start)
                .ok_or_else(|| self.passing(format!("{file}: the server sent another part")))?
        } else {
            0
        };
        Ok(Rest { body: response.into_body(), start })
    }

    fn url(&self, name: &Name, commit: &str, file: &str) -> String {
        format!("{}/{}/{}/resolve/{commit}/{}", self.endpoint, name.owner, name.repository, escaped(file))
    }

    pub(super) fn passing(&self, message: impl std::fmt::Display) -> Failure {
        Failure { error: self.failed(message), is_passing: true }
    }

    /// Makes a request and follows where it leads; the headers of the Hub's own last answer, and the last answer of all.
    ///
    /// The token goes to the Hub itself only: a redirect to another host (or port, or scheme) is followed without it.
    fn follow(&self, method: &str, url: &str, start: Option<u64>) -> Result<(HeaderMap, Response<Body>), Failure> {
        let mut url = url.to_string();
        let mut own_headers = HeaderMap::new();
        for _ in 0..MOST_REDIRECTS {
            let response = self.request(method, &url, start)?;
            if origin(&url) == origin(&self.endpoint) {
                own_headers = response.headers().clone();
            }
            let location = response.headers().get("location").and_then(|value| value.to_str().ok());
            match location.filter(|_| response.status().is_redirection()) {
                Some(location) => url = self.resolve(&url, location)?,
                None => {
                    self.check(&response, &url)?;
                    return Ok((own_headers, response));
                }
            }
        }
        Err(self.passing(format!("{url} redirects in circles")))
    }

    fn request(&self, method: &str, url: &str, start: Option<u64>) -> Result<Response<Body>, Failure> {
        let mut request = if method == "HEAD" { self.agent.head(url) } else { self.agent.get(url) };
        if let Some(token) = self.token.as_ref().filter(|_| origin(url) == origin(&self.endpoint)) {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if let Some(start) = start.filter(|&start| start > 0) {
            request = request.header("range", format!("bytes={start}-"));
        }
        request.call().map_err(|error| {
            self.passing(format!(
                "{}: {error}; HF_HUB_OFFLINE=1 uses what is in the cache",
                origin(url).unwrap_or_default()
            ))
        })
    }

    /// Turns an answer that is not a success into an error that says what to do.
    fn check(&self, response: &Response<Body>, url: &str) -> Result<(), Failure> {
        let status = response.status();
        let bad = |message: &str| Failure { error: Error::bad(&self.name, message), is_passing: false };
        match status.as_u16() {
            200..=299 => Ok(()),
            401 | 403 if self.token.is_none() => {
                Err(bad("does not exist, or is private or gated; set HF_TOKEN to a token that may read it"))
            }
            401 | 403 => Err(bad("the token may not read this; is it right, and are the model's terms accepted?")),
            404 => Err(bad("does not exist on the server")),
            408 | 416 | 429 | 500..=599 => {
                Err(self.passing(format!("{} answered {status}", origin(url).unwrap_or_default())))
            }
            _ => Err(Failure {
                error: self.failed(format!("{} answered {status}", origin(url).unwrap_or_default())),
                is_passing: false,
            }),
        }
    }

    /// The address that `location` means on a page at `url`.
    fn resolve(&self, url: &str, location: &str) -> Result<String, Failure> {
        let base = origin(url).unwrap_or_default();
        let next = if location.starts_with('/') && !location.starts_with("//") {
            format!("{base}{location}")
        } else {
            location.to_string()
        };
        let is_known = next.starts_with("https://") || (next.starts_with("http://") && base.starts_with("http://"));
        if !is_known || next.parse::<Uri>().is_err() {
            let error = self.failed(format!("{base} redirects to an address that is not followed"));
            return Err(Failure { error, is_passing: false });
        }
        Ok(next)
    }
}

/// Scheme, host and port of an address.
fn origin(url: &str) -> Option<String> {
    let uri: Uri = url.parse().ok()?;
    Some(format!("{}://{}", uri.scheme_str()?, uri.authority()?))
}

/// A path as an address has it.
fn escaped(path: &str) -> String {
    let mut escaped = String::with_capacity(path.len());
    for &byte in path.as_bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}
