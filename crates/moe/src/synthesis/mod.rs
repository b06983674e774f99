//! Several finished answers become one: [`Synthesizer::join`], and the pure halves of what needs a model in between
//! ([`Synthesizer::reduction`], [`Debate`](DebateConfig)).
//!
//! Texts and confidences in, a text with its reasons out. It runs no expert and streams nothing (that is `swarm`), and
//! knows nothing of tokens (that is `mixture`). What makes two answers the same answer is in `canonical.rs`, each
//! strategy in the file of its name.
//!
//! What holds for all strategies: a confidence that is not a number counts as 0, one above 1 as 1. An answer without
//! text takes no part and is told in the notes, unless none has text. Where every confidence is 0, all answers count
//! alike.

mod average;
mod best;
mod canonical;
mod concatenate;
mod debate;
mod number;
mod shorten;
mod similarity;
mod summarize;
mod voting;

use crate::{Error, ExpertId, ExpertResponse, MixtureConfig, Result};

pub use canonical::{AnswerKind, CanonicalAnswer};
pub use debate::{DEBATE_ROUNDS_MAX, DebateConfig};
pub use shorten::shorten;
pub use similarity::similarity;
pub use summarize::{Reducer, Reduction, SummarizeConfig, SummarizeFallback};

pub(crate) use concatenate::{heading, same_answer};

/// How answers become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SynthesisStrategy {
    /// The answer of the most trusted expert; of equally trusted ones the one with the higher mean log probability
    /// (unknown is less than any), then the first.
    Best,
    /// Token by token, the mixture of the experts' probabilities ([`Mixture`](crate::Mixture)). Of finished numbers
    /// with one unit the mean weighted by confidence; of finished choices, yes or no, and short answers the one with
    /// the largest sum of confidences. Of anything else Best, and the notes say so.
    WeightedAverage,
    /// What the majority of confidence says; of free text the answer that is most like the others. Where nothing has a
    /// majority, the answer of the most trusted expert.
    Voting,
    /// All, each under its name, the most trusted first; equal ones once.
    Concatenate,
    /// A text that a reducer model makes of all.
    Summarize,
}

/// What an expert gave to an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Contribution {
    /// Who.
    pub expert: ExpertId,
    /// Its name.
    pub name: String,
    /// Its share, 0 to 1; all shares sum to 1.
    pub weight: f32,
    /// Why.
    pub why: String,
}

/// One answer out of several.
#[derive(Clone, Debug, PartialEq)]
pub struct Synthesis {
    /// The answer.
    pub text: String,
    /// What was done in the end: another strategy than the one asked for is told in `notes`.
    pub strategy: SynthesisStrategy,
    /// Who took part, with which weight and why.
    pub contributions: Vec<Contribution>,
    /// The share of answers that agree with it (weighted), where answers were compared.
    pub agreement: Option<f32>,
    /// What the reader should know: a downgrade, an expert that failed.
    pub notes: Vec<String>,
}

/// Makes one answer of several.
///
/// ```
/// use hublabio_moe::{ExpertId, ExpertResponse, SynthesisStrategy, Synthesizer};
///
/// let answer = |id, text: &str, confidence| ExpertResponse {
///     expert: ExpertId(id),
///     name: format!("expert-{id}"),
///     text: text.into(),
///     confidence,
///     mean_logprob: None,
///     prompt_tokens: 9,
///     tokens: 5,
///     latency_ms: 20.0,
///     cut: false,
/// };
/// let answers = [answer(1, "It is 512.", 0.4), answer(2, "1,024", 0.35), answer(3, "The answer is 1024.", 0.25)];
/// let synthesis = Synthesizer::new(SynthesisStrategy::Voting).join("What is 2 to the tenth?", &answers)?;
/// assert_eq!(synthesis.text, "1,024");
/// assert_eq!(synthesis.agreement, Some(0.6));
/// # Ok::<(), hublabio_moe::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Synthesizer {
    /// How.
    pub strategy: SynthesisStrategy,
    /// The share of confidence, 0 to 1, that an answer must have more of to win a vote.
    pub majority: f32,
    /// How probabilities are mixed; who is kept is filled in by the swarm.
    pub mixture: MixtureConfig,
    /// How summaries are made.
    pub summarize: SummarizeConfig,
    /// Whether and how experts see each other's answers before they vote. `None`: they do not.
    pub debate: Option<DebateConfig>,
}

impl Synthesizer {
    /// With the default settings of a strategy.
    pub fn new(strategy: SynthesisStrategy) -> Self {
        Self {
            strategy,
            majority: 0.5,
            mixture: MixtureConfig::default(),
            summarize: SummarizeConfig::default(),
            debate: None,
        }
    }

    /// Joins finished answers to a question.
    ///
    /// `Summarize` needs a reducer ([`reduction`](Self::reduction)); without one its fallback applies: the vote, said
    /// in the notes, or a refusal.
    ///
    /// # Errors
    /// [`Error::NoExperts`] without answers; [`Error::NoReducer`] for `Summarize` where its fallback is to refuse;
    /// [`Error::OutOfRange`] for a `majority` that is not in its range.
    pub fn join(&self, query: &str, responses: &[ExpertResponse]) -> Result<Synthesis> {
        self.check()?;
        let (answers, notes) = Answers::new(responses)?;
        let mut synthesis = match self.strategy {
            SynthesisStrategy::Best => best::join(&answers),
            SynthesisStrategy::WeightedAverage => average::join(query, &answers),
            SynthesisStrategy::Voting => voting::join(query, &answers, self.majority),
            SynthesisStrategy::Concatenate => concatenate::join(&answers),
            SynthesisStrategy::Summarize => return self.without_reducer(query, responses, "there is no reducer"),
        };
        synthesis.notes.splice(0..0, notes);
        Ok(synthesis)
    }

    /// Joins with another strategy and the same settings.
    pub(crate) fn join_as(
        &self,
        strategy: SynthesisStrategy,
        query: &str,
        responses: &[ExpertResponse],
    ) -> Result<Synthesis> {
        Self { strategy, ..self.clone() }.join(query, responses)
    }

    fn check(&self) -> Result<()> {
        if (0.0..=1.0).contains(&self.majority) {
            return Ok(());
        }
        Err(Error::OutOfRange { name: "majority", value: self.majority.to_string(), range: "0 to 1" })
    }
}

/// A confidence as all strategies take it.
pub(crate) fn trust(confidence: f32) -> f32 {
    if confidence.is_nan() { 0.0 } else { confidence.clamp(0.0, 1.0) }
}

/// Answers with text, and what each counts.
struct Answers<'a> {
    responses: Vec<&'a ExpertResponse>,
    /// Shares, `[responses]`, sum 1.
    shares: Vec<f64>,
}

impl<'a> Answers<'a> {
    fn new(all: &'a [ExpertResponse]) -> Result<(Self, Vec<String>)> {
        if all.is_empty() {
            return Err(Error::NoExperts);
        }
        let empty = |response: &&ExpertResponse| response.text.trim().is_empty();
        let mut responses: Vec<_> = all.iter().filter(|response| !empty(response)).collect();
        let mut notes: Vec<_> = all.iter().filter(empty).map(|r| format!("{} answered nothing", r.name)).collect();
        if responses.is_empty() {
            responses = all.iter().collect();
        }
        notes.extend(
            responses.iter().filter(|r| r.cut).map(|r| format!("the answer of {} was cut off by a limit", r.name)),
        );
        let trusts: Vec<f64> = responses.iter().map(|response| f64::from(trust(response.confidence))).collect();
        let sum: f64 = trusts.iter().sum();
        let share = |trust: &f64| if sum > 0.0 { trust / sum } else { 1.0 / trusts.len() as f64 };
        let shares = trusts.iter().map(share).collect();
        Ok((Self { responses, shares }, notes))
    }

    /// The most trusted of these: confidence, then mean log probability, then order.
    fn best_of(&self, among: impl IntoIterator<Item = usize>) -> Option<usize> {
        let logprob = |index: usize| {
            let logprob = self.responses[index].mean_logprob.unwrap_or(f32::NEG_INFINITY);
            if logprob.is_nan() { f32::NEG_INFINITY } else { logprob }
        };
        let confidence = |index: usize| trust(self.responses[index].confidence);
        among.into_iter().reduce(|best, other| {
            let order = confidence(other).total_cmp(&confidence(best)).then(logprob(other).total_cmp(&logprob(best)));
            if order.is_gt() { other } else { best }
        })
    }

    fn best(&self) -> usize {
        self.best_of(0..self.responses.len()).expect("there is an answer, or `new` had refused")
    }

    /// What each gave: its weight and why.
    fn contributions(&self, given: impl Fn(usize) -> (f64, String)) -> Vec<Contribution> {
        let contribution = |(index, response): (usize, &&ExpertResponse)| {
            let (weight, why) = given(index);
            Contribution { expert: response.expert, name: response.name.clone(), weight: weight as f32, why }
        };
        self.responses.iter().enumerate().map(contribution).collect()
    }
}
