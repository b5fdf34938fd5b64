//! port-forward, over both carriers.

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::{CopyToBytes, SinkWriter, StreamReader};

use super::super::spdy::testing::{Client, Event};
use super::*;

/// Opens the two streams of a connection; returns error and data.
async fn open<IO>(client: &mut Client<IO>, port: &str, request: &str) -> (u32, u32)
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut stream = async |kind: &str| {
        client.open(&[("streamtype", kind), ("port", port), ("requestid", request)]).await
    };
    (stream("error").await, stream("data").await)
}

async fn forwarding() -> (PodRuntime, Client<impl AsyncRead + AsyncWrite + Unpin>, tempfile::TempDir)
{
    let (runtime, directory) = runtime();
    let protocols = ["portforward.k8s.io"];
    let client = spdy::upgrade(&runtime, Subresource::PortForward, &protocols, "").await;
    (runtime, client.unwrap(), directory)
}

/// Sends a text and the end, and returns what comes back.
async fn ask<IO>(client: &mut Client<IO>, port: &str, text: &[u8]) -> String
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let (error, data) = open(client, port, port).await;
    client.fin(error).await;
    client.data(data, text).await;
    client.fin(data).await;
    let ended = tokio::time::timeout(PATIENCE, client.until_ended(2)).await.unwrap();
    assert_eq!(ended[&error], b"");
    String::from_utf8(ended[&data].clone()).unwrap()
}

#[tokio::test]
async fn services_answer_over_spdy() {
    let (_runtime, mut client, _directory) = forwarding().await;
    assert_eq!(ask(&mut client, "7", b"hello").await, "hello");
    assert_eq!(ask(&mut client, "9", b"hello").await, "");
    let request = b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n";
    let answer = ask(&mut client, "8080", request).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("hello from web\n"));
    let request =
        b"POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc";
    assert!(ask(&mut client, "80", request).await.ends_with("\r\n\r\nabc"));
}

#[tokio::test]
async fn services_answer_over_a_websocket() {
    let (runtime, _directory) = runtime();
    let protocol = "SPDY/3.1+portforward.k8s.io";
    let socket = upgrade(&runtime, Subresource::PortForward, protocol, "").await.unwrap();
    let (write, read) = socket.split();
    let read = read.map(|message| message.map(Message::into_data).map_err(std::io::Error::other));
    let write = write.sink_map_err(std::io::Error::other).with(|bytes: bytes::Bytes| {
        std::future::ready(Ok::<_, std::io::Error>(Message::binary(bytes)))
    });
    let io = tokio::io::join(StreamReader::new(read), SinkWriter::new(CopyToBytes::new(write)));
    let mut client = Client::new(io);
    assert_eq!(ask(&mut client, "7", b"hello").await, "hello");
    let long = "0123456789".repeat(1000);
    assert_eq!(ask(&mut client, "7", long.as_bytes()).await, long);
}

#[tokio::test]
async fn a_port_without_a_service_is_explained() {
    let (_runtime, mut client, _directory) = forwarding().await;
    let (error, data) = open(&mut client, "81", "1").await;
    let ended = client.until_ended(2).await;
    let why = String::from_utf8_lossy(&ended[&error]);
    assert!(why.contains("localhost:81") && why.contains("7, 9, 19, 80, 8080"), "{why}");
    assert_eq!(ended[&data], b"");
    // The client and its other connections go on.
    assert_eq!(ask(&mut client, "7", b"on").await, "on");
}

#[tokio::test]
async fn streams_are_paired_by_their_request_and_end_alone() {
    let (runtime, mut client, _directory) = forwarding().await;
    let stream = |kind, request| [("streamtype", kind), ("port", "7"), ("requestid", request)];
    let first = client.open(&stream("data", "1")).await;
    let second = client.open(&stream("data", "2")).await;
    client.open(&stream("error", "2")).await;
    client.data(second, b"two").await;
    let mut heard = None;
    while heard.is_none() {
        match client.next().await {
            Some(Event::Data(stream, piece, false)) => heard = Some((stream, piece)),
            Some(Event::Reply(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(heard.unwrap(), (second, "two".into()));
    let error = client.open(&stream("error", "1")).await;
    client.reset(second).await;
    client.data(first, b"one").await;
    client.fin(first).await;
    let ended = tokio::time::timeout(PATIENCE, client.until_ended(3)).await.unwrap();
    assert_eq!((&ended[&first][..], &ended[&error][..]), (&b"one"[..], &b""[..]));

    runtime.stop("default", "web");
    while client.next().await.is_some_and(|event| event != Event::GoAway) {}
    drop(client);
    until("the session ends", || runtime.shared.permits.available_permits() == MAX_SESSIONS).await;
}

#[tokio::test]
async fn the_generator_stops_with_its_reader() {
    let (_runtime, mut client, _directory) = forwarding().await;
    let (_, data) = open(&mut client, "19", "1").await;
    let mut text = Vec::new();
    while text.len() < 1 << 20 {
        match client.next().await {
            Some(Event::Data(stream, piece, false)) => {
                assert_eq!(stream, data);
                text.extend_from_slice(&piece);
            }
            Some(Event::Reply(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(text.starts_with(b" !\"#$%&") && text[72..74] == *b"\r\n");
    client.fin(data).await;
    tokio::time::timeout(PATIENCE, client.until_ended(2)).await.unwrap();
}
