//! `/api/embed`, and the older `/api/embeddings`.

use std::time::Instant;

use axum::Json as JsonResponse;
use axum::extract::State;
use hublabio_runtime::Error;
use hublabio_runtime::node::{self, KeepAlive};
use hublabio_sdk::wire::ollama::{EmbedRequest, EmbedResponse, EmbeddingsRequest, EmbeddingsResponse};

use super::request::{self, Meant};
use crate::embed;
use crate::error::ApiError;
use crate::fields::Fields;
use crate::limits::JsonBody;
use crate::state::{App, blocking};

/// Turns texts into vectors.
#[utoipa::path(
    post,
    path = "/api/embed",
    tag = "ollama",
    request_body = EmbedRequest,
    responses((status = 200, description = "A vector for each text", body = EmbedResponse))
)]
pub async fn embed(State(app): State<App>, JsonBody(body): JsonBody) -> Result<JsonResponse<EmbedResponse>, ApiError> {
    let begun = Instant::now();
    let fields = Fields::of_body(&body)?;
    let given = request::model_field(&fields)?;
    let input = fields.required("input", fields.texts("input")?)?;
    let limit = app.config().limits.embedding_inputs;
    if input.len() > limit {
        let message = format!("`input` has {} texts, at most {limit} are taken", input.len());
        return Err(ApiError::field("input", message).coded("invalid_value"));
    }
    let truncate = fields.flag("truncate")?.unwrap_or(true);
    let dimensions = fields.count("dimensions")?;
    let stay = request::stay(&fields)?;
    let meant = request::find(&app, given).await?;
    finish(&fields, &meant)?;
    let model = meant.name.clone();
    let (embeddings, tokens) = vectors(&app, meant.name, input, truncate, dimensions, stay).await?;
    Ok(JsonResponse(EmbedResponse {
        model,
        embeddings,
        total_duration: begun.elapsed().as_nanos() as u64,
        load_duration: 0,
        prompt_eval_count: tokens,
    }))
}

/// Turns a text into a vector, the older way.
#[utoipa::path(
    post,
    path = "/api/embeddings",
    tag = "ollama",
    request_body = EmbeddingsRequest,
    responses((status = 200, description = "The vector", body = EmbeddingsResponse))
)]
pub async fn embeddings(
    State(app): State<App>,
    JsonBody(body): JsonBody,
) -> Result<JsonResponse<EmbeddingsResponse>, ApiError> {
    let fields = Fields::of_body(&body)?;
    let given = request::model_field(&fields)?;
    let prompt = fields.required("prompt", fields.text("prompt")?)?.to_owned();
    let stay = request::stay(&fields)?;
    let meant = request::find(&app, given).await?;
    finish(&fields, &meant)?;
    let (mut found, _) = vectors(&app, meant.name, vec![prompt], true, None, stay).await?;
    Ok(JsonResponse(EmbeddingsResponse { embedding: found.pop().unwrap_or_default() }))
}

/// What is looked at last in both.
fn finish(fields: &Fields<'_>, meant: &Meant) -> Result<(), ApiError> {
    // Of the options none chooses a token here, but all are looked at.
    request::options(fields, meant.context)?;
    fields.finish(&[])?;
    if meant.context.is_none() {
        let message = "a swarm makes no embeddings: name a single model";
        return Err(ApiError::field("model", message).coded("unsupported_value"));
    }
    Ok(())
}

/// The vectors, and how many tokens they are of.
async fn vectors(
    app: &App,
    name: String,
    input: Vec<String>,
    truncate: bool,
    dimensions: Option<usize>,
    stay: KeepAlive,
) -> Result<(Vec<Vec<f32>>, u64), ApiError> {
    let reader = app.clone();
    let mut request = blocking(move || read(&reader, &name, &input, truncate, dimensions)).await?;
    if request.prompts.is_empty() {
        return Ok((Vec::new(), 0));
    }
    request.keep_alive = stay;
    let tokens = request.prompts.iter().map(Vec::len).sum::<usize>() as u64;
    Ok((embed::vectors(app, request).await?, tokens))
}

fn read(
    app: &App,
    name: &str,
    input: &[String],
    truncate: bool,
    dimensions: Option<usize>,
) -> Result<node::EmbedRequest, ApiError> {
    let model = app.node().model(name)?;
    let facts = model.facts();
    if let Some(asked) = dimensions.filter(|&asked| asked != facts.d_model) {
        let message =
            format!("`dimensions` is {asked}: the vectors of `{name}` have {} numbers and are not cut", facts.d_model);
        return Err(ApiError::field("dimensions", message).coded("unsupported_value"));
    }
    let text = model.text().map_err(|error| ApiError::bad_request(error.to_string()).about("model"))?;
    let mut prompts = Vec::with_capacity(input.len());
    for (at, piece) in input.iter().enumerate() {
        let place = if input.len() == 1 { "input".to_owned() } else { format!("input[{at}]") };
        let mut prompt =
            text.embedding_prompt(piece).map_err(|error| ApiError::field(place.clone(), error.to_string()))?;
        if prompt.is_empty() {
            return Err(ApiError::field(place.clone(), format!("`{place}` is empty")).coded("invalid_value"));
        }
        if prompt.len() > facts.context {
            if !truncate {
                let (context, trained) = (facts.context, facts.trained_context);
                let error = Error::PromptTooLong { prompt: prompt.len(), context, trained };
                return Err(ApiError::from(error).about(place));
            }
            // An encoder's last token marks the end, so it stays.
            prompt.drain(facts.context - 1..prompt.len() - 1);
        }
        prompts.push(prompt);
    }
    Ok(node::EmbedRequest::new(model, prompts))
}
