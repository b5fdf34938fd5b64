//! The controller as a whole, between in-memory APIs, in simulated time.

mod copies;
mod flow;
mod hostile;
mod midst;
mod refusals;
mod scale;
mod world;
