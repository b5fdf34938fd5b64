//! exec over SPDY.

use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper::upgrade::Upgraded;

use super::super::spdy::testing::{Client, Event};
use super::*;

pub(super) type Spdy = Client<TokioIo<Upgraded>>;

/// Upgrades to SPDY; the status and the words of the server when it does not want to.
pub(super) async fn upgrade(
    runtime: &PodRuntime,
    subresource: Subresource,
    protocols: &[&str],
    query: &str,
) -> Result<Spdy, (StatusCode, String)> {
    let io = TokioIo::new(connection(runtime, subresource));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let mut request = Request::post(format!("/connect?{query}"))
        .header("host", "pods")
        .header("connection", "Upgrade")
        .header("upgrade", "SPDY/3.1");
    for protocol in protocols {
        request = request.header("x-stream-protocol-version", *protocol);
    }
    let request = request.body(Empty::<bytes::Bytes>::new()).unwrap();
    let mut response = sender.send_request(request).await.unwrap();
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let status = response.status();
        let body = response.body_mut().collect().await.unwrap().to_bytes();
        return Err((status, String::from_utf8(body.to_vec()).unwrap()));
    }
    assert_eq!(response.headers()["upgrade"], "SPDY/3.1");
    assert!(protocols.contains(&response.headers()["x-stream-protocol-version"].to_str().unwrap()));
    Ok(Client::new(TokioIo::new(hyper::upgrade::on(response).await.unwrap())))
}

/// A session with the streams that `types` names, in their order from stream 1 on.
pub(super) async fn session(
    runtime: &PodRuntime,
    subresource: Subresource,
    query: &str,
    types: &[&str],
) -> Spdy {
    let mut client = upgrade(runtime, subresource, &[V4], query).await.unwrap();
    for name in types {
        client.open(&[("streamtype", name)]).await;
    }
    client
}

fn verdict(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

#[tokio::test]
async fn streams_and_exit_codes_arrive() {
    let (runtime, _directory) = runtime();
    let query = sh("echo out;echo err >&2;exit 3", "stdout=1&stderr=1");
    let types = ["error", "stdout", "stderr"];
    let mut client = session(&runtime, Subresource::Exec, &query, &types).await;
    let said = tokio::time::timeout(PATIENCE, client.until_ended(3)).await.unwrap();
    assert_eq!((&said[&3][..], &said[&5][..]), (&b"out\n"[..], &b"err\n"[..]));
    assert_eq!(exit_code(&verdict(&said[&1])), "3");
    assert_eq!(client.next().await, Some(Event::GoAway));

    let query = sh("exit 0", "stdout=1");
    let mut client = session(&runtime, Subresource::Exec, &query, &types[..2]).await;
    let said = client.until_ended(2).await;
    assert_eq!(verdict(&said[&1])["status"], "Success");
    // The session waits for the client to leave, and is over then.
    drop(client);
    until("the session ends", || runtime.shared.permits.available_permits() == MAX_SESSIONS).await;
}

#[tokio::test]
async fn the_end_of_stdin_is_a_half_close() {
    let (runtime, _directory) = runtime();
    let query = "command=cat&stdin=1&stdout=1";
    let types = ["error", "stdin", "stdout"];
    let mut client = session(&runtime, Subresource::Exec, query, &types).await;
    let sent: Vec<u8> = (0..300_000u32).map(|number| (number ^ number >> 8) as u8).collect();
    for piece in sent.chunks(10_000) {
        // No more than what the way there and back holds.
        client.data(3, piece).await;
        let mut back = 0;
        while back < piece.len() {
            match client.next().await {
                Some(Event::Data(5, data, false)) => back += data.len(),
                Some(Event::Reply(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    }
    client.data(3, b"last").await;
    client.fin(3).await;
    let said = tokio::time::timeout(PATIENCE, client.until_ended(3)).await.unwrap();
    assert_eq!(said[&5], b"last", "what was under way is not lost");
    assert_eq!(verdict(&said[&1])["status"], "Success");
}

#[tokio::test]
async fn a_terminal_is_resized() {
    let (runtime, _directory) = runtime();
    let query = sh("read x; stty size", "stdin=1&stdout=1&tty=1");
    let types = ["error", "stdin", "stdout", "resize"];
    let mut client = session(&runtime, Subresource::Exec, &query, &types).await;
    // Two sizes, cut where it hurts.
    client.data(7, b"{\"Width\":10,\"Height\":20}\n{\"Wid").await;
    client.data(7, b"th\":101,\"Height\":43}\n").await;
    // The answer to a ping comes after the sizes were read; the shell reads its line after that.
    client.ping(1).await;
    while client.next().await != Some(Event::Ping(1)) {}
    client.data(3, b"\n").await;
    let said = tokio::time::timeout(PATIENCE, client.until_ended(4)).await.unwrap();
    let text = String::from_utf8_lossy(&said[&5]);
    assert!(text.ends_with("43 101\r\n"), "{text:?}");
}

#[tokio::test]
async fn everything_ends_with_the_client_and_with_the_pod() {
    let (runtime, _directory) = runtime();
    let query = &sh("echo $$; sleep 1000", "stdout=1");
    let types = ["error", "stdout"];
    let mut pids = Vec::new();
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut client = session(&runtime, Subresource::Exec, query, &types).await;
        let pid = loop {
            match client.next().await {
                Some(Event::Data(3, pid, false)) => break pid,
                Some(Event::Reply(_)) => {}
                other => panic!("{other:?}"),
            }
        };
        pids.push(String::from_utf8(pid.to_vec()).unwrap().trim().to_owned());
        clients.push(client);
    }
    let mut stays = clients.pop().unwrap();
    drop(clients);
    until("the process of the one that left is gone", || gone(&pids[0])).await;
    assert!(!gone(&pids[1]));
    runtime.stop("default", "web");
    let said = tokio::time::timeout(PATIENCE, stays.until_ended(2)).await.unwrap();
    assert_eq!(exit_code(&verdict(&said[&1])), "137");
    assert!(gone(&pids[1]));
}

#[tokio::test]
async fn refusals_start_nothing() {
    let (runtime, directory) = runtime();
    let refused = async |protocols: &[&str], query: &str| {
        upgrade(&runtime, Subresource::Exec, protocols, query).await.err()
    };
    let (status, why) = refused(&["v3.channel.k8s.io"], "command=true&stdout=1").await.unwrap();
    assert_eq!(status, 403);
    assert!(why.contains("must offer v4.channel.k8s.io"), "{why}");
    assert_eq!(refused(&[], "command=true&stdout=1").await.unwrap().0, 403);
    assert_eq!(refused(&[V4], "stdout=1").await.unwrap().0, 400);
    assert!(directory.path().read_dir().unwrap().next().is_none());
    // A list, and the one we have is the second.
    let both = ["v5.channel.k8s.io", V4];
    assert!(refused(&both, "command=true&stdout=1").await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_opens_no_streams_is_not_waited_for() {
    let (runtime, _directory) = runtime();
    let types = ["error"];
    let query = "command=true&stdout=1";
    let mut client = session(&runtime, Subresource::Exec, query, &types).await;
    assert_eq!(client.next().await, Some(Event::Reply(1)));
    // Time passes as it is waited for: half a minute, and the goodbye.
    assert_eq!(client.next().await, Some(Event::GoAway));
    assert_eq!(client.next().await, None);
    assert_eq!(runtime.shared.permits.available_permits(), MAX_SESSIONS);
}
