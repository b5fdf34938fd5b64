//! Logs, metrics and traces.

pub mod log;
pub mod series;
pub mod trace;

#[cfg(test)]
pub(crate) mod testing;
