//! The client: [`AiClient`] asks, [`ChatSession`] remembers, [`GenerateOptions`] says how.
//!
//! ```edition2021
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/real_service.rs"));
//! # fn main() -> Result<(), hublabio_sdk::ai::Error> {
//! # let service = RealService::start();
//! # std::env::set_var("HUBLAB_HOST", &service.address);
//! use hublabio_sdk::ai::{AiClient, ChatSession, GenerateOptions};
//! let mut client = AiClient::connect()?;
//! client.load_model("/models/qwen2-0.5b-q4.gguf")?;
//! let response = client.generate("Hello, world!")?;
//! let mut chat = ChatSession::new(client);
//! chat.set_system_prompt("You are a helpful assistant.");
//! let response = chat.chat("What is 2+2?")?;
//! # assert!(!response.is_empty() && response.model == "qwen2-0.5b-q4", "{response:?}");
//! # assert_eq!(chat.history().len(), 2);
//! # Ok(())
//! # }
//! ```
//!
//! Calls wait; [`asynchronous`] is the twin for programs on tokio, and what the calls here drive. The user's page is
//! `docs/SDK.md`.
//!
//! Where to go next: `asynchronous/client.rs` for the requests, `http.rs` for connections, `sse.rs` for streams, `history.rs` for
//! what is left out of a conversation that grows too long.

mod address;
pub mod asynchronous;
mod backend;
mod blocking;
#[cfg(feature = "embedded")]
mod embedded;
mod error;
#[cfg(fuzzing)]
pub mod fuzzing;
mod history;
mod http;
mod message;
mod options;
mod response;
mod session;
mod sse;
#[cfg(feature = "tls")]
mod tls;

pub use address::DEFAULT_PORT;
pub use asynchronous::Canceller;
pub use blocking::{AiClient, Stream};
pub use error::{Attempt, Error, Result};
pub use message::{Message, Tool, ToolCall, ToolChoice};
pub use options::{AnswerFormat, GenerateOptions, Sampling};
pub use response::{AnsweredBy, FinishReason, Piece, PromptProgress, Response, Timings, TokenLogprob, Usage};
pub use session::{ChatSession, SessionStream};
