//! MoE-R, a mixture of *real* experts: which of several models answer a question, and how their answers become one.
//!
//! This room decides and computes; it runs nothing. It opens no file and no socket, reads no clock, starts no thread and
//! sees no tensor but slices of logits: whoever owns models implements [`ExpertBackend`], and time is handed in. So all of
//! it is tested with experts that are scripts or known distributions.
//!
//! ```
//! use hublabio_moe::{Swarm, RoutingStrategy, SynthesisStrategy, ExpertConfig, ExpertDomain, ExpertId};
//!
//! let mut swarm = Swarm::new(RoutingStrategy::TopK(3), SynthesisStrategy::Best);
//! swarm.router.register(ExpertConfig {
//!     id: ExpertId(1),
//!     name: String::from("python-expert"),
//!     description: String::from("Python code specialist"),
//!     domain: ExpertDomain {
//!         name: String::from("python"),
//!         keywords: vec!["python".into(), "django".into(), "flask".into()],
//!         threshold: 0.5,
//!     },
//!     model_path: String::from("/models/python-expert.gguf"),
//!     node_id: None,
//!     priority: 10,
//! });
//! assert_eq!(swarm.process("How do I use Django ORM?"), [ExpertId(1)]);
//! ```
//!
//! Where to go next: [`Router`] chooses, [`Synthesizer`] and [`Mixture`] join, [`Swarm`] does both through an
//! [`ExpertBackend`], [`ExpertCache`] decides which experts are in memory and whose turn it is.
#![forbid(unsafe_code)]

mod backend;
mod cache;
mod error;
mod expert;
mod mixture;
mod registry;
mod router;
mod swarm;
mod synthesis;

pub use backend::{ExpertBackend, ExpertFailure, ExpertJob, ExpertResponse, Flow, MixtureJob, PieceSink};
pub use cache::{
    BaseId, BaseWeights, CacheConfig, CacheEffect, CacheEvent, CacheStats, ExpertCache, ExpertRefusal, ExpertWeights,
    HalfLife, Part, RequestFailure, RequestId, RequestRefusal, Residency,
};
pub use error::{Error, Result};
pub use expert::{ExpertConfig, ExpertDomain, ExpertId, ExpertProfile, ExpertState, PRIORITY_BIAS};
pub use mixture::{LOGPROB_MIN, LogitFault, MEMBERS_MAX, Mixture, MixtureConfig};
pub use registry::SharedRouter;
pub use router::{
    CALIBRATION_BYTES_MAX, Calibration, Curve, DIMENSIONS_MAX, EXPERTS_MAX, EvidenceRequest, FEATURE_EXPERTS_MAX,
    FIT_QUESTIONS_MIN, FOLLOW_UP_WORDS, GatheredEvidence, KEYWORD_EXPERTS_MAX, KEYWORDS_MAX, KNOTS_MAX, MatchReport,
    PHRASE_ATOMS_MAX, POSTINGS_MAX, PROFILE_BYTES_MAX, QUERY_BYTES_MAX, ROUTED_BYTES_MAX, RouteQuery, RouteStep,
    Router, RouterConfig, RoutingDecision, RoutingEvidence, RoutingStrategy, SIGNAL_MAX, SIGNALS, SessionId, Signal,
    Stage, StageReport, StageSet, StageStatus, expected_calibration_error, keyword_idf,
};
pub use swarm::{
    ASKED_MAX, ExpertStates, ExpertUsage, FALLBACK_DEPTH_MAX, Roster, Swarm, SwarmAnswer, SwarmPiece, SwarmRequest,
};
pub use synthesis::{
    AnswerKind, CanonicalAnswer, Contribution, DEBATE_ROUNDS_MAX, DebateConfig, Reducer, Reduction, SummarizeConfig,
    SummarizeFallback, Synthesis, SynthesisStrategy, Synthesizer, shorten, similarity,
};

/// What the shared router locks with; its model-checked test puts other locks here.
mod sync {
    pub use std::sync::{Arc, RwLock};
}
