//! `/v1/models` for clients of either dialect: Anthropic's say by a header which one they speak.

use std::time::{Duration, UNIX_EPOCH};

use axum::Json as JsonResponse;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use hublabio_sdk::wire::anthropic::{ModelInfo, ModelPage};
use hublabio_sdk::wire::openai::{Model, ModelList};
use serde::Deserialize;

use crate::clock::rfc3339;
use crate::error::{ANTHROPIC_VERSION, ApiError};
use crate::fields::in_short;
use crate::openai;
use crate::state::App;

/// Models of a page where nothing is said, and at most.
const PAGE: usize = 20;
const PAGE_MAX: usize = 1000;

/// Which part of the list Anthropic's clients want.
#[derive(Debug, Deserialize)]
pub struct Page {
    limit: Option<usize>,
    after_id: Option<String>,
    before_id: Option<String>,
}

/// Lists the models. Who sends the header `anthropic-version` gets Anthropic's form of it, a page at a time.
#[utoipa::path(
    get,
    path = "/v1/models",
    tag = "openai",
    responses((status = 200, description = "All models", body = ModelList))
)]
pub async fn list(
    State(app): State<App>,
    headers: HeaderMap,
    page: Result<Query<Page>, QueryRejection>,
) -> Result<Response, ApiError> {
    let JsonResponse(list) = openai::models::list(State(app)).await?;
    if !headers.contains_key(ANTHROPIC_VERSION) {
        return Ok(JsonResponse(list).into_response());
    }
    let Query(page) = page.map_err(|error| ApiError::bad_request(error.body_text()))?;
    Ok(JsonResponse(page_of(&list.data, &page)?).into_response())
}

/// Describes a model, in the form of the list.
#[utoipa::path(
    get,
    path = "/v1/models/{model}",
    tag = "openai",
    params(("model" = String, Path, description = "Its name")),
    responses((status = 200, description = "The model", body = Model))
)]
pub async fn one(State(app): State<App>, headers: HeaderMap, name: Path<String>) -> Result<Response, ApiError> {
    let JsonResponse(model) = openai::models::one(State(app), name).await?;
    if headers.contains_key(ANTHROPIC_VERSION) {
        return Ok(JsonResponse(info(&model)).into_response());
    }
    Ok(JsonResponse(model).into_response())
}

fn info(model: &Model) -> ModelInfo {
    ModelInfo {
        kind: "model".into(),
        id: model.id.clone(),
        display_name: model.id.clone(),
        created_at: rfc3339(UNIX_EPOCH + Duration::from_secs(model.created)),
    }
}

fn page_of(models: &[Model], page: &Page) -> Result<ModelPage, ApiError> {
    let limit = page.limit.unwrap_or(PAGE);
    if limit == 0 || limit > PAGE_MAX {
        return Err(ApiError::field("limit", format!("`limit` is {limit}: ask for 1 to {PAGE_MAX} models")));
    }
    let place = |id: &str| {
        models
            .iter()
            .position(|model| model.id == id)
            .ok_or_else(|| ApiError::bad_request(format!("there is no model `{}` in the list", in_short(id))))
    };
    let begin = page.after_id.as_deref().map(place).transpose()?.map_or(0, |at| at + 1);
    let end = page.before_id.as_deref().map(place).transpose()?.unwrap_or(models.len()).max(begin);
    // What is asked for before a model is what stands next to it.
    let backwards = page.before_id.is_some() && page.after_id.is_none();
    let (begin, end, has_more) = match end - begin {
        found if found <= limit => (begin, end, false),
        _ if backwards => (end - limit, end, true),
        _ => (begin, begin + limit, true),
    };
    let data: Vec<ModelInfo> = models[begin..end].iter().map(info).collect();
    let id = |model: Option<&ModelInfo>| model.map(|model| model.id.clone());
    Ok(ModelPage { first_id: id(data.first()), last_id: id(data.last()), has_more, data })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other() {
        let models = |n: u32| -> Vec<Model> {
            let model = |id: u32| Model {
                id: id.to_string(),
                object: "model".into(),
                created: 0,
                owned_by: String::new(),
                hublab: None,
            };
            (0..n).map(model).collect()
        };
        let page = |limit, after: Option<&str>, before: Option<&str>| Page {
            limit,
            after_id: after.map(str::to_owned),
            before_id: before.map(str::to_owned),
        };
        for (asked, first, last, more) in [
            (page(None, None, None), "0", "4", false),
            (page(Some(2), None, None), "0", "1", true),
            (page(Some(2), Some("1"), None), "2", "3", true),
            (page(Some(2), Some("3"), None), "4", "4", false),
            (page(Some(2), None, Some("4")), "2", "3", true),
        ] {
            let found = page_of(&models(5), &asked).unwrap();
            assert_eq!((found.first_id.as_deref(), found.last_id.as_deref()), (Some(first), Some(last)));
            assert_eq!(found.has_more, more);
        }
        assert_eq!(page_of(&[], &page(None, None, None)).unwrap().first_id, None);
        assert!(page_of(&models(1), &page(Some(0), None, None)).is_err());
        assert!(page_of(&models(1), &page(None, Some("x"), None)).is_err());
    }
}
