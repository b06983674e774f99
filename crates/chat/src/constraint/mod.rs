//! Constraints: what an answer may look like, as a mask of allowed tokens before each one.
//!
//! This room knows JSON Schema, regular expressions and grammars, and the bytes of a model's tokens. It refuses to know
//! logits and sampling: it says which tokens are allowed, and is told which one was taken. The work is done by the crate
//! `llguidance` (a lexer of regular-expression derivatives under an Earley parser, walked over a trie of the
//! vocabulary); here are its limits, refusals by name, the converter from llama.cpp's GBNF, and the ends of answers.
//!
//! What cannot be honoured is refused by [`ConstraintCompiler::compile`], before the prompt is computed.
//!
//! ```
//! use hublabio_chat::constraint::{ConstraintConfig, ConstraintSource};
//!
//! let schema = ConstraintSource::json_schema(r#"{"type": "object", "properties": {"name": {"type": "string"}}}"#)?;
//! let after_thinking = ConstraintConfig { source: schema, after: Some("</think>".to_owned()) };
//! # let _ = after_thinking;
//! # Ok::<(), hublabio_chat::constraint::ConstraintError>(())
//! ```
//!
//! Where to go next: `compiler.rs` for masks, `schema.rs` for what is refused in a JSON Schema, `gbnf/mod.rs` for GBNF,
//! `tools.rs` for tool calls; `docs/CONSTRAINTS.md` is the user's page.

mod calls;
mod error;
mod gbnf;
mod schema;
mod tools;

#[cfg(feature = "constraints")]
mod compiler;

#[cfg(not(feature = "constraints"))]
mod absent;

#[cfg(not(feature = "constraints"))]
pub use absent::{Constraint, ConstraintCompiler};
pub use calls::CALLS_MAX;
#[cfg(feature = "constraints")]
pub use compiler::{Constraint, ConstraintCompiler};
pub use error::{ConstraintError, UnsupportedKeyword};
pub use tools::{ToolCallShape, ToolSchema};

use serde_json::{Value, json};

/// Longest text of a Lark grammar, an expression or a GBNF grammar.
const TEXT_BYTES_MAX: usize = 256 << 10;
/// Most alternatives of a choice; together they are no longer than [`TEXT_BYTES_MAX`].
const CHOICES_MAX: usize = 10_000;

/// The white space between the parts of a JSON answer: a blank or two, or a line end and its indentation. JSON has no
/// bound, but a small model that may write blanks writes nothing else.
const JSON_SPACE: &str = r"\x20{1,2}|\r?\n[\x20\t]{0,20}";

/// Options of `llguidance`, which it takes inside of a schema.
fn json_options() -> Value {
    json!({ "whitespace_pattern": JSON_SPACE })
}

/// What an answer must look like.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum ConstraintSource {
    /// JSON that obeys a schema (drafts 4 to 2020-12; `docs/CONSTRAINTS.md` lists the keywords).
    JsonSchema(Value),
    /// Any JSON object.
    JsonObject,
    /// Text that the whole of a regular expression matches (Rust's syntax, without look-around and back-references).
    Regex(String),
    /// A grammar in `llguidance`'s form of Lark; `start` is its first rule.
    Lark(String),
    /// A grammar in llama.cpp's GBNF; `root` is its first rule.
    Gbnf(String),
    /// One of these texts.
    Choice(Vec<String>),
}

impl ConstraintSource {
    /// A JSON Schema from its text.
    ///
    /// # Errors
    /// [`ConstraintError::NotJson`], with line and column.
    pub fn json_schema(text: &str) -> Result<Self, ConstraintError> {
        match serde_json::from_str(text) {
            Ok(schema) => Ok(Self::JsonSchema(schema)),
            Err(error) => Err(ConstraintError::NotJson { problem: error.to_string() }),
        }
    }

    /// Looks for what is wrong in any case, whatever the model's vocabulary: sizes, the syntax of GBNF (where any
    /// special token counts as known), schemas that no value obeys. In time and memory that the limits bound, and
    /// without the feature `constraints`; [`ConstraintCompiler::compile`] looks again, and for the rest.
    ///
    /// # Errors
    /// As [`ConstraintCompiler::compile`].
    pub fn check(&self) -> Result<(), ConstraintError> {
        match self {
            Self::JsonSchema(schema) => schema::prepare(schema).map(drop),
            Self::JsonObject => Ok(()),
            Self::Regex(text) | Self::Lark(text) => self.check_length(text),
            Self::Gbnf(text) => {
                self.check_length(text)?;
                gbnf::to_lark(text, |_| Some(0)).map(drop)
            }
            Self::Choice(choices) => self.check_choices(choices),
        }
    }

    fn check_length(&self, text: &str) -> Result<(), ConstraintError> {
        let kind = self.kind();
        if text.trim().is_empty() {
            return Err(ConstraintError::Invalid { kind, problem: "it is empty".to_owned() });
        }
        if text.len() > TEXT_BYTES_MAX {
            return Err(ConstraintError::TooLarge { kind, what: "its length in bytes", max: TEXT_BYTES_MAX });
        }
        Ok(())
    }

    fn check_choices(&self, choices: &[String]) -> Result<(), ConstraintError> {
        let kind = self.kind();
        if choices.is_empty() {
            return Err(ConstraintError::Invalid { kind, problem: "there is nothing to choose from".to_owned() });
        }
        if choices.len() > CHOICES_MAX {
            return Err(ConstraintError::TooLarge { kind, what: "the number of texts", max: CHOICES_MAX });
        }
        if choices.iter().map(String::len).sum::<usize>() > TEXT_BYTES_MAX {
            return Err(ConstraintError::TooLarge { kind, what: "their length in bytes", max: TEXT_BYTES_MAX });
        }
        Ok(())
    }

    /// What errors call it.
    fn kind(&self) -> &'static str {
        match self {
            Self::JsonSchema(_) | Self::JsonObject => "JSON schema",
            Self::Regex(_) => "regular expression",
            Self::Lark(_) => "Lark grammar",
            Self::Gbnf(_) => "GBNF grammar",
            Self::Choice(_) => "choice",
        }
    }
}

/// A constraint, and from where on it holds.
#[derive(Debug, Clone, PartialEq)]
pub struct ConstraintConfig {
    /// What the answer must look like.
    pub source: ConstraintSource,
    /// The answer is free until this text (such as `</think>`), and constrained after it; white space between the two
    /// is allowed. `None`: constrained from its first token on.
    pub after: Option<String>,
}

impl From<ConstraintSource> for ConstraintConfig {
    fn from(source: ConstraintSource) -> Self {
        Self { source, after: None }
    }
}

#[cfg(all(test, feature = "constraints"))]
mod tests;
