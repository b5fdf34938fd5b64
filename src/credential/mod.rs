//! The exec plugin (`client.authentication.k8s.io/v1`): how kubectl, client-go and consumers of
//! ClusterProfiles get the token of a managed service account when they need one.
//!
//! `exec` is the exchange with the client, `source` where tokens are, `hub` the way to the hub's own
//! API server.

pub mod exec;
pub mod hub;
pub mod source;
