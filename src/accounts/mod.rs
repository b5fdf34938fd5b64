//! Managed service accounts: what is published of them, and what should be.
//!
//! | question | file |
//! |---|---|
//! | what is published, and what is ours | [`api`] |
//! | what should be (pure) | `desired`, `status`, `token`, `duration` |
#![cfg_attr(not(test), allow(dead_code, reason = "the controller comes next"))]

pub mod api;
mod desired;
mod duration;
mod status;
#[cfg(test)]
mod testing;
mod token;
