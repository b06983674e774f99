//! Several engines that write one answer together, and what a prompt tells about who should.
//!
//! How probabilities are mixed is [`Mixture`]'s business (room `moe`); this file keeps each member's keys and values in step
//! with the text and hands its logits over.

use std::ops::{ControlFlow, Range};
use std::time::Instant;

use hublabio_moe::Mixture;
use hublabio_tokenizer::TokenId;

use super::decode::{AnswerState, TokenSource, decode};
use super::engine::{Finish, Generation, GenerationConfig, InferenceEngine, LOGIT_ROWS, PREFILL_ROWS, Piece};
use crate::error::{Error, Result};

/// What reading a prompt told.
pub(crate) struct Reading {
    /// Natural log probability of each scored token.
    pub logprobs: Vec<f64>,
    /// Logits after the prompt, `[vocab_size]`.
    pub logits: Vec<f32>,
}

/// Where `prompt` differs from `frame`, the same prompt around an empty question: the question's own tokens.
pub(crate) fn question_span(prompt: &[TokenId], frame: &[TokenId]) -> Range<usize> {
    let start = prompt.iter().zip(frame).take_while(|(a, b)| a == b).count();
    let rest = prompt.len().min(frame.len()) - start;
    let after = prompt.iter().rev().zip(frame.iter().rev()).take(rest).take_while(|(a, b)| a == b).count();
    start..prompt.len() - after
}

impl InferenceEngine {
    /// Reads a prompt and scores its tokens in `scored`. Keys and values stay, so that an answer to it begins at once.
    pub(crate) fn read_prompt(&mut self, prompt: &[TokenId], scored: Range<usize>) -> Result<Reading> {
        self.check_length(prompt)?;
        // The token before the first that is scored predicts it; nothing predicts the first of all.
        let first = scored.start.max(1);
        let shared = self.tokens.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        let unscored_end = if first < scored.end { first - 1 } else { prompt.len() - 1 };
        let mut at = self.keep(shared.min(unscored_end))?;
        while at < unscored_end {
            let end = (at + PREFILL_ROWS).min(unscored_end);
            self.append_wanting(&prompt[at..end], |_| false)?;
            at = end;
        }
        let mut reading = Reading { logprobs: Vec::with_capacity(scored.len()), logits: Vec::new() };
        let vocab = self.model().hyperparameters().vocab_size;
        while at < prompt.len() {
            let end = (at + LOGIT_ROWS).min(prompt.len());
            let is_wanted = |i: usize| (first..scored.end).contains(&(at + i + 1)) || at + i + 1 == prompt.len();
            let rows = self.append_wanting(&prompt[at..end], is_wanted)?;
            let positions = (at..end).filter(|&position| is_wanted(position - at));
            for (row, position) in rows.chunks_exact(vocab).zip(positions) {
                if (first..scored.end).contains(&(position + 1)) {
                    reading.logprobs.push(log_probability(row, prompt[position + 1])?);
                }
                if position + 1 == prompt.len() {
                    reading.logits = row.to_vec();
                }
            }
            at = end;
        }
        Ok(reading)
    }

    /// Appends tokens; logits after each of them, `[tokens][vocab_size]`.
    fn append_all(&mut self, tokens: &[TokenId]) -> Result<Vec<f32>> {
        let mut logits = Vec::new();
        for chunk in tokens.chunks(LOGIT_ROWS) {
            logits.extend(self.append_wanting(chunk, |_| true)?);
        }
        Ok(logits)
    }
}

fn log_probability(logits: &[f32], token: TokenId) -> Result<f64> {
    // The forward pass refuses logits that are not finite.
    Mixture::log_probability(logits, token.0).map_err(|fault| Error::Expert(fault.to_string()))
}

/// One who writes along.
pub(crate) struct Member<'a> {
    /// Its engine.
    pub engine: &'a mut InferenceEngine,
    /// The prompt as it gets it: its own system prompt may be in it.
    pub prompt: Vec<TokenId>,
    /// Where the question is in it.
    pub question: Range<usize>,
}

/// A member's progress.
struct Voice<'a> {
    /// `None` for one that was never there: the mixture does not want it.
    engine: Option<&'a mut InferenceEngine>,
    /// Tokens of the answer that it has not seen yet.
    pending: Vec<TokenId>,
    /// Logits after all that it has seen, until they are used.
    logits: Option<Vec<f32>>,
}

/// Members that speak with one voice.
struct Chorus<'a, 'm> {
    voices: Vec<Voice<'a>>,
    mixture: &'m mut Mixture,
    /// Who failed, and why; index of the member.
    failed: &'m mut Vec<(usize, String)>,
}

impl Chorus<'_, '_> {
    fn fail(&mut self, member: usize, why: String) {
        self.mixture.drop_expert(member);
        self.voices[member].logits = None;
        self.failed.push((member, why));
    }

    /// Shows a member what it missed; its logits are then those after the whole text.
    fn catch_up(&mut self, member: usize) -> Result<()> {
        let voice = &mut self.voices[member];
        if voice.logits.is_some() {
            return Ok(());
        }
        let engine = voice.engine.as_mut().ok_or_else(|| Error::Expert("it is not there".into()))?;
        let rows = engine.append_all(&voice.pending)?;
        let vocab = engine.model().hyperparameters().vocab_size;
        let mut rows = rows.chunks_exact(vocab);
        voice.logits = rows.next_back().map(<[f32]>::to_vec);
        let missed: Vec<f64> =
            rows.zip(&voice.pending[1..]).map(|(row, &token)| log_probability(row, token)).collect::<Result<_>>()?;
        voice.pending.clear();
        self.mixture.observe(member, &missed);
        Ok(())
    }

    /// The mixture's log probabilities of the next token.
    fn next(&mut self) -> Result<Vec<f32>> {
        loop {
            let wanted = self.mixture.wanted().to_vec();
            if wanted.is_empty() {
                return Err(Error::Expert("every member of the mixture failed".into()));
            }
            let mut lost = false;
            for member in wanted.iter().copied() {
                if let Err(error) = self.catch_up(member) {
                    self.fail(member, error.to_string());
                    lost = true;
                }
            }
            if lost {
                continue;
            }
            let Self { voices, mixture, .. } = self;
            let logits: Vec<Option<&[f32]>> = voices
                .iter()
                .enumerate()
                .map(|(i, voice)| if wanted.contains(&i) { voice.logits.as_deref() } else { None })
                .collect();
            let faults = mixture.faults().len();
            let mixed = mixture.mix(&logits).to_vec();
            for &(member, fault) in &mixture.faults()[faults..] {
                voices[member].logits = None;
                self.failed.push((member, fault.to_string()));
            }
            if !mixed.is_empty() {
                return Ok(mixed);
            }
        }
    }
}

impl TokenSource for Chorus<'_, '_> {
    fn append_token(&mut self, token: TokenId) -> Result<Vec<f32>> {
        self.mixture.accept(token.0);
        for voice in &mut self.voices {
            voice.pending.push(token);
            voice.logits = None;
        }
        self.next()
    }

    fn is_full(&self) -> bool {
        let is_full = |voice: &Voice<'_>| {
            voice.engine.as_ref().is_some_and(|engine| engine.tokens.len() + voice.pending.len() >= engine.context())
        };
        self.voices.iter().any(is_full)
    }
}

/// Generates one answer from the mixture of the members' probabilities. The tokenizer of the first that is there and `config`
/// decide what tokens spell and how one is chosen. Members that are not there (`None`) were dropped from the mixture already;
/// those that fail are dropped and pushed to `failed`, by their index.
///
/// # Errors
/// When no member is left, or a setting is out of range.
///
/// # Panics
/// When the mixture has another number of members.
pub(crate) fn generate_mixed(
    members: Vec<Option<Member<'_>>>,
    mixture: &mut Mixture,
    config: &GenerationConfig,
    failed: &mut Vec<(usize, String)>,
    on_piece: &mut dyn FnMut(&Piece<'_>) -> ControlFlow<()>,
) -> Result<Generation> {
    let start = Instant::now();
    let first =
        members.iter().flatten().next().ok_or_else(|| Error::Expert("no member of the mixture is there".into()))?;
    let mut answer = AnswerState::new(first.engine.text()?, &first.prompt, config)?;
    let mut voices = Vec::with_capacity(members.len());
    for (i, member) in members.into_iter().enumerate() {
        let Some(Member { engine, prompt, question }) = member else {
            voices.push(Voice { engine: None, pending: Vec::new(), logits: None });
            continue;
        };
        if i > 0 && on_piece(&Piece { text: "", token: None, logprobs: None }).is_break() {
            answer.end(Finish::Cancelled, on_piece);
            return Ok(answer.into_generation());
        }
        let logits = match engine.read_prompt(&prompt, question) {
            Ok(reading) => {
                mixture.observe(i, &reading.logprobs);
                Some(reading.logits)
            }
            Err(error) => {
                mixture.drop_expert(i);
                failed.push((i, error.to_string()));
                None
            }
        };
        voices.push(Voice { engine: Some(engine), pending: Vec::new(), logits });
    }
    let mut chorus = Chorus { voices, mixture, failed };
    let logits = chorus.next()?;
    answer.so_far().stats.prompt_s = start.elapsed().as_secs_f64();
    let decoding = Instant::now();
    decode(&mut chorus, &mut answer, logits, on_piece)?;
    let mut out = answer.into_generation();
    out.stats.decode_s = decoding.elapsed().as_secs_f64();
    out.stats.generated_tokens = out.tokens.len();
    Ok(out)
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
