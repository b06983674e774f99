//! Running a model: [`InferenceEngine`] and its settings.

mod adapters;
mod bench;
mod chat;
pub(crate) mod decode;
mod description;
mod dry_breakers;
mod embed;
mod engine;
mod importance_collection;
mod importance_matrix;
pub(crate) mod mixed;
mod perplexity;
pub mod quantization;
mod quantize;
mod question;
mod stop;
mod value_json;
mod vocabulary;

pub use adapters::AdapterConfig;
pub use bench::{BenchOptions, BenchReport, Series};
pub use chat::{ChatOptions, ChatPrompt, ModelText, TemplateSource, chat_templates};
pub(crate) use description::find_description;
pub use description::{parse_architecture, read_architecture};
pub use dry_breakers::{DRY_BREAKER_BYTES_MAX, DRY_BREAKERS_MAX};
pub(crate) use embed::{PooledStates, is_pooled};
pub(crate) use engine::{DEFAULT_CONTEXT_MAX, LOGIT_ROWS};
pub use engine::{
    Finish, Generation, GenerationConfig, InferenceEngine, LOGPROBS_MAX, ModelConfig, Piece, Stats, TokenLogProbs,
};
pub use hublabio_chat::{
    Answer, BUILTINS, CallForm, Content, Event, Json, Malformed, Message, OutputParser, Tool, ToolCall, ToolFormat,
    constraint,
};
pub use hublabio_engine::{
    Architecture, Error as EngineError, Isa, KvType, Pooling, architecture, sampling, sampling::SamplingConfig,
};
pub use hublabio_tokenizer as tokenizer;
pub use hublabio_tokenizer::TokenId;
pub use importance_collection::CollectionOptions;
pub use importance_matrix::ImportanceMatrix;
pub use perplexity::Perplexity;
pub use question::{ChatQuestion, PreparedQuestion, ToolChoice};
pub use stop::{STOP_BYTES_MAX, STOP_STRINGS_MAX};
pub use value_json::ValueJson;
pub use vocabulary::read_tokenizer;

/// The model that comes with the binary: small, trained on documentation, at work without any download.
// Of a constant, every part of the program that names it would carry a copy.
pub static DEFAULT_MODEL: &[u8] = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/default.gguf"));
/// What to call it.
pub const DEFAULT_MODEL_NAME: &str = "default";
