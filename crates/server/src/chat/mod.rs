//! A question and its answer, without any dialect: the one path that all dialects share.
//!
//! A dialect reads its JSON into a [`ChatRequest`], calls [`start`], and writes the [`ChatEvent`]s of the [`ChatStream`] in its
//! own form, or [collects](ChatStream::collect) them. Whatever is wrong with a request that can be known before its first token
//! comes out of [`start`] as an [`ApiError`] with the right status. Dropping the stream gives the work up within one step.
//!
//! ```text
//! let request = ChatRequest { messages: Input::Messages(messages), ..ChatRequest::new("default") };
//! let mut stream = chat::start(&app, request).await?;
//! while let Some((choice, event)) = stream.next().await { … }
//! ```
//!
//! Where to go next: `prepare.rs` makes a prompt and settings of a request, `stream.rs` takes the answer apart, `calls.rs` its
//! calls of tools, `swarm.rs` asks a swarm, `sampling.rs` is what a request may say about chance.

mod calls;
mod channel;
mod prepare;
mod sampling;
mod stream;
mod swarm;

use hublabio_runtime::ai::constraint::ConstraintSource;
use hublabio_runtime::ai::{Json, Message, Stats, TokenId, Tool};
use hublabio_runtime::node::KeepAlive;

use crate::error::ApiError;
use crate::state::{App, blocking};

pub use hublabio_runtime::ai::ToolChoice;
use prepare::prepare;
pub use prepare::{check_tokens, model_name};
pub use sampling::SamplingChanges;
pub use stream::ChatStream;

/// What a model goes on from.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// A conversation, which the model's template makes a prompt of.
    Messages(Vec<Message>),
    /// A text as it stands.
    Text(String),
    /// Tokens as they stand.
    Tokens(Vec<TokenId>),
}

/// What the text of an answer must look like. It is enforced.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum AnswerFormat {
    /// Anything.
    #[default]
    Text,
    /// Any JSON object.
    JsonObject,
    /// JSON that obeys a schema.
    JsonSchema(Json),
    /// Another constraint.
    Other(ConstraintSource),
}

/// What a request can ask of a swarm only; a single model refuses it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SwarmWishes {
    /// The conversation that the question belongs to: the router stays with who answered before.
    pub session: Option<u64>,
    /// The expert that must answer, by its name.
    pub expert: Option<String>,
}

impl SwarmWishes {
    /// Refuses them, as `model` is no swarm.
    fn check_none(&self, model: &str) -> Result<(), ApiError> {
        for (field, is_given) in [("hublab.expert", self.expert.is_some()), ("hublab.session", self.session.is_some())]
        {
            if is_given {
                let message = format!("`{field}` is for swarms, and `{model}` is a single model: take it out");
                return Err(ApiError::field(field, message).coded("unsupported_parameter"));
            }
        }
        Ok(())
    }
}

/// A question to a model or a swarm.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatRequest {
    /// The model's name; `None` for the service's default.
    pub model: Option<String>,
    /// What it goes on from.
    pub input: Input,
    /// Tools that the model may call.
    pub tools: Vec<Tool>,
    /// Whether it has to.
    pub tool_choice: ToolChoice,
    /// Whether it may call several at once. Where it has to call and nothing is said here, it calls one.
    pub parallel_tool_calls: Option<bool>,
    /// What its text must look like.
    pub format: AnswerFormat,
    /// What else its template should know (`enable_thinking`, …).
    pub template_variables: Vec<(String, Json)>,
    /// How tokens are chosen, where not as the service has it.
    pub sampling: SamplingChanges,
    /// At most so many tokens, reasoning included.
    pub max_tokens: Option<usize>,
    /// Texts that end the answer.
    pub stop: Vec<String>,
    /// How many answers.
    pub n: usize,
    /// Log probabilities of the tokens, with so many alternatives.
    pub logprobs: Option<usize>,
    /// What is asked of a swarm, and only of one.
    pub swarm: SwarmWishes,
    /// What the reader of the answer should know of the request.
    pub notes: Vec<String>,
    /// How long the model stays in memory from now on. The experts of a swarm stay as long as the
    /// node says.
    pub keep_alive: KeepAlive,
}

impl ChatRequest {
    /// A question, all else as the service has it.
    pub fn new(model: Option<String>, input: Input) -> Self {
        Self {
            model,
            input,
            tools: Vec::new(),
            tool_choice: ToolChoice::Auto,
            parallel_tool_calls: None,
            format: AnswerFormat::Text,
            template_variables: Vec::new(),
            sampling: SamplingChanges::default(),
            max_tokens: None,
            stop: Vec::new(),
            n: 1,
            logprobs: None,
            swarm: SwarmWishes::default(),
            notes: Vec::new(),
            keep_alive: KeepAlive::AsBefore,
        }
    }
}

/// What becomes known of an answer. The last of each answer is [`Done`](ChatEvent::Done) or [`Failed`](ChatEvent::Failed).
#[derive(Clone, Debug, PartialEq)]
pub enum ChatEvent {
    /// So much of the prompt has been read.
    Progress {
        /// Tokens read, the cached ones included.
        read: usize,
        /// Those of them that did not have to be computed.
        cached: usize,
        /// Tokens of the prompt.
        total: usize,
    },
    /// Who of a swarm is at work, each time it changes.
    Experts(Vec<String>),
    /// More of what is said.
    Text(String),
    /// More of what is thought.
    Reasoning(String),
    /// A call of a tool begins.
    ToolCallBegin {
        /// Its place among the calls of this answer.
        index: usize,
        /// Its id, which no other call of this service has.
        id: String,
        /// Which tool.
        name: String,
    },
    /// More of its arguments, the text of a JSON object as the model writes it.
    ToolCallArguments {
        /// Which call.
        index: usize,
        /// What is new.
        delta: String,
    },
    /// A call is complete.
    ToolCallEnd {
        /// Which.
        index: usize,
    },
    /// A call that has begun has no end, or none that can be read: it is no call.
    ToolCallBroken {
        /// Which.
        index: usize,
    },
    /// Tokens that were chosen, where log probabilities are asked for. Text may come later than its tokens.
    LogProbs(Vec<TokenProbability>),
    /// The answer has ended.
    Done(Box<ChatDone>),
    /// The answer failed after it had begun.
    Failed(ApiError),
}

/// Why an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChatFinish {
    /// The model said so.
    End,
    /// This stop string came.
    Stop(String),
    /// The limit of tokens was reached.
    Length,
    /// The context is full.
    ContextFull,
    /// Tools are to be called.
    ToolCalls,
    /// It was given up.
    Cancelled,
}

/// How an answer ended, and what it cost.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatDone {
    /// Why.
    pub finish: ChatFinish,
    /// Tokens of the prompt. For a swarm 0: each expert has a prompt of its own.
    pub prompt_tokens: usize,
    /// Those that did not have to be computed.
    pub cached_tokens: usize,
    /// Tokens of the answer.
    pub completion_tokens: usize,
    /// Those of them that were reasoning.
    pub reasoning_tokens: usize,
    /// How long it took.
    pub stats: Stats,
    /// Who answered, of a swarm.
    pub answered_by: Vec<AnsweredBy>,
    /// What the reader should know.
    pub notes: Vec<String>,
}

/// An expert's part in an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct AnsweredBy {
    /// Its name.
    pub expert: String,
    /// Its share, 0 to 1.
    pub weight: f32,
    /// Why.
    pub why: String,
}

/// A token and how likely it was.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenProbability {
    /// The token.
    pub token: TokenText,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// The likeliest tokens at its place.
    pub top: Vec<(TokenText, f32)>,
}

/// A token as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenText {
    /// Its id.
    pub id: TokenId,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl TokenText {
    /// Its text, with � for what is no whole character.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// A call of a tool, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CalledTool {
    /// Its id.
    pub id: String,
    /// Which tool.
    pub name: String,
    /// The text of a JSON object.
    pub arguments: String,
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatAnswer {
    /// What is said.
    pub text: String,
    /// What is thought.
    pub reasoning: Option<String>,
    /// Tools to be called.
    pub tool_calls: Vec<CalledTool>,
    /// Its tokens, where log probabilities are asked for.
    pub logprobs: Vec<TokenProbability>,
    /// How it ended.
    pub done: ChatDone,
}

/// Puts a question. Prompts are made on a thread that may compute; this returns when the request waits for its turn.
///
/// # Errors
/// Whatever is wrong with the request, and 429 when too many wait.
pub async fn start(app: &App, mut request: ChatRequest) -> Result<ChatStream, ApiError> {
    let notes = std::mem::take(&mut request.notes);
    Ok(ask(app, request).await?.with_notes(notes))
}

async fn ask(app: &App, request: ChatRequest) -> Result<ChatStream, ApiError> {
    if app.is_ending() {
        return Err(ApiError::unavailable("the service is shutting down").coded("shutting_down"));
    }
    let limit = app.config().limits.choices;
    if request.n == 0 || request.n > limit {
        let message = format!("`n` is {}: ask for 1 to {limit} answers", request.n);
        return Err(ApiError::field("n", message).coded("invalid_value"));
    }
    let name = model_name(request.model.as_deref().unwrap_or(&app.config().default_model), app)?;
    if let Some(source) = app.swarm_source(&name).cloned() {
        return swarm::start(app, name, source, request).await;
    }
    request.swarm.check_none(&name)?;
    stream::start(app, name, request).await
}

/// How many tokens the prompt of a question has, without asking it.
///
/// # Errors
/// Whatever is wrong with the request; and for a swarm, each of whose experts has a prompt of its own.
pub async fn count_prompt_tokens(app: &App, request: ChatRequest) -> Result<usize, ApiError> {
    let name = model_name(request.model.as_deref().unwrap_or(&app.config().default_model), app)?;
    if app.swarm_source(&name).is_some() {
        let message = "each expert of a swarm has a prompt of its own: name a single model";
        return Err(ApiError::field("model", message).coded("unsupported_value"));
    }
    request.swarm.check_none(&name)?;
    let app = app.clone();
    blocking(move || Ok(prepare(&app, &name, &request)?.prompt.len())).await
}
