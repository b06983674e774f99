//! `/openapi.json`: the service's own description, made of the handlers and the wire types.

use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use hublabio_sdk::wire::openai::ErrorBody;
use hublabio_sdk::wire::{anthropic, ollama};
use serde_json::{Map, Value as Json, json};
use utoipa::OpenApi;

use crate::error::Dialect;

#[derive(OpenApi)]
#[openapi(
    info(title = "HubLab IO", description = "The service of HubLab IO; docs/API.md says more."),
    paths(
        super::status::health,
        super::status::ready,
        super::status::metrics,
        document,
        super::models::load,
        super::models::unload,
        super::tokens::tokenize,
        super::tokens::detokenize,
        crate::anthropic::models::list,
        crate::anthropic::models::one,
        crate::openai::chat::completions,
        crate::openai::completions::completions,
        crate::openai::embeddings::embeddings,
        crate::conversations::http::about,
        crate::conversations::http::list,
        crate::conversations::http::create,
        crate::conversations::http::read,
        crate::conversations::http::update,
        crate::conversations::http::delete,
        crate::conversations::http::delete_all,
        crate::conversations::http::export,
        crate::conversations::http::export_all,
        crate::conversations::http::import,
        crate::conversations::http::stop,
        crate::conversations::answer::answer,
        crate::conversations::answer::answer_unkept,
        crate::openai::responses::create,
        crate::openai::responses::one,
        crate::openai::responses::remove,
        crate::openai::responses::input_items,
        crate::anthropic::messages::messages,
        crate::anthropic::messages::count_tokens,
        crate::ollama::generate::generate,
        crate::ollama::chat::chat,
        crate::ollama::embed::embed,
        crate::ollama::embed::embeddings,
        crate::ollama::models::tags,
        crate::ollama::show::show,
        crate::ollama::models::ps,
        crate::ollama::models::version,
        crate::ollama::store::copy,
        crate::ollama::store::remove,
        crate::ollama::store::pull,
    ),
    components(schemas(
        ErrorBody,
        anthropic::ErrorBody,
        anthropic::ModelPage,
        anthropic::ModelInfo,
        ollama::ErrorBody
    ))
)]
struct Described;

/// Statuses that any request can get, and what they mean.
const ANY: [(&str, &str); 6] = [
    ("400", "The request is malformed, or asks for what cannot be honoured: the field is named"),
    ("401", "The service wants a key, and this is none"),
    ("403", "The service is not called by that name, or not from that page"),
    ("429", "Too many requests wait, or the key's limit is reached"),
    ("500", "The model failed; the service goes on"),
    ("503", "The service is overloaded, or going to end"),
];
/// Those that only requests with a body can get.
const WITH_BODY: [(&str, &str); 4] = [
    ("404", "There is no model of that name"),
    ("408", "The body took too long"),
    ("413", "The body is too large"),
    ("415", "The body is no JSON"),
];
/// What only requests to that which is kept on the disk can get.
const KEPT: (&str, &str) = ("507", "The disk is full");

/// Describes the service in OpenAPI's form.
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "own",
    responses((status = 200, description = "This description", content_type = "application/json"))
)]
pub async fn document() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], openapi_text()).into_response()
}

/// The description as text.
#[must_use]
pub fn openapi_text() -> String {
    let mut described = serde_json::to_value(Described::openapi()).expect("a description is JSON");
    if let Some(Json::Object(paths)) = described.get_mut("paths") {
        for (path, operations) in paths.iter_mut() {
            operations.as_object_mut().into_iter().for_each(|operations| add_errors(path, operations));
        }
    }
    let mut text = serde_json::to_string_pretty(&described).expect("a description is JSON");
    text.push('\n');
    text
}

/// Adds what can go wrong to the operations of a path, in the form of its dialect.
fn add_errors(path: &str, operations: &mut Map<String, Json>) {
    let dialect = Dialect::of_path(path);
    let schema = match dialect {
        Dialect::OpenAi => "ErrorBody",
        Dialect::Anthropic => "anthropic.ErrorBody",
        Dialect::Ollama => "ollama.ErrorBody",
    };
    for operation in operations.values_mut().filter_map(Json::as_object_mut) {
        let has_body = operation.contains_key("requestBody");
        let has_parameters = operation.contains_key("parameters");
        let Some(Json::Object(responses)) = operation.get_mut("responses") else { continue };
        let with_body = WITH_BODY.iter().filter(|(status, _)| has_body || has_parameters && *status == "404");
        let is_kept = ["/v1/responses", "/api/conversations"].iter().any(|kept| path.starts_with(kept));
        for (status, meaning) in ANY.iter().chain(with_body).chain(is_kept.then_some(&KEPT)) {
            let status = if dialect == Dialect::Anthropic && *status == "503" { "529" } else { status };
            responses.entry(status).or_insert_with(|| {
                let schema = format!("#/components/schemas/{schema}");
                json!({
                    "description": meaning,
                    "content": { "application/json": { "schema": { "$ref": schema } } },
                })
            });
        }
    }
}
