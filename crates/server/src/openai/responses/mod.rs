//! `/v1/responses`: questions whose answers are kept, so that the next one need not repeat the conversation.
//!
//! `read.rs` reads a request and makes messages of items, `write.rs` makes items and events of an answer, `store.rs` keeps both,
//! on disk or in memory.

mod read;
pub mod store;
mod write;

use std::sync::Arc;

use axum::Json as JsonResponse;
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequestParts, Path, Query, State};
use axum::http::{Extensions, StatusCode};
use axum::response::{IntoResponse as _, Response};

use hublabio_runtime::ai::Json;
use hublabio_sdk::wire::openai::{DeletedResponse, InputItemList, ResponseEvent, ResponseObject, ResponseRequest};
use serde::Deserialize;
use serde_json::json;

use crate::chat;
use crate::error::ApiError;
use crate::fields::in_short;
use crate::heap::HeldShare;
use crate::limits::JsonBody;
use crate::security::Client;
use crate::sse;
use crate::state::{App, blocking};
use crate::thinking;
use store::{Owner, StoreError, Stored};

/// Items of a list where nothing is said, and at most.
const LIST: usize = 20;
const LIST_MAX: usize = 100;

/// Who asks, where there are keys: what one client keeps no other sees.
#[derive(Clone, Debug)]
pub struct Asker(Owner);

impl<S: Send + Sync> FromRequestParts<S> for Asker {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut axum::http::request::Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self(owner(&parts.extensions)))
    }
}

fn owner(extensions: &Extensions) -> Owner {
    extensions.get::<Client>().map(|client| Arc::clone(&client.name))
}

/// Answers, and keeps the answer unless `store` is false.
#[utoipa::path(
    post,
    path = "/v1/responses",
    tag = "openai",
    request_body = ResponseRequest,
    responses((status = 200, description = "The answer; with `stream`, events", content(
        (ResponseObject = "application/json"),
        (ResponseEvent = "text/event-stream"),
    )))
)]
pub async fn create(
    State(app): State<App>,
    Asker(owner): Asker,
    held: HeldShare,
    JsonBody(body): JsonBody,
) -> Result<Response, ApiError> {
    let before = match body["previous_response_id"].as_str() {
        Some(id) => {
            let found = find(&app, &held, &owner, id).await.map_err(|error| error.about("previous_response_id"))?;
            found.into_items()
        }
        None => Vec::new(),
    };
    let mut asked = read::read(&app, &before, &body)?;
    thinking::apply(&app, &mut asked.request, asked.thinking.take(), "reasoning.effort").await?;
    let stream = chat::start(&app, asked.request).await?;
    let keep = asked.store.then(|| Keep { app: app.clone(), owner, before, input: asked.input });
    let mut answer = write::Answer::new(&app, stream.model(), &asked.echo, asked.with_logprobs, keep);
    if asked.stream {
        return Ok(sse::response(&app, write::Events::new(stream, answer)));
    }
    let mut stream = stream.with_whole_calls();
    while let Some((_, event)) = stream.next().await {
        if let chat::ChatEvent::Failed(error) = event {
            return Err(error);
        }
        answer.take(event).await;
    }
    Ok(JsonResponse(answer.object()).into_response())
}

/// What is kept of an answer when it has ended.
struct Keep {
    app: App,
    owner: Owner,
    before: Vec<Json>,
    input: Vec<Json>,
}

impl Keep {
    /// Keeps it. When this returns, it can be gone on from.
    async fn keep(self, response: Json) -> Result<(), ApiError> {
        let Self { app, owner, before, input } = self;
        blocking(move || Ok(app.responses().put(&owner, &Stored { response, before, input })?)).await
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let message = error.to_string();
        match error {
            StoreError::TooLarge { .. } => Self::bad_request(message).coded("limit_exceeded"),
            StoreError::DiskFull => Self::new(StatusCode::INSUFFICIENT_STORAGE, message).coded("disk_full"),
            _ => Self::internal(message).coded("storage_failed"),
        }
    }
}

/// A kept answer, whose memory the request holds from now on.
async fn find(app: &App, held: &HeldShare, owner: &Owner, id: &str) -> Result<Stored, ApiError> {
    let (app, held, owner, id) = (app.clone(), held.clone(), owner.clone(), id.to_owned());
    blocking(move || {
        let admit = |bytes| held.take(&app, bytes, "to read the kept response");
        app.responses().get(&owner, &id, admit)?.ok_or_else(|| not_kept(&id))
    })
    .await
}

fn not_kept(id: &str) -> ApiError {
    let why = "it was not stored, was deleted, or is gone because newer ones were";
    ApiError::not_found(format!("there is no response `{}`: {why}", in_short(id))).coded("response_not_found")
}

/// What may be asked beside the id.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asks {
    stream: Option<bool>,
    /// Padding against listeners on the line, which a local service has no use for.
    #[serde(rename = "include_obfuscation")]
    _padding: Option<bool>,
}

/// Gives a kept answer again.
#[utoipa::path(
    get,
    path = "/v1/responses/{id}",
    tag = "openai",
    params(("id" = String, Path, description = "Its id")),
    responses((status = 200, description = "The answer", body = ResponseObject))
)]
pub async fn one(
    State(app): State<App>,
    Asker(owner): Asker,
    held: HeldShare,
    Path(id): Path<String>,
    asks: Result<Query<Asks>, QueryRejection>,
) -> Result<JsonResponse<Json>, ApiError> {
    let Ok(Query(Asks { stream, .. })) = asks else {
        return Err(
            ApiError::bad_request("a kept answer takes no `include`, and comes whole").coded("unsupported_parameter")
        );
    };
    if stream == Some(true) {
        return Err(
            ApiError::field("stream", "a kept answer comes whole: leave `stream` out").coded("unsupported_value")
        );
    }
    Ok(JsonResponse(find(&app, &held, &owner, &id).await?.response))
}

/// Forgets a kept answer.
#[utoipa::path(
    delete,
    path = "/v1/responses/{id}",
    tag = "openai",
    params(("id" = String, Path, description = "Its id")),
    responses((status = 200, description = "It is forgotten", body = DeletedResponse))
)]
pub async fn remove(
    State(app): State<App>,
    Asker(owner): Asker,
    Path(id): Path<String>,
) -> Result<JsonResponse<DeletedResponse>, ApiError> {
    let forgotten = id.clone();
    if !blocking(move || Ok(app.responses().remove(&owner, &forgotten)?)).await? {
        return Err(not_kept(&id));
    }
    Ok(JsonResponse(DeletedResponse { id, object: "response".into(), deleted: true }))
}

/// Which part of a list is wanted.
#[derive(Debug, Deserialize)]
pub struct Part {
    limit: Option<usize>,
    order: Option<String>,
    after: Option<String>,
}

/// Lists what was asked, the newest first unless `order` is `asc`.
#[utoipa::path(
    get,
    path = "/v1/responses/{id}/input_items",
    tag = "openai",
    params(("id" = String, Path, description = "The id of the answer")),
    responses((status = 200, description = "The items", body = InputItemList))
)]
pub async fn input_items(
    State(app): State<App>,
    Asker(owner): Asker,
    held: HeldShare,
    Path(id): Path<String>,
    part: Result<Query<Part>, QueryRejection>,
) -> Result<JsonResponse<InputItemList>, ApiError> {
    let Query(part) = part.map_err(|error| ApiError::bad_request(error.body_text()))?;
    let limit = part.limit.unwrap_or(LIST);
    if limit == 0 || limit > LIST_MAX {
        return Err(ApiError::field("limit", format!("`limit` is {limit}: ask for 1 to {LIST_MAX} items")));
    }
    let stored = find(&app, &held, &owner, &id).await?;
    let mut items: Vec<Json> = stored.asked().cloned().collect();
    match part.order.as_deref() {
        Some("asc") => {}
        None | Some("desc") => items.reverse(),
        Some(_) => return Err(ApiError::field("order", "`order` must be `asc` or `desc`").coded("invalid_value")),
    }
    if let Some(after) = part.after {
        let place = items.iter().position(|item| item["id"] == json!(after));
        let place = place.ok_or_else(|| ApiError::field("after", "`after` names no item of this list"))?;
        items.drain(..=place);
    }
    let has_more = items.len() > limit;
    items.truncate(limit);
    let id_of = |item: Option<&Json>| item.and_then(|item| item["id"].as_str()).map(str::to_owned);
    Ok(JsonResponse(InputItemList {
        object: "list".into(),
        first_id: id_of(items.first()),
        last_id: id_of(items.last()),
        has_more,
        data: items,
    }))
}
