//! OpenAI's dialect: what the service answers, and what the client asks.
//!
//! What OpenAI's interface does not have is marked as an extension. Names of extensions are those of llama.cpp's server where it
//! has one, else they are inside of a field `hublab`.

mod chat;
mod completion;
mod embedding;
mod request;
mod response;

use serde::{Deserialize, Serialize};

pub use chat::{
    ChatChoice, ChatChunkChoice, ChatCompletion, ChatCompletionChunk, ChatLogprobs, Delta, FunctionCall,
    FunctionCallDelta, ResponseMessage, TokenLogprob, ToolCall, ToolCallDelta, TopLogprob,
};
pub use completion::{Completion, CompletionChoice, CompletionLogprobs, CompletionRequest, PromptInput};
pub use embedding::{
    Embedding, EmbeddingInput, EmbeddingList, EmbeddingRequest, EmbeddingUsage, EmbeddingVector, EncodingFormat,
};
pub use request::{
    ChatCompletionRequest, ContentPart, FunctionDefinition, JsonSchemaFormat, MessageContent, NamedFunction,
    RequestMessage, ResponseFormat, Sampling, Stop, StreamOptions, SwarmRequest, Tool, ToolChoice, ToolChoiceMode,
};
pub use response::{
    DeletedResponse, InputItemList, ResponseEvent, ResponseInput, ResponseItem, ResponseObject, ResponseRequest,
    ResponseText, ResponseTextFormat, ResponseTool,
};

/// Why an answer ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FinishReason {
    /// The model ended its turn, or a stop string came.
    Stop,
    /// The limit of tokens, or the end of the context, was reached.
    Length,
    /// The model wants tools to be called.
    ToolCalls,
    /// Never said by this service.
    ContentFilter,
    /// A word that this version does not know.
    #[serde(untagged)]
    Other(String),
}

impl FinishReason {
    /// The word of the protocol.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
            Self::ContentFilter => "content_filter",
            Self::Other(word) => word,
        }
    }
}

/// How many tokens a request took.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Tokens that were generated.
    #[serde(default)]
    pub completion_tokens: u64,
    /// Both.
    pub total_tokens: u64,
    /// More about the prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_tokens_details: Option<PromptTokensDetails>,
    /// More about the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_tokens_details: Option<CompletionTokensDetails>,
}

/// More about the tokens of a prompt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PromptTokensDetails {
    /// Tokens that did not have to be computed, because an earlier request had them.
    #[serde(default)]
    pub cached_tokens: u64,
}

/// More about the tokens of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CompletionTokensDetails {
    /// Tokens of the reasoning.
    #[serde(default)]
    pub reasoning_tokens: u64,
}

/// An extension, the field `hublab` of answers: who answered, what should be known about it, and how long it took.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Hublab {
    /// Who answered; empty for a single model.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answered_by: Vec<AnsweredBy>,
    /// What was done otherwise than asked for, in sentences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// How long it took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timings: Option<Timings>,
}

/// One of those who answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AnsweredBy {
    /// The expert's name.
    pub expert: String,
    /// Its share of the answer, from 0 to 1.
    pub weight: f64,
    /// Why this expert was chosen, in a sentence.
    #[serde(default)]
    pub why: String,
}

/// How long an answer took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Timings {
    /// Seconds of reading the prompt.
    pub prompt_s: f64,
    /// Seconds of generating.
    pub decode_s: f64,
    /// Generated tokens per second.
    pub tokens_per_s: f64,
}

/// An extension, in chunks of a stream with `return_progress`: how much of the prompt has been read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PromptProgress {
    /// Tokens of the prompt.
    pub total: u64,
    /// Tokens read, the cached ones included.
    pub processed: u64,
    /// Tokens that an earlier request had computed.
    #[serde(default)]
    pub cache: u64,
    /// Milliseconds since reading began.
    #[serde(default)]
    pub time_ms: u64,
}

/// A model, in the list of models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Model {
    /// Its name, the one that requests give.
    pub id: String,
    /// `model`.
    pub object: String,
    /// When it was last changed, in seconds since 1970; 0 where that is not known.
    #[serde(default)]
    pub created: u64,
    /// Who owns it.
    #[serde(default)]
    pub owned_by: String,
    /// An extension: what else is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hublab: Option<ModelFacts>,
}

/// What the list of models says of each beyond OpenAI's fields. What would have to be read from a file that nobody has asked for
/// yet is not there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ModelFacts {
    /// `model` or `swarm`.
    pub kind: String,
    /// Bytes of its files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Positions of a conversation, the answer included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_tokens: Option<u64>,
    /// Whether it is in memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loaded: Option<bool>,
}

/// All models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ModelList {
    /// `list`.
    pub object: String,
    /// The models.
    pub data: Vec<Model>,
}

/// What a request that is not honoured gets, with a status of 400 or above; in a stream, an event of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorDetail,
}

/// What went wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ErrorDetail {
    /// What, where, and what to do, in a sentence.
    pub message: String,
    /// The class: `invalid_request_error`, `authentication_error`, `not_found_error`, `server_error`, …
    #[serde(rename = "type", default)]
    pub kind: String,
    /// The field that is at fault.
    #[serde(default)]
    pub param: Option<String>,
    /// A word for programs, for instance [`CONTEXT_LENGTH_EXCEEDED`].
    #[serde(default)]
    pub code: Option<String>,
    /// An extension, with [`CONTEXT_LENGTH_EXCEEDED`]: tokens of the prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_tokens: Option<u64>,
    /// An extension, with [`CONTEXT_LENGTH_EXCEEDED`]: positions of the context, the answer included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_tokens: Option<u64>,
}

/// The code of an error whose prompt does not fit.
pub const CONTEXT_LENGTH_EXCEEDED: &str = "context_length_exceeded";
/// The data of the event that ends a stream.
pub const DONE: &str = "[DONE]";
