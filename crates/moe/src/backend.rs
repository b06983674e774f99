//! Where experts run: the trait that whoever owns models implements.

use std::ops::ControlFlow;

use crate::{ExpertId, Mixture};

/// Whether to go on; `Break` ends an answer early, as a client does that hangs up.
pub type Flow = ControlFlow<()>;

/// Takes the text of an answer as it becomes known: the index of the job, and what came new.
pub type PieceSink<'a> = dyn FnMut(usize, &str) -> Flow + 'a;

/// One question to one expert.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpertJob {
    /// Who is asked.
    pub expert: ExpertId,
    /// What is asked. The backend adds the expert's own system prompt and the conversation so far, unless `bare`.
    pub prompt: String,
    /// Whether the prompt stands for itself: no conversation before it (debates, summaries).
    pub bare: bool,
    /// At most so many tokens; by default as the request or the expert has it.
    pub max_tokens: Option<usize>,
}

/// What an expert answered.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpertResponse {
    /// Who.
    pub expert: ExpertId,
    /// Its name.
    pub name: String,
    /// What it said.
    pub text: String,
    /// How much the router trusts it on this question, 0 to 1. Not a number counts as 0.
    pub confidence: f32,
    /// Mean log probability (natural) of the answer's tokens in the expert's own distribution, where known.
    pub mean_logprob: Option<f32>,
    /// Tokens of what it was asked, in a mixture by the member that leads.
    pub prompt_tokens: usize,
    /// Tokens in the answer.
    pub tokens: usize,
    /// How long it took, in milliseconds.
    pub latency_ms: f32,
    /// Whether the answer was cut off by a limit.
    pub cut: bool,
}

/// Why an expert did not answer.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ExpertFailure {
    /// Its model cannot be had: the file is missing, broken, or does not fit into memory.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// It ran, and failed.
    #[error("failed: {0}")]
    Failed(String),
    /// What it is asked, the conversation before it included, does not fit into its context.
    #[error("the conversation has {prompt} tokens, and it holds {context}")]
    TooLong {
        /// Tokens of the conversation.
        prompt: usize,
        /// Positions that it has.
        context: usize,
    },
    /// It took longer than it may.
    #[error("no answer within {limit_ms} ms")]
    TimedOut {
        /// The limit.
        limit_ms: u64,
    },
    /// The caller broke off.
    #[error("cancelled")]
    Cancelled,
}

/// One answer to which several experts contribute every token.
#[derive(Clone, Debug, PartialEq)]
pub struct MixtureJob {
    /// The members, in the order of the mixture's experts.
    pub experts: Vec<ExpertId>,
    /// What is asked.
    pub prompt: String,
    /// At most so many tokens.
    pub max_tokens: Option<usize>,
}

/// Runs experts. One implementation owns real models (`hublabio-runtime`), those of the tests are scripts.
///
/// No method may panic because of an expert: a model that fails is an [`ExpertFailure`], and the others go on.
pub trait ExpertBackend {
    /// Runs the jobs, at once or one after the other, and returns a result for each, in their order. Pieces of a job's text
    /// are handed to `on_piece` in order; a `Break` ends that job as [`ExpertFailure::Cancelled`].
    ///
    /// `confidence` of the responses is filled in by the caller.
    fn run(&mut self, jobs: &[ExpertJob], on_piece: &mut PieceSink<'_>) -> Vec<Result<ExpertResponse, ExpertFailure>>;

    /// A hash of what the expert's tokens mean (vocabulary, merges, control tokens).
    ///
    /// # Errors
    /// When the model cannot be had.
    fn tokenizer_hash(&mut self, expert: ExpertId) -> Result<u64, ExpertFailure>;

    /// Generates one answer from the mixture of the members' probabilities: asks `mixture` who computes the next token,
    /// hands it their logits, samples from what it returns, and tells it the token. A member that fails is dropped from
    /// the mixture ([`Mixture::drop_expert`]) and named in `failed`.
    ///
    /// # Errors
    /// When no member is left, or the caller broke off.
    fn mix(
        &mut self,
        job: &MixtureJob,
        mixture: &mut Mixture,
        failed: &mut Vec<(ExpertId, ExpertFailure)>,
        on_piece: &mut PieceSink<'_>,
    ) -> Result<ExpertResponse, ExpertFailure>;

    /// The mean log probability (natural) per byte of `text` under each expert's model, `None` for experts that are not in
    /// memory. What was computed is kept for the answer.
    fn prompt_logprobs(&mut self, experts: &[ExpertId], text: &str) -> Vec<Option<f32>>;
}
