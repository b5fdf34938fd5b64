//! The hub's end of a tunnel, the agent's handler, and a stub of an API server.

use std::time::Duration;

use http::Method;
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::agent::link::Greeting;
use crate::agent::presence::{Limit, Presence};
use crate::agent::testing::Stub;
use crate::kubernetes::ApiServer;
use crate::tunnel::headers::{METHOD, MODE, UPGRADE};
use crate::tunnel::hello::{AgentHello, LEAVE_PATH, PATH, REPLICAS_PATH, SURPLUS, VERSION};
use crate::tunnel::opener::{OpenedStream, Opener, StreamClass};
use crate::tunnel::server;
use crate::tunnel::settings::Settings;

mod services;

/// A tunnel to an agent of `api`.
struct Tunnel {
    opener: Opener,
    link: Link,
    service: Arc<Service>,
    _tasks: [AbortOnDropHandle<()>; 2],
}

impl Tunnel {
    async fn to(api: &ApiServer) -> Self {
        Self::letting_in(Some(ImpersonationRule::default()), api).await
    }

    async fn letting_in(rule: Option<ImpersonationRule>, api: &ApiServer) -> Self {
        Self::of_owner(rule, Exposure::default(), api).await
    }

    async fn of_owner(
        rule: Option<ImpersonationRule>,
        exposure: Exposure,
        api: &ApiServer,
    ) -> Self {
        let accesses = Accesses::to(api.clone()).unwrap();
        let greeter = Greeter::new(
            "agent-1".into(),
            vec!["aud".into()],
            vec!["iss".into()],
            accesses.clone(),
        );
        let service = Service::new(accesses, greeter, Metrics::new(), rule, exposure);
        let service = Arc::new(service.unwrap());
        let place = Presence::new(service.metrics.tunnels.clone()).place();
        let link = Link::new(Arc::new(place), Limit { tunnels: 1, instead_of: None });
        let handler = TunnelHandler { service: service.clone(), link: link.clone() };
        let (near, far) = tokio::io::duplex(256 << 10);
        let agent = tokio::spawn(async move {
            server::serve(far, &Settings::default(), handler, std::future::pending()).await;
        });
        let (opener, driver) = Opener::handshake(near, &Settings::default()).await.unwrap();
        let hub = tokio::spawn(async move {
            driver.await;
        });
        Self {
            opener,
            link,
            service,
            _tasks: [AbortOnDropHandle::new(agent), AbortOnDropHandle::new(hub)],
        }
    }

    async fn open(&self, head: Request<()>, end: bool) -> OpenedStream {
        let permit = self.opener.try_permit(StreamClass::Long).unwrap();
        self.opener.open(head, end, permit).await.unwrap()
    }

    async fn exchange(&self, head: Request<()>, body: &'static str) -> Response<Bytes> {
        let permit = self.opener.try_permit(StreamClass::Short).unwrap();
        let request = head.map(|()| Bytes::from_static(body.as_bytes()));
        self.opener.exchange(request, 1 << 20, permit).await.unwrap()
    }

    fn counted(&self, labels: &str) -> bool {
        self.service.metrics.render().contains(&format!("requests_total{{{labels}}}"))
    }
}

fn request(mode: &str, path: &str) -> Request<()> {
    Request::builder()
        .uri(format!("https://cluster{path}"))
        .header(MODE, mode)
        .header("authorization", "Bearer callers")
        .header("impersonate-user", "root")
        .header("cluster-proxy-later", "x")
        .body(())
        .unwrap()
}

fn fault(response: &Response<Bytes>) -> Option<Fault> {
    let fault = Fault::from_headers(response.headers())?;
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
    assert!(response.body().is_empty(), "the hub makes the body");
    Some(fault)
}

#[tokio::test]
async fn the_callers_token_passes_and_nothing_of_the_wire() {
    let stub = Stub::start(&["h2", "http/1.1"]).await;
    let tunnel = Tunnel::to(&stub.with_token("own")).await;
    let mut echo = request("caller", "/echo?q=%41&r");
    *echo.method_mut() = Method::POST;
    let response = tunnel.exchange(echo, "hello").await;
    assert_eq!(&response.body()[..], b"hello");
    let seen = stub.last();
    assert_eq!(seen.method, Method::POST);
    assert!(seen.uri.ends_with("/echo?q=%41&r"), "{}", seen.uri);
    assert_eq!(seen.headers["authorization"], "Bearer callers");
    assert_eq!(seen.headers["impersonate-user"], "root");
    let ours = |headers: &HeaderMap| {
        headers.keys().any(|name| name.as_str().starts_with(crate::tunnel::headers::PREFIX))
    };
    assert!(!ours(&seen.headers));
    let mut answer = response.headers().clone();
    assert!(crate::tunnel::headers::took(&answer).is_some(), "{answer:?}");
    answer.remove(TOOK);
    assert!(!ours(&answer), "the API server said cluster-proxy-mode");
    assert_eq!(response.headers()["warning"], "299 - kept");
    assert!(tunnel.counted(r#"mode="caller",outcome="2xx""#));
}

#[tokio::test]
async fn the_agents_token_replaces_every_other_identity() {
    let stub = Stub::start(&["h2"]).await;
    let tunnel = Tunnel::to(&stub.with_token("own")).await;
    let response = tunnel.exchange(request("agent", "/version"), "").await;
    assert_eq!(response.status(), StatusCode::OK);
    let seen = stub.last();
    assert_eq!(seen.headers["authorization"], "Bearer own");
    assert!(!seen.headers.contains_key("impersonate-user"));
}

#[tokio::test]
async fn a_request_that_breaks_the_rules_reaches_nobody() {
    let stub = Stub::start(&["h2"]).await;
    let tunnel = Tunnel::to(&stub.with_token("own")).await;
    let mut anonymous = request("caller", "/version");
    anonymous.headers_mut().remove("authorization");
    let mut none = request("caller", "/version");
    none.headers_mut().remove(MODE);
    let mut twice = request("caller", "/version");
    twice.headers_mut().append(MODE, HeaderValue::from_static("agent"));
    for bad in [anonymous, none, twice, request("root", "/")] {
        let response = tunnel.exchange(bad, "").await;
        assert_eq!(fault(&response), Some(Fault::Refused));
    }
    assert_eq!(stub.count(), 0);
    let response = tunnel.exchange(request("caller", "/version"), "").await;
    assert_eq!(fault(&response), None);
}

#[tokio::test]
async fn whom_the_owner_lets_in_is_who_the_agent_speaks_for() {
    let stub = Stub::start(&["h2"]).await;
    let api = stub.with_token("own");
    let tunnel = Tunnel::to(&api).await;
    let of = |lines: &[(&'static str, &'static str)]| {
        let mut request = request("impersonate", "/version");
        request.headers_mut().remove("impersonate-user");
        for (name, value) in lines {
            request.headers_mut().append(*name, HeaderValue::from_static(value));
        }
        request
    };
    let jane = ("impersonate-user", "cluster:hub:jane");
    for bad in [
        &[] as &[_],
        &[("impersonate-user", "root")],
        &[("impersonate-user", "system:admin")],
        &[jane, jane],
        &[jane, ("impersonate-group", "system:masters")],
        &[jane, ("impersonate-group", "cluster:hub:a"), ("impersonate-group", "a")],
        &[jane, ("impersonate-uid", "7")],
        &[jane, ("impersonate-extra-scopes", "x")],
        &[jane, ("impersonate-user-too", "x")],
    ] {
        let response = tunnel.exchange(of(bad), "").await;
        assert_eq!(fault(&response), Some(Fault::NotImpersonated), "{bad:?}");
    }
    let nobody = Tunnel::letting_in(None, &api).await;
    let response = nobody.exchange(of(&[jane]), "").await;
    assert_eq!(fault(&response), Some(Fault::NotImpersonated));
    assert_eq!(stub.count(), 0, "its token was not used");
    assert!(tunnel.counted(r#"mode="impersonate",outcome="not-impersonated""#));

    let lines = [jane, ("impersonate-group", "cluster:hub:system:masters")];
    let response = tunnel.exchange(of(&lines), "").await;
    assert_eq!(fault(&response), None);
    let seen = stub.last();
    assert_eq!(seen.headers["authorization"], "Bearer own");
    for (name, value) in lines {
        assert_eq!(seen.headers[name], value);
    }
    // A 401 is about the agent's token, not about theirs.
    let mut refused = of(&[jane]);
    *refused.uri_mut() = "https://cluster/unauthorized".parse().unwrap();
    assert_eq!(fault(&tunnel.exchange(refused, "").await), Some(Fault::AgentRefused));
}

#[tokio::test]
async fn only_a_401_to_the_agents_own_token_is_a_fault() {
    let stub = Stub::start(&["h2"]).await;
    let tunnel = Tunnel::to(&stub.with_token("own")).await;
    let response = tunnel.exchange(request("agent", "/unauthorized"), "").await;
    assert_eq!(fault(&response), Some(Fault::AgentRefused));
    let response = tunnel.exchange(request("caller", "/unauthorized"), "").await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(&response.body()[..], b"no");
    let response = tunnel.exchange(request("agent", "/forbidden"), "").await;
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn redirects_come_back_and_trailers_too() {
    let stub = Stub::start(&["h2"]).await;
    let tunnel = Tunnel::to(&stub.with_token("own")).await;
    let response = tunnel.exchange(request("caller", "/redirect"), "").await;
    assert_eq!(response.status(), StatusCode::FOUND);
    assert_eq!(stub.count(), 1, "not followed");
    let mut opened = tunnel.open(request("caller", "/trailers"), true).await;
    let body = opened.response.receive().await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["checksum"], "42");
}

#[tokio::test]
async fn hello_and_leave() {
    let stub = Stub::start(&["h2"]).await;
    let tunnel = Tunnel::to(&stub.with_token("own")).await;
    let hello = |body: &'static str| {
        let mut hello = request("tunnel", PATH);
        *hello.method_mut() = Method::POST;
        tunnel.exchange(hello, body)
    };
    assert_eq!(fault(&hello("{}").await), Some(Fault::Refused));
    assert!(tunnel.link.greeting.borrow().is_none());
    let response =
        hello(r#"{"version":1,"replica":"r1","hubVersion":"0","cluster":"c1","more":1}"#).await;
    let agent: AgentHello = serde_json::from_slice(response.body()).unwrap();
    assert_eq!(agent.version, VERSION);
    assert_eq!(agent.api_server_version.as_deref(), Some("v1.99.0"));
    assert_eq!(
        (&agent.audiences[..], &agent.issuers[..]),
        (&["aud".into()][..], &["iss".into()][..])
    );
    let greeting = |living: &[&str], welcome| {
        let living = living.iter().map(|id| (*id).to_owned()).collect();
        Some(Greeting { replica: "r1".to_owned(), living, welcome })
    };
    assert_eq!(*tunnel.link.greeting.borrow(), greeting(&[], true));
    assert_eq!(stub.last().headers["authorization"], "Bearer own");

    let told = |body: &'static str| {
        let mut told = request("tunnel", REPLICAS_PATH);
        *told.method_mut() = Method::POST;
        tunnel.exchange(told, body)
    };
    assert_eq!(fault(&told(r#"{"replicas":[1]}"#).await), Some(Fault::Refused));
    assert_eq!(told(r#"{"replicas":["r1","r2"]}"#).await.status(), StatusCode::NO_CONTENT);
    assert_eq!(*tunnel.link.greeting.borrow(), greeting(&["r1", "r2"], true));

    // One tunnel was wanted, and this is one more.
    let surplus =
        hello(r#"{"version":1,"replica":"r1","replicas":["r3"],"hubVersion":"0","cluster":"c1"}"#);
    assert_eq!(surplus.await.status(), SURPLUS);
    assert_eq!(*tunnel.link.greeting.borrow(), greeting(&["r3"], false));

    assert!(!tunnel.link.leave.is_cancelled());
    let mut leave = request("tunnel", LEAVE_PATH);
    *leave.method_mut() = Method::POST;
    assert_eq!(tunnel.exchange(leave, "").await.status(), StatusCode::NO_CONTENT);
    assert!(tunnel.link.leave.is_cancelled());
    assert_eq!(fault(&tunnel.exchange(request("tunnel", "/api"), "").await), Some(Fault::Refused));
}

#[tokio::test]
async fn an_unreachable_api_server_is_said_and_the_tunnel_lives() {
    let stub = Stub::start(&["h2"]).await;
    let api = stub.with_token("own");
    drop(stub);
    let tunnel = Tunnel::to(&api).await;
    let response = tunnel.exchange(request("caller", "/version"), "").await;
    assert_eq!(fault(&response), Some(Fault::Unreachable));
    assert!(!tunnel.opener.is_closed());
    assert!(tunnel.counted(r#"mode="caller",outcome="unreachable""#));
}

#[tokio::test]
async fn an_answer_may_come_before_the_body_has() {
    for alpn in ["h2", "http/1.1"] {
        let stub = Stub::start(&[alpn]).await;
        let tunnel = Tunnel::to(&stub.with_token("own")).await;
        let mut head = request("caller", "/early");
        *head.method_mut() = Method::POST;
        let mut opened = tunnel.open(head, false).await;
        opened.send.send(Bytes::from_static(b"the beginning")).await.unwrap();
        let answer = tokio::time::timeout(PATIENCE, opened.response.receive()).await.unwrap();
        let body = answer.unwrap().into_body().collect().await.unwrap().to_bytes();
        assert_eq!(&body[..], b"early", "{alpn}");
    }
}

#[tokio::test]
async fn a_caller_who_leaves_ends_the_request_at_the_api_server() {
    for alpn in ["h2", "http/1.1"] {
        let stub = Stub::start(&[alpn]).await;
        let tunnel = Tunnel::to(&stub.with_token("own")).await;
        let mut opened = tunnel.open(request("caller", "/watch"), true).await;
        let mut body = opened.response.receive().await.unwrap().into_body();
        assert!(body.frame().await.unwrap().is_ok());
        drop(body);
        drop(opened);
        let ended = tokio::time::timeout(PATIENCE, stub.given_up.notified()).await;
        assert!(ended.is_ok(), "a watch, {alpn}");

        let opened = tunnel.open(request("caller", "/hang"), true).await;
        while stub.count() < 2 {
            tokio::task::yield_now().await;
        }
        drop(opened);
        let ended = tokio::time::timeout(PATIENCE, stub.given_up.notified()).await;
        assert!(ended.is_ok(), "before the head, {alpn}");
    }
}

fn upgrade(path: &str) -> Request<()> {
    let mut head = request("caller", path);
    *head.method_mut() = Method::CONNECT;
    head.headers_mut().insert(METHOD, HeaderValue::from_static("POST"));
    head.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
    head.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
    head
}

#[tokio::test]
async fn an_upgrade_carries_bytes_both_ways_and_ends_cleanly() {
    let stub = Stub::start(&["h2", "http/1.1"]).await;
    let tunnel = Tunnel::to(&stub.with_token("own")).await;
    let mut opened = tunnel.open(upgrade("/upgrade?command=sh"), false).await;
    let response = opened.response.receive().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()[UPGRADE], "websocket");
    assert_eq!(response.headers()["sec-websocket-protocol"], "v5");
    let seen = stub.last();
    assert_eq!((seen.method, &*seen.uri), (Method::POST, "/upgrade?command=sh"));
    assert_eq!(seen.headers["upgrade"], "websocket");
    assert_eq!(seen.headers["authorization"], "Bearer callers");
    let mut body = response.into_body();
    for word in ["one", "two"] {
        opened.send.send(Bytes::from_static(word.as_bytes())).await.unwrap();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), word);
    }
    opened.send.finish(None).unwrap();
    assert!(body.frame().await.is_none(), "half-close passes, and comes back");
}

#[tokio::test]
async fn a_refused_upgrade_is_an_ordinary_answer() {
    let stub = Stub::start(&["h2", "http/1.1"]).await;
    let tunnel = Tunnel::to(&stub.with_token("own")).await;
    for (path, status, text) in [
        ("/other", StatusCode::FORBIDDEN, "forbidden"),
        ("/redirect", StatusCode::FOUND, "over there"),
    ] {
        let mut opened = tunnel.open(upgrade(path), false).await;
        let response = opened.response.receive().await.unwrap();
        assert_eq!(response.status(), status);
        assert!(!response.headers().contains_key(UPGRADE));
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(&body[..], text.as_bytes());
    }
    assert_eq!(stub.count(), 2, "redirects are not followed");

    let mut anonymous = upgrade("/upgrade");
    anonymous.headers_mut().remove("authorization");
    let mut unnamed = upgrade("/upgrade");
    unnamed.headers_mut().remove(METHOD);
    let mut mismatched = upgrade("/upgrade");
    mismatched.extensions_mut().insert(h2::ext::Protocol::from_static("SPDY/3.1"));
    for bad in [anonymous, unnamed, mismatched] {
        let mut opened = tunnel.open(bad, false).await;
        let response = opened.response.receive().await.unwrap();
        assert_eq!(Fault::from_headers(response.headers()), Some(Fault::Refused));
    }
    assert_eq!(stub.count(), 2);

    let mut opened = tunnel.open(upgrade("/switch-elsewhere"), false).await;
    let response = opened.response.receive().await.unwrap();
    assert_eq!(Fault::from_headers(response.headers()), Some(Fault::BadAnswer));
}

/// Far above what loopback needs, far below what a person would wait.
const PATIENCE: Duration = Duration::from_secs(5);
