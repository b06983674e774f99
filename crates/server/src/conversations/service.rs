//! The conversations of a running service: whether there is a store, and which answers are being written.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::StatusCode;
use serde::Serialize;
use tokio::sync::Notify;
use utoipa::ToSchema;

use super::{ConversationId, ConversationStore, StoreError, StoreLimits};
use crate::error::ApiError;

/// Answers of one conversation that may be written at once, on different branches.
const ANSWERS_MAX: usize = 4;

/// What a service has of conversations.
pub struct Conversations {
    store: Result<ConversationStore, StorageStatus>,
    limits: StoreLimits,
    running: Mutex<HashMap<ConversationId, Vec<Arc<Notify>>>>,
}

/// Whether conversations are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = conversations::StorageStatus)]
pub struct StorageStatus {
    /// `on`, `off` where the service was told so, or `unavailable`.
    pub state: &'static str,
    /// Why not.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

impl Conversations {
    /// Opens the store in a folder; `None` keeps nothing. A store that cannot be opened is no reason not to serve: the page
    /// says why nothing is kept.
    pub fn open(folder: Option<&Path>, limits: StoreLimits) -> Self {
        let store = match folder {
            None => Err(StorageStatus {
                state: "off",
                reason: "storage is switched off, or the service has no data folder.".into(),
            }),
            Some(folder) => ConversationStore::open(folder, limits.clone()).map_err(|error| {
                tracing::warn!(%error, "conversations are not kept");
                StorageStatus { state: "unavailable", reason: format!("{error}.") }
            }),
        };
        Self { store, limits, running: Mutex::default() }
    }

    /// Whether they are kept.
    pub fn status(&self) -> StorageStatus {
        match &self.store {
            Ok(_) => StorageStatus { state: "on", reason: String::new() },
            Err(status) => status.clone(),
        }
    }

    /// Bytes of memory that the store may hold.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.store.as_ref().map_or(0, |_| self.limits.cache_bytes)
    }

    /// What a conversation may be at most.
    pub fn limits(&self) -> &StoreLimits {
        &self.limits
    }

    /// Those of one owner.
    ///
    /// # Errors
    /// 503 where none are kept.
    pub fn of(&self, owner: &str) -> Result<ConversationStore, ApiError> {
        match &self.store {
            Ok(store) => Ok(store.for_owner(owner)),
            Err(status) => {
                let message = format!("conversations are not kept: {}", status.reason);
                let code = if status.state == "off" { "storage_off" } else { "storage_unavailable" };
                Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message).coded(code))
            }
        }
    }

    /// Notes that an answer is being written; what is given ends it, and must be handed to `ended`.
    ///
    /// # Errors
    /// 409 where too many are.
    pub(super) fn begin(&self, id: &ConversationId) -> Result<Arc<Notify>, ApiError> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let answers = running.entry(id.clone()).or_default();
        if answers.len() >= ANSWERS_MAX {
            let message = format!("{ANSWERS_MAX} answers of this conversation are being written: stop one, or wait");
            return Err(ApiError::new(StatusCode::CONFLICT, message).coded("too_many_answers"));
        }
        let stop = Arc::new(Notify::new());
        answers.push(Arc::clone(&stop));
        Ok(stop)
    }

    pub(super) fn ended(&self, id: &ConversationId, stop: &Arc<Notify>) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answers) = running.get_mut(id) {
            answers.retain(|other| !Arc::ptr_eq(other, stop));
            if answers.is_empty() {
                running.remove(id);
            }
        }
    }

    /// Whether an answer of the conversation is being written.
    pub(super) fn is_writing(&self, id: &ConversationId) -> bool {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).contains_key(id)
    }

    /// Waits until no answer is being written, for a short while: what a service that ends was writing is kept.
    pub(crate) async fn settle(&self) {
        for _ in 0..100 {
            if self.running.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends the answers of a conversation and says how many there were.
    pub(super) fn stop(&self, id: &ConversationId) -> usize {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let answers = running.get(id).map_or(&[][..], Vec::as_slice);
        answers.iter().for_each(|stop| stop.notify_one());
        answers.len()
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let message = error.to_string();
        match error {
            StoreError::NoConversation(_) => Self::not_found(message).coded("conversation_not_found"),
            StoreError::NoMessage(..) => Self::not_found(message).coded("message_not_found"),
            StoreError::Invalid(_) => Self::bad_request(message).coded("invalid_value"),
            StoreError::TooLarge { .. } => Self::bad_request(message).coded("limit_exceeded"),
            StoreError::InUse(_)
            | StoreError::NotAStore { .. }
            | StoreError::Version { .. }
            | StoreError::File { .. } => Self::unavailable(message).coded("storage_unavailable"),
            StoreError::DiskFull => Self::new(StatusCode::INSUFFICIENT_STORAGE, message).coded("disk_full"),
            StoreError::Storage(_) | StoreError::Damaged(_) | StoreError::Random(_) => {
                Self::internal(message).coded("storage_failed")
            }
        }
    }
}
