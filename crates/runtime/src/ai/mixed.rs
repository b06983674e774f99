//! One answer that several models write together, token by token.
//!
//! How probabilities are mixed is [`Mixture`]'s business (room `moe`). [`MixedAnswer`] keeps each member in step with the text:
//! it says who has to read which tokens, and takes what reading them told. Whoever owns the models computes, as it likes and beside
//! whatever else it computes; in which order members have read changes nothing.

use std::ops::{ControlFlow, Range};

use hublabio_moe::Mixture;
use hublabio_tokenizer::TokenId;

use super::decode::AnswerState;
use super::engine::{Finish, Generation, Piece};
use crate::error::{Error, Result};

/// What reading tokens told.
pub(crate) struct Reading {
    /// Natural log probability of each scored token.
    pub logprobs: Vec<f64>,
    /// Logits after the last token, `[vocab_size]`.
    pub logits: Vec<f32>,
}

/// Where `prompt` differs from `frame`, the same prompt around an empty question: the question's own tokens.
pub(crate) fn question_span(prompt: &[TokenId], frame: &[TokenId]) -> Range<usize> {
    let start = prompt.iter().zip(frame).take_while(|(a, b)| a == b).count();
    let rest = prompt.len().min(frame.len()) - start;
    let after = prompt.iter().rev().zip(frame.iter().rev()).take(rest).take_while(|(a, b)| a == b).count();
    start..prompt.len() - after
}

/// The natural log probability of a token after which these are the logits.
pub(crate) fn log_probability(logits: &[f32], token: TokenId) -> Result<f64> {
    // The forward pass refuses logits that are not finite.
    Mixture::log_probability(logits, token.0).map_err(|fault| Error::Expert(fault.to_string()))
}

/// One who writes along.
struct Voice {
    /// Tokens of its prompt and of the answer so far.
    len: usize,
    context: usize,
    /// Tokens of the answer that it has not been told to read yet.
    pending: Vec<TokenId>,
    /// Logits after all that it has read, until they are used.
    logits: Option<Vec<f32>>,
    /// Whether it is reading.
    is_reading: bool,
    told: Option<Result<Reading>>,
}

/// How a mixed answer goes on.
pub(crate) enum Advance {
    /// Somebody is still reading.
    Wait,
    /// These members must read these tokens, all but the first of which are scored, before there is another token.
    Read(Vec<(usize, Vec<TokenId>)>),
    /// The answer has ended.
    Ended,
}

/// An answer of several members.
pub(crate) struct MixedAnswer {
    answer: AnswerState,
    mixture: Mixture,
    /// `None` for those that are not there or have failed.
    voices: Vec<Option<Voice>>,
    failed: Vec<(usize, String)>,
}

impl MixedAnswer {
    /// Of a `mixture`'s members, given as length of the prompt and context. Those that are there are reading their prompts; those
    /// that are not (`None`) were dropped from the mixture already.
    pub fn new(answer: AnswerState, mixture: Mixture, members: &[Option<(usize, usize)>]) -> Self {
        let voice = |&(len, context): &(usize, usize)| Voice {
            len,
            context,
            pending: Vec::new(),
            logits: None,
            is_reading: true,
            told: None,
        };
        let voices = members.iter().map(|member| member.as_ref().map(voice)).collect();
        Self { answer, mixture, voices, failed: Vec::new() }
    }

    /// A member has read what it had to.
    pub fn told(&mut self, member: usize, reading: Result<Reading>) {
        // One that failed meanwhile has nothing to say.
        if let Some(voice) = self.voices[member].as_mut().filter(|voice| voice.is_reading) {
            voice.is_reading = false;
            voice.told = Some(reading);
        }
    }

    /// Chooses the next token if everyone who is needed for it has read all before it. `on_piece` is then called with what text
    /// became certain.
    ///
    /// # Errors
    /// When no member is left, or no token can be chosen.
    pub fn advance(&mut self, on_piece: &mut dyn FnMut(&Piece<'_>) -> ControlFlow<()>) -> Result<Advance> {
        if self.voices.iter().flatten().any(|voice| voice.is_reading) {
            return Ok(Advance::Wait);
        }
        self.take_in();
        loop {
            let wanted = self.mixture.wanted().to_vec();
            if wanted.is_empty() {
                return Err(Error::Expert("every member of the mixture failed".into()));
            }
            let asked = self.ask(&wanted);
            if !asked.is_empty() {
                return Ok(Advance::Read(asked));
            }
            let logits: Vec<Option<&[f32]>> = self
                .voices
                .iter()
                .enumerate()
                .map(|(i, voice)| voice.as_ref().filter(|_| wanted.contains(&i))?.logits.as_deref())
                .collect();
            let faults = self.mixture.faults().len();
            let mixed = self.mixture.mix(&logits).to_vec();
            for &(member, fault) in &self.mixture.faults()[faults..] {
                self.voices[member] = None;
                self.failed.push((member, fault.to_string()));
            }
            if mixed.is_empty() {
                continue;
            }
            if self.answer.is_over() {
                self.answer.end(Finish::Length, on_piece);
                return Ok(Advance::Ended);
            }
            let is_full = self.voices.iter().flatten().any(|voice| voice.len >= voice.context);
            let Some(token) = self.answer.choose(&mixed, is_full, on_piece)? else { return Ok(Advance::Ended) };
            self.mixture.accept(token.0);
            for voice in self.voices.iter_mut().flatten() {
                voice.len += 1;
                voice.pending.push(token);
                voice.logits = None;
            }
        }
    }

    /// Ends the answer from outside.
    pub fn cancel(&mut self) {
        self.answer.end(Finish::Cancelled, &mut |_| ControlFlow::Break(()));
    }

    /// The answer, the mixture as it ended, and who failed, by index, and why.
    pub fn into_parts(self) -> (Generation, Mixture, Vec<(usize, String)>) {
        (self.answer.into_generation(), self.mixture, self.failed)
    }

    /// Takes what members told in their order, whoever was done first.
    fn take_in(&mut self) {
        for member in 0..self.voices.len() {
            let Some(voice) = &mut self.voices[member] else { continue };
            match voice.told.take() {
                Some(Ok(reading)) => {
                    voice.logits = Some(reading.logits);
                    self.mixture.observe(member, &reading.logprobs);
                }
                Some(Err(error)) => {
                    self.mixture.drop_expert(member);
                    self.voices[member] = None;
                    self.failed.push((member, error.to_string()));
                }
                None => {}
            }
        }
    }

    /// What those who are wanted have to read before they have logits.
    fn ask(&mut self, wanted: &[usize]) -> Vec<(usize, Vec<TokenId>)> {
        let mut asked = Vec::new();
        for &member in wanted {
            let Some(voice) = self.voices[member].as_mut().filter(|voice| voice.logits.is_none()) else { continue };
            voice.is_reading = true;
            asked.push((member, std::mem::take(&mut voice.pending)));
        }
        asked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_is_what_the_frame_lacks() {
        let check = |prompt: &[u32], frame: &[u32], expected: Range<usize>| {
            let ids = |tokens: &[u32]| tokens.iter().map(|&t| TokenId(t)).collect::<Vec<_>>();
            assert_eq!(question_span(&ids(prompt), &ids(frame)), expected);
        };
        check(&[1, 2, 7, 8, 3, 4], &[1, 2, 3, 4], 2..4);
        // Parts that could belong to either are counted once.
        check(&[1, 2, 2, 2], &[1, 2, 2], 3..4);
        check(&[1, 2], &[1, 2], 2..2);
        check(&[5, 6], &[1, 2], 0..2);
        check(&[], &[1], 0..0);
    }
}
