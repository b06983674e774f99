//! Penalties for tokens that occurred: repetition, frequency, presence.

use std::collections::{BTreeMap, VecDeque};

use super::candidates::Candidates;
use super::config::SamplingConfig;
use crate::TokenIndex;

/// The last tokens, and how often each is among them.
#[derive(Clone, Debug, Default)]
pub(super) struct Window {
    tokens: VecDeque<TokenIndex>,
    counts: BTreeMap<TokenIndex, u32>,
}

impl Window {
    /// Adds a token, and forgets the oldest of more than `n_max`.
    pub(super) fn push(&mut self, token: TokenIndex, n_max: usize) {
        if n_max == 0 {
            return;
        }
        if self.tokens.len() == n_max
            && let Some(old) = self.tokens.pop_front()
            && let Some(count) = self.counts.get_mut(&old)
        {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&old);
            }
        }
        self.tokens.push_back(token);
        *self.counts.entry(token).or_default() += 1;
    }
}

/// The repetition penalty (Keskar et al., "CTRL: A Conditional Transformer Language Model for Controllable Generation",
/// 2019; negative logits are multiplied, so that a penalty is none for them either, as `transformers` and llama.cpp do),
/// then the frequency and presence penalties as OpenAI's interface defines them.
pub(super) fn penalize(candidates: &mut Candidates, window: &Window, config: &SamplingConfig) {
    if !config.has_penalties() {
        return;
    }
    candidates.change(window.counts.iter().map(|(&token, count)| (token, count)), |logit, &count| {
        let p = config.repetition_penalty;
        let repeated = if logit > 0.0 { logit / p } else { logit * p };
        repeated - config.frequency_penalty * count as f32 - config.presence_penalty
    });
}
