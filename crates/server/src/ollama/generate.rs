//! `/api/generate`.

use std::time::Instant;

use axum::extract::State;
use axum::response::Response;
use hublabio_runtime::ai::Message;
use hublabio_sdk::wire::ollama::{GenerateRequest, GenerateResponse};

use super::answer::{self, Asked, Kind, Question};
use super::request::{self, Manner};
use crate::chat::Input;
use crate::error::ApiError;
use crate::fields::Fields;
use crate::limits::JsonBody;
use crate::state::App;

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
    let manner = Manner::read(&fields)?;
    let prompt = fields.text("prompt")?.unwrap_or_default();
    let system = fields.text("system")?.filter(|system| !system.is_empty());
    let raw = fields.flag("raw")?.unwrap_or(false);
    request::says_nothing(&fields, "template", "is not supported: a model has its own template, `raw` goes without")?;
    request::says_nothing(&fields, "suffix", "is not supported: nothing is filled in between two texts")?;
    request::says_nothing(&fields, "images", "is not supported: images are not read here")?;
    request::says_nothing(&fields, "context", "is not supported: send the conversation to /api/chat")?;
    if raw && system.is_some() {
        let message = "`system` would be ignored with `raw`: write it into the prompt";
        return Err(ApiError::field("system", message).coded("unsupported_parameter"));
    }
    // Without the name a request's options could not be judged; with a wrong one they need not be.
    let meant = request::find(&app, manner.model).await?;
    let options = request::options(&fields, meant.context)?;
    fields.finish(&[])?;
    let input = if raw {
        Input::Text(prompt.to_owned())
    } else {
        let system = system.map(|system| Message::new("system", system));
        Input::Messages(system.into_iter().chain([Message::new("user", prompt)]).collect())
    };
    let question = (!prompt.is_empty()).then_some(Question { input, tools: Vec::new() });
    answer::answer(&app, Asked { kind: Kind::Generate, begun, meant, manner, options, question }).await
}
