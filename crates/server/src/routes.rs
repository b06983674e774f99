//! The table of paths.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{delete, get, post};

use crate::error::{ApiError, Dialect};
use crate::state::App;
use crate::{anthropic, conversations, heap, metrics, ollama, openai, own, security, web};

/// Where a client of Anthropic's looks for the name of its request.
const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");

/// Every path, and what each request passes before it is looked at: the counters, then the guard.
pub fn table(app: App) -> Router {
    Router::new()
        .route("/health", get(own::status::health))
        .route("/ready", get(own::status::ready))
        .route("/metrics", get(own::status::metrics))
        .route("/openapi.json", get(own::openapi::document))
        .route("/api/load", post(own::models::load))
        .route("/api/unload", post(own::models::unload))
        .route("/api/tokenize", post(own::tokens::tokenize))
        .route("/api/detokenize", post(own::tokens::detokenize))
        .route("/v1/models", get(anthropic::models::list))
        .route("/v1/models/{*model}", get(anthropic::models::one))
        .route("/v1/chat/completions", post(openai::chat::completions))
        .route("/v1/completions", post(openai::completions::completions))
        .route("/v1/embeddings", post(openai::embeddings::embeddings))
        .merge(conversations::routes())
        .merge(web::routes())
        .route("/v1/responses", post(openai::responses::create))
        .route("/v1/responses/{id}", get(openai::responses::one).delete(openai::responses::remove))
        .route("/v1/responses/{id}/input_items", get(openai::responses::input_items))
        .route("/v1/messages", post(anthropic::messages::messages))
        .route("/v1/messages/count_tokens", post(anthropic::messages::count_tokens))
        .merge(ollama())
        .fallback(not_found)
        .method_not_allowed_fallback(not_allowed)
        .layer(from_fn_with_state(app.clone(), heap::hold))
        .layer(from_fn(survive))
        .layer(from_fn_with_state(app.clone(), security::guard))
        .layer(from_fn_with_state(app.clone(), in_dialect))
        .layer(from_fn_with_state(app.clone(), metrics::count))
        .with_state(app)
}

/// Ollama's paths.
fn ollama() -> Router<App> {
    Router::new()
        .route("/api/generate", post(ollama::generate::generate))
        .route("/api/chat", post(ollama::chat::chat))
        .route("/api/embed", post(ollama::embed::embed))
        .route("/api/embeddings", post(ollama::embed::embeddings))
        .route("/api/tags", get(ollama::models::tags))
        .route("/api/show", post(ollama::show::show))
        .route("/api/ps", get(ollama::models::ps))
        .route("/api/version", get(ollama::models::version))
        .route("/api/copy", post(ollama::store::copy))
        .route("/api/delete", delete(ollama::store::remove))
        .route("/api/pull", post(ollama::store::pull))
        .route("/api/create", post(ollama::store::create))
        .route("/api/push", post(ollama::store::push))
        .route("/api/blobs/{digest}", post(ollama::store::blob).head(ollama::store::blob))
}

async fn not_found(uri: Uri) -> ApiError {
    let path: String = uri.path().chars().take(200).collect();
    ApiError::not_found(format!("there is nothing at `{path}`: docs/API.md lists the paths")).coded("unknown_path")
}

async fn not_allowed(method: Method, uri: Uri) -> ApiError {
    let path: String = uri.path().chars().take(200).collect();
    let method: String = method.as_str().chars().take(20).collect();
    let message = format!("`{path}` does not take {method}: the header `Allow` says what it takes");
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message).coded("method_not_allowed")
}

/// Makes a panic of a handler an error of its own request. The program has said where and why on standard error.
async fn survive(request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let mut handled = pin!(next.run(request));
    let response = poll_fn(|context| {
        // After a panic the handler is not looked at again; what it shared is guarded against that.
        match catch_unwind(AssertUnwindSafe(|| handled.as_mut().poll(context))) {
            Ok(poll) => poll.map(Some),
            Err(_) => Poll::Ready(None),
        }
    });
    response.await.unwrap_or_else(|| {
        tracing::error!(path, "a request made its handler panic");
        let message = "the request failed in a way that was not foreseen: the service goes on";
        ApiError::internal(message).into_response()
    })
}

/// Writes errors anew where the request speaks another dialect than OpenAI's, and names the requests of Anthropic's.
async fn in_dialect(State(app): State<App>, request: Request, next: Next) -> Response {
    let dialect = Dialect::of_request(request.uri().path(), request.headers());
    let mut response = next.run(request).await;
    if dialect == Dialect::OpenAi {
        return response;
    }
    let request_id = (dialect == Dialect::Anthropic).then(|| app.new_id("req_"));
    if let Some(error) = response.extensions().get::<ApiError>() {
        let mut anew = error.response_to(dialect, request_id.as_deref());
        for (name, value) in response.headers() {
            // What other layers and the router added.
            if !anew.headers().contains_key(name) && name != header::CONTENT_LENGTH {
                anew.headers_mut().append(name.clone(), value.clone());
            }
        }
        response = anew;
    }
    if let Some(id) = request_id.and_then(|id| HeaderValue::try_from(id).ok()) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use tower_service::Service as _;

    use super::*;

    #[tokio::test]
    async fn a_panic_ends_its_own_request_with_an_error() {
        async fn breaks() {
            tokio::task::yield_now().await;
            panic!("as it should");
        }
        let mut table = Router::new().route("/breaks", get(breaks)).route("/fine", get(async || "fine"));
        table = table.layer(from_fn(survive));
        for (path, status) in [("/breaks", 500), ("/fine", 200), ("/breaks", 500)] {
            let request = Request::get(path).body(Body::empty()).unwrap();
            assert_eq!(table.call(request).await.unwrap().status(), status);
        }
    }
}
