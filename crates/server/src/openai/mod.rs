//! OpenAI's dialect: `/v1/chat/completions`, `/v1/completions`, `/v1/embeddings`, `/v1/models`, `/v1/responses`.
//!
//! Fields fall in three classes, and `docs/API.md` lists them: honoured; inert by nature ([`request::INERT`]); and all others,
//! which are refused by name.

pub mod chat;
pub mod completions;
pub mod embeddings;
pub mod models;
pub mod request;
pub mod responses;
pub mod write;
