//! The bodies of OpenAI's API: what of them is read, and what is answered.
//!
//! <https://platform.openai.com/docs/api-reference>. Fields that would change the answer and that nobody here could honour are refused;
//! others are ignored, as clients send many.

use super::{Ask, Choice};
use crate::generate::Ending;
use crate::template::Message;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Why a request is not taken: the field, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bad {
    /// The field; empty for the body as a whole.
    pub param: &'static str,
    /// What is wrong with it.
    pub message: String,
}

fn bad<T>(param: &'static str, message: impl Into<String>) -> Result<T, Bad> {
    Err(Bad { param, message: message.into() })
}

/// Which of the two ways to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `/v1/completions`
    Completion,
    /// `/v1/chat/completions`
    Chat,
}

/// A request that was understood.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// What is to be continued.
    pub ask: Ask,
    /// How tokens are chosen.
    pub choice: Choice,
    /// New tokens at most.
    pub limit: Option<u64>,
    /// Texts before which the answer ends.
    pub stop: Vec<String>,
    /// Whether pieces are sent as they come.
    pub stream: bool,
    /// Whether the last of them says how many tokens there were.
    pub include_usage: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Prompt {
    Text(String),
    Ids(Vec<u32>),
    Texts(Vec<String>),
}

#[derive(Deserialize)]
struct Said {
    role: String,
    content: Option<Content>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize)]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
}

#[derive(Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

/// Both bodies: a completion has `prompt`, a chat has `messages`.
#[derive(Deserialize)]
struct Body {
    prompt: Option<Prompt>,
    messages: Option<Vec<Said>>,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
    temperature: Option<f32>,
    top_k: Option<usize>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    repeat_penalty: Option<f32>,
    presence_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    seed: Option<i64>,
    stop: Option<OneOrMany>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    n: Option<u32>,
    #[serde(flatten)]
    others: serde_json::Map<String, Value>,
}

/// Fields that would change the answer, and that are refused unless they are absent, null, false, zero or empty.
const NOT_THERE: [&str; 9] =
    ["logprobs", "top_logprobs", "tools", "functions", "logit_bias", "best_of", "suffix", "echo", "audio"];

impl Request {
    /// Reads the body of a request.
    ///
    /// # Errors
    /// JSON that is not in order, or a field that cannot be honoured.
    pub fn read(kind: Kind, body: &[u8]) -> Result<Self, Bad> {
        let body: Body =
            serde_json::from_slice(body).map_err(|error| Bad { param: "", message: format!("the body: {error}") })?;
        let is_asked = |value: &&Value| {
            let is_nothing = value.is_null() || **value == json!(false) || **value == json!(0) || **value == json!("");
            !is_nothing && value.as_array().is_none_or(|array| !array.is_empty())
        };
        if let Some(name) = NOT_THERE.into_iter().find(|&name| body.others.get(name).filter(is_asked).is_some()) {
            return bad(name, "is not supported");
        }
        let format = body.others.get("response_format").and_then(|format| format.get("type")).and_then(Value::as_str);
        if format.is_some_and(|format| format != "text") {
            return bad("response_format", "only text is supported");
        }
        if body.n.is_some_and(|n| n != 1) {
            return bad("n", "only one answer at a time is supported");
        }
        for (param, value, most) in [
            ("temperature", body.temperature, f32::MAX),
            ("top_p", body.top_p, 1.0),
            ("min_p", body.min_p, 1.0),
            ("repeat_penalty", body.repeat_penalty.filter(|factor| *factor != 0.0), f32::MAX),
        ] {
            if value.is_some_and(|value| !(0.0..=most).contains(&value)) {
                return bad(param, "is out of range");
            }
        }
        let stop = match body.stop {
            None => Vec::new(),
            Some(OneOrMany::One(text)) => vec![text],
            Some(OneOrMany::Many(texts)) => texts,
        };
        Ok(Request {
            ask: match kind {
                Kind::Completion => completion(body.prompt)?,
                Kind::Chat => chat(body.messages)?,
            },
            choice: Choice {
                temperature: body.temperature,
                top_k: body.top_k,
                top_p: body.top_p,
                min_p: body.min_p,
                repeat_penalty: body.repeat_penalty,
                presence_penalty: body.presence_penalty,
                frequency_penalty: body.frequency_penalty,
                seed: body.seed.and_then(|seed| u64::try_from(seed).ok()),
            },
            limit: body.max_completion_tokens.or(body.max_tokens),
            stop: stop.into_iter().filter(|text| !text.is_empty()).collect(),
            stream: body.stream.unwrap_or(false),
            include_usage: body.stream_options.is_some_and(|options| options.include_usage),
        })
    }
}

fn completion(prompt: Option<Prompt>) -> Result<Ask, Bad> {
    match prompt {
        None => bad("prompt", "is missing"),
        Some(Prompt::Text(text)) => Ok(Ask::Text(text)),
        Some(Prompt::Ids(ids)) => Ok(Ask::Ids(ids)),
        Some(Prompt::Texts(mut texts)) if texts.len() == 1 => Ok(Ask::Text(texts.remove(0))),
        Some(Prompt::Texts(_)) => bad("prompt", "only one prompt at a time is supported"),
    }
}

fn chat(messages: Option<Vec<Said>>) -> Result<Ask, Bad> {
    let Some(messages) = messages else { return bad("messages", "is missing") };
    let message = |said: Said| {
        let role = match said.role.as_str() {
            "system" | "developer" => "system",
            "user" => "user",
            "assistant" => "assistant",
            other => return bad("messages", format!("the role {other:?} is not supported")),
        };
        let content = match said.content {
            None => String::new(),
            Some(Content::Text(text)) => text,
            Some(Content::Parts(parts)) => match parts.iter().find(|part| part.kind != "text") {
                Some(part) => return bad("messages", format!("content of type {:?} is not supported", part.kind)),
                None => parts.into_iter().filter_map(|part| part.text).collect(),
            },
        };
        Ok(Message { role, content })
    };
    messages.into_iter().map(message).collect::<Result<_, _>>().map(Ask::Chat)
}

/// How many tokens a request took.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Usage {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
}

impl Usage {
    /// Of a prompt of `n_prompt` tokens and `n_new` new ones.
    pub fn new(n_prompt: usize, n_new: usize) -> Self {
        Self { prompt_tokens: n_prompt, completion_tokens: n_new, total_tokens: n_prompt + n_new }
    }
}

/// The names that all parts of one answer bear.
#[derive(Clone, Debug)]
pub struct Head {
    /// The way it was asked for.
    pub kind: Kind,
    /// A name that no other answer of this server has.
    pub id: String,
    /// Seconds since 1970.
    pub created: u64,
    /// The model's name.
    pub model: String,
}

impl Head {
    /// The answer as a whole.
    pub fn whole(&self, text: &str, ending: Ending, usage: Usage) -> Value {
        let reason = reason(ending);
        let (object, choice) = match self.kind {
            Kind::Completion => {
                ("text_completion", json!({"index": 0, "text": text, "logprobs": null, "finish_reason": reason}))
            }
            Kind::Chat => (
                "chat.completion",
                json!({"index": 0, "message": {"role": "assistant", "content": text}, "logprobs": null, "finish_reason": reason}),
            ),
        };
        json!({"id": self.id, "object": object, "created": self.created, "model": self.model, "choices": [choice], "usage": usage})
    }

    /// One piece of an answer that is streamed: text, the end, or neither at the beginning of a chat.
    pub fn piece(&self, text: Option<&str>, ending: Option<Ending>) -> Value {
        let reason = ending.map(reason);
        let choice = match (self.kind, text) {
            (Kind::Completion, text) => {
                json!({"index": 0, "text": text.unwrap_or_default(), "logprobs": null, "finish_reason": reason})
            }
            (Kind::Chat, Some(text)) => json!({"index": 0, "delta": {"content": text}, "finish_reason": reason}),
            (Kind::Chat, None) if ending.is_none() => {
                json!({"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": null})
            }
            (Kind::Chat, None) => json!({"index": 0, "delta": {}, "finish_reason": reason}),
        };
        self.chunk(&[choice], None)
    }

    /// The piece after the last, which says how many tokens there were.
    pub fn usage(&self, usage: Usage) -> Value {
        self.chunk(&[], Some(usage))
    }

    fn chunk(&self, choices: &[Value], usage: Option<Usage>) -> Value {
        let object = if self.kind == Kind::Chat { "chat.completion.chunk" } else { "text_completion" };
        let mut chunk =
            json!({"id": self.id, "object": object, "created": self.created, "model": self.model, "choices": choices});
        if let Some(usage) = usage {
            chunk["usage"] = json!(usage);
        }
        chunk
    }
}

/// Why a text ended, in the API's words.
fn reason(ending: Ending) -> &'static str {
    match ending {
        Ending::EndOfText | Ending::Stop => "stop",
        Ending::Length | Ending::Context | Ending::Interrupted => "length",
    }
}

/// What is wrong, in the API's form.
pub fn error(kind: &str, param: &str, message: &str) -> Value {
    let param = if param.is_empty() { Value::Null } else { json!(param) };
    json!({"error": {"message": message, "type": kind, "param": param, "code": null}})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(kind: Kind, body: &str) -> Result<Request, Bad> {
        Request::read(kind, body.as_bytes())
    }

    #[test]
    fn what_clients_send_is_understood() {
        let request = read(
            Kind::Chat,
            r#"{"model": "m", "messages": [{"role": "developer", "content": "be kind"},
               {"role": "user", "content": [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]}],
               "temperature": 0, "seed": 7, "stop": "\n", "max_completion_tokens": 5, "stream": true,
               "stream_options": {"include_usage": true}, "tools": [], "logprobs": false, "user": "me"}"#,
        )
        .unwrap();
        let said = |role, content: &str| Message { role, content: content.to_owned() };
        assert_eq!(request.ask, Ask::Chat(vec![said("system", "be kind"), said("user", "hello")]));
        assert_eq!((request.choice.temperature, request.choice.seed, request.limit), (Some(0.0), Some(7), Some(5)));
        assert_eq!((request.stop, request.stream, request.include_usage), (vec!["\n".to_owned()], true, true));
        for (body, ask) in [
            (r#"{"prompt": "a"}"#, Ask::Text("a".to_owned())),
            (r#"{"prompt": ["a"], "stop": ["x", ""]}"#, Ask::Text("a".to_owned())),
            (r#"{"prompt": [1, 2]}"#, Ask::Ids(vec![1, 2])),
        ] {
            assert_eq!(read(Kind::Completion, body).unwrap().ask, ask, "{body}");
        }
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_name() {
        for (kind, body, param) in [
            (Kind::Completion, "{", ""),
            (Kind::Completion, "{}", "prompt"),
            (Kind::Completion, r#"{"prompt": ["a", "b"]}"#, "prompt"),
            (Kind::Completion, r#"{"prompt": "a", "n": 2}"#, "n"),
            (Kind::Completion, r#"{"prompt": "a", "logprobs": 3}"#, "logprobs"),
            (Kind::Completion, r#"{"prompt": "a", "top_p": 1.5}"#, "top_p"),
            (Kind::Completion, r#"{"prompt": "a", "temperature": -1}"#, "temperature"),
            (Kind::Chat, "{}", "messages"),
            (Kind::Chat, r#"{"messages": [{"role": "tool", "content": "x"}]}"#, "messages"),
            (Kind::Chat, r#"{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}"#, "messages"),
            (Kind::Chat, r#"{"messages": [], "tools": [{}]}"#, "tools"),
            (Kind::Chat, r#"{"messages": [], "response_format": {"type": "json_object"}}"#, "response_format"),
        ] {
            assert_eq!(read(kind, body).map_err(|bad| bad.param), Err(param), "{body}");
        }
    }
}
