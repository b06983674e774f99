//! A swarm that answers: descriptions, router, synthesizer and models behind one interface, for any number of clients.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use hublabio_moe::{
    Calibration, ExpertBackend as _, ExpertConfig, ExpertId, ExpertProfile, Flow, RouteQuery, Router, RouterConfig,
    RoutingDecision, RoutingEvidence, RoutingStrategy, SharedRouter, Swarm, SwarmAnswer, SwarmPiece, SwarmRequest,
    SynthesisStrategy,
};
use serde::{Deserialize, Serialize};

use super::expert_file::{ExpertSpec, ModelSource, read_bounded};
use super::fleet::{ExpertStatus, Fleet, FleetBackend, FleetConfig};
use super::folder::SwarmSpec;
use super::settings::SwarmSettings;
use crate::ai::{GenerationConfig, InferenceEngine, Message, ModelConfig};
use crate::error::{Error, Result};
use crate::node::Node;

/// The file of the folder with what the router's probabilities were calibrated to.
pub const CALIBRATION_FILE: &str = "calibration.toml";
/// The file of the folder with what users said about the router's choices, a line each.
pub const FEEDBACK_FILE: &str = "feedback.jsonl";
/// Feedback is read as far as this.
const FEEDBACK_BYTES_MAX: u64 = 16 << 20;
/// Examples of each expert that the embedding model reads.
const CENTROID_EXAMPLES_MAX: usize = 64;
/// A calibration is a page.
const CALIBRATION_BYTES_MAX: u64 = 1 << 20;

/// What a question comes with beside its text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AnswerOptions {
    /// What was said before, without a system prompt: each expert has its own.
    pub history: Vec<Message>,
    /// How tokens are chosen, in place of the experts' own settings.
    pub generation: Option<GenerationConfig>,
}

/// A line of the feedback file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Feedback {
    question: String,
    expert: String,
    good: bool,
}

/// A swarm of experts on this node. Shared freely between threads: many questions are routed and answered at once, each to the
/// bits that it has alone.
///
/// ```
/// use hublabio_runtime::moe::{AnswerOptions, Flow, SwarmEngine, SwarmPiece, SwarmRequest};
///
/// let swarm = SwarmEngine::open(None, &Default::default())?;
/// let request = SwarmRequest { max_tokens: Some(40), ..SwarmRequest::new("How do I reverse a list in Python?") };
/// let answer = swarm.answer(&request, &AnswerOptions::default(), &mut |piece| {
///     if let SwarmPiece::Text(text) = piece {
///         print!("{text}");
///     }
///     Flow::Continue(())
/// })?;
/// assert_eq!(answer.synthesis.contributions[0].name, "python");
/// # Ok::<(), hublabio_runtime::Error>(())
/// ```
pub struct SwarmEngine {
    folder: Option<PathBuf>,
    router: SharedRouter,
    fleet: Fleet,
    /// What whoever opened the swarm says of its budget, before the settings.
    budget: FleetConfig,
    /// What is swapped as a whole when files change.
    state: RwLock<Arc<State>>,
    /// Held while files are read again, so that one thread does it.
    reloading: Mutex<()>,
    /// The embedding model of the router's last stage.
    embedder: Mutex<Option<InferenceEngine>>,
}

/// A swarm as its files had it when they were read.
struct State {
    spec: SwarmSpec,
    roster: Vec<(ExpertConfig, ExpertProfile)>,
    /// Joins answers; its own router is not used.
    swarm: Swarm,
    notices: Vec<String>,
}

impl SwarmEngine {
    /// Opens the swarm of a folder, or that of the binary; see [`SwarmSpec::read`]. No model is loaded yet.
    ///
    /// # Errors
    /// When a file cannot be read, or says what cannot be: with file, line and key.
    pub fn open(folder: Option<&Path>, config: &FleetConfig) -> Result<Self> {
        Self::open_with(folder, config, None)
    }

    /// As [`open`](Self::open), beside the models of a node: on its threads, and in its memory, of which the node has so much
    /// less as experts are loaded.
    ///
    /// # Errors
    /// As there.
    pub fn open_beside(node: &Node, folder: Option<&Path>, config: &FleetConfig) -> Result<Self> {
        Self::open_with(folder, config, Some(node))
    }

    fn open_with(folder: Option<&Path>, config: &FleetConfig, node: Option<&Node>) -> Result<Self> {
        let spec = match folder {
            Some(folder) => SwarmSpec::read(folder)?,
            None => SwarmSpec::builtin()?,
        };
        Self::start(spec, folder.map(Path::to_owned), config, node)
    }

    /// A swarm of these experts; `config`'s settings hold in place of those of `spec` where they are given.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn with_spec(spec: SwarmSpec, folder: Option<PathBuf>, config: &FleetConfig) -> Result<Self> {
        Self::start(spec, folder, config, None)
    }

    fn start(spec: SwarmSpec, folder: Option<PathBuf>, config: &FleetConfig, node: Option<&Node>) -> Result<Self> {
        let given = config.settings.as_ref().map(|settings| settings.bytes_max);
        let config =
            FleetConfig { settings: config.settings.clone().or_else(|| Some(spec.settings.clone())), ..config.clone() };
        let fleet = Fleet::start_beside(node, &spec.experts, &config)?;
        let router = SharedRouter::new(Router::new(RouterConfig::default())?);
        let state = State {
            spec: SwarmSpec { experts: Vec::new(), ..spec.clone() },
            roster: Vec::new(),
            swarm: Swarm::new(spec.settings.routing, spec.settings.synthesis),
            notices: Vec::new(),
        };
        let engine = Self {
            folder,
            router,
            fleet,
            budget: FleetConfig {
                bytes_max: config.bytes_max.or(given),
                share: config.share,
                ..FleetConfig::default()
            },
            state: RwLock::new(Arc::new(state)),
            reloading: Mutex::new(()),
            embedder: Mutex::new(None),
        };
        engine.install(spec)?;
        Ok(engine)
    }

    fn state(&self) -> Arc<State> {
        Arc::clone(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes a description in place of the one before.
    fn install(&self, spec: SwarmSpec) -> Result<()> {
        let mut notices = Vec::new();
        let config = router_config(&spec.settings)?;
        for expert in &spec.experts {
            Router::check_expert(&expert.config, &expert.profile).map_err(|error| Error::SwarmFile {
                origin: expert.file.as_ref().map_or_else(|| expert.config.name.clone(), |p| p.display().to_string()),
                problem: error.to_string(),
            })?;
        }
        let mut swarm = Swarm::new(spec.settings.routing, spec.settings.synthesis);
        swarm.synthesizer = spec.settings.synthesizer(&spec)?;
        let calibration = self.read_calibration()?;
        let feedback = self.read_feedback(&spec, &mut notices)?;
        let old = self.state();
        self.router.write(|router| {
            router.set_config(config)?;
            router.set_calibration(calibration)?;
            for gone in &old.spec.experts {
                if spec.experts.iter().all(|expert| expert.config.id != gone.config.id) {
                    router.remove(gone.config.id);
                }
            }
            for expert in &spec.experts {
                let same = |o: &ExpertSpec| o.config == expert.config && o.profile == expert.profile;
                let kept = feedback.is_empty() && old.spec.experts.iter().any(same);
                if !kept {
                    router.register_with(expert.config.clone(), expert.profile.clone());
                }
            }
            for Feedback { question, expert, good } in &feedback {
                let learned = router.by_name(expert).map(|id| router.feedback(question, id, *good));
                if let Some(Err(error)) = learned {
                    notices.push(format!("{FEEDBACK_FILE}: a line about `{expert}` teaches nothing: {error}"));
                }
            }
            Ok::<(), Error>(())
        })?;
        self.fleet.set_experts(&spec.experts);
        self.fleet.set_bytes_max(self.budget.budget(&spec.settings));
        let roster = spec.experts.iter().map(|e| (e.config.clone(), e.profile.clone())).collect();
        self.open_embedder(&spec, &mut notices);
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(State { spec, roster, swarm, notices });
        Ok(())
    }

    /// Reads the folder again if a file in it came, went or changed; whether it did. After an error all is as it was.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn reload(&self) -> Result<bool> {
        let Some(folder) = &self.folder else { return Ok(false) };
        let _one = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.state().spec.is_stale(folder) {
            return Ok(false);
        }
        self.install(SwarmSpec::read(folder)?)?;
        Ok(true)
    }

    /// The description that holds now.
    #[must_use]
    pub fn spec(&self) -> SwarmSpec {
        self.state().spec.clone()
    }

    /// What the user should know about the description.
    #[must_use]
    pub fn notices(&self) -> Vec<String> {
        self.state().notices.clone()
    }

    /// The models and the thread that runs them.
    #[must_use]
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// The router.
    #[must_use]
    pub fn router(&self) -> &SharedRouter {
        &self.router
    }

    /// Where each expert is, and why it cannot be used, with its description.
    #[must_use]
    pub fn experts(&self) -> Vec<(ExpertSpec, ExpertStatus)> {
        let state = self.state();
        let statuses = self.fleet.status();
        let of = |spec: &ExpertSpec| {
            let status = statuses.iter().find(|status| status.id == spec.config.id)?;
            let mut status = status.clone();
            if let ModelSource::File(path) = &spec.source
                && status.unavailable.is_none()
                && !path.is_file()
            {
                status.unavailable = Some(format!("there is no model file {}", path.display()));
            }
            Some((spec.clone(), status))
        };
        state.spec.experts.iter().filter_map(of).collect()
    }

    /// Who would answer, and why. With `models`, experts in memory and the embedding model have their say where there is
    /// doubt.
    ///
    /// # Errors
    /// When the question is empty or too long, or the pinned expert is not there.
    pub fn route(
        &self,
        query: &RouteQuery<'_>,
        strategy: Option<RoutingStrategy>,
        models: bool,
    ) -> Result<RoutingDecision> {
        let strategy = strategy.unwrap_or_else(|| self.state().spec.settings.routing);
        let mut backend = self.fleet.backend(Vec::new(), None);
        let mut evidence = Evidence { engine: self, backend: &mut backend, text: query.text };
        let evidence: Option<&mut dyn RoutingEvidence> = if models { Some(&mut evidence) } else { None };
        Ok(self.router.route(query, strategy, evidence)?)
    }

    /// Answers a question; see [`Swarm::answer`].
    ///
    /// # Errors
    /// As there; and those of [`reload`](Self::reload) never: a broken file leaves the swarm as it was.
    pub fn answer(
        &self,
        request: &SwarmRequest,
        options: &AnswerOptions,
        on_piece: &mut dyn FnMut(SwarmPiece<'_>) -> Flow,
    ) -> Result<SwarmAnswer> {
        let mut backend = self.fleet.backend(options.history.clone(), options.generation.clone());
        let query =
            RouteQuery { text: &request.text, pinned: request.pinned, session: request.session, explain: false };
        let (state, decision) = loop {
            let strategy = request.routing.unwrap_or_else(|| self.state().spec.settings.routing);
            let mut evidence = Evidence { engine: self, backend: &mut backend, text: &request.text };
            let decision = self.router.route(&query, strategy, Some(&mut evidence))?;
            let state = self.state();
            let is_known = |id: &ExpertId| state.roster.iter().any(|(config, _)| config.id == *id);
            if decision.selected.iter().all(is_known) {
                break (state, decision);
            }
            // The files are being read again: the router knows the new experts, the rest not yet, or no longer.
            drop(self.reloading.lock().unwrap_or_else(PoisonError::into_inner));
        };
        if request.session.is_some() {
            // A conversation goes on: the runner-up may be loaded while its user reads.
            self.fleet.hint(&decision.confidence[..decision.confidence.len().min(2)]);
        }
        let synthesis = request.synthesis.unwrap_or(state.spec.settings.synthesis);
        let measured = (synthesis == SynthesisStrategy::Summarize).then(|| self.measured(&state));
        let roster = measured.as_ref().unwrap_or(&state.roster);
        Ok(state.swarm.answer_decided(roster, &mut backend, request, decision, on_piece)?)
    }

    /// The experts with how strong their models are, which decides who may summarize. Files are looked at once.
    fn measured(&self, state: &State) -> Vec<(ExpertConfig, ExpertProfile)> {
        let mut roster = state.roster.clone();
        for (config, profile) in &mut roster {
            if let Ok(facts) = self.fleet.facts(config.id) {
                profile.active_parameters = facts.active_parameters;
                profile.tokenizer_hash = Some(facts.tokenizer_hash);
            }
        }
        roster
    }

    /// Learns that the expert `name` was (or was not) the right one for a question, and keeps it in the folder.
    ///
    /// # Errors
    /// When there is no such expert or no folder to keep it in, or the file cannot be written.
    pub fn feedback(&self, question: &str, name: &str, good: bool) -> Result<()> {
        let folder = self.folder.as_ref().ok_or_else(|| {
            Error::Expert("the swarm of the binary has no folder to keep feedback in: give one with --experts".into())
        })?;
        let id = self.expert_id(name)?;
        self.router.feedback(question, id, good)?;
        let line = Feedback { question: question.to_owned(), expert: name.to_owned(), good };
        let mut text = serde_json::to_string(&line).expect("texts and a flag are JSON");
        text.push('\n');
        let path = folder.join(FEEDBACK_FILE);
        let io = |cause: std::io::Error| Error::SwarmFile {
            origin: path.display().to_string(),
            problem: format!("cannot be written: {cause}"),
        };
        let mut file = OpenOptions::new().create(true).append(true).open(&path).map_err(io)?;
        // One write, so that lines of several programs do not mix.
        file.write_all(text.as_bytes()).map_err(io)
    }

    /// The number of the expert of this name.
    ///
    /// # Errors
    /// When there is none, with those that there are.
    pub fn expert_id(&self, name: &str) -> Result<ExpertId> {
        let state = self.state();
        if let Some(spec) = state.spec.expert(name) {
            return Ok(spec.config.id);
        }
        let names: Vec<_> = state.spec.experts.iter().map(|spec| spec.config.name.as_str()).collect();
        Err(Error::Expert(format!("there is no expert `{name}`: {}", names.join(", "))))
    }

    fn read_calibration(&self) -> Result<Calibration> {
        let Some(path) = self.folder.as_ref().map(|folder| folder.join(CALIBRATION_FILE)).filter(|path| path.is_file())
        else {
            return Ok(Calibration::from_text(super::builtin::CALIBRATION)?);
        };
        let bad = |problem: String| Error::SwarmFile { origin: path.display().to_string(), problem };
        let text = read_bounded(&path, CALIBRATION_BYTES_MAX).map_err(bad)?;
        Calibration::from_text(&text).map_err(|error| bad(error.to_string()))
    }

    fn read_feedback(&self, spec: &SwarmSpec, notices: &mut Vec<String>) -> Result<Vec<Feedback>> {
        let Some(path) = self.folder.as_ref().map(|folder| folder.join(FEEDBACK_FILE)).filter(|path| path.is_file())
        else {
            return Ok(Vec::new());
        };
        let bad = |problem: String| Error::SwarmFile { origin: path.display().to_string(), problem };
        let text = read_bounded(&path, FEEDBACK_BYTES_MAX).map_err(bad)?;
        let mut found = Vec::new();
        for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let feedback: Feedback =
                serde_json::from_str(line).map_err(|error| bad(format!("line {}: {error}", i + 1)))?;
            if spec.expert(&feedback.expert).is_none() {
                notices.push(format!("{}: line {}: there is no expert `{}`", path.display(), i + 1, feedback.expert));
                continue;
            }
            found.push(feedback);
        }
        Ok(found)
    }

    /// Keeps a calibration in the folder and uses it.
    ///
    /// # Errors
    /// When there is no folder, or the file cannot be written.
    pub fn set_calibration(&self, calibration: Calibration) -> Result<()> {
        let folder = self.folder.as_ref().ok_or_else(|| {
            Error::Expert(
                "the swarm of the binary has no folder to keep a calibration in: give one with --experts".into(),
            )
        })?;
        let path = folder.join(CALIBRATION_FILE);
        std::fs::write(&path, calibration.to_text()).map_err(|cause| Error::SwarmFile {
            origin: path.display().to_string(),
            problem: format!("cannot be written: {cause}"),
        })?;
        self.router.write(|router| router.set_calibration(calibration))?;
        Ok(())
    }

    /// The question's embedding, where the settings name an embedding model.
    fn embed(&self, text: &str) -> Option<Vec<f32>> {
        embedding(self.embedder.lock().unwrap_or_else(PoisonError::into_inner).as_mut()?, text)
    }

    /// Opens the embedding model that the settings name, and shows the router where each expert's examples lie.
    fn open_embedder(&self, spec: &SwarmSpec, notices: &mut Vec<String>) {
        let mut embedder = self.embedder.lock().unwrap_or_else(PoisonError::into_inner);
        *embedder = None;
        let Some(name) = &spec.settings.embedding_model else { return };
        let path = self.folder.as_deref().unwrap_or(Path::new(".")).join(name);
        let mut opened = match InferenceEngine::open(&path, &ModelConfig::default()) {
            Ok(opened) => opened,
            Err(error) => {
                notices.push(format!("the embedding model {} is not used: {error}", path.display()));
                return;
            }
        };
        for expert in &spec.experts {
            let examples = &expert.profile.examples;
            let step = examples.len().div_ceil(CENTROID_EXAMPLES_MAX).max(1);
            let vectors: Vec<Vec<f32>> =
                examples.iter().step_by(step).filter_map(|text| embedding(&mut opened, text)).collect();
            let Some(mut sum) = vectors.first().cloned() else { continue };
            for vector in &vectors[1..] {
                sum.iter_mut().zip(vector).for_each(|(sum, x)| *sum += x);
            }
            if let Err(error) = self.router.write(|router| router.set_centroid(expert.config.id, sum)) {
                notices.push(format!("the embedding stage leaves `{}` out: {error}", expert.config.name));
            }
        }
        *embedder = Some(opened);
    }
}

fn embedding(embedder: &mut InferenceEngine, text: &str) -> Option<Vec<f32>> {
    let ids = embedder.embedding_prompt(text).ok()?;
    let pooling = embedder.default_pooling();
    embedder.embed(&ids, pooling).ok()
}

/// The router's settings.
fn router_config(settings: &SwarmSettings) -> Result<RouterConfig> {
    let mut config = RouterConfig::default();
    if let Some(stages) = &settings.stages {
        let known = ["pin", "session", "keywords", "classifier", "likelihood", "embedding"];
        if let Some(unknown) = stages.iter().find(|stage| !known.contains(&stage.as_str())) {
            return Err(Error::SwarmFile {
                origin: super::folder::SETTINGS_FILE.into(),
                problem: format!("key `routing.stages`: `{unknown}` is no stage: {}", known.join(", ")),
            });
        }
        let has = |stage: &str| stages.iter().any(|given| given == stage);
        config.pin = has("pin");
        config.session = has("session");
        config.keywords = has("keywords");
        config.classifier = has("classifier");
        config.likelihood = has("likelihood");
        config.embedding = has("embedding");
    }
    config.embedding &= settings.embedding_model.is_some();
    Ok(config)
}

/// What the router may ask of models.
struct Evidence<'a> {
    engine: &'a SwarmEngine,
    backend: &'a mut FleetBackend,
    text: &'a str,
}

impl RoutingEvidence for Evidence<'_> {
    fn prompt_logprobs(&mut self, candidates: &[ExpertId]) -> Vec<Option<f32>> {
        self.backend.prompt_logprobs(candidates, self.text)
    }

    fn embedding(&mut self) -> Option<Vec<f32>> {
        self.engine.embed(self.text)
    }
}
