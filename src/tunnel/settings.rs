//! Every HTTP/2 number of both ends, with its reason. The agent's connections to its API server share most
//! of them.
//!
//! Most were found by measurement with a stalled, cancelling or crashing far end; changing one is
//! changing what a single misbehaving stream can do to its neighbours.

use std::time::Duration;

/// Numbers of one tunnel. [`Settings::default`] is what both ends ship with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Receive window of a stream, bytes; also what may wait unsent per stream. Bounds the memory
    /// of a stalled stream, and its speed to `window / round trip`.
    pub stream_window: u32,
    /// Pause between the answer to a keepalive ping and the next ping.
    pub ping_interval: Duration,
    /// How long nothing at all may arrive after a ping before the peer counts as dead.
    pub ping_timeout: Duration,
    /// How long nothing at all may arrive after a ping before others should be preferred
    /// ([`super::opener::Opener::is_suspect`]). Shorter than `ping_timeout`.
    pub suspect_after: Duration,
    /// Ordinary requests in flight per tunnel (hub end).
    pub short_streams: usize,
    /// Watches, logs and upgrades in flight per tunnel (hub end).
    pub long_streams: usize,
    /// Streams that the agent end allows at once. The hub end scales its permits down to it.
    pub accepted_streams: u32,
    /// Largest head of an answer (hub end), bytes, counted as HTTP/2 counts it.
    pub answer_head: u32,
    /// What unread small frames may cost in all before the connection ends (hub end), bytes.
    pub small_frame_budget: usize,
}

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self {
            stream_window: STREAM_WINDOW,
            ping_interval: Duration::from_secs(5),
            ping_timeout: Duration::from_secs(5),
            suspect_after: Duration::from_secs(2),
            short_streams: 1_024,
            long_streams: 8_192,
            accepted_streams: 16_384,
            answer_head: ANSWER_HEAD,
            small_frame_budget: SMALL_FRAME_BUDGET_OF_AGENTS,
        }
    }
}

impl Settings {
    /// The hub end's HTTP/2, with every number applied.
    pub(super) fn client(&self) -> h2::client::Builder {
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(self.stream_window)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME_SIZE)
            .max_header_list_size(self.answer_head)
            .initial_max_send_streams(STREAMS_BEFORE_SETTINGS)
            .max_send_buffer_size(UPLOAD_BUFFER)
            .max_local_error_reset_streams(None)
            .max_concurrent_reset_streams(REMEMBERED_RESETS)
            .reset_stream_duration(REMEMBERED_RESET_AGE)
            .data_frame_budget(self.small_frame_budget)
            .enable_push(false);
        builder
    }

    /// The agent end's HTTP/2, with every number applied.
    pub(super) fn server(&self) -> h2::server::Builder {
        let mut builder = h2::server::Builder::new();
        builder
            .initial_window_size(self.stream_window)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME_SIZE)
            .max_header_list_size(HEADER_LIST_SIZE)
            .max_send_buffer_size(self.stream_window as usize)
            .max_concurrent_streams(self.accepted_streams)
            .max_local_error_reset_streams(None)
            .max_concurrent_reset_streams(REMEMBERED_RESETS)
            .reset_stream_duration(REMEMBERED_RESET_AGE)
            .max_pending_accept_reset_streams(PENDING_ACCEPT_RESETS)
            .data_frame_budget(SMALL_FRAME_BUDGET)
            .enable_connect_protocol();
        builder
    }
}

/// A stalled stream costs about 1.7 times this at the hub; 256 KiB carries 5 MB/s over 50 ms.
pub const STREAM_WINDOW: u32 = 256 * 1024;

/// Connection credit comes back only as data is consumed, so `CONNECTION_WINDOW / stream_window`
/// stalled readers stop everyone. At 1 GiB that is 4,096; the window is a permission, not memory.
pub const CONNECTION_WINDOW: u32 = 1 << 30;

/// Largest frame we accept. 256 KiB saves a tenth of the CPU of a stream against 64 KiB.
pub const FRAME_SIZE: u32 = 256 * 1024;

/// Largest head of a request that an agent accepts: what a kube-apiserver itself takes (Go's default
/// of 1 MiB).
pub const HEADER_LIST_SIZE: u32 = 1 << 20;

/// Largest head of an answer, counted as HTTP/2 counts it. No API server and no web server behind one
/// needs so much, and at the hub thousands may wait for their clients.
pub const ANSWER_HEAD: u32 = 64 * 1024;

/// Cancelled streams that are remembered, so that what the peer had already sent is dropped
/// silently. Forgotten ones cost an error each, and a burst of cancels reaches thousands.
pub const REMEMBERED_RESETS: usize = 20_000;

/// How long a cancelled stream is remembered: longer than any data can be under way.
pub const REMEMBERED_RESET_AGE: Duration = Duration::from_secs(30);

/// Streams that may be reset before the agent looked at them. The default of 20 is meant for
/// hostile clients and lets one user's cancel burst end everyone's tunnel; the hub is no stranger.
pub const PENDING_ACCEPT_RESETS: usize = 20_000;

/// HTTP/2 charges every unread frame under 256 bytes with what it lacks to 256, and ends the whole
/// connection past this budget. One full window of one-byte frames costs 64 MiB, so the automatic
/// budget (half the connection window) lets eight such streams end the tunnel. This is 32 of them,
/// and in memory about what `CONNECTION_WINDOW` permits anyway.
pub const SMALL_FRAME_BUDGET: usize = (1 << 31) - 1;

/// The same at the hub, which takes small frames out of HTTP/2 four times a second, whoever reads:
/// a quarter of a million frames of one byte between two looks. An agent is a stranger there.
pub const SMALL_FRAME_BUDGET_OF_AGENTS: usize = 64 << 20;

/// Streams that are opened before the peer has said how many it takes: no server should allow fewer (RFC
/// 9113 section 6.5.2), and those beyond its limit would wait for one of the others to end.
const STREAMS_BEFORE_SETTINGS: usize = 100;

/// What may wait unsent per upload at the client end. It is emptied at the speed of the connection, not of
/// a round trip, so it needs no window; with thousands of uploads it is memory.
pub const UPLOAD_BUFFER: usize = 64 * 1024;

/// HTTP/2 stream ids of a client are odd and below 2^31, so a connection carries 2^30 streams: 30
/// hours at 10,000 requests/s. Past this many the tunnel takes no more, so that the agent dials anew.
pub const STREAMS_PER_CONNECTION: u32 = (1 << 30) - (1 << 20);
