//! Answers, whole and in pieces.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Deref;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value as Json};

use super::error::{Error, Result};
use super::message::{Message, ToolCall};
use crate::wire::openai as wire;

pub use wire::{AnsweredBy, FinishReason, PromptProgress, Timings, TokenLogprob, Usage};

/// Most bytes of an answer.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Most tool calls of an answer.
const TOOL_CALLS_MAX: usize = 1024;

/// An answer. It can be used as its text: it derefs to `str`, and displays as it.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Response {
    /// The text; empty if there are only tool calls.
    pub text: String,
    /// What the model thought before it spoke.
    pub reasoning: Option<String>,
    /// Tools that the model wants to be called.
    pub tool_calls: Vec<ToolCall>,
    /// Why the answer ended; `None` if it was given up.
    pub finish: Option<FinishReason>,
    /// How many tokens it took.
    pub usage: Usage,
    /// Log probabilities of its tokens, where they are asked for.
    pub logprobs: Vec<TokenLogprob>,
    /// Which model answered.
    pub model: String,
    /// Which experts answered; empty for a single model.
    pub answered_by: Vec<AnsweredBy>,
    /// What was done otherwise than asked for, in sentences.
    pub notes: Vec<String>,
    /// How long it took.
    pub timings: Option<Timings>,
}

impl Response {
    /// The text, read as JSON of a type of the program: for answers with a schema.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when it is something else, for instance because the limit of tokens cut it.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_str(&self.text).map_err(|error| {
            let cut = if self.finish == Some(FinishReason::Length) { "; the limit of tokens cut it" } else { "" };
            Error::Mismatch { what: "the answer", problem: format!("{error}{cut}") }
        })
    }

    /// The text.
    #[must_use]
    pub fn into_text(self) -> String {
        self.text
    }

    /// The answer as a turn of a conversation.
    #[must_use]
    pub fn to_message(&self) -> Message {
        let content = (self.tool_calls.is_empty() || !self.text.is_empty()).then(|| self.text.clone());
        Message {
            role: "assistant".into(),
            content,
            reasoning: self.reasoning.clone(),
            tool_calls: self.tool_calls.clone(),
            ..Message::default()
        }
    }

    pub(crate) fn of_wire(answer: wire::ChatCompletion) -> Result<Self> {
        let Some(choice) = answer.choices.into_iter().next() else {
            return Err(Error::broken("/v1/chat/completions", "`choices` is empty"));
        };
        let hublab = answer.hublab.unwrap_or_default();
        Ok(Self {
            text: choice.message.content.unwrap_or_default(),
            reasoning: choice.message.reasoning_content,
            tool_calls: whole_calls(choice.message.tool_calls, choice.finish_reason.as_ref()),
            finish: choice.finish_reason,
            usage: answer.usage.unwrap_or_default(),
            logprobs: choice.logprobs.and_then(|logprobs| logprobs.content).unwrap_or_default(),
            model: answer.model,
            answered_by: hublab.answered_by,
            notes: hublab.notes,
            timings: hublab.timings,
        })
    }
}

impl Deref for Response {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl AsRef<str> for Response {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

impl PartialEq<str> for Response {
    fn eq(&self, text: &str) -> bool {
        self.text == text
    }
}

impl PartialEq<&str> for Response {
    fn eq(&self, text: &&str) -> bool {
        self.text == *text
    }
}

impl From<Response> for String {
    fn from(response: Response) -> Self {
        response.text
    }
}

/// A piece of a streamed answer. It displays as what it adds to the text.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Piece {
    /// More text.
    Text(String),
    /// More of the reasoning.
    Reasoning(String),
    /// More of a tool call; [`Response::tool_calls`] has them whole.
    ToolCall {
        /// Its place among the calls of the answer.
        index: usize,
        /// Which tool; in the first piece of a call.
        name: Option<String>,
        /// More of the text of its arguments.
        arguments: String,
    },
    /// How much of the prompt has been read, where [`GenerateOptions::progress`](super::GenerateOptions::progress) asks for it.
    Progress(PromptProgress),
}

impl Piece {
    /// What it adds to the text.
    #[must_use]
    pub fn text(&self) -> &str {
        if let Self::Text(text) = self { text } else { "" }
    }
}

impl fmt::Display for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.text())
    }
}

/// Chunks in, pieces out; in the end the whole answer.
#[derive(Debug, Default)]
pub(crate) struct Accumulator {
    response: Response,
    /// The arguments of calls are text until they are whole.
    calls: Vec<wire::ToolCall>,
    bytes: usize,
}

impl Accumulator {
    /// Takes a chunk; what it adds is pushed to `pieces`.
    pub fn add(&mut self, chunk: wire::ChatCompletionChunk, pieces: &mut VecDeque<Piece>) -> Result<()> {
        let response = &mut self.response;
        if response.model.is_empty() {
            response.model = chunk.model;
        }
        if let Some(usage) = chunk.usage {
            response.usage = usage;
        }
        if let Some(hublab) = chunk.hublab {
            // It comes once, at the end; of several the last counts.
            response.answered_by = hublab.answered_by;
            response.notes = hublab.notes;
            response.timings = hublab.timings;
        }
        pieces.extend(chunk.prompt_progress.map(Piece::Progress));
        // The client never asks for more than one answer.
        for choice in chunk.choices.into_iter().filter(|choice| choice.index == 0) {
            for token in choice.logprobs.and_then(|logprobs| logprobs.content).into_iter().flatten() {
                self.bytes += (1 + token.top_logprobs.len()) * size_of::<TokenLogprob>();
                response.logprobs.push(token);
            }
            response.finish = choice.finish_reason.or(response.finish.take());
            if let Some(text) = choice.delta.reasoning_content.filter(|text| !text.is_empty()) {
                self.bytes += text.len();
                response.reasoning.get_or_insert_default().push_str(&text);
                pieces.push_back(Piece::Reasoning(text));
            }
            if let Some(text) = choice.delta.content.filter(|text| !text.is_empty()) {
                self.bytes += text.len();
                response.text.push_str(&text);
                pieces.push_back(Piece::Text(text));
            }
            for call in choice.delta.tool_calls {
                self.bytes += add_call(&mut self.calls, call, pieces)?;
            }
        }
        if self.bytes > ANSWER_BYTES_MAX {
            return Err(Error::broken(STREAM, format!("it has more than {ANSWER_BYTES_MAX} bytes")));
        }
        Ok(())
    }

    /// Whether an answer has said why it ended.
    pub fn is_finished(&self) -> bool {
        self.response.finish.is_some()
    }

    /// The answer as it is.
    pub fn response(&self) -> Response {
        let tool_calls = whole_calls(self.calls.clone(), self.response.finish.as_ref());
        Response { tool_calls, ..self.response.clone() }
    }
}

/// The calls that are complete: one that the limit of tokens cut, that was given up, or that could not be read, is none.
fn whole_calls(calls: Vec<wire::ToolCall>, finish: Option<&FinishReason>) -> Vec<ToolCall> {
    let may_be_cut = !matches!(finish, Some(FinishReason::ToolCalls));
    let is_whole = |call: &wire::ToolCall| serde_json::from_str::<Map<String, Json>>(&call.function.arguments).is_ok();
    calls.into_iter().filter(|call| !may_be_cut || is_whole(call)).map(ToolCall::of_wire).collect()
}

const STREAM: &str = "/v1/chat/completions (streamed)";

/// Adds what is new of a call, and returns its bytes.
fn add_call(
    calls: &mut Vec<wire::ToolCall>,
    delta: wire::ToolCallDelta,
    pieces: &mut VecDeque<Piece>,
) -> Result<usize> {
    let index = delta.index as usize;
    if index > calls.len() || index >= TOOL_CALLS_MAX {
        return Err(Error::broken(STREAM, format!("tool call {index} comes after {} others", calls.len())));
    }
    let wire::FunctionCallDelta { name, arguments } = delta.function.unwrap_or_default();
    if index == calls.len() {
        let function = wire::FunctionCall { name: String::new(), arguments: String::new() };
        calls.push(wire::ToolCall { id: String::new(), kind: "function".into(), function });
    }
    let call = &mut calls[index];
    if let Some(id) = delta.id {
        call.id = id;
    }
    if let Some(name) = &name {
        call.function.name.push_str(name);
    }
    let arguments = arguments.unwrap_or_default();
    call.function.arguments.push_str(&arguments);
    let bytes = name.as_ref().map_or(0, String::len) + arguments.len();
    pieces.push_back(Piece::ToolCall { index, name, arguments });
    Ok(bytes)
}
