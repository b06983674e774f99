//! The thread that owns the experts' models: it loads, runs and frees them as the [`ExpertCache`] decides.
//!
//! Any number of clients ask at once through their [`FleetBackend`]; one question runs at a time, on all threads of one team.
//! An answer's text comes back through a channel. A client that hangs up is noticed at the next token.

use std::collections::{HashMap, VecDeque};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hublabio_engine::ThreadTeam;
use hublabio_moe::{
    BaseId, BaseWeights, CacheConfig, CacheEffect, CacheEvent, CacheStats, ExpertBackend, ExpertCache, ExpertFailure,
    ExpertId, ExpertJob, ExpertResponse, ExpertState, ExpertWeights, Mixture, MixtureJob, Part, PieceSink, RequestId,
};

use super::expert_file::{ExpertSpec, ModelSource};
use super::facts::{ModelFacts, facts};
use super::settings::SwarmSettings;
use super::speaker::{Deadline, Question, Said, ask, question_logprob, response};
use super::{builtin, folder::Stamp};
use crate::ai::mixed::{Member, generate_mixed};
use crate::ai::{Finish, GenerationConfig, InferenceEngine, Message, ModelConfig};
use crate::error::{Error, Result};

/// What loading is guessed to cost before it was seen: weights are mapped, so it is the reading of the vocabulary and, where
/// the file is not in the page cache, of the disk.
const LOAD_BYTES_PER_MS: u64 = 1 << 20;
/// How often a waiting client looks whether it is still wanted.
const POLL: Duration = Duration::from_millis(20);

/// How a fleet computes, and what it may use.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FleetConfig {
    /// Threads; by default one per core.
    pub threads: Option<usize>,
    /// Bytes that experts may take together, in place of what the settings say.
    pub bytes_max: Option<u64>,
    /// Bytes, waiting and queue, in place of what the swarm's own settings say; the rest is not the fleet's business.
    pub settings: Option<SwarmSettings>,
}

/// Where an expert is, and how it is doing.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpertStatus {
    /// Who.
    pub id: ExpertId,
    /// In memory, busy, questions, latency.
    pub state: ExpertState,
    /// Bytes of its file and of a conversation, once they are known.
    pub bytes: Option<u64>,
    /// Why it cannot be used, if so.
    pub unavailable: Option<String>,
}

/// The experts of this node and the thread that runs them. Dropping it ends the thread, after the answer that it is at.
pub struct Fleet {
    link: Link,
    worker: Option<JoinHandle<()>>,
}

/// What a client needs to ask.
#[derive(Clone)]
struct Link {
    commands: Sender<Command>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    requests: AtomicU64,
    board: Mutex<Board>,
}

/// What the worker tells everyone.
#[derive(Clone, Debug, Default)]
struct Board {
    experts: Vec<ExpertStatus>,
    stats: CacheStats,
    bytes_held: u64,
    bytes_max: u64,
}

enum Command {
    Experts(Vec<Arc<ExpertSpec>>, Sender<()>),
    Budget(u64),
    Hint(Vec<(ExpertId, f32)>),
    Ask(Box<Asked>),
    Read { experts: Vec<ExpertId>, question: Box<Question>, reply: Sender<Vec<Option<f32>>> },
    Facts { expert: ExpertId, reply: Sender<std::result::Result<ModelFacts, String>> },
    Cancel(RequestId),
    End,
}

/// A question on its way.
struct Asked {
    request: RequestId,
    experts: Vec<ExpertId>,
    question: Question,
    /// For a mixture, who weighs.
    mixture: Option<Mixture>,
    reply: Sender<Reply>,
    cancelled: Arc<AtomicBool>,
}

enum Reply {
    Piece(String),
    Done(Box<Done>),
}

struct Done {
    result: std::result::Result<ExpertResponse, ExpertFailure>,
    mixture: Option<Mixture>,
    failed: Vec<(ExpertId, ExpertFailure)>,
}

impl Done {
    fn failure(failure: ExpertFailure, mixture: Option<Mixture>) -> Reply {
        Reply::Done(Box::new(Self { result: Err(failure), mixture, failed: Vec::new() }))
    }
}

impl Fleet {
    /// Starts the thread; no expert is loaded before it is needed.
    ///
    /// # Errors
    /// When a limit in `config` is out of range, or no thread can be started.
    pub fn start(experts: &[ExpertSpec], config: &FleetConfig) -> Result<Self> {
        Self::start_on(experts, config, None)
    }

    /// As [`start`](Self::start), computing on a team that others use, too.
    pub(crate) fn start_on(
        experts: &[ExpertSpec],
        config: &FleetConfig,
        team: Option<Arc<ThreadTeam>>,
    ) -> Result<Self> {
        let settings = config.settings.clone().unwrap_or_default();
        let cache = ExpertCache::new(CacheConfig {
            wait_ms_max: settings.wait_ms_max,
            queue_max: settings.queue_max,
            ..CacheConfig::new(config.bytes_max.unwrap_or(settings.bytes_max))
        })?;
        let (commands, inbox) = channel();
        let shared = Arc::new(Shared::default());
        let worker = Worker {
            cache,
            start: Instant::now(),
            config: config.clone(),
            team,
            experts: HashMap::new(),
            bases: HashMap::new(),
            base_ids: HashMap::new(),
            asked: HashMap::new(),
            to_run: VecDeque::new(),
            to_load: VecDeque::new(),
            shared: Arc::clone(&shared),
        };
        let thread = std::thread::Builder::new().name("hublab-experts".into());
        let worker = thread
            .spawn(move || worker.serve(&inbox))
            .map_err(|cause| Error::Expert(format!("no thread for the experts: {cause}")))?;
        let fleet = Self { link: Link { commands, shared }, worker: Some(worker) };
        fleet.set_experts(experts);
        Ok(fleet)
    }

    /// Takes these experts in place of those before. What is loaded and has not changed stays loaded.
    pub fn set_experts(&self, experts: &[ExpertSpec]) {
        let (reply, done) = channel();
        let experts = experts.iter().cloned().map(Arc::new).collect();
        if self.link.commands.send(Command::Experts(experts, reply)).is_ok() {
            let _ = done.recv();
        }
    }

    /// Changes the budget.
    pub fn set_bytes_max(&self, bytes_max: u64) {
        let _ = self.link.commands.send(Command::Budget(bytes_max));
    }

    /// Tells who is probably asked next, so that idle time is used to load.
    pub fn hint(&self, probabilities: &[(ExpertId, f32)]) {
        let _ = self.link.commands.send(Command::Hint(probabilities.to_vec()));
    }

    /// All experts, in the order of their numbers.
    #[must_use]
    pub fn status(&self) -> Vec<ExpertStatus> {
        self.board().experts
    }

    /// What the cache has done so far.
    #[must_use]
    pub fn stats(&self) -> CacheStats {
        self.board().stats
    }

    /// Bytes that experts take now.
    #[must_use]
    pub fn bytes_held(&self) -> u64 {
        self.board().bytes_held
    }

    /// The budget.
    #[must_use]
    pub fn bytes_max(&self) -> u64 {
        self.board().bytes_max
    }

    fn board(&self) -> Board {
        self.link.shared.board.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is in an expert's file, as far as it takes no reading of weights.
    pub(super) fn facts(&self, expert: ExpertId) -> std::result::Result<ModelFacts, String> {
        self.link.facts(expert)
    }

    /// What a client asks with: the conversation before its question, and settings in place of the experts' own.
    #[must_use]
    pub fn backend(&self, history: Vec<Message>, generation: Option<GenerationConfig>) -> FleetBackend {
        FleetBackend { link: self.link.clone(), history, generation }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        let _ = self.link.commands.send(Command::End);
        if let Some(worker) = self.worker.take() {
            // It catches what panics in an expert; there is nothing to report.
            let _ = worker.join();
        }
    }
}

impl Link {
    fn facts(&self, expert: ExpertId) -> std::result::Result<ModelFacts, String> {
        let (reply, answer) = channel();
        let gone = || "the thread of the experts has ended".to_owned();
        self.commands.send(Command::Facts { expert, reply }).map_err(|_| gone())?;
        answer.recv().map_err(|_| gone())?
    }

    /// Sends a question and hands its text to `on_text` until it is done.
    fn ask(
        &self,
        experts: Vec<ExpertId>,
        question: Question,
        mixture: Option<Mixture>,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Done {
        let request = RequestId(self.shared.requests.fetch_add(1, Ordering::Relaxed));
        let (reply, replies) = channel();
        let cancelled = Arc::new(AtomicBool::new(false));
        let asked = Asked { request, experts, question, mixture, reply, cancelled: Arc::clone(&cancelled) };
        let lost = || Done {
            result: Err(ExpertFailure::Failed("the thread of the experts has ended".into())),
            mixture: None,
            failed: Vec::new(),
        };
        if self.commands.send(Command::Ask(Box::new(asked))).is_err() {
            return lost();
        }
        let cancel = || {
            if !cancelled.swap(true, Ordering::Relaxed) {
                let _ = self.commands.send(Command::Cancel(request));
            }
        };
        loop {
            match replies.recv_timeout(POLL) {
                Ok(Reply::Done(done)) => return *done,
                Ok(Reply::Piece(text)) => {
                    if on_text(&text).is_break() {
                        cancel();
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    if on_text("").is_break() {
                        cancel();
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return lost(),
            }
        }
    }
}

/// Runs experts of a [`Fleet`] for one client.
pub struct FleetBackend {
    link: Link,
    history: Vec<Message>,
    generation: Option<GenerationConfig>,
}

impl FleetBackend {
    fn question(&self, text: &str, bare: bool, max_tokens: Option<usize>) -> Question {
        Question {
            history: self.history.clone(),
            text: text.to_owned(),
            bare,
            generation: self.generation.clone(),
            max_tokens,
        }
    }
}

impl ExpertBackend for FleetBackend {
    fn run(
        &mut self,
        jobs: &[ExpertJob],
        on_piece: &mut PieceSink<'_>,
    ) -> Vec<std::result::Result<ExpertResponse, ExpertFailure>> {
        let run = |(i, job): (usize, &ExpertJob)| {
            let question = self.question(&job.prompt, job.bare, job.max_tokens);
            self.link.ask(vec![job.expert], question, None, &mut |text| on_piece(i, text)).result
        };
        jobs.iter().enumerate().map(run).collect()
    }

    fn tokenizer_hash(&mut self, expert: ExpertId) -> std::result::Result<u64, ExpertFailure> {
        self.link.facts(expert).map(|facts| facts.tokenizer_hash).map_err(ExpertFailure::Unavailable)
    }

    fn mix(
        &mut self,
        job: &MixtureJob,
        mixture: &mut Mixture,
        failed: &mut Vec<(ExpertId, ExpertFailure)>,
        on_piece: &mut PieceSink<'_>,
    ) -> std::result::Result<ExpertResponse, ExpertFailure> {
        let question = self.question(&job.prompt, false, job.max_tokens);
        let lent = mixture.clone();
        let done = self.link.ask(job.experts.clone(), question, Some(lent), &mut |text| on_piece(0, text));
        if let Some(used) = done.mixture {
            *mixture = used;
        }
        failed.extend(done.failed);
        done.result
    }

    fn prompt_logprobs(&mut self, experts: &[ExpertId], text: &str) -> Vec<Option<f32>> {
        let (reply, answer) = channel();
        let question = Box::new(self.question(text, false, None));
        let command = Command::Read { experts: experts.to_vec(), question, reply };
        let sent = self.link.commands.send(command).is_ok();
        let found = if sent { answer.recv().ok() } else { None };
        found.unwrap_or_else(|| vec![None; experts.len()])
    }
}

/// An expert as the worker has it.
struct Entry {
    spec: Arc<ExpertSpec>,
    base: BaseId,
    facts: Option<ModelFacts>,
    /// Of the files at the time of `facts`.
    stamps: Vec<Stamp>,
    unavailable: Option<String>,
    engine: Option<InferenceEngine>,
    state: ExpertState,
}

struct Worker {
    cache: ExpertCache,
    start: Instant,
    config: FleetConfig,
    /// Made when the first model is loaded.
    team: Option<Arc<ThreadTeam>>,
    experts: HashMap<ExpertId, Entry>,
    bases: HashMap<BaseId, InferenceEngine>,
    /// Numbers of model files, and of their contexts: what is loaded as one.
    base_ids: HashMap<(ModelSource, Option<usize>), BaseId>,
    asked: HashMap<RequestId, Box<Asked>>,
    to_run: VecDeque<RequestId>,
    to_load: VecDeque<Part>,
    shared: Arc<Shared>,
}

impl Worker {
    fn serve(mut self, inbox: &Receiver<Command>) {
        loop {
            // Everything that is there is taken in before anything runs, so that the cache sees all that wait.
            while let Ok(command) = inbox.try_recv() {
                if self.take(command).is_break() {
                    return;
                }
            }
            self.post();
            if let Some(request) = self.to_run.pop_front() {
                self.run(request);
            } else if let Some(part) = self.to_load.pop_front() {
                self.load(part);
            } else {
                let now_ms = self.now_ms();
                let wait = self.cache.next_deadline_ms().map(|at| Duration::from_millis(at.saturating_sub(now_ms)));
                let command = match wait {
                    Some(wait) => inbox.recv_timeout(wait),
                    None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
                };
                match command {
                    Ok(command) => {
                        if self.take(command).is_break() {
                            return;
                        }
                    }
                    Err(RecvTimeoutError::Timeout) => self.tell(CacheEvent::Tick),
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        }
    }

    fn now_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    fn take(&mut self, command: Command) -> ControlFlow<()> {
        match command {
            Command::Experts(specs, done) => {
                self.set_experts(specs);
                self.post();
                let _ = done.send(());
            }
            Command::Budget(bytes_max) => self.tell(CacheEvent::BudgetChanged { bytes_max }),
            Command::Hint(probabilities) => {
                for (expert, probability) in probabilities {
                    if self.know(expert).is_ok() {
                        self.tell(CacheEvent::DemandHint { expert, probability });
                    }
                }
            }
            Command::Ask(asked) => self.queue(asked),
            Command::Read { experts, question, reply } => {
                let _ = reply.send(experts.iter().map(|&expert| self.read(expert, &question)).collect());
            }
            Command::Facts { expert, reply } => {
                let _ = reply.send(self.know(expert));
            }
            Command::Cancel(request) => {
                if let Some(asked) = self.asked.remove(&request) {
                    self.tell(CacheEvent::RequestCancelled { request });
                    self.to_run.retain(|&waiting| waiting != request);
                    let _ = asked.reply.send(Done::failure(ExpertFailure::Cancelled, asked.mixture));
                }
            }
            Command::End => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(())
    }

    /// Shows everyone where experts are.
    fn post(&self) {
        let mut experts: Vec<ExpertStatus> = self
            .experts
            .iter()
            .map(|(&id, entry)| ExpertStatus {
                id,
                state: ExpertState { loaded: entry.engine.is_some(), ..entry.state },
                bytes: entry.facts.map(|facts| facts.file_bytes + facts.conversation_bytes),
                unavailable: entry.unavailable.clone(),
            })
            .collect();
        experts.sort_by_key(|status| status.id);
        let board = Board {
            experts,
            stats: self.cache.stats(),
            bytes_held: self.cache.bytes_held(),
            bytes_max: self.cache.bytes_max(),
        };
        *self.shared.board.lock().unwrap_or_else(PoisonError::into_inner) = board;
    }

    fn set_experts(&mut self, specs: Vec<Arc<ExpertSpec>>) {
        let gone: Vec<ExpertId> =
            self.experts.keys().copied().filter(|id| specs.iter().all(|spec| spec.config.id != *id)).collect();
        for expert in gone {
            self.tell(CacheEvent::ExpertRemoved { expert });
            self.experts.remove(&expert);
        }
        for spec in specs {
            let id = spec.config.id;
            let same_weights = |old: &ExpertSpec| {
                (&old.source, &old.adapter, old.context, old.pinned)
                    == (&spec.source, &spec.adapter, spec.context, spec.pinned)
            };
            match self.experts.get_mut(&id) {
                Some(entry) if same_weights(&entry.spec) => entry.spec = spec,
                Some(_) => {
                    self.tell(CacheEvent::ExpertRemoved { expert: id });
                    self.experts.remove(&id);
                    self.add(spec);
                }
                None => self.add(spec),
            }
        }
    }

    fn add(&mut self, spec: Arc<ExpertSpec>) {
        let next = BaseId(self.base_ids.len() as u32);
        let base = *self.base_ids.entry((spec.source.clone(), spec.context)).or_insert(next);
        let id = spec.config.id;
        let entry = Entry {
            spec,
            base,
            facts: None,
            stamps: Vec::new(),
            unavailable: None,
            engine: None,
            state: ExpertState::default(),
        };
        let pinned = entry.spec.pinned;
        self.experts.insert(id, entry);
        if pinned {
            // Whether it can be had is told when it is asked for.
            let _ = self.know(id);
        }
    }

    /// What is in an expert's files, looked at when it is first needed and again when they change; the cache learns of it.
    fn know(&mut self, expert: ExpertId) -> std::result::Result<ModelFacts, String> {
        let entry = self.experts.get_mut(&expert).ok_or_else(|| format!("there is no expert {expert}"))?;
        let stamps = stamps(&entry.spec);
        if let Some(facts) = entry.facts
            && entry.stamps == stamps
        {
            return Ok(facts);
        }
        let changed = entry.facts.is_some();
        let found = match facts(&entry.spec) {
            Ok(found) => found,
            Err(error) => {
                let why = match entry.spec.source {
                    ModelSource::File(ref path) if !error.to_string().contains(&*path.to_string_lossy()) => {
                        format!("{}: {error}", path.display())
                    }
                    _ => error.to_string(),
                };
                entry.unavailable = Some(why.clone());
                return Err(why);
            }
        };
        if changed {
            // Another file is another base: what is loaded of the old one goes when nobody uses it.
            let next = BaseId(self.base_ids.len() as u32);
            self.base_ids.insert((entry.spec.source.clone(), entry.spec.context), next);
            entry.base = next;
        }
        entry.facts = Some(found);
        entry.stamps = stamps;
        entry.unavailable = None;
        let own = found.conversation_bytes + entry.stamps.get(1).map_or(0, |(_, bytes, _)| *bytes);
        let weights = ExpertWeights {
            id: expert,
            bytes: own,
            reload_ms: 1,
            base: Some(BaseWeights {
                id: entry.base,
                bytes: found.file_bytes,
                reload_ms: 1 + found.file_bytes / LOAD_BYTES_PER_MS,
            }),
            pinned: entry.spec.pinned,
        };
        self.tell(if changed { CacheEvent::ExpertChanged(weights) } else { CacheEvent::ExpertAdded(weights) });
        Ok(found)
    }

    fn queue(&mut self, asked: Box<Asked>) {
        let request = asked.request;
        let mut unknown = Vec::new();
        for &expert in &asked.experts {
            if let Err(why) = self.know(expert) {
                unknown.push((expert, ExpertFailure::Unavailable(why)));
            }
        }
        // A single expert that cannot be had is a failure; a mixture goes on with the others.
        if unknown.len() == asked.experts.len() {
            let failure = unknown.pop().map_or(ExpertFailure::Failed("nobody was asked".into()), |(_, why)| why);
            let _ = asked.reply.send(Done::failure(failure, asked.mixture));
            return;
        }
        let there = |expert: &ExpertId| unknown.iter().all(|(lost, _)| lost != expert);
        let experts = asked.experts.iter().copied().filter(there).collect();
        self.asked.insert(request, asked);
        self.tell(CacheEvent::RequestQueued { request, experts });
    }

    /// Tells the cache what happened, and does at once what it wants but for running and loading.
    fn tell(&mut self, event: CacheEvent) {
        let now_ms = self.now_ms();
        for effect in self.cache.handle(event, now_ms) {
            match effect {
                CacheEffect::Evict { part: Part::Expert(id) } => {
                    if let Some(entry) = self.experts.get_mut(&id) {
                        entry.engine = None;
                    }
                }
                CacheEffect::Evict { part: Part::Base(id) } => drop(self.bases.remove(&id)),
                CacheEffect::Load { part, .. } => self.to_load.push_back(part),
                CacheEffect::Start { request } => self.to_run.push_back(request),
                CacheEffect::Fail { request, reason } => self.refuse(request, &reason.to_string()),
                CacheEffect::Refuse { request, reason } => self.refuse(request, &reason.to_string()),
                // A pin that does not fit: the expert is there all the same, and `status` shows that it is not loaded.
                _ => {}
            }
        }
    }

    fn refuse(&mut self, request: RequestId, reason: &str) {
        if let Some(asked) = self.asked.remove(&request) {
            let failure = ExpertFailure::Unavailable(reason.to_owned());
            let _ = asked.reply.send(Done::failure(failure, asked.mixture));
        }
    }

    fn load(&mut self, part: Part) {
        let start = Instant::now();
        let loaded = catch_unwind(AssertUnwindSafe(|| match part {
            Part::Base(id) => self.load_base(id),
            Part::Expert(id) => self.load_expert(id),
        }));
        let loaded = loaded.unwrap_or_else(|panic| Err(what_panicked(&*panic)));
        let took_ms = start.elapsed().as_millis() as u64;
        match loaded {
            Ok(bytes) => self.tell(CacheEvent::Loaded { part, bytes, took_ms }),
            Err(reason) => {
                if let Part::Expert(id) = part
                    && let Some(entry) = self.experts.get_mut(&id)
                {
                    entry.unavailable = Some(reason.clone());
                }
                self.tell(CacheEvent::LoadFailed { part, reason });
            }
        }
    }

    fn load_base(&mut self, id: BaseId) -> std::result::Result<u64, String> {
        let found = self.experts.values().find(|entry| entry.base == id && entry.facts.is_some());
        let (spec, facts) =
            found.and_then(|entry| Some((Arc::clone(&entry.spec), entry.facts?))).ok_or("it is gone")?;
        let team = self.team.get_or_insert_with(|| match self.config.threads {
            Some(threads) => Arc::new(ThreadTeam::new(threads)),
            None => Arc::new(ThreadTeam::with_all_cores()),
        });
        let config = ModelConfig { context: Some(facts.context), ..ModelConfig::default() };
        let engine = match &spec.source {
            ModelSource::File(path) => InferenceEngine::open_on(path, &config, Some(team)),
            ModelSource::Builtin(name) => {
                let bytes = builtin::model_bytes(name).ok_or("it is not in this binary")?;
                InferenceEngine::open_static(bytes, &config, Some(team))
            }
        };
        self.bases.insert(id, engine.map_err(|error| error.to_string())?);
        Ok(facts.file_bytes)
    }

    fn load_expert(&mut self, id: ExpertId) -> std::result::Result<u64, String> {
        let entry = self.experts.get_mut(&id).ok_or("it is gone")?;
        let base = self.bases.get(&entry.base).ok_or("its base is not in memory")?;
        let mut engine = base.sibling();
        if let Some(adapter) = &entry.spec.adapter {
            engine.set_adapters(std::slice::from_ref(adapter)).map_err(|error| error.to_string())?;
        }
        entry.engine = Some(engine);
        let facts = entry.facts.ok_or("it was never looked at")?;
        Ok(facts.conversation_bytes + entry.stamps.get(1).map_or(0, |(_, bytes, _)| *bytes))
    }

    fn run(&mut self, request: RequestId) {
        let Some(mut asked) = self.asked.remove(&request) else {
            return self.tell(CacheEvent::RequestFailed { request });
        };
        for id in &asked.experts {
            if let Some(entry) = self.experts.get_mut(id) {
                entry.state.busy = true;
            }
        }
        self.post();
        let ran = catch_unwind(AssertUnwindSafe(|| match asked.mixture.take() {
            None => Done { result: self.answer(&asked), mixture: None, failed: Vec::new() },
            Some(mixture) => self.mix(&asked, mixture),
        }));
        let mut done = ran.unwrap_or_else(|panic| {
            let failure = ExpertFailure::Failed(what_panicked(&*panic));
            // What the panic left behind is not used again.
            for id in &asked.experts {
                if let Some(entry) = self.experts.get_mut(id) {
                    entry.facts = None;
                    entry.engine = None;
                }
            }
            Done { result: Err(failure), mixture: None, failed: Vec::new() }
        });
        for id in &asked.experts {
            let Some(entry) = self.experts.get_mut(id) else { continue };
            entry.state.busy = false;
            if let Ok(response) = &mut done.result
                && done.failed.iter().all(|(lost, _)| lost != id)
            {
                entry.state.count(response.latency_ms);
            }
        }
        let broken: Vec<ExpertId> = asked
            .experts
            .iter()
            .copied()
            .filter(|id| self.experts.get(id).is_some_and(|entry| entry.engine.is_none() && entry.facts.is_none()))
            .collect();
        let ok = done.result.is_ok();
        self.tell(if ok { CacheEvent::RequestDone { request } } else { CacheEvent::RequestFailed { request } });
        for expert in broken {
            self.tell(CacheEvent::ExpertRemoved { expert });
        }
        self.post();
        let _ = asked.reply.send(Reply::Done(Box::new(done)));
    }

    fn answer(&mut self, asked: &Asked) -> std::result::Result<ExpertResponse, ExpertFailure> {
        let gone = || ExpertFailure::Unavailable("it was removed".into());
        let id = *asked.experts.first().ok_or_else(gone)?;
        let entry = self.experts.get_mut(&id).ok_or_else(gone)?;
        let engine = entry.engine.as_mut().ok_or_else(gone)?;
        ask(engine, &entry.spec, &asked.question, &mut |text| asked.send(text))
    }

    fn mix(&mut self, asked: &Asked, mut mixture: Mixture) -> Done {
        let mut failed: Vec<(ExpertId, ExpertFailure)> = Vec::new();
        // Engines are taken out, because several are needed at once, and put back below.
        let mut members: Vec<Option<(Arc<ExpertSpec>, InferenceEngine)>> = Vec::with_capacity(asked.experts.len());
        for (i, &id) in asked.experts.iter().enumerate() {
            let member = self
                .experts
                .get_mut(&id)
                .and_then(|entry| entry.engine.take().map(|engine| (Arc::clone(&entry.spec), engine)));
            if member.is_none() {
                mixture.drop_expert(i);
                let why = self.experts.get(&id).and_then(|entry| entry.unavailable.clone());
                failed.push((id, ExpertFailure::Unavailable(why.unwrap_or_else(|| "it was removed".into()))));
            }
            members.push(member);
        }
        let result = speak_together(&mut members, asked, &mut mixture, &mut failed);
        for (spec, engine) in members.into_iter().flatten() {
            if let Some(entry) = self.experts.get_mut(&spec.config.id) {
                entry.engine = Some(engine);
            }
        }
        Done { result, mixture: Some(mixture), failed }
    }

    /// The question's log probability per byte under an expert that is in memory.
    fn read(&mut self, expert: ExpertId, question: &Question) -> Option<f32> {
        let entry = self.experts.get_mut(&expert)?;
        let spec = Arc::clone(&entry.spec);
        let engine = entry.engine.as_mut()?;
        let read = catch_unwind(AssertUnwindSafe(|| question_logprob(engine, &spec, question).ok()));
        read.unwrap_or(None)
    }
}

impl Asked {
    fn send(&self, text: &str) -> ControlFlow<()> {
        if self.cancelled.load(Ordering::Relaxed) {
            return ControlFlow::Break(());
        }
        let gone = !text.is_empty() && self.reply.send(Reply::Piece(text.to_owned())).is_err();
        if gone { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// One answer of several experts, of whom the first that is there leads: its settings and its time limit hold.
fn speak_together(
    members: &mut [Option<(Arc<ExpertSpec>, InferenceEngine)>],
    asked: &Asked,
    mixture: &mut Mixture,
    failed: &mut Vec<(ExpertId, ExpertFailure)>,
) -> std::result::Result<ExpertResponse, ExpertFailure> {
    let start = Instant::now();
    let error = |error: Error| ExpertFailure::Failed(error.to_string());
    let leader = members.iter().flatten().next();
    let (spec, engine) = leader.ok_or_else(|| ExpertFailure::Failed("no member of the mixture is there".into()))?;
    let spec = Arc::clone(spec);
    let deadline = Deadline::after(spec.timeout);
    let mut config = asked.question.config(&spec);
    config.logprobs = Some(0);
    let (prompt, _) = asked.question.prompt(engine, &spec).map_err(error)?;
    let mut said = Said::of(engine, &prompt, &mut config).map_err(error)?;
    let mut voices = Vec::with_capacity(members.len());
    for (i, member) in members.iter_mut().enumerate() {
        let voice = match member {
            None => None,
            Some((spec, engine)) => match asked.question.prompt(engine, spec) {
                Ok((prompt, question)) => Some(Member { engine, prompt: prompt.tokens, question }),
                Err(why) => {
                    mixture.drop_expert(i);
                    failed.push((spec.config.id, ExpertFailure::Failed(why.to_string())));
                    None
                }
            },
        };
        voices.push(voice);
    }
    let mut lost = Vec::new();
    let generation = generate_mixed(voices, mixture, &config, &mut lost, &mut |piece| {
        let text = said.push(piece.text);
        if deadline.is_over() { ControlFlow::Break(()) } else { asked.send(&text) }
    });
    failed.extend(lost.into_iter().map(|(i, why)| (asked.experts[i], ExpertFailure::Failed(why))));
    let generation = generation.map_err(error)?;
    if generation.finish == Finish::Cancelled {
        return Err(if deadline.is_over() { deadline.failure() } else { ExpertFailure::Cancelled });
    }
    let (rest, text) = said.finish();
    let _ = asked.send(&rest);
    Ok(response(&spec, &generation, text, start))
}

/// Length and age of the files that an expert's weights are in.
fn stamps(spec: &ExpertSpec) -> Vec<Stamp> {
    let model = match &spec.source {
        ModelSource::File(path) => path.clone(),
        ModelSource::Builtin(name) => name.into(),
    };
    let adapter = spec.adapter.iter().map(|adapter| adapter.path.clone());
    let stamp = |path: std::path::PathBuf| {
        let facts = std::fs::metadata(&path).ok();
        let bytes = facts.as_ref().map_or(0, std::fs::Metadata::len);
        (path, bytes, facts.and_then(|facts| facts.modified().ok()))
    };
    std::iter::once(model).chain(adapter).map(stamp).collect()
}

/// What a panic said.
pub(crate) fn what_panicked(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("it crashed: {}", text.as_deref().unwrap_or("without a word"))
}
