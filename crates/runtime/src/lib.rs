//! One node: a model file, its tokenizer and its engine, joined behind one interface.
//!
//! This is the room where text meets tensors. The engine below knows no text, the command line and
//! the service above know no tensors.
//!
//! ```no_run
//! use hublabio_runtime::ai::{GenerationConfig, InferenceEngine, ModelConfig};
//! use std::ops::ControlFlow;
//!
//! let mut engine = InferenceEngine::open_default(&ModelConfig::default())?;
//! let prompt = engine.chat_prompt(&[hublabio_runtime::ai::Message::new("user", "What does tar do?")])?;
//! let answer = engine.generate(&prompt, &GenerationConfig::greedy(), &mut |text| {
//!     print!("{text}");
//!     ControlFlow::Continue(())
//! })?;
//! println!("\n{:.0} tokens/s", answer.stats.decode_tokens_per_s());
//! # Ok::<(), hublabio_runtime::Error>(())
//! ```
//!
//! Where to go next: [`ai::InferenceEngine`]; `ai/vocabulary.rs` reads tokenizers out of GGUF files.
#![forbid(unsafe_code)]

pub mod ai;
pub mod config;
mod error;
pub mod machine;
pub mod moe;
pub mod node;
pub mod store;
mod toml_text;

pub use error::{Error, Result};

/// What a node may use, and its defaults for generation: a part of [`config::SystemConfig`].
#[derive(Clone, Debug, PartialEq)]
pub struct RuntimeConfig {
    /// Bytes that the models of a node, or the experts of a swarm, may take together, keys and values included. A model that
    /// is opened by itself ([`ai::InferenceEngine`]) is not bounded by it.
    pub max_memory: usize,
    /// Threads for computing; 0 for one per core.
    pub num_threads: usize,
    /// Whether this node takes part in a cluster (no effect in this version).
    pub distributed: bool,
    /// Whether requests may be routed to a swarm of experts (no effect in this version: who opens a swarm asks it).
    pub moe_enabled: bool,
    /// Default temperature.
    pub temperature: f32,
    /// Default top-p.
    pub top_p: f32,
}

impl Default for RuntimeConfig {
    /// 4 GiB, all cores, alone, no swarm, temperature 0.7, top-p 0.9.
    fn default() -> Self {
        Self {
            max_memory: 4 << 30,
            num_threads: 0,
            distributed: false,
            moe_enabled: false,
            temperature: 0.7,
            top_p: 0.9,
        }
    }
}

impl RuntimeConfig {
    /// The engine settings that follow: threads here, the rest as [`ai::ModelConfig`] has it.
    #[must_use]
    pub fn model_config(&self) -> ai::ModelConfig {
        ai::ModelConfig { threads: (self.num_threads > 0).then_some(self.num_threads), ..ai::ModelConfig::default() }
    }

    /// The settings of a swarm's models that follow: its memory and threads here, the rest as the swarm's own files have it.
    ///
    /// ```
    /// let config = hublabio_runtime::RuntimeConfig { max_memory: 64 << 20, ..Default::default() };
    /// let swarm = hublabio_runtime::moe::SwarmEngine::open(None, &config.fleet_config())?;
    /// assert_eq!(swarm.fleet().bytes_max(), 64 << 20);
    /// # Ok::<(), hublabio_runtime::Error>(())
    /// ```
    #[must_use]
    pub fn fleet_config(&self) -> moe::FleetConfig {
        moe::FleetConfig {
            threads: (self.num_threads > 0).then_some(self.num_threads),
            bytes_max: Some(self.max_memory as u64),
            ..moe::FleetConfig::default()
        }
    }

    /// The default way to choose tokens, with this configuration's temperature and top-p.
    #[must_use]
    pub fn generation_config(&self) -> ai::GenerationConfig {
        let mut config = ai::GenerationConfig::default();
        config.sampling.temperature = self.temperature;
        config.sampling.top_p = self.top_p;
        config
    }
}
