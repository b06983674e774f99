//! `/v1/embeddings`.

use axum::Json as JsonResponse;
use axum::extract::State;
use hublabio_runtime::Error;
use hublabio_runtime::ai::{Json, TokenId};
use hublabio_runtime::node::EmbedRequest;
use hublabio_sdk::wire::openai::{Embedding, EmbeddingList, EmbeddingRequest, EmbeddingUsage, EmbeddingVector};

use super::request::{self, INERT};
use crate::chat::model_name;
use crate::embed::vectors;
use crate::error::ApiError;
use crate::fields::{Fields, wrong_type};
use crate::limits::JsonBody;
use crate::state::{App, blocking};

/// A text or its tokens.
pub enum Piece {
    /// A text.
    Text(String),
    /// Tokens.
    Tokens(Vec<TokenId>),
}

/// Turns texts into vectors.
#[utoipa::path(
    post,
    path = "/v1/embeddings",
    tag = "openai",
    request_body = EmbeddingRequest,
    responses((status = 200, description = "A vector for each input", body = EmbeddingList))
)]
pub async fn embeddings(
    State(app): State<App>,
    JsonBody(body): JsonBody,
) -> Result<JsonResponse<EmbeddingList>, ApiError> {
    let fields = Fields::of_body(&body)?;
    let name = request::model(&fields)?.unwrap_or_else(|| app.config().default_model.clone());
    let input = fields.required("input", fields.get("input"))?;
    let input = pieces("input", input, app.config().limits.embedding_inputs)?;
    let base64 = match fields.text("encoding_format")? {
        None | Some("float") => false,
        Some("base64") => true,
        Some(_) => {
            let message = "`encoding_format` must be `float` or `base64`";
            return Err(ApiError::field("encoding_format", message).coded("invalid_value"));
        }
    };
    let dimensions = fields.count("dimensions")?;
    fields.finish(&INERT)?;
    let name = model_name(&name, &app)?;
    if app.swarm_source(&name).is_some() {
        let message = "a swarm makes no embeddings: name a single model";
        return Err(ApiError::field("model", message).coded("unsupported_value"));
    }
    let shown = name.clone();
    let reader = app.clone();
    let request = blocking(move || read(&reader, &name, input, dimensions)).await?;
    let tokens = request.prompts.iter().map(Vec::len).sum::<usize>() as u64;
    let vectors = vectors(&app, request).await?;
    let data = vectors.into_iter().enumerate().map(|(index, vector)| Embedding {
        object: "embedding".into(),
        index: index as u32,
        embedding: if base64 { EmbeddingVector::Base64(in_base64(&vector)) } else { EmbeddingVector::Float(vector) },
    });
    Ok(JsonResponse(EmbeddingList {
        object: "list".into(),
        data: data.collect(),
        model: shown,
        usage: EmbeddingUsage { prompt_tokens: tokens, total_tokens: tokens },
    }))
}

fn read(app: &App, name: &str, input: Vec<Piece>, dimensions: Option<usize>) -> Result<EmbedRequest, ApiError> {
    let model = app.node().model(name)?;
    let d_model = model.facts().d_model;
    if let Some(asked) = dimensions.filter(|&asked| asked != d_model) {
        let message =
            format!("`dimensions` is {asked}: the vectors of `{name}` have {d_model} numbers and are not cut");
        return Err(ApiError::field("dimensions", message).coded("unsupported_value"));
    }
    let text = model.text().map_err(|error| ApiError::bad_request(error.to_string()).about("model"))?;
    let (context, trained) = (model.facts().context, model.facts().trained_context);
    let mut prompts = Vec::with_capacity(input.len());
    for (at, piece) in input.into_iter().enumerate() {
        let place = format!("input[{at}]");
        let prompt = match piece {
            Piece::Text(piece) => {
                text.embedding_prompt(&piece).map_err(|error| ApiError::field(place.clone(), error.to_string()))?
            }
            Piece::Tokens(tokens) => {
                crate::chat::check_tokens(text, &tokens).map_err(|error| error.about(place.clone()))?;
                tokens
            }
        };
        if prompt.is_empty() {
            return Err(ApiError::field(place.clone(), format!("`{place}` is empty")).coded("invalid_value"));
        }
        if prompt.len() > context {
            let error = Error::PromptTooLong { prompt: prompt.len(), context, trained };
            return Err(ApiError::from(error).about(place));
        }
        prompts.push(prompt);
    }
    Ok(EmbedRequest::new(model, prompts))
}

/// Texts or lists of tokens, one or several.
///
/// # Errors
/// 400 for anything else, for none, and for more than `max`.
pub fn pieces(name: &str, value: &Json, max: usize) -> Result<Vec<Piece>, ApiError> {
    const WANTED: &str = "a string, a list of strings, a list of token ids, or a list of such lists";
    let bad = || wrong_type(name, WANTED, value);
    let token = |value: &Json| value.as_u64().and_then(|id| u32::try_from(id).ok()).map(TokenId);
    let tokens = |list: &[Json]| list.iter().map(token).collect::<Option<Vec<_>>>();
    let list = match value {
        Json::String(text) => return Ok(vec![Piece::Text(text.clone())]),
        Json::Array(list) => list,
        _ => return Err(bad()),
    };
    if list.is_empty() {
        return Err(ApiError::field(name, format!("`{name}` is empty")).coded("invalid_value"));
    }
    if list[0].is_number() {
        return Ok(vec![Piece::Tokens(tokens(list).ok_or_else(bad)?)]);
    }
    if list.len() > max {
        let message = format!("`{name}` has {} entries, at most {max} are taken", list.len());
        return Err(ApiError::field(name, message).coded("invalid_value"));
    }
    let piece = |item: &Json| match item {
        Json::String(text) => Some(Piece::Text(text.clone())),
        Json::Array(list) => tokens(list).map(Piece::Tokens),
        _ => None,
    };
    list.iter().map(|item| piece(item).ok_or_else(bad)).collect()
}

/// The bytes of the numbers, each four of the little end first, in base64 (RFC 4648, with padding).
fn in_base64(vector: &[f32]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0u32, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - group.len()));
        for at in 0..4 {
            let digit = (bits >> (18 - 6 * at)) as usize & 63;
            text.push(if at <= group.len() { char::from(DIGITS[digit]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        assert_eq!(in_base64(&[]), "");
        // 0x3f800000 is 00 00 80 3f.
        assert_eq!(in_base64(&[1.0]), "AACAPw==");
        assert_eq!(in_base64(&[1.0, -2.0]), "AACAPwAAAMA=");
        assert_eq!(in_base64(&[1.0, -2.0, 0.5]), "AACAPwAAAMAAAAA/");
    }
}
