//! How much memory a hub takes at most: the sum of what each limit lets others make it hold.
//!
//! Everything that a stranger, a caller or an agent can make the hub keep is counted here at its
//! worst, all at once. A usual hub takes a small part of it. Pure.

use super::front::{CONNECTION_WINDOW, MEASURED, UPLOAD_WINDOW};
use super::limits::Limits;
use super::unread::LOOKS_PER_BUDGET;
use crate::tunnel::settings::{ANSWER_HEAD, FRAME_SIZE, UPLOAD_BUFFER};

/// The bound by what takes it, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryBound {
    /// Clients' connections: TLS, HTTP, heads under way, answers that wait for a stalled socket.
    pub connections: u64,
    /// Agents' connections: TLS, HTTP, frames and heads under way, what is known of a cluster.
    pub agents: u64,
    /// Requests that are judged or in flight: heads both ways, records, what tunnels do not take.
    pub requests: u64,
    /// Bodies of requests that are not read.
    pub uploads: u64,
    /// Bytes that clients do not read.
    pub unread: u64,
    /// The process itself, its caches and its log.
    pub fixed: u64,
}

// === impl MemoryBound ===

impl MemoryBound {
    /// Under these limits.
    pub fn of(limits: &Limits) -> Self {
        let head = u64::from(limits.header_bytes);
        let measured = MEASURED as u64 * head;
        let times = |count: usize, each: u64| (count as u64).saturating_mul(each);
        let streams = u64::from(limits.streams_per_connection) * LEFT_OF_A_STREAM;
        // What is read and what is written of a head, either protocol.
        let connection = TLS + CONNECTION + 2 * measured + streams;
        let agent =
            TLS + CONNECTION + AGENT_BUFFERS + u64::from(FRAME_SIZE + ANSWER_HEAD) + CLUSTER;
        let request = REQUEST + head + u64::from(ANSWER_HEAD) + UPLOAD_BUFFER as u64;
        let upload = 2 * u64::from(UPLOAD_WINDOW) + u64::from(CONNECTION_WINDOW) / 2;
        let budget = limits.unread_bytes;
        Self {
            connections: times(limits.connections, connection),
            agents: times(limits.agent_connections, agent),
            requests: times(limits.requests, request)
                .saturating_add(times(limits.waiting_requests(), REQUEST + measured)),
            uploads: times(limits.uploads, upload),
            unread: (budget.saturating_mul(KEPT))
                .saturating_add(budget / LOOKS_PER_BUDGET as u64 * SMALL_FRAMES),
            fixed: PROCESS + CACHES + LOG_QUEUE,
        }
    }

    /// All of it, with what an allocator takes on top.
    pub fn total(&self) -> u64 {
        let parts =
            [self.connections, self.agents, self.requests, self.uploads, self.unread, self.fixed];
        let sum = parts.into_iter().fold(0, u64::saturating_add);
        sum.saturating_add(sum / 4)
    }
}

/// `limits`, with fewer connections and requests and less unread where that is needed to fit into
/// `bytes`: all of them shrink alike, as far as they can. What is fixed does not. 512 MiB are enough
/// for whatever else the flags may say.
pub fn fit(mut limits: Limits, bytes: u64) -> Limits {
    let mut shrinks = true;
    while shrinks && MemoryBound::of(&limits).total() > bytes {
        shrinks = limits.unread_bytes >= 16;
        limits.unread_bytes -= limits.unread_bytes / 16;
        let counts = [
            &mut limits.connections,
            &mut limits.agent_connections,
            &mut limits.requests,
            &mut limits.uploads,
        ];
        for count in counts.into_iter().filter(|count| **count > 1) {
            shrinks = true;
            *count -= (*count / 16).max(1);
        }
    }
    limits
}

/// Records of TLS that wait to be sent (64 KiB), that are not whole, and that are not read yet.
const TLS: u64 = 104 * 1024;
/// Tasks, timers, the HTTP library's own state and its read buffer of two frames of 16 KiB.
const CONNECTION: u64 = 72 * 1024;
/// What stays of a finished HTTP/2 stream until its last frames have left, its short answer included.
const LEFT_OF_A_STREAM: u64 = 2 * 1024;
/// Reading and writing beside TLS, 64 KiB each.
const AGENT_BUFFERS: u64 = 128 * 1024;
/// Key set, series of metrics, probe.
const CLUSTER: u64 = 512 * 1024;
/// Futures, record, both HTTP/2 streams, the token that is supervised (16 KiB), one chunk (32 KiB).
const REQUEST: u64 = 96 * 1024;
/// Pieces of read buffers hold more than their own bytes: 1.7 times was measured.
const KEPT: u64 = 2;
/// A DATA frame of one byte has ten on the wire, and takes about 160 until the next look.
const SMALL_FRAMES: u64 = 16;
/// Code, runtimes, certificates, both admin listeners.
const PROCESS: u64 = 64 << 20;
/// 120,000 tokens that were judged.
const CACHES: u64 = 64 << 20;
/// 16,384 lines of at most 8 KiB.
const LOG_QUEUE: u64 = 128 << 20;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    /// Each limit that lets others make the hub hold something moves its own part, and no other.
    #[test]
    fn each_limit_counts_where_it_belongs() {
        let base = Limits::default();
        let before = MemoryBound::of(&base);
        let with = |change: fn(&mut Limits)| {
            let mut limits = base.clone();
            change(&mut limits);
            MemoryBound::of(&limits)
        };
        let parts = |bound: MemoryBound| {
            [
                bound.connections,
                bound.agents,
                bound.requests,
                bound.uploads,
                bound.unread,
                bound.fixed,
            ]
        };
        let grown = |after: MemoryBound| {
            let pairs = parts(after).into_iter().zip(parts(before));
            pairs.map(|(after, before)| after > before).collect::<Vec<_>>()
        };
        let only = |which: &[usize]| (0..6).map(|part| which.contains(&part)).collect::<Vec<_>>();
        assert_eq!(grown(with(|limits| limits.connections *= 2)), only(&[0]));
        assert_eq!(grown(with(|limits| limits.streams_per_connection *= 2)), only(&[0]));
        assert_eq!(grown(with(|limits| limits.header_bytes *= 2)), only(&[0, 2]));
        assert_eq!(grown(with(|limits| limits.agent_connections *= 2)), only(&[1]));
        assert_eq!(grown(with(|limits| limits.requests *= 2)), only(&[2]));
        assert_eq!(grown(with(|limits| limits.uploads *= 2)), only(&[3]));
        assert_eq!(grown(with(|limits| limits.unread_bytes *= 2)), only(&[4]));
        let unread = with(|limits| limits.unread_bytes += MIB).unread - before.unread;
        assert_eq!(unread, 3 * MIB);
    }

    #[test]
    fn no_limit_is_too_large_to_be_counted() {
        let most = usize::MAX;
        let limits = Limits {
            connections: most,
            agent_connections: most,
            requests: most,
            uploads: most,
            unread_bytes: u64::MAX,
            ..Limits::default()
        };
        assert_eq!(MemoryBound::of(&limits).total(), u64::MAX);
    }

    #[test]
    fn one_connection_does_not_keep_the_rest_from_shrinking() {
        let limits = Limits { connections: 1, unread_bytes: 10_000 * MIB, ..Limits::default() };
        assert!(MemoryBound::of(&fit(limits, 512 * MIB)).total() <= 512 * MIB);
    }

    #[test]
    fn what_cannot_fit_shrinks_to_its_least() {
        let limits = Limits { streams_per_connection: u32::MAX, ..Limits::default() };
        let fitted = fit(limits, 512 * MIB);
        assert!(MemoryBound::of(&fitted).total() > 512 * MIB);
        assert_eq!((fitted.connections, fitted.requests, fitted.uploads), (1, 1, 1));
    }

    proptest! {
        #[test]
        fn what_was_fitted_fits(
            mib in 512_u64..100_000, connections in 1_usize..100_000, unread in 0_u64..10_000,
            streams_per_connection in 1_u32..=10_000, header_bytes in 8_u32 << 10..=1 << 20,
        ) {
            let unread_bytes = unread * MIB;
            let others = Limits::default();
            let limits =
                Limits { connections, unread_bytes, streams_per_connection, header_bytes, ..others };
            let fitted = fit(limits.clone(), mib * MIB);
            let total = MemoryBound::of(&fitted).total();
            prop_assert!(total <= mib * MIB, "{} MiB", total / MIB);
            prop_assert!(fitted.connections >= 1 && fitted.requests >= 1);
            // What fits already is left alone.
            prop_assert_eq!(fit(fitted.clone(), mib * MIB).connections, fitted.connections);
            if MemoryBound::of(&limits).total() <= mib * MIB {
                prop_assert_eq!(fitted.connections, limits.connections);
            } else {
                prop_assert!(total > mib * MIB * 3 / 4, "{} of {} MiB", total / MIB, mib);
            }
        }
    }
}
