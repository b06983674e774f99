//! Which experts answer a question: a cascade of stages, cheap ones first, and one calibrated probability out of all.
//!
//! | stage | what it looks at | where |
//! |---|---|---|
//! | pin, session | what the caller insists on; who answered this conversation last | [`sessions`], `decide` |
//! | keywords | words and phrases that experts registered, with IDF weights | [`keywords`] |
//! | classifier | resemblance to experts' examples and terms; learns from feedback | [`classifier`], [`features`] |
//! | likelihood | where these leave doubt: the prompt's probability under the candidates in memory | [`signals`] |
//! | embedding | likewise: similarity to experts' centroids | [`signals`] |
//!
//! [`calibration`] turns the stages' signals into a probability, [`fit`] learns it from labelled questions, [`decide`]
//! chooses. Experts come and go at run time at a cost of their own keywords and examples; nothing is rebuilt.
//!
//! A router reads no clock and no chance: the same registrations and questions give the same decisions. It runs no
//! model; what models could tell it asks for through [`RoutingEvidence`].

mod calibration;
mod calibration_text;
mod classifier;
mod decide;
mod experts;
mod explain;
mod features;
mod fit;
mod keywords;
mod sessions;
mod signals;
mod words;

pub use calibration::{Calibration, Curve, SIGNAL_MAX, SIGNALS, Signal, StageSet, expected_calibration_error};
pub use calibration_text::{CALIBRATION_BYTES_MAX, KNOTS_MAX};
pub use classifier::{FEATURE_EXPERTS_MAX, POSTINGS_MAX};
pub use decide::{EvidenceRequest, FOLLOW_UP_WORDS, GatheredEvidence, RouteStep};
pub use explain::{MatchReport, Stage, StageReport, StageStatus};
pub use fit::FIT_QUESTIONS_MIN;
pub use keywords::{KEYWORD_EXPERTS_MAX, PHRASE_ATOMS_MAX, keyword_idf};

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{Error, ExpertConfig, ExpertId, ExpertProfile, Result};
use classifier::{CORPUS_UNITS, Classifier, EXAMPLE_UNITS};
use experts::{Expert, Experts};
use keywords::KeywordIndex;
use sessions::Sessions;
use words::Words;

/// The longest question that is accepted, in bytes.
pub const QUERY_BYTES_MAX: usize = 1 << 20;

/// A longer question is routed by its first and last halves of this many bytes.
pub const ROUTED_BYTES_MAX: usize = 64 << 10;

/// The most experts of a router.
pub const EXPERTS_MAX: usize = 1 << 16;

/// The most keywords of an expert.
pub const KEYWORDS_MAX: usize = 1 << 16;

/// The most bytes of an expert's examples and corpus together.
pub const PROFILE_BYTES_MAX: usize = 64 << 20;

/// The most dimensions of a centroid.
pub const DIMENSIONS_MAX: usize = 1 << 16;

/// How many experts are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RoutingStrategy {
    /// The `n` likeliest of those that fit. `n` is at least 1.
    TopK(usize),
    /// All that fit and whose probability is at least this, 0 to 1.
    Threshold(f32),
    /// The likeliest of those that fit.
    Single,
    /// Every expert of the swarm, likeliest first, whether it fits or not.
    All,
}

/// A conversation, by a number that the caller chooses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionId(pub u64);

/// What is to be routed.
#[derive(Clone, Copy, Debug, Default)]
pub struct RouteQuery<'a> {
    /// The question.
    pub text: &'a str,
    /// An expert that the caller insists on.
    pub pinned: Option<ExpertId>,
    /// The conversation that the question belongs to.
    pub session: Option<SessionId>,
    /// Whether [`RoutingDecision::stages`] is wanted; it costs more than routing does.
    pub explain: bool,
}

/// Evidence that costs a model's work and is asked for only where the cheap stages leave doubt.
pub trait RoutingEvidence {
    /// Mean log probability per byte of the question under each candidate; `None` for those not in memory. Values that
    /// are not finite, or above 0, count as `None`.
    fn prompt_logprobs(&mut self, candidates: &[ExpertId]) -> Vec<Option<f32>>;
    /// The question's embedding, if there is an embedding model. One that is not finite or has no length is passed
    /// over.
    fn embedding(&mut self) -> Option<Vec<f32>>;
}

/// Who answers, and why.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RoutingDecision {
    /// Those who answer, likeliest first. Empty where nobody fits and there is no generalist.
    pub selected: Vec<ExpertId>,
    /// The calibrated probability of every expert, highest first; equals by priority, then by lower id. Of a pinned
    /// question only the pinned expert, with 1.
    pub confidence: Vec<(ExpertId, f32)>,
    /// Why, in sentences for people, one for each stage that had a say.
    pub reasons: Vec<String>,
    /// The registrations that [`selected`](Self::selected) means, in its order: an expert that was removed and came
    /// again has another one ([`Router::is_current`]).
    pub generations: Vec<u64>,
    /// Whether nobody fitted, so that the generalist stands in.
    pub fallback: bool,
    /// What each stage found; empty unless [`RouteQuery::explain`].
    pub stages: Vec<StageReport>,
}

/// Which stages run, and where they change their mind.
#[derive(Clone, Debug, PartialEq)]
pub struct RouterConfig {
    /// Whether an expert can be pinned. Without, a pinned question is refused.
    pub pin: bool,
    /// Whether a conversation stays with the expert that answered last.
    pub session: bool,
    /// Whether keywords are looked for.
    pub keywords: bool,
    /// Whether the classifier runs.
    pub classifier: bool,
    /// Whether the prompt's likelihood is asked for in doubt.
    pub likelihood: bool,
    /// Whether the question's embedding is asked for in doubt.
    pub embedding: bool,
    /// A conversation moves where another expert that fits is likelier by more than this, 0 to 1.
    pub session_margin: f32,
    /// Conversations that are remembered.
    pub sessions_max: usize,
    /// There is doubt where the likeliest expert leads by less than this, 0 to 1.
    pub doubt_margin: f32,
    /// How many of the likeliest experts are compared by likelihood, beside the generalist.
    pub candidates_max: usize,
}

impl Default for RouterConfig {
    fn default() -> Self {
        Self {
            pin: true,
            session: true,
            keywords: true,
            classifier: true,
            likelihood: true,
            embedding: true,
            session_margin: 0.3,
            sessions_max: 4096,
            doubt_margin: 0.25,
            candidates_max: 3,
        }
    }
}

/// Chooses experts. Routing takes `&self`, so any number of threads may route at once; see
/// [`SharedRouter`](crate::SharedRouter) for experts that come and go meanwhile.
#[derive(Debug, Default)]
pub struct Router {
    experts: Experts,
    keywords: KeywordIndex,
    classifier: Classifier,
    config: RouterConfig,
    calibration: Calibration,
    curves: calibration::Curves,
    /// Held for a look-up or an entry only.
    sessions: Mutex<Sessions>,
}

impl Router {
    /// An empty router.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for a setting that is not within its range.
    pub fn new(config: RouterConfig) -> Result<Self> {
        let mut router = Self::default();
        router.set_config(config)?;
        Ok(router)
    }

    /// Changes the settings.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for a setting that is not within its range; the old ones stay.
    pub fn set_config(&mut self, config: RouterConfig) -> Result<()> {
        for (name, value) in [("session_margin", config.session_margin), ("doubt_margin", config.doubt_margin)] {
            if !(0.0..=1.0).contains(&value) {
                return Err(Error::OutOfRange { name, value: value.to_string(), range: "0 to 1" });
            }
        }
        if !(2..=16).contains(&config.candidates_max) {
            let value = config.candidates_max.to_string();
            return Err(Error::OutOfRange { name: "candidates_max", value, range: "2 to 16" });
        }
        if config.sessions_max > 1 << 20 {
            let value = config.sessions_max.to_string();
            return Err(Error::OutOfRange { name: "sessions_max", value, range: "0 to 1048576" });
        }
        self.config = config;
        Ok(())
    }

    /// The settings.
    pub fn config(&self) -> &RouterConfig {
        &self.config
    }

    /// Changes how signals become probabilities.
    ///
    /// # Errors
    /// [`Error::Calibration`] for one that is no calibration: see [`Calibration::check`].
    pub fn set_calibration(&mut self, calibration: Calibration) -> Result<()> {
        calibration.check()?;
        self.curves = calibration::Curves::new(&calibration);
        self.calibration = calibration;
        Ok(())
    }

    /// How signals become probabilities.
    pub fn calibration(&self) -> &Calibration {
        &self.calibration
    }

    /// Adds an expert without a profile; see [`register_with`](Self::register_with).
    pub fn register(&mut self, config: ExpertConfig) {
        self.register_with(config, ExpertProfile::default());
    }

    /// Adds an expert with its profile. The cost is that of its own keywords and examples.
    ///
    /// An id that is there already is replaced, with all that was learned for it: the new one has its place in the
    /// order and another generation. If several experts call themselves generalist, the one registered first is; the
    /// others are ordinary experts until it is removed.
    ///
    /// Keywords without a word or symbol, or of more than [`PHRASE_ATOMS_MAX`] of them, match nothing, and what is
    /// beyond [`KEYWORDS_MAX`] and [`PROFILE_BYTES_MAX`] is not learned: [`refused`](Self::refused) names all of it,
    /// and [`check_expert`](Self::check_expert) tells beforehand.
    ///
    /// # Panics
    /// With more than [`EXPERTS_MAX`] experts.
    pub fn register_with(&mut self, config: ExpertConfig, profile: ExpertProfile) {
        let seat = self.take_out(config.id).map(|(_, seat)| seat);
        assert!(self.experts.len() < EXPERTS_MAX, "a router has at most {EXPERTS_MAX} experts");
        let slot = self.experts.insert(config, profile, seat);
        let expert = self.experts.get_mut(slot);
        let keywords = &expert.config.domain.keywords;
        let (hashes, refused) = self.keywords.add(slot, &keywords[..keywords.len().min(KEYWORDS_MAX)]);
        expert.keywords = hashes;
        expert.refused.extend(refused.into_iter().map(|keyword| format!("keyword {keyword:?}")));
        if keywords.len() > KEYWORDS_MAX {
            expert.refused.push(format!("{} keywords beyond {KEYWORDS_MAX}", keywords.len() - KEYWORDS_MAX));
        }
        let (mut words, mut features, mut bytes) = (Words::default(), Vec::new(), 0);
        let Expert { profile, learned, refused, .. } = expert;
        let examples = profile.examples.iter().map(|text| (text, EXAMPLE_UNITS));
        for (at, (text, units)) in examples.chain(profile.corpus.iter().map(|text| (text, CORPUS_UNITS))).enumerate() {
            bytes += text.len();
            if bytes > PROFILE_BYTES_MAX {
                let left = profile.examples.len() + profile.corpus.len() - at;
                refused.push(format!("{left} texts beyond {PROFILE_BYTES_MAX} bytes"));
                break;
            }
            words.clear();
            words.push(text);
            features::extract(&words, &mut features);
            self.classifier.learn(slot, learned, &features, units);
        }
        self.experts.update_stages(slot);
    }

    /// Whether all of an expert would be taken as it is, for configurations that should be refused otherwise.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for a threshold that is not within 0 to 1, a keyword that can match nothing, or more than
    /// the limits allow; names the expert's part.
    pub fn check_expert(config: &ExpertConfig, profile: &ExpertProfile) -> Result<()> {
        let range = |name, value: String, range| Err(Error::OutOfRange { name, value, range });
        if !(0.0..=1.0).contains(&config.domain.threshold) {
            return range("domain.threshold", config.domain.threshold.to_string(), "0 to 1");
        }
        if config.domain.keywords.len() > KEYWORDS_MAX {
            return range("domain.keywords", config.domain.keywords.len().to_string(), "at most 65536 keywords");
        }
        for keyword in &config.domain.keywords {
            if !(1..=PHRASE_ATOMS_MAX).contains(&Words::of(keyword).atoms().len()) {
                return range("domain.keywords", format!("{keyword:?}"), "1 to 16 words and symbols");
            }
        }
        let bytes: usize = profile.examples.iter().chain(&profile.corpus).map(String::len).sum();
        if bytes > PROFILE_BYTES_MAX {
            return range("examples and corpus", format!("{bytes} bytes"), "at most 64 MiB");
        }
        Ok(())
    }

    /// Removes an expert and all that was learned for it. False if it is not there.
    pub fn remove(&mut self, id: ExpertId) -> bool {
        self.take_out(id).is_some()
    }

    fn take_out(&mut self, id: ExpertId) -> Option<(Expert, u64)> {
        let slot = self.experts.slot(id)?;
        let expert = self.experts.get(slot);
        self.keywords.remove(slot, &expert.keywords);
        self.classifier.forget(slot, &expert.learned);
        Some(self.experts.remove(slot))
    }

    /// One expert.
    pub fn get(&self, id: ExpertId) -> Option<(&ExpertConfig, &ExpertProfile)> {
        let expert = self.experts.get(self.experts.slot(id)?);
        Some((&expert.config, &expert.profile))
    }

    /// The first expert of that name, in the order of registration. Case counts.
    pub fn by_name(&self, name: &str) -> Option<ExpertId> {
        self.experts.iter().find(|expert| expert.config.name == name).map(|expert| expert.config.id)
    }

    /// All experts, in the order of their registration.
    pub fn iter(&self) -> impl Iterator<Item = (&ExpertConfig, &ExpertProfile)> {
        self.experts.iter().map(|expert| (&expert.config, &expert.profile))
    }

    /// How many experts there are.
    pub fn len(&self) -> usize {
        self.experts.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The fallback, if there is one.
    pub fn generalist(&self) -> Option<ExpertId> {
        self.experts.generalist().map(|slot| self.experts.standing(slot).id)
    }

    /// Notes what an expert's tokens mean, as a hash, once its model is known. False if the expert is not there.
    pub fn set_tokenizer_hash(&mut self, id: ExpertId, hash: Option<u64>) -> bool {
        let Some(slot) = self.experts.slot(id) else { return false };
        self.experts.get_mut(slot).profile.tokenizer_hash = hash;
        true
    }

    /// What of an expert is not indexed, and why; empty where all is.
    pub fn refused(&self, id: ExpertId) -> &[String] {
        self.experts.slot(id).map_or(&[], |slot| &self.experts.get(slot).refused)
    }

    /// The number of an expert's registration; no two registrations of a router have the same.
    pub fn generation(&self, id: ExpertId) -> Option<u64> {
        self.experts.slot(id).map(|slot| self.experts.get(slot).generation)
    }

    /// Whether all that a decision selected are still the experts that it meant: neither removed nor replaced.
    pub fn is_current(&self, decision: &RoutingDecision) -> bool {
        decision.selected.len() == decision.generations.len()
            && decision.selected.iter().zip(&decision.generations).all(|(id, g)| self.generation(*id) == Some(*g))
    }

    /// Learns that an expert was right, or wrong, for a question; counts as one example. Feedback against an expert can
    /// take away what speaks for it, not more: it is no evidence for the others.
    ///
    /// # Errors
    /// [`Error::NoSuchExpert`]; [`Error::EmptyQuery`] and [`Error::QueryTooLong`] as [`route`](Self::route) has them.
    pub fn feedback(&mut self, text: &str, id: ExpertId, good: bool) -> Result<()> {
        decide::check_text(text)?;
        let slot = self.experts.slot(id).ok_or(Error::NoSuchExpert(id))?;
        let (head, tail) = signals::routed_part(text);
        let mut words = Words::of(head);
        words.push(tail);
        let mut features = Vec::new();
        features::extract(&words, &mut features);
        let units = if good { EXAMPLE_UNITS } else { -EXAMPLE_UNITS };
        self.classifier.learn(slot, &mut self.experts.get_mut(slot).learned, &features, units);
        self.experts.update_stages(slot);
        Ok(())
    }

    /// Sets the centre of an expert's questions in the space of some embedding model, `[dimensions]`; its length does
    /// not matter. Questions are compared with centroids of as many dimensions as their embedding has.
    ///
    /// # Errors
    /// [`Error::NoSuchExpert`]; [`Error::OutOfRange`] for a vector that is empty, too long, not finite or 0.
    pub fn set_centroid(&mut self, id: ExpertId, mut centroid: Vec<f32>) -> Result<()> {
        let slot = self.experts.slot(id).ok_or(Error::NoSuchExpert(id))?;
        if centroid.len() > DIMENSIONS_MAX || !signals::normalise(&mut centroid) {
            let value = format!("a vector of {} numbers", centroid.len());
            let range = "1 to 65536 finite numbers that are not all 0";
            return Err(Error::OutOfRange { name: "centroid", value, range });
        }
        self.experts.set_centroid(slot, centroid);
        Ok(())
    }

    /// Forgets who answered a conversation last. False if it was not known.
    pub fn forget_session(&self, session: SessionId) -> bool {
        self.sessions().forget(session)
    }

    /// Conversations that are remembered.
    pub fn sessions_len(&self) -> usize {
        self.sessions().len()
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        // A thread that panicked cannot have left it half done: entries are made in one call.
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
