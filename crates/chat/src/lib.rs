//! Messages to prompt text, and the text of an answer to content, reasoning and tool calls.
//!
//! This room knows chat templates (a model file's own Jinja template, or a built-in one where the file has none), the JSON
//! of messages and tools, and the ways in which families of models write tool calls. It refuses to know tokens, models and
//! clocks; whoever calls it decides which template is used and says so, and passes the time in.
//!
//! ```
//! use hublabio_chat::{ChatTemplate, Message, OutputParser, Tool, ToolFormat};
//!
//! let source = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}";
//! let template = ChatTemplate::new(source, "<s>", "</s>")?;
//! assert_eq!(template.render(&[Message::new("user", "Hello")], true)?, "<user>Hello</s>");
//!
//! let tools = Tool::list_from_json(&serde_json::json!([{ "name": "now" }]))?;
//! let answer = OutputParser::new(ToolFormat::Hermes, &tools)
//!     .parse("<think>A clock is needed.</think>One moment. <tool_call>{\"name\": \"now\"}</tool_call>");
//! assert_eq!(answer.reasoning.as_deref(), Some("A clock is needed."));
//! assert_eq!(answer.content, "One moment.");
//! assert_eq!(answer.tool_calls[0].name, "now");
//! # Ok::<(), hublabio_chat::Error>(())
//! ```
//!
//! Where to go next: [`ChatTemplate`] in `template.rs`; where Python's Jinja2 differs from the engine, `python.rs` and
//! `filters.rs`; the built-in templates, `builtin.rs`; [`OutputParser`] in `output/mod.rs`.
#![forbid(unsafe_code)]

mod builtin;
pub mod constraint;
mod error;
mod filters;
mod generation_blocks;
mod message;
mod output;
mod python;
mod template;
mod time;

pub use builtin::{BUILTINS, Builtin};
pub use error::{Error, Place};
pub use message::{Content, Message, Tool, ToolCall};
pub use output::{Answer, CallForm, Event, Malformed, OutputParser, ToolFormat};
pub use serde_json::Value as Json;
pub use template::{ChatTemplate, RenderOptions};
pub use time::Timestamp;
