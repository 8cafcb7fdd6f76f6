//! A conversation: who said what, and what of it can be taken back.

use crate::template::Message;

/// The messages so far, the system's first when there is one.
#[derive(Clone, Debug, Default)]
pub struct Conversation {
    messages: Vec<Message>,
}

impl Conversation {
    /// A conversation that begins with what the system says, if it says anything.
    pub fn new(system: Option<&str>) -> Self {
        let message = |content: &str| Message { role: "system", content: content.to_owned() };
        Self { messages: system.map(message).into_iter().collect() }
    }

    /// Every message in order.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// The user says something.
    pub fn ask(&mut self, content: String) {
        self.messages.push(Message { role: "user", content });
    }

    /// The model answers.
    pub fn answer(&mut self, content: String) {
        self.messages.push(Message { role: "assistant", content });
    }

    /// Takes back the last question and what was answered to it; returns the question.
    pub fn undo(&mut self) -> Option<String> {
        let at = self.messages.iter().rposition(|message| message.role == "user")?;
        let question = self.messages.drain(at..).next()?;
        Some(question.content)
    }

    /// Begins again, with only what the system said.
    pub fn reset(&mut self) {
        self.messages.retain(|message| message.role == "system");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn undo_takes_back_a_question_and_its_answer() {
        let mut conversation = Conversation::new(Some("be kind"));
        conversation.ask("one".into());
        conversation.answer("1".into());
        conversation.ask("two".into());
        assert_eq!(conversation.undo().as_deref(), Some("two"));
        assert_eq!(conversation.undo().as_deref(), Some("one"));
        assert_eq!(conversation.undo(), None);
        assert_eq!(conversation.messages().len(), 1);
    }

    #[test]
    fn reset_keeps_what_the_system_said() {
        let mut conversation = Conversation::new(Some("be kind"));
        conversation.ask("one".into());
        conversation.reset();
        assert_eq!(conversation.messages(), [Message { role: "system", content: "be kind".into() }]);
    }
}
