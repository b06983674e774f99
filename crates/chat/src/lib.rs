//! Messages to prompt text.
//!
//! This room knows chat templates: a model file's own Jinja template, or a built-in one where the file has none. It
//! refuses to know tokens, models and clocks; whoever calls it decides which template is used and says so.
//!
//! ```
//! use hublabio_chat::{ChatTemplate, Message};
//!
//! let source = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}";
//! let template = ChatTemplate::new(source, "<s>", "</s>")?;
//! assert_eq!(template.render(&[Message::new("user", "Hello")], true)?, "<user>Hello</s>");
//! # Ok::<(), hublabio_chat::Error>(())
//! ```
//!
//! Where to go next: [`ChatTemplate`] in `template.rs`; the built-in templates are in `builtin.rs`.
#![forbid(unsafe_code)]

mod builtin;
pub mod constraint;
mod error;
mod filters;
mod template;

pub use builtin::{BUILTINS, Builtin};
pub use error::{Error, Place};
pub use template::ChatTemplate;

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, or what else the model's template knows.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A message.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}
