//! The one error type of the client.

use std::fmt::{self, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value as Json;

use crate::wire::openai::{CONTEXT_LENGTH_EXCEEDED, ErrorDetail};

/// What the client fails at, or the service refuses.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No service answers.
    #[error("no HubLab service answers: tried {}; start `hublab serve`, or set HUBLAB_HOST to where it listens", list(.tried))]
    CannotConnect {
        /// What was tried.
        tried: Vec<Attempt>,
    },
    /// An address that cannot be used.
    #[error("`{address}` is no address of a service: {problem}; use http://HOST:PORT, https://HOST:PORT or unix:/PATH")]
    BadAddress {
        /// As given.
        address: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Authorities that cannot be trusted because they cannot be read.
    #[error("cannot trust the certificates of {}: {problem}; give a file of certificates in PEM", path.display())]
    BadAuthorities {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A key that cannot be sent.
    #[error("the API key cannot be sent: it holds characters that a header may not have (a line break at its end?)")]
    BadKey,
    /// The service says no.
    #[error("the service refuses{}: {message}{}", status_text(*.status), key_text(*.status))]
    Refused {
        /// The status; `None` for an error in the middle of a stream.
        status: Option<u16>,
        /// What is wrong, in the service's words.
        message: String,
        /// A word for programs.
        code: Option<String>,
        /// The field that is at fault.
        param: Option<String>,
    },
    /// The prompt does not fit.
    #[error("the prompt is too long for the model's context: {message}")]
    ContextTooLong {
        /// Tokens of the prompt, if the service says it.
        prompt_tokens: Option<u64>,
        /// Positions of the context, the answer included, if the service says it.
        context_tokens: Option<u64>,
        /// The service's words.
        message: String,
    },
    /// Too many requests at once, or the service is starting or stopping.
    #[error("the service is busy: {message}; try again{}", after_text(*.retry_after))]
    Busy {
        /// The service's words.
        message: String,
        /// When to try again, if the service says it.
        retry_after: Option<Duration>,
    },
    /// The answer is not what the protocol says.
    #[error("the answer of {place} is broken: {problem}")]
    BrokenAnswer {
        /// Where in the answer.
        place: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The connection ended before the answer did.
    #[error("the connection to the service was cut {place}: {problem}; see the service's log")]
    Interrupted {
        /// How far it was.
        place: String,
        /// What the connection says.
        problem: String,
    },
    /// Nothing came for too long.
    #[error("nothing came from the service for {} s {place}: is it overloaded? `AiClient::with_timeout` waits longer", .after.as_secs_f64())]
    TimedOut {
        /// How far it was.
        place: String,
        /// For how long.
        after: Duration,
    },
    /// The request was given up by [`Canceller::cancel`](super::Canceller::cancel).
    #[error("the request was given up")]
    Cancelled,
    /// An answer or arguments that should be read as something else than they are.
    #[error("{what} cannot be read as what the program expects: {problem}")]
    Mismatch {
        /// What was read.
        what: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The client's own thread is gone or could not be started.
    #[error("the client cannot work: {0}")]
    Thread(String),
    /// The engine of this process says no.
    #[cfg(feature = "embedded")]
    #[error(transparent)]
    Engine(hublabio_runtime::Error),
}

/// The client's results.
pub type Result<T> = std::result::Result<T, Error>;

/// An address that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The address.
    pub address: String,
    /// Why it was none.
    pub problem: String,
}

/// Most of a service's words that are kept where they are not in the form of an error.
const WORDS_MAX: usize = 300;

impl Error {
    pub(crate) fn broken(place: impl Into<String>, problem: impl fmt::Display) -> Self {
        Self::BrokenAnswer { place: place.into(), problem: problem.to_string() }
    }

    /// What a status and a body mean together.
    pub(crate) fn of_status(status: u16, retry_after: Option<Duration>, body: &[u8]) -> Self {
        let detail = detail_of(body).unwrap_or_else(|| {
            let text = String::from_utf8_lossy(body);
            let text: String = text.trim().chars().filter(|c| !c.is_control()).take(WORDS_MAX).collect();
            let message = if text.is_empty() { "it gives no reason".into() } else { text };
            ErrorDetail { message, ..ErrorDetail::default() }
        });
        if matches!(status, 429 | 503) && detail.code.as_deref() != Some(CONTEXT_LENGTH_EXCEEDED) {
            return Self::Busy { message: detail.message, retry_after };
        }
        Self::of_detail(Some(status), detail)
    }

    /// What an error of the service means.
    pub(crate) fn of_detail(status: Option<u16>, detail: ErrorDetail) -> Self {
        let ErrorDetail { message, param, code, prompt_tokens, context_tokens, .. } = detail;
        if code.as_deref() == Some(CONTEXT_LENGTH_EXCEEDED) {
            return Self::ContextTooLong { prompt_tokens, context_tokens, message };
        }
        Self::Refused { status, message, code, param }
    }
}

/// An error in OpenAI's form, `{"error": {"message": …}}`, or in Ollama's, `{"error": …}`.
fn detail_of(body: &[u8]) -> Option<ErrorDetail> {
    match serde_json::from_slice::<Json>(body).ok()?.get_mut("error")?.take() {
        Json::String(message) => Some(ErrorDetail { message, ..ErrorDetail::default() }),
        detail => serde_json::from_value(detail).ok(),
    }
}

fn list(tried: &[Attempt]) -> String {
    let mut text = String::new();
    for (at, Attempt { address, problem }) in tried.iter().enumerate() {
        let comma = if at == 0 { "" } else { ", " };
        let _ = write!(text, "{comma}{address} ({problem})");
    }
    text
}

fn status_text(status: Option<u16>) -> String {
    status.map_or(String::new(), |status| format!(" (status {status})"))
}

/// The service cannot know how this program gives its key.
fn key_text(status: Option<u16>) -> &'static str {
    if status == Some(401) { "; the key is given by HUBLAB_API_KEY or `AiClient::with_api_key`" } else { "" }
}

fn after_text(after: Option<Duration>) -> String {
    after.map_or_else(|| " later".into(), |after| format!(" in {} s", after.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_and_bodies_become_errors() {
        let of = |status, body: &str| Error::of_status(status, Some(Duration::from_secs(3)), body.as_bytes());
        for (error, expected) in [
            (
                of(
                    400,
                    r#"{"error":{"message":"no field `x`","type":"invalid_request_error","param":"x","code":"unknown"}}"#,
                ),
                "the service refuses (status 400): no field `x`",
            ),
            (of(404, r#"{"error":"model 'x' not found"}"#), "the service refuses (status 404): model 'x' not found"),
            (
                of(401, r#"{"error":{"message":"no key"}}"#),
                "the service refuses (status 401): no key; the key is given by HUBLAB_API_KEY or `AiClient::with_api_key`",
            ),
            (of(502, "<h1>\nBad\u{7}</h1>"), "the service refuses (status 502): <h1>Bad</h1>"),
            (of(500, ""), "the service refuses (status 500): it gives no reason"),
            (of(429, r#"{"error":{"message":"256 wait"}}"#), "the service is busy: 256 wait; try again in 3 s"),
            (
                of(
                    400,
                    r#"{"error":{"message":"9 of 8","code":"context_length_exceeded","prompt_tokens":9,"context_tokens":8}}"#,
                ),
                "the prompt is too long for the model's context: 9 of 8",
            ),
        ] {
            assert_eq!(error.to_string(), expected);
        }
        let text = of(500, &"long ".repeat(1000)).to_string();
        assert!(text.len() < 400, "{}", text.len());
    }
}
