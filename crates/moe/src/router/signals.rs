//! A question → signals for every expert: runs the keyword index and the classifier, and weighs evidence that models
//! gave.
//!
//! Experts that a question does not touch all have the same signals, so they cost nothing here.
//!
//! It knows nothing of strategies and thresholds. Next: `super::decide`.

use super::calibration::{SIGNAL_MAX, SIGNALS, Signal, Signals, StageSet};
use super::classifier::{Classifier, Weighed};
use super::features::{self, KINDS};
use super::keywords::{KEYWORD_EXPERTS_MAX, keyword_idf};
use super::words::Words;
use super::{GatheredEvidence, ROUTED_BYTES_MAX, Router};

/// What one word that is the keyword of a single expert adds to its score.
const HIT_STRENGTH: f32 = 0.7;

/// The largest value of a signal, who has it, and the largest of the others. Nothing is below 0.
#[derive(Clone, Copy, Debug, Default)]
struct Best {
    first: f32,
    slot: u32,
    second: f32,
}

impl Best {
    fn see(&mut self, slot: u32, value: f32) {
        if value > self.first {
            *self = Self { first: value, slot, second: self.first };
        } else {
            self.second = self.second.max(value);
        }
    }

    /// How much larger a slot's value is than that of any other.
    fn margin(&self, slot: u32, value: f32) -> f32 {
        if value > 0.0 && slot == self.slot { value - self.second } else { value - self.first }
    }
}

/// What a question does to the experts, in buffers that are used again.
#[derive(Debug, Default)]
pub(super) struct Measured {
    pub words: Words,
    pub features: Vec<u64>,
    /// Hashes of the phrases that were found.
    pub hits: Vec<u64>,
    /// Experts that a stage says something about, each once.
    pub touched: Vec<u32>,
    /// `[slots]`; 0 where untouched.
    keyword: Vec<f32>,
    class: Vec<f32>,
    likelihood: Vec<f32>,
    cosine: Vec<f32>,
    /// `[slots]`: the stages that evidence adds to those of an expert.
    evidence: Vec<StageSet>,
    marks: Vec<bool>,
    class_touched: Vec<u32>,
    best_keyword: Best,
    best_class: Best,
    best_cosine: Best,
    pub weighed: Weighed,
    /// Weights of the known features, by kind.
    pub kinds: [f32; KINDS],
    pub stages: StageSet,
    /// Why the likelihood stage did not run, once it was asked for.
    pub likelihood_skipped: Option<String>,
    /// Why the embedding stage did not run, once it was asked for.
    pub embedding_skipped: Option<String>,
}

impl Measured {
    /// Runs the stages on a text. `allowed` are the stages that are switched on.
    pub fn measure(&mut self, router: &Router, text: &str, allowed: StageSet, evidence: Option<&GatheredEvidence>) {
        self.clear(router.experts.slots());
        let (head, tail) = routed_part(text);
        self.words.push(head);
        self.words.push(tail);
        if allowed.contains(StageSet::KEYWORDS) && router.keywords.experts() > 0 {
            self.stages = self.stages.with(StageSet::KEYWORDS);
            self.measure_keywords(router);
        }
        // An expert that is the only one with examples owns every feature: that says nothing.
        if allowed.contains(StageSet::CLASSIFIER) && router.experts.learned() > 1 {
            self.stages = self.stages.with(StageSet::CLASSIFIER);
            self.measure_class(router);
        }
        if let Some(evidence) = evidence {
            if allowed.contains(StageSet::LIKELIHOOD) {
                self.weigh_likelihoods(router, evidence, text.len());
            }
            if allowed.contains(StageSet::EMBEDDING) {
                self.weigh_embedding(router, evidence);
            }
        }
    }

    fn clear(&mut self, slots: usize) {
        for slot in self.touched.drain(..) {
            let slot = slot as usize;
            for signal in [&mut self.keyword, &mut self.class, &mut self.likelihood, &mut self.cosine] {
                signal[slot] = 0.0;
            }
            self.marks[slot] = false;
            self.evidence[slot] = StageSet::default();
        }
        for signal in [&mut self.keyword, &mut self.class, &mut self.likelihood, &mut self.cosine] {
            signal.resize(slots, 0.0);
        }
        self.marks.resize(slots, false);
        self.evidence.resize(slots, StageSet::default());
        self.words.clear();
        self.features.clear();
        self.hits.clear();
        (self.best_keyword, self.best_class, self.best_cosine) = <_>::default();
        self.weighed = Weighed::default();
        self.stages = StageSet::default();
        (self.likelihood_skipped, self.embedding_skipped) = (None, None);
    }

    fn touch(&mut self, slot: u32) {
        if !std::mem::replace(&mut self.marks[slot as usize], true) {
            self.touched.push(slot);
        }
    }

    pub fn is_touched(&self, slot: u32) -> bool {
        self.marks[slot as usize]
    }

    fn measure_keywords(&mut self, router: &Router) {
        router.keywords.find(&self.words, &mut self.hits);
        let hits = std::mem::take(&mut self.hits);
        for hit in hits.iter().filter_map(|hash| router.keywords.hit(*hash)) {
            if hit.experts.len() > KEYWORD_EXPERTS_MAX {
                continue;
            }
            let strength = hit_strength(hit.experts.len(), router.keywords.experts(), hit.words);
            for slot in hit.experts {
                self.touch(*slot);
                self.keyword[*slot as usize] += strength;
            }
        }
        self.hits = hits;
        for slot in &self.touched {
            let score = &mut self.keyword[*slot as usize];
            *score = saturate(*score);
            self.best_keyword.see(*slot, *score);
        }
    }

    fn measure_class(&mut self, router: &Router) {
        features::extract(&self.words, &mut self.features);
        let mut touched = std::mem::take(&mut self.class_touched);
        touched.clear();
        self.weighed = router.classifier.score(&self.features, &mut self.class, &mut touched, &mut self.kinds);
        let scale = class_scale(self.weighed.visited);
        let mean_norm = Classifier::mean_norm(router.experts.learned(), &self.kinds);
        let norm_scales = router.classifier.norm_scales();
        for slot in &touched {
            let norm = Classifier::norm_of(&router.experts.standing(*slot).units, &norm_scales, &self.kinds);
            let score = &mut self.class[*slot as usize];
            *score = ((*score - norm + mean_norm) * scale).max(0.0);
            self.best_class.see(*slot, *score);
            self.touch(*slot);
        }
        self.class_touched = touched;
    }

    /// Margins between the candidates of which the likelihood is known; it takes two to compare.
    fn weigh_likelihoods(&mut self, router: &Router, evidence: &GatheredEvidence, bytes: usize) {
        let mut known: Vec<(u32, f32)> = Vec::new();
        for (id, generation, logprob) in &evidence.logprobs {
            let slot = router.experts.slot(*id).filter(|slot| router.experts.get(*slot).generation == *generation);
            // A log probability above 0 is no log probability.
            if let (Some(slot), Some(logprob)) = (slot, logprob.filter(|l| l.is_finite() && *l <= 0.0)) {
                known.push((slot, logprob));
            }
        }
        if known.len() < 2 {
            let skipped = format!("{} of {} candidates are in memory", known.len(), evidence.logprobs.len());
            self.likelihood_skipped = Some(skipped);
            return;
        }
        self.stages = self.stages.with(StageSet::LIKELIHOOD);
        let scale = (bytes as f32).sqrt();
        for at in 0..known.len() {
            let (slot, logprob) = known[at];
            let others = known.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, (_, l))| *l);
            let best_other = others.fold(f32::NEG_INFINITY, f32::max);
            self.touch(slot);
            self.likelihood[slot as usize] = (logprob - best_other) * scale;
            self.evidence[slot as usize] = self.evidence[slot as usize].with(StageSet::LIKELIHOOD);
        }
    }

    fn weigh_embedding(&mut self, router: &Router, evidence: &GatheredEvidence) {
        let Some(embedding) = &evidence.embedding else { return };
        let mut unit = embedding.clone();
        if !normalise(&mut unit) {
            self.embedding_skipped = Some("the question's embedding is no direction".to_owned());
            return;
        }
        for slot in router.experts.ranks() {
            let Some(centroid) = router.experts.get(slot).centroid.as_ref().filter(|c| c.len() == unit.len()) else {
                continue;
            };
            let cosine: f32 = centroid.iter().zip(&unit).map(|(a, b)| a * b).sum::<f32>().max(0.0);
            self.touch(slot);
            self.cosine[slot as usize] = cosine;
            self.best_cosine.see(slot, cosine);
            self.evidence[slot as usize] = self.evidence[slot as usize].with(StageSet::EMBEDDING);
            self.stages = self.stages.with(StageSet::EMBEDDING);
        }
        if !self.stages.contains(StageSet::EMBEDDING) {
            self.embedding_skipped = Some(format!("no centroid has the embedding's {} dimensions", unit.len()));
        }
    }

    /// Stages that have something on an expert and ran. The generalist is judged by all that ran: where it has nothing
    /// of its own, that the others have something tells enough.
    pub fn stages_of(&self, router: &Router, slot: u32) -> StageSet {
        let standing = router.experts.standing(slot);
        let cheap = StageSet::KEYWORDS.with(StageSet::CLASSIFIER);
        let own = if standing.generalist { cheap } else { standing.stages.and(cheap) };
        self.stages.and(own).with(self.evidence[slot as usize])
    }

    /// The signals of one expert.
    pub fn signals(&self, slot: u32, stages: StageSet) -> Signals {
        let mut signals = [0.0; SIGNALS];
        let at = slot as usize;
        let mut set = |signal: Signal, value: f32| signals[signal as usize] = value.clamp(-SIGNAL_MAX, SIGNAL_MAX);
        if stages.contains(StageSet::KEYWORDS) {
            set(Signal::Keyword, self.keyword[at]);
            set(Signal::KeywordMargin, self.best_keyword.margin(slot, self.keyword[at]));
        }
        if stages.contains(StageSet::CLASSIFIER) {
            set(Signal::Class, self.class[at]);
            set(Signal::ClassMargin, self.best_class.margin(slot, self.class[at]));
            set(Signal::Known, self.weighed.known / self.weighed.all.max(1.0));
        }
        if stages.contains(StageSet::LIKELIHOOD) {
            set(Signal::Likelihood, self.likelihood[at]);
        }
        if stages.contains(StageSet::EMBEDDING) {
            set(Signal::Cosine, self.cosine[at]);
            set(Signal::CosineMargin, self.best_cosine.margin(slot, self.cosine[at]));
        }
        signals
    }

    /// One expert's score in a stage, as `route --explain` shows it.
    pub fn score(&self, slot: u32, stage: StageSet) -> f32 {
        let scores = match stage {
            StageSet::KEYWORDS => &self.keyword,
            StageSet::CLASSIFIER => &self.class,
            StageSet::LIKELIHOOD => &self.likelihood,
            _ => &self.cosine,
        };
        scores[slot as usize]
    }

    /// Who has the highest score in a stage, if anybody has one.
    pub fn leader(&self, stage: StageSet) -> Option<u32> {
        let best = match stage {
            StageSet::KEYWORDS => self.best_keyword,
            StageSet::CLASSIFIER => self.best_class,
            _ => self.best_cosine,
        };
        (best.first > 0.0 && best.first > best.second).then_some(best.slot)
    }
}

/// What a phrase adds to the score of those that have it: its IDF, more for a longer phrase.
pub(super) fn hit_strength(owners: usize, experts: usize, words: u8) -> f32 {
    HIT_STRENGTH * keyword_idf(owners, experts) * f32::from(words).sqrt()
}

/// Sums of strengths to 0 … 1.
pub(super) fn saturate(sum: f32) -> f32 {
    1.0 - (-sum).exp()
}

/// Log likelihood ratios grow with a text while its words repeat each other: the root keeps long and short texts alike.
pub(super) fn class_scale(visited: f32) -> f32 {
    1.0 / visited.max(1.0).sqrt()
}

/// The part of a text by which it is routed: all of it, or its beginning and its end.
pub(super) fn routed_part(text: &str) -> (&str, &str) {
    if text.len() <= ROUTED_BYTES_MAX {
        return (text, "");
    }
    let (mut head, mut tail) = (ROUTED_BYTES_MAX / 2, text.len() - ROUTED_BYTES_MAX / 2);
    while !text.is_char_boundary(head) {
        head -= 1;
    }
    while !text.is_char_boundary(tail) {
        tail += 1;
    }
    (&text[..head], &text[tail..])
}

/// Brings a vector to length 1. False where it has no length: empty, 0, or not finite.
pub(super) fn normalise(vector: &mut [f32]) -> bool {
    let length = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
    let has_length = length.is_finite() && length > 0.0;
    if has_length {
        vector.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    }
    has_length
}
