//! Bytes in and out of streams, with backpressure end to end.

mod body;
mod receive;
mod send;
mod splice;

pub use super::error::BodyError;
pub use body::BodySender;
pub use receive::{ReceiveBody, Unread};
pub use send::SendHalf;
pub use splice::{Meter, Spliced, splice};

pub(super) use send::StreamState;
