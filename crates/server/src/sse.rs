//! Server-sent events: a stream of JSON texts, with a comment now and then so that nobody takes silence for death.

use axum::http::{HeaderValue, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};

use crate::pieces::{self, PieceSource};
use crate::state::App;

/// What a dialect makes of a stream, one event after the other.
pub trait EventSource: Send + 'static {
    /// The next events; `None` after the last. Dropping the future, or the source, gives the work up.
    fn next(&mut self) -> impl Future<Output = Option<Vec<Event>>> + Send;
}

/// The response that streams `source`.
pub fn response(app: &App, source: impl EventSource) -> Response {
    let ping = KeepAlive::new().interval(app.config().limits.ping).text("ping");
    let mut response = Sse::new(pieces::stream(EventPieces(source))).keep_alive(ping).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // For proxies that would collect the events.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// An event that is a JSON text.
pub fn json_event(value: &impl serde::Serialize) -> Event {
    Event::default().data(serde_json::to_string(value).expect("wire types are JSON"))
}

/// Events as pieces of any kind.
struct EventPieces<S>(S);

impl<S: EventSource> PieceSource for EventPieces<S> {
    type Piece = Event;

    async fn next(&mut self) -> Option<Vec<Event>> {
        self.0.next().await
    }
}
