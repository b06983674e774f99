//! What can go wrong between messages and prompt.

/// Why a template could not be read, or not render a conversation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The template is longer than any real one.
    #[error("the chat template has {bytes} bytes, at most {max} are supported: it is no chat template")]
    SourceTooLong {
        /// Length of the source in bytes.
        bytes: usize,
        /// The most that is supported.
        max: usize,
    },
    /// The template is not valid Jinja.
    #[error("the chat template is not valid at {place}: {reason}")]
    Syntax {
        /// Where.
        place: Place,
        /// What the parser expected.
        reason: String,
    },
    /// The template itself refuses the conversation (`raise_exception`).
    #[error("the chat template refuses this conversation ({place}): {message}")]
    Refused {
        /// Where the template said so.
        place: Place,
        /// The template's own words.
        message: String,
    },
    /// Rendering failed: an undefined value, an unknown function, a wrong type.
    #[error("the chat template fails at {place}: {reason}")]
    Render {
        /// Where.
        place: Place,
        /// What happened.
        reason: String,
    },
    /// Rendering took more work than any real template needs.
    #[error("the chat template does not come to an end (stopped at {place}): it loops or is damaged")]
    Endless {
        /// Where it was stopped.
        place: Place,
    },
    /// A message or a tool definition has the wrong form.
    #[error("{place}: {problem}")]
    Message {
        /// Which one, as a path into the list.
        place: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A variable for the template has a name that the conversation itself needs.
    #[error("the template variable `{name}` cannot be set: it is what the conversation itself fills in")]
    ReservedVariable {
        /// Its name.
        name: String,
    },
    /// The template takes no tools, but the conversation has some.
    #[error(
        "the chat template knows no tools: the model was not trained to call any; give a template that does (--template), or leave the tools out"
    )]
    NoTools,
    /// The prompt would be longer than the limit.
    #[error("the rendered prompt is longer than {max} bytes: the chat template repeats the conversation")]
    OutputTooLong {
        /// The limit for this conversation.
        max: usize,
    },
}

/// A position in a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Line, from 1; 0 when the engine could not tell.
    pub line: usize,
    /// Column in characters, from 1; 0 when the engine could not tell.
    pub column: usize,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.line, self.column) {
            (0, _) => f.write_str("an unknown line"),
            (line, 0) => write!(f, "line {line}"),
            (line, column) => write!(f, "line {line}, column {column}"),
        }
    }
}
