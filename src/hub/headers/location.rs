//! Where an answer may send a client: to its own cluster. Pure.
//!
//! A client that follows a redirect may take its token along. So an answer names a place on the
//! cluster, or of the service, that it came from, or none; and because neither knows the path under
//! which the hub serves it, the hub says it.

use http::header::{HeaderMap, HeaderValue, LOCATION};

use crate::hub::route::is_dot_segment;

/// Makes `Location` one of the client's, or removes it. `root` is what the client's path begins with,
/// without its first slash; none where nothing stands before the peer's own path.
pub(super) fn settle(headers: &mut HeaderMap, root: Option<&str>) {
    if !headers.contains_key(LOCATION) {
        return;
    }
    let mut values = headers.get_all(LOCATION).iter();
    let settled = match (values.next(), values.next()) {
        (Some(one), None) => one.to_str().ok().and_then(|location| inside(location, root)),
        _ => None,
    };
    match settled {
        Some(location) => {
            headers.insert(LOCATION, location);
        }
        None => {
            headers.remove(LOCATION);
        }
    }
}

/// `location` as a client of the hub must read it; none when it leads, or might be read to lead,
/// away from the cluster.
fn inside(location: &str, root: Option<&str>) -> Option<HeaderValue> {
    // Browsers take a backslash for a slash, and drop tabs.
    if location.bytes().any(|byte| byte == b'\\' || !byte.is_ascii_graphic()) {
        return None;
    }
    let path = location.split(['?', '#']).next().unwrap_or_default();
    let mut segments = path.split('/');
    let schemed = segments.next().is_some_and(|first| first.contains(':'));
    if schemed || path.starts_with("//") || path.split('/').any(is_dot_segment) {
        return None;
    }
    let settled = match root {
        Some(root) if path.starts_with('/') => HeaderValue::try_from(format!("/{root}{location}")),
        _ => HeaderValue::try_from(location),
    };
    settled.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(values: &[&str], root: Option<&str>) -> Option<String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(LOCATION, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        settle(&mut headers, root);
        headers.get(LOCATION).map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_path_is_one_of_the_cluster() {
        for (location, through) in [
            ("/api/v1/pods", "/c1/api/v1/pods"),
            ("/api?a=//b/../c:d#/..", "/c1/api?a=//b/../c:d#/.."),
            ("/c2/api", "/c1/c2/api"),
            ("/a:b/c", "/c1/a:b/c"),
            ("pods/x:y", "pods/x:y"),
            ("?page=2", "?page=2"),
            ("", ""),
        ] {
            assert_eq!(settled(&[location], Some("c1")).as_deref(), Some(through));
            assert_eq!(settled(&[location], None).as_deref(), Some(location), "named no cluster");
        }
    }

    #[test]
    fn nothing_leads_away() {
        for location in [
            "https://evil/",
            "https:evil",
            "javascript:alert(1)",
            "//evil/api",
            "/\\evil",
            "\\\\evil",
            "\t//evil",
            "/\t/evil",
            "../../c2/api",
            "..",
            "/../c2/api",
            "/a/%2e%2E/c2",
            "/\u{e9}",
        ] {
            for root in [Some("c1"), None] {
                assert_eq!(settled(&[location], root), None, "{location}");
            }
        }
        assert_eq!(settled(&["/a", "/a"], Some("c1")), None);
    }
}
