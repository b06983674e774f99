//! Hugging Face checkpoint folders to GGUF.
//!
//! This room reads a folder (`config.json`, safetensors, the tokenizer's files), decides what each tensor is called and
//! how it is laid out in a GGUF file, and writes that file. It reads one stretch of one tensor at a time, so memory
//! does not grow with the model. It trusts nothing in the folder: every file has a size limit, every offset and shape
//! is checked, and a tensor that no rule names is an error, never left out in silence.
//!
//! It refuses to know how a model computes: no graph, no kernels, no text goes through a tokenizer here. It opens no
//! network connection and runs no code from the folder.
//!
//! Where to go next: [`Plan::new`] reads a folder, [`Plan::adapter`] that of an adapter, [`Plan::write`] writes the file;
//! `model.rs` holds what differs between the families' configurations, `metadata.rs` their keys, `rules.rs` their
//! tensors; [`safetensors`] and [`tokenizer`] read the foreign formats.
//!
//! Sources: the safetensors format description, `transformers` (configurations and their defaults), the GGUF
//! specification, and llama.cpp's converter for the names of keys and tensors.

#![forbid(unsafe_code)]

mod adapter;
mod checkpoint;
mod config;
mod error;
mod family;
mod metadata;
mod model;
mod plan;
mod rope;
mod rules;
pub mod safetensors;
mod tensors;
pub mod tokenizer;
mod write;

pub use error::Error;
pub use family::Family;
pub use plan::{OutputType, Plan};
pub use write::Progress;
