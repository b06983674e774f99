//! What an expert is: its place in the swarm, what it knows about, and how it is doing.

/// An expert's number, unique in a swarm.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ExpertId(pub u32);

impl std::fmt::Display for ExpertId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What an expert knows about.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpertDomain {
    /// The domain's name, `python` for example.
    pub name: String,
    /// Words and phrases that speak for this domain. Case does not matter; a phrase is words with spaces between.
    pub keywords: Vec<String>,
    /// The least probability, 0 to 1, with which this expert is chosen. Not a number counts as 1: never chosen by itself.
    pub threshold: f32,
}

/// An expert as it is registered.
///
/// Everything that is not in these seven fields is beside them, in an [`ExpertProfile`].
#[derive(Clone, Debug, PartialEq)]
pub struct ExpertConfig {
    /// Its number.
    pub id: ExpertId,
    /// Its name, by which people and configurations call it.
    pub name: String,
    /// What it is, in a line.
    pub description: String,
    /// What it knows about.
    pub domain: ExpertDomain,
    /// The file of its model. Whoever runs the expert gives it a meaning.
    pub model_path: String,
    /// The number of the cluster's node that the expert is pinned to; `None` for any.
    pub node_id: Option<u32>,
    /// Breaks ties, the higher first, and adds [`PRIORITY_BIAS`] a point to the log-odds of being chosen.
    pub priority: i32,
}

/// What the router and the swarm know of an expert beside its [`ExpertConfig`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExpertProfile {
    /// Whether this is the generalist: the fallback where no expert fits, and a member of every mixture. At most one
    /// expert of a swarm is.
    pub generalist: bool,
    /// Questions that this expert should answer; the classifier learns from them.
    pub examples: Vec<String>,
    /// Terms or texts of the domain; the classifier learns from them, too, each with less weight than an example.
    pub corpus: Vec<String>,
    /// Who answers where this expert cannot; the generalist if `None`.
    pub fallback: Option<ExpertId>,
    /// What tokens mean to this expert: experts of one hash can be mixed token by token. `None` where it is unknown yet.
    pub tokenizer_hash: Option<u64>,
    /// Parameters that compute one token, as a measure of strength and cost; 0 where unknown.
    pub active_parameters: u64,
}

/// How an expert is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ExpertState {
    /// Whether its weights are in memory.
    pub loaded: bool,
    /// Whether it is answering now.
    pub busy: bool,
    /// Questions that it has answered.
    pub total_queries: u64,
    /// Mean time to an answer, in milliseconds; 0 before the first.
    pub avg_latency_ms: f32,
}

impl ExpertState {
    /// Counts an answer that took `latency_ms`.
    pub fn count(&mut self, latency_ms: f32) {
        self.total_queries += 1;
        self.avg_latency_ms += (latency_ms - self.avg_latency_ms) / self.total_queries as f32;
    }
}

/// What a point of [`ExpertConfig::priority`] adds to the log-odds of being chosen.
pub const PRIORITY_BIAS: f32 = 0.01;
