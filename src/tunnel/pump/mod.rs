//! Bytes in and out of streams, with backpressure end to end.

mod body;
mod receive;
mod received;
mod send;
mod splice;

pub use super::error::BodyError;
pub use body::BodySender;
pub use receive::ReceiveBody;
pub use received::{Held, Unread};
pub use send::SendHalf;
pub use splice::{Meter, Spliced, splice};

pub(super) use send::StreamState;
