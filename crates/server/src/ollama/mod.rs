//! Ollama's dialect: `/api/generate`, `/api/chat`, `/api/embed`, and what its clients ask about models.
//!
//! Fields and options fall in the three classes of `docs/API_OLLAMA.md`: honoured; inert by nature; and all others, which are
//! refused by name. `request.rs` reads what requests have in common, `answer.rs` writes answers, whole and line by line.

mod answer;
pub mod chat;
pub mod embed;
pub mod generate;
pub mod models;
mod request;
pub mod show;
pub mod store;
