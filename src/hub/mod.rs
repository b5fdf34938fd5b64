//! The process that clients talk to.

pub mod authn;
