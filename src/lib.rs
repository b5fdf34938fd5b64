//! cluster-proxy: the front door of a Kubernetes fleet.
//!
//! ```text
//!  kubectl --https--> hub::front -> hub::route -> hub::authn -> hub::headers -> hub::forward
//!                                                                                 |  one request = one HTTP/2 stream
//!                       hub::registry <- hub::dock <== mTLS, dialled by the agent ==> tunnel
//!                                                                                 |
//!                            kube-apiserver <--https-- agent::upstream <- agent::serve
//! ```
//!
//! The map of the house. Imports point down this list only, and a test holds them to it:
//!
//! | layer | modules | what lives there |
//! |---|---|---|
//! | 7 | `fuzzing` | what parsers promise, for tests and cargo-fuzz alone |
//! | 6 | [`cli`] | what an operator types: flags to validated configuration, exit codes |
//! | 5 | `sandbox` | hub, spokes and agents in one process, for a first try and for tests |
//! | 4 | [`hub`], [`agent`], `miniapi` | the two processes, and the in-memory Kubernetes API; none imports another |
//! | 3 | [`accounts`], [`inventory`], [`credential`] | controllers of objects on the hub's API server, and the exec plugin; none knows the hub, nor another |
//! | 2 | [`tunnel`], [`pki`], [`state`], [`kubernetes`], [`listen`], [`hop`], [`egress`] | the wire between the two; certificates; what must survive a restart; API server access; guards of listeners; headers of one hop; the way out to a hub |
//! | 1 | [`fleet`], [`name`], [`hash`], [`drain`], [`percent`], [`shares`], [`telemetry`] | the vocabulary everything shares |
//!
//! `tunnel` knows neither TLS nor Kubernetes: it takes a finished byte stream. `pki` is the only
//! module that builds TLS configurations. Errors become HTTP responses in one file,
//! `hub/forward/respond.rs`.

pub mod accounts;
pub mod agent;
pub mod cli;
pub mod credential;
pub mod drain;
pub mod egress;
pub mod fleet;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod hash;
pub mod hop;
pub mod hub;
pub mod inventory;
pub mod kubernetes;
pub mod listen;
#[cfg(feature = "sandbox")]
pub mod miniapi;
pub mod name;
pub mod percent;
pub mod pki;
#[cfg(feature = "sandbox")]
pub mod sandbox;
pub mod shares;
pub mod state;
pub mod telemetry;
pub mod tunnel;

#[cfg(test)]
mod testing;
