//! One expert that is in memory: a conversation in, its answer out. What computes the answer is not known here.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use hublabio_moe::{ExpertFailure, ExpertResponse, RequestId};

use super::expert_file::ExpertSpec;
use super::fleet::Reply;
use crate::ai::mixed::question_span;
use crate::ai::{
    Answer, ChatOptions, ChatPrompt, Finish, Generation, GenerationConfig, Message, ModelText, OutputParser,
};
use crate::error::{Error, Result};
use crate::node::{AnswerEvent, AnswerSink};

/// What is asked, and how.
#[derive(Clone, Debug, Default)]
pub(super) struct Question {
    /// What was said before, without a system prompt.
    pub history: Vec<Message>,
    /// What is asked now.
    pub text: String,
    /// Whether the conversation before it is left out.
    pub bare: bool,
    /// In place of the expert's own settings.
    pub generation: Option<GenerationConfig>,
    /// At most so many tokens.
    pub max_tokens: Option<usize>,
}

impl Question {
    /// The conversation as this expert gets it.
    fn messages(&self, spec: &ExpertSpec, text: &str) -> Vec<Message> {
        let system = spec.system_prompt.as_ref().map(|text| Message::new("system", text));
        let history = if self.bare { &[][..] } else { &self.history };
        system.into_iter().chain(history.iter().cloned()).chain([Message::new("user", text)]).collect()
    }

    /// How this expert chooses tokens.
    pub fn config(&self, spec: &ExpertSpec) -> GenerationConfig {
        let mut config = self.generation.clone().unwrap_or_else(|| spec.generation.clone());
        // The narrowest of what the question, its settings and the expert's file allow.
        config.max_tokens =
            [self.max_tokens, config.max_tokens, spec.generation.max_tokens].into_iter().flatten().min();
        config
    }

    /// The prompt.
    pub fn prompt(&self, text: &ModelText, spec: &ExpertSpec) -> Result<ChatPrompt> {
        text.chat_prompt_with(&self.messages(spec, &self.text), &ChatOptions::default())
    }

    /// Where the question's tokens are in its prompt.
    pub fn span(&self, text: &ModelText, spec: &ExpertSpec, prompt: &ChatPrompt) -> Result<Range<usize>> {
        let frame = text.chat_prompt_with(&self.messages(spec, ""), &ChatOptions::default())?;
        Ok(question_span(&prompt.tokens, &frame.tokens))
    }
}

/// When an answer must be there.
#[derive(Clone, Copy)]
pub(super) struct Deadline {
    start: Instant,
    limit: Duration,
}

impl Deadline {
    /// Of an answer that begins now.
    pub fn after(limit: Duration) -> Self {
        Self { start: Instant::now(), limit }
    }

    fn is_over(&self) -> bool {
        self.start.elapsed() >= self.limit
    }

    fn failure(&self) -> ExpertFailure {
        ExpertFailure::TimedOut { limit_ms: self.limit.as_millis() as u64 }
    }
}

/// Takes an answer's text apart as it comes, and hands on what is said: what is thought is not said.
pub(super) struct Said {
    parser: OutputParser,
    answer: Answer,
}

impl Said {
    pub fn of(text: &ModelText, prompt: &ChatPrompt, config: &mut GenerationConfig) -> Result<Self> {
        let parser = text.output_parser(prompt, &ChatOptions::default())?;
        config.shown_tokens = text.marks(&parser);
        Ok(Self { parser, answer: Answer::default() })
    }

    /// What is said with this piece.
    pub fn push(&mut self, text: &str) -> String {
        let before = self.answer.content.len();
        for event in self.parser.push(text) {
            self.answer.add(event);
        }
        self.answer.content[before..].to_owned()
    }

    /// What is said at the end, and all of it.
    pub fn finish(self) -> (String, String) {
        let Self { parser, mut answer } = self;
        let before = answer.content.len();
        for event in parser.finish() {
            answer.add(event);
        }
        (answer.content[before..].to_owned(), answer.content)
    }
}

/// Where an answer's text goes, and who may have given it up.
#[derive(Clone)]
pub(super) struct ReplyTo {
    /// The receiver's number of the question.
    pub index: usize,
    pub sender: Sender<(usize, Reply)>,
    pub cancelled: Arc<AtomicBool>,
}

impl ReplyTo {
    pub fn send(&self, reply: Reply) -> ControlFlow<()> {
        let sent = self.sender.send((self.index, reply));
        if sent.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }
}

/// Takes an answer as it comes and hands on what is said, until it has ended, is given up, or its time is over.
pub(super) struct Speaker {
    spec: Arc<ExpertSpec>,
    said: Said,
    deadline: Deadline,
    reply: ReplyTo,
}

impl Speaker {
    pub fn new(spec: Arc<ExpertSpec>, said: Said, deadline: Deadline, reply: ReplyTo) -> Self {
        Self { spec, said, deadline, reply }
    }

    /// Takes the answer's next text.
    pub fn push(&mut self, text: &str) -> ControlFlow<()> {
        let text = self.said.push(text);
        if self.is_closed() {
            return ControlFlow::Break(());
        }
        if text.is_empty() { ControlFlow::Continue(()) } else { self.reply.send(Reply::Piece(text)) }
    }

    /// Whether its time is over, or nobody wants it any more.
    pub fn is_closed(&self) -> bool {
        self.deadline.is_over() || self.reply.cancelled.load(Ordering::Relaxed)
    }

    /// The whole answer as the swarm sees it.
    pub fn finish(self, generation: Result<Generation>) -> std::result::Result<ExpertResponse, ExpertFailure> {
        let generation = generation.map_err(failure)?;
        if generation.finish == Finish::Cancelled {
            return Err(if self.deadline.is_over() { self.deadline.failure() } else { ExpertFailure::Cancelled });
        }
        let (rest, text) = self.said.finish();
        if !rest.is_empty() {
            let _ = self.reply.send(Reply::Piece(rest));
        }
        Ok(response(&self.spec, &generation, text, self.deadline.start))
    }
}

/// How a question ended.
pub(super) type Ended = (RequestId, std::result::Result<ExpertResponse, ExpertFailure>);

/// One expert's answer: takes what its lane computes.
pub(super) struct Solo {
    pub request: RequestId,
    /// Until it has ended.
    pub speaker: Option<Speaker>,
    pub ended: Sender<Ended>,
}

impl AnswerSink for Solo {
    fn take(&mut self, event: AnswerEvent) -> ControlFlow<()> {
        let generation = match event {
            AnswerEvent::Piece { text, .. } => {
                return self.speaker.as_mut().map_or(ControlFlow::Break(()), |speaker| speaker.push(&text));
            }
            AnswerEvent::Progress { .. } => return ControlFlow::Continue(()),
            AnswerEvent::Done(generation) => Ok(*generation),
            AnswerEvent::Failed(error) => Err(error),
        };
        if let Some(speaker) = self.speaker.take() {
            let _ = self.ended.send((self.request, speaker.finish(generation)));
        }
        ControlFlow::Break(())
    }

    fn is_closed(&self) -> bool {
        self.speaker.as_ref().is_none_or(Speaker::is_closed)
    }
}

/// An error as the swarm sees it.
pub(super) fn failure(error: Error) -> ExpertFailure {
    match error {
        Error::PromptTooLong { prompt, context, .. } => ExpertFailure::TooLong { prompt, context },
        error => ExpertFailure::Failed(error.to_string()),
    }
}

/// A finished answer as the swarm sees it.
fn response(spec: &ExpertSpec, generation: &Generation, text: String, start: Instant) -> ExpertResponse {
    let logprobs = &generation.logprobs;
    let sum: f32 = logprobs.iter().map(|token| token.logprob).sum();
    ExpertResponse {
        expert: spec.config.id,
        name: spec.config.name.clone(),
        text,
        confidence: 0.0,
        mean_logprob: (!logprobs.is_empty()).then(|| sum / logprobs.len() as f32),
        prompt_tokens: generation.stats.prompt_tokens,
        tokens: generation.tokens.len(),
        latency_ms: start.elapsed().as_secs_f32() * 1e3,
        cut: matches!(generation.finish, Finish::Length | Finish::Context),
    }
}
