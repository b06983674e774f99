//! Streamed answers.

use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::{Body, Incoming};
use tokio::task::AbortHandle;
use tokio::time::{Instant, Sleep, sleep};

use crate::ai::error::{Error, Result};
use crate::ai::http::{Connection, text_of};
use crate::ai::response::{Accumulator, Piece, Response};
use crate::ai::sse;
use crate::wire::openai::{ChatCompletionChunk, DONE, ErrorBody};

const PLACE: &str = "/v1/chat/completions (streamed)";
const IN_THE_MIDDLE: &str = "in the middle of a streamed answer";

/// A streamed answer: its pieces as they come, in the end the whole.
///
/// Dropping it closes the connection, and the service stops working on the answer within a step. It is a
/// [`futures_core::Stream`], too.
pub struct Stream {
    chunks: ChunkStream,
    answer: Accumulator,
    pieces: VecDeque<Piece>,
    is_over: bool,
}

impl Stream {
    pub(crate) fn new(chunks: ChunkStream) -> Self {
        Self { chunks, answer: Accumulator::default(), pieces: VecDeque::new(), is_over: false }
    }

    /// The next piece; `None` when the answer has ended well.
    pub async fn next(&mut self) -> Option<Result<Piece>> {
        poll_fn(|context| self.poll_piece(context)).await
    }

    /// Reads what is left, and gives the whole answer.
    ///
    /// # Errors
    /// As its pieces.
    pub async fn finish(mut self) -> Result<Response> {
        while let Some(piece) = self.next().await {
            piece?;
        }
        Ok(self.response())
    }

    /// The answer as far as it has come. Tool calls are in it when the answer has ended.
    #[must_use]
    pub fn response(&self) -> Response {
        self.answer.response()
    }

    /// What gives the answer up from elsewhere.
    #[must_use]
    pub fn canceller(&self) -> Canceller {
        self.chunks.canceller.clone()
    }

    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Piece>>> {
        loop {
            if let Some(piece) = self.pieces.pop_front() {
                return Poll::Ready(Some(Ok(piece)));
            }
            if self.is_over {
                return Poll::Ready(None);
            }
            let problem = match ready!(self.chunks.poll_chunk(context)) {
                Some(Ok(chunk)) => self.answer.add(chunk, &mut self.pieces).err(),
                Some(Err(error)) => Some(error),
                None if self.answer.is_finished() => {
                    self.is_over = true;
                    None
                }
                None => Some(Error::broken(PLACE, "it has no `finish_reason`")),
            };
            if let Some(problem) = problem {
                self.is_over = true;
                return Poll::Ready(Some(Err(problem)));
            }
        }
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("answer", &self.answer).finish_non_exhaustive()
    }
}

impl futures_core::Stream for Stream {
    type Item = Result<Piece>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_piece(context)
    }
}

/// Gives a streamed answer up, from any thread. Its next piece is then [`Error::Cancelled`].
#[derive(Clone, Debug)]
pub struct Canceller {
    is_cancelled: Arc<AtomicBool>,
    /// Closes the connection.
    connection: Option<AbortHandle>,
}

impl Canceller {
    /// Gives the answer up. One that has ended already stays as it is.
    pub fn cancel(&self) {
        self.is_cancelled.store(true, Ordering::Release);
        if let Some(connection) = &self.connection {
            connection.abort();
        }
    }
}

/// The chunks of an answer.
pub(crate) struct ChunkStream {
    source: Source,
    canceller: Canceller,
}

enum Source {
    Service(Box<Service>),
    #[cfg(feature = "embedded")]
    Engine {
        chunks: tokio::sync::mpsc::UnboundedReceiver<Result<ChatCompletionChunk>>,
        closed: Arc<AtomicBool>,
    },
}

struct Service {
    body: Incoming,
    parser: sse::Parser,
    events: VecDeque<sse::Event>,
    silence_max: Duration,
    silence: Pin<Box<Sleep>>,
    _connection: Connection,
}

impl ChunkStream {
    pub fn of_service(body: Incoming, connection: Connection, silence_max: Duration) -> Self {
        let connection_handle = connection.abort_handle();
        let service = Service {
            body,
            parser: sse::Parser::default(),
            events: VecDeque::new(),
            silence_max,
            silence: Box::pin(sleep(silence_max)),
            _connection: connection,
        };
        let canceller = Canceller { is_cancelled: Arc::default(), connection: Some(connection_handle) };
        Self { source: Source::Service(Box::new(service)), canceller }
    }

    /// `closed` tells the engine that nobody listens.
    #[cfg(feature = "embedded")]
    pub fn of_engine(
        chunks: tokio::sync::mpsc::UnboundedReceiver<Result<ChatCompletionChunk>>,
        closed: Arc<AtomicBool>,
    ) -> Self {
        let canceller = Canceller { is_cancelled: Arc::clone(&closed), connection: None };
        Self { source: Source::Engine { chunks, closed }, canceller }
    }

    fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<ChatCompletionChunk>>> {
        let found = match &mut self.source {
            Source::Service(service) => ready!(service.poll_chunk(context)),
            #[cfg(feature = "embedded")]
            Source::Engine { chunks, .. } => ready!(chunks.poll_recv(context)),
        };
        // A connection that was closed on purpose looks like one that was cut.
        let is_cancelled = self.canceller.is_cancelled.load(Ordering::Acquire);
        Poll::Ready(if is_cancelled { Some(Err(Error::Cancelled)) } else { found })
    }
}

#[cfg(feature = "embedded")]
impl Drop for Source {
    fn drop(&mut self) {
        if let Self::Engine { closed, .. } = self {
            closed.store(true, Ordering::Release);
        }
    }
}

impl Service {
    fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<ChatCompletionChunk>>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Poll::Ready(chunk_of(&event));
            }
            let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
                ready!(self.silence.as_mut().poll(context));
                return Poll::Ready(Some(Err(Error::TimedOut {
                    place: IN_THE_MIDDLE.into(),
                    after: self.silence_max,
                })));
            };
            self.silence.as_mut().reset(Instant::now() + self.silence_max);
            let problem = match frame {
                None => "it ended without the mark of the end".to_owned(),
                Some(Err(error)) => text_of(&error),
                Some(Ok(frame)) => {
                    let Some(data) = frame.data_ref() else { continue };
                    if let Err(problem) = self.parser.push(data, &mut self.events) {
                        return Poll::Ready(Some(Err(Error::broken(PLACE, problem))));
                    }
                    continue;
                }
            };
            return Poll::Ready(Some(Err(Error::Interrupted { place: IN_THE_MIDDLE.into(), problem })));
        }
    }
}

/// What an event says; `None` for the end.
fn chunk_of(event: &sse::Event) -> Option<Result<ChatCompletionChunk>> {
    if event.data.trim() == DONE {
        return None;
    }
    Some(serde_json::from_str(&event.data).map_err(|problem| match serde_json::from_str::<ErrorBody>(&event.data) {
        Ok(body) => Error::of_detail(None, body.error),
        Err(_) => Error::broken(PLACE, problem),
    }))
}
