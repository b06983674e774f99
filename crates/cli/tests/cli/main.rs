//! The program as its users have it: spawned, fed, listened to.
//!
//! `program.rs` runs it, `tiny.rs` makes small model files, whole or broken in one place; the other files are the tests.

mod architectures;
mod bad_input;
mod configuration;
#[cfg(feature = "constraints")]
mod constraints;
mod convert;
mod imatrix;
#[cfg(unix)]
mod killed;
mod program;
mod prompts;
mod quantize;
#[cfg(unix)]
mod remote;
mod sampling;
#[cfg(unix)]
mod serve;
#[cfg(unix)]
mod signals;
// The same server that the runtime's downloads are tested with; not all of it is needed here.
#[allow(dead_code)]
#[path = "../../../runtime/tests/store/server.rs"]
mod server;
#[cfg(unix)]
mod sockets;
mod store;
mod swarm;
mod swarm_files;
#[cfg(target_os = "linux")]
mod terminal;
mod tiny;
#[cfg(all(unix, feature = "tls"))]
mod tls;
mod verbs;
