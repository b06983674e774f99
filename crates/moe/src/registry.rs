//! A router that many threads share: questions are routed at once, while experts come and go.
//!
//! One lock, held for reading while a question is routed (about 100 µs) and for writing while an expert is added or
//! removed; never while a model computes. It refuses to know how routing works: see [`Router`].

use std::sync::PoisonError;

use crate::sync::{Arc, RwLock};
use crate::{
    Error, ExpertConfig, ExpertId, ExpertProfile, GatheredEvidence, Result, RouteQuery, RouteStep, Router,
    RoutingDecision, RoutingEvidence, RoutingStrategy,
};

/// A handle to a shared router; clones share it.
///
/// A decision names only experts that were registered at some moment of the call: never one that was removed before it
/// began. Whether they still are is told by [`is_current`](Self::is_current), which takes no expert of the same id that
/// came later for the one that was meant.
#[derive(Clone, Debug, Default)]
pub struct SharedRouter {
    router: Arc<RwLock<Router>>,
}

impl SharedRouter {
    /// Shares a router.
    pub fn new(router: Router) -> Self {
        Self { router: Arc::new(RwLock::new(router)) }
    }

    /// Reads the router. The lock is held meanwhile: `read` must neither change this router nor wait for who does.
    pub fn read<T>(&self, read: impl FnOnce(&Router) -> T) -> T {
        // A thread that panicked while it held the lock left at worst an expert without some of its keywords.
        let router = self.router.read().unwrap_or_else(PoisonError::into_inner);
        read(&router)
    }

    /// Changes the router. The lock is held meanwhile.
    pub fn write<T>(&self, write: impl FnOnce(&mut Router) -> T) -> T {
        let mut router = self.router.write().unwrap_or_else(PoisonError::into_inner);
        write(&mut router)
    }

    /// Adds an expert, or replaces the one of its id.
    pub fn register_with(&self, config: ExpertConfig, profile: ExpertProfile) {
        self.write(|router| router.register_with(config, profile));
    }

    /// Removes an expert. False if it is not there.
    pub fn remove(&self, id: ExpertId) -> bool {
        self.write(|router| router.remove(id))
    }

    /// [`Router::feedback`].
    ///
    /// # Errors
    /// As there.
    pub fn feedback(&self, text: &str, id: ExpertId, good: bool) -> Result<()> {
        self.write(|router| router.feedback(text, id, good))
    }

    /// [`Router::route`]. The router is free while `evidence` computes, and it may use the router itself.
    ///
    /// # Errors
    /// As there.
    pub fn route(
        &self,
        query: &RouteQuery<'_>,
        strategy: RoutingStrategy,
        evidence: Option<&mut dyn RoutingEvidence>,
    ) -> Result<RoutingDecision> {
        let Some(evidence) = evidence else { return self.route_with(query, strategy, None) };
        match self.read(|router| router.route_step(query, strategy))? {
            RouteStep::Done(decision) => Ok(decision),
            RouteStep::Ask(request) => {
                let evidence = request.gather(evidence);
                self.route_with(query, strategy, Some(&evidence))
            }
        }
    }

    /// Routes with evidence that is there already. What was gathered for an expert that is gone or replaced counts for
    /// nothing.
    fn route_with(
        &self,
        query: &RouteQuery<'_>,
        strategy: RoutingStrategy,
        evidence: Option<&GatheredEvidence>,
    ) -> Result<RoutingDecision> {
        self.read(|router| router.route_with_evidence(query, strategy, evidence))
    }

    /// Whether all that a decision selected are still the experts that it meant.
    pub fn is_current(&self, decision: &RoutingDecision) -> bool {
        self.read(|router| router.is_current(decision))
    }

    /// One expert, as it is now.
    ///
    /// # Errors
    /// [`Error::NoSuchExpert`].
    pub fn get(&self, id: ExpertId) -> Result<(ExpertConfig, ExpertProfile)> {
        let found = self.read(|router| router.get(id).map(|(config, profile)| (config.clone(), profile.clone())));
        found.ok_or(Error::NoSuchExpert(id))
    }
}
