//! The log of the process: to standard error, as text for people or as JSON for collectors.

use std::io::{self, IsTerminal};

use tracing::Metadata;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{LevelFilter, filter_fn};
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
    let filter = filter(directives)?;
    let registry = tracing_subscriber::registry().with(filter).with(filter_fn(is_fit));
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    match format {
        Format::Text => registry.with(lines.with_ansi(colours())).try_init(),
        Format::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    }
    .map_err(|_| LogError::Twice)
}

/// A word alone is a level here. `RUST_LOG` takes others for the name of a module whose every event is
/// wanted, so that a slip of the pen (`warning`) would silence all the rest, errors too.
fn filter(directives: &str) -> Result<EnvFilter, LogError> {
    let invalid = |why: String| LogError::Directives(directives.to_owned(), why);
    let is_word = |directive: &&str| !directive.is_empty() && !directive.contains(['=', '[', ']']);
    for word in directives.split(',').map(str::trim).filter(is_word) {
        if word.parse::<LevelFilter>().is_err() {
            let levels = "error, warn, info, debug, trace or off; a module is MODULE=LEVEL";
            return Err(invalid(format!("{word:?} is none of {levels}")));
        }
    }
    EnvFilter::builder().parse(directives).map_err(|source| invalid(source.to_string()))
}

/// Whether an event may be logged at any level: kube quotes whole answers of API servers that it
/// cannot parse, and those may hold Secrets and tokens. Whoever watches tells of each problem once; the
/// watcher does so at each attempt.
fn is_fit(metadata: &Metadata<'_>) -> bool {
    !matches!(metadata.target(), "kube_client::client" | "kube_runtime::watcher")
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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use k8s_openapi::api::core::v1::Secret;
    use kube::Api;
    use tower::service_fn;

    use super::*;

    /// What was logged.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_word_that_is_no_level_is_refused() {
        for good in ["info", "WARN", "off", "", "warn,cluster_proxy::hub=debug", "3"] {
            assert!(filter(good).is_ok(), "{good}");
        }
        for bad in ["warning", "nonsense", "info,cluster_proxy", "a=b=c"] {
            let error = filter(bad).unwrap_err().to_string();
            assert!(error.contains(bad) && error.contains("--log-level info"), "{error}");
        }
    }

    #[tokio::test]
    async fn no_answer_of_an_api_server_is_quoted() {
        let lines = Lines::default();
        let written = lines.clone();
        let layer = tracing_subscriber::fmt::layer().with_writer(move || written.clone());
        let registry = tracing_subscriber::registry().with(EnvFilter::new("trace"));
        let _guard = tracing::subscriber::set_default(registry.with(filter_fn(is_fit)).with(layer));

        // A Secret as a proxy might cut it off.
        let answer = service_fn(|_: http::Request<kube::client::Body>| async {
            let body =
                http_body_util::Full::new(bytes::Bytes::from(r#"{"data": {"token": "hunter2"#));
            Ok::<_, std::convert::Infallible>(http::Response::new(body))
        });
        let secrets: Api<Secret> = Api::default_namespaced(kube::Client::new(answer, "default"));
        let error = secrets.get("any").await.unwrap_err();
        tracing::warn!(reason = crate::kubernetes::describe(&error), "failed");

        let lines = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert!(lines.contains("malformed"), "{lines}");
        assert!(!lines.contains("hunter2"), "{lines}");
    }
}
