//! Hub, agents and fake API servers in one process, over real sockets and TLS. No test needs
//! anything but a loopback. `tests/README.md` says which upstream and security cases are here.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[cfg(feature = "sandbox")]
mod acceptance;
#[cfg(feature = "sandbox")]
mod accounts;
mod budgets;
mod drains;
#[cfg(feature = "sandbox")]
mod endings;
#[cfg(feature = "sandbox")]
mod fleet_page;
#[cfg(feature = "sandbox")]
mod homes;
mod hosts;
#[cfg(feature = "sandbox")]
mod impersonation;
#[cfg(feature = "sandbox")]
mod inventory;
#[cfg(feature = "sandbox")]
mod kube_client;
mod limits;
#[cfg(feature = "sandbox")]
mod live;
mod names;
mod observed;
mod oidc;
mod outages;
#[cfg(feature = "sandbox")]
mod policy;
mod refusals;
mod replicas;
mod requests;
#[cfg(feature = "sandbox")]
mod services;
#[cfg(feature = "sandbox")]
mod spoke_tokens;
mod streams;
#[path = "../support/mod.rs"]
mod support;
#[cfg(feature = "sandbox")]
mod world;
