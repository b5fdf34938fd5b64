//! Connections in memory.

use std::io::ErrorKind;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;

use super::connection::{MAX_STREAMS, SpdyError};
use super::testing::{Client, Event};
use super::*;

type Driver = JoinHandle<Result<(), SpdyError>>;

fn connect() -> (Client<DuplexStream>, Accepted, Driver) {
    let (ours, theirs) = tokio::io::duplex(16 << 10);
    let (reader, writer) = tokio::io::split(theirs);
    let (accepted, driver) = serve(reader, writer);
    (Client::new(ours), accepted, tokio::spawn(driver))
}

#[tokio::test]
async fn bytes_pass_both_ways_and_each_half_closes_alone() {
    let (mut client, mut accepted, _driver) = connect();
    let id = client.open(&[("streamtype", "data")]).await;
    let Stream { mut receive, mut send, .. } = accepted.recv().await.unwrap();
    assert_eq!(client.next().await, Some(Event::Reply(id)));
    client.data(id, b"one").await;
    client.fin(id).await;
    let mut heard = String::new();
    receive.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "one");
    // The client has ended its half; ours goes on.
    send.write_all(b"two").await.unwrap();
    assert_eq!(client.next().await, Some(Event::Data(id, Bytes::from_static(b"two"), false)));
    send.shutdown().await.unwrap();
    assert_eq!(client.next().await, Some(Event::Data(id, Bytes::new(), true)));
    assert_eq!(send.write(b"x").await.unwrap_err().kind(), ErrorKind::BrokenPipe);

    // The other way round: our half first.
    let id = client.open(&[]).await;
    let Stream { mut receive, mut send, .. } = accepted.recv().await.unwrap();
    send.shutdown().await.unwrap();
    client.data(id, b"late").await;
    client.fin(id).await;
    assert_eq!(receive.piece().await.unwrap().unwrap(), "late");
    assert_eq!(receive.piece().await.unwrap(), None);
}

#[tokio::test]
async fn a_reset_and_a_lost_connection_are_no_half_close() {
    let (mut client, mut accepted, _driver) = connect();
    let first = client.open(&[]).await;
    let Stream { mut receive, mut send, .. } = accepted.recv().await.unwrap();
    client.data(first, b"before").await;
    client.reset(first).await;
    assert_eq!(receive.piece().await.unwrap().unwrap(), "before");
    assert_eq!(receive.piece().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(send.write(b"x").await.unwrap_err().kind(), ErrorKind::BrokenPipe);

    // The connection goes on without that stream, and the next one breaks with it.
    client.open(&[]).await;
    let Stream { mut receive, .. } = accepted.recv().await.unwrap();
    drop(client);
    assert_eq!(receive.piece().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(accepted.recv().await.is_none());
}

#[tokio::test]
async fn pings_are_answered_and_a_goodbye_is_said() {
    let (mut client, accepted, driver) = connect();
    client.ping(2).await;
    client.ping(7).await;
    assert_eq!(client.next().await, Some(Event::Ping(7)), "2 would be ours");
    drop(accepted);
    assert_eq!(client.next().await, Some(Event::GoAway));
    let id = client.open(&[]).await;
    assert_eq!(client.next().await, Some(Event::Reset(id, 3)), "refused: nobody takes it");
    drop(client);
    driver.await.unwrap().unwrap();
}

#[tokio::test]
async fn streams_are_numbered_and_bounded() {
    let (mut client, mut accepted, _driver) = connect();
    for wrong in [0x10, 2] {
        client.open_as(wrong, &[]).await;
        assert_eq!(client.next().await, Some(Event::Reset(wrong, 1)));
    }
    let mut streams = Vec::new();
    for _ in 0..MAX_STREAMS {
        let id = client.open(&[]).await;
        streams.push(accepted.recv().await.unwrap());
        assert_eq!(client.next().await, Some(Event::Reply(id)));
    }
    client.open_as(1, &[]).await;
    assert_eq!(client.next().await, Some(Event::Reset(1, 1)), "used already");
    let refused = client.open(&[]).await;
    assert_eq!(client.next().await, Some(Event::Reset(refused, 3)));
    // One that both sides have ended makes room.
    streams[0].send.shutdown().await.unwrap();
    assert_eq!(client.next().await, Some(Event::Data(1, Bytes::new(), true)));
    client.fin(1).await;
    let id = client.open(&[]).await;
    assert_eq!(client.next().await, Some(Event::Reply(id)));
}

#[tokio::test]
async fn a_long_transfer_through_short_queues_is_whole() {
    let (mut client, mut accepted, _driver) = connect();
    let id = client.open(&[]).await;
    let Stream { mut receive, mut send, .. } = accepted.recv().await.unwrap();
    let echo = tokio::spawn(async move {
        tokio::io::copy(&mut receive, &mut send).await.unwrap();
        send.shutdown().await.unwrap();
    });
    assert_eq!(client.next().await, Some(Event::Reply(id)));
    let sent: Vec<u8> = (0..4_000_000u32).map(|number| (number ^ number >> 7) as u8).collect();
    let mut got = Vec::new();
    // Always a little less under way than the two buffers of the connection hold.
    for (number, piece) in sent.chunks(10_000).enumerate() {
        client.data(id, piece).await;
        while got.len() < number * 10_000 {
            let Some(Event::Data(_, piece, false)) = client.next().await else { panic!() };
            got.extend_from_slice(&piece);
        }
    }
    client.fin(id).await;
    loop {
        match client.next().await {
            Some(Event::Data(_, piece, fin)) => {
                got.extend_from_slice(&piece);
                if fin {
                    break;
                }
            }
            other => panic!("{other:?}"),
        }
    }
    echo.await.unwrap();
    assert!(got == sent);
}

#[tokio::test]
async fn nonsense_ends_the_connection() {
    for (bytes, why) in [
        (&[0x80, 2, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1][..], "version 2"),
        (&[0x80, 3, 0, 1, 0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 2][..], "zlib"),
        (b"GET / HTTP/1.1\r\n\r\n", "stream"),
    ] {
        let (mut client, mut accepted, driver) = connect();
        client.io.write_all(bytes).await.unwrap();
        if why == "stream" {
            // A data frame of a stream that is not there is discarded; so are all that follow.
            client.io.shutdown().await.unwrap();
            driver.await.unwrap().unwrap();
        } else {
            let error = driver.await.unwrap().unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        assert!(accepted.recv().await.is_none());
    }
}
