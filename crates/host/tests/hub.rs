//! The Hub, played by a server on loopback: what is asked of it, what it is told, and what the cache has afterwards.
#![cfg(feature = "hub")]

mod tiny;

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use sha1::Sha1;
use sha2::{Digest, Sha256};
use smidgen_host::hub::{Settings, fetch};
use smidgen_host::{Error, OpenOptions, Silent, open};
use tiny::{Directory, Model};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// One request as the server saw it.
#[derive(Clone, Debug)]
struct Request {
    method: String,
    path: String,
    headers: HashMap<String, String>,
}

/// What the server answers.
#[derive(Clone, Default)]
struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// Cut the connection after so many bytes of the body.
    cut: Option<usize>,
}

impl Reply {
    fn status(status: u16) -> Self {
        Reply { status, ..Reply::default() }
    }

    fn ok(body: impl Into<Vec<u8>>) -> Self {
        Reply { status: 200, body: body.into(), ..Reply::default() }
    }

    fn with(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((key, value.into()));
        self
    }
}

/// A server that answers as `answer` says and remembers what it was asked.
struct Server {
    address: String,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        // The thread ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                serve(stream, &answer, &log);
            }
        });
        Server { address, seen }
    }

    fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }

    /// The requests for the content of `file`.
    fn gets(&self, file: &str) -> Vec<Request> {
        self.seen().into_iter().filter(|request| request.method == "GET" && request.path.ends_with(file)).collect()
    }
}

fn serve(mut stream: TcpStream, answer: &impl Fn(&Request) -> Reply, log: &Mutex<Vec<Request>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    if reader.read_line(&mut line).unwrap_or(0) == 0 {
        return;
    }
    let mut words = line.split(' ').map(str::to_string);
    let (method, path) = (words.next().unwrap(), words.next().unwrap().replace("%20", " "));
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let Some((key, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(key.to_ascii_lowercase(), value.to_string());
    }
    let request = Request { method, path, headers };
    log.lock().unwrap().push(request.clone());
    let reply = answer(&request);
    let mut head =
        format!("HTTP/1.1 {} X\r\ncontent-length: {}\r\nconnection: close\r\n", reply.status, reply.body.len());
    reply.headers.iter().for_each(|(key, value)| head.push_str(&format!("{key}: {value}\r\n")));
    let _ = stream.write_all(format!("{head}\r\n").as_bytes());
    if request.method != "HEAD" {
        let _ = stream.write_all(&reply.body[..reply.cut.unwrap_or(reply.body.len())]);
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn git_sha1(bytes: &[u8]) -> String {
    let mut digest = Sha1::new();
    digest.update(format!("blob {}\0", bytes.len()));
    digest.update(bytes);
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A repository with `files`, each known by its SHA-256; ranges are answered.
fn repository(files: Vec<(&'static str, Vec<u8>)>) -> impl Fn(&Request) -> Reply {
    move |request| {
        if request.path == "/api/models/own/mod/revision/main" {
            let siblings: Vec<_> = files.iter().map(|(name, _)| serde_json::json!({"rfilename": name})).collect();
            return Reply::ok(serde_json::json!({"sha": COMMIT, "siblings": siblings}).to_string());
        }
        let prefix = format!("/own/mod/resolve/{COMMIT}/");
        let wanted = request.path.strip_prefix(&prefix);
        let Some((_, bytes)) = files.iter().find(|(name, _)| Some(*name) == wanted) else { return Reply::status(404) };
        part(request, bytes).with("etag", format!("\"{}\"", sha256(bytes)))
    }
}

/// The part of `bytes` that the request asks for.
fn part(request: &Request, bytes: &[u8]) -> Reply {
    let start =
        request.headers.get("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    match start {
        Some(start) if start < bytes.len() => {
            let range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
            Reply { status: 206, body: bytes[start..].to_vec(), ..Reply::default() }.with("content-range", range)
        }
        Some(_) => Reply::status(416),
        None => Reply::ok(bytes),
    }
}

fn settings(server: &Server, cache: &Directory) -> Settings {
    Settings {
        endpoint: server.address.clone(),
        cache: cache.path().to_path_buf(),
        token: Some("hf_secret".to_string()),
        offline: false,
    }
}

fn fetch_from(server: &Server, cache: &Directory, name: &str) -> Result<PathBuf, Error> {
    fetch(name, &settings(server, cache), &Silent)
}

/// Bytes without a pattern that would hide a wrong offset.
fn content(n: usize) -> Vec<u8> {
    (0..n).map(|index| (index * index / 7 + index) as u8).collect()
}

/// The blobs of the cache, whole and not.
fn blobs(cache: &Directory) -> Vec<String> {
    let directory = cache.path().join("models--own--mod/blobs");
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_file_comes_into_the_cache_that_other_tools_use_and_is_not_asked_for_again() {
    let bytes = content(100_000);
    // A space has to be written in another way in an address.
    let files = vec![("README.md", b"read".to_vec()), ("sub dir/m.gguf", bytes.clone())];
    let server = Server::start(repository(files));
    let cache = Directory::new();
    let path = fetch_from(&server, &cache, "hf:own/mod").unwrap();
    assert_eq!(path, cache.path().join(format!("models--own--mod/snapshots/{COMMIT}/sub dir/m.gguf")));
    assert!(fs::read(&path).unwrap() == bytes);
    assert_eq!(blobs(&cache), [sha256(&bytes)]);
    assert_eq!(fs::read_to_string(cache.join("models--own--mod/refs/main")).unwrap(), COMMIT);
    #[cfg(unix)]
    assert_eq!(fs::read_link(&path).unwrap(), PathBuf::from(format!("../../../blobs/{}", sha256(&bytes))));
    assert_eq!(server.gets("m.gguf").len(), 1);
    assert_eq!(fetch_from(&server, &cache, "hf:own/mod").unwrap(), path);
    assert_eq!(server.gets("m.gguf").len(), 1, "it was there");
    let offline = Settings { offline: true, endpoint: "http://127.0.0.1:9".into(), ..settings(&server, &cache) };
    assert_eq!(fetch("hf:own/mod", &offline, &Silent).unwrap(), path);
    let said = fetch("hf:own/other", &offline, &Silent).unwrap_err().to_string();
    assert!(said.contains("not in the cache"), "{said}");
}

#[test]
fn a_download_that_is_cut_goes_on_where_it_stopped() {
    let bytes = content(300_000);
    let count = AtomicUsize::new(0);
    let answer = repository(vec![("m.gguf", bytes.clone())]);
    let server = Server::start(move |request| {
        let mut reply = answer(request);
        let cuts = [Some(100_000), Some(50_000), None];
        if request.method == "GET" && request.path.ends_with("m.gguf") {
            reply.cut = cuts[count.fetch_add(1, Ordering::Relaxed).min(2)];
        }
        reply
    });
    let cache = Directory::new();
    let path = fetch_from(&server, &cache, "hf:own/mod/m.gguf").unwrap();
    assert!(fs::read(path).unwrap() == bytes);
    let ranges: Vec<Option<String>> =
        server.gets("m.gguf").iter().map(|get| get.headers.get("range").cloned()).collect();
    assert_eq!(ranges, [None, Some("bytes=100000-".to_string()), Some("bytes=150000-".to_string())]);
}

#[test]
fn what_an_earlier_process_left_is_used() {
    let bytes = content(5000);
    let server = Server::start(repository(vec![("m.gguf", bytes.clone())]));
    let cache = Directory::new();
    cache.write(&format!("models--own--mod/blobs/{}.incomplete", sha256(&bytes)), &bytes[..3000]);
    assert!(fs::read(fetch_from(&server, &cache, "hf:own/mod").unwrap()).unwrap() == bytes);
    assert_eq!(server.gets("m.gguf")[0].headers["range"], "bytes=3000-");
    // When everything was there, nothing is asked for; when too much was, it is downloaded anew.
    for left in [5000, 6000] {
        let cache = Directory::new();
        let mut incomplete = bytes.clone();
        incomplete.resize(left, 0);
        cache.write(&format!("models--own--mod/blobs/{}.incomplete", sha256(&bytes)), incomplete);
        let before = server.gets("m.gguf").len();
        assert!(fs::read(fetch_from(&server, &cache, "hf:own/mod").unwrap()).unwrap() == bytes);
        assert_eq!(server.gets("m.gguf").len() - before, usize::from(left > 5000));
    }
}

#[test]
fn a_server_without_ranges_sends_it_all_again() {
    let bytes = content(5000);
    let answer = repository(vec![("m.gguf", bytes.clone())]);
    let server = Server::start(move |request| {
        let mut whole = request.clone();
        whole.headers.remove("range");
        answer(&whole)
    });
    let cache = Directory::new();
    cache.write(&format!("models--own--mod/blobs/{}.incomplete", sha256(&bytes)), vec![9; 3000]);
    assert!(fs::read(fetch_from(&server, &cache, "hf:own/mod").unwrap()).unwrap() == bytes);
}

#[test]
fn nothing_enters_the_cache_with_a_wrong_checksum() {
    let bytes = content(5000);
    let mut others = bytes.clone();
    others[2500] ^= 1;
    for etag in [sha256(&others), git_sha1(&others)] {
        let answer = repository(vec![("m.gguf", bytes.clone())]);
        let server =
            Server::start(move |request| Reply { headers: vec![("etag", format!("\"{etag}\""))], ..answer(request) });
        let cache = Directory::new();
        let error = fetch_from(&server, &cache, "hf:own/mod").unwrap_err();
        assert!(error.to_string().contains("checksum"), "{error}");
        assert_eq!(error.exit_code(), 1);
        assert!(blobs(&cache).is_empty(), "neither the file nor a part of it stays");
    }
    let right = git_sha1(&bytes);
    let answer = repository(vec![("m.gguf", bytes.clone())]);
    let server =
        Server::start(move |request| Reply { headers: vec![("etag", format!("\"{right}\""))], ..answer(request) });
    let cache = Directory::new();
    assert!(fetch_from(&server, &cache, "hf:own/mod").is_ok(), "git's checksum is known too");
}

#[test]
fn a_file_without_a_checksum_is_refused() {
    let answer = repository(vec![("m.gguf", content(10))]);
    let server = Server::start(move |request| Reply { headers: vec![("etag", "\"abc\"".into())], ..answer(request) });
    let said = fetch_from(&server, &Directory::new(), "hf:own/mod").unwrap_err().to_string();
    assert!(said.contains("no checksum"), "{said}");
}

#[test]
fn the_token_goes_to_the_hub_and_to_nobody_else() {
    let bytes = content(5000);
    let body = bytes.clone();
    let elsewhere = Server::start(move |request| part(request, &body).with("etag", "\"another\""));
    let there = elsewhere.address.clone();
    let (etag, size) = (sha256(&bytes), bytes.len().to_string());
    let answer = repository(vec![("m.gguf", bytes.clone())]);
    let hub = Server::start(move |request| match request.path.as_str() {
        path if path.ends_with("m.gguf") => Reply::status(302)
            .with("location", format!("{there}/somewhere/m.gguf?signed=1"))
            .with("x-linked-etag", format!("\"{etag}\""))
            .with("x-linked-size", size.clone()),
        _ => answer(request),
    });
    let cache = Directory::new();
    let path = fetch_from(&hub, &cache, "hf:own/mod").unwrap();
    assert!(fs::read(path).unwrap() == bytes);
    assert!(!elsewhere.seen().is_empty());
    assert!(
        elsewhere.seen().iter().all(|request| !request.headers.contains_key("authorization")),
        "{:?}",
        elsewhere.seen()
    );
    assert!(hub.seen().iter().all(|request| request.headers["authorization"] == "Bearer hf_secret"));
}

#[test]
fn a_renamed_repository_is_followed_on_the_hub_itself() {
    let bytes = content(500);
    let answer = repository(vec![("m.gguf", bytes.clone())]);
    let hub = Server::start(move |request| match request.path.strip_prefix("/old/mod/") {
        Some(rest) => Reply::status(307).with("location", format!("/own/mod/{rest}")),
        None if request.path.starts_with("/api/models/old/") => {
            Reply::status(307).with("location", "/api/models/own/mod/revision/main")
        }
        None => answer(request),
    });
    assert!(fs::read(fetch_from(&hub, &Directory::new(), "hf:old/mod").unwrap()).unwrap() == bytes);
    assert!(hub.seen().iter().all(|request| request.headers.contains_key("authorization")));
}

#[test]
fn what_the_server_refuses_is_said_in_words() {
    for (status, has_token, says, code) in [
        (401, false, "set HF_TOKEN", 2),
        (403, true, "terms", 2),
        (404, true, "does not exist", 2),
        (418, true, "418", 1),
    ] {
        let server = Server::start(move |_| Reply::status(status));
        let cache = Directory::new();
        let mut settings = settings(&server, &cache);
        settings.token = settings.token.filter(|_| has_token);
        let error = fetch("hf:own/mod", &settings, &Silent).unwrap_err();
        assert!(error.to_string().contains(says), "{status}: {error}");
        assert_eq!(error.exit_code(), code, "{error}");
        assert_eq!(server.seen().len(), 1, "asking again would not help");
    }
}

#[test]
fn a_server_that_is_busy_is_asked_again() {
    let count = AtomicUsize::new(0);
    let answer = repository(vec![("m.gguf", content(10))]);
    let server = Server::start(move |request| match count.fetch_add(1, Ordering::Relaxed) % 2 {
        0 => Reply::status(503),
        _ => answer(request),
    });
    assert!(fetch_from(&server, &Directory::new(), "hf:own/mod").is_ok());
}

#[test]
fn answers_that_make_no_sense_are_refused() {
    let lists = [
        "not JSON".to_string(),
        "{}".to_string(),
        r#"{"sha": "../../evil", "siblings": []}"#.to_string(),
        format!(r#"{{"sha": "{COMMIT}", "siblings": [{{"rfilename": "../../evil.gguf"}}]}}"#),
    ];
    for list in lists {
        let server = Server::start(move |_| Reply::ok(list.clone()));
        let cache = Directory::new();
        assert!(fetch_from(&server, &cache, "hf:own/mod").is_err());
        assert!(blobs(&cache).is_empty());
    }
    let server = Server::start(|_| Reply::status(302).with("location", "file:///etc/passwd"));
    let said = fetch_from(&server, &Directory::new(), "hf:own/mod").unwrap_err().to_string();
    assert!(said.contains("not followed"), "{said}");
    let cache = Directory::new();
    let nobody = Settings { endpoint: "ftp://x".into(), ..settings(&server, &cache) };
    assert!(fetch("hf:own/mod", &nobody, &Silent).unwrap_err().to_string().contains("HF_ENDPOINT"));
}

#[test]
fn a_directory_with_shards_comes_whole_and_opens() {
    let model = Model::gated("LlamaForCausalLM", 3);
    let (one, other): (Vec<_>, Vec<_>) = model.tensors.iter().partition(|(name, _)| name.contains("layers.0"));
    let mut map = serde_json::Map::new();
    for (file, part) in [("model-1.safetensors", &one), ("model-2.safetensors", &other)] {
        part.iter().for_each(|(name, _)| drop(map.insert(name.to_string(), file.into())));
    }
    let files = vec![
        ("config.json", model.config.to_string().into_bytes()),
        ("tokenizer.json", model.tokenizer.to_string().into_bytes()),
        ("model.safetensors.index.json", serde_json::json!({"weight_map": map}).to_string().into_bytes()),
        ("model-1.safetensors", tiny::safetensors(one)),
        ("model-2.safetensors", tiny::safetensors(other)),
        ("pytorch_model.bin", b"not wanted".to_vec()),
    ];
    let server = Server::start(repository(files));
    let cache = Directory::new();
    let path = fetch_from(&server, &cache, "hf:own/mod").unwrap();
    assert!(server.gets("pytorch_model.bin").is_empty());
    let file = open(path.to_str().unwrap(), &OpenOptions::default()).unwrap();
    let gguf = smidgen_core::gguf::Gguf::parse(file.bytes(), file.bytes().len() as u64).unwrap();
    assert_eq!(gguf.n_tensors(), model.tensors.len());
    assert_eq!(gguf.get("general.name").unwrap().as_str(), Some(&b"mod"[..]), "not the name of the commit");
}

#[test]
fn two_at_once_download_a_file_once() {
    let bytes = content(200_000);
    let server = Server::start(repository(vec![("m.gguf", bytes.clone())]));
    let cache = Directory::new();
    std::thread::scope(|scope| {
        let fetchers: Vec<_> = (0..3).map(|_| scope.spawn(|| fetch_from(&server, &cache, "hf:own/mod"))).collect();
        for fetcher in fetchers {
            assert!(fs::read(fetcher.join().unwrap().unwrap()).unwrap() == bytes);
        }
    });
    assert_eq!(server.gets("m.gguf").len(), 1);
    assert_eq!(blobs(&cache), [sha256(&bytes)]);
}
