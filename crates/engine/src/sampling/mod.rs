//! From logits to a token: penalties, filters, temperature, chance.
//!
//! The order is penalties → top-k → top-p → min-p → temperature → draw, as in llama.cpp and Ollama, so that
//! settings carried over from there mean the same. Ties go to the lower token id.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::collections::VecDeque;

use hublabio_kernels::{Isa, softmax};

use crate::TokenIndex;
use crate::error::{Error, Result};
use crate::random::Random;

mod mask;

pub use mask::TokenMask;

/// How the next token is chosen. The four presets are [`greedy`](Self::greedy), [`precise`](Self::precise),
/// [`default`](Self::default) and [`creative`](Self::creative).
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingConfig {
    /// Divides the logits: below 1 sharper, above 1 flatter. 0 takes the most likely token.
    pub temperature: f32,
    /// Only this many of the most likely tokens are possible; 0 for all.
    pub top_k: usize,
    /// Only the most likely tokens that together reach this probability are possible
    /// (nucleus sampling, Holtzman et al., 2020); 1 for all.
    pub top_p: f32,
    /// Only tokens at least this likely, relative to the most likely one, are possible
    /// (Nguyen et al., 2024); 0 for all.
    pub min_p: f32,
    /// Positive logits of tokens in the window are divided by this, negative ones multiplied (Keskar et al., 2019); 1 for no effect.
    pub repetition_penalty: f32,
    /// Subtracted from a token's logit for each time it is in the window; 0 for no effect.
    pub frequency_penalty: f32,
    /// Subtracted from a token's logit if it is in the window; 0 for no effect.
    pub presence_penalty: f32,
    /// How many of the last tokens, prompt included, the penalties look at.
    pub penalty_window: usize,
    /// The same seed gives the same draws; `None` asks the operating system.
    pub seed: Option<u64>,
}

impl SamplingConfig {
    fn preset(temperature: f32, top_p: f32, top_k: usize) -> Self {
        Self {
            temperature,
            top_k,
            top_p,
            min_p: 0.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            penalty_window: 64,
            seed: None,
        }
    }

    /// Always the most likely token: temperature 0.
    #[must_use]
    pub fn greedy() -> Self {
        Self::preset(0.0, 1.0, 1)
    }

    /// Facts and code: temperature 0.2, top-p 0.8, top-k 20.
    #[must_use]
    pub fn precise() -> Self {
        Self::preset(0.2, 0.8, 20)
    }

    /// Stories: temperature 1, top-p 0.95, top-k 50.
    #[must_use]
    pub fn creative() -> Self {
        Self::preset(1.0, 0.95, 50)
    }

    /// The preset of that name: `greedy`, `precise`, `default` or `creative`.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        match name {
            "greedy" => Some(Self::greedy()),
            "precise" => Some(Self::precise()),
            "default" => Some(Self::default()),
            "creative" => Some(Self::creative()),
            _ => None,
        }
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// Names the first setting that is out of its range.
    pub fn validate(&self) -> Result<()> {
        let finite = -1e6f32..=1e6;
        let checks = [
            ("temperature", self.temperature, (0.0..=100.0).contains(&self.temperature), "between 0 and 100"),
            ("top-p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "above 0 and at most 1"),
            ("min-p", self.min_p, (0.0..=1.0).contains(&self.min_p), "between 0 and 1"),
            (
                "repetition penalty",
                self.repetition_penalty,
                self.repetition_penalty > 0.0 && self.repetition_penalty <= 100.0,
                "above 0 and at most 100",
            ),
            ("frequency penalty", self.frequency_penalty, finite.contains(&self.frequency_penalty), "a finite number"),
            ("presence penalty", self.presence_penalty, finite.contains(&self.presence_penalty), "a finite number"),
        ];
        match checks.into_iter().find(|(_, _, fine, _)| !fine) {
            Some((setting, value, _, range)) => Err(Error::BadSampling { setting, value, range }),
            None => Ok(()),
        }
    }
}

impl Default for SamplingConfig {
    /// Conversation: temperature 0.7, top-p 0.9, top-k 40.
    fn default() -> Self {
        Self::preset(0.7, 0.9, 40)
    }
}

/// A token that is still possible, with its logit.
type Candidate = (TokenIndex, f32);

/// Draws tokens for one sequence.
#[derive(Clone, Debug)]
pub struct Sampler {
    config: SamplingConfig,
    random: Random,
    /// The last tokens, and how often each is among them.
    window: VecDeque<TokenIndex>,
    counts: HashMap<TokenIndex, u32>,
    candidates: Vec<Candidate>,
    probabilities: Vec<f32>,
}

impl Sampler {
    /// # Errors
    /// When a setting is out of its range.
    pub fn new(config: SamplingConfig) -> Result<Self> {
        config.validate()?;
        let random = Random::new(config.seed);
        Ok(Self {
            config,
            random,
            window: VecDeque::new(),
            counts: HashMap::new(),
            candidates: Vec::new(),
            probabilities: Vec::new(),
        })
    }

    /// Tells the sampler about a token of the sequence, of the prompt or chosen, for the penalties.
    pub fn accept(&mut self, token: TokenIndex) {
        if self.config.penalty_window == 0 {
            return;
        }
        if self.window.len() == self.config.penalty_window
            && let Some(old) = self.window.pop_front()
            && let Some(count) = self.counts.get_mut(&old)
        {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&old);
            }
        }
        self.window.push_back(token);
        *self.counts.entry(token).or_default() += 1;
    }

    /// Chooses a token from finite logits, one for each token of the vocabulary, among those that `mask` allows.
    /// A mask acts before everything else: the others are as if they had no logit.
    ///
    /// # Errors
    /// [`Error::NothingAllowed`] when the mask allows none of the tokens.
    ///
    /// # Panics
    /// When `logits` is empty.
    pub fn sample(&mut self, logits: &[f32], mask: Option<TokenMask<'_>>) -> Result<TokenIndex> {
        if let Some(mask) = mask {
            mask.check(logits.len())?;
        }
        if self.config.temperature == 0.0 || self.config.top_k == 1 {
            return Ok(self.most_likely(logits, mask));
        }
        self.distribution(logits, mask);
        let draw = self.random.uniform();
        let mut sum = 0.0;
        for (&(token, _), &p) in self.candidates.iter().zip(&self.probabilities) {
            sum += f64::from(p);
            if draw < sum {
                return Ok(token);
            }
        }
        // Rounding may leave the sum a hair below the draw.
        Ok(self.candidates[self.probabilities.iter().rposition(|&p| p > 0.0).unwrap_or(0)].0)
    }

    /// The tokens that [`sample`](Self::sample) can draw, most likely first, with their probabilities.
    ///
    /// # Errors
    /// As [`sample`](Self::sample).
    pub fn probabilities(&mut self, logits: &[f32], mask: Option<TokenMask<'_>>) -> Result<Vec<(TokenIndex, f32)>> {
        if let Some(mask) = mask {
            mask.check(logits.len())?;
        }
        if self.config.temperature == 0.0 || self.config.top_k == 1 {
            return Ok(vec![(self.most_likely(logits, mask), 1.0)]);
        }
        self.distribution(logits, mask);
        Ok(self.candidates.iter().map(|c| c.0).zip(self.probabilities.iter().copied()).collect())
    }

    fn most_likely(&self, logits: &[f32], mask: Option<TokenMask<'_>>) -> TokenIndex {
        let penalized = self.has_penalties() && !self.counts.is_empty();
        let mut best: Option<Candidate> = None;
        for (token, &logit) in logits.iter().enumerate() {
            let token = token as TokenIndex;
            if mask.is_some_and(|mask| !mask.allows(token)) {
                continue;
            }
            let logit = if penalized { self.penalize(token, logit) } else { logit };
            if best.is_none_or(|best| logit > best.1) {
                best = Some((token, logit));
            }
        }
        best.expect("logits are not empty, and the mask was checked").0
    }

    fn has_penalties(&self) -> bool {
        let c = &self.config;
        c.repetition_penalty != 1.0 || c.frequency_penalty != 0.0 || c.presence_penalty != 0.0
    }

    fn penalize(&self, token: TokenIndex, logit: f32) -> f32 {
        let Some(&count) = self.counts.get(&token) else { return logit };
        let c = &self.config;
        let repeated = if logit > 0.0 { logit / c.repetition_penalty } else { logit * c.repetition_penalty };
        repeated - c.frequency_penalty * count as f32 - c.presence_penalty
    }

    /// Fills `candidates`, most likely first, and their `probabilities`.
    fn distribution(&mut self, logits: &[f32], mask: Option<TokenMask<'_>>) {
        // 1. The mask, then the penalties. A prompt may hold tokens that cannot be drawn: they are penalized in vain.
        let mut candidates = std::mem::take(&mut self.candidates);
        candidates.clear();
        match mask {
            Some(mask) => candidates.extend(mask.allowed(logits.len()).map(|t| (t, logits[t as usize]))),
            None => candidates.extend(logits.iter().enumerate().map(|(i, &l)| (i as TokenIndex, l))),
        }
        if self.has_penalties() {
            for candidate in &mut candidates {
                candidate.1 = self.penalize(candidate.0, candidate.1);
            }
        }
        self.candidates = candidates;
        // 2. Top-k: a partial selection, so that only the survivors are sorted.
        let by_logit =
            |a: &Candidate, b: &Candidate| b.1.partial_cmp(&a.1).unwrap_or(Ordering::Equal).then(a.0.cmp(&b.0));
        let top_k = self.config.top_k;
        if top_k > 0 && top_k < self.candidates.len() {
            self.candidates.select_nth_unstable_by(top_k - 1, by_logit);
            self.candidates.truncate(top_k);
        }
        self.candidates.sort_unstable_by(by_logit);
        // 3. Top-p and min-p, on the probabilities at temperature 1.
        if self.config.top_p < 1.0 {
            self.fill_probabilities(1.0);
            let mut sum = 0.0;
            let reached = self.probabilities.iter().position(|&p| {
                sum += p;
                sum >= self.config.top_p
            });
            self.candidates.truncate(reached.map_or(self.candidates.len(), |i| i + 1));
        }
        if self.config.min_p > 0.0 {
            let least = self.candidates[0].1 + libm::logf(self.config.min_p);
            let keep = self.candidates.iter().take_while(|c| c.1 >= least).count();
            self.candidates.truncate(keep.max(1));
        }
        // 4. Temperature.
        self.fill_probabilities(self.config.temperature);
    }

    fn fill_probabilities(&mut self, temperature: f32) {
        // Scaled relative to the largest: a temperature near 0 cannot overflow.
        let max = self.candidates[0].1;
        self.probabilities.clear();
        self.probabilities.extend(self.candidates.iter().map(|c| (c.1 - max) / temperature));
        softmax(Isa::best(), &mut self.probabilities);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(f: impl FnOnce(&mut SamplingConfig)) -> SamplingConfig {
        let mut c = SamplingConfig::preset(1.0, 1.0, 0);
        c.seed = Some(7);
        f(&mut c);
        c
    }

    fn possible(c: SamplingConfig, logits: &[f32]) -> Vec<(TokenIndex, f32)> {
        Sampler::new(c).unwrap().probabilities(logits, None).unwrap()
    }

    fn logits_of(probabilities: &[f32]) -> Vec<f32> {
        probabilities.iter().map(|p| p.ln()).collect()
    }

    fn assert_close(actual: &[(TokenIndex, f32)], expected: &[(TokenIndex, f32)]) {
        assert_eq!(actual.len(), expected.len(), "{actual:?} {expected:?}");
        for (a, e) in actual.iter().zip(expected) {
            assert!(a.0 == e.0 && (a.1 - e.1).abs() < 1e-5, "{actual:?} is not {expected:?}");
        }
    }

    #[test]
    fn filters_keep_what_their_papers_say() {
        let logits = logits_of(&[0.1, 0.5, 0.15, 0.25]);
        assert_close(&possible(config(|_| ()), &logits), &[(1, 0.5), (3, 0.25), (2, 0.15), (0, 0.1)]);
        assert_close(&possible(config(|c| c.top_k = 2), &logits), &[(1, 2.0 / 3.0), (3, 1.0 / 3.0)]);
        assert_close(&possible(config(|c| c.top_p = 0.7), &logits), &[(1, 2.0 / 3.0), (3, 1.0 / 3.0)]);
        assert_close(&possible(config(|c| c.top_p = 0.1), &logits), &[(1, 1.0)]);
        assert_close(&possible(config(|c| c.min_p = 0.29), &logits), &[(1, 5.0 / 9.0), (3, 2.5 / 9.0), (2, 1.5 / 9.0)]);
        // Top-k first, then top-p of what is left: 0.5/0.75 reaches 0.6 alone.
        assert_close(&possible(config(|c| (c.top_k, c.top_p) = (2, 0.6)), &logits), &[(1, 1.0)]);
        // p^(1/T): at T = 0.5 the ratios are squared.
        let squares = 0.25 + 0.0625 + 0.0225 + 0.01;
        let expected = [(1, 0.25 / squares), (3, 0.0625 / squares), (2, 0.0225 / squares), (0, 0.01 / squares)];
        assert_close(&possible(config(|c| c.temperature = 0.5), &logits), &expected);
    }

    #[test]
    fn penalties_change_the_logits_of_seen_tokens_only() {
        let logits = [2.0, -1.0, 0.5];
        let mut sampler = Sampler::new(config(|c| {
            (c.repetition_penalty, c.frequency_penalty, c.presence_penalty) = (2.0, 0.25, 0.125)
        }))
        .unwrap();
        for token in [0, 1, 0] {
            sampler.accept(token);
        }
        // 2/2 - 2·0.25 - 0.125, -1·2 - 0.25 - 0.125, unchanged.
        let expected = [(2, 0.5f32), (0, 0.375), (1, -2.375)];
        let total: f32 = expected.iter().map(|e| e.1.exp()).sum();
        assert_close(&sampler.probabilities(&logits, None).unwrap(), &expected.map(|(t, l)| (t, l.exp() / total)));
    }

    #[test]
    fn the_window_forgets() {
        let mut sampler = Sampler::new(config(|c| (c.presence_penalty, c.penalty_window) = (50.0, 2))).unwrap();
        for token in [0, 1, 2] {
            sampler.accept(token);
        }
        assert_eq!(sampler.probabilities(&[0.0; 4], None).unwrap()[0].0, 0);
        assert!(sampler.probabilities(&[0.0; 4], None).unwrap()[1].0 == 3);
        sampler.config.temperature = 0.0;
        assert_eq!(sampler.sample(&[1.0, 9.0, 9.0, 0.0], None).unwrap(), 0, "greedy is penalized too");
    }

    #[test]
    fn tokens_that_cannot_be_drawn_are_penalized_in_vain() {
        let mut sampler = Sampler::new(config(|c| c.presence_penalty = 1.0)).unwrap();
        sampler.accept(9999);
        assert_eq!(sampler.probabilities(&[0.0; 100], None).unwrap().len(), 100);
    }

    #[test]
    fn greedy_takes_the_first_of_equals() {
        let mut sampler = Sampler::new(SamplingConfig::greedy()).unwrap();
        assert_eq!(sampler.sample(&[0.0, 3.0, 1.0, 3.0], None).unwrap(), 1);
    }

    #[test]
    fn draws_follow_the_distribution() {
        let p = [0.4f32, 0.3, 0.2, 0.1];
        let mut sampler = Sampler::new(config(|_| ())).unwrap();
        let n = 40_000;
        let mut counts = [0f64; 4];
        for _ in 0..n {
            counts[sampler.sample(&logits_of(&p), None).unwrap() as usize] += 1.0;
        }
        let chi_square: f64 = counts
            .iter()
            .zip(p)
            .map(|(&c, p)| (c - f64::from(p) * f64::from(n)).powi(2) / (f64::from(p) * f64::from(n)))
            .sum();
        // 99.9 % of chi-square with 3 degrees of freedom lie below 16.3; the seed is fixed.
        assert!(chi_square < 16.3, "{chi_square} {counts:?}");
    }

    #[test]
    fn a_seed_repeats_and_no_seed_does_not() {
        let draws = |seed| -> Vec<TokenIndex> {
            let mut sampler = Sampler::new(config(|c| c.seed = seed)).unwrap();
            (0..64).map(|_| sampler.sample(&[0.0; 100], None).unwrap()).collect()
        };
        assert_eq!(draws(Some(1)), draws(Some(1)));
        assert_ne!(draws(Some(1)), draws(Some(2)));
        assert_ne!(draws(None), draws(None));
    }

    #[test]
    fn settings_out_of_range_are_named() {
        for (config, setting) in [
            (config(|c| c.temperature = -1.0), "temperature"),
            (config(|c| c.temperature = f32::NAN), "temperature"),
            (config(|c| c.top_p = 0.0), "top-p"),
            (config(|c| c.min_p = 1.5), "min-p"),
            (config(|c| c.repetition_penalty = 0.0), "repetition penalty"),
            (config(|c| c.presence_penalty = f32::INFINITY), "presence penalty"),
        ] {
            let message = Sampler::new(config).unwrap_err().to_string();
            assert!(message.starts_with(setting), "{message}");
        }
    }

    #[test]
    fn a_mask_acts_before_everything_else() {
        let logits = logits_of(&[0.1, 0.5, 0.15, 0.25]);
        let mask = Some(TokenMask::new(&[0b1101]));
        let possible = |c| Sampler::new(c).unwrap().probabilities(&logits, mask).unwrap();
        assert_close(&possible(config(|_| ())), &[(3, 0.5), (2, 0.3), (0, 0.2)]);
        assert_close(&possible(config(|c| c.top_k = 2)), &[(3, 0.625), (2, 0.375)]);
        assert_eq!(Sampler::new(SamplingConfig::greedy()).unwrap().sample(&logits, mask).unwrap(), 3);
        for config in [SamplingConfig::greedy(), SamplingConfig::default()] {
            let mut sampler = Sampler::new(config).unwrap();
            let refused = sampler.sample(&logits, Some(TokenMask::new(&[1 << 4])));
            assert!(matches!(refused, Err(Error::NothingAllowed { n_tokens: 4 })));
        }
    }
}
