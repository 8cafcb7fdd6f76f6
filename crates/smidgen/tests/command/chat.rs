//! `chat` over a pipe: one line in, one answer out.

use crate::smidgen::{smidgen, smidgen_reading};
use std::path::{Path, PathBuf};

const TEMPLATE: &str = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}\
    {% if add_generation_prompt %}assistant:{% endif %}";

struct Files {
    directory: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        let files = Self { directory: tempfile::tempdir().unwrap() };
        std::fs::write(files.path("template.jinja"), TEMPLATE).unwrap();
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The answers to `lines`.
    fn chat(&self, flags: &[&str], lines: &str) -> (String, String) {
        let template = self.path("template.jinja");
        let fixed =
            ["chat", "--chat-template-file", template.to_str().unwrap(), "--temp", "0", "-n", "8", "--stop", "\n"];
        let ran = smidgen_reading(&[&fixed, flags].concat(), lines.as_bytes());
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
        (ran.stdout, ran.stderr)
    }
}

#[test]
fn every_line_is_answered_until_there_are_no_more() {
    let (stdout, _) = Files::new().chat(&[], "Tell me a story.\n\nAnd another one.\n");
    assert_eq!(stdout.lines().count(), 2, "{stdout}");
    let (stdout, _) = Files::new().chat(&[], "Tell me a story.\n/quit\nAnd another one.\n");
    assert_eq!(stdout.lines().count(), 1, "{stdout}");
}

#[test]
fn an_answer_asked_for_again_is_the_same_one() {
    let (stdout, _) =
        Files::new().chat(&[], "Tell me a story.\nWhere was the dog?\n/retry\n/undo\nWhere was the dog?\n");
    let answers: Vec<&str> = stdout.lines().collect();
    assert_eq!(answers.len(), 4, "{stdout}");
    assert_eq!((answers[1], answers[1]), (answers[2], answers[3]), "{stdout}");
}

#[test]
fn what_the_engine_still_holds_changes_no_answer() {
    let files = Files::new();
    let (both, _) = files.chat(&[], "The dog ran.\n/reset\nThe cat sat.\n");
    let (second, _) = files.chat(&[], "The cat sat.\n");
    assert_eq!(both.lines().nth(1), second.lines().next());
}

#[test]
fn a_conversation_can_be_shown_and_saved() {
    let files = Files::new();
    let saved = files.path("chat.json");
    let lines = format!("Hello.\n/history\n/save {}\n/save\n/nonsense\n/help\n", saved.display());
    let (stdout, stderr) = files.chat(&["--system-prompt", "Be kind."], &lines);
    let answer = stdout.lines().next().unwrap();
    assert!(stdout.contains(&format!("system: Be kind.\nuser: Hello.\nassistant: {answer}")), "{stdout}");
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(&saved).unwrap()).unwrap();
    assert_eq!(report["schema"], "smidgen.chat/1");
    assert_eq!(report["messages"][2]["content"].as_str().unwrap(), answer);
    for said in ["/save needs", "no such command", "/undo"] {
        assert!(stderr.contains(said), "{said}: {stderr}");
    }
}

#[test]
fn a_conversation_that_outgrows_the_context_goes_on_after_undo() {
    let long = "word ".repeat(60);
    let (stdout, stderr) = Files::new().chat(&["-c", "48"], &format!("Hello.\n{long}\n/undo\nHi.\n"));
    assert!(stderr.contains("and the context 48"), "{stderr}");
    assert_eq!(stdout.lines().count(), 2, "{stdout}");
}

#[test]
fn a_model_without_a_template_is_refused() {
    let ran = smidgen(&["chat"]);
    assert_eq!(ran.status, Some(2));
    assert!(ran.stderr.contains("tokenizer.chat_template"), "{}", ran.stderr);
    let files = Files::new();
    std::fs::write(files.path("broken.jinja"), "{% for %}").unwrap();
    let broken = files.path("broken.jinja");
    let ran = smidgen(&["chat", "--chat-template-file", Path::new(&broken).to_str().unwrap()]);
    assert_eq!(ran.status, Some(2));
    assert!(ran.stderr.contains("chat template line 1"), "{}", ran.stderr);
}
