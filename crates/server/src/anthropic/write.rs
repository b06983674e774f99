//! From neutral answers to the words of Anthropic's dialect.

use axum::response::sse::Event;
use hublabio_runtime::ai::Json;
use hublabio_sdk::wire::anthropic::{BlockDelta, ContentBlock, Message, StopDelta, StreamEvent, Usage};
use serde_json::Map;

use crate::chat::{ChatAnswer, ChatDone, ChatEvent, ChatFinish, ChatStream};
use crate::error::Dialect;
use crate::openai::write::hublab;
use crate::sse::EventSource;

fn stop(finish: &ChatFinish) -> StopDelta {
    let (reason, sequence) = match finish {
        ChatFinish::End | ChatFinish::Cancelled => ("end_turn", None),
        ChatFinish::Stop(text) => ("stop_sequence", Some(text.clone())),
        ChatFinish::Length => ("max_tokens", None),
        ChatFinish::ContextFull => ("model_context_window_exceeded", None),
        ChatFinish::ToolCalls => ("tool_use", None),
    };
    StopDelta { stop_reason: Some(reason.into()), stop_sequence: sequence }
}

fn usage(done: &ChatDone) -> Usage {
    Usage {
        input_tokens: done.prompt_tokens.saturating_sub(done.cached_tokens) as u64,
        cache_creation_input_tokens: 0,
        cache_read_input_tokens: done.cached_tokens as u64,
        output_tokens: done.completion_tokens as u64,
    }
}

/// Arguments as an object. A model that was not forced may have written anything.
fn object(arguments: &str) -> Json {
    if let Ok(Json::Object(object)) = serde_json::from_str(arguments) {
        return Json::Object(object);
    }
    serde_json::json!({ "arguments": arguments })
}

/// A whole answer.
pub fn message(id: String, model: String, answer: ChatAnswer) -> Message {
    let mut content = Vec::new();
    if let Some(thinking) = answer.reasoning {
        content.push(ContentBlock::Thinking { thinking, signature: String::new() });
    }
    if !answer.text.is_empty() {
        content.push(ContentBlock::Text { text: answer.text });
    }
    content.extend(answer.tool_calls.into_iter().map(|call| ContentBlock::ToolUse {
        id: call.id,
        name: call.name,
        input: object(&call.arguments),
    }));
    let StopDelta { stop_reason, stop_sequence } = stop(&answer.done.finish);
    Message {
        id,
        kind: "message".into(),
        role: "assistant".into(),
        model,
        content,
        stop_reason,
        stop_sequence,
        usage: usage(&answer.done),
        hublab: Some(hublab(&answer.done)),
    }
}

/// What the block that is open holds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Block {
    Text,
    Thinking,
    ToolUse,
}

/// A streamed answer.
pub struct Events {
    stream: ChatStream,
    id: String,
    begun: bool,
    open: Option<Block>,
    index: u32,
    pinged: bool,
    ended: bool,
}

impl Events {
    pub fn new(stream: ChatStream, id: String) -> Self {
        Self { stream, id, begun: false, open: None, index: 0, pinged: false, ended: false }
    }

    fn begin(&mut self, out: &mut Vec<Event>) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        let message = Message {
            id: self.id.clone(),
            kind: "message".into(),
            role: "assistant".into(),
            model: self.stream.model().to_owned(),
            content: Vec::new(),
            stop_reason: None,
            stop_sequence: None,
            usage: Usage { input_tokens: self.stream.prompt_tokens() as u64, ..Usage::default() },
            hublab: None,
        };
        out.push(event("message_start", &StreamEvent::MessageStart { message }));
    }

    fn close(&mut self, out: &mut Vec<Event>) {
        let Some(open) = self.open.take() else { return };
        if open == Block::Thinking {
            self.grow(BlockDelta::SignatureDelta { signature: String::new() }, out);
        }
        out.push(event("content_block_stop", &StreamEvent::ContentBlockStop { index: self.index }));
        self.index += 1;
    }

    fn open(&mut self, block: Block, content_block: ContentBlock, out: &mut Vec<Event>) {
        self.close(out);
        self.open = Some(block);
        let index = self.index;
        out.push(event("content_block_start", &StreamEvent::ContentBlockStart { index, content_block }));
        if !std::mem::replace(&mut self.pinged, true) {
            out.push(event("ping", &StreamEvent::Ping));
        }
    }

    fn grow(&self, delta: BlockDelta, out: &mut Vec<Event>) {
        out.push(event("content_block_delta", &StreamEvent::ContentBlockDelta { index: self.index, delta }));
    }

    fn write(&mut self, event_of: ChatEvent) -> Vec<Event> {
        let mut out = Vec::new();
        self.begin(&mut out);
        match event_of {
            ChatEvent::Progress { .. } | ChatEvent::Experts(_) | ChatEvent::LogProbs(_) => {}
            ChatEvent::Text(text) => {
                if self.open != Some(Block::Text) {
                    self.open(Block::Text, ContentBlock::Text { text: String::new() }, &mut out);
                }
                self.grow(BlockDelta::TextDelta { text }, &mut out);
            }
            ChatEvent::Reasoning(thinking) => {
                if self.open != Some(Block::Thinking) {
                    let block = ContentBlock::Thinking { thinking: String::new(), signature: String::new() };
                    self.open(Block::Thinking, block, &mut out);
                }
                self.grow(BlockDelta::ThinkingDelta { thinking }, &mut out);
            }
            ChatEvent::ToolCallBegin { id, name, .. } => {
                let block = ContentBlock::ToolUse { id, name, input: Json::Object(Map::new()) };
                self.open(Block::ToolUse, block, &mut out);
            }
            ChatEvent::ToolCallArguments { delta, .. } => {
                self.grow(BlockDelta::InputJsonDelta { partial_json: delta }, &mut out);
            }
            // One that breaks off is a block whose JSON has no end; `stop_reason` says why.
            ChatEvent::ToolCallEnd { .. } | ChatEvent::ToolCallBroken { .. } => self.close(&mut out),
            ChatEvent::Done(done) => {
                self.ended = true;
                self.close(&mut out);
                let last = StreamEvent::MessageDelta {
                    delta: stop(&done.finish),
                    usage: usage(&done),
                    hublab: Some(hublab(&done)),
                };
                out.push(event("message_delta", &last));
                out.push(event("message_stop", &StreamEvent::MessageStop));
            }
            ChatEvent::Failed(error) => {
                self.ended = true;
                out.push(Event::default().event("error").data(error.body(Dialect::Anthropic).to_string()));
            }
        }
        out
    }
}

fn event(name: &str, value: &StreamEvent) -> Event {
    Event::default().event(name).data(serde_json::to_string(value).expect("wire types are JSON"))
}

impl EventSource for Events {
    async fn next(&mut self) -> Option<Vec<Event>> {
        if self.ended {
            return None;
        }
        let (_, event) = self.stream.next().await?;
        Some(self.write(event))
    }
}
