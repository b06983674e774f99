//! Routing one question: stages, ranking, choice, reasons.
//!
//! The order is: a pinned expert; keywords and classifier; where they leave doubt, what models can tell; the ranking by
//! probability; the conversation's expert, unless the question clearly belongs elsewhere; the strategy; the generalist
//! where nobody fits.
//!
//! It knows nothing of how stages score (`super::signals`) and what a score is worth ([`super::calibration`]).

use std::cell::Cell;

use super::calibration::StageSet;
use super::experts::Standing;
use super::explain;
use super::signals::Measured;
use super::{QUERY_BYTES_MAX, RouteQuery, Router, RoutingDecision, RoutingEvidence, RoutingStrategy};
use crate::{Error, ExpertId, PRIORITY_BIAS, Result};

/// One expert in the ranking of a question.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ranked {
    pub probability: f32,
    pub id: ExpertId,
    pub slot: u32,
}

/// Buffers of one call, kept by the thread for the next.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub measured: Measured,
    pub ranked: Vec<Ranked>,
    touched: Vec<RankKey>,
    untouched: Vec<RankKey>,
}

/// A [`Ranked`] as one number, smaller before larger, which sorts faster than a comparison of parts: from above, the
/// complement of the probability's bits, the complement of the priority, the id; and the slot, which decides nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct RankKey(u128);

impl RankKey {
    /// `probability` is not negative, so its bits are in its order.
    fn new(slot: u32, standing: &Standing, probability: f32) -> Self {
        // The sign flipped, negative numbers come before positive ones.
        let priority = (standing.priority as u32) ^ (1 << 31);
        let parts = [!probability.to_bits(), !priority, standing.id.0, slot];
        Self(parts.into_iter().fold(0, |key, part| (key << 32) | u128::from(part)))
    }

    fn ranked(self) -> Ranked {
        let part = |at: u32| (self.0 >> (96 - 32 * at)) as u32;
        Ranked { probability: f32::from_bits(!part(0)), id: ExpertId(part(2)), slot: part(3) }
    }
}

thread_local! {
    // Taken out while in use, so that a call within a call (from `RoutingEvidence`) finds none and makes its own.
    static SCRATCH: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
}

/// Runs something with the thread's buffers.
pub(super) fn with_scratch<T>(run: impl FnOnce(&mut Scratch) -> T) -> T {
    let mut scratch = SCRATCH.take().unwrap_or_default();
    let result = run(&mut scratch);
    SCRATCH.set(Some(scratch));
    result
}

/// What routing comes to where models could be asked.
#[derive(Clone, Debug, PartialEq)]
pub enum RouteStep {
    /// Decided.
    Done(RoutingDecision),
    /// The cheap stages leave doubt; [`Router::route_with_evidence`] decides with the answer.
    Ask(EvidenceRequest),
}

/// What models are asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct EvidenceRequest {
    /// Experts whose likelihoods of the prompt would help, with their registrations. Empty where none would.
    pub candidates: Vec<(ExpertId, u64)>,
    /// Whether the question's embedding would.
    pub embedding: bool,
}

impl EvidenceRequest {
    /// Asks.
    pub fn gather(self, evidence: &mut dyn RoutingEvidence) -> GatheredEvidence {
        let mut logprobs = Vec::new();
        if !self.candidates.is_empty() {
            let ids: Vec<ExpertId> = self.candidates.iter().map(|(id, _)| *id).collect();
            // An answer that is too short says nothing of the others.
            let found = evidence.prompt_logprobs(&ids).into_iter().chain(std::iter::repeat(None));
            logprobs = self.candidates.iter().zip(found).map(|((id, g), logprob)| (*id, *g, logprob)).collect();
        }
        let embedding = if self.embedding { evidence.embedding() } else { None };
        GatheredEvidence { logprobs, embedding }
    }
}

/// What models told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GatheredEvidence {
    /// Per candidate: id, registration, and mean log probability per byte of the question.
    pub logprobs: Vec<(ExpertId, u64, Option<f32>)>,
    /// The question's embedding.
    pub embedding: Option<Vec<f32>>,
}

/// A question of so many words at most, without keywords, is taken to go on with the conversation.
pub const FOLLOW_UP_WORDS: usize = 6;

impl Router {
    /// Chooses the experts for a question. `evidence` is asked where the cheap stages leave doubt, at most once.
    ///
    /// An expert *fits* if its probability is at least its `domain.threshold`. Where none does the generalist is chosen
    /// ([`RoutingDecision::fallback`]), and without one `selected` is empty. A conversation stays with the expert that
    /// answered last, whether it fits or not, until another one that fits is likelier by more than
    /// [`session_margin`](super::RouterConfig::session_margin); the generalist keeps no conversation, and takes one
    /// over only where its own keywords speak for it or, in a question of more than [`FOLLOW_UP_WORDS`] words, its examples:
    /// "And then?" goes on with whom it was said to.
    ///
    /// # Errors
    /// [`Error::NoExperts`]; [`Error::EmptyQuery`] for a text of nothing but white space and control characters;
    /// [`Error::QueryTooLong`] above [`QUERY_BYTES_MAX`] (one above [`ROUTED_BYTES_MAX`](super::ROUTED_BYTES_MAX) is
    /// routed by its beginning and end); [`Error::NoSuchExpert`] for a pinned id that is not there;
    /// [`Error::OutOfRange`] for `TopK(0)`, a `Threshold` that is not within 0 to 1, and a pin where that stage is off.
    pub fn route(
        &self,
        query: &RouteQuery<'_>,
        strategy: RoutingStrategy,
        evidence: Option<&mut dyn RoutingEvidence>,
    ) -> Result<RoutingDecision> {
        let Some(evidence) = evidence else { return self.route_with_evidence(query, strategy, None) };
        match self.route_step(query, strategy)? {
            RouteStep::Done(decision) => Ok(decision),
            RouteStep::Ask(request) => self.route_with_evidence(query, strategy, Some(&request.gather(evidence))),
        }
    }

    /// As [`route`](Self::route), for callers that must not hold the router while models compute: stops where they are
    /// to be asked.
    ///
    /// # Errors
    /// As [`route`](Self::route).
    pub fn route_step(&self, query: &RouteQuery<'_>, strategy: RoutingStrategy) -> Result<RouteStep> {
        if let Some(pinned) = self.admit(query, strategy)? {
            return Ok(RouteStep::Done(pinned));
        }
        with_scratch(|scratch| {
            scratch.measured.measure(self, query.text, self.allowed(), None);
            self.rank(scratch);
            Ok(match self.request(scratch) {
                Some(request) => RouteStep::Ask(request),
                None => RouteStep::Done(self.decide(query, strategy, scratch, None)),
            })
        })
    }

    /// As [`route`](Self::route), with evidence that is there already.
    ///
    /// # Errors
    /// As [`route`](Self::route).
    pub fn route_with_evidence(
        &self,
        query: &RouteQuery<'_>,
        strategy: RoutingStrategy,
        evidence: Option<&GatheredEvidence>,
    ) -> Result<RoutingDecision> {
        if let Some(pinned) = self.admit(query, strategy)? {
            return Ok(pinned);
        }
        Ok(with_scratch(|scratch| {
            scratch.measured.measure(self, query.text, self.allowed(), evidence);
            self.rank(scratch);
            self.decide(query, strategy, scratch, evidence)
        }))
    }

    /// Refuses what cannot be routed, and decides what is pinned.
    fn admit(&self, query: &RouteQuery<'_>, strategy: RoutingStrategy) -> Result<Option<RoutingDecision>> {
        check_text(query.text)?;
        check_strategy(strategy)?;
        if self.is_empty() {
            return Err(Error::NoExperts);
        }
        let Some(id) = query.pinned else { return Ok(None) };
        if !self.config.pin {
            let value = format!("expert {id}");
            return Err(Error::OutOfRange { name: "pinned", value, range: "nobody, while the pin stage is off" });
        }
        let slot = self.experts.slot(id).ok_or(Error::NoSuchExpert(id))?;
        self.remember(query, slot);
        let mut decision = RoutingDecision {
            selected: vec![id],
            confidence: vec![(id, 1.0)],
            reasons: vec![format!("{} was asked for by name", explain::name(self, slot))],
            generations: vec![self.experts.get(slot).generation],
            ..RoutingDecision::default()
        };
        if query.explain {
            decision.stages = explain::pinned(self, slot);
        }
        Ok(Some(decision))
    }

    /// Stages that the configuration allows.
    pub(super) fn allowed(&self) -> StageSet {
        let config = &self.config;
        let switches = [config.keywords, config.classifier, config.likelihood, config.embedding];
        let on = StageSet::NAMED.into_iter().zip(switches).filter(|(_, on)| *on);
        on.fold(StageSet::default(), |set, ((stage, _), _)| set.with(stage))
    }

    /// Every expert with its probability, likeliest first; equals by priority, then by lower id.
    fn rank(&self, scratch: &mut Scratch) {
        let Scratch { measured, ranked, touched, untouched } = scratch;
        touched.clear();
        for slot in &measured.touched {
            touched.push(RankKey::new(*slot, self.experts.standing(*slot), self.probability(measured, *slot)));
        }
        touched.sort_unstable();
        untouched.clear();
        // Neighbours here have the same stages and mostly the same priority, so the same probability.
        let mut last: Option<(StageSet, bool, i32, f32)> = None;
        for slot in self.experts.ranks().filter(|slot| !measured.is_touched(*slot)) {
            let standing = self.experts.standing(slot);
            let known = last.filter(|(stages, generalist, priority, _)| {
                (*stages, *generalist, *priority) == (standing.stages, standing.generalist, standing.priority)
            });
            let probability = known.map_or_else(|| self.probability(measured, slot), |(_, _, _, p)| p);
            last = Some((standing.stages, standing.generalist, standing.priority, probability));
            untouched.push(RankKey::new(slot, standing, probability));
        }
        // Sorted already where all have the same stages: a stable sort sees that, and finds the runs of the others.
        untouched.sort();
        ranked.clear();
        let (mut touched, mut untouched) = (touched.iter().peekable(), untouched.iter().peekable());
        while let Some(key) = match (touched.peek(), untouched.peek()) {
            (Some(one), Some(other)) if other < one => untouched.next(),
            (Some(_), _) => touched.next(),
            (None, _) => untouched.next(),
        } {
            ranked.push(key.ranked());
        }
    }

    /// The calibrated probability of one expert, priority included.
    fn probability(&self, measured: &Measured, slot: u32) -> f32 {
        let standing = self.experts.standing(slot);
        let stages = measured.stages_of(self, slot);
        let curve = self.curves.of(stages, standing.generalist);
        let probability = curve.probability(curve.log_odds(&measured.signals(slot, stages)));
        if standing.priority == 0 {
            return probability;
        }
        let odds = (probability / (1.0 - probability)).ln() + PRIORITY_BIAS * standing.priority as f32;
        1.0 / (1.0 + (-odds.clamp(-15.0, 15.0)).exp())
    }

    /// What to ask models for, if it would help.
    fn request(&self, scratch: &Scratch) -> Option<EvidenceRequest> {
        let [first, second, ..] = &*scratch.ranked else { return None };
        let few = scratch.ranked.len() <= self.config.candidates_max + 1;
        if first.probability - second.probability >= self.config.doubt_margin
            || (scratch.measured.touched.is_empty() && !few)
        {
            return None;
        }
        let mut candidates = Vec::new();
        if self.config.likelihood {
            let experts = scratch.ranked.iter().filter(|ranked| !self.experts.standing(ranked.slot).generalist);
            let slots = experts.map(|ranked| ranked.slot).take(self.config.candidates_max);
            for slot in slots.chain(self.experts.generalist()) {
                candidates.push((self.experts.standing(slot).id, self.experts.get(slot).generation));
            }
        }
        let embedding = self.config.embedding && self.experts.centroids() > 0;
        (embedding || !candidates.is_empty()).then_some(EvidenceRequest { candidates, embedding })
    }

    /// Chooses from the ranking.
    fn decide(
        &self,
        query: &RouteQuery<'_>,
        strategy: RoutingStrategy,
        scratch: &Scratch,
        evidence: Option<&GatheredEvidence>,
    ) -> RoutingDecision {
        let ranked = &*scratch.ranked;
        let mut selected: Vec<u32> = Vec::new();
        let sticky = self.sticky(query, strategy, scratch);
        selected.extend(sticky);
        let (floor, at_most) = match strategy {
            RoutingStrategy::TopK(n) => (0.0, n),
            RoutingStrategy::Threshold(t) => (t, usize::MAX),
            RoutingStrategy::Single => (0.0, 1),
            RoutingStrategy::All => (f32::NEG_INFINITY, usize::MAX),
        };
        let all = strategy == RoutingStrategy::All;
        for candidate in ranked {
            if selected.len() >= at_most || candidate.probability < floor {
                break;
            }
            if (all || self.fits(candidate)) && Some(candidate.slot) != sticky {
                selected.push(candidate.slot);
            }
        }
        let fallback = selected.is_empty();
        if fallback {
            selected.extend(self.experts.generalist());
        }
        if let Some(first) = selected.first() {
            self.remember(query, *first);
        }
        let mut decision = RoutingDecision {
            selected: selected.iter().map(|slot| self.experts.standing(*slot).id).collect(),
            confidence: ranked.iter().map(|ranked| (ranked.id, ranked.probability)).collect(),
            reasons: explain::reasons(self, scratch, sticky, &selected, fallback),
            generations: selected.iter().map(|slot| self.experts.get(*slot).generation).collect(),
            fallback: fallback && !selected.is_empty(),
            stages: Vec::new(),
        };
        if query.explain {
            decision.stages = explain::stages(self, query, scratch, sticky, evidence);
        }
        decision
    }

    /// Whether an expert reaches its own threshold.
    pub(super) fn fits(&self, ranked: &Ranked) -> bool {
        ranked.probability >= self.experts.standing(ranked.slot).threshold
    }

    /// The slot of the expert that keeps the conversation.
    fn sticky(&self, query: &RouteQuery<'_>, strategy: RoutingStrategy, scratch: &Scratch) -> Option<u32> {
        let session = query.session.filter(|_| self.config.session && strategy != RoutingStrategy::All)?;
        let (id, generation) = self.sessions().get(session)?;
        let slot = self.experts.slot(id).filter(|slot| self.experts.get(*slot).generation == generation)?;
        if self.experts.standing(slot).generalist {
            return None;
        }
        let of_last = scratch.ranked.iter().find(|ranked| ranked.slot == slot)?.probability;
        let is_follow_up = query.text.split_whitespace().nth(FOLLOW_UP_WORDS).is_none();
        let speaks_for = |slot| {
            let leads = |stage| scratch.measured.leader(stage) == Some(slot);
            leads(StageSet::KEYWORDS) || !is_follow_up && leads(StageSet::CLASSIFIER)
        };
        let mut others = scratch.ranked.iter().filter(|other| {
            let generalist = self.experts.standing(other.slot).generalist;
            other.slot != slot && self.fits(other) && (!generalist || speaks_for(other.slot))
        });
        let moves = others.next().is_some_and(|best| best.probability - of_last > self.config.session_margin);
        (!moves).then_some(slot)
    }

    fn remember(&self, query: &RouteQuery<'_>, slot: u32) {
        if let Some(session) = query.session.filter(|_| self.config.session) {
            let expert = self.experts.get(slot);
            self.sessions().remember(session, expert.config.id, expert.generation, self.config.sessions_max);
        }
    }
}

/// Refuses a question that is empty or too long.
pub(super) fn check_text(text: &str) -> Result<()> {
    if text.len() > QUERY_BYTES_MAX {
        return Err(Error::QueryTooLong { bytes: text.len(), max: QUERY_BYTES_MAX });
    }
    if text.chars().all(|c| c.is_whitespace() || c.is_control()) {
        return Err(Error::EmptyQuery);
    }
    Ok(())
}

fn check_strategy(strategy: RoutingStrategy) -> Result<()> {
    match strategy {
        RoutingStrategy::TopK(0) => {
            Err(Error::OutOfRange { name: "top_k", value: "0".to_owned(), range: "at least 1 expert" })
        }
        RoutingStrategy::Threshold(t) if !(0.0..=1.0).contains(&t) => {
            Err(Error::OutOfRange { name: "threshold", value: t.to_string(), range: "0 to 1" })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::features::KINDS;
    use super::*;

    #[test]
    fn keys_sort_by_probability_then_priority_then_id() {
        let key = |probability: f32, priority: i32, id: u32| {
            let standing = Standing {
                id: ExpertId(id),
                threshold: 0.5,
                priority,
                stages: StageSet::default(),
                generalist: false,
                units: [0.0; KINDS],
            };
            RankKey::new(7, &standing, probability)
        };
        let expected = [
            key(0.9, i32::MIN, 9),
            key(0.5, i32::MAX, 9),
            key(0.5, 1, 0),
            key(0.5, 0, 0),
            key(0.5, 0, 1),
            key(0.5, 0, u32::MAX),
            key(0.5, -1, 0),
            key(0.5, i32::MIN, 0),
            key(f32::MIN_POSITIVE, i32::MAX, 0),
            key(0.0, i32::MAX, 0),
        ];
        assert!(expected.is_sorted_by(|a, b| a < b), "{expected:?}");
        let ranked = expected[1].ranked();
        assert_eq!((ranked.probability, ranked.id, ranked.slot), (0.5, ExpertId(9), 7));
    }
}
