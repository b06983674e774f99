//! The shared router under every interleaving that a model checker tries: no deadlock, and no stale expert.
//!
//! `src/registry.rs` is compiled here a second time, with the locks of `shuttle` in the place of those of the standard
//! library, so what is checked is the code that ships.

use hublabio_moe::*;

/// The locks that `registry` asks its crate for.
mod sync {
    pub use shuttle::sync::{Arc, RwLock};
}

#[path = "../src/registry.rs"]
#[allow(dead_code)]
mod registry;

use registry::SharedRouter as CheckedRouter;
use shuttle::sync::Arc;
use shuttle::sync::atomic::{AtomicU64, Ordering};
use shuttle::{check_dfs, check_random, thread};
use std::sync::atomic::AtomicUsize;

fn expert(id: u32, keyword: &str, generalist: bool) -> (ExpertConfig, ExpertProfile) {
    let domain = ExpertDomain { name: keyword.to_owned(), keywords: vec![keyword.to_owned()], threshold: 0.5 };
    let config = ExpertConfig {
        id: ExpertId(id),
        name: format!("{keyword}-expert"),
        description: String::new(),
        domain,
        model_path: String::new(),
        node_id: None,
        priority: 0,
    };
    (config, ExpertProfile { generalist, ..ExpertProfile::default() })
}

fn router() -> CheckedRouter {
    let router = CheckedRouter::default();
    for (config, profile) in [expert(0, "general", true), expert(1, "python", false), expert(2, "rust", false)] {
        router.register_with(config, profile);
    }
    router
}

fn ask(router: &CheckedRouter, text: &str, evidence: Option<&mut dyn RoutingEvidence>) -> RoutingDecision {
    let query = RouteQuery { text, session: Some(SessionId(1)), ..RouteQuery::default() };
    router.route(&query, RoutingStrategy::Single, evidence).expect("there are experts, and the question has words")
}

/// How often a question saw the expert, and how often not: a check that tried only one of them has checked nothing.
static SEEN: AtomicUsize = AtomicUsize::new(0);
static GONE: AtomicUsize = AtomicUsize::new(0);

/// A removal in one thread, a question in another: the question may see the expert or not, but where the removal was
/// done before the question began, it must not.
fn removal_and_question() {
    let router = router();
    let removed = Arc::new(AtomicU64::new(0));
    let remover = {
        let (router, removed) = (router.clone(), removed.clone());
        thread::spawn(move || {
            assert!(router.remove(ExpertId(1)));
            removed.store(1, Ordering::SeqCst);
        })
    };
    let was_removed = removed.load(Ordering::SeqCst) == 1;
    let decision = ask(&router, "python", None);
    let outcome = if decision.selected == [ExpertId(1)] { &SEEN } else { &GONE };
    outcome.fetch_add(1, Ordering::Relaxed);
    if was_removed {
        assert_eq!(decision.selected, [ExpertId(0)], "an expert that was gone before the question");
    }
    remover.join().unwrap();
    assert_eq!(router.is_current(&decision), decision.selected != [ExpertId(1)]);
}

/// The same id is removed and comes again: a decision is current only for the registration that it meant.
fn replacement_and_question() {
    let router = router();
    let replacer = {
        let router = router.clone();
        thread::spawn(move || {
            router.remove(ExpertId(1));
            let (config, profile) = expert(1, "python", false);
            router.register_with(config, profile);
        })
    };
    let decision = ask(&router, "python", None);
    replacer.join().unwrap();
    let now = router.read(|router| router.generation(ExpertId(1))).unwrap();
    let meant_now = decision.selected == [ExpertId(0)] || decision.generations == [now];
    assert_eq!(router.is_current(&decision), meant_now);
    // The conversation was remembered for an expert that may be gone: it keeps nobody then.
    let again = ask(&router, "and how?", None);
    assert!(router.is_current(&again));
}

/// Evidence that changes the router while it is asked, as a backend may that finds a model broken.
struct Breaks(CheckedRouter);

impl RoutingEvidence for Breaks {
    fn prompt_logprobs(&mut self, candidates: &[ExpertId]) -> Vec<Option<f32>> {
        thread::yield_now();
        self.0.remove(ExpertId(2));
        candidates.iter().map(|id| Some(if *id == ExpertId(2) { -0.1 } else { -3.0 })).collect()
    }
    fn embedding(&mut self) -> Option<Vec<f32>> {
        None
    }
}

/// The lock is free while models compute: evidence may write, and others route meanwhile.
fn evidence_and_questions() {
    let router = router();
    let other = {
        let router = router.clone();
        thread::spawn(move || ask(&router, "rust", None))
    };
    let decision = ask(&router, "python or rust", Some(&mut Breaks(router.clone())));
    assert_ne!(decision.selected, [ExpertId(2)], "removed while it was asked, and not chosen after");
    assert!(router.is_current(&decision));
    other.join().unwrap();
}

/// Writers, readers and feedback at once.
fn many() {
    let router = router();
    let threads: Vec<_> = (0..4)
        .map(|n| {
            let router = router.clone();
            thread::spawn(move || match n {
                0 => {
                    router.remove(ExpertId(1));
                }
                1 => {
                    let (config, profile) = expert(3, "linux", false);
                    router.register_with(config, profile);
                }
                2 => drop(router.feedback("python lists", ExpertId(1), true)),
                _ => drop(ask(&router, "python on linux", None)),
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let decision = ask(&router, "linux", None);
    assert_eq!(decision.selected, [ExpertId(3)]);
    assert!(router.is_current(&decision) && !router.read(|router| router.get(ExpertId(1)).is_some()));
}

#[test]
fn all_interleavings_of_a_removal_and_a_question() {
    check_dfs(removal_and_question, None);
    assert!(SEEN.load(Ordering::Relaxed) > 0 && GONE.load(Ordering::Relaxed) > 0);
}

#[test]
fn all_interleavings_of_a_replacement_and_a_question() {
    check_dfs(replacement_and_question, None);
}

#[test]
fn interleavings_of_evidence_that_writes() {
    check_random(evidence_and_questions, 500);
}

#[test]
fn interleavings_of_many() {
    check_random(many, 500);
}
