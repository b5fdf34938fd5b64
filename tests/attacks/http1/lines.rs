//! Cases 10, 11 and 17: lines of a head.

use super::{Entry, Want, get, run};
use crate::ground::Ground;

fn entry(case: u32, attack: String, want: Want) -> Entry {
    Entry { case, attack, want, paired: get("X-A: 1\r\n\r\n") }
}

#[tokio::test]
async fn s10_s11_fields() {
    let ground = Ground::start().await;
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
    run(&ground, &entries).await;
}

#[tokio::test]
async fn s17_request_lines() {
    let ground = Ground::start().await;
    let line = |line: &str| get("X-A: 1\r\n\r\n").replacen("GET {path} HTTP/1.1", line, 1);
    let long = "x".repeat(70 * 1024);
    let fits = "x".repeat(10 * 1024);
    let entries = vec![
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
    ];
    run(&ground, &entries).await;
}
