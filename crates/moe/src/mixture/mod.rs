//! A token-level mixture of experts: their next-token *probabilities* are averaged, with weights that follow how well
//! each has foretold the text so far.
//!
//! It sees logits and token numbers; it runs nothing, samples nothing and knows no text. Who owns the models asks
//! [`Mixture::wanted`] who computes, catches those up that missed tokens ([`Mixture::missed`], [`Mixture::observe`]),
//! hands their logits to [`Mixture::mix`], samples, and tells the token to [`Mixture::accept`]. The loops over
//! vocabularies are in `vector.rs`.
//!
//! # The formula
//! ```text
//! l_i(t) = clamp(ln p_i(x_t), LOGPROB_MIN, 0)
//! m_i(t) = decay · m_i(t−1) + (1 − decay) · l_i(t)          m_i(0) = 0
//! s_i(t) = m_i(t) / (1 − decay^t)                           the average, free of the zero that it began with
//! w_i(t) ∝ prior_i · exp(tau · s_i(t))                      over the active members, sum 1
//! mix(x) = ln Σ_i w_i(t) · p_i(x)
//! ```
//! t counts what the member was shown: the prompt's tokens, where those are given, and the answer's. With
//! tau = 1 / (1 − decay) this is Bayes' rule over a sliding window; with a smaller tau it is tempered. The correction
//! is that of Kingma and Ba (2015) for moving averages.
//!
//! # Who is active
//! Every `probe_every` tokens, beginning with the first, all members compute; the `active_max` heaviest, the kept one
//! always among them, are active until the next such token, and only they compute between. Members of one weight are
//! taken in their order. After a member was dropped the next token is such a token, too.

mod vector;

use crate::{Error, Result};
pub use vector::LogitFault;
use vector::{Normalizer, Part};

/// The least log probability that counts: a member that held a token for impossible can come back.
pub const LOGPROB_MIN: f32 = -50.0;
/// The most members of a mixture.
pub const MEMBERS_MAX: usize = 64;

/// How probabilities are mixed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MixtureConfig {
    /// How sharply weights follow past success, per nat a token: 0 keeps the prior, large values pick the best member.
    pub tau: f32,
    /// How much of the moving average is kept at each token, at least 0 and below 1.
    pub decay: f32,
    /// Members that compute a token, the kept one included, at least 1.
    pub active_max: usize,
    /// Every so many tokens all members compute, so that a pruned one can come back; at least 1.
    pub probe_every: usize,
    /// The member that is always active: the generalist.
    pub keep: Option<usize>,
    /// The least share of that member, at least 0 and below 1. Where it is raised to that, the others shrink alike.
    pub keep_share_min: f32,
}

impl Default for MixtureConfig {
    /// Chosen on held-out text of the shipped experts: of tau 0 to 16 and decay 0.9 to 0.98, the least bits per byte.
    fn default() -> Self {
        Self { tau: 2.0, decay: 0.95, active_max: 3, probe_every: 32, keep: None, keep_share_min: 0.05 }
    }
}

impl MixtureConfig {
    fn check(&self, members: usize) -> Result<()> {
        let check = |fine: bool, name, value: &dyn std::fmt::Display, range| {
            let value = || value.to_string();
            if fine { Ok(()) } else { Err(Error::OutOfRange { name, value: value(), range }) }
        };
        check(self.tau.is_finite() && self.tau >= 0.0, "tau", &self.tau, "a number, at least 0")?;
        check((0.0..1.0).contains(&self.decay), "decay", &self.decay, "at least 0 and below 1")?;
        check(self.active_max >= 1, "active_max", &self.active_max, "at least 1")?;
        check(self.probe_every >= 1, "probe_every", &self.probe_every, "at least 1")?;
        let share = self.keep_share_min;
        check((0.0..1.0).contains(&share), "keep_share_min", &share, "at least 0 and below 1")?;
        check(self.keep.is_none_or(|k| k < members), "keep", &self.keep.unwrap_or(0), "the number of a member")?;
        check(members <= MEMBERS_MAX, "members", &members, "at most 64")
    }
}

/// What is known of a member.
#[derive(Clone, Debug)]
struct Member {
    prior: f64,
    /// The moving average before its correction.
    moving: f64,
    /// decay^t, 1 before the first token.
    forgotten: f64,
    /// Accepted tokens for which it gave no logits and no log probabilities yet.
    missed: usize,
    /// Whether it computes the token that is chosen next.
    computed: bool,
    /// Its logits, what they became, and what they were normalised with.
    logits: Vec<f32>,
    exponentials: Vec<f32>,
    normalizer: Option<Normalizer>,
    dropped: bool,
    /// Whether it is one of the active members.
    active: bool,
}

impl Member {
    fn new(prior: f32) -> Self {
        Self {
            prior: f64::from(prior),
            moving: 0.0,
            forgotten: 1.0,
            missed: 0,
            computed: false,
            logits: Vec::new(),
            exponentials: Vec::new(),
            normalizer: None,
            dropped: false,
            active: false,
        }
    }

    fn score(&self) -> Option<f64> {
        (self.forgotten < 1.0).then(|| self.moving / (1.0 - self.forgotten))
    }

    fn count(&mut self, logprob: f64, decay: f32) {
        let decay = f64::from(decay);
        self.moving = decay * self.moving + (1.0 - decay) * logprob.clamp(f64::from(LOGPROB_MIN), 0.0);
        self.forgotten *= decay;
    }
}

/// The mixture of several experts' next-token probabilities.
///
/// ```
/// use hublabio_moe::{Mixture, MixtureConfig};
///
/// let mut mixture = Mixture::new(MixtureConfig { tau: 1.0, decay: 0.5, ..Default::default() }, &[0.5, 0.5])?;
/// assert_eq!(mixture.wanted(), [0, 1]);
/// // The first member holds both tokens for equally likely, the second prefers the first token 3 to 1.
/// let mixed = mixture.mix(&[Some(&[0.0, 0.0]), Some(&[3_f32.ln(), 0.0])]);
/// assert!((mixed[0].exp() - 0.625).abs() < 1e-6);
/// mixture.accept(0);
/// // Weights as 1/2 to 3/4: the second member foretold the token better.
/// assert!((mixture.weights()[1] - 0.6).abs() < 1e-6);
/// # Ok::<(), hublabio_moe::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Mixture {
    config: MixtureConfig,
    members: Vec<Member>,
    /// Members that compute the next token.
    wanted: Vec<usize>,
    /// Whether all members compute the next token, and the active ones are chosen anew.
    probe: bool,
    /// Whether a member was dropped since members were last chosen.
    choose_next: bool,
    accepted: usize,
    /// The weights of the next token, and as they are shown.
    weights: Vec<f64>,
    weights_shown: Vec<f32>,
    /// Sum of the weights of tokens that were accepted after a mixture, and their number.
    weight_sums: Vec<f64>,
    weighed: usize,
    mixed: Vec<f32>,
    faults: Vec<(usize, LogitFault)>,
}

impl Mixture {
    /// A mixture of `priors.len()` experts, whose priors need not sum to 1. A member of prior 0 has no weight and
    /// computes nothing, except where it is the kept one; where all (or all that are left) have prior 0, they count as
    /// equal.
    ///
    /// # Errors
    /// [`Error::NoExperts`] without members; [`Error::OutOfRange`] for a setting that is not in its range, for a prior
    /// that is negative or not a number, and for more than [`MEMBERS_MAX`] members.
    pub fn new(config: MixtureConfig, priors: &[f32]) -> Result<Self> {
        if priors.is_empty() {
            return Err(Error::NoExperts);
        }
        config.check(priors.len())?;
        if let Some(prior) = priors.iter().find(|prior| !(prior.is_finite() && **prior >= 0.0)) {
            let value = prior.to_string();
            return Err(Error::OutOfRange { name: "prior", value, range: "a number, at least 0" });
        }
        let count = priors.len();
        let mut mixture = Self {
            config,
            members: priors.iter().map(|&prior| Member::new(prior)).collect(),
            wanted: Vec::new(),
            probe: true,
            choose_next: false,
            accepted: 0,
            weights: vec![0.0; count],
            weights_shown: vec![0.0; count],
            weight_sums: vec![0.0; count],
            weighed: 0,
            mixed: Vec::new(),
            faults: Vec::new(),
        };
        mixture.plan();
        Ok(mixture)
    }

    /// Members that compute the next token's logits, in ascending order. Empty when all members were dropped.
    pub fn wanted(&self) -> &[usize] {
        &self.wanted
    }

    /// Tokens accepted since member `expert` last gave logits, that one not counted: before it gives logits again, it
    /// is shown one token more than this, and the log probabilities of these tokens, of which the first comes from its
    /// state after the token for which it last gave logits, are handed to [`observe`](Self::observe).
    pub fn missed(&self, expert: usize) -> usize {
        self.members[expert].missed
    }

    /// Natural log probabilities of tokens that member `expert` was shown: those of the prompt, or those that it
    /// missed, in the order of the text. Afterwards its score is what it would be had it computed every token.
    ///
    /// Log probabilities below [`LOGPROB_MIN`] count as that, those above 0 as 0. One that is not a number drops the
    /// member and is told in [`faults`](Self::faults). Nothing happens to a member that was dropped.
    pub fn observe<T: Copy + Into<f64>>(&mut self, expert: usize, logprobs: &[T]) {
        let member = &mut self.members[expert];
        if member.dropped {
            return;
        }
        if logprobs.iter().any(|&logprob| logprob.into().is_nan()) {
            self.faults.push((expert, LogitFault::NotFinite));
            return self.drop_expert(expert);
        }
        for &logprob in logprobs {
            member.count(logprob.into(), self.config.decay);
        }
        member.missed = member.missed.saturating_sub(logprobs.len());
        self.foresee();
    }

    /// The mixture's natural log probabilities of the next token, from the logits of the wanted members (indexed by
    /// member). Where only one member is active, that member's logits as they are, to the bit.
    ///
    /// The logits of members that are not wanted are ignored. A wanted member without logits takes no part in this
    /// token and misses it. Vocabularies may differ in length (some models pad theirs): what a member has no logit for
    /// has no probability under it. A logit of minus infinity is a probability of 0. A member whose logits are no
    /// distribution (one is not a number or plus infinity, or none is above minus infinity) is dropped and told in
    /// [`faults`](Self::faults); the others are mixed.
    ///
    /// The result is empty where nobody gave a distribution; [`wanted`](Self::wanted) then names who may be asked next.
    ///
    /// Error of the result: 10⁻⁶ · max(1, |ln p|).
    ///
    /// # Panics
    /// When `logits` has not one entry for each member, or a wanted member was not caught up with what it missed.
    pub fn mix(&mut self, logits: &[Option<&[f32]>]) -> &[f32] {
        assert_eq!(logits.len(), self.members.len(), "one entry for each member of the mixture");
        self.compute(logits);
        if self.probe {
            self.choose(|member| member.computed);
        }
        self.weigh(|member| member.computed);
        let active: Vec<usize> = (0..self.members.len()).filter(|&index| self.weights[index] > 0.0).collect();
        self.mixed.clear();
        if let [one] = active[..] {
            self.mixed.extend_from_slice(logits[one].unwrap_or_default());
        } else {
            let part = |&index: &usize| {
                let Member { logits, exponentials, normalizer, .. } = &self.members[index];
                Some(Part { weight: self.weights[index], logits, exponentials, normalizer: (*normalizer)? })
            };
            let parts: Vec<_> = active.iter().filter_map(part).collect();
            vector::mix(&parts, &mut self.mixed);
        }
        if active.is_empty() {
            self.probe = true;
            self.plan();
        }
        &self.mixed
    }

    /// The next token was chosen. The scores of the members that computed it follow; the others missed it. A token that
    /// was not chosen from a mixture (a forced one) is missed by all.
    pub fn accept(&mut self, token: u32) {
        let mixed = self.members.iter().any(|member| member.computed);
        for member in self.members.iter_mut().filter(|member| !member.dropped) {
            if let Some(normalizer) = member.normalizer.take() {
                let logprob = vector::log_probability(&member.logits, normalizer, token);
                member.count(logprob, self.config.decay);
            }
            if !std::mem::take(&mut member.computed) {
                member.missed += 1;
            }
        }
        if mixed {
            self.weighed += 1;
            self.weight_sums.iter_mut().zip(&self.weights).for_each(|(sum, weight)| *sum += weight);
        }
        self.accepted += 1;
        self.probe = self.choose_next || self.accepted.is_multiple_of(self.config.probe_every);
        self.plan();
    }

    /// A member failed and takes no part any more. All others are wanted for the next token.
    pub fn drop_expert(&mut self, expert: usize) {
        self.drop_member(expert);
        self.probe = true;
        self.plan();
    }

    /// The weights of the next token, `[n_experts]`, sum 1; 0 for members that are pruned or dropped. After
    /// [`mix`](Self::mix), those of its result. All 0 when every member was dropped.
    pub fn weights(&self) -> &[f32] {
        &self.weights_shown
    }

    /// Mean weights over the tokens that were chosen from a mixture so far, `[n_experts]`; before the first, the
    /// weights of the next token.
    pub fn mean_weights(&self) -> Vec<f32> {
        if self.weighed == 0 {
            return self.weights_shown.clone();
        }
        self.weight_sums.iter().map(|sum| (sum / self.weighed as f64) as f32).collect()
    }

    /// A member's score: the moving average of its log probabilities, in nats a token. `None` before the first; in the
    /// weights such a member counts as if it had the mean of the others' scores. A mixture with one member left keeps
    /// no scores.
    pub fn score(&self, expert: usize) -> Option<f64> {
        self.members[expert].score()
    }

    /// Members that were dropped because of their numbers, and why, in the order in which it happened. Those that
    /// [`drop_expert`](Self::drop_expert) dropped are not among them.
    pub fn faults(&self) -> &[(usize, LogitFault)] {
        &self.faults
    }

    /// The natural log probability of `token` under a softmax of `logits`, the very number that
    /// [`accept`](Self::accept) counts; what [`observe`](Self::observe) takes. Minus infinity for a token beyond the
    /// logits.
    ///
    /// # Errors
    /// When the logits are no distribution.
    pub fn log_probability(logits: &[f32], token: u32) -> std::result::Result<f64, LogitFault> {
        Ok(vector::log_probability(logits, vector::normalize(logits)?, token))
    }

    /// Reads the logits of the wanted members.
    fn compute(&mut self, logits: &[Option<&[f32]>]) {
        self.choose_next = false;
        let alone = self.living().count() == 1;
        for (index, member) in self.members.iter_mut().enumerate() {
            (member.computed, member.normalizer) = (false, None);
            let Some(logits) = logits[index].filter(|_| self.wanted.contains(&index)) else { continue };
            assert_eq!(member.missed, 0, "member {index} of the mixture was not caught up before its logits");
            // Nothing is ever compared with the score of a member that is alone, so its exponentials are not computed.
            let read = if alone {
                vector::largest(logits).map(|_| None)
            } else {
                member.logits.clear();
                member.logits.extend_from_slice(logits);
                vector::exponentiate(logits, &mut member.exponentials).map(Some)
            };
            match read {
                Ok(normalizer) => (member.computed, member.normalizer) = (true, normalizer),
                Err(fault) => self.faults.push((index, fault)),
            }
        }
        let faults = std::mem::take(&mut self.faults);
        faults.iter().for_each(|&(index, _)| self.drop_member(index));
        self.faults = faults;
    }

    fn drop_member(&mut self, index: usize) {
        let member = &mut self.members[index];
        if !std::mem::replace(&mut member.dropped, true) {
            (member.computed, member.normalizer, member.active) = (false, None, false);
            (member.logits, member.exponentials) = (Vec::new(), Vec::new());
            self.wanted.retain(|&wanted| wanted != index);
            self.choose_next = true;
        }
    }

    /// Decides who computes the next token.
    fn plan(&mut self) {
        self.foresee();
        let wanted = |&index: &usize| {
            let chosen = self.prior(index) > 0.0 || self.config.keep == Some(index);
            if self.probe { chosen } else { self.members[index].active }
        };
        self.wanted = self.living().filter(wanted).collect();
    }

    /// The weights of the next token, as far as they are known.
    fn foresee(&mut self) {
        if self.probe {
            self.choose(|_| true);
        }
        self.weigh(|_| true);
    }

    /// Makes the heaviest of the living members that are `eligible` active.
    fn choose(&mut self, eligible: impl Fn(&Member) -> bool) {
        let mut heaviest: Vec<(bool, f64, usize)> = self
            .living()
            .filter(|&index| eligible(&self.members[index]))
            .map(|index| (self.config.keep == Some(index), self.log_weight(index), index))
            .filter(|&(kept, log_weight, _)| kept || log_weight > f64::NEG_INFINITY)
            .collect();
        // A stable sort: members of one weight stay in their order.
        heaviest.sort_by(|a, b| b.0.cmp(&a.0).then(b.1.total_cmp(&a.1)));
        self.members.iter_mut().for_each(|member| member.active = false);
        for &(_, _, index) in heaviest.iter().take(self.config.active_max) {
            self.members[index].active = true;
        }
    }

    /// Sets the weights of the active members that are `eligible`, and 0 for the others.
    fn weigh(&mut self, eligible: impl Fn(&Member) -> bool) {
        let log_weight = |index: usize| {
            let member = &self.members[index];
            if member.active && eligible(member) { Some(self.log_weight(index)) } else { None }
        };
        let logs: Vec<Option<f64>> = (0..self.members.len()).map(log_weight).collect();
        let max = logs.iter().flatten().fold(f64::NEG_INFINITY, |max, &log| max.max(log));
        // A kept member of prior 0 may be the only one: then the difference would not be a number.
        let weight = |log: f64| if max == f64::NEG_INFINITY { 1.0 } else { (log - max).exp() };
        self.weights = logs.iter().map(|log| log.map_or(0.0, weight)).collect();
        let sum: f64 = self.weights.iter().sum();
        if sum > 0.0 {
            self.weights.iter_mut().for_each(|weight| *weight /= sum);
        }
        if let Some(keep) = self.config.keep.filter(|&keep| logs[keep].is_some()) {
            self.raise(keep, f64::from(self.config.keep_share_min));
        }
        self.weights_shown.clear();
        self.weights_shown.extend(self.weights.iter().map(|&weight| weight as f32));
    }

    /// Raises a weight to `share` where it is less, and shrinks the others alike.
    fn raise(&mut self, keep: usize, share: f64) {
        let others = 1.0 - self.weights[keep];
        if self.weights[keep] < share {
            self.weights.iter_mut().for_each(|weight| *weight *= (1.0 - share) / others);
            self.weights[keep] = share;
        }
    }

    /// ln(prior) + tau · score, minus infinity for a member without a prior.
    fn log_weight(&self, index: usize) -> f64 {
        let known = || self.living().filter_map(|other| self.members[other].score());
        let score = self.members[index].score().unwrap_or_else(|| {
            let count = known().count();
            if count == 0 { 0.0 } else { known().sum::<f64>() / count as f64 }
        });
        self.prior(index).ln() + f64::from(self.config.tau) * score
    }

    /// The prior of a member, 1 for all where no living member has any.
    fn prior(&self, index: usize) -> f64 {
        if self.living().all(|other| self.members[other].prior == 0.0) { 1.0 } else { self.members[index].prior }
    }

    fn living(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.members.len()).filter(|&index| !self.members[index].dropped)
    }
}
