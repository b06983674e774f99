//! One bound for what requests hold in memory beside the models: bodies and what is made of them, events that a client has
//! not read yet, and kept history. Each holds a share; when there is none left, the next who asks is refused by name.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{FromRequestParts, Request, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http_body::{Frame, SizeHint};

use crate::error::ApiError;
use crate::state::App;

/// Answers that are smaller need no share: the connection itself takes more.
const WHOLE_BYTES: usize = 64 << 10;

/// Bytes that requests and history may hold together; cheap to clone.
#[derive(Clone, Debug)]
pub struct Heap {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    taken: AtomicUsize,
    max: usize,
}

impl Heap {
    /// Of at most `max` bytes.
    pub fn new(max: usize) -> Self {
        Self { inner: Arc::new(Inner { taken: AtomicUsize::new(0), max }) }
    }

    /// Bytes that are held.
    pub fn taken(&self) -> usize {
        self.inner.taken.load(Ordering::Relaxed)
    }

    /// Bytes that may be held.
    pub fn max(&self) -> usize {
        self.inner.max
    }

    /// A share of `bytes`; `None` where they are not there.
    pub fn take(&self, bytes: usize) -> Option<HeapShare> {
        let mut share = HeapShare { heap: self.clone(), bytes: 0 };
        share.resize(bytes).then_some(share)
    }

    /// Takes `bytes` that are given back by [`give_back`](Self::give_back); whether they were there.
    pub fn try_take(&self, bytes: usize) -> bool {
        let grown = |taken: usize| taken.checked_add(bytes).filter(|&taken| taken <= self.inner.max);
        self.inner.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown).is_ok()
    }

    /// Gives back what was taken.
    pub fn give_back(&self, bytes: usize) {
        self.inner.taken.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Bytes of a [`Heap`], given back when it goes.
#[derive(Debug)]
pub struct HeapShare {
    heap: Heap,
    bytes: usize,
}

impl HeapShare {
    /// Makes it `bytes` large; where they are not there it stays as it is.
    pub fn resize(&mut self, bytes: usize) -> bool {
        if bytes < self.bytes {
            self.heap.give_back(self.bytes - bytes);
        } else if !self.heap.try_take(bytes - self.bytes) {
            return false;
        }
        self.bytes = bytes;
        true
    }
}

impl Drop for HeapShare {
    fn drop(&mut self) {
        self.heap.give_back(self.bytes);
    }
}

/// What a request holds while it is answered: the shares of its body, and of what is read for it.
#[derive(Clone, Default)]
pub(crate) struct HeldShare(Arc<Mutex<Vec<HeapShare>>>);

impl HeldShare {
    pub fn put(&self, share: HeapShare) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(share);
    }

    /// Takes `bytes` more.
    ///
    /// # Errors
    /// 413 where they are more than there are at all, 503 where others hold them.
    pub fn take(&self, app: &App, bytes: usize, what: &str) -> Result<(), ApiError> {
        let share = app.heap().take(bytes).ok_or_else(|| too_little(bytes, what, app))?;
        self.put(share);
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

impl<S: Send + Sync> FromRequestParts<S> for HeldShare {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_default())
    }
}

/// What is told to whom no share of the memory is left.
pub(crate) fn too_little(needed: usize, what: &str, app: &App) -> ApiError {
    let max = app.heap().max();
    if needed > max {
        let message = format!("{what} takes {needed} bytes, `kernel.heap_size` is {max}: ask for less, or raise it");
        return ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message).coded("body_too_large");
    }
    ApiError::unavailable("requests hold all memory that they may: try again").coded("overloaded")
}

/// Keeps the shares of a request until its answer has been sent, or nobody waits for it any more. An answer that is large and
/// whole takes a share of its own: a client may read it slowly.
pub(crate) async fn hold(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let held = HeldShare::default();
    request.extensions_mut().insert(held.clone());
    let response = next.run(request).await;
    let whole = response.body().size_hint().exact().map_or(0, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    if whole >= WHOLE_BYTES
        && let Err(error) = held.take(&app, whole, "the answer")
    {
        return error.into_response();
    }
    if held.is_empty() { response } else { response.map(|body| Body::new(HeldBody { body, _held: held })) }
}

/// A body that keeps a share as long as it is there.
struct HeldBody {
    body: Body,
    _held: HeldShare,
}

impl HttpBody for HeldBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_never_exceed_the_heap_and_come_back() {
        let heap = Heap::new(100);
        let mut first = heap.take(60).unwrap();
        assert!(heap.take(41).is_none());
        let second = heap.take(40).unwrap();
        assert_eq!(heap.taken(), 100);
        assert!(!first.resize(61));
        assert_eq!(heap.taken(), 100);
        assert!(first.resize(10));
        assert_eq!(heap.taken(), 50);
        assert!(!heap.try_take(usize::MAX));
        drop(second);
        assert!(first.resize(100));
        drop(first);
        assert_eq!(heap.taken(), 0);
    }

    #[test]
    fn many_threads_share_one_heap() {
        let heap = Heap::new(1000);
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let heap = &heap;
                scope.spawn(move || {
                    for turn in 0..2000 {
                        if let Some(mut share) = heap.take((thread * 37 + turn) % 400) {
                            assert!(heap.taken() <= 1000);
                            share.resize(turn % 300);
                            assert!(heap.taken() <= 1000);
                        }
                    }
                });
            }
        });
        assert_eq!(heap.taken(), 0);
    }
}
