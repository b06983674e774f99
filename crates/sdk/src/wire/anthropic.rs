//! Anthropic's dialect, as the service's own description shows it.
//!
//! What Anthropic's interface does not have is inside of a field `hublab`.

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::openai::{Hublab, SwarmRequest};

/// What is asked of `/v1/messages`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MessagesRequest {
    /// Which model, by its name in the list of models.
    pub model: String,
    /// The most tokens of the answer, thinking included.
    #[cfg_attr(feature = "openapi", schema(minimum = 1))]
    pub max_tokens: u64,
    /// The conversation.
    pub messages: Vec<InputMessage>,
    /// What the model is told before it: a text, or blocks of the type `text`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<InputContent>,
    /// Tools that the model may call.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<ToolDefinition>,
    /// Whether it has to, and which.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_choice: Option<ToolChoice>,
    /// Texts that end the answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stop_sequences: Vec<String>,
    /// Whether the answer comes in pieces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
    /// Divides the logits; 0 takes the likeliest token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// The fewest of the likeliest tokens that together reach this probability.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f32>,
    /// So many of the likeliest tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    /// Whether the model thinks before it speaks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thinking: Option<Thinking>,
    /// The form that the answer must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_config: Option<OutputConfig>,
    /// Who asks. It changes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Json>,
    /// An extension: what only swarms know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hublab: Option<SwarmRequest>,
}

/// A turn of the conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = anthropic::InputMessage))]
pub struct InputMessage {
    /// `user` or `assistant`.
    pub role: Role,
    /// What is said.
    pub content: InputContent,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", schema(as = anthropic::Role))]
pub enum Role {
    /// The user, or tools.
    User,
    /// The model.
    Assistant,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(untagged)]
#[cfg_attr(feature = "openapi", schema(as = anthropic::InputContent))]
pub enum InputContent {
    /// A text.
    Text(String),
    /// Blocks.
    Blocks(Vec<InputBlock>),
}

/// A part of what is sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
#[cfg_attr(feature = "openapi", schema(as = anthropic::InputBlock))]
pub enum InputBlock {
    /// A text.
    Text {
        /// The text.
        text: String,
    },
    /// What the model thought.
    Thinking {
        /// The text.
        thinking: String,
        /// Anything; it is not looked at.
        #[serde(default)]
        signature: String,
    },
    /// A tool that the model wanted to be called.
    ToolUse {
        /// Name of this call.
        id: String,
        /// Which tool.
        name: String,
        /// Its arguments, an object.
        #[cfg_attr(feature = "openapi", schema(value_type = Object))]
        input: Json,
    },
    /// What the tool answered.
    ToolResult {
        /// Which call.
        tool_use_id: String,
        /// A text, or blocks of the type `text`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        content: Option<Json>,
        /// Whether the call failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        is_error: Option<bool>,
    },
}

/// A tool that the model may call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = anthropic::ToolDefinition))]
pub struct ToolDefinition {
    /// Its name.
    pub name: String,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// JSON Schema of its arguments, an object.
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub input_schema: Json,
}

/// Whether tools are to be called.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", schema(as = anthropic::ToolChoice))]
pub enum ToolChoice {
    /// As the model likes.
    Auto {
        /// Whether it may call one at most.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        disable_parallel_tool_use: Option<bool>,
    },
    /// At least one.
    Any {
        /// Whether it may call one at most.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        disable_parallel_tool_use: Option<bool>,
    },
    /// This one.
    Tool {
        /// Which.
        name: String,
        /// Whether it may call one at most.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        disable_parallel_tool_use: Option<bool>,
    },
    /// None.
    None,
}

/// Whether the model thinks before it speaks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", schema(as = anthropic::Thinking))]
pub enum Thinking {
    /// It does.
    Enabled {
        /// How much. A target for hosted models; here `max_tokens` alone limits it.
        budget_tokens: u64,
    },
    /// It does not.
    Disabled,
    /// As the model likes.
    Adaptive,
}

/// The form that an answer must have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = anthropic::OutputConfig))]
pub struct OutputConfig {
    /// `{"type": "json_schema", "schema": …}`.
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub format: Json,
}

/// What is asked of `/v1/messages/count_tokens`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CountTokensRequest {
    /// With whose tokenizer and template.
    pub model: String,
    /// The conversation.
    pub messages: Vec<InputMessage>,
    /// What the model is told before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<InputContent>,
    /// Tools that the model may call.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<ToolDefinition>,
    /// Whether it has to, and which.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_choice: Option<ToolChoice>,
}

/// How many tokens a prompt has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = anthropic::TokenCount))]
pub struct TokenCount {
    /// So many.
    pub input_tokens: u64,
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = anthropic::Message))]
pub struct Message {
    /// Name of this answer.
    pub id: String,
    /// `message`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `assistant`.
    pub role: String,
    /// Which model answered.
    pub model: String,
    /// What was said.
    pub content: Vec<ContentBlock>,
    /// Why it ended: `end_turn`, `max_tokens`, `model_context_window_exceeded`, `stop_sequence` or `tool_use`.
    pub stop_reason: Option<String>,
    /// Which text ended it.
    pub stop_sequence: Option<String>,
    /// How many tokens it took.
    pub usage: Usage,
    /// An extension: who answered, and how fast.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hublab: Option<Hublab>,
}

/// A part of an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
#[cfg_attr(feature = "openapi", schema(as = anthropic::ContentBlock))]
pub enum ContentBlock {
    /// What is said.
    Text {
        /// The text.
        text: String,
    },
    /// What is thought.
    Thinking {
        /// The text.
        thinking: String,
        /// Empty.
        signature: String,
    },
    /// A tool that is to be called.
    ToolUse {
        /// Name of this call, to which the tool's answer refers.
        id: String,
        /// Which tool.
        name: String,
        /// Its arguments.
        #[cfg_attr(feature = "openapi", schema(value_type = Object))]
        input: Json,
    },
}

/// How many tokens an answer took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = anthropic::Usage))]
pub struct Usage {
    /// Tokens of the prompt that were computed.
    pub input_tokens: u64,
    /// 0: what is kept costs nothing.
    pub cache_creation_input_tokens: u64,
    /// Tokens of the prompt that did not have to be computed.
    pub cache_read_input_tokens: u64,
    /// Tokens of the answer.
    pub output_tokens: u64,
}

/// An event of a streamed answer; which one, its field `type` says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
#[cfg_attr(feature = "openapi", schema(as = anthropic::StreamEvent))]
pub enum StreamEvent {
    /// The answer begins.
    MessageStart {
        /// As far as it is known.
        message: Message,
    },
    /// The service is at work.
    Ping,
    /// A part begins.
    ContentBlockStart {
        /// Its place.
        index: u32,
        /// What it is.
        content_block: ContentBlock,
    },
    /// A part grows.
    ContentBlockDelta {
        /// Its place.
        index: u32,
        /// By what.
        delta: BlockDelta,
    },
    /// A part is complete.
    ContentBlockStop {
        /// Its place.
        index: u32,
    },
    /// How the answer ended.
    MessageDelta {
        /// Why.
        delta: StopDelta,
        /// What it took.
        usage: Usage,
        /// An extension: who answered, and how fast.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hublab: Option<Hublab>,
    },
    /// The last event.
    MessageStop,
}

/// What a part grows by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
#[cfg_attr(feature = "openapi", schema(as = anthropic::BlockDelta))]
pub enum BlockDelta {
    /// More text.
    TextDelta {
        /// The text.
        text: String,
    },
    /// More of what is thought.
    ThinkingDelta {
        /// The text.
        thinking: String,
    },
    /// The end of what is thought.
    SignatureDelta {
        /// Empty.
        signature: String,
    },
    /// More of the text of a call's arguments.
    InputJsonDelta {
        /// The text.
        partial_json: String,
    },
}

/// Why a streamed answer ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = anthropic::StopDelta))]
pub struct StopDelta {
    /// Why.
    pub stop_reason: Option<String>,
    /// Which text ended it.
    pub stop_sequence: Option<String>,
}

/// A model, in the list of models.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = anthropic::ModelInfo))]
pub struct ModelInfo {
    /// `model`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its name, the one that requests give.
    pub id: String,
    /// The same.
    pub display_name: String,
    /// When it was last changed, in the form of RFC 3339; the beginning of 1970 where that is not known.
    pub created_at: String,
}

/// Models, a page of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = anthropic::ModelPage))]
pub struct ModelPage {
    /// The models.
    pub data: Vec<ModelInfo>,
    /// Whether there are more.
    pub has_more: bool,
    /// The first of them.
    pub first_id: Option<String>,
    /// The last of them.
    pub last_id: Option<String>,
}

/// What a request that is not honoured gets; in a stream, an event `error`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = anthropic::ErrorBody))]
pub struct ErrorBody {
    /// `error`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What went wrong.
    pub error: ErrorDetail,
    /// Name of the request; the header `request-id` has it too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = anthropic::ErrorDetail))]
pub struct ErrorDetail {
    /// The class: `invalid_request_error`, `authentication_error`, `not_found_error`, `overloaded_error`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// What, where, and what to do, in a sentence.
    pub message: String,
}
