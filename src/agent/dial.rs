//! The connection to a hub that a tunnel, or a renewal, runs over.

use super::config::split;
use crate::egress::{Egress, EgressError, Leg, Target};
use crate::tunnel::reader::BufferedSocket;

/// What TLS to the hub runs over: one read of the socket takes several TLS records.
pub(super) type Io = BufferedSocket<Leg>;

/// Every way to `hub` (`HOST:PORT`) as of now.
pub(super) async fn resolve(egress: &Egress, hub: &str) -> Result<Vec<Target>, EgressError> {
    let (host, port) =
        split(hub).map_err(|problem| EgressError::Config(format!("--hub {hub:?}: {problem}")))?;
    egress.resolve(host, port).await
}

/// Connects, with the options that find a dead hub.
pub(super) async fn connect(egress: &Egress, target: &Target) -> Result<Io, EgressError> {
    egress.connect(target).await.map(BufferedSocket::new)
}
