use proptest::prelude::*;

use super::*;

fn client_request() -> Request<()> {
    Request::builder()
        .method(Method::POST)
        .uri("/api/v1/namespaces/a/pods/b/exec?command=ls&stdin=true")
        .header(CONNECTION, "keep-alive, Upgrade")
        .header(UPGRADE_TO, "SPDY/3.1")
        .header(CONTENT_LENGTH, "0")
        .header("x-stream-protocol-version", "v4.channel.k8s.io")
        .body(())
        .unwrap()
}

fn stream_request() -> Request<()> {
    encode_request(client_request()).unwrap().0
}

fn header(name: HeaderName, value: &'static str) -> (HeaderName, HeaderValue) {
    (name, HeaderValue::from_static(value))
}

#[test]
fn a_request_goes_there_and_comes_back() {
    let (stream, upgrade) = encode_request(client_request()).unwrap();
    assert_eq!(upgrade, Upgrade::Spdy);
    assert_eq!(stream.method(), Method::CONNECT);
    assert_eq!(stream.uri().scheme_str(), Some("https"));
    assert_eq!(stream.extensions().get::<Protocol>().unwrap().as_str(), "SPDY/3.1");
    assert!(!stream.headers().contains_key(CONNECTION));
    assert!(!stream.headers().contains_key(CONTENT_LENGTH));
    let (back, upgrade) = decode_request(stream).unwrap();
    assert_eq!(upgrade, Upgrade::Spdy);
    assert_eq!(back.method(), Method::POST);
    assert_eq!(back.version(), Version::HTTP_11);
    assert_eq!(back.uri(), client_request().uri());
    assert_eq!(back.headers()[UPGRADE_TO], "SPDY/3.1");
    assert_eq!(back.headers()[CONNECTION], "Upgrade");
    assert_eq!(back.headers()["x-stream-protocol-version"], "v4.channel.k8s.io");
    assert!(!back.headers().contains_key(METHOD) && !back.headers().contains_key(UPGRADE));
}

#[test]
fn nonsense_from_a_client_is_refused() {
    let with = |name: HeaderName, value: &'static str| {
        let mut request = client_request();
        request.headers_mut().insert(name, HeaderValue::from_static(value));
        encode_request(request).map(|_| ())
    };
    assert_eq!(with(UPGRADE_TO, "WebSocket"), Ok(()));
    assert_eq!(with(UPGRADE_TO, "h2c"), Err(ConnectError::Protocol));
    assert_eq!(with(UPGRADE_TO, "websocket, SPDY/3.1"), Err(ConnectError::Protocol));
    assert_eq!(with(CONNECTION, "keep-alive"), Err(ConnectError::Connection));
    assert_eq!(with(CONTENT_LENGTH, "1"), Err(ConnectError::Body));
    assert_eq!(with(TRANSFER_ENCODING, "chunked"), Err(ConnectError::Body));
    let mut twice = client_request();
    twice.headers_mut().append(UPGRADE_TO, HeaderValue::from_static("SPDY/3.1"));
    assert_eq!(encode_request(twice).map(|_| ()), Err(ConnectError::Protocol));
    let mut connect = client_request();
    *connect.method_mut() = Method::CONNECT;
    assert_eq!(encode_request(connect).map(|_| ()), Err(ConnectError::Method));
}

#[test]
fn nonsense_from_the_hub_is_refused() {
    let changed = |change: &dyn Fn(&mut Request<()>)| {
        let mut request = stream_request();
        change(&mut request);
        decode_request(request).map(|_| ())
    };
    let inserted = |name: HeaderName, value: &'static str| {
        changed(&|request| {
            request.headers_mut().insert(name.clone(), HeaderValue::from_static(value));
        })
    };
    assert_eq!(inserted(METHOD, "GET"), Ok(()));
    assert_eq!(inserted(METHOD, "CONNECT"), Err(ConnectError::Method));
    assert_eq!(inserted(METHOD, "G T"), Err(ConnectError::Method));
    assert_eq!(inserted(UPGRADE, "h2c"), Err(ConnectError::Protocol));
    assert_eq!(inserted(UPGRADE, "websocket"), Err(ConnectError::Stream));
    assert_eq!(inserted(CONTENT_LENGTH, "0"), Err(ConnectError::Body));
    for name in [METHOD, UPGRADE] {
        assert!(changed(&|request| drop(request.headers_mut().remove(&name))).is_err());
        assert!(
            changed(&|request| {
                let value = request.headers()[&name].clone();
                request.headers_mut().append(&name, value);
            })
            .is_err()
        );
    }
    let no_protocol = changed(&|request| drop(request.extensions_mut().remove::<Protocol>()));
    assert_eq!(no_protocol, Err(ConnectError::Stream));
}

#[test]
fn a_switch_is_marked_and_unmarked() {
    let mut granted = Response::new(());
    *granted.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    granted.headers_mut().extend([header(CONNECTION, "Upgrade"), header(UPGRADE_TO, "websocket")]);
    let refused = encode_response(granted.clone(), Upgrade::Spdy);
    assert_eq!(refused.map(|_| ()).unwrap_err(), ConnectError::Answer);
    let Answer::Switched(stream) = encode_response(granted, Upgrade::WebSocket).unwrap() else {
        panic!("not switched");
    };
    assert_eq!(stream.status(), StatusCode::OK);
    let refused = decode_response(stream.clone(), Upgrade::Spdy);
    assert_eq!(refused.map(|_| ()).unwrap_err(), ConnectError::Answer);
    let Answer::Switched(back) = decode_response(stream, Upgrade::WebSocket).unwrap() else {
        panic!("not switched");
    };
    assert_eq!(back.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(back.headers()[UPGRADE_TO], "websocket");
    assert!(!back.headers().contains_key(UPGRADE));
}

#[test]
fn other_answers_pass_and_cannot_pose_as_a_switch() {
    for status in [StatusCode::OK, StatusCode::FORBIDDEN] {
        let mut plain = Response::new(());
        *plain.status_mut() = status;
        // An API server that writes our header gains nothing by it.
        plain.headers_mut().extend([header(UPGRADE, "websocket"), header(CONTENT_LENGTH, "7")]);
        let forged = decode_response(plain.clone(), Upgrade::WebSocket);
        assert!(forged.is_err());
        let Answer::Plain(stream) = encode_response(plain, Upgrade::WebSocket).unwrap() else {
            panic!("switched");
        };
        let Answer::Plain(back) = decode_response(stream, Upgrade::WebSocket).unwrap() else {
            panic!("switched");
        };
        assert_eq!(back.status(), status);
        assert_eq!(back.headers()[CONTENT_LENGTH], "7");
    }
}

proptest! {
    #[test]
    fn every_request_round_trips(
        method in "GET|POST|PUT|DELETE|PATCH",
        websocket in any::<bool>(),
        path in "/[a-z0-9/%._~-]{0,40}",
        query in proptest::option::of("[a-z0-9=&%+]{0,40}"),
        name in "x-[a-z]{1,10}",
        value in "[ -~]{0,40}",
    ) {
        let upgrade = if websocket { Upgrade::WebSocket } else { Upgrade::Spdy };
        let path = query.map_or_else(|| path.clone(), |query| format!("{path}?{query}"));
        prop_assume!(path.parse::<PathAndQuery>().is_ok());
        let request = Request::builder()
            .method(method.as_str())
            .uri(&path)
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE_TO, upgrade.as_str())
            .header(&name, value.trim())
            .body(())
            .unwrap();
        let (stream, _) = encode_request(request.clone()).unwrap();
        let (back, decoded) = decode_request(stream).unwrap();
        prop_assert_eq!(decoded, upgrade);
        prop_assert_eq!(back.method(), request.method());
        prop_assert_eq!(back.uri(), request.uri());
        prop_assert_eq!(back.headers(), request.headers());
    }
}
