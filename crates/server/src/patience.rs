//! A stream whose other side may not stop taking what is written for ever: a client that reads nothing would hold its answer, and
//! its place among the connections, as long as it likes.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// A stream that fails when nothing of what waits to be written has been taken for a while.
pub struct Patient<S> {
    stream: S,
    patience: Duration,
    /// When it ends; kept between waits, because a timer is dearer than a write.
    end: Pin<Box<Sleep>>,
    is_waiting: bool,
}

impl<S> Patient<S> {
    pub fn new(stream: S, patience: Duration) -> Self {
        Self { stream, patience, end: Box::pin(tokio::time::sleep(patience)), is_waiting: false }
    }

    /// What writing comes to: what was taken, or that it took too long.
    fn within<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.is_waiting = false;
            return written;
        }
        if !self.is_waiting {
            self.is_waiting = true;
            self.end.as_mut().reset(Instant::now() + self.patience);
        }
        ready!(self.end.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.within(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.within(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.within(cx, ended)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.within(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[test]
    fn who_reads_slowly_is_waited_for_and_who_does_not_read_is_not() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let patience = Duration::from_secs(10);
            let (client, mut reader) = tokio::io::duplex(10);
            let mut client = Patient::new(client, patience);
            let slow = tokio::spawn(async move {
                let mut read = Vec::new();
                for _ in 0..10 {
                    tokio::time::sleep(Duration::from_secs(9)).await;
                    let mut piece = [0; 10];
                    reader.read_exact(&mut piece).await.unwrap();
                    read.extend(piece);
                }
                (read, reader)
            });
            client.write_all(&[7; 100]).await.unwrap();
            let (read, reader) = slow.await.unwrap();
            assert_eq!(read, [7; 100]);
            // Nothing to write: no end of patience.
            tokio::time::sleep(Duration::from_secs(3600)).await;
            client.write_all(&[7; 10]).await.unwrap();
            let since = Instant::now();
            let error = client.write_all(&[7; 10]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert_eq!(since.elapsed().as_secs(), 10);
            drop(reader);
        });
    }
}
