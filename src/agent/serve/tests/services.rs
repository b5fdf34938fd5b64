//! Services of the cluster: a tunnel, a stub of an API server that knows where they are, and a pod.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Mutex;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::Notify;

use super::*;
use crate::agent::testing::respond;
use crate::tunnel::headers::SERVICE;

/// What is behind the service: HTTP in the clear on loopback.
struct Pod {
    address: SocketAddr,
    /// The headers of each request.
    seen: Arc<Mutex<Vec<HeaderMap>>>,
    _accept: AbortOnDropHandle<()>,
}

impl Pod {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let accept = accept(listener, seen.clone());
        Self { address, seen, _accept: AbortOnDropHandle::new(tokio::spawn(accept)) }
    }

    fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

async fn accept(listener: TcpListener, seen: Arc<Mutex<Vec<HeaderMap>>>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        let seen = seen.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            seen.lock().unwrap().push(request.headers().clone());
            async { Ok::<_, Infallible>(respond(request, Arc::new(Notify::new())).await) }
        });
        connections.spawn(async move {
            let builder = hyper::server::conn::http1::Builder::new();
            let _ = builder.serve_connection(TokioIo::new(tcp), service).with_upgrades().await;
        });
    }
}

/// Tells the stub of Service `shop/web`, port 80, with one endpoint.
fn place(stub: &Stub, spec_type: &str, address: SocketAddr) {
    let mut objects = stub.objects.lock().unwrap();
    objects.insert(
        "/api/v1/namespaces/shop/services/web".into(),
        json!({"metadata": {}, "spec": {"type": spec_type, "ports": [{"port": 80}]}}),
    );
    objects.insert(
        "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices".into(),
        json!({"items": [{
            "metadata": {}, "addressType": "IPv4", "ports": [{"port": address.port()}],
            "endpoints": [{"addresses": [address.ip()]}],
        }]}),
    );
}

async fn tunnel(stub: &Stub, entry: &str, loopback: bool) -> Tunnel {
    let exposure =
        Exposure { services: vec![entry.parse().unwrap()], loopback, additional_ca: None };
    Tunnel::of_owner(None, exposure, &stub.with_token("own")).await
}

fn asking(service: &'static str, path: &str) -> Request<()> {
    let mut request = request("service", path);
    request.headers_mut().remove("authorization");
    request.headers_mut().insert(SERVICE, HeaderValue::from_static(service));
    request
}

#[tokio::test]
async fn an_exposed_service_answers_and_never_sees_the_agents_token() {
    let (stub, pod) = (Stub::start(&["h2"]).await, Pod::start().await);
    place(&stub, "ClusterIP", pod.address);
    let tunnel = tunnel(&stub, "shop/web", true).await;
    let mut echo = asking("http:shop/web:80", "/echo?q");
    *echo.method_mut() = Method::POST;
    echo.headers_mut().insert("cookie", HeaderValue::from_static("a=b"));
    let response = tunnel.exchange(echo, "hello").await;
    assert_eq!((response.status(), &response.body()[..]), (StatusCode::OK, &b"hello"[..]));
    let looked_up = stub.seen.lock().unwrap().clone();
    assert_eq!(looked_up.len(), 2);
    assert!(looked_up.iter().all(|seen| seen.headers["authorization"] == "Bearer own"));
    let seen = pod.seen.lock().unwrap()[0].clone();
    for absent in
        ["authorization", "impersonate-user", "cluster-proxy-mode", "cluster-proxy-service"]
    {
        assert!(!seen.contains_key(absent), "{absent}");
    }
    assert_eq!(
        (&seen["cookie"], &seen["host"]),
        (&"a=b".parse().unwrap(), &"web.shop.svc".parse().unwrap())
    );

    // The hub decides whether the caller's own crosses; the second request asks no API server.
    let mut with_token = asking("http:shop/web:80", "/version");
    with_token.headers_mut().insert("authorization", HeaderValue::from_static("Bearer callers"));
    assert_eq!(tunnel.exchange(with_token, "").await.status(), StatusCode::OK);
    assert_eq!(pod.seen.lock().unwrap()[1]["authorization"], "Bearer callers");
    assert_eq!(stub.count(), 2);
}

#[tokio::test]
async fn what_the_owner_does_not_expose_is_neither_looked_up_nor_dialled() {
    let (stub, pod) = (Stub::start(&["h2"]).await, Pod::start().await);
    place(&stub, "ClusterIP", pod.address);
    let elsewhere = tunnel(&stub, "shop/web:81", true).await;
    let response = elsewhere.exchange(asking("http:shop/web:80", "/version"), "").await;
    assert_eq!(fault(&response), Some(Fault::ServiceRefused));
    assert_eq!((stub.count(), pod.count()), (0, 0));
    let here = tunnel(&stub, "shop/web:80", true).await;
    let response = here.exchange(asking("http:shop/web:80", "/version"), "").await;
    assert_eq!(response.status(), StatusCode::OK);

    // It speaks no TLS.
    let https = here.exchange(asking("https:shop/web:80", "/version"), "").await;
    assert_eq!(fault(&https), Some(Fault::ServiceUnreachable));
    let unnamed = here.exchange(request("service", "/version"), "").await;
    assert_eq!(fault(&unnamed), Some(Fault::Refused));
    assert_eq!(pod.count(), 1);
}

#[tokio::test]
async fn addresses_that_no_service_may_have_are_not_dialled() {
    let (stub, pod) = (Stub::start(&["h2"]).await, Pod::start().await);
    let api_server = stub.with_token("own");
    let api_server = SocketAddr::new(api_server.host.parse().unwrap(), api_server.port);
    let metadata = SocketAddr::from(([169, 254, 169, 254], 80));
    for (spec_type, address, loopback, expected) in [
        ("ClusterIP", pod.address, true, None),
        ("ClusterIP", pod.address, false, Some(Fault::ServiceRefused)),
        ("ExternalName", pod.address, true, Some(Fault::ServiceRefused)),
        ("ClusterIP", api_server, true, Some(Fault::ServiceRefused)),
        ("ClusterIP", metadata, true, Some(Fault::ServiceRefused)),
    ] {
        place(&stub, spec_type, address);
        let tunnel = tunnel(&stub, "shop/web", loopback).await;
        let response = tunnel.exchange(asking("http:shop/web:80", "/version"), "").await;
        assert_eq!(fault_of(&response), expected, "{spec_type} {address} {loopback}");
    }
    assert_eq!(pod.count(), 1);
}

#[tokio::test]
async fn services_that_are_not_there_and_pods_that_are_not() {
    let (stub, pod) = (Stub::start(&["h2"]).await, Pod::start().await);
    let tunnel = tunnel(&stub, "shop/web", true).await;
    let ask = || tunnel.exchange(asking("http:shop/web:80", "/version"), "");
    assert_eq!(fault(&ask().await), Some(Fault::NoService), "that is not kept");
    place(&stub, "ClusterIP", pod.address);
    assert_eq!(ask().await.status(), StatusCode::OK);
    drop(pod);
    // The listener goes when its task is next polled.
    tokio::task::yield_now().await;
    assert_eq!(fault(&ask().await), Some(Fault::ServiceUnreachable));
}

#[tokio::test]
async fn an_upgrade_passes_both_ways() {
    let (stub, pod) = (Stub::start(&["h2"]).await, Pod::start().await);
    place(&stub, "ClusterIP", pod.address);
    let tunnel = tunnel(&stub, "shop/web", true).await;
    let mut head = asking("http:shop/web:80", "/upgrade");
    *head.method_mut() = Method::CONNECT;
    head.headers_mut().insert(METHOD, HeaderValue::from_static("GET"));
    head.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
    head.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
    let mut opened = tunnel.open(head, false).await;
    let response = opened.response.receive().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()[UPGRADE], "websocket");
    opened.send.send(Bytes::from_static(b"ping")).await.unwrap();
    let mut body = response.into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "ping");
    opened.send.finish(None).unwrap();
    assert!(body.frame().await.is_none());
    assert!(!pod.seen.lock().unwrap()[0].contains_key("authorization"));
}

fn fault_of(response: &Response<Bytes>) -> Option<Fault> {
    Fault::from_headers(response.headers())
}
