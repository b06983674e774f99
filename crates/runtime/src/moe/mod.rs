//! A swarm of experts on this node: descriptions in files, models in memory, answers from several of them.
//!
//! What is decided (who answers, how answers join, who is in memory) is the room `moe`'s; here are the files, the models, the
//! clock and the thread. Routing alone needs none of them:
//!
//! ```
//! use hublabio_runtime::moe::{Swarm, RoutingStrategy, SynthesisStrategy, ExpertConfig, ExpertDomain, ExpertId};
//! let mut swarm = Swarm::new(RoutingStrategy::TopK(3), SynthesisStrategy::Best);
//! swarm.router.register(ExpertConfig {
//!     id: ExpertId(1),
//!     name: String::from("python-expert"),
//!     description: String::from("Python code specialist"),
//!     domain: ExpertDomain { name: String::from("python"), keywords: vec!["python".into(), "django".into(), "flask".into()], threshold: 0.5 },
//!     model_path: String::from("/models/python-expert.gguf"),
//!     node_id: None,
//!     priority: 10,
//! });
//! let selected_experts = swarm.process("How do I use Django ORM?");
//! # assert_eq!(selected_experts, [ExpertId(1)]);
//! ```
//!
//! Where to go next: [`SwarmEngine`] answers.

mod builtin;
mod engine;
pub mod eval;
mod expert_file;
mod facts;
mod fleet;
mod folder;
mod resident;
mod settings;
mod speaker;
mod worker;

pub use engine::{AnswerOptions, CALIBRATION_FILE, FEEDBACK_FILE, SwarmEngine};
pub use expert_file::{ExpertSpec, ModelSource};
pub(crate) use facts::open_source;
pub use fleet::{ExpertStatus, Fleet, FleetBackend, FleetConfig};
pub use folder::SwarmSpec;
pub use hublabio_moe::*;
pub use settings::{SwarmSettings, parse_routing, parse_synthesis, synthesis_name};
pub(crate) use worker::what_panicked;

pub use crate::config::parse_bytes;
