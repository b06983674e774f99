//! A decision in words: reasons for people, and for `route --explain` what every stage found.
//!
//! It decides nothing. Next: `super::decide`.

use super::Router;
use super::calibration::StageSet;
use super::decide::{GatheredEvidence, Scratch};
use super::keywords::KEYWORD_EXPERTS_MAX;
use super::signals::{class_scale, hit_strength};
use super::words::{AtomKind, Words};
use super::{RouteQuery, features};
use crate::ExpertId;

/// Experts that a stage's report names at most, highest first.
const SCORES_MAX: usize = 16;
/// Matches that a stage's report names at most, strongest first.
const MATCHES_MAX: usize = 24;

/// A stage of the cascade.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Stage {
    /// What the caller insists on.
    Pin,
    /// Who answered the conversation last.
    Session,
    /// Words and phrases.
    Keywords,
    /// Resemblance to examples.
    Classifier,
    /// The prompt's likelihood.
    Likelihood,
    /// Similarity of embeddings.
    Embedding,
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Pin => "pin",
            Self::Session => "session",
            Self::Keywords => "keywords",
            Self::Classifier => "classifier",
            Self::Likelihood => "likelihood",
            Self::Embedding => "embedding",
        })
    }
}

/// Whether a stage ran.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StageStatus {
    /// It ran.
    Ran,
    /// It is switched off.
    Off,
    /// It did not run, and why.
    Skipped(String),
}

/// What a stage found.
#[derive(Clone, Debug, PartialEq)]
pub struct StageReport {
    /// Which.
    pub stage: Stage,
    /// Whether it ran.
    pub status: StageStatus,
    /// What it gave to experts, highest first: of keywords the saturated score (0 to 1), of the classifier the scaled
    /// log likelihood ratio, of the likelihood the margin to the best other candidate times the root of the bytes, of
    /// embeddings the cosine. At most 16; experts that it says nothing of are not in it.
    pub scores: Vec<(ExpertId, f32)>,
    /// What spoke for whom, strongest first, at most 24.
    pub matches: Vec<MatchReport>,
}

/// One thing that speaks for an expert.
#[derive(Clone, Debug, PartialEq)]
pub struct MatchReport {
    /// For whom.
    pub expert: ExpertId,
    /// The keyword, or the word, that did.
    pub what: String,
    /// How strongly: a keyword's IDF with its length, or nats of the classifier.
    pub weight: f32,
}

/// An expert as reasons call it.
pub(super) fn name(router: &Router, slot: u32) -> &str {
    &router.experts.get(slot).config.name
}

/// Why, for people.
pub(super) fn reasons(
    router: &Router,
    scratch: &Scratch,
    sticky: Option<u32>,
    selected: &[u32],
    fallback: bool,
) -> Vec<String> {
    let measured = &scratch.measured;
    let mut reasons = Vec::new();
    if let Some(slot) = sticky {
        reasons.push(format!("{} answered this conversation last", name(router, slot)));
    }
    if let Some(slot) = measured.leader(StageSet::KEYWORDS) {
        let hits = measured.hits.iter().filter_map(|hash| router.keywords.hit(*hash));
        let own = hits.filter(|hit| hit.experts.binary_search(&slot).is_ok()).map(|hit| hit.text);
        let listed: Vec<&str> = own.take(4).collect();
        reasons.push(format!("keywords of {}: {}", name(router, slot), listed.join(", ")));
    }
    if let Some(slot) = measured.leader(StageSet::CLASSIFIER) {
        reasons.push(format!("it resembles the questions of {} most", name(router, slot)));
    }
    if measured.stages.contains(StageSet::LIKELIHOOD) {
        let most = measured.touched.iter().max_by(|a, b| {
            let of = |slot: &u32| measured.score(*slot, StageSet::LIKELIHOOD);
            of(a).total_cmp(&of(b)).then(b.cmp(a))
        });
        reasons.extend(most.map(|slot| format!("the model of {} finds it likeliest", name(router, *slot))));
    }
    if let Some(slot) = measured.leader(StageSet::EMBEDDING) {
        reasons.push(format!("its embedding is nearest to {}", name(router, slot)));
    }
    let best = scratch.ranked.iter().find(|ranked| !router.experts.standing(ranked.slot).generalist);
    match (selected.first(), best) {
        (Some(slot), Some(best)) if fallback => reasons.push(format!(
            "no expert fits (the likeliest, {}, with {:.2} of {:.2}): {} stands in",
            name(router, best.slot),
            best.probability,
            router.experts.standing(best.slot).threshold,
            name(router, *slot)
        )),
        (None, _) => reasons.push("no expert fits, and there is no generalist".to_owned()),
        _ => {}
    }
    reasons
}

/// The report of a pinned question: nothing else ran.
pub(super) fn pinned(router: &Router, slot: u32) -> Vec<StageReport> {
    let id = router.experts.standing(slot).id;
    let skipped = |stage| report(stage, StageStatus::Skipped("the question is pinned".to_owned()));
    let mut stages = vec![report(Stage::Pin, StageStatus::Ran)];
    stages[0].scores.push((id, 1.0));
    let others = [Stage::Session, Stage::Keywords, Stage::Classifier, Stage::Likelihood, Stage::Embedding];
    stages.extend(others.map(skipped));
    stages
}

fn report(stage: Stage, status: StageStatus) -> StageReport {
    StageReport { stage, status, scores: Vec::new(), matches: Vec::new() }
}

/// What every stage found.
pub(super) fn stages(
    router: &Router,
    query: &RouteQuery<'_>,
    scratch: &Scratch,
    sticky: Option<u32>,
    evidence: Option<&GatheredEvidence>,
) -> Vec<StageReport> {
    let config = &router.config;
    let measured = &scratch.measured;
    let skipped = |why: &str| StageStatus::Skipped(why.to_owned());
    let status = |on: bool, set: StageSet, why: &str| match (on, measured.stages.contains(set)) {
        (false, _) => StageStatus::Off,
        (true, true) => StageStatus::Ran,
        (true, false) => skipped(why),
    };
    let pin = if config.pin { skipped("nobody is pinned") } else { StageStatus::Off };
    let session = match (config.session, query.session, sticky) {
        (false, ..) => StageStatus::Off,
        (true, None, _) => skipped("the question belongs to no conversation"),
        (true, Some(_), None) => skipped("nobody keeps the conversation"),
        (true, Some(_), Some(_)) => StageStatus::Ran,
    };
    let asked = match evidence {
        None => "nothing was asked of models: there was no doubt, or no model to ask",
        Some(_) => "models were asked for something else",
    };
    let likelihood = measured.likelihood_skipped.as_deref().unwrap_or(asked);
    let embedding = measured.embedding_skipped.as_deref().unwrap_or(match evidence {
        Some(evidence) if evidence.embedding.is_none() && router.experts.centroids() > 0 => {
            "no embedding model answered"
        }
        Some(_) if router.experts.centroids() == 0 => "no expert has a centroid",
        _ => asked,
    });
    let mut reports = vec![
        report(Stage::Pin, pin),
        report(Stage::Session, session),
        report(Stage::Keywords, status(config.keywords, StageSet::KEYWORDS, "no expert has keywords")),
        report(
            Stage::Classifier,
            status(config.classifier, StageSet::CLASSIFIER, "fewer than two experts have examples"),
        ),
        report(Stage::Likelihood, status(config.likelihood, StageSet::LIKELIHOOD, likelihood)),
        report(Stage::Embedding, status(config.embedding, StageSet::EMBEDDING, embedding)),
    ];
    reports[1].scores.extend(sticky.map(|slot| (router.experts.standing(slot).id, 1.0)));
    for (report, (stage, _)) in reports[2..].iter_mut().zip(StageSet::NAMED) {
        report.scores = scores(router, scratch, stage);
    }
    reports[2].matches = keyword_matches(router, scratch);
    reports[3].matches = class_matches(router, scratch);
    reports
}

fn scores(router: &Router, scratch: &Scratch, stage: StageSet) -> Vec<(ExpertId, f32)> {
    let touched = scratch.measured.touched.iter();
    let scored = touched.map(|slot| (router.experts.standing(*slot).id, scratch.measured.score(*slot, stage)));
    let mut scores: Vec<_> = scored.filter(|(_, score)| *score != 0.0).collect();
    scores.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    scores.truncate(SCORES_MAX);
    scores
}

fn strongest(mut matches: Vec<MatchReport>) -> Vec<MatchReport> {
    matches.sort_by(|a, b| b.weight.total_cmp(&a.weight).then_with(|| (a.expert, &a.what).cmp(&(b.expert, &b.what))));
    matches.truncate(MATCHES_MAX);
    matches
}

fn keyword_matches(router: &Router, scratch: &Scratch) -> Vec<MatchReport> {
    let mut matches = Vec::new();
    for hit in scratch.measured.hits.iter().filter_map(|hash| router.keywords.hit(*hash)) {
        let too_common = hit.experts.len() > KEYWORD_EXPERTS_MAX;
        let strength = hit_strength(hit.experts.len(), router.keywords.experts(), hit.words);
        let weight = if too_common { 0.0 } else { strength };
        matches.extend(hit.experts.iter().take(MATCHES_MAX).map(|slot| MatchReport {
            expert: router.experts.standing(*slot).id,
            what: hit.text.to_owned(),
            weight,
        }));
    }
    strongest(matches)
}

/// What each word, with its pieces and its pair with the word before, says for the experts that lead.
fn class_matches(router: &Router, scratch: &Scratch) -> Vec<MatchReport> {
    let measured = &scratch.measured;
    let leaders: Vec<ExpertId> = scores(router, scratch, StageSet::CLASSIFIER).into_iter().map(|(id, _)| id).collect();
    let scale = class_scale(measured.weighed.visited);
    let words = &measured.words;
    let (mut matches, mut of_word) = (Vec::new(), Vec::new());
    let mut seen = std::collections::BTreeSet::new();
    for atom in words.atoms().iter().filter(|atom| atom.kind == AtomKind::Word) {
        let text = words.text(atom);
        if !seen.insert(text) || seen.len() > 512 {
            continue;
        }
        features::extract(&Words::of(text), &mut of_word);
        for id in leaders.iter().take(4) {
            let Some(slot) = router.experts.slot(*id) else { continue };
            let learned = &router.experts.get(slot).learned;
            let nats = of_word.iter().filter_map(|f| router.classifier.contribution(slot, learned, *f)).sum::<f32>();
            if nats > 0.0 {
                matches.push(MatchReport { expert: *id, what: text.to_owned(), weight: nats * scale });
            }
        }
    }
    strongest(matches)
}
