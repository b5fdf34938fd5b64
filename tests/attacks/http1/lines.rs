//! Cases 10, 11 and 17: lines of a head.

use super::{Entry, Want, get, run};
use crate::ground::Ground;

fn entry(case: u32, attack: String, want: Want) -> Entry {
    Entry { case, attack, want, paired: get("X-A: 1\r\n\r\n") }
}

pub(super) fn fields() -> Vec<Entry> {
    const SMUGGLED: &str =
        "GET /c1/api/v1/namespaces/s11-smuggled/configmaps HTTP/1.1\r\nHost: h\r\n\r\n";
    let size = SMUGGLED.len();
    // A length to one reader, and a part of X-A to another (RFC 9112 section 5.2).
    let folded = get(&format!("X-A: 1\r\n Content-Length: {size}\r\n\r\n{SMUGGLED}"));
    let mut entries = vec![
        // One reading of it is possible: a line ends there (RFC 9112 section 2.2).
        entry(10, get("X-A: 1\r\n\r\n").replace("\r\n", "\n"), Want::One("")),
        entry(10, get("X-A: 1\nX-B: 2\r\n\r\n"), Want::One("")),
    ];
    for (case, line) in [
        (10, "X-A: 1\rX-B: 2"),
        (10, "X-A: 1\r\r"),
        (10, "X-A: 1\0"),
        (10, "X-A\0: 1"),
        (11, "X-A: 1\r\n 2"),
        (11, "X-A: 1\r\n\tAuthorization: Bearer x"),
        (11, "Foo Bar: 1"),
        (11, "Foo(: 1"),
        (11, "Foo\x01: 1"),
        (11, "Foo\u{e9}: 1"),
        (11, ": 1"),
        (11, "Foo"),
        (11, "X-A : 1"),
    ] {
        entries.push(entry(case, get(&format!("{line}\r\n\r\n")), Want::Malformed));
    }
    entries.push(entry(11, folded, Want::Malformed));
    entries
}

pub(super) fn request_lines() -> Vec<Entry> {
    let line = |line: &str| get("X-A: 1\r\n\r\n").replacen("GET {path} HTTP/1.1", line, 1);
    let long = "x".repeat(70 * 1024);
    let fits = "x".repeat(10 * 1024);
    vec![
        entry(17, line("GET  {path} HTTP/1.1"), Want::Malformed),
        entry(17, line("GET {path}  HTTP/1.1"), Want::Malformed),
        entry(17, line("GET {path} HTTP/1.1 "), Want::Malformed),
        entry(17, line("GET\t{path}\tHTTP/1.1"), Want::Malformed),
        entry(17, line("GET {path} x HTTP/1.1"), Want::Malformed),
        entry(17, line("GET {path} HTTP/1.2"), Want::Malformed),
        entry(17, line("GET {path} HTTP/2.0"), Want::Malformed),
        entry(17, line("GET {path} HTTP/0.9"), Want::Malformed),
        entry(17, line("GET {path} http/1.1"), Want::Malformed),
        entry(17, line("GET {path}"), Want::Malformed),
        entry(17, line("G(T {path} HTTP/1.1"), Want::Malformed),
        entry(17, line("PRI * HTTP/2.0"), Want::Malformed),
        // Methods are written as they are meant (RFC 9110 section 9.1).
        entry(17, line("get {path} HTTP/1.1"), Want::Status(405)),
        entry(17, line(&format!("GET {{path}}?{long} HTTP/1.1")), Want::Malformed),
        entry(17, line(&format!("GET {{path}}?{fits} HTTP/1.1")), Want::One("")),
    ]
}

#[tokio::test]
async fn s10_s11_fields() {
    run(&Ground::start().await, &fields()).await;
}

#[tokio::test]
async fn s17_request_lines() {
    run(&Ground::start().await, &request_lines()).await;
}
