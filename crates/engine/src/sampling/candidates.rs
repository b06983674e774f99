//! The tokens that are still possible, and the two ways to hold them.
//!
//! At first all of the vocabulary is: one logit per token, in a row (`dense`). The first filter makes a list of what it
//! leaves, and from there on only the list is looked at. Nothing is sorted as a whole unless a filter has to see all of
//! it in order: a vocabulary has 150,000 tokens, and what survives mostly has a few dozen.
//!
//! Everything here is the same to the bit on every machine: exponentials come from the kernels, logarithms from `libm`,
//! sums have one order.

use std::cmp::Ordering;

use hublabio_kernels::{Isa, exp, log_sum_exp, softmax};

use super::mask::TokenMask;
use crate::TokenIndex;

/// A token that is still possible, with its logit.
pub(super) type Candidate = (TokenIndex, f32);

/// Most likely first, equals by rising id.
#[allow(clippy::trivially_copy_pass_by_ref)] // What sorting calls it with.
pub(super) fn by_logit(a: &Candidate, b: &Candidate) -> Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

#[derive(Clone, Debug, Default)]
pub(super) struct Candidates {
    /// A logit for each token, `[n_vocab]`; impossible ones have −∞. Meaningful while `listed` is false.
    dense: Vec<f32>,
    list: Vec<Candidate>,
    listed: bool,
    /// Whether `list` is in the order of [`by_logit`].
    sorted: bool,
    /// What was taken off all logits: a filter sees differences only, a repetition penalty sees signs.
    shift: f32,
    /// Logits or probabilities of the list, in its order.
    row: Vec<f32>,
    scratch: Vec<f32>,
}

impl Candidates {
    /// All tokens that `mask` allows. NaN counts as impossible, +∞ as the largest number.
    pub(super) fn reset(&mut self, logits: &[f32], mask: Option<TokenMask<'_>>) {
        // `max` and `min` would take NaN for the other operand, hence the comparison.
        let sane = |x: f32| if x > f32::NEG_INFINITY { x.min(f32::MAX) } else { f32::NEG_INFINITY };
        self.dense.clear();
        match mask {
            None => self.dense.extend(logits.iter().map(|&x| sane(x))),
            Some(mask) => {
                self.dense.resize(logits.len(), f32::NEG_INFINITY);
                for token in mask.allowed(logits.len()) {
                    self.dense[token as usize] = sane(logits[token as usize]);
                }
            }
        }
        (self.listed, self.sorted, self.shift) = (false, false, 0.0);
    }

    /// Whether no token is possible.
    pub(super) fn is_empty(&self) -> bool {
        if self.listed { self.list.is_empty() } else { self.dense.iter().all(|&x| x == f32::NEG_INFINITY) }
    }

    /// Changes the logits of `tokens`; those that are not possible stay so, and a token that is penalized stays possible.
    pub(super) fn change<'a, T: 'a>(
        &mut self,
        tokens: impl Iterator<Item = (TokenIndex, &'a T)>,
        changed: impl Fn(f32, &T) -> f32,
    ) {
        let shift = self.shift;
        let change = |logit: &mut f32, by: &T| {
            if *logit > f32::NEG_INFINITY {
                *logit = (changed(*logit + shift, by) - shift).clamp(f32::MIN, f32::MAX);
            }
        };
        if self.listed {
            let mut places: Vec<(TokenIndex, usize)> = self.list.iter().enumerate().map(|(i, c)| (c.0, i)).collect();
            places.sort_unstable();
            for (token, by) in tokens {
                if let Ok(found) = places.binary_search_by_key(&token, |p| p.0) {
                    change(&mut self.list[places[found].1].1, by);
                    self.sorted = false;
                }
            }
        } else {
            for (token, by) in tokens {
                // A prompt may hold tokens that cannot be drawn: rows that only fill up the vocabulary.
                if let Some(logit) = self.dense.get_mut(token as usize) {
                    change(logit, by);
                }
            }
        }
    }

    /// Adds biases; −∞ makes a token impossible. For the whole vocabulary only, before the first filter.
    pub(super) fn bias(&mut self, biases: &[(TokenIndex, f32)]) {
        debug_assert!(!self.listed);
        for &(token, bias) in biases {
            if let Some(logit) = self.dense.get_mut(token as usize).filter(|x| **x > f32::NEG_INFINITY) {
                *logit = if bias == f32::NEG_INFINITY { bias } else { (*logit + bias).clamp(f32::MIN, f32::MAX) };
            }
        }
    }

    /// The largest logit.
    pub(super) fn max(&self) -> f32 {
        match (self.listed, self.sorted) {
            (true, true) => self.list[0].1,
            (true, false) => self.list.iter().fold(f32::NEG_INFINITY, |max, c| max.max(c.1)),
            (false, _) => self.dense.iter().fold(f32::NEG_INFINITY, |max, &x| max.max(x)),
        }
    }

    /// Keeps the `n` most likely, in order.
    pub(super) fn keep_largest(&mut self, n: usize) {
        if self.listed {
            self.sort_first(n);
            self.list.truncate(n);
        } else {
            largest(&self.dense, n, &mut self.list);
            self.listed = true;
        }
        self.sorted = true;
    }

    /// Keeps tokens whose logit is at least `least`, but of the most likely at least `min_keep`.
    pub(super) fn keep_from(&mut self, least: f32, min_keep: usize) {
        if self.listed {
            let enough = self.list.iter().filter(|c| c.1 >= least).count() >= min_keep;
            if enough {
                self.list.retain(|c| c.1 >= least);
            } else {
                self.keep_largest(min_keep);
            }
            return;
        }
        self.list.clear();
        let kept = self.dense.iter().enumerate().filter(|&(_, &x)| x >= least && x > f32::NEG_INFINITY);
        self.list.extend(kept.map(|(i, &x)| (i as TokenIndex, x)));
        if self.list.len() < min_keep {
            largest(&self.dense, min_keep, &mut self.list);
            self.sorted = true;
        }
        self.listed = true;
    }

    /// Keeps the shortest list of the likeliest tokens that together have at least the probability `share`, but at least
    /// `min_keep`.
    pub(super) fn keep_share(&mut self, share: f32, min_keep: usize) {
        /// Mostly so many are enough.
        const FIRST: usize = 64;
        let log_sum = self.log_sum_exp();
        if !self.listed {
            largest(&self.dense, FIRST, &mut self.list);
        }
        if !self.listed || self.sorted {
            let mut reached = 0.0f64;
            for i in 0..self.list.len().min(FIRST) {
                reached += libm::exp(f64::from(self.list[i].1) - log_sum);
                if reached >= f64::from(share) && i + 1 >= min_keep {
                    self.list.truncate(i + 1);
                    (self.listed, self.sorted) = (true, true);
                    return;
                }
            }
        }
        let max = f64::from(self.max());
        self.keep_share_by(share, min_keep, |logit| max - f64::from(logit));
    }

    /// Keeps the shortest list of tokens that together have at least the probability `share`, but at least `min_keep`:
    /// by rising `rank`, which is not negative, equals by falling logit, then by rising id. Nothing is sorted but the few
    /// around the border: ranks are counted in buckets, and the border lies in one of them.
    pub(super) fn keep_share_by(&mut self, share: f32, min_keep: usize, rank: impl Fn(f32) -> f64) {
        /// Of a sixty-fourth of a nat; the last holds all that is beyond 64 nats.
        const BUCKETS: usize = 4096;
        let bucket = |rank: f64| ((rank * 64.0) as usize).min(BUCKETS - 1);
        self.make_list();
        let weights: Vec<u64> =
            self.probabilities().map(|(_, p)| (f64::from(p) * (1u64 << 52) as f64) as u64).collect();
        // How many tokens a bucket holds, and what they weigh: as integers, so that no sum depends on its order.
        let mut buckets = vec![(0usize, 0u64); BUCKETS];
        for (candidate, weight) in self.list.iter().zip(&weights) {
            let bucket = &mut buckets[bucket(rank(candidate.1))];
            bucket.0 += 1;
            bucket.1 += weight;
        }
        let total: u64 = buckets.iter().map(|b| b.1).sum();
        let enough = |n: usize, weight: u64| n >= min_keep && weight as f64 >= f64::from(share) * total as f64;
        let mut before = (0, 0);
        let border = buckets.iter().position(|b| {
            let reached = enough(before.0 + b.0, before.1 + b.1);
            if !reached {
                before = (before.0 + b.0, before.1 + b.1);
            }
            reached
        });
        // Without a border, all are needed.
        let Some(border) = border else { return };
        type Ranked = (f64, Candidate, u64);
        let order = |a: &Ranked, b: &Ranked| a.0.total_cmp(&b.0).then(by_logit(&a.1, &b.1));
        let ranked = self.list.iter().zip(&weights).map(|(&c, &weight)| (rank(c.1), c, weight));
        let mut within: Vec<Ranked> = ranked.filter(|r| bucket(r.0) == border).collect();
        within.sort_unstable_by(order);
        let last = within.iter().find(|r| {
            before = (before.0 + 1, before.1 + r.2);
            enough(before.0, before.1)
        });
        let last = *last.expect("the whole bucket is enough");
        self.list.retain(|&c| order(&(rank(c.1), c, 0), &last).is_le());
    }

    /// The list, as it is.
    pub(super) fn list(&mut self) -> &mut Vec<Candidate> {
        self.make_list();
        &mut self.list
    }

    /// The list, most likely first.
    pub(super) fn sorted_list(&mut self) -> &mut Vec<Candidate> {
        self.make_list();
        self.sort_first(self.list.len());
        self.sorted = true;
        &mut self.list
    }

    /// ln Σ e^logit.
    pub(super) fn log_sum_exp(&mut self) -> f64 {
        if self.listed {
            self.row.clear();
            self.row.extend(self.list.iter().map(|c| c.1));
            log_sum_exp(Isa::best(), &self.row, &mut self.scratch)
        } else {
            log_sum_exp(Isa::best(), &self.dense, &mut self.scratch)
        }
    }

    /// The entropy of the distribution in nats, and ln Σ e^logit.
    pub(super) fn entropy(&mut self) -> (f64, f64) {
        self.make_list();
        let sum = self.log_sum_exp();
        self.scratch.clear();
        self.scratch.extend(self.list.iter().map(|c| (f64::from(c.1) - sum) as f32));
        exp(Isa::best(), &mut self.scratch);
        let surprises = self.list.iter().map(|c| sum - f64::from(c.1));
        (surprises.zip(&self.scratch).map(|(s, &p)| s * f64::from(p)).sum(), sum)
    }

    /// The standard deviation of the logits, of all of them and not of a sample.
    pub(super) fn standard_deviation(&mut self) -> f64 {
        self.row.clear();
        if self.listed {
            self.row.extend(self.list.iter().map(|c| c.1));
        } else {
            self.row.extend(self.dense.iter().filter(|&&x| x > f32::NEG_INFINITY));
        }
        let n = self.row.len() as f64;
        let mean = sum(&self.row, f64::from) / n;
        libm::sqrt(sum(&self.row, |x| (f64::from(x) - mean).powi(2)) / n)
    }

    /// Divides the logits by a temperature above 0.
    pub(super) fn divide(&mut self, temperature: f32) {
        // Relative to the largest: a temperature near 0 cannot overflow, and small differences keep their digits.
        let max = self.max();
        self.make_list();
        for candidate in &mut self.list {
            candidate.1 = ((candidate.1 - max) / temperature).max(f32::MIN);
        }
        self.shift = ((max + self.shift) / temperature).clamp(f32::MIN, f32::MAX);
    }

    /// The tokens that are left, with their probabilities.
    pub(super) fn probabilities(&mut self) -> impl ExactSizeIterator<Item = (TokenIndex, f32)> + Clone {
        self.make_list();
        self.row.clear();
        self.row.extend(self.list.iter().map(|c| c.1));
        softmax(Isa::best(), &mut self.row);
        self.list.iter().map(|c| c.0).zip(self.row.iter().copied())
    }

    fn make_list(&mut self) {
        if !self.listed {
            self.list.clear();
            let possible = self.dense.iter().enumerate().filter(|&(_, &x)| x > f32::NEG_INFINITY);
            self.list.extend(possible.map(|(i, &x)| (i as TokenIndex, x)));
            (self.listed, self.sorted) = (true, false);
        }
    }

    /// Puts the `n` most likely of the list first, in order.
    fn sort_first(&mut self, n: usize) {
        if self.sorted || n == 0 {
            return;
        }
        let first = if n < self.list.len() {
            self.list.select_nth_unstable_by(n - 1, by_logit);
            &mut self.list[..n]
        } else {
            &mut self.list[..]
        };
        first.sort_unstable_by(by_logit);
    }
}

/// The `n` most likely possible tokens of `logits`, in order: one pass, with a floor that rises.
pub(super) fn largest(logits: &[f32], n: usize, out: &mut Vec<Candidate>) {
    /// Values that are compared at once.
    const CHUNK: usize = 64;
    out.clear();
    if n == 0 {
        return;
    }
    let room = n.saturating_mul(2).max(CHUNK);
    let mut floor = f32::NEG_INFINITY;
    for (c, chunk) in logits.chunks(CHUNK).enumerate() {
        // Counted rather than searched: without a branch per value, the compiler makes vectors of it.
        if chunk.iter().filter(|&&x| x > floor).count() == 0 {
            continue;
        }
        for (i, &x) in chunk.iter().enumerate() {
            // An equal of the last one comes later, so that it loses.
            if x > floor {
                out.push(((c * CHUNK + i) as TokenIndex, x));
                if out.len() >= room {
                    out.select_nth_unstable_by(n - 1, by_logit);
                    out.truncate(n);
                    floor = out[n - 1].1;
                }
            }
        }
    }
    if out.len() > n {
        out.select_nth_unstable_by(n - 1, by_logit);
        out.truncate(n);
    }
    out.sort_unstable_by(by_logit);
}

/// A sum in eight strands, always folded the same way.
fn sum(values: &[f32], f: impl Fn(f32) -> f64) -> f64 {
    let mut strands = [0.0f64; 8];
    for chunk in values.chunks(8) {
        for (strand, &x) in strands.iter_mut().zip(chunk) {
            *strand += f(x);
        }
    }
    strands.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Logits with many ties, in no order.
    fn logits(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919) % 1009) as f32 / 64.0).collect()
    }

    #[test]
    fn the_largest_are_those_of_a_full_sort() {
        for n in [1usize, 63, 64, 65, 5000] {
            let logits = logits(n);
            let mut sorted: Vec<Candidate> = logits.iter().enumerate().map(|(i, &x)| (i as TokenIndex, x)).collect();
            sorted.sort_by(by_logit);
            for k in [1, 2, 40, 64, 1000, n, n + 1] {
                let mut out = Vec::new();
                largest(&logits, k, &mut out);
                assert_eq!(out, sorted[..k.min(n)], "{k} of {n}");
                let mut candidates = Candidates::default();
                candidates.reset(&logits, None);
                candidates.make_list();
                candidates.keep_largest(k);
                assert_eq!(candidates.list, sorted[..k.min(n)], "{k} of a list of {n}");
            }
        }
    }

    #[test]
    fn a_share_is_that_of_a_full_sort() {
        for n in [1usize, 40, 64, 65, 3000] {
            for (share, min_keep) in [(0.01, 1), (0.5, 1), (0.9, 1), (0.9999, 1), (0.3, 50), (0.2, 5000)] {
                // Flat, so that many tokens are needed, and peaked.
                for scale in [0.05, 1.0] {
                    let logits: Vec<f32> = logits(n).iter().map(|x| x * scale).collect();
                    let log_sum = logits.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln();
                    let mut sorted: Vec<Candidate> =
                        logits.iter().enumerate().map(|(i, &x)| (i as TokenIndex, x)).collect();
                    sorted.sort_by(by_logit);
                    let mut sum = 0.0;
                    let reached = sorted.iter().position(|c| {
                        sum += (f64::from(c.1) - log_sum).exp();
                        sum >= f64::from(share)
                    });
                    let expected = reached.map_or(n, |i| i + 1).max(min_keep).min(n);
                    for listed in [false, true] {
                        let mut candidates = Candidates::default();
                        candidates.reset(&logits, None);
                        if listed {
                            candidates.make_list();
                        }
                        candidates.keep_share(share, min_keep);
                        assert_eq!(candidates.sorted_list()[..], sorted[..expected], "{share} of {n}, scale {scale}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_no_number_is_never_possible() {
        let mut candidates = Candidates::default();
        candidates.reset(&[f32::NAN, 1.0, f32::NEG_INFINITY, f32::INFINITY, -f32::NAN], None);
        assert_eq!(candidates.sorted_list(), &[(3, f32::MAX), (1, 1.0)]);
        assert_eq!(candidates.probabilities().collect::<Vec<_>>(), [(3, 1.0), (1, 0.0)]);
        candidates.reset(&[f32::NAN; 3], None);
        assert!(candidates.is_empty());
    }

    #[test]
    fn a_change_sees_the_logit_before_the_temperature_took_the_largest_off() {
        let mut candidates = Candidates::default();
        candidates.reset(&[4.0, 2.0, -2.0], None);
        candidates.divide(2.0);
        let tokens = [(0, ()), (2, ())];
        candidates.change(tokens.iter().map(|(t, by)| (*t, by)), |x, ()| if x > 0.0 { x / 2.0 } else { x * 2.0 });
        // 4/2/2, 2/2, -2/2·2
        let relative: Vec<f32> = candidates.list.iter().map(|c| c.1 + candidates.shift).collect();
        assert_eq!(relative, [1.0, 1.0, -2.0]);
    }
}
