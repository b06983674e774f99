//! `/api/conversations`: conversations over HTTP.
//!
//! Every call to the store is made on a thread that may wait for the disk. Whose conversations a request sees is told by
//! the key that it came with.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequestParts, Path, Query, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use futures_core::Stream;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use utoipa::{IntoParams, ToSchema};

use super::transfer::envelope;
use super::{
    Conversation, ConversationChange, ConversationHead, ConversationId, ConversationPage, ConversationStore,
    NewConversation, PageCursor, SearchResult, StorageStatus, StoreError, StoreLimits, answer, export_json,
    export_markdown,
};
use crate::error::ApiError;
use crate::heap::HeldShare;
use crate::limits::{JsonBody, read_body_within};
use crate::security::{Client, is_of_foreign_page};
use crate::state::{App, blocking};

/// Conversations in one part of the list, where the request does not say.
const PAGE: usize = 50;
/// The most.
const PAGE_MAX: usize = 200;

/// The paths of conversations, and of what the page asks first.
pub fn routes() -> Router<App> {
    Router::new()
        .route("/api/web", get(about))
        .route("/api/answer", post(answer::answer_unkept))
        .route("/api/conversations", get(list).post(create).delete(delete_all))
        .route("/api/conversations/export", get(export_all))
        .route("/api/conversations/import", post(import))
        .route("/api/conversations/{id}", get(read).patch(update).delete(delete))
        .route("/api/conversations/{id}/export", get(export))
        .route("/api/conversations/{id}/answer", post(answer::answer))
        .route("/api/conversations/{id}/stop", post(stop))
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

/// The conversations that a request may see. Pages of other origins see none: they could not read an answer, but tell by
/// the time that a search takes what is in them.
pub(crate) struct Store(pub ConversationStore);

impl FromRequestParts<App> for Store {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        if is_of_foreign_page(&parts.headers, app.config()) {
            let message =
                "pages of other origins may not look at conversations: start the service with --cors-origin ORIGIN";
            return Err(ApiError::new(StatusCode::FORBIDDEN, message).coded("origin_not_allowed"));
        }
        let owner = parts.extensions.get::<Client>().map_or("", |client| &*client.name);
        app.conversations().of(owner).map(Self)
    }
}

/// The conversation that a path names.
pub(crate) struct Id(pub ConversationId);

impl FromRequestParts<App> for Id {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let text = Path::<String>::from_request_parts(parts, app).await.map(|Path(text)| text).unwrap_or_default();
        ConversationId::parse(&text).map(Self).ok_or_else(|| {
            let message = "no conversation has such an id: GET /api/conversations lists them";
            ApiError::not_found(message).coded("conversation_not_found")
        })
    }
}

/// A body of one form. Fields that it does not have are refused by name.
pub(super) fn read_json<T: DeserializeOwned>(JsonBody(body): JsonBody) -> Result<T, ApiError> {
    // An array would be taken for a list of fields.
    if !body.is_object() {
        return Err(ApiError::bad_request("the body is no JSON object").coded("invalid_json"));
    }
    serde_json::from_value(body)
        .map_err(|error| ApiError::bad_request(format!("the body cannot be read: {error}")).coded("invalid_value"))
}

fn read_query<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, ApiError> {
    query.map(|Query(query)| query).map_err(|error| ApiError::bad_request(error.body_text()).coded("invalid_value"))
}

/// What the page must know before it shows anything.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = conversations::About)]
pub struct About {
    /// Version of the service.
    version: &'static str,
    /// The model that is asked where none is named.
    default_model: String,
    /// Whether conversations are kept.
    storage: StorageStatus,
    /// What a conversation may be at most.
    limits: StoreLimits,
    /// Bytes of a file that is imported.
    import_bytes: usize,
    /// The swarms and their experts.
    swarms: Vec<SwarmAbout>,
}

/// A swarm.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = conversations::SwarmAbout)]
pub struct SwarmAbout {
    /// Its name as a model.
    model: String,
    /// Who is in it.
    experts: Vec<ExpertAbout>,
}

/// An expert of a swarm.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = conversations::ExpertAbout)]
pub struct ExpertAbout {
    /// Its name.
    name: String,
    /// What it knows.
    description: String,
}

/// What the web page asks first: version, default model, swarms, limits, and whether conversations are kept.
#[utoipa::path(get, path = "/api/web", tag = "conversations",
    responses((status = 200, body = About, description = "What this service is")))]
pub(crate) async fn about(State(app): State<App>) -> Result<Json<About>, ApiError> {
    let worker = app.clone();
    let swarms = blocking(move || {
        let mut swarms = Vec::new();
        for source in &worker.config().swarms {
            // One that cannot be opened says so when it is asked; the page can be shown without it.
            let Ok(swarm) = worker.open_swarm(source) else { continue };
            let experts = swarm.experts().into_iter().map(|(spec, _)| ExpertAbout {
                name: spec.config.name.clone(),
                description: spec.config.description.clone(),
            });
            swarms.push(SwarmAbout { model: source.model_name(), experts: experts.collect() });
        }
        Ok(swarms)
    })
    .await?;
    Ok(Json(About {
        version: env!("CARGO_PKG_VERSION"),
        default_model: app.config().default_model.clone(),
        storage: app.conversations().status(),
        limits: app.conversations().limits().clone(),
        import_bytes: import_bytes(&app),
        swarms,
    }))
}

/// Which part of the list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// Only conversations that hold this text, whatever the case.
    search: Option<String>,
    /// Where an earlier part ended (`next`).
    cursor: Option<String>,
    /// How many, 1 to 200.
    limit: Option<usize>,
}

/// What the list answers: a part of it, or what was found.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = conversations::Listed)]
pub(crate) enum Listed {
    Page(ConversationPage),
    Found(SearchResult),
}

/// The conversations, the latest first, or those that hold a text.
#[utoipa::path(get, path = "/api/conversations", tag = "conversations", params(ListQuery), responses(
    (status = 200, body = Listed, description = "A part of the list, or what was found")))]
pub(crate) async fn list(
    Store(store): Store,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<Listed>, ApiError> {
    let ListQuery { search, cursor, limit } = read_query(query)?;
    let limit = limit.unwrap_or(PAGE);
    if limit == 0 || limit > PAGE_MAX {
        return Err(ApiError::field("limit", format!("`limit` is {limit}: 1 to {PAGE_MAX} can be had")));
    }
    let cursor = match cursor {
        Some(text) => Some(
            PageCursor::parse(&text)
                .ok_or_else(|| ApiError::field("cursor", "`cursor` is not one that the list gave as `next`"))?,
        ),
        None => None,
    };
    blocking(move || {
        Ok(Json(match search.filter(|text| !text.trim().is_empty()) {
            Some(text) => Listed::Found(store.search(&text, limit)?),
            None => Listed::Page(store.list(cursor.as_ref(), limit)?),
        }))
    })
    .await
}

/// Begins a conversation.
#[utoipa::path(post, path = "/api/conversations", tag = "conversations", request_body = NewConversation, responses(
    (status = 201, body = ConversationHead, description = "The conversation, without messages yet")))]
pub(crate) async fn create(
    Store(store): Store,
    body: JsonBody,
) -> Result<(StatusCode, Json<ConversationHead>), ApiError> {
    let new = read_json(body)?;
    blocking(move || Ok((StatusCode::CREATED, Json(store.create(new, now_ms())?)))).await
}

/// A conversation, and what is known of it beside what is kept.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = conversations::OpenConversation)]
pub(crate) struct OpenConversation {
    #[serde(flatten)]
    conversation: Conversation,
    /// Whether an answer is being written, for whomever; it is not among the messages yet.
    writing: bool,
}

/// Bytes of memory that a conversation takes while it is read: its records, and their texts.
pub(super) fn memory_of(head: &ConversationHead) -> usize {
    usize::try_from(head.bytes).unwrap_or(usize::MAX).saturating_mul(2)
}

/// A conversation with all branches.
#[utoipa::path(get, path = "/api/conversations/{id}", tag = "conversations", params(("id" = String, Path)), responses(
    (status = 200, body = OpenConversation, description = "The conversation")))]
pub(crate) async fn read(
    State(app): State<App>,
    Store(store): Store,
    held: HeldShare,
    Id(id): Id,
) -> Result<Json<OpenConversation>, ApiError> {
    blocking(move || {
        held.take(&app, memory_of(&store.head(&id)?), "to read the conversation")?;
        // Asked first: an answer that ends in between is among the messages then.
        let writing = app.conversations().is_writing(&id);
        Ok(Json(OpenConversation { conversation: store.get(&id)?, writing }))
    })
    .await
}

/// Changes title, model, settings, or the branch that is shown.
#[utoipa::path(patch, path = "/api/conversations/{id}", tag = "conversations", params(("id" = String, Path)),
    request_body = ConversationChange, responses(
    (status = 200, body = ConversationHead, description = "The conversation, without its messages")))]
pub(crate) async fn update(
    Store(store): Store,
    Id(id): Id,
    body: JsonBody,
) -> Result<Json<ConversationHead>, ApiError> {
    let change = read_json::<ConversationChange>(body)?;
    blocking(move || Ok(Json(store.update(&id, change, now_ms())?))).await
}

/// Deletes a conversation. Its answers that are being written end.
#[utoipa::path(delete, path = "/api/conversations/{id}", tag = "conversations", params(("id" = String, Path)), responses(
    (status = 204, description = "It is gone")))]
pub(crate) async fn delete(State(app): State<App>, Store(store): Store, Id(id): Id) -> Result<StatusCode, ApiError> {
    blocking(move || {
        store.delete(&id)?;
        app.conversations().stop(&id);
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}

/// That all are meant.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct DeleteQuery {
    /// `true`, so that nobody deletes all by leaving out an id.
    all: Option<bool>,
}

/// How many were deleted.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = conversations::Deleted)]
pub(crate) struct Deleted {
    deleted: u64,
}

/// Deletes all conversations of the key that the request came with.
#[utoipa::path(delete, path = "/api/conversations", tag = "conversations", params(DeleteQuery), responses(
    (status = 200, body = Deleted, description = "How many there were")))]
pub(crate) async fn delete_all(
    State(app): State<App>,
    Store(store): Store,
    query: Result<Query<DeleteQuery>, QueryRejection>,
) -> Result<Json<Deleted>, ApiError> {
    if read_query(query)?.all != Some(true) {
        return Err(ApiError::field("all", "this deletes every conversation: say so with `?all=true`"));
    }
    blocking(move || {
        let ids = store.ids()?;
        let deleted = store.delete_all()?;
        for id in ids {
            app.conversations().stop(&id);
        }
        Ok(Json(Deleted { deleted }))
    })
    .await
}

/// The form of an exported file.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = conversations::ExportFormat)]
pub(crate) enum ExportFormat {
    /// All branches; can be imported.
    #[default]
    Json,
    /// The branch that is shown, to be read.
    Markdown,
}

/// In which form.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ExportQuery {
    /// `json`, which can be imported, or `markdown`.
    #[serde(default)]
    #[param(inline)]
    format: ExportFormat,
}

/// A conversation as a file.
#[utoipa::path(get, path = "/api/conversations/{id}/export", tag = "conversations",
    params(("id" = String, Path), ExportQuery), responses(
    (status = 200, description = "The file")))]
pub(crate) async fn export(
    Store(store): Store,
    Id(id): Id,
    query: Result<Query<ExportQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let ExportQuery { format } = read_query(query)?;
    blocking(move || {
        let conversation = store.get(&id)?;
        Ok(match format {
            ExportFormat::Json => file("application/json", "json", export_json(&conversation)?.into()),
            ExportFormat::Markdown => {
                file("text/markdown; charset=utf-8", "md", export_markdown(&conversation)?.into())
            }
        })
    })
    .await
}

/// All conversations as one file.
#[utoipa::path(get, path = "/api/conversations/export", tag = "conversations", responses(
    (status = 200, description = "The file")))]
pub(crate) async fn export_all(Store(store): Store) -> Result<Response, ApiError> {
    // A few conversations on the way at most; the disk waits for the client.
    let (sender, receiver) = mpsc::channel(2);
    let ids = blocking({
        let store = store.clone();
        move || Ok(store.ids()?)
    })
    .await?;
    tokio::spawn(write_all(store, ids, sender));
    Ok(file("application/json", "json", Body::from_stream(Pieces(receiver))))
}

/// Writes the file of all conversations. No thread waits for a client that is slow.
async fn write_all(store: ConversationStore, ids: Vec<ConversationId>, client: mpsc::Sender<std::io::Result<Bytes>>) {
    let (head, tail) = envelope();
    let mut separator = head;
    for id in ids {
        let store = store.clone();
        let json = tokio::task::spawn_blocking(move || match store.get(&id) {
            Ok(conversation) => serde_json::to_string(&conversation).map(Some).map_err(std::io::Error::from),
            // Deleted since the list was made.
            Err(StoreError::NoConversation(_)) => Ok(None),
            // Those that can be read are to be had; the list shows which cannot.
            Err(error @ StoreError::Damaged(_)) => {
                tracing::error!(%error, "a conversation was left out of an exported file");
                Ok(None)
            }
            // The connection breaks, so that half a file does not pass for a whole one.
            Err(error) => Err(std::io::Error::other(error)),
        });
        let piece = match json.await.map_err(std::io::Error::other).flatten() {
            Ok(Some(json)) => Ok(Bytes::from(std::mem::replace(&mut separator, ",\n".into()) + &json)),
            Ok(None) => continue,
            Err(error) => Err(error),
        };
        let has_failed = piece.is_err();
        if client.send(piece).await.is_err() || has_failed {
            return;
        }
    }
    // Without conversations the head is still to be written.
    let end = if separator == ",\n" { tail.to_owned() } else { separator + tail };
    let _ = client.send(Ok(Bytes::from(end))).await;
}

struct Pieces(mpsc::Receiver<std::io::Result<Bytes>>);

impl Stream for Pieces {
    type Item = std::io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context)
    }
}

fn file(kind: &'static str, extension: &str, body: Body) -> Response {
    let name = format!("attachment; filename=\"conversations.{extension}\"");
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_str(&name).expect("the name is ASCII"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A quarter of what all requests together may hold: an export of many conversations is larger than any question, and is
/// held twice while it is read.
fn import_bytes(app: &App) -> usize {
    app.config().limits.heap_bytes / 4
}

/// What was imported.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = conversations::Imported)]
pub(crate) struct Imported {
    /// The new ids, in the order of the file.
    ids: Vec<ConversationId>,
}

/// Adds the conversations of an exported file under new ids, all of them or none.
#[utoipa::path(post, path = "/api/conversations/import", tag = "conversations",
    request_body(content = String, content_type = "application/json"), responses(
    (status = 201, body = Imported, description = "The new ids")))]
pub(crate) async fn import(
    State(app): State<App>,
    Store(store): Store,
    request: Request,
) -> Result<(StatusCode, Json<Imported>), ApiError> {
    let (bytes, share) = read_body_within(request, &app, import_bytes(&app)).await?;
    blocking(move || {
        let _share = share;
        Ok((StatusCode::CREATED, Json(Imported { ids: store.import(&bytes)? })))
    })
    .await
}

/// How many answers were ended.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = conversations::Stopped)]
pub(crate) struct Stopped {
    stopped: usize,
}

/// Ends the answers of a conversation that are being written. What was written is kept, and their streams say so.
#[utoipa::path(post, path = "/api/conversations/{id}/stop", tag = "conversations", params(("id" = String, Path)), responses(
    (status = 200, body = Stopped, description = "How many there were")))]
pub(crate) async fn stop(State(app): State<App>, Store(store): Store, Id(id): Id) -> Result<Json<Stopped>, ApiError> {
    blocking(move || {
        // Nobody stops what is not theirs.
        store.head(&id)?;
        Ok(Json(Stopped { stopped: app.conversations().stop(&id) }))
    })
    .await
}
