//! The one error type of this room.

use crate::ExpertId;

/// What a swarm refuses or fails at.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is nobody to ask.
    #[error("the swarm has no experts: add one with `hublab swarm add` or a file in the experts folder")]
    NoExperts,
    /// No expert fits, and there is no generalist.
    #[error("no expert fits this question and the swarm has no generalist: add one, or choose an expert by name")]
    NoneFits,
    /// An expert that was asked for by number is not there.
    #[error("there is no expert {0} in this swarm")]
    NoSuchExpert(ExpertId),
    /// A question without text.
    #[error("the question is empty")]
    EmptyQuery,
    /// A question that is too long to be routed.
    #[error("the question has {bytes} bytes, more than {max} that are accepted: shorten it")]
    QueryTooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// Every expert that was asked failed.
    #[error("no expert could answer: {}", .0.join("; "))]
    AllFailed(Vec<String>),
    /// The question and the conversation before it are longer than any expert that was asked can hold.
    #[error("the conversation has {prompt} tokens, and the experts hold {context}: shorten it, or begin a new one")]
    TooLong {
        /// Tokens of the conversation, by the expert that holds most.
        prompt: usize,
        /// Positions that this expert has.
        context: usize,
    },
    /// No model may or can summarise.
    #[error(
        "not summarised: {0}; name a stronger reducer, allow a weaker one, or let answers be put to the vote instead"
    )]
    NoReducer(String),
    /// The caller broke off.
    #[error("the caller broke the answer off")]
    Cancelled,
    /// A calibration is broken, or there is too little to learn it from.
    #[error("the router's calibration: {0}")]
    Calibration(String),
    /// A setting is out of its range.
    #[error("{name} = {value} is out of range: {range}")]
    OutOfRange {
        /// The setting.
        name: &'static str,
        /// What was given.
        value: String,
        /// What may be given.
        range: &'static str,
    },
}

/// What this room returns.
pub type Result<T> = std::result::Result<T, Error>;
