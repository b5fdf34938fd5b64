//! What one user does must not reach the others.

use super::*;

async fn heads(tunnel: &Tunnel, path: &str, count: usize) -> Vec<Response<ReceiveBody>> {
    let mut stalled = Vec::new();
    for _ in 0..count {
        let mut opened = tunnel.open(get(path), true).await;
        stalled.push(opened.response.receive().await.unwrap());
    }
    stalled
}

#[tokio::test]
async fn two_hundred_stalled_readers_stop_only_themselves() {
    let tunnel = Tunnel::start(Scripted).await;
    let stalled = heads(&tunnel, "/endless", 200).await;
    // Until their windows are full, the probe only shares the line with them.
    let probe = tokio::time::timeout(Duration::from_secs(20), tunnel.get("/ok"));
    assert!(probe.await.unwrap().status().is_success());
    assert_eq!(tunnel.opener.load(), 200);
    drop(stalled);
    tunnel.idle().await;
    assert!(tunnel.get("/ok").await.status().is_success());
}

#[tokio::test]
async fn two_thousand_cancels_in_a_burst_leave_the_tunnel_alive() {
    let settings = Settings { short_streams: 4_000, ..Settings::default() };
    let tunnel = Tunnel::with_settings(Scripted, &settings, &settings).await;
    tunnel.get("/ok").await;
    for path in ["/never", "/endless", "/never"] {
        let mut opened = Vec::new();
        for _ in 0..2_000 {
            opened.push(tunnel.open(get(path), true).await);
        }
        if path == "/endless" {
            // With data under way.
            for stream in opened.iter_mut().take(300) {
                drop(stream.response.receive().await.unwrap());
            }
        }
        drop(opened);
        assert!(tunnel.get("/ok").await.status().is_success());
        tunnel.idle().await;
    }
    assert!(!tunnel.opener.is_closed());
}

#[tokio::test]
async fn one_byte_frames_to_a_stalled_reader_do_not_end_the_tunnel() {
    let tunnel = Tunnel::start(Scripted).await;
    let mut stalled = heads(&tunnel, "/bytes", 1).await;
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(tunnel.get("/ok").await.status().is_success());
    }
    // And they come merged once somebody reads.
    let frame = stalled[0].body_mut().frame().await.unwrap().unwrap();
    assert!(frame.data_ref().unwrap().len() > 1_000);
}
