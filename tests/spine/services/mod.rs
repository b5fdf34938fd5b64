//! Services of clusters, through a hub, an agent and an in-memory Kubernetes API, to web servers of
//! this process. What each end of the tunnel does alone, to the byte, is in `tests/attacks/services`
//! and in the agent's own tests.

mod ground;
mod headers;
mod hostile;
mod https;
mod list;
mod lives;
mod refusals;
mod requests;
mod targets;
