//! The endpoints that only this service has, and `/api/ps`, which it shares with Ollama.

use serde::{Deserialize, Serialize};

/// What is asked of `/api/load`: bring a model into memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LoadRequest {
    /// Its name. Of a path such as `/models/NAME.gguf` the service takes the name of the file.
    pub model: String,
    /// How long it stays after its last answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_alive: Option<KeepAlive>,
}

/// How long a model stays in memory after its last answer, as Ollama writes it. Negative is for as long as no other needs the memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(untagged)]
pub enum KeepAlive {
    /// In seconds.
    Seconds(i64),
    /// With units, for instance `5m`.
    Text(String),
}

/// What `/api/load` answers when the model is in memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LoadResponse {
    /// The name by which requests should ask for it.
    pub model: String,
    /// Seconds that loading took.
    #[serde(default)]
    pub load_s: f64,
}

/// What is asked of `/api/unload`: free a model, when its running answers have ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UnloadRequest {
    /// Its name.
    pub model: String,
}

/// What `/api/unload` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UnloadResponse {
    /// Its name.
    pub model: String,
    /// Whether it was in memory.
    pub was_loaded: bool,
}

/// What is asked of `/api/tokenize`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TokenizeRequest {
    /// With whose tokenizer; empty, and then left out, for the model that is the service's default.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub model: String,
    /// The text.
    pub text: String,
    /// Whether the tokens that the model wants at the beginning and end of a text are added; by default not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub add_special: Option<bool>,
    /// Whether control tokens in the text become control tokens; by default they stay text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parse_special: Option<bool>,
}

/// What `/api/tokenize` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TokenizeResponse {
    /// The ids of the tokens.
    pub ids: Vec<u32>,
}

/// What is asked of `/api/detokenize`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DetokenizeRequest {
    /// With whose tokenizer; empty, and then left out, for the model that is the service's default.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub model: String,
    /// The ids of the tokens.
    pub ids: Vec<u32>,
}

/// What `/api/detokenize` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DetokenizeResponse {
    /// The text, with � for what is no whole character.
    pub text: String,
}

/// What `/health` answers as soon as the service runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Health {
    /// `ok`.
    pub status: String,
    /// Version of the service.
    #[serde(default)]
    pub version: String,
}

/// What `/ready` answers: with status 200 if requests are taken, with 503 if not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Ready {
    /// `ready`, or why not: `starting`, `busy`, `stopping`.
    pub status: String,
}

/// What `/api/ps` answers: the models in memory, in Ollama's form, and what the service is at.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ProcessList {
    /// Models in memory.
    pub models: Vec<RunningModel>,
    /// An extension: what the service is at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hublab: Option<ServiceState>,
}

/// A model in memory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RunningModel {
    /// Its name.
    pub name: String,
    /// The same.
    #[serde(default)]
    pub model: String,
    /// Bytes that it takes, keys and values included.
    #[serde(default)]
    pub size: u64,
    /// Bytes of those on a graphics card: 0.
    #[serde(default)]
    pub size_vram: u64,
    /// SHA-256 of its file, in hexadecimal; empty where it is not known.
    #[serde(default)]
    pub digest: String,
    /// What it is.
    #[serde(default)]
    pub details: ModelDetails,
    /// When it leaves if nobody asks, in the form of RFC 3339; `None` for as long as no other needs the memory.
    #[serde(default)]
    pub expires_at: Option<String>,
    /// Positions of a conversation, the answer included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_length: Option<u64>,
    /// An extension: what else is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hublab: Option<RunningModelState>,
}

/// What a model is, as Ollama tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ModelDetails {
    /// Empty.
    #[serde(default)]
    pub parent_model: String,
    /// `gguf`.
    #[serde(default)]
    pub format: String,
    /// Its architecture.
    #[serde(default)]
    pub family: String,
    /// The same, as a list.
    #[serde(default)]
    pub families: Option<Vec<String>>,
    /// How many weights it has, for instance `494.0M`.
    #[serde(default)]
    pub parameter_size: String,
    /// The type that most of them have, for instance `Q4_K`.
    #[serde(default)]
    pub quantization_level: String,
}

/// What is known of a model in memory beyond Ollama's fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RunningModelState {
    /// Bytes of its file.
    #[serde(default)]
    pub file_bytes: u64,
    /// Bytes of keys and values.
    #[serde(default)]
    pub kv_bytes: u64,
    /// Answers that it is generating.
    #[serde(default)]
    pub running: u64,
    /// Seconds until it leaves if nobody asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_s: Option<f64>,
}

/// What the service is at, and has done since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ServiceState {
    /// Bytes that models may take.
    #[serde(default)]
    pub max_memory: u64,
    /// Answers that are generated.
    #[serde(default)]
    pub running: u64,
    /// Requests that wait.
    #[serde(default)]
    pub waiting: u64,
    /// Requests that ended well.
    #[serde(default)]
    pub requests_done: u64,
    /// Requests that failed.
    #[serde(default)]
    pub requests_failed: u64,
    /// Requests that were given up.
    #[serde(default)]
    pub requests_cancelled: u64,
    /// Tokens of prompts that were computed.
    #[serde(default)]
    pub prompt_tokens: u64,
    /// Tokens that were generated.
    #[serde(default)]
    pub generated_tokens: u64,
    /// Models that were loaded.
    #[serde(default)]
    pub loads: u64,
}
