//! Which tokens a constraint allows next.
//!
//! A grammar, a schema or a tool call decides; this file knows only bits, and nothing of what a token spells.

use crate::TokenIndex;
use crate::error::{Error, Result};

/// A borrowed set of allowed tokens, one bit each: token `i` is allowed if and only if
/// `words[i / 32] >> (i % 32) & 1 == 1`. Tokens past the last word are not allowed.
#[derive(Clone, Copy, Debug)]
pub struct TokenMask<'a> {
    words: &'a [u32],
}

impl<'a> TokenMask<'a> {
    /// A mask over `words`, the lowest bit of the first word for token 0.
    #[must_use]
    pub const fn new(words: &'a [u32]) -> Self {
        Self { words }
    }

    /// Whether `token` may come next.
    #[must_use]
    #[inline]
    pub fn allows(self, token: TokenIndex) -> bool {
        self.words.get(token as usize / 32).is_some_and(|word| (word >> (token % 32)) & 1 == 1)
    }

    /// The allowed tokens below `n_tokens`, in rising order.
    pub(super) fn allowed(self, n_tokens: usize) -> impl Iterator<Item = TokenIndex> {
        let words = &self.words[..self.words.len().min(n_tokens.div_ceil(32))];
        words
            .iter()
            .enumerate()
            .flat_map(|(i, &word)| {
                // Each step clears the lowest bit that is set, so that empty words cost nothing.
                let rest = std::iter::successors(Some(word), |w| Some(w & w.wrapping_sub(1)));
                rest.take_while(|&w| w != 0).map(move |w| i as TokenIndex * 32 + w.trailing_zeros())
            })
            .take_while(move |&token| (token as usize) < n_tokens)
    }

    /// # Errors
    /// [`Error::NothingAllowed`] when no token below `n_tokens` is allowed.
    pub(super) fn check(self, n_tokens: usize) -> Result<()> {
        self.allowed(n_tokens).next().map(|_| ()).ok_or(Error::NothingAllowed { n_tokens })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bit_is_a_token() {
        let mask = TokenMask::new(&[0x8000_0001, 0, 0b110]);
        assert_eq!(mask.allowed(96).collect::<Vec<_>>(), [0, 31, 65, 66]);
        assert_eq!(mask.allowed(66).collect::<Vec<_>>(), [0, 31, 65]);
        assert_eq!(mask.allowed(31).collect::<Vec<_>>(), [0]);
        assert_eq!(mask.allowed(1000).count(), 4);
        let asked: Vec<_> = (0..200).filter(|&token| mask.allows(token)).collect();
        assert_eq!(asked, [0, 31, 65, 66]);
    }

    #[test]
    fn a_mask_that_allows_nothing_is_an_error_by_name() {
        for (words, n_tokens) in [(&[][..], 10), (&[0, 0], 64), (&[0x100], 8)] {
            assert!(matches!(TokenMask::new(words).check(n_tokens), Err(Error::NothingAllowed { .. })));
        }
    }
}
