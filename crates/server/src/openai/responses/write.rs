//! From neutral answers to items and events. Whole and streamed answers come from the same place, so they are the same.

use axum::response::sse::Event;
use hublabio_runtime::ai::Json;
use serde_json::{Map, json};

use super::Keep;
use crate::chat::{ChatDone, ChatEvent, ChatFinish, ChatStream, TokenProbability};
use crate::error::ApiError;
use crate::openai::write::{chat_logprobs, hublab};
use crate::sse::EventSource;
use crate::state::App;

/// What an answer repeats of its question.
pub struct Echo {
    pub instructions: Option<String>,
    pub max_output_tokens: Option<usize>,
    pub metadata: Json,
    pub parallel_tool_calls: bool,
    pub previous_response_id: Option<String>,
    pub effort: Option<String>,
    pub store: bool,
    pub temperature: Option<f32>,
    pub top_p: Option<f32>,
    pub top_logprobs: usize,
    pub format: Json,
    pub tool_choice: Json,
    pub tools: Vec<Json>,
}

/// An item that grows.
enum Open {
    Message { id: String, text: String, logprobs: Vec<Json> },
    Reasoning { id: String, text: String },
    Call { id: String, call_id: String, name: String, arguments: String },
}

/// An answer that grows.
pub struct Answer {
    app: App,
    /// The answer without what changes.
    frame: Map<String, Json>,
    with_logprobs: bool,
    output: Vec<Json>,
    open: Option<Open>,
    /// Tokens whose text is not told yet.
    logprobs: Vec<TokenProbability>,
    status: &'static str,
    error: Option<Json>,
    done: Option<ChatDone>,
    keep: Option<Keep>,
}

/// An event's name and what it says, but for its number.
type Told = (&'static str, Json);

impl Answer {
    /// An answer that says nothing yet.
    pub fn new(app: &App, model: &str, echo: &Echo, with_logprobs: bool, keep: Option<Keep>) -> Self {
        let frame = json!({
            "id": app.new_id("resp_"),
            "object": "response",
            "created_at": App::now_s(),
            "completed_at": null,
            "status": "in_progress",
            "background": false,
            "error": null,
            "incomplete_details": null,
            "instructions": echo.instructions,
            "max_output_tokens": echo.max_output_tokens,
            "model": model,
            "output": [],
            "parallel_tool_calls": echo.parallel_tool_calls,
            "previous_response_id": echo.previous_response_id,
            "reasoning": { "effort": echo.effort, "summary": null },
            "store": echo.store,
            "temperature": echo.temperature,
            "text": { "format": echo.format },
            "tool_choice": echo.tool_choice,
            "tools": echo.tools,
            "top_logprobs": echo.top_logprobs,
            "top_p": echo.top_p,
            "truncation": "disabled",
            "usage": null,
            "metadata": echo.metadata,
        });
        let Json::Object(frame) = frame else { unreachable!("it is an object") };
        Self {
            app: app.clone(),
            frame,
            with_logprobs,
            output: Vec::new(),
            open: None,
            logprobs: Vec::new(),
            status: "in_progress",
            error: None,
            done: None,
            keep,
        }
    }

    /// The answer as far as it is.
    pub fn object(&self) -> Json {
        let mut object = self.frame.clone();
        let mut set = |name: &str, value: Json| object.insert(name.into(), value);
        set("status", self.status.into());
        set("output", self.output.clone().into());
        if let Some(error) = &self.error {
            set("error", error.clone());
        }
        if self.status == "incomplete" {
            set("incomplete_details", json!({ "reason": "max_output_tokens" }));
        }
        if let Some(done) = &self.done {
            set("usage", usage(done));
            set("hublab", serde_json::to_value(hublab(done)).expect("wire types are JSON"));
        }
        Json::Object(object)
    }

    /// The events before the first of the answer.
    pub fn begin(&self) -> [Told; 2] {
        ["response.created", "response.in_progress"].map(|name| (name, json!({ "response": self.object() })))
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.status != "in_progress"
    }

    /// Takes what is new, and says it in events. An answer that has ended is kept before that is said.
    pub async fn take(&mut self, event: ChatEvent) -> Vec<Told> {
        let mut out = Vec::new();
        match event {
            ChatEvent::Progress { .. } | ChatEvent::Experts(_) => {}
            ChatEvent::ToolCallEnd { .. } => self.close("completed", &mut out),
            ChatEvent::ToolCallBroken { .. } => self.close("incomplete", &mut out),
            ChatEvent::LogProbs(found) => self.logprobs.extend(found),
            ChatEvent::Text(text) => self.say(&text, &mut out),
            ChatEvent::Reasoning(text) => self.think(&text, &mut out),
            ChatEvent::ToolCallBegin { id, name, .. } => {
                self.close("completed", &mut out);
                let open = Open::Call { id: self.app.new_id("fc_"), call_id: id, name, arguments: String::new() };
                self.open(open, &mut out);
            }
            ChatEvent::ToolCallArguments { delta, .. } => {
                let index = self.output.len();
                if let Some(Open::Call { id, arguments, .. }) = &mut self.open {
                    arguments.push_str(&delta);
                    let told = json!({ "item_id": id, "output_index": index, "delta": delta });
                    out.push(("response.function_call_arguments.delta", told));
                }
            }
            ChatEvent::Done(done) => {
                let cut = matches!(done.finish, ChatFinish::Length | ChatFinish::ContextFull);
                self.close(if cut { "incomplete" } else { "completed" }, &mut out);
                self.status = if cut { "incomplete" } else { "completed" };
                if !cut {
                    self.frame.insert("completed_at".into(), App::now_s().into());
                }
                self.done = Some(*done);
                self.keep().await;
                let name = if cut { "response.incomplete" } else { "response.completed" };
                out.push((name, json!({ "response": self.object() })));
            }
            ChatEvent::Failed(error) => {
                self.close("incomplete", &mut out);
                self.fail(&error);
                out.push(("response.failed", json!({ "response": self.object() })));
            }
        }
        out
    }

    /// Keeps the answer if that is asked for. One that cannot be kept is given all the same, and says so.
    async fn keep(&mut self) {
        let Some(keep) = self.keep.take() else { return };
        if let Err(error) = keep.keep(self.object()).await {
            tracing::warn!(%error, "a response is not kept");
            self.frame.insert("store".into(), false.into());
            if let Some(done) = &mut self.done {
                done.notes.push(format!("the answer is not kept: {error}"));
            }
        }
    }

    fn fail(&mut self, error: &ApiError) {
        self.status = "failed";
        self.error = Some(json!({ "code": "server_error", "message": error.message }));
    }

    fn say(&mut self, text: &str, out: &mut Vec<Told>) {
        if !matches!(self.open, Some(Open::Message { .. })) {
            self.close("completed", out);
            let id = self.app.new_id("msg_");
            self.open(Open::Message { id, text: String::new(), logprobs: Vec::new() }, out);
        }
        let index = self.output.len();
        let new = self.told_logprobs();
        if let Some(Open::Message { id, text: all, logprobs }) = &mut self.open {
            all.push_str(text);
            logprobs.extend(new.iter().cloned());
            let told = json!({
                "item_id": id, "output_index": index, "content_index": 0, "delta": text, "logprobs": new,
            });
            out.push(("response.output_text.delta", told));
        }
    }

    fn think(&mut self, text: &str, out: &mut Vec<Told>) {
        if !matches!(self.open, Some(Open::Reasoning { .. })) {
            self.close("completed", out);
            self.open(Open::Reasoning { id: self.app.new_id("rs_"), text: String::new() }, out);
        }
        // Only what is said has log probabilities here.
        self.logprobs.clear();
        let index = self.output.len();
        if let Some(Open::Reasoning { id, text: all }) = &mut self.open {
            all.push_str(text);
            let told = json!({ "item_id": id, "output_index": index, "content_index": 0, "delta": text });
            out.push(("response.reasoning_text.delta", told));
        }
    }

    fn told_logprobs(&mut self) -> Vec<Json> {
        let tokens = std::mem::take(&mut self.logprobs);
        if !self.with_logprobs {
            return Vec::new();
        }
        let found = chat_logprobs(&tokens).content.unwrap_or_default();
        found.iter().map(|token| serde_json::to_value(token).expect("wire types are JSON")).collect()
    }

    fn open(&mut self, open: Open, out: &mut Vec<Told>) {
        let index = self.output.len();
        out.push((
            "response.output_item.added",
            json!({ "output_index": index, "item": open.item("in_progress", true) }),
        ));
        if let Some((id, part)) = open.part(true) {
            let told = json!({ "item_id": id, "output_index": index, "content_index": 0, "part": part });
            out.push(("response.content_part.added", told));
        }
        self.open = Some(open);
    }

    /// Completes the item that grows.
    fn close(&mut self, status: &str, out: &mut Vec<Told>) {
        let rest = self.told_logprobs();
        let Some(mut open) = self.open.take() else { return };
        if let Open::Message { logprobs, .. } = &mut open {
            logprobs.extend(rest);
        }
        let index = self.output.len();
        match &open {
            Open::Message { id, text, logprobs } => {
                let told = json!({
                    "item_id": id, "output_index": index, "content_index": 0, "text": text, "logprobs": logprobs,
                });
                out.push(("response.output_text.done", told));
            }
            Open::Reasoning { id, text } => {
                let told = json!({ "item_id": id, "output_index": index, "content_index": 0, "text": text });
                out.push(("response.reasoning_text.done", told));
            }
            Open::Call { id, name, arguments, .. } => {
                let told = json!({ "item_id": id, "output_index": index, "name": name, "arguments": arguments });
                out.push(("response.function_call_arguments.done", told));
            }
        }
        if let Some((id, part)) = open.part(false) {
            let told = json!({ "item_id": id, "output_index": index, "content_index": 0, "part": part });
            out.push(("response.content_part.done", told));
        }
        let item = open.item(status, false);
        out.push(("response.output_item.done", json!({ "output_index": index, "item": item })));
        self.output.push(item);
    }
}

impl Open {
    /// The part of it that holds its text, with the item's id.
    fn part(&self, empty: bool) -> Option<(&str, Json)> {
        match self {
            Self::Message { id, text, logprobs } => {
                let (text, logprobs) = if empty { ("", &[][..]) } else { (text.as_str(), &logprobs[..]) };
                let part = json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": logprobs });
                Some((id, part))
            }
            Self::Reasoning { id, text } => {
                Some((id, json!({ "type": "reasoning_text", "text": if empty { "" } else { text } })))
            }
            Self::Call { .. } => None,
        }
    }

    fn item(&self, status: &str, empty: bool) -> Json {
        let content = || if empty { json!([]) } else { json!([self.part(false).map(|(_, part)| part)]) };
        match self {
            Self::Message { id, .. } => {
                json!({ "id": id, "type": "message", "status": status, "role": "assistant", "content": content() })
            }
            Self::Reasoning { id, .. } => {
                json!({ "id": id, "type": "reasoning", "status": status, "summary": [], "content": content() })
            }
            Self::Call { id, call_id, name, arguments } => json!({
                "id": id, "type": "function_call", "status": status, "call_id": call_id, "name": name, "arguments": arguments,
            }),
        }
    }
}

fn usage(done: &ChatDone) -> Json {
    json!({
        "input_tokens": done.prompt_tokens,
        "input_tokens_details": { "cached_tokens": done.cached_tokens, "cache_write_tokens": 0 },
        "output_tokens": done.completion_tokens,
        "output_tokens_details": { "reasoning_tokens": done.reasoning_tokens },
        "total_tokens": done.prompt_tokens + done.completion_tokens,
    })
}

/// A streamed answer.
pub struct Events {
    stream: ChatStream,
    answer: Answer,
    number: u64,
}

impl Events {
    pub fn new(stream: ChatStream, answer: Answer) -> Self {
        Self { stream, answer, number: 0 }
    }

    fn events(&mut self, told: impl IntoIterator<Item = Told>) -> Vec<Event> {
        let numbered = |(name, mut data): Told| {
            data["type"] = name.into();
            data["sequence_number"] = self.number.into();
            self.number += 1;
            Event::default().event(name).data(data.to_string())
        };
        told.into_iter().map(numbered).collect()
    }
}

impl EventSource for Events {
    async fn next(&mut self) -> Option<Vec<Event>> {
        if self.number == 0 {
            let begin = self.answer.begin();
            return Some(self.events(begin));
        }
        if self.answer.has_ended() {
            return None;
        }
        let (_, event) = self.stream.next().await?;
        let told = self.answer.take(event).await;
        Some(self.events(told))
    }
}
