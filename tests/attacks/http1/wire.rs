//! A client that sends bytes and reads answers one by one.

use std::io;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::ground::Ground;
use crate::support::{PATIENCE, within};

/// A connection to the user front, or to a parser that it is compared with.
pub(crate) struct Wire {
    stream: Box<dyn Stream>,
    /// Read and not yet looked at.
    read: Vec<u8>,
}

pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// One answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// In lower case, with what follows the name.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

// === impl Wire ===

impl Wire {
    pub(crate) async fn start(ground: &Ground) -> Self {
        Self::over(ground.session(b"http/1.1").await)
    }

    pub(crate) fn over(stream: impl Stream + 'static) -> Self {
        Self { stream: Box::new(stream), read: Vec::new() }
    }

    /// The far end may have closed already; what it said is still to be read.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        let _ = self.write(bytes).await;
    }

    /// An error says that the far end did not take all.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        within("sending", PATIENCE, async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        })
        .await
    }

    /// The next answer, `None` when the connection ended before its head did.
    pub(crate) async fn answer(&mut self) -> Option<Answer> {
        let end = loop {
            if let Some(end) = self.read.windows(4).position(|part| part == b"\r\n\r\n") {
                break end + 4;
            }
            if !self.more().await {
                return None;
            }
        };
        let head = String::from_utf8(self.read.drain(..end).collect()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let head = head.to_ascii_lowercase();
        let mut answer = Answer { status, head, body: Vec::new() };
        if status < 200 {
            return Some(answer);
        }
        if answer.field("transfer-encoding").is_some() {
            self.chunks(&mut answer.body).await;
        } else {
            let length = answer.field("content-length").map_or(0, |text| text.parse().unwrap());
            self.fill(length).await;
            answer.body = self.read.drain(..length).collect();
        }
        Some(answer)
    }

    async fn chunks(&mut self, body: &mut Vec<u8>) {
        loop {
            let line = loop {
                if let Some(end) = self.read.windows(2).position(|part| part == b"\r\n") {
                    break end;
                }
                assert!(self.more().await, "the body was cut");
            };
            let size = std::str::from_utf8(&self.read[..line]).unwrap();
            let size = usize::from_str_radix(size, 16).unwrap();
            self.fill(line + 2 + size + 2).await;
            body.extend(&self.read[line + 2..line + 2 + size]);
            self.read.drain(..line + 2 + size + 2);
            if size == 0 {
                return;
            }
        }
    }

    /// What comes until the connection ends.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        while self.more().await {}
        std::mem::take(&mut self.read)
    }

    async fn fill(&mut self, length: usize) {
        while self.read.len() < length {
            assert!(self.more().await, "the body was cut: {:?}", self.read);
        }
    }

    /// Whether more came; a reset is an end as well.
    async fn more(&mut self) -> bool {
        let read = within("an answer or an end", PATIENCE, self.stream.read_buf(&mut self.read));
        read.await.is_ok_and(|count| count > 0)
    }
}

// === impl Answer ===

impl Answer {
    /// Whether the far end said that it closes; HTTP/1.0 need not say so.
    pub(crate) fn is_last(&self) -> bool {
        self.head.starts_with("http/1.0") || self.field("connection") == Some("close")
    }

    /// The value of a header.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}
