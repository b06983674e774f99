//! The words that the cache and whoever owns the models speak: settings, what happened, what is to be done.
//!
//! Nothing is decided here. Go on to the module above for the loop and the promises.

use crate::{Error, ExpertId, Result};

/// A request, by a number that the caller chooses. It is free again when the request has ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestId(pub u64);

impl std::fmt::Display for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Weights that several experts share, by a number that the caller chooses: the model under LoRA adapters.
///
/// Other weights are another base: when the file behind a base changes, give it a new number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BaseId(pub u32);

impl std::fmt::Display for BaseId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What is loaded and freed in one piece. An expert is in memory when all its parts are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Part {
    /// Weights that several experts share. They count once, come before the experts' own, and go after them.
    Base(BaseId),
    /// An expert's own: a whole model, or an adapter.
    Expert(ExpertId),
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Base(id) => write!(f, "base {id}"),
            Self::Expert(id) => write!(f, "expert {id}"),
        }
    }
}

/// The weights under an expert that are not its own alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BaseWeights {
    /// Its number. What was said last about a base's size and cost holds, until it is loaded and known.
    pub id: BaseId,
    /// Bytes in memory.
    pub bytes: u64,
    /// How long loading takes, in milliseconds: an estimate, which the cache corrects as it sees loads.
    pub reload_ms: u64,
}

/// An expert as the cache sees it: bytes, and what it costs to have them again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertWeights {
    /// Its number.
    pub id: ExpertId,
    /// Bytes of its own part: the whole model, or the adapter. 0 is fine: the base itself as an expert.
    pub bytes: u64,
    /// How long loading its own part takes, in milliseconds: an estimate, which the cache corrects as it sees loads.
    pub reload_ms: u64,
    /// What it is an adapter to, if it is one.
    pub base: Option<BaseWeights>,
    /// Whether it is to stay in memory, its base included: it is loaded when there is time, and never evicted.
    pub pinned: bool,
}

/// After how much of what a use counts half, when the cache guesses who is used next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum HalfLife {
    /// After so many starts of requests. At 1 and below, experts of equal reload cost are evicted in exactly the order
    /// of LRU; above, frequent use begins to weigh more than recent use.
    Requests(f64),
    /// After so many milliseconds.
    Ms(f64),
}

/// Settings and limits. [`CacheConfig::new`] has the defaults.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CacheConfig {
    /// Bytes that experts may take together, one that is being loaded included.
    pub bytes_max: u64,
    /// The longest that a request waits for its start because others were served before it, in milliseconds.
    pub wait_ms_max: u64,
    /// Requests that wait at most; more are refused.
    pub queue_max: usize,
    /// Requests that run at the same time.
    pub running_max: usize,
    /// Loads at the same time.
    pub loads_max: usize,
    /// Experts that may be known.
    pub experts_max: usize,
    /// How fast uses are forgotten.
    pub half_life: HalfLife,
    /// Whether hints lead to loads before a request comes.
    pub prefetch: bool,
    /// How long a request runs, in milliseconds, for experts that have not been seen running yet.
    pub run_ms_estimate: u64,
}

impl CacheConfig {
    /// The defaults for a small machine: one request and one load at a time, 10 s of waiting, 256 requests in the
    /// queue, half-life of half a request (LRU among experts whose reload costs differ less than threefold).
    pub fn new(bytes_max: u64) -> Self {
        Self {
            bytes_max,
            wait_ms_max: 10_000,
            queue_max: 256,
            running_max: 1,
            loads_max: 1,
            experts_max: 4096,
            half_life: HalfLife::Requests(0.5),
            prefetch: true,
            run_ms_estimate: 1000,
        }
    }

    /// # Errors
    /// [`Error::OutOfRange`] for the first setting with which nothing could ever run.
    pub(super) fn validate(&self) -> Result<()> {
        for (name, value) in [
            ("queue_max", self.queue_max),
            ("running_max", self.running_max),
            ("loads_max", self.loads_max),
            ("experts_max", self.experts_max),
        ] {
            if value == 0 {
                return Err(Error::OutOfRange { name, value: "0".into(), range: "at least 1" });
            }
        }
        let (HalfLife::Requests(half_life) | HalfLife::Ms(half_life)) = self.half_life;
        if !(half_life > 0.0 && half_life <= 1e12) {
            let value = half_life.to_string();
            return Err(Error::OutOfRange { name: "half_life", value, range: "above 0, at most 1e12" });
        }
        Ok(())
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum CacheEvent {
    /// An expert is there. For one that is known already: its estimates or its pin are others now, its weights are not
    /// (unless its base is another one).
    ExpertAdded(ExpertWeights),
    /// An expert's weights are others than before, so that what is in memory of it must not start another request.
    ExpertChanged(ExpertWeights),
    /// An expert is gone. Requests that wait for it fail; those that run with it may end.
    ExpertRemoved {
        /// Who.
        expert: ExpertId,
    },
    /// Somebody asks. Answered at once or later by exactly one of `Start`, `Fail` and `Refuse`, unless cancelled
    /// before.
    RequestQueued {
        /// Its number, different from those of all requests that have not ended.
        request: RequestId,
        /// Who must be in memory together: one for a plain job, the members for a token-level mixture. Order and
        /// repetitions do not matter.
        experts: Vec<ExpertId>,
    },
    /// A load that was asked for is done.
    Loaded {
        /// What.
        part: Part,
        /// Bytes that it takes in fact; at most those that were announced, or the budget is passed until others are
        /// freed.
        bytes: u64,
        /// How long it took, in milliseconds.
        took_ms: u64,
    },
    /// A load that was asked for failed, and takes no memory. Requests that wait for it fail; a later one tries again,
    /// but neither a pin nor a hint does before that, or before the expert is added again.
    LoadFailed {
        /// What.
        part: Part,
        /// Why, for people.
        reason: String,
    },
    /// A running request has its answer.
    RequestDone {
        /// Which.
        request: RequestId,
    },
    /// A running request broke; its experts are free again.
    RequestFailed {
        /// Which.
        request: RequestId,
    },
    /// A request was given up by whoever asked. If it was running, it has stopped and its experts are free again.
    /// Either way it has ended, and nothing more is said about it.
    RequestCancelled {
        /// Which.
        request: RequestId,
    },
    /// The router expects that the next request needs this expert.
    DemandHint {
        /// Who.
        expert: ExpertId,
        /// How probably, 0 to 1; what is not a number counts as 0. It fades as uses do.
        probability: f32,
    },
    /// The budget is another one. Below what is in use, idle parts go at once and busy ones when they are done.
    BudgetChanged {
        /// [`CacheConfig::bytes_max`] from now on.
        bytes_max: u64,
    },
    /// Nothing but time passed: due at [`ExpertCache::next_deadline_ms`](super::ExpertCache::next_deadline_ms).
    Tick,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum CacheEffect {
    /// Free this part before doing what comes next. No running request uses it.
    Evict {
        /// What.
        part: Part,
    },
    /// Load this part, in the background, and answer `Loaded` or `LoadFailed`. Its base, if any, is in memory.
    Load {
        /// What.
        part: Part,
        /// Whether nobody has asked for it yet.
        prefetch: bool,
    },
    /// Run this request: all its experts are in memory and stay until it is done, failed or cancelled.
    Start {
        /// Which.
        request: RequestId,
    },
    /// This request ends without having run.
    Fail {
        /// Which.
        request: RequestId,
        /// Why.
        reason: RequestFailure,
    },
    /// This request was not taken.
    Refuse {
        /// Which.
        request: RequestId,
        /// Why.
        reason: RequestRefusal,
    },
    /// Something about this expert was not taken.
    RefuseExpert {
        /// Who.
        expert: ExpertId,
        /// Why.
        reason: ExpertRefusal,
    },
}

/// Why a request fails before it runs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestFailure {
    /// Its experts can never be in memory together.
    #[error(
        "its experts need {bytes} bytes{}, the budget is {bytes_max}: raise max_memory, or choose smaller experts",
        if *pinned_bytes > 0 { format!(" beside {pinned_bytes} of pinned ones") } else { String::new() }
    )]
    TooLarge {
        /// What its experts need, what they share counted once.
        bytes: u64,
        /// What pinned experts that it does not need take beside them.
        pinned_bytes: u64,
        /// The budget.
        bytes_max: u64,
    },
    /// An expert that it needs is not known.
    #[error("there is no expert {0}")]
    NoSuchExpert(ExpertId),
    /// An expert that it needs was removed while it waited.
    #[error("expert {0} was removed while the request waited")]
    Removed(ExpertId),
    /// Something that it needs could not be loaded.
    #[error("{part} could not be loaded: {reason}")]
    LoadFailed {
        /// What.
        part: Part,
        /// Why.
        reason: String,
    },
}

/// Why a request is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestRefusal {
    /// Too many wait already.
    #[error("{queue_max} requests are waiting already: try again later")]
    QueueFull {
        /// The limit.
        queue_max: usize,
    },
    /// There is a request of this number, and it goes on.
    #[error("there is a request of this number that has not ended")]
    DuplicateId,
    /// It names nobody.
    #[error("the request needs no expert")]
    NoExperts,
}

/// What is not taken about an expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExpertRefusal {
    /// It is not added.
    #[error("{experts_max} experts are known already, more are not accepted")]
    TooMany {
        /// The limit.
        experts_max: usize,
    },
    /// It is added, but not pinned: the pinned ones would not fit together.
    #[error("pinned experts would need {bytes} bytes, the budget is {bytes_max}: not pinned")]
    PinTooLarge {
        /// What all pinned ones would need, this one included.
        bytes: u64,
        /// The budget.
        bytes_max: u64,
    },
}

/// Where an expert is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residency {
    /// Not in memory, or not all of it.
    Absent,
    /// A part of it is being loaded.
    Loading,
    /// In memory, idle.
    Resident,
    /// In memory, a request runs with it.
    Busy,
}

/// What the cache has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Requests started.
    pub starts: u64,
    /// Loads asked for, of bases too.
    pub loads: u64,
    /// Loads of bases among them.
    pub base_loads: u64,
    /// Loads among them that nobody had asked for yet.
    pub prefetches: u64,
    /// Loads that failed.
    pub load_failures: u64,
    /// Parts freed.
    pub evictions: u64,
    /// Requests that failed before they ran, or were refused.
    pub failures: u64,
    /// The longest that a request waited for its start, in milliseconds.
    pub wait_ms_longest: u64,
    /// Starts after a wait over the maximum.
    pub late_starts: u64,
}
