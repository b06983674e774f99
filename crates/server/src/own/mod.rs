//! The endpoints that no other dialect has: how the service is, which models are in memory, tokens, and its own description.

pub mod models;
pub mod openapi;
pub mod status;
pub mod tokens;
