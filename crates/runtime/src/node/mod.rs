//! Many clients, one machine: the models of this node and the thread that computes for everyone.
//!
//! A client finds a [`ServedModel`], makes a prompt with its [`text`](ServedModel::text) on its own thread, and hands a
//! [`GenerationRequest`] over; events come back through its [`AnswerSink`]. Which models are in memory, whose turn it is and
//! what goes into a batch is decided by pure state machines (`hublabio_moe::ExpertCache`, `hublabio_engine::Scheduler`); here
//! are the clock, the files and the thread.
//!
//! ```
//! use hublabio_runtime::ai::{GenerationConfig, Message};
//! use hublabio_runtime::node::{BuiltinCatalog, GenerationRequest, Node, NodeConfig};
//! use std::ops::ControlFlow;
//! use std::sync::Arc;
//!
//! let node = Node::start(Arc::new(BuiltinCatalog), NodeConfig::default())?;
//! let model = node.model("default")?;
//! let prompt = model.text()?.chat_prompt_with(&[Message::new("user", "What does tar do?")], &Default::default())?;
//! let request = GenerationRequest::new(model, prompt.tokens, GenerationConfig::greedy());
//! let answer = node.generate(request, &mut |_| ControlFlow::Continue(()))?;
//! assert_eq!(answer.text, "An archiving utility.");
//! # Ok::<(), hublabio_runtime::Error>(())
//! ```
//!
//! Where to go next: `model.rs` is what is known of a model without its weights, `worker.rs` the thread, `lane.rs` one model's batches,
//! `embeddings.rs` those of texts that become vectors, `reading.rs` texts that are read for what the model thinks of them.

mod catalog;
mod embeddings;
pub(crate) mod lane;
mod model;
pub(crate) mod reading;
mod worker;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use hublabio_engine::{Isa, KvType, Pooling, ThreadTeam};
use hublabio_moe::ExpertId;
use hublabio_tokenizer::TokenId;

use crate::ai::decode::AnswerState;
use crate::ai::{Generation, GenerationConfig, TokenLogProbs};
use crate::error::{Error, Result};
use crate::store::ModelStore;
use embeddings::EmbedReply;

pub use hublabio_moe::RequestId;

pub use catalog::{BuiltinCatalog, CatalogModel, ModelCatalog};
pub use model::{ModelFacts, ServedModel};

/// Models whose tokenizer and template are kept although nobody computes with them.
const TEXTS_MAX: usize = 16;

/// What a node may use, and when it says no.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeConfig {
    /// Threads that compute; by default one per core.
    pub threads: Option<usize>,
    /// Bytes that models may take together, keys and values included.
    pub max_memory: u64,
    /// Positions of a conversation; by default what the model was trained for, at most 32,768, and down to 4096 less where the
    /// memory is too small for them.
    pub context: Option<usize>,
    /// Precision of keys and values; by default the model's.
    pub kv: Option<KvType>,
    /// Instruction set; by default the fastest. Results do not depend on it.
    pub isa: Option<Isa>,
    /// Answers that are generated at once.
    pub running_max: usize,
    /// Requests that wait beside them; more are refused.
    pub queue_max: usize,
    /// How long a model stays in memory after its last answer; `None` for as long as no other needs the memory.
    pub keep_alive: Option<Duration>,
    /// The longest that a request waits because requests for another model are served first.
    pub wait_max: Duration,
}

impl Default for NodeConfig {
    /// 4 GiB, all cores, 64 answers at once, 256 waiting, five minutes in memory, 10 s of waiting for another model.
    fn default() -> Self {
        Self {
            threads: None,
            max_memory: 4 << 30,
            context: None,
            kv: None,
            isa: None,
            running_max: 64,
            queue_max: 256,
            keep_alive: Some(Duration::from_secs(300)),
            wait_max: Duration::from_secs(10),
        }
    }
}

/// How long a model stays in memory after its last answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeepAlive {
    /// As it was said before, at first as the node has it.
    #[default]
    AsBefore,
    /// So long; zero frees it at once.
    For(Duration),
    /// As long as no other needs the memory.
    Forever,
}

/// An answer to be generated.
#[derive(Clone)]
pub struct GenerationRequest {
    /// By which model.
    pub model: Arc<ServedModel>,
    /// What it goes on from.
    pub prompt: Vec<TokenId>,
    /// How.
    pub config: GenerationConfig,
    /// How long the model stays in memory from now on.
    pub keep_alive: KeepAlive,
}

impl GenerationRequest {
    /// An answer to `prompt`.
    #[must_use]
    pub fn new(model: Arc<ServedModel>, prompt: Vec<TokenId>, config: GenerationConfig) -> Self {
        Self { model, prompt, config, keep_alive: KeepAlive::AsBefore }
    }
}

/// Texts to be turned into vectors.
#[derive(Clone)]
pub struct EmbedRequest {
    /// By which model.
    pub model: Arc<ServedModel>,
    /// The texts, each with the tokens that the model wants around it.
    pub prompts: Vec<Vec<TokenId>>,
    /// How the states of a text's tokens become one vector; `None` as the model has it.
    pub pooling: Option<Pooling>,
    /// How long the model stays in memory from now on.
    pub keep_alive: KeepAlive,
}

impl EmbedRequest {
    /// The vectors of `prompts`.
    #[must_use]
    pub fn new(model: Arc<ServedModel>, prompts: Vec<Vec<TokenId>>) -> Self {
        Self { model, prompts, pooling: None, keep_alive: KeepAlive::AsBefore }
    }
}

/// What happens to a request. The last is [`Done`](AnswerEvent::Done) or [`Failed`](AnswerEvent::Failed), and comes exactly once.
#[derive(Debug)]
#[non_exhaustive]
pub enum AnswerEvent {
    /// So much of the prompt has been read.
    Progress {
        /// Tokens read, the cached ones included.
        read: usize,
        /// Those of them that did not have to be computed.
        cached: usize,
        /// Tokens of the prompt.
        total: usize,
    },
    /// What the answer grew by.
    Piece {
        /// Text that became certain, in whole characters; may be empty.
        text: String,
        /// The token that was chosen; `None` for what is left at the end.
        token: Option<TokenId>,
        /// Its log probabilities, where they are asked for.
        logprobs: Option<TokenLogProbs>,
    },
    /// The answer has ended, for the reason that it names.
    Done(Box<Generation>),
    /// The request failed; the others go on.
    Failed(Error),
}

/// Where a request's events go. Called on the thread that computes for everyone: it must not wait.
pub trait AnswerSink: Send {
    /// Takes an event. `Break` gives the request up: it then ends as [`Finish::Cancelled`](crate::ai::Finish::Cancelled).
    fn take(&mut self, event: AnswerEvent) -> ControlFlow<()>;
    /// Whether nobody listens any more. Looked at before every step, while the request waits and while its prompt is read, too.
    fn is_closed(&self) -> bool {
        false
    }
}

impl AnswerSink for Sender<AnswerEvent> {
    fn take(&mut self, event: AnswerEvent) -> ControlFlow<()> {
        if self.send(event).is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }
}

/// A model that is in memory.
#[derive(Clone, Debug)]
pub struct LoadedModel {
    /// Its name.
    pub name: String,
    /// Bytes of its file.
    pub file_bytes: u64,
    /// Bytes of keys and values that are held for it.
    pub kv_bytes: u64,
    /// Positions that a conversation with it may have.
    pub context: usize,
    /// Requests that run.
    pub running: usize,
    /// How long it stays if nobody asks; `None` for as long as no other needs the memory.
    pub expires_in: Option<Duration>,
}

/// What a node does at the moment, and has done since it started.
#[derive(Clone, Debug, Default)]
pub struct NodeStatus {
    /// Models in memory.
    pub models: Vec<LoadedModel>,
    /// Bytes that they may take: what was given at the start, without what experts of swarms beside them hold.
    pub max_memory: u64,
    /// Requests and tokens.
    pub work: WorkCounts,
}

/// What is computed at the moment, and what was since the start: of a node, or of a swarm's experts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkCounts {
    /// Requests that are computed.
    pub running: usize,
    /// Requests that wait.
    pub waiting: usize,
    /// Requests that ended well, since the start.
    pub requests_done: u64,
    /// Requests that failed, since the start.
    pub requests_failed: u64,
    /// Requests that were given up, since the start.
    pub requests_cancelled: u64,
    /// Tokens of prompts that were computed, since the start.
    pub prompt_tokens: u64,
    /// Tokens that were generated, since the start.
    pub generated_tokens: u64,
    /// Passes that were computed, since the start.
    pub steps: u64,
    /// Models that were loaded, since the start.
    pub loads: u64,
}

impl std::ops::AddAssign for WorkCounts {
    fn add_assign(&mut self, other: Self) {
        self.running += other.running;
        self.waiting += other.waiting;
        self.requests_done += other.requests_done;
        self.requests_failed += other.requests_failed;
        self.requests_cancelled += other.requests_cancelled;
        self.prompt_tokens += other.prompt_tokens;
        self.generated_tokens += other.generated_tokens;
        self.steps += other.steps;
        self.loads += other.loads;
    }
}

/// A node's handle: cheap to clone. The thread ends when the last is dropped, after what it is at.
#[derive(Clone)]
pub struct Node {
    shared: Arc<Shared>,
}

struct Shared {
    catalog: Arc<dyn ModelCatalog>,
    config: NodeConfig,
    team: Arc<ThreadTeam>,
    commands: Mutex<Sender<Command>>,
    worker: Mutex<Option<JoinHandle<()>>>,
    next_request: AtomicU64,
    board: Arc<Mutex<NodeStatus>>,
    texts: Mutex<HashMap<String, Arc<ServedModel>>>,
    /// Bytes of its memory that others hold.
    lent: Mutex<u64>,
}

/// What somebody else holds of a node's memory, a swarm's experts for example: the node's models get along with the rest. Given
/// back when it goes.
pub(crate) struct MemoryLoan {
    node: Weak<Shared>,
    bytes: u64,
}

impl MemoryLoan {
    /// Says how much is held from now on.
    pub fn set(&mut self, bytes: u64) {
        let before = std::mem::replace(&mut self.bytes, bytes);
        let Some(node) = self.node.upgrade().filter(|_| before != bytes) else { return };
        let mut lent = node.lent.lock().unwrap_or_else(PoisonError::into_inner);
        *lent = *lent - before + bytes;
        // Told while it is locked, so that the last word is the newest. A node that has ended needs no memory.
        let left = node.config.max_memory.saturating_sub(*lent);
        let _ = node.commands.lock().unwrap_or_else(PoisonError::into_inner).send(Command::Budget(left));
    }
}

impl Drop for MemoryLoan {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// What the thread is told.
enum Command {
    Generate {
        id: RequestId,
        model: Arc<ServedModel>,
        prompt: Vec<TokenId>,
        answer: Box<AnswerState>,
        keep_alive: KeepAlive,
        sink: Box<dyn AnswerSink>,
    },
    Embed {
        id: RequestId,
        model: Arc<ServedModel>,
        prompts: Vec<Vec<TokenId>>,
        pooling: Pooling,
        keep_alive: KeepAlive,
        reply: EmbedReply,
    },
    Load {
        model: Arc<ServedModel>,
        keep_alive: KeepAlive,
        reply: Sender<Result<()>>,
    },
    Unload {
        name: String,
        reply: Sender<bool>,
    },
    Cancel(RequestId),
    /// Bytes that its models may take from now on.
    Budget(u64),
    /// From the thread that opened a model.
    Loaded {
        expert: ExpertId,
        lane: Box<Result<lane::Lane>>,
        took_ms: u64,
    },
    /// Ends when all requests have ended, or after so long; new ones are refused.
    End {
        drain: Duration,
    },
}

impl Node {
    /// Starts the thread. No model is loaded before it is needed.
    ///
    /// # Errors
    /// When a limit is 0, or no thread can be started.
    pub fn start(catalog: Arc<dyn ModelCatalog>, config: NodeConfig) -> Result<Self> {
        let (commands, inbox) = channel();
        let board = Arc::new(Mutex::new(NodeStatus { max_memory: config.max_memory, ..NodeStatus::default() }));
        let team = Arc::new(config.threads.map_or_else(ThreadTeam::with_all_cores, ThreadTeam::new));
        let own = commands.clone();
        let worker = worker::start(config.clone(), Arc::clone(&team), Arc::clone(&board), inbox, own)?;
        let shared = Shared {
            catalog,
            config,
            team,
            commands: Mutex::new(commands),
            worker: Mutex::new(Some(worker)),
            next_request: AtomicU64::new(0),
            board,
            texts: Mutex::new(HashMap::new()),
            lent: Mutex::new(0),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// What was given at the start.
    #[must_use]
    pub fn config(&self) -> &NodeConfig {
        &self.shared.config
    }

    /// All models that there are.
    ///
    /// # Errors
    /// When the catalogue cannot be read.
    pub fn catalog(&self) -> Result<Vec<CatalogModel>> {
        self.shared.catalog.list()
    }

    /// The store that its models are of, if it is one.
    #[must_use]
    pub fn store(&self) -> Option<&ModelStore> {
        self.shared.catalog.store()
    }

    /// A model by its name, without its weights. Reads its description and vocabulary when it is first asked for (some 0.1 s for
    /// 150,000 tokens), on the caller's thread, and again when its file changes.
    ///
    /// # Errors
    /// When there is none of that name, or its file cannot be used.
    pub fn model(&self, name: &str) -> Result<Arc<ServedModel>> {
        let found = self.shared.catalog.find(name)?;
        let texts = || self.shared.texts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = texts().get(&found.name).filter(|known| known.is_same_file(&found)) {
            return Ok(Arc::clone(known));
        }
        let model = Arc::new(ServedModel::read(&found, &self.shared.config)?);
        let mut texts = texts();
        if texts.len() >= TEXTS_MAX {
            // Those that a request holds stay alive all the same.
            texts.retain(|_, model| Arc::strong_count(model) > 1);
            if texts.len() >= TEXTS_MAX {
                texts.clear();
            }
        }
        texts.insert(found.name, Arc::clone(&model));
        Ok(model)
    }

    /// The threads that compute. What else computes on this machine does it on them, so that nobody stands in another's way.
    #[must_use]
    pub fn team(&self) -> &Arc<ThreadTeam> {
        &self.shared.team
    }

    /// Memory for somebody else's models; nothing of it is held yet.
    pub(crate) fn memory_loan(&self) -> MemoryLoan {
        MemoryLoan { node: Arc::downgrade(&self.shared), bytes: 0 }
    }

    /// Hands a request over and returns as soon as its constraint is compiled. Its events come to `sink`, unless this refuses it.
    ///
    /// # Errors
    /// When the prompt is empty or too long, a setting is out of range, too many requests wait, or the node is shutting down.
    pub fn submit(&self, request: GenerationRequest, sink: Box<dyn AnswerSink>) -> Result<RequestId> {
        let GenerationRequest { model, prompt, config: generation, keep_alive } = request;
        model.check(&prompt)?;
        self.check_queue()?;
        let answer = Box::new(AnswerState::new(model.text()?, &prompt, &generation)?);
        let id = self.next_request();
        self.send(Command::Generate { id, model, prompt, answer, keep_alive, sink })?;
        Ok(id)
    }

    fn check_queue(&self) -> Result<()> {
        let waiting = self.shared.board.lock().unwrap_or_else(PoisonError::into_inner).work.waiting;
        if waiting >= self.shared.config.queue_max { Err(Error::Busy { waiting }) } else { Ok(()) }
    }

    fn next_request(&self) -> RequestId {
        RequestId(self.shared.next_request.fetch_add(1, Ordering::Relaxed))
    }

    /// Gives a request up; it ends within a step. One that has ended already is not there any more, and nothing happens.
    pub fn cancel(&self, id: RequestId) {
        let _ = self.send(Command::Cancel(id));
    }

    /// Generates an answer and waits for its end; what happens on the way is shown to `on_event`, which gives up with `Break`.
    ///
    /// # Errors
    /// As [`submit`](Self::submit), and when the request fails.
    pub fn generate(
        &self,
        request: GenerationRequest,
        on_event: &mut dyn FnMut(&AnswerEvent) -> ControlFlow<()>,
    ) -> Result<Generation> {
        let (sink, events) = channel();
        let id = self.submit(request, Box::new(sink))?;
        loop {
            match wait(&events)? {
                AnswerEvent::Done(generation) => return Ok(*generation),
                AnswerEvent::Failed(error) => return Err(error),
                event => {
                    if on_event(&event).is_break() {
                        self.cancel(id);
                    }
                }
            }
        }
    }

    /// Hands texts over and returns at once. Their vectors, `[prompts][d_model]`, each of length 1, come to `reply`, which is
    /// called on the thread that computes for everyone and must not wait.
    ///
    /// # Errors
    /// When a prompt is empty or too long, too many requests wait, or the node is shutting down; `reply` then is not called.
    pub fn submit_embed(
        &self,
        request: EmbedRequest,
        reply: impl FnOnce(Result<Vec<Vec<f32>>>) + Send + 'static,
    ) -> Result<RequestId> {
        let EmbedRequest { model, prompts, pooling, keep_alive } = request;
        prompts.iter().try_for_each(|prompt| model.check_embedding(prompt))?;
        self.check_queue()?;
        let id = self.next_request();
        let pooling = pooling.unwrap_or(model.facts().pooling);
        self.send(Command::Embed { id, model, prompts, pooling, keep_alive, reply: Box::new(reply) })?;
        Ok(id)
    }

    /// As [`submit_embed`](Self::submit_embed), and waits for the vectors.
    ///
    /// # Errors
    /// Those, and when the model computes numbers that are not finite.
    pub fn embed(&self, request: EmbedRequest) -> Result<Vec<Vec<f32>>> {
        let (reply, answer) = channel();
        // If nobody waits, nobody minds.
        self.submit_embed(request, move |vectors| drop(reply.send(vectors)))?;
        wait(&answer)?
    }

    /// Loads a model if it is not in memory, and says how long it stays.
    ///
    /// # Errors
    /// When there is none of that name, it is larger than the budget, or its file cannot be used.
    pub fn load(&self, name: &str, keep_alive: KeepAlive) -> Result<()> {
        let model = self.model(name)?;
        let (reply, answer) = channel();
        self.send(Command::Load { model, keep_alive, reply })?;
        wait(&answer)?
    }

    /// Frees a model, when its running answers have ended. Whether it was in memory.
    ///
    /// # Errors
    /// When the node is shutting down.
    pub fn unload(&self, name: &str) -> Result<bool> {
        let (reply, answer) = channel();
        self.send(Command::Unload { name: name.to_owned(), reply })?;
        wait(&answer)
    }

    /// What the node does.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        self.shared.board.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes no new requests, lets those that run come to their end for at most `drain`, then ends the thread. What is left then
    /// fails with [`Error::ShuttingDown`].
    pub fn shut_down(&self, drain: Duration) {
        self.shared.end(drain);
    }

    fn send(&self, command: Command) -> Result<()> {
        let commands = self.shared.commands.lock().unwrap_or_else(PoisonError::into_inner);
        commands.send(command).map_err(|_| Error::ShuttingDown)
    }
}

/// What the thread says; if it has ended, it takes no more.
fn wait<T>(answer: &Receiver<T>) -> Result<T> {
    answer.recv().map_err(|_| Error::ShuttingDown)
}

impl Shared {
    fn end(&self, drain: Duration) {
        let _ = self.commands.lock().unwrap_or_else(PoisonError::into_inner).send(Command::End { drain });
        if let Some(worker) = self.worker.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // It catches what panics in a request; there is nothing to report.
            let _ = worker.join();
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.end(Duration::ZERO);
    }
}
