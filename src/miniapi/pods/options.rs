//! `PodExecOptions` and `PodAttachOptions` from a query string. Pure.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

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

    proptest! {
        #[test]
        fn any_query_is_parsed_or_refused(query in ".*") {
            let _ = RemoteOptions::of_exec(&query);
        }

        #[test]
        fn every_argument_survives(argument in proptest::collection::vec(1u8.., 1..50)) {
            let encoded: String = argument.iter().map(|byte| format!("%{byte:02X}")).collect();
            let options = RemoteOptions::of_exec(&format!("command={encoded}&stdout=true")).unwrap();
            prop_assert_eq!(options.command, vec![OsString::from_vec(argument)]);
        }
    }
}
