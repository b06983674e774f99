//! The expert cache: which experts are in memory, and whose turn it is.
//!
//! A pure state machine. Whoever owns the models tells [`ExpertCache::handle`] what happened and at what time, and does
//! what it says, in order; no model, file, thread or clock is known here, so that all of it is tested in simulated
//! time.
//!
//! ```text
//!  a part      absent ──Load──▶ loading ──Loaded──▶ idle ◀──Start, end──▶ busy
//!  (a model,     ▲                 │                  │
//!  an adapter,   ├───LoadFailed────┘                  │
//!  a base)       └───────────────Evict────────────────┘
//!
//!  a request   RequestQueued ──▶ waiting ──Start──▶ running ──Done, Failed, Cancelled──▶ ended
//!                    │              └──Fail, Cancelled──▶ ended
//!                    └──Refuse, Fail──▶ ended
//! ```
//!
//! **Memory.** An expert is one part of its own, and maybe a base that other experts share: it counts once, is loaded
//! before what stands on it and freed after it, so that switching between adapters never reloads it. Parts in memory or
//! on their way never take more than the budget. (Two cases are out of the cache's hands, and are put right as soon as
//! something is idle: a budget that is lowered below what is busy, and a load that takes more than was announced.)
//! Nothing is evicted that a request runs with, that is being loaded, or that is pinned.
//!
//! **What goes first.** The part whose absence is expected to cost least:
//!
//! ```text
//! reload cost in ms × probability of use
//!
//! probability   1 for what a waiting request needs; else the larger of
//! of use        uses / (1 + steady), where uses = Σ 2^(−age / half-life) over its starts,
//!               and steady = Σ 2^(−n / half-life), n = 0, 1, …: what one comes to that is always used;
//!               hint × 2^(−age / half-life), what the router said
//! ```
//!
//! Ties go to what is wanted last, then to what was used least recently. With a half-life of one start or less, a later
//! use outweighs all earlier ones (1 > ½ + ¼ + …), so that experts of equal reload cost are evicted in the order of
//! LRU; this is LRFU (Lee et al., 2001) with a cost. For one client that asks in turn, and without hints, there are
//! then never more reloads than with LRU, whatever the sizes. At the default, half a start, that holds for reload costs
//! within a factor of three.
//!
//! **Whose turn it is.** Among the orders in which the waiting could be served, `plan.rs` plays some through by running
//! estimates of how long loads and runs take, and takes one with which everyone starts within
//! [`CacheConfig::wait_ms_max`] and least time goes into reloads. That groups requests by expert (and adapters by
//! base), and begins a swap early enough. The order of queueing is among those that are played, and so is the order
//! followed so far. Therefore, at each event and as far as the estimates hold:
//!
//! - where serving those who wait in order of queueing keeps everyone's maximum, it is kept;
//! - where no order that was tried does, nobody is later than the latest in order of queueing (by more than a
//!   sixteenth), and the fewest reloads are made within that. So nobody starves: the queue is bounded, and with it that
//!   wait. There is no switch to serving one by one, which would load and evict for each request just when there is no
//!   time for it.
//!
//! What has begun is not taken back: one load and the requests that run may be in the way of one that comes later.
//!
//! **Ahead of requests.** An idle lane loads pinned experts, then the expert whose [hint](CacheEvent::DemandHint) ×
//! reload cost is highest, if that is more than what is evicted for it is worth.
//!
//! # The loop of a host
//!
//! Here loads and runs are entries in a list of things that will happen; a real host has threads that send the same
//! events into a channel, and waits on it until [`ExpertCache::next_deadline_ms`].
//!
//! ```
//! use hublabio_moe::{CacheConfig, CacheEffect, CacheEvent, ExpertCache, ExpertId, ExpertWeights, RequestId};
//! use std::collections::BTreeMap;
//!
//! // Two experts, of which one fits.
//! let mut cache = ExpertCache::new(CacheConfig::new(1_000_000))?;
//! let mut inbox = BTreeMap::new(); // (milliseconds, number) → event
//! for id in [1, 2] {
//!     let (bytes, reload_ms) = (800_000, 40);
//!     let weights = ExpertWeights { id: ExpertId(id), bytes, reload_ms, base: None, pinned: false };
//!     inbox.insert((0, inbox.len()), CacheEvent::ExpertAdded(weights));
//! }
//! // Six questions that alternate between them.
//! for number in 0..6 {
//!     let experts = vec![ExpertId(1 + number % 2)];
//!     inbox.insert((1, inbox.len()), CacheEvent::RequestQueued { request: RequestId(number.into()), experts });
//! }
//!
//! let mut said = Vec::new();
//! let mut sent = inbox.len();
//! let mut now_ms = 0;
//! loop {
//!     // Wait for the next event, or until the cache wants to be asked again.
//!     let next_ms = inbox.first_key_value().map(|(&(at_ms, _), _)| at_ms);
//!     let event = match (next_ms, cache.next_deadline_ms()) {
//!         (Some(at_ms), deadline_ms) if deadline_ms.is_none_or(|deadline_ms| at_ms <= deadline_ms) => {
//!             now_ms = at_ms;
//!             inbox.pop_first().expect("it was there").1
//!         }
//!         (_, Some(deadline_ms)) => {
//!             now_ms = deadline_ms;
//!             CacheEvent::Tick
//!         }
//!         _ => break,
//!     };
//!     for effect in cache.handle(event, now_ms) {
//!         sent += 1;
//!         match &effect {
//!             CacheEffect::Evict { .. } => { /* drop the model, now */ }
//!             CacheEffect::Load { part, .. } => {
//!                 // Map the file in the background; say what became of it.
//!                 let loaded = CacheEvent::Loaded { part: *part, bytes: 800_000, took_ms: 40 };
//!                 inbox.insert((now_ms + 40, sent), loaded);
//!             }
//!             CacheEffect::Start { request } => {
//!                 // Generate on a thread of its own; say when it has ended, however it did.
//!                 inbox.insert((now_ms + 10, sent), CacheEvent::RequestDone { request: *request });
//!             }
//!             CacheEffect::Fail { request, reason } => eprintln!("request {request}: {reason}"),
//!             CacheEffect::Refuse { request, reason } => eprintln!("request {request}: {reason}"),
//!             other => eprintln!("{other:?}"),
//!         }
//!         said.push(match effect {
//!             CacheEffect::Load { part, .. } => format!("load {part}"),
//!             CacheEffect::Start { request } => format!("start {request}"),
//!             CacheEffect::Evict { part } => format!("evict {part}"),
//!             other => format!("{other:?}"),
//!         });
//!     }
//! }
//! let first = ["load expert 1", "start 0", "start 2", "start 4"];
//! let second = ["evict expert 1", "load expert 2", "start 1", "start 3", "start 5"];
//! assert_eq!(said, [&first[..], &second].concat());
//! # Ok::<(), hublabio_moe::Error>(())
//! ```
//!
//! Where to go next: `event.rs` for the words, `parts.rs` for memory and eviction, `plan.rs` for the order.

use std::collections::{BTreeMap, BTreeSet};

mod estimate;
mod event;
mod parts;
mod plan;

use estimate::Estimate;
pub use event::{
    BaseId, BaseWeights, CacheConfig, CacheEffect, CacheEvent, CacheStats, ExpertRefusal, ExpertWeights, HalfLife,
    Part, RequestFailure, RequestId, RequestRefusal, Residency,
};
use parts::{PartState, Parts, parts_of, parts_of_set};
use plan::{Moment, PartFacts, RequestFacts, Situation};

use crate::{ExpertId, Result};

/// An expert that is known.
#[derive(Debug)]
struct Known {
    weights: ExpertWeights,
    /// How long a request runs with it.
    run: Estimate,
}

/// A request that has not started.
#[derive(Debug)]
struct Waiting {
    request: RequestId,
    queued_ms: u64,
    /// In ascending order, each once.
    experts: Vec<ExpertId>,
    /// Their parts, each once, bases first.
    parts: Vec<Part>,
}

/// A request that runs.
#[derive(Debug)]
struct Running {
    started_ms: u64,
    experts: Vec<ExpertId>,
    parts: Vec<Part>,
}

/// Which experts are in memory and whose turn it is: events in, effects out.
#[derive(Debug)]
pub struct ExpertCache {
    config: CacheConfig,
    now_ms: u64,
    experts: BTreeMap<ExpertId, Known>,
    parts: Parts,
    /// In the order of queueing.
    queue: Vec<Waiting>,
    running: BTreeMap<RequestId, Running>,
    /// The order chosen last.
    followed: Vec<RequestId>,
    /// When the order chosen last can begin to be too slow although nothing happens.
    replan_ms: Option<u64>,
    stats: CacheStats,
}

impl ExpertCache {
    /// A cache that knows no expert yet.
    ///
    /// # Errors
    /// [`Error::OutOfRange`](crate::Error::OutOfRange) for settings with which nothing could ever run.
    pub fn new(config: CacheConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self {
            config,
            now_ms: 0,
            experts: BTreeMap::new(),
            parts: Parts::new(config.bytes_max, config.half_life),
            queue: Vec::new(),
            running: BTreeMap::new(),
            followed: Vec::new(),
            replan_ms: None,
            stats: CacheStats::default(),
        })
    }

    /// Takes in what happened at `now_ms` and returns what is to be done, in order.
    ///
    /// Milliseconds count from any moment, and do not go back: an earlier time than the last counts as the last. What
    /// refers to a request or a load that is not under way changes nothing.
    pub fn handle(&mut self, event: CacheEvent, now_ms: u64) -> Vec<CacheEffect> {
        self.now_ms = self.now_ms.max(now_ms);
        self.parts.set_now(self.now_ms);
        let mut effects = Vec::new();
        self.take_in(event, &mut effects);
        self.decide(&mut effects);
        if cfg!(debug_assertions) {
            self.check();
        }
        effects
    }

    /// When [`CacheEvent::Tick`] is due if nothing else happens before, in the milliseconds of [`ExpertCache::handle`];
    /// `None` if time alone changes nothing.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        self.replan_ms
    }

    /// Bytes that experts take, those being loaded included.
    pub fn bytes_held(&self) -> u64 {
        self.parts.bytes_held
    }

    /// The budget.
    pub fn bytes_max(&self) -> u64 {
        self.parts.bytes_max
    }

    /// Requests that wait.
    pub fn queue_len(&self) -> usize {
        self.queue.len()
    }

    /// Requests that run.
    pub fn running_len(&self) -> usize {
        self.running.len()
    }

    /// Where an expert is; `None` for one that is not known.
    pub fn residency(&self, expert: ExpertId) -> Option<Residency> {
        let known = self.experts.get(&expert)?;
        let parts: Vec<_> = parts_of(&known.weights).map(|part| &self.parts.entries[&part]).collect();
        let own = &self.parts.entries[&Part::Expert(expert)];
        Some(if own.running > 0 {
            Residency::Busy
        } else if parts.iter().all(|entry| entry.ready()) {
            Residency::Resident
        } else if parts.iter().any(|entry| matches!(entry.state, PartState::Loading { .. })) {
            Residency::Loading
        } else {
            Residency::Absent
        })
    }

    /// What was done so far.
    pub fn stats(&self) -> CacheStats {
        self.stats
    }

    fn take_in(&mut self, event: CacheEvent, effects: &mut Vec<CacheEffect>) {
        match event {
            CacheEvent::ExpertAdded(weights) => self.set_expert(weights, false, effects),
            CacheEvent::ExpertChanged(weights) => self.set_expert(weights, true, effects),
            CacheEvent::ExpertRemoved { expert } => self.remove_expert(expert, effects),
            CacheEvent::RequestQueued { request, experts } => self.queue_request(request, experts, effects),
            CacheEvent::Loaded { part, bytes, took_ms } => {
                if self.parts.loaded(part, bytes, took_ms) {
                    self.keep_to_budget(ExpertId(u32::MAX), effects);
                }
            }
            CacheEvent::LoadFailed { part, reason } => self.load_failed(part, &reason, effects),
            CacheEvent::RequestDone { request } => self.end_request(request, true),
            CacheEvent::RequestFailed { request } => self.end_request(request, false),
            CacheEvent::RequestCancelled { request } => {
                self.queue.retain(|waiting| waiting.request != request);
                self.end_request(request, false);
            }
            CacheEvent::DemandHint { expert, probability } => self.hint(expert, probability),
            CacheEvent::BudgetChanged { bytes_max } => {
                self.parts.bytes_max = bytes_max;
                self.keep_to_budget(ExpertId(u32::MAX), effects);
            }
            CacheEvent::Tick => {}
        }
    }

    fn set_expert(&mut self, weights: ExpertWeights, changed: bool, effects: &mut Vec<CacheEffect>) {
        let id = weights.id;
        let experts_max = self.config.experts_max;
        if !self.experts.contains_key(&id) && self.experts.len() >= experts_max {
            let reason = ExpertRefusal::TooMany { experts_max };
            effects.push(CacheEffect::RefuseExpert { expert: id, reason });
            return;
        }
        // The new parts are named before the old ones are given up, so that those that stay never belong to nobody.
        let old = self.experts.get(&id).map(|known| known.weights);
        self.parts.name(&weights, changed);
        if let Some(old) = old {
            self.parts.forget(&old);
        }
        let run = match self.experts.get(&id) {
            Some(known) if !changed => known.run,
            _ => Estimate::guess(self.config.run_ms_estimate),
        };
        self.experts.insert(id, Known { weights, run });
        let experts = &self.experts;
        for waiting in self.queue.iter_mut().filter(|waiting| waiting.experts.contains(&id)) {
            waiting.parts = parts_of_set(&waiting.experts, |id| experts[&id].weights);
        }
        self.keep_to_budget(id, effects);
    }

    fn remove_expert(&mut self, expert: ExpertId, effects: &mut Vec<CacheEffect>) {
        let Some(known) = self.experts.remove(&expert) else { return };
        self.fail_waiting(effects, |waiting| {
            waiting.experts.contains(&expert).then_some(RequestFailure::Removed(expert))
        });
        self.parts.forget(&known.weights);
    }

    fn queue_request(&mut self, request: RequestId, mut experts: Vec<ExpertId>, effects: &mut Vec<CacheEffect>) {
        experts.sort_unstable();
        experts.dedup();
        let queue_max = self.config.queue_max;
        let duplicate = self.running.contains_key(&request) || self.queue.iter().any(|w| w.request == request);
        let refusal = if duplicate {
            Some(RequestRefusal::DuplicateId)
        } else if experts.is_empty() {
            Some(RequestRefusal::NoExperts)
        } else if self.queue.len() >= queue_max {
            Some(RequestRefusal::QueueFull { queue_max })
        } else {
            None
        };
        if let Some(reason) = refusal {
            self.stats.failures += 1;
            effects.push(CacheEffect::Refuse { request, reason });
            return;
        }
        if let Some(&unknown) = experts.iter().find(|id| !self.experts.contains_key(id)) {
            self.stats.failures += 1;
            effects.push(CacheEffect::Fail { request, reason: RequestFailure::NoSuchExpert(unknown) });
            return;
        }
        let parts = parts_of_set(&experts, |id| self.experts[&id].weights);
        self.queue.push(Waiting { request, queued_ms: self.now_ms, experts, parts });
        self.fail_those_that_cannot_fit(effects);
    }

    fn load_failed(&mut self, part: Part, reason: &str, effects: &mut Vec<CacheEffect>) {
        if !self.parts.is_loading(part) {
            return;
        }
        self.stats.load_failures += 1;
        // A load of weights that were replaced meanwhile says nothing about the new ones.
        let stale = self.parts.entries[&part].stale;
        self.parts.release(part);
        if stale {
            return;
        }
        if let Some(entry) = self.parts.entries.get_mut(&part) {
            entry.failed = true;
        }
        self.fail_waiting(effects, |waiting| {
            let failure = RequestFailure::LoadFailed { part, reason: reason.to_owned() };
            waiting.parts.contains(&part).then_some(failure)
        });
    }

    fn end_request(&mut self, request: RequestId, done: bool) {
        let Some(running) = self.running.remove(&request) else { return };
        self.parts.end(&running.parts);
        if done {
            let took_ms = self.now_ms - running.started_ms;
            for expert in &running.experts {
                if let Some(known) = self.experts.get_mut(expert) {
                    known.run.observe(took_ms);
                }
            }
        }
    }

    fn hint(&mut self, expert: ExpertId, probability: f32) {
        let Some(known) = self.experts.get(&expert) else { return };
        let probability = if probability.is_nan() { 0.0 } else { f64::from(probability.clamp(0.0, 1.0)) };
        for part in parts_of(&known.weights) {
            self.parts.hint(part, probability);
        }
    }

    /// After sizes or the budget changed: takes pins off that do not fit together, that of `newest` first and then from
    /// the highest number down, and fails requests that can never be served any more.
    fn keep_to_budget(&mut self, newest: ExpertId, effects: &mut Vec<CacheEffect>) {
        let bytes_max = self.parts.bytes_max;
        loop {
            let (_, bytes) = self.parts.bytes_needed(&[]);
            if bytes <= bytes_max {
                break;
            }
            let is_pinned = |id: &ExpertId| self.experts.get(id).is_some_and(|known| known.weights.pinned);
            let highest = self.experts.keys().rev().copied().find(is_pinned);
            let Some(expert) = Some(newest).filter(is_pinned).or(highest) else { break };
            let known = self.experts.get_mut(&expert).expect("pinned experts are known");
            self.parts.unpin(&mut known.weights);
            let reason = ExpertRefusal::PinTooLarge { bytes, bytes_max };
            effects.push(CacheEffect::RefuseExpert { expert, reason });
        }
        self.fail_those_that_cannot_fit(effects);
    }

    fn fail_those_that_cannot_fit(&mut self, effects: &mut Vec<CacheEffect>) {
        let bytes_max = self.parts.bytes_max;
        let needs: Vec<(u64, u64)> = self.queue.iter().map(|w| self.parts.bytes_needed(&w.parts)).collect();
        let mut needs = needs.into_iter();
        self.fail_waiting(effects, |_| {
            let (bytes, pinned_bytes) = needs.next().expect("as many as wait");
            let fits = bytes.saturating_add(pinned_bytes) <= bytes_max;
            (!fits).then_some(RequestFailure::TooLarge { bytes, pinned_bytes, bytes_max })
        });
    }

    /// Takes those out of the queue for which `failure` has a reason. It is asked about each once, in order.
    fn fail_waiting(
        &mut self,
        effects: &mut Vec<CacheEffect>,
        mut failure: impl FnMut(&Waiting) -> Option<RequestFailure>,
    ) {
        let failures = &mut self.stats.failures;
        self.queue.retain(|waiting| {
            let Some(reason) = failure(waiting) else { return true };
            *failures += 1;
            effects.push(CacheEffect::Fail { request: waiting.request, reason });
            false
        });
    }

    fn decide(&mut self, effects: &mut Vec<CacheEffect>) {
        while let Some(part) = self.parts.useless() {
            self.evict(part, effects);
        }
        self.shrink(effects);
        let mut order = self.order();
        while let Some(at) = self.startable(&order) {
            self.start(at, effects);
            order = self.order();
        }
        if self.load_for_queue(&order, effects) {
            self.load_ahead(&order, effects);
        }
    }

    /// Frees what is idle as long as the budget is passed.
    fn shrink(&mut self, effects: &mut Vec<CacheEffect>) {
        if self.parts.bytes_held <= self.parts.bytes_max {
            return;
        }
        let all: Vec<usize> = (0..self.queue.len()).collect();
        let victims = self.parts.victims(0, &BTreeSet::new(), &self.next_use(&all));
        for victim in victims.unwrap_or_else(|| self.parts.evictable()) {
            self.evict(victim, effects);
        }
    }

    /// Chooses the order in which the waiting are served, as places in the queue.
    fn order(&mut self) -> Vec<usize> {
        self.replan_ms = None;
        if self.queue.len() < 2 {
            self.followed = self.queue.iter().map(|waiting| waiting.request).collect();
            return (0..self.queue.len()).collect();
        }
        let places: BTreeMap<RequestId, usize> = self.queue.iter().enumerate().map(|(at, w)| (w.request, at)).collect();
        let followed: Vec<usize> = self.followed.iter().filter_map(|request| places.get(request).copied()).collect();
        let (order, outcome) = self.situation().best_order(&followed);
        if outcome.slack_ms >= 0.0 {
            self.replan_ms = Some(self.now_ms.saturating_add(outcome.slack_ms as u64).saturating_add(1));
        }
        self.followed = order.iter().map(|&at| self.queue[at].request).collect();
        order
    }

    /// The facts by which orders are played through.
    fn situation(&self) -> Situation {
        let mut places = BTreeMap::new();
        let wanted: BTreeSet<Part> = self.queue.iter().flat_map(|waiting| waiting.parts.iter().copied()).collect();
        let entries = self.parts.entries.iter();
        let relevant = entries.filter(|(part, entry)| entry.state != PartState::Absent || wanted.contains(part));
        for (place, (&part, _)) in relevant.enumerate() {
            places.insert(part, place);
        }
        let parts = places.keys().map(|&part| self.part_facts(part, &places)).collect();
        let mut groups: BTreeMap<&[ExpertId], usize> = BTreeMap::new();
        let mut clusters: BTreeMap<Part, usize> = BTreeMap::new();
        let requests = self.queue.iter().map(|waiting| {
            let group = groups.len();
            let cluster = clusters.len();
            let runs = waiting.experts.iter().map(|id| self.experts[id].run);
            RequestFacts {
                deadline_ms: waiting.queued_ms.saturating_add(self.config.wait_ms_max) as f64,
                parts: waiting.parts.iter().map(|part| places[part]).collect(),
                run: runs.max_by(|a, b| a.mean_ms.total_cmp(&b.mean_ms)).expect("a request needs experts"),
                group: *groups.entry(&waiting.experts).or_insert(group),
                cluster: *clusters.entry(waiting.parts[0]).or_insert(cluster),
            }
        });
        let requests = requests.collect();
        let now = Moment::at(self.now_ms as f64);
        let mut slots: Vec<Moment> = self.running.values().map(|running| self.end_of(running)).collect();
        slots.resize(self.config.running_max.min(slots.len() + self.queue.len()), now);
        let loading = self.parts.entries.values().filter_map(|entry| match entry.state {
            PartState::Loading { since_ms } => Some(Moment::end_of(since_ms, entry.reload, self.now_ms)),
            _ => None,
        });
        let mut lanes: Vec<Moment> = loading.collect();
        lanes.resize(self.config.loads_max.min(lanes.len() + places.len()), now);
        let Parts { bytes_max, bytes_held, .. } = self.parts;
        Situation { bytes_max, bytes_held, parts, requests, slots, lanes }
    }

    fn part_facts(&self, part: Part, places: &BTreeMap<Part, usize>) -> PartFacts {
        let entry = &self.parts.entries[&part];
        let with_it = self.running.values().filter(|running| entry.running > 0 && running.parts.contains(&part));
        PartFacts {
            bytes: entry.bytes,
            in_memory: entry.ready(),
            ready: match entry.state {
                PartState::Loading { since_ms } if !entry.stale => {
                    Some(Moment::end_of(since_ms, entry.reload, self.now_ms))
                }
                PartState::Resident if !entry.stale => Some(Moment::at(self.now_ms as f64)),
                _ => None,
            },
            idle: with_it.fold(Moment::at(0.0), |idle, running| idle.or_later(self.end_of(running))),
            reload: entry.reload,
            value: self.parts.value(part, false),
            base: self.base_of(part).and_then(|base| places.get(&base).copied()),
            pinned: entry.pins > 0,
        }
    }

    fn end_of(&self, running: &Running) -> Moment {
        let runs = running.experts.iter().filter_map(|id| self.experts.get(id)).map(|known| known.run);
        let longest = runs.max_by(|a, b| a.mean_ms.total_cmp(&b.mean_ms));
        let takes = longest.unwrap_or(Estimate::guess(self.config.run_ms_estimate));
        Moment::end_of(running.started_ms, takes, self.now_ms)
    }

    /// What a part is loaded onto.
    fn base_of(&self, part: Part) -> Option<Part> {
        let Part::Expert(id) = part else { return None };
        self.experts.get(&id)?.weights.base.map(|base| Part::Base(base.id))
    }

    /// Who in the order can start now: the first whose experts are in memory, as long as there are places left for
    /// those before it, or it will be done before their experts are there.
    fn startable(&self, order: &[usize]) -> Option<usize> {
        let mut places = self.config.running_max - self.running.len();
        if places == 0 {
            return None;
        }
        // Until when a place can be lent that is kept for somebody earlier in the order.
        let mut lent_until_ms = f64::INFINITY;
        for &at in order {
            let waiting = &self.queue[at];
            let ready_ms = self.ready_ms(waiting)?;
            if ready_ms > 0.0 {
                places = places.saturating_sub(1);
                lent_until_ms = lent_until_ms.min(ready_ms);
                continue;
            }
            let run_ms = waiting.experts.iter().map(|id| self.experts[id].run.latest_ms()).fold(0.0, f64::max);
            if places > 0 || self.now_ms as f64 + run_ms <= lent_until_ms {
                return Some(at);
            }
        }
        None
    }

    /// When a waiting request's experts are expected in memory: 0 for now, `None` while a part is not even on its way.
    fn ready_ms(&self, waiting: &Waiting) -> Option<f64> {
        waiting.parts.iter().try_fold(0.0_f64, |latest, part| {
            let entry = &self.parts.entries[part];
            match entry.state {
                PartState::Resident if !entry.stale => Some(latest),
                PartState::Loading { since_ms } if !entry.stale => {
                    Some(latest.max((since_ms as f64 + entry.reload.mean_ms).max(1.0)))
                }
                _ => None,
            }
        })
    }

    fn start(&mut self, at: usize, effects: &mut Vec<CacheEffect>) {
        let Waiting { request, queued_ms, experts, parts } = self.queue.remove(at);
        self.parts.start(&parts);
        let wait_ms = self.now_ms - queued_ms;
        self.stats.starts += 1;
        self.stats.wait_ms_longest = self.stats.wait_ms_longest.max(wait_ms);
        self.stats.late_starts += u64::from(wait_ms > self.config.wait_ms_max);
        self.running.insert(request, Running { started_ms: self.now_ms, experts, parts });
        effects.push(CacheEffect::Start { request });
    }

    fn evict(&mut self, part: Part, effects: &mut Vec<CacheEffect>) {
        self.parts.release(part);
        self.stats.evictions += 1;
        effects.push(CacheEffect::Evict { part });
    }

    /// Begins loads that the queue needs, in the given order of it, as long as there are lanes and room. Returns
    /// whether nobody waits for a load that has not begun.
    fn load_for_queue(&mut self, order: &[usize], effects: &mut Vec<CacheEffect>) -> bool {
        let next_use = self.next_use(order);
        let mut protected = BTreeSet::new();
        for &at in order {
            protected.extend(self.queue[at].parts.iter().copied());
            for part in self.queue[at].parts.clone() {
                if self.parts.ready(part) {
                    continue;
                }
                if !self.parts.is_loading(part) {
                    // What waits for room is not overtaken, or there might never be any.
                    let outdated = self.parts.entries[&part].state != PartState::Absent;
                    if outdated || !self.load(part, &protected, &next_use, false, effects) {
                        return false;
                    }
                } else if self.parts.entries[&part].stale {
                    return false;
                }
                if matches!(part, Part::Base(_)) {
                    // What is loaded onto it comes after it.
                    break;
                }
            }
        }
        true
    }

    /// Uses an idle lane for pinned experts, and for those that the router expects.
    fn load_ahead(&mut self, order: &[usize], effects: &mut Vec<CacheEffect>) {
        let next_use = self.next_use(order);
        let mut protected: BTreeSet<Part> = next_use.keys().copied().collect();
        for part in self.parts.pinned_absent() {
            let onto = self.base_of(part);
            if onto.is_none_or(|base| self.parts.ready(base)) {
                self.load(part, &protected, &next_use, true, effects);
            }
        }
        if !self.config.prefetch || self.parts.loading() >= self.config.loads_max {
            return;
        }
        let Some((gain, missing)) = self.likeliest_absent() else { return };
        protected.extend(missing.iter().copied());
        protected.extend(missing.iter().filter_map(|&part| self.base_of(part)));
        let bytes = missing.iter().map(|part| self.parts.entries[part].bytes).fold(0, u64::saturating_add);
        let Some(victims) = self.parts.victims(bytes, &protected, &next_use) else { return };
        let loss: f64 = victims.iter().map(|&victim| self.parts.value(victim, false)).sum();
        if loss < gain {
            self.load(missing[0], &protected, &next_use, true, effects);
        }
    }

    /// The hinted expert whose absence costs most in expectation: that cost, and its missing parts, bases first.
    fn likeliest_absent(&self) -> Option<(f64, Vec<Part>)> {
        let hinted = |known: &&Known| self.parts.hinted(Part::Expert(known.weights.id)) > 0.0;
        let absent = self.experts.values().filter(hinted).filter_map(|known| {
            let missing: Vec<Part> = parts_of(&known.weights).filter(|&part| !self.parts.ready(part)).collect();
            let loadable = |part: &Part| {
                let entry = &self.parts.entries[part];
                entry.state == PartState::Absent && !entry.failed
            };
            let gain: f64 = missing.iter().map(|&part| self.parts.hinted_value(part)).sum();
            (!missing.is_empty() && missing.iter().all(loadable)).then_some((gain, missing))
        });
        absent.max_by(|a, b| a.0.total_cmp(&b.0))
    }

    /// Where in the order each part is wanted first.
    fn next_use(&self, order: &[usize]) -> BTreeMap<Part, usize> {
        let mut next_use = BTreeMap::new();
        for (position, &at) in order.iter().enumerate() {
            for &part in &self.queue[at].parts {
                next_use.entry(part).or_insert(position);
            }
        }
        next_use
    }

    /// Begins to load an absent part if there is a lane and room can be made for it.
    fn load(
        &mut self,
        part: Part,
        protected: &BTreeSet<Part>,
        next_use: &BTreeMap<Part, usize>,
        prefetch: bool,
        effects: &mut Vec<CacheEffect>,
    ) -> bool {
        if self.parts.loading() >= self.config.loads_max {
            return false;
        }
        let bytes = self.parts.entries[&part].bytes;
        let Some(victims) = self.parts.victims(bytes, protected, next_use) else { return false };
        for victim in victims {
            self.evict(victim, effects);
        }
        self.parts.load(part, self.base_of(part));
        self.stats.loads += 1;
        self.stats.base_loads += u64::from(matches!(part, Part::Base(_)));
        self.stats.prefetches += u64::from(prefetch);
        effects.push(CacheEffect::Load { part, prefetch });
        true
    }

    /// Panics where the state contradicts itself. Called after each event in debug builds.
    pub fn check(&self) {
        let Self { config, parts, queue, running, .. } = self;
        assert!(queue.len() <= config.queue_max && running.len() <= config.running_max, "more requests than allowed");
        assert!(parts.loading() <= config.loads_max, "more loads than allowed");
        parts.check();
        let mut users: BTreeMap<Part, usize> = BTreeMap::new();
        for part in running.values().flat_map(|running| &running.parts) {
            assert_eq!(parts.entries[part].state, PartState::Resident, "a request runs without {part}");
            *users.entry(*part).or_insert(0) += 1;
        }
        for (part, entry) in &parts.entries {
            assert_eq!(entry.running, users.get(part).copied().unwrap_or(0), "users of {part}");
        }
        let mut waiting = BTreeSet::new();
        for Waiting { request, experts, .. } in queue {
            assert!(waiting.insert(request) && !running.contains_key(request), "request {request} is there twice");
            assert!(experts.iter().all(|id| self.experts.contains_key(id)), "request {request} waits for nobody");
        }
        let moves = !running.is_empty() || parts.loading() > 0;
        assert!(moves || queue.is_empty(), "requests wait, and nothing runs or is loaded");
        let over = parts.bytes_held > parts.bytes_max;
        assert!(!over || parts.evictable().is_empty(), "over the budget although something is idle");
    }
}
