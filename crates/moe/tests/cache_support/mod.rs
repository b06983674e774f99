//! A host of the expert cache in simulated time, and the policy to compare with.
//!
//! The host keeps its own books of memory and requests, and panics when the cache asks for what must not be.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::collections::BTreeMap;

use hublabio_moe::{
    BaseId, BaseWeights, CacheConfig, CacheEffect, CacheEvent, ExpertCache, ExpertId, ExpertRefusal, ExpertWeights,
    Part, RequestFailure, RequestId, RequestRefusal,
};

/// An expert without a base.
pub fn whole(id: u32, bytes: u64, reload_ms: u64) -> ExpertWeights {
    ExpertWeights { id: ExpertId(id), bytes, reload_ms, base: None, pinned: false }
}

/// An adapter on base 0.
pub fn adapter(id: u32, bytes: u64, reload_ms: u64, base_bytes: u64, base_ms: u64) -> ExpertWeights {
    let base = BaseWeights { id: BaseId(0), bytes: base_bytes, reload_ms: base_ms };
    ExpertWeights { base: Some(base), ..whole(id, bytes, reload_ms) }
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    Done,
    Broken,
    Cancelled,
    Failed(RequestFailure),
    Refused(RequestRefusal),
}

#[derive(Debug)]
struct Held {
    bytes: u64,
    loading: bool,
    base: Option<Part>,
}

#[derive(Debug)]
struct Asked {
    experts: Vec<ExpertId>,
    queued_ms: u64,
    run_ms: u64,
    breaks: bool,
}

/// How long a load takes and why it fails, if it does.
pub type LoadModel = Box<dyn FnMut(Part, u64) -> (u64, Option<String>)>;

/// A simulated machine.
pub struct Host {
    pub cache: ExpertCache,
    pub now_ms: u64,
    /// As they were told last.
    pub experts: BTreeMap<ExpertId, ExpertWeights>,
    memory: BTreeMap<Part, Held>,
    running: BTreeMap<RequestId, Vec<Part>>,
    asked: BTreeMap<RequestId, Asked>,
    events: BTreeMap<(u64, u64), CacheEvent>,
    events_seen: u64,
    load_model: LoadModel,
    pub bytes_max: u64,
    /// Whether the budget was lowered below what was held then: what is busy may still pass it.
    lowered: bool,
    pub ended: BTreeMap<RequestId, End>,
    pub refused_experts: Vec<(ExpertId, ExpertRefusal)>,
    /// Waiting time of each request that was started, in the order of starts.
    pub waits_ms: Vec<(RequestId, u64)>,
    pub loads: Vec<Part>,
}

impl Host {
    pub fn new(config: CacheConfig, experts: &[ExpertWeights]) -> Self {
        let mut host = Self {
            cache: ExpertCache::new(config).unwrap(),
            now_ms: 0,
            experts: BTreeMap::new(),
            memory: BTreeMap::new(),
            running: BTreeMap::new(),
            asked: BTreeMap::new(),
            events: BTreeMap::new(),
            events_seen: 0,
            load_model: Box::new(|_, announced_ms| (announced_ms, None)),
            bytes_max: config.bytes_max,
            lowered: false,
            ended: BTreeMap::new(),
            refused_experts: Vec::new(),
            waits_ms: Vec::new(),
            loads: Vec::new(),
        };
        for expert in experts {
            host.tell(CacheEvent::ExpertAdded(*expert));
        }
        host
    }

    pub fn with_loads(mut self, model: LoadModel) -> Self {
        self.load_model = model;
        self
    }

    pub fn ask(&mut self, request: u64, experts: &[u32], run_ms: u64) {
        self.ask_that_breaks(request, experts, run_ms, false);
    }

    pub fn ask_that_breaks(&mut self, request: u64, experts: &[u32], run_ms: u64, breaks: bool) {
        let request = RequestId(request);
        let experts: Vec<ExpertId> = experts.iter().map(|&id| ExpertId(id)).collect();
        let asked = Asked { experts: experts.clone(), queued_ms: self.now_ms, run_ms, breaks };
        assert!(self.asked.insert(request, asked).is_none(), "the test uses a number twice");
        self.tell(CacheEvent::RequestQueued { request, experts });
    }

    pub fn cancel(&mut self, request: u64) {
        let request = RequestId(request);
        if self.asked.contains_key(&request) && !self.ended.contains_key(&request) {
            self.running.remove(&request);
            self.ended.insert(request, End::Cancelled);
            self.tell(CacheEvent::RequestCancelled { request });
        }
    }

    /// Hands an event to the cache and does what it says.
    pub fn tell(&mut self, event: CacheEvent) {
        match &event {
            CacheEvent::ExpertAdded(weights) | CacheEvent::ExpertChanged(weights) => {
                self.experts.insert(weights.id, *weights);
            }
            CacheEvent::ExpertRemoved { expert } => {
                self.experts.remove(expert);
            }
            CacheEvent::BudgetChanged { bytes_max } => {
                self.bytes_max = *bytes_max;
                self.lowered = true;
            }
            _ => {}
        }
        let effects = self.cache.handle(event, self.now_ms);
        self.cache.check();
        for effect in effects {
            self.act(effect);
        }
        let held: u64 = self.memory.values().map(|held| held.bytes).sum();
        assert_eq!(held, self.cache.bytes_held());
        assert!(held <= self.bytes_max || self.lowered, "{held} bytes of {}", self.bytes_max);
        self.lowered &= held > self.bytes_max;
    }

    /// Goes to the next thing that happens, at most to `until_ms`. Returns whether there was one.
    pub fn step(&mut self, until_ms: u64) -> bool {
        let next = self.events.first_key_value().map(|(&(at_ms, _), _)| at_ms);
        let tick = self.cache.next_deadline_ms().map(|at_ms| at_ms.max(self.now_ms));
        let Some(at_ms) = [next, tick].into_iter().flatten().min().filter(|&at_ms| at_ms <= until_ms) else {
            return false;
        };
        self.now_ms = at_ms;
        if next != Some(at_ms) {
            self.tell(CacheEvent::Tick);
            return true;
        }
        let (_, event) = self.events.pop_first().unwrap();
        match &event {
            CacheEvent::Loaded { part, .. } => self.memory.get_mut(part).unwrap().loading = false,
            CacheEvent::LoadFailed { part, .. } => {
                self.memory.remove(part);
            }
            CacheEvent::RequestDone { request } | CacheEvent::RequestFailed { request } => {
                if self.running.remove(request).is_none() {
                    return true; // Cancelled before.
                }
                let end = if matches!(event, CacheEvent::RequestDone { .. }) { End::Done } else { End::Broken };
                self.end(*request, end);
            }
            _ => {}
        }
        self.tell(event);
        true
    }

    /// Lets time pass until then.
    pub fn run_until(&mut self, until_ms: u64) {
        while self.step(until_ms) {}
        self.now_ms = self.now_ms.max(until_ms);
    }

    /// Lets time pass until everything that was asked has ended. That it does is what is tested.
    pub fn finish(&mut self) {
        while self.ended.len() < self.asked.len() {
            assert!(self.step(u64::MAX), "{} requests never end", self.asked.len() - self.ended.len());
        }
    }

    /// The longest wait for a start so far.
    pub fn wait_ms_longest(&self) -> u64 {
        self.waits_ms.iter().map(|&(_, wait_ms)| wait_ms).max().unwrap_or(0)
    }

    fn later(&mut self, after_ms: u64, event: CacheEvent) {
        self.events_seen += 1;
        self.events.insert((self.now_ms + after_ms, self.events_seen), event);
    }

    fn act(&mut self, effect: CacheEffect) {
        match effect {
            CacheEffect::Load { part, .. } => self.load(part),
            CacheEffect::Evict { part } => {
                assert!(!self.memory[&part].loading, "{part} is evicted while it is loaded");
                let used = self.running.values().any(|parts| parts.contains(&part));
                assert!(!used, "{part} is evicted while a request runs with it");
                let on_it = self.memory.values().any(|held| held.base == Some(part));
                assert!(!on_it, "{part} is evicted under an adapter");
                self.memory.remove(&part);
            }
            CacheEffect::Start { request } => self.start(request),
            CacheEffect::Fail { request, reason } => self.end(request, End::Failed(reason)),
            CacheEffect::Refuse { request, reason } => self.end(request, End::Refused(reason)),
            CacheEffect::RefuseExpert { expert, reason } => self.refused_experts.push((expert, reason)),
            other => panic!("an effect that the host does not know: {other:?}"),
        }
    }

    fn load(&mut self, part: Part) {
        let (bytes, announced_ms, base) = match part {
            Part::Expert(id) => {
                let weights = self.experts[&id];
                (weights.bytes, weights.reload_ms, weights.base.map(|base| Part::Base(base.id)))
            }
            Part::Base(id) => {
                let base = self.experts.values().filter_map(|expert| expert.base).find(|base| base.id == id).unwrap();
                (base.bytes, base.reload_ms, None)
            }
        };
        assert!(base.is_none_or(|base| !self.memory[&base].loading), "{part} is loaded before its base");
        let held = Held { bytes, loading: true, base };
        assert!(self.memory.insert(part, held).is_none(), "{part} is loaded twice");
        let bytes_held: u64 = self.memory.values().map(|held| held.bytes).sum();
        assert!(bytes_held <= self.bytes_max, "{bytes_held} bytes of {} while {part} is loaded", self.bytes_max);
        self.loads.push(part);
        let (took_ms, failure) = (self.load_model)(part, announced_ms);
        let event = match failure {
            Some(reason) => CacheEvent::LoadFailed { part, reason },
            None => CacheEvent::Loaded { part, bytes, took_ms },
        };
        self.later(took_ms, event);
    }

    fn start(&mut self, request: RequestId) {
        let asked = &self.asked[&request];
        let wait_ms = self.now_ms - asked.queued_ms;
        assert!(!self.running.contains_key(&request) && !self.ended.contains_key(&request), "{request} starts again");
        let event =
            if asked.breaks { CacheEvent::RequestFailed { request } } else { CacheEvent::RequestDone { request } };
        let run_ms = asked.run_ms;
        self.waits_ms.push((request, wait_ms));
        let parts = self.parts_now(request);
        for part in &parts {
            assert!(!self.memory[part].loading, "{request} starts before {part} is loaded");
        }
        self.running.insert(request, parts);
        self.later(run_ms, event);
    }

    /// What a request needs now, as the host knows it from the question.
    fn parts_now(&self, request: RequestId) -> Vec<Part> {
        let weights = self.asked[&request].experts.iter().map(|id| self.experts[id]);
        weights.flat_map(|w| w.base.map(|b| Part::Base(b.id)).into_iter().chain([Part::Expert(w.id)])).collect()
    }

    fn end(&mut self, request: RequestId, end: End) {
        let before = self.ended.insert(request, end);
        assert_eq!(before, None, "{request} ends twice");
    }
}

/// One request of a workload.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    pub at_ms: u64,
    pub expert: u32,
    pub run_ms: u64,
}

/// What a policy made of a workload.
#[derive(Clone, Debug)]
pub struct Report {
    pub loads: usize,
    /// In ascending order.
    pub waits_ms: Vec<u64>,
    /// When the last answer was there.
    pub end_ms: u64,
}

impl Report {
    /// For people.
    pub fn in_short(&self) -> String {
        let [half, most, all] = [0.5, 0.99, 1.0].map(|share| self.quantile_ms(share));
        format!("waits in ms: p50 {half}, p99 {most}, max {all}")
    }

    /// The wait that `share` of the requests do not pass.
    pub fn quantile_ms(&self, share: f64) -> u64 {
        let at = (self.waits_ms.len() as f64 * share).ceil() as usize;
        self.waits_ms[at.clamp(1, self.waits_ms.len()) - 1]
    }
}

/// The workload, in order of arrival, through the cache.
pub fn grouped(config: CacheConfig, experts: &[ExpertWeights], arrivals: &[Arrival]) -> Report {
    let mut host = Host::new(config, experts);
    for (request, arrival) in (0..).zip(arrivals) {
        host.run_until(arrival.at_ms);
        host.ask(request, &[arrival.expert], arrival.run_ms);
    }
    host.finish();
    assert!(host.ended.values().all(|end| *end == End::Done));
    let mut waits_ms: Vec<u64> = host.waits_ms.iter().map(|&(_, wait_ms)| wait_ms).collect();
    waits_ms.sort_unstable();
    Report { loads: host.loads.len(), waits_ms, end_ms: host.now_ms }
}

/// One client that asks for one after the other, each when the last answer is there.
pub fn in_turn(mut host: Host, sequence: &[u32]) -> Host {
    for (request, &expert) in (0..).zip(sequence) {
        host.ask(request, &[expert], 50);
        host.finish();
    }
    host
}

/// The workload through the plain policy: first come first served, one at a time, the least recently used expert is
/// evicted when there is no room. Experts without bases.
pub fn first_come_lru(bytes_max: u64, experts: &[ExpertWeights], arrivals: &[Arrival]) -> Report {
    let mut lru = Lru::new(bytes_max, experts);
    let mut now_ms = 0;
    let mut waits_ms = Vec::new();
    for arrival in arrivals {
        now_ms = arrival.at_ms.max(now_ms) + lru.use_expert(arrival.expert);
        waits_ms.push(now_ms - arrival.at_ms);
        now_ms += arrival.run_ms;
    }
    waits_ms.sort_unstable();
    Report { loads: lru.loads, waits_ms, end_ms: now_ms }
}

/// Least recently used, over whole experts.
pub struct Lru {
    bytes_max: u64,
    experts: BTreeMap<u32, ExpertWeights>,
    /// The least recently used first.
    memory: Vec<u32>,
    pub loads: usize,
}

impl Lru {
    pub fn new(bytes_max: u64, experts: &[ExpertWeights]) -> Self {
        let experts = experts.iter().map(|expert| (expert.id.0, *expert)).collect();
        Self { bytes_max, experts, memory: Vec::new(), loads: 0 }
    }

    /// Returns how long the load takes that this costs.
    pub fn use_expert(&mut self, id: u32) -> u64 {
        if let Some(at) = self.memory.iter().position(|&other| other == id) {
            self.memory.remove(at);
            self.memory.push(id);
            return 0;
        }
        self.memory.push(id);
        while self.memory.iter().map(|id| self.experts[id].bytes).sum::<u64>() > self.bytes_max {
            self.memory.remove(0);
        }
        self.loads += 1;
        self.experts[&id].reload_ms
    }
}

/// Numbers that look random, the same on every machine: SplitMix64.
pub struct Numbers(pub u64);

impl Numbers {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// Below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// 0 to 1.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// One of `1..=n`, number k with a probability in proportion to 1 / k.
    pub fn zipf(&mut self, n: u32) -> u32 {
        let all: f64 = (1..=n).map(|k| 1.0 / f64::from(k)).sum();
        let mut left = self.unit() * all;
        for k in 1..n {
            left -= 1.0 / f64::from(k);
            if left < 0.0 {
                return k;
            }
        }
        n
    }
}
