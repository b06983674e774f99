//! The service over real sockets: requests as clients send them, and as they should not.

mod anthropic;
mod chat;
mod client;
mod completions;
// The same server that the runtime's downloads are tested with; not all of it is needed here.
#[allow(dead_code)]
#[path = "../../../runtime/tests/store/server.rs"]
mod elsewhere;
mod fields;
mod limits;
mod ollama;
mod openapi;
mod own;
mod responses;
mod security;
mod swarm;
mod tiny;
mod tools;
