//! Decisions and answers of a swarm as JSON, and as lines for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use hublabio_runtime::moe::{
    ExpertConfig, ExpertId, RoutingDecision, RoutingStrategy, StageReport, StageStatus, SwarmAnswer, SwarmEngine,
    synthesis_name,
};
use serde::Serialize;

use super::cell;
use crate::args::routing_name;
use crate::output;

/// Longest line about who answered.
const STRIP_CHARS_MAX: usize = 160;

/// What of an expert decisions do not say.
pub struct Names(BTreeMap<ExpertId, (String, f32)>);

impl Names {
    /// The experts of a swarm as it is now.
    pub fn of(swarm: &SwarmEngine) -> Self {
        let one = |config: &ExpertConfig| (config.id, (config.name.clone(), config.domain.threshold));
        Self(swarm.router().read(|router| router.iter().map(|(config, _)| one(config)).collect()))
    }

    pub fn name(&self, id: ExpertId) -> String {
        self.0.get(&id).map_or_else(|| format!("expert {id}"), |(name, _)| name.clone())
    }

    fn one(&self, id: ExpertId) -> ExpertJson {
        ExpertJson { id: id.0, name: self.name(id) }
    }
}

#[derive(Serialize)]
struct ExpertJson {
    id: u32,
    name: String,
}

#[derive(Serialize)]
struct ProbabilityJson {
    #[serde(flatten)]
    expert: ExpertJson,
    probability: f32,
    threshold: Option<f32>,
}

#[derive(Serialize)]
struct ScoreJson {
    #[serde(flatten)]
    expert: ExpertJson,
    score: f32,
}

#[derive(Serialize)]
struct MatchJson {
    #[serde(flatten)]
    expert: ExpertJson,
    what: String,
    weight: f32,
}

#[derive(Serialize)]
struct StageJson {
    stage: String,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    scores: Vec<ScoreJson>,
    matches: Vec<MatchJson>,
}

/// A decision as `route --json` prints it.
#[derive(Serialize)]
pub struct DecisionJson {
    strategy: String,
    selected: Vec<ExpertJson>,
    fallback: bool,
    experts: Vec<ProbabilityJson>,
    reasons: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    stages: Vec<StageJson>,
}

impl DecisionJson {
    pub fn new(decision: &RoutingDecision, strategy: RoutingStrategy, names: &Names) -> Self {
        let probability = |(id, probability): &(ExpertId, f32)| ProbabilityJson {
            expert: names.one(*id),
            probability: *probability,
            threshold: names.0.get(id).map(|(_, threshold)| *threshold),
        };
        Self {
            strategy: routing_name(strategy),
            selected: decision.selected.iter().map(|id| names.one(*id)).collect(),
            fallback: decision.fallback,
            experts: decision.confidence.iter().map(probability).collect(),
            reasons: decision.reasons.clone(),
            stages: decision.stages.iter().map(|report| StageJson::new(report, names)).collect(),
        }
    }
}

impl StageJson {
    fn new(report: &StageReport, names: &Names) -> Self {
        let (status, why) = status(&report.status);
        let score = |(id, score): &(ExpertId, f32)| ScoreJson { expert: names.one(*id), score: *score };
        let matches = report.matches.iter().map(|found| MatchJson {
            expert: names.one(found.expert),
            what: found.what.clone(),
            weight: found.weight,
        });
        Self {
            stage: report.stage.to_string(),
            status,
            why: why.map(str::to_owned),
            scores: report.scores.iter().map(score).collect(),
            matches: matches.collect(),
        }
    }
}

/// A stage's status in a word, and why it did not run.
pub fn status(status: &StageStatus) -> (&'static str, Option<&str>) {
    match status {
        StageStatus::Ran => ("ran", None),
        StageStatus::Off => ("off", None),
        StageStatus::Skipped(why) => ("skipped", Some(why)),
    }
}

#[derive(Serialize)]
struct ContributionJson {
    #[serde(flatten)]
    expert: ExpertJson,
    weight: f32,
    why: String,
}

#[derive(Serialize)]
struct UsageJson {
    #[serde(flatten)]
    expert: ExpertJson,
    calls: usize,
    tokens: usize,
    latency_ms: f32,
    failure: Option<String>,
}

/// An answer as `query --json` prints it.
#[derive(Serialize)]
pub struct AnswerJson {
    text: String,
    synthesis: &'static str,
    contributions: Vec<ContributionJson>,
    agreement: Option<f32>,
    notes: Vec<String>,
    routing: DecisionJson,
    usage: Vec<UsageJson>,
}

impl AnswerJson {
    pub fn new(answer: &SwarmAnswer, strategy: RoutingStrategy, names: &Names) -> Self {
        let synthesis = &answer.synthesis;
        let contributions = synthesis.contributions.iter().map(|part| ContributionJson {
            expert: ExpertJson { id: part.expert.0, name: part.name.clone() },
            weight: part.weight,
            why: part.why.clone(),
        });
        let usage = answer.usage.iter().map(|(id, usage)| UsageJson {
            expert: names.one(*id),
            calls: usage.calls,
            tokens: usage.tokens,
            latency_ms: usage.latency_ms,
            failure: usage.failure.clone(),
        });
        Self {
            text: synthesis.text.clone(),
            synthesis: synthesis_name(synthesis.strategy),
            contributions: contributions.collect(),
            agreement: synthesis.agreement,
            notes: synthesis.notes.clone(),
            routing: DecisionJson::new(&answer.decision, strategy, names),
            usage: usage.collect(),
        }
    }
}

/// The probability that the router gave an expert.
fn probability(decision: &RoutingDecision, id: ExpertId) -> Option<f32> {
    decision.confidence.iter().find(|(other, _)| *other == id).map(|(_, probability)| *probability)
}

/// One line: who answered, with which weights, and why they were chosen.
pub fn strip(answer: &SwarmAnswer) -> String {
    let took_part = answer.synthesis.contributions.iter().filter(|part| part.weight > 0.0);
    let who: Vec<String> = match &*took_part.collect::<Vec<_>>() {
        [one] => {
            let sure = probability(&answer.decision, one.expert).map(|p| format!(" {p:.2}")).unwrap_or_default();
            vec![format!("{}{sure}", one.name)]
        }
        several => several.iter().map(|part| format!("{} {:.2}", part.name, part.weight)).collect(),
    };
    let how = synthesis_name(answer.synthesis.strategy);
    let how = if who.len() > 1 { format!("{how} of ") } else { String::new() };
    let line = format!("— {how}{}: {}", who.join(", "), answer.decision.reasons.join("; "));
    output::one_line(line.trim_end_matches([':', ' ']), STRIP_CHARS_MAX)
}

/// Who answered, in full.
pub fn who(answer: &SwarmAnswer, names: &Names) -> String {
    let synthesis = &answer.synthesis;
    let mut text = String::new();
    let mut rows = Vec::new();
    let part_of = |id: ExpertId| synthesis.contributions.iter().find(|part| part.expert == id);
    // Those who took part, then those who were asked and did not.
    let others = answer.usage.iter().map(|(id, _)| *id).filter(|id| part_of(*id).is_none());
    for id in synthesis.contributions.iter().map(|part| part.expert).chain(others) {
        let usage = answer.usage.iter().find(|(other, _)| *other == id).map(|(_, usage)| usage);
        let why = match (part_of(id), usage.and_then(|usage| usage.failure.as_deref())) {
            (_, Some(failure)) => failure,
            (Some(part), None) => &part.why,
            (None, None) => "",
        };
        rows.push([
            cell(&names.name(id)),
            part_of(id).map_or("-".into(), |part| format!("{:.2}", part.weight)),
            probability(&answer.decision, id).map_or("-".into(), |p| format!("{p:.2}")),
            usage.map_or("-".into(), |usage| usage.tokens.to_string()),
            usage.map_or("-".into(), |usage| format!("{:.0}", usage.latency_ms)),
            output::one_line(why, STRIP_CHARS_MAX),
        ]);
    }
    output::table(&mut text, ["EXPERT", "WEIGHT", "PROBABILITY", "TOKENS", "MS", "WHY"], rows);
    let _ = write!(text, "\nsynthesis: {}", synthesis_name(synthesis.strategy));
    if let Some(agreement) = synthesis.agreement {
        let _ = write!(text, ", agreement {agreement:.2}");
    }
    for reason in &answer.decision.reasons {
        let _ = write!(text, "\nrouting: {}", output::one_line(reason, STRIP_CHARS_MAX));
    }
    text.trim_start_matches('\n').to_owned()
}
