//! One expert that is in memory: a conversation in, its answer out.

use std::ops::{ControlFlow, Range};
use std::time::{Duration, Instant};

use hublabio_moe::{ExpertFailure, ExpertResponse};

use super::expert_file::ExpertSpec;
use crate::ai::mixed::question_span;
use crate::ai::{
    Answer, ChatOptions, ChatPrompt, Finish, Generation, GenerationConfig, InferenceEngine, Message, OutputParser,
};
use crate::error::Result;

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

    /// The prompt, and where the question's tokens are in it.
    pub fn prompt(&self, engine: &InferenceEngine, spec: &ExpertSpec) -> Result<(ChatPrompt, Range<usize>)> {
        let options = ChatOptions::default();
        let prompt = engine.chat_prompt_with(&self.messages(spec, &self.text), &options)?;
        let frame = engine.chat_prompt_with(&self.messages(spec, ""), &options)?;
        let span = question_span(&prompt.tokens, &frame.tokens);
        Ok((prompt, span))
    }
}

/// When an answer must be there.
#[derive(Clone, Copy)]
pub(super) struct Deadline {
    at: Instant,
    limit: Duration,
}

impl Deadline {
    pub fn after(limit: Duration) -> Self {
        Self { at: Instant::now() + limit, limit }
    }

    pub fn is_over(&self) -> bool {
        Instant::now() >= self.at
    }

    pub fn failure(&self) -> ExpertFailure {
        ExpertFailure::TimedOut { limit_ms: self.limit.as_millis() as u64 }
    }
}

/// Takes an answer's text apart as it comes, and hands on what is said: what is thought is not said.
pub(super) struct Said {
    parser: OutputParser,
    answer: Answer,
}

impl Said {
    pub fn of(engine: &InferenceEngine, prompt: &ChatPrompt, config: &mut GenerationConfig) -> Result<Self> {
        let parser = engine.output_parser(prompt, &ChatOptions::default())?;
        config.shown_tokens = engine.marks(&parser)?;
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

/// Asks an expert. `on_text` gets what is said; `Break` ends it.
pub(super) fn ask(
    engine: &mut InferenceEngine,
    spec: &ExpertSpec,
    question: &Question,
    on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> std::result::Result<ExpertResponse, ExpertFailure> {
    let start = Instant::now();
    let deadline = Deadline::after(spec.timeout);
    let failed = |error: crate::Error| ExpertFailure::Failed(error.to_string());
    let (prompt, _) = question.prompt(engine, spec).map_err(failed)?;
    let mut config = question.config(spec);
    config.logprobs = Some(0);
    let mut said = Said::of(engine, &prompt, &mut config).map_err(failed)?;
    let generation = engine
        .generate_pieces(&prompt.tokens, &config, &mut |piece| {
            let text = said.push(piece.text);
            if deadline.is_over() { ControlFlow::Break(()) } else { on_text(&text) }
        })
        .map_err(failed)?;
    if generation.finish == Finish::Cancelled {
        return Err(if deadline.is_over() { deadline.failure() } else { ExpertFailure::Cancelled });
    }
    let (rest, text) = said.finish();
    let _ = on_text(&rest);
    Ok(response(spec, &generation, text, start))
}

/// A finished answer as the swarm sees it.
pub(super) fn response(spec: &ExpertSpec, generation: &Generation, text: String, start: Instant) -> ExpertResponse {
    let logprobs = &generation.logprobs;
    let sum: f32 = logprobs.iter().map(|token| token.logprob).sum();
    ExpertResponse {
        expert: spec.config.id,
        name: spec.config.name.clone(),
        text,
        confidence: 0.0,
        mean_logprob: (!logprobs.is_empty()).then(|| sum / logprobs.len() as f32),
        tokens: generation.tokens.len(),
        latency_ms: start.elapsed().as_secs_f32() * 1e3,
        cut: matches!(generation.finish, Finish::Length | Finish::Context),
    }
}

/// The mean log probability per byte of the question under an expert. Keys and values of the prompt stay for the answer.
pub(super) fn question_logprob(engine: &mut InferenceEngine, spec: &ExpertSpec, question: &Question) -> Result<f32> {
    let (prompt, span) = question.prompt(engine, spec)?;
    let reading = engine.read_prompt(&prompt.tokens, span)?;
    let sum: f64 = reading.logprobs.iter().sum();
    Ok((sum / question.text.len().max(1) as f64) as f32)
}
