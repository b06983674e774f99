//! One model in memory and the answers that it is giving: each step computes one batch for all of them.
//!
//! What goes into a batch is `hublabio_engine::Scheduler`'s decision; what a token means to its answer is [`AnswerState`]'s. This
//! file joins the two to keys and values, and sees to it that a request that fails ends alone.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use hublabio_engine::{
    Change, Input, KvCache, Model, Row, Runner, Scheduler, SchedulerConfig, SequenceId, Shard, ThreadTeam, Work,
};
use hublabio_kernels::PAGE_POSITIONS;
use hublabio_moe::RequestId;
use hublabio_tokenizer::TokenId;

use super::embeddings::{EmbedJob, Embeddings};
use super::{AnswerEvent, AnswerSink, NodeConfig, ServedModel};
use crate::ai::decode::AnswerState;
use crate::ai::{Finish, find_description};
use crate::error::Result;
use crate::moe::open_source;

/// Rows of one pass.
const ROWS_MAX: usize = 256;
/// Rows of one pass that read prompts while others answer.
const ROWS_BESIDE: usize = 64;
/// Finished texts whose keys and values are kept, so that a conversation's next turn need not be read again.
const COLD_MAX: usize = 32;
/// Fewer tokens in common than this are not worth a copy.
const SHARED_MIN: usize = 8;

/// A request that has entered.
pub(super) struct Active {
    pub id: RequestId,
    pub answer: AnswerState,
    pub sink: Box<dyn AnswerSink>,
    /// Prompt and answer.
    pub tokens: Vec<TokenId>,
    pub prompt_len: usize,
    sequence: Option<SequenceId>,
    began: Option<Instant>,
    first_token: Option<Instant>,
    given_up: bool,
}

impl Active {
    pub fn new(id: RequestId, answer: AnswerState, sink: Box<dyn AnswerSink>, prompt: Vec<TokenId>) -> Self {
        let prompt_len = prompt.len();
        Self {
            id,
            answer,
            sink,
            tokens: prompt,
            prompt_len,
            sequence: None,
            began: None,
            first_token: None,
            given_up: false,
        }
    }

    /// Its next token; `None` when it has ended.
    fn choose(&mut self, logits: &[f32], context: usize) -> Result<Option<TokenId>> {
        self.first_token.get_or_insert_with(Instant::now);
        let is_full = self.tokens.len() >= context;
        let sink = &mut self.sink;
        let chosen = self.answer.choose(logits, is_full, &mut |piece| {
            sink.take(AnswerEvent::Piece {
                text: piece.text.to_owned(),
                token: piece.token,
                logprobs: piece.logprobs.filter(|_| piece.token.is_some()).cloned(),
            })
        })?;
        self.tokens.extend(chosen);
        Ok(chosen)
    }

    /// Says that it is over. Nobody may listen any more, which is no fault.
    pub fn finish(mut self, result: Result<()>) {
        let event = match result {
            Ok(()) => {
                let stats = &mut self.answer.so_far().stats;
                if let (Some(began), Some(first)) = (self.began, self.first_token) {
                    stats.prompt_s = (first - began).as_secs_f64();
                    stats.decode_s = first.elapsed().as_secs_f64();
                }
                let mut generation = self.answer.into_generation();
                generation.stats.generated_tokens = generation.tokens.len();
                AnswerEvent::Done(Box::new(generation))
            }
            Err(error) => AnswerEvent::Failed(error),
        };
        // A sink that breaks has broken for its own request only.
        let _ = catch_unwind(AssertUnwindSafe(|| self.sink.take(event)));
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Done,
    Failed,
    Cancelled,
}

/// What a step did.
#[derive(Default)]
pub(super) struct StepReport {
    pub ended: Vec<(RequestId, Ended)>,
    pub prompt_tokens: usize,
    pub generated_tokens: usize,
}

/// A text whose keys and values are kept although nobody goes on with it.
struct Cold {
    tokens: Vec<TokenId>,
    sequence: SequenceId,
}

/// A model in memory.
pub(super) struct Lane {
    runner: Runner,
    model: Arc<Model>,
    cache: KvCache,
    context: usize,
    scheduler: Scheduler<RequestId>,
    requests: Vec<Active>,
    /// Least recently used first.
    cold: Vec<Cold>,
    /// What the last pass returned, kept for its memory.
    logits: Vec<f32>,
    /// Made when the first is asked for, gone when the last is done.
    embeddings: Option<Embeddings>,
}

/// Bytes of keys and values that a model may hold, of a budget that its file is part of: those of one whole context at least, of
/// as many as may run at most, and in between half of what the file leaves.
pub(super) fn kv_bytes_max(model: &ServedModel, config: &NodeConfig) -> u64 {
    let one = model.facts().kv_bytes;
    let half = config.max_memory.saturating_sub(model.bytes()) / 2;
    half.min(one.saturating_mul(config.running_max as u64)).max(one)
}

impl Lane {
    /// Opens a model's weights.
    pub fn open(served: &ServedModel, config: &NodeConfig, team: &Arc<ThreadTeam>) -> Result<Self> {
        let mut file = open_source(served.source())?;
        // The tokenizer is in `served` already.
        for key in ["tokenizer.ggml.tokens", "tokenizer.ggml.merges"] {
            file.metadata_mut().remove(key);
        }
        let file = Arc::new(file);
        let description = find_description(&file)?;
        let model = Arc::new(Model::open_described(file, &Shard::whole(), description)?);
        let isa = config.isa.unwrap_or_else(hublabio_engine::Isa::best);
        let kv = config.kv.unwrap_or_else(|| model.default_kv());
        let context = served.facts().context;
        let bytes_of_page = model.new_cache(context, kv).bytes_of(PAGE_POSITIONS).max(1) as u64;
        let pages = (kv_bytes_max(served, config) / bytes_of_page) as usize;
        let pages_max = pages.max((context + 1).div_ceil(PAGE_POSITIONS));
        let cache = model.new_cache(pages_max * PAGE_POSITIONS, kv);
        let scheduler = Scheduler::new(SchedulerConfig {
            rows_max: ROWS_MAX.max(config.running_max),
            rows_beside: ROWS_BESIDE,
            running_max: config.running_max,
            pages_max,
        });
        Ok(Self {
            runner: Runner::on_team(Arc::clone(&model), Arc::clone(team), isa),
            model,
            cache,
            context,
            scheduler,
            requests: Vec::new(),
            cold: Vec::new(),
            logits: Vec::new(),
            embeddings: None,
        })
    }

    pub fn add(&mut self, request: Active) {
        self.scheduler.add(request.id, request.tokens.len());
        self.requests.push(request);
    }

    pub fn add_embeddings(&mut self, job: EmbedJob) {
        let kv = self.cache.kv_type();
        self.embeddings.get_or_insert_with(|| Embeddings::new(&self.runner, self.context, kv)).add(job);
    }

    /// Marks a request as given up; the next step ends it.
    pub fn give_up(&mut self, id: RequestId) {
        if let Some(request) = self.requests.iter_mut().find(|request| request.id == id) {
            request.given_up = true;
        }
    }

    /// Takes out the texts of a request whose vectors nobody wants any more.
    pub fn take_embeddings(&mut self, id: RequestId) -> Option<EmbedJob> {
        self.embeddings.as_mut()?.take(id)
    }

    pub fn has_work(&self) -> bool {
        !self.requests.is_empty() || self.embeddings.as_ref().is_some_and(|it| !it.is_empty())
    }

    /// Requests that have entered and those that wait for memory or room.
    pub fn n_requests(&self) -> (usize, usize) {
        let embedding = self.embeddings.as_ref().map_or(0, Embeddings::len);
        (self.scheduler.n_running() + embedding, self.scheduler.n_waiting())
    }

    pub fn kv_bytes(&self) -> usize {
        self.cache.bytes_allocated() + self.embeddings.as_ref().map_or(0, Embeddings::bytes_allocated)
    }

    /// Everyone out: the lane ends.
    pub fn take_all(&mut self) -> (Vec<Active>, Vec<EmbedJob>) {
        let embedding = self.embeddings.as_mut().map(Embeddings::take_all);
        (std::mem::take(&mut self.requests), embedding.unwrap_or_default())
    }

    /// Computes one batch of the answers, and one of the texts that become vectors.
    pub fn step(&mut self) -> StepReport {
        let mut report = StepReport::default();
        self.step_answers(&mut report);
        if let Some(embeddings) = &mut self.embeddings {
            let rows_max = if self.requests.is_empty() { ROWS_MAX } else { ROWS_BESIDE };
            embeddings.step(&mut self.runner, rows_max, &mut report);
            if embeddings.is_empty() {
                self.embeddings = None;
            }
        }
        report
    }

    fn step_answers(&mut self, report: &mut StepReport) {
        // 1. Who is no longer wanted goes.
        let gone: Vec<RequestId> =
            self.requests.iter().filter(|r| r.given_up || r.sink.is_closed()).map(|request| request.id).collect();
        for id in gone {
            self.end(id, Some(Finish::Cancelled), Ok(()), report);
        }
        // 2. Who enters, and who makes room.
        self.admit();
        // 3. The pass.
        let batch = self.scheduler.next_batch();
        if batch.is_empty() {
            return;
        }
        match self.forward(&batch) {
            Ok(()) => self.take_in(&batch, report),
            // 4. Somebody's numbers are not finite, or there is a defect: each is tried alone, so that only who is at fault fails.
            Err(_) => {
                for work in &batch {
                    match self.forward(std::slice::from_ref(work)) {
                        Ok(()) => self.take_in(std::slice::from_ref(work), report),
                        Err(error) => self.end(work.id, None, Err(error), report),
                    }
                }
            }
        }
    }

    fn admit(&mut self) {
        for change in self.scheduler.admit() {
            match change {
                Change::Preempted(id) => {
                    if let Some(at) = self.find(id)
                        && let Some(sequence) = self.requests[at].sequence.take()
                    {
                        self.free(sequence);
                    }
                }
                Change::Admitted(id) => {
                    let Some(at) = self.find(id) else { continue };
                    let (sequence, cached) = self.begin(at);
                    let request = &mut self.requests[at];
                    request.sequence = Some(sequence);
                    if request.began.is_none() {
                        request.began = Some(Instant::now());
                        request.answer.so_far().stats.cached_tokens = cached;
                    }
                    self.scheduler.cached(id, cached);
                }
            }
        }
    }

    /// A sequence for a text, with as much of its beginning as some other text has in memory.
    fn begin(&mut self, at: usize) -> (SequenceId, usize) {
        let tokens = &self.requests[at].tokens;
        let shared = |other: &[TokenId]| tokens.iter().zip(other).take_while(|(a, b)| a == b).count();
        let best = (0..self.cold.len()).map(|i| (shared(&self.cold[i].tokens), i)).max();
        if let Some((n, i)) = best
            && n >= SHARED_MIN.min(tokens.len())
        {
            // The last token is always computed: its logits are needed.
            let n = n.min(tokens.len() - 1);
            // It was used just now.
            let cold = self.cold.remove(i);
            let forked = self.cache.fork(cold.sequence);
            self.cold.push(cold);
            if let Ok(sequence) = forked {
                // Where a window has moved on too far, nothing is left.
                let kept = self.cache.truncate(sequence, n).unwrap_or(0);
                return (sequence, kept);
            }
        }
        (self.cache.create_for(self.context), 0)
    }

    /// Computes a batch; [`Self::logits`] are then those of the texts that were read to the end, `[those][vocab_size]`.
    fn forward(&mut self, batch: &[Work<RequestId>]) -> Result<()> {
        let mut rows: Vec<Row> = Vec::new();
        for work in batch {
            let Some(request) = self.requests.iter().find(|request| request.id == work.id) else { continue };
            let sequence = request.sequence.expect("who is in a batch has entered");
            rows.extend(work.tokens.clone().map(|position| Row {
                sequence,
                position: position as u32,
                token: request.tokens[position].0,
                wanted: work.is_last && position + 1 == work.tokens.end,
            }));
        }
        loop {
            match self.runner.forward(&mut self.cache, &rows, Input::Tokens) {
                Ok(_) => break,
                // Texts that nobody goes on with make room; without them, what runs fits.
                Err(hublabio_engine::Error::CacheFull { .. }) if !self.cold.is_empty() => {
                    let cold = self.cold.remove(0);
                    self.free(cold.sequence);
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.runner.swap_result(&mut self.logits);
        Ok(())
    }

    /// A pass is done: those whose texts were read to the end get their next tokens, chosen on all threads of the team.
    fn take_in(&mut self, batch: &[Work<RequestId>], report: &mut StepReport) {
        for work in batch {
            self.scheduler.computed(work);
            let Some(at) = self.find(work.id) else { continue };
            let request = &mut self.requests[at];
            let prompt_rows = work.tokens.end.min(request.prompt_len).saturating_sub(work.tokens.start);
            report.prompt_tokens += prompt_rows;
            if !work.is_last && prompt_rows > 0 {
                let progress = AnswerEvent::Progress { read: work.tokens.end, total: request.prompt_len };
                request.given_up |= request.sink.take(progress).is_break();
            }
        }
        let vocab = self.model.hyperparameters().vocab_size;
        let of: HashMap<RequestId, &[f32]> =
            batch.iter().filter(|work| work.is_last).map(|work| work.id).zip(self.logits.chunks_exact(vocab)).collect();
        let context = self.context;
        let requests = self.requests.iter_mut();
        let mut chosen: Vec<_> =
            requests.filter_map(|request| Some((*of.get(&request.id)?, request, Ok(None)))).collect();
        self.runner.team().run_chunks_mut(&mut chosen, 1, |_, chosen| {
            for (logits, request, next) in chosen {
                *next = request.choose(logits, context);
            }
        });
        let chosen: Vec<_> = chosen.into_iter().map(|(_, request, next)| (request.id, next)).collect();
        report.generated_tokens += chosen.len();
        for (id, next) in chosen {
            match next {
                Ok(Some(_)) => self.scheduler.extend(id),
                Ok(None) => self.end(id, None, Ok(()), report),
                Err(error) => self.end(id, None, Err(error), report),
            }
        }
    }

    /// Ends a request: its events end, its keys and values become a text that others may begin with.
    fn end(&mut self, id: RequestId, finish: Option<Finish>, result: Result<()>, report: &mut StepReport) {
        let Some(at) = self.find(id) else { return };
        self.scheduler.remove(id);
        let mut request = self.requests.remove(at);
        if let Some(finish) = finish {
            request.answer.end(finish, &mut |_| ControlFlow::Break(()));
        }
        if let Some(sequence) = request.sequence.take() {
            if result.is_ok() {
                self.cool(sequence, &request.tokens);
            } else {
                self.free(sequence);
            }
        }
        let ended = match &result {
            Err(_) => Ended::Failed,
            Ok(()) if request.answer.so_far().finish == Finish::Cancelled => Ended::Cancelled,
            Ok(()) => Ended::Done,
        };
        report.ended.push((id, ended));
        request.finish(result);
    }

    /// Keeps a finished text, in place of those that it begins with.
    fn cool(&mut self, sequence: SequenceId, tokens: &[TokenId]) {
        let len = self.cache.len(sequence).unwrap_or(0);
        if len < SHARED_MIN {
            return self.free(sequence);
        }
        let tokens = tokens[..len.min(tokens.len())].to_vec();
        let (gone, kept) =
            std::mem::take(&mut self.cold).into_iter().partition(|cold| tokens.starts_with(&cold.tokens));
        self.cold = kept;
        let gone: Vec<Cold> = gone;
        for cold in gone {
            self.free(cold.sequence);
        }
        if self.cold.len() >= COLD_MAX {
            let oldest = self.cold.remove(0);
            self.free(oldest.sequence);
        }
        self.cold.push(Cold { tokens, sequence });
    }

    fn free(&mut self, sequence: SequenceId) {
        // It was made by this cache and is freed once.
        let freed = self.cache.remove(sequence);
        debug_assert!(freed.is_ok(), "{freed:?}");
    }

    fn find(&self, id: RequestId) -> Option<usize> {
        self.requests.iter().position(|request| request.id == id)
    }
}
