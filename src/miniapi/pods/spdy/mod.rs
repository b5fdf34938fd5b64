//! The server's side of SPDY/3.1, as far as Kubernetes uses it: streams that the client opens, with
//! a few headers each, and bytes both ways until each side has said that it is done.
//!
//! Clients of Kubernetes ignore the windows of SPDY: they never wait for WINDOW_UPDATE and never
//! send one. So nothing is said about windows here either, and what bounds memory is the connection
//! itself: while a stream has [`QUEUE`](stream::QUEUE) pieces that nobody reads, nothing more is
//! read, and a slow stream holds up the others of its connection.

mod connection;
mod frame;
mod headers;
mod stream;
#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;

pub(super) use connection::{Accepted, serve};
pub(super) use stream::{Receive, Send, Stream};
