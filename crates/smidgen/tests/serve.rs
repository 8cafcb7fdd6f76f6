//! `smidgen serve` as its clients see it.
#![cfg(unix)]

mod given;

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

const TALES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tales.gguf");
const PROMPT: &str = "Once upon a time";

/// A server that is ended with Ctrl-C when this is dropped.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(binary: &str, flags: &[&str]) -> Self {
        let mut command = Command::new(binary);
        command.args(["serve", TALES, "--port", "0", "--temp", "0"]).args(flags);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.split("http://").nth(1).and_then(|rest| rest.split(' ').next());
        let address = address.unwrap_or_else(|| panic!("{line}")).to_owned();
        Self { child, address }
    }

    fn connect(&self) -> TcpStream {
        TcpStream::connect(&self.address).unwrap()
    }

    /// The status and the body of the answer to a request.
    fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
        let mut stream = self.connect();
        let n_bytes = body.len();
        // A body that is too long may be refused before all of it was sent.
        let _ =
            write!(stream, "{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {n_bytes}\r\n{headers}\r\n{body}");
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
        let body = if head.contains("chunked") { unchunked(body) } else { body.to_owned() };
        (status.unwrap_or_else(|| panic!("{head}")), body)
    }

    fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let (status, body) = self.ask("POST", path, "", &body.to_string());
        (status, serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}")))
    }

    fn end(&mut self) -> Option<i32> {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
        self.child.wait().unwrap().code()
    }

    /// The most that the process has held at once, as the system counts it.
    fn peak_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_ascii_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The text of a body that came in chunks.
fn unchunked(mut body: &str) -> String {
    let mut text = String::new();
    while let Some((length, rest)) = body.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        text += &rest[..length];
        body = rest[length..].trim_start_matches("\r\n");
    }
    text
}

/// The values of a stream of events, which ends as the API says.
fn events(body: &str) -> Vec<Value> {
    let mut events: Vec<&str> =
        body.split_terminator("\n\n").map(|event| event.strip_prefix("data: ").unwrap()).collect();
    assert_eq!(events.pop(), Some("[DONE]"), "{body}");
    events.iter().map(|event| serde_json::from_str(event).unwrap()).collect()
}

fn start(flags: &[&str]) -> Server {
    Server::start(env!("CARGO_BIN_EXE_smidgen"), flags)
}

/// What `smidgen run` makes of the prompt.
fn told(n: &str) -> String {
    let run = ["run", TALES, "-p", PROMPT, "-n", n, "--temp", "0", "-c", "128", "--json"];
    let output = Command::new(env!("CARGO_BIN_EXE_smidgen")).args(run).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    report["continuation"].as_str().unwrap().to_owned()
}

#[test]
fn a_completion_is_the_text_of_run_whole_or_in_pieces() {
    let mut server = start(&["-c", "128", "--alias", "tales"]);
    assert_eq!(server.ask("GET", "/health", "", ""), (200, json!({"status": "ok"}).to_string()));
    let (_, models) = server.ask("GET", "/v1/models", "", "");
    assert!(models.contains(r#""id":"tales""#), "{models}");
    let want = told("30");
    let mut body = json!({"prompt": PROMPT, "max_tokens": 30});
    // The second time the engine holds the prompt already.
    for _ in 0..2 {
        let (status, answer) = server.post("/v1/completions", &body);
        assert_eq!((status, answer["choices"][0]["text"].as_str()), (200, Some(&*want)));
        assert_eq!(answer["choices"][0]["finish_reason"], "length");
        assert_eq!(answer["usage"], json!({"prompt_tokens": 5, "completion_tokens": 30, "total_tokens": 35}));
    }
    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    let (status, stream) = server.ask("POST", "/v1/completions", "", &body.to_string());
    let mut pieces = events(&stream);
    assert_eq!((status, &pieces.pop().unwrap()["usage"]["total_tokens"]), (200, &json!(35)));
    assert_eq!(pieces.last().unwrap()["choices"][0]["finish_reason"], "length");
    let text: String = pieces.iter().map(|piece| piece["choices"][0]["text"].as_str().unwrap()).collect();
    assert_eq!(text, want);
    let (_, stopped) = server.post("/v1/completions", &json!({"prompt": PROMPT, "stop": [" girl"]}));
    assert_eq!(stopped["choices"][0]["text"].as_str(), want.split(" girl").next());
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
    assert_eq!(server.end(), Some(0));
}

#[test]
fn a_chat_goes_through_the_template() {
    let directory = tempfile::tempdir().unwrap();
    let template = directory.path().join("template.jinja");
    std::fs::write(&template, "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}").unwrap();
    let server = start(&["-c", "128", "--chat-template-file", template.to_str().unwrap()]);
    let mut body = json!({"messages": [{"role": "user", "content": PROMPT}], "max_completion_tokens": 20});
    let (status, answer) = server.post("/v1/chat/completions", &body);
    let message = &answer["choices"][0]["message"];
    assert_eq!((status, message["role"].as_str()), (200, Some("assistant")));
    body["stream"] = json!(true);
    let (_, stream) = server.ask("POST", "/v1/chat/completions", "", &body.to_string());
    let pieces = events(&stream);
    assert_eq!(pieces[0]["choices"][0]["delta"]["role"], "assistant");
    let deltas = pieces.iter().filter_map(|piece| piece["choices"][0]["delta"]["content"].as_str());
    assert_eq!(Some(&*deltas.collect::<String>()), message["content"].as_str());
}

#[test]
fn what_cannot_be_answered_is_refused_and_the_server_goes_on() {
    let server = start(&["-c", "64", "--api-key", "secret"]);
    let key = "Authorization: Bearer secret\r\n";
    let post = |headers: &str, body: &str| server.ask("POST", "/v1/completions", headers, body);
    let long = json!({"prompt": "a ".repeat(300)}).to_string();
    for (got, status, what) in [
        (post("", "{}"), 401, "key"),
        (post("Authorization: Bearer secreu\r\n", "{}"), 401, "key"),
        (post(key, "{}"), 400, "prompt is missing"),
        (post(key, "nonsense"), 400, "the body: "),
        (post(key, &long), 400, "and the context 64"),
        (post(key, r#"{"prompt": ""}"#), 200, "text_completion"),
        (post(key, r#"{"prompt": [99999]}"#), 400, "99999"),
        (post(key, &json!({"prompt": "a".repeat(60_000)}).to_string()), 413, "limit"),
        (server.ask("POST", "/v1/chat/completions", key, r#"{"messages": []}"#), 400, "chat template"),
        (server.ask("GET", "/v1/completions", key, ""), 405, "method"),
        (server.ask("GET", "/v2", key, ""), 404, "no such path"),
    ] {
        assert_eq!(got.0, status, "{what}: {}", got.1);
        assert!(got.1.contains(what), "{what}: {}", got.1);
    }
    // A client that goes away in the middle of an answer leaves the engine to others.
    let body = json!({"prompt": PROMPT, "stream": true}).to_string();
    for _ in 0..3 {
        let mut stream = server.connect();
        write!(stream, "POST /v1/completions HTTP/1.1\r\nHost: x\r\n{key}Content-Length: {}\r\n\r\n{body}", body.len())
            .unwrap();
        stream.read_exact(&mut [0; 40]).unwrap();
    }
    assert_eq!(post(key, r#"{"prompt": "The", "max_tokens": 3}"#).0, 200);
}

#[test]
fn more_clients_than_connections_are_all_answered() {
    let server = start(&["-c", "128", "--connections", "2"]);
    let want = told("20");
    std::thread::scope(|scope| {
        let ask = || server.post("/v1/completions", &json!({"prompt": PROMPT, "max_tokens": 20}));
        let clients: Vec<_> = (0..7).map(|_| scope.spawn(ask)).collect();
        for client in clients {
            let (status, answer) = client.join().unwrap();
            assert_eq!((status, answer["choices"][0]["text"].as_str()), (200, Some(&*want)));
        }
    });
}

/// With as many requests at once as there may be, each as long as it may be, and weights read in parts.
#[test]
fn the_limit_of_memory_is_kept() {
    let Some(binary) = given::static_build() else { return };
    let want = told("20");
    for ram in ["5200K", "8M"] {
        let server = Server::start(&binary, &["-c", "128", "--ram", ram]);
        std::thread::scope(|scope| {
            for i in 0..8 {
                let (server, want) = (&server, &want);
                scope.spawn(move || {
                    let mut body = json!({"prompt": PROMPT, "max_tokens": 20, "temperature": 0});
                    if i % 2 == 0 {
                        body["user"] = json!("x".repeat(9_000));
                    }
                    let (status, answer) = server.post("/v1/completions", &body);
                    assert_eq!((status, answer["choices"][0]["text"].as_str()), (200, Some(&**want)));
                });
            }
        });
        let limit = if ram == "8M" { 8 << 20 } else { 5200 << 10 };
        println!("{ram}: peak {}", server.peak_bytes());
        assert!(server.peak_bytes() <= limit, "{ram}: {}", server.peak_bytes());
    }
    let refused = Command::new(&binary).args(["serve", TALES, "--port", "0", "--ram", "2M"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(3), "{}", String::from_utf8_lossy(&refused.stderr));
}

#[test]
fn curl_and_the_openai_client_talk_to_it() {
    let server = start(&["-c", "128"]);
    let url = format!("http://{}/v1", server.address);
    let body = json!({"prompt": PROMPT, "max_tokens": 8}).to_string();
    match Command::new("curl").args(["-s", &format!("{url}/completions"), "-d", &body]).output() {
        Ok(output) => assert!(String::from_utf8_lossy(&output.stdout).contains("little girl"), "{output:?}"),
        Err(_) => println!("skipped: curl, there is none"),
    }
    let python = std::env::var("SMIDGEN_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let has_client =
        Command::new(&python).args(["-c", "import openai"]).output().is_ok_and(|output| output.status.success());
    if !has_client {
        println!("skipped: OpenAI's client, SMIDGEN_PYTHON has no openai");
        return;
    }
    let script = "import sys, openai\n\
        client = openai.OpenAI(base_url=sys.argv[1], api_key='none')\n\
        ask = dict(model=client.models.list().data[0].id, prompt=sys.argv[2], max_tokens=30)\n\
        whole = client.completions.create(**ask).choices[0].text\n\
        pieces = ''.join(piece.choices[0].text for piece in client.completions.create(stream=True, **ask))\n\
        assert whole == pieces, (whole, pieces)\n\
        try:\n    client.completions.create(**ask, n=2)\n    raise SystemExit('n=2 was taken')\n\
        except openai.BadRequestError as error:\n    assert error.param == 'n', error\n\
        print(whole, end='')\n";
    let output = Command::new(&python).args(["-c", script, &url, PROMPT]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout), told("30"));
}
