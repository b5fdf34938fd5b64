//! The limits of `hub` as flags.

use std::net::IpAddr;
use std::num::NonZero;
use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;
use ipnet::IpNet;

use crate::hub::limits::Limits;
use crate::hub::memory;

/// Flags of the limits. What is left out has the default of [`Limits`].
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub(super) struct LimitArgs {
    /// Open connections of clients [default: 20000]
    #[arg(long, env = "CLUSTER_PROXY_MAX_CONNECTIONS", value_name = "N")]
    max_connections: Option<NonZero<usize>>,

    /// Open connections of clients from one address (IPv6: one /64); raise it behind a load balancer [default: 2000]
    #[arg(long, env = "CLUSTER_PROXY_MAX_CONNECTIONS_PER_SOURCE", value_name = "N")]
    max_connections_per_source: Option<NonZero<usize>>,

    /// Open connections of agents [default: 20000]
    #[arg(long, env = "CLUSTER_PROXY_MAX_AGENT_CONNECTIONS", value_name = "N")]
    max_agent_connections: Option<NonZero<usize>>,

    /// Open connections of agents from one address (IPv6: one /64) [default: 4000]
    #[arg(long, env = "CLUSTER_PROXY_MAX_AGENT_CONNECTIONS_PER_SOURCE", value_name = "N")]
    max_agent_connections_per_source: Option<NonZero<usize>>,

    /// TLS handshakes under way at each of the two listeners [default: 2000]
    #[arg(long, env = "CLUSTER_PROXY_MAX_HANDSHAKES", value_name = "N")]
    max_handshakes: Option<NonZero<usize>>,

    /// The same from one address (IPv6: one /64) [default: 500]
    #[arg(long, env = "CLUSTER_PROXY_MAX_HANDSHAKES_PER_SOURCE", value_name = "N")]
    max_handshakes_per_source: Option<NonZero<usize>>,

    /// How long a TLS handshake may take [default: 5s]
    #[arg(long, env = "CLUSTER_PROXY_HANDSHAKE_TIMEOUT", value_name = "DURATION", value_parser = deadline)]
    handshake_timeout: Option<Duration>,

    /// Headers of one request [default: 256]
    #[arg(long, env = "CLUSTER_PROXY_MAX_HEADERS", value_name = "N", value_parser = clap::value_parser!(u16).range(16..=4096))]
    max_headers: Option<u16>,

    /// Bytes of one request's head, its target included [default: 64KiB]
    #[arg(long, env = "CLUSTER_PROXY_MAX_HEADER_BYTES", value_name = "SIZE", value_parser = header_bytes)]
    max_header_bytes: Option<u32>,

    /// How long a request's head may take from its first byte to its last [default: 10s]
    #[arg(long, env = "CLUSTER_PROXY_HEAD_TIMEOUT", value_name = "DURATION", value_parser = deadline)]
    head_timeout: Option<Duration>,

    /// How long a client's connection may be kept without a request [default: 3m]
    #[arg(long, env = "CLUSTER_PROXY_IDLE_TIMEOUT", value_name = "DURATION", value_parser = deadline)]
    idle_timeout: Option<Duration>,

    /// Requests at once on one HTTP/2 connection [default: 250]
    #[arg(long, env = "CLUSTER_PROXY_MAX_STREAMS_PER_CONNECTION", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    max_streams_per_connection: Option<u32>,

    /// Requests in flight in all, those that may stay open for ever included [default: 20000]
    #[arg(long, env = "CLUSTER_PROXY_MAX_REQUESTS", value_name = "N")]
    max_requests: Option<NonZero<usize>>,

    /// Requests of one caller in flight on one cluster [default: 400]
    #[arg(long, env = "CLUSTER_PROXY_MAX_REQUESTS_PER_CALLER", value_name = "N")]
    max_requests_per_caller: Option<NonZero<usize>>,

    /// Requests in flight on one cluster; a tunnel carries 1024 [default: 800]
    #[arg(long, env = "CLUSTER_PROXY_MAX_REQUESTS_PER_CLUSTER", value_name = "N")]
    max_requests_per_cluster: Option<NonZero<usize>>,

    /// Watches, followed logs, sessions and service requests of one caller on one cluster [default: 4000]
    #[arg(long, env = "CLUSTER_PROXY_MAX_LONG_REQUESTS_PER_CALLER", value_name = "N")]
    max_long_requests_per_caller: Option<NonZero<usize>>,

    /// The same of all callers; a tunnel carries 8192 [default: 8000]
    #[arg(long, env = "CLUSTER_PROXY_MAX_LONG_REQUESTS_PER_CLUSTER", value_name = "N")]
    max_long_requests_per_cluster: Option<NonZero<usize>>,

    /// Distinct tokens that hold watches, followed logs and sessions of one cluster [default: 4096]
    #[arg(long, env = "CLUSTER_PROXY_MAX_LIVE_TOKENS_PER_CLUSTER", value_name = "N")]
    max_live_tokens_per_cluster: Option<NonZero<usize>>,

    /// Requests at once whose bodies are not read to their end [default: 2000]
    #[arg(long, env = "CLUSTER_PROXY_MAX_UPLOADS", value_name = "N")]
    max_uploads: Option<NonZero<usize>>,

    /// Bytes of one request's body [default: no limit, bodies stream]
    #[arg(long, env = "CLUSTER_PROXY_MAX_BODY", value_name = "SIZE", value_parser = size)]
    max_body: Option<u64>,

    /// Bytes held for clients that do not read, in all; then the longest-stalled stream is reset [default: 256MiB]
    #[arg(long, env = "CLUSTER_PROXY_MAX_UNREAD_BYTES", value_name = "SIZE", value_parser = size)]
    max_unread_bytes: Option<u64>,

    /// The bound of memory that the limits are made to fit: connections, requests and unread bytes
    /// shrink alike until they do. The hub prints the bound at its start [default: none]
    #[arg(long, env = "CLUSTER_PROXY_MAX_MEMORY", value_name = "SIZE", value_parser = max_memory)]
    max_memory: Option<u64>,

    /// Load balancers whose connections begin with a PROXY protocol header (v1 or v2), both listeners
    #[arg(long, env = "CLUSTER_PROXY_PROXY_PROTOCOL_FROM", value_name = "CIDR,...", value_delimiter = ',', value_parser = network)]
    proxy_protocol_from: Vec<IpNet>,
}

// === impl LimitArgs ===

impl LimitArgs {
    pub(super) fn into_limits(self) -> Limits {
        let default = Limits::default();
        let or = |flag: Option<NonZero<usize>>, default| flag.map_or(default, NonZero::get);
        let limits = Limits {
            connections: or(self.max_connections, default.connections),
            connections_per_source: or(
                self.max_connections_per_source,
                default.connections_per_source,
            ),
            agent_connections: or(self.max_agent_connections, default.agent_connections),
            agent_connections_per_source: or(
                self.max_agent_connections_per_source,
                default.agent_connections_per_source,
            ),
            handshakes: or(self.max_handshakes, default.handshakes),
            handshakes_per_source: or(
                self.max_handshakes_per_source,
                default.handshakes_per_source,
            ),
            handshake_timeout: self.handshake_timeout.unwrap_or(default.handshake_timeout),
            header_count: self.max_headers.map_or(default.header_count, usize::from),
            header_bytes: self.max_header_bytes.unwrap_or(default.header_bytes),
            head_timeout: self.head_timeout.unwrap_or(default.head_timeout),
            idle_timeout: self.idle_timeout.unwrap_or(default.idle_timeout),
            streams_per_connection: self
                .max_streams_per_connection
                .unwrap_or(default.streams_per_connection),
            requests: or(self.max_requests, default.requests),
            max_body: self.max_body.or(default.max_body),
            unread_bytes: self.max_unread_bytes.unwrap_or(default.unread_bytes),
            requests_per_caller: or(self.max_requests_per_caller, default.requests_per_caller),
            requests_per_cluster: or(self.max_requests_per_cluster, default.requests_per_cluster),
            long_requests_per_caller: or(
                self.max_long_requests_per_caller,
                default.long_requests_per_caller,
            ),
            long_requests_per_cluster: or(
                self.max_long_requests_per_cluster,
                default.long_requests_per_cluster,
            ),
            live_tokens_per_cluster: or(
                self.max_live_tokens_per_cluster,
                default.live_tokens_per_cluster,
            ),
            uploads: or(self.max_uploads, default.uploads),
            proxies: self.proxy_protocol_from,
        };
        match self.max_memory {
            Some(bytes) => memory::fit(limits, bytes),
            None => limits,
        }
    }
}

/// A deadline of nothing would refuse everybody.
fn deadline(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("must be longer than nothing".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(error.to_string()),
    }
}

/// A network, or one address.
fn network(text: &str) -> Result<IpNet, String> {
    let address = || text.parse().map(|address: IpAddr| IpNet::from(address));
    text.parse().or_else(|_| address()).map_err(|_| "expected a network: 10.0.0.0/8".to_owned())
}

fn size(text: &str) -> Result<u64, String> {
    text.parse::<ByteSize>().map(|size| size.as_u64())
}

/// Less leaves next to nothing beside what is fixed.
fn max_memory(text: &str) -> Result<u64, String> {
    let bytes = size(text)?;
    (bytes >= 512 << 20).then_some(bytes).ok_or_else(|| "must be at least 512MiB".to_owned())
}

/// Less than a token and the headers around it would refuse everybody; an API server itself takes
/// no more than a mebibyte.
fn header_bytes(text: &str) -> Result<u32, String> {
    let bytes = size(text)?;
    let fits = u32::try_from(bytes).ok().filter(|bytes| (8 << 10..=1 << 20).contains(bytes));
    fits.ok_or_else(|| "must be between 8KiB and 1MiB".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        limits: LimitArgs,
    }

    /// The help says what [`Limits::default`] does: each default is written there once.
    #[test]
    fn the_help_tells_the_real_defaults() {
        let limits = Limits::default();
        let size = |bytes: u64| ByteSize::b(bytes).to_string().replace(".0", "").replace(' ', "");
        let time = |duration| humantime::format_duration(duration).to_string();
        for (flag, default) in [
            ("max_connections", limits.connections.to_string()),
            ("max_connections_per_source", limits.connections_per_source.to_string()),
            ("max_agent_connections", limits.agent_connections.to_string()),
            ("max_agent_connections_per_source", limits.agent_connections_per_source.to_string()),
            ("max_handshakes", limits.handshakes.to_string()),
            ("max_handshakes_per_source", limits.handshakes_per_source.to_string()),
            ("head_timeout", time(limits.head_timeout)),
            ("idle_timeout", time(limits.idle_timeout)),
            ("handshake_timeout", time(limits.handshake_timeout)),
            ("max_headers", limits.header_count.to_string()),
            ("max_header_bytes", size(limits.header_bytes.into())),
            ("max_requests", limits.requests.to_string()),
            ("max_uploads", limits.uploads.to_string()),
            ("max_unread_bytes", size(limits.unread_bytes)),
            ("max_requests_per_caller", limits.requests_per_caller.to_string()),
            ("max_requests_per_cluster", limits.requests_per_cluster.to_string()),
            ("max_long_requests_per_caller", limits.long_requests_per_caller.to_string()),
            ("max_long_requests_per_cluster", limits.long_requests_per_cluster.to_string()),
            ("max_live_tokens_per_cluster", limits.live_tokens_per_cluster.to_string()),
            ("max_streams_per_connection", limits.streams_per_connection.to_string()),
        ] {
            let command = Command::command();
            let argument = command.get_arguments().find(|one| one.get_id() == flag).unwrap();
            let help = argument.get_help().unwrap().to_string();
            assert!(help.ends_with(&format!("[default: {default}]")), "{flag}: {help}: {default}");
        }
    }

    #[test]
    fn values_that_would_refuse_everybody_are_refused() {
        let parse = |flag: &str| Command::try_parse_from(["hub", flag]);
        for (good, bad) in [
            ("--max-connections=1", "--max-connections=0"),
            ("--handshake-timeout=1s", "--handshake-timeout=0s"),
            ("--max-headers=16", "--max-headers=1"),
            ("--max-header-bytes=8KiB", "--max-header-bytes=1KiB"),
            ("--proxy-protocol-from=10.0.0.0/8,fd00::1", "--proxy-protocol-from=balancer"),
            ("--max-memory=512MiB", "--max-memory=511MiB"),
            ("--max-header-bytes=1MiB", "--max-header-bytes=2MiB"),
        ] {
            assert!(parse(good).is_ok(), "{good}");
            assert!(parse(bad).is_err(), "{bad}");
        }
        let limits = parse("--max-header-bytes=128KiB").unwrap().limits.into_limits();
        assert_eq!(limits.header_bytes, 128 * 1024);
    }
}
