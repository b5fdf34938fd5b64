//! What parsers of other people's bytes promise, each as a function that panics where one breaks its
//! word. There in tests and under cargo-fuzz alone.
//!
//! `cargo test --lib fuzzing::` gives them every file of `tests/fuzz/corpus`, and bytes made from those;
//! `PROPTEST_CASES=1000000` gives them more. `tests/README.md` says how cargo-fuzz does.
#![allow(clippy::unwrap_used, reason = "a promise that is not kept is told by panicking")]

mod wire;

use crate::{cli, hub};

/// A parser's promise about any bytes.
type Property = fn(&[u8]);

/// Calls the property `name`; `tests/fuzz` has a target of each.
///
/// # Panics
/// When it does not hold, or when there is none of this name.
pub fn check(name: &str, bytes: &[u8]) {
    let known = PROPERTIES.iter().find(|(known, _)| *known == name);
    let (_, property) = known.unwrap_or_else(|| panic!("there is no property {name}"));
    property(bytes);
}

/// By the names of their corpora.
const PROPERTIES: [(&str, Property); 15] = [
    ("certificate", wire::certificate),
    ("connect", wire::connect),
    ("header_rules", wire::header_rules),
    ("hello", wire::hello),
    ("impersonation", wire::impersonation),
    ("join_token", wire::join_token),
    ("jwt", hub::authn::fuzzing::jwt),
    ("kubeconfig", cli::fuzzing::kubeconfig),
    ("name", wire::name),
    ("policy", hub::fuzzing::policy),
    ("proxy_protocol", wire::proxy_protocol),
    ("service_path", hub::fuzzing::service_path),
    ("services", hub::fuzzing::services),
    ("target", hub::fuzzing::target),
    ("traceparent", wire::traceparent),
];

/// The headers that these lines are, as far as they are any.
pub(crate) fn headers(lines: &[u8]) -> http::HeaderMap {
    let mut headers = http::HeaderMap::new();
    for line in lines.split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let name = http::HeaderName::from_bytes(&line[..colon]);
        let value = http::HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    headers
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::LazyLock;

    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;

    /// A change that one byte string makes to another.
    type Change = (u8, Index, Index, Vec<u8>);

    fn corpus(name: &str) -> Vec<Vec<u8>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name);
        let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        paths.sort();
        paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
    }

    static CORPORA: LazyLock<Vec<(Property, Vec<Vec<u8>>)>> =
        LazyLock::new(|| PROPERTIES.map(|(name, property)| (property, corpus(name))).into());

    #[test]
    fn the_corpus_holds() {
        for (name, property) in PROPERTIES {
            let files = corpus(name);
            assert!(files.len() >= 3, "{name}: {} files", files.len());
            for file in files {
                assert!(file.len() <= 1024, "{name}: a file of {} bytes", file.len());
                property(&file);
            }
        }
        let folders = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
        for folder in std::fs::read_dir(folders).unwrap() {
            let name = folder.unwrap().file_name().into_string().unwrap();
            assert!(PROPERTIES.iter().any(|(known, _)| *known == name), "nothing reads {name}");
        }
    }

    #[test]
    fn cargo_fuzz_has_a_target_of_each() {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/Cargo.toml");
        let manifest = std::fs::read_to_string(manifest).unwrap();
        let targets = manifest.lines().filter_map(|line| line.strip_prefix("name = "));
        let targets: Vec<&str> = targets.skip(1).map(|name| name.trim_matches('"')).collect();
        assert_eq!(targets, PROPERTIES.map(|(name, _)| name), "tests/fuzz/Cargo.toml");
    }

    fn changed(mut bytes: Vec<u8>, other: &[u8], changes: Vec<Change>) -> Vec<u8> {
        for (kind, at, to, new) in changes {
            let (at, to) = (at.index(bytes.len() + 1), to.index(bytes.len() + 1));
            let (begin, end) = (at.min(to), at.max(to));
            match kind % 6 {
                0 => drop(bytes.splice(begin..begin, new)),
                1 => drop(bytes.splice(begin..(begin + new.len()).min(bytes.len()), new)),
                2 => drop(bytes.drain(begin..end)),
                3 => {
                    let again = bytes[begin..end].to_vec();
                    bytes.splice(end..end, again);
                }
                4 if !other.is_empty() => {
                    let (from, until) = (at % other.len(), to % other.len());
                    let piece = other[from.min(until)..from.max(until)].to_vec();
                    bytes.splice(begin..begin, piece);
                }
                _ => {
                    if let Some(byte) = bytes.get_mut(begin) {
                        *byte ^= 1 << (kind / 6 % 8);
                    }
                }
            }
            bytes.truncate(MOST);
        }
        bytes
    }

    /// What parsers look for.
    fn word() -> impl Strategy<Value = Vec<u8>> {
        let words: &[&[u8]] = &[
            b".",
            b"..",
            b"/",
            b"//",
            b"%2e",
            b"%2F",
            b"%00",
            b"%",
            b"\\",
            b";",
            b"?",
            b"#",
            b":",
            b",",
            b"\n",
            b"\r\n",
            b"\0",
            b"\xff",
            b"\xc3\xa4",
            b"-",
            b"_",
            b"\"",
            b"{",
            b"}",
            b"[",
            b"]",
            b"&a",
            b"*a",
            b"- ",
            b"  ",
            b"null",
            b"-1",
            b"65536",
            b"18446744073709551616",
            b"crit",
            b"alg",
            b"upgrade",
            b"connection",
            b"transfer-encoding",
            b"impersonate-user",
        ];
        let words: Vec<Vec<u8>> = words.iter().map(|word| word.to_vec()).collect();
        prop_oneof![proptest::sample::select(words), prop::collection::vec(any::<u8>(), 0..8)]
    }

    proptest! {
        /// Near what is good, bytes are bad in more than their first place.
        #[test]
        fn bytes_near_the_corpus_hold(
            pick: Index,
            other: Index,
            changes in prop::collection::vec((any::<u8>(), any::<Index>(), any::<Index>(), word()), 0..8),
        ) {
            for (property, files) in &*CORPORA {
                let (one, two): (&Vec<u8>, &Vec<u8>) = (pick.get(files), other.get(files));
                property(&changed(one.clone(), two, changes.clone()));
            }
        }

        #[test]
        fn any_bytes_hold(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            PROPERTIES.iter().for_each(|(_, property)| property(&bytes));
        }
    }

    /// Of a changed input.
    const MOST: usize = 4096;
}
