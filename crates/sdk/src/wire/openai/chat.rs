//! Answers of `/v1/chat/completions`, whole and in chunks.

use serde::{Deserialize, Serialize};

use super::{FinishReason, Hublab, PromptProgress, Usage};

/// A whole answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ChatCompletion {
    /// Name of this answer.
    pub id: String,
    /// `chat.completion`.
    pub object: String,
    /// When it was made, in seconds since 1970.
    #[serde(default)]
    pub created: u64,
    /// Which model answered.
    pub model: String,
    /// The answers, as many as were asked for.
    pub choices: Vec<ChatChoice>,
    /// How many tokens it took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// Changes when the same request with the same seed may give another answer.
    #[serde(default)]
    pub system_fingerprint: Option<String>,
    /// An extension: who answered, and how fast.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hublab: Option<Hublab>,
}

/// One of the answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ChatChoice {
    /// Its number.
    #[serde(default)]
    pub index: u32,
    /// What was said.
    pub message: ResponseMessage,
    /// Log probabilities of its tokens, where they are asked for.
    #[serde(default)]
    pub logprobs: Option<ChatLogprobs>,
    /// Why it ended.
    pub finish_reason: Option<FinishReason>,
}

/// What the model said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ResponseMessage {
    /// `assistant`.
    pub role: String,
    /// The text; `None` if there are only tool calls.
    #[serde(default)]
    pub content: Option<String>,
    /// An extension, named as by others: what the model thought before it spoke.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// Never set by this service; official clients expect the field.
    #[serde(default)]
    pub refusal: Option<String>,
    /// Tools that the model wants to be called.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
}

/// A call of a tool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ToolCall {
    /// Name of this call, to which the tool's answer refers.
    pub id: String,
    /// `function`.
    #[serde(rename = "type", default = "function")]
    pub kind: String,
    /// What is called.
    pub function: FunctionCall,
}

fn function() -> String {
    "function".into()
}

/// A function and its arguments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FunctionCall {
    /// Which function.
    pub name: String,
    /// The text of a JSON object.
    pub arguments: String,
}

/// Log probabilities of an answer's tokens.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ChatLogprobs {
    /// One for each token of the content.
    #[serde(default)]
    pub content: Option<Vec<TokenLogprob>>,
    /// Never set by this service.
    #[serde(default)]
    pub refusal: Option<Vec<TokenLogprob>>,
}

/// A token that was chosen, with its likeliest alternatives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TokenLogprob {
    /// Its text, with � for what is no whole character.
    pub token: String,
    /// Natural logarithm of its probability.
    pub logprob: f64,
    /// Its bytes.
    #[serde(default)]
    pub bytes: Option<Vec<u8>>,
    /// The likeliest tokens at this place.
    #[serde(default)]
    pub top_logprobs: Vec<TopLogprob>,
}

/// An alternative.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TopLogprob {
    /// Its text, with � for what is no whole character.
    pub token: String,
    /// Natural logarithm of its probability.
    pub logprob: f64,
    /// Its bytes.
    #[serde(default)]
    pub bytes: Option<Vec<u8>>,
}

/// A piece of a streamed answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ChatCompletionChunk {
    /// Name of the answer, the same in all of its chunks.
    pub id: String,
    /// `chat.completion.chunk`.
    pub object: String,
    /// When the answer was begun, in seconds since 1970.
    #[serde(default)]
    pub created: u64,
    /// Which model answers.
    pub model: String,
    /// What the answers grow by; empty in the chunk with the usage, and in those that only tell progress.
    #[serde(default)]
    pub choices: Vec<ChatChunkChoice>,
    /// In the last chunk, if `stream_options.include_usage` asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// As in a whole answer.
    #[serde(default)]
    pub system_fingerprint: Option<String>,
    /// An extension, in the last chunk: who answered, and how fast.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hublab: Option<Hublab>,
    /// An extension, before the first piece: how much of the prompt has been read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_progress: Option<PromptProgress>,
}

/// What one of the answers grows by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ChatChunkChoice {
    /// Its number.
    #[serde(default)]
    pub index: u32,
    /// What is new.
    pub delta: Delta,
    /// Log probabilities of the new tokens.
    #[serde(default)]
    pub logprobs: Option<ChatLogprobs>,
    /// Why it ended, in its last chunk.
    #[serde(default)]
    pub finish_reason: Option<FinishReason>,
}

/// What is new of an answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Delta {
    /// `assistant`, in the first chunk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// More text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// An extension: more of the reasoning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// More of tool calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCallDelta>,
}

/// What is new of a tool call. The first piece of each has its id and name, later ones have more of its arguments.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ToolCallDelta {
    /// Its place among the calls of the answer.
    pub index: u32,
    /// Name of this call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `function`.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// What is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<FunctionCallDelta>,
}

/// What is new of a function call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FunctionCallDelta {
    /// Which function.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// More of the text of its arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments: Option<String>,
}
