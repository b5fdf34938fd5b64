//! Attacks over real sockets, checked at both ends.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod agent;
mod api_server;
mod enrolment;
mod every_limit;
mod frames;
mod ground;
mod h2spec;
mod http1;
mod http2;
#[cfg(feature = "sandbox")]
mod hub_identity;
mod identity;
mod messages;
mod rotation;
mod scanners;
mod scripted;
#[cfg(feature = "sandbox")]
mod services;
mod slow;
mod targets;
mod telling;
mod tls;
mod tunnel;
mod tunnel_memory;
mod upgrades;

#[path = "../support/mod.rs"]
mod support;
