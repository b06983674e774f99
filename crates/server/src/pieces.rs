//! Answers that come in pieces, as the trait that streams share.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;

/// What makes the pieces of an answer.
pub trait PieceSource: Send + 'static {
    /// What the answer consists of.
    type Piece: Send + Unpin + 'static;
    /// The next pieces; `None` after the last. Dropping the future, or the source, gives the work up.
    fn next(&mut self) -> impl Future<Output = Option<Vec<Self::Piece>>> + Send;
}

/// A source as a stream.
pub fn stream<S: PieceSource>(source: S) -> impl Stream<Item = Result<S::Piece, Infallible>> + Send {
    Pieces { turn: Some(Box::pin(take_turn(source))), ready: Vec::new().into_iter() }
}

type Turn<S> = Pin<Box<dyn Future<Output = (S, Option<Vec<<S as PieceSource>::Piece>>)> + Send>>;

struct Pieces<S: PieceSource> {
    turn: Option<Turn<S>>,
    ready: std::vec::IntoIter<S::Piece>,
}

async fn take_turn<S: PieceSource>(mut source: S) -> (S, Option<Vec<S::Piece>>) {
    let pieces = source.next().await;
    (source, pieces)
}

impl<S: PieceSource> Stream for Pieces<S> {
    type Item = Result<S::Piece, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(piece) = self.ready.next() {
                return Poll::Ready(Some(Ok(piece)));
            }
            let Some(turn) = &mut self.turn else { return Poll::Ready(None) };
            let Poll::Ready((source, pieces)) = turn.as_mut().poll(context) else { return Poll::Pending };
            match pieces {
                Some(pieces) => {
                    self.ready = pieces.into_iter();
                    self.turn = Some(Box::pin(take_turn(source)));
                }
                None => self.turn = None,
            }
        }
    }
}
