//! Programs on the published Go libraries that people reach clusters with (`tests/consumers`), unchanged,
//! before a hub, agents and API servers as processes.

mod informer;
mod operator;
mod profile;
pub(crate) mod program;
mod world;
