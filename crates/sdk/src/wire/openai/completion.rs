//! `/v1/completions`: a text that goes on, without a conversation's form.

use serde::{Deserialize, Serialize};

use super::{FinishReason, Hublab, PromptProgress, Sampling, Stop, StreamOptions, Usage};

/// What is asked of `/v1/completions`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CompletionRequest {
    /// Which model, by its name in the list of models; empty, and then left out, for the service's default.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub model: String,
    /// What it goes on from.
    pub prompt: PromptInput,
    /// The most tokens of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u64>,
    /// How many answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<u32>,
    /// Whether the prompt comes before the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub echo: Option<bool>,
    /// How many alternatives of each token come with their log probabilities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<u32>,
    /// Where the answer ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<Stop>,
    /// Whether the answer comes in pieces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
    /// What else comes in a stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream_options: Option<StreamOptions>,
    /// An extension: tell in a stream how much of the prompt has been read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub return_progress: Option<bool>,
    /// How tokens are chosen.
    #[serde(flatten)]
    pub sampling: Sampling,
}

/// A prompt: text or token ids, one or several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(untagged)]
pub enum PromptInput {
    /// A text.
    Text(String),
    /// Token ids.
    Tokens(Vec<u32>),
    /// Several texts.
    Texts(Vec<String>),
    /// Several lists of token ids.
    TokenLists(Vec<Vec<u32>>),
}

impl Default for PromptInput {
    fn default() -> Self {
        Self::Text(String::new())
    }
}

/// An answer of `/v1/completions`, or a piece of a streamed one, which has the same form.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Completion {
    /// Name of this answer, the same in all of its pieces.
    pub id: String,
    /// `text_completion`.
    pub object: String,
    /// When it was made, in seconds since 1970.
    #[serde(default)]
    pub created: u64,
    /// Which model answered.
    pub model: String,
    /// The answers; of a stream, what they grow by.
    #[serde(default)]
    pub choices: Vec<CompletionChoice>,
    /// How many tokens it took; of a stream in the last piece, if it is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// Changes when the same request with the same seed may give another answer.
    #[serde(default)]
    pub system_fingerprint: Option<String>,
    /// An extension: who answered, and how fast; of a stream in the last piece.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hublab: Option<Hublab>,
    /// An extension, of a stream before the first piece: how much of the prompt has been read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_progress: Option<PromptProgress>,
}

/// One of the answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CompletionChoice {
    /// The text, or what it grows by.
    pub text: String,
    /// Its number.
    #[serde(default)]
    pub index: u32,
    /// Log probabilities of its tokens, where they are asked for.
    #[serde(default)]
    pub logprobs: Option<CompletionLogprobs>,
    /// Why it ended.
    #[serde(default)]
    pub finish_reason: Option<FinishReason>,
}

/// Log probabilities as `/v1/completions` has them: lists of one length, a place for each token.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CompletionLogprobs {
    /// The tokens' texts.
    pub tokens: Vec<String>,
    /// Natural logarithms of their probabilities.
    pub token_logprobs: Vec<Option<f64>>,
    /// The likeliest tokens at each place.
    #[serde(default)]
    pub top_logprobs: Vec<Option<std::collections::BTreeMap<String, f64>>>,
    /// Where each token begins in the text, in characters.
    #[serde(default)]
    pub text_offset: Vec<u64>,
}
