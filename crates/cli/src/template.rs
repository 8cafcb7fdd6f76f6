//! Chat templates: Jinja with the functions and Python methods that templates on the Hugging Face Hub rely on.

use crate::failure::Failure;
use crate::load::Session;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, ErrorKind, context};
use serde::Serialize;
use std::path::Path;

/// Steps that a template may take; the longest known template takes a few thousand for each message.
const FUEL: u64 = 50_000_000;
/// The name under which errors mention the template.
const NAME: &str = "chat template";

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Message {
    /// Who speaks: `system`, `user` or `assistant`.
    pub role: &'static str,
    /// What is said.
    pub content: String,
}

/// A template that has been read and found in order.
#[derive(Debug)]
pub struct Template {
    environment: Environment<'static>,
    bos: String,
    eos: String,
}

impl Template {
    /// Reads the template `source`; `bos` and `eos` are the texts of those tokens, empty when the model has none.
    ///
    /// # Errors
    /// Where it is not a template.
    pub fn new(source: &str, bos: String, eos: String) -> Result<Self, Failure> {
        let mut environment = Environment::new();
        let mut syntax = SyntaxConfig::builder();
        syntax.trim_blocks(true).lstrip_blocks(true);
        environment.set_syntax(syntax.build().map_err(|error| refused(&error))?);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", to_json);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_template_owned(NAME, without_generation_tags(source)).map_err(|error| refused(&error))?;
        Ok(Self { environment, bos, eos })
    }

    /// The template in the file at `path`, or that of the model of `session`.
    ///
    /// # Errors
    /// A model without one, a file that cannot be read, or what is not a template.
    pub fn of_model(path: Option<&Path>, session: &Session<'_>) -> Result<Self, Failure> {
        let source = match path {
            Some(path) => std::fs::read_to_string(path).map_err(|error| Failure::reading(path, &error))?,
            None => {
                let stored = session.gguf.get("tokenizer.chat_template").and_then(|value| value.as_str());
                let missing =
                    "the model has no chat template (tokenizer.chat_template); give --chat-template-file, or use run";
                String::from_utf8_lossy(stored.ok_or_else(|| session.refused(missing))?).into_owned()
            }
        };
        let piece = |id: Option<u32>| {
            let piece = id.and_then(|id| session.tokenizer.piece(id)).unwrap_or_default();
            String::from_utf8_lossy(piece).into_owned()
        };
        Self::new(&source, piece(session.tokenizer.bos()), piece(session.tokenizer.eos()))
    }

    /// The text of `messages` as the model was trained to read it, ready for its answer.
    ///
    /// # Errors
    /// What the template refuses, such as roles in an order that it does not know.
    pub fn render(&self, messages: &[Message]) -> Result<String, Failure> {
        let template = self.environment.get_template(NAME).map_err(|error| refused(&error))?;
        let message = |message: &Message| {
            Value::from_pairs([("role", Value::from(message.role)), ("content", Value::from(&message.content))])
        };
        let variables = context! {
            messages => messages.iter().map(message).collect::<Value>(),
            bos_token => &self.bos,
            eos_token => &self.eos,
            add_generation_prompt => true,
            tools => (),
            documents => (),
        };
        template.render(variables).map_err(|error| refused(&error))
    }
}

fn refused(error: &minijinja::Error) -> Failure {
    let line = error.line().map(|line| format!(" line {line}")).unwrap_or_default();
    let what = match error.detail() {
        Some(detail) => detail.replace('\n', " "),
        None => error.kind().to_string(),
    };
    Failure::Input(format!("{NAME}{line}: {what}"))
}

/// The source without `{% generation %}` blocks, by which trainers mark the answers and which print what is in them.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(len) = rest[start..].find("%}") else { break };
        let tag = &rest[start..start + len + 2];
        out.push_str(&rest[..start]);
        match tag[2..tag.len() - 2].trim_matches(['-', '+']).trim() {
            "generation" => out.push_str(&tag.replace("generation", "if true")),
            "endgeneration" => out.push_str(&tag.replace("endgeneration", "endif")),
            _ => out.push_str(tag),
        }
        rest = &rest[start + len + 2..];
    }
    out.push_str(rest);
    out
}

fn raise_exception(message: String) -> Result<Value, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
}

/// The local time in the form `format` of C's `strftime`.
fn strftime_now(format: &str) -> Result<String, minijinja::Error> {
    jiff::fmt::strtime::format(format, &jiff::Zoned::now())
        .map_err(|error| minijinja::Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {error}")))
}

/// JSON as Python's `json.dumps(value, ensure_ascii=False, indent=indent)` writes it, with nothing escaped for HTML.
fn to_json(value: Value, options: Kwargs) -> Result<Value, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    let unreadable = |error: serde_json::Error| minijinja::Error::new(ErrorKind::BadSerialization, error.to_string());
    let mut out = Vec::new();
    match indent {
        Some(n) => {
            let indent = " ".repeat(n.min(64));
            let form = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, form)).map_err(unreadable)?;
        }
        None => {
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, Spaced)).map_err(unreadable)?;
        }
    }
    let text = String::from_utf8(out)
        .map_err(|error| minijinja::Error::new(ErrorKind::BadSerialization, error.to_string()))?;
    Ok(Value::from_safe_string(text))
}

/// One line with a space after each comma and colon, as Python writes it.
struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W) -> std::io::Result<()> {
        out.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(role: &'static str, content: &str) -> Message {
        Message { role, content: content.to_owned() }
    }

    fn render(source: &str, messages: &[Message]) -> Result<String, Failure> {
        Template::new(source, "<s>".into(), "</s>".into())?.render(messages)
    }

    #[test]
    fn chatml_as_qwen_and_smollm_have_it() {
        let source = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
            {{ '<|im_start|>system\nYou are helpful<|im_end|>\n' }}{% endif %}\
            {{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}\
            {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
        let text = render(source, &[message("user", "Hi")]).unwrap();
        let expected =
            "<|im_start|>system\nYou are helpful<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn python_methods_namespaces_and_slices_work() {
        let source = "{%- set ns = namespace(system='') -%}\
            {%- if messages[0].role == 'system' %}{% set ns.system = messages[0]['content'].strip() %}\
            {% set messages = messages[1:] %}{% endif -%}\
            {{ bos_token }}{% for m in messages %}[{{ ns.system.upper() }}|{{ m.content.split('</think>')[-1].lstrip('\n') }}]\
            {% if not loop.last %}{% continue %}{% endif %}{{ eos_token }}{% endfor %}";
        let text = render(source, &[message("system", " be kind "), message("user", "a</think>\nb")]).unwrap();
        assert_eq!(text, "<s>[BE KIND|b]</s>");
    }

    #[test]
    fn tojson_writes_what_python_writes() {
        let text = render("{{ messages | tojson }}", &[message("user", "<é> & \"q\"")]).unwrap();
        assert_eq!(text, r#"[{"role": "user", "content": "<é> & \"q\""}]"#);
        let text = render("{{ {'a': [1, 2]} | tojson(indent=2) }}", &[]).unwrap();
        assert_eq!(text, "{\n  \"a\": [\n    1,\n    2\n  ]\n}");
    }

    #[test]
    fn what_a_template_refuses_is_one_line() {
        let failure = render("\n{{ raise_exception('Roles must\nalternate') }}", &[]).unwrap_err();
        assert_eq!((failure.to_string().as_str(), failure.code()), ("chat template line 2: Roles must alternate", 2));
        assert!(render("{% for %}", &[]).unwrap_err().to_string().starts_with("chat template line 1: "));
    }

    #[test]
    fn a_template_that_never_ends_is_stopped() {
        let source = "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}";
        assert_eq!(render(source, &[]).unwrap_err().code(), 2);
    }

    #[test]
    fn the_date_has_the_form_asked_for() {
        let text = render("{{ strftime_now('%d %b %Y') }}", &[]).unwrap();
        assert_eq!(text.split(' ').map(str::len).collect::<Vec<_>>(), [2, 3, 4]);
    }

    #[test]
    fn generation_blocks_print_what_is_in_them() {
        let text = render("a{%- generation -%} b {%- endgeneration %}c", &[]).unwrap();
        assert_eq!(text, "abc");
    }
}
