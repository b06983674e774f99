//! The thread that computes for everyone: it loads, runs and frees models as the [`ExpertCache`] decides, and computes one batch
//! of each model that has something to do, in turn.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use hublabio_engine::ThreadTeam;
use hublabio_moe::{
    CacheConfig, CacheEffect, CacheEvent, ExpertCache, ExpertId, ExpertWeights, Part, RequestId, RequestRefusal,
};

use super::embeddings::EmbedJob;
use super::lane::{Active, Ended, Lane, StepReport, kv_bytes_max};
use super::{Command, KeepAlive, LoadedModel, NodeConfig, NodeStatus, ServedModel};
use crate::ai::Finish;
use crate::error::{Error, Result};
use crate::moe::{ModelSource, what_panicked};

/// What loading is guessed to cost before it was seen: weights are mapped, so it is the reading of the description and, where
/// the file is not in the page cache, of the disk.
const LOAD_BYTES_PER_MS: u64 = 1 << 20;
/// How often those who wait are looked at: whether they are still wanted.
const POLL: Duration = Duration::from_millis(20);
/// Models that are remembered although they are not in memory.
const REMEMBERED_MAX: usize = 1024;

pub(super) fn start(
    config: NodeConfig,
    team: Arc<ThreadTeam>,
    board: Arc<Mutex<NodeStatus>>,
    inbox: Receiver<Command>,
    own: Sender<Command>,
) -> Result<JoinHandle<()>> {
    let cache = ExpertCache::new(CacheConfig {
        wait_ms_max: config.wait_max.as_millis() as u64,
        queue_max: config.queue_max,
        running_max: config.running_max,
        prefetch: false,
        ..CacheConfig::new(config.max_memory)
    })?;
    let worker = Worker {
        cache,
        start: Instant::now(),
        team,
        status: NodeStatus { max_memory: config.max_memory, ..NodeStatus::default() },
        left: config.max_memory,
        budget: config.max_memory,
        config,
        board,
        own,
        models: BTreeMap::new(),
        ids: HashMap::new(),
        jobs: HashMap::new(),
        next_job: 0,
        end_at: None,
    };
    let thread = std::thread::Builder::new().name("hublab-node".into());
    thread.spawn(move || worker.serve(&inbox)).map_err(|cause| Error::NoThread { cause })
}

/// What a client wants of a model that must be in memory for it.
enum Job {
    Generate(Box<Active>),
    Embed(Box<EmbedJob>),
    Load { reply: Sender<Result<()>> },
}

impl Job {
    fn fail(self, error: Error) {
        match self {
            Self::Generate(active) => active.finish(Err(error)),
            Self::Embed(job) => job.finish(Err(error)),
            Self::Load { reply } => drop(reply.send(Err(error))),
        }
    }

    /// Whether nobody waits for it any more, as far as can be told.
    fn is_closed(&self) -> bool {
        matches!(self, Self::Generate(active) if active.is_closed())
    }
}

/// A model's file, as it was at a time: another file is another model.
type FileKey = (ModelSource, u64, Option<SystemTime>);

/// A model that was asked for.
struct Entry {
    served: Arc<ServedModel>,
    lane: Option<Lane>,
    /// How long it stays when it is idle.
    keep_alive: Option<Duration>,
    idle_since: Instant,
    /// Requests that wait for it or run.
    n_jobs: usize,
    /// To be freed as soon as it is idle.
    is_stopping: bool,
}

struct Worker {
    cache: ExpertCache,
    start: Instant,
    config: NodeConfig,
    team: Arc<ThreadTeam>,
    board: Arc<Mutex<NodeStatus>>,
    status: NodeStatus,
    /// Bytes that others have left for the models here.
    left: u64,
    /// What the cache goes by.
    budget: u64,
    own: Sender<Command>,
    models: BTreeMap<ExpertId, Entry>,
    ids: HashMap<FileKey, ExpertId>,
    /// Those that wait for their model; those that run are in lanes.
    jobs: HashMap<RequestId, (ExpertId, Job)>,
    /// Numbers of jobs that are no answers, counted down from the highest.
    next_job: u64,
    /// When everything ends, whatever still runs.
    end_at: Option<Instant>,
}

impl Worker {
    fn serve(mut self, inbox: &Receiver<Command>) {
        loop {
            while let Ok(command) = inbox.try_recv() {
                self.take(command);
            }
            self.drop_unwanted();
            self.expire();
            self.post();
            if self.is_over() {
                return self.fail_all();
            }
            let busy: Vec<ExpertId> = self.models.iter().filter(|(_, e)| e.has_work()).map(|(id, _)| *id).collect();
            for &id in &busy {
                self.step(id);
            }
            if busy.is_empty() {
                match inbox.recv_timeout(self.patience()) {
                    Ok(command) => self.take(command),
                    Err(RecvTimeoutError::Timeout) => self.tell(CacheEvent::Tick),
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        }
    }

    fn now_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    /// How long nothing can happen by itself.
    fn patience(&self) -> Duration {
        let now = Instant::now();
        let tick = self.cache.next_deadline_ms().map(|at| Duration::from_millis(at.saturating_sub(self.now_ms())));
        let poll = (!self.jobs.is_empty()).then_some(POLL);
        let end = self.end_at.map(|at| at.saturating_duration_since(now));
        let expiry = self.models.values().filter_map(Entry::expires).min().map(|at| at.saturating_duration_since(now));
        [tick, poll, end, expiry].into_iter().flatten().min().unwrap_or(Duration::from_secs(3600))
    }

    fn is_over(&self) -> bool {
        let Some(at) = self.end_at else { return false };
        let idle = self.jobs.is_empty() && self.models.values().all(|entry| !entry.has_work());
        idle || Instant::now() >= at
    }

    fn fail_all(mut self) {
        for (_, (_, job)) in self.jobs.drain() {
            job.fail(Error::ShuttingDown);
        }
        for entry in self.models.values_mut() {
            let Some(lane) = &mut entry.lane else { continue };
            let (answers, embeddings) = lane.take_all();
            answers.into_iter().for_each(|active| active.finish(Err(Error::ShuttingDown)));
            embeddings.into_iter().for_each(|job| job.finish(Err(Error::ShuttingDown)));
        }
        self.status.models.clear();
        (self.status.work.running, self.status.work.waiting) = (0, 0);
        *self.board.lock().unwrap_or_else(PoisonError::into_inner) = self.status.clone();
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Generate { id, model, prompt, answer, keep_alive, sink } => {
                let mut active = Active::new(id, *answer, sink, prompt);
                if active.is_over() {
                    // Not a single token is wanted: there is nothing to compute.
                    active.end(Finish::Length);
                    return active.finish(Ok(()));
                }
                self.keep(&model, keep_alive);
                self.queue(id, &model, Job::Generate(Box::new(active)));
            }
            Command::Embed { id, model, prompts, pooling, keep_alive, reply } => {
                self.keep(&model, keep_alive);
                self.queue(id, &model, Job::Embed(Box::new(EmbedJob::new(id, prompts, pooling, reply))));
            }
            Command::Load { model, keep_alive, reply } => {
                self.keep(&model, keep_alive);
                let id = self.job_id();
                self.queue(id, &model, Job::Load { reply });
            }
            Command::Unload { name, reply } => {
                let mut found = false;
                for entry in self.models.values_mut().filter(|entry| entry.served.name() == name) {
                    found |= entry.lane.is_some();
                    entry.is_stopping = entry.lane.is_some();
                }
                let _ = reply.send(found);
            }
            Command::Cancel(id) => self.cancel(id),
            Command::Budget(bytes) => {
                self.left = bytes;
                self.status.max_memory = bytes;
                self.keep_to_budget();
            }
            Command::Loaded { expert, lane, took_ms } => self.loaded(expert, lane, took_ms),
            Command::End { drain } => self.end_at = Some(Instant::now() + drain),
        }
    }

    /// Makes do with what others have left, but for a model that is asked and needs more: it is served as if they were not there.
    fn keep_to_budget(&mut self) {
        let asked = self.models.iter().filter(|(_, entry)| entry.n_jobs > 0);
        let needed = asked.map(|(&id, entry)| self.weights(id, &entry.served).bytes).max().unwrap_or(0);
        let bytes_max = self.left.max(needed.min(self.config.max_memory));
        if bytes_max != self.budget {
            self.budget = bytes_max;
            self.tell(CacheEvent::BudgetChanged { bytes_max });
        }
    }

    /// Says how long a model stays.
    fn keep(&mut self, model: &Arc<ServedModel>, keep_alive: KeepAlive) {
        let expert = self.know(model);
        let Some(entry) = self.models.get_mut(&expert) else { return };
        match keep_alive {
            KeepAlive::AsBefore => {}
            KeepAlive::For(time) => entry.keep_alive = Some(time),
            KeepAlive::Forever => entry.keep_alive = None,
        }
    }

    /// A number for what is no answer. Answers count up from 0: the two never meet.
    fn job_id(&mut self) -> RequestId {
        self.next_job += 1;
        RequestId(u64::MAX - self.next_job)
    }

    /// The cache's number for a model's file.
    fn know(&mut self, model: &Arc<ServedModel>) -> ExpertId {
        let key = (model.source().clone(), model.bytes(), model.modified());
        if let Some(&id) = self.ids.get(&key) {
            return id;
        }
        if self.models.len() >= REMEMBERED_MAX {
            self.forget_idle();
        }
        let id = ExpertId(self.models.last_key_value().map_or(0, |(id, _)| id.0 + 1));
        self.ids.insert(key, id);
        let entry = Entry {
            served: Arc::clone(model),
            lane: None,
            keep_alive: self.config.keep_alive,
            idle_since: Instant::now(),
            n_jobs: 0,
            is_stopping: false,
        };
        self.models.insert(id, entry);
        self.tell(CacheEvent::ExpertAdded(self.weights(id, model)));
        id
    }

    fn weights(&self, id: ExpertId, model: &ServedModel) -> ExpertWeights {
        let bytes = model.bytes() + kv_bytes_max(model, &self.config);
        ExpertWeights { id, bytes, reload_ms: 1 + model.bytes() / LOAD_BYTES_PER_MS, base: None, pinned: false }
    }

    fn forget_idle(&mut self) {
        let idle: Vec<ExpertId> =
            self.models.iter().filter(|(_, e)| e.lane.is_none() && e.n_jobs == 0).map(|(id, _)| *id).collect();
        for id in idle {
            self.tell(CacheEvent::ExpertRemoved { expert: id });
            self.models.remove(&id);
            self.ids.retain(|_, known| *known != id);
        }
    }

    fn queue(&mut self, id: RequestId, model: &Arc<ServedModel>, job: Job) {
        if self.end_at.is_some() {
            return job.fail(Error::ShuttingDown);
        }
        let expert = self.know(model);
        if let Some(entry) = self.models.get_mut(&expert) {
            entry.n_jobs += 1;
            entry.is_stopping = false;
        }
        self.jobs.insert(id, (expert, job));
        self.keep_to_budget();
        self.tell(CacheEvent::RequestQueued { request: id, experts: vec![expert] });
    }

    /// Tells the cache what happened, and does what it wants.
    fn tell(&mut self, event: CacheEvent) {
        let now_ms = self.now_ms();
        for effect in self.cache.handle(event, now_ms) {
            match effect {
                CacheEffect::Evict { part: Part::Expert(id) } => {
                    if let Some(entry) = self.models.get_mut(&id) {
                        tracing::info!(model = entry.served.name(), "freed");
                        entry.lane = None;
                    }
                }
                CacheEffect::Load { part: Part::Expert(id), .. } => self.load(id),
                CacheEffect::Start { request } => self.run(request),
                CacheEffect::Fail { request, reason } => {
                    let Some((expert, job)) = self.jobs.remove(&request) else { continue };
                    self.job_ended(expert);
                    job.fail(self.why(expert, &reason));
                    self.status.work.requests_failed += 1;
                }
                CacheEffect::Refuse { request, reason } => {
                    let Some((expert, job)) = self.jobs.remove(&request) else { continue };
                    self.job_ended(expert);
                    job.fail(match reason {
                        RequestRefusal::QueueFull { queue_max } => Error::Busy { waiting: queue_max },
                        other => Error::Expert(other.to_string()),
                    });
                    self.status.work.requests_failed += 1;
                }
                // Nothing is pinned here, and nothing has a base.
                _ => {}
            }
        }
    }

    /// The cache's reason in words about models.
    fn why(&self, expert: ExpertId, reason: &hublabio_moe::RequestFailure) -> Error {
        use hublabio_moe::RequestFailure::{LoadFailed, TooLarge};
        let model = self.models.get(&expert).map_or_else(String::new, |entry| entry.served.name().to_owned());
        match reason {
            TooLarge { bytes, bytes_max, .. } => Error::ModelTooLarge { model, bytes: *bytes, max_memory: *bytes_max },
            LoadFailed { reason, .. } => Error::LoadFailed { model, reason: reason.clone() },
            other => Error::Expert(other.to_string()),
        }
    }

    /// Opens a model on a thread of its own, so that others go on meanwhile.
    fn load(&mut self, id: ExpertId) {
        let Some(entry) = self.models.get(&id) else { return };
        let (served, config, team) = (Arc::clone(&entry.served), self.config.clone(), Arc::clone(&self.team));
        let own = self.own.clone();
        let thread = std::thread::Builder::new().name("hublab-load".into());
        let started = thread.spawn(move || {
            let start = Instant::now();
            let opened = catch_unwind(AssertUnwindSafe(|| Lane::open(&served, &config, &team)));
            let lane = opened.unwrap_or_else(|panic| Err(Error::Crashed { what: what_panicked(&*panic) }));
            let took_ms = start.elapsed().as_millis() as u64;
            // If nobody takes it, the node has ended.
            let _ = own.send(Command::Loaded { expert: id, lane: Box::new(lane), took_ms });
        });
        if let Err(cause) = started {
            let lane = Box::new(Err(Error::NoThread { cause }));
            let _ = self.own.send(Command::Loaded { expert: id, lane, took_ms: 0 });
        }
    }

    fn loaded(&mut self, expert: ExpertId, lane: Box<Result<Lane>>, took_ms: u64) {
        let part = Part::Expert(expert);
        match *lane {
            Ok(lane) => {
                let Some(entry) = self.models.get_mut(&expert) else { return };
                tracing::info!(model = entry.served.name(), took_ms, "loaded");
                for notice in entry.served.notices() {
                    tracing::warn!(model = entry.served.name(), "{notice}");
                }
                entry.lane = Some(lane);
                entry.idle_since = Instant::now();
                self.status.work.loads += 1;
                let bytes = self.weights(expert, &Arc::clone(&self.models[&expert].served)).bytes;
                self.tell(CacheEvent::Loaded { part, bytes, took_ms });
            }
            Err(error) => {
                let reason = error.to_string();
                self.tell(CacheEvent::LoadFailed { part, reason });
            }
        }
    }

    /// A request's model is in memory.
    fn run(&mut self, id: RequestId) {
        let Some((expert, job)) = self.jobs.remove(&id) else { return };
        let Some(lane) = self.models.get_mut(&expert).and_then(|entry| entry.lane.as_mut()) else {
            job.fail(Error::Expert("its model is not in memory".into()));
            return self.end(expert, id, Ended::Failed);
        };
        match job {
            Job::Generate(active) => lane.add(*active),
            Job::Load { reply } => {
                let _ = reply.send(Ok(()));
                self.end(expert, id, Ended::Done);
            }
            Job::Embed(job) => lane.add_embeddings(*job),
        }
    }

    /// One batch of one model.
    fn step(&mut self, id: ExpertId) {
        let Some(lane) = self.models.get_mut(&id).and_then(|entry| entry.lane.as_mut()) else { return };
        let stepped = catch_unwind(AssertUnwindSafe(|| lane.step()));
        self.status.work.steps += 1;
        match stepped {
            Ok(StepReport { ended, prompt_tokens, generated_tokens }) => {
                self.status.work.prompt_tokens += prompt_tokens as u64;
                self.status.work.generated_tokens += generated_tokens as u64;
                for (request, ended) in ended {
                    self.end(id, request, ended);
                }
            }
            Err(panic) => self.crashed(id, &what_panicked(&*panic)),
        }
    }

    /// What a panic left behind is not used again: the model is loaded anew for the next who asks.
    fn crashed(&mut self, id: ExpertId, what: &str) {
        let Some(entry) = self.models.get_mut(&id) else { return };
        tracing::error!(model = entry.served.name(), what, "crashed");
        let (answers, embeddings) = entry.lane.as_mut().map(Lane::take_all).unwrap_or_default();
        let crash = || Err(Error::Crashed { what: what.to_owned() });
        for request in answers {
            let number = request.id;
            request.finish(crash());
            self.end(id, number, Ended::Failed);
        }
        for job in embeddings {
            let number = job.id;
            job.finish(crash());
            self.end(id, number, Ended::Failed);
        }
        let served = Arc::clone(&self.models[&id].served);
        self.tell(CacheEvent::ExpertChanged(self.weights(id, &served)));
    }

    /// A request that ran has ended.
    fn end(&mut self, expert: ExpertId, id: RequestId, ended: Ended) {
        self.job_ended(expert);
        match ended {
            Ended::Done => self.status.work.requests_done += 1,
            Ended::Failed => self.status.work.requests_failed += 1,
            Ended::Cancelled => self.status.work.requests_cancelled += 1,
        }
        self.tell(match ended {
            Ended::Done => CacheEvent::RequestDone { request: id },
            Ended::Failed => CacheEvent::RequestFailed { request: id },
            Ended::Cancelled => CacheEvent::RequestCancelled { request: id },
        });
    }

    fn job_ended(&mut self, expert: ExpertId) {
        if let Some(entry) = self.models.get_mut(&expert) {
            entry.n_jobs -= 1;
            entry.idle_since = Instant::now();
        }
    }

    fn cancel(&mut self, id: RequestId) {
        match self.jobs.remove(&id) {
            Some((expert, Job::Generate(mut active))) => {
                active.end(Finish::Cancelled);
                active.finish(Ok(()));
                self.end(expert, id, Ended::Cancelled);
            }
            Some((expert, job)) => {
                job.fail(Error::Cancelled);
                self.end(expert, id, Ended::Cancelled);
            }
            None => {
                let mut found = None;
                for (&expert, entry) in &mut self.models {
                    let Some(lane) = &mut entry.lane else { continue };
                    lane.give_up(id);
                    found = found.or_else(|| Some((expert, lane.take_embeddings(id)?)));
                }
                if let Some((expert, job)) = found {
                    job.finish(Err(Error::Cancelled));
                    self.end(expert, id, Ended::Cancelled);
                }
            }
        }
    }

    /// Those who wait for a model and whose clients have gone.
    fn drop_unwanted(&mut self) {
        let gone: Vec<RequestId> =
            self.jobs.iter().filter(|(_, (_, job))| job.is_closed()).map(|(id, _)| *id).collect();
        for id in gone {
            self.cancel(id);
        }
    }

    /// Frees models that nobody has asked for long enough, and those that are to stop.
    fn expire(&mut self) {
        let now = Instant::now();
        let due = |entry: &Entry| {
            entry.lane.is_some()
                && entry.n_jobs == 0
                && (entry.is_stopping || entry.expires().is_some_and(|at| at <= now))
        };
        let due: Vec<ExpertId> = self.models.iter().filter(|(_, entry)| due(entry)).map(|(id, _)| *id).collect();
        for id in due {
            self.tell(CacheEvent::ExpertRemoved { expert: id });
            let Some(entry) = self.models.get_mut(&id) else { continue };
            entry.lane = None;
            entry.is_stopping = false;
            entry.keep_alive = self.config.keep_alive;
            let served = Arc::clone(&entry.served);
            self.tell(CacheEvent::ExpertAdded(self.weights(id, &served)));
            self.keep_to_budget();
        }
    }

    /// Shows everyone how things are.
    fn post(&mut self) {
        let now = Instant::now();
        let (mut running, mut waiting) = (0, self.jobs.len());
        self.status.models.clear();
        for entry in self.models.values() {
            let Some(lane) = &entry.lane else { continue };
            let (lane_running, lane_waiting) = lane.n_requests();
            running += lane_running;
            waiting += lane_waiting;
            self.status.models.push(LoadedModel {
                name: entry.served.name().to_owned(),
                file_bytes: entry.served.bytes(),
                kv_bytes: lane.kv_bytes() as u64,
                context: entry.served.facts().context,
                running: lane_running + lane_waiting,
                expires_in: entry.expires().map(|at| at.saturating_duration_since(now)),
            });
        }
        (self.status.work.running, self.status.work.waiting) = (running, waiting);
        self.board.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&self.status);
    }
}

impl Entry {
    fn has_work(&self) -> bool {
        self.lane.as_ref().is_some_and(Lane::has_work)
    }

    /// When it is freed if nobody asks.
    fn expires(&self) -> Option<Instant> {
        let idle = self.lane.is_some() && self.n_jobs == 0;
        self.keep_alive.filter(|_| idle).and_then(|keep_alive| self.idle_since.checked_add(keep_alive))
    }
}
