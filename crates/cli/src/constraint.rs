//! Text that must follow a JSON schema or a grammar (the cargo feature `constrain`).
//!
//! Without the feature the flags are not there and a constraint is a value that nobody can make.

#[cfg(not(feature = "constrain"))]
pub use absent::{Constraint, ConstraintArgs};
#[cfg(feature = "constrain")]
pub use present::{Constraint, ConstraintArgs};

#[cfg(not(feature = "constrain"))]
mod absent {
    use crate::failure::Failure;
    use crate::load::Session;
    use clap::Args;

    /// No flags.
    #[derive(Args, Clone, Debug, Default)]
    pub struct ConstraintArgs {}

    /// Nothing.
    #[derive(Debug)]
    pub enum Constraint {}

    #[allow(missing_docs)] // They are described where they do something.
    impl Constraint {
        pub fn new(_args: &ConstraintArgs, _session: &Session<'_>) -> Result<Option<Self>, Failure> {
            Ok(None)
        }

        pub fn restart(&mut self) -> Result<(), Failure> {
            match *self {}
        }

        pub fn mask(&mut self, _logits: &mut [f32]) -> Result<(), Failure> {
            match *self {}
        }

        pub fn accept(&mut self, _id: u32) -> Result<bool, Failure> {
            match *self {}
        }
    }
}

#[cfg(feature = "constrain")]
mod present {
    use crate::failure::Failure;
    use crate::load::Session;
    use clap::Args;
    use llguidance::api::TopLevelGrammar;
    use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
    use llguidance::{Matcher, ParserFactory};
    use serde_json::json;
    use smidgen_core::tokenizer::Tokenizer;
    use std::path::PathBuf;
    use std::sync::Arc;

    /// The flags that restrict the text.
    #[derive(Args, Clone, Debug, Default)]
    #[command(next_help_heading = "Constraint")]
    pub struct ConstraintArgs {
        /// Make the new text JSON that this schema allows
        #[arg(short = 'j', long, value_name = "SCHEMA", group = "constraint")]
        json_schema: Option<String>,

        /// The same, with the schema in a file
        #[arg(long, value_name = "FILE", group = "constraint")]
        json_schema_file: Option<PathBuf>,

        /// Make the new text one that the grammar in this file allows (llguidance's form of Lark)
        #[arg(long, value_name = "FILE", group = "constraint")]
        grammar_file: Option<PathBuf>,
    }

    impl ConstraintArgs {
        fn grammar(&self) -> Result<Option<TopLevelGrammar>, Failure> {
            let read = |path: &PathBuf| std::fs::read_to_string(path).map_err(|error| Failure::reading(path, &error));
            if let Some(path) = &self.grammar_file {
                return Ok(Some(TopLevelGrammar::from_lark(read(path)?)));
            }
            let schema = match (&self.json_schema, &self.json_schema_file) {
                (Some(text), _) => text.clone(),
                (None, Some(path)) => read(path)?,
                (None, None) => return Ok(None),
            };
            let mut schema: serde_json::Value = serde_json::from_str(&schema)
                .map_err(|error| Failure::Input(format!("the JSON schema is not JSON: {error}")))?;
            if let Some(object) = schema.as_object_mut() {
                // A small model that may write as much white space as it likes often writes nothing else.
                let spaces = json!({ "whitespace_flexible": false, "item_separator": ", ", "key_separator": ": " });
                object.entry("x-guidance").or_insert(spaces);
            }
            Ok(Some(TopLevelGrammar::from_json_schema(schema)))
        }
    }

    /// A grammar, and where in it the text stands.
    pub struct Constraint {
        matcher: Matcher,
    }

    impl Constraint {
        /// The constraint that the flags name, if they name one.
        ///
        /// # Errors
        /// A schema or grammar that is not in order, and a model without an end-of-text token.
        pub fn new(args: &ConstraintArgs, session: &Session<'_>) -> Result<Option<Self>, Failure> {
            let Some(grammar) = args.grammar()? else { return Ok(None) };
            let vocabulary = vocabulary(session.tokenizer)
                .ok_or_else(|| session.refused("a constraint needs an end-of-text token, and the model has none"))?;
            let mut factory = ParserFactory::new_simple(&vocabulary).map_err(refused)?;
            factory.quiet();
            let parser = factory.create_parser(grammar).map_err(refused)?;
            Ok(Some(Self { matcher: Matcher::new(Ok(parser)) }))
        }

        /// Goes back to where a text begins.
        ///
        /// # Errors
        /// None that is known; the library may report one.
        pub fn restart(&mut self) -> Result<(), Failure> {
            self.matcher.reset().map_err(refused)
        }

        /// Makes the logits of tokens that may not come next minus infinity.
        ///
        /// # Errors
        /// A grammar that takes too long.
        pub fn mask(&mut self, logits: &mut [f32]) -> Result<(), Failure> {
            let allowed = self.matcher.compute_mask_or_eos().map_err(refused)?;
            for (id, logit) in logits.iter_mut().enumerate() {
                if id >= allowed.len() || !allowed.get(id) {
                    *logit = f32::NEG_INFINITY;
                }
            }
            Ok(())
        }

        /// Takes note of the token that came; true when nothing may follow it.
        ///
        /// # Errors
        /// A token that was not allowed.
        pub fn accept(&mut self, id: u32) -> Result<bool, Failure> {
            self.matcher.consume_token(id).map_err(refused)?;
            Ok(self.matcher.is_stopped())
        }
    }

    fn refused(error: impl std::fmt::Display) -> Failure {
        Failure::Input(format!("constraint: {}", error.to_string().replace('\n', " ")))
    }

    /// The bytes of every token, as the library wants them: control tokens carry a mark by which no grammar matches them.
    fn vocabulary(tokenizer: &Tokenizer<'_>) -> Option<TokEnv> {
        let n_tokens = tokenizer.n_tokens() as u32;
        let word = |id: u32| {
            let mut bytes = Vec::new();
            tokenizer.bytes(id, |byte| bytes.push(byte));
            if bytes.is_empty() {
                bytes.push(TokTrie::SPECIAL_TOKEN_MARKER);
                bytes.extend_from_slice(tokenizer.piece(id).unwrap_or_default());
            }
            bytes
        };
        let words: Vec<Vec<u8>> = (0..n_tokens).map(word).collect();
        let mut info = TokRxInfo::new(n_tokens, tokenizer.eos()?);
        info.tok_bos = tokenizer.bos();
        Some(Arc::new(ApproximateTokEnv::new(TokTrie::from(&info, &words))))
    }
}
