//! Log probabilities of tokens in the model's own distribution.

use hublabio_kernels::{Isa, log_sum_exp};

use super::candidates::largest;
use crate::TokenIndex;

/// Log probabilities at one position, natural logarithms: of the model's distribution, the softmax of its logits, before
/// mask, bias, penalties, filters and temperature. They say what the model believes and not what was drawn from.
#[derive(Clone, Debug, PartialEq)]
pub struct LogProbs {
    /// That of the token which was chosen.
    pub chosen: f32,
    /// The most likely tokens, most likely first, equals by rising id. The chosen one is among them only if it is one.
    pub top: Vec<(TokenIndex, f32)>,
}

impl LogProbs {
    /// For the token `chosen` of finite `logits`, `[n_vocab]`, with the `n_top` most likely tokens (fewer where the
    /// vocabulary is smaller).
    ///
    /// # Panics
    /// When `chosen` is not in the vocabulary.
    #[must_use]
    pub fn of(logits: &[f32], chosen: TokenIndex, n_top: usize) -> Self {
        let log_sum = log_sum_exp(Isa::best(), logits, &mut Vec::new());
        let log_probability = |logit: f32| (f64::from(logit) - log_sum) as f32;
        let mut top = Vec::new();
        largest(logits, n_top, &mut top);
        for (_, logit) in &mut top {
            *logit = log_probability(*logit);
        }
        Self { chosen: log_probability(logits[chosen as usize]), top }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_logarithms_of_the_softmax() {
        let p = [0.1f32, 0.5, 0.15, 0.25];
        let logits = p.map(|p| p.ln() + 3.0);
        let found = LogProbs::of(&logits, 2, 2);
        assert!((found.chosen - p[2].ln()).abs() < 1e-6);
        assert_eq!(found.top.iter().map(|t| t.0).collect::<Vec<_>>(), [1, 3]);
        assert!(found.top.iter().all(|&(t, l)| (l - p[t as usize].ln()).abs() < 1e-6), "{found:?}");
        assert_eq!(LogProbs::of(&logits, 0, 0).top, []);
        assert_eq!(LogProbs::of(&logits, 0, 9).top.len(), 4);
    }
}
