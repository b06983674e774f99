//! The loop over single tokens, wherever their logits are from: one model, or a mixture of several.
//!
//! What a token spells, when an answer ends and what is handed over when is decided here; models are behind
//! [`TokenSource`].

use std::ops::ControlFlow;

use hublabio_chat::constraint::Constraint;
use hublabio_engine::sampling::{Sampler, TokenMask};
use hublabio_tokenizer::{TokenId, Tokenizer};

use super::engine::{Finish, Generation, GenerationConfig, Piece, TokenLogProbs};
use super::stop::StopMatcher;
use crate::error::Result;

/// What goes on with a text, token by token.
pub(crate) trait TokenSource {
    /// Appends a token; the logits of the next.
    fn append_token(&mut self, token: TokenId) -> Result<Vec<f32>>;
    /// Whether there is no room for another token.
    fn is_full(&self) -> bool;
}

/// What decides about the next token, and about the end.
pub(crate) struct Choice<'a> {
    pub tokenizer: &'a Tokenizer,
    pub sampler: &'a mut Sampler,
    pub constraint: Option<Constraint>,
    pub stop: &'a mut StopMatcher,
    pub config: &'a GenerationConfig,
}

/// Generates from `logits`, those after the prompt, to the answer's end. `on_piece` is called for every token, with what text became certain.
pub(crate) fn decode(
    source: &mut dyn TokenSource,
    choice: Choice<'_>,
    mut logits: Vec<f32>,
    out: &mut Generation,
    on_piece: &mut dyn FnMut(&Piece<'_>) -> ControlFlow<()>,
) -> Result<()> {
    let Choice { tokenizer, sampler, mut constraint, stop, config } = choice;
    let max_tokens = config.max_tokens.unwrap_or(usize::MAX);
    let mut decoder = tokenizer.stream();
    // A model may have more rows than its vocabulary has tokens, to fill up a block.
    let possible = tokenizer.n_tokens().min(logits.len());
    out.finish = loop {
        if out.tokens.len() >= max_tokens {
            break Finish::Length;
        }
        let mask = constraint.as_mut().map(Constraint::mask).transpose()?;
        let token = TokenId(sampler.sample(&logits[..possible], mask.map(TokenMask::new))?);
        sampler.accept(token.0);
        if let Some(constraint) = &mut constraint {
            constraint.accept(token)?;
        }
        out.tokens.push(token);
        out.logprobs.extend(config.logprobs.map(|n| TokenLogProbs::of(&logits[..possible], token, n)));
        if tokenizer.is_end_of_generation(token) {
            break Finish::EndOfText;
        }
        let text = decoder.push(token)?;
        let mark = if config.shown_tokens.contains(&token) { tokenizer.piece(token) } else { None };
        let step = stop.push(mark.unwrap_or(text));
        out.text.push_str(&step.text);
        let piece = Piece { text: &step.text, token: Some(token), logprobs: out.logprobs.last() };
        let wanted = on_piece(&piece);
        if let Some(index) = step.stop {
            // The answer is over: whether the caller wants more changes nothing.
            out.finish = Finish::Stop(index);
            return Ok(());
        }
        if wanted.is_break() {
            break Finish::Cancelled;
        }
        // Checked before the pass that would compute a token nobody wants.
        if out.tokens.len() >= max_tokens {
            break Finish::Length;
        }
        if source.is_full() {
            break Finish::Context;
        }
        logits = source.append_token(token)?;
    };
    // Bytes of a character that is not whole become text now, which may complete a stop string.
    let mut rest = stop.push(decoder.finish());
    match rest.stop {
        Some(index) if out.finish != Finish::Cancelled => out.finish = Finish::Stop(index),
        _ => rest.text.push_str(&stop.finish()),
    }
    out.text.push_str(&rest.text);
    if out.finish == Finish::EndOfText {
        let _ = on_piece(&Piece { text: &rest.text, token: out.tokens.last().copied(), logprobs: out.logprobs.last() });
    } else if !rest.text.is_empty() && out.finish != Finish::Cancelled {
        let _ = on_piece(&Piece { text: &rest.text, token: None, logprobs: None });
    }
    Ok(())
}
