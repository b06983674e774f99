//! `/v1/models`: what requests may name.

use std::collections::HashSet;
use std::time::UNIX_EPOCH;

use axum::Json as JsonResponse;
use axum::extract::{Path, State};
use hublabio_runtime::node::CatalogModel;
use hublabio_sdk::wire::openai::{Model, ModelFacts, ModelList};

use crate::chat::model_name;
use crate::error::ApiError;
use crate::state::{App, blocking};

/// Lists the models.
pub async fn list(State(app): State<App>) -> Result<JsonResponse<ModelList>, ApiError> {
    let data = blocking(move || all(&app)).await?;
    Ok(JsonResponse(ModelList { object: "list".into(), data }))
}

/// Describes a model.
pub async fn one(State(app): State<App>, Path(name): Path<String>) -> Result<JsonResponse<Model>, ApiError> {
    let name = model_name(&name, &app)?;
    let found = blocking(move || {
        let listed = |name: &str| Ok::<_, ApiError>(all(&app)?.into_iter().find(|model| model.id == name));
        let mut found = if let Some(found) = listed(&name)? {
            found
        } else {
            // A name that is not listed, but meant: an alias, or one with a tag.
            let model = app.node().model(&name)?;
            listed(model.name())?.ok_or_else(|| ApiError::not_found(format!("there is no model `{name}`")))?
        };
        if let Some(facts) = &mut found.hublab
            && facts.kind == "model"
            && let Ok(model) = app.node().model(&found.id)
        {
            facts.context_tokens = Some(model.facts().context as u64);
        }
        Ok(found)
    })
    .await?;
    Ok(JsonResponse(found))
}

fn all(app: &App) -> Result<Vec<Model>, ApiError> {
    let loaded: HashSet<String> = app.node().status().models.into_iter().map(|model| model.name).collect();
    let catalog = app.node().catalog()?;
    let models = catalog.into_iter().map(|found| described(&found, loaded.contains(&found.name)));
    let swarms = app.config().swarms.iter().map(|source| Model {
        id: source.model_name(),
        object: "model".into(),
        created: 0,
        owned_by: "hublab".into(),
        hublab: Some(ModelFacts { kind: "swarm".into(), ..ModelFacts::default() }),
    });
    Ok(models.chain(swarms).collect())
}

fn described(found: &CatalogModel, loaded: bool) -> Model {
    let since = found.modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    Model {
        id: found.name.clone(),
        object: "model".into(),
        created: since.map_or(0, |since| since.as_secs()),
        owned_by: "hublab".into(),
        hublab: Some(ModelFacts {
            kind: "model".into(),
            bytes: Some(found.bytes),
            context_tokens: None,
            loaded: Some(loaded),
        }),
    }
}
