//! An answer while it comes: events of the node, taken apart into text, reasoning and tool calls.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use hublabio_runtime::ai::{Event, Finish, Generation, OutputParser, TokenId, TokenLogProbs, ToolCall};
use hublabio_runtime::node::{AnswerEvent, AnswerSink, GenerationRequest, ServedModel};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::prepare::{Prepared, prepare};
use super::{CalledTool, ChatAnswer, ChatDone, ChatEvent, ChatFinish, ChatRequest, TokenProbability, TokenText};
use crate::error::ApiError;
use crate::state::{App, blocking};

/// Bytes of a call's arguments that come at once.
const ARGUMENTS_PIECE_BYTES: usize = 48;

/// What a choice's source says: the node, or a swarm that has taken its answer apart already.
pub(super) enum Raw {
    Node(AnswerEvent),
    Event(ChatEvent),
}

/// The way from the thread that computes to the task that answers. It never waits: what is on the way is bounded by the
/// tokens of an answer.
pub(super) struct ChannelSink {
    pub choice: usize,
    pub sender: UnboundedSender<(usize, Raw)>,
}

impl AnswerSink for ChannelSink {
    fn take(&mut self, event: AnswerEvent) -> ControlFlow<()> {
        if self.sender.send((self.choice, Raw::Node(event))).is_ok() {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    }

    fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

/// The answers to a question, while they come. Dropping it gives up what is not finished.
pub struct ChatStream {
    app: App,
    model: String,
    prompt_tokens: usize,
    receiver: UnboundedReceiver<(usize, Raw)>,
    choices: Vec<Choice>,
    pending: VecDeque<(usize, ChatEvent)>,
    open: usize,
    asked: Instant,
    first_token_seen: bool,
}

/// One of the answers.
struct Choice {
    served: Option<Arc<ServedModel>>,
    stop: Vec<String>,
    parser: Option<OutputParser>,
    call_is_forced: bool,
    calls: usize,
    /// More calls are left out, and that is noted.
    calls_max: usize,
    thinks: bool,
    reasoning_tokens: usize,
    notes: Vec<String>,
    ended: bool,
}

/// Puts a question to one model.
pub(super) async fn start(app: &App, name: String, request: ChatRequest) -> Result<ChatStream, ApiError> {
    let asked = Instant::now();
    let n = request.n;
    let worker = app.clone();
    let (model, prompt_tokens, receiver, choices) = blocking(move || {
        let prepared = prepare(&worker, &name, &request)?;
        let Prepared { model, prompt, config, parser, call_is_forced, notes } = prepared;
        let (sender, receiver) = unbounded_channel();
        let prompt_tokens = prompt.len();
        for choice in 0..n {
            let mut config = config.clone();
            // Answers with one seed would be the same.
            config.sampling.seed = config.sampling.seed.map(|seed| seed.wrapping_add(choice as u64));
            let keep_alive = request.keep_alive;
            let asked = GenerationRequest::new(Arc::clone(&model), prompt.clone(), config);
            worker.node().submit(
                GenerationRequest { keep_alive, ..asked },
                Box::new(ChannelSink { choice, sender: sender.clone() }),
            )?;
        }
        let choice = || Choice {
            served: Some(Arc::clone(&model)),
            stop: request.stop.clone(),
            parser: parser.clone(),
            call_is_forced,
            calls: 0,
            calls_max: if request.parallel_tool_calls == Some(false) { 1 } else { usize::MAX },
            thinks: false,
            reasoning_tokens: 0,
            notes: notes.clone(),
            ended: false,
        };
        let choices = std::iter::repeat_with(choice).take(n).collect();
        Ok((name, prompt_tokens, receiver, choices))
    })
    .await?;
    Ok(ChatStream::new(app, model, prompt_tokens, receiver, choices, asked))
}

impl ChatStream {
    fn new(
        app: &App,
        model: String,
        prompt_tokens: usize,
        receiver: UnboundedReceiver<(usize, Raw)>,
        choices: Vec<Choice>,
        asked: Instant,
    ) -> Self {
        Self {
            app: app.clone(),
            model,
            prompt_tokens,
            receiver,
            open: choices.len(),
            choices,
            pending: VecDeque::new(),
            asked,
            first_token_seen: false,
        }
    }

    /// A stream of a source that makes its own events.
    pub(super) fn of_events(
        app: &App,
        model: String,
        receiver: UnboundedReceiver<(usize, Raw)>,
        asked: Instant,
    ) -> Self {
        let choice = Choice {
            served: None,
            stop: Vec::new(),
            parser: None,
            call_is_forced: false,
            calls: 0,
            calls_max: usize::MAX,
            thinks: false,
            reasoning_tokens: 0,
            notes: Vec::new(),
            ended: false,
        };
        Self::new(app, model, 0, receiver, vec![choice], asked)
    }

    /// The name of the model that answers.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Tokens of the prompt, as far as they are known before an answer.
    pub fn prompt_tokens(&self) -> usize {
        self.prompt_tokens
    }

    /// How many answers there are.
    pub fn choices(&self) -> usize {
        self.choices.len()
    }

    /// The next event and the number of its answer; `None` after the end of the last answer.
    pub async fn next(&mut self) -> Option<(usize, ChatEvent)> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Some(event);
            }
            if self.open == 0 {
                return None;
            }
            match self.receiver.recv().await {
                Some((choice, raw)) => self.take(choice, raw),
                None => self.fail_the_rest(),
            }
        }
    }

    /// All answers, whole, in their order.
    ///
    /// # Errors
    /// When one of them fails.
    pub async fn collect(mut self) -> Result<Vec<ChatAnswer>, ApiError> {
        let mut drafts: Vec<Draft> = std::iter::repeat_with(Draft::default).take(self.choices()).collect();
        while let Some((choice, event)) = self.next().await {
            drafts[choice].add(event)?;
        }
        drafts.into_iter().map(Draft::finish).collect()
    }

    /// The source is gone before it said so.
    fn fail_the_rest(&mut self) {
        for choice in 0..self.choices.len() {
            if !self.choices[choice].ended {
                let error = ApiError::internal("the model stopped without an answer: try again");
                self.end(choice, ChatEvent::Failed(error));
            }
        }
    }

    fn end(&mut self, choice: usize, last: ChatEvent) {
        if !std::mem::replace(&mut self.choices[choice].ended, true) {
            self.open -= 1;
            self.pending.push_back((choice, last));
        }
    }

    fn take(&mut self, choice: usize, raw: Raw) {
        match raw {
            Raw::Event(event @ (ChatEvent::Done(_) | ChatEvent::Failed(_))) => self.end(choice, event),
            Raw::Event(event) => {
                self.see_token();
                self.pending.push_back((choice, event));
            }
            Raw::Node(AnswerEvent::Progress { read, total }) => {
                self.pending.push_back((choice, ChatEvent::Progress { read, total }));
            }
            Raw::Node(AnswerEvent::Piece { text, token, logprobs }) => {
                if token.is_some() {
                    self.see_token();
                }
                let found = logprobs.and_then(|found| self.choices[choice].probability(&found));
                self.pending.extend(found.map(|found| (choice, ChatEvent::LogProbs(vec![found]))));
                self.read(choice, &text, token.is_some());
            }
            Raw::Node(AnswerEvent::Done(generation)) => {
                let rest = self.choices[choice].parser.take().map(OutputParser::finish).unwrap_or_default();
                self.tell(choice, rest);
                let done = self.choices[choice].done(&generation);
                self.end(choice, ChatEvent::Done(Box::new(done)));
            }
            Raw::Node(AnswerEvent::Failed(error)) => self.end(choice, ChatEvent::Failed(error.into())),
            // What else a node may say one day is not part of an answer.
            Raw::Node(_) => {}
        }
    }

    fn see_token(&mut self) {
        if !std::mem::replace(&mut self.first_token_seen, true) {
            self.app.metrics().first_token(self.asked.elapsed());
        }
    }

    fn read(&mut self, choice: usize, text: &str, is_token: bool) {
        let state = &mut self.choices[choice];
        let events = match &mut state.parser {
            Some(parser) => parser.push(text),
            None if text.is_empty() => Vec::new(),
            None => vec![Event::Content(text.to_owned())],
        };
        match events.last() {
            Some(Event::Reasoning(_)) => state.thinks = true,
            Some(_) => state.thinks = false,
            None => {}
        }
        state.reasoning_tokens += usize::from(is_token && state.thinks);
        self.tell(choice, events);
    }

    fn tell(&mut self, choice: usize, events: Vec<Event>) {
        for event in events {
            match event {
                Event::Content(text) => self.pending.push_back((choice, ChatEvent::Text(text))),
                Event::Reasoning(text) => self.pending.push_back((choice, ChatEvent::Reasoning(text))),
                Event::ToolCall(call) => self.call(choice, call),
                Event::Malformed(malformed) => {
                    self.choices[choice].notes.push(malformed.to_string());
                    self.pending.push_back((choice, ChatEvent::Text(malformed.raw)));
                }
            }
        }
    }

    fn call(&mut self, choice: usize, call: ToolCall) {
        let index = self.choices[choice].calls;
        if index >= self.choices[choice].calls_max {
            let note = format!("the model wanted to call `{}`, too: one call was allowed", call.name);
            self.choices[choice].notes.push(note);
            return;
        }
        self.choices[choice].calls += 1;
        let id = call.id.unwrap_or_else(|| self.app.new_call_id());
        self.pending.push_back((choice, ChatEvent::ToolCallBegin { index, id, name: call.name }));
        let arguments = call.arguments.to_string();
        for delta in pieces(&arguments, ARGUMENTS_PIECE_BYTES) {
            self.pending.push_back((choice, ChatEvent::ToolCallArguments { index, delta: delta.to_owned() }));
        }
        self.pending.push_back((choice, ChatEvent::ToolCallEnd { index }));
    }
}

impl Choice {
    fn done(&mut self, generation: &Generation) -> ChatDone {
        let has_calls = self.calls > 0;
        let finish = match generation.finish {
            Finish::EndOfText if has_calls => ChatFinish::ToolCalls,
            Finish::EndOfText => ChatFinish::End,
            Finish::Stop(index) => ChatFinish::Stop(self.stop.get(index).cloned().unwrap_or_default()),
            // The calls that had to come are complete; only the token that ends the turn is missing.
            Finish::Length | Finish::Context if has_calls && self.call_is_forced => ChatFinish::ToolCalls,
            Finish::Length | Finish::Context => ChatFinish::Length,
            Finish::Cancelled => ChatFinish::Cancelled,
        };
        ChatDone {
            finish,
            prompt_tokens: generation.stats.prompt_tokens,
            cached_tokens: generation.stats.cached_tokens,
            completion_tokens: generation.stats.generated_tokens,
            reasoning_tokens: self.reasoning_tokens,
            stats: generation.stats,
            answered_by: Vec::new(),
            notes: std::mem::take(&mut self.notes),
        }
    }

    fn probability(&self, found: &TokenLogProbs) -> Option<TokenProbability> {
        let tokenizer = self.served.as_ref()?.text().ok()?.tokenizer();
        let token = |id: TokenId| TokenText { id, bytes: tokenizer.token_bytes(id).unwrap_or_default().to_vec() };
        Some(TokenProbability {
            token: token(found.token),
            logprob: found.logprob,
            top: found.top.iter().map(|&(id, logprob)| (token(id), logprob)).collect(),
        })
    }
}

/// A text in pieces of at most so many bytes, cut between characters.
fn pieces(text: &str, bytes: usize) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let end = (0..=bytes.min(rest.len())).rev().find(|&at| rest.is_char_boundary(at))?;
        let (piece, after) = rest.split_at(end);
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

/// An answer that grows.
#[derive(Default)]
struct Draft {
    text: String,
    reasoning: Option<String>,
    tool_calls: Vec<CalledTool>,
    logprobs: Vec<TokenProbability>,
    done: Option<ChatDone>,
}

impl Draft {
    fn add(&mut self, event: ChatEvent) -> Result<(), ApiError> {
        match event {
            ChatEvent::Progress { .. } | ChatEvent::ToolCallEnd { .. } => {}
            ChatEvent::Text(text) => self.text.push_str(&text),
            ChatEvent::Reasoning(text) => self.reasoning.get_or_insert_default().push_str(&text),
            ChatEvent::ToolCallBegin { id, name, .. } => {
                self.tool_calls.push(CalledTool { id, name, arguments: String::new() });
            }
            ChatEvent::ToolCallArguments { index, delta } => {
                if let Some(call) = self.tool_calls.get_mut(index) {
                    call.arguments.push_str(&delta);
                }
            }
            ChatEvent::LogProbs(found) => self.logprobs.extend(found),
            ChatEvent::Done(done) => self.done = Some(*done),
            ChatEvent::Failed(error) => return Err(error),
        }
        Ok(())
    }

    fn finish(self) -> Result<ChatAnswer, ApiError> {
        let Self { text, reasoning, tool_calls, logprobs, done } = self;
        let done = done.ok_or_else(|| ApiError::internal("the model stopped without an answer: try again"))?;
        Ok(ChatAnswer { text, reasoning, tool_calls, logprobs, done })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_in_pieces_is_the_text() {
        for text in ["", "a", "abcdef", "äöüß€", "{\"a\":\"日本\"}"] {
            for bytes in 4..8 {
                let cut: Vec<&str> = pieces(text, bytes).collect();
                assert_eq!(cut.concat(), text);
                assert!(cut.iter().all(|piece| piece.len() <= bytes));
            }
        }
    }
}
