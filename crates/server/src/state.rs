//! What all handlers share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use hublabio_runtime::moe::{FleetConfig, SwarmEngine};
use hublabio_runtime::node::{Node, NodeStatus};

use crate::config::{ServerConfig, SwarmSource};
use crate::conversations::{Conversations, StoreLimits};
use crate::error::ApiError;
use crate::heap::{Heap, HeapShare};
use crate::metrics::Metrics;
use crate::openai::responses::store::ResponseStore;
use crate::security::KeyRing;

/// The service's state; cheap to clone.
#[derive(Clone)]
pub struct App {
    inner: Arc<Inner>,
}

struct Inner {
    node: Node,
    config: ServerConfig,
    keys: Option<KeyRing>,
    metrics: Metrics,
    conversations: Conversations,
    heap: Heap,
    /// What the stores of history hold.
    _history: Option<HeapShare>,
    connections: AtomicUsize,
    ending: AtomicBool,
    started: Instant,
    next_id: AtomicU64,
    swarms: Mutex<HashMap<String, Arc<SwarmEngine>>>,
    swarm_questions: AtomicUsize,
    responses: ResponseStore,
}

impl App {
    pub(crate) fn new(config: ServerConfig, keys: Option<KeyRing>, node: Node) -> Self {
        let heap = Heap::new(config.limits.heap_bytes);
        // Ids of different runs differ, so that a client's log does not join what does not belong together.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut store = StoreLimits::default();
        store.cache_bytes = store.cache_bytes.min(heap.max() / 8);
        let conversations = Conversations::open(config.data_folder.as_deref(), store);
        let responses = ResponseStore::open(config.data_folder.as_deref(), &config.limits);
        let history = heap.take(conversations.memory_bytes() + responses.memory_bytes());
        let inner = Inner {
            node,
            config,
            keys,
            metrics: Metrics::default(),
            conversations,
            heap,
            _history: history,
            connections: AtomicUsize::new(0),
            ending: AtomicBool::new(false),
            started: Instant::now(),
            next_id: AtomicU64::new(since.as_nanos() as u64),
            swarms: Mutex::new(HashMap::new()),
            swarm_questions: AtomicUsize::new(0),
            responses,
        };
        Self { inner: Arc::new(inner) }
    }

    /// The models and the thread that computes.
    pub fn node(&self) -> &Node {
        &self.inner.node
    }

    /// What the service was told at its start.
    pub fn config(&self) -> &ServerConfig {
        &self.inner.config
    }

    /// What it counts.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// The conversations of the web page.
    pub fn conversations(&self) -> &Conversations {
        &self.inner.conversations
    }

    pub(crate) fn keys(&self) -> Option<&KeyRing> {
        self.inner.keys.as_ref()
    }

    /// Memory that requests and history share.
    pub(crate) fn heap(&self) -> &Heap {
        &self.inner.heap
    }

    pub(crate) fn connections(&self) -> &AtomicUsize {
        &self.inner.connections
    }

    /// Since when it runs.
    pub fn started(&self) -> Instant {
        self.inner.started
    }

    /// Whether it takes no new work, because it is going to end.
    pub fn is_ending(&self) -> bool {
        self.inner.ending.load(Ordering::Relaxed)
    }

    pub(crate) fn set_ending(&self) {
        self.inner.ending.store(true, Ordering::Relaxed);
    }

    /// A name that nothing else has in this run: `prefix` and 16 letters and digits.
    pub fn new_id(&self, prefix: &str) -> String {
        // Multiplying by an odd number permutes, so neighbours look different and none comes twice.
        let number = self.inner.next_id.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        format!("{prefix}{number:016x}")
    }

    /// An id for a call of a tool: nine letters and digits, which is what Mistral's templates insist on.
    pub fn new_call_id(&self) -> String {
        const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
        const IDS: u64 = 36u64.pow(9);
        // A factor that shares none with 36 permutes.
        let mut number = self.inner.next_id.fetch_add(1, Ordering::Relaxed) % IDS * 7919 % IDS;
        let mut id = String::with_capacity(9);
        for _ in 0..9 {
            id.push(char::from(DIGITS[(number % 36) as usize]));
            number /= 36;
        }
        id
    }

    /// Answers that are kept for later questions.
    pub(crate) fn responses(&self) -> &ResponseStore {
        &self.inner.responses
    }

    /// Questions to swarms that wait or are answered.
    pub(crate) fn swarm_questions(&self) -> &AtomicUsize {
        &self.inner.swarm_questions
    }

    /// Seconds since 1970.
    pub fn now_s() -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
    }

    /// The swarms that were asked for, by their names.
    pub(crate) fn open_swarms(&self) -> Vec<(String, Arc<SwarmEngine>)> {
        let swarms = self.inner.swarms.lock().unwrap_or_else(PoisonError::into_inner);
        let mut swarms: Vec<_> = swarms.iter().map(|(name, swarm)| (name.clone(), Arc::clone(swarm))).collect();
        swarms.sort_by(|a, b| a.0.cmp(&b.0));
        swarms
    }

    /// The swarm that a model's name means; `None` for a name that means no swarm.
    pub fn swarm_source(&self, model: &str) -> Option<&SwarmSource> {
        self.config().swarms.iter().find(|source| source.model_name() == model)
    }

    /// What the models do, those of open swarms counted with the node's.
    pub(crate) fn node_status(&self) -> NodeStatus {
        let mut status = self.node().status();
        for (_, swarm) in self.open_swarms() {
            status.work += swarm.fleet().work();
        }
        status
    }

    /// A swarm, opened when it is first asked for. Reads files: call it where waiting is allowed.
    ///
    /// # Errors
    /// When its description cannot be used.
    pub fn open_swarm(&self, source: &SwarmSource) -> Result<Arc<SwarmEngine>, ApiError> {
        let name = source.model_name();
        // Held while it is opened: two threads would open it twice.
        let mut swarms = self.inner.swarms.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = swarms.get(&name) {
            return Ok(Arc::clone(open));
        }
        // All swarms together may take half of the memory; what they do take, the node's own models do without.
        let share = self.node().config().max_memory / 2 / self.config().swarms.len().max(1) as u64;
        let fleet = FleetConfig { share: Some(share), ..FleetConfig::default() };
        let swarm = SwarmEngine::open_beside(self.node(), source.folder.as_deref(), &fleet)
            .map_err(|error| ApiError::internal(format!("the model `{name}` cannot be opened: {error}")))?;
        let swarm = Arc::new(swarm);
        swarms.insert(name, Arc::clone(&swarm));
        Ok(swarm)
    }
}

/// Runs what waits or computes on a thread that may.
///
/// # Errors
/// Those of `work`; a panic in it is an error of the service, which lives on.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(ApiError::internal("the request failed in a way that was not foreseen: the service goes on")),
    }
}
