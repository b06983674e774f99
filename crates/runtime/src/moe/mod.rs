//! A swarm of experts on this node: descriptions in files, models in memory, answers from several of them.
//!
//! What is decided (who answers, how answers join, who is in memory) is the room `moe`'s; here are the files, the models, the
//! clock and the thread.

mod builtin;
mod engine;
pub mod eval;
mod expert_file;
mod facts;
mod fleet;
mod folder;
mod settings;
mod speaker;

pub use engine::{AnswerOptions, CALIBRATION_FILE, FEEDBACK_FILE, SwarmEngine};
pub use expert_file::{ExpertSpec, ModelSource};
pub use fleet::{ExpertStatus, Fleet, FleetBackend, FleetConfig};
pub use folder::SwarmSpec;
pub use hublabio_moe::*;
pub use settings::{SwarmSettings, parse_bytes, parse_routing, parse_synthesis, synthesis_name};
