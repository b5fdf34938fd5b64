//! A client that speaks plain HTTP to the port of HTTPS: it is told so in its own words, instead of
//! by a connection that breaks.

use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Whether the first byte is that of an HTTP method. A record of TLS begins with its type, 20 to 23
/// (RFC 8446 section 5.1). Waits for that byte, and takes nothing from `socket`.
///
/// # Errors
/// Those of reading.
pub(super) async fn is_spoken(socket: &TcpStream) -> io::Result<bool> {
    let mut first = [0];
    let read = socket.peek(&mut first).await?;
    Ok(read > 0 && first[0].is_ascii_uppercase())
}

/// Says what is wrong, and reads on until the client has heard it and closes. Has no deadline of its
/// own.
///
/// # Errors
/// Those of the connection: nobody is left to tell.
pub(super) async fn refuse(mut socket: TcpStream) -> io::Result<()> {
    socket.write_all(ANSWER.as_bytes()).await?;
    socket.shutdown().await?;
    // A close with bytes unread would throw away what the client has not read yet.
    let mut unheard = [0; 1024];
    for _ in 0..MOST_READS {
        if socket.read(&mut unheard).await? == 0 {
            break;
        }
    }
    Ok(())
}

/// HTTP/1.0, which says that the connection ends, and which every client understands.
const ANSWER: &str = "HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n\
    This port speaks HTTPS, and the request came over plain HTTP: write https:// in its address.\n";
/// Pieces of a request that are thrown away: more than any head has, and an end for a body without one.
const MOST_READS: usize = 64;
