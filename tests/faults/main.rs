//! Faults of a real network: processes, links and resources that fail under load, beside a cluster
//! where nothing fails.
//!
//! Hub and agents are processes. Each cluster's agents are in a network namespace of their own, with
//! one link to the hub, where faults happen, and one to their API server. The load is the same in
//! every test: each second 100 GETs to each cluster, 25 watches, 10 followed logs and 3 execs of each.
//! Every test prints one line of a table:
//!
//! ```sh
//! cargo test --test faults 2>&1 | grep '^| F'
//! ```
//!
//! They need root, `ip`, `nft` and `tc` (iproute2, nftables), and change nothing of the machine:
//! each runs in namespaces that end with it.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod delay;
mod links;
mod network;
mod processes;
mod resources;
mod scene;
mod streams;
#[path = "../support/mod.rs"]
mod support;
mod world;
