//! `/api/load` and `/api/unload`: which models are in memory.

use std::time::{Duration, Instant};

use axum::Json as JsonResponse;
use axum::extract::State;
use hublabio_runtime::ai::Json;
use hublabio_runtime::node::KeepAlive;
use hublabio_sdk::wire::own::{LoadRequest, LoadResponse, UnloadRequest, UnloadResponse};

use crate::chat::model_name;
use crate::error::ApiError;
use crate::fields::{Fields, wrong_type};
use crate::limits::JsonBody;
use crate::state::{App, blocking};

/// Brings a model into memory.
#[utoipa::path(
    post,
    path = "/api/load",
    tag = "own",
    request_body = LoadRequest,
    responses((status = 200, description = "It is in memory", body = LoadResponse))
)]
pub async fn load(State(app): State<App>, JsonBody(body): JsonBody) -> Result<JsonResponse<LoadResponse>, ApiError> {
    let fields = Fields::of_body(&body)?;
    let given = fields.required("model", fields.text("model")?)?;
    let stay = keep_alive("keep_alive", fields.get("keep_alive"))?;
    fields.finish(&[])?;
    let model = model_name(given, &app)?;
    if app.swarm_source(&model).is_some() && stay != KeepAlive::AsBefore {
        let message = "the experts of a swarm leave memory by themselves (`server.keep_alive`): leave `keep_alive` out";
        return Err(ApiError::field("keep_alive", message).coded("unsupported_value"));
    }
    let begun = Instant::now();
    let name = model.clone();
    blocking(move || match app.swarm_source(&name).cloned() {
        // Its experts come when they are asked.
        Some(source) => app.open_swarm(&source).map(drop),
        None => Ok(app.node().load(&name, stay)?),
    })
    .await?;
    Ok(JsonResponse(LoadResponse { model, load_s: begun.elapsed().as_secs_f64() }))
}

/// Frees a model's memory, when its running answers have ended.
#[utoipa::path(
    post,
    path = "/api/unload",
    tag = "own",
    request_body = UnloadRequest,
    responses((status = 200, description = "It is not in memory", body = UnloadResponse))
)]
pub async fn unload(
    State(app): State<App>,
    JsonBody(body): JsonBody,
) -> Result<JsonResponse<UnloadResponse>, ApiError> {
    let fields = Fields::of_body(&body)?;
    let given = fields.required("model", fields.text("model")?)?;
    fields.finish(&[])?;
    let model = model_name(given, &app)?;
    if app.swarm_source(&model).is_some() {
        let message = "the experts of a swarm leave memory by themselves (`server.keep_alive`)";
        return Err(ApiError::field("model", message).coded("unsupported_value"));
    }
    let name = model.clone();
    let was_loaded = blocking(move || {
        let name = app.node().model(&name)?.name().to_owned();
        Ok(app.node().unload(&name)?)
    })
    .await?;
    Ok(JsonResponse(UnloadResponse { model, was_loaded }))
}

/// How long a model stays, as Ollama writes it: seconds, or a text with units (`5m`, `1h30m`); negative for as long as no other
/// needs the memory.
///
/// # Errors
/// 400 for anything else.
pub fn keep_alive(path: &str, value: Option<&Json>) -> Result<KeepAlive, ApiError> {
    const WANTED: &str = "a number of seconds, or a text such as `5m`";
    let of_seconds = |seconds: f64| {
        if seconds < 0.0 {
            Some(KeepAlive::Forever)
        } else {
            Duration::try_from_secs_f64(seconds).ok().map(KeepAlive::For)
        }
    };
    let stay = match value {
        None => return Ok(KeepAlive::AsBefore),
        Some(Json::Number(seconds)) => seconds.as_f64().and_then(of_seconds),
        Some(Json::String(text)) => seconds_of(text).and_then(of_seconds),
        Some(other) => return Err(wrong_type(path, WANTED, other)),
    };
    stay.ok_or_else(|| ApiError::field(path, format!("`{path}` must be {WANTED}")).coded("invalid_value"))
}

/// A duration as Go writes it: `300`, `5m`, `1h30m`, `-1`.
fn seconds_of(text: &str) -> Option<f64> {
    const UNITS: [(&str, f64); 4] = [("ms", 1e-3), ("h", 3600.0), ("m", 60.0), ("s", 1.0)];
    let (sign, mut rest) = match text.trim().strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.trim()),
    };
    if rest.is_empty() || rest.len() > 32 {
        return None;
    }
    if let Ok(seconds) = rest.parse::<f64>() {
        return seconds.is_finite().then_some(sign * seconds);
    }
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let (unit, scale) = UNITS.iter().find(|(unit, _)| rest[digits..].starts_with(unit))?;
        total += number * scale;
        rest = &rest[digits + unit.len()..];
    }
    Some(sign * total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_stay_is_read_as_ollama_writes_it() {
        let seconds = |n| KeepAlive::For(Duration::from_secs(n));
        for (given, expected) in [
            (json!(300), seconds(300)),
            (json!("5m"), seconds(300)),
            (json!("1h30m"), seconds(5400)),
            (json!("90"), seconds(90)),
            (json!(0), seconds(0)),
            (json!(-1), KeepAlive::Forever),
            (json!("-1m"), KeepAlive::Forever),
        ] {
            assert_eq!(keep_alive("keep_alive", Some(&given)).unwrap(), expected, "{given}");
        }
        assert_eq!(keep_alive("keep_alive", None).unwrap(), KeepAlive::AsBefore);
        for bad in [json!("soon"), json!("5x"), json!(""), json!(true), json!(1e300), json!("1e999")] {
            assert!(keep_alive("keep_alive", Some(&bad)).is_err(), "{bad}");
        }
    }
}
