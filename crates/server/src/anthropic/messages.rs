//! `/v1/messages` and `/v1/messages/count_tokens`.

use axum::Json as JsonResponse;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use hublabio_sdk::wire::anthropic::{CountTokensRequest, Message, MessagesRequest, StreamEvent, TokenCount};

use super::{read, write};
use crate::chat;
use crate::error::ApiError;
use crate::limits::JsonBody;
use crate::sse;
use crate::state::App;
use crate::thinking;

/// Answers a conversation.
#[utoipa::path(
    post,
    path = "/v1/messages",
    tag = "anthropic",
    request_body = MessagesRequest,
    responses((status = 200, description = "The answer; with `stream`, events", content(
        (Message = "application/json"),
        (StreamEvent = "text/event-stream"),
    )))
)]
pub async fn messages(State(app): State<App>, JsonBody(body): JsonBody) -> Result<Response, ApiError> {
    let mut asked = read::read(&app, &body, false)?;
    thinking::apply(&app, &mut asked.request, asked.thinking.take(), "thinking").await?;
    let stream = chat::start(&app, asked.request).await?;
    let id = app.new_id("msg_");
    if asked.stream {
        return Ok(sse::response(&app, write::Events::new(stream, id)));
    }
    let model = stream.model().to_owned();
    let answer = stream.collect().await?.pop().ok_or_else(|| ApiError::internal("there is no answer: try again"))?;
    Ok(JsonResponse(write::message(id, model, answer)).into_response())
}

/// Counts the tokens of a conversation's prompt.
#[utoipa::path(
    post,
    path = "/v1/messages/count_tokens",
    tag = "anthropic",
    request_body = CountTokensRequest,
    responses((status = 200, description = "Their number", body = TokenCount))
)]
pub async fn count_tokens(
    State(app): State<App>,
    JsonBody(body): JsonBody,
) -> Result<JsonResponse<TokenCount>, ApiError> {
    let mut asked = read::read(&app, &body, true)?;
    thinking::apply(&app, &mut asked.request, asked.thinking.take(), "thinking").await?;
    let input_tokens = chat::count_prompt_tokens(&app, asked.request).await? as u64;
    Ok(JsonResponse(TokenCount { input_tokens }))
}
