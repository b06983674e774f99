//! What can go wrong between a conversation and the disk.

use std::path::PathBuf;

use super::record::{ConversationId, MessageId};
use crate::storage::{StorageError, is_full};

/// The result of an operation of the store.
pub type Result<T> = std::result::Result<T, StoreError>;

/// Why the store refused or failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// No such conversation, or not any more.
    #[error("there is no conversation `{0}`")]
    NoConversation(ConversationId),
    /// No such message in it.
    #[error("conversation `{0}` has no message {1}")]
    NoMessage(ConversationId, MessageId),
    /// What was sent cannot be kept as it is.
    #[error("{0}")]
    Invalid(String),
    /// A limit.
    #[error("{what}: {amount}, and at most {limit} are kept; {advice}")]
    TooLarge {
        /// Of what.
        what: &'static str,
        /// How much it would be.
        amount: u64,
        /// How much it may be.
        limit: u64,
        /// What to do.
        advice: &'static str,
    },
    /// Another process has the file.
    #[error(
        "{0} is in use by another process: stop the other service, or give this one another data folder; until then \
         conversations are not kept"
    )]
    InUse(PathBuf),
    /// The file is something else, or broken.
    #[error("{path} cannot be read as a store of conversations ({reason}): move it away to begin a new one")]
    NotAStore {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file comes from another version.
    #[error("{path} has format {found}, this version reads {expected}: use the version that wrote it to export it")]
    Version {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u64,
        /// Ours.
        expected: u64,
    },
    /// A file or folder could not be made or opened.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// There is no room on the disk.
    #[error("the disk is full: free some space and try again; what was kept before is still there")]
    DiskFull,
    /// Reading or writing failed.
    #[error("the store of conversations failed: {0}")]
    Storage(Box<redb::Error>),
    /// One record is not what was written.
    #[error("a record of conversation `{0}` is damaged: export the others and move conversations.redb away")]
    Damaged(String),
    /// The system gave no random bytes.
    #[error("the system gives no random numbers: {0}")]
    Random(String),
}

impl StoreError {
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid(message.into())
    }

    pub(super) fn too_large(what: &'static str, amount: usize, limit: usize) -> Self {
        let advice = "shorten it, or split it";
        Self::TooLarge { what, amount: amount as u64, limit: limit as u64, advice }
    }
}

/// Any of the database's errors as ours.
pub(super) fn storage(error: impl Into<redb::Error>) -> StoreError {
    let error = error.into();
    if is_full(&error) { StoreError::DiskFull } else { StoreError::Storage(Box::new(error)) }
}

impl From<StorageError> for StoreError {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::InUse(path) => Self::InUse(path),
            StorageError::NotADatabase { path, reason } => Self::NotAStore { path, reason },
            StorageError::File { path, source } => Self::File { path, source },
            StorageError::Database(error) => storage(*error),
        }
    }
}
