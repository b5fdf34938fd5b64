//! Kubernetes impersonation on the wire: for whom a request under the agent's own token speaks.
//! Written by the hub from an identity that it has verified, checked by the agent, judged by the
//! spoke's RBAC (Kubernetes documentation, "User impersonation"). Pure.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::percent;

/// Every header that impersonates begins so.
pub const PREFIX: &str = "impersonate-";
/// Who, exactly once.
pub const USER: HeaderName = HeaderName::from_static("impersonate-user");
/// Their uid, at most once.
pub const UID: HeaderName = HeaderName::from_static("impersonate-uid");
/// One group each.
pub const GROUP: HeaderName = HeaderName::from_static("impersonate-group");
/// What follows is the escaped key, the value is one of its values.
pub const EXTRA: &str = "impersonate-extra-";

/// Whom a request speaks for, as the spoke's API server is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Impersonation {
    /// User name.
    pub user: String,
    /// uid, where the user has one.
    pub uid: Option<String>,
    /// Groups, in the order in which they were given.
    pub groups: Vec<String>,
    /// Extra: keys and their values.
    pub extra: Vec<(String, Vec<String>)>,
}

/// A name that no header can carry to the other side unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} is empty, begins or ends with a blank, or has a control character: no header can carry it"
)]
pub struct Unwritable(pub &'static str);

/// Headers that are no impersonation, or more than one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// No user, or several.
    #[error("there is not exactly one Impersonate-User")]
    User,
    /// Several uids.
    #[error("there is more than one Impersonate-Uid")]
    Uid,
    /// A name of a header that nobody knows.
    #[error("there is an Impersonate- header that is neither User, Uid, Group nor Extra")]
    Unknown,
    /// A value that is no text, or a broken escape.
    #[error("an Impersonate- header is not valid text")]
    Text,
}

// === impl Impersonation ===

impl Impersonation {
    /// Adds the headers.
    ///
    /// # Errors
    /// When a name cannot be carried as it is: a shorter or cleaned one would be somebody else.
    pub fn write(&self, headers: &mut HeaderMap) -> Result<(), Unwritable> {
        headers.insert(USER, value(&self.user, "the user name")?);
        if let Some(uid) = &self.uid {
            headers.insert(UID, value(uid, "the uid")?);
        }
        for group in &self.groups {
            headers.append(GROUP, value(group, "a group")?);
        }
        for (key, values) in &self.extra {
            let name = format!("{EXTRA}{}", utf8_percent_encode(key, ESCAPED));
            let name = HeaderName::from_bytes(name.as_bytes());
            let name = name.map_err(|_| Unwritable("a key of the extra"))?;
            for text in values {
                headers.append(name.clone(), value(text, "a value of the extra")?);
            }
        }
        Ok(())
    }

    /// Reads the headers back.
    ///
    /// # Errors
    /// When they are not those of exactly one identity.
    pub fn read(headers: &HeaderMap) -> Result<Self, Unreadable> {
        let mut read =
            Self { user: one(headers, &USER)?.ok_or(Unreadable::User)?, ..Self::default() };
        read.uid = one(headers, &UID).map_err(|error| match error {
            Unreadable::User => Unreadable::Uid,
            error => error,
        })?;
        for name in headers.keys().filter(|name| name.as_str().starts_with(PREFIX)) {
            let values = || {
                let texts = headers.get_all(name).iter().map(text);
                texts.collect::<Result<Vec<_>, _>>()
            };
            if *name == GROUP {
                read.groups = values()?;
            } else if let Some(key) = name.as_str().strip_prefix(EXTRA) {
                if percent::broken_escape(key).is_some() {
                    return Err(Unreadable::Text);
                }
                let key = String::from_utf8(percent::decode_bytes(key).into_owned());
                read.extra.push((key.map_err(|_| Unreadable::Text)?, values()?));
            } else if *name != USER && *name != UID {
                return Err(Unreadable::Unknown);
            }
        }
        Ok(read)
    }
}

/// Whether a request impersonates anybody, whatever it calls it.
pub fn is_asked(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| name.as_str().starts_with(PREFIX))
}

fn value(text: &str, what: &'static str) -> Result<HeaderValue, Unwritable> {
    let blank = |c: char| c == ' ' || c == '\t';
    if text.is_empty() || text.starts_with(blank) || text.ends_with(blank) {
        return Err(Unwritable(what));
    }
    let mut value = HeaderValue::from_bytes(text.as_bytes()).map_err(|_| Unwritable(what))?;
    value.set_sensitive(true);
    Ok(value)
}

fn one(headers: &HeaderMap, name: &HeaderName) -> Result<Option<String>, Unreadable> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (value, None) => value.map(text).transpose(),
        _ => Err(Unreadable::User),
    }
}

fn text(value: &HeaderValue) -> Result<String, Unreadable> {
    let text = std::str::from_utf8(value.as_bytes()).map_err(|_| Unreadable::Text)?;
    if text.is_empty() { Err(Unreadable::Text) } else { Ok(text.to_owned()) }
}

/// What a key may hold unescaped: the API server undoes escapes after it has made the name lower
/// case (`apiserver/pkg/endpoints/filters/impersonation.go`), so capitals are escaped too.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .add(b'A')
    .add(b'B')
    .add(b'C')
    .add(b'D')
    .add(b'E')
    .add(b'F')
    .add(b'G')
    .add(b'H')
    .add(b'I')
    .add(b'J')
    .add(b'K')
    .add(b'L')
    .add(b'M')
    .add(b'N')
    .add(b'O')
    .add(b'P')
    .add(b'Q')
    .add(b'R')
    .add(b'S')
    .add(b'T')
    .add(b'U')
    .add(b'V')
    .add(b'W')
    .add(b'X')
    .add(b'Y')
    .add(b'Z');

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn full() -> Impersonation {
        Impersonation {
            user: "cluster:hub:jané".to_owned(),
            uid: Some("cluster:hub:7".to_owned()),
            groups: vec!["a b".to_owned(), "c:d".to_owned()],
            extra: vec![
                ("own/Key%".to_owned(), vec!["1".to_owned(), "2, 3".to_owned()]),
                ("other".to_owned(), vec!["x".to_owned()]),
            ],
        }
    }

    #[test]
    fn to_the_letter() {
        let mut headers = HeaderMap::new();
        full().write(&mut headers).unwrap();
        let lines: Vec<_> = headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))
            .collect();
        assert_eq!(
            lines,
            [
                "impersonate-user: cluster:hub:jané",
                "impersonate-uid: cluster:hub:7",
                "impersonate-group: a b",
                "impersonate-group: c:d",
                "impersonate-extra-own%2f%4bey%25: 1",
                "impersonate-extra-own%2f%4bey%25: 2, 3",
                "impersonate-extra-other: x",
            ]
        );
        assert_eq!(Impersonation::read(&headers), Ok(full()));
        assert!(is_asked(&headers) && !is_asked(&HeaderMap::new()));
    }

    #[test]
    fn what_would_arrive_as_somebody_else_is_not_written() {
        let user = |user: &str| Impersonation { user: user.to_owned(), ..Impersonation::default() };
        for bad in ["", " a", "a ", "\ta", "a\nb", "a\0", "a\u{7f}"] {
            assert!(user(bad).write(&mut HeaderMap::new()).is_err(), "{bad:?}");
        }
        assert!(user("a b").write(&mut HeaderMap::new()).is_ok());
        let group = Impersonation { groups: vec!["a\r\nimpersonate-user: x".to_owned()], ..full() };
        assert_eq!(group.write(&mut HeaderMap::new()), Err(Unwritable("a group")));
    }

    #[test]
    fn exactly_one_identity_is_read() {
        let with = |lines: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(*name, HeaderValue::from_static(value));
            }
            Impersonation::read(&headers)
        };
        let user = ("impersonate-user", "u");
        assert_eq!(with(&[user]).unwrap().user, "u");
        for (lines, error) in [
            (&[] as &[_], Unreadable::User),
            (&[("impersonate-group", "g")], Unreadable::User),
            (&[user, user], Unreadable::User),
            (&[("impersonate-user", "")], Unreadable::Text),
            (&[user, ("impersonate-uid", "1"), ("impersonate-uid", "2")], Unreadable::Uid),
            (&[user, ("impersonate-users", "g")], Unreadable::Unknown),
            (&[user, ("impersonate-extra-%4", "g")], Unreadable::Text),
            (&[user, ("impersonate-extra-%ff", "g")], Unreadable::Text),
        ] {
            assert_eq!(with(lines), Err(error), "{lines:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            user in "[!-~ä]([ -~]{0,20}[!-~])?",
            groups in prop::collection::vec("[!-~]{1,12}", 0..4),
            key in "\\PC{1,20}",
            values in prop::collection::vec("[!-~]{1,12}", 1..3),
        ) {
            let said = Impersonation { user, uid: None, groups, extra: vec![(key, values)] };
            let mut headers = HeaderMap::new();
            said.write(&mut headers).unwrap();
            prop_assert_eq!(Impersonation::read(&headers).unwrap(), said);
        }
    }
}
