//! Ordinary requests.

use http_body_util::Full;

use super::*;

#[tokio::test]
async fn a_request_with_a_body_comes_back_whole() {
    let tunnel = Tunnel::start(Echo).await;
    let body = Bytes::from((0..3_000_000_u32).map(|i| i as u8).collect::<Vec<_>>());
    let OpenedStream { mut response, send } = tunnel.open(request(Method::POST, "/x"), false).await;
    let sender = tokio::spawn(BodySender::new(Full::new(body.clone()), send));
    let answer = response.receive().await.unwrap();
    assert_eq!(all(answer.into_body()).await, body);
    assert_eq!(sender.await.unwrap().unwrap(), 3_000_000);
    drop(response);
    assert_eq!(tunnel.get("/y").await.into_body(), Bytes::new());
    tunnel.idle().await;
}

#[tokio::test]
async fn an_early_answer_comes_whole_while_the_request_still_flows() {
    let tunnel = Tunnel::start(Scripted).await;
    let OpenedStream { mut response, mut send } =
        tunnel.open(request(Method::PUT, "/early"), false).await;
    // May be too late already: the answer does not wait for it.
    let _ = send.send(Bytes::from(vec![0; 1_000_000])).await;
    let answer = response.receive().await.unwrap();
    assert_eq!(answer.status(), 413);
    assert_eq!(all(answer.into_body()).await, "too much");
    assert_eq!(send.reset_by_peer().await, h2::Reason::NO_ERROR);
    drop((send, response));
    tunnel.idle().await;
}

#[tokio::test]
async fn both_directions_flow_at_once() {
    let tunnel = Tunnel::start(Echo).await;
    let OpenedStream { mut response, mut send } =
        tunnel.open(request(Method::POST, "/"), false).await;
    let mut body = response.receive().await.unwrap().into_body();
    for word in ["one", "two", "three"] {
        send.send(Bytes::from(word)).await.unwrap();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), word);
    }
    send.finish(None).unwrap();
    assert!(body.frame().await.is_none());
}

#[tokio::test]
async fn trailers_of_answers_arrive() {
    let tunnel = Tunnel::start(Scripted).await;
    let mut opened = tunnel.open(get("/trailers"), true).await;
    let body = opened.response.receive().await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["x-end"], "yes");
    assert_eq!(body.to_bytes(), "data");
}

#[tokio::test]
async fn an_exchange_has_a_limit() {
    let tunnel = Tunnel::start(Echo).await;
    for (limit, fits) in [(5, true), (4, false)] {
        let permit = tunnel.opener.try_permit(StreamClass::Short).unwrap();
        let request = request(Method::POST, "/").map(|()| Bytes::from_static(b"hello"));
        let answer = tunnel.opener.exchange(request, limit, permit).await;
        assert_eq!(answer.is_ok_and(|answer| answer.body() == "hello"), fits);
    }
    tunnel.idle().await;
}

#[tokio::test]
async fn a_head_that_http2_forbids_is_refused_at_once() {
    let tunnel = Tunnel::start(Echo).await;
    let permit = tunnel.opener.try_permit(StreamClass::Short).unwrap();
    let mut head = get("/");
    head.headers_mut().insert("connection", http::HeaderValue::from_static("close"));
    let error = tunnel.opener.open(head, true, permit).await.unwrap_err();
    assert!(matches!(error, crate::tunnel::opener::OpenError::Invalid(_)), "{error}");
    assert_eq!(tunnel.opener.load(), 0);
    tunnel.get("/").await;
}

#[tokio::test]
async fn an_unpolled_body_comes_back() {
    let tunnel = Tunnel::start(Scripted).await;
    let opened = tunnel.open(request(Method::POST, "/never"), false).await;
    let sender = BodySender::new(Full::new(Bytes::from_static(b"x")), opened.send);
    assert!(sender.into_unpolled().is_some());
    let opened = tunnel.open(request(Method::POST, "/never"), false).await;
    let mut sender = BodySender::new(Full::new(Bytes::from_static(b"x")), opened.send);
    (&mut sender).await.unwrap();
    assert!(sender.into_unpolled().is_none());
}

#[tokio::test]
async fn a_source_that_fails_resets_the_stream() {
    use futures_util::stream;
    use http_body_util::StreamBody;
    let tunnel = Tunnel::start(Echo).await;
    let OpenedStream { mut response, send } = tunnel.open(request(Method::POST, "/"), false).await;
    let frames = [
        Ok(http_body::Frame::data(Bytes::from_static(b"half"))),
        Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset)),
    ];
    let result = BodySender::new(StreamBody::new(stream::iter(frames)), send).await;
    assert!(matches!(result, Err(crate::tunnel::pump::BodyError::Source(_))));
    let whole = match response.receive().await {
        Ok(answer) => answer.into_body().collect().await.is_ok(),
        Err(_) => false,
    };
    assert!(!whole);
    tunnel.idle().await;
}
