//! Ollama's dialect, as the service's own description shows it; `/api/ps` is in [`super::own`].
//!
//! What Ollama's interface does not have is inside of a field `hublab`.

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::openai::Hublab;
use super::own::{KeepAlive, ModelDetails};

/// What is asked of `/api/generate`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = ollama::GenerateRequest))]
pub struct GenerateRequest {
    /// Which model, by its name in the list of models; `:latest` may be added.
    pub model: String,
    /// What is asked. Without it the model is loaded, or freed if `keep_alive` is 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// What the model is told before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// Whether the prompt is taken as it stands, without the model's template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<bool>,
    /// How the answer is wanted.
    #[serde(flatten)]
    pub manner: Manner,
}

/// What is asked of `/api/chat`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = ollama::ChatRequest))]
pub struct ChatRequest {
    /// Which model, by its name in the list of models; `:latest` may be added.
    pub model: String,
    /// The conversation. Without it the model is loaded, or freed if `keep_alive` is 0.
    #[serde(default)]
    pub messages: Vec<Message>,
    /// Tools that the model may call.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<super::openai::Tool>,
    /// How the answer is wanted.
    #[serde(flatten)]
    pub manner: Manner,
}

/// How an answer of `/api/generate` or `/api/chat` is wanted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = ollama::Manner))]
pub struct Manner {
    /// The form that the answer must have: `json`, or a JSON schema.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Json>,
    /// How tokens are chosen, and more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub options: Option<Options>,
    /// Whether the answer comes in pieces, one line of JSON each; by default it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
    /// Whether the model thinks before it speaks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub think: Option<Think>,
    /// How long the model stays in memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_alive: Option<KeepAlive>,
    /// Whether log probabilities come with the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<bool>,
    /// How many alternatives of each token come with them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_logprobs: Option<u32>,
    /// An extension: what only swarms know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hublab: Option<super::openai::SwarmRequest>,
}

/// Whether a model thinks before it speaks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = ollama::Think))]
#[serde(untagged)]
pub enum Think {
    /// Whether.
    Switch(bool),
    /// How much: `low`, `medium`, `high`.
    Effort(String),
}

/// The options that change something. What else Ollama has is in `docs/API_OLLAMA.md`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = ollama::Options))]
pub struct Options {
    /// The most tokens of the answer; -1 for no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_predict: Option<i64>,
    /// The positions that are needed; refused if the service has fewer for the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_ctx: Option<u64>,
    /// Texts that end the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<super::openai::Stop>,
    /// The same seed gives the same answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<i64>,
    /// Divides the logits; 0 takes the likeliest token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// So many of the likeliest tokens; 0 for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    /// The fewest of the likeliest tokens that together reach this probability.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f32>,
    /// Tokens at least this likely, relative to the likeliest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f32>,
    /// The tokens whose surprise is nearest to the expected one, that together reach this probability.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub typical_p: Option<f32>,
    /// Divides the logits of tokens that were there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeat_penalty: Option<f32>,
    /// How many of the last tokens the penalties look at; -1 for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeat_last_n: Option<i64>,
    /// Taken from a token's logit if it was there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub presence_penalty: Option<f32>,
    /// Taken from a token's logit for each time that it was there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frequency_penalty: Option<f32>,
}

/// A turn of a conversation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = ollama::Message))]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: String,
    /// What is said.
    #[serde(default)]
    pub content: String,
    /// What the model thought before it spoke.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thinking: Option<String>,
    /// Tools that the model wants to be called.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// Which tool answers, in a message of the role `tool`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_name: Option<String>,
    /// Which call it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
}

/// A call of a tool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = ollama::ToolCall))]
pub struct ToolCall {
    /// Name of this call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What is called.
    pub function: ToolCallFunction,
}

/// A function and its arguments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = ollama::ToolCallFunction))]
pub struct ToolCallFunction {
    /// Its place among the calls of an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u32>,
    /// Which function.
    pub name: String,
    /// Its arguments.
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub arguments: Json,
}

/// An answer of `/api/generate`, whole or the next piece of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = ollama::GenerateResponse))]
pub struct GenerateResponse {
    /// Which model answers.
    pub model: String,
    /// When, in the form of RFC 3339.
    pub created_at: String,
    /// What is said.
    pub response: String,
    /// What is thought.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thinking: Option<String>,
    /// Log probabilities of the tokens.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logprobs: Vec<super::openai::TokenLogprob>,
    /// Whether this is the last piece.
    pub done: bool,
    /// How it ended, in the last piece.
    #[serde(flatten)]
    pub end: Option<End>,
}

/// An answer of `/api/chat`, whole or the next piece of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = ollama::ChatResponse))]
pub struct ChatResponse {
    /// Which model answers.
    pub model: String,
    /// When, in the form of RFC 3339.
    pub created_at: String,
    /// What is said.
    pub message: Message,
    /// Log probabilities of the tokens.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logprobs: Vec<super::openai::TokenLogprob>,
    /// Whether this is the last piece.
    pub done: bool,
    /// How it ended, in the last piece.
    #[serde(flatten)]
    pub end: Option<End>,
}

/// How an answer ended, and what it took, in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = ollama::End))]
pub struct End {
    /// `stop`, `length`, `load` or `unload`.
    pub done_reason: String,
    /// All of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_duration: Option<u64>,
    /// Waiting for its turn, and loading.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_duration: Option<u64>,
    /// Tokens of the prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_eval_count: Option<u64>,
    /// Reading the prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_eval_duration: Option<u64>,
    /// Tokens of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_count: Option<u64>,
    /// Generating it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_duration: Option<u64>,
    /// An extension: who answered, and how fast.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hublab: Option<Hublab>,
}

/// What is asked of `/api/embed`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = ollama::EmbedRequest))]
pub struct EmbedRequest {
    /// Which model.
    pub model: String,
    /// One text, or several.
    pub input: super::openai::Stop,
    /// Whether a text that does not fit is cut; by default it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncate: Option<bool>,
    /// How many numbers a vector has; no other number than the model's is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dimensions: Option<u64>,
    /// How long the model stays in memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_alive: Option<KeepAlive>,
}

/// What `/api/embed` answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = ollama::EmbedResponse))]
pub struct EmbedResponse {
    /// Which model.
    pub model: String,
    /// A vector of length 1 for each text.
    pub embeddings: Vec<Vec<f32>>,
    /// All of it, in nanoseconds.
    pub total_duration: u64,
    /// 0: it is part of all.
    pub load_duration: u64,
    /// Tokens of the texts.
    pub prompt_eval_count: u64,
}

/// What is asked of `/api/embeddings`, the older way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = ollama::EmbeddingsRequest))]
pub struct EmbeddingsRequest {
    /// Which model.
    pub model: String,
    /// The text.
    pub prompt: String,
    /// How long the model stays in memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_alive: Option<KeepAlive>,
}

/// What `/api/embeddings` answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = ollama::EmbeddingsResponse))]
pub struct EmbeddingsResponse {
    /// The vector.
    pub embedding: Vec<f32>,
}

/// What `/api/tags` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = ollama::Tags))]
pub struct Tags {
    /// All models.
    pub models: Vec<Tag>,
}

/// A model, in the list of models.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = ollama::Tag))]
pub struct Tag {
    /// Its name.
    pub name: String,
    /// The same.
    pub model: String,
    /// When it was last changed, in the form of RFC 3339.
    pub modified_at: String,
    /// Bytes of its files.
    pub size: u64,
    /// SHA-256 of its file, in hexadecimal; empty where it is not known.
    pub digest: String,
    /// What it is.
    pub details: ModelDetails,
}

/// What is asked of `/api/show`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = ollama::ShowRequest))]
pub struct ShowRequest {
    /// Which model.
    pub model: String,
    /// Whether the lists of its metadata and its tensors are told too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub verbose: bool,
}

/// What `/api/show` answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = ollama::ShowResponse))]
pub struct ShowResponse {
    /// A line that names it.
    pub modelfile: String,
    /// Empty: a model has no settings of its own here.
    pub parameters: String,
    /// Its chat template, in Jinja's language.
    pub template: String,
    /// What it is.
    pub details: ModelDetails,
    /// Its file's metadata; lists, such as the vocabulary, only where `verbose` asks for them.
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub model_info: Json,
    /// Its tensors, where `verbose` asks for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tensors: Option<Vec<Tensor>>,
    /// What it can do: `completion`, `tools`, `thinking`, `embedding`.
    pub capabilities: Vec<String>,
    /// When it was last changed, in the form of RFC 3339.
    pub modified_at: String,
}

/// A tensor of a model's file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = ollama::Tensor))]
pub struct Tensor {
    /// Unique in the file.
    pub name: String,
    /// How its weights are packed, as ggml writes it.
    #[serde(rename = "type")]
    pub kind: String,
    /// Weights along each dimension, the contiguous one first.
    pub shape: Vec<u64>,
}

/// What `/api/version` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = ollama::Version))]
pub struct Version {
    /// Ours, not Ollama's.
    pub version: String,
}

/// What is asked of `/api/copy`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = ollama::CopyRequest))]
pub struct CopyRequest {
    /// A model.
    pub source: String,
    /// One more name for it.
    pub destination: String,
}

/// What is asked of `/api/delete`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = ollama::DeleteRequest))]
pub struct DeleteRequest {
    /// Which model.
    pub model: String,
}

/// What is asked of `/api/pull`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = ollama::PullRequest))]
pub struct PullRequest {
    /// Which model.
    pub model: String,
    /// Whether progress comes in pieces; by default it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
}

/// How far a download is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = ollama::Progress))]
pub struct Progress {
    /// In words; `success` at the end.
    pub status: String,
    /// What is fetched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Its bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// Those that are here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed: Option<u64>,
}

/// What a request that is not honoured gets; in a stream, a line of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = ollama::ErrorBody))]
pub struct ErrorBody {
    /// What, where, and what to do, in a sentence.
    pub error: String,
}
