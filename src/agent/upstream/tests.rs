//! Against a stub over real TLS on loopback.

use std::time::Duration;

use http::header::{AUTHORIZATION, HOST};
use http::{HeaderValue, StatusCode};
use http_body_util::{BodyExt, Full};

use super::*;
use crate::agent::hello::no_body;
use crate::agent::testing::Stub;

fn get(path: &str) -> Request<RequestBody> {
    Request::get(path).header(AUTHORIZATION, "Bearer t").body(no_body()).unwrap()
}

async fn text(answer: Answer) -> String {
    let body = answer.response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

#[tokio::test]
async fn speaks_what_alpn_gives() {
    for (alpn, version) in [("h2", Version::HTTP_2), ("http/1.1", Version::HTTP_11)] {
        let stub = Stub::start(&[alpn]).await;
        let server = stub.with_token("own");
        let upstream = Upstream::new(&server).unwrap();
        for _ in 0..3 {
            let answer = upstream.send(Account::Caller, get("/version?a=%2F")).await.unwrap();
            assert_eq!(text(answer).await, r#"{"gitVersion":"v1.99.0"}"#);
        }
        let seen = stub.last();
        assert_eq!(seen.version, version);
        let host = seen.headers.get(HOST).map(|host| host.to_str().unwrap().to_owned());
        if version == Version::HTTP_2 {
            assert_eq!(seen.uri, format!("https://{}/version?a=%2F", server.authority()));
            assert_eq!(seen.connection, 0, "one connection serves them all");
        } else {
            assert_eq!(seen.uri, "/version?a=%2F");
            assert_eq!(host, Some(server.authority()));
        }
    }
}

#[tokio::test]
async fn a_body_goes_through_both_protocols() {
    for alpn in ["h2", "http/1.1"] {
        let stub = Stub::start(&[alpn]).await;
        let upstream = Upstream::new(&stub.with_token("own")).unwrap();
        let body = Full::new(Bytes::from(vec![7; 1 << 20])).map_err(|never| match never {});
        let request = Request::post("/echo").body(body.boxed_unsync()).unwrap();
        let answer = upstream.send(Account::Caller, request).await.unwrap();
        assert_eq!(text(answer).await.len(), 1 << 20);
    }
}

#[tokio::test]
async fn many_watches_open_more_connections() {
    let stub = Stub::start(&["h2"]).await;
    let upstream = Upstream::new(&stub.with_token("own")).unwrap();
    let mut watches = Vec::new();
    for _ in 0..260 {
        watches.push(upstream.send(Account::Caller, get("/watch")).await.unwrap());
    }
    assert_eq!(stub.last().connection, 1, "200 streams are hyper's own limit");
    watches.clear();
    let answer = upstream.send(Account::Caller, get("/version")).await.unwrap();
    assert_eq!(answer.response.status(), StatusCode::OK);
    assert!(stub.last().connection <= 1, "places were given back");
}

#[tokio::test]
async fn a_hundred_callers_keep_their_http1_connections() {
    let stub = Stub::start(&["http/1.1"]).await;
    let upstream = Upstream::new(&stub.with_token("own")).unwrap();
    for _ in 0..3 {
        let mut answers = Vec::new();
        for _ in 0..100 {
            answers.push(upstream.send(Account::Caller, get("/version")).await.unwrap());
        }
        for answer in answers {
            text(answer).await;
        }
        // Until the connections have seen the ends of their answers.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(stub.last().connection, 99, "those of the first round serve the others");
}

#[tokio::test]
async fn only_the_agents_own_requests_present_its_certificate() {
    let stub = Stub::start(&["h2", "http/1.1"]).await;
    let upstream = Upstream::new(&stub.with_certificate()).unwrap();
    for (account, presented) in [(Account::Agent, true), (Account::Caller, false)] {
        drop(upstream.send(account, get("/version")).await.unwrap());
        assert_eq!(stub.last().certificate, presented);
        let (response, _driver) = upstream.send_upgrade(account, get("/other")).await.unwrap();
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        assert_eq!(stub.last().certificate, presented, "upgrades too");
    }
}

#[tokio::test]
async fn an_unreachable_server_is_told_apart_from_a_lost_one() {
    let stub = Stub::start(&["h2"]).await;
    let server = stub.with_token("own");
    let upstream = Upstream::new(&server).unwrap();
    let hanging = upstream.send(Account::Caller, get("/hang"));
    let lost = tokio::spawn({
        let upstream = upstream.clone();
        async move { upstream.send(Account::Caller, get("/hang")).await.err().unwrap() }
    });
    tokio::time::timeout(Duration::from_millis(300), hanging).await.err().unwrap();
    drop(stub);
    assert_eq!(lost.await.unwrap().fault(), Fault::Interrupted);
    let error = upstream.send(Account::Caller, get("/version")).await.err().unwrap();
    assert_eq!(error.fault(), Fault::Unreachable, "{error}");
}

#[tokio::test]
async fn the_wrong_ca_is_no_api_server() {
    let (stub, other) = (Stub::start(&["h2"]).await, Stub::start(&["h2"]).await);
    let mut server = stub.with_token("own");
    assert!(Upstream::new(&server).unwrap().send(Account::Caller, get("/version")).await.is_ok());
    server.ca_pem = other.with_token("own").ca_pem;
    let outcome = Upstream::new(&server).unwrap().send(Account::Caller, get("/version")).await;
    assert_eq!(outcome.err().unwrap().fault(), Fault::Unreachable);
    assert_eq!(stub.count(), 1);
}

#[tokio::test]
async fn a_replaced_ca_file_is_followed() {
    let stub = Stub::start(&["h2", "http/1.1"]).await;
    let other = Stub::start(&["h2"]).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut server = stub.with_token("own");
    let good = std::mem::replace(&mut server.ca_pem, other.with_token("own").ca_pem);
    std::fs::write(file.path(), &server.ca_pem).unwrap();
    server.ca_file = Some(file.path().into());
    let upstream = Upstream::new(&server).unwrap();
    assert!(upstream.send(Account::Caller, get("/version")).await.is_err());
    std::fs::write(file.path(), &good).unwrap();
    assert!(upstream.send(Account::Caller, get("/version")).await.is_ok());
    std::fs::write(file.path(), "half a file").unwrap();
    let (response, _driver) = upstream.send_upgrade(Account::Caller, get("/x")).await.unwrap();
    assert_eq!(response.status(), StatusCode::FORBIDDEN, "the last good one is kept");
}

#[tokio::test]
async fn a_cancelled_request_ends_at_the_api_server() {
    for alpn in ["h2", "http/1.1"] {
        let stub = Stub::start(&[alpn]).await;
        let upstream = Upstream::new(&stub.with_token("own")).unwrap();
        let request = upstream.send(Account::Caller, get("/hang"));
        tokio::time::timeout(Duration::from_millis(300), request).await.err().unwrap();
        assert_eq!(stub.count(), 1);
        let ended = tokio::time::timeout(Duration::from_secs(2), stub.given_up.notified()).await;
        assert!(ended.is_ok(), "{alpn}");
    }
}

#[test]
fn the_host_must_fit_a_url() {
    let server = |host: &str| ApiServer {
        host: host.to_owned(),
        port: 443,
        server_name: "x".into(),
        ca_pem: Bytes::new(),
        ca_file: None,
        credentials: Credentials::Token(zeroize::Zeroizing::new("t".into())),
    };
    let bad = Upstream::new(&server("a b")).err().unwrap();
    assert!(matches!(bad, UpstreamConfigError::Host(_)));
    assert!(HeaderValue::from_str(&server("::1").authority()).is_ok());
}
