//! Logs, metrics and traces.

pub mod log;
pub mod trace;
