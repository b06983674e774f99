//! From neutral answers to the words of Ollama's dialect, whole and line by line.

use std::time::Instant;

use axum::Json as JsonResponse;
use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use hublabio_runtime::ai::{Json, Tool};
use hublabio_sdk::wire::ollama::{ChatResponse, End, GenerateResponse, Message, ToolCall, ToolCallFunction};
use hublabio_sdk::wire::openai::TokenLogprob;
use serde::Serialize;

use super::request::{self, Manner, Meant, Options};
use crate::chat::{self, CalledTool, ChatDone, ChatEvent, ChatFinish, ChatRequest, ChatStream, Input};
use crate::clock;
use crate::error::{ApiError, Dialect};
use crate::openai::write::{chat_logprobs, hublab};
use crate::pieces::{self, PieceSource};
use crate::state::App;
use crate::thinking;

/// Which endpoint answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `/api/generate`
    Generate,
    /// `/api/chat`
    Chat,
}

/// What an answer says, or the next piece of it.
#[derive(Default)]
struct Said {
    text: String,
    thinking: Option<String>,
    calls: Vec<ToolCall>,
    logprobs: Vec<TokenLogprob>,
}

/// Writes answers of one endpoint.
struct Writer {
    kind: Kind,
    model: String,
}

impl Writer {
    fn write(&self, said: Said, end: Option<End>) -> Json {
        let (model, created_at, done) = (self.model.clone(), clock::now(), end.is_some());
        let Said { text, thinking, calls, logprobs } = said;
        match self.kind {
            Kind::Generate => {
                to_json(&GenerateResponse { model, created_at, response: text, thinking, logprobs, done, end })
            }
            Kind::Chat => {
                let message = Message {
                    role: "assistant".into(),
                    content: text,
                    thinking,
                    tool_calls: calls,
                    tool_name: None,
                    tool_call_id: None,
                };
                to_json(&ChatResponse { model, created_at, message, logprobs, done, end })
            }
        }
    }
}

fn to_json(value: &impl Serialize) -> Json {
    serde_json::to_value(value).expect("wire types are JSON")
}

fn call(index: usize, called: CalledTool) -> ToolCall {
    // A model that was not forced may have written anything.
    let arguments = serde_json::from_str(&called.arguments).ok().filter(Json::is_object);
    let arguments = arguments.unwrap_or_else(|| serde_json::json!({ "arguments": called.arguments }));
    let function = ToolCallFunction { index: Some(index as u32), name: called.name, arguments };
    ToolCall { id: Some(called.id), function }
}

fn end(done: &ChatDone, begun: Instant) -> End {
    let nanoseconds = |seconds: f64| (seconds.max(0.0) * 1e9) as u64;
    let total = begun.elapsed().as_nanos() as u64;
    let (prompt, decode) = (nanoseconds(done.stats.prompt_s), nanoseconds(done.stats.decode_s));
    let reason = match done.finish {
        ChatFinish::Length | ChatFinish::ContextFull => "length",
        _ => "stop",
    };
    End {
        done_reason: reason.into(),
        total_duration: Some(total),
        load_duration: Some(total.saturating_sub(prompt + decode)),
        prompt_eval_count: Some(done.prompt_tokens as u64),
        prompt_eval_duration: Some(prompt),
        eval_count: Some(done.completion_tokens as u64),
        eval_duration: Some(decode),
        hublab: Some(hublab(done)),
    }
}

/// A request to one of the endpoints.
pub struct Asked<'j> {
    pub kind: Kind,
    /// When it came.
    pub begun: Instant,
    pub meant: Meant,
    pub manner: Manner<'j>,
    pub options: Options,
    /// Without one the model is loaded, or freed.
    pub question: Option<Question>,
}

/// What is asked.
pub struct Question {
    pub input: Input,
    pub tools: Vec<Tool>,
}

/// Answers in lines or whole.
pub async fn answer(app: &App, asked: Asked<'_>) -> Result<Response, ApiError> {
    let Asked { kind, begun, meant, manner, options, question } = asked;
    let Manner { in_lines, thinking, stay, format, logprobs, swarm, .. } = manner;
    let Some(Question { input, tools }) = question else {
        let model = meant.name.clone();
        let reason = request::load(app, meant, stay).await?;
        let end = End { done_reason: reason.into(), ..End::default() };
        return Ok(JsonResponse(Writer { kind, model }.write(Said::default(), Some(end))).into_response());
    };
    let mut request = ChatRequest {
        tools,
        format,
        sampling: options.sampling,
        max_tokens: options.max_tokens,
        stop: options.stop,
        notes: options.notes,
        logprobs,
        swarm,
        keep_alive: stay,
        ..ChatRequest::new(Some(meant.name), input)
    };
    thinking::apply(app, &mut request, thinking, "think").await?;
    let stream = chat::start(app, request).await?;
    let writer = Writer { kind, model: stream.model().to_owned() };
    if in_lines {
        // A line has whole calls.
        let stream = stream.with_whole_calls();
        let lines = Lines { writer, stream, begun, calls: Vec::new(), logprobs: Vec::new(), ended: false };
        let body = Body::from_stream(pieces::stream(lines));
        return Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response());
    }
    let answer = stream.collect().await?.pop().ok_or_else(|| ApiError::internal("there is no answer: try again"))?;
    let said = Said {
        text: answer.text,
        thinking: answer.reasoning,
        calls: answer.tool_calls.into_iter().enumerate().map(|(index, called)| call(index, called)).collect(),
        logprobs: chat_logprobs(&answer.logprobs).content.unwrap_or_default(),
    };
    Ok(JsonResponse(writer.write(said, Some(end(&answer.done, begun)))).into_response())
}

/// A streamed answer, a line for each piece.
struct Lines {
    writer: Writer,
    stream: ChatStream,
    begun: Instant,
    /// Calls whose arguments are not complete: they are told whole.
    calls: Vec<CalledTool>,
    logprobs: Vec<TokenLogprob>,
    ended: bool,
}

impl Lines {
    fn said(&mut self, said: Said) -> Json {
        let logprobs = std::mem::take(&mut self.logprobs);
        self.writer.write(Said { logprobs, ..said }, None)
    }

    fn write(&mut self, event: ChatEvent) -> Option<Json> {
        match event {
            ChatEvent::Progress { .. } | ChatEvent::Experts(_) | ChatEvent::ToolCallBroken { .. } => None,
            ChatEvent::Text(text) => Some(self.said(Said { text, ..Said::default() })),
            ChatEvent::Reasoning(text) => Some(self.said(Said { thinking: Some(text), ..Said::default() })),
            ChatEvent::ToolCallBegin { id, name, .. } => {
                self.calls.push(CalledTool { id, name, arguments: String::new() });
                None
            }
            ChatEvent::ToolCallArguments { index, delta } => {
                self.calls.get_mut(index)?.arguments.push_str(&delta);
                None
            }
            ChatEvent::ToolCallEnd { index } => {
                let called = self.calls.get(index)?.clone();
                Some(self.said(Said { calls: vec![call(index, called)], ..Said::default() }))
            }
            ChatEvent::LogProbs(found) => {
                self.logprobs.extend(chat_logprobs(&found).content.unwrap_or_default());
                None
            }
            ChatEvent::Done(done) => {
                self.ended = true;
                let logprobs = std::mem::take(&mut self.logprobs);
                Some(self.writer.write(Said { logprobs, ..Said::default() }, Some(end(&done, self.begun))))
            }
            ChatEvent::Failed(error) => {
                self.ended = true;
                Some(error.body(Dialect::Ollama))
            }
        }
    }
}

impl PieceSource for Lines {
    type Piece = String;

    async fn next(&mut self) -> Option<Vec<String>> {
        if self.ended {
            return None;
        }
        let (_, event) = self.stream.next().await?;
        Some(self.write(event).map(|line| format!("{line}\n")).into_iter().collect())
    }
}
