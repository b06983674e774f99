//! The mixture against the closed form: known distributions, no models. The reference below is written in f64 straight
//! from the formula, with whole histories in place of moving averages.

use hublabio_moe::{Error, LOGPROB_MIN, LogitFault, MEMBERS_MAX, Mixture, MixtureConfig};
use proptest::prelude::*;

/// A number in [0, 1) that depends on its arguments only.
fn noise(seed: u64, member: usize, token: usize, index: usize) -> f64 {
    let mut x = seed ^ (member as u64) << 48 ^ (token as u64) << 24 ^ index as u64;
    for _ in 0..3 {
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^= x >> 31;
    }
    (x >> 11) as f64 / (1_u64 << 53) as f64
}

/// Known next-token distributions: the logits of a member at a token. Members are good at it in turns.
struct World {
    seed: u64,
    vocabulary: usize,
    members: usize,
}

impl World {
    fn token(&self, at: usize) -> u32 {
        (noise(self.seed, 1000, at, 0) * self.vocabulary as f64) as u32
    }

    fn logits(&self, member: usize, at: usize) -> Vec<f32> {
        let good = (at / 40 + member).is_multiple_of(self.members);
        let mut logits: Vec<f32> =
            (0..self.vocabulary).map(|x| (noise(self.seed, member, at, x) * 8.0 - 4.0) as f32).collect();
        logits[self.token(at) as usize] += if good { 3.0 } else { 0.0 };
        logits
    }

    fn log_probabilities(&self, member: usize, at: usize) -> Vec<f64> {
        log_softmax(&self.logits(member, at))
    }
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().fold(f64::NEG_INFINITY, |max, &x| max.max(f64::from(x)));
    let normalizer = max + logits.iter().map(|&x| (f64::from(x) - max).exp()).sum::<f64>().ln();
    logits.iter().map(|&x| f64::from(x) - normalizer).collect()
}

/// The formula, from the log probabilities of all tokens so far.
fn score(history: &[f64], decay: f64) -> f64 {
    let kept = |age: usize| decay.powi(age as i32);
    let sum: f64 = history.iter().rev().enumerate().map(|(age, l)| kept(age) * l).sum();
    sum / (0..history.len()).map(kept).sum::<f64>()
}

struct Reference {
    config: MixtureConfig,
    priors: Vec<f64>,
    histories: Vec<Vec<f64>>,
    active: Vec<usize>,
}

impl Reference {
    fn heaviness(&self, member: usize) -> f64 {
        let s = if self.histories[member].is_empty() {
            0.0
        } else {
            score(&self.histories[member], f64::from(self.config.decay))
        };
        self.priors[member] * (f64::from(self.config.tau) * s).exp()
    }

    /// How near the choice of the active members is to another one, as a ratio.
    fn choose(&mut self) -> f64 {
        let mut order: Vec<usize> = (0..self.priors.len()).filter(|&i| Some(i) != self.config.keep).collect();
        order.sort_by(|&a, &b| self.heaviness(b).total_cmp(&self.heaviness(a)));
        let free = self.config.active_max - usize::from(self.config.keep.is_some());
        let margin = match (free.checked_sub(1).and_then(|last| order.get(last)), order.get(free)) {
            (Some(&last), Some(&next)) => self.heaviness(last) / self.heaviness(next) - 1.0,
            _ => 1.0,
        };
        self.active = self.config.keep.into_iter().chain(order.into_iter().take(free)).collect();
        margin
    }

    fn weights(&self) -> Vec<f64> {
        let mut weights = vec![0.0; self.priors.len()];
        let sum: f64 = self.active.iter().map(|&i| self.heaviness(i)).sum();
        for &i in &self.active {
            weights[i] = self.heaviness(i) / sum;
        }
        if let Some(keep) = self.config.keep {
            let share = f64::from(self.config.keep_share_min);
            if weights[keep] < share {
                let others = 1.0 - weights[keep];
                for (i, weight) in weights.iter_mut().enumerate() {
                    *weight = if i == keep { share } else { *weight / others * (1.0 - share) };
                }
            }
        }
        weights
    }
}

fn close(got: f32, expected: f64, what: &str) {
    let error = (f64::from(got) - expected).abs();
    assert!(error <= 1e-6 * expected.abs().max(1.0), "{what}: {got} where {expected} is right, off by {error:e}");
}

/// Runs a mixture and the formula side by side; members that were pruned are caught up as a backend does it.
fn check(world: &World, config: MixtureConfig, priors: &[f32], tokens: usize) {
    let mut mixture = Mixture::new(config, priors).unwrap();
    let count = priors.len();
    let mut reference = Reference {
        config,
        priors: priors.iter().map(|&p| f64::from(p)).collect(),
        histories: vec![Vec::new(); count],
        active: Vec::new(),
    };
    let mut sums = vec![0.0; count];
    for at in 0..tokens {
        let probe = at.is_multiple_of(config.probe_every);
        if probe {
            if reference.choose() < 1e-5 {
                return; // Too near to tell which of the two must be active.
            }
            assert_eq!(mixture.wanted(), (0..count).collect::<Vec<_>>());
        } else {
            let mut active = reference.active.clone();
            active.sort_unstable();
            assert_eq!(mixture.wanted(), active);
        }
        let mut given: Vec<Option<Vec<f32>>> = vec![None; count];
        for member in mixture.wanted().to_vec() {
            let missed = mixture.missed(member);
            assert!(probe || missed == 0, "between, nobody who is wanted missed a token");
            let caught_up: Vec<f64> = (at - missed..at).map(|past| reference.histories[member][past]).collect();
            mixture.observe(member, &caught_up);
            given[member] = Some(world.logits(member, at));
        }
        let weights = reference.weights();
        let mixed = mixture.mix(&given.iter().map(Option::as_deref).collect::<Vec<_>>()).to_vec();
        for member in 0..count {
            close(mixture.weights()[member], weights[member], &format!("weight of {member} at {at}"));
            sums[member] += weights[member];
        }
        let members: Vec<Vec<f64>> = (0..count).map(|member| world.log_probabilities(member, at)).collect();
        if reference.active.len() > 1 {
            for (x, &got) in mixed.iter().enumerate() {
                let sum: f64 = (0..count).map(|member| weights[member] * members[member][x].exp()).sum();
                close(got, sum.ln(), &format!("ln p of {x} at {at}"));
            }
        } else {
            assert_eq!(mixed, world.logits(reference.active[0], at));
        }
        let token = world.token(at);
        mixture.accept(token);
        for (history, member) in reference.histories.iter_mut().zip(&members) {
            history.push(member[token as usize]);
        }
    }
    for (member, mean) in mixture.mean_weights().into_iter().enumerate() {
        close(mean, sums[member] / tokens as f64, "mean weight");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { ..ProptestConfig::default() })]

    #[test]
    fn the_mixture_is_the_closed_form(
        seed: u64,
        vocabulary in 2_usize..90,
        priors in proptest::collection::vec(0.01_f32..1.0, 1..7),
        tau in 0_f32..8.0,
        decay in 0_f32..0.999,
        active_max in 1_usize..5,
        probe_every in 1_usize..40,
        keep in proptest::option::of(0_usize..7),
        keep_share_min in 0_f32..0.6,
    ) {
        let keep = keep.filter(|&keep| keep < priors.len());
        let config = MixtureConfig { tau, decay, active_max, probe_every, keep, keep_share_min };
        check(&World { seed, vocabulary, members: priors.len() }, config, &priors, 160);
    }
}

/// What a backend may do to a mixture, in any order.
#[derive(Clone, Debug)]
enum Event {
    /// Logits of those wanted members whose bit is set, one of them broken in one of several ways.
    Mix {
        given: u8,
        broken: Option<(usize, f32)>,
    },
    Accept(u32),
    Observe(usize, f32),
    Drop(usize),
}

fn event() -> impl Strategy<Value = Event> {
    let strange = prop_oneof![Just(f32::NAN), Just(f32::INFINITY), Just(f32::NEG_INFINITY)];
    prop_oneof![
        6 => (any::<u8>(), proptest::option::weighted(0.1, (0_usize..5, strange)))
            .prop_map(|(given, broken)| Event::Mix { given: given | given >> 4, broken }),
        6 => (0_u32..20).prop_map(Event::Accept),
        1 => (0_usize..5, -60_f32..1.0).prop_map(|(member, logprob)| Event::Observe(member, logprob)),
        1 => (0_usize..5).prop_map(Event::Drop),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_the_weights_are_shares_and_the_result_a_distribution(
        seed: u64,
        priors in proptest::collection::vec(prop_oneof![Just(0_f32), 0.0_f32..1.0], 5),
        active_max in 1_usize..5,
        probe_every in 1_usize..6,
        keep in proptest::option::of(0_usize..5),
        events in proptest::collection::vec(event(), 1..60),
    ) {
        let config = MixtureConfig { active_max, probe_every, keep, ..MixtureConfig::default() };
        let mut mixture = Mixture::new(config, &priors).unwrap();
        let world = World { seed, vocabulary: 17, members: 5 };
        let mut dropped = [false; 5];
        for (at, event) in events.into_iter().enumerate() {
            match event {
                Event::Mix { given, broken } => {
                    let given = |m: usize| (given >> m & 1 == 1).then(|| world.logits(m, at));
                    let mut logits: Vec<_> = (0..5).map(given).collect();
                    for member in mixture.wanted().to_vec() {
                        mixture.observe(member, &vec![-1.0; mixture.missed(member)]);
                    }
                    if let Some((logits, value)) = broken.and_then(|(m, value)| Some((logits[m].as_mut()?, value))) {
                        logits.fill(value);
                    }
                    let mixed = mixture.mix(&logits.iter().map(Option::as_deref).collect::<Vec<_>>()).to_vec();
                    if mixture.weights().iter().filter(|weight| **weight > 0.0).count() > 1 && !mixed.is_empty() {
                        let sum: f64 = mixed.iter().map(|&x| f64::from(x).exp()).sum();
                        prop_assert!((sum - 1.0).abs() < 1e-5, "{sum}");
                    }
                }
                Event::Accept(token) => mixture.accept(token),
                Event::Observe(member, logprob) => mixture.observe(member, &[logprob]),
                Event::Drop(member) => {
                    mixture.drop_expert(member);
                    dropped[member] = true;
                }
            }
            mixture.faults().iter().for_each(|(member, _)| dropped[*member] = true);
            let weights = mixture.weights();
            let sum: f32 = weights.iter().sum();
            let left = dropped.iter().any(|dropped| !dropped);
            let idle = weights.iter().all(|weight| *weight == 0.0);
            prop_assert!((sum - 1.0).abs() < 1e-5 || (idle && !left), "{weights:?} {dropped:?}");
            prop_assert!((0..5).all(|member| !dropped[member] || weights[member] == 0.0));
            prop_assert!(mixture.wanted().iter().all(|member| !dropped[*member]));
            prop_assert!(!left || !mixture.wanted().is_empty());
            prop_assert!(weights.iter().filter(|weight| **weight > 0.0).count() <= active_max);
        }
        let mean: f32 = mixture.mean_weights().iter().sum();
        prop_assert!((mean - 1.0).abs() < 1e-4 || dropped == [true; 5], "{mean}");
    }
}

#[test]
fn the_closed_form_holds_over_a_long_text_and_a_large_vocabulary() {
    let config = MixtureConfig { active_max: 2, probe_every: 16, keep: Some(2), ..MixtureConfig::default() };
    check(&World { seed: 7, vocabulary: 50, members: 4 }, config, &[0.4, 0.3, 0.2, 0.1], 4000);
    check(&World { seed: 8, vocabulary: 5003, members: 3 }, MixtureConfig::default(), &[0.4, 0.3, 0.2], 50);
}

#[test]
fn a_member_that_was_pruned_and_caught_up_has_the_score_of_one_that_never_was() {
    let world = World { seed: 3, vocabulary: 30, members: 4 };
    let run = |probe_every: usize| {
        let config = MixtureConfig { active_max: 2, probe_every, ..MixtureConfig::default() };
        let mut mixture = Mixture::new(config, &[0.25; 4]).unwrap();
        let mut pruned = 0;
        for at in 0..101 {
            let logits: Vec<_> = (0..4).map(|member| world.logits(member, at)).collect();
            for member in mixture.wanted().to_vec() {
                let past = at - mixture.missed(member)..at;
                pruned += past.len();
                let logprob = |past| Mixture::log_probability(&world.logits(member, past), world.token(past)).unwrap();
                mixture.observe(member, &past.map(logprob).collect::<Vec<_>>());
            }
            mixture.mix(&logits.iter().map(|logits| Some(logits.as_slice())).collect::<Vec<_>>());
            mixture.accept(world.token(at));
        }
        ((0..4).map(|member| mixture.score(member).unwrap().to_bits()).collect::<Vec<_>>(), pruned)
    };
    let (always, none) = run(1);
    let (sometimes, pruned) = run(20);
    assert_eq!(none, 0);
    assert!(pruned > 100, "{pruned}: the run prunes");
    assert_eq!(always, sometimes, "equal to the bit");
}

#[test]
fn one_member_is_that_member_to_the_bit() {
    let mut mixture = Mixture::new(MixtureConfig::default(), &[0.3]).unwrap();
    for at in 0..100 {
        let logits = [1.1 + at as f32, -0.0, f32::NEG_INFINITY, 1e-40, 30.0];
        let mixed = mixture.mix(&[Some(&logits)]);
        assert_eq!(mixed.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), logits.map(f32::to_bits));
        assert_eq!(mixture.weights(), [1.0]);
        mixture.accept(4);
    }
    assert_eq!(mixture.mean_weights(), [1.0]);
}

#[test]
fn tau_zero_keeps_the_priors() {
    let config = MixtureConfig { tau: 0.0, ..MixtureConfig::default() };
    let mut mixture = Mixture::new(config, &[3.0, 1.0]).unwrap();
    for _ in 0..50 {
        mixture.mix(&[Some(&[0.0, 5.0]), Some(&[5.0, 0.0])]);
        mixture.accept(0);
    }
    assert_eq!(mixture.weights(), [0.75, 0.25]);
}

#[test]
fn minus_infinity_is_a_probability_of_zero() {
    let none = f32::NEG_INFINITY;
    let mut mixture = Mixture::new(MixtureConfig::default(), &[0.5, 0.5]).unwrap();
    let mixed = mixture.mix(&[Some(&[0.0, none, none]), Some(&[none, 0.0, none])]);
    assert_eq!(mixed[2], none);
    assert!(mixed[..2].iter().all(|x| (x - 0.5_f32.ln()).abs() < 1e-6));
    // The member that held the token for impossible keeps a weight: its log probability counts as the least that
    // counts.
    mixture.accept(0);
    assert_eq!(mixture.score(0), Some(0.0));
    assert!((mixture.score(1).unwrap() - f64::from(LOGPROB_MIN)).abs() < 1e-12);
    assert!(mixture.weights()[0] > 0.999 && mixture.faults().is_empty());
}

#[test]
fn probabilities_below_single_precision_are_not_lost() {
    let mut mixture = Mixture::new(MixtureConfig::default(), &[0.5, 0.5]).unwrap();
    let (a, b) = ([0.0, -100.0, -300.0], [0.0, -120.0, -299.0]);
    let mixed = mixture.mix(&[Some(&a), Some(&b)]);
    close(mixed[1], -100.0 + 0.5_f64.ln(), "a probability of e^-100");
    close(mixed[2], -299.0 + ((-1_f64).exp() + 1.0).ln() + 0.5_f64.ln(), "a probability of e^-299");
}

#[test]
fn a_member_whose_logits_are_no_distribution_is_dropped_and_told() {
    for (broken, fault) in [
        ([0.0, f32::NAN], LogitFault::NotFinite),
        ([f32::INFINITY, 0.0], LogitFault::NotFinite),
        ([f32::NEG_INFINITY; 2], LogitFault::NoToken),
    ] {
        let mut mixture = Mixture::new(MixtureConfig::default(), &[0.5, 0.3, 0.2]).unwrap();
        let mixed = mixture.mix(&[Some(&[0.0, 0.0]), Some(&broken), Some(&[0.0, 0.0])]).to_vec();
        assert!(mixed.iter().all(|x| (x - 0.5_f32.ln()).abs() < 1e-6));
        assert_eq!(mixture.faults(), [(1, fault)]);
        assert_eq!(mixture.wanted(), [0, 2]);
        let weights = mixture.weights().to_vec();
        assert!((weights[0] - 5.0 / 7.0).abs() < 1e-6 && weights[1] == 0.0);
        mixture.accept(0);
        assert_eq!(mixture.wanted(), [0, 2]);
        mixture.observe(1, &[-1.0]);
        assert_eq!(mixture.score(1), None, "a dropped member takes no part any more");
    }
}

#[test]
fn a_log_probability_that_is_not_a_number_drops_its_member() {
    let mut mixture = Mixture::new(MixtureConfig::default(), &[0.5, 0.5]).unwrap();
    mixture.observe(0, &[-1.0, f32::NAN]);
    assert_eq!((mixture.faults(), mixture.wanted()), ([(0, LogitFault::NotFinite)].as_slice(), [1].as_slice()));
}

#[test]
fn when_all_are_dropped_nothing_is_wanted_and_nothing_comes() {
    let mut mixture = Mixture::new(MixtureConfig::default(), &[0.5, 0.5]).unwrap();
    mixture.drop_expert(1);
    assert_eq!(mixture.mix(&[Some(&[f32::NAN]), None]), [0.0; 0]);
    assert_eq!((mixture.wanted(), mixture.weights()), ([].as_slice(), [0.0, 0.0].as_slice()));
    assert_eq!(mixture.faults(), [(0, LogitFault::NotFinite)], "only what its numbers dropped");
    mixture.accept(0);
    assert_eq!(mixture.mix(&[None, None]), [0.0; 0]);
}

#[test]
fn when_the_active_ones_are_dropped_the_pruned_ones_come_back() {
    let config = MixtureConfig { active_max: 1, probe_every: 1000, ..MixtureConfig::default() };
    let mut mixture = Mixture::new(config, &[0.6, 0.3, 0.1]).unwrap();
    let logits: &[f32] = &[0.0, 0.0];
    mixture.mix(&[Some(logits); 3]);
    mixture.accept(0);
    mixture.mix(&[Some(logits), None, None]);
    mixture.accept(0);
    assert_eq!((mixture.wanted(), mixture.missed(0), mixture.missed(1)), ([0].as_slice(), 0, 1));
    // Its logits break: nothing comes, the others are asked for the same token, and must be caught up first.
    assert_eq!(mixture.mix(&[Some(&[f32::NAN, 0.0]), None, None]), [0.0; 0]);
    assert_eq!(mixture.wanted(), [1, 2]);
    for member in [1, 2] {
        mixture.observe(member, &[0.5_f32.ln()]);
    }
    assert_eq!(mixture.mix(&[None, Some(&[1.0, 2.0]), Some(logits)]), [1.0, 2.0]);
    mixture.accept(0);
    assert_eq!(mixture.wanted(), [1], "pruned again");
}

#[test]
fn a_wanted_member_without_logits_misses_the_token() {
    let mut mixture = Mixture::new(MixtureConfig::default(), &[0.5, 0.5]).unwrap();
    assert_eq!(mixture.mix(&[Some(&[1.0, 0.0]), None]), [1.0, 0.0]);
    assert_eq!(mixture.weights(), [1.0, 0.0]);
    mixture.accept(0);
    assert_eq!((mixture.missed(0), mixture.missed(1)), (0, 1));
    // A forced token is missed by all.
    mixture.accept(1);
    assert_eq!((mixture.missed(0), mixture.missed(1)), (1, 2));
    assert_eq!(mixture.mean_weights(), [1.0, 0.0]);
}

#[test]
fn the_heaviest_of_those_that_computed_are_active() {
    let config = MixtureConfig { active_max: 1, ..MixtureConfig::default() };
    let mut mixture = Mixture::new(config, &[0.9, 0.1]).unwrap();
    assert_eq!(mixture.mix(&[None, Some(&[1.0, 2.0])]), [1.0, 2.0]);
    assert_eq!(mixture.weights(), [0.0, 1.0]);
}

#[test]
#[should_panic(expected = "was not caught up")]
fn logits_of_a_member_that_was_not_caught_up_are_refused() {
    let mut mixture = Mixture::new(MixtureConfig::default(), &[0.5, 0.5]).unwrap();
    mixture.accept(0);
    mixture.mix(&[Some(&[0.0]), Some(&[0.0])]);
}

#[test]
fn members_of_prior_zero_compute_nothing_unless_no_other_is_left() {
    let config = MixtureConfig { keep_share_min: 0.0, ..MixtureConfig::default() };
    let mut mixture = Mixture::new(config, &[0.0, 0.5, 0.5]).unwrap();
    assert_eq!((mixture.wanted(), mixture.weights()), ([1, 2].as_slice(), [0.0, 0.5, 0.5].as_slice()));
    mixture.drop_expert(1);
    mixture.drop_expert(2);
    assert_eq!((mixture.wanted(), mixture.weights()), ([0].as_slice(), [1.0, 0.0, 0.0].as_slice()));
    let mixture = Mixture::new(config, &[0.0, 0.0]).unwrap();
    assert_eq!(mixture.weights(), [0.5, 0.5], "where all are 0, all are equal");
    // The kept one is raised to its share.
    let config = MixtureConfig { keep: Some(0), keep_share_min: 0.2, ..config };
    let mixture = Mixture::new(config, &[0.0, 1.0]).unwrap();
    assert_eq!((mixture.wanted(), mixture.weights()), ([0, 1].as_slice(), [0.2, 0.8].as_slice()));
}

#[test]
fn a_member_without_a_score_counts_as_the_mean_of_the_others() {
    let mut mixture = Mixture::new(MixtureConfig { tau: 1.0, ..MixtureConfig::default() }, &[1.0; 3]).unwrap();
    mixture.observe(0, &[-1.0]);
    mixture.observe(1, &[-2.0]);
    let parts = [1.0, 2.0, 1.5].map(|s: f64| (-s).exp());
    for (weight, part) in mixture.weights().iter().zip(parts) {
        close(*weight, part / parts.iter().sum::<f64>(), "weight");
    }
}

#[test]
fn vocabularies_that_are_padded_differently_can_be_mixed() {
    let mut mixture = Mixture::new(MixtureConfig::default(), &[0.5, 0.5]).unwrap();
    let mixed = mixture.mix(&[Some(&[0.0, 0.0]), Some(&[0.0, 0.0, 0.0, 0.0])]);
    for (got, expected) in mixed.iter().zip([0.375_f64, 0.375, 0.125, 0.125]) {
        close(*got, expected.ln(), "padded");
    }
    mixture.accept(3);
    assert!((mixture.score(0).unwrap() - f64::from(LOGPROB_MIN)).abs() < 1e-12);
}

#[test]
fn settings_out_of_range_are_refused_by_name() {
    let check = |config: MixtureConfig, priors: &[f32], expected: &str| match Mixture::new(config, priors) {
        Err(Error::OutOfRange { name, .. }) => assert_eq!(name, expected),
        other => panic!("{expected}: {other:?}"),
    };
    let fine = MixtureConfig::default();
    check(MixtureConfig { tau: f32::NAN, ..fine }, &[1.0], "tau");
    check(MixtureConfig { tau: -1.0, ..fine }, &[1.0], "tau");
    check(MixtureConfig { decay: 1.0, ..fine }, &[1.0], "decay");
    check(MixtureConfig { decay: f32::NAN, ..fine }, &[1.0], "decay");
    check(MixtureConfig { active_max: 0, ..fine }, &[1.0], "active_max");
    check(MixtureConfig { probe_every: 0, ..fine }, &[1.0], "probe_every");
    check(MixtureConfig { keep: Some(1), ..fine }, &[1.0], "keep");
    check(MixtureConfig { keep_share_min: 1.0, ..fine }, &[1.0], "keep_share_min");
    check(fine, &[1.0, f32::NAN], "prior");
    check(fine, &[-0.1], "prior");
    check(fine, &[f32::INFINITY], "prior");
    check(fine, &[1.0; MEMBERS_MAX + 1], "members");
    assert_eq!(Mixture::new(fine, &[]).err(), Some(Error::NoExperts));
    assert_eq!(Mixture::new(fine, &[1.0; MEMBERS_MAX]).unwrap().weights()[0], 1.0 / 3.0);
}
