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

#[tokio::test]
async fn half_a_pair_has_half_a_minute() {
    let (_runtime, mut client, _directory) = forwarding().await;
    let stream = |kind, request| [("streamtype", kind), ("port", "7"), ("requestid", request)];
    let lonely = client.open(&stream("data", "1")).await;
    let paired = open(&mut client, "7", "2").await;
    client.data(paired.1, b"here").await;
    tokio::time::pause();
    let mut heard = Vec::new();
    let reset = loop {
        match client.next().await {
            Some(Event::Reset(stream, _)) => break stream,
            Some(Event::Data(_, piece, false)) => heard.extend_from_slice(&piece),
            Some(Event::Reply(_)) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(reset, lonely);
    // The pair is older than that by now, and goes on.
    client.data(paired.1, b" still").await;
    client.fin(paired.1).await;
    let ended = client.until_ended(2).await;
    heard.extend_from_slice(&ended[&paired.1]);
    assert_eq!(heard, b"here still");
}

#[tokio::test]
async fn halves_without_a_partner_take_no_places_for_ever() {
    let (_runtime, mut client, _directory) = forwarding().await;
    tokio::time::pause();
    // More than a connection may have at one time, were they kept.
    for number in 0..6 * 60 {
        let request = number.to_string();
        let data = [("streamtype", "data"), ("port", "7"), ("requestid", request.as_str())];
        client.open(&data).await;
        while !matches!(client.next().await, Some(Event::Reset(_, 5))) {}
    }
}

/// The next message of a channel that is neither a greeting nor empty.
async fn of_channel(socket: &mut Socket, channel: u8) -> Vec<u8> {
    loop {
        let message = tokio::time::timeout(PATIENCE, socket.next()).await.unwrap();
        let message = message.unwrap().unwrap().into_data();
        if message[0] == channel && message.len() != 3 {
            return message[1..].to_vec();
        }
    }
}

#[tokio::test]
async fn channels_carry_a_connection_to_each_port() {
    let (runtime, _directory) = runtime();
    let query = "ports=7%2C8080&ports=81";
    let mut socket =
        upgrade(&runtime, Subresource::PortForward, "v4.channel.k8s.io", query).await.unwrap();
    let mut greetings = Vec::new();
    while greetings.len() < 6 {
        let message = socket.next().await.unwrap().unwrap().into_data();
        if message.len() == 3 {
            greetings.push((message[0], u16::from_le_bytes([message[1], message[2]])));
        } else {
            let why = String::from_utf8_lossy(&message[1..]).into_owned();
            assert!(message[0] == 5 && why.contains("localhost:81"), "{message:?}");
        }
    }
    greetings.sort_unstable();
    assert_eq!(greetings, [(0, 7), (1, 7), (2, 8080), (3, 8080), (4, 81), (5, 81)]);
    send(&mut socket, 0, b"echo").await;
    assert_eq!(of_channel(&mut socket, 0).await, b"echo");
    let request = b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n";
    send(&mut socket, 2, request).await;
    let answer = String::from_utf8(of_channel(&mut socket, 2).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    // A port that ended, one that nobody named and a reason are nobody's; the others go on.
    for channel in [2, 3, 4, 6, 255] {
        send(&mut socket, channel, b"lost").await;
    }
    send(&mut socket, 0, b"more").await;
    assert_eq!(of_channel(&mut socket, 0).await, b"more");
    socket.close(None).await.unwrap();
    while socket.next().await.is_some() {}
    until("the session ends", || runtime.shared.permits.available_permits() == MAX_SESSIONS).await;
}

#[tokio::test]
async fn channels_end_with_their_last_service_and_with_the_pod() {
    let (runtime, _directory) = runtime();
    let protocol = "v4.channel.k8s.io";
    for (port, request) in [("80", &b"GET / HTTP/1.0\r\n\r\n"[..]), ("81", b""), ("7", b"")] {
        let query = format!("ports={port}");
        let socket = upgrade(&runtime, Subresource::PortForward, protocol, &query).await;
        let mut socket = socket.unwrap();
        send(&mut socket, 0, request).await;
        if port == "7" {
            runtime.stop("default", "web");
        }
        let closed =
            async { while !matches!(socket.next().await, Some(Ok(Message::Close(Some(_))))) {} };
        tokio::time::timeout(PATIENCE, closed).await.unwrap();
    }
    let refused = upgrade(&runtime, Subresource::PortForward, protocol, "").await;
    assert!(matches!(refused, Err(Error::Http(response)) if response.status() == 400));
}
