//! The asynchronous twin of the client, for programs that run on tokio.
//!
//! ```no_run
//! use hublabio_sdk::ai::{GenerateOptions, asynchronous::AiClient};
//!
//! # async fn example() -> hublabio_sdk::ai::Result<()> {
//! let client = AiClient::connect().await?;
//! let mut stream = client.stream("Why is the sky blue?", &GenerateOptions::default()).await?;
//! while let Some(piece) = stream.next().await {
//!     print!("{}", piece?);
//! }
//! println!("\n{:?}", stream.response().usage);
//! # Ok(())
//! # }
//! ```
//!
//! Everything here needs a tokio runtime with its drivers for I/O and time enabled. A request that is dropped before it has
//! ended closes its connection, and the service stops working on it.

mod client;
mod session;
mod stream;

pub use client::AiClient;
pub use session::{ChatSession, SessionStream};
pub(crate) use stream::ChunkStream;
pub use stream::{Canceller, Stream};
