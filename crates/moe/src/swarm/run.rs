//! Running experts for one answer: events, failures, who stands in for whom, and what each spent.

use std::collections::BTreeSet;

use super::{ExpertStates, ExpertUsage, Roster, SwarmPiece, SwarmRequest};
use crate::synthesis::trust;
use crate::{
    Error, ExpertBackend, ExpertFailure, ExpertId, ExpertJob, ExpertProfile, ExpertResponse, Flow, Mixture, MixtureJob,
    Result, RoutingDecision,
};

/// How far fallbacks of fallbacks are followed.
pub const FALLBACK_DEPTH_MAX: usize = 4;

/// The most experts that are asked one question; what a routing decision names beyond is told in the notes.
pub const ASKED_MAX: usize = 64;

/// Takes pieces until the caller breaks off; keeps the answer's text.
pub(super) struct Sink<'a> {
    on_piece: &'a mut dyn FnMut(SwarmPiece<'_>) -> Flow,
    broken: bool,
    /// All text of the answer so far.
    pub written: String,
}

impl Sink<'_> {
    pub fn emit(&mut self, piece: SwarmPiece<'_>) -> Flow {
        if self.broken {
            return Flow::Break(());
        }
        if let SwarmPiece::Text(text) = piece {
            self.written.push_str(text);
        }
        let flow = (self.on_piece)(piece);
        self.broken = flow.is_break();
        flow
    }

    /// Text of the answer; nothing for no text.
    pub fn text(&mut self, text: &str) -> Flow {
        if text.is_empty() { Flow::Continue(()) } else { self.emit(SwarmPiece::Text(text)) }
    }

    /// What a backend hands over: empty while nothing new is there, so that the caller can break off.
    pub fn streamed(&mut self, text: &str) -> Flow {
        self.emit(SwarmPiece::Text(text))
    }

    /// # Errors
    /// [`Error::Cancelled`] if the caller broke off.
    pub fn check(&self) -> Result<()> {
        if self.broken { Err(Error::Cancelled) } else { Ok(()) }
    }
}

/// One answer on its way.
pub(super) struct Run<'a> {
    roster: &'a dyn Roster,
    states: &'a ExpertStates,
    backend: &'a mut dyn ExpertBackend,
    pub request: &'a SwarmRequest,
    pub decision: &'a RoutingDecision,
    pub sink: Sink<'a>,
    /// What the reader should know.
    pub notes: Vec<String>,
    /// Who failed, by name.
    failures: Vec<(String, ExpertFailure)>,
    /// Who was asked the question, or refused before.
    tried: BTreeSet<ExpertId>,
    usage: Vec<(ExpertId, ExpertUsage)>,
    /// Of all, a mixture counted once.
    prompt_tokens: usize,
    tokens: usize,
}

/// What an expert said, or why it did not.
pub(super) type Outcome = std::result::Result<ExpertResponse, ExpertFailure>;

/// What is put to an expert.
pub(super) struct Question {
    pub expert: ExpertId,
    pub prompt: String,
    pub bare: bool,
}

impl<'a> Run<'a> {
    pub fn new(
        roster: &'a dyn Roster,
        states: &'a ExpertStates,
        backend: &'a mut dyn ExpertBackend,
        request: &'a SwarmRequest,
        decision: &'a RoutingDecision,
        on_piece: &'a mut dyn FnMut(SwarmPiece<'_>) -> Flow,
    ) -> Self {
        Self {
            roster,
            states,
            backend,
            request,
            decision,
            sink: Sink { on_piece, broken: false, written: String::new() },
            notes: Vec::new(),
            failures: Vec::new(),
            tried: BTreeSet::new(),
            usage: Vec::new(),
            prompt_tokens: 0,
            tokens: 0,
        }
    }

    /// What each spent, and the tokens that all together read and wrote.
    pub fn into_usage(self) -> (Vec<(ExpertId, ExpertUsage)>, usize, usize) {
        (self.usage, self.prompt_tokens, self.tokens)
    }

    /// Those chosen that are known, each once, in their order. One that is not known is told in the notes.
    ///
    /// # Errors
    /// [`Error::NoneFits`] where nobody was chosen, [`Error::NoSuchExpert`] where none of them is known.
    pub fn selected(&mut self) -> Result<Vec<ExpertId>> {
        let Some(first) = self.decision.selected.first() else { return Err(Error::NoneFits) };
        let mut seen = BTreeSet::new();
        let (mut known, unknown): (Vec<_>, Vec<_>) = self
            .decision
            .selected
            .iter()
            .filter(|id| seen.insert(**id))
            .partition(|id| self.roster.expert(**id).is_some());
        self.notes.extend(unknown.iter().map(|id| format!("expert {id} was chosen and is not in this swarm any more")));
        if known.len() > ASKED_MAX {
            self.notes.push(format!("{} experts were chosen, and only the first {ASKED_MAX} asked", known.len()));
            known.truncate(ASKED_MAX);
        }
        if known.is_empty() { Err(Error::NoSuchExpert(*first)) } else { Ok(known) }
    }

    /// The most trusted first; of equally trusted ones in their order.
    pub fn by_confidence(&self, mut experts: Vec<ExpertId>) -> Vec<ExpertId> {
        experts.sort_by(|a, b| self.confidence(*b).total_cmp(&self.confidence(*a)));
        experts
    }

    /// How much the router trusts an expert on this question, 0 to 1.
    pub fn confidence(&self, expert: ExpertId) -> f32 {
        self.decision.confidence.iter().find(|(id, _)| *id == expert).map_or(0.0, |(_, confidence)| trust(*confidence))
    }

    pub fn name(&self, expert: ExpertId) -> String {
        self.roster.expert(expert).map_or_else(|| format!("expert {expert}"), |(config, _)| config.name.clone())
    }

    pub fn profile(&self, expert: ExpertId) -> Option<&'a ExpertProfile> {
        self.roster.expert(expert).map(|(_, profile)| profile)
    }

    /// The generalist.
    pub fn generalist(&self) -> Option<ExpertId> {
        let weighed = self.decision.confidence.iter().map(|(id, _)| *id);
        let mut named = weighed.chain(self.decision.selected.iter().copied());
        let known = self.roster.generalist();
        known.or_else(|| named.find(|id| self.profile(*id).is_some_and(|profile| profile.generalist)))
    }

    /// The question itself.
    pub fn question(&self, expert: ExpertId) -> Question {
        Question { expert, prompt: self.request.text.clone(), bare: false }
    }

    /// Puts questions to experts; `on_text` gets what they say. Results in the order of the questions. A failure is not
    /// yet told to anybody: [`fail`](Self::fail).
    ///
    /// # Errors
    /// [`Error::Cancelled`] if the caller broke off.
    pub fn ask(
        &mut self,
        questions: &[Question],
        on_text: &mut dyn FnMut(&mut Sink<'_>, ExpertId, &str) -> Flow,
    ) -> Result<Vec<Outcome>> {
        let experts: Vec<ExpertId> = questions.iter().map(|question| question.expert).collect();
        self.tried.extend(&experts);
        self.start(&experts)?;
        let job = |question: &Question| ExpertJob {
            expert: question.expert,
            prompt: question.prompt.clone(),
            bare: question.bare,
            max_tokens: self.request.max_tokens,
        };
        let jobs: Vec<ExpertJob> = questions.iter().map(job).collect();
        let busy = self.states.busy(&experts);
        let sink = &mut self.sink;
        let mut on_piece = |index: usize, text: &str| {
            if sink.broken {
                return Flow::Break(());
            }
            let flow = experts.get(index).map_or(Flow::Continue(()), |expert| on_text(sink, *expert, text));
            if sink.broken { Flow::Break(()) } else { flow }
        };
        let mut results = self.backend.run(&jobs, &mut on_piece);
        drop(busy);
        self.sink.check()?;
        results.truncate(experts.len());
        results.resize(experts.len(), Err(ExpertFailure::Failed("the backend returned nothing for it".to_owned())));
        for (expert, result) in experts.into_iter().zip(&mut results) {
            self.settle(expert, result);
        }
        self.sink.check()?;
        Ok(results)
    }

    fn start(&mut self, experts: &[ExpertId]) -> Result<()> {
        for &expert in experts {
            self.usage_of(expert).calls += 1;
            let name = self.name(expert);
            let _ = self.sink.emit(SwarmPiece::Started { expert, name: &name });
        }
        self.sink.check()
    }

    /// Counts a result, and fills in what the backend does not know. An answer without text is a failure.
    fn settle(&mut self, expert: ExpertId, result: &mut Outcome) {
        if let Ok(response) = result {
            (response.expert, response.name) = (expert, self.name(expert));
            response.confidence = self.confidence(expert);
            self.spend(expert, response);
            self.count(response);
            let (tokens, latency_ms) = (response.tokens, response.latency_ms);
            let _ = self.sink.emit(SwarmPiece::Finished { expert, name: &response.name, tokens, latency_ms });
            if response.text.trim().is_empty() {
                *result = Err(ExpertFailure::Failed("it answered nothing".to_owned()));
            }
        }
        if let Err(ExpertFailure::Unavailable(_)) = result {
            self.states.set_loaded(expert, false);
        }
    }

    fn spend(&mut self, expert: ExpertId, response: &ExpertResponse) {
        self.states.count(expert, response.latency_ms);
        let usage = self.usage_of(expert);
        usage.prompt_tokens += response.prompt_tokens;
        usage.tokens += response.tokens;
        usage.latency_ms += response.latency_ms;
        usage.cut = response.cut;
    }

    fn count(&mut self, response: &ExpertResponse) {
        self.prompt_tokens += response.prompt_tokens;
        self.tokens += response.tokens;
    }

    fn usage_of(&mut self, expert: ExpertId) -> &mut ExpertUsage {
        let index = self.usage.iter().position(|(id, _)| *id == expert).unwrap_or_else(|| {
            self.usage.push((expert, ExpertUsage::default()));
            self.usage.len() - 1
        });
        &mut self.usage[index].1
    }

    /// Generates from a mixture; `on_text` gets its text. The members' failures are in `failed`.
    ///
    /// # Errors
    /// [`Error::Cancelled`] if the caller broke off.
    pub fn mix(
        &mut self,
        experts: &[ExpertId],
        mixture: &mut Mixture,
        failed: &mut Vec<(ExpertId, ExpertFailure)>,
    ) -> Result<Outcome> {
        self.start(experts)?;
        let job = MixtureJob {
            experts: experts.to_vec(),
            prompt: self.request.text.clone(),
            max_tokens: self.request.max_tokens,
        };
        let busy = self.states.busy(experts);
        let sink = &mut self.sink;
        let result = self.backend.mix(&job, mixture, failed, &mut |_, text| sink.streamed(text));
        drop(busy);
        self.sink.check()?;
        for (index, fault) in mixture.faults() {
            let expert = experts[*index];
            if failed.iter().all(|(id, _)| *id != expert) {
                failed.push((expert, ExpertFailure::Failed(fault.to_string())));
            }
        }
        if let Ok(response) = &result {
            self.count(response);
            for &expert in experts.iter().filter(|expert| failed.iter().all(|(id, _)| id != *expert)) {
                self.spend(expert, response);
                let (name, tokens, latency_ms) = (self.name(expert), response.tokens, response.latency_ms);
                let _ = self.sink.emit(SwarmPiece::Finished { expert, name: &name, tokens, latency_ms });
            }
        }
        self.sink.check()?;
        Ok(result)
    }

    /// What the expert's tokens mean, from its profile or else from the backend.
    pub fn tokenizer_hash(&mut self, expert: ExpertId) -> std::result::Result<u64, ExpertFailure> {
        match self.profile(expert).and_then(|profile| profile.tokenizer_hash) {
            Some(hash) => Ok(hash),
            None => self.backend.tokenizer_hash(expert),
        }
    }

    /// Tells that an expert failed, and who is asked in its place.
    ///
    /// # Errors
    /// [`Error::Cancelled`] if the caller breaks off.
    pub fn fail(&mut self, expert: ExpertId, failure: &ExpertFailure, instead: Option<ExpertId>) -> Result<()> {
        let (name, reason) = (self.name(expert), failure.to_string());
        self.tried.insert(expert);
        self.usage_of(expert).failure = Some(reason.clone());
        self.failures.push((name.clone(), failure.clone()));
        self.notes.push(match instead {
            Some(other) => format!("{name} did not answer ({reason}); {} was asked in its place", self.name(other)),
            None => format!("{name} did not answer ({reason})"),
        });
        let _ = self.sink.emit(SwarmPiece::Failed { expert, name: &name, reason: &reason, instead });
        self.sink.check()
    }

    /// The nearest fallback of an expert that was not asked yet. A cycle and a chain that is too long end the search,
    /// and the notes say so.
    pub fn fallback(&mut self, of: ExpertId) -> Option<ExpertId> {
        let mut passed = vec![of];
        let mut at = of;
        while let Some(next) = self.profile(at).and_then(|profile| profile.fallback) {
            let name = self.name(of);
            if passed.contains(&next) {
                self.notes.push(format!("the fallbacks of {name} lead in a circle, back to {}", self.name(next)));
                return None;
            }
            if passed.len() > FALLBACK_DEPTH_MAX {
                self.notes.push(format!("the fallbacks of {name} go on for more than {FALLBACK_DEPTH_MAX} steps"));
                return None;
            }
            if self.profile(next).is_none() {
                self.notes.push(format!("the fallback {next} of {} is not in this swarm", self.name(at)));
                return None;
            }
            if !self.tried.contains(&next) {
                return Some(next);
            }
            passed.push(next);
            at = next;
        }
        None
    }

    /// Who takes the place of an expert that failed: its fallback, or the generalist.
    pub fn stand_in(&mut self, of: ExpertId) -> Option<ExpertId> {
        self.fallback(of).or_else(|| self.free_generalist())
    }

    /// The generalist, unless it was asked already.
    pub fn free_generalist(&self) -> Option<ExpertId> {
        self.generalist().filter(|generalist| !self.tried.contains(generalist))
    }

    /// Whether an expert has failed at this question.
    pub fn has_failed(&self, expert: ExpertId) -> bool {
        self.usage.iter().any(|(id, usage)| *id == expert && usage.failure.is_some())
    }

    /// The error when nobody is left: where only length was in the way, it is the question's.
    pub fn all_failed(&self) -> Error {
        let length = |(_, failure): &(String, ExpertFailure)| match failure {
            ExpertFailure::TooLong { prompt, context } => Some((*context, *prompt)),
            _ => None,
        };
        let lengths: Option<Vec<_>> = self.failures.iter().map(length).collect();
        match lengths.and_then(|lengths| lengths.into_iter().max()) {
            Some((context, prompt)) => Error::TooLong { prompt, context },
            None => Error::AllFailed(self.failures.iter().map(|(name, why)| format!("{name}: {why}")).collect()),
        }
    }
}
