//! One vector for a text: the states of its tokens, pooled and brought to length one.

use hublabio_engine::{Input, Pooling};
use hublabio_tokenizer::TokenId;

use super::InferenceEngine;
use super::engine::PREFILL_ROWS;
use crate::error::{Error, Result};

impl InferenceEngine {
    /// A text as an embedding model reads it, with the tokens that the model wants around it.
    ///
    /// # Errors
    /// When the file holds no tokenizer, or the text cannot be expressed.
    pub fn embedding_prompt(&self, text: &str) -> Result<Vec<TokenId>> {
        self.text()?.embedding_prompt(text)
    }

    /// How this model's embeddings are pooled where nothing else is asked for: as the file says, else the mean for an
    /// encoder and the last token for a model that sees only what is before it.
    #[must_use]
    pub fn default_pooling(&self) -> Pooling {
        let h = self.model().hyperparameters();
        h.pooling.unwrap_or(if h.causal { Pooling::Last } else { Pooling::Mean })
    }

    /// The embedding of a text, `[d_model]`, of length 1: the states after the last norm, pooled. Forgets the conversation.
    ///
    /// # Errors
    /// When there are no ids or more than the context holds, one is out of the vocabulary, or a number is not finite.
    pub fn embed(&mut self, ids: &[TokenId], pooling: Pooling) -> Result<Vec<f32>> {
        let states = self.states(ids, |i| is_pooled(pooling, i, ids.len()))?;
        Ok(pooled(&states, self.model().hyperparameters().d_model))
    }

    /// The states after the last norm of those tokens that are wanted, `[wanted, d_model]`. Forgets the conversation.
    ///
    /// # Errors
    /// Those of [`Self::embed`].
    pub fn states(&mut self, ids: &[TokenId], wanted: impl Fn(usize) -> bool) -> Result<Vec<f32>> {
        self.check_fits(ids)?;
        self.keep(0)?;
        // An encoder's tokens see each other: they go through in one piece.
        let chunk = if self.model().hyperparameters().causal { PREFILL_ROWS } else { ids.len() };
        let mut out = Vec::new();
        for (at, ids) in ids.chunks(chunk).enumerate() {
            let rows = self.rows(ids, |i| wanted(at * chunk + i));
            out.extend_from_slice(self.runner.states(&mut self.cache, &rows, Input::Tokens)?);
            self.tokens.extend_from_slice(ids);
        }
        self.keep(0)?;
        Ok(out)
    }

    /// Refuses what the context does not hold.
    pub(super) fn check_fits(&self, ids: &[TokenId]) -> Result<()> {
        if ids.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        if ids.len() > self.context() {
            let trained = self.model().hyperparameters().context_length;
            return Err(Error::PromptTooLong { prompt: ids.len(), context: self.context(), trained });
        }
        Ok(())
    }
}

/// Whether a token's state is part of the embedding of `n` tokens.
pub(crate) fn is_pooled(pooling: Pooling, at: usize, n: usize) -> bool {
    match pooling {
        Pooling::Mean => true,
        Pooling::First => at == 0,
        Pooling::Last => at + 1 == n,
    }
}

/// The mean of states, of length 1.
fn pooled(states: &[f32], d_model: usize) -> Vec<f32> {
    let mut pooled = PooledStates::default();
    states.chunks_exact(d_model).for_each(|state| pooled.add(state));
    pooled.vector()
}

/// States that become one vector.
#[derive(Default)]
pub(crate) struct PooledStates {
    sum: Vec<f64>,
}

impl PooledStates {
    /// Adds the state of a token, `[d_model]`.
    pub fn add(&mut self, state: &[f32]) {
        self.sum.resize(state.len(), 0.0);
        self.sum.iter_mut().zip(state).for_each(|(sum, &x)| *sum += f64::from(x));
    }

    /// Their mean, `[d_model]`, of length 1.
    pub fn vector(&self) -> Vec<f32> {
        // The mean and the sum have the same direction.
        let length = self.sum.iter().map(|x| x * x).sum::<f64>().sqrt();
        self.sum.iter().map(|x| if length > 0.0 { (x / length) as f32 } else { 0.0 }).collect()
    }
}
