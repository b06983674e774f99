//! How an answer is generated.

use serde_json::{Map, Value as Json};

use super::message::{Message, Tool, ToolChoice};
use crate::wire::openai as wire;

pub use wire::Sampling;

/// How an answer is generated. What is not set is as the service has it by default.
///
/// ```
/// use hublabio_sdk::ai::{AnswerFormat, GenerateOptions, Sampling};
/// use serde_json::json;
///
/// let careful = GenerateOptions {
///     max_tokens: Some(200),
///     format: AnswerFormat::JsonSchema(json!({ "type": "object", "properties": { "city": { "type": "string" } } })),
///     sampling: Sampling { min_p: Some(0.1), ..Sampling::default() },
///     ..GenerateOptions::precise()
/// };
/// assert_eq!(careful.sampling.temperature, None);
/// assert_eq!(GenerateOptions::precise().sampling.temperature, Some(0.2));
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerateOptions {
    /// Which model; by default the client's.
    pub model: Option<String>,
    /// The most tokens of the answer, reasoning included.
    pub max_tokens: Option<u64>,
    /// Texts before which the answer ends.
    pub stop: Vec<String>,
    /// How tokens are chosen: temperature, filters, penalties, seed.
    pub sampling: Sampling,
    /// The form that the answer must have.
    pub format: AnswerFormat,
    /// Tools that the model may call.
    pub tools: Vec<Tool>,
    /// Whether it has to, and which.
    pub tool_choice: Option<ToolChoice>,
    /// Whether it may call several at once.
    pub parallel_tool_calls: Option<bool>,
    /// Log probabilities of the tokens, and of so many of the likeliest alternatives.
    pub logprobs: Option<u32>,
    /// Variables of the chat template, for instance `enable_thinking`.
    pub template_variables: Map<String, Json>,
    /// The expert of a swarm that must answer, by its name; by default the router chooses.
    pub expert: Option<String>,
    /// Any number, the same for all requests of a conversation: a swarm's router stays with who answered before.
    pub session: Option<u64>,
    /// Whether a stream tells how much of a long prompt has been read.
    pub progress: bool,
}

/// The form that an answer must have.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum AnswerFormat {
    /// Any.
    #[default]
    Text,
    /// A JSON object.
    JsonObject,
    /// JSON that follows this schema.
    JsonSchema(Json),
    /// What this grammar, in llama.cpp's GBNF, describes.
    Grammar(String),
}

impl GenerateOptions {
    /// Always the likeliest token.
    #[must_use]
    pub fn greedy() -> Self {
        Self::preset(0.0, 1.0, 1)
    }

    /// For facts and code.
    #[must_use]
    pub fn precise() -> Self {
        Self::preset(0.2, 0.8, 20)
    }

    /// For stories.
    #[must_use]
    pub fn creative() -> Self {
        Self::preset(1.0, 0.95, 50)
    }

    fn preset(temperature: f32, top_p: f32, top_k: u32) -> Self {
        let (temperature, top_p, top_k) = (Some(temperature), Some(top_p), Some(top_k));
        Self { sampling: Sampling { temperature, top_p, top_k, ..Sampling::default() }, ..Self::default() }
    }

    /// The same, with at most so many tokens.
    #[must_use]
    pub fn with_max_tokens(self, max_tokens: u64) -> Self {
        Self { max_tokens: Some(max_tokens), ..self }
    }

    /// The same, with this seed.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.sampling.seed = Some(seed);
        self
    }

    pub(crate) fn request(&self, model: &str, messages: &[Message], stream: bool) -> wire::ChatCompletionRequest {
        let (response_format, grammar) = match &self.format {
            AnswerFormat::Text => (None, None),
            AnswerFormat::JsonObject => (Some(wire::ResponseFormat::JsonObject), None),
            AnswerFormat::JsonSchema(schema) => {
                let json_schema = wire::JsonSchemaFormat {
                    name: "answer".into(),
                    schema: Some(schema.clone()),
                    strict: Some(true),
                    ..wire::JsonSchemaFormat::default()
                };
                (Some(wire::ResponseFormat::JsonSchema { json_schema }), None)
            }
            AnswerFormat::Grammar(grammar) => (None, Some(grammar.clone())),
        };
        wire::ChatCompletionRequest {
            model: self.model.as_deref().unwrap_or(model).into(),
            messages: messages.iter().map(Message::to_wire).collect(),
            max_completion_tokens: self.max_tokens,
            logprobs: self.logprobs.map(|_| true),
            top_logprobs: self.logprobs,
            stop: (!self.stop.is_empty()).then(|| wire::Stop::Texts(self.stop.clone())),
            stream: stream.then_some(true),
            stream_options: stream.then_some(wire::StreamOptions { include_usage: Some(true) }),
            tools: self.tools.clone(),
            tool_choice: self.tool_choice.clone(),
            parallel_tool_calls: self.parallel_tool_calls,
            response_format,
            grammar,
            chat_template_kwargs: (!self.template_variables.is_empty()).then(|| self.template_variables.clone()),
            hublab: (self.expert.is_some() || self.session.is_some())
                .then(|| wire::SwarmRequest { session: self.session, expert: self.expert.clone() }),
            return_progress: (stream && self.progress).then_some(true),
            sampling: self.sampling.clone(),
            ..wire::ChatCompletionRequest::default()
        }
    }
}
