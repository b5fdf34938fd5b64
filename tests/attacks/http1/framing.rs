//! Cases 1 to 9: where a body ends must be one question with one answer.

use super::{Entry, Want, post, run};
use crate::ground::Ground;

fn entry(case: u32, attack: &str, want: Want, paired: &str) -> Entry {
    Entry { case, attack: post(attack), want, paired: post(paired) }
}

const CHUNKED: &str = "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
const SIZED: &str = "Content-Length: 5\r\n\r\nhello";

pub(super) fn lengths() -> Vec<Entry> {
    // hyper takes `chunked` for the frame, forgets the length, and ends the connection with the
    // answer (RFC 9112 section 6.3): one request, and what the other reading smuggles is never one.
    const SMUGGLED: &str =
        "POST /c1/api/v1/namespaces/s2-smuggled/configmaps HTTP/1.1\r\nHost: h\r\n\r\n";
    let size = SMUGGLED.len();
    let mut entries = vec![
        entry(
            1,
            "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
            Want::One(""),
            CHUNKED,
        ),
        entry(
            1,
            "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\nG",
            Want::One(""),
            CHUNKED,
        ),
        entry(
            2,
            &format!(
                "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n\
                 {size:x}\r\n{SMUGGLED}\r\n0\r\n\r\n"
            ),
            Want::One(SMUGGLED),
            CHUNKED,
        ),
        // Equal lengths are one length (RFC 9110 section 8.6).
        entry(3, "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", Want::One("hello"), SIZED),
        entry(3, "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", Want::Malformed, SIZED),
        entry(3, "Content-Length: 5, 5\r\n\r\nhello", Want::Malformed, SIZED),
    ];
    for length in
        ["+5", "-1", "0x5", "5e0", "5 5", "000000000000000000005x", "99999999999999999999999", ""]
    {
        let attack = format!("Content-Length: {length}\r\n\r\nhello");
        entries.push(entry(4, &attack, Want::Malformed, SIZED));
    }
    entries
}

pub(super) fn codings() -> Vec<Entry> {
    let body = "\r\n5\r\nhello\r\n0\r\n\r\n";
    let mut entries = Vec::new();
    // The last coding frames the body, so these are read; what is left encoded is refused.
    for coding in [
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    ] {
        entries.push(entry(5, &format!("{coding}{body}"), Want::Status(400), CHUNKED));
    }
    for coding in [
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding:\r\n",
    ] {
        entries.push(entry(5, &format!("{coding}{body}"), Want::Malformed, CHUNKED));
    }
    for coding in [
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding: chun\0ked\r\n",
        "Transfer-Encoding: \x0bchunked\r\n",
        "Transfer-Encoding: chunked\x0b\r\n",
        " Transfer-Encoding: chunked\r\n",
    ] {
        entries.push(entry(6, &format!("{coding}{body}"), Want::Malformed, CHUNKED));
    }
    let old = |text: String| text.replace("HTTP/1.1", "HTTP/1.0");
    entries.push(Entry {
        case: 7,
        attack: old(post(CHUNKED)),
        want: Want::Malformed,
        paired: post(CHUNKED),
    });
    // No length is no body (RFC 9112 section 6.3), also where HTTP/1.0 meant "until I close".
    entries.push(Entry {
        case: 7,
        attack: old(post("\r\nhello")),
        want: Want::One(""),
        paired: old(post(SIZED)),
    });
    entries
}

pub(super) fn chunks() -> Vec<Entry> {
    let chunked = |rest: &str| format!("Transfer-Encoding: chunked\r\n\r\n{rest}");
    let mut entries = Vec::new();
    for size in ["10000000000000001", "0x5", "-1", "+5", "5 5", "", "five"] {
        let attack = chunked(&format!("{size}\r\nhello\r\n0\r\n\r\n"));
        entries.push(entry(8, &attack, Want::Cut, CHUNKED));
    }
    let extension = format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(17 * 1024));
    for rest in [
        "5\nhello\r\n0\r\n\r\n",
        "5;a=\nhello\r\n0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        &extension,
    ] {
        entries.push(entry(9, &chunked(rest), Want::Cut, CHUNKED));
    }
    entries
}

#[tokio::test]
async fn s1_s2_s3_s4_lengths() {
    run(&Ground::start().await, &lengths()).await;
}

#[tokio::test]
async fn s5_s6_s7_transfer_encodings() {
    run(&Ground::start().await, &codings()).await;
}

#[tokio::test]
async fn s8_s9_chunks() {
    run(&Ground::start().await, &chunks()).await;
}
