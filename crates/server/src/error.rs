//! What a request is refused with: one error for all dialects, and how each of them writes it.
//!
//! A handler returns an [`ApiError`]; the body is written at the very end, when it is known by which path the request came.

use std::borrow::Cow;

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hublabio_runtime::Error;
use hublabio_runtime::store::StoreError;
use serde_json::{Map, Value as Json, json};

/// Anthropic's status for a service that has too much to do.
const OVERLOADED: u16 = 529;

/// Why a request is refused, or failed.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiError {
    /// The HTTP status.
    pub status: StatusCode,
    /// What, where, and what to do.
    pub message: String,
    /// The field at fault, as a path from the body's root (`messages[0].content`).
    pub param: Option<String>,
    /// A word for programs (`context_length_exceeded`).
    pub code: Option<Cow<'static, str>>,
    /// When to try again, in seconds.
    pub retry_after_s: Option<u64>,
    /// More about it, beside the fields that every error has.
    pub extra: Vec<(&'static str, Json)>,
}

impl ApiError {
    /// An error with a message and nothing else.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None, code: None, retry_after_s: None, extra: Vec::new() }
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// 400, about a field.
    pub fn field(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::bad_request(message).about(param)
    }

    /// 404.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// 500.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// 503: the service is going away, or a part of it is full.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self { retry_after_s: Some(1), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, message) }
    }

    /// The same with the field at fault.
    #[must_use]
    pub fn about(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// The same with a word for programs.
    #[must_use]
    pub fn coded(mut self, code: impl Into<Cow<'static, str>>) -> Self {
        self.code = Some(code.into());
        self
    }

    /// The same with a field that only some errors have.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Json>) -> Self {
        self.extra.push((name, value.into()));
        self
    }

    /// The class of errors that OpenAI's interface has for the status.
    pub fn openai_type(&self) -> &'static str {
        match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// The class of errors that Anthropic's interface has for the status.
    pub fn anthropic_type(&self) -> &'static str {
        match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            503 | 529 => "overloaded_error",
            500.. => "api_error",
            _ => "invalid_request_error",
        }
    }

    /// The body of the error in a dialect; the same in an event of a stream.
    pub fn body(&self, dialect: Dialect) -> Json {
        match dialect {
            Dialect::OpenAi => json!({ "error": self.fields(self.openai_type()) }),
            Dialect::Anthropic => {
                let mut error = self.fields(self.anthropic_type());
                error.remove("param");
                error.remove("code");
                // Type first, as Anthropic has it.
                json!({ "type": "error", "error": error })
            }
            Dialect::Ollama => {
                let mut body = Map::new();
                body.insert("error".into(), self.message.as_str().into());
                body.extend(self.extra.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
                Json::Object(body)
            }
        }
    }

    fn fields(&self, class: &str) -> Map<String, Json> {
        let mut fields = Map::new();
        fields.insert("message".into(), self.message.as_str().into());
        fields.insert("type".into(), class.into());
        fields.insert("param".into(), self.param.as_deref().into());
        fields.insert("code".into(), self.code.as_deref().into());
        fields.extend(self.extra.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        fields
    }

    /// The whole answer in a dialect.
    pub fn response(&self, dialect: Dialect) -> Response {
        self.response_to(dialect, None)
    }

    /// The whole answer to a request that has a name, which Anthropic's errors repeat.
    pub fn response_to(&self, dialect: Dialect, request_id: Option<&str>) -> Response {
        let mut body = self.body(dialect);
        if let (Dialect::Anthropic, Some(id)) = (dialect, request_id) {
            body["request_id"] = id.into();
        }
        let status = match (dialect, self.status) {
            // The number by which Anthropic's clients know that they should come again.
            (Dialect::Anthropic, StatusCode::SERVICE_UNAVAILABLE) => {
                StatusCode::from_u16(OVERLOADED).expect("it is a status")
            }
            (_, status) => status,
        };
        let mut response = (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response();
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.status == StatusCode::PAYLOAD_TOO_LARGE {
            // What is left of the body is not waited for.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

impl IntoResponse for ApiError {
    /// In OpenAI's form; the error itself goes with it, so that another dialect can write it anew.
    fn into_response(self) -> Response {
        let mut response = self.response(Dialect::OpenAi);
        response.extensions_mut().insert(self);
        response
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}

impl From<Error> for ApiError {
    /// What the node says, with the status that says whose fault it is.
    fn from(error: Error) -> Self {
        use hublabio_runtime::ai::constraint::ConstraintError;
        use hublabio_runtime::moe::Error as MoeError;
        let message = error.to_string();
        match error {
            Error::NoSuchModel { .. } => Self::not_found(message).about("model").coded("model_not_found"),
            Error::PromptTooLong { prompt, context, .. } | Error::Swarm(MoeError::TooLong { prompt, context }) => {
                Self::bad_request(message)
                    .about("messages")
                    .coded("context_length_exceeded")
                    .with("prompt_tokens", prompt)
                    .with("context_tokens", context)
            }
            Error::Busy { .. } => {
                Self { retry_after_s: Some(1), ..Self::new(StatusCode::TOO_MANY_REQUESTS, message).coded("queue_full") }
            }
            Error::ShuttingDown => Self::unavailable(message).coded("shutting_down"),
            Error::Swarm(MoeError::NoExperts | MoeError::NoneFits) => {
                Self::bad_request(message).about("messages").coded("no_expert")
            }
            Error::Swarm(MoeError::EmptyQuery | MoeError::QueryTooLong { .. } | MoeError::NoSuchExpert(_)) => {
                Self::bad_request(message).about("messages")
            }
            Error::ModelTooLarge { .. } => Self::bad_request(message).about("model").coded("model_too_large"),
            Error::NoLogits { .. } => Self::bad_request(message).about("model"),
            Error::BadQuestion { field, .. } => Self::field(field, message).coded("invalid_value"),
            Error::BadStop { .. } => Self::field("stop", message),
            Error::TooManyLogProbs { .. } => Self::field("top_logprobs", message).coded("invalid_value"),
            Error::BiasOfUnknownToken { .. } => Self::field("logit_bias", message),
            Error::EmptyPrompt | Error::Chat(_) => Self::bad_request(message).about("messages"),
            Error::BadDryBreaker { .. } => Self::field("dry_sequence_breakers", message),
            Error::Constraint(ConstraintError::Step { .. } | ConstraintError::NotAllowed { .. }) => {
                Self::internal(message)
            }
            Error::Constraint(_) => Self::bad_request(message).coded("constraint_refused"),
            Error::Engine(hublabio_runtime::ai::EngineError::BadSampling { .. }) => Self::bad_request(message),
            Error::Engine(hublabio_runtime::ai::EngineError::BadSamplerOrder { .. }) => {
                Self::field("samplers", message)
            }
            Error::Store(error) => of_store(&error, message),
            _ => Self::internal(message),
        }
    }
}

/// What the store says: who asked may have named what is not there, or is not the store's to change.
fn of_store(error: &StoreError, message: String) -> ApiError {
    match error {
        StoreError::BadName { .. } | StoreError::OutsideStore { .. } => {
            ApiError::field("model", message).coded("invalid_model_name")
        }
        StoreError::BadReference { .. } => ApiError::field("model", message).coded("invalid_value"),
        StoreError::NotRemovable { .. } | StoreError::NoFolder => {
            ApiError::new(StatusCode::FORBIDDEN, message).coded("not_changeable")
        }
        StoreError::Exists { .. } => ApiError::bad_request(message).coded("model_exists"),
        StoreError::Refused { status: 404, .. } => ApiError::not_found(message).about("model").coded("model_not_found"),
        StoreError::DiskTooSmall { .. } | StoreError::MemoryTooSmall { .. } => {
            ApiError::bad_request(message).about("model").coded("model_too_large")
        }
        // Whoever has the model, or another download of it, is in the way: it may be better later.
        StoreError::Refused { .. }
        | StoreError::Unreachable { .. }
        | StoreError::BadAnswer { .. }
        | StoreError::WrongHash { .. }
        | StoreError::NotAModel { .. }
        | StoreError::Locked { .. } => ApiError::unavailable(message).coded("pull_failed"),
        _ => ApiError::internal(message),
    }
}

/// The header that Anthropic's clients send with every request.
pub const ANTHROPIC_VERSION: &str = "anthropic-version";

/// Whose form an answer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// OpenAI's, which our own endpoints share.
    OpenAi,
    /// Anthropic's.
    Anthropic,
    /// Ollama's.
    Ollama,
}

impl Dialect {
    /// By the path of a request, and for paths that two dialects share by what Anthropic's clients always send.
    pub fn of_request(path: &str, headers: &HeaderMap) -> Self {
        let is_shared = path == "/v1/models" || path.starts_with("/v1/models/");
        if is_shared && headers.contains_key(ANTHROPIC_VERSION) { Self::Anthropic } else { Self::of_path(path) }
    }

    /// By the path of a request.
    pub fn of_path(path: &str) -> Self {
        const OLLAMA: [&str; 13] = [
            "/api/generate",
            "/api/chat",
            "/api/embed",
            "/api/embeddings",
            "/api/tags",
            "/api/show",
            "/api/ps",
            "/api/pull",
            "/api/push",
            "/api/create",
            "/api/copy",
            "/api/delete",
            "/api/version",
        ];
        if path == "/v1/messages" || path.starts_with("/v1/messages/") {
            Self::Anthropic
        } else if OLLAMA.contains(&path) || path.starts_with("/api/blobs/") {
            Self::Ollama
        } else {
            Self::OpenAi
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_dialect_writes_an_error_in_its_own_form() {
        let error = ApiError::from(Error::PromptTooLong { prompt: 9, context: 8, trained: 8 });
        let openai = error.body(Dialect::OpenAi);
        assert_eq!(openai["error"]["type"], "invalid_request_error");
        assert_eq!(openai["error"]["code"], "context_length_exceeded");
        assert_eq!(openai["error"]["prompt_tokens"], 9);
        assert_eq!(openai["error"]["context_tokens"], 8);
        let anthropic = error.body(Dialect::Anthropic);
        assert_eq!(
            (&anthropic["type"], &anthropic["error"]["type"]),
            (&json!("error"), &json!("invalid_request_error"))
        );
        assert!(error.body(Dialect::Ollama)["error"].as_str().is_some_and(|text| text.contains("9 tokens")));
    }

    #[test]
    fn a_full_queue_says_when_to_come_again() {
        let response = ApiError::from(Error::Busy { waiting: 3 }).response(Dialect::OpenAi);
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()["retry-after"], "1");
    }

    #[test]
    fn anthropics_errors_name_the_request_and_have_their_own_status_for_too_much() {
        let response = ApiError::unavailable("later").response_to(Dialect::Anthropic, Some("req_1"));
        assert_eq!(response.status(), 529);
        assert_eq!(ApiError::unavailable("later").anthropic_type(), "overloaded_error");
        let mut headers = HeaderMap::new();
        assert_eq!(Dialect::of_request("/v1/models", &headers), Dialect::OpenAi);
        headers.insert(ANTHROPIC_VERSION, HeaderValue::from_static("2023-06-01"));
        assert_eq!(Dialect::of_request("/v1/models/a", &headers), Dialect::Anthropic);
        assert_eq!(Dialect::of_request("/v1/embeddings", &headers), Dialect::OpenAi);
    }

    #[test]
    fn the_path_tells_the_dialect() {
        for (path, dialect) in [
            ("/v1/chat/completions", Dialect::OpenAi),
            ("/v1/messages", Dialect::Anthropic),
            ("/v1/messages/count_tokens", Dialect::Anthropic),
            ("/api/chat", Dialect::Ollama),
            ("/api/tokenize", Dialect::OpenAi),
            ("/nowhere", Dialect::OpenAi),
        ] {
            assert_eq!(Dialect::of_path(path), dialect, "{path}");
        }
    }
}
