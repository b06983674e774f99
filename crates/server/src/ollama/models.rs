//! `/api/tags`, `/api/ps`, `/api/version`: what there is.

use std::time::UNIX_EPOCH;

use axum::Json as JsonResponse;
use axum::extract::State;
use hublabio_runtime::moe::SwarmEngine;
use hublabio_runtime::node::{CatalogModel, NodeStatus, ServedModel};
use hublabio_runtime::store::StoredModel;
use hublabio_sdk::wire::ollama::{Tag, Tags, Version};
use hublabio_sdk::wire::own::{ModelDetails, ProcessList, RunningModel, RunningModelState, ServiceState};

use crate::clock::{self, rfc3339};
use crate::error::ApiError;
use crate::state::{App, blocking};

/// When a model leaves that stays as long as it can: a year that no client takes for the past.
const FOREVER: &str = "2999-12-31T23:59:59.000000Z";

/// Says which version this is: ours.
#[utoipa::path(get, path = "/api/version", tag = "ollama", responses((status = 200, description = "Ours", body = Version)))]
pub async fn version() -> JsonResponse<Version> {
    JsonResponse(Version { version: env!("CARGO_PKG_VERSION").into() })
}

/// Lists the models, swarms among them.
#[utoipa::path(get, path = "/api/tags", tag = "ollama", responses((status = 200, description = "All models", body = Tags)))]
pub async fn tags(State(app): State<App>) -> Result<JsonResponse<Tags>, ApiError> {
    let models = blocking(move || {
        let listed = app.node().store().map(|store| store.list().models).unwrap_or_default();
        let mut models: Vec<Tag> = Vec::new();
        for found in app.node().catalog()? {
            let stored = listed.iter().find(|stored| stored.name == found.name && stored.problem.is_none());
            let details = match stored {
                Some(stored) => details_stored(stored),
                // What cannot be read is listed all the same; asking for it says why.
                None => app.node().model(&found.name).map(|model| details_served(&model)).unwrap_or_default(),
            };
            models.push(tag(&found, details));
        }
        models.extend(app.config().swarms.iter().map(|source| swarm(source.model_name())));
        Ok(models)
    })
    .await?;
    Ok(JsonResponse(Tags { models }))
}

fn tag(found: &CatalogModel, details: ModelDetails) -> Tag {
    Tag {
        name: found.name.clone(),
        model: found.name.clone(),
        modified_at: rfc3339(found.modified.unwrap_or(UNIX_EPOCH)),
        size: found.bytes,
        digest: found.sha256.clone().unwrap_or_default(),
        details,
    }
}

fn swarm(name: String) -> Tag {
    Tag {
        model: name.clone(),
        name,
        modified_at: rfc3339(UNIX_EPOCH),
        size: 0,
        digest: String::new(),
        details: swarm_details(),
    }
}

pub(super) fn swarm_details() -> ModelDetails {
    details("swarm", String::new(), String::new())
}

fn details(family: &str, parameter_size: String, quantization_level: String) -> ModelDetails {
    ModelDetails {
        parent_model: String::new(),
        format: "gguf".into(),
        family: family.into(),
        families: Some(vec![family.into()]),
        parameter_size,
        quantization_level,
    }
}

fn details_stored(stored: &StoredModel) -> ModelDetails {
    details(
        stored.architecture.as_deref().unwrap_or_default(),
        stored.parameters.map(in_short).unwrap_or_default(),
        stored.quantization.clone().unwrap_or_default(),
    )
}

pub(super) fn details_served(model: &ServedModel) -> ModelDetails {
    let facts = model.facts();
    details(&facts.architecture, in_short(facts.parameters), facts.tensor_type.to_owned())
}

/// A number of weights as Ollama writes it: `494.0M`, `7.2B`.
fn in_short(parameters: u64) -> String {
    match parameters as f64 {
        n if n >= 1e9 => format!("{:.1}B", n / 1e9),
        n if n >= 1e6 => format!("{:.1}M", n / 1e6),
        n => format!("{:.1}K", n / 1e3),
    }
}

/// A swarm of which experts are in memory. Each leaves by itself: the last not later than this says.
fn running_swarm(app: &App, name: String, swarm: &SwarmEngine) -> Option<RunningModel> {
    let size = Some(swarm.fleet().bytes_held()).filter(|&bytes| bytes > 0)?;
    let busy = swarm.fleet().status().iter().filter(|expert| expert.state.busy).count();
    Some(RunningModel {
        model: name.clone(),
        name,
        size,
        size_vram: 0,
        digest: String::new(),
        details: swarm_details(),
        expires_at: Some(app.node().config().keep_alive.and_then(clock::after).unwrap_or_else(|| FOREVER.into())),
        context_length: None,
        hublab: Some(RunningModelState { file_bytes: 0, kv_bytes: 0, running: busy as u64, expires_in_s: None }),
    })
}

/// Lists the models in memory, and says what the service is at.
#[utoipa::path(
    get,
    path = "/api/ps",
    tag = "ollama",
    responses((status = 200, description = "Models in memory", body = ProcessList))
)]
pub async fn ps(State(app): State<App>) -> Result<JsonResponse<ProcessList>, ApiError> {
    let found = blocking(move || {
        let NodeStatus { models: loaded, work, .. } = app.node_status();
        let running = |loaded: &hublabio_runtime::node::LoadedModel| {
            let model = app.node().model(&loaded.name).ok();
            RunningModel {
                name: loaded.name.clone(),
                model: loaded.name.clone(),
                size: loaded.file_bytes + loaded.kv_bytes,
                size_vram: 0,
                digest: model.as_ref().and_then(|model| model.sha256()).unwrap_or_default().to_owned(),
                details: model.as_deref().map(details_served).unwrap_or_default(),
                expires_at: Some(loaded.expires_in.and_then(clock::after).unwrap_or_else(|| FOREVER.into())),
                context_length: Some(loaded.context as u64),
                hublab: Some(RunningModelState {
                    file_bytes: loaded.file_bytes,
                    kv_bytes: loaded.kv_bytes,
                    running: loaded.running as u64,
                    expires_in_s: loaded.expires_in.map(|time| time.as_secs_f64()),
                }),
            }
        };
        let mut models: Vec<RunningModel> = loaded.iter().map(running).collect();
        models.extend(app.open_swarms().into_iter().filter_map(|(name, swarm)| running_swarm(&app, name, &swarm)));
        let hublab = ServiceState {
            max_memory: app.node().config().max_memory,
            running: work.running as u64,
            waiting: work.waiting as u64,
            requests_done: work.requests_done,
            requests_failed: work.requests_failed,
            requests_cancelled: work.requests_cancelled,
            prompt_tokens: work.prompt_tokens,
            generated_tokens: work.generated_tokens,
            loads: work.loads,
        };
        Ok(ProcessList { models, hublab: Some(hublab) })
    })
    .await?;
    Ok(JsonResponse(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_counted_as_ollama_does() {
        for (n, expected) in [(494_032_768, "494.0M"), (7_241_732_096, "7.2B"), (260_000, "260.0K"), (0, "0.0K")] {
            assert_eq!(in_short(n), expected);
        }
    }
}
