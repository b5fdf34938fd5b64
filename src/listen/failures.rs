//! When a listener cannot accept: a pause instead of a spin, and a word now and then.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};

/// The failures of one listener.
#[derive(Debug)]
pub struct AcceptFailures {
    address: Option<SocketAddr>,
    /// When it was last told of them, and how many there were since.
    told: Option<Instant>,
    since: u64,
}

// === impl AcceptFailures ===

impl AcceptFailures {
    /// None yet.
    pub fn of(listener: &TcpListener) -> Self {
        Self { address: listener.local_addr().ok(), told: None, since: 0 }
    }

    /// Waits as long as `error` makes sensible. Out of descriptors or memory, the connection stays
    /// queued, and trying again at once would only spin. Anything else was the peer's end.
    pub async fn pause(&mut self, error: &io::Error) {
        if is_peers_doing(error) {
            return;
        }
        if let Some(failures) = self.news() {
            let address = self.address.map(tracing::field::display);
            tracing::warn!(%error, address, failures, "cannot accept connections for now");
        }
        sleep(PAUSE).await;
    }

    /// Counts one. The number that were not told of yet, where it is time to.
    fn news(&mut self) -> Option<u64> {
        self.since += 1;
        if self.told.is_some_and(|told| told.elapsed() < SILENCE) {
            return None;
        }
        self.told = Some(Instant::now());
        Some(std::mem::take(&mut self.since))
    }
}

fn is_peers_doing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

/// Between two attempts to accept when the process is out of descriptors.
const PAUSE: Duration = Duration::from_millis(50);

/// Between two lines of the log: who floods us must not flood our log.
const SILENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn many_failures_are_a_few_lines_and_no_spin() {
        let mut failures = AcceptFailures { address: None, told: None, since: 0 };
        let started = Instant::now();
        let mut told = Vec::new();
        while started.elapsed() < SILENCE * 2 + PAUSE {
            told.extend(failures.news());
            sleep(PAUSE).await;
        }
        assert_eq!(told, [1, 100, 100]);
        let paused = async |kind: io::ErrorKind| {
            let asked = Instant::now();
            AcceptFailures { address: None, told: None, since: 0 }.pause(&kind.into()).await;
            asked.elapsed()
        };
        assert_eq!(paused(io::ErrorKind::ConnectionAborted).await, Duration::ZERO);
        assert_eq!(paused(io::ErrorKind::Other).await, PAUSE);
    }
}
