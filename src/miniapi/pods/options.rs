//! `PodExecOptions`, `PodAttachOptions` and `PodPortForwardOptions` from a query string. Pure.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use super::ports::MAX_PORTS;
use crate::miniapi::response::MiniStatus;
use crate::percent;

/// What to run, and which of its streams the client wants (`PodExecOptions`, `PodAttachOptions` of
/// `core/v1`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RemoteOptions {
    /// Program and arguments; not empty for `exec`, without a meaning for `attach`.
    pub(super) command: Vec<OsString>,
    pub(super) container: Option<String>,
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) tty: bool,
}

// === impl RemoteOptions ===

impl RemoteOptions {
    /// Parses the query of an `exec` request.
    ///
    /// # Errors
    /// 400, with the words of the API server, when the options make no sense together.
    pub(super) fn of_exec(query: &str) -> Result<Self, MiniStatus> {
        let options = Self::of_attach(query)?;
        if options.command.first().is_none_or(|program| program.is_empty()) {
            let why = "you must specify at least 1 command for the container";
            return Err(MiniStatus::bad_request(why));
        }
        Ok(options)
    }

    /// Parses the query of an `attach` request.
    ///
    /// # Errors
    /// As [`RemoteOptions::of_exec`].
    pub(super) fn of_attach(query: &str) -> Result<Self, MiniStatus> {
        let mut options = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decode(value)?;
            match name {
                "command" => options.command.push(OsString::from_vec(value)),
                "container" => {
                    let name = String::from_utf8(value)
                        .map_err(|_| MiniStatus::bad_request("container: not UTF-8"))?;
                    options.container = Some(name);
                }
                "stdin" => options.stdin = is_true(&value),
                "stdout" => options.stdout = is_true(&value),
                "stderr" => options.stderr = is_true(&value),
                "tty" => options.tty = is_true(&value),
                _ => {}
            }
        }
        options.check()
    }

    fn check(self) -> Result<Self, MiniStatus> {
        let wrong = if !self.stdin && !self.stdout && !self.stderr {
            "you must specify at least 1 of stdin, stdout, stderr"
        } else if self.tty && self.stderr {
            "tty and stderr cannot both be true"
        } else {
            return Ok(self);
        };
        Err(MiniStatus::bad_request(wrong))
    }
}

/// The ports of `PodPortForwardOptions`: one or several values, each a list with commas.
///
/// # Errors
/// 400 for no port, for what is none, and for more than [`MAX_PORTS`].
pub(super) fn ports(query: &str) -> Result<Vec<u16>, MiniStatus> {
    let mut ports = Vec::new();
    let values = query.split('&').filter_map(|pair| pair.strip_prefix("ports="));
    for value in values {
        let value = String::from_utf8_lossy(&decode(value)?).into_owned();
        for port in value.split(',') {
            let parsed = port.parse().ok().filter(|port| *port > 0);
            let why = || MiniStatus::bad_request(format!("ports: {port:?} is no port"));
            ports.push(parsed.ok_or_else(why)?);
        }
    }
    match ports.len() {
        0 => Err(MiniStatus::bad_request("query parameter \"ports\" is required")),
        1..=MAX_PORTS => Ok(ports),
        _ => Err(MiniStatus::bad_request(format!("ports: at most {MAX_PORTS}"))),
    }
}

/// `%41` and `+` become what they stand for. NUL cannot be part of an argument.
fn decode(value: &str) -> Result<Vec<u8>, MiniStatus> {
    let decoded = percent::decode_bytes(&value.replace('+', " ")).into_owned();
    if percent::broken_escape(value).is_some() || decoded.contains(&0) {
        let why = "the query is not percent-encoded correctly";
        return Err(MiniStatus::bad_request(why));
    }
    Ok(decoded)
}

/// As the API server reads a flag of a query: present and neither `false` nor `0`.
fn is_true(value: &[u8]) -> bool {
    !(value.eq_ignore_ascii_case(b"false") || value == b"0")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_kubectl_sends() {
        let query = "command=sh&command=-c&command=echo+hi%3B%20cat%20%2Fproc&container=main&stdin=true&stdout=true&tty=true";
        let options = RemoteOptions::of_exec(query).unwrap();
        assert_eq!(options.command, ["sh", "-c", "echo hi; cat /proc"]);
        assert_eq!(options.container.as_deref(), Some("main"));
        assert!(options.stdin && options.stdout && !options.stderr && options.tty);
    }

    #[test]
    fn options_that_make_no_sense() {
        for (query, works) in [
            ("command=ls&stdout=true", true),
            ("stdout=true", false),
            ("command=&stdout=true", false),
            ("command=ls", false),
            ("command=ls&stdout=false", false),
            ("command=ls&stdout=1&tty=1", true),
            ("command=ls&stderr=1&tty=1", false),
            ("command=%zz&stdout=1", false),
            ("command=%4&stdout=1", false),
            ("command=a%00b&stdout=1", false),
            ("command=%ff&stdout=1", true),
        ] {
            assert_eq!(RemoteOptions::of_exec(query).is_ok(), works, "{query}");
        }
    }

    #[test]
    fn ports_of_a_query() {
        let many = vec!["1"; MAX_PORTS].join(",");
        for (query, wanted) in [
            ("ports=80", Some(vec![80])),
            ("&ports=80%2C1234", Some(vec![80, 1234])),
            ("ports=7&x=y&ports=9,7", Some(vec![7, 9, 7])),
            (&format!("ports={many}"), Some(vec![1; MAX_PORTS])),
            (&format!("ports={many},1"), None),
            ("", None),
            ("ports=", None),
            ("ports=0", None),
            ("ports=65536", None),
            ("ports=80,", None),
            ("ports=-1", None),
            ("ports=%zz", None),
        ] {
            assert_eq!(ports(query).ok(), wanted, "{query}");
        }
    }

    proptest! {
        #[test]
        fn any_query_is_parsed_or_refused(query in ".*") {
            let _ = (RemoteOptions::of_exec(&query), ports(&query));
        }

        #[test]
        fn every_argument_survives(argument in proptest::collection::vec(1u8.., 1..50)) {
            let encoded: String = argument.iter().map(|byte| format!("%{byte:02X}")).collect();
            let options = RemoteOptions::of_exec(&format!("command={encoded}&stdout=true")).unwrap();
            prop_assert_eq!(options.command, vec![OsString::from_vec(argument)]);
        }
    }
}
