//! How streams and tunnels end.

use super::*;
use crate::tunnel::opener::OpenError;

async fn failure(tunnel: &Tunnel, path: &str) -> OpenError {
    let mut opened = tunnel.open(get(path), true).await;
    match opened.response.receive().await {
        Err(error) => error,
        Ok(response) => response.into_body().collect().await.unwrap_err(),
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_never_looks_whole() {
    let tunnel = Tunnel::start(Scripted).await;
    let error = failure(&tunnel, "/broken").await;
    assert!(matches!(error, OpenError::Reset(h2::Reason::INTERNAL_ERROR)), "{error}");
    let error = failure(&tunnel, "/short").await;
    assert!(matches!(error, OpenError::Reset(h2::Reason::PROTOCOL_ERROR)), "{error}");
    let error = failure(&tunnel, "/dropped").await;
    assert!(matches!(error, OpenError::Reset(h2::Reason::INTERNAL_ERROR)), "{error}");
    tunnel.idle().await;
    assert!(tunnel.get("/ok").await.status().is_success());
}

#[tokio::test]
async fn a_lost_agent_is_an_error_for_every_stream() {
    let tunnel = Tunnel::start(Scripted).await;
    let mut waiting = tunnel.open(get("/never"), true).await;
    let mut watching = tunnel.open(get("/watch"), true).await;
    let mut watch = watching.response.receive().await.unwrap().into_body();
    assert_eq!(watch.frame().await.unwrap().unwrap().into_data().unwrap(), "event");
    tunnel.agent.abort();
    assert!(matches!(waiting.response.receive().await, Err(OpenError::Lost(_))));
    assert!(matches!(watch.frame().await, Some(Err(OpenError::Lost(_)))));
    assert!(watch.frame().await.is_none());
    drop((waiting, watching, watch));
    tunnel.idle().await;
    assert!(tunnel.opener.is_closed());
    let permit = tunnel.opener.try_permit(StreamClass::Short).unwrap();
    let late = tunnel.opener.open(get("/ok"), true, permit).await;
    assert!(matches!(late, Err(OpenError::NotWritten)));
    assert!(matches!(tunnel.hub.await.unwrap(), TunnelEnd::Broken(_)));
}

#[tokio::test]
async fn close_says_why() {
    let tunnel = Tunnel::start(Scripted).await;
    let mut waiting = tunnel.open(get("/never"), true).await;
    tunnel.get("/ok").await;
    tunnel.opener.close("revoked");
    let error = waiting.response.receive().await.unwrap_err();
    assert!(matches!(&error, OpenError::Lost(why) if why == "revoked"), "{error}");
    assert_eq!(tunnel.hub.await.unwrap(), TunnelEnd::Closed("revoked"));
    assert_eq!(tunnel.agent.await.unwrap(), TunnelEnd::Graceful, "not lost");
}

#[tokio::test]
async fn leaving_refuses_new_streams_and_finishes_running_ones() {
    let tunnel = Tunnel::start(Echo).await;
    let OpenedStream { mut response, mut send } =
        tunnel.open(request(Method::POST, "/"), false).await;
    let mut body = response.receive().await.unwrap().into_body();
    tunnel.leave.notify_one();
    until(|| tunnel.opener.is_closed()).await;
    let permit = tunnel.opener.try_permit(StreamClass::Short).unwrap();
    let late = tunnel.opener.open(get("/"), true, permit).await;
    assert!(matches!(late, Err(OpenError::NotWritten)));
    send.send(Bytes::from_static(b"still here")).await.unwrap();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "still here");
    send.finish(None).unwrap();
    assert!(body.frame().await.is_none());
    drop((response, body));
    assert_eq!(tunnel.agent.await.unwrap(), TunnelEnd::Graceful);
    assert_eq!(tunnel.hub.await.unwrap(), TunnelEnd::Graceful);
    assert_eq!(tunnel.opener.load(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_frozen_agent_is_suspect_soon_and_found_in_time() {
    // The far end stays open and says nothing more.
    let (near, _far) = tokio::io::duplex(1 << 20);
    let (opener, driver) = Opener::handshake(near, &Settings::default()).await.unwrap();
    let start = tokio::time::Instant::now();
    let driver = tokio::spawn(driver);
    let permit = opener.try_permit(StreamClass::Short).unwrap();
    let mut waiting = opener.open(get("/"), true, permit).await.unwrap();
    tokio::time::sleep(Duration::from_millis(6_900)).await;
    assert!(!opener.is_suspect());
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(opener.is_suspect() && !opener.is_closed());
    assert_eq!(driver.await.unwrap(), TunnelEnd::PingTimeout);
    assert!(start.elapsed() <= Duration::from_secs(15));
    assert!(matches!(waiting.response.receive().await, Err(OpenError::Lost(_))));
}

#[tokio::test(start_paused = true)]
async fn a_living_idle_tunnel_stays() {
    let tunnel = Tunnel::start(Scripted).await;
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    assert!(!tunnel.opener.is_suspect() && !tunnel.opener.is_closed());
    assert!(tunnel.get("/ok").await.status().is_success());
}

#[tokio::test(start_paused = true)]
async fn a_frozen_hub_is_found_in_time() {
    let (near, far) = tokio::io::duplex(1 << 20);
    let start = tokio::time::Instant::now();
    let settings = Settings::default();
    let serve = server::serve(far, &settings, Echo, std::future::pending());
    let hub = async {
        let (opener, driver) = Opener::handshake(near, &settings).await.unwrap();
        // Polled for a moment, then never again, but not dropped either.
        let mut driver = Box::pin(driver);
        let _ = tokio::time::timeout(Duration::from_secs(1), &mut driver).await;
        std::future::pending::<()>().await;
        drop((opener, driver));
    };
    tokio::select! {
        end = serve => assert_eq!(end, TunnelEnd::PingTimeout),
        () = hub => unreachable!(),
    }
    assert!(start.elapsed() <= Duration::from_secs(15));
}

#[tokio::test]
async fn the_last_opener_takes_the_tunnel_with_it() {
    let tunnel = Tunnel::start(Echo).await;
    tunnel.get("/").await;
    drop(tunnel.opener);
    assert_eq!(tunnel.hub.await.unwrap(), TunnelEnd::Graceful);
    assert_eq!(tunnel.agent.await.unwrap(), TunnelEnd::Graceful);
}

#[tokio::test]
async fn permits_follow_the_agents_limit() {
    let agent = Settings { accepted_streams: 3, ..Settings::default() };
    let tunnel = Tunnel::with_settings(Scripted, &Settings::default(), &agent).await;
    tunnel.get("/ok").await;
    let take = |class| std::iter::from_fn(|| tunnel.opener.try_permit(class)).collect::<Vec<_>>();
    assert_eq!(take(StreamClass::Short).len() + take(StreamClass::Long).len(), 3);
    assert_eq!(tunnel.opener.load(), 0);
}
