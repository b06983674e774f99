//! DRY, "don't repeat yourself": penalties for tokens that would go on with a repetition.
//!
//! The proposal: p-e-w, 2024, <https://github.com/oobabooga/text-generation-webui/pull/5677>. Here it has the meaning
//! that it has in llama.cpp, breakers of several tokens included, in time linear in the tokens that are searched.

use std::collections::{BTreeMap, HashMap};

use super::candidates::Candidates;
use super::config::Dry;
use crate::TokenIndex;

/// `base^n` is not computed beyond this, the natural logarithm of the largest f32.
const LN_MAX: f64 = 88.7228391;

/// A sequence of tokens as DRY sees it.
#[derive(Clone, Debug, Default)]
pub(super) struct Repetitions {
    /// Breakers by their first token: what has to follow it.
    breakers: HashMap<TokenIndex, Vec<Vec<TokenIndex>>>,
    tokens: Vec<TokenIndex>,
    /// How long a match begins at each place, backwards.
    matches: Vec<usize>,
}

impl Repetitions {
    pub(super) fn new(dry: &Dry) -> Self {
        let mut breakers: HashMap<TokenIndex, Vec<Vec<TokenIndex>>> = HashMap::new();
        for breaker in &dry.breakers {
            let (first, rest) = breaker.split_first().expect("settings were checked: a breaker has a token");
            breakers.entry(*first).or_default().push(rest.to_vec());
        }
        for rests in breakers.values_mut() {
            // The longest that fits counts.
            rests.sort_by_key(|rest| std::cmp::Reverse(rest.len()));
        }
        Self { breakers, ..Self::default() }
    }

    pub(super) fn push(&mut self, token: TokenIndex) {
        self.tokens.push(token);
    }

    /// For each token that would extend a repetition that counts, the length of the longest such.
    fn extended(&mut self, dry: &Dry) -> BTreeMap<TokenIndex, usize> {
        let mut longest = BTreeMap::new();
        let first = self.tokens.len() - dry.range.unwrap_or(usize::MAX).min(self.tokens.len());
        let tokens = &self.tokens[first..];
        let limit = unbroken(tokens, &self.breakers);
        if tokens.len() <= dry.allowed_length || limit < dry.allowed_length {
            return longest;
        }
        suffix_matches(tokens, &mut self.matches);
        // A match of length n that ends before the token at place i: that token would make it n + 1 long.
        let n = tokens.len();
        for back in 1..n {
            let length = self.matches[back].min(limit);
            if length >= dry.allowed_length {
                let best = longest.entry(tokens[n - back]).or_insert(0);
                *best = length.max(*best);
            }
        }
        longest
    }

    /// Whether a token alone is a breaker.
    fn breaks(&self, token: TokenIndex) -> bool {
        self.breakers.get(&token).is_some_and(|rests| rests.iter().any(Vec::is_empty))
    }

    /// Takes the penalties off.
    pub(super) fn penalize(&mut self, candidates: &mut Candidates, dry: &Dry) {
        if dry.multiplier == 0.0 || dry.range == Some(0) {
            return;
        }
        let mut longest = self.extended(dry);
        longest.retain(|&token, _| !self.breaks(token));
        let exponent_max = LN_MAX / libm::log(f64::from(dry.base).max(1.000_001));
        candidates.change(longest.iter().map(|(&token, length)| (token, length)), |logit, &length| {
            let exponent = ((length - dry.allowed_length) as f64).min(exponent_max.floor());
            (f64::from(logit) - f64::from(dry.multiplier) * libm::pow(f64::from(dry.base), exponent)) as f32
        });
    }
}

/// How many tokens there are after the last breaker.
fn unbroken(tokens: &[TokenIndex], breakers: &HashMap<TokenIndex, Vec<Vec<TokenIndex>>>) -> usize {
    if breakers.is_empty() {
        return tokens.len();
    }
    for (i, token) in tokens.iter().enumerate().rev() {
        let after = &tokens[i + 1..];
        if let Some(rest) = breakers.get(token).and_then(|rests| rests.iter().find(|r| after.starts_with(r))) {
            return after.len() - rest.len();
        }
    }
    tokens.len()
}

/// For each number of tokens that are left out at the end, `out[back]`: how many of the last tokens of what is left are
/// the last of all. The Z algorithm (Gusfield, "Algorithms on Strings, Trees and Sequences", 1997), from the end.
fn suffix_matches(tokens: &[TokenIndex], out: &mut Vec<usize>) {
    let n = tokens.len();
    let from_end = |i: usize| tokens[n - 1 - i];
    out.clear();
    out.resize(n, 0);
    // The match that reaches farthest is [start, end).
    let (mut start, mut end) = (0, 0);
    for i in 1..n {
        let mut length = if i < end { out[i - start].min(end - i) } else { 0 };
        while i + length < n && from_end(length) == from_end(i + length) {
            length += 1;
        }
        if i + length > end {
            (start, end) = (i, i + length);
        }
        out[i] = length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extended(tokens: &[TokenIndex], dry: &Dry) -> Vec<(TokenIndex, usize)> {
        let mut repetitions = Repetitions::new(dry);
        for &token in tokens {
            repetitions.push(token);
        }
        repetitions.extended(dry).into_iter().collect()
    }

    #[test]
    fn matches_are_those_of_comparing_everywhere() {
        let mut state = 1u32;
        for round in 0..200 {
            let tokens: Vec<TokenIndex> = (0..round % 40)
                .map(|_| {
                    state = state.wrapping_mul(1664525).wrapping_add(1013904223);
                    (state >> 24) % 3
                })
                .collect();
            let mut found = Vec::new();
            suffix_matches(&tokens, &mut found);
            for back in 1..tokens.len() {
                let left = &tokens[..tokens.len() - back];
                let same = left.iter().rev().zip(tokens.iter().rev()).take_while(|(a, b)| a == b).count();
                assert_eq!(found[back], same, "{tokens:?}, {back} left out");
            }
        }
    }

    #[test]
    fn a_token_that_goes_on_with_a_repetition_is_found_with_its_length() {
        let dry = |f: fn(&mut Dry)| {
            let mut dry = Dry::default();
            f(&mut dry);
            dry
        };
        let plain = Dry::default();
        // After "1 2 3 9 1 2 3" a 9 would go on with a repetition of three.
        assert_eq!(extended(&[1, 2, 3, 9, 1, 2, 3], &plain), [(9, 3)]);
        assert_eq!(extended(&[1, 2, 3, 9, 1, 2, 3], &dry(|d| d.allowed_length = 4)), []);
        // Out of range.
        assert_eq!(extended(&[1, 2, 3, 9, 1, 2, 3], &dry(|d| d.range = Some(5))), []);
        assert_eq!(extended(&[1, 2, 3, 9, 1, 2, 3], &dry(|d| d.range = Some(6))), [(9, 2)]);
        // Two continuations, the longest of each.
        assert_eq!(extended(&[1, 2, 8, 7, 1, 2, 6, 7, 1, 2], &plain), [(6, 3), (8, 2)]);
        // A breaker ends what counts.
        assert_eq!(extended(&[1, 2, 3, 9, 1, 2, 3], &dry(|d| d.breakers = vec![vec![1]])), [(9, 2)]);
        assert_eq!(extended(&[1, 2, 3, 9, 1, 2, 3], &dry(|d| d.breakers = vec![vec![2]])), []);
        // Of several tokens, the longest that fits.
        assert_eq!(extended(&[5, 1, 2, 3, 9, 5, 1, 2, 3], &dry(|d| d.breakers = vec![vec![5, 1]])), [(9, 2)]);
        assert_eq!(extended(&[], &plain), []);
    }

    #[test]
    fn penalties_grow_with_the_length_and_stay_finite() {
        let logit_of_nine = |tokens: &[TokenIndex], dry: &Dry| {
            let mut repetitions = Repetitions::new(dry);
            tokens.iter().for_each(|&t| repetitions.push(t));
            let mut candidates = Candidates::default();
            candidates.reset(&[0.0; 10], None);
            repetitions.penalize(&mut candidates, dry);
            candidates.list()[9].1
        };
        let dry = Dry { multiplier: 0.5, base: 2.0, ..Dry::default() };
        assert_eq!(logit_of_nine(&[2, 3, 9, 2, 3], &dry), -0.5);
        assert_eq!(logit_of_nine(&[0, 1, 2, 3, 9, 0, 1, 2, 3], &dry), -2.0);
        let long: Vec<TokenIndex> = (0..2000).map(|_| 9).collect();
        let logit = logit_of_nine(&long, &Dry { base: 100.0, multiplier: 1e6, ..Dry::default() });
        assert!(logit.is_finite() && logit < -1e30, "{logit}");
        // A breaker is never penalized itself.
        assert_eq!(logit_of_nine(&[2, 3, 9, 2, 3], &Dry { breakers: vec![vec![9]], ..dry }), 0.0);
    }
}
