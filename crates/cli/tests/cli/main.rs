//! The program as its users have it: spawned, fed, listened to.
//!
//! `program.rs` runs it, `tiny.rs` makes small model files, whole or broken in one place; the other files are the tests.

mod architectures;
mod bad_input;
#[cfg(feature = "constraints")]
mod constraints;
mod convert;
mod imatrix;
mod program;
mod prompts;
mod quantize;
mod sampling;
#[cfg(unix)]
mod signals;
mod swarm;
mod swarm_files;
#[cfg(target_os = "linux")]
mod terminal;
mod tiny;
mod verbs;
