//! The way from the thread that computes to the task that answers. The thread never waits; what a client leaves unread is
//! held in the share of memory that all requests have together, and who leaves too much unread is given up.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use hublabio_runtime::node::{AnswerEvent, AnswerSink};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::ChatEvent;
use crate::heap::Heap;

/// Unread bytes that every answer may have, whatever others hold: who keeps reading never has more.
const UNREAD_FREE: usize = 16 << 10;
/// The share of all memory for requests that one answer may leave unread.
const UNREAD_PART: usize = 128;

/// What a choice's source says: the node, or a swarm that has taken its answer apart already.
pub(super) enum Raw {
    Node(AnswerEvent),
    Event(ChatEvent),
}

impl Raw {
    /// Bytes that it holds, about.
    fn bytes(&self) -> usize {
        let text = match self {
            Self::Node(AnswerEvent::Piece { text, logprobs, .. }) => {
                let top = logprobs.as_ref().map_or(0, |found| found.top.len());
                text.len() + top * size_of::<(u32, f32)>()
            }
            Self::Event(ChatEvent::Text(text) | ChatEvent::Reasoning(text)) => text.len(),
            Self::Event(ChatEvent::ToolCallArguments { delta, .. }) => delta.len(),
            _ => 0,
        };
        size_of::<Self>() + text
    }

    /// Whether nothing comes after it. It is told in any case.
    fn is_last(&self) -> bool {
        matches!(
            self,
            Self::Node(AnswerEvent::Done(_) | AnswerEvent::Failed(_))
                | Self::Event(ChatEvent::Done(_) | ChatEvent::Failed(_))
        )
    }
}

/// What is on the way: the number of the choice, the event, and what of the shared memory is held for it.
type Sent = (usize, Raw, usize);

/// What nobody has read yet, of all choices of a request.
struct Unread {
    heap: Heap,
    bytes: AtomicUsize,
    held: AtomicUsize,
    was_too_much: AtomicBool,
}

impl Unread {
    /// What of the shared memory is held for so many more bytes; `None` where that is too much.
    fn add(&self, bytes: usize) -> Option<usize> {
        let unread = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if unread <= UNREAD_FREE {
            return Some(0);
        }
        if unread <= UNREAD_FREE.max(self.heap.max() / UNREAD_PART) && self.heap.try_take(bytes) {
            self.held.fetch_add(bytes, Ordering::Relaxed);
            return Some(bytes);
        }
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        None
    }

    fn was_read(&self, bytes: usize, held: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.held.fetch_sub(held, Ordering::Relaxed);
        self.heap.give_back(held);
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        self.heap.give_back(*self.held.get_mut());
    }
}

/// Both ends of the way of one request.
pub(super) fn channel(heap: &Heap) -> (EventSender, EventReceiver) {
    let (sender, receiver) = unbounded_channel();
    let unread = Arc::new(Unread {
        heap: heap.clone(),
        bytes: AtomicUsize::new(0),
        held: AtomicUsize::new(0),
        was_too_much: AtomicBool::new(false),
    });
    (EventSender { choice: 0, sender, unread: Arc::clone(&unread) }, EventReceiver { receiver, unread })
}

/// The end of a choice's source.
#[derive(Clone)]
pub(super) struct EventSender {
    choice: usize,
    sender: UnboundedSender<Sent>,
    unread: Arc<Unread>,
}

impl EventSender {
    /// Another choice's end.
    pub fn of_choice(&self, choice: usize) -> Self {
        Self { choice, ..self.clone() }
    }

    /// Tells an event; `Break` where nobody listens or too much is unread.
    pub fn send(&self, raw: Raw) -> ControlFlow<()> {
        let held = match self.unread.add(raw.bytes()) {
            Some(held) => held,
            None if raw.is_last() => {
                self.unread.bytes.fetch_add(raw.bytes(), Ordering::Relaxed);
                0
            }
            None => {
                self.unread.was_too_much.store(true, Ordering::Relaxed);
                return ControlFlow::Break(());
            }
        };
        match self.sender.send((self.choice, raw, held)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }
}

impl AnswerSink for EventSender {
    fn take(&mut self, event: AnswerEvent) -> ControlFlow<()> {
        self.send(Raw::Node(event))
    }

    fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

/// The end of the task that answers. When it goes, the sources hear that nobody listens.
pub(super) struct EventReceiver {
    receiver: UnboundedReceiver<Sent>,
    unread: Arc<Unread>,
}

impl EventReceiver {
    /// The next event and the number of its choice; `None` when all sources are gone.
    pub async fn recv(&mut self) -> Option<(usize, Raw)> {
        let (choice, raw, held) = self.receiver.recv().await?;
        self.unread.was_read(raw.bytes(), held);
        Some((choice, raw))
    }

    /// Whether a source was given up because too much was unread.
    pub fn was_too_much(&self) -> bool {
        self.unread.was_too_much.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use hublabio_runtime::Error;

    use super::*;

    fn piece(len: usize) -> Raw {
        Raw::Node(AnswerEvent::Piece { text: "x".repeat(len), token: None, logprobs: None })
    }

    #[tokio::test]
    async fn what_is_unread_is_held_until_it_is_read_or_dropped() {
        let heap = Heap::new(100 << 20);
        let (sender, mut receiver) = channel(&heap);
        let mut sent = 0;
        while sender.send(piece(1000)).is_continue() {
            sent += 1;
        }
        assert!(receiver.was_too_much());
        assert!((600 << 10..=800 << 10).contains(&heap.taken()), "{}", heap.taken());
        // The end comes through whatever is unread.
        assert!(sender.send(Raw::Node(AnswerEvent::Failed(Error::ShuttingDown))).is_continue());
        for _ in 0..=sent {
            receiver.recv().await.unwrap();
        }
        assert_eq!(heap.taken(), 0);
        // Another choice's events count, too, and all is given back when both ends are gone.
        let other = sender.of_choice(1);
        for _ in 0..100 {
            assert!(other.send(piece(1000)).is_continue());
        }
        assert!(heap.taken() > 0);
        drop(receiver);
        assert!(other.send(piece(1)).is_break());
        drop((sender, other));
        assert_eq!(heap.taken(), 0);
    }

    #[tokio::test]
    async fn who_reads_goes_on_where_others_hold_everything() {
        let heap = Heap::new(100 << 20);
        let _all = heap.take(heap.max()).unwrap();
        let (sender, mut receiver) = channel(&heap);
        for _ in 0..10_000 {
            assert!(sender.send(piece(100)).is_continue());
            receiver.recv().await.unwrap();
        }
        assert!(!receiver.was_too_much());
    }
}
