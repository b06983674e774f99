//! Continuous batching: which rows of which requests the next pass computes, and who is in memory for it.
//!
//! A pure state machine: no clock, no model, no cache. Whoever computes tells it what came and went, asks [`Scheduler::admit`]
//! who enters and leaves memory, asks [`Scheduler::next_batch`] for a pass, and says with [`Scheduler::computed`] that it is done.
//!
//! ```text
//!   add ──▶ waiting ──admit──▶ running ──remove──▶ gone
//!             ▲                   │
//!             └─────preempted─────┘     its keys and values are dropped and computed again later, to the same bits
//! ```
//!
//! **One kind of work.** A request is a text of `total` tokens of which `computed` have keys and values. What is between is
//! read; when nothing is left, the last row's logits choose the next token and the text is one longer. A new prompt, a token of
//! an answer and an answer that lost its memory differ only in how much is left. Who lacks nothing until somebody chooses its next
//! token takes part in no pass, and keeps its memory.
//!
//! **The rule.** Requests that lack one token (those that are answering) are in every batch: one row each. What room is left goes
//! to those that read more: half of it to the one that came first, the rest to the others, those that have least left first,
//! then again to the first. So a long prompt always comes forward and never stands in the way of short ones. While somebody is
//! answering, reading takes at most [`SchedulerConfig::rows_beside`] rows of a pass, because each row delays everyone's next
//! token.
//!
//! **Memory** is counted in pages of keys and values. A request enters in its turn, when the pages of its whole text fit beside the
//! others' and one more for each that runs; when a pass needs more pages than there are, who entered last leaves, and enters
//! again first. Who entered first never leaves, so that somebody always comes to the end.
//!
//! This is the scheduling of Orca (Yu et al., 2022) with chunked prefill as in Sarathi (Agrawal et al., 2023) and paged memory as
//! in vLLM (Kwon et al., 2023).

use std::collections::VecDeque;
use std::fmt::Debug;
use std::ops::Range;

use hublabio_kernels::PAGE_POSITIONS;

/// Limits of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedulerConfig {
    /// Rows of one pass.
    pub rows_max: usize,
    /// Rows of one pass that read prompts while somebody is answering.
    pub rows_beside: usize,
    /// Requests that run at once, at most `rows_max`.
    pub running_max: usize,
    /// Pages of keys and values that all of them may hold; at least as many as the longest request takes.
    pub pages_max: usize,
}

/// A part of a pass: these tokens of a request's text, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work<Id> {
    /// Whose.
    pub id: Id,
    /// Positions in its text.
    pub tokens: Range<usize>,
    /// Whether the last row's logits choose the next token.
    pub is_last: bool,
}

/// Who enters and leaves memory before the next pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<Id> {
    /// Drop its keys and values; it enters again later.
    Preempted(Id),
    /// It begins. If a beginning of its text is still in memory, say so with [`Scheduler::cached`].
    Admitted(Id),
}

#[derive(Clone, Debug)]
struct Request<Id> {
    id: Id,
    total: usize,
    computed: usize,
}

impl<Id> Request<Id> {
    fn left(&self) -> usize {
        self.total - self.computed
    }
}

fn pages(tokens: usize) -> usize {
    tokens.div_ceil(PAGE_POSITIONS)
}

/// The requests of one model. `Id` is whatever the caller calls a request by.
#[derive(Clone, Debug)]
pub struct Scheduler<Id> {
    config: SchedulerConfig,
    waiting: VecDeque<Request<Id>>,
    /// In the order in which they entered.
    running: Vec<Request<Id>>,
}

impl<Id: Copy + Eq + Debug> Scheduler<Id> {
    /// Without requests.
    ///
    /// # Panics
    /// When a limit is 0, or more requests may run than a pass has rows.
    #[must_use]
    pub fn new(config: SchedulerConfig) -> Self {
        let SchedulerConfig { rows_max, rows_beside, running_max, pages_max } = config;
        assert!(rows_max.min(rows_beside).min(running_max).min(pages_max) > 0, "a limit of the scheduler is 0");
        assert!(running_max <= rows_max, "more requests may run than a pass has rows");
        Self { config, waiting: VecDeque::new(), running: Vec::new() }
    }

    /// A request of `tokens` tokens, at least one, queues up.
    ///
    /// # Panics
    /// When it is empty, or with one more token would not fit into memory alone.
    pub fn add(&mut self, id: Id, tokens: usize) {
        assert!(tokens > 0, "{id:?} has no tokens");
        assert!(pages(tokens + 1) <= self.config.pages_max, "{id:?} of {tokens} tokens can never run");
        self.waiting.push_back(Request { id, total: tokens, computed: 0 });
    }

    /// A request is over, or given up, wherever it is. Whether it was there.
    pub fn remove(&mut self, id: Id) -> bool {
        let before = self.len();
        self.waiting.retain(|request| request.id != id);
        self.running.retain(|request| request.id != id);
        self.len() < before
    }

    /// A request that was just admitted has the first `tokens` of its text in memory already. At least one token is always
    /// computed: its logits are needed.
    pub fn cached(&mut self, id: Id, tokens: usize) {
        if let Some(request) = self.running.iter_mut().find(|request| request.id == id) {
            request.computed = tokens.min(request.total - 1);
        }
    }

    /// A token was chosen for this request: its text is one longer. Where tokens come from outside, it may have lost its memory
    /// before.
    pub fn extend(&mut self, id: Id) {
        if let Some(request) = self.running.iter_mut().chain(&mut self.waiting).find(|request| request.id == id) {
            request.total += 1;
        }
    }

    /// Requests that wait and run.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len() + self.running.len()
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Requests that have entered.
    #[must_use]
    pub fn n_running(&self) -> usize {
        self.running.len()
    }

    /// Requests that have not.
    #[must_use]
    pub fn n_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Pages that the running requests hold, and those that the rest of their texts takes.
    fn pages_claimed(&self) -> usize {
        self.running.iter().map(|request| pages(request.total)).sum()
    }

    /// Decides who enters and leaves memory before the next pass, in this order.
    pub fn admit(&mut self) -> Vec<Change<Id>> {
        let mut changes = Vec::new();
        // Texts have grown since: whoever entered last makes room.
        while self.pages_claimed() > self.config.pages_max {
            let mut request = self.running.pop().expect("one request alone always fits");
            request.computed = 0;
            changes.push(Change::Preempted(request.id));
            self.waiting.push_front(request);
        }
        while let Some(next) = self.waiting.front()
            && self.running.len() < self.config.running_max
        {
            // A page for each, so that who enters does not have to leave at the next token. Alone it always fits.
            let spare = if self.running.is_empty() { 0 } else { self.running.len() + 1 };
            if self.pages_claimed() + pages(next.total) + spare > self.config.pages_max {
                break;
            }
            let request = self.waiting.pop_front().expect("it was just looked at");
            changes.push(Change::Admitted(request.id));
            self.running.push(request);
        }
        changes
    }

    /// The next pass: parts of running requests, at most [`SchedulerConfig::rows_max`] rows. Empty when nobody runs.
    #[must_use]
    pub fn next_batch(&self) -> Vec<Work<Id>> {
        let mut rows = vec![0; self.running.len()];
        let mut room = self.config.rows_max;
        for (request, rows) in self.running.iter().zip(&mut rows) {
            if request.left() == 1 {
                *rows = 1;
                room -= 1;
            }
        }
        if room < self.config.rows_max {
            room = room.min(self.config.rows_beside);
        }
        // Those that read, who came first first.
        let mut reading: Vec<usize> = (0..rows.len()).filter(|&at| self.running[at].left() > 1).collect();
        let mut give = |at: usize, most: usize, room: &mut usize| {
            let given = (self.running[at].left() - rows[at]).min(most).min(*room);
            rows[at] += given;
            *room -= given;
        };
        if let Some(&first) = reading.first() {
            let half = if reading.len() == 1 { room } else { room.div_ceil(2) };
            give(first, half, &mut room);
            reading[1..].sort_by_key(|&at| self.running[at].left());
            for &at in reading[1..].iter().chain([&first]) {
                give(at, usize::MAX, &mut room);
            }
        }
        let parts = self.running.iter().zip(rows).filter(|(_, rows)| *rows > 0);
        parts
            .map(|(request, rows)| Work {
                id: request.id,
                tokens: request.computed..request.computed + rows,
                is_last: rows == request.left(),
            })
            .collect()
    }

    /// A part of a pass was computed.
    pub fn computed(&mut self, work: &Work<Id>) {
        if let Some(request) = self.running.iter_mut().find(|request| request.id == work.id) {
            debug_assert_eq!(request.computed, work.tokens.start, "work is done once and in order");
            request.computed = work.tokens.end;
        }
    }
}

#[cfg(test)]
#[path = "scheduler_tests.rs"]
mod tests;
