//! The log of the process: to standard error, as text for people or as JSON for collectors.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// How a log line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// One line of text for people; coloured on a terminal unless `NO_COLOR` is set.
    #[default]
    Text,
    /// One JSON object per line for log collectors.
    Json,
}

/// Starts the log of this process. `directives` follow the syntax of `RUST_LOG`:
/// `info`, or `warn,cluster_proxy::hub=debug`.
///
/// # Errors
/// [`LogError`] when the directives cannot be parsed, or the process has a log already.
pub fn start(directives: &str, format: Format) -> Result<(), LogError> {
    let filter = EnvFilter::builder()
        .parse(directives)
        .map_err(|source| LogError::Directives(directives.to_owned(), source.to_string()))?;
    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    match format {
        Format::Text => registry.with(lines.with_ansi(colours())).try_init(),
        Format::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    }
    .map_err(|_| LogError::Twice)
}

/// Why the log could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The directives are not in the syntax of `RUST_LOG`.
    #[error("`{0}` is not a log level: {1}; try --log-level info, or unset RUST_LOG")]
    Directives(String, String),
    /// [`start`] ran before.
    #[error("this process has a log already")]
    Twice,
}

/// <https://no-color.org>: set and not empty means no colour.
fn colours() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
