//! `/api/show`: what a model is.

use std::time::UNIX_EPOCH;

use axum::Json as JsonResponse;
use axum::extract::State;
use hublabio_runtime::ai::{Json, ValueJson};
use hublabio_runtime::node::ServedModel;
use hublabio_sdk::wire::ollama::{ShowRequest, ShowResponse, Tensor};
use serde_json::Map;

use super::models::{details_served, swarm_details};
use super::request;
use crate::clock::rfc3339;
use crate::error::ApiError;
use crate::fields::Fields;
use crate::heap::HeldShare;
use crate::limits::JsonBody;
use crate::state::{App, blocking};
use crate::thinking;

/// What the names and shapes of a tensor take beside it, about.
const TENSOR_BYTES: usize = 128;

/// Describes a model.
#[utoipa::path(
    post,
    path = "/api/show",
    tag = "ollama",
    request_body = ShowRequest,
    responses((status = 200, description = "The model", body = ShowResponse))
)]
pub async fn show(
    State(app): State<App>,
    held: HeldShare,
    JsonBody(body): JsonBody,
) -> Result<JsonResponse<ShowResponse>, ApiError> {
    let fields = Fields::of_body(&body)?;
    let given = request::model_field(&fields)?;
    // Ollama's own client sends them always.
    request::says_nothing(&fields, "system", "is not supported: a model is described as it is")?;
    request::says_nothing(&fields, "template", "is not supported: a model is described as it is")?;
    request::says_nothing(&fields, "options", "is not supported: a model is described as it is")?;
    let is_verbose = fields.flag("verbose")?.unwrap_or(false);
    fields.finish(&[])?;
    let meant = request::find(&app, given).await?;
    if meant.context.is_none() {
        return Ok(JsonResponse(ShowResponse {
            modelfile: format!("FROM {}\n", meant.name),
            parameters: String::new(),
            template: String::new(),
            details: swarm_details(),
            model_info: Json::Object(Map::new()),
            tensors: None,
            capabilities: vec!["completion".into()],
            modified_at: rfc3339(UNIX_EPOCH),
        }));
    }
    let found = blocking(move || {
        let model = app.node().model(&meant.name)?;
        let mut found = shown(&model);
        if is_verbose {
            tell_all(&app, &held, &model, &mut found)?;
        }
        Ok(found)
    });
    Ok(JsonResponse(found.await?))
}

fn shown(model: &ServedModel) -> ShowResponse {
    let template = model.text().ok().and_then(|text| text.chat_template().ok());
    let source = template.map(|template| template.source().to_owned()).unwrap_or_default();
    let mut capabilities = Vec::new();
    if model.facts().generates {
        capabilities.push("completion".to_owned());
        if let Some(template) = template
            && template.takes_tools()
        {
            capabilities.push("tools".into());
        }
        if thinking::is_known_to(&source) {
            capabilities.push("thinking".into());
        }
    }
    capabilities.push("embedding".into());
    // Lists are left out, as Ollama does.
    let mut model_info: Map<String, Json> = model
        .metadata()
        .iter()
        .map(|(key, value)| {
            (key.to_owned(), if value.as_array().is_some() { Json::Null } else { json(ValueJson(value)) })
        })
        .collect();
    model_info.insert("general.parameter_count".into(), model.facts().parameters.into());
    ShowResponse {
        modelfile: format!("FROM {}\n", model.name()),
        parameters: String::new(),
        template: source,
        details: details_served(model),
        model_info: Json::Object(model_info),
        tensors: None,
        capabilities,
        modified_at: rfc3339(model.modified().unwrap_or(UNIX_EPOCH)),
    }
}

/// Adds what `verbose` asks for: lists of the metadata, of which vocabularies are the longest, and all tensors.
fn tell_all(app: &App, held: &HeldShare, model: &ServedModel, shown: &mut ShowResponse) -> Result<(), ApiError> {
    let file = model.open_file()?;
    let lists = || file.metadata().iter().filter(|(_, value)| value.as_array().is_some());
    // What it takes in memory, before it is made.
    let mut bytes = file.tensors().len() * (size_of::<Tensor>() + TENSOR_BYTES);
    for (_, value) in lists() {
        let mut text = Counter(0);
        serde_json::to_writer(&mut text, &ValueJson(value)).map_err(|error| ApiError::internal(error.to_string()))?;
        bytes += value.as_array().map_or(0, |list| list.len() * size_of::<Json>()) + text.0;
    }
    held.take(app, bytes, "what `verbose` asks for")?;
    if let Json::Object(model_info) = &mut shown.model_info {
        for (key, value) in lists() {
            model_info.insert(key.to_owned(), json(ValueJson(value)));
        }
    }
    let tensors = file.tensors().iter();
    shown.tensors = Some(
        tensors
            .map(|tensor| Tensor {
                name: tensor.name.clone(),
                kind: tensor.ty.name().to_owned(),
                shape: tensor.dims.clone(),
            })
            .collect(),
    );
    Ok(())
}

fn json(value: ValueJson<'_>) -> Json {
    serde_json::to_value(value).unwrap_or_default()
}

/// Counts what is written.
struct Counter(usize);

impl std::io::Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
