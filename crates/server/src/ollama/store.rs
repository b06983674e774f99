//! `/api/copy`, `/api/delete`, `/api/pull`, and what this service does not do: `/api/create`, `/api/push`, `/api/blobs`.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::Json as JsonResponse;
use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hublabio_runtime::store::ModelStore;
use hublabio_runtime::store::pull::{PullConfig, PullEvent, PullOptions, names_known_registry};
use hublabio_sdk::wire::ollama::{CopyRequest, DeleteRequest, ErrorBody, Progress, PullRequest};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::request;
use crate::chat::model_name;
use crate::error::ApiError;
use crate::fields::Fields;
use crate::limits::JsonBody;
use crate::pieces::{self, PieceSource};
use crate::state::{App, blocking};

/// How often a download says how far it is.
const LINE_EVERY: Duration = Duration::from_millis(200);

fn store(app: &App) -> Result<&ModelStore, ApiError> {
    let message = "this service has no store of models: it was started with others";
    app.node().store().ok_or_else(|| ApiError::new(StatusCode::FORBIDDEN, message).coded("not_changeable"))
}

/// Gives a model one more name. No file is copied.
#[utoipa::path(
    post,
    path = "/api/copy",
    tag = "ollama",
    request_body = CopyRequest,
    responses((status = 200, description = "It has the name"))
)]
pub async fn copy(State(app): State<App>, JsonBody(body): JsonBody) -> Result<StatusCode, ApiError> {
    let fields = Fields::of_body(&body)?;
    let source = fields.required("source", fields.text("source")?)?;
    let destination = fields.required("destination", fields.text("destination")?)?;
    fields.finish(&[])?;
    let source = request::find(&app, source).await.map_err(|error| error.about("source"))?;
    if source.context.is_none() {
        return Err(ApiError::field("source", "a swarm has one name").coded("unsupported_value"));
    }
    // A name that is to be is no path to a model that is.
    let destination = destination.to_owned();
    blocking(move || Ok(store(&app)?.add_alias(&source.name, &destination)?)).await?;
    Ok(StatusCode::OK)
}

/// Removes a model's files, or an alias.
#[utoipa::path(
    delete,
    path = "/api/delete",
    tag = "ollama",
    request_body = DeleteRequest,
    responses((status = 200, description = "It is gone"))
)]
pub async fn remove(State(app): State<App>, JsonBody(body): JsonBody) -> Result<StatusCode, ApiError> {
    let fields = Fields::of_body(&body)?;
    let given = request::model_field(&fields)?;
    fields.finish(&[])?;
    let name = model_name(given, &app)?;
    if app.swarm_source(&name).is_some() {
        let message = "a swarm is not removed through the service: start it without";
        return Err(ApiError::new(StatusCode::FORBIDDEN, message).coded("not_changeable"));
    }
    blocking(move || {
        let store = store(&app)?;
        // As everywhere here, `name:latest` means `name` where there is none of the whole name.
        let plain = name.strip_suffix(":latest").filter(|_| !store.contains(&name)).unwrap_or(&name);
        store.remove(plain)?;
        // Its memory is freed when its running answers have ended, which is not waited for.
        let (name, node) = (plain.to_owned(), app.node().clone());
        std::thread::spawn(move || node.unload(&name));
        Ok(StatusCode::OK)
    })
    .await
}

/// Fetches a model, where the operator allows it.
#[utoipa::path(
    post,
    path = "/api/pull",
    tag = "ollama",
    request_body = PullRequest,
    responses((status = 200, description = "How far it is, in lines unless `stream` is false", content(
        (Progress = "application/x-ndjson"),
        (Progress = "application/json"),
    )))
)]
pub async fn pull(State(app): State<App>, JsonBody(body): JsonBody) -> Result<Response, ApiError> {
    let fields = Fields::of_body(&body)?;
    let given = request::model_field(&fields)?.to_owned();
    let in_lines = fields.flag("stream")?.unwrap_or(true);
    if fields.flag("insecure")? == Some(true) {
        let message = "`insecure` can only be false: what a model is fetched from must show a certificate";
        return Err(ApiError::field("insecure", message).coded("unsupported_value"));
    }
    // Ollama's own client sends them always.
    for name in ["username", "password"] {
        request::says_nothing(&fields, name, "is not supported: models are fetched without an account")?;
    }
    fields.finish(&[])?;
    let shown: String = given.chars().take(200).collect();
    let refuse = |why: &str| {
        let message = format!("{why}: run `hublab pull {shown}` on its machine");
        Err(ApiError::new(StatusCode::FORBIDDEN, message).coded("pull_not_allowed"))
    };
    let Some(config) = app.config().pull.clone() else {
        return refuse(
            "this service opens no connection for a client, unless its operator allows it (--allow-pull, `server.allow_pull`)",
        );
    };
    if !names_known_registry(&given) {
        return refuse("this service fetches from Hugging Face and Ollama's registry only");
    }
    store(&app)?;
    let mut lines = Pulling::start(&app, given, config);
    // What fails before anything has come has a status.
    let first = lines.next_line().await?;
    if in_lines {
        lines.first = first;
        let body = Body::from_stream(pieces::stream(lines));
        return Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response());
    }
    let mut last = first;
    while let Some(line) = lines.next_line().await? {
        last = Some(line);
    }
    let last = last.ok_or_else(|| ApiError::internal("the download ended without a word: try again"))?;
    Ok(JsonResponse(last).into_response())
}

/// A download that goes on as long as somebody listens.
struct Pulling {
    first: Option<Progress>,
    lines: UnboundedReceiver<Result<Progress, ApiError>>,
    stop: Arc<AtomicBool>,
}

impl Drop for Pulling {
    fn drop(&mut self) {
        // What has come is kept, and the next request goes on with it.
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Pulling {
    fn start(app: &App, reference: String, config: PullConfig) -> Self {
        let (sender, lines) = unbounded_channel();
        let stop = Arc::new(AtomicBool::new(false));
        let options = PullOptions { config, stop: Some(Arc::clone(&stop)), ..PullOptions::default() };
        let app = app.clone();
        tokio::task::spawn_blocking(move || {
            let mut said_at: Option<Instant> = None;
            let pulled = store(&app).and_then(|store| {
                Ok(store.pull(&reference, &options, &mut |event| {
                    // Bytes come in small pieces; a line for each would be more bytes than the pieces.
                    let is_due = said_at.is_none_or(|at| at.elapsed() >= LINE_EVERY);
                    if matches!(event, PullEvent::Progress { .. } | PullEvent::Checking { .. }) && !is_due {
                        return ControlFlow::Continue(());
                    }
                    said_at = Some(Instant::now());
                    match sender.send(Ok(progress(event))) {
                        Ok(()) => ControlFlow::Continue(()),
                        Err(_) => ControlFlow::Break(()),
                    }
                })?)
            });
            let _ = sender.send(pulled.map(|report| Progress {
                status: "success".into(),
                digest: report.sha256.first().map(|hash| format!("sha256:{hash}")),
                total: Some(report.bytes),
                completed: Some(report.bytes),
            }));
        });
        Self { first: None, lines, stop }
    }

    async fn next_line(&mut self) -> Result<Option<Progress>, ApiError> {
        self.lines.recv().await.transpose()
    }
}

impl PieceSource for Pulling {
    type Piece = Bytes;

    async fn next(&mut self) -> Option<Vec<Bytes>> {
        let line = match self.first.take() {
            Some(first) => serde_json::to_vec(&first),
            None => match self.lines.recv().await? {
                Ok(line) => serde_json::to_vec(&line),
                Err(error) => serde_json::to_vec(&ErrorBody { error: error.to_string() }),
            },
        };
        let mut line = line.expect("wire types are JSON");
        line.push(b'\n');
        Some(vec![line.into()])
    }
}

fn progress(event: PullEvent) -> Progress {
    let (status, total, completed) = match event {
        PullEvent::Planned { name, bytes, bytes_there, .. } => (format!("pulling {name}"), bytes, Some(bytes_there)),
        PullEvent::Checking { bytes_done, bytes_total } => {
            ("checking what is there".into(), Some(bytes_total), Some(bytes_done))
        }
        PullEvent::Progress { bytes_done, bytes_total, .. } => ("pulling".into(), bytes_total, Some(bytes_done)),
        PullEvent::Restarted { reason } => (format!("it begins anew: {reason}"), None, None),
        PullEvent::Waiting { problem, wait, .. } => {
            (format!("{problem}; the next attempt comes in {:.0} s", wait.as_secs_f64()), None, None)
        }
        _ => ("pulling".into(), None, None),
    };
    Progress { status, digest: None, total, completed }
}

/// What is refused by name, with 403: the service changes no model.
fn not_here(what: &str, instead: &str) -> ApiError {
    let message = format!("{what} is not supported: {instead}");
    ApiError::new(StatusCode::FORBIDDEN, message).coded("unsupported_endpoint")
}

/// Refuses to make a model of another.
pub async fn create() -> ApiError {
    not_here("/api/create", "put a GGUF file into the folder of models, or run `hublab quantize`")
}

/// Refuses to publish a model.
pub async fn push() -> ApiError {
    not_here("/api/push", "this service publishes nothing")
}

/// Refuses to take files.
pub async fn blob() -> ApiError {
    not_here("/api/blobs", "put a GGUF file into the folder of models")
}
