//! One answer as it comes to be, wherever its logits are from: one model, a mixture of several, a batch of many answers.
//!
//! What a token spells, when an answer ends and what is handed over when is decided here, in [`AnswerState`]; logits are
//! somebody else's business.

use std::ops::ControlFlow;
use std::sync::Arc;

use hublabio_chat::constraint::Constraint;
use hublabio_engine::sampling::{Sampler, TokenMask};
use hublabio_tokenizer::{TokenId, Tokenizer, Utf8Stream};

use super::chat::ModelText;
use super::engine::{Finish, Generation, GenerationConfig, Piece, Stats, TokenLogProbs};
use super::stop::StopMatcher;
use crate::error::Result;

/// An answer so far, and what decides how it goes on.
pub(crate) struct AnswerState {
    tokenizer: Arc<Tokenizer>,
    sampler: Sampler,
    constraint: Option<Constraint>,
    stop: StopMatcher,
    utf8: Utf8Stream,
    max_tokens: usize,
    logprobs: Option<usize>,
    shown_tokens: Vec<TokenId>,
    out: Generation,
}

impl AnswerState {
    /// An answer to `prompt`, of which nothing is said yet. Compiles the constraint, which may take a while.
    ///
    /// # Errors
    /// When a setting is out of range.
    pub fn new(text: &ModelText, prompt: &[TokenId], config: &GenerationConfig) -> Result<Self> {
        let mut sampler = text.sampler(config)?;
        let constraint = config.constraint.as_ref().map(|config| text.compile_constraint(config)).transpose()?;
        for &token in prompt {
            sampler.accept(token.0);
        }
        Ok(Self {
            tokenizer: Arc::clone(text.tokenizer()),
            sampler,
            constraint,
            stop: StopMatcher::new(&config.stop)?,
            utf8: Utf8Stream::new(),
            max_tokens: config.max_tokens.unwrap_or(usize::MAX),
            logprobs: config.logprobs,
            shown_tokens: config.shown_tokens.clone(),
            out: Generation {
                text: String::new(),
                tokens: Vec::new(),
                logprobs: Vec::new(),
                finish: Finish::Length,
                stats: Stats { prompt_tokens: prompt.len(), ..Stats::default() },
            },
        })
    }

    /// Whether not a single token is wanted.
    pub fn is_over(&self) -> bool {
        self.out.tokens.len() >= self.max_tokens
    }

    /// What was said so far.
    pub fn so_far(&mut self) -> &mut Generation {
        &mut self.out
    }

    /// The whole answer.
    pub fn into_generation(self) -> Generation {
        self.out
    }

    /// Chooses the next token from the logits before it and hands over what text becomes certain. The token, which is to be
    /// appended to get the next logits; or `None` when the answer has ended, for the reason that its `finish` names. `is_full`:
    /// there is no room to append one.
    ///
    /// # Errors
    /// When no token fits the constraint any more, or its work exceeds a limit.
    pub fn choose(
        &mut self,
        logits: &[f32],
        is_full: bool,
        on_piece: &mut dyn FnMut(&Piece<'_>) -> ControlFlow<()>,
    ) -> Result<Option<TokenId>> {
        // A model may have more rows than its vocabulary has tokens, to fill up a block.
        let logits = &logits[..self.tokenizer.n_tokens().min(logits.len())];
        let mask = self.constraint.as_mut().map(Constraint::mask).transpose()?;
        let token = TokenId(self.sampler.sample(logits, mask.map(TokenMask::new))?);
        self.sampler.accept(token.0);
        if let Some(constraint) = &mut self.constraint {
            constraint.accept(token)?;
        }
        self.out.tokens.push(token);
        self.out.logprobs.extend(self.logprobs.map(|n| TokenLogProbs::of(logits, token, n)));
        if self.tokenizer.is_end_of_generation(token) {
            self.end(Finish::EndOfText, on_piece);
            return Ok(None);
        }
        let bytes = self.tokenizer.bytes_shown(token, false)?;
        let text = self.utf8.push(bytes);
        let mark = if self.shown_tokens.contains(&token) { self.tokenizer.piece(token) } else { None };
        let step = self.stop.push(mark.unwrap_or(text));
        self.out.text.push_str(&step.text);
        let piece = Piece { text: &step.text, token: Some(token), logprobs: self.out.logprobs.last() };
        let wanted = on_piece(&piece);
        if let Some(index) = step.stop {
            // The answer is over: whether the caller wants more changes nothing.
            self.out.finish = Finish::Stop(index);
            return Ok(None);
        }
        // Looked at before the pass that would compute a token nobody wants.
        let finish = if wanted.is_break() {
            Finish::Cancelled
        } else if self.is_over() {
            Finish::Length
        } else if is_full {
            Finish::Context
        } else {
            return Ok(Some(token));
        };
        self.end(finish, on_piece);
        Ok(None)
    }

    /// Ends the answer from outside.
    pub fn end(&mut self, finish: Finish, on_piece: &mut dyn FnMut(&Piece<'_>) -> ControlFlow<()>) {
        self.out.finish = finish;
        // Bytes of a character that is not whole become text now, which may complete a stop string.
        let mut rest = self.stop.push(self.utf8.finish());
        match rest.stop {
            Some(index) if finish != Finish::Cancelled => self.out.finish = Finish::Stop(index),
            _ => rest.text.push_str(&self.stop.finish()),
        }
        self.out.text.push_str(&rest.text);
        if self.out.finish == Finish::EndOfText {
            let (token, logprobs) = (self.out.tokens.last().copied(), self.out.logprobs.last());
            let _ = on_piece(&Piece { text: &rest.text, token, logprobs });
        } else if !rest.text.is_empty() && self.out.finish != Finish::Cancelled {
            let _ = on_piece(&Piece { text: &rest.text, token: None, logprobs: None });
        }
    }
}
