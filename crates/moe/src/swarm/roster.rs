//! Who the experts of a swarm are, and how they are doing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{ExpertConfig, ExpertId, ExpertProfile, ExpertState, Router};

/// Where a swarm looks its experts up: its router, or a table of the caller's.
pub trait Roster {
    /// One expert.
    fn expert(&self, id: ExpertId) -> Option<(&ExpertConfig, &ExpertProfile)>;

    /// The generalist. Where this is `None`, it is looked for among the experts that the routing decision names.
    fn generalist(&self) -> Option<ExpertId> {
        None
    }
}

impl Roster for Router {
    fn expert(&self, id: ExpertId) -> Option<(&ExpertConfig, &ExpertProfile)> {
        self.get(id)
    }

    fn generalist(&self) -> Option<ExpertId> {
        Router::generalist(self)
    }
}

/// The first of that id.
impl Roster for Vec<(ExpertConfig, ExpertProfile)> {
    fn expert(&self, id: ExpertId) -> Option<(&ExpertConfig, &ExpertProfile)> {
        self.iter().find(|(config, _)| config.id == id).map(|(config, profile)| (config, profile))
    }

    fn generalist(&self) -> Option<ExpertId> {
        self.iter().find(|(_, profile)| profile.generalist).map(|(config, _)| config.id)
    }
}

/// How the experts of a swarm are doing: a handle that can be read while an answer is on its way.
#[derive(Clone, Debug, Default)]
pub struct ExpertStates {
    states: Arc<Mutex<BTreeMap<ExpertId, ExpertState>>>,
}

impl ExpertStates {
    /// One expert's; that of one that was never asked if it is unknown.
    pub fn get(&self, id: ExpertId) -> ExpertState {
        self.lock().get(&id).copied().unwrap_or_default()
    }

    /// Whether an expert's weights are in memory, from who loads them. An answer and a failure to load tell it, too.
    pub fn set_loaded(&self, id: ExpertId, loaded: bool) {
        self.lock().entry(id).or_default().loaded = loaded;
    }

    pub(super) fn count(&self, id: ExpertId, latency_ms: f32) {
        let mut states = self.lock();
        let state = states.entry(id).or_default();
        state.loaded = true;
        state.count(if latency_ms.is_finite() { latency_ms.max(0.0) } else { 0.0 });
    }

    /// Marks experts as busy until the guard is dropped, be it by a panic of the backend.
    pub(super) fn busy(&self, experts: &[ExpertId]) -> Busy {
        self.set_busy(experts, true);
        Busy { states: self.clone(), experts: experts.to_vec() }
    }

    fn set_busy(&self, experts: &[ExpertId], busy: bool) {
        let mut states = self.lock();
        for id in experts {
            states.entry(*id).or_default().busy = busy;
        }
    }

    /// Every change is one assignment: what a panic left behind is whole.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<ExpertId, ExpertState>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct Busy {
    states: ExpertStates,
    experts: Vec<ExpertId>,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.states.set_busy(&self.experts, false);
    }
}
