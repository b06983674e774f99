//! A swarm: a question in, one answer out, with who took part and why.
//!
//! [`Swarm::answer`] routes, runs the chosen experts through an [`ExpertBackend`], and joins what they say. It decides
//! who is asked next and what is done about failures; it runs no model, reads no clock and starts no thread. How
//! experts are run and replaced is in `run.rs`, what each strategy asks of them in `strategies.rs`, who they are in
//! `roster.rs`.

mod roster;
mod run;
mod strategies;

use crate::{
    DebateConfig, Error, ExpertBackend, ExpertId, ExpertState, Flow, Result, RouteQuery, Router, RoutingDecision,
    RoutingEvidence, RoutingStrategy, SessionId, Synthesis, SynthesisStrategy, Synthesizer,
};

pub use roster::{ExpertStates, Roster};
pub use run::{ASKED_MAX, FALLBACK_DEPTH_MAX};

/// A question to a swarm.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SwarmRequest {
    /// The question.
    pub text: String,
    /// An expert that the caller insists on.
    pub pinned: Option<ExpertId>,
    /// The conversation that the question belongs to.
    pub session: Option<SessionId>,
    /// How experts are chosen, where not as the swarm has it.
    pub routing: Option<RoutingStrategy>,
    /// How answers are joined, where not as the swarm has it.
    pub synthesis: Option<SynthesisStrategy>,
    /// At most so many tokens an answer.
    pub max_tokens: Option<usize>,
    /// Lets the experts see each other's answers and vote after that, whatever `synthesis` is.
    pub debate: Option<DebateConfig>,
}

impl SwarmRequest {
    /// A question, everything else as the swarm has it.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }
}

/// What becomes known while an answer is made. All [`Text`](Self::Text) of an answer, one after the other, is the text
/// of its [`Synthesis`], to the byte.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum SwarmPiece<'a> {
    /// Who answers, and why. The first piece.
    Routed(&'a RoutingDecision),
    /// An expert was asked.
    Started {
        /// Who.
        expert: ExpertId,
        /// Its name.
        name: &'a str,
    },
    /// What an expert says that is not (or not yet) part of the answer.
    Draft {
        /// Who.
        expert: ExpertId,
        /// What came new.
        text: &'a str,
    },
    /// An expert has answered.
    Finished {
        /// Who.
        expert: ExpertId,
        /// Its name.
        name: &'a str,
        /// Tokens in its answer.
        tokens: usize,
        /// How long it took, in milliseconds.
        latency_ms: f32,
    },
    /// An expert did not answer.
    Failed {
        /// Who.
        expert: ExpertId,
        /// Its name.
        name: &'a str,
        /// Why.
        reason: &'a str,
        /// Who is asked in its place.
        instead: Option<ExpertId>,
    },
    /// An expert failed after part of its text was handed over. That part stays; if another expert goes on, the next
    /// text is a line in square brackets that says so, and then the other's answer from its beginning. Of a mixture
    /// that ended, its first member stands here, under the name `the mixture`.
    Interrupted {
        /// Who.
        expert: ExpertId,
        /// Its name.
        name: &'a str,
        /// Why.
        reason: &'a str,
    },
    /// A round of a debate begins.
    Round {
        /// Which, from 1.
        round: usize,
        /// The most that are held.
        rounds: usize,
    },
    /// Text of the answer. It is empty where an expert is at work and has nothing to show yet: the time to break off.
    Text(&'a str),
}

/// What an expert spent on an answer, all its turns together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExpertUsage {
    /// How often it was asked.
    pub calls: usize,
    /// Tokens that it read.
    pub prompt_tokens: usize,
    /// Tokens that it wrote, in a mixture those of the mixture.
    pub tokens: usize,
    /// How long it took, in milliseconds.
    pub latency_ms: f32,
    /// Whether its last answer was cut off by a limit.
    pub cut: bool,
    /// Why it failed last, if it did.
    pub failure: Option<String>,
}

/// A swarm's answer.
#[derive(Clone, Debug, PartialEq)]
pub struct SwarmAnswer {
    /// The answer.
    pub synthesis: Synthesis,
    /// Who was chosen and why.
    pub decision: RoutingDecision,
    /// What each expert that was asked spent, in the order in which they were first asked.
    pub usage: Vec<(ExpertId, ExpertUsage)>,
    /// Tokens that all of them read; the prompt of a mixture counts once.
    pub prompt_tokens: usize,
    /// Tokens that all of them wrote; those of a mixture count once.
    pub tokens: usize,
}

/// A router and a synthesizer.
#[derive(Debug)]
pub struct Swarm {
    /// Chooses.
    pub router: Router,
    /// Joins.
    pub synthesizer: Synthesizer,
    /// How many are chosen.
    pub strategy: RoutingStrategy,
    states: ExpertStates,
}

impl Swarm {
    /// An empty swarm.
    pub fn new(strategy: RoutingStrategy, synthesis: SynthesisStrategy) -> Self {
        Self {
            router: Router::default(),
            synthesizer: Synthesizer::new(synthesis),
            strategy,
            states: ExpertStates::default(),
        }
    }

    /// Routes only: the experts that would answer, likeliest first, by what can be known without a model. Empty where
    /// nobody fits and there is no generalist, and for a question that cannot be routed (one without text, for
    /// example).
    pub fn process(&mut self, query: &str) -> Vec<ExpertId> {
        let query = RouteQuery { text: query, ..RouteQuery::default() };
        self.router.route(&query, self.strategy, None).map(|decision| decision.selected).unwrap_or_default()
    }

    /// How an expert is doing; `None` for one that is not in this swarm.
    pub fn state(&self, id: ExpertId) -> Option<ExpertState> {
        self.router.get(id).map(|_| self.states.get(id))
    }

    /// The states of all experts, as a handle that can be read while an answer is on its way.
    pub fn states(&self) -> ExpertStates {
        self.states.clone()
    }

    /// Answers a question.
    ///
    /// Best, WeightedAverage and Concatenate hand over the answer's text as it comes, the others when it is decided;
    /// what their experts say comes as [`SwarmPiece::Draft`] meanwhile. A `Break` from `on_piece` ends everything.
    ///
    /// * **Best** asks the first of the routing decision alone, and the next one only where that fails.
    /// * **WeightedAverage** mixes the chosen experts and the generalist token by token, as far as their tokens mean
    ///   the same; with fewer than two of them it is Best, and the notes say so.
    /// * **Voting**, **Summarize** and debates ask all chosen experts at once; **Concatenate** one after the other, the
    ///   most trusted first, so that each answer can be read while it is written. An answer that was given before is
    ///   named, not repeated.
    ///
    /// An expert that fails is named in the notes. In its place come its fallback (and that one's, up to
    /// [`FALLBACK_DEPTH_MAX`] steps), for Best then the others that were chosen, then the generalist; nobody is asked
    /// the same question twice.
    ///
    /// ```
    /// use hublabio_moe::*;
    ///
    /// /// Experts that say their number; a real backend runs models.
    /// struct Numbers;
    ///
    /// impl ExpertBackend for Numbers {
    ///     fn run(
    ///         &mut self, jobs: &[ExpertJob], on_piece: &mut PieceSink<'_>,
    ///     ) -> Vec<Result<ExpertResponse, ExpertFailure>> {
    ///         let answer = |(index, job): (usize, &ExpertJob)| {
    ///             let text = format!("I am {}.", job.expert);
    ///             if on_piece(index, &text).is_break() {
    ///                 return Err(ExpertFailure::Cancelled);
    ///             }
    ///             let (name, confidence) = (String::new(), 0.0); // The swarm fills them in.
    ///             let (expert, latency_ms, cut) = (job.expert, 5.0, false);
    ///             let (mean_logprob, prompt_tokens, tokens) = (None, 9, 3);
    ///             Ok(ExpertResponse { expert, name, text, confidence, mean_logprob, prompt_tokens, tokens, latency_ms, cut })
    ///         };
    ///         jobs.iter().enumerate().map(answer).collect()
    ///     }
    /// #   fn tokenizer_hash(&mut self, _: ExpertId) -> Result<u64, ExpertFailure> { Ok(1) }
    /// #   fn mix(
    /// #       &mut self, _: &MixtureJob, _: &mut Mixture, _: &mut Vec<(ExpertId, ExpertFailure)>,
    /// #       _: &mut PieceSink<'_>,
    /// #   ) -> Result<ExpertResponse, ExpertFailure> {
    /// #       Err(ExpertFailure::Failed("no mixtures here".into()))
    /// #   }
    /// #   fn prompt_logprobs(&mut self, experts: &[ExpertId], _: &str) -> Vec<Option<f32>> {
    /// #       vec![None; experts.len()]
    /// #   }
    ///     // and the other methods
    /// }
    /// # type Result<T, E = Error> = std::result::Result<T, E>;
    ///
    /// let mut swarm = Swarm::new(RoutingStrategy::Single, SynthesisStrategy::Best);
    /// # let keywords = vec!["python".into(), "django".into()];
    /// # let domain = ExpertDomain { name: "python".into(), keywords, threshold: 0.5 };
    /// # let (name, description, model_path) = ("python".into(), String::new(), String::new());
    /// # let (id, node_id, priority) = (ExpertId(1), None, 0);
    /// # let python = ExpertConfig { id, name, description, domain, model_path, node_id, priority };
    /// swarm.router.register(python);
    /// let mut streamed = String::new();
    /// let request = SwarmRequest::new("How do I use Django ORM?");
    /// let answer = swarm.answer(&mut Numbers, &request, &mut |piece| {
    ///     if let SwarmPiece::Text(text) = piece {
    ///         streamed.push_str(text);
    ///     }
    ///     Flow::Continue(())
    /// })?;
    /// assert_eq!(answer.synthesis.text, "I am 1.");
    /// assert_eq!(streamed, answer.synthesis.text);
    /// assert_eq!(swarm.state(ExpertId(1)).map(|state| state.total_queries), Some(1));
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of routing; [`Error::NoneFits`] where nobody was chosen; [`Error::NoSuchExpert`] where none of those
    /// chosen is known; [`Error::AllFailed`], naming each, or [`Error::TooLong`]; [`Error::NoReducer`]; [`Error::Cancelled`] after a `Break`;
    /// [`Error::OutOfRange`] for settings.
    pub fn answer(
        &mut self,
        backend: &mut dyn ExpertBackend,
        request: &SwarmRequest,
        on_piece: &mut dyn FnMut(SwarmPiece<'_>) -> Flow,
    ) -> Result<SwarmAnswer> {
        if request.text.trim().is_empty() {
            return Err(Error::EmptyQuery);
        }
        let query =
            RouteQuery { text: &request.text, pinned: request.pinned, session: request.session, explain: false };
        let mut evidence = Evidence { backend, text: &request.text };
        let strategy = request.routing.unwrap_or(self.strategy);
        let decision = self.router.route(&query, strategy, Some(&mut evidence))?;
        self.answer_decided(&self.router, evidence.backend, request, decision, on_piece)
    }

    /// Answers a question whose experts are chosen already, and known to `roster`: the second half of
    /// [`answer`](Self::answer), with its errors.
    pub fn answer_decided(
        &self,
        roster: &dyn Roster,
        backend: &mut dyn ExpertBackend,
        request: &SwarmRequest,
        decision: RoutingDecision,
        on_piece: &mut dyn FnMut(SwarmPiece<'_>) -> Flow,
    ) -> Result<SwarmAnswer> {
        if request.text.trim().is_empty() {
            return Err(Error::EmptyQuery);
        }
        let mut run = run::Run::new(roster, &self.states, backend, request, &decision, on_piece);
        let synthesis = strategies::answer(&mut run, &self.synthesizer)?;
        let (usage, prompt_tokens, tokens) = run.into_usage();
        Ok(SwarmAnswer { synthesis, decision, usage, prompt_tokens, tokens })
    }
}

/// What the router may ask of models.
struct Evidence<'a> {
    backend: &'a mut dyn ExpertBackend,
    text: &'a str,
}

impl RoutingEvidence for Evidence<'_> {
    fn prompt_logprobs(&mut self, candidates: &[ExpertId]) -> Vec<Option<f32>> {
        self.backend.prompt_logprobs(candidates, self.text)
    }

    fn embedding(&mut self) -> Option<Vec<f32>> {
        None
    }
}
