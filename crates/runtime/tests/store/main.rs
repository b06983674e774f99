//! The store of models: names, aliases, Ollama's files, and downloads from servers that do everything wrong.

// Names are compared exactly, and so is how a file's name ends.
#![allow(clippy::case_sensitive_file_extension_comparisons)]

mod folder;
mod local;
mod names;
mod pull;
mod server;

pub use folder::{Folder, model_bytes};
