//! The thread that owns the experts' models: it loads, runs and frees them as the [`ExpertCache`] decides.
//!
//! It goes round: it takes in what clients say, computes one batch of every expert that has something to do, and brings every
//! mixture forward by a token. So nobody waits for another's whole answer, and what an answer says does not depend on who is beside
//! it. The batches are `crate::node::lane`'s, mixtures `crate::ai::mixed`'s.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hublabio_engine::ThreadTeam;
use hublabio_moe::{
    BaseId, BaseWeights, CacheConfig, CacheEffect, CacheEvent, ExpertCache, ExpertFailure, ExpertId, ExpertResponse,
    ExpertState, ExpertWeights, Mixture, Part, RequestId, RequestRefusal,
};

use super::builtin;
use super::expert_file::{ExpertSpec, ModelSource};
use super::facts::{ModelFacts, facts};
use super::fleet::{Asked, Board, Command, Done, ExpertStatus, FleetConfig, Reply, Shared};
use super::folder::{Stamp, expert_stamps};
use super::resident::Resident;
use super::speaker::{Deadline, Ended, Question, ReplyTo, Solo, Speaker, failure};
use crate::ai::decode::AnswerState;
use crate::ai::mixed::{Advance, MixedAnswer, Reading};
use crate::ai::{AdapterConfig, Finish, InferenceEngine, ModelConfig};
use crate::error::{Error, Result};
use crate::node::lane::{Active, StepReport, kv_share};
use crate::node::reading::{Reader, ReadingReply};
use crate::node::{MemoryLoan, Node, WorkCounts};

/// What loading is guessed to cost before it was seen: weights are mapped, so it is the reading of the vocabulary and, where
/// the file is not in the page cache, of the disk.
const LOAD_BYTES_PER_MS: u64 = 1 << 20;
/// Questions that run at once. More would finish hardly more in the same time, and each would come closer to its time limit.
const RUNNING_MAX: usize = 16;

pub(super) fn start(
    config: &FleetConfig,
    node: Option<&Node>,
    shared: Arc<Shared>,
    own: Sender<Command>,
    inbox: Receiver<Command>,
) -> Result<JoinHandle<()>> {
    let worker = Worker::new(config, node, shared, own)?;
    let thread = std::thread::Builder::new().name("hublab-experts".into());
    let gone = |cause| Error::Expert(format!("no thread for the experts: {cause}"));
    thread.spawn(move || worker.serve(&inbox)).map_err(gone)
}

/// An expert that is known.
struct Entry {
    spec: Arc<ExpertSpec>,
    base: BaseId,
    facts: Option<ModelFacts>,
    /// Of the files at the time of `facts`.
    stamps: Vec<Stamp>,
    /// What its conversations may take in keys and values.
    kv_bytes_max: u64,
    unavailable: Option<String>,
    state: ExpertState,
}

/// What became of a load.
pub(super) struct Loaded {
    part: Part,
    what: std::result::Result<Arrival, String>,
    bytes: u64,
    took_ms: u64,
}

enum Arrival {
    Base(Box<InferenceEngine>),
    Expert(Box<Resident>),
}

/// A question that runs.
struct Running {
    experts: Vec<ExpertId>,
    reply: ReplyTo,
}

/// A mixture that runs.
struct Mixing {
    answer: MixedAnswer,
    speaker: Speaker,
    experts: Vec<ExpertId>,
    /// Those that are not there, or cannot read the prompt.
    failed: Vec<(ExpertId, ExpertFailure)>,
    /// The members' requests in their lanes.
    readers: Vec<Option<RequestId>>,
    readings: Receiver<(usize, Result<Reading>)>,
}

struct Worker {
    cache: ExpertCache,
    start: Instant,
    threads: Option<usize>,
    /// Made when the first model is loaded.
    team: Option<Arc<ThreadTeam>>,
    /// What the experts hold of a node's memory.
    loan: Option<MemoryLoan>,
    /// How long an expert stays when nobody asks it; `None` for as long as no other needs the memory.
    keep_alive: Option<Duration>,
    own: Sender<Command>,
    experts: HashMap<ExpertId, Entry>,
    bases: HashMap<BaseId, InferenceEngine>,
    /// What is loaded as one. A file that was replaced is another one.
    base_ids: HashMap<BaseKey, BaseId>,
    /// The next number, which no base has had.
    next_base: BaseId,
    /// Bytes of all experts' files, each counted once.
    file_bytes: u64,
    /// Experts in memory. One that is no expert of this swarm any more stays until its answers have ended.
    loaded: BTreeMap<ExpertId, Resident>,
    /// Questions that have not begun.
    waiting: HashMap<RequestId, Box<Asked>>,
    /// Those of them whose experts are in memory.
    to_run: VecDeque<RequestId>,
    running: HashMap<RequestId, Running>,
    mixtures: BTreeMap<RequestId, Mixing>,
    /// From lanes: what has ended.
    ended_sender: Sender<Ended>,
    ended: Receiver<Ended>,
    /// Sent when everyone can see how things are then.
    outbox: Vec<(ReplyTo, Reply)>,
    /// What was computed; [`Self::post`] adds what is computed now.
    work: WorkCounts,
    is_changed: bool,
    shared: Arc<Shared>,
}

impl Worker {
    fn new(config: &FleetConfig, node: Option<&Node>, shared: Arc<Shared>, own: Sender<Command>) -> Result<Self> {
        let settings = config.settings.clone().unwrap_or_default();
        let cache = ExpertCache::new(CacheConfig {
            wait_ms_max: settings.wait_ms_max,
            queue_max: settings.queue_max,
            running_max: RUNNING_MAX,
            ..CacheConfig::new(config.budget(&settings))
        })?;
        let (ended_sender, ended) = channel();
        Ok(Self {
            cache,
            start: Instant::now(),
            threads: config.threads,
            team: node.map(|node| Arc::clone(node.team())),
            loan: node.map(Node::memory_loan),
            keep_alive: node.and_then(|node| node.config().keep_alive),
            own,
            experts: HashMap::new(),
            bases: HashMap::new(),
            base_ids: HashMap::new(),
            next_base: BaseId(0),
            file_bytes: 0,
            loaded: BTreeMap::new(),
            waiting: HashMap::new(),
            to_run: VecDeque::new(),
            running: HashMap::new(),
            mixtures: BTreeMap::new(),
            ended_sender,
            ended,
            outbox: Vec::new(),
            work: WorkCounts::default(),
            is_changed: true,
            shared,
        })
    }

    fn serve(mut self, inbox: &Receiver<Command>) {
        loop {
            // Everything that is there is taken in before anything runs, so that the cache sees all that wait.
            while let Ok(command) = inbox.try_recv() {
                if self.take(command).is_break() {
                    return;
                }
            }
            let is_busy = self.round();
            let now_ms = self.now_ms();
            let wait = self.cache.next_deadline_ms().map(|at| Duration::from_millis(at.saturating_sub(now_ms)));
            if is_busy {
                // Time passes for those who wait, too.
                if wait.is_some_and(|wait| wait.is_zero()) {
                    self.tell(CacheEvent::Tick);
                }
                continue;
            }
            let command = match [wait, self.expire()].into_iter().flatten().min() {
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

    /// Begins what can begin, computes a step of everything, and tells what became of it. Whether there is more to do.
    fn round(&mut self) -> bool {
        while let Some(request) = self.to_run.pop_front() {
            self.run(request);
        }
        // Who is busy is seen before a step, which may take a while, and how an answer left things before its end is told.
        self.post();
        let is_busy = self.step();
        self.settle();
        self.post();
        for (reply, message) in self.outbox.drain(..) {
            // Nobody may listen any more, which is no fault.
            let _ = reply.send(message);
        }
        if is_busy {
            // Time passes for experts that nobody asks, too.
            self.expire();
        }
        is_busy || !self.to_run.is_empty()
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
            Command::Budget(bytes_max) => {
                self.tell(CacheEvent::BudgetChanged { bytes_max });
                self.share_budget();
            }
            Command::Hint(probabilities) => {
                for (expert, probability) in probabilities {
                    if self.know(expert).is_ok() {
                        self.tell(CacheEvent::DemandHint { expert, probability });
                    }
                }
            }
            Command::Ask(asked) => self.queue(asked),
            Command::Read { experts, question, reply } => {
                for (place, expert) in experts.into_iter().enumerate() {
                    self.read(expert, &question, (place, reply.clone()));
                }
            }
            Command::Facts { expert, reply } => {
                let facts = self.know(expert);
                self.post();
                let _ = reply.send(facts);
            }
            Command::Cancel(request) => {
                // One that runs sees that it was given up.
                if let Some(asked) = self.waiting.remove(&request) {
                    self.tell(CacheEvent::RequestCancelled { request });
                    self.done(asked.reply, Done::failure(ExpertFailure::Cancelled, asked.mixture));
                }
            }
            Command::Loaded(loaded) => self.take_loaded(*loaded),
            Command::End => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(())
    }

    /// Shows everyone where experts are.
    fn post(&mut self) {
        if !std::mem::take(&mut self.is_changed) {
            return;
        }
        let is_busy = |id: &ExpertId| self.running.values().any(|running| running.experts.contains(id));
        let mut experts: Vec<ExpertStatus> = self
            .experts
            .iter()
            .map(|(&id, entry)| ExpertStatus {
                id,
                state: ExpertState { loaded: self.loaded.contains_key(&id), busy: is_busy(&id), ..entry.state },
                bytes: entry.weights(id).map(|weights| weights.bytes + weights.base.map_or(0, |base| base.bytes)),
                unavailable: entry.unavailable.clone(),
            })
            .collect();
        experts.sort_by_key(|status| status.id);
        if let Some(loan) = &mut self.loan {
            loan.set(self.cache.bytes_held());
        }
        self.shared.post(Board {
            experts,
            stats: self.cache.stats(),
            work: WorkCounts { running: self.running.len(), waiting: self.waiting.len(), ..self.work },
            bytes_held: self.cache.bytes_held(),
            bytes_max: self.cache.bytes_max(),
        });
    }

    fn set_experts(&mut self, specs: Vec<Arc<ExpertSpec>>) {
        self.is_changed = true;
        let gone: Vec<ExpertId> =
            self.experts.keys().copied().filter(|id| specs.iter().all(|spec| spec.config.id != *id)).collect();
        for expert in gone {
            self.tell(CacheEvent::ExpertRemoved { expert });
            self.experts.remove(&expert);
        }
        let mut added = Vec::new();
        for spec in specs {
            let id = spec.config.id;
            let same_weights = |old: &ExpertSpec| {
                (&old.source, &old.adapter, old.context, old.pinned)
                    == (&spec.source, &spec.adapter, spec.context, spec.pinned)
            };
            match self.experts.get_mut(&id) {
                Some(entry) if same_weights(&entry.spec) => {
                    entry.spec = spec;
                    continue;
                }
                Some(_) => {
                    self.tell(CacheEvent::ExpertRemoved { expert: id });
                    self.experts.remove(&id);
                }
                None => {}
            }
            added.push(id);
            self.add(spec);
        }
        let files: BTreeMap<PathBuf, u64> = self
            .experts
            .values()
            .flat_map(|entry| expert_stamps(&entry.spec))
            .map(|(path, bytes, _)| (path, bytes))
            .collect();
        self.file_bytes = files.values().sum();
        self.share_budget();
        for id in added {
            if self.experts.get(&id).is_some_and(|entry| entry.spec.pinned) {
                // Whether it can be had is told when it is asked for.
                let _ = self.know(id);
            }
        }
    }

    fn add(&mut self, spec: Arc<ExpertSpec>) {
        let base = self.base_id(&spec, &expert_stamps(&spec));
        let entry = Entry {
            base,
            facts: None,
            stamps: Vec::new(),
            kv_bytes_max: 0,
            unavailable: None,
            state: ExpertState::default(),
            spec,
        };
        self.experts.insert(entry.spec.config.id, entry);
    }

    /// The number of what an expert's model file, as these stamps describe it, is loaded as.
    fn base_id(&mut self, spec: &ExpertSpec, stamps: &[Stamp]) -> BaseId {
        let key = (spec.source.clone(), spec.context, stamps.first().cloned());
        if let Some(&id) = self.base_ids.get(&key) {
            return id;
        }
        // Of files that are no longer there in this form nobody asks again.
        let experts = &self.experts;
        self.base_ids.retain(|_, id| experts.values().any(|entry| entry.base == *id));
        let id = self.next_base;
        self.next_base = BaseId(id.0 + 1);
        self.base_ids.insert(key, id);
        id
    }

    /// What an expert's conversations may take in keys and values: more than one is given room only within an equal part of what
    /// the files leave, so that it does not push out another expert.
    fn kv_bytes_max(&self, facts: &ModelFacts) -> u64 {
        let part = self.cache.bytes_max().saturating_sub(self.file_bytes) / self.experts.len().max(1) as u64;
        kv_share(facts.kv_bytes, part.saturating_sub(facts.pass_bytes), RUNNING_MAX)
    }

    /// Gives experts their parts of the budget where it, or their number, is another one.
    fn share_budget(&mut self) {
        let ids: Vec<ExpertId> = self.experts.keys().copied().collect();
        for id in ids {
            let Some(facts) = self.experts[&id].facts else { continue };
            let kv_bytes_max = self.kv_bytes_max(&facts);
            let Some(entry) = self.experts.get_mut(&id) else { continue };
            if entry.kv_bytes_max != kv_bytes_max {
                entry.kv_bytes_max = kv_bytes_max;
                if let Some(weights) = entry.weights(id) {
                    self.tell(CacheEvent::ExpertChanged(weights));
                }
            }
        }
    }

    /// What is in an expert's files, looked at when it is first needed and again when they change; the cache learns of it.
    fn know(&mut self, expert: ExpertId) -> std::result::Result<ModelFacts, String> {
        let entry = self.experts.get_mut(&expert).ok_or_else(|| format!("there is no expert {expert}"))?;
        let stamps = expert_stamps(&entry.spec);
        if let Some(facts) = entry.facts
            && entry.stamps == stamps
        {
            // It may have been away meanwhile.
            self.is_changed |= entry.unavailable.take().is_some();
            return Ok(facts);
        }
        self.is_changed = true;
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
        // Another file is another base: what is loaded of the old one goes when nobody uses it.
        let spec = Arc::clone(&entry.spec);
        let base = self.base_id(&spec, &stamps);
        let kv_bytes_max = self.kv_bytes_max(&found);
        if let Some(entry) = self.experts.get_mut(&expert) {
            (entry.base, entry.facts, entry.stamps, entry.unavailable) = (base, Some(found), stamps, None);
            entry.kv_bytes_max = kv_bytes_max;
            if let Some(weights) = entry.weights(expert) {
                self.tell(if changed { CacheEvent::ExpertChanged(weights) } else { CacheEvent::ExpertAdded(weights) });
            }
        }
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
            return self.done(asked.reply, Done::failure(failure, asked.mixture));
        }
        let there = |expert: &ExpertId| unknown.iter().all(|(lost, _)| lost != expert);
        let experts = asked.experts.iter().copied().filter(there).collect();
        self.waiting.insert(request, asked);
        self.tell(CacheEvent::RequestQueued { request, experts });
    }

    /// Tells the cache what happened, and does at once what it wants but for running.
    fn tell(&mut self, event: CacheEvent) {
        self.is_changed = true;
        let now_ms = self.now_ms();
        for effect in self.cache.handle(event, now_ms) {
            match effect {
                CacheEffect::Evict { part: Part::Expert(id) } => self.unload(id, "its memory was needed"),
                CacheEffect::Evict { part: Part::Base(id) } => drop(self.bases.remove(&id)),
                CacheEffect::Load { part, .. } => self.load(part),
                CacheEffect::Start { request } => self.to_run.push_back(request),
                CacheEffect::Fail { request, reason } => {
                    if let Some(asked) = self.waiting.remove(&request) {
                        let failure = ExpertFailure::Unavailable(reason.to_string());
                        self.done(asked.reply, Done::failure(failure, asked.mixture));
                    }
                }
                CacheEffect::Refuse { request, reason } => {
                    let Some(asked) = self.waiting.remove(&request) else { continue };
                    let (reply, why) = (asked.reply.clone(), reason.to_string());
                    match reason {
                        RequestRefusal::QueueFull { .. } => self.outbox.push((reply, Reply::Full(asked, why))),
                        _ => self.done(reply, Done::failure(ExpertFailure::Unavailable(why), asked.mixture)),
                    }
                }
                // A pin that does not fit: the expert is there all the same, and `status` shows that it is not loaded.
                _ => {}
            }
        }
    }

    fn done(&mut self, reply: ReplyTo, done: Box<Done>) {
        self.is_changed = true;
        match done.result {
            Ok(_) => self.work.requests_done += 1,
            Err(ExpertFailure::Cancelled) => self.work.requests_cancelled += 1,
            Err(_) => self.work.requests_failed += 1,
        }
        self.outbox.push((reply, Reply::Done(done)));
    }

    /// Loads on a thread of its own, so that others go on meanwhile.
    fn load(&mut self, part: Part) {
        let work: std::result::Result<(Box<LoadFn>, u64), String> = match part {
            Part::Base(id) => self.loading_base(id),
            Part::Expert(id) => self.loading_expert(id),
        };
        let own = self.own.clone();
        let say = move |what, bytes, took_ms| {
            // If nobody takes it, the fleet has ended.
            let _ = own.send(Command::Loaded(Box::new(Loaded { part, what, bytes, took_ms })));
        };
        let (work, bytes) = match work {
            Ok(work) => work,
            Err(reason) => return say(Err(reason), 0, 0),
        };
        let say_refusal = say.clone();
        let thread = std::thread::Builder::new().name("hublab-load".into());
        let started = thread.spawn(move || {
            let start = Instant::now();
            let loaded = catch_unwind(AssertUnwindSafe(work));
            let loaded = loaded.unwrap_or_else(|panic| Err(Error::Expert(what_panicked(&*panic))));
            say(loaded.map_err(|error| error.to_string()), bytes, start.elapsed().as_millis() as u64);
        });
        if let Err(cause) = started {
            say_refusal(Err(Error::NoThread { cause }.to_string()), 0, 0);
        }
    }

    fn loading_base(&mut self, id: BaseId) -> std::result::Result<(Box<LoadFn>, u64), String> {
        let found = self.experts.values().find(|entry| entry.base == id && entry.facts.is_some());
        let (spec, facts) =
            found.and_then(|entry| Some((Arc::clone(&entry.spec), entry.facts?))).ok_or("it is gone")?;
        let threads = self.threads;
        let team =
            self.team.get_or_insert_with(|| Arc::new(threads.map_or_else(ThreadTeam::with_all_cores, ThreadTeam::new)));
        let team = Arc::clone(team);
        let config = ModelConfig { context: Some(facts.context), ..ModelConfig::default() };
        let work = move || {
            let engine = match &spec.source {
                ModelSource::File(path) => InferenceEngine::open_on(path, &config, Some(&team)),
                ModelSource::Builtin(name) => {
                    let bytes = builtin::model_bytes(name);
                    let bytes = bytes.ok_or_else(|| Error::Expert("it is not in this binary".into()))?;
                    InferenceEngine::open_static(bytes, &config, Some(&team))
                }
            };
            Ok(Arrival::Base(Box::new(engine?)))
        };
        Ok((Box::new(work), facts.file_bytes))
    }

    fn loading_expert(&mut self, id: ExpertId) -> std::result::Result<(Box<LoadFn>, u64), String> {
        let entry = self.experts.get(&id).ok_or("it is gone")?;
        let bytes = entry.weights(id).ok_or("it was never looked at")?.bytes;
        let base = self.bases.get(&entry.base).ok_or("its base is not in memory")?;
        let engine = base.sibling();
        let adapter: Option<AdapterConfig> = entry.spec.adapter.clone();
        let kv_bytes_max = entry.kv_bytes_max;
        let work = move || Ok(Arrival::Expert(Box::new(Resident::new(engine, adapter.as_ref(), kv_bytes_max)?)));
        Ok((Box::new(work), bytes))
    }

    fn take_loaded(&mut self, loaded: Loaded) {
        let Loaded { part, what, bytes, took_ms } = loaded;
        match (part, what) {
            (Part::Base(id), Ok(Arrival::Base(engine))) => drop(self.bases.insert(id, *engine)),
            (Part::Expert(id), Ok(Arrival::Expert(resident))) => {
                self.work.loads += 1;
                self.loaded.insert(id, *resident);
                if let Some(entry) = self.experts.get_mut(&id) {
                    entry.unavailable = None;
                }
            }
            (part, what) => {
                let reason = what.err().unwrap_or_else(|| "something else was loaded".into());
                if let Part::Expert(id) = part
                    && let Some(entry) = self.experts.get_mut(&id)
                {
                    entry.unavailable = Some(reason.clone());
                }
                return self.tell(CacheEvent::LoadFailed { part, reason });
            }
        }
        self.tell(CacheEvent::Loaded { part, bytes, took_ms });
    }

    /// Frees experts that nobody has asked for long enough; how long it is until the next.
    fn expire(&mut self) -> Option<Duration> {
        let keep_alive = self.keep_alive?;
        let is_wanted = |id: &ExpertId| {
            let of_asked = self.waiting.values().any(|asked| asked.experts.contains(id));
            of_asked || self.running.values().any(|running| running.experts.contains(id))
        };
        let stays = |id: &ExpertId| is_wanted(id) || self.experts.get(id).is_none_or(|entry| entry.spec.pinned);
        let idle = self.loaded.iter().filter(|(id, resident)| !stays(id) && !resident.lane.has_work());
        let left = |resident: &Resident| keep_alive.saturating_sub(resident.idle_since.elapsed());
        let idle: Vec<(ExpertId, Duration)> = idle.map(|(id, resident)| (*id, left(resident))).collect();
        for (id, _) in idle.iter().filter(|(_, left)| left.is_zero()) {
            self.tell(CacheEvent::ExpertRemoved { expert: *id });
            // The cache hears of it again when it is asked for.
            if let Some(entry) = self.experts.get_mut(id) {
                entry.facts = None;
            }
        }
        self.post();
        idle.into_iter().map(|(_, left)| left).filter(|left| !left.is_zero()).min()
    }

    /// Begins a question whose experts are in memory.
    fn run(&mut self, request: RequestId) {
        // It may have been given up meanwhile.
        let Some(asked) = self.waiting.remove(&request) else { return };
        self.is_changed = true;
        self.running.insert(request, Running { experts: asked.experts.clone(), reply: asked.reply.clone() });
        let is_mixture = asked.mixture.is_some();
        let begun = catch_unwind(AssertUnwindSafe(|| if is_mixture { self.mix(*asked) } else { self.answer(*asked) }));
        let crashed = |panic: Box<dyn std::any::Any + Send>| {
            Err(Done::failure(ExpertFailure::Failed(what_panicked(&*panic)), None))
        };
        if let Err(done) = begun.unwrap_or_else(crashed) {
            self.end(request, done);
        }
    }

    fn answer(&mut self, asked: Asked) -> std::result::Result<(), Box<Done>> {
        let gone = || Done::failure(ExpertFailure::Unavailable("it was removed".into()), None);
        let failed = |error: Error| Done::failure(failure(error), None);
        let id = *asked.experts.first().ok_or_else(gone)?;
        let spec = Arc::clone(&self.experts.get(&id).ok_or_else(gone)?.spec);
        let resident = self.loaded.get_mut(&id).ok_or_else(gone)?;
        let deadline = Deadline::after(spec.timeout);
        let prompt = resident.prompt(&asked.question, &spec).map_err(failed)?;
        resident.lane.check(&prompt.tokens).map_err(failed)?;
        let (answer, said) = resident.begin(&asked.question, &spec, &prompt).map_err(failed)?;
        let speaker = Some(Speaker::new(spec, said, deadline, asked.reply));
        let sink = Box::new(Solo { request: asked.request, speaker, ended: self.ended_sender.clone() });
        let mut active = Active::new(asked.request, answer, sink, prompt.tokens);
        if active.is_over() {
            // Not a single token is wanted: there is nothing to compute.
            active.end(Finish::Length);
            active.finish(Ok(()));
        } else {
            resident.lane.add(active);
        }
        Ok(())
    }

    fn mix(&mut self, mut asked: Asked) -> std::result::Result<(), Box<Done>> {
        let nothing = || Done::failure(ExpertFailure::Failed("there is no mixture".into()), None);
        let mut mixture = asked.mixture.take().ok_or_else(nothing)?;
        let mut failed = Vec::new();
        let (answer, speaker) = match self.lead(&asked, &mut mixture, &mut failed) {
            Ok(leader) => leader,
            Err(failure) => return Err(Box::new(Done { result: Err(failure), mixture: Some(mixture), failed })),
        };
        let (told, readings) = channel();
        let mut readers = vec![None; asked.experts.len()];
        let mut members = vec![None; asked.experts.len()];
        // All enter at once, so that of any two mixtures one is before the other in every lane: they never wait for each other's
        // memory.
        for (member, &id) in asked.experts.iter().enumerate() {
            let Some((resident, entry)) = self.loaded.get_mut(&id).zip(self.experts.get(&id)) else { continue };
            match resident.question(&asked.question, &entry.spec) {
                Ok((prompt, span)) => {
                    let reader = Reader::new(span, true, (member, told.clone()));
                    members[member] = Some((prompt.tokens.len(), resident.lane.context()));
                    let request = self.shared.next_request();
                    readers[member] = Some(request);
                    resident.lane.add(Active::reading(request, reader, prompt.tokens));
                }
                Err(why) => {
                    failed.push((id, failure(why)));
                    mixture.drop_expert(member);
                }
            }
        }
        let answer = MixedAnswer::new(answer, mixture, &members);
        let Asked { request, experts, .. } = asked;
        self.mixtures.insert(request, Mixing { answer, speaker, experts, failed, readers, readings });
        Ok(())
    }

    /// Begins one answer of several experts, of whom the first that is there leads: its settings and its time limit hold. Those
    /// that are not there are dropped.
    fn lead(
        &self,
        asked: &Asked,
        mixture: &mut Mixture,
        failed: &mut Vec<(ExpertId, ExpertFailure)>,
    ) -> std::result::Result<(AnswerState, Speaker), ExpertFailure> {
        let mut leader = None;
        for (member, id) in asked.experts.iter().enumerate() {
            let entry = self.experts.get(id);
            let there = self.loaded.get(id).zip(entry);
            leader = leader.or(there);
            if there.is_none() {
                let why = entry.and_then(|entry| entry.unavailable.clone());
                failed.push((*id, ExpertFailure::Unavailable(why.unwrap_or_else(|| "it was removed".into()))));
                mixture.drop_expert(member);
            }
        }
        let none = || ExpertFailure::Failed("no member of the mixture is there".into());
        let (resident, Entry { spec, .. }) = leader.ok_or_else(none)?;
        let deadline = Deadline::after(spec.timeout);
        let begin = || {
            let prompt = resident.prompt(&asked.question, spec)?;
            resident.begin(&asked.question, spec, &prompt)
        };
        let (answer, said) = begin().map_err(failure)?;
        Ok((answer, Speaker::new(Arc::clone(spec), said, deadline, asked.reply.clone())))
    }

    /// Reads a question on an expert that is in memory.
    fn read(&mut self, expert: ExpertId, question: &Question, reply: ReadingReply) {
        let Some((resident, entry)) = self.loaded.get_mut(&expert).zip(self.experts.get(&expert)) else { return };
        let read = catch_unwind(AssertUnwindSafe(|| resident.question(question, &entry.spec).ok()));
        if let Ok(Some((prompt, span))) = read {
            let reader = Reader::new(span, false, reply);
            resident.lane.add(Active::reading(self.shared.next_request(), reader, prompt.tokens));
        }
    }

    /// Computes one batch of every expert, and brings every mixture forward. Whether anybody had something to do.
    fn step(&mut self) -> bool {
        let busy: Vec<ExpertId> = self.loaded.iter().filter(|(_, it)| it.lane.has_work()).map(|(&id, _)| id).collect();
        for &id in &busy {
            let Some(resident) = self.loaded.get_mut(&id) else { continue };
            self.work.steps += 1;
            match catch_unwind(AssertUnwindSafe(|| resident.lane.step())) {
                Ok(StepReport { prompt_tokens, generated_tokens, .. }) => {
                    self.work.prompt_tokens += prompt_tokens as u64;
                    self.work.generated_tokens += generated_tokens as u64;
                }
                Err(panic) => self.crashed(id, &what_panicked(&*panic)),
            }
        }
        let mixing: Vec<RequestId> = self.mixtures.keys().copied().collect();
        for &request in &mixing {
            self.advance(request);
        }
        let is_busy = !busy.is_empty() || !mixing.is_empty();
        self.is_changed |= is_busy;
        is_busy
    }

    /// Frees an expert; who is at work with it, if anybody, is told why.
    fn unload(&mut self, id: ExpertId, why: &str) {
        let Some(mut resident) = self.loaded.remove(&id) else { return };
        for active in resident.lane.take_all().0 {
            active.finish(Err(Error::Expert(why.to_owned())));
        }
    }

    /// What a panic left behind is not used again: the expert is loaded anew for the next who asks.
    fn crashed(&mut self, id: ExpertId, what: &str) {
        self.unload(id, what);
        if let Some(weights) = self.experts.get(&id).and_then(|entry| entry.weights(id)) {
            self.tell(CacheEvent::ExpertChanged(weights));
        }
    }

    /// Lets a mixture have its next token if everyone has read what is before it.
    fn advance(&mut self, request: RequestId) {
        let Some(mixing) = self.mixtures.get_mut(&request) else { return };
        let Mixing { answer, speaker, readings, .. } = &mut *mixing;
        while let Ok((member, reading)) = readings.try_recv() {
            answer.told(member, reading);
        }
        let advanced = if speaker.is_closed() {
            answer.cancel();
            Ok(Advance::Ended)
        } else {
            catch_unwind(AssertUnwindSafe(|| answer.advance(&mut |piece| speaker.push(piece.text))))
                .unwrap_or_else(|panic| Err(Error::Expert(what_panicked(&*panic))))
        };
        match advanced {
            Ok(Advance::Wait) => {}
            Ok(Advance::Read(asked)) => {
                for (member, tokens) in asked {
                    let resident = self.loaded.get_mut(&mixing.experts[member]);
                    let reader = mixing.readers[member];
                    if !resident.zip(reader).is_some_and(|(resident, reader)| resident.lane.go_on(reader, &tokens)) {
                        mixing.answer.told(member, Err(Error::Expert("it is not there".into())));
                    }
                }
            }
            Ok(Advance::Ended) => self.end_mixture(request, Ok(())),
            Err(error) => self.end_mixture(request, Err(error)),
        }
    }

    fn end_mixture(&mut self, request: RequestId, result: Result<()>) {
        let Some(mixing) = self.mixtures.remove(&request) else { return };
        let Mixing { answer, speaker, experts, mut failed, readers, .. } = mixing;
        for (id, reader) in experts.iter().zip(readers) {
            if let Some((resident, reader)) = self.loaded.get_mut(id).zip(reader) {
                resident.lane.give_up(reader);
            }
        }
        let (generation, mixture, lost) = answer.into_parts();
        // What lanes count for a mixture is its prompt, of each who read it.
        self.work.generated_tokens += generation.tokens.len() as u64;
        failed.extend(lost.into_iter().map(|(member, why)| (experts[member], ExpertFailure::Failed(why))));
        let result = speaker.finish(result.map(|()| generation));
        self.end(request, Box::new(Done { result, mixture: Some(mixture), failed }));
    }

    /// Takes in what lanes have ended.
    fn settle(&mut self) {
        while let Ok((request, result)) = self.ended.try_recv() {
            self.end(request, Box::new(Done { result, mixture: None, failed: Vec::new() }));
        }
    }

    /// A question that ran has ended.
    fn end(&mut self, request: RequestId, done: Box<Done>) {
        let Some(Running { experts, reply }) = self.running.remove(&request) else { return };
        for id in &experts {
            if let Some(resident) = self.loaded.get_mut(id) {
                resident.idle_since = Instant::now();
            }
        }
        if let Ok(ExpertResponse { latency_ms, .. }) = done.result {
            for id in experts.iter().filter(|id| done.failed.iter().all(|(lost, _)| lost != *id)) {
                if let Some(entry) = self.experts.get_mut(id) {
                    entry.state.count(latency_ms);
                }
            }
        }
        let ok = done.result.is_ok();
        self.tell(if ok { CacheEvent::RequestDone { request } } else { CacheEvent::RequestFailed { request } });
        self.done(reply, done);
    }
}

/// A model file, the context that it is loaded with, and how the file was found: its length, and when it was last changed.
type BaseKey = (ModelSource, Option<usize>, Option<Stamp>);

type LoadFn = dyn FnOnce() -> Result<Arrival> + Send;

impl Entry {
    /// What it takes, as far as that is known.
    fn weights(&self, id: ExpertId) -> Option<ExpertWeights> {
        let facts = self.facts?;
        let adapter_bytes = self.stamps.get(1).map_or(0, |(_, bytes, _)| *bytes);
        let reload_ms = 1 + facts.file_bytes / LOAD_BYTES_PER_MS;
        Some(ExpertWeights {
            id,
            bytes: adapter_bytes + self.kv_bytes_max + facts.pass_bytes,
            reload_ms: 1,
            base: Some(BaseWeights { id: self.base, bytes: facts.file_bytes, reload_ms }),
            pinned: self.spec.pinned,
        })
    }
}

/// What a panic said.
pub(crate) fn what_panicked(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("it crashed: {}", text.as_deref().unwrap_or("without a word"))
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
