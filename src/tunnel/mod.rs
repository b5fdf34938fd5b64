//! What both ends of a tunnel speak. Knows neither hub nor agent, nor TLS, nor Kubernetes.
//!
//! The agent dials; the hub is the HTTP/2 *client* on that connection. One request is one stream.
//! An upgrade (exec, attach, port-forward) is an extended CONNECT (RFC 8441) that carries the
//! original method; 101 becomes 200 with a marker header, and back. See [`headers`] for the typed
//! headers of the wire, [`hello`] for the first exchange, [`settings`] for every number.
//!
//! What a peer of another make must know:
//!
//! - The connection carries plain HTTP/2 (RFC 9113); the ALPN protocol of the TLS below names the
//!   wire. The scheme is `https`, the authority means nothing, the path is the API server's.
//! - Every request has one `cluster-proxy-mode`. The hub's first is the hello; before its answer
//!   the tunnel is nobody's.
//! - An error is a reset, a whole body is an end: a stream whose source failed is never ended.
//!   CANCEL from the hub means that the caller went away; NO_ERROR from the agent, after a whole
//!   answer, that it wants no more of the request.
//! - Both ends ping when nothing was asked for a while, and count every byte as an answer.
//! - The agent leaves by GOAWAY and finishes what runs; the hub opens nothing after it.

pub mod connect;
mod driver;
mod error;
pub mod headers;
pub mod hello;
pub mod impersonation;
mod keepalive;
pub mod opener;
mod permits;
pub mod pump;
pub mod reader;
pub mod server;
pub mod service;
pub mod settings;
mod transport;

#[cfg(test)]
mod tests;
