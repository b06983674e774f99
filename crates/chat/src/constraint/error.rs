//! Why a constraint is refused, or an answer under one broken off.

use std::fmt::Write as _;

/// A keyword (or a format, or a reference) of a JSON Schema that cannot be honoured, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsupportedKeyword {
    /// As it is written: `uniqueItems`, `format: "regex"`, `$ref: "https://…"`.
    pub keyword: String,
    /// JSON pointer to the schema that holds it, `#` for the root.
    pub path: String,
}

impl std::fmt::Display for UnsupportedKeyword {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` at {}", self.keyword, self.path)
    }
}

/// What is wrong with a constraint, or with a token under it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConstraintError {
    /// This program was built without the feature.
    #[error("this build has no constraints: build it with `--features constraints`")]
    NotBuilt,
    /// The vocabulary cannot be used under constraints.
    #[error("this model's vocabulary cannot be constrained: {problem}")]
    Vocabulary {
        /// What is wrong with it.
        problem: String,
    },
    /// The schema is no JSON.
    #[error("the JSON schema is no JSON: {problem}")]
    NotJson {
        /// What the parser says, with line and column.
        problem: String,
    },
    /// The schema uses what cannot be enforced token by token.
    #[error("the JSON schema cannot be honoured: {}: remove what is named, or check the answer afterwards", list(.keywords))]
    UnsupportedKeywords {
        /// All that was found.
        keywords: Vec<UnsupportedKeyword>,
    },
    /// No JSON value obeys the schema.
    #[error("the JSON schema cannot be satisfied by any value: {problem}")]
    Unsatisfiable {
        /// What contradicts what.
        problem: String,
    },
    /// The schema, expression or grammar is wrong, or is refused for another reason.
    #[error("the {kind} cannot be used: {problem}")]
    Invalid {
        /// Which kind of constraint: `JSON schema`, `regular expression`, `Lark grammar`.
        kind: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A GBNF grammar is wrong.
    #[error("GBNF grammar, line {line}, column {column}: {problem}")]
    Gbnf {
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// What is wrong there.
        problem: String,
    },
    /// A limit that keeps hostile input from taking memory or time without end.
    #[error("the {kind} is too large: {what} exceeds {max}: simplify it")]
    TooLarge {
        /// Which kind of constraint.
        kind: &'static str,
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        max: usize,
    },
    /// The work for one token exceeds its limit, or no token fits any more.
    #[error("the constraint cannot be followed any further: {problem}")]
    Step {
        /// Why.
        problem: String,
    },
    /// A token that the mask did not allow.
    #[error("token {token} is not allowed by the constraint at this point")]
    NotAllowed {
        /// The token.
        token: u32,
    },
}

fn list(keywords: &[UnsupportedKeyword]) -> String {
    const SHOWN: usize = 8;
    let mut text = keywords.iter().take(SHOWN).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if keywords.len() > SHOWN {
        let _ = write!(text, ", and {} more", keywords.len() - SHOWN);
    }
    text
}
