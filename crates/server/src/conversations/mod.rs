//! Conversations of the web page, kept on this machine.
//!
//! The room knows no sockets but the ones that axum hands it, and no model but through the neutral path of `chat`. Begin
//! at `record.rs`, which says what a conversation is; `store.rs` keeps it, `search.rs` finds it, `transfer.rs` writes and reads files of it.

pub(crate) mod answer;
mod error;
pub(crate) mod http;
mod record;
mod search;
mod service;
mod store;
mod transfer;

pub use error::{Result, StoreError};
pub use http::routes;
pub use record::{
    Answerer, Attachment, Conversation, ConversationChange, ConversationHead, ConversationId, Finish, Message,
    MessageId, NewConversation, Role, Settings, StoreLimits, Usage, title_of,
};
pub use search::{SearchHit, SearchResult};
pub use service::{Conversations, StorageStatus};
pub use store::{ConversationPage, ConversationStore, FILE_NAME, PageCursor};
pub use transfer::{export_json, export_markdown, import_json, with_attachments};
