//! Learns a [`Calibration`] from labelled questions.
//!
//! Weights are those of a logistic regression with a quadratic penalty, found by Newton's method; a weight by which
//! more evidence would make an expert less likely is held at 0. The monotone map is isotonic regression (pool adjacent
//! violators, Zadrozny and Elkan 2002) over log-odds that each came from weights fitted without that question: five
//! folds, so the map corrects what the weights do on questions that they have not seen. No chance is involved, and the
//! order of the questions does not matter.
//!
//! Next: [`super::calibration`], which uses what is found here.

use super::Router;
use super::calibration::{Calibration, Curve, SIGNALS, Signal, Signals, StageSet};
use super::calibration_text::KNOTS_MAX;
use super::decide::{GatheredEvidence, check_text, with_scratch};
use super::words::hash_bytes;
use crate::{Error, ExpertId, Result};

/// Fewer questions are no ground for a calibration.
pub const FIT_QUESTIONS_MIN: usize = 20;

const FOLDS: usize = 5;
/// A curve wants at least so many hits and so many misses.
const OUTCOMES_MIN: f64 = 8.0;
/// The quadratic penalty on a weight, in log-likelihood per squared weight.
const PENALTY: f64 = 0.5;
/// Steps of the isotonic map hold at least so many outcomes.
const STEP_OUTCOMES_MIN: f64 = 12.0;
/// The most steps of the map.
const STEPS_MAX: usize = KNOTS_MAX - 1;
/// How many outcomes at the logistic probability are imagined in each step.
const STEP_PRIOR: f64 = 2.0;
const NEWTON_STEPS_MAX: usize = 50;

/// One question and expert, or several that are alike.
#[derive(Clone, Copy, Debug)]
struct Outcome {
    signals: Signals,
    hit: bool,
    count: f64,
    fold: usize,
}

/// All outcomes of one set of stages.
#[derive(Debug)]
struct Case {
    stages: StageSet,
    generalist: bool,
    outcomes: Vec<Outcome>,
}

impl Calibration {
    /// Learns from questions with the expert that should answer each; `None` where none of the specialists should,
    /// which is right for the generalist. The router's present experts, settings and feedback are what is calibrated;
    /// its present calibration, priorities and conversations do not matter.
    ///
    /// The questions must not be among the examples that the experts were registered with: a classifier is surer of
    /// what it has seen.
    ///
    /// # Errors
    /// [`Error::Calibration`] with fewer than 20 questions; [`Error::NoExperts`]; [`Error::NoSuchExpert`] for a label;
    /// [`Error::EmptyQuery`] and [`Error::QueryTooLong`] for a question.
    pub fn fit(router: &Router, questions: &[(String, Option<ExpertId>)]) -> Result<Self> {
        Self::fit_with_evidence(router, questions, &mut |_| None)
    }

    /// As [`fit`](Self::fit), with evidence of models for the question of each index, so that likelihood and embedding
    /// get curves of their own.
    ///
    /// # Errors
    /// As [`fit`](Self::fit).
    pub fn fit_with_evidence(
        router: &Router,
        questions: &[(String, Option<ExpertId>)],
        evidence: &mut dyn FnMut(usize) -> Option<GatheredEvidence>,
    ) -> Result<Self> {
        if questions.len() < FIT_QUESTIONS_MIN {
            let what = format!("{} questions are too few to fit it: at least {FIT_QUESTIONS_MIN}", questions.len());
            return Err(Error::Calibration(what));
        }
        if router.is_empty() {
            return Err(Error::NoExperts);
        }
        for (text, label) in questions {
            check_text(text)?;
            if let Some(id) = label.filter(|id| router.experts.slot(*id).is_none()) {
                return Err(Error::NoSuchExpert(id));
            }
        }
        let folds = folds(questions);
        let mut cases: Vec<Case> = Vec::new();
        for (at, (text, label)) in questions.iter().enumerate() {
            observe(router, text, *label, evidence(at).as_ref(), folds[at], &mut cases);
        }
        cases.sort_by_key(|case| (case.generalist, case.stages));
        Ok(Self { curves: cases.iter().filter_map(fit_curve).collect() })
    }
}

/// Folds of about equal size with the same mix of labels, whatever order the questions are in.
fn folds(questions: &[(String, Option<ExpertId>)]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..questions.len()).collect();
    order.sort_by_cached_key(|at| {
        let (text, label) = &questions[*at];
        (*label, hash_bytes(text.as_bytes()), text.clone())
    });
    let mut folds = vec![0; questions.len()];
    for (rank, at) in order.into_iter().enumerate() {
        folds[at] = rank % FOLDS;
    }
    folds
}

/// Adds the outcomes of one question, for every expert and every set of stages that it could have had.
fn observe(
    router: &Router,
    text: &str,
    label: Option<ExpertId>,
    evidence: Option<&GatheredEvidence>,
    fold: usize,
    cases: &mut Vec<Case>,
) {
    let generalist = router.experts.generalist();
    let right = label.map_or(generalist, |id| router.experts.slot(id));
    let cheap = StageSet::KEYWORDS.with(StageSet::CLASSIFIER);
    with_scratch(|scratch| {
        let measured = &mut scratch.measured;
        measured.measure(router, text, router.allowed(), evidence);
        // Experts that the question leaves alone are all alike, by their stages.
        let mut alike: Vec<(StageSet, f64)> = Vec::new();
        let mut add = |slot: u32, count: f64| {
            let stages = measured.stages_of(router, slot);
            let is_generalist = router.experts.standing(slot).generalist;
            for part in
                StageSet::all().filter(|part| stages.contains(*part) && (*part == stages || part.and(cheap) == *part))
            {
                let outcome = Outcome { signals: measured.signals(slot, part), hit: Some(slot) == right, count, fold };
                push(cases, part, is_generalist, outcome);
            }
        };
        for slot in router.experts.ranks() {
            let apart = measured.is_touched(slot) || Some(slot) == right || Some(slot) == generalist;
            if apart {
                add(slot, 1.0);
                continue;
            }
            let stages = router.experts.standing(slot).stages;
            match alike.last_mut().filter(|(of, _)| *of == stages) {
                Some((_, count)) => *count += 1.0,
                None => alike.push((stages, 1.0)),
            }
        }
        for (stages, count) in alike {
            let any = router.experts.ranks().find(|slot| {
                let apart = measured.is_touched(*slot) || Some(*slot) == right || Some(*slot) == generalist;
                !apart && router.experts.standing(*slot).stages == stages
            });
            add(any.expect("the group was counted from these"), count);
        }
    });
}

fn push(cases: &mut Vec<Case>, stages: StageSet, generalist: bool, outcome: Outcome) {
    match cases.iter_mut().find(|case| case.stages == stages && case.generalist == generalist) {
        Some(case) => case.outcomes.push(outcome),
        None => cases.push(Case { stages, generalist, outcomes: vec![outcome] }),
    }
}

/// The curve of one set of stages; `None` with too few outcomes of either kind.
fn fit_curve(case: &Case) -> Option<Curve> {
    let count = |hit: bool| case.outcomes.iter().filter(|o| o.hit == hit).map(|o| o.count).sum::<f64>();
    if count(true) < OUTCOMES_MIN || count(false) < OUTCOMES_MIN {
        return None;
    }
    let plain = |outcomes: &[Outcome]| {
        let (bias, weights) = regress(case.stages, outcomes);
        Curve { stages: case.stages, generalist: case.generalist, bias, weights, knots: Vec::new() }
    };
    let curve = plain(&case.outcomes);
    let mut judged = Vec::new();
    for fold in 0..FOLDS {
        let (held, rest): (Vec<Outcome>, Vec<Outcome>) = case.outcomes.iter().partition(|o| o.fold == fold);
        let blind = plain(&rest);
        judged.extend(held.iter().map(|o| Judged {
            blind: f64::from(blind.log_odds(&o.signals)),
            z: f64::from(curve.log_odds(&o.signals)),
            hits: if o.hit { o.count } else { 0.0 },
            count: o.count,
        }));
    }
    Some(Curve { knots: isotonic(judged), ..curve })
}

/// Signals that can only speak for an expert; the share of known features can mean either.
fn speaks_for(signal: usize) -> bool {
    signal != Signal::Known as usize
}

/// Bias and weights; those of signals that the stages do not give are 0.
fn regress(stages: StageSet, outcomes: &[Outcome]) -> (f32, [f32; SIGNALS]) {
    let mut active: Vec<usize> = (0..SIGNALS).filter(|signal| stages.gives(*signal)).collect();
    loop {
        let found = newton(&active, outcomes);
        // The weight that is most wrong goes first: without it, others may turn right.
        let worst = active.iter().zip(&found[1..]).filter(|(signal, weight)| speaks_for(**signal) && **weight < 0.0);
        let Some(worst) = worst.min_by(|a, b| a.1.total_cmp(b.1)).map(|(signal, _)| *signal) else {
            let mut weights = [0.0; SIGNALS];
            for (signal, weight) in active.iter().zip(&found[1..]) {
                weights[*signal] = *weight as f32;
            }
            return (found[0] as f32, weights);
        };
        active.retain(|signal| *signal != worst);
    }
}

/// Bias and weights of the active signals at the maximum of the penalised log likelihood.
fn newton(active: &[usize], outcomes: &[Outcome]) -> Vec<f64> {
    let n = active.len() + 1;
    let mut weights = vec![0.0; n];
    for _ in 0..NEWTON_STEPS_MAX {
        // A little more than the penalty on the diagonal keeps the bias solvable where all outcomes are alike.
        let (mut gradient, mut hessian) = (vec![0.0; n], vec![vec![0.0; n]; n]);
        for (at, row) in hessian.iter_mut().enumerate() {
            let penalty = if at == 0 { 1e-3 } else { PENALTY };
            row[at] = penalty;
            gradient[at] = -penalty * weights[at];
        }
        let mut inputs = vec![1.0; n];
        for outcome in outcomes {
            for (input, signal) in inputs[1..].iter_mut().zip(active) {
                *input = f64::from(outcome.signals[*signal]);
            }
            let z: f64 = weights.iter().zip(&inputs).map(|(w, x)| w * x).sum();
            let p = 1.0 / (1.0 + (-z).exp());
            let residual = outcome.count * (f64::from(outcome.hit) - p);
            let curvature = outcome.count * p * (1.0 - p);
            for i in 0..n {
                gradient[i] += residual * inputs[i];
                for j in 0..n {
                    hessian[i][j] += curvature * inputs[i] * inputs[j];
                }
            }
        }
        let mut step = solve(hessian, gradient);
        // Far from the maximum a full step can overshoot.
        let longest = step.iter().fold(0.0f64, |longest, s| longest.max(s.abs()));
        let scale = if longest > 2.0 { 2.0 / longest } else { 1.0 };
        for (weight, step) in weights.iter_mut().zip(&mut step) {
            *step *= scale;
            *weight += *step;
        }
        if longest < 1e-8 {
            break;
        }
    }
    weights
}

/// Solves a small symmetric positive definite system by elimination.
fn solve(mut matrix: Vec<Vec<f64>>, mut right: Vec<f64>) -> Vec<f64> {
    let n = right.len();
    for pivot in 0..n {
        for row in pivot + 1..n {
            let factor = matrix[row][pivot] / matrix[pivot][pivot];
            for column in pivot..n {
                matrix[row][column] -= factor * matrix[pivot][column];
            }
            right[row] -= factor * right[pivot];
        }
    }
    for row in (0..n).rev() {
        let known: f64 = (row + 1..n).map(|column| matrix[row][column] * right[column]).sum();
        right[row] = (right[row] - known) / matrix[row][row];
    }
    right
}

/// An outcome, or several that make a step of the isotonic map.
#[derive(Clone, Copy, Debug)]
struct Judged {
    /// Mean log-odds by weights that were fitted without them.
    blind: f64,
    /// Mean log-odds by the weights that are used.
    z: f64,
    hits: f64,
    count: f64,
}

impl Judged {
    fn rate(&self) -> f64 {
        self.hits / self.count
    }

    fn join(&mut self, other: &Self) {
        let count = self.count + other.count;
        self.blind = (self.blind * self.count + other.blind * other.count) / count;
        self.z = (self.z * self.count + other.z * other.count) / count;
        self.hits += other.hits;
        self.count = count;
    }
}

/// Knots of the never descending map that fits outcomes best: in the order of their blind log-odds, over those that the
/// weights in use give them.
fn isotonic(mut outcomes: Vec<Judged>) -> Vec<(f32, f32)> {
    // What has the same signals cannot be told apart: it is one step before any two are compared.
    outcomes.sort_by(|a, b| a.z.total_cmp(&b.z).then(a.blind.total_cmp(&b.blind)).then(a.hits.total_cmp(&b.hits)));
    let mut distinct: Vec<Judged> = Vec::new();
    for outcome in outcomes {
        match distinct.last_mut().filter(|last| (last.z - outcome.z).abs() < 1e-6) {
            Some(step) => step.join(&outcome),
            None => distinct.push(outcome),
        }
    }
    distinct.sort_by(|a, b| a.blind.total_cmp(&b.blind));
    let mut steps: Vec<Judged> = Vec::new();
    for step in distinct {
        steps.push(step);
        while let [.., before, last] = &*steps
            // Level steps stay apart: the map between knots is straight, and should be level there.
            && before.rate() > last.rate()
        {
            let last = steps.pop().expect("there are two");
            steps.last_mut().expect("there was another").join(&last);
        }
    }
    let least = STEP_OUTCOMES_MIN.max(steps.iter().map(|step| step.count).sum::<f64>() / STEPS_MAX as f64);
    let mut wide: Vec<Judged> = Vec::new();
    for step in steps {
        match wide.last_mut().filter(|last| last.count < least) {
            Some(last) => last.join(&step),
            None => wide.push(step),
        }
    }
    if wide.len() > 1 && wide.last().is_some_and(|last| last.count < least) {
        let last = wide.pop().expect("there are two");
        wide.last_mut().expect("there was another").join(&last);
    }
    let (mut knots, mut floor): (Vec<(f32, f32)>, f64) = (Vec::new(), 0.0);
    for step in wide {
        let logistic = 1.0 / (1.0 + (-step.z).exp());
        floor = floor.max((step.hits + STEP_PRIOR * logistic) / (step.count + STEP_PRIOR));
        if knots.last().is_none_or(|(before, _)| step.z as f32 > *before) {
            knots.push((step.z as f32, floor as f32));
        }
    }
    knots
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uniform(seed: &mut u64) -> f64 {
        *seed = super::super::words::mix(seed.wrapping_add(0x9e37_79b9_7f4a_7c15));
        (*seed >> 11) as f64 / (1u64 << 53) as f64
    }

    #[test]
    fn regression_finds_the_weights_that_made_the_outcomes() {
        let mut seed = 1;
        let outcomes: Vec<Outcome> = (0..20_000)
            .map(|at| {
                let mut signals = [0.0; SIGNALS];
                signals[0] = uniform(&mut seed) as f32;
                signals[1] = (uniform(&mut seed) * 2.0 - 1.0) as f32;
                let z = -1.0 + 2.0 * f64::from(signals[0]) + 1.5 * f64::from(signals[1]);
                let hit = uniform(&mut seed) < 1.0 / (1.0 + (-z).exp());
                Outcome { signals, hit, count: 1.0, fold: at % FOLDS }
            })
            .collect();
        let (bias, weights) = regress(StageSet::KEYWORDS, &outcomes);
        assert!((bias + 1.0).abs() < 0.1, "{bias}");
        assert!((weights[0] - 2.0).abs() < 0.15 && (weights[1] - 1.5).abs() < 0.15, "{weights:?}");
        assert!(weights[2..].iter().all(|w| *w == 0.0));
    }

    #[test]
    fn evidence_never_speaks_against() {
        let mut seed = 2;
        let outcomes: Vec<Outcome> = (0..2_000)
            .map(|at| {
                let mut signals = [0.0; SIGNALS];
                signals[0] = uniform(&mut seed) as f32;
                signals[1] = uniform(&mut seed) as f32;
                let hit = uniform(&mut seed) < 0.2 + 0.6 * f64::from(1.0 - signals[0]);
                Outcome { signals, hit, count: 1.0, fold: at % FOLDS }
            })
            .collect();
        let (_, weights) = regress(StageSet::KEYWORDS, &outcomes);
        assert_eq!(weights[0], 0.0);
        assert!(weights[1] >= 0.0);
    }

    fn judged(z: f64, hit: bool) -> Judged {
        Judged { blind: z, z, hits: f64::from(hit), count: 1.0 }
    }

    /// Outcomes whose true probability for log-odds z is `truth(z)`.
    fn outcomes(truth: impl Fn(f64) -> f64, n: usize, mut seed: u64) -> Vec<Judged> {
        let draw = |_| {
            let z = uniform(&mut seed) * 8.0 - 4.0;
            judged(z, uniform(&mut seed) < truth(z))
        };
        (0..n).map(draw).collect()
    }

    #[test]
    fn the_map_recovers_known_probabilities() {
        // Overconfident log-odds, and a staircase that no logistic curve fits.
        let overconfident = |z: f64| 1.0 / (1.0 + (-z / 3.0).exp());
        let staircase = |z: f64| if z < 0.0 { 0.1 } else { 0.7 };
        for (truth, name) in [(&overconfident as &dyn Fn(f64) -> f64, "overconfident"), (&staircase, "staircase")] {
            let knots = isotonic(outcomes(truth, 4_000, 3));
            let mut curve = Curve {
                stages: StageSet::KEYWORDS,
                generalist: false,
                bias: 0.0,
                weights: [0.0; SIGNALS],
                knots: Vec::new(),
            };
            let fresh = outcomes(truth, 4_000, 4);
            let error = |curve: &Curve| {
                let pairs: Vec<_> = fresh.iter().map(|o| (curve.probability(o.z as f32), o.hits > 0.0)).collect();
                super::super::expected_calibration_error(&pairs)
            };
            let before = error(&curve);
            curve.knots = knots;
            let after = error(&curve);
            assert!(after < 0.03 && after < before / 3.0, "{name}: {before} to {after}");
        }
    }

    #[test]
    fn equal_log_odds_are_one_step() {
        let rates = [(-2.0, 10), (0.0, 40), (1.0, 90)];
        let of = |(z, hits): (f64, usize)| (0..100).map(move |n| judged(z, n < hits));
        let knots = isotonic(rates.into_iter().flat_map(of).collect());
        assert_eq!(knots.len(), 3, "{knots:?}");
        for ((z, hits), knot) in rates.into_iter().zip(knots) {
            assert!(f64::from(knot.0) == z && (f64::from(knot.1) - hits as f64 / 100.0).abs() < 0.01, "{knot:?}");
        }
    }

    #[test]
    fn knots_ascend() {
        for n in [1, 5, 30, 500] {
            let knots = isotonic(outcomes(|z| 0.5 + z / 10.0, n, 5));
            assert!(!knots.is_empty());
            assert!(knots.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 <= w[1].1), "{knots:?}");
        }
    }
}
