//! One request in the logs of both processes.

use crate::support::client::empty;
use crate::support::processes::Pair;
use crate::support::{PATIENCE, eventually};

#[tokio::test]
async fn a_request_is_followed_by_its_trace_through_hub_and_agent() {
    let mut pair = Pair::start().await;
    let client = pair.client();
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let mut request = client.request("GET", "/c1/version", empty());
    let parent = format!("00-{trace}-00f067aa0ba902b7-00");
    request.headers_mut().insert("traceparent", parent.parse().unwrap());
    assert_eq!(client.send(request).await.status, 200);
    let line = pair.agent.wait_for(trace, PATIENCE).await;
    assert!(line.contains("a request ended") && line.contains("2xx"), "{line}");
    eventually("the hub's line is written", PATIENCE, || async {
        pair.access_log().contains(&format!(r#""trace_id":"{trace}""#)).then_some(())
    })
    .await;
}
