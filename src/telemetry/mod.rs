//! Logs, metrics and traces.

pub mod log;
pub mod series;
pub mod trace;
