//! `/health`, `/ready`, `/metrics`.

use std::sync::atomic::Ordering;

use axum::Json as JsonResponse;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use hublabio_runtime::node::NodeStatus;
use hublabio_sdk::wire::own::{Health, Ready};

use crate::error::ApiError;
use crate::state::{App, blocking};

/// Says that the service is there. Touches no model.
#[utoipa::path(get, path = "/health", tag = "own", responses((status = 200, description = "It is there", body = Health)))]
pub async fn health() -> JsonResponse<Health> {
    JsonResponse(Health { status: "ok".into(), version: env!("CARGO_PKG_VERSION").into() })
}

/// Says whether requests are taken.
#[utoipa::path(
    get,
    path = "/ready",
    tag = "own",
    responses(
        (status = 200, description = "Requests are taken", body = Ready),
        (status = 503, description = "They are not: the queue is full, or the service ends", body = Ready),
    )
)]
pub async fn ready(State(app): State<App>) -> Response {
    let answer = |code: StatusCode, status: &str| (code, JsonResponse(Ready { status: status.into() })).into_response();
    if app.is_ending() {
        return answer(StatusCode::SERVICE_UNAVAILABLE, "stopping");
    }
    let queue_max = app.node().config().queue_max;
    // Questions to swarms have a queue of their own.
    if app.node().status().work.waiting >= queue_max || app.swarm_questions().load(Ordering::Relaxed) >= queue_max {
        return answer(StatusCode::SERVICE_UNAVAILABLE, "busy");
    }
    answer(StatusCode::OK, "ready")
}

/// What the service counts, for Prometheus.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "own",
    responses((status = 200, description = "Counters in Prometheus' text form", body = String, content_type = "text/plain"))
)]
pub async fn metrics(State(app): State<App>) -> Result<Response, ApiError> {
    let open = app.connections().load(Ordering::Relaxed);
    let max_memory = app.node().config().max_memory;
    // Whoever opens a swarm meanwhile is waited for.
    let asked = app.clone();
    let status = NodeStatus { max_memory, ..blocking(move || Ok(asked.node_status())).await? };
    let text = app.metrics().text(&status, app.heap(), open);
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}
