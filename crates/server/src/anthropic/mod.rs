//! Anthropic's dialect: `/v1/messages`, `/v1/messages/count_tokens`, and `/v1/models` for its clients.
//!
//! Fields fall in the three classes of `docs/API_ANTHROPIC.md`: honoured; inert by nature; and all others, which are refused by
//! name. `read.rs` reads a request, `write.rs` writes an answer.

pub mod messages;
pub mod models;
mod read;
mod write;
