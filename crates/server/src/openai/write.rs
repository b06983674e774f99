//! From neutral answers to the words of OpenAI's dialect.

use std::time::Instant;

use hublabio_sdk::wire::openai::{
    AnsweredBy, ChatLogprobs, CompletionTokensDetails, FinishReason, Hublab, PromptProgress, PromptTokensDetails,
    Timings, TokenLogprob, TopLogprob, Usage,
};

use crate::chat::{ChatDone, ChatFinish, TokenProbability};

/// Changes when the same request with the same seed may give another answer.
pub fn fingerprint() -> String {
    concat!("hublab-", env!("CARGO_PKG_VERSION")).to_owned()
}

pub fn finish_reason(finish: &ChatFinish) -> FinishReason {
    match finish {
        ChatFinish::End | ChatFinish::Stop(_) | ChatFinish::Cancelled => FinishReason::Stop,
        ChatFinish::Length | ChatFinish::ContextFull => FinishReason::Length,
        ChatFinish::ToolCalls => FinishReason::ToolCalls,
    }
}

/// How much of a prompt has been read since a request came.
pub fn prompt_progress(read: usize, cached: usize, total: usize, begun: Instant) -> PromptProgress {
    let time_ms = begun.elapsed().as_millis() as u64;
    PromptProgress { total: total as u64, processed: read as u64, cache: cached as u64, time_ms }
}

/// What answers to one prompt took together; the prompt counts once.
#[derive(Clone, Debug, Default)]
pub struct Spent {
    prompt: u64,
    cached: u64,
    completion: u64,
    reasoning: u64,
}

impl Spent {
    /// Adds an answer.
    pub fn add(&mut self, done: &ChatDone) {
        self.prompt = self.prompt.max(done.prompt_tokens as u64);
        self.cached = self.cached.max(done.cached_tokens as u64);
        self.completion += done.completion_tokens as u64;
        self.reasoning += done.reasoning_tokens as u64;
    }

    /// Adds another prompt with its answers.
    pub fn join(&mut self, other: &Self) {
        self.prompt += other.prompt;
        self.cached += other.cached;
        self.completion += other.completion;
        self.reasoning += other.reasoning;
    }

    /// In the words of the dialect.
    pub fn usage(&self) -> Usage {
        Usage {
            prompt_tokens: self.prompt,
            completion_tokens: self.completion,
            total_tokens: self.prompt + self.completion,
            prompt_tokens_details: Some(PromptTokensDetails { cached_tokens: self.cached }),
            completion_tokens_details: Some(CompletionTokensDetails { reasoning_tokens: self.reasoning }),
        }
    }
}

/// What the field `hublab` of an answer holds.
pub fn hublab(done: &ChatDone) -> Hublab {
    Hublab {
        answered_by: done
            .answered_by
            .iter()
            .map(|part| AnsweredBy {
                expert: part.expert.clone(),
                weight: f64::from(part.weight),
                why: part.why.clone(),
            })
            .collect(),
        notes: done.notes.clone(),
        timings: Some(Timings {
            prompt_s: done.stats.prompt_s,
            decode_s: done.stats.decode_s,
            tokens_per_s: done.stats.decode_tokens_per_s(),
        }),
    }
}

/// The field `hublab` of several answers: the first one's, with the experts and notes that only others have.
pub fn joined<'a>(mut answers: impl Iterator<Item = &'a ChatDone>) -> Option<Hublab> {
    let mut first = hublab(answers.next()?);
    for other in answers.map(hublab) {
        for by in other.answered_by {
            if !first.answered_by.iter().any(|known| known.expert == by.expert) {
                first.answered_by.push(by);
            }
        }
        for note in other.notes {
            if !first.notes.contains(&note) {
                first.notes.push(note);
            }
        }
    }
    Some(first)
}

/// Tokens with their log probabilities.
pub fn chat_logprobs(tokens: &[TokenProbability]) -> ChatLogprobs {
    let content = tokens.iter().map(|found| TokenLogprob {
        token: found.token.text(),
        logprob: f64::from(found.logprob),
        bytes: Some(found.token.bytes.clone()),
        top_logprobs: found
            .top
            .iter()
            .map(|(token, logprob)| TopLogprob {
                token: token.text(),
                logprob: f64::from(*logprob),
                bytes: Some(token.bytes.clone()),
            })
            .collect(),
    });
    ChatLogprobs { content: Some(content.collect()), refusal: None }
}
