//! `/api/tokenize` and `/api/detokenize`.

use axum::Json as JsonResponse;
use axum::extract::State;
use hublabio_runtime::ai::TokenId;
use hublabio_runtime::ai::tokenizer::EncodeOptions;
use hublabio_sdk::wire::own::{DetokenizeRequest, DetokenizeResponse, TokenizeRequest, TokenizeResponse};

use crate::chat::{check_tokens, model_name};
use crate::error::ApiError;
use crate::fields::{Fields, wrong_type};
use crate::limits::JsonBody;
use crate::openai::request;
use crate::state::{App, blocking};

fn name(app: &App, fields: &Fields<'_>) -> Result<String, ApiError> {
    let given = request::model(fields)?.unwrap_or_else(|| app.config().default_model.clone());
    let name = model_name(&given, app)?;
    if app.swarm_source(&name).is_some() {
        let message = "the experts of a swarm have tokenizers of their own: name a single model";
        return Err(ApiError::field("model", message).coded("unsupported_value"));
    }
    Ok(name)
}

/// Turns text into token ids.
#[utoipa::path(
    post,
    path = "/api/tokenize",
    tag = "own",
    request_body = TokenizeRequest,
    responses((status = 200, description = "The ids", body = TokenizeResponse))
)]
pub async fn tokenize(
    State(app): State<App>,
    JsonBody(body): JsonBody,
) -> Result<JsonResponse<TokenizeResponse>, ApiError> {
    let fields = Fields::of_body(&body)?;
    let name = name(&app, &fields)?;
    let text = fields.required("text", fields.text("text")?)?.to_owned();
    let special = fields.flag("add_special")?.unwrap_or(false);
    let parse_special = fields.flag("parse_special")?.unwrap_or(false);
    fields.finish(&[])?;
    let ids = blocking(move || {
        let model = app.node().model(&name)?;
        let own = (!special).then_some(false);
        let options = EncodeOptions { add_bos: own, add_eos: own, parse_special };
        let found = model.text()?.tokenizer().encode(&text, options);
        found.map_err(|error| ApiError::field("text", error.to_string()))
    })
    .await?;
    Ok(JsonResponse(TokenizeResponse { ids: ids.into_iter().map(|id| id.0).collect() }))
}

/// Turns token ids into text.
#[utoipa::path(
    post,
    path = "/api/detokenize",
    tag = "own",
    request_body = DetokenizeRequest,
    responses((status = 200, description = "The text", body = DetokenizeResponse))
)]
pub async fn detokenize(
    State(app): State<App>,
    JsonBody(body): JsonBody,
) -> Result<JsonResponse<DetokenizeResponse>, ApiError> {
    let fields = Fields::of_body(&body)?;
    let name = name(&app, &fields)?;
    let list = fields.required("ids", fields.list("ids")?)?;
    let id = |value: &serde_json::Value| {
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
        id.map(TokenId).ok_or_else(|| wrong_type("ids", "a list of token ids", value))
    };
    let ids = list.iter().map(id).collect::<Result<Vec<_>, _>>()?;
    fields.finish(&[])?;
    let text = blocking(move || {
        let model = app.node().model(&name)?;
        let text = model.text()?;
        check_tokens(text, &ids).map_err(|error| error.about("ids"))?;
        let bytes = text.tokenizer().decode(&ids).map_err(|error| ApiError::field("ids", error.to_string()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    })
    .await?;
    Ok(JsonResponse(DetokenizeResponse { text }))
}
