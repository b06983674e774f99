//! An answer while it comes: events of the node, taken apart into text, reasoning and tool calls.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use hublabio_runtime::ai::{Event, Finish, Generation, OutputParser, TokenId, TokenLogProbs};
use hublabio_runtime::node::{AnswerEvent, GenerationRequest, ServedModel};

use super::calls::Calls;
use super::channel::{EventReceiver, Raw, channel};
use super::prepare::{Prepared, prepare};
use super::{CalledTool, ChatAnswer, ChatDone, ChatEvent, ChatFinish, ChatRequest, TokenProbability, TokenText};
use crate::error::ApiError;
use crate::state::{App, blocking};

/// The answers to a question, while they come. Dropping it gives up what is not finished.
pub struct ChatStream {
    app: App,
    model: String,
    prompt_tokens: usize,
    receiver: EventReceiver,
    choices: Vec<Choice>,
    pending: VecDeque<(usize, ChatEvent)>,
    open: usize,
    asked: Instant,
    first_token_seen: bool,
    /// What every answer notes.
    notes: Vec<String>,
}

/// One of the answers.
struct Choice {
    served: Option<Arc<ServedModel>>,
    stop: Vec<String>,
    parser: Option<OutputParser>,
    call_is_forced: bool,
    calls: Calls,
    /// The end of the answer came in the middle of a call.
    call_is_cut: bool,
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
        let (sender, receiver) = channel(worker.heap());
        let prompt_tokens = prompt.len();
        for choice in 0..n {
            let mut config = config.clone();
            // Answers with one seed would be the same.
            config.sampling.seed = config.sampling.seed.map(|seed| seed.wrapping_add(choice as u64));
            let keep_alive = request.keep_alive;
            let asked = GenerationRequest::new(Arc::clone(&model), prompt.clone(), config);
            let asked = GenerationRequest { keep_alive, ..asked };
            worker.node().submit(asked, Box::new(sender.of_choice(choice)))?;
        }
        let calls_max = if request.parallel_tool_calls == Some(false) { 1 } else { usize::MAX };
        let choice = || Choice {
            served: Some(Arc::clone(&model)),
            stop: request.stop.clone(),
            parser: parser.clone(),
            call_is_forced,
            notes: notes.clone(),
            ..Choice::new(calls_max)
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
        receiver: EventReceiver,
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
            notes: Vec::new(),
        }
    }

    /// A stream of a source that makes its own events.
    pub(super) fn of_events(app: &App, model: String, receiver: EventReceiver, asked: Instant) -> Self {
        Self::new(app, model, 0, receiver, vec![Choice::new(usize::MAX)], asked)
    }

    /// The same, with each call told when it is complete, and what a call would have been that is cut or cannot be read
    /// told as text: for readers of whole answers.
    #[must_use]
    pub fn with_whole_calls(mut self) -> Self {
        self.choices.iter_mut().for_each(|choice| choice.calls.hold());
        self
    }

    /// The same with notes that come before those of its answers.
    #[must_use]
    pub(super) fn with_notes(self, notes: Vec<String>) -> Self {
        Self { notes, ..self }
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
    pub async fn collect(self) -> Result<Vec<ChatAnswer>, ApiError> {
        let mut stream = self.with_whole_calls();
        let mut drafts: Vec<Draft> = std::iter::repeat_with(Draft::default).take(stream.choices()).collect();
        while let Some((choice, event)) = stream.next().await {
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

    fn end(&mut self, choice: usize, mut last: ChatEvent) {
        if let ChatEvent::Done(done) = &mut last {
            done.notes.splice(..0, self.notes.iter().cloned());
        }
        if !std::mem::replace(&mut self.choices[choice].ended, true) {
            self.open -= 1;
            self.pending.push_back((choice, last));
        }
    }

    fn take(&mut self, choice: usize, raw: Raw) {
        match raw {
            // A swarm that was given up says so in words of its own.
            Raw::Event(ChatEvent::Failed(_)) if self.receiver.was_too_much() => self.end(choice, unread()),
            Raw::Event(event @ (ChatEvent::Done(_) | ChatEvent::Failed(_))) => self.end(choice, event),
            Raw::Event(event @ ChatEvent::Experts(_)) => self.pending.push_back((choice, event)),
            Raw::Event(event) => {
                self.see_token();
                self.pending.push_back((choice, event));
            }
            Raw::Node(AnswerEvent::Progress { read, cached, total }) => {
                self.pending.push_back((choice, ChatEvent::Progress { read, cached, total }));
            }
            Raw::Node(AnswerEvent::Piece { text, token, logprobs }) => {
                if token.is_some() {
                    self.see_token();
                }
                let found = logprobs.and_then(|found| self.choices[choice].probability(&found));
                self.pending.extend(found.map(|found| (choice, ChatEvent::LogProbs(vec![found]))));
                self.read(choice, &text, token.is_some());
            }
            Raw::Node(AnswerEvent::Done(generation))
                if generation.finish == Finish::Cancelled && self.receiver.was_too_much() =>
            {
                self.end(choice, unread());
            }
            Raw::Node(AnswerEvent::Done(generation)) => {
                let rest = self.choices[choice].parser.take().map(OutputParser::finish).unwrap_or_default();
                let is_cut = |event: &Event| matches!(event, Event::Malformed(cut) if !cut.raw.trim().is_empty());
                self.choices[choice].call_is_cut = rest.iter().any(is_cut);
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
        let Self { app, choices, pending, .. } = self;
        let Choice { calls, notes, .. } = &mut choices[choice];
        let new_id = || app.new_call_id();
        for event in events {
            let told: Vec<ChatEvent> = match event {
                Event::Content(text) => vec![ChatEvent::Text(text)],
                Event::Reasoning(text) => vec![ChatEvent::Reasoning(text)],
                Event::CallBegin { id, name } => calls.begin(id.unwrap_or_else(new_id), name).into_iter().collect(),
                Event::CallArguments(delta) => calls.grow(delta).into_iter().collect(),
                Event::ToolCall(call) => calls.end(call, new_id, notes),
                Event::Malformed(malformed) => {
                    notes.push(malformed.to_string());
                    calls.give_up(malformed.raw).into_iter().collect()
                }
            };
            pending.extend(told.into_iter().map(|event| (choice, event)));
        }
    }
}

impl Choice {
    /// An answer of which nothing is known yet, with at most so many calls.
    fn new(calls_max: usize) -> Self {
        Self {
            served: None,
            stop: Vec::new(),
            parser: None,
            call_is_forced: false,
            calls: Calls::new(calls_max),
            call_is_cut: false,
            thinks: false,
            reasoning_tokens: 0,
            notes: Vec::new(),
            ended: false,
        }
    }

    fn done(&mut self, generation: &Generation) -> ChatDone {
        let has_calls = self.calls.has_complete();
        let finish = match generation.finish {
            Finish::EndOfText | Finish::Stop(_) if has_calls => ChatFinish::ToolCalls,
            Finish::EndOfText => ChatFinish::End,
            Finish::Stop(index) => ChatFinish::Stop(self.stop.get(index).cloned().unwrap_or_default()),
            // The calls that had to come are complete; only the token that ends the turn is missing.
            Finish::Length | Finish::Context if has_calls && self.call_is_forced && !self.call_is_cut => {
                ChatFinish::ToolCalls
            }
            Finish::Length => ChatFinish::Length,
            Finish::Context => ChatFinish::ContextFull,
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
            // Calls come whole here, so that none breaks off.
            ChatEvent::Progress { .. }
            | ChatEvent::Experts(_)
            | ChatEvent::ToolCallEnd { .. }
            | ChatEvent::ToolCallBroken { .. } => {}
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

/// Why an answer ended that nobody read.
fn unread() -> ChatEvent {
    let message = "the answer was given up because what was written was not read: read it as it comes";
    ChatEvent::Failed(ApiError::unavailable(message).coded("unread"))
}
