//! Texts on their way to vectors: passes of their own, in turn with those of the answers.
//!
//! A pass takes as many texts as its rows hold, short ones together and a long one in parts, so that neither a list of
//! thousands nor one long text holds up the answers. A vector does not depend on what was computed beside it.

use std::collections::VecDeque;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use hublabio_engine::{Input, KvCache, KvType, Pooling, Row, Runner, SequenceId};
use hublabio_kernels::PAGE_POSITIONS;
use hublabio_moe::RequestId;
use hublabio_tokenizer::TokenId;

use super::lane::{Ended, StepReport};
use crate::ai::{PooledStates, is_pooled};
use crate::error::Result;

/// Texts in one pass.
const TEXTS_MAX: usize = 32;

/// Where vectors go, `[prompts][d_model]`. Called on the thread that computes for everyone: it must not wait.
pub(crate) type EmbedReply = Box<dyn FnOnce(Result<Vec<Vec<f32>>>) + Send>;

/// Texts that a client wants the vectors of.
pub(crate) struct EmbedJob {
    pub id: RequestId,
    /// None of them empty or longer than the context.
    prompts: Vec<Vec<TokenId>>,
    pooling: Pooling,
    /// Those of the first prompts.
    vectors: Vec<Vec<f32>>,
    /// The first prompt without a vector, where a part of it is computed.
    begun: Option<Begun>,
    reply: EmbedReply,
}

/// A text of which so much is computed.
struct Begun {
    sequence: SequenceId,
    computed: usize,
    pooled: PooledStates,
}

/// What a pass computes of one text.
struct Part {
    /// Places of its job and of its prompt in there.
    job: usize,
    prompt: usize,
    tokens: Range<usize>,
    begun: Begun,
}

impl EmbedJob {
    pub fn new(id: RequestId, prompts: Vec<Vec<TokenId>>, pooling: Pooling, reply: EmbedReply) -> Self {
        Self { id, vectors: Vec::with_capacity(prompts.len()), prompts, pooling, begun: None, reply }
    }

    /// Says how it ended. Nobody may listen any more, which is no fault; who breaks has broken for itself only.
    pub fn finish(self, result: Result<()>) {
        let Self { vectors, reply, .. } = self;
        let _ = catch_unwind(AssertUnwindSafe(|| reply(result.map(|()| vectors))));
    }
}

/// The texts of all clients of one model, and the keys and values of those that are being computed.
pub(super) struct Embeddings {
    cache: KvCache,
    context: usize,
    jobs: VecDeque<EmbedJob>,
}

impl Embeddings {
    /// For texts of at most `context` tokens each.
    pub fn new(runner: &Runner, context: usize, kv: KvType) -> Self {
        // One long text, and the short ones that it shares a pass with.
        let pages = context.div_ceil(PAGE_POSITIONS) + 2 * TEXTS_MAX;
        Self { cache: runner.model().new_cache(pages * PAGE_POSITIONS, kv), context, jobs: VecDeque::new() }
    }

    pub fn add(&mut self, job: EmbedJob) {
        self.jobs.push_back(job);
    }

    pub fn len(&self) -> usize {
        self.jobs.len()
    }

    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Bytes of keys and values.
    pub fn bytes_allocated(&self) -> usize {
        self.cache.bytes_allocated()
    }

    /// Takes out a job that will not go on.
    pub fn take(&mut self, id: RequestId) -> Option<EmbedJob> {
        let at = self.jobs.iter().position(|job| job.id == id)?;
        let mut job = self.jobs.remove(at)?;
        if let Some(begun) = job.begun.take() {
            self.free(begun.sequence);
        }
        Some(job)
    }

    /// Everyone out: the lane ends.
    pub fn take_all(&mut self) -> Vec<EmbedJob> {
        self.jobs.drain(..).collect()
    }

    /// Computes one pass of at most `rows_max` rows; of more only for a longer text of an encoder, whose tokens see each other.
    pub fn step(&mut self, runner: &mut Runner, rows_max: usize, report: &mut StepReport) {
        let mut parts = self.choose(runner.model().hyperparameters().causal, rows_max);
        report.prompt_tokens += parts.iter().map(|part| part.tokens.len()).sum::<usize>();
        let mut failed = Vec::new();
        if self.compute(runner, &mut parts).is_ok() {
            parts.into_iter().for_each(|part| self.settle(part));
        } else {
            // Somebody's numbers are not finite: each is tried alone, so that only who is at fault fails.
            for mut part in parts {
                match self.compute(runner, std::slice::from_mut(&mut part)) {
                    Ok(()) => self.settle(part),
                    Err(error) => {
                        self.free(part.begun.sequence);
                        failed.push((self.jobs[part.job].id, error));
                    }
                }
            }
        }
        for (id, error) in failed {
            // It may have had two texts in this pass.
            let Some(job) = self.take(id) else { continue };
            report.ended.push((id, Ended::Failed));
            job.finish(Err(error));
        }
        self.answer(report);
    }

    /// What the next pass computes.
    fn choose(&mut self, causal: bool, rows_max: usize) -> Vec<Part> {
        let mut parts: Vec<Part> = Vec::new();
        let mut rows_left = rows_max;
        for (at, job) in self.jobs.iter_mut().enumerate() {
            for prompt in job.vectors.len()..job.prompts.len() {
                let left = job.prompts[prompt].len() - job.begun.as_ref().map_or(0, |begun| begun.computed);
                let n = if causal { left.min(rows_left) } else { left };
                let is_full = n == 0 || n > rows_left || parts.len() == TEXTS_MAX;
                if is_full && !parts.is_empty() {
                    return parts;
                }
                let begun = job.begun.take().unwrap_or_else(|| Begun {
                    sequence: self.cache.create_for(self.context),
                    computed: 0,
                    pooled: PooledStates::default(),
                });
                parts.push(Part { job: at, prompt, tokens: begun.computed..begun.computed + n, begun });
                rows_left = rows_left.saturating_sub(n);
            }
        }
        parts
    }

    /// Computes parts in one pass and pools their states; after an error all is as it was.
    fn compute(&mut self, runner: &mut Runner, parts: &mut [Part]) -> Result<()> {
        let wanted = |job: &EmbedJob, part: &Part, position: usize| {
            is_pooled(job.pooling, position, job.prompts[part.prompt].len())
        };
        let mut rows = Vec::new();
        for part in &*parts {
            let job = &self.jobs[part.job];
            rows.extend(part.tokens.clone().map(|position| Row {
                sequence: part.begun.sequence,
                position: position as u32,
                token: job.prompts[part.prompt][position].0,
                wanted: wanted(job, part, position),
            }));
        }
        if rows.is_empty() {
            return Ok(());
        }
        let d_model = runner.model().hyperparameters().d_model;
        let mut states = runner.states(&mut self.cache, &rows, Input::Tokens)?.chunks_exact(d_model);
        for part in parts {
            let job = &self.jobs[part.job];
            let n = part.tokens.clone().filter(|&position| wanted(job, part, position)).count();
            states.by_ref().take(n).for_each(|state| part.begun.pooled.add(state));
            part.begun.computed = part.tokens.end;
        }
        Ok(())
    }

    /// A computed part is a vector, or a text that goes on in the next pass.
    fn settle(&mut self, part: Part) {
        let job = &mut self.jobs[part.job];
        if part.begun.computed < job.prompts[part.prompt].len() {
            job.begun = Some(part.begun);
        } else {
            job.vectors.push(part.begun.pooled.vector());
            self.free(part.begun.sequence);
        }
    }

    /// Answers those who have all their vectors, and lets others go first in the next pass.
    fn answer(&mut self, report: &mut StepReport) {
        let (done, left): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.jobs).into_iter().partition(|job| job.vectors.len() == job.prompts.len());
        self.jobs = left.into();
        for job in done {
            report.ended.push((job.id, Ended::Done));
            job.finish(Ok(()));
        }
        // A text that is begun holds memory: it goes on first, and so there is never a second one.
        let next = self.jobs.iter().position(|job| job.begun.is_some()).unwrap_or(1);
        self.jobs.rotate_left(next.min(self.jobs.len()));
    }

    fn free(&mut self, sequence: SequenceId) {
        // It was made by this cache and is freed once.
        let freed = self.cache.remove(sequence);
        debug_assert!(freed.is_ok(), "{freed:?}");
    }
}
