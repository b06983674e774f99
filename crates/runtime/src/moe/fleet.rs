//! The experts of this node as their clients see them. The thread that owns their models is in `worker.rs`.
//!
//! Any number of clients ask at once through their [`FleetBackend`]: what they ask of one expert is computed in one batch, and
//! experts go forward step by step beside each other. An answer's text comes back through a channel; a client that hangs up is
//! noticed at the next step.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use hublabio_moe::{
    CacheStats, ExpertBackend, ExpertFailure, ExpertId, ExpertJob, ExpertResponse, ExpertState, Mixture, MixtureJob,
    PieceSink, RequestId,
};

use super::expert_file::ExpertSpec;
use super::facts::ModelFacts;
use super::settings::SwarmSettings;
use super::speaker::{Question, ReplyTo};
use super::worker;
use crate::ai::mixed::Reading;
use crate::ai::{GenerationConfig, Message};
use crate::error::Result;
use crate::node::{Node, WorkCounts};

/// How often a waiting client looks whether it is still wanted.
const POLL: Duration = Duration::from_millis(20);

/// How a fleet computes, and what it may use.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FleetConfig {
    /// Threads; by default one per core.
    pub threads: Option<usize>,
    /// Bytes that experts may take together, in place of what the settings say.
    pub bytes_max: Option<u64>,
    /// Bytes that they may take of what others use too: the budget is never larger.
    pub share: Option<u64>,
    /// Bytes, waiting and queue, in place of what the swarm's own settings say; the rest is not the fleet's business.
    pub settings: Option<SwarmSettings>,
}

impl FleetConfig {
    /// Bytes that the experts of a swarm with these settings may take.
    pub(super) fn budget(&self, settings: &SwarmSettings) -> u64 {
        self.bytes_max.unwrap_or(settings.bytes_max).min(self.share.unwrap_or(u64::MAX))
    }
}

/// Where an expert is, and how it is doing.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpertStatus {
    /// Who.
    pub id: ExpertId,
    /// In memory, busy, questions, latency.
    pub state: ExpertState,
    /// Bytes of its file and of what its conversations may take, once they are known.
    pub bytes: Option<u64>,
    /// Why it cannot be used, if so.
    pub unavailable: Option<String>,
}

/// The experts of this node and the thread that runs them. Dropping it ends the thread within a step; what it was at fails.
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
pub(super) struct Shared {
    requests: AtomicU64,
    board: Mutex<Board>,
}

impl Shared {
    /// A number that no other request has.
    pub fn next_request(&self) -> RequestId {
        RequestId(self.requests.fetch_add(1, Ordering::Relaxed))
    }

    pub fn post(&self, board: Board) {
        *self.board.lock().unwrap_or_else(PoisonError::into_inner) = board;
    }
}

/// What the worker tells everyone.
#[derive(Clone, Debug, Default)]
pub(super) struct Board {
    pub experts: Vec<ExpertStatus>,
    pub stats: CacheStats,
    pub work: WorkCounts,
    pub bytes_held: u64,
    pub bytes_max: u64,
}

pub(super) enum Command {
    Experts(Vec<Arc<ExpertSpec>>, Sender<()>),
    Budget(u64),
    Hint(Vec<(ExpertId, f32)>),
    Ask(Box<Asked>),
    /// Reads a question on those experts that are in memory, each under its place in the list. Whatever becomes of a reading, its
    /// sender is gone then.
    Read {
        experts: Vec<ExpertId>,
        question: Box<Question>,
        reply: Sender<(usize, Result<Reading>)>,
    },
    Facts {
        expert: ExpertId,
        reply: Sender<std::result::Result<ModelFacts, String>>,
    },
    Cancel(RequestId),
    /// From the thread that loads.
    Loaded(Box<worker::Loaded>),
    End,
}

/// A question on its way.
pub(super) struct Asked {
    pub request: RequestId,
    pub experts: Vec<ExpertId>,
    pub question: Question,
    /// For a mixture, who weighs.
    pub mixture: Option<Mixture>,
    pub reply: ReplyTo,
}

pub(super) enum Reply {
    Piece(String),
    Done(Box<Done>),
    /// Too many wait, for this reason: the question back.
    Full(Box<Asked>, String),
}

pub(super) struct Done {
    pub result: std::result::Result<ExpertResponse, ExpertFailure>,
    pub mixture: Option<Mixture>,
    pub failed: Vec<(ExpertId, ExpertFailure)>,
}

impl Done {
    pub fn failure(failure: ExpertFailure, mixture: Option<Mixture>) -> Box<Self> {
        Box::new(Self { result: Err(failure), mixture, failed: Vec::new() })
    }
}

impl Fleet {
    /// Starts the thread; no expert is loaded before it is needed.
    ///
    /// # Errors
    /// When a limit in `config` is out of range, or no thread can be started.
    pub fn start(experts: &[ExpertSpec], config: &FleetConfig) -> Result<Self> {
        Self::start_beside(None, experts, config)
    }

    /// As [`start`](Self::start), on a node's threads and in its memory.
    pub(crate) fn start_beside(node: Option<&Node>, experts: &[ExpertSpec], config: &FleetConfig) -> Result<Self> {
        let (commands, inbox) = channel();
        let shared = Arc::new(Shared::default());
        let worker = worker::start(config, node, Arc::clone(&shared), commands.clone(), inbox)?;
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

    /// What its experts compute, and have computed. Every expert's answer counts, and one that several gave together once.
    #[must_use]
    pub fn work(&self) -> WorkCounts {
        self.board().work
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

    /// Asks everything at once, and hands text to `on_text`, with the question's place, until all is done.
    fn ask(
        &self,
        questions: Vec<(Vec<ExpertId>, Question, Option<Mixture>)>,
        on_text: &mut PieceSink<'_>,
    ) -> Vec<Done> {
        let (sender, replies) = channel();
        let mut pending: Vec<Pending> = Vec::with_capacity(questions.len());
        for (index, (experts, question, mixture)) in questions.into_iter().enumerate() {
            let request = self.shared.next_request();
            let cancelled = Arc::new(AtomicBool::new(false));
            let reply = ReplyTo { index, sender: sender.clone(), cancelled: Arc::clone(&cancelled) };
            pending.push(Pending { request, cancelled, done: None });
            // Where nobody takes it, its sender is gone, which is seen below.
            let _ = self.commands.send(Command::Ask(Box::new(Asked { request, experts, question, mixture, reply })));
        }
        drop(sender);
        let mut left = pending.len();
        // What there is no room for waits here as long as others of the same client are there, so that asking for all at once is
        // refused only where one after the other would be.
        let mut held: VecDeque<Box<Asked>> = VecDeque::new();
        while left > 0 {
            let mut is_room = false;
            match replies.recv_timeout(POLL) {
                Ok((index, Reply::Piece(text))) => {
                    if on_text(index, &text).is_break() {
                        self.cancel(&pending[index]);
                    }
                }
                Ok((index, Reply::Done(done))) => {
                    pending[index].done = Some(done);
                    left -= 1;
                    is_room = true;
                }
                Ok((index, Reply::Full(asked, why))) => {
                    if left - held.len() > 1 {
                        held.push_back(asked);
                    } else {
                        pending[index].done = Some(Done::failure(ExpertFailure::Unavailable(why), asked.mixture));
                        left -= 1;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    for (index, waiting) in pending.iter().enumerate().filter(|(_, waiting)| waiting.done.is_none()) {
                        if on_text(index, "").is_break() {
                            self.cancel(waiting);
                        }
                    }
                    is_room = true;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if let Some(asked) = if is_room { held.pop_front() } else { None } {
                let index = asked.reply.index;
                if asked.reply.cancelled.load(Ordering::Relaxed) {
                    pending[index].done = Some(Done::failure(ExpertFailure::Cancelled, asked.mixture));
                    left -= 1;
                } else {
                    let _ = self.commands.send(Command::Ask(asked));
                }
            }
        }
        let lost = || Done::failure(ExpertFailure::Failed("the thread of the experts has ended".into()), None);
        pending.into_iter().map(|waiting| *waiting.done.unwrap_or_else(lost)).collect()
    }

    fn cancel(&self, waiting: &Pending) {
        if !waiting.cancelled.swap(true, Ordering::Relaxed) {
            let _ = self.commands.send(Command::Cancel(waiting.request));
        }
    }
}

/// A question of which the end is awaited.
struct Pending {
    request: RequestId,
    cancelled: Arc<AtomicBool>,
    done: Option<Box<Done>>,
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
        let question = |job: &ExpertJob| (vec![job.expert], self.question(&job.prompt, job.bare, job.max_tokens), None);
        let done = self.link.ask(jobs.iter().map(question).collect(), on_piece);
        done.into_iter().map(|done| done.result).collect()
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
        let asked = vec![(job.experts.clone(), question, Some(mixture.clone()))];
        let done = self.link.ask(asked, on_piece).remove(0);
        if let Some(used) = done.mixture {
            *mixture = used;
        }
        failed.extend(done.failed);
        done.result
    }

    fn prompt_logprobs(&mut self, experts: &[ExpertId], text: &str) -> Vec<Option<f32>> {
        let (reply, readings) = channel();
        let question = Box::new(self.question(text, false, None));
        let mut found = vec![None; experts.len()];
        if self.link.commands.send(Command::Read { experts: experts.to_vec(), question, reply }).is_ok() {
            // This ends when every reading has ended.
            while let Ok((index, reading)) = readings.recv() {
                let mean = |reading: Reading| reading.logprobs.iter().sum::<f64>() / text.len().max(1) as f64;
                found[index] = reading.ok().map(|reading| mean(reading) as f32);
            }
        }
        found
    }
}
