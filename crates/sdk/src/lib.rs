//! The client of HubLab IO for Rust programs, and the JSON that client and service exchange.
//!
//! [`ai`] is the client (feature `client`, on by default); with the feature `embedded` it also brings an engine into the
//! program's own process. [`wire`] is the JSON as types, for both sides, without any client.
#![forbid(unsafe_code)]

#[cfg(feature = "client")]
pub mod ai;
pub mod wire;

/// The user's page, whose examples compile.
#[cfg(all(doctest, feature = "client"))]
#[doc = include_str!("../../../docs/SDK.md")]
struct Page;
