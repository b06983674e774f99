//! Perplexity: how well a model predicts a text.

use std::ops::ControlFlow;

use hublabio_engine::Isa;
use hublabio_kernels::log_sum_exp;
use hublabio_tokenizer::TokenId;

use super::InferenceEngine;
use super::engine::{LOGIT_ROWS, PREFILL_ROWS};
use crate::error::{Error, Result};

/// How well a model predicted a text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Perplexity {
    /// `exp(nll_mean)`.
    pub perplexity: f64,
    /// Mean negative log-likelihood of the scored tokens, in nats.
    pub nll_mean: f64,
    /// Tokens that were scored.
    pub tokens_scored: usize,
    /// Negative log-likelihood in bits, per byte of the scored tokens' text: comparable between tokenizers.
    pub bits_per_byte: f64,
}

impl InferenceEngine {
    /// Scores `tokens` in windows of `window` tokens that do not overlap, each starting anew (with BOS in place of its first
    /// token where the model wants BOS). The second half of each window is scored, as llama.cpp does it; a
    /// last window that is not full is left out. `progress` gets (windows done, windows).
    ///
    /// # Errors
    /// When there is no full window, the window is shorter than 4 or longer than the context, or the caller breaks off.
    pub fn perplexity(
        &mut self,
        tokens: &[TokenId],
        window: usize,
        progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Perplexity> {
        self.check_logits()?;
        if window > self.context() {
            let trained = self.model().hyperparameters().context_length;
            return Err(Error::PromptTooLong { prompt: window, context: self.context(), trained });
        }
        let needed = window.max(4);
        if tokens.len() < needed || window < 4 {
            return Err(Error::TooFewTokens { what: "perplexity", needed, found: tokens.len().min(window) });
        }
        let bos =
            self.tokenizer()?.bos().filter(|_| self.tokenizer().is_ok_and(hublabio_tokenizer::Tokenizer::adds_bos));
        let vocab = self.model().hyperparameters().vocab_size;
        let first_scored = window / 2;
        let (mut nll, mut scored, mut bytes) = (0.0f64, 0usize, 0usize);
        let mut scratch = Vec::new();
        let n_windows = tokens.len() / window;
        for (i, text) in tokens.chunks_exact(window).enumerate() {
            if progress(i, n_windows).is_break() {
                return Err(Error::Cancelled);
            }
            let mut input = text.to_vec();
            if let Some(bos) = bos {
                input[0] = bos;
            }
            self.keep(0)?;
            for rows in input[..first_scored].chunks(PREFILL_ROWS) {
                self.append_wanting(rows, |_| false)?;
            }
            // The last token predicts nothing that is in the window.
            let mut at = first_scored;
            while at < window - 1 {
                let rows = &input[at..(at + LOGIT_ROWS).min(window - 1)];
                let logits = self.append_wanting(rows, |_| true)?;
                for (j, row) in logits.chunks_exact(vocab).enumerate() {
                    let next = input[at + j + 1];
                    nll += log_sum_exp(Isa::best(), row, &mut scratch) - f64::from(row[next.0 as usize]);
                    scored += 1;
                    bytes += self.tokenizer()?.token_bytes(next).map_or(0, <[u8]>::len);
                }
                at += rows.len();
            }
        }
        // Done: whether the caller wants to stop changes nothing.
        let _ = progress(n_windows, n_windows);
        let nll_mean = nll / scored as f64;
        Ok(Perplexity {
            perplexity: nll_mean.exp(),
            nll_mean,
            tokens_scored: scored,
            bits_per_byte: nll / std::f64::consts::LN_2 / bytes.max(1) as f64,
        })
    }
}
