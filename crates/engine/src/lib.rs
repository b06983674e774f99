//! Token ids in, logits and token ids out: the model graph, its weights, the paged key-value cache,
//! batching and sampling.
//!
//! This room never sees text: a prompt arrives as token ids, and what a token spells is no business
//! of its. It computes nothing by itself: every number comes from `hublabio-kernels`.
//!
//! Where to go next: [`Architecture`] says in data what differs between model families;
//! [`Model::open`] binds a file's tensors to it; [`Adapter`] changes what they compute; [`Runner::forward`] is the one forward pass;
//! [`KvCache`] owns pages and sequences; [`Scheduler`] decides what a batch of many requests holds; [`sampling`] turns logits into a token.
//!
//! Invariants: a batch is rows of (sequence, position, token) and nothing else, so a prompt, a
//! single token and many sequences are one case; a row's result depends on its own sequence only,
//! to the bit; a model is always a [`Shard`], of which the whole model is the simplest.
#![forbid(unsafe_code)]

mod adapter;
pub mod architecture;
mod bind;
mod error;
mod experts;
mod forward;
mod hyperparameters;
mod kv;
mod model;
mod observer;
mod random;
mod rope;
pub mod sampling;
mod scheduler;

pub use adapter::{ActiveAdapter, Adapter};
pub use architecture::{Architecture, find_architecture};
pub use error::{Error, Result};
pub use forward::{Input, Row, Runner};
pub use hublabio_kernels::{Isa, KvType, ThreadTeam};
pub use hyperparameters::{ExpertNumbers, Hyperparameters, Pooling};
pub use kv::{KvCache, SequenceId};
pub use model::{Model, Shard};
pub use observer::ProductObserver;
pub use scheduler::{Change, Scheduler, SchedulerConfig, Work};

/// The index of a token in the vocabulary of a model.
pub type TokenIndex = u32;
