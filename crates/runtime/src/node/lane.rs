//! One model in memory and the answers that it is giving: each step computes one batch for all of them.
//!
//! What goes into a batch is `hublabio_engine::Scheduler`'s decision; what a token means to its answer is [`AnswerState`]'s, and what
//! logits mean to who only reads is [`Reader`]'s. This file joins them to keys and values, and sees to it that a request that fails
//! ends alone.

use std::collections::HashMap;
use std::ops::{ControlFlow, Range};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use hublabio_engine::{
    Change, Input, KvCache, KvType, Model, Row, Runner, Scheduler, SchedulerConfig, SequenceId, Shard, ThreadTeam, Work,
};
use hublabio_kernels::PAGE_POSITIONS;
use hublabio_moe::RequestId;
use hublabio_tokenizer::TokenId;

use super::embeddings::{EmbedJob, Embeddings};
use super::reading::Reader;
use super::{AnswerEvent, AnswerSink, NodeConfig, ServedModel};
use crate::ai::decode::AnswerState;
use crate::ai::{Finish, LOGIT_ROWS, find_description};
use crate::error::{Error, Result};
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
pub(crate) struct Active {
    pub id: RequestId,
    goal: Goal,
    /// Prompt and answer.
    tokens: Vec<TokenId>,
    prompt_len: usize,
    sequence: Option<SequenceId>,
    began: Option<Instant>,
    first_token: Option<Instant>,
    given_up: bool,
}

/// What is made of a request's logits.
enum Goal {
    Answer { answer: Box<AnswerState>, sink: Box<dyn AnswerSink> },
    Read(Reader),
}

/// How a request goes on after a pass.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// There is more of its text to read, or others choose how it goes on.
    Same,
    /// Its text is one token longer.
    Extended,
    Ended,
}

impl Active {
    pub fn new(id: RequestId, answer: AnswerState, sink: Box<dyn AnswerSink>, prompt: Vec<TokenId>) -> Self {
        Self::with_goal(id, Goal::Answer { answer: Box::new(answer), sink }, prompt)
    }

    pub fn reading(id: RequestId, reader: Reader, text: Vec<TokenId>) -> Self {
        Self::with_goal(id, Goal::Read(reader), text)
    }

    fn with_goal(id: RequestId, goal: Goal, tokens: Vec<TokenId>) -> Self {
        let prompt_len = tokens.len();
        Self { id, goal, tokens, prompt_len, sequence: None, began: None, first_token: None, given_up: false }
    }

    /// Whether there is nothing to compute.
    pub fn is_over(&self) -> bool {
        matches!(&self.goal, Goal::Answer { answer, .. } if answer.is_over())
    }

    /// Whether nobody waits for it any more, as far as can be told.
    pub fn is_closed(&self) -> bool {
        matches!(&self.goal, Goal::Answer { sink, .. } if sink.is_closed())
    }

    /// Ends it from outside; [`finish`](Self::finish) then says so.
    pub fn end(&mut self, finish: Finish) {
        if let Goal::Answer { answer, .. } = &mut self.goal {
            answer.end(finish, &mut |_| ControlFlow::Break(()));
        }
    }

    fn is_cancelled(&mut self) -> bool {
        let Goal::Answer { answer, .. } = &mut self.goal else { return false };
        answer.so_far().finish == Finish::Cancelled
    }

    /// Whether the logits after the token at `position` are wanted.
    fn wants(&self, position: usize) -> bool {
        match &self.goal {
            Goal::Answer { .. } => position + 1 == self.tokens.len(),
            Goal::Read(reader) => reader.wants(position, self.tokens.len()),
        }
    }

    /// How much of its text need not be computed if its keys and values are there.
    fn cached_max(&self) -> usize {
        match &self.goal {
            Goal::Answer { .. } => self.tokens.len() - 1,
            Goal::Read(reader) => reader.first_wanted(self.tokens.len()),
        }
    }

    /// Takes the logits that it wanted of what a pass computed of it.
    fn take(&mut self, computed: Range<usize>, logits: &[f32], vocab_size: usize, context: usize) -> Result<Next> {
        self.first_token.get_or_insert_with(Instant::now);
        match &mut self.goal {
            Goal::Answer { answer, sink } => {
                let is_full = self.tokens.len() >= context;
                let chosen = answer.choose(logits, is_full, &mut |piece| {
                    sink.take(AnswerEvent::Piece {
                        text: piece.text.to_owned(),
                        token: piece.token,
                        logprobs: piece.logprobs.filter(|_| piece.token.is_some()).cloned(),
                    })
                })?;
                self.tokens.extend(chosen);
                Ok(if chosen.is_some() { Next::Extended } else { Next::Ended })
            }
            Goal::Read(reader) => {
                let ended = reader.take(&self.tokens, computed, logits, vocab_size)?;
                Ok(if ended { Next::Ended } else { Next::Same })
            }
        }
    }

    /// Says that it is over. Nobody may listen any more, which is no fault.
    pub fn finish(self, result: Result<()>) {
        let Self { goal, began, first_token, .. } = self;
        let (mut answer, mut sink) = match goal {
            Goal::Answer { answer, sink } => (answer, sink),
            Goal::Read(reader) => return reader.finish(result),
        };
        let event = match result {
            Ok(()) => {
                let stats = &mut answer.so_far().stats;
                if let (Some(began), Some(first)) = (began, first_token) {
                    stats.prompt_s = (first - began).as_secs_f64();
                    stats.decode_s = first.elapsed().as_secs_f64();
                }
                let mut generation = answer.into_generation();
                generation.stats.generated_tokens = generation.tokens.len();
                AnswerEvent::Done(Box::new(generation))
            }
            Err(error) => AnswerEvent::Failed(error),
        };
        // A sink that breaks has broken for its own request only.
        let _ = catch_unwind(AssertUnwindSafe(|| sink.take(event)));
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Done,
    Failed,
    Cancelled,
}

/// What a step did.
#[derive(Default)]
pub(crate) struct StepReport {
    pub ended: Vec<(RequestId, Ended)>,
    pub prompt_tokens: usize,
    pub generated_tokens: usize,
}

/// A text whose keys and values are kept although nobody goes on with it.
struct Cold {
    tokens: Vec<TokenId>,
    sequence: SequenceId,
}

/// What a lane may use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LaneConfig {
    /// Positions of a conversation.
    pub context: usize,
    /// How keys and values are kept.
    pub kv: KvType,
    /// Bytes of them; those of one conversation are there in any case.
    pub kv_bytes_max: u64,
    /// Requests that are computed at once.
    pub running_max: usize,
}

/// A model in memory.
pub(crate) struct Lane {
    runner: Runner,
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

/// Bytes of keys and values that a model may hold, of a budget that its file is part of.
pub(super) fn kv_bytes_max(model: &ServedModel, config: &NodeConfig) -> u64 {
    kv_share(model.facts().kv_bytes, config.max_memory.saturating_sub(model.bytes()), config.running_max)
}

/// Bytes of keys and values that a model may hold where so many are `left` beside weights: those of `one` whole context at least, of
/// as many as may run at most, and in between half of what is left.
pub(crate) fn kv_share(one: u64, left: u64, running_max: usize) -> u64 {
    (left / 2).min(one.saturating_mul(running_max as u64)).max(one)
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
        let lane = LaneConfig {
            context: served.facts().context,
            kv,
            kv_bytes_max: kv_bytes_max(served, config),
            running_max: config.running_max,
        };
        Ok(Self::new(Runner::on_team(model, Arc::clone(team), isa), &lane))
    }

    /// Of a model and its adapters, without requests.
    pub fn new(runner: Runner, config: &LaneConfig) -> Self {
        let &LaneConfig { context, kv, kv_bytes_max, running_max } = config;
        let model = runner.model();
        let bytes_of_page = model.new_cache(context, kv).bytes_of(PAGE_POSITIONS).max(1) as u64;
        let pages = (kv_bytes_max / bytes_of_page) as usize;
        let pages_max = pages.max((context + 1).div_ceil(PAGE_POSITIONS));
        let cache = model.new_cache(pages_max * PAGE_POSITIONS, kv);
        let scheduler = Scheduler::new(SchedulerConfig {
            rows_max: ROWS_MAX.max(running_max),
            rows_beside: ROWS_BESIDE,
            running_max,
            pages_max,
        });
        Self {
            runner,
            cache,
            context,
            scheduler,
            requests: Vec::new(),
            cold: Vec::new(),
            logits: Vec::new(),
            embeddings: None,
        }
    }

    /// Refuses a prompt that is none, or that leaves no room for an answer.
    pub fn check(&self, prompt: &[TokenId]) -> Result<()> {
        let model = self.runner.model();
        let h = model.hyperparameters();
        if !model.has_logits() {
            return Err(Error::NoLogits { architecture: h.architecture.name.to_string() });
        }
        if prompt.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        if prompt.len() >= self.context {
            return Err(Error::PromptTooLong {
                prompt: prompt.len(),
                context: self.context,
                trained: h.context_length,
            });
        }
        Ok(())
    }

    /// Positions of a conversation.
    pub fn context(&self) -> usize {
        self.context
    }

    pub fn add(&mut self, request: Active) {
        self.scheduler.add(request.id, request.tokens.len());
        self.requests.push(request);
    }

    /// Lets a reader that stays read on. Whether it is there.
    pub fn go_on(&mut self, id: RequestId, tokens: &[TokenId]) -> bool {
        let Some(request) = self.requests.iter_mut().find(|request| request.id == id) else { return false };
        let Goal::Read(reader) = &mut request.goal else { return false };
        reader.go_on(request.tokens.len(), tokens.len());
        request.tokens.extend(tokens);
        tokens.iter().for_each(|_| self.scheduler.extend(id));
        true
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
            self.requests.iter().filter(|r| r.given_up || r.is_closed()).map(|request| request.id).collect();
        for id in gone {
            self.end(id, Some(Finish::Cancelled), Ok(()), report);
        }
        // 2. Who enters, and who makes room.
        self.admit();
        // 3. The pass.
        let mut batch = self.scheduler.next_batch();
        self.limit_logits(&mut batch);
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

    /// Puts off what is read where too many rows of logits are wanted, which are as wide as the vocabulary.
    fn limit_logits(&self, batch: &mut [Work<RequestId>]) {
        // Everyone has one.
        let mut room = LOGIT_ROWS.saturating_sub(batch.len());
        for work in batch {
            let Some(at) = self.find(work.id) else { continue };
            let request = &self.requests[at];
            let wanted = |tokens: Range<usize>| tokens.filter(|&position| request.wants(position));
            if let Some(end) = wanted(work.tokens.clone()).nth(room + 1) {
                work.tokens.end = end;
                work.is_last = false;
            }
            room -= wanted(work.tokens.clone()).count().saturating_sub(1);
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
                        if let Goal::Answer { answer, .. } = &mut request.goal {
                            answer.so_far().stats.cached_tokens = cached;
                        }
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
            // What logits are needed of is always computed.
            let n = n.min(self.requests[at].cached_max());
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

    /// Computes a batch; [`Self::logits`] are then those that were wanted, in its order, `[those][vocab_size]`.
    fn forward(&mut self, batch: &[Work<RequestId>]) -> Result<()> {
        let mut rows: Vec<Row> = Vec::new();
        for work in batch {
            let Some(request) = self.requests.iter().find(|request| request.id == work.id) else { continue };
            let sequence = request.sequence.expect("who is in a batch has entered");
            rows.extend(work.tokens.clone().map(|position| Row {
                sequence,
                position: position as u32,
                token: request.tokens[position].0,
                wanted: request.wants(position),
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
        let vocab_size = self.runner.model().hyperparameters().vocab_size;
        let mut rows: HashMap<RequestId, (Range<usize>, &[f32])> = HashMap::new();
        let mut logits = &self.logits[..];
        for work in batch {
            self.scheduler.computed(work);
            let Some(request) = self.requests.iter_mut().find(|request| request.id == work.id) else { continue };
            let prompt_rows = work.tokens.end.min(request.prompt_len).saturating_sub(work.tokens.start);
            report.prompt_tokens += prompt_rows;
            if !work.is_last
                && prompt_rows > 0
                && let Goal::Answer { answer, sink } = &mut request.goal
            {
                let cached = answer.so_far().stats.cached_tokens;
                let progress = AnswerEvent::Progress { read: work.tokens.end, cached, total: request.prompt_len };
                request.given_up |= sink.take(progress).is_break();
            }
            let n_wanted = work.tokens.clone().filter(|&position| request.wants(position)).count();
            let (own, rest) = logits.split_at(n_wanted * vocab_size);
            logits = rest;
            if n_wanted > 0 {
                rows.insert(work.id, (work.tokens.clone(), own));
            }
        }
        let context = self.context;
        let mut taken: Vec<_> = self
            .requests
            .iter_mut()
            .filter_map(|request| Some((rows.remove(&request.id)?, request, Ok(Next::Same))))
            .collect();
        self.runner.team().run_chunks_mut(&mut taken, 1, |_, taken| {
            for ((computed, logits), request, next) in taken {
                *next = request.take(computed.clone(), logits, vocab_size, context);
            }
        });
        report.generated_tokens +=
            taken.iter().filter(|(_, request, _)| matches!(request.goal, Goal::Answer { .. })).count();
        let taken: Vec<_> = taken.into_iter().map(|(_, request, next)| (request.id, next)).collect();
        for (id, next) in taken {
            match next {
                Ok(Next::Same) => {}
                Ok(Next::Extended) => self.scheduler.extend(id),
                Ok(Next::Ended) => self.end(id, None, Ok(()), report),
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
            request.end(finish);
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
            Ok(()) if request.is_cancelled() => Ended::Cancelled,
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
