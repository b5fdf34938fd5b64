//! The main program of every container here: it writes a line each second, and repeats each line
//! that it reads. Several clients may be attached at once; what one says is in everybody's output
//! and in the log.

use std::io;

use bytes::Bytes;
use futures_util::stream::{self, PollNext, StreamExt};
use tokio::sync::mpsc;
use tokio_util::io::StreamReader;
use tokio_util::sync::CancellationToken;

use super::log::Log;
use super::process::Output;

/// Standard input of a main program, for one client.
pub(super) struct Input {
    log: Log,
    line: Vec<u8>,
    terminal: Option<Terminal>,
}

/// What a terminal does to the bytes of one client. The program has no terminal of its own: what it
/// writes goes to several clients.
struct Terminal {
    echo: mpsc::Sender<Bytes>,
    interrupted: CancellationToken,
}

/// Joins a main program: what it reads, and what it writes from now on. The output ends with
/// `ended`. Control-C of a client with a terminal cancels `interrupted`.
pub(super) fn join(
    log: &Log,
    tty: bool,
    ended: CancellationToken,
    interrupted: CancellationToken,
) -> (Input, Output) {
    let written = log.follow(ended).map(Ok::<_, io::Error>).boxed();
    let mut input = Input { log: log.clone(), line: Vec::new(), terminal: None };
    if !tty {
        return (input, Box::new(StreamReader::new(written)));
    }
    let (echo, echoed) = mpsc::channel(ECHO);
    input.terminal = Some(Terminal { echo, interrupted });
    let echoed = stream::unfold(Some(echoed), |mut echoed| async move {
        let piece = echoed.as_mut()?.recv().await;
        // Over when the client has no more input; the output goes on.
        Some((Ok(piece?), echoed))
    });
    // The end of the program's output is the end.
    let written = written.map(|piece| Some(piece.map(|text| crlf(&text))));
    let written = written.chain(stream::iter([None]));
    // What was typed is seen before what the program makes of it.
    let echo_first = |(): &mut ()| PollNext::Left;
    let all = stream::select_with_strategy(echoed.map(Some), written, echo_first);
    let all = all.take_while(|piece| std::future::ready(piece.is_some()));
    (input, Box::new(StreamReader::new(all.filter_map(std::future::ready).boxed())))
}

// === impl Input ===

impl Input {
    /// Takes what a client typed. Waits while the client does not read its echo.
    pub(super) async fn write(&mut self, data: &[u8]) -> io::Result<()> {
        let Some(Terminal { echo, interrupted }) = &self.terminal else {
            self.take(data);
            return Ok(());
        };
        if data.contains(&END_OF_TEXT) {
            interrupted.cancel();
            return Ok(());
        }
        let typed: Vec<u8> =
            data.iter().map(|byte| if *byte == b'\r' { b'\n' } else { *byte }).collect();
        let echoed = echo.send(crlf(&typed)).await;
        self.take(&typed);
        echoed.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn take(&mut self, data: &[u8]) {
        for byte in data {
            if *byte != b'\n' {
                self.line.push(*byte);
            }
            if *byte == b'\n' || self.line.len() == MAX_LINE {
                self.log.repeat(&String::from_utf8_lossy(&self.line));
                self.line.clear();
            }
        }
    }
}

/// Lines as a raw terminal wants them.
fn crlf(text: &[u8]) -> Bytes {
    let mut lines = Vec::with_capacity(text.len() + 2);
    for byte in text {
        if *byte == b'\n' {
            lines.push(b'\r');
        }
        lines.push(*byte);
    }
    lines.into()
}

/// ETX, Control-C.
const END_OF_TEXT: u8 = 3;

/// Pieces of echo that a client has not read.
const ECHO: usize = 4;

/// Bytes of a line; a longer one is several.
const MAX_LINE: usize = 1024;
