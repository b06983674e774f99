//! `/api/generate`.

use std::time::Instant;

use axum::extract::State;
use axum::response::Response;
use hublabio_runtime::ai::Message;
use hublabio_sdk::wire::ollama::{GenerateRequest, GenerateResponse};

use super::answer::{self, Kind};
use super::request;
use crate::chat::{self, ChatRequest, Input};
use crate::error::ApiError;
use crate::fields::Fields;
use crate::limits::JsonBody;
use crate::openai;
use crate::state::App;
use crate::thinking;

/// Answers one question, or goes on with a text.
#[utoipa::path(
    post,
    path = "/api/generate",
    tag = "ollama",
    request_body = GenerateRequest,
    responses((status = 200, description = "The answer, in lines unless `stream` is false", content(
        (GenerateResponse = "application/x-ndjson"),
        (GenerateResponse = "application/json"),
    )))
)]
pub async fn generate(State(app): State<App>, JsonBody(body): JsonBody) -> Result<Response, ApiError> {
    let begun = Instant::now();
    let fields = Fields::of_body(&body)?;
    let given = request::model_field(&fields)?;
    let prompt = fields.text("prompt")?.unwrap_or_default();
    let system = fields.text("system")?.filter(|system| !system.is_empty());
    let raw = fields.flag("raw")?.unwrap_or(false);
    let in_lines = fields.flag("stream")?.unwrap_or(true);
    let thinking = request::think(&fields)?;
    let stay = request::stay(&fields)?;
    let format = request::format(&fields)?;
    let logprobs = request::logprobs(&fields)?;
    let (session, expert) = openai::request::hublab(&fields)?;
    request::no_truncation(&fields)?;
    request::says_nothing(&fields, "template", "is not supported: a model has its own template, `raw` goes without")?;
    request::says_nothing(&fields, "suffix", "is not supported: nothing is filled in between two texts")?;
    request::says_nothing(&fields, "images", "is not supported: images are not read here")?;
    request::says_nothing(&fields, "context", "is not supported: send the conversation to /api/chat")?;
    if raw && system.is_some() {
        let message = "`system` would be ignored with `raw`: write it into the prompt";
        return Err(ApiError::field("system", message).coded("unsupported_parameter"));
    }
    // Without the name a request's options could not be judged; with a wrong one they need not be.
    let meant = request::find(&app, given).await?;
    let options = request::options(&fields, meant.context)?;
    fields.finish(&[])?;
    if prompt.is_empty() {
        let model = meant.name.clone();
        let reason = request::load(&app, meant, stay).await?;
        return Ok(answer::without_question(Kind::Generate, model, reason));
    }
    let input = if raw {
        Input::Text(prompt.to_owned())
    } else {
        let system = system.map(|system| Message::new("system", system));
        Input::Messages(system.into_iter().chain([Message::new("user", prompt)]).collect())
    };
    let mut asked = ChatRequest {
        format,
        sampling: options.sampling,
        max_tokens: options.max_tokens,
        stop: options.stop,
        logprobs,
        session,
        expert,
        keep_alive: stay,
        ..ChatRequest::new(Some(meant.name), input)
    };
    thinking::apply(&app, &mut asked, thinking, "think").await?;
    let stream = chat::start(&app, asked).await?;
    answer::respond(Kind::Generate, stream, in_lines, begun).await
}
